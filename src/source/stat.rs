//! What one `statx` tells of an inode.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Statx, StatxFlags, statx};

use crate::vault::tree::{Device, Time};

/// The type of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// An inode's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Its type.
    pub kind: Type,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u16,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Device of the file system, as (major, minor).
    pub dev: (u32, u32),
    /// Inode number.
    pub ino: u64,
    /// Names of the inode.
    pub nlink: u32,
    /// Length in bytes.
    pub size: u64,
    /// Allocated 512-byte blocks.
    pub blocks: u64,
    /// Last modification.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Numbers of a device node.
    pub rdev: Device,
    /// The mount it was seen in.
    pub mount: u64,
}

impl Stat {
    /// The status of `name` in `dir`, not following a symbolic link nor mounting anything; of
    /// `dir` itself where `name` is empty.
    pub fn at(dir: impl AsFd, name: &[u8]) -> rustix::io::Result<Self> {
        let mut flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        if name.is_empty() {
            flags |= AtFlags::EMPTY_PATH;
        }
        statx(dir, name, flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID).map(Self::from)
    }

    /// The status of an open file.
    pub fn of(file: impl AsFd) -> rustix::io::Result<Self> {
        Self::at(file, b"")
    }

    /// Whether content or metadata may have changed since `earlier`.
    pub fn changed_since(&self, earlier: &Self) -> bool {
        self.size != earlier.size
            || self.mtime != earlier.mtime
            || self.ctime != earlier.ctime
            || self.ino != earlier.ino
    }
}

impl From<Statx> for Stat {
    fn from(s: Statx) -> Self {
        let mode = u32::from(s.stx_mode);
        let kind = match mode & nix::libc::S_IFMT {
            nix::libc::S_IFDIR => Type::Directory,
            nix::libc::S_IFLNK => Type::Symlink,
            nix::libc::S_IFCHR => Type::CharDevice,
            nix::libc::S_IFBLK => Type::BlockDevice,
            nix::libc::S_IFIFO => Type::Fifo,
            nix::libc::S_IFSOCK => Type::Socket,
            _ => Type::File,
        };
        Self {
            kind,
            mode: s.stx_mode & 0o7777,
            uid: s.stx_uid,
            gid: s.stx_gid,
            dev: (s.stx_dev_major, s.stx_dev_minor),
            ino: s.stx_ino,
            nlink: s.stx_nlink,
            size: s.stx_size,
            blocks: s.stx_blocks,
            mtime: Time { sec: s.stx_mtime.tv_sec, nsec: s.stx_mtime.tv_nsec },
            ctime: Time { sec: s.stx_ctime.tv_sec, nsec: s.stx_ctime.tv_nsec },
            rdev: Device { major: s.stx_rdev_major, minor: s.stx_rdev_minor },
            mount: s.stx_mnt_id,
        }
    }
}
