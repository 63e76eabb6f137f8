//! A path of a resource as it stands now, and which engine can take a snapshot of it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags, fstatfs, fstatvfs, ioctl_ficlone, openat};
use rustix::io::Errno;

use super::Kind;
use super::ioctl::{self, SUBVOLUME_ROOT};
use super::thin::{self, Origin};
use crate::model::{Error, IoContext, Result};
use crate::restore::dir::open_dir;
use crate::restore::live::{self, Found};
use crate::source::mounts::{Mount, MountKind};
use crate::source::stat::Type;

/// `f_type` of btrfs.
const BTRFS: i128 = 0x9123_683e;

/// File systems whose files never share blocks, so that nothing need be tried on them.
const NEVER: &[&str] = &[
    "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "iso9660", "jfs", "ntfs", "ntfs3", "ramfs", "reiserfs",
    "squashfs", "tmpfs", "udf", "vfat",
];

/// What helps where a volume is not thin.
const NOT_THIN: &str = "snapshots of such volumes need room set apart, and slow down every write; move it to a thin volume \
                        (lvcreate --thin), to btrfs, or to XFS made with reflink=1, or make a backup";

/// A mounted file system: the mount's id, the device, the type.
type FileSystem = (u64, (u32, u32), String);

/// A path that is there.
#[derive(Debug)]
pub struct Place {
    /// The path.
    pub path: PathBuf,
    /// The directory that holds it; of a mount's root, it itself.
    pub parent: OwnedFd,
    /// Its status.
    pub found: Found,
    /// The mount that holds it.
    pub mount: Mount,
    /// What lies under it.
    pub kind: Kind,
    /// The thin volume that it is, or that its file system lies on.
    pub thin: Option<Origin>,
}

fn is_btrfs(file: impl AsFd) -> bool {
    fstatfs(file).is_ok_and(|fs| i128::from(fs.f_type) == BTRFS)
}

/// The device that a path stands for: itself, or where the system made a link to it.
pub fn volume(path: &Path, found: &Found) -> Option<(u32, u32)> {
    match found.stat.kind {
        Type::BlockDevice => {}
        Type::Symlink if path.starts_with("/dev") => {}
        _ => return None,
    }
    let stat = rustix::fs::stat(path).ok()?;
    let is_device = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::BlockDevice;
    is_device.then(|| (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)))
}

/// Opens a directory by an absolute path, following no symbolic link; `None` where it is missing.
pub fn directory(path: &Path) -> Result<Option<OwnedFd>> {
    let mut dir = open_dir(CWD, b"/").at(|| "cannot open /")?;
    let mut seen = PathBuf::from("/");
    for part in path.components() {
        let name = match part {
            Component::Normal(name) => name,
            Component::RootDir => continue,
            _ => return Err(Error::invalid(format!("{} is no plain absolute path", path.display()))),
        };
        seen.push(name);
        dir = match open_dir(&dir, name.as_bytes()) {
            Ok(next) => next,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                return Err(Error::invalid_state(format!(
                    "{} is a file or a symbolic link, which no snapshot goes through; name the real path in the resource",
                    seen.display()
                )));
            }
            Err(e) => return Err(e).at(|| format!("cannot open {}", seen.display())),
        };
    }
    Ok(Some(dir))
}

/// The directory that holds a path, and the path's name there; of `/` itself and the empty name.
pub fn parent(path: &Path) -> Result<Option<(OwnedFd, Vec<u8>)>> {
    match (path.parent(), path.file_name()) {
        (Some(above), Some(name)) => Ok(directory(above)?.map(|dir| (dir, name.as_bytes().to_vec()))),
        _ => Ok(directory(path)?.map(|dir| (dir, Vec::new()))),
    }
}

impl Place {
    /// Looks at a path: `None` where nothing is.
    pub fn look(path: &Path, mounts: &[Mount]) -> Result<Option<Self>> {
        let what = || format!("cannot look at {}", path.display());
        let Some((above, name)) = parent(path)? else { return Ok(None) };
        let found = if name.is_empty() { live::find(&above, b".") } else { live::find(&above, &name) }.at(what)?;
        let Some(found) = found else { return Ok(None) };
        // The kernel says which mount holds it, so that of several on one point the right one is meant.
        let mount = mounts.iter().find(|m| m.id == found.stat.mount).cloned();
        let mount = mount.ok_or_else(|| {
            Error::invalid_state(format!("the mount that holds {} is not in the mount table", path.display()))
        })?;
        let parent = if found.mount_root && found.is_dir() && !name.is_empty() {
            open_dir(&above, &name).at(what)?
        } else {
            above
        };
        let btrfs = is_btrfs(&parent);
        let device = volume(path, &found);
        let on_volume = !found.mount_root && device.is_some() || thin::FILE_SYSTEMS.contains(&mount.fs.as_str());
        let thin = if on_volume { Origin::of(device.unwrap_or(mount.device)) } else { None };
        let whole = device.is_some() || found.mount_root && found.is_dir() && mount.root == Path::new("/");
        let kind = match &thin {
            Some(_) if whole => Kind::Thin,
            _ if btrfs && found.is_dir() && found.stat.ino == SUBVOLUME_ROOT => Kind::Btrfs,
            _ => Kind::Reflink,
        };
        Ok(Some(Self { path: path.to_owned(), parent, found, mount, kind, thin }))
    }

    /// Looks at a path that must allow snapshots, and says why and what would help where it does not.
    pub fn check(path: &Path, mounts: &[Mount]) -> Result<Self> {
        let shown = path.display();
        let place = Self::look(path, mounts)?
            .ok_or_else(|| Error::invalid_state(format!("{shown} does not exist, so there is nothing to take")))?;
        place.refuse_mounts(mounts)?;
        place.refuse_file_system()?;
        if place.kind == Kind::Reflink && place.found.is_dir() && is_btrfs(&place.parent) {
            let nested = ioctl::nested(place.open()?).at(|| format!("cannot look for subvolumes in {shown}"))?;
            if let Some(first) = nested.first() {
                return Err(Error::invalid_state(format!(
                    "{shown} is a plain directory with the subvolume {:?} in it, which no snapshot of it can hold; make \
                     {shown} a subvolume, or name what is in it as paths of their own",
                    String::from_utf8_lossy(first)
                )));
            }
        }
        Ok(place)
    }

    /// Whether the path is the root of a mount, which cannot be exchanged.
    pub fn is_mount(&self) -> bool {
        self.found.mount_root
    }

    /// Its name in `parent`; of a mount's root, `.`.
    pub fn name(&self) -> &[u8] {
        match self.path.file_name() {
            Some(name) if !self.found.mount_root => name.as_bytes(),
            _ => b".",
        }
    }

    /// Opens it: a directory to be read, anything else only to be named.
    pub fn open(&self) -> Result<OwnedFd> {
        let opened = if self.found.is_dir() {
            open_dir(&self.parent, self.name())
        } else {
            live::open_path(&self.parent, self.name())
        };
        let file = opened.at(|| format!("cannot open {}", self.path.display()))?;
        if live::identity(&file).at(|| "cannot look at what was opened")? != self.found.identity() {
            return Err(Error::failed(format!("somebody exchanged {} just now; try again", self.path.display())));
        }
        Ok(file)
    }

    /// Something mounted beneath would be missing in a snapshot, and in the way of a restore.
    pub fn refuse_mounts(&self, mounts: &[Mount]) -> Result<()> {
        let shown = self.path.display();
        if let Some(beneath) = mounts.iter().find(|m| m.point.starts_with(&self.path) && m.point != self.path) {
            return Err(Error::invalid_state(format!(
                "{shown} spans mounts, and a snapshot stays within one: {} ({}) is mounted in it; name the two as paths \
                 of their own, neither within the other, or unmount it",
                beneath.point.display(),
                beneath.fs
            )));
        }
        if self.found.mount_root && !self.found.is_dir() {
            return Err(Error::invalid_state(format!(
                "{shown} is a file that is mounted over another; name the file itself"
            )));
        }
        Ok(())
    }

    fn refuse_file_system(&self) -> Result<()> {
        let (shown, fs) = (self.path.display(), &self.mount.fs);
        if self.kind == Kind::Thin {
            return if thin::lvm::is_installed() {
                Ok(())
            } else {
                Err(thin::lvm::not_installed().context(format!("{shown} lies on a thin volume")))
            };
        }
        if let Some(device) = volume(&self.path, &self.found) {
            return Err(Error::invalid_state(if thin::is_volume(device) {
                format!("{shown} is an LVM volume that is not thin; {NOT_THIN}")
            } else {
                format!(
                    "{shown} is a block device, which allows no snapshots; a thin volume of LVM would, or make a backup"
                )
            }));
        }
        if !matches!(self.found.stat.kind, Type::Directory | Type::File) {
            return Err(Error::invalid_state(format!(
                "{shown} is neither a directory nor a file; name what it stands for"
            )));
        }
        let cannot = |why: &str| Err(Error::invalid_state(format!("{shown} ({fs}) allows no snapshots: {why}")));
        if self.mount.kind != MountKind::Real {
            return cannot(
                "its file system is not on this machine's storage; take them where that is, or make a backup",
            );
        }
        let vfs = fstatvfs(&self.parent).at(|| format!("cannot look at the file system of {shown}"))?;
        if vfs.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return cannot("it is mounted read-only, and they rest on the same file system; mount it writable");
        }
        if self.kind == Kind::Reflink && !self.shares_blocks()? {
            if self.thin.is_some() {
                return cannot(&format!(
                    "its file system lies on a thin volume, and a snapshot of that is of all of it; name {} as the path of \
                     the resource, or make a backup",
                    self.mount.point.display()
                ));
            }
            if thin::is_volume(self.mount.device) {
                return cannot(&format!("it lies on an LVM volume that is not thin; {NOT_THIN}"));
            }
            return cannot(
                "its files cannot share blocks; put it on btrfs, best as a subvolume, or on XFS made with reflink=1, or \
                 make a backup",
            );
        }
        Ok(())
    }

    /// Whether the file system clones files, found out with two empty files that never have names.
    fn shares_blocks(&self) -> Result<bool> {
        if NEVER.contains(&self.mount.fs.as_str()) {
            return Ok(false);
        }
        static KNOWN: Mutex<BTreeMap<FileSystem, bool>> = Mutex::new(BTreeMap::new());
        let key = (self.mount.id, self.found.stat.dev, self.mount.fs.clone());
        if let Some(known) = KNOWN.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(*known);
        }
        let make = || openat(&self.parent, c".", OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR);
        let cloned = make().and_then(|from| make().map(|to| (from, to))).and_then(|(from, to)| ioctl_ficlone(to, from));
        let known = match cloned {
            Ok(()) => true,
            Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::XDEV | Errno::NOSYS | Errno::ISDIR) => false,
            Err(e) => return Err(e).at(|| format!("cannot find out whether {} can be cloned", self.path.display())),
        };
        KNOWN.lock().unwrap_or_else(PoisonError::into_inner).insert(key, known);
        Ok(known)
    }
}
