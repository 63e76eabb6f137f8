//! The journal of a restore: where it may have left temporary names.
//!
//! It is on disk before the first such name of a batch is made. A file under a temporary name, or in a directory that has
//! one, is never the only copy of anything, so finishing after a crash is removing it.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::io::Errno;

use super::dir::{Dir, Handles, open_dir};
use super::hidden::{Named, remove_tree};
use super::job::{TEMPORARY, open_root};
use super::live;
use crate::model::id::{hex, unhex};
use crate::model::{Error, IoContext, Result};

const FIRST_LINE: &str = "strongroom restore journal 1";
/// Begins a line with the number of an inode.
const INODE: &str = "= ";

/// The journal of a restore at work.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    head: String,
    durable: bool,
    /// Whether the file is there and can be added to.
    begun: AtomicBool,
}

impl Journal {
    /// A journal at `path` for temporary names that start with `prefix`, beneath `root`. One that
    /// is not durable survives a crash of the process alone: enough where nothing is replaced.
    pub fn new(path: &Path, root: &Path, prefix: &str, durable: bool) -> Self {
        let head = format!("{FIRST_LINE}\n{prefix}\n{}\n", hex(root.as_os_str().as_bytes()));
        Self { path: path.to_path_buf(), head, durable, begun: AtomicBool::new(false) }
    }

    /// Says that temporary names may now be in these directories (absolute paths in the backup),
    /// and in none that was named before; and that directories among them with these inodes were made by the restore.
    pub fn announce<'a>(&self, dirs: impl Iterator<Item = &'a Vec<u8>>, inodes: &[u64]) -> Result<()> {
        self.begun.store(false, Relaxed);
        let what = || format!("cannot write the restore's journal {:?}", self.path);
        let mut text = self.head.clone();
        for dir in dirs {
            text.push_str(&hex(dir));
            text.push('\n');
        }
        inodes.iter().for_each(|inode| text.push_str(&format!("{INODE}{inode}\n")));
        let beside = self.path.with_extension("new");
        let mut file = fs::File::create(&beside).at(what)?;
        file.write_all(text.as_bytes()).at(what)?;
        if self.durable {
            file.sync_data().at(what)?;
        }
        fs::rename(&beside, &self.path).at(what)?;
        self.begun.store(true, Relaxed);
        Ok(())
    }

    /// Whether it survives a crash of the system.
    pub fn is_durable(&self) -> bool {
        self.durable
    }

    /// Says so of one more directory, beside those that are `named`.
    pub fn also(&self, dir: &[u8], named: &Named) -> Result<()> {
        if self.add(&format!("{}\n", hex(dir))) {
            return Ok(());
        }
        self.announce(named.above.iter().chain([&dir.to_vec()]), &named.inodes)
    }

    /// Says so of one more inode.
    pub fn made(&self, inode: u64, named: &Named) -> Result<()> {
        if self.add(&format!("{INODE}{inode}\n")) {
            return Ok(());
        }
        let inodes: Vec<u64> = named.inodes.iter().copied().chain([inode]).collect();
        self.announce(named.above.iter(), &inodes)
    }

    /// Adds a line, if there is something to add it to and all of it can be written.
    fn add(&self, line: &str) -> bool {
        let file = || fs::OpenOptions::new().append(true).open(&self.path);
        self.begun.load(Relaxed) && file().and_then(|mut file| file.write_all(line.as_bytes())).is_ok()
    }

    /// Ends the journal: no temporary name is left.
    pub fn close(self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("cannot remove the restore's journal {:?}", self.path), &e))
            }
            _ => Ok(()),
        }
    }
}

/// Removes what a restore that was cut short left behind; the journal last. None is no error.
pub fn recover(path: &Path) -> Result<()> {
    let what = || format!("cannot read the restore's journal {path:?}");
    let text = match fs::read_to_string(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        text => text.at(what)?,
    };
    let bad = || Error::damaged(format!("the restore's journal {path:?} is damaged; remove it"));
    let mut lines = text.lines();
    let (first, prefix, root) = (lines.next(), lines.next(), lines.next());
    let prefix = prefix.filter(|p| p.starts_with(TEMPORARY) && p.len() > TEMPORARY.len()).ok_or_else(bad)?;
    let root = root.and_then(unhex).ok_or_else(bad)?;
    if first != Some(FIRST_LINE) {
        return Err(bad());
    }
    if let (Some(root), _) = open_root(Path::new(OsStr::from_bytes(&root)), false)? {
        let (handles, root) = (Handles::default(), Dir::root(Some(root), false)?);
        let (made, paths): (Vec<_>, Vec<_>) = lines.partition(|line| line.starts_with(INODE));
        let inode = |line: &str| line.strip_prefix(INODE).and_then(|n| n.parse().ok()).ok_or_else(bad);
        let made: HashSet<u64> = made.into_iter().map(inode).collect::<Result<_>>()?;
        for line in paths {
            let path = unhex(line).ok_or_else(bad)?;
            let mut at = root.clone();
            let mut names = path.split(|b| *b == b'/').filter(|name| !name.is_empty());
            let opened = names.try_for_each(|name| {
                let next = open_dir(&*at.handle(&handles).ok()?, name).ok()?;
                at = at.child(name, next, &handles).ok()?;
                Some(())
            });
            if opened.is_some() {
                remove_temporary(&at, prefix, &made, &handles)?;
            }
        }
    }
    fs::remove_file(path).at(|| format!("cannot remove the restore's journal {path:?}"))
}

fn remove_temporary(dir: &Arc<Dir>, prefix: &str, made: &HashSet<u64>, handles: &Handles) -> Result<()> {
    let handle = dir.handle(handles)?;
    let names = live::names(&*handle).at(|| "cannot list a directory of a restore that was cut short")?;
    for name in names.iter().filter(|name| name.starts_with(prefix.as_bytes())) {
        let what = || format!("cannot remove {}, left by a restore", String::from_utf8_lossy(name));
        let Some(found) = live::find(&*handle, name).at(what)? else { continue };
        if !found.is_dir() {
            live::remove(&*handle, name, false).at(what)?;
        } else if made.contains(&found.stat.ino) {
            remove_tree(dir, name, found.stat.ino, handles)?;
        } else {
            // What the restore made and had no time to say so is empty; what somebody else put there stays.
            match live::remove(&*handle, name, true) {
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY) => {}
                removed => removed.at(what)?,
            }
        }
    }
    Ok(())
}
