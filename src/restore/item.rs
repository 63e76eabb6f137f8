//! One entry that is no directory: written beside, with all metadata, and renamed into place.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, makedev, mknodat, openat, symlinkat};
use rustix::io::Errno;

use super::data::Layout;
use super::dir::Dir;
use super::job::{Job, Temporary};
use super::live::{self, Found};
use super::meta::{self, Handle, Scope};
use super::tally::Tally;
use crate::model::{Error, IoContext, Result};
use crate::source::Stat;
use crate::source::stat::Type;
use crate::vault::Reader;
use crate::vault::tree::{Entry, Kind, Link};

/// An entry on its way into a directory.
#[derive(Debug)]
pub struct Item {
    /// Where it goes.
    pub dir: Arc<Dir>,
    /// What it is.
    pub entry: Entry,
}

/// A whole file under a temporary name, which is to replace what stands under its own.
#[derive(Debug)]
pub struct Ready {
    /// What it is.
    pub item: Item,
    /// Its temporary name.
    pub temporary: Vec<u8>,
}

/// How an entry ended.
#[derive(Debug)]
pub enum Done {
    /// It stands as in the backup, and is counted.
    Counted,
    /// Something else stands there and stays, and is counted.
    Skipped,
    /// It waits for all of its batch to be on disk.
    Ready(Box<Ready>),
}

/// What to do about an entry.
enum Verdict {
    /// Nothing stands in the way.
    Create,
    /// Something does, and goes.
    Replace,
    /// It is as in the backup.
    Unchanged,
    /// Only its metadata was other; whether there were problems was listed.
    Mended,
    /// Something stands in the way, and stays.
    Skip,
}

impl Job<'_> {
    /// Restores one entry that is no directory and no later name of a hard link.
    pub fn restore_item(&self, item: Item, reader: &Reader<'_>) -> Result<Done> {
        let size = match &item.entry.kind {
            Kind::File { size, .. } => *size,
            _ => 0,
        };
        let verdict = self.judge(&item)?;
        let counter = match verdict {
            Verdict::Unchanged => &self.tally.unchanged,
            Verdict::Skip => &self.tally.skipped,
            Verdict::Mended => &self.tally.files,
            Verdict::Create | Verdict::Replace if self.request.dry_run => {
                if matches!(item.entry.link, Link::First { .. }) {
                    self.would_write(item.dir.path_of(&item.entry.name));
                }
                Tally::add(&self.tally.bytes, size);
                &self.tally.files
            }
            Verdict::Create | Verdict::Replace => return self.write(item, matches!(verdict, Verdict::Replace), reader),
        };
        Tally::add(counter, 1);
        self.progress.add(1, size);
        Ok(if matches!(verdict, Verdict::Skip) { Done::Skipped } else { Done::Counted })
    }

    fn judge(&self, item: &Item) -> Result<Verdict> {
        // A directory made by this restore holds nothing else.
        if item.dir.made {
            return Ok(Verdict::Create);
        }
        let dir = self.handle(&item.dir)?;
        let Some(found) = live::find(&*dir, &item.entry.name).at(|| "cannot look at what is there")? else {
            return Ok(Verdict::Create);
        };
        if self.skips() {
            return Ok(Verdict::Skip);
        }
        if !found.is_like(&item.entry) || !self.same_content(&dir, item, &found)? {
            return Ok(Verdict::Replace);
        }
        self.mend(&dir, item, &found)
    }

    /// Whether what is there has the same content. Times are not trusted: what has the right size
    /// is read and hashed.
    fn same_content(&self, dir: &OwnedFd, item: &Item, found: &Found) -> Result<bool> {
        Ok(match &item.entry.kind {
            Kind::File { size, holes, content } => {
                if found.stat.size != *size {
                    return Ok(false);
                }
                let layout = Layout::new(self.vault, *size, holes, content)?;
                match live::open_file(dir, &item.entry.name) {
                    Ok(file) => layout.is_on_disk(file, self.progress)?,
                    Err(_) => false,
                }
            }
            Kind::Symlink { target } => {
                let there = rustix::fs::readlinkat(dir, item.entry.name.as_slice(), Vec::new());
                there.is_ok_and(|there| there.as_bytes() == target)
            }
            Kind::CharDevice(device) | Kind::BlockDevice(device) => found.stat.rdev == *device,
            _ => true,
        })
    }

    /// Sets the metadata of what has the right content.
    fn mend(&self, dir: &OwnedFd, item: &Item, found: &Found) -> Result<Verdict> {
        let opened = match found.stat.kind {
            Type::File => live::open_file(dir, &item.entry.name),
            _ => live::open_path(dir, &item.entry.name),
        };
        let Ok(file) = opened else { return Ok(Verdict::Replace) };
        let stat = Stat::of(&file).at(|| "cannot look at what is there")?;
        if (stat.dev, stat.ino) != found.identity() {
            return Ok(Verdict::Replace);
        }
        let handle = match found.stat.kind {
            Type::File => Handle::Open(file.as_fd()),
            _ => Handle::Named(file.as_fd(), dir.as_fd(), &item.entry.name),
        };
        let differs = meta::bring(handle, &item.entry.meta, Scope::All, true);
        // An inode that has other names than the backup knows may be someone else's file.
        let names = match item.entry.link {
            Link::None => 1,
            Link::First { nlink } | Link::To { nlink, .. } => nlink,
        };
        if stat.nlink > names || (differs.changed && stat.nlink > 1) || !differs.problems.is_empty() {
            return Ok(Verdict::Replace);
        }
        if !differs.changed {
            return Ok(Verdict::Unchanged);
        }
        if !self.request.dry_run {
            let brought = meta::bring(handle, &item.entry.meta, Scope::All, false);
            self.tally.problems(|| item.dir.path_of(&item.entry.name), &brought.problems)?;
        }
        Ok(Verdict::Mended)
    }

    /// Writes the entry under a temporary name, complete but for what forbids renaming it.
    fn write(&self, item: Item, replaces: bool, reader: &Reader<'_>) -> Result<Done> {
        let dir = self.handle(&item.dir)?;
        // What is in a directory that nobody looks into needs no name to hide behind.
        if !replaces && item.dir.is_hidden() {
            let name = &item.entry.name;
            let created = self.create(&dir, &item, name.clone(), reader).inspect_err(|_| {
                if !matches!(live::find(&*dir, name), Ok(None)) {
                    item.dir.spoil();
                }
            });
            if let Some((made, file)) = created? {
                made.keep();
                self.finished(&item, Some(&file))?;
                return Ok(Done::Counted);
            }
        }
        let taken = || Error::failed("a temporary name was taken already");
        let (temporary, file) = self.create(&dir, &item, self.temporary(), reader)?.ok_or_else(taken)?;
        if replaces {
            let temporary = temporary.keep();
            return Ok(Done::Ready(Box::new(Ready { item, temporary })));
        }
        match live::rename(&*dir, temporary.name(), &item.entry.name, true) {
            Ok(()) => {
                temporary.keep();
            }
            // It came since it was looked for.
            Err(Errno::EXIST) if self.skips() => {
                drop(temporary);
                Tally::add(&self.tally.skipped, 1);
                self.progress.add(1, 0);
                return Ok(Done::Skipped);
            }
            Err(Errno::EXIST) => {
                let temporary = temporary.keep();
                return Ok(Done::Ready(Box::new(Ready { item, temporary })));
            }
            Err(e) => return Err(e).at(|| "cannot give the file its name"),
        }
        self.finished(&item, Some(&file))?;
        Ok(Done::Counted)
    }

    /// Makes the inode under a name that goes again unless it is kept, with content and metadata; `None` where
    /// something has that name.
    fn create<'d>(
        &self,
        dir: &'d OwnedFd,
        item: &Item,
        name: Vec<u8>,
        reader: &Reader<'_>,
    ) -> Result<Option<(Temporary<'d>, OwnedFd)>> {
        let entry = &item.entry;
        let cannot = || "cannot make the file";
        let (temporary, file) = match &entry.kind {
            Kind::File { size, holes, content } => {
                let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = match openat(dir, name.as_slice(), flags, Mode::RUSR | Mode::WUSR) {
                    Err(Errno::EXIST) => return Ok(None),
                    file => file.at(cannot)?,
                };
                let temporary = Temporary::new(dir, name);
                meta::prepare(&file, entry.meta.flags);
                Layout::new(self.vault, *size, holes, content)?.write(reader, &file, self.workers, self.progress)?;
                Tally::add(&self.tally.bytes, *size);
                let hollow = holes.iter().map(|(_, len)| len).sum();
                self.progress.add(0, hollow);
                (temporary, file)
            }
            kind => {
                match make_special(dir, &name, kind) {
                    Err(Errno::EXIST) => return Ok(None),
                    made => made.at(cannot)?,
                }
                let temporary = Temporary::new(dir, name);
                let file = live::open_path(dir, temporary.name()).at(cannot)?;
                is_what_was_made(&file, kind)?;
                (temporary, file)
            }
        };
        let handle = match &entry.kind {
            Kind::File { .. } => Handle::Open(file.as_fd()),
            _ => Handle::Named(file.as_fd(), dir.as_fd(), temporary.name()),
        };
        let brought = meta::bring(handle, &entry.meta, Scope::Unlocked, false);
        self.tally.problems(|| item.dir.path_of(&entry.name), &brought.problems)?;
        Ok(Some((temporary, file)))
    }

    /// Puts a file that was written beside in place of what stands there.
    pub fn replace(&self, ready: &Ready) -> Result<()> {
        let (item, entry) = (&ready.item, &ready.item.entry);
        let dir = self.handle(&item.dir)?;
        let temporary = Temporary::new(&dir, ready.temporary.clone());
        let renamed = match live::rename(&*dir, temporary.name(), &entry.name, false) {
            Err(Errno::ISDIR | Errno::NOTDIR | Errno::NOTEMPTY | Errno::EXIST) => {
                self.clear(&item.dir, &entry.name)?;
                live::rename(&*dir, temporary.name(), &entry.name, false)
            }
            result => result,
        };
        renamed.at(|| "cannot replace what is there")?;
        temporary.keep();
        self.finished(item, None)
    }

    /// Counts an entry that stands under its name, and locks it if it was.
    fn finished(&self, item: &Item, file: Option<&OwnedFd>) -> Result<()> {
        let entry = &item.entry;
        Tally::add(&self.tally.files, 1);
        self.progress.add(1, 0);
        let locks = entry.meta.flags & live::LOCKS.bits();
        if locks == 0 || !matches!(entry.kind, Kind::File { .. }) {
            return Ok(());
        }
        let locked = match file {
            Some(file) => meta::lock(file, locks),
            None => live::open_file(&*self.handle(&item.dir)?, &entry.name).and_then(|file| meta::lock(file, locks)),
        };
        let problem = locked.err().map(|e| format!("the inode flags cannot be set: {}", std::io::Error::from(e)));
        self.tally.problems(|| item.dir.path_of(&entry.name), problem.as_slice())
    }
}

/// Makes an inode that is neither a directory nor a file, for its owner alone.
pub fn make_special(dir: &OwnedFd, name: &[u8], kind: &Kind) -> rustix::io::Result<()> {
    let mode = Mode::RUSR | Mode::WUSR;
    let device = |d: &crate::vault::tree::Device| makedev(d.major, d.minor);
    match kind {
        Kind::Symlink { target } => symlinkat(target.as_slice(), dir, name),
        Kind::CharDevice(d) => mknodat(dir, name, FileType::CharacterDevice, mode, device(d)),
        Kind::BlockDevice(d) => mknodat(dir, name, FileType::BlockDevice, mode, device(d)),
        Kind::Fifo => mknodat(dir, name, FileType::Fifo, mode, 0),
        Kind::Socket => mknodat(dir, name, FileType::Socket, mode, 0),
        Kind::Directory { .. } | Kind::File { .. } | Kind::Unread => Err(Errno::INVAL),
    }
}

/// Refuses what somebody put under the temporary name between making and opening it.
pub fn is_what_was_made(file: &OwnedFd, kind: &Kind) -> Result<()> {
    let stat = Stat::of(file).at(|| "cannot look at what was made")?;
    let like = match kind {
        Kind::Symlink { target } => {
            stat.kind == Type::Symlink
                && rustix::fs::readlinkat(file, c"", Vec::new()).is_ok_and(|there| there.as_bytes() == target)
        }
        Kind::CharDevice(d) => stat.kind == Type::CharDevice && stat.rdev == *d,
        Kind::BlockDevice(d) => stat.kind == Type::BlockDevice && stat.rdev == *d,
        Kind::Fifo => stat.kind == Type::Fifo,
        Kind::Socket => stat.kind == Type::Socket,
        Kind::Directory { .. } | Kind::File { .. } | Kind::Unread => false,
    };
    let mine = stat.uid == rustix::process::geteuid().as_raw() && stat.nlink == 1;
    if like && mine { Ok(()) } else { Err(Error::failed("somebody exchanged the file while it was restored")) }
}
