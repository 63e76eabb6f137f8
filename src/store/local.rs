//! A directory of this machine as an object store.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind as Io, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::direct;
use super::{ObjectMeta, ObjectStore, Space, check_key};
use crate::model::{Error, Result};

/// Where objects are written before they get their name.
const TEMPORARY: &str = "tmp";

/// Objects as files beneath one directory, which must exist.
///
/// A put writes `tmp/N`, syncs its data and renames it; the directories whose entries changed are
/// remembered and synced together, so that a backup of many packs pays for few of them.
#[derive(Debug)]
pub struct LocalStore {
    root: PathBuf,
    /// Directories with entries that a loss of power could undo.
    unsynced: Mutex<BTreeSet<PathBuf>>,
    /// Held by who syncs, so that nobody takes for done what another is still doing.
    syncing: Mutex<()>,
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> Error {
    match error.raw_os_error() {
        Some(nix::libc::ENOSPC | nix::libc::EDQUOT) => {
            Error::no_space(format!("cannot {what} {}: {error}; make room in the destination", path.display()))
        }
        _ => Error::destination_failed(format!("cannot {what} {}: {error}", path.display())),
    }
}

/// The error of reading a file that could be opened: a sector or block that the disk or its file
/// system does not give is damage to this object, and no reason to give up the others.
fn unread(path: &Path, error: &std::io::Error) -> Error {
    match error.raw_os_error() {
        Some(nix::libc::EIO | nix::libc::EBADMSG | nix::libc::EUCLEAN) => {
            Error::damaged(format!("cannot read {}: {error}", path.display()))
        }
        _ => failed("read", path, error),
    }
}

impl LocalStore {
    /// Opens the directory `root`. It must exist: a destination that vanished (an unmounted
    /// disk, say) is never silently made anew.
    pub fn open(root: &Path) -> Result<Self> {
        let meta = fs::metadata(root).map_err(|e| {
            Error::destination_failed(format!(
                "the destination directory {} cannot be used: {e}; mount or create it",
                root.display()
            ))
        })?;
        if !meta.is_dir() {
            return Err(Error::destination_failed(format!("{} is not a directory", root.display())));
        }
        Ok(Self { root: root.to_path_buf(), unsynced: Mutex::default(), syncing: Mutex::new(()) })
    }

    /// Makes the directory `root` (0700) with its parents where it does not exist, durably.
    pub fn create_dir(root: &Path) -> Result<()> {
        make_dirs(root)?.iter().try_for_each(|dir| sync_dir(dir))
    }

    fn path(&self, key: &str) -> Result<PathBuf> {
        check_key(key)?;
        Ok(self.root.join(key))
    }

    fn remember(&self, dir: &Path) {
        if let Ok(mut unsynced) = self.unsynced.lock() {
            unsynced.insert(dir.to_path_buf());
        }
    }

    fn make_dirs(&self, dir: &Path) -> Result<()> {
        make_dirs(dir)?.iter().for_each(|parent| self.remember(parent));
        Ok(())
    }

    /// Writes `data` and lets `name` give it its name; says whether that was free.
    fn store(&self, key: &str, data: &[u8], name: impl Fn(&Path, &Path) -> std::io::Result<()>) -> Result<bool> {
        let path = self.path(key)?;
        let dir = self.root.join(TEMPORARY);
        let temporary = dir.join(uuid::Uuid::new_v4().simple().to_string());
        let create = || {
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .custom_flags(nix::libc::O_NOFOLLOW)
                .open(&temporary)
        };
        let file = match create() {
            Err(e) if e.kind() == Io::NotFound && self.root.is_dir() => {
                self.make_dirs(&dir)?;
                create()
            }
            other => other,
        }
        .map_err(|e| failed("create", &temporary, &e))?;
        let written = direct::write(&file, data).and_then(|()| file.sync_data());
        drop(file);
        let named = written.map_err(|e| failed("write", &temporary, &e)).and_then(|()| {
            let named = match name(&temporary, &path) {
                Err(e) if e.kind() == Io::NotFound => {
                    if let Some(parent) = path.parent() {
                        self.make_dirs(parent)?;
                    }
                    name(&temporary, &path)
                }
                other => other,
            };
            match named {
                Ok(()) => Ok(true),
                Err(e) if e.kind() == Io::AlreadyExists => Ok(false),
                Err(e) => Err(failed("rename into", &path, &e)),
            }
        });
        if !matches!(named, Ok(true)) {
            // Best effort: the error that matters is the one above, and a sweep catches the rest.
            let _ = fs::remove_file(&temporary);
        } else if let Some(parent) = path.parent() {
            self.remember(parent);
        }
        named
    }

    fn open_object(&self, key: &str) -> Result<(File, PathBuf)> {
        let path = self.path(key)?;
        match OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(&path) {
            Ok(file) => Ok((file, path)),
            Err(e) if e.kind() == Io::NotFound => Err(Error::not_found(format!("{} does not exist", path.display()))),
            Err(e) => Err(failed("open", &path, &e)),
        }
    }
}

/// Makes `dir` and its missing parents; gives the parents whose entries changed.
fn make_dirs(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut missing = Vec::new();
    let mut at = dir;
    while !at.exists() {
        missing.push(at.to_path_buf());
        match at.parent() {
            Some(parent) => at = parent,
            None => break,
        }
    }
    let mut changed = Vec::new();
    for path in missing.iter().rev() {
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(e) if e.kind() == Io::AlreadyExists => {}
            Err(e) => return Err(failed("create", path, &e)),
        }
        changed.extend(path.parent().map(Path::to_path_buf));
    }
    Ok(changed)
}

fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| failed("sync", dir, &e))
}

impl ObjectStore for LocalStore {
    fn put(&self, key: &str, data: &[u8]) -> Result<()> {
        self.store(key, data, |from, to| fs::rename(from, to)).map(drop)
    }

    fn put_if_absent(&self, key: &str, data: &[u8]) -> Result<bool> {
        // A link, which replaces nothing; its second name goes at once.
        self.store(key, data, |from, to| fs::hard_link(from, to).and_then(|()| fs::remove_file(from)))
    }

    fn get(&self, key: &str, limit: u64) -> Result<Vec<u8>> {
        let (file, path) = self.open_object(key)?;
        let mut data = Vec::new();
        file.take(limit.saturating_add(1)).read_to_end(&mut data).map_err(|e| unread(&path, &e))?;
        if u64::try_from(data.len()).unwrap_or(u64::MAX) > limit {
            return Err(Error::damaged(format!("{} is larger than the {limit} bytes it may have", path.display())));
        }
        Ok(data)
    }

    fn get_range(&self, key: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
        self.get_range_into(key, offset, len, vec![0; len])
    }

    fn get_range_into(&self, key: &str, offset: u64, len: usize, mut data: Vec<u8>) -> Result<Vec<u8>> {
        let (file, path) = self.open_object(key)?;
        data.resize(len, 0);
        match file.read_exact_at(&mut data, offset) {
            Ok(()) => Ok(data),
            Err(e) if e.kind() == Io::UnexpectedEof => Err(Error::damaged(format!(
                "{} ends before byte {}",
                path.display(),
                offset.saturating_add(len as u64)
            ))),
            Err(e) => Err(unread(&path, &e)),
        }
    }

    fn size(&self, key: &str) -> Result<Option<u64>> {
        let path = self.path(key)?;
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_file() => Ok(Some(meta.len())),
            Ok(_) => Err(Error::damaged(format!("{} is not a plain file", path.display()))),
            Err(e) if e.kind() == Io::NotFound => Ok(None),
            Err(e) => Err(failed("look at", &path, &e)),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>> {
        let top = self.path(prefix.trim_end_matches('/'))?;
        let mut found = Vec::new();
        let mut pending = vec![(top, prefix.to_owned())];
        while let Some((dir, prefix)) = pending.pop() {
            let entries = match fs::read_dir(&dir) {
                Ok(entries) => entries,
                Err(e) if e.kind() == Io::NotFound && self.root.is_dir() => continue,
                Err(e) => return Err(failed("list", &dir, &e)),
            };
            for entry in entries {
                let entry = entry.map_err(|e| failed("list", &dir, &e))?;
                // A name that is not UTF-8 cannot be an object of ours.
                let Ok(name) = entry.file_name().into_string() else { continue };
                let meta = match entry.metadata() {
                    Ok(meta) => meta,
                    Err(e) if e.kind() == Io::NotFound => continue,
                    Err(e) => return Err(failed("look at", &entry.path(), &e)),
                };
                let key = format!("{prefix}{name}");
                if meta.is_dir() {
                    pending.push((entry.path(), format!("{key}/")));
                } else if meta.is_file() {
                    found.push(ObjectMeta { key, size: meta.len() });
                }
            }
        }
        Ok(found)
    }

    fn delete(&self, key: &str) -> Result<()> {
        let path = self.path(key)?;
        match fs::remove_file(&path) {
            Ok(()) => {
                if let Some(parent) = path.parent() {
                    self.remember(parent);
                }
                Ok(())
            }
            Err(e) if e.kind() == Io::NotFound => Ok(()),
            Err(e) => Err(failed("remove", &path, &e)),
        }
    }

    fn sync(&self) -> Result<()> {
        let _one = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let dirs = match self.unsynced.lock() {
            Ok(mut unsynced) => std::mem::take(&mut *unsynced),
            Err(_) => return Err(Error::failed("the list of unsynced directories was lost to an earlier failure")),
        };
        for dir in &dirs {
            if let Err(e) = sync_dir(dir) {
                dirs.iter().for_each(|d| self.remember(d));
                return Err(e);
            }
        }
        Ok(())
    }

    fn space(&self) -> Result<Space> {
        let stat = nix::sys::statvfs::statvfs(&self.root)
            .map_err(|e| failed("look at the room of", &self.root, &std::io::Error::from(e)))?;
        Ok(Space { free: Some(stat.blocks_available().saturating_mul(stat.fragment_size())) })
    }

    fn sweep(&self) -> Result<()> {
        File::open(&self.root)
            .and_then(|root| nix::unistd::syncfs(root).map_err(Into::into))
            .map_err(|e| failed("sync", &self.root, &e))?;
        let dir = self.root.join(TEMPORARY);
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == Io::NotFound => return Ok(()),
            Err(e) => return Err(failed("list", &dir, &e)),
        };
        for entry in entries.flatten() {
            let path = entry.path();
            fs::remove_file(&path).map_err(|e| failed("remove", &path, &e))?;
        }
        Ok(())
    }
}
