//! Mounted file systems, and which of them a backup does not enter.

use std::collections::HashMap;
use std::fs;

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

impl Mounts {
    /// Reads the mount table.
    pub fn read() -> Result<Self> {
        let table = fs::read("/proc/self/mountinfo").at(|| "cannot read the mount table")?;
        Ok(Self::parse(&String::from_utf8_lossy(&table)))
    }

    fn parse(table: &str) -> Self {
        let kind = |line: &str| {
            // id parent major:minor root mount-point options [optional...] - type source options
            let (head, tail) = line.split_once(" - ")?;
            let mut head = head.split(' ');
            let id = head.next()?.parse().ok()?;
            let point = head.nth(3)?;
            let fs = tail.split(' ').next()?;
            let beneath = |dir: &&str| point == *dir || point.strip_prefix(*dir).is_some_and(|p| p.starts_with('/'));
            let kind = if PSEUDO.contains(&fs) || (matches!(fs, "tmpfs" | "ramfs") && VOLATILE.iter().any(beneath)) {
                MountKind::Pseudo
            } else if NETWORK.contains(&fs) {
                MountKind::Network
            } else {
                MountKind::Real
            };
            Some((id, kind))
        };
        Self { kinds: table.lines().filter_map(kind).collect() }
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
        let mut mounts = Mounts::parse(
            "21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
             22 21 0:20 / /proc rw - proc proc rw\n\
             23 21 0:21 / /run rw shared:5 master:2 - tmpfs tmpfs rw\n\
             24 21 0:22 / /srv/scratch rw - tmpfs tmpfs rw\n\
             25 21 0:23 / /running rw - tmpfs tmpfs rw\n\
             26 21 0:24 / /mnt/nas rw - nfs4 nas:/ rw\n",
        );
        let kinds: Vec<_> = (21..=26).map(|id| mounts.kind(id)).collect();
        use MountKind::{Network, Pseudo, Real};
        assert_eq!(kinds, [Real, Pseudo, Pseudo, Real, Real, Network]);
    }
}
