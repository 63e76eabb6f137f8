//! The steps by which a snapshot is put in place of what is there.
//!
//! Stage: a tree of every path is made beside it, out of the snapshot. Exchange: the trees take the
//! places of the paths by renames alone, and what was there takes theirs. Finish: what was replaced
//! is removed. Until then all of it can go back.
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
//! The root of a mount cannot be exchanged: there the entries in it are, one by one.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Mode, RenameFlags, Timespec, Timestamps, UTIME_OMIT, fremovexattr, futimens, mkdirat, renameat_with,
    syncfs, unlinkat,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::crew::below;
use super::engine::{Taken, split};
use super::ioctl::{self, SUBVOLUME_ROOT};
use super::store::{is_own, is_private, part_name};
use super::take::{gone, open_part};
use super::{Kind, Part, Place, clone, place, remove};
use crate::model::{Error, IoContext, Progress, Result, paths};
use crate::restore::dir::open_dir;
use crate::restore::live;
use crate::restore::meta::{self, Handle, Scope};
use crate::source::mounts::{self, Mount, MountKind};
use crate::source::{Stat, capture};
use crate::vault::tree::{Metadata, Owner, Time};

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

/// An inode, by what does not change when it is mounted again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Token {
    inode: u64,
    /// Of the root of a subvolume, whose inode numbers are all the same.
    subvolume: u64,
}

/// One name that is exchanged.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    /// With a slash in front, as paths are written.
    #[serde(with = "paths::one")]
    name: PathBuf,
    old: Option<Token>,
    new: Option<Token>,
    /// Modification times of the two: some file systems change them when a directory is moved.
    old_time: (i64, u32),
    new_time: (i64, u32),
}

/// What happens to one path.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Change {
    #[serde(with = "paths::one")]
    path: PathBuf,
    /// The directory whose entries are exchanged: the one that holds the path, or the path itself.
    #[serde(with = "paths::one")]
    dir: PathBuf,
    whole: bool,
    entries: Vec<Entry>,
    /// Subvolumes in the path, which stay as they are; with a slash in front.
    #[serde(with = "paths")]
    nested: Vec<PathBuf>,
    /// Modification times of a directory that is not exchanged itself: as it was, as it becomes.
    times: Option<((i64, u32), (i64, u32))>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Journal {
    phase: Phase,
    stage: Uuid,
    /// Units that may be stopped meanwhile.
    units: Vec<String>,
    changes: Vec<Change>,
}

/// A stage and the directory it is in.
#[derive(Debug)]
struct Stage {
    dir: OwnedFd,
    other: OwnedFd,
}

/// Trees on their way into their places.
#[derive(Debug)]
pub struct Swap {
    file: PathBuf,
    journal: Journal,
    /// None where it is not there, since it was not made yet or is removed already.
    stages: Vec<Option<Stage>>,
}

fn token(dir: &OwnedFd, name: &[u8]) -> rustix::io::Result<Option<Token>> {
    let Some(found) = live::find(dir, name)? else { return Ok(None) };
    let mut token = Token { inode: found.stat.ino, subvolume: 0 };
    if found.is_dir() && found.stat.ino == SUBVOLUME_ROOT {
        token.subvolume = ioctl::subvolume(open_dir(dir, name)?).map_or(0, |s| s.id);
    }
    Ok(Some(token))
}

fn raw(name: &Path) -> &[u8] {
    let bytes = name.as_os_str().as_bytes();
    bytes.strip_prefix(b"/").unwrap_or(bytes)
}

fn slashed(name: &[u8]) -> PathBuf {
    Path::new("/").join(OsStr::from_bytes(name))
}

/// Says beforehand why a snapshot cannot be put in place.
pub fn check(snapshot: Uuid, parts: &[Part]) -> Result<()> {
    let mounts = mounts::all()?;
    parts.iter().try_for_each(|part| {
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
        let journal = Journal { phase: Phase::Staging, stage: Uuid::new_v4(), units: Vec::new(), changes: Vec::new() };
        let mut swap = Self { file: file.to_owned(), journal, stages: Vec::new() };
        match swap.prepare(snapshot, parts, progress) {
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
        for part in parts {
            let (handle, dir, whole) = target(part, &mounts)?;
            let path = part.path.clone();
            let times = None;
            self.journal.changes.push(Change { path, dir, whole, entries: Vec::new(), nested: Vec::new(), times });
            dirs.push(handle);
        }
        // Before the first stage is made, so that all of them are found.
        self.save()?;
        for (index, (part, dir)) in parts.iter().zip(dirs).enumerate() {
            let snapshot = open_part(&mounts, snapshot, part)?;
            let stage = self.make_stage(dir, part)?;
            let Some(change) = self.journal.changes.get_mut(index) else { continue };
            let name = part_name(index);
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

    fn make_stage(&self, dir: OwnedFd, part: &Part) -> Result<Stage> {
        let what = || format!("cannot make a directory beside {}", part.path.display());
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
            return Err(Error::failed(format!("somebody exchanged what was made beside {}", part.path.display())));
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

    /// Writes down which units are about to be stopped.
    pub fn note_units(&mut self, units: &[String]) -> Result<()> {
        self.journal.units = units.to_vec();
        self.save()
    }

    /// The units that may be stopped.
    pub fn units(&self) -> &[String] {
        &self.journal.units
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
        Ok(())
    }

    /// Removes what was replaced; an error says what is left.
    pub fn finish(self) -> Result<()> {
        for (change, stage) in self.journal.changes.iter().zip(&self.stages) {
            if let Some(stage) = stage.as_ref().filter(|_| !change.whole) {
                change.become_like(stage)?;
            }
        }
        self.abandon()
    }

    /// Removes the stages with all that is in them.
    pub fn abandon(self) -> Result<()> {
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
        match std::fs::remove_file(&self.file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("cannot remove {}", self.file.display()), &e))
            }
            _ => Ok(()),
        }
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

fn set_mtime(dir: &OwnedFd, (sec, nsec): (i64, u32)) -> rustix::io::Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: sec, tv_nsec: nsec.into() },
    };
    futimens(dir, &times)
}

impl Change {
    /// Makes the tree, and finds out what belongs where.
    fn fill(&mut self, stage: &Stage, part: &Part, taken: &Taken<'_>, progress: &Progress) -> Result<()> {
        let what = || format!("cannot stage {}", part.path.display());
        let name = part.path.file_name().map(OsStr::as_bytes).unwrap_or_default().to_vec();
        let mut names = BTreeSet::new();
        if self.whole {
            part.engine.engine().copy(taken, &stage.other, &name, progress)?;
            names.insert(name.clone());
        } else {
            let source = open_dir(taken.dir, taken.name.as_bytes()).map_err(|_| gone(part))?;
            clone::tree(&source, &stage.other, &part.path, &is_own, progress)?;
            live::unlock(&stage.other).at(what)?;
            names.extend(live::names(&stage.other).at(what)?);
            names.extend(live::names(&stage.dir).at(what)?.into_iter().filter(|name| !is_own(name)));
            let mtime = |file: &OwnedFd| Stat::of(file).map(|s| (s.mtime.sec, s.mtime.nsec));
            self.times = Some((mtime(&stage.dir).at(what)?, mtime(&source).at(what)?));
        }
        for nested in self.find_nested(stage, &name).at(what)? {
            let (above, leaf) = split(&nested);
            if !self.whole && above.is_empty() {
                // It stays where it is.
                names.remove(leaf);
                continue;
            }
            let nested_path = || part.path.join(OsStr::from_bytes(&nested));
            let there = self.base(&stage.dir, &name).and_then(|base| below(base, &nested)).at(what)?;
            if ioctl::subvolume(there).at(what)?.read_only {
                return Err(Error::invalid_state(format!(
                    "the subvolume {} is read-only, so it cannot be moved into what is restored; move it elsewhere first",
                    nested_path().display()
                )));
            }
            let place = self.base(&stage.other, &name).and_then(|base| below(base, above));
            let free = place.and_then(|dir| match live::find(&dir, leaf)? {
                None => Ok(true),
                Some(found) => Ok(found.is_dir() && live::names(open_dir(&dir, leaf)?)?.is_empty()),
            });
            if !free.unwrap_or(false) {
                return Err(Error::invalid_state(format!(
                    "the subvolume {} stays as it is, and has no place in the snapshot; move it elsewhere first",
                    nested_path().display()
                )));
            }
            self.nested.push(slashed(&nested));
        }
        for name in names {
            let (old, new) = (token(&stage.dir, &name).at(what)?, token(&stage.other, &name).at(what)?);
            let time = |dir: &OwnedFd| Stat::at(dir, &name).map_or((0, 0), |s| (s.mtime.sec, s.mtime.nsec));
            let (old_time, new_time) = (time(&stage.dir), time(&stage.other));
            self.entries.push(Entry { name: slashed(&name), old, new, old_time, new_time });
        }
        Ok(())
    }

    /// The subvolumes in what is there now.
    fn find_nested(&self, stage: &Stage, name: &[u8]) -> rustix::io::Result<Vec<Vec<u8>>> {
        let there = if self.whole { open_dir(&stage.dir, name) } else { open_dir(&stage.dir, b".") };
        match there.and_then(ioctl::nested) {
            Ok(found) => {
                Ok(found.into_iter().filter(|path| self.whole || !is_own(split(path).0) && !is_own(path)).collect())
            }
            // It is no directory, it is not there, or not on btrfs.
            Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT | Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL) => {
                Ok(Vec::new())
            }
            Err(e) => Err(e),
        }
    }

    /// Where the path's own content is, seen from one of the two directories.
    fn base(&self, from: &OwnedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
        if self.whole { open_dir(from, name) } else { open_dir(from, b".") }
    }

    fn turn(&self, stage: &Stage, forward: bool) -> Result<()> {
        let name = self.path.file_name().map(OsStr::as_bytes).unwrap_or_default();
        if !forward {
            self.carry(stage, name, false)?;
        }
        for entry in &self.entries {
            entry.turn(stage, forward)?;
        }
        if forward {
            self.carry(stage, name, true)?;
        } else if let Some((was, _)) = self.times {
            set_mtime(&stage.dir, was).at(|| "cannot set the time of the directory")?;
        }
        Ok(())
    }

    /// Moves subvolumes that stay from the replaced tree into the new one, or back.
    fn carry(&self, stage: &Stage, name: &[u8], forward: bool) -> Result<()> {
        for nested in &self.nested {
            let what = || format!("cannot move the subvolume {} to its place", nested.display());
            let (above, leaf) = split(raw(nested));
            let in_dir = self.base(&stage.dir, name).and_then(|base| below(base, above));
            let in_other = self.base(&stage.other, name).and_then(|base| below(base, above));
            let (from, to) = if forward { (in_other, in_dir) } else { (in_dir, in_other) };
            let is_subvolume = |dir: &OwnedFd| -> rustix::io::Result<bool> {
                Ok(live::find(dir, leaf)?.is_some_and(|f| f.is_dir() && f.stat.ino == SUBVOLUME_ROOT))
            };
            // Not exchanged yet, so it did not go anywhere.
            let Ok(from) = from else { continue };
            if !is_subvolume(&from).at(what)? {
                continue;
            }
            let to = match to {
                Ok(to) => to,
                Err(_) if !forward => continue,
                Err(e) => return Err(e).at(what),
            };
            if is_subvolume(&to).at(what)? {
                continue;
            }
            // What stands for it in a snapshot is an empty directory.
            match unlinkat(&to, leaf, AtFlags::REMOVEDIR) {
                Err(Errno::NOENT) | Ok(()) => {}
                Err(e) => return Err(e).at(what),
            }
            renameat_with(&from, leaf, &to, leaf, RenameFlags::NOREPLACE).at(what)?;
        }
        Ok(())
    }

    /// Gives a directory that was not exchanged itself what it was in the snapshot.
    fn become_like(&self, stage: &Stage) -> Result<()> {
        let what = || format!("cannot look at {}", self.path.display());
        let stat = Stat::of(&stage.other).at(what)?;
        let mtime = self.times.map_or(stat.mtime, |(_, (sec, nsec))| Time { sec, nsec });
        let owner = Owner { uid: stat.uid, gid: stat.gid, ..Owner::default() };
        let want = Metadata {
            mode: stat.mode,
            owner: owner.into(),
            mtime,
            xattrs: capture::xattrs(&stage.other).at(what)?,
            flags: 0,
        };
        let brought = meta::bring(Handle::Open(stage.dir.as_fd()), &want, Scope::Unflagged, false);
        match brought.problems.into_iter().next() {
            None => Ok(()),
            Some(problem) => Err(Error::failed(format!("{}: {problem}", self.path.display()))),
        }
    }
}

impl Entry {
    /// Brings the one or the other into place, whichever is there now.
    fn turn(&self, stage: &Stage, forward: bool) -> Result<()> {
        let name = raw(&self.name);
        let what = || format!("cannot exchange {:?}", String::from_utf8_lossy(name));
        let (wanted, other) = if forward { (self.new, self.old) } else { (self.old, self.new) };
        let (here, there) = (token(&stage.dir, name).at(what)?, token(&stage.other, name).at(what)?);
        if (here, there) == (wanted, other) {
            return self.keep_time(stage, forward).at(what);
        }
        if (here, there) != (other, wanted) {
            return Err(Error::failed(format!(
                "somebody exchanged {:?} while it was restored",
                String::from_utf8_lossy(name)
            )));
        }
        let rename = || match (here.is_some(), there.is_some()) {
            (true, true) => renameat_with(&stage.dir, name, &stage.other, name, RenameFlags::EXCHANGE),
            (false, true) => renameat_with(&stage.other, name, &stage.dir, name, RenameFlags::NOREPLACE),
            _ => renameat_with(&stage.dir, name, &stage.other, name, RenameFlags::NOREPLACE),
        };
        let mut locked = Vec::new();
        let mut renamed = rename();
        if renamed == Err(Errno::PERM) {
            // Immutable ones are changeable for that moment.
            for dir in [&stage.dir, &stage.other] {
                if let Ok(file) = live::open_file(dir, name).or_else(|_| open_dir(dir, name)) {
                    let flags = live::unlock(&file).at(what)?;
                    locked.push((file, flags.bits()));
                }
            }
            renamed = rename();
        }
        let kept = renamed.and_then(|()| self.keep_time(stage, forward));
        for (file, flags) in locked {
            meta::lock(file, flags).at(what)?;
        }
        kept.at(what)
    }

    /// Gives what is in place now the time that it had.
    fn keep_time(&self, stage: &Stage, forward: bool) -> rustix::io::Result<()> {
        let (wanted, time) = if forward { (self.new, self.new_time) } else { (self.old, self.old_time) };
        let name = raw(&self.name);
        let Some(found) = live::find(&stage.dir, name)?.filter(|found| wanted.is_some() && found.is_dir()) else {
            return Ok(());
        };
        if (found.stat.mtime.sec, found.stat.mtime.nsec) == time {
            return Ok(());
        }
        let dir = open_dir(&stage.dir, name)?;
        match set_mtime(&dir, time) {
            // It was locked again before its time was set.
            Err(Errno::PERM) => {
                let flags = live::unlock(&dir)?;
                let set = set_mtime(&dir, time);
                meta::lock(&dir, flags.bits())?;
                set
            }
            set => set,
        }
    }
}
