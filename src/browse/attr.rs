//! What `stat` answers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use nix::libc;

use crate::vault::tree::{Device, Entry, Kind, Link, Origin, Time};

use super::ino::Ino;
use super::types::Policy;

/// The attributes of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Its number.
    pub ino: Ino,
    /// The file type bits of `st_mode`.
    pub kind: u32,
    /// The permission bits of `st_mode`.
    pub mode: u16,
    /// Names of the inode; 1 for directories, which says that it is not known.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, as the kernel packs it.
    pub rdev: u32,
    /// Size in bytes.
    pub size: u64,
    /// Space without holes, in units of 512 bytes.
    pub blocks: u64,
    /// Time of last modification, shown as the other times too.
    pub mtime: Time,
    /// Tells inodes apart that have the number one after another. The kernel keeps what it knows of an inode until
    /// this is another: all but links to versions are what they are for ever.
    pub generation: u64,
}

/// What a directory shows as its size, since it has none.
const DIR_SIZE: u64 = 4096;

impl Attr {
    /// A directory that is no archived entry.
    pub fn directory(ino: Ino, mode: u16, uid: u32, mtime: Time) -> Self {
        let kind = libc::S_IFDIR;
        Self { ino, kind, mode, nlink: 1, uid, gid: 0, rdev: 0, size: DIR_SIZE, blocks: 8, mtime, generation: 0 }
    }

    /// A symbolic link that is no archived entry.
    pub fn symlink(ino: Ino, target: &[u8], mtime: Time) -> Self {
        let kind = libc::S_IFLNK;
        let size = target.len() as u64;
        Self { ino, kind, mode: 0o777, nlink: 1, uid: 0, gid: 0, rdev: 0, size, blocks: 0, mtime, generation: 0 }
    }

    /// The root directory of a backup.
    pub fn root(ino: Ino, policy: Policy, created_at: Time) -> Self {
        let (mode, uid) = door(policy);
        Self::directory(ino, mode, uid, created_at)
    }

    /// An archived entry. `ino` is the number of the inode, whichever of its names this is.
    pub fn entry(ino: Ino, entry: &Entry, policy: Policy, created_at: Time) -> Self {
        let (mut size, mut blocks, mut rdev, mut mtime) = (0, 0, 0, entry.meta.mtime);
        match &entry.kind {
            Kind::Directory { origin, .. } => {
                (size, blocks) = (DIR_SIZE, 8);
                if *origin == Origin::Ancestor {
                    mtime = created_at;
                }
            }
            Kind::File { size: bytes, holes, .. } => {
                let hollow = holes.iter().fold(0u64, |sum, (_, len)| sum.saturating_add(*len));
                (size, blocks) = (*bytes, bytes.saturating_sub(hollow).div_ceil(4096).saturating_mul(8));
            }
            Kind::Symlink { target } => size = target.len() as u64,
            Kind::CharDevice(device) | Kind::BlockDevice(device) => rdev = pack(*device),
            Kind::Fifo | Kind::Socket | Kind::Unread => {}
        }
        let nlink = match entry.link {
            Link::None => 1,
            Link::First { nlink } | Link::To { nlink, .. } => nlink.max(1),
        };
        let uid = if let Policy::Owner(uid) = policy { uid } else { entry.meta.owner.uid };
        let (kind, mode, gid) = (entry.type_bits(), entry.meta.mode, entry.meta.owner.gid);
        Self { ino, kind, mode, nlink, uid, gid, rdev, size, blocks, mtime, generation: 0 }
    }
}

/// Mode and owner of the directory through which a backup is entered.
pub fn door(policy: Policy) -> (u16, u32) {
    match policy {
        Policy::Root => (0o700, 0),
        Policy::Strict => (0o755, 0),
        Policy::Owner(uid) => (0o700, uid),
    }
}

/// A device number as FUSE carries it: 12 bits of major, 20 bits of minor.
fn pack(device: Device) -> u32 {
    let (major, minor) = (device.major & 0xfff, device.minor & 0xf_ffff);
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}

/// A timestamp as a file time.
pub fn time(at: Timestamp) -> Time {
    let nanos = at.as_nanosecond();
    let second = 1_000_000_000;
    Time {
        sec: i64::try_from(nanos.div_euclid(second)).unwrap_or(0),
        nsec: u32::try_from(nanos.rem_euclid(second)).unwrap_or(0),
    }
}

/// A file time as the standard library has it; times beyond what it can say become 1970.
pub fn system_time(time: Time) -> SystemTime {
    let seconds = Duration::from_secs(time.sec.unsigned_abs());
    let whole = if time.sec < 0 { UNIX_EPOCH.checked_sub(seconds) } else { UNIX_EPOCH.checked_add(seconds) };
    whole.and_then(|t| t.checked_add(Duration::from_nanos(time.nsec.into()))).unwrap_or(UNIX_EPOCH)
}
