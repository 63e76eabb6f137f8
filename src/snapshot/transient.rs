//! Snapshots that last as long as a backup: what it reads is then of one moment.
//!
//! Only btrfs keeps inode numbers and change times in a snapshot, by which a backup finds out what
//! changed; so only there they are taken.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::crew::below;
use super::engine::subvolume_of;
use super::ioctl::{self, SUBVOLUME_ROOT};
use super::store::part_name;
use super::{Place, Store};
use crate::model::{Error, IoContext, Result};
use crate::restore::dir::open_dir;
use crate::source::mounts::{self, Mount};

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
}

/// A path of which a snapshot can be taken at once.
#[derive(Debug)]
struct Ready {
    path: PathBuf,
    subvolume: OwnedFd,
    /// The path from there.
    inner: Vec<u8>,
    /// The directory for it, and its name there.
    dir: OwnedFd,
    name: String,
    is_dir: bool,
    device: (u32, u32),
}

/// Snapshots that go when this does.
#[derive(Debug)]
pub struct Transient {
    uuid: Uuid,
    stores: Vec<Store>,
    ready: Vec<Ready>,
    /// The paths that are in them.
    pub views: Vec<View>,
    /// Why the others are not.
    pub without: Vec<Error>,
}

impl Transient {
    /// Prepares them of all paths that allow it: all that takes its time. What a daemon that was
    /// killed left of the same is removed first.
    pub fn prepare(uuid: Uuid, paths: &[PathBuf]) -> Result<Self> {
        let mounts = mounts::all()?;
        for store in Store::all(&mounts) {
            store.remove(uuid)?;
        }
        let mut transient =
            Self { uuid, stores: Vec::new(), ready: Vec::new(), views: Vec::new(), without: Vec::new() };
        for (index, path) in paths.iter().enumerate() {
            match transient.look(path, &mounts, index) {
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
            match ready.fix() {
                Ok(view) => self.views.push(view),
                Err(e) => self.without.push(e),
            }
        }
    }

    fn look(&mut self, path: &Path, mounts: &[Mount], index: usize) -> Result<Ready> {
        let shown = path.display();
        let what = || format!("cannot take a snapshot of {shown} to read from");
        let fs = Place::look(path, mounts)?.map(|place| place.mount.fs);
        if let Some(fs) = fs.filter(|fs| fs != "btrfs") {
            return Err(Error::invalid_state(format!(
                "{shown} ({fs}) allows no snapshots to read from, which keep inode numbers and change times; put it on \
                 btrfs, or set snapshot to auto"
            )));
        }
        let place = Place::check(path, mounts)?;
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
            subvolume,
            inner,
            dir,
            name: part_name(index),
            is_dir: place.found.is_dir(),
            device: place.found.stat.dev,
        })
    }

    /// Removes them; what cannot be removed is removed by the next start.
    pub fn remove(&mut self) -> Result<()> {
        self.ready.clear();
        self.views.clear();
        let uuid = self.uuid;
        self.stores.drain(..).try_for_each(|store| store.remove(uuid))
    }
}

impl Ready {
    fn fix(self) -> Result<View> {
        let what = || format!("cannot take a snapshot of {} to read from", self.path.display());
        ioctl::snapshot(&self.subvolume, &self.dir, self.name.as_bytes(), true).at(what)?;
        let root = open_dir(&self.dir, self.name.as_bytes()).at(what)?;
        let to = if self.is_dir { self.inner.as_slice() } else { super::engine::split(&self.inner).0 };
        let handle = below(&root, to).at(what)?;
        Ok(View { path: self.path, handle, is_dir: self.is_dir, device: self.device })
    }
}

impl Drop for Transient {
    fn drop(&mut self) {
        if let Err(e) = self.remove() {
            tracing::warn!("a snapshot that a backup read from is left: {e}");
        }
    }
}
