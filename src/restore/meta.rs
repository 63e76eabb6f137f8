//! Metadata, set on an inode through a handle.
//!
//! The order is what makes it exact: the owner first, since changing it clears setuid, setgid and
//! capabilities; then the mode; then extended attributes, capabilities and ACLs among them; then
//! times; inode flags last, since immutable and append-only forbid all of the former.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{
    AtFlags, CWD, Gid, IFlags, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chmodat, chownat, fchmod,
    fchown, fremovexattr, fsetxattr, futimens, ioctl_getflags, ioctl_setflags, removexattr, setxattr, utimensat,
};
use rustix::io::{Errno, Result};

use super::live::LOCKS;
use crate::source::Stat;
use crate::source::capture::{self, SETTABLE_FLAGS, Xattrs};
use crate::source::stat::Type;
use crate::vault::tree::{Metadata, Time};

/// A handle to an inode.
#[derive(Debug, Clone, Copy)]
pub enum Handle<'a> {
    /// An open file or directory.
    Open(BorrowedFd<'a>),
    /// An `O_PATH` handle of anything else, with its directory and name there.
    Named(BorrowedFd<'a>, BorrowedFd<'a>, &'a [u8]),
}

/// Which of the metadata counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All of it.
    All,
    /// All but the immutable and append-only flags, which something later must set.
    Unlocked,
    /// Owner, mode and ACL: what is known of a directory above the backup's paths.
    Ancestor,
    /// All but the inode flags, which stay as they are.
    Unflagged,
}

/// What came of bringing an inode to its metadata.
#[derive(Debug, Default)]
pub struct Brought {
    /// Whether anything had to be changed.
    pub changed: bool,
    /// What could not be set, one clause each.
    pub problems: Vec<String>,
}

impl Brought {
    fn note(&mut self, what: &str, result: Result<()>) {
        self.changed = true;
        if let Err(e) = result {
            self.problems.push(format!("{what} cannot be set: {}", std::io::Error::from(e)));
        }
    }
}

/// Makes an inode's metadata what `want` says, changing only what differs. With `dry` nothing is
/// changed, only found out. What cannot be set is reported, and the rest set all the same.
pub fn bring(handle: Handle<'_>, want: &Metadata, scope: Scope, dry: bool) -> Brought {
    let mut brought = Brought::default();
    let have = match State::of(handle) {
        Ok(state) => state,
        Err(e) => {
            brought.problems.push(format!("the metadata cannot be read: {}", std::io::Error::from(e)));
            return brought;
        }
    };
    let todo = Todo::new(&have, want, scope);
    if !todo.anything() {
        return brought;
    }
    if dry {
        brought.changed = true;
        return brought;
    }
    let locked = have.flags.intersects(LOCKS);
    if locked && let Handle::Open(file) = handle {
        brought.note("the removal of immutable or append-only", ioctl_setflags(file, have.flags - LOCKS));
    }
    if todo.owner {
        brought.note("the owner", handle.chown(want.owner.uid, want.owner.gid));
    }
    if todo.mode {
        brought.note("the mode", handle.chmod(want.mode));
    }
    for name in &todo.remove {
        let what = format!("the absence of the attribute {}", String::from_utf8_lossy(name));
        brought.note(&what, handle.remove_xattr(name));
    }
    for (name, value) in &todo.set {
        let what = format!("the attribute {}", String::from_utf8_lossy(name));
        brought.note(&what, handle.set_xattr(name, value));
    }
    if todo.mtime {
        brought.note("the modification time", handle.set_mtime(want.mtime));
    }
    if (todo.flags || locked)
        && let Handle::Open(file) = handle
    {
        let flags = (have.flags - IFlags::from_bits_retain(SETTABLE_FLAGS)) | todo.wanted_flags;
        let now = ioctl_setflags(file, flags).and_then(|()| ioctl_getflags(file));
        let stuck = now.map(|now| now & IFlags::from_bits_retain(SETTABLE_FLAGS) == todo.wanted_flags);
        brought.note("the inode flags", stuck.and_then(|stuck| if stuck { Ok(()) } else { Err(Errno::OPNOTSUPP) }));
    } else if todo.flags {
        brought.note("the inode flags", Err(Errno::OPNOTSUPP));
    }
    brought
}

/// Sets the immutable and append-only flags that `Scope::Unlocked` left out.
pub fn lock(file: impl AsFd, flags: u32) -> Result<()> {
    let locks = IFlags::from_bits_retain(flags) & LOCKS;
    if locks.is_empty() { Ok(()) } else { ioctl_setflags(&file, ioctl_getflags(&file)? | locks) }
}

/// Sets flags that only take effect on an empty file: compression and copy-on-write.
pub fn prepare(file: impl AsFd, flags: u32) {
    let early = IFlags::from_bits_retain(flags) & (IFlags::NOCOW | IFlags::COMPRESSED);
    if !early.is_empty()
        && let Ok(now) = ioctl_getflags(&file)
    {
        // What does not take is reported when all flags are set.
        let _ = ioctl_setflags(&file, now | early);
    }
}

/// What an inode has.
struct State {
    stat: Stat,
    xattrs: Xattrs,
    flags: IFlags,
}

impl State {
    fn of(handle: Handle<'_>) -> Result<Self> {
        Ok(match handle {
            Handle::Open(file) => Self {
                stat: Stat::of(file)?,
                xattrs: capture::xattrs(file)?,
                flags: ioctl_getflags(file).unwrap_or(IFlags::empty()),
            },
            Handle::Named(file, dir, name) => {
                Self { stat: Stat::of(file)?, xattrs: capture::xattrs_at(dir, name)?, flags: IFlags::empty() }
            }
        })
    }
}

/// What differs.
struct Todo<'a> {
    owner: bool,
    mode: bool,
    remove: Vec<&'a [u8]>,
    set: Vec<(&'a [u8], &'a [u8])>,
    mtime: bool,
    flags: bool,
    wanted_flags: IFlags,
}

impl<'a> Todo<'a> {
    fn new(have: &'a State, want: &'a Metadata, scope: Scope) -> Self {
        let owner = (have.stat.uid, have.stat.gid) != (want.owner.uid, want.owner.gid);
        // A change of owner clears setuid and setgid.
        let mode = have.stat.kind != Type::Symlink && (have.stat.mode != want.mode || owner);
        let in_scope = |name: &[u8]| scope != Scope::Ancestor || name.starts_with(b"system.posix_acl_");
        let wanted = |name: &[u8]| want.xattrs.iter().any(|(n, _)| n == name);
        let remove = have.xattrs.iter().map(|(name, _)| name.as_slice());
        let remove = remove.filter(|name| in_scope(name) && is_ours(name) && !wanted(name)).collect();
        let set = want.xattrs.iter().filter(|(name, _)| in_scope(name));
        // A change of owner clears capabilities, so these are set again.
        let cleared = |name: &[u8]| owner && name == b"security.capability";
        let set = set.filter(|pair| cleared(&pair.0) || !have.xattrs.contains(pair));
        let set = set.map(|(name, value)| (name.as_slice(), value.as_slice())).collect();
        let settable = IFlags::from_bits_retain(SETTABLE_FLAGS);
        let wanted_flags = match scope {
            Scope::All => IFlags::from_bits_retain(want.flags) & settable,
            Scope::Unlocked => IFlags::from_bits_retain(want.flags) & (settable - LOCKS),
            Scope::Ancestor | Scope::Unflagged => have.flags & settable,
        };
        let mut todo = Self { owner, mode, remove, set, mtime: false, flags: false, wanted_flags };
        // Setting the mode or an ACL never changes the modification time.
        todo.mtime = scope != Scope::Ancestor && have.stat.mtime != want.mtime;
        todo.flags = have.flags & settable != wanted_flags;
        todo
    }

    fn anything(&self) -> bool {
        self.owner || self.mode || self.mtime || self.flags || !self.remove.is_empty() || !self.set.is_empty()
    }
}

/// Whether an attribute that the backup does not hold is removed. Labels that the system itself
/// puts on every inode stay.
fn is_ours(name: &[u8]) -> bool {
    name.starts_with(b"user.")
        || name.starts_with(b"trusted.")
        || name == b"security.capability"
        || name.starts_with(b"system.posix_acl_")
}

impl Handle<'_> {
    fn chown(self, uid: u32, gid: u32) -> Result<()> {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        match self {
            Self::Open(file) => fchown(file, uid, gid),
            Self::Named(file, ..) => chownat(file, c"", uid, gid, AtFlags::EMPTY_PATH),
        }
    }

    fn chmod(self, mode: u16) -> Result<()> {
        let mode = Mode::from_raw_mode(mode.into());
        match self {
            Self::Open(file) => fchmod(file, mode),
            Self::Named(file, ..) => chmodat(CWD, magic(file), mode, AtFlags::empty()),
        }
    }

    fn set_xattr(self, name: &[u8], value: &[u8]) -> Result<()> {
        match self {
            Self::Open(file) => fsetxattr(file, name, value, XattrFlags::empty()),
            // The magic link leads to the very inode, which is not followed further.
            Self::Named(file, ..) => setxattr(magic(file), name, value, XattrFlags::empty()),
        }
    }

    fn remove_xattr(self, name: &[u8]) -> Result<()> {
        let result = match self {
            Self::Open(file) => fremovexattr(file, name),
            Self::Named(file, ..) => removexattr(magic(file), name),
        };
        // The mode may have swallowed an ACL that said no more than it does.
        if result == Err(Errno::NODATA) { Ok(()) } else { result }
    }

    fn set_mtime(self, mtime: Time) -> Result<()> {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: mtime.sec, tv_nsec: mtime.nsec.into() },
        };
        match self {
            Self::Open(file) => futimens(file, &times),
            Self::Named(file, ..) => utimensat(file, c"", &times, AtFlags::EMPTY_PATH),
        }
    }
}

/// The name under which the system shows a handle.
fn magic(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}
