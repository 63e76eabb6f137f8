//! What happens to one path, step by step.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, RenameFlags, Timespec, Timestamps, UTIME_OMIT, futimens, renameat_with, unlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::super::crew::below;
use super::super::engine::{Taken, split};
use super::super::ioctl::{self, SUBVOLUME_ROOT};
use super::super::store::is_own;
use super::super::take::gone;
use super::super::{Part, clone};
use crate::model::{Error, IoContext, Progress, Result, paths};
use crate::restore::dir::open_dir;
use crate::restore::live;
use crate::restore::meta::{self, Handle, Scope};
use crate::source::{Stat, capture};
use crate::vault::tree::{Metadata, Owner, Time};

/// An inode, by what does not change when it is mounted again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Token {
    inode: u64,
    /// Of the root of a subvolume, whose inode numbers are all the same.
    subvolume: u64,
}

/// One name that is exchanged.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Entry {
    /// With a slash in front, as paths are written.
    #[serde(with = "paths::one")]
    name: PathBuf,
    old: Option<Token>,
    new: Option<Token>,
    /// Modification times of the two: some file systems change them when a directory is moved.
    old_time: (i64, u32),
    new_time: (i64, u32),
}

/// What happens to one path.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Change {
    #[serde(with = "paths::one")]
    pub path: PathBuf,
    /// The directory whose entries are exchanged: the one that holds the path, or the path itself.
    #[serde(with = "paths::one")]
    pub dir: PathBuf,
    pub whole: bool,
    pub entries: Vec<Entry>,
    /// Subvolumes in the path, which stay as they are; with a slash in front.
    #[serde(with = "paths")]
    pub nested: Vec<PathBuf>,
    /// Modification times of a directory that is not exchanged itself: as it was, as it becomes.
    pub times: Option<((i64, u32), (i64, u32))>,
}

/// A stage and the directory it is in.
#[derive(Debug)]
pub(super) struct Stage {
    pub dir: OwnedFd,
    pub other: OwnedFd,
}

fn token(dir: &OwnedFd, name: &[u8]) -> rustix::io::Result<Option<Token>> {
    let Some(found) = live::find(dir, name)? else { return Ok(None) };
    let mut token = Token { inode: found.stat.ino, subvolume: 0 };
    if found.is_dir() && found.stat.ino == SUBVOLUME_ROOT {
        token.subvolume = ioctl::subvolume(open_dir(dir, name)?).map_or(0, |s| s.id);
    }
    Ok(Some(token))
}

fn raw(name: &Path) -> &[u8] {
    let bytes = name.as_os_str().as_bytes();
    bytes.strip_prefix(b"/").unwrap_or(bytes)
}

fn slashed(name: &[u8]) -> PathBuf {
    Path::new("/").join(OsStr::from_bytes(name))
}

pub(super) fn set_mtime(dir: &OwnedFd, (sec, nsec): (i64, u32)) -> rustix::io::Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: sec, tv_nsec: nsec.into() },
    };
    futimens(dir, &times)
}

impl Change {
    /// A change of which only the place is known.
    pub fn new(path: PathBuf, dir: PathBuf, whole: bool) -> Self {
        Self { path, dir, whole, entries: Vec::new(), nested: Vec::new(), times: None }
    }

    /// Makes the tree, and finds out what belongs where.
    pub fn fill(&mut self, stage: &Stage, part: &Part, taken: &Taken<'_>, progress: &Progress) -> Result<()> {
        let what = || format!("cannot stage {}", part.path.display());
        let name = part.path.file_name().map(OsStr::as_bytes).unwrap_or_default().to_vec();
        let mut names = BTreeSet::new();
        if self.whole {
            part.engine.engine().copy(taken, &stage.other, &name, progress)?;
            names.insert(name.clone());
        } else {
            let source = open_dir(taken.dir, taken.name.as_bytes()).map_err(|_| gone(part))?;
            clone::tree(&source, &stage.other, &part.path, &is_own, progress)?;
            live::unlock(&stage.other).at(what)?;
            names.extend(live::names(&stage.other).at(what)?);
            names.extend(live::names(&stage.dir).at(what)?.into_iter().filter(|name| !is_own(name)));
            let mtime = |file: &OwnedFd| Stat::of(file).map(|s| (s.mtime.sec, s.mtime.nsec));
            self.times = Some((mtime(&stage.dir).at(what)?, mtime(&source).at(what)?));
        }
        self.settle(stage, names)
    }

    /// Finds out what belongs where, once the tree is there.
    pub fn settle(&mut self, stage: &Stage, mut names: BTreeSet<Vec<u8>>) -> Result<()> {
        let what = || format!("cannot stage {}", self.path.display());
        let name = self.path.file_name().map(OsStr::as_bytes).unwrap_or_default().to_vec();
        let (mut entries, mut stays) = (Vec::new(), Vec::new());
        for nested in self.find_nested(stage, &name).at(what)? {
            let (above, leaf) = split(&nested);
            if !self.whole && above.is_empty() {
                // It stays where it is.
                names.remove(leaf);
                continue;
            }
            let nested_path = || self.path.join(OsStr::from_bytes(&nested));
            let there = self.base(&stage.dir, &name).and_then(|base| below(base, &nested)).at(what)?;
            if ioctl::subvolume(there).at(what)?.read_only {
                return Err(Error::invalid_state(format!(
                    "the subvolume {} is read-only, so it cannot be moved into what is restored; move it elsewhere first",
                    nested_path().display()
                )));
            }
            let place = self.base(&stage.other, &name).and_then(|base| below(base, above));
            let free = place.and_then(|dir| match live::find(&dir, leaf)? {
                None => Ok(true),
                Some(found) => Ok(found.is_dir() && live::names(open_dir(&dir, leaf)?)?.is_empty()),
            });
            if !free.unwrap_or(false) {
                return Err(Error::invalid_state(format!(
                    "the subvolume {} stays as it is, and has no place in the snapshot; move it elsewhere first",
                    nested_path().display()
                )));
            }
            stays.push(slashed(&nested));
        }
        for name in names {
            let (old, new) = (token(&stage.dir, &name).at(what)?, token(&stage.other, &name).at(what)?);
            let time = |dir: &OwnedFd| Stat::at(dir, &name).map_or((0, 0), |s| (s.mtime.sec, s.mtime.nsec));
            let (old_time, new_time) = (time(&stage.dir), time(&stage.other));
            entries.push(Entry { name: slashed(&name), old, new, old_time, new_time });
        }
        (self.entries, self.nested) = (entries, stays);
        Ok(())
    }

    /// The subvolumes in what is there now.
    fn find_nested(&self, stage: &Stage, name: &[u8]) -> rustix::io::Result<Vec<Vec<u8>>> {
        let there = if self.whole { open_dir(&stage.dir, name) } else { open_dir(&stage.dir, b".") };
        match there.and_then(ioctl::nested) {
            Ok(found) => {
                Ok(found.into_iter().filter(|path| self.whole || !is_own(split(path).0) && !is_own(path)).collect())
            }
            // It is no directory, it is not there, or not on btrfs.
            Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT | Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL) => {
                Ok(Vec::new())
            }
            Err(e) => Err(e),
        }
    }

    /// Where the path's own content is, seen from one of the two directories.
    fn base(&self, from: &OwnedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
        if self.whole { open_dir(from, name) } else { open_dir(from, b".") }
    }

    pub fn turn(&self, stage: &Stage, forward: bool) -> Result<()> {
        let name = self.path.file_name().map(OsStr::as_bytes).unwrap_or_default();
        if !forward {
            self.carry(stage, name, false)?;
        }
        for entry in &self.entries {
            entry.turn(stage, forward)?;
        }
        if forward {
            self.carry(stage, name, true)?;
        } else if let Some((was, _)) = self.times {
            set_mtime(&stage.dir, was).at(|| "cannot set the time of the directory")?;
        }
        Ok(())
    }

    /// Moves subvolumes that stay from the replaced tree into the new one, or back.
    fn carry(&self, stage: &Stage, name: &[u8], forward: bool) -> Result<()> {
        for nested in &self.nested {
            let what = || format!("cannot move the subvolume {} to its place", nested.display());
            let (above, leaf) = split(raw(nested));
            let in_dir = self.base(&stage.dir, name).and_then(|base| below(base, above));
            let in_other = self.base(&stage.other, name).and_then(|base| below(base, above));
            let (from, to) = if forward { (in_other, in_dir) } else { (in_dir, in_other) };
            let is_subvolume = |dir: &OwnedFd| -> rustix::io::Result<bool> {
                Ok(live::find(dir, leaf)?.is_some_and(|f| f.is_dir() && f.stat.ino == SUBVOLUME_ROOT))
            };
            // Not exchanged yet, so it did not go anywhere.
            let Ok(from) = from else { continue };
            if !is_subvolume(&from).at(what)? {
                continue;
            }
            let to = match to {
                Ok(to) => to,
                Err(_) if !forward => continue,
                Err(e) => return Err(e).at(what),
            };
            if is_subvolume(&to).at(what)? {
                continue;
            }
            // What stands for it in a snapshot is an empty directory.
            match unlinkat(&to, leaf, AtFlags::REMOVEDIR) {
                Err(Errno::NOENT) | Ok(()) => {}
                Err(e) => return Err(e).at(what),
            }
            renameat_with(&from, leaf, &to, leaf, RenameFlags::NOREPLACE).at(what)?;
        }
        Ok(())
    }

    /// Gives a directory that was not exchanged itself what it was in the snapshot.
    pub fn become_like(&self, stage: &Stage) -> Result<()> {
        let what = || format!("cannot look at {}", self.path.display());
        let stat = Stat::of(&stage.other).at(what)?;
        let mtime = self.times.map_or(stat.mtime, |(_, (sec, nsec))| Time { sec, nsec });
        let owner = Owner { uid: stat.uid, gid: stat.gid, ..Owner::default() };
        let want = Metadata {
            mode: stat.mode,
            owner: owner.into(),
            mtime,
            xattrs: capture::xattrs(&stage.other).at(what)?,
            flags: 0,
        };
        let brought = meta::bring(Handle::Open(stage.dir.as_fd()), &want, Scope::Unflagged, false);
        match brought.problems.into_iter().next() {
            None => Ok(()),
            Some(problem) => Err(Error::failed(format!("{}: {problem}", self.path.display()))),
        }
    }
}

impl Entry {
    /// Brings the one or the other into place, whichever is there now.
    fn turn(&self, stage: &Stage, forward: bool) -> Result<()> {
        let name = raw(&self.name);
        let what = || format!("cannot exchange {:?}", String::from_utf8_lossy(name));
        let (wanted, other) = if forward { (self.new, self.old) } else { (self.old, self.new) };
        let (here, there) = (token(&stage.dir, name).at(what)?, token(&stage.other, name).at(what)?);
        if (here, there) == (wanted, other) {
            return self.keep_time(stage, forward).at(what);
        }
        if (here, there) != (other, wanted) {
            return Err(Error::failed(format!(
                "somebody exchanged {:?} while it was restored",
                String::from_utf8_lossy(name)
            )));
        }
        let rename = || match (here.is_some(), there.is_some()) {
            (true, true) => renameat_with(&stage.dir, name, &stage.other, name, RenameFlags::EXCHANGE),
            (false, true) => renameat_with(&stage.other, name, &stage.dir, name, RenameFlags::NOREPLACE),
            _ => renameat_with(&stage.dir, name, &stage.other, name, RenameFlags::NOREPLACE),
        };
        let mut locked = Vec::new();
        let mut renamed = rename();
        if renamed == Err(Errno::PERM) {
            // Immutable ones are changeable for that moment.
            for dir in [&stage.dir, &stage.other] {
                if let Ok(file) = live::open_file(dir, name).or_else(|_| open_dir(dir, name)) {
                    let flags = live::unlock(&file).at(what)?;
                    locked.push((file, flags.bits()));
                }
            }
            renamed = rename();
        }
        let kept = renamed.and_then(|()| self.keep_time(stage, forward));
        for (file, flags) in locked {
            meta::lock(file, flags).at(what)?;
        }
        kept.at(what)?;
        // Who may rename there may have done so in that very moment, to have us remove something else.
        if token(&stage.other, name).at(what)? == other {
            return Ok(());
        }
        let undone = match (here.is_some(), there.is_some()) {
            (true, false) => renameat_with(&stage.other, name, &stage.dir, name, RenameFlags::NOREPLACE),
            _ => rename(),
        };
        undone.at(what)?;
        Err(Error::failed(format!("somebody exchanged {:?} while it was restored", String::from_utf8_lossy(name))))
    }

    /// Gives what is in place now the time that it had.
    fn keep_time(&self, stage: &Stage, forward: bool) -> rustix::io::Result<()> {
        let (wanted, time) = if forward { (self.new, self.new_time) } else { (self.old, self.old_time) };
        let name = raw(&self.name);
        let Some(found) = live::find(&stage.dir, name)?.filter(|found| wanted.is_some() && found.is_dir()) else {
            return Ok(());
        };
        if (found.stat.mtime.sec, found.stat.mtime.nsec) == time {
            return Ok(());
        }
        let dir = open_dir(&stage.dir, name)?;
        match set_mtime(&dir, time) {
            // It was locked again before its time was set.
            Err(Errno::PERM) => {
                let flags = live::unlock(&dir)?;
                let set = set_mtime(&dir, time);
                meta::lock(&dir, flags.bits())?;
                set
            }
            set => set,
        }
    }
}
