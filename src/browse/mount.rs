//! The mount itself: made, tuned and ended without fuser, whose own ways have holes (it may
//! unmount what another has mounted meanwhile, and does not detach what is busy).

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::statfs;

use crate::model::{Error, IoContext, Result};

/// The mount's source and subtype, by which it is known again.
const NAME: &str = "strongroom";

/// How long a mount may take to show that it is alive.
const ALIVE: Duration = Duration::from_secs(3);

/// A mount on top of another on top of another: more than this is not swept.
const LAYERS: usize = 32;

/// What `/proc/self/mountinfo` says about a mount.
struct Mount {
    device: String,
    point: PathBuf,
    fstype: String,
    source: String,
}

/// Undoes mountinfo's escapes, `\040` for a blank and so on.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| first == b'\\') {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn parse(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let (mut left, mut right) = (left.split(' '), right.split(' '));
    Some(Mount {
        device: left.nth(2)?.to_owned(),
        point: unescape(left.nth(1)?),
        fstype: right.next()?.to_owned(),
        source: right.next()?.to_owned(),
    })
}

/// The topmost mount at `point`, if there is one.
fn top(point: &Path) -> Result<Option<Mount>> {
    let text = fs::read("/proc/self/mountinfo").at(|| "cannot read the list of mounts")?;
    let text = String::from_utf8_lossy(&text).into_owned();
    Ok(text.lines().rev().filter_map(parse).find(|mount| mount.point == point))
}

/// Whether something serves the mount at `point`. Asked from a thread of its own, since the
/// question may never be answered.
fn alive(point: &Path) -> bool {
    let (send, receive) = mpsc::channel();
    let point = point.to_path_buf();
    let asked = thread::Builder::new().name("probe".to_owned()).spawn(move || {
        let _ = send.send(statfs(&point).is_ok());
    });
    asked.is_ok() && receive.recv_timeout(ALIVE).unwrap_or(false)
}

/// Detaches mounts of ours that nobody serves any more.
fn sweep(point: &Path) -> Result<()> {
    for _ in 0..LAYERS {
        match top(point)? {
            Some(mount) if mount.source == NAME && mount.fstype.starts_with("fuse") => {
                if alive(point) {
                    return Err(Error::already_exists(format!(
                        "{} is served by another browse process; stop that or mount elsewhere",
                        point.display()
                    )));
                }
                tracing::info!("detaching a dead mount from {}", point.display());
                detach(point)?;
            }
            _ => return Ok(()),
        }
    }
    Err(Error::failed(format!("{} has too many mounts on it", point.display())))
}

/// Takes the mount away from its directory at once, even if it is in use.
pub fn detach(point: &Path) -> Result<()> {
    match umount2(point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(Errno::EINVAL) => Ok(()),
        Err(errno) => Err(Error::failed(format!("cannot unmount {}: {errno}", point.display()))),
    }
}

/// Makes `point` ready: swept, a directory (made 0755 if missing), empty. Gives its real path.
pub fn prepare(point: &Path) -> Result<PathBuf> {
    if !point.is_absolute() {
        return Err(Error::invalid(format!("the mount point {} is not absolute", point.display())));
    }
    let (Some(parent), Some(name)) = (point.parent(), point.file_name()) else {
        return Err(Error::invalid("the mount point cannot be /"));
    };
    DirBuilder::new().recursive(true).mode(0o755).create(parent).at(|| format!("cannot make {}", parent.display()))?;
    // The last part is not resolved: a dead mount answers nothing.
    let parent = fs::canonicalize(parent).at(|| format!("cannot find {}", parent.display()))?;
    let point = parent.join(name);
    sweep(&point)?;
    match DirBuilder::new().mode(0o755).create(&point) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            let meta = fs::symlink_metadata(&point).at(|| format!("cannot look at {}", point.display()))?;
            if !meta.is_dir() {
                return Err(Error::invalid(format!("the mount point {} is not a directory", point.display())));
            }
            if fs::read_dir(&point).at(|| format!("cannot look into {}", point.display()))?.next().is_some() {
                return Err(Error::invalid(format!(
                    "the mount point {} is not empty, and mounting would hide what is in it; give an empty or missing directory",
                    point.display()
                )));
            }
        }
        Err(e) => return Err(Error::io(format!("cannot make {}", point.display()), &e)),
    }
    Ok(point)
}

/// Mounts at `point`, which [`prepare`] gave, and gives the device to serve it by.
pub fn attach(point: &Path) -> Result<File> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .at(|| "cannot open /dev/fuse (is the kernel's fuse module there, and is this root?)")?;
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let data = format!(
        "fd={},rootmode=40755,user_id={uid},group_id={gid},default_permissions,allow_other",
        device.as_raw_fd()
    );
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let fstype = format!("fuse.{NAME}");
    mount(Some(NAME), point, Some(fstype.as_str()), flags, Some(data.as_str()))
        .at(|| format!("cannot mount at {}", point.display()))?;
    Ok(device)
}

/// Lets the kernel read 1 MiB at once from the mount at `point`. Slower reads are all that is
/// lost where it will not.
pub fn tune(point: &Path) {
    let Ok(Some(mount)) = top(point) else { return };
    let file = Path::new("/sys/class/bdi").join(&mount.device).join("read_ahead_kb");
    if let Err(e) = fs::write(&file, "1024") {
        tracing::info!("cannot set {}: {e}; reads will be smaller", file.display());
    }
}

/// Whether `path` is short enough to be a socket's name, or else by which path it can be reached
/// through the open directory that comes with it.
pub fn short(path: &Path) -> Result<(PathBuf, Option<File>)> {
    const LONGEST: usize = 100;
    if path.as_os_str().as_bytes().len() <= LONGEST {
        return Ok((path.to_path_buf(), None));
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::invalid(format!("{} cannot be a socket", path.display())));
    };
    let dir = File::open(parent).at(|| format!("cannot open {}", parent.display()))?;
    Ok((Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name), Some(dir)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines_read_with_escapes() {
        let line = r"36 35 0:52 / /run/a\040b\134 rw,noatime shared:1 - fuse.strongroom strongroom rw,user_id=0";
        let mount = parse(line).unwrap();
        assert_eq!(mount.device, "0:52");
        assert_eq!(mount.point, Path::new("/run/a b\\"));
        assert_eq!((mount.fstype.as_str(), mount.source.as_str()), ("fuse.strongroom", "strongroom"));
        assert!(parse("nonsense").is_none());
    }
}
