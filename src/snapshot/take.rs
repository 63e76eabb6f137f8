//! The steps by which a snapshot comes to be.
//!
//! Begin: its directories are made. Fix: every path is fixed as it is; who writes may be held back
//! meanwhile, and go on afterwards. Finish: what takes its time and need not hold anybody back.
//! Publish: the markers, from which on it is there.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::crew::{self, Tally};
use super::engine::{Fixed, Spot};
use super::store::part_name;
use super::{Kind, Marker, Part, Place, Store, ioctl, thin};
use crate::model::{Error, IoContext, Progress, Result};
use crate::restore::dir::open_dir;
use crate::source::mounts::{self, Mount};

/// The paths that are within no other one of them, each looked at: all of them must allow
/// snapshots.
pub fn plan(paths: &[PathBuf]) -> Result<Vec<Place>> {
    let mounts = mounts::all()?;
    let mut sorted = paths.to_vec();
    sorted.sort();
    sorted.dedup();
    let within = |path: &Path| sorted.iter().any(|other| other != path && path.starts_with(other));
    sorted.iter().filter(|path| !within(path)).map(|path| Place::check(path, &mounts)).collect()
}

/// The engines that would take a snapshot of paths, by name; why not, where none can.
pub fn engines(paths: &[PathBuf]) -> Result<String> {
    Ok(names(&plan(paths)?))
}

/// The same for a snapshot that is to be taken now: volumes are asked for whether they allow that.
pub fn ready(paths: &[PathBuf]) -> Result<String> {
    let mut places = plan(paths)?;
    make_ready(&mut places)?;
    Ok(names(&places))
}

fn make_ready(places: &mut [Place]) -> Result<()> {
    for place in places.iter_mut().filter(|place| place.kind == Kind::Thin) {
        if let Some(origin) = &mut place.thin {
            origin.ready(&place.path)?;
        }
    }
    Ok(())
}

fn names(places: &[Place]) -> String {
    let mut kinds: Vec<Kind> = places.iter().map(|place| place.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ")
}

/// A snapshot in the making.
#[derive(Debug)]
pub struct Taking {
    marker: Marker,
    /// The stores, and the snapshot's directory in each.
    stores: Vec<(Store, OwnedFd)>,
    /// Each path, the number of its store where that is one of them, and how far it is.
    places: Vec<(Place, Option<usize>, Fixed)>,
}

impl Taking {
    /// Makes the snapshot's directories. `marker` says all but its parts.
    pub fn begin(mut marker: Marker, paths: &[PathBuf]) -> Result<Self> {
        let mut stores: Vec<(Store, OwnedFd)> = Vec::new();
        let mut places = Vec::new();
        let mut planned = plan(paths)?;
        make_ready(&mut planned)?;
        for place in planned {
            if place.kind == Kind::Thin {
                // Each is a volume of its own.
                let mount = if place.is_mount() { place.mount.point.clone() } else { place.path.clone() };
                let (path, store) = (place.path.clone(), Uuid::new_v4());
                marker.parts.push(Part { path, engine: place.kind, atomic: false, mount, store });
                places.push((place, None, Fixed::default()));
                continue;
            }
            let (store, dir) = Store::begin(&place.mount, marker.uuid)?;
            let number = stores.iter().position(|(s, _)| s.uuid == store.uuid).unwrap_or(stores.len());
            if number == stores.len() {
                stores.push((store, dir));
            }
            let store = stores.get(number).map(|(s, _)| s.uuid).unwrap_or_default();
            let (path, mount) = (place.path.clone(), place.mount.point.clone());
            marker.parts.push(Part { path, engine: place.kind, atomic: false, mount, store });
            places.push((place, Some(number), Fixed::default()));
        }
        Ok(Self { marker, stores, places })
    }

    /// Fixes every path.
    pub fn fix(&mut self, progress: &Progress) -> Result<()> {
        let snapshot = self.marker.uuid;
        for (index, (place, number, fixed)) in self.places.iter_mut().enumerate() {
            let Some(part) = self.marker.parts.get_mut(index) else { continue };
            let (dir, name) = (number.and_then(|n| self.stores.get(n)).map(|(_, dir)| dir), part_name(index));
            *fixed = place.kind.engine().fix(place, &Spot::new(snapshot, part.store, dir, &name), progress)?;
            part.atomic = fixed.atomic;
        }
        Ok(())
    }

    /// Does what may take its time.
    pub fn finish(&mut self, progress: &Progress) -> Result<()> {
        let snapshot = self.marker.uuid;
        for (index, (place, number, fixed)) in self.places.iter_mut().enumerate() {
            let Some(part) = self.marker.parts.get(index) else { continue };
            let (dir, name) = (number.and_then(|n| self.stores.get(n)).map(|(_, dir)| dir), part_name(index));
            place.kind.engine().finish(place, &Spot::new(snapshot, part.store, dir, &name), fixed, progress)?;
        }
        Ok(())
    }

    /// The subvolumes within the paths, which are not in the snapshot.
    pub fn left_out(&self) -> Result<Vec<PathBuf>> {
        use std::os::unix::ffi::OsStrExt;
        let mut found = Vec::new();
        for (place, ..) in self.places.iter().filter(|(place, ..)| place.kind == Kind::Btrfs) {
            let what = || format!("cannot look for subvolumes in {}", place.path.display());
            let nested = ioctl::nested(place.open()?).at(what)?;
            let nested = nested.into_iter().filter(|path| !(place.is_mount() && super::store::is_own(path)));
            found.extend(nested.map(|path| place.path.join(std::ffi::OsStr::from_bytes(&path))));
        }
        Ok(found)
    }

    /// Publishes it, and says what it is.
    pub fn publish(self) -> Result<(Marker, Option<Tally>)> {
        for (store, dir) in &self.stores {
            store.publish(dir, &self.marker)?;
        }
        for part in self.marker.parts.iter().filter(|part| part.engine == Kind::Thin) {
            thin::publish(self.marker.uuid, part.store, &self.marker)?;
        }
        let mut whole = Some(Tally::default());
        for (.., fixed) in &self.places {
            whole = whole.zip(fixed.tally).map(|(mut sum, more)| {
                sum += more;
                sum
            });
        }
        Ok((self.marker, whole))
    }
}

/// Counts what is in a snapshot.
pub fn measure(snapshot: Uuid, parts: &[Part], progress: &Progress) -> Result<Tally> {
    let mut whole = Tally::default();
    let mounts = mounts::all()?;
    for (index, part) in parts.iter().enumerate().filter(|(_, part)| part.engine != Kind::Thin) {
        let dir = open_part(&mounts, snapshot, part)?;
        let name = part_name(index);
        let what = || format!("cannot look at the snapshot of {}", part.path.display());
        let found = crate::restore::live::find(&dir, name.as_bytes()).at(what)?;
        match found {
            Some(found) if found.is_dir() => {
                whole += crew::measure(&open_dir(&dir, name.as_bytes()).at(what)?, progress)?;
            }
            Some(found) => whole += Tally { entries: 1, bytes: found.stat.blocks * 512 },
            None => return Err(gone(part)),
        }
    }
    Ok(whole)
}

/// The error of a part that is not there any more.
pub(super) fn gone(part: &Part) -> Error {
    Error::damaged(format!(
        "the snapshot of {} is not there any more: somebody removed it; delete the snapshot",
        part.path.display()
    ))
}

/// The directory of a snapshot in the store of one of its parts.
pub(super) fn open_part(mounts: &[Mount], snapshot: Uuid, part: &Part) -> Result<OwnedFd> {
    store_of(mounts, part)?.open(snapshot)?.ok_or_else(|| gone(part))
}

/// The store of a part, wherever it is mounted now.
fn store_of(mounts: &[Mount], part: &Part) -> Result<Store> {
    Store::all(mounts).into_iter().find(|store| store.uuid == part.store).ok_or_else(|| {
        Error::invalid_state(format!(
            "the file system with the snapshot of {} is not mounted; mount it at {}",
            part.path.display(),
            part.mount.display()
        ))
    })
}

/// Removes a snapshot from the stores of its parts; of one that was not published, from all that
/// are there.
pub fn delete(snapshot: Uuid, parts: &[Part]) -> Result<()> {
    let mounts = mounts::all()?;
    // All of them are there, or nothing is removed. A volume that is not there at all has gone; should
    // it come back with its group, it is found again.
    let stores: Vec<Store> = if parts.is_empty() {
        Store::all(&mounts)
    } else {
        let on_files = parts.iter().filter(|part| part.engine != Kind::Thin);
        on_files.map(|part| store_of(&mounts, part)).collect::<Result<_>>()?
    };
    stores.iter().try_for_each(|store| store.remove(snapshot))?;
    if parts.is_empty() || parts.iter().any(|part| part.engine == Kind::Thin) {
        thin::remove(snapshot)?;
    }
    Ok(())
}

/// What all snapshots that are there say of themselves, with the store that holds them.
pub fn markers() -> Result<Vec<(Uuid, Marker)>> {
    let mut found = Vec::new();
    for store in Store::all(&mounts::all()?) {
        found.extend(store.markers()?.into_iter().map(|marker| (store.uuid, marker)));
    }
    found.extend(thin::markers()?);
    Ok(found)
}
