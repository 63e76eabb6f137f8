//! The steps by which a snapshot is put in place of what is there.
//!
//! Stage: a tree of every path is made beside it, out of the snapshot, or by whoever restores a
//! backup. Exchange: the trees take the places of the paths by renames alone, and what was there takes
//! theirs. Finish: what was replaced is removed. Until then all of it can go back. Volumes are
//! exchanged as a whole (`thin::switch`), in the same steps.
//!
//! A journal says before every step how far it is, and which inodes belong where; so after a crash
//! [`Swap::open`] finds out from the file system itself what has been exchanged and what has not.
//!
//! | journal | what is in place | what a restart does |
//! |---|---|---|
//! | `Staging` | what was there | removes the stages |
//! | `Swapping` | some of both | puts all back, then as above |
//! | `Swapped` | the snapshot | removes what was replaced |
//!
//! It goes last, when the job's own row says how it ended: until then it is what that is known from.
//!
//! The root of a mount cannot be exchanged: there the entries in it are, one by one.

mod change;
mod tree;

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fremovexattr, mkdirat, syncfs};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::engine::Taken;
use super::ioctl;
use super::store::{is_private, part_name};
use super::take::open_part;
use super::thin::switch::Switch;
use super::{Kind, Part, Place, place, remove};
use crate::model::{Error, IoContext, Progress, Result};
use crate::restore::dir::open_dir;
use crate::source::Stat;
use crate::source::mounts::{self, Mount, MountKind};

use change::{Change, Stage, set_mtime};
pub use tree::{check as check_trees, stage as stage_trees};

/// How the names of stages begin.
pub const STAGE: &str = ".strongroom-restore-";
/// In a stage: before the exchange the new entries, afterwards the old ones.
const OTHER: &str = "other";

/// How far a swap is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Nothing is exchanged.
    Staging,
    /// Some of it may be.
    Swapping,
    /// All of it is.
    Swapped,
}

/// What a restart must know.
#[derive(Debug, Serialize, Deserialize)]
struct Journal {
    phase: Phase,
    stage: Uuid,
    changes: Vec<Change>,
    #[serde(default)]
    volumes: Vec<Switch>,
}

/// Trees on their way into their places.
#[derive(Debug)]
pub struct Swap {
    file: PathBuf,
    journal: Journal,
    /// None where it is not there, since it was not made yet or is removed already.
    stages: Vec<Option<Stage>>,
}

/// Removes a journal that nobody needs any more.
pub fn forget(file: &Path) -> Result<()> {
    match std::fs::remove_file(file) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("cannot remove {}", file.display()), &e))
        }
        _ => Ok(()),
    }
}

/// Says beforehand why a snapshot cannot be put in place.
pub fn check(snapshot: Uuid, parts: &[Part]) -> Result<()> {
    let mounts = mounts::all()?;
    parts.iter().enumerate().try_for_each(|(number, part)| {
        if part.engine == Kind::Thin {
            return Switch::plan(Uuid::nil(), number, snapshot, part, &mounts).map(drop);
        }
        open_part(&mounts, snapshot, part)?;
        target(part, &mounts).map(drop)
    })
}

/// The directory whose entries are to be exchanged for a path, and whether the path itself is one
/// of them.
fn target(part: &Part, mounts: &[Mount]) -> Result<(OwnedFd, PathBuf, bool)> {
    let shown = part.path.display();
    let Some(place) = Place::look(&part.path, mounts)? else {
        let above = part.path.parent().unwrap_or(Path::new("/"));
        let dir = place::directory(above)?.ok_or_else(|| {
            Error::invalid_state(format!("{} is gone, and {shown} was in it; make it again first", above.display()))
        })?;
        return Ok((dir, above.to_owned(), true));
    };
    place.refuse_mounts(mounts)?;
    if place.is_mount() {
        return Ok((place.parent, part.path.clone(), false));
    }
    if place.kind == Kind::Btrfs {
        if ioctl::subvolume(place.open()?).is_ok_and(|s| s.read_only) {
            return Err(Error::invalid_state(format!(
                "the subvolume {shown} is read-only, so it cannot be exchanged; make it writable first"
            )));
        }
        let same = |m: &&Mount| {
            let there = || Stat::at(rustix::fs::CWD, m.point.as_os_str().as_bytes()).ok();
            m.kind == MountKind::Real
                && m.id != place.mount.id
                && m.fs == "btrfs"
                && there().is_some_and(|s| (s.dev, s.ino) == place.found.identity())
        };
        if let Some(other) = mounts.iter().find(same) {
            return Err(Error::invalid_state(format!(
                "the subvolume {shown} is mounted at {} as well, which would go on showing what is replaced; unmount it, \
                 or name that path in the resource",
                other.point.display()
            )));
        }
    }
    let above = part.path.parent().unwrap_or(Path::new("/")).to_owned();
    Ok((place.parent, above, true))
}

impl Swap {
    /// Makes the trees beside what they are to replace. Cancelled or failed, it leaves nothing.
    pub fn stage(file: &Path, snapshot: Uuid, parts: &[Part], progress: &Progress) -> Result<Self> {
        Self::begin(file, |swap| swap.prepare(snapshot, parts, progress))
    }

    /// Has a swap be prepared; where that fails, nothing is left.
    fn begin(file: &Path, prepare: impl FnOnce(&mut Self) -> Result<()>) -> Result<Self> {
        let (changes, volumes) = (Vec::new(), Vec::new());
        let journal = Journal { phase: Phase::Staging, stage: Uuid::new_v4(), changes, volumes };
        let mut swap = Self { file: file.to_owned(), journal, stages: Vec::new() };
        match prepare(&mut swap) {
            Ok(()) => Ok(swap),
            Err(e) => {
                if let Err(left) = swap.abandon() {
                    tracing::warn!("what was staged for a restore could not be removed: {left}");
                }
                Err(e)
            }
        }
    }

    fn prepare(&mut self, snapshot: Uuid, parts: &[Part], progress: &Progress) -> Result<()> {
        let mounts = mounts::all()?;
        let mut dirs = Vec::new();
        let (volumes, trees): (Vec<_>, Vec<_>) = parts.iter().enumerate().partition(|(_, p)| p.engine == Kind::Thin);
        for (number, part) in &volumes {
            let switch = Switch::plan(self.journal.stage, *number, snapshot, part, &mounts)?;
            self.journal.volumes.push(switch);
        }
        for (_, part) in &trees {
            let (handle, dir, whole) = target(part, &mounts)?;
            self.journal.changes.push(Change::new(part.path.clone(), dir, whole));
            dirs.push(handle);
        }
        // Before the first stage is made, so that all of them are found.
        self.save()?;
        for (switch, (_, part)) in self.journal.volumes.iter_mut().zip(volumes) {
            switch.make(snapshot, part)?;
        }
        for (index, ((number, part), dir)) in trees.into_iter().zip(dirs).enumerate() {
            let snapshot = open_part(&mounts, snapshot, part)?;
            let stage = self.make_stage(dir, &part.path)?;
            let Some(change) = self.journal.changes.get_mut(index) else { continue };
            let name = part_name(number);
            let taken = Taken { dir: &snapshot, name: &name, path: &part.path };
            change.fill(&stage, part, &taken, progress)?;
            self.stages.push(Some(stage));
        }
        progress.check()?;
        self.save()
    }

    fn stage_name(&self) -> String {
        format!("{STAGE}{}", self.journal.stage.simple())
    }

    fn make_stage(&self, dir: OwnedFd, path: &Path) -> Result<Stage> {
        let what = || format!("cannot make a directory beside {}", path.display());
        let name = self.stage_name();
        let before = Stat::of(&dir).at(what)?.mtime;
        // Several paths may be in one directory.
        match mkdirat(&dir, name.as_str(), Mode::RWXU) {
            Err(Errno::EXIST) => {}
            made => {
                made.at(what)?;
                set_mtime(&dir, (before.sec, before.nsec)).at(what)?;
            }
        }
        let stage = open_dir(&dir, name.as_bytes()).at(what)?;
        if !is_private(&stage).at(what)? {
            return Err(Error::failed(format!("somebody exchanged what was made beside {}", path.display())));
        }
        // Where there are none there is nothing to take away.
        let _ = fremovexattr(&stage, "system.posix_acl_default");
        match mkdirat(&stage, OTHER, Mode::RWXU) {
            Err(Errno::EXIST) => {}
            made => made.at(what)?,
        }
        let other = open_dir(&stage, OTHER.as_bytes()).at(what)?;
        Ok(Stage { dir, other })
    }

    fn save(&self) -> Result<()> {
        let what = || format!("cannot write {}", self.file.display());
        let text = serde_json::to_vec(&self.journal).map_err(|e| Error::failed(format!("{}: {e}", what())))?;
        let beside = self.file.with_extension("new");
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside).at(what)?;
        std::io::Write::write_all(&mut file, &text).and_then(|()| file.sync_all()).at(what)?;
        std::fs::rename(&beside, &self.file).at(what)?;
        let above = self.file.parent().unwrap_or(Path::new("/"));
        std::fs::File::open(above).and_then(|d| d.sync_all()).at(what)
    }

    fn enter(&mut self, phase: Phase) -> Result<()> {
        self.journal.phase = phase;
        self.save()
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        self.journal.phase
    }

    /// Puts the trees in their places. What fails is put back; the stages stay.
    pub fn exchange(&mut self) -> Result<()> {
        self.enter(Phase::Swapping)?;
        let done = self.turn(true).and_then(|()| self.enter(Phase::Swapped));
        done.map_err(|e| match self.back() {
            Ok(()) => e,
            Err(worse) => e.context(format!("{worse}, which the next start of the daemon tries again")),
        })
    }

    /// Puts what was replaced back in its places.
    pub fn back(&mut self) -> Result<()> {
        self.enter(Phase::Swapping)?;
        self.turn(false)?;
        self.enter(Phase::Staging)
    }

    fn turn(&self, forward: bool) -> Result<()> {
        for (change, stage) in self.journal.changes.iter().zip(&self.stages) {
            let Some(stage) = stage else {
                if change.entries.is_empty() {
                    continue;
                }
                return Err(Error::failed(format!(
                    "the stage {} is not in {} any more; whoever moved it must move it back",
                    self.stage_name(),
                    change.dir.display()
                )));
            };
            change.turn(stage, forward).map_err(|e| e.context(change.path.display()))?;
            syncfs(&stage.dir).at(|| format!("cannot write {} to disk", change.dir.display()))?;
        }
        self.journal.volumes.iter().try_for_each(|switch| switch.turn(forward))
    }

    /// Removes what was replaced; an error says what is left. The journal stays until it is known
    /// elsewhere that all is done ([`forget`]); to finish again does no harm.
    pub fn finish(self) -> Result<()> {
        for (change, stage) in self.journal.changes.iter().zip(&self.stages) {
            if let Some(stage) = stage.as_ref().filter(|_| !change.whole) {
                change.become_like(stage)?;
            }
        }
        self.clear()
    }

    /// Removes the stages with all that is in them, and the journal.
    pub fn abandon(self) -> Result<()> {
        let file = self.file.clone();
        self.clear()?;
        forget(&file)
    }

    fn clear(self) -> Result<()> {
        let name = self.stage_name();
        drop(self.stages);
        for change in &self.journal.changes {
            let Some(dir) = place::directory(&change.dir)? else { continue };
            let what = || format!("cannot remove {}", change.dir.join(&name).display());
            let before = Stat::of(&dir).at(what)?;
            remove::all(&dir, name.as_bytes()).at(what)?;
            if !change.whole {
                set_mtime(&dir, (before.mtime.sec, before.mtime.nsec)).at(what)?;
            }
        }
        self.journal.volumes.iter().try_for_each(Switch::clean)
    }

    /// What a daemon that was killed left; `None` where there is no journal.
    pub fn open(file: &Path) -> Result<Option<Self>> {
        let text = match std::fs::read(file) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.at(|| format!("cannot read {}", file.display()))?,
        };
        let journal: Journal = serde_json::from_slice(&text)
            .map_err(|e| Error::damaged(format!("{} cannot be understood: {e}", file.display())))?;
        let mut swap = Self { file: file.to_owned(), journal, stages: Vec::new() };
        let name = swap.stage_name();
        for change in &swap.journal.changes {
            let what = || format!("cannot look at {}", change.dir.display());
            let dir = place::directory(&change.dir)?.ok_or_else(|| {
                Error::invalid_state(format!("{} is not there; mount what was there", change.dir.display()))
            })?;
            let stage = match open_dir(&dir, name.as_bytes()) {
                Ok(stage) if is_private(&stage).at(what)? => Some(stage),
                _ => None,
            };
            let other = stage.and_then(|stage| open_dir(stage, OTHER.as_bytes()).ok());
            swap.stages.push(other.map(|other| Stage { dir, other }));
        }
        Ok(Some(swap))
    }
}
