//! A tree cloned file by file: the clones share all blocks with their originals.
//!
//! Every file is of one moment, and so is all that its inode says; a tree in which somebody writes
//! meanwhile is not. What vanishes while it is being cloned is not in the clone; anything else that
//! cannot be cloned exactly ends the whole.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{
    AtFlags, FileType, Gid, IFlags, Mode, OFlags, RawDir, StatxFlags, Timespec, Timestamps, Uid, fchmod, fchown, fstat,
    ftruncate, futimens, ioctl_ficlone, ioctl_getflags, ioctl_setflags, linkat, mkdirat, openat, readlinkat, statx,
    unlinkat,
};
use rustix::io::Errno;

use super::crew::{Tally, below, child, each_directory};
use super::engine::split;
use super::ioctl;
use crate::model::{Error, IoContext, Progress, Result};
use crate::restore::item::make_special;
use crate::restore::live;
use crate::restore::meta::{self, Handle, Scope};
use crate::source::stat::Type;
use crate::source::{Stat, capture, file};
use crate::vault::tree::{Kind, Metadata, Owner};

/// How often a file that is written to is cloned again, so that its times are those of its content.
const ATTEMPTS: u32 = 3;
/// Hard links are looked up under so many locks.
const SHARDS: usize = 64;
/// Directories with longer paths are not entered.
const PATH_LIMIT: usize = 32 << 10;
/// The largest block of a file system whose files can be cloned.
const BLOCK: u64 = 64 << 10;
/// What must be the same before blocks can be shared.
const EARLY: IFlags = IFlags::NOCOW.union(IFlags::COMPRESSED);

/// Names yet to come of an inode, and where its first one is.
type First = (u32, Vec<u8>);

struct Cloning<'a> {
    from: &'a OwnedFd,
    to: &'a OwnedFd,
    shown: &'a Path,
    leave: &'a (dyn Fn(&[u8]) -> bool + Sync),
    progress: &'a Progress,
    device: (u32, u32),
    entries: AtomicU64,
    bytes: AtomicU64,
    firsts: Vec<Mutex<HashMap<u64, First>>>,
    /// Files with several names that become immutable when they have all of them.
    locks: Mutex<Vec<(Vec<u8>, u32)>>,
}

/// What a new file in a directory is like before anything is set.
#[derive(Debug, Clone, Copy)]
struct Fresh {
    owner: (u32, u32),
    /// Whether it has no flags, of those that can be set.
    plain: bool,
    /// Whether it has the very mode with which it was made.
    exact: bool,
}

thread_local! {
    /// Whether this thread has a mask of its own for the modes of new files, one that masks nothing.
    /// The threads that clone a tree end with it; what they make is seen by nobody before.
    static UNMASKED: OnceCell<bool> = const { OnceCell::new() };
}

impl Fresh {
    fn of(dir: &OwnedFd) -> rustix::io::Result<Self> {
        let stat = fstat(dir)?;
        let process = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let gid = if stat.st_mode & 0o2000 == 0 { process.1 } else { stat.st_gid };
        let exact = UNMASKED.with(|cell| cell.get().copied().unwrap_or(false));
        Ok(Self { owner: (process.0, gid), plain: capture::flags(dir) == 0, exact })
    }
}

fn unmask() {
    UNMASKED.with(|cell| {
        cell.get_or_init(|| {
            let own = nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).is_ok();
            if own {
                rustix::process::umask(Mode::empty());
            }
            own
        });
    });
}

/// The names in a directory, and whether each is of a regular file, as far as the directory says.
fn listed(dir: &OwnedFd) -> rustix::io::Result<Vec<(Vec<u8>, bool)>> {
    let own = openat(dir, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut buffer = [MaybeUninit::<u8>::uninit(); 32 << 10];
    let (mut found, mut entries) = (Vec::new(), RawDir::new(own, &mut buffer));
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            found.push((name.to_vec(), entry.file_type() == FileType::RegularFile));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Whether an error means that what was listed is not there any more.
fn vanished(e: Errno) -> bool {
    matches!(e, Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::STALE)
}

/// Clones all that is in the directory `from` into the empty directory `to`, which becomes like it.
/// Of the names at its top, those that are to be left are not cloned. `shown` is what messages
/// call it.
pub fn tree(
    from: &OwnedFd,
    to: &OwnedFd,
    shown: &Path,
    leave: &(dyn Fn(&[u8]) -> bool + Sync),
    progress: &Progress,
) -> Result<Tally> {
    let device = Stat::of(from).at(|| format!("cannot look at {}", shown.display()))?.dev;
    let clone = Cloning {
        from,
        to,
        shown,
        leave,
        progress,
        device,
        entries: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        firsts: (0..SHARDS).map(|_| Mutex::default()).collect(),
        locks: Mutex::default(),
    };
    each_directory(|path| clone.directory(path))?;
    for (path, flags) in clone.locks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        clone.lock(&path, flags).at(|| format!("cannot make {} immutable", clone.name(&path).display()))?;
    }
    Ok(Tally { entries: clone.entries.load(Relaxed), bytes: clone.bytes.load(Relaxed) })
}

/// Clones one entry that is no directory.
pub fn single(from: &OwnedFd, name: &[u8], to: &OwnedFd, as_name: &[u8], shown: &Path) -> Result<Tally> {
    let what = || format!("cannot clone {}", shown.display());
    let stat = Stat::at(from, name).at(what)?;
    if stat.kind == Type::File {
        let fresh = Fresh::of(to).at(what)?;
        let (stat, flags) = regular(from, name, to, as_name, fresh).at(what)?;
        set_locks(to, as_name, flags).at(what)?;
        return Ok(Tally { entries: 1, bytes: stat.blocks * 512 });
    }
    special(from, name, to, as_name, &stat).at(what)?;
    Ok(Tally { entries: 1, bytes: 0 })
}

impl Cloning<'_> {
    fn name(&self, path: &[u8]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        self.shown.join(std::ffi::OsStr::from_bytes(path))
    }

    fn failed(&self, path: &[u8], error: std::io::Error) -> Error {
        let name = self.name(path);
        let hint = match error.raw_os_error() {
            Some(nix::libc::EXDEV) => "; something is mounted there",
            Some(nix::libc::ETXTBSY) => "; it is a swap file in use, which cannot be cloned",
            _ => "",
        };
        let error = Error::io(format!("cannot clone {}", name.display()), &error);
        Error { message: error.message + hint, ..error }
    }

    /// Clones what is directly in a directory; answers with the directories among it.
    fn directory(&self, path: &[u8]) -> Result<Vec<Vec<u8>>> {
        let fail = |e: Errno| self.failed(path, e.into());
        self.progress.check()?;
        unmask();
        if path.len() > PATH_LIMIT {
            return Err(self.failed(path, Errno::NAMETOOLONG.into()));
        }
        self.progress.set_current(&String::from_utf8_lossy(path));
        let from = match below(self.from, path) {
            Err(e) if vanished(e) && !path.is_empty() => return self.without(path).map(|()| Vec::new()),
            opened => opened.map_err(fail)?,
        };
        let to = below(self.to, path).map_err(fail)?;
        let mut ahead = Vec::new();
        let fresh = Fresh::of(&to).map_err(fail)?;
        for (name, is_file) in listed(&from).map_err(fail)? {
            if path.is_empty() && (self.leave)(&name) {
                continue;
            }
            let at = child(path, &name);
            match self.entry((&from, &to), &name, &at, is_file, fresh) {
                Ok(true) => ahead.push(at),
                Ok(false) => {}
                Err(e) => match e.raw_os_error().map(Errno::from_raw_os_error) {
                    Some(gone) if vanished(gone) => {
                        // What was begun of it is nothing by itself.
                        let _ = live::remove(&to, &name, false);
                    }
                    _ => return Err(self.failed(&at, e)),
                },
            }
        }
        let want =
            metadata(&Stat::of(&from).map_err(fail)?, capture::xattrs(&from).map_err(fail)?, capture::flags(&from));
        times(&from, &to).map_err(fail)?;
        dress(Handle::Open(to.as_fd()), &want, Scope::All).map_err(|e| self.failed(path, e))?;
        Ok(ahead)
    }

    /// A directory that went since it was listed.
    fn without(&self, path: &[u8]) -> Result<()> {
        let (above, name) = split(path);
        let gone = below(self.to, above).and_then(|dir| unlinkat(dir, name, AtFlags::REMOVEDIR));
        gone.map_err(|e| self.failed(path, e.into()))
    }

    /// Clones one entry; a directory is only made, and told by true.
    fn entry(
        &self,
        (from, to): (&OwnedFd, &OwnedFd),
        name: &[u8],
        at: &[u8],
        is_file: bool,
        fresh: Fresh,
    ) -> std::io::Result<bool> {
        let mut opened = None;
        let stat = if is_file {
            let (file, stat) = opened_file(from, name)?;
            opened = Some(file);
            stat
        } else {
            Stat::at(from, name)?
        };
        let is_dir = stat.kind == Type::Directory;
        // In a snapshot on btrfs, what stands for a subvolume that is not in it is an empty directory.
        if stat.dev != self.device && !(is_dir && stat.ino == ioctl::EMPTY_SUBVOLUME) {
            return Err(Errno::XDEV.into());
        }
        let mut bytes = 0;
        match stat.kind {
            Type::Directory => mkdirat(to, name, Mode::RWXU)?,
            _ if stat.nlink > 1 => bytes = self.linked((from, to), name, at, &stat, fresh)?,
            Type::File => {
                let (stat, flags) = match opened {
                    Some(file) => cloned(&file, stat, to, name, fresh)?,
                    None => regular(from, name, to, name, fresh)?,
                };
                set_locks(to, name, flags)?;
                bytes = stat.blocks * 512;
            }
            _ => special(from, name, to, name, &stat)?,
        }
        self.entries.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        self.progress.add(1, bytes);
        Ok(is_dir)
    }

    /// One of several names of an inode: the first is cloned, the others are linked to it.
    fn linked(
        &self,
        (from, to): (&OwnedFd, &OwnedFd),
        name: &[u8],
        at: &[u8],
        stat: &Stat,
        fresh: Fresh,
    ) -> std::io::Result<u64> {
        let shard = usize::try_from(stat.ino % SHARDS as u64).unwrap_or(0);
        let Some(shard) = self.firsts.get(shard) else { return Ok(0) };
        // Held while it is cloned: nobody links to it before it is whole.
        let mut firsts = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((left, first)) = firsts.get_mut(&stat.ino) {
            let (above, leaf) = split(first);
            linkat(below(self.to, above)?, leaf, to, name, AtFlags::empty())?;
            *left = left.saturating_sub(1);
            if *left == 0 {
                firsts.remove(&stat.ino);
            }
            return Ok(0);
        }
        let (now, flags) = match stat.kind {
            Type::File => regular(from, name, to, name, fresh)?,
            _ => special(from, name, to, name, stat).map(|()| (Stat { blocks: 0, ..*stat }, 0))?,
        };
        if now.ino != stat.ino {
            // Somebody exchanged it since it was looked at: a file of its own.
            set_locks(to, name, flags)?;
            return Ok(now.blocks * 512);
        }
        if flags & live::LOCKS.bits() != 0 {
            self.locks.lock().unwrap_or_else(PoisonError::into_inner).push((at.to_vec(), flags));
        }
        firsts.insert(stat.ino, (now.nlink.saturating_sub(1), at.to_vec()));
        Ok(now.blocks * 512)
    }

    fn lock(&self, path: &[u8], flags: u32) -> rustix::io::Result<()> {
        let (above, name) = split(path);
        set_locks(&below(self.to, above)?, name, flags)
    }
}

fn metadata(stat: &Stat, xattrs: capture::Xattrs, flags: u32) -> Metadata {
    let owner = Owner { uid: stat.uid, gid: stat.gid, ..Owner::default() };
    Metadata { mode: stat.mode, owner: Arc::new(owner), mtime: stat.mtime, xattrs, flags }
}

/// Sets metadata; whatever cannot be set is an error.
fn dress(handle: Handle<'_>, want: &Metadata, scope: Scope) -> std::io::Result<()> {
    match meta::bring(handle, want, scope, false).problems.into_iter().next() {
        None => Ok(()),
        Some(problem) => Err(std::io::Error::other(problem)),
    }
}

/// Takes over the times of last access and modification.
fn times(from: impl AsFd, to: impl AsFd) -> rustix::io::Result<()> {
    let stat = fstat(from)?;
    let time = |sec: i64, nsec: u64| Timespec { tv_sec: sec, tv_nsec: i64::try_from(nsec).unwrap_or(0) };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    futimens(to, &times)
}

fn set_locks(dir: &OwnedFd, name: &[u8], flags: u32) -> rustix::io::Result<()> {
    if flags & live::LOCKS.bits() == 0 { Ok(()) } else { meta::lock(live::open_file(dir, name)?, flags) }
}

/// Opens a regular file; whatever else has its name by now is as good as gone.
fn opened_file(from: &OwnedFd, name: &[u8]) -> std::io::Result<(File, Stat)> {
    match file::open(from, name) {
        Err(e) if e.raw_os_error().is_none() => Err(Errno::STALE.into()),
        opened => opened,
    }
}

/// Clones a regular file, all but what makes it immutable; its status at that moment, with the
/// blocks of the clone, and its flags.
fn regular(from: &OwnedFd, name: &[u8], to: &OwnedFd, as_name: &[u8], fresh: Fresh) -> std::io::Result<(Stat, u32)> {
    let (file, stat) = opened_file(from, name)?;
    cloned(&file, stat, to, as_name, fresh)
}

/// The same of an open file. Most files have neither attributes nor flags: for them no more is done
/// than has to be, since every call to the system counts when there are many.
fn cloned(file: &File, mut stat: Stat, to: &OwnedFd, as_name: &[u8], fresh: Fresh) -> std::io::Result<(Stat, u32)> {
    let made = if fresh.exact { stat.mode & 0o777 } else { 0o600 };
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let copy = openat(to, as_name, flags, Mode::from_raw_mode(made.into()))?;
    let flags = capture::flags(file);
    if flags != 0 || !fresh.plain {
        let (now, early) = (ioctl_getflags(&copy).unwrap_or(IFlags::empty()), IFlags::from_bits_retain(flags) & EARLY);
        if now & EARLY != early {
            ioctl_setflags(&copy, (now - EARLY) | early)?;
        }
    }
    let mut attempt = 1;
    let (xattrs, times) = loop {
        if stat.size > 0 {
            ioctl_ficlone(&copy, file)?;
        }
        let xattrs = capture::xattrs(file)?;
        let (now, times) = looked(file)?;
        let same = !now.changed_since(&stat);
        stat = now;
        if same || attempt == ATTEMPTS {
            break (xattrs, times);
        }
        attempt += 1;
        ftruncate(&copy, 0)?;
    };
    if xattrs.is_empty() && flags == 0 && fresh.plain {
        let moved = (stat.uid, stat.gid) != fresh.owner;
        if moved {
            fchown(&copy, Some(Uid::from_raw(stat.uid)), Some(Gid::from_raw(stat.gid)))?;
        }
        // A change of owner clears setuid and setgid.
        if moved || made != stat.mode {
            fchmod(&copy, Mode::from_raw_mode(stat.mode.into()))?;
        }
        futimens(&copy, &times)?;
    } else {
        futimens(&copy, &times)?;
        dress(Handle::Open(copy.as_fd()), &metadata(&stat, xattrs, flags), Scope::Unlocked)?;
    }
    // The original may have blocks in store beyond its end.
    if stat.blocks * 512 > stat.size.next_multiple_of(BLOCK) {
        stat.blocks = Stat::of(&copy)?.blocks;
    }
    Ok((stat, flags))
}

/// The status of an open file, and its times to be set elsewhere.
fn looked(file: &File) -> rustix::io::Result<(Stat, Timestamps)> {
    let all = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)?;
    let time = |t: rustix::fs::StatxTimestamp| Timespec { tv_sec: t.tv_sec, tv_nsec: t.tv_nsec.into() };
    let times = Timestamps { last_access: time(all.stx_atime), last_modification: time(all.stx_mtime) };
    Ok((Stat::from(all), times))
}

fn special(from: &OwnedFd, name: &[u8], to: &OwnedFd, as_name: &[u8], stat: &Stat) -> std::io::Result<()> {
    let kind = match stat.kind {
        Type::Symlink => Kind::Symlink { target: readlinkat(from, name, Vec::new())?.into_bytes() },
        Type::CharDevice => Kind::CharDevice(stat.rdev),
        Type::BlockDevice => Kind::BlockDevice(stat.rdev),
        Type::Fifo => Kind::Fifo,
        Type::Socket => Kind::Socket,
        Type::Directory | Type::File => return Err(Errno::STALE.into()),
    };
    make_special(to, as_name, &kind)?;
    let copy = live::open_path(to, as_name)?;
    let want = metadata(stat, capture::xattrs_at(from.as_fd(), name)?, 0);
    dress(Handle::Named(copy.as_fd(), to.as_fd(), as_name), &want, Scope::Unflagged)
}
