//! A snapshot's volume to be read from: its file system mounted nowhere, or its device in a
//! directory of its own. Both are there as long as somebody has them open, so a daemon that dies
//! leaves nothing mounted.

use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::fs::{FileType, Mode, makedev, mknodat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};
use uuid::Uuid;

use super::lvm::{self, Volume};
use super::{OURS, Origin, PAUSE, SNAPSHOT, STORE, TRIES, find, name};
use crate::model::{Error, IoContext, Result};

/// A snapshot of a thin volume that is to be read from.
#[derive(Debug)]
pub struct Reading {
    of: Volume,
    snapshot: Uuid,
    store: Uuid,
}

impl Reading {
    /// Prepares one; takes nothing yet.
    pub fn prepare(origin: &mut Origin, shown: &std::path::Path, snapshot: Uuid) -> Result<Self> {
        Ok(Self { of: origin.ready(shown)?.clone(), snapshot, store: Uuid::new_v4() })
    }

    /// Takes it.
    pub fn fix(&self) -> Result<()> {
        let tags = [OURS.to_owned(), format!("{SNAPSHOT}={}", self.snapshot), format!("{STORE}={}", self.store)];
        lvm::run(&lvm::snapshot(&self.of, &name(self.store), &tags, false)).map(drop)
    }

    /// Makes its device be there.
    fn activate(&self) -> Result<Volume> {
        lvm::run(&lvm::activate(&self.of.group, &name(self.store), true))?;
        find(self.snapshot, self.store)?
            .filter(|volume| volume.device.is_some())
            .ok_or_else(|| Error::failed("a snapshot of LVM has no device, though it was activated"))
    }

    /// The root of the file system on it.
    pub fn mount(&self, fs: &str) -> Result<OwnedFd> {
        let volume = self.activate()?;
        let what = || format!("cannot mount the snapshot {}", volume.spec());
        let since = Instant::now();
        loop {
            match mount(fs, &volume.path) {
                // The device's name may still be on its way.
                Err(rustix::io::Errno::NOENT | rustix::io::Errno::BUSY) if since.elapsed() < PAUSE * TRIES => {
                    std::thread::sleep(PAUSE);
                }
                mounted => return mounted.at(what),
            }
        }
    }

    /// A directory that has its device under a name, and nothing else.
    pub fn device(&self, name: &[u8]) -> Result<OwnedFd> {
        let volume = self.activate()?;
        let device = volume.device.ok_or_else(|| Error::failed("the snapshot of a volume has no device"))?;
        directory_of(device, name).at(|| format!("cannot make the snapshot {} be seen", volume.spec()))
    }
}

/// Mounts a device's file system nowhere, so that nothing can be changed.
///
/// The kernel had the original hold still, so the snapshot is as good as unmounted; what is left to
/// be done is for the file system's own recovery, which writes into the snapshot alone. Leaving that
/// out (`noload`, `norecovery`) would show files that were deleted while they were open.
fn mount(fs: &str, device: &str) -> rustix::io::Result<OwnedFd> {
    let context = fsopen(fs, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", device)?;
    fsconfig_set_flag(&context, "ro")?;
    if fs == "xfs" {
        // The original has the same.
        fsconfig_set_flag(&context, "nouuid")?;
    }
    fsconfig_create(&context)?;
    let flags = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)
}

/// A directory in memory that has one block device in it.
fn directory_of(device: (u32, u32), name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let dir = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NOSUID)?;
    mknodat(&dir, name, FileType::BlockDevice, Mode::RUSR, makedev(device.0, device.1))?;
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_read_from_a_directory_that_is_nowhere() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: not root");
            return;
        }
        let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let dir = directory_of((7, 250), b"disk").unwrap();
        let found = crate::restore::live::find(&dir, b"disk").unwrap().unwrap();
        assert_eq!(found.stat.kind, crate::source::stat::Type::BlockDevice);
        assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count(), before.lines().count());
    }
}
