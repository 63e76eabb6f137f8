//! Hard links: later names of an inode are linked to the one that was restored first.
//!
//! The file of a group is its first name in the backup. Where that is not meant, or could not be
//! restored, the next name is written in full and takes its place; only such groups need memory.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, PoisonError};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};
use rustix::io::Errno;

use super::dir::{Dir, open_dir};
use super::item::{Done, Item};
use super::job::{Job, Temporary};
use super::tally::Tally;
use super::{live, meta};
use crate::model::{Error, IoContext, Result};
use crate::source::Stat;
use crate::vault::tree::{Entry, Kind, Link};

/// The file of a group on the live system.
struct Leader {
    file: OwnedFd,
    stat: Stat,
}

impl Job<'_> {
    /// Remembers that the first name of a group is not there to be linked to.
    pub fn without_first(&self, item_path: Vec<u8>) {
        self.absent.lock().unwrap_or_else(PoisonError::into_inner).insert(item_path);
    }

    /// Remembers in a dry run that the file of a group would be written.
    pub fn would_write(&self, first: Vec<u8>) {
        self.leaders.lock().unwrap_or_else(PoisonError::into_inner).insert(first, Vec::new());
    }

    /// Restores a later name of a hard link.
    pub fn restore_link(&self, item: Item) -> Result<()> {
        let Link::To { up, path, .. } = &item.entry.link else {
            return Err(Error::failed("a first name was taken for a later one"));
        };
        let first = first_path(&item.dir, *up, path)?;
        let known = self.leaders.lock().unwrap_or_else(PoisonError::into_inner).get(&first).cloned();
        if self.request.dry_run && known.is_some_and(|path| path.is_empty()) && !self.skips() {
            Tally::add(&self.tally.files, 1);
            self.progress.add(1, item.entry.totals().bytes);
            return Ok(());
        }
        match self.leader(&item, &first)? {
            Some(leader) => self.link(item, &leader),
            None => self.lead(item, first),
        }
    }

    /// Restores a name as the file of its group.
    fn lead(&self, item: Item, first: Vec<u8>) -> Result<()> {
        let path = item.dir.path_of(&item.entry.name);
        match self.restore_item(item, &self.vault.reader([]))? {
            Done::Ready(ready) => {
                rustix::fs::syncfs(self.handle(&ready.item.dir)?).at(|| "cannot write the file to disk")?;
                self.replace(&ready)?;
            }
            Done::Counted => {}
            Done::Skipped => return Ok(()),
        }
        self.leaders.lock().unwrap_or_else(PoisonError::into_inner).insert(first, path);
        Ok(())
    }

    /// The file to link to, if it was restored and nobody exchanged it.
    fn leader(&self, item: &Item, first: &[u8]) -> Result<Option<Leader>> {
        let leads = self.leaders.lock().unwrap_or_else(PoisonError::into_inner).get(first).cloned();
        let path = match leads {
            Some(path) => path,
            None if !self.selection.contains(first) => return Ok(None),
            None if self.absent.lock().unwrap_or_else(PoisonError::into_inner).contains(first) => return Ok(None),
            None => first.to_vec(),
        };
        let Some(file) = self.open_beneath(&path)? else { return Ok(None) };
        let stat = Stat::of(&file).at(|| "cannot look at the file to link to")?;
        let found = live::Found { stat, mount_root: false, locked: false };
        let meta = &item.entry.meta;
        let same = found.is_like(&item.entry)
            && (stat.uid, stat.gid, stat.mode) == (meta.owner.uid, meta.owner.gid, mode(&item.entry, &stat))
            && stat.mtime == meta.mtime
            && match item.entry.kind {
                Kind::File { size, .. } => stat.size == size,
                _ => true,
            };
        Ok(same.then_some(Leader { file, stat }))
    }

    /// A handle to what stands at a path of the backup, symbolic links not followed.
    fn open_beneath(&self, path: &[u8]) -> Result<Option<OwnedFd>> {
        if !self.root.exists() {
            return Ok(None);
        }
        let mut names: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|name| !name.is_empty()).collect();
        let Some(last) = names.pop() else { return Ok(None) };
        let mut dir = self.handle(&self.root)?;
        for name in names {
            dir = match open_dir(&*dir, name) {
                Ok(dir) => Arc::new(dir),
                Err(_) => return Ok(None),
            };
        }
        Ok(live::open_path(&*dir, last).ok())
    }

    fn link(&self, item: Item, leader: &Leader) -> Result<()> {
        let dir = self.handle(&item.dir)?;
        let found = if item.dir.made {
            None
        } else {
            live::find(&*dir, &item.entry.name).at(|| "cannot look at what is there")?
        };
        let counter = match found {
            Some(found) if found.identity() == (leader.stat.dev, leader.stat.ino) => &self.tally.unchanged,
            Some(_) if self.skips() => &self.tally.skipped,
            _ if self.request.dry_run => &self.tally.files,
            _ => match self.link_now(&item, &dir, leader, found.is_some()) {
                Ok(()) => &self.tally.files,
                Err(Errno::XDEV | Errno::MLINK | Errno::OPNOTSUPP | Errno::PERM) => {
                    // Another file system than in the backup, or one without hard links: a file of its own.
                    return match self.restore_item(item, &self.vault.reader([]))? {
                        Done::Ready(ready) => self.replace(&ready),
                        Done::Counted | Done::Skipped => Ok(()),
                    };
                }
                Err(e) => return Err(e).at(|| "cannot make the hard link"),
            },
        };
        Tally::add(counter, 1);
        self.progress.add(1, item.entry.totals().bytes);
        Ok(())
    }

    /// Links, be the file immutable: then it may be changed for this moment.
    fn link_now(&self, item: &Item, dir: &OwnedFd, leader: &Leader, exists: bool) -> rustix::io::Result<()> {
        match self.link_unlocked(item, dir, leader, exists) {
            Err(Errno::PERM) => {
                let opened = open(magic(leader), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
                let locks = live::unlock(&opened)?;
                let linked = self.link_unlocked(item, dir, leader, exists);
                meta::lock(&opened, locks.bits())?;
                linked
            }
            result => result,
        }
    }

    fn link_unlocked(&self, item: &Item, dir: &OwnedFd, leader: &Leader, exists: bool) -> rustix::io::Result<()> {
        if !exists {
            return linkat(CWD, magic(leader), dir, item.entry.name.as_slice(), AtFlags::SYMLINK_FOLLOW);
        }
        let name = self.temporary();
        linkat(CWD, magic(leader), dir, name.as_slice(), AtFlags::SYMLINK_FOLLOW)?;
        let temporary = Temporary::new(dir, name);
        match live::rename(dir, temporary.name(), &item.entry.name, false) {
            Err(Errno::ISDIR | Errno::NOTDIR | Errno::NOTEMPTY | Errno::EXIST) => {
                self.clear(&item.dir, &item.entry.name).map_err(|_| Errno::NOTEMPTY)?;
                live::rename(dir, temporary.name(), &item.entry.name, false)?;
            }
            result => result?,
        }
        temporary.keep();
        Ok(())
    }
}

/// The name under which the system shows the file to link to; it leads to the very inode.
fn magic(leader: &Leader) -> String {
    format!("/proc/self/fd/{}", leader.file.as_fd().as_raw_fd())
}

/// A symbolic link's mode cannot be set and says nothing.
fn mode(entry: &Entry, there: &Stat) -> u16 {
    if matches!(entry.kind, Kind::Symlink { .. }) { there.mode } else { entry.meta.mode }
}

/// The absolute path in the backup of a group's first name.
fn first_path(dir: &Dir, up: u32, path: &[u8]) -> Result<Vec<u8>> {
    let mut above = dir;
    for _ in 0..up {
        above = above.parent().ok_or_else(|| Error::damaged("its hard link leads above the root of the backup"))?;
    }
    Ok(above.path_of(path))
}
