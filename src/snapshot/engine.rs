//! The engines: how one path is fixed at a moment, and how it comes back.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, mkdirat, openat, syncfs};
use uuid::Uuid;

use super::crew::{Tally, below, child};
use super::ioctl::{self, SUBVOLUME_ROOT};
use super::thin::Thin;
use super::{Kind, Place, clone, remove};
use crate::model::{Error, IoContext, Progress, Result};
use crate::restore::dir::open_dir;
use crate::restore::live;

/// A path that is fixed.
#[derive(Debug, Default)]
pub struct Fixed {
    /// Whether all of it is of one moment.
    pub atomic: bool,
    /// What it holds, where that is known already.
    pub tally: Option<Tally>,
    /// The path within the snapshot beside, from which it is still to be cloned.
    source: Option<Vec<u8>>,
}

impl Fixed {
    /// A path that is fixed as a whole, and holds so much.
    pub fn atomic(tally: Tally) -> Self {
        Self { atomic: true, tally: Some(tally), source: None }
    }
}

/// Where a path goes in a snapshot.
#[derive(Debug, Clone, Copy)]
pub struct Spot<'a> {
    /// The snapshot.
    pub snapshot: Uuid,
    /// The store.
    pub store: Uuid,
    /// The snapshot's directory there; volumes have none.
    dir: Option<&'a OwnedFd>,
    /// The path's name in it.
    pub name: &'a str,
}

impl<'a> Spot<'a> {
    /// A spot.
    pub fn new(snapshot: Uuid, store: Uuid, dir: Option<&'a OwnedFd>, name: &'a str) -> Self {
        Self { snapshot, store, dir, name }
    }

    fn dir(&self) -> Result<&'a OwnedFd> {
        self.dir.ok_or_else(|| Error::failed("a snapshot has no directory"))
    }
}

/// A way to take snapshots.
pub trait Engine: Sync {
    /// Fixes what is at a place. From then on it may change.
    fn fix(&self, place: &Place, spot: &Spot<'_>, progress: &Progress) -> Result<Fixed>;

    /// Does what is left to be done.
    fn finish(&self, place: &Place, spot: &Spot<'_>, fixed: &mut Fixed, progress: &Progress) -> Result<()>;

    /// Makes a tree of what was taken that may be changed, as `as_name` in the directory `to`.
    fn copy(&self, from: &Taken<'_>, to: &OwnedFd, as_name: &[u8], progress: &Progress) -> Result<()>;
}

/// A path in a snapshot.
#[derive(Debug, Clone, Copy)]
pub struct Taken<'a> {
    /// The snapshot's directory.
    pub dir: &'a OwnedFd,
    /// The path's name there.
    pub name: &'a str,
    /// The path it is of.
    pub path: &'a Path,
}

impl Kind {
    /// The engine of that kind.
    pub fn engine(self) -> &'static dyn Engine {
        match self {
            Self::Btrfs => &Btrfs,
            Self::Reflink => &Reflink,
            Self::Thin => &Thin,
        }
    }
}

/// Snapshots of subvolumes: at once, whatever their size.
struct Btrfs;

impl Engine for Btrfs {
    fn fix(&self, place: &Place, spot: &Spot<'_>, _progress: &Progress) -> Result<Fixed> {
        let what = || format!("cannot take a snapshot of {}", place.path.display());
        ioctl::snapshot(place.open()?, spot.dir()?, spot.name.as_bytes(), true).at(what)?;
        Ok(Fixed { atomic: true, ..Fixed::default() })
    }

    fn finish(&self, _: &Place, _: &Spot<'_>, _: &mut Fixed, _: &Progress) -> Result<()> {
        Ok(())
    }

    fn copy(&self, from: &Taken<'_>, to: &OwnedFd, as_name: &[u8], _progress: &Progress) -> Result<()> {
        let what = || format!("cannot make a copy of the snapshot of {}", from.path.display());
        let source = open_dir(from.dir, from.name.as_bytes()).at(what)?;
        ioctl::snapshot(source, to, as_name, false).at(what)
    }
}

/// Trees of files that share their blocks.
struct Reflink;

/// The snapshot of the subvolume around a directory, while the directory is cloned out of it.
fn source_name(name: &str) -> String {
    format!("{name}.source")
}

/// The subvolume that holds a place, and the path from there; `None` where its root cannot be
/// reached through this mount.
pub fn subvolume_of(place: &Place) -> Result<Option<(OwnedFd, Vec<u8>)>> {
    let what = || format!("cannot find the subvolume of {}", place.path.display());
    if place.is_mount() {
        return Ok(None);
    }
    let mut dir = openat(&place.parent, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let mut path = place.name().to_vec();
    let mut above = place.path.parent();
    loop {
        let here = dir.at(what)?;
        let Some(found) = live::find(&here, b".").at(what)? else { return Ok(None) };
        if found.stat.ino == SUBVOLUME_ROOT {
            return Ok(Some((here, path)));
        }
        let Some(name) = above.and_then(Path::file_name).filter(|_| !found.mount_root) else { return Ok(None) };
        path = [name.as_bytes(), b"/", path.as_slice()].concat();
        above = above.and_then(Path::parent);
        dir = open_dir(&here, b"..");
    }
}

/// Clones an entry of any type; with `own`, without what is Strongroom's own at its top.
fn clone_entry(
    (from, name): (&OwnedFd, &[u8]),
    (to, as_name): (&OwnedFd, &[u8]),
    shown: &Path,
    own: bool,
    progress: &Progress,
) -> Result<Tally> {
    let what = || format!("cannot clone {}", shown.display());
    let is_dir = live::find(from, name).at(what)?.is_some_and(|f| f.is_dir());
    if !is_dir {
        return clone::single(from, name, to, as_name, shown);
    }
    let source = below(from, name).at(what)?;
    mkdirat(to, as_name, Mode::RWXU).at(what)?;
    let target = open_dir(to, as_name).at(what)?;
    clone::tree(&source, &target, shown, &|name| own && super::store::is_own(name), progress)
}

impl Engine for Reflink {
    fn fix(&self, place: &Place, spot: &Spot<'_>, progress: &Progress) -> Result<Fixed> {
        let (to, name) = (spot.dir()?, spot.name);
        let btrfs = place.mount.fs == "btrfs";
        if let Some((subvolume, path)) = if btrfs { subvolume_of(place)? } else { None } {
            let what = || format!("cannot take a snapshot of the subvolume around {}", place.path.display());
            ioctl::snapshot(subvolume, to, source_name(name).as_bytes(), true).at(what)?;
            return Ok(Fixed { atomic: true, source: Some(path), ..Fixed::default() });
        }
        // One file is of one moment.
        let atomic = !place.found.is_dir();
        let from = if place.is_mount() { place.open()? } else { reopened(&place.parent)? };
        let tally = clone_entry((&from, place.name()), (to, name.as_bytes()), &place.path, place.is_mount(), progress)?;
        Ok(Fixed { atomic, tally: Some(tally), source: None })
    }

    fn finish(&self, place: &Place, spot: &Spot<'_>, fixed: &mut Fixed, progress: &Progress) -> Result<()> {
        let (to, name) = (spot.dir()?, spot.name);
        if let Some(path) = fixed.source.take() {
            let source = source_name(name);
            let what = || format!("cannot clone {} out of a snapshot", place.path.display());
            let (above, leaf) = split(&path);
            let from = below(to, &child(source.as_bytes(), above)).at(what)?;
            fixed.tally = Some(clone_entry((&from, leaf), (to, name.as_bytes()), &place.path, false, progress)?);
            drop(from);
            remove::all(to, source.as_bytes()).at(what)?;
        }
        syncfs(to).at(|| "cannot write the snapshot to disk")
    }

    fn copy(&self, from: &Taken<'_>, to: &OwnedFd, as_name: &[u8], progress: &Progress) -> Result<()> {
        clone_entry((from.dir, from.name.as_bytes()), (to, as_name), from.path, false, progress)?;
        syncfs(to).at(|| "cannot write the copy of the snapshot to disk")
    }
}

/// The directory of a path, and its name there.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// A handle of its own on the same directory.
fn reopened(dir: &OwnedFd) -> Result<OwnedFd> {
    open_dir(dir, b".").at(|| "cannot open a directory again")
}
