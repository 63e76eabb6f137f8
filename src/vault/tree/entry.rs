//! One name in a directory, with everything a backup knows about it.

use std::sync::Arc;

use super::Content;
use crate::model::{Id, Result};
use crate::vault::codec::{Reader, Writer};

/// The longest file name Linux allows, in bytes.
pub const NAME_MAX: usize = 255;

/// Who owns an inode: by number and, where the machine had one, by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// User name; empty where there was none.
    pub user: String,
    /// Group name; empty where there was none.
    pub group: String,
}

/// A point in time: seconds since 1970 and nanoseconds within the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Time {
    /// Seconds since 1970, before it negative.
    pub sec: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nsec: u32,
}

/// What an inode of any kind has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata {
    /// Permission bits with setuid, setgid and sticky: the low 12 bits of `st_mode`.
    pub mode: u16,
    /// Owner and group; shared, since few owners have most files.
    pub owner: Arc<Owner>,
    /// Time of last modification.
    pub mtime: Time,
    /// Extended attributes sorted by name, POSIX ACLs (`system.posix_acl_*`) among them.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Inode flags as in `FS_IOC_GETFLAGS`, those that can be set.
    pub flags: u32,
}

/// Hard links: every name carries the whole inode, and all but the first name where the first is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Link {
    /// The only name of its inode.
    #[default]
    None,
    /// The first name (in walk order) of an inode with `nlink` names.
    First {
        /// The inode's count of names when it was read, some of them perhaps outside the backup.
        nlink: u32,
    },
    /// A later name of an inode whose first name is `path`, seen from this entry's directory
    /// after going `up` levels.
    To {
        /// The inode's count of names when it was read.
        nlink: u32,
        /// How many directories to go up from the one that holds this entry.
        up: u32,
        /// Names from there, joined by `/`.
        path: Vec<u8>,
    },
}

/// Why a directory's node holds what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origin {
    /// Read in full.
    #[default]
    Read,
    /// A directory above the resource's paths: owner, mode and ACL only, and only the names
    /// that lead to them.
    Ancestor,
    /// Left out by rule: another file system, a pseudo file system, a cache, Strongroom's own.
    Skipped,
    /// Dumps of databases: no directory of the live system.
    Dumps,
}

/// What lies beneath a directory, itself not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Entries of any kind.
    pub entries: u64,
    /// Regular files.
    pub files: u64,
    /// Sum of the sizes of regular files.
    pub bytes: u64,
}

/// Numbers of a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// What kind of inode an entry names, with what only that kind has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory {
        /// The node (leaf or branch) that holds its entries.
        node: Id,
        /// What is beneath.
        totals: Totals,
        /// How the node came about.
        origin: Origin,
    },
    /// A regular file.
    File {
        /// `st_size`.
        size: u64,
        /// Holes as (offset, length), ascending and disjoint; the content is the rest, joined.
        holes: Vec<(u64, u64)>,
        /// The bytes outside the holes.
        content: Content,
    },
    /// A symbolic link to `target`.
    Symlink {
        /// What `readlink` answers.
        target: Vec<u8>,
    },
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A name that was there and could not be read: kept so that no restore removes it. Its
    /// metadata is empty.
    Unread,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name: 1-255 bytes without `/` and NUL, not `.` or `..`.
    pub name: Vec<u8>,
    /// What its inode has.
    pub meta: Metadata,
    /// Other names of the same inode.
    pub link: Link,
    /// The kind of inode.
    pub kind: Kind,
}

const XATTRS: u8 = 0x10;
const FLAGS: u8 = 0x20;
const LINKED: u8 = 0x40;
const HOLES: u8 = 0x80;

impl Entry {
    /// The entry's share of a directory's totals, with everything beneath.
    pub fn totals(&self) -> Totals {
        match &self.kind {
            Kind::Directory { totals, .. } => Totals { entries: totals.entries.saturating_add(1), ..*totals },
            Kind::File { size, .. } => Totals { entries: 1, files: 1, bytes: *size },
            _ => Totals { entries: 1, files: 0, bytes: 0 },
        }
    }

    /// Whether this is a directory.
    pub fn is_dir(&self) -> bool {
        matches!(self.kind, Kind::Directory { .. })
    }

    /// The file type bits of `st_mode`; 0 for [`Kind::Unread`].
    pub fn type_bits(&self) -> u32 {
        use nix::libc;
        match self.kind {
            Kind::Directory { .. } => libc::S_IFDIR,
            Kind::File { .. } => libc::S_IFREG,
            Kind::Symlink { .. } => libc::S_IFLNK,
            Kind::CharDevice(_) => libc::S_IFCHR,
            Kind::BlockDevice(_) => libc::S_IFBLK,
            Kind::Fifo => libc::S_IFIFO,
            Kind::Socket => libc::S_IFSOCK,
            Kind::Unread => 0,
        }
    }

    /// Appends the entry's record; `owner` is the index of its owner in the node's table.
    pub fn encode(&self, owner: u64, w: &mut Writer) {
        let code = match self.kind {
            Kind::Directory { .. } => 1,
            Kind::File { .. } => 2,
            Kind::Symlink { .. } => 3,
            Kind::CharDevice(_) => 4,
            Kind::BlockDevice(_) => 5,
            Kind::Fifo => 6,
            Kind::Socket => 7,
            Kind::Unread => 8,
        };
        let has = |yes: bool, bit: u8| if yes { bit } else { 0 };
        let holes = matches!(&self.kind, Kind::File { holes, .. } if !holes.is_empty());
        w.u8(code
            | has(!self.meta.xattrs.is_empty(), XATTRS)
            | has(self.meta.flags != 0, FLAGS)
            | has(self.link != Link::None, LINKED)
            | has(holes, HOLES));
        w.bytes(&self.name);
        if self.kind == Kind::Unread {
            return;
        }
        w.uint(self.meta.mode.into());
        w.uint(owner);
        w.int(self.meta.mtime.sec);
        w.uint(self.meta.mtime.nsec.into());
        if !self.meta.xattrs.is_empty() {
            w.uint(self.meta.xattrs.len() as u64);
            for (name, value) in &self.meta.xattrs {
                w.bytes(name);
                w.bytes(value);
            }
        }
        if self.meta.flags != 0 {
            w.uint(self.meta.flags.into());
        }
        match &self.link {
            Link::None => {}
            Link::First { nlink } => {
                w.uint((*nlink).into());
                w.u8(0);
            }
            Link::To { nlink, up, path } => {
                w.uint((*nlink).into());
                w.u8(1);
                w.uint((*up).into());
                w.bytes(path);
            }
        }
        self.encode_kind(w);
    }

    fn encode_kind(&self, w: &mut Writer) {
        match &self.kind {
            Kind::Directory { node, totals, origin } => {
                w.u8(match origin {
                    Origin::Read => 0,
                    Origin::Ancestor => 1,
                    Origin::Skipped => 2,
                    Origin::Dumps => 3,
                });
                w.id(node);
                totals.encode(w);
            }
            Kind::File { size, holes, content } => {
                w.uint(*size);
                if !holes.is_empty() {
                    w.uint(holes.len() as u64);
                    let mut at = 0;
                    for (offset, len) in holes {
                        w.uint(offset - at);
                        w.uint(*len);
                        at = offset + len;
                    }
                }
                content.encode(w);
            }
            Kind::Symlink { target } => w.bytes(target),
            Kind::CharDevice(device) | Kind::BlockDevice(device) => {
                w.uint(device.major.into());
                w.uint(device.minor.into());
            }
            Kind::Fifo | Kind::Socket | Kind::Unread => {}
        }
    }

    /// Reads one record; owners are looked up in the node's table. Only a `root` has no name.
    pub fn decode(r: &mut Reader<'_>, owners: &[Arc<Owner>], root: bool) -> Result<Self> {
        let code = r.u8()?;
        let name = r.bytes()?;
        if (name.is_empty() && !root) || name.len() > NAME_MAX || name.contains(&b'/') || name.contains(&0) {
            return Err(r.bad("a name is empty, too long or has a '/' or NUL in it"));
        }
        if name == b"." || name == b".." {
            return Err(r.bad("a name is '.' or '..'"));
        }
        let name = name.to_vec();
        if code == 8 {
            return Ok(Self { name, meta: Metadata::default(), link: Link::None, kind: Kind::Unread });
        }
        let mode =
            u16::try_from(r.uint()?).ok().filter(|m| *m <= 0o7777).ok_or_else(|| r.bad("a mode is too large"))?;
        let owner = usize::try_from(r.uint()?).ok().and_then(|i| owners.get(i));
        let owner = owner.ok_or_else(|| r.bad("an owner is not in the table"))?.clone();
        let mtime = Time { sec: r.int()?, nsec: r.u32()? };
        if mtime.nsec >= 1_000_000_000 {
            return Err(r.bad("a time has too many nanoseconds"));
        }
        let mut xattrs = Vec::new();
        if code & XATTRS != 0 {
            let n = r.count(2)?;
            for _ in 0..n {
                let (name, value) = (r.bytes()?, r.bytes()?);
                if name.is_empty() || name.len() > 255 || name.contains(&0) || value.len() > 65536 {
                    return Err(r.bad("an extended attribute has a bad name or is too large"));
                }
                xattrs.push((name.to_vec(), value.to_vec()));
            }
            if xattrs.is_empty() || !xattrs.is_sorted_by(|a, b| a.0 < b.0) {
                return Err(r.bad("extended attributes are not sorted"));
            }
        }
        let flags = if code & FLAGS != 0 { r.u32()? } else { 0 };
        let link = if code & LINKED != 0 { Link::decode(r)? } else { Link::None };
        let kind = Self::decode_kind(code, r)?;
        if link != Link::None && matches!(kind, Kind::Directory { .. }) {
            return Err(r.bad("a directory has several names"));
        }
        Ok(Self { name, meta: Metadata { mode, owner, mtime, xattrs, flags }, link, kind })
    }

    fn decode_kind(code: u8, r: &mut Reader<'_>) -> Result<Kind> {
        if code & HOLES != 0 && code & 0x0f != 2 {
            return Err(r.bad("something other than a file has holes"));
        }
        Ok(match code & 0x0f {
            1 => {
                let origin = match r.u8()? {
                    0 => Origin::Read,
                    1 => Origin::Ancestor,
                    2 => Origin::Skipped,
                    3 => Origin::Dumps,
                    _ => return Err(r.bad("a directory is of an unknown origin")),
                };
                Kind::Directory { node: r.id()?, totals: Totals::decode(r)?, origin }
            }
            2 => {
                let size = r.uint()?;
                let holes = if code & HOLES != 0 { decode_holes(r, size)? } else { Vec::new() };
                let hollow: u64 = holes.iter().map(|(_, len)| len).sum();
                Kind::File { size, content: Content::decode(r, size - hollow)?, holes }
            }
            3 => {
                let target = r.bytes()?;
                if target.is_empty() || target.len() > 4096 || target.contains(&0) {
                    return Err(r.bad("a symbolic link has a bad target"));
                }
                Kind::Symlink { target: target.to_vec() }
            }
            4 => Kind::CharDevice(Device { major: r.u32()?, minor: r.u32()? }),
            5 => Kind::BlockDevice(Device { major: r.u32()?, minor: r.u32()? }),
            6 => Kind::Fifo,
            7 => Kind::Socket,
            _ => return Err(r.bad("an entry is of an unknown kind")),
        })
    }
}

fn decode_holes(r: &mut Reader<'_>, size: u64) -> Result<Vec<(u64, u64)>> {
    let n = r.count(2)?;
    let mut holes = Vec::with_capacity(n);
    let mut at = 0u64;
    for i in 0..n {
        let (gap, len) = (r.uint()?, r.uint()?);
        let offset = at.checked_add(gap).ok_or_else(|| r.bad("a hole lies beyond the end"))?;
        let end = offset.checked_add(len).filter(|end| *end <= size);
        at = end.ok_or_else(|| r.bad("a hole lies beyond the end"))?;
        if len == 0 || (i > 0 && gap == 0) {
            return Err(r.bad("a hole is empty or touches the one before"));
        }
        holes.push((offset, len));
    }
    if n == 0 { Err(r.bad("a list of holes is empty")) } else { Ok(holes) }
}

impl Link {
    fn decode(r: &mut Reader<'_>) -> Result<Self> {
        let nlink = r.u32()?;
        match r.u8()? {
            0 => Ok(Self::First { nlink }),
            1 => {
                let (up, path) = (r.u32()?, r.bytes()?);
                let fine = |part: &[u8]| {
                    !part.is_empty() && part.len() <= NAME_MAX && part != b"." && part != b".." && !part.contains(&0)
                };
                if !path.split(|b| *b == b'/').all(fine) {
                    return Err(r.bad("a hard link has a bad path"));
                }
                Ok(Self::To { nlink, up, path: path.to_vec() })
            }
            _ => Err(r.bad("a hard link is of an unknown kind")),
        }
    }
}

impl Totals {
    /// Adds `other`.
    pub fn add(&mut self, other: Self) {
        self.entries = self.entries.saturating_add(other.entries);
        self.files = self.files.saturating_add(other.files);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    /// Appends the three numbers.
    pub fn encode(&self, w: &mut Writer) {
        w.uint(self.entries);
        w.uint(self.files);
        w.uint(self.bytes);
    }

    /// Reads the three numbers.
    pub fn decode(r: &mut Reader<'_>) -> Result<Self> {
        Ok(Self { entries: r.uint()?, files: r.uint()?, bytes: r.uint()? })
    }
}
