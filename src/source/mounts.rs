//! Mounted file systems, and which of them a backup does not enter.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::model::{IoContext, Result};

/// What kind of file system a mount is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountKind {
    /// Files that rest somewhere.
    Real,
    /// Files that a kernel or a daemon makes up, or that are gone after a boot.
    Pseudo,
    /// Files on another machine.
    Network,
}

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The mount's id, as `statx` tells it.
    pub id: u64,
    /// Where it is mounted.
    pub point: PathBuf,
    /// The type of file system.
    pub fs: String,
    /// What kind that is.
    pub kind: MountKind,
    /// The device of the file system, as (major, minor).
    pub device: (u32, u32),
    /// What of the file system is mounted: `/`, or a directory in it.
    pub root: PathBuf,
    /// How: options of the mount, and of the file system.
    options: (String, String),
}

/// What the kernel tells among options and does not take as one.
const TOLD_ONLY: &[&str] = &["seclabel"];

impl Mount {
    /// The options with which it would be mounted the same way again.
    pub fn options(&self) -> String {
        let mut all: Vec<&str> = Vec::new();
        for option in self.options.0.split(',').chain(self.options.1.split(',')) {
            // Whether it can be written to is said of both.
            let twice = all.contains(&option) || matches!(option, "rw" | "ro") && !all.is_empty();
            if !option.is_empty() && !twice && !TOLD_ONLY.contains(&option) {
                all.push(option);
            }
        }
        all.join(",")
    }
}

/// The mounts of this process's namespace, by mount id.
#[derive(Debug, Default)]
pub struct Mounts {
    kinds: HashMap<u64, MountKind>,
}

const PSEUDO: &[&str] = &[
    "autofs",
    "binder",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "cpuset",
    "debugfs",
    "devfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "functionfs",
    "fuse.gvfsd-fuse",
    "fuse.lxcfs",
    "fuse.portal",
    "fuse.strongroom",
    "fusectl",
    "hugetlbfs",
    "ipathfs",
    "mqueue",
    "nfsd",
    "nsfs",
    "pipefs",
    "proc",
    "pstore",
    "resctrl",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "smackfs",
    "sockfs",
    "sysfs",
    "tracefs",
];

const NETWORK: &[&str] = &[
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "davfs",
    "fuse.ceph",
    "fuse.cephfs",
    "fuse.curlftpfs",
    "fuse.davfs2",
    "fuse.gcsfuse",
    "fuse.glusterfs",
    "fuse.goofys",
    "fuse.mount-s3",
    "fuse.rclone",
    "fuse.s3fs",
    "fuse.sshfs",
    "gfs2",
    "glusterfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "ocfs2",
    "orangefs",
    "smb3",
    "smbfs",
];

/// Directories whose temporary file systems hold nothing that outlives a boot.
const VOLATILE: &[&str] = &["/run", "/var/run", "/dev"];

/// All mounts of this process's namespace, in the order in which they were mounted.
pub fn all() -> Result<Vec<Mount>> {
    let table = fs::read("/proc/self/mountinfo").at(|| "cannot read the mount table")?;
    Ok(table.split(|b| *b == b'\n').filter_map(mount).collect())
}

/// A line of the mount table.
fn mount(line: &[u8]) -> Option<Mount> {
    // id parent major:minor root mount-point options [optional...] - type source options
    let mut words = line.split(|b| *b == b' ');
    let word = |word: &[u8]| std::str::from_utf8(word).map(str::to_owned).ok();
    let id = word(words.next()?)?.parse().ok()?;
    let device = word(words.nth(1)?)?;
    let (major, minor) = device.split_once(':')?;
    let path = |word: &[u8]| PathBuf::from(OsString::from_vec(plain(word)));
    let root = path(words.next()?);
    let point = path(words.next()?);
    let of_mount = word(words.next()?)?;
    let mut words = words.skip_while(|w| *w != b"-").skip(1);
    let fs = word(words.next()?)?;
    let of_fs = words.nth(1).and_then(word).unwrap_or_default();
    let kind = kind(&fs, &point);
    let device = (major.parse().ok()?, minor.parse().ok()?);
    Some(Mount { id, point, fs, kind, device, root, options: (of_mount, of_fs) })
}

/// The text that the table wrote with octal escapes.
fn plain(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        let digits = text.get(at + 1..at + 4).filter(|_| byte == b'\\');
        match digits.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok()) {
            Some(escaped) => {
                plain.push(escaped);
                at += 4;
            }
            None => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    plain
}

fn kind(fs: &str, point: &Path) -> MountKind {
    let volatile = || VOLATILE.iter().any(|dir| point.starts_with(dir));
    if PSEUDO.contains(&fs) || (matches!(fs, "tmpfs" | "ramfs") && volatile()) {
        MountKind::Pseudo
    } else if NETWORK.contains(&fs) {
        MountKind::Network
    } else {
        MountKind::Real
    }
}

impl Mounts {
    /// Reads the mount table.
    pub fn read() -> Result<Self> {
        Ok(Self::of(&all()?))
    }

    fn of(mounts: &[Mount]) -> Self {
        Self { kinds: mounts.iter().map(|m| (m.id, m.kind)).collect() }
    }

    /// The kind of the mount with this id. One that came since the table was read is looked up
    /// again; one that cannot be found counts as real, since leaving out is the worse mistake.
    pub fn kind(&mut self, mount: u64) -> MountKind {
        if !self.kinds.contains_key(&mount)
            && let Ok(now) = Self::read()
        {
            *self = now;
        }
        self.kinds.get(&mount).copied().unwrap_or(MountKind::Real)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_not_to_enter() {
        let table = b"21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
             22 21 0:20 / /proc rw - proc proc rw\n\
             23 21 0:21 / /run rw shared:5 master:2 - tmpfs tmpfs rw\n\
             24 21 0:22 / /srv/scratch rw - tmpfs tmpfs rw\n\
             25 21 0:23 / /running rw - tmpfs tmpfs rw\n\
             26 21 0:24 / /mnt/nas\\040of\\040ours rw - nfs4 nas:/ rw\n\
             27 21 254:3 /in /srv/data ro,noatime,nosuid shared:9 - ext4 /dev/mapper/vg-data rw,seclabel,stripe=16\n";
        let list: Vec<_> = table.split(|b| *b == b'\n').filter_map(mount).collect();
        assert_eq!((list[0].device, list[0].fs.as_str()), ((254, 0), "ext4"));
        assert_eq!(list[5].point, Path::new("/mnt/nas of ours"));
        let mut mounts = Mounts::of(&list);
        assert_eq!(
            (list[6].root.as_path(), list[6].options().as_str()),
            (Path::new("/in"), "ro,noatime,nosuid,stripe=16")
        );
        assert_eq!((list[0].root.as_path(), list[0].options().as_str()), (Path::new("/"), "rw,relatime"));
        let kinds: Vec<_> = (21..=26).map(|id| mounts.kind(id)).collect();
        use MountKind::{Network, Pseudo, Real};
        assert_eq!(kinds, [Real, Pseudo, Pseudo, Real, Real, Network]);
    }
}
