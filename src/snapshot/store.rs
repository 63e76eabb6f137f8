//! Where snapshots rest: the directory `.strongroom` at the root of the mount they are of.
//!
//! It is root's alone. On btrfs it is a subvolume, so that it is in no snapshot of what is around
//! it. Each snapshot is a directory named by its uuid; it counts as one when the file
//! `snapshot.json` is in it, which is written last and removed first.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, Timespec, Timestamps, fchmod, flock, fstat, fsync, futimens, mkdirat,
    openat, renameat, unlinkat,
};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Kind, Marker, Part, ioctl, place, remove};
use crate::model::{Error, IoContext, Result};
use crate::restore::dir::open_dir;
use crate::restore::live;
use crate::source::Stat;
use crate::source::mounts::{self, Mount, MountKind};

/// The directory's name.
pub const DIR: &str = ".strongroom";
const SELF: &str = "store.json";
const MARKER: &str = "snapshot.json";
const README: &str = "README";
const ABOUT: &str = "Snapshots that Strongroom took of what lies on this file system. List, restore and delete them\n\
                     with `strongroom snapshot`; each directory here is one of them, and its snapshot.json says of what.\n";
/// So long another daemon may take to make a store, or to remove one.
const LOCK_TRIES: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// No file of ours is longer.
const LONGEST: u64 = 1 << 20;

/// What tells one store from another, wherever it is mounted.
#[derive(Debug, Serialize, Deserialize)]
struct Identity {
    format: u32,
    uuid: Uuid,
}

/// The snapshots on one file system.
#[derive(Debug)]
pub struct Store {
    /// The mount's root.
    pub mount: PathBuf,
    /// The store's own id.
    pub uuid: Uuid,
    root: OwnedFd,
    dir: OwnedFd,
}

/// Held while a store is made or goes, so that none goes under somebody who begins in it.
static CHANGING: Mutex<()> = Mutex::new(());

fn changing() -> MutexGuard<'static, ()> {
    CHANGING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same against another daemon, as `--private` starts one: the root of the mount is locked as
/// long as this is kept. Somebody who keeps it locked for other reasons is not waited for long.
fn alone(root: OwnedFd) -> Option<OwnedFd> {
    for _ in 0..LOCK_TRIES {
        match flock(&root, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(root),
            Err(Errno::WOULDBLOCK | Errno::INTR) => std::thread::sleep(LOCK_PAUSE),
            Err(_) => return None,
        }
    }
    None
}

/// Whether a directory is root's alone, so that nobody else can have put anything into it.
pub fn is_private(dir: &OwnedFd) -> rustix::io::Result<bool> {
    let stat = fstat(dir)?;
    Ok(stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & 0o077 == 0)
}

/// Writes a file that is there whole or not at all, and stays.
pub fn write(dir: &OwnedFd, name: &str, content: &[u8]) -> Result<()> {
    let what = || format!("cannot write {name} of a snapshot");
    let beside = format!("{name}.new");
    match unlinkat(dir, beside.as_str(), AtFlags::empty()) {
        Err(Errno::NOENT) | Ok(()) => {}
        Err(e) => return Err(e).at(what),
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(dir, beside.as_str(), flags, Mode::RUSR | Mode::WUSR).at(what)?);
    file.write_all(content).and_then(|()| file.sync_all()).at(what)?;
    renameat(dir, beside.as_str(), dir, name).at(what)?;
    fsync(dir).at(what)
}

fn read<T: DeserializeOwned>(dir: &OwnedFd, name: &str) -> Result<Option<T>> {
    let file = match live::open_file(dir, name.as_bytes()) {
        Err(Errno::NOENT) => return Ok(None),
        opened => File::from(opened.at(|| format!("cannot open {name}"))?),
    };
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text).at(|| format!("cannot read {name}"))?;
    serde_json::from_slice(&text).map(Some).map_err(|e| Error::damaged(format!("{name} cannot be understood: {e}")))
}

impl Store {
    /// The root of a mount; `None` where something else is mounted over it, or it is no directory.
    fn root(mount: &Mount) -> Result<Option<OwnedFd>> {
        let Some(root) = place::directory(&mount.point)? else { return Ok(None) };
        let here = Stat::of(&root).at(|| format!("cannot look at {}", mount.point.display()))?;
        Ok((here.mount == mount.id).then_some(root))
    }

    /// The store at the root of a mount, if there is one; what others made under its name is none.
    pub fn at(mount: &Mount) -> Result<Option<Self>> {
        // Who serves a FUSE mount may keep us waiting.
        if mount.kind != MountKind::Real || mount.fs.starts_with("fuse") {
            return Ok(None);
        }
        // A mount on a file, or behind a symbolic link, has none.
        let Ok(Some(root)) = Self::root(mount) else { return Ok(None) };
        let Ok(dir) = open_dir(&root, DIR.as_bytes()) else { return Ok(None) };
        if !is_private(&dir).at(|| "cannot look at the snapshots")? {
            return Ok(None);
        }
        let identity = read::<Identity>(&dir, SELF)?;
        Ok(identity.map(|i| Self { mount: mount.point.clone(), uuid: i.uuid, root, dir }))
    }

    /// The store at the root of a mount, made if there is none, and the directory of a snapshot in it.
    pub fn begin(mount: &Mount, snapshot: Uuid) -> Result<(Self, OwnedFd)> {
        let _alone = changing();
        let _locked = Self::root(mount)?.and_then(alone);
        let store = Self::make(mount)?;
        let name = snapshot.to_string();
        let what = || format!("cannot make {}", store.path().join(&name).display());
        match mkdirat(&store.dir, name.as_str(), Mode::RWXU) {
            Err(Errno::EXIST) => {}
            made => made.at(what)?,
        }
        let dir = open_dir(&store.dir, name.as_bytes()).at(what)?;
        Ok((store, dir))
    }

    fn make(mount: &Mount) -> Result<Self> {
        let shown = mount.point.join(DIR);
        let what = || format!("cannot make {}, where the snapshots would be", shown.display());
        let root = Self::root(mount)?.ok_or_else(|| {
            Error::invalid_state(format!("something else is mounted over {}; unmount it", mount.point.display()))
        })?;
        if live::find(&root, DIR.as_bytes()).at(what)?.is_none() {
            let before = fstat(&root).at(what)?;
            let made = match mount.fs.as_str() {
                "btrfs" => ioctl::create(&root, DIR.as_bytes()),
                _ => mkdirat(&root, DIR, Mode::RWXU),
            };
            made.at(what)?;
            keep_time(&root, &before).at(what)?;
            fsync(&root).at(what)?;
        }
        let foreign = || {
            Error::invalid_state(format!(
                "{} is there and is no directory of Strongroom's own; move it away, the snapshots would be there",
                shown.display()
            ))
        };
        let dir = open_dir(&root, DIR.as_bytes()).map_err(|_| foreign())?;
        if let Some(identity) = read::<Identity>(&dir, SELF)? {
            return if is_private(&dir).at(what)? {
                Ok(Self { mount: mount.point.clone(), uuid: identity.uuid, root, dir })
            } else {
                Err(foreign())
            };
        }
        // Just made, by us or by a daemon that was killed: nothing is in it yet.
        let ours = fstat(&dir).at(what)?.st_uid == rustix::process::geteuid().as_raw();
        if !ours || !live::names(&dir).at(what)?.iter().all(|name| is_inventory(name)) {
            return Err(foreign());
        }
        fchmod(&dir, Mode::RWXU).at(what)?;
        write(&dir, README, ABOUT.as_bytes())?;
        let identity = Identity { format: 1, uuid: Uuid::new_v4() };
        write(&dir, SELF, &encoded(&identity)?)?;
        Ok(Self { mount: mount.point.clone(), uuid: identity.uuid, root, dir })
    }

    /// All stores there are. One that cannot be read is told in the log.
    pub fn all(mounts: &[Mount]) -> Vec<Self> {
        let mut found: Vec<Self> = Vec::new();
        for mount in mounts {
            match Self::at(mount) {
                // A file system may be mounted at several places.
                Ok(Some(store)) if found.iter().all(|s| s.uuid != store.uuid) => found.push(store),
                Ok(_) => {}
                Err(e) => tracing::warn!("the snapshots at {} cannot be read: {e}", mount.point.display()),
            }
        }
        found
    }

    /// The store's own path.
    pub fn path(&self) -> PathBuf {
        self.mount.join(DIR)
    }

    /// The directory of a snapshot, if it is there.
    pub fn open(&self, snapshot: Uuid) -> Result<Option<OwnedFd>> {
        match open_dir(&self.dir, snapshot.to_string().as_bytes()) {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e).at(|| format!("cannot open {}", self.path().join(snapshot.to_string()).display())),
        }
    }

    /// Makes a snapshot one: from here on it is there, whatever becomes of the catalog.
    pub fn publish(&self, dir: &OwnedFd, marker: &Marker) -> Result<()> {
        write(dir, MARKER, &encoded(marker)?)?;
        fsync(&self.dir).at(|| "cannot write the snapshot's name to disk")
    }

    /// What a snapshot says of itself; `None` where it is not one yet, or no more.
    pub fn marker(&self, snapshot: Uuid) -> Result<Option<Marker>> {
        let Some(dir) = self.open(snapshot)? else { return Ok(None) };
        Ok(read::<Marker>(&dir, MARKER)?.filter(|marker| marker.uuid == snapshot))
    }

    /// All snapshots here. One that cannot be understood is told in the log, and left alone.
    pub fn markers(&self) -> Result<Vec<Marker>> {
        let names = live::names(&self.dir).at(|| format!("cannot list {}", self.path().display()))?;
        let mut found = Vec::new();
        for name in names {
            let name = OsString::from_vec(name);
            let Some(uuid) = name.to_str().and_then(|name| Uuid::parse_str(name).ok()) else { continue };
            match self.marker(uuid) {
                Ok(Some(marker)) => found.push(marker),
                Ok(None) => {}
                Err(e) => tracing::warn!("the snapshot {} is left alone: {e}", self.path().join(&name).display()),
            }
        }
        Ok(found)
    }

    /// Removes all that is here of a snapshot, whole or not; its marker first, so that what is left
    /// of it after a crash is not taken for one.
    pub fn remove(&self, snapshot: Uuid) -> Result<()> {
        let name = snapshot.to_string();
        let what = || format!("cannot remove {}", self.path().join(&name).display());
        let Some(dir) = self.open(snapshot)? else { return Ok(()) };
        match unlinkat(&dir, MARKER, AtFlags::empty()) {
            Err(Errno::NOENT) | Ok(()) => {}
            Err(e) => return Err(e).at(what),
        }
        fsync(&dir).at(what)?;
        remove::all(&self.dir, name.as_bytes()).at(what)?;
        fsync(&self.dir).at(what)?;
        self.tidy().at(what)
    }

    /// Removes the store itself once nothing is in it.
    fn tidy(&self) -> rustix::io::Result<()> {
        let _alone = changing();
        let _locked = alone(open_dir(&self.root, b".")?);
        remove_empty(&self.root, &self.dir)
    }
}

/// Removes what a daemon that was killed left of stores that have nothing in them.
pub fn sweep() -> Result<()> {
    let _alone = changing();
    for mount in mounts::all()?.iter().filter(|m| m.kind == MountKind::Real && !m.fs.starts_with("fuse")) {
        let Ok(Some(root)) = Store::root(mount) else { continue };
        let Ok(dir) = open_dir(&root, DIR.as_bytes()) else { continue };
        // Whoever has it locked is at work in it.
        let Some(_locked) = open_dir(&root, b".").ok().and_then(alone) else { continue };
        let swept = fstat(&dir).and_then(|stat| {
            let ours = stat.st_uid == rustix::process::geteuid().as_raw();
            if ours { remove_empty(&root, &dir) } else { Ok(()) }
        });
        if let Err(e) = swept {
            tracing::warn!("{} is empty and cannot be removed: {e}", mount.point.join(DIR).display());
        }
    }
    Ok(())
}

fn remove_empty(root: &OwnedFd, dir: &OwnedFd) -> rustix::io::Result<()> {
    if !live::names(dir)?.iter().all(|name| is_inventory(name)) {
        return Ok(());
    }
    let before = fstat(root)?;
    remove::all(root, DIR.as_bytes())?;
    keep_time(root, &before)
}

/// Whether a name in a store is none of a snapshot.
fn is_inventory(name: &[u8]) -> bool {
    name.starts_with(README.as_bytes()) || name.starts_with(SELF.as_bytes())
}

/// What we put at the root of a mount, or take away there, is no change of what others have there.
fn keep_time(root: &OwnedFd, before: &rustix::fs::Stat) -> rustix::io::Result<()> {
    let time = |sec, nsec: u64| Timespec { tv_sec: sec, tv_nsec: i64::try_from(nsec).unwrap_or(0) };
    let times = Timestamps {
        last_access: time(before.st_atime, before.st_atime_nsec),
        last_modification: time(before.st_mtime, before.st_mtime_nsec),
    };
    futimens(root, &times)
}

fn encoded(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(|e| Error::failed(format!("cannot encode what a snapshot is: {e}")))
}

/// The file or directory of one path in a snapshot's directory.
pub fn part_name(index: usize) -> String {
    index.to_string()
}

/// Whether a name at the top of a mount is Strongroom's own.
pub fn is_own(name: &[u8]) -> bool {
    name == DIR.as_bytes() || name.starts_with(super::swap::STAGE.as_bytes())
}

/// Where a snapshot's part can be looked at by root; a volume nowhere until it is activated.
pub fn part_path(part: &Part, snapshot: Uuid, index: usize) -> Option<PathBuf> {
    (part.engine != Kind::Thin).then(|| part.mount.join(DIR).join(snapshot.to_string()).join(part_name(index)))
}
