//! What stands on the live system, looked at and changed through directory handles only.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, IFlags, Mode, OFlags, RawDir, RenameFlags, StatxAttributes, StatxFlags, fstat, openat,
    renameat_with, statx, unlinkat,
};
use rustix::io::{Errno, Result};

use crate::source::Stat;
use crate::source::stat::Type;
use crate::vault::tree::{Entry, Kind};

/// An inode: device and number.
pub type Identity = ((u32, u32), u64);

/// The inode behind a handle.
pub fn identity(file: impl AsFd) -> Result<Identity> {
    let stat = Stat::of(file)?;
    Ok((stat.dev, stat.ino))
}

/// What stands under a name.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// Its status.
    pub stat: Stat,
    /// Whether something is mounted there.
    pub mount_root: bool,
    /// Whether it is immutable or append-only.
    pub locked: bool,
}

impl Found {
    /// Its inode.
    pub fn identity(&self) -> Identity {
        (self.stat.dev, self.stat.ino)
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.stat.kind == Type::Directory
    }

    /// Whether it is of the same type as the entry.
    pub fn is_like(&self, entry: &Entry) -> bool {
        matches!(
            (self.stat.kind, &entry.kind),
            (Type::Directory, Kind::Directory { .. })
                | (Type::File, Kind::File { .. })
                | (Type::Symlink, Kind::Symlink { .. })
                | (Type::CharDevice, Kind::CharDevice(_))
                | (Type::BlockDevice, Kind::BlockDevice(_))
                | (Type::Fifo, Kind::Fifo)
                | (Type::Socket, Kind::Socket)
        )
    }
}

/// What stands under `name` in `dir`, if anything does. Nothing is followed or mounted.
pub fn find(dir: impl AsFd, name: &[u8]) -> Result<Option<Found>> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match statx(dir, name, flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID) {
        Ok(s) => {
            let mount_root = s.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
            let locked = s.stx_attributes.intersects(StatxAttributes::IMMUTABLE | StatxAttributes::APPEND);
            Ok(Some(Found { stat: Stat::from(s), mount_root, locked }))
        }
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// A handle that names the inode without opening it: for what must not be opened.
pub fn open_path(dir: impl AsFd, name: &[u8]) -> Result<OwnedFd> {
    openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Opens a regular file for reading; anything else is refused without waiting for a writer.
pub fn open_file(dir: impl AsFd, name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = openat(dir, name, flags, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::RegularFile { Ok(file) } else { Err(Errno::STALE) }
}

/// The names in a directory, sorted.
pub fn names(dir: impl AsFd) -> Result<Vec<Vec<u8>>> {
    // A handle of its own, since the position in the directory belongs to the handle.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = openat(dir, c".", flags, Mode::empty())?;
    let mut buffer = [MaybeUninit::<u8>::uninit(); 16384];
    let mut names = Vec::new();
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Inode flags that forbid every change.
pub const LOCKS: IFlags = IFlags::IMMUTABLE.union(IFlags::APPEND);

/// Takes immutable and append-only from an inode, so that it can be changed; says which it had.
pub fn unlock(file: impl AsFd) -> Result<IFlags> {
    let flags = match rustix::fs::ioctl_getflags(&file) {
        Ok(flags) => flags,
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::BADF) => return Ok(IFlags::empty()),
        Err(e) => return Err(e),
    };
    if flags.intersects(LOCKS) {
        rustix::fs::ioctl_setflags(&file, flags - LOCKS)?;
    }
    Ok(flags & LOCKS)
}

fn unlock_at(dir: impl AsFd, name: &[u8]) {
    if let Ok(file) = open_file(&dir, name).or_else(|_| super::dir::open_dir(&dir, name)) {
        // What still forbids the change is reported by the change itself.
        let _ = unlock(file);
    }
}

/// Removes a name, be it immutable.
pub fn remove(dir: impl AsFd, name: &[u8], is_dir: bool) -> Result<()> {
    let flags = if is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    match unlinkat(&dir, name, flags) {
        Err(Errno::PERM) => {
            unlock_at(&dir, name);
            unlinkat(&dir, name, flags)
        }
        result => result,
    }
}

/// Renames within a directory, over whatever stands there unless `keep`.
pub fn rename(dir: impl AsFd, from: &[u8], to: &[u8], keep: bool) -> Result<()> {
    let flags = if keep { RenameFlags::NOREPLACE } else { RenameFlags::empty() };
    match renameat_with(&dir, from, &dir, to, flags) {
        // A file system without NOREPLACE.
        Err(Errno::INVAL) if keep => match find(&dir, to)? {
            None => renameat_with(&dir, from, &dir, to, RenameFlags::empty()),
            Some(_) => Err(Errno::EXIST),
        },
        Err(Errno::PERM) if !keep => {
            unlock_at(&dir, to);
            renameat_with(&dir, from, &dir, to, flags)
        }
        result => result,
    }
}
