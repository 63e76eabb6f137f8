//! Trees that somebody else makes, which are to take the places of plain directories in one step: how
//! a restore of a backup is atomic.
//!
//! That is possible only where what is exchanged is all there is: nothing mounted beneath, no
//! subvolume, and nobody at work in it who would go on in what was replaced.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, RenameFlags, mkdirat, renameat_with};
use rustix::io::Errno;

use super::super::crew::below;
use super::super::ioctl;
use super::super::{Kind, Place, place, remove};
use super::Swap;
use super::change::{Change, Stage, set_mtime};
use crate::model::{Error, IoContext, Progress, Result};
use crate::restore::dir::open_dir;
use crate::restore::{live, meta};
use crate::source::Stat;
use crate::source::mounts::{self, Mount, MountKind};

/// In a stage: where the tree is made, beneath its whole path.
const TREE: &str = "tree";

fn refused(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::invalid_state(format!("{} cannot be restored in one step: {why}", path.display()))
}

/// Says beforehand why directories could not be exchanged. Changes nothing.
pub fn check(paths: &[PathBuf]) -> Result<()> {
    let mounts = mounts::all()?;
    paths.iter().try_for_each(|path| target(path, &mounts).map(drop))
}

/// The directory that holds a path.
fn target(path: &Path, mounts: &[Mount]) -> Result<OwnedFd> {
    let Some(place) = Place::look(path, mounts)? else {
        let above = path.parent().unwrap_or(Path::new("/"));
        return place::directory(above)?
            .ok_or_else(|| refused(path, format!("{} is gone; make it again first", above.display())));
    };
    if place.is_mount() {
        return Err(refused(path, "it is the root of a mount, which cannot be exchanged; leave atomic out"));
    }
    if !place.found.is_dir() {
        return Err(refused(
            path,
            "it is no directory; leave atomic out, a single file is replaced in one step anyhow",
        ));
    }
    if let Some(beneath) = mounts.iter().find(|m| m.point.starts_with(path)) {
        let (point, fs) = (beneath.point.display(), &beneath.fs);
        return Err(refused(path, format!("{point} ({fs}) is mounted in it; unmount that, or leave atomic out")));
    }
    if place.mount.kind != MountKind::Real {
        return Err(refused(
            path,
            format!("its file system ({}) exchanges no directories; leave atomic out", place.mount.fs),
        ));
    }
    if place.kind == Kind::Btrfs {
        return Err(refused(path, "it is a subvolume and would become a directory; leave atomic out"));
    }
    if place.mount.fs == "btrfs" {
        let what = || format!("cannot look for subvolumes in {}", path.display());
        if let Some(first) = ioctl::nested(place.open()?).at(what)?.first() {
            let first = String::from_utf8_lossy(first);
            return Err(refused(path, format!("the subvolume {first:?} is in it and would be lost; leave atomic out")));
        }
    }
    Ok(place.parent)
}

/// Has trees be made beside the directories that they are to replace: `make` restores the paths that
/// it is given beneath the directory that it is given. Cancelled or failed, this leaves nothing.
pub fn stage(
    file: &Path,
    paths: &[PathBuf],
    progress: &Progress,
    make: &mut dyn FnMut(&Path, &[PathBuf]) -> Result<()>,
) -> Result<Swap> {
    Swap::begin(file, |swap| prepare(swap, paths, progress, make))
}

fn prepare(
    swap: &mut Swap,
    paths: &[PathBuf],
    progress: &Progress,
    make: &mut dyn FnMut(&Path, &[PathBuf]) -> Result<()>,
) -> Result<()> {
    let mounts = mounts::all()?;
    let mut dirs = Vec::new();
    for path in paths {
        let dir = path.parent().unwrap_or(Path::new("/")).to_owned();
        dirs.push(target(path, &mounts)?);
        swap.journal.changes.push(Change::new(path.clone(), dir, true));
    }
    // Before the first stage is made, so that all of them are found.
    swap.save()?;
    // Those on one mount are made together: hard links may lead from one to another.
    let mut groups: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (number, (dir, path)) in dirs.into_iter().zip(paths).enumerate() {
        let mount = Stat::of(&dir).at(|| format!("cannot look at {}", path.display()))?.mount;
        let stage = swap.make_stage(dir, path)?;
        exchanges(&stage, path)?;
        swap.stages.push(Some(stage));
        groups.entry(mount).or_default().push(number);
    }
    for numbers in groups.into_values() {
        let of = |swap: &Swap, number: usize| -> Result<(Change, OwnedFd, OwnedFd)> {
            let stage = swap.stages.get(number).and_then(Option::as_ref);
            let (change, stage) =
                swap.journal.changes.get(number).zip(stage).ok_or_else(|| Error::failed("no stage"))?;
            let copy = |fd: &OwnedFd| open_dir(fd, b".").at(|| "cannot open a stage again");
            Ok((change.clone(), copy(&stage.dir)?, copy(&stage.other)?))
        };
        let Some(first) = numbers.first() else { continue };
        let (change, dir, _) = of(swap, *first)?;
        let at = change.dir.join(swap.stage_name());
        let what = || format!("cannot make the tree in {}", at.display());
        let stage = open_dir(&dir, swap.stage_name().as_bytes()).at(what)?;
        mkdirat(&stage, TREE, Mode::RWXU).at(what)?;
        let group: Vec<PathBuf> = numbers.iter().filter_map(|n| paths.get(*n).cloned()).collect();
        make(&at.join(TREE), &group)?;
        progress.check()?;
        let tree = open_dir(&stage, TREE.as_bytes()).at(what)?;
        for number in numbers {
            let (mut change, dir, other) = of(swap, number)?;
            let stage = Stage { dir, other };
            let name = take(&tree, &stage, &change.path)?;
            change.settle(&stage, [name].into())?;
            if let Some(place) = swap.journal.changes.get_mut(number) {
                *place = change;
            }
        }
        drop(tree);
        remove::all(&stage, TREE.as_bytes()).at(what)?;
    }
    progress.check()?;
    swap.save()
}

/// Finds out, with two empty directories, whether the file system exchanges any.
fn exchanges(stage: &Stage, path: &Path) -> Result<()> {
    let what = || format!("cannot make a directory beside {}", path.display());
    let (one, two) = ("one", "two");
    for name in [one, two] {
        mkdirat(&stage.other, name, Mode::RWXU).at(what)?;
    }
    let exchanged = renameat_with(&stage.other, one, &stage.other, two, RenameFlags::EXCHANGE);
    for name in [one, two] {
        live::remove(&stage.other, name.as_bytes(), true).at(what)?;
    }
    match exchanged {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::XDEV) => {
            Err(refused(path, "its file system exchanges no directories; leave atomic out"))
        }
        exchanged => exchanged.at(what),
    }
}

/// Takes a directory out of the tree that was made, as what is to be exchanged.
fn take(tree: &OwnedFd, stage: &Stage, path: &Path) -> Result<Vec<u8>> {
    let what = || format!("cannot stage {}", path.display());
    let name = path.file_name().map(OsStr::as_bytes).unwrap_or_default();
    let above = path.parent().map(|p| p.as_os_str().as_bytes()).unwrap_or_default();
    let missing = || Error::not_found(format!("the backup does not hold the directory {}", path.display()));
    let from = match below(tree, above.strip_prefix(b"/").unwrap_or(above)) {
        Err(Errno::NOENT) => return Err(missing()),
        from => from.at(what)?,
    };
    let found = live::find(&from, name).at(what)?.filter(live::Found::is_dir).ok_or_else(missing)?;
    let dir = open_dir(&from, name).at(what)?;
    // Neither what forbids to move it nor what moving does to it is to be seen afterwards.
    let locks = live::unlock(&dir).at(what)?;
    renameat_with(&from, name, &stage.other, name, RenameFlags::NOREPLACE).at(what)?;
    set_mtime(&dir, (found.stat.mtime.sec, found.stat.mtime.nsec)).at(what)?;
    if !locks.is_empty() {
        meta::lock(dir.as_fd(), locks.bits()).at(what)?;
    }
    Ok(name.to_vec())
}
