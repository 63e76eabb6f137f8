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

/// Snapshots that go when this does.
#[derive(Debug)]
pub struct Transient {
    uuid: Uuid,
    stores: Vec<Store>,
    /// The paths that are in them.
    pub views: Vec<View>,
    /// Why the others are not.
    pub without: Vec<Error>,
}

impl Transient {
    /// Takes them of all paths that allow it. What a daemon that was killed left of the same is
    /// removed first.
    pub fn take(uuid: Uuid, paths: &[PathBuf]) -> Result<Self> {
        let mounts = mounts::all()?;
        for store in Store::all(&mounts) {
            store.remove(uuid)?;
        }
        let mut transient = Self { uuid, stores: Vec::new(), views: Vec::new(), without: Vec::new() };
        for (index, path) in paths.iter().enumerate() {
            match transient.view(path, &mounts, index) {
                Ok(view) => transient.views.push(view),
                Err(e) => transient.without.push(e),
            }
        }
        Ok(transient)
    }

    fn view(&mut self, path: &Path, mounts: &[Mount], index: usize) -> Result<View> {
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
        let name = part_name(index);
        ioctl::snapshot(subvolume, &dir, name.as_bytes(), true).at(what)?;
        let root = open_dir(&dir, name.as_bytes()).at(what)?;
        let is_dir = place.found.is_dir();
        let to = if is_dir { inner.as_slice() } else { super::engine::split(&inner).0 };
        let handle = below(&root, to).at(what)?;
        let device = place.found.stat.dev;
        Ok(View { path: path.to_owned(), handle, is_dir, device })
    }

    /// Removes them; what cannot be removed is removed by the next start.
    pub fn remove(&mut self) -> Result<()> {
        self.views.clear();
        let uuid = self.uuid;
        self.stores.drain(..).try_for_each(|store| store.remove(uuid))
    }
}

impl Drop for Transient {
    fn drop(&mut self) {
        if let Err(e) = self.remove() {
            tracing::warn!("a snapshot that a backup read from is left: {e}");
        }
    }
}
