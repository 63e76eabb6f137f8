//! Snapshots that last as long as a backup: what it reads is then of one moment.
//!
//! Only btrfs and thin volumes keep inode numbers and change times in a snapshot, by which a backup
//! finds out what changed; so only there they are taken. A disk image, which is one file, is cloned
//! wherever files can be, and what the original was like is told with it.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, mkdirat};
use uuid::Uuid;

use super::crew::below;
use super::engine::subvolume_of;
use super::ioctl::{self, SUBVOLUME_ROOT};
use super::store::part_name;
use super::thin::{self, Reading};
use super::{Place, Store, clone, place};
use crate::model::{Error, IoContext, Result};
use crate::restore::dir::open_dir;
use crate::source::Stat;
use crate::source::mounts::{self, Mount};
use crate::source::stat::Type;

/// A path as such a snapshot holds it.
#[derive(Debug)]
pub struct View {
    /// The path.
    pub path: PathBuf,
    /// The directory, or the one that holds the file of the path's name.
    pub handle: OwnedFd,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// The device of the original.
    pub device: (u32, u32),
    /// What the original was like, where this is a clone of it.
    pub original: Option<Stat>,
}

/// How a path is fixed.
#[derive(Debug)]
enum Way {
    /// By a snapshot of the subvolume; the path from there.
    Snapshot(OwnedFd, Vec<u8>),
    /// By a clone of the file of that name in the directory.
    Clone(OwnedFd, Vec<u8>),
    /// By a snapshot of the volume of that number; the path in its file system, or none where it is the
    /// volume itself.
    Volume(usize, Option<Vec<u8>>),
}

/// A volume of which a snapshot is taken.
#[derive(Debug)]
struct Volume {
    device: (u32, u32),
    reading: Reading,
    /// The type of the file system on it.
    fs: String,
    /// Whether it is taken.
    fixed: bool,
    /// Its root, once it is mounted.
    root: Option<OwnedFd>,
}

/// A path of which a snapshot can be taken at once.
#[derive(Debug)]
struct Ready {
    path: PathBuf,
    way: Way,
    /// The directory for it, and its name there; volumes have none.
    at: Option<(OwnedFd, String)>,
    is_dir: bool,
    device: (u32, u32),
}

/// Snapshots that go when this does.
#[derive(Debug)]
pub struct Transient {
    uuid: Uuid,
    stores: Vec<Store>,
    volumes: Vec<Volume>,
    ready: Vec<Ready>,
    /// Those on volumes that are fixed.
    fixed: Vec<Ready>,
    /// The paths that are in them.
    pub views: Vec<View>,
    /// Why the others are not.
    pub without: Vec<Error>,
}

impl Transient {
    /// Prepares them of all paths that allow it: all that takes its time. With `images`, a path that is
    /// a file is a disk image. What a daemon that was
    /// killed left of the same is removed first.
    pub fn prepare(uuid: Uuid, paths: &[PathBuf], images: bool) -> Result<Self> {
        let mounts = mounts::all()?;
        for store in Store::all(&mounts) {
            store.remove(uuid)?;
        }
        thin::remove(uuid)?;
        let (stores, volumes, ready, fixed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut transient = Self { uuid, stores, volumes, ready, fixed, views: Vec::new(), without: Vec::new() };
        for (index, path) in paths.iter().enumerate() {
            match transient.look(path, &mounts, index, images) {
                Ok(ready) => transient.ready.push(ready),
                Err(e) => transient.without.push(e),
            }
        }
        Ok(transient)
    }

    /// Whether there are any to be taken.
    pub fn is_useful(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Takes them, one right after the other.
    pub fn fix(&mut self) {
        for ready in std::mem::take(&mut self.ready) {
            let number = if let Way::Volume(number, _) = &ready.way { Some(*number) } else { None };
            let done = match number.and_then(|n| self.volumes.get_mut(n)) {
                Some(volume) => volume.fix().map(|()| self.fixed.push(ready)),
                None => ready.fix().map(|view| self.views.push(view)),
            };
            self.without.extend(done.err());
        }
    }

    /// Does what takes its time and need not hold anybody back: the volumes that were fixed are opened.
    pub fn open(&mut self) {
        for ready in std::mem::take(&mut self.fixed) {
            match ready.open(&mut self.volumes) {
                Ok(view) => self.views.push(view),
                Err(e) => self.without.push(e),
            }
        }
    }

    /// Prepares a snapshot of the volume that a path is, or that it lies on.
    fn look_at_volume(&mut self, mut place: Place, mounts: &[Mount], images: bool) -> Result<Ready> {
        let device = place::volume(&place.path, &place.found);
        if device.is_some() && !images {
            return Err(Error::invalid_state(format!(
                "{} is a device, which only a resource of the kind volume holds the content of",
                place.path.display()
            )));
        }
        place.refuse_mounts(mounts)?;
        let inner = device.is_none().then(|| {
            let within = place.path.strip_prefix(&place.mount.point).unwrap_or(&place.path);
            let path = place.mount.root.join(within);
            let path = path.as_os_str().as_bytes();
            path.strip_prefix(b"/").unwrap_or(path).to_vec()
        });
        let origin = place.thin.as_mut().ok_or_else(|| Error::failed("a path lies on no volume any more"))?;
        let known = self.volumes.iter().position(|volume| volume.device == origin.device);
        let number = known.unwrap_or(self.volumes.len());
        if known.is_none() {
            let (device, fs) = (origin.device, place.mount.fs.clone());
            let reading = Reading::prepare(origin, &place.path, self.uuid)?;
            self.volumes.push(Volume { device, reading, fs, fixed: false, root: None });
        }
        let (is_dir, device) = (place.found.is_dir(), place.found.stat.dev);
        Ok(Ready { path: place.path, way: Way::Volume(number, inner), at: None, is_dir, device })
    }

    fn look(&mut self, path: &Path, mounts: &[Mount], index: usize, images: bool) -> Result<Ready> {
        let shown = path.display();
        let what = || format!("cannot take a snapshot of {shown} to read from");
        let there = match Place::look(path, mounts)? {
            Some(place) if place.thin.is_some() => return self.look_at_volume(place, mounts, images),
            there => there,
        };
        let image = images && there.as_ref().is_some_and(|place| place.found.stat.kind == Type::File);
        let fs = there.map(|place| place.mount.fs);
        let other = fs.as_ref().is_some_and(|fs| fs != "btrfs");
        if let Some(fs) = fs.filter(|_| other && !image) {
            return Err(Error::invalid_state(format!(
                "{shown} ({fs}) allows no snapshots to read from, which keep inode numbers and change times; put it on \
                 btrfs or a thin volume of LVM, or set snapshot to auto"
            )));
        }
        let place = Place::check(path, mounts)?;
        if image && other {
            let (store, dir) = Store::begin(&place.mount, self.uuid)?;
            if !self.stores.iter().any(|s| s.uuid == store.uuid) {
                self.stores.push(store);
            }
            let (name, device) = (part_name(index), place.found.stat.dev);
            let way = Way::Clone(place.parent, path.file_name().map(OsStr::as_bytes).unwrap_or_default().to_vec());
            return Ok(Ready { path: path.to_owned(), way, at: Some((dir, name)), is_dir: false, device });
        }
        let (subvolume, inner) = if place.found.is_dir() && place.found.stat.ino == SUBVOLUME_ROOT {
            (place.open()?, Vec::new())
        } else {
            subvolume_of(&place)?.ok_or_else(|| {
                Error::invalid_state(format!("the subvolume around {shown} cannot be reached through its mount"))
            })?
        };
        if place.found.is_dir() {
            let nested = ioctl::nested(place.open()?).at(what)?;
            if let Some(first) = nested.iter().find(|path| !(place.is_mount() && super::store::is_own(path))) {
                return Err(Error::invalid_state(format!(
                    "{shown} has the subvolume {:?} in it, which a snapshot of it does not hold; name it as a path of a \
                     resource of its own, and exclude it here",
                    String::from_utf8_lossy(first)
                )));
            }
        }
        let (store, dir) = Store::begin(&place.mount, self.uuid)?;
        if !self.stores.iter().any(|s| s.uuid == store.uuid) {
            self.stores.push(store);
        }
        Ok(Ready {
            path: path.to_owned(),
            way: Way::Snapshot(subvolume, inner),
            at: Some((dir, part_name(index))),
            is_dir: place.found.is_dir(),
            device: place.found.stat.dev,
        })
    }

    /// Removes them; what cannot be removed is removed by the next start.
    pub fn remove(&mut self) -> Result<()> {
        self.ready.clear();
        self.fixed.clear();
        self.views.clear();
        let uuid = self.uuid;
        // Each closes what is mounted with it.
        let volumes = std::mem::take(&mut self.volumes).into_iter().any(|volume| volume.fixed);
        self.stores.drain(..).try_for_each(|store| store.remove(uuid))?;
        if volumes { thin::remove(uuid) } else { Ok(()) }
    }
}

impl Ready {
    fn fix(self) -> Result<View> {
        let what = || format!("cannot take a snapshot of {} to read from", self.path.display());
        let (dir, name) = self.at.as_ref().ok_or_else(|| Error::failed("a snapshot has no directory"))?;
        let (handle, original) = match &self.way {
            Way::Volume(..) => return Err(Error::failed("a volume is not taken as files are")),
            Way::Snapshot(subvolume, inner) => {
                ioctl::snapshot(subvolume, dir, name.as_bytes(), true).at(what)?;
                let root = open_dir(dir, name.as_bytes()).at(what)?;
                let to = if self.is_dir { inner.as_slice() } else { super::engine::split(inner).0 };
                (below(&root, to).at(what)?, None)
            }
            Way::Clone(from, file) => {
                mkdirat(dir, name.as_str(), Mode::RWXU).at(what)?;
                let dir = open_dir(dir, name.as_bytes()).at(what)?;
                // As it was before: what changes while it is cloned looks newer than this.
                let original = Stat::at(from, file).at(what)?;
                clone::single(from, file, &dir, file, &self.path)?;
                (dir, Some(original))
            }
        };
        Ok(View { path: self.path, handle, is_dir: self.is_dir, device: self.device, original })
    }

    /// The same for what is on a volume that was fixed.
    fn open(self, volumes: &mut [Volume]) -> Result<View> {
        let what = || format!("cannot read {} from a snapshot", self.path.display());
        let gone = || Error::failed("a snapshot of a volume is gone");
        let Way::Volume(number, inner) = &self.way else { return Err(gone()) };
        let volume = volumes.get_mut(*number).ok_or_else(gone)?;
        let handle = match inner {
            None => volume.reading.device(self.path.file_name().map(OsStr::as_bytes).unwrap_or_default())?,
            Some(inner) => {
                let root = match volume.root.take() {
                    Some(root) => root,
                    None => volume.reading.mount(&volume.fs)?,
                };
                let to = if self.is_dir { inner.as_slice() } else { super::engine::split(inner).0 };
                below(volume.root.insert(root), to).at(what)?
            }
        };
        Ok(View { path: self.path, handle, is_dir: self.is_dir, device: self.device, original: None })
    }
}

impl Volume {
    fn fix(&mut self) -> Result<()> {
        if !self.fixed {
            // Also where it fails there may be something to be removed.
            self.fixed = true;
            self.reading.fix()?;
        }
        Ok(())
    }
}

impl Drop for Transient {
    fn drop(&mut self) {
        if let Err(e) = self.remove() {
            tracing::warn!("a snapshot that a backup read from is left: {e}");
        }
    }
}
