//! The walk through a backup: directories are made on the way down, everything else is gathered
//! into batches, and a directory's metadata is set once all that is in it is restored.
//!
//! The order is the archiver's, so that the first name of a hard link comes first: in a directory
//! everything else before its directories; above the backup's paths as the names come.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::batch::{Batch, Complete};
use super::dir::{Dir, open_dir};
use super::item::Item;
use super::job::Job;
use super::journal::Journal;
use super::live;
use super::meta::{self, Handle, Scope};
use super::select::{Entries, Selection};
use super::tally::Tally;
use crate::model::{Error, Id, IoContext, Result};
use crate::source::stat::Type;
use crate::vault::tree::{Entry, Kind, Origin};

/// A directory whose entries are being walked.
struct Level {
    entries: Entries,
    /// Whether directories among them are still to be walked.
    again: bool,
    /// Where the entries come from.
    source: (Id, Selection),
    pass: Pass,
    complete: Complete,
    /// Whether what is beneath belongs to the resource's own file system, as far as removal goes:
    /// what is mounted beneath may not have been when the backup was made.
    own: bool,
    /// Names the backup holds, where others are to be removed.
    kept: Option<Vec<Vec<u8>>>,
}

/// Which entries of a directory are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    Everything,
    Others,
    Directories,
}

/// What was found of a directory on the live system.
#[derive(Debug, Clone, Copy, Default)]
struct Found {
    /// Flags that were taken from it so that it could be changed.
    locks: u32,
    /// Whether something is mounted there.
    mounted: bool,
}

/// Restores everything beneath the root entry.
pub fn walk(job: &Job<'_>, root: Entry, journal: Option<&Journal>) -> Result<()> {
    let mut walk = Walk { job, journal, levels: Vec::new(), batch: Batch::default() };
    let root_dir = job.root.clone();
    walk.descend(root_dir, root, job.selection.clone(), Found::default())?;
    let result = walk.run();
    // Cut short, it leaves what is whole under its name.
    let result = result.and(walk.batch.hidden.reveal(job));
    if result.is_err() {
        let open = walk.levels.iter().map(|level| &level.complete);
        walk.batch.complete.iter().chain(open).for_each(|dir| dir.relock(job));
    }
    result
}

struct Walk<'a> {
    job: &'a Job<'a>,
    journal: Option<&'a Journal>,
    levels: Vec<Level>,
    batch: Batch,
}

impl Walk<'_> {
    fn run(&mut self) -> Result<()> {
        while let Some(level) = self.levels.last_mut() {
            self.job.progress.check()?;
            let dir = level.complete.dir.clone();
            match level.entries.next(self.job.vault) {
                Ok(Some((entry, _))) if level.pass == Pass::Directories && !entry.is_dir() => {}
                Ok(Some((entry, selection))) => {
                    if level.pass == Pass::Others && entry.is_dir() {
                        level.again = true;
                        continue;
                    }
                    if let Some(kept) = &mut level.kept {
                        kept.push(entry.name.clone());
                    }
                    let (path, totals) = (dir.path_of(&entry.name), entry.totals());
                    if let Err(e) = self.visit(&dir, entry, selection) {
                        self.job.tally.take(path, e)?;
                        self.job.progress.add(totals.entries, totals.bytes);
                    }
                }
                Ok(None) => match std::mem::take(&mut level.again) {
                    true => {
                        level.entries = Entries::new(level.source.0, level.source.1.clone());
                        level.pass = Pass::Directories;
                    }
                    false => {
                        if let Some(kept) = &mut level.kept {
                            kept.sort_unstable();
                        }
                        self.ascend()?;
                    }
                },
                Err(e) => {
                    // What the rest of it holds is unknown, so nothing in it may be removed.
                    level.kept = None;
                    self.job.tally.take(dir.path(), e)?;
                    self.ascend()?;
                }
            }
            if self.batch.is_full(self.job) {
                self.batch.flush(self.job, self.journal)?;
            }
        }
        self.batch.flush(self.job, self.journal)
    }

    fn visit(&mut self, dir: &Arc<Dir>, entry: Entry, selection: Selection) -> Result<()> {
        match entry.kind {
            Kind::Directory { .. } => self.directory(dir, entry, selection),
            Kind::Unread => {
                let message = "it could not be read when it was backed up";
                self.job.tally.list(dir.path_of(&entry.name), "unreadable", message.into());
                self.job.progress.add(1, 0);
                Ok(())
            }
            _ if self.job.leave.contains(&dir.path_of(&entry.name)) => self.pass_over(&entry),
            _ => {
                self.batch.add(self.job, Item { dir: dir.clone(), entry });
                Ok(())
            }
        }
    }

    /// Makes or opens a directory and goes into it.
    fn directory(&mut self, parent: &Arc<Dir>, entry: Entry, selection: Selection) -> Result<()> {
        let Kind::Directory { origin, .. } = entry.kind else { return Ok(()) };
        let job = self.job;
        if origin == Origin::Dumps && job.request.target.is_none() {
            // They are brought back into their servers, not into files of the live system, and counted there.
            return Ok(());
        }
        if !parent.exists() {
            return self.descend(parent.imagined(&entry.name), entry, selection, Found::default());
        }
        let above = job.handle(parent)?;
        let found = live::find(&*above, &entry.name).at(|| "cannot look at what is there")?;
        if let Some(found) = found
            && found.is_dir()
        {
            if job.never.contains(&found.identity()) {
                return self.pass_over(&entry);
            }
            let handle = open_dir(&*above, &entry.name).at(|| "cannot open the directory")?;
            let locks = if found.locked && !job.request.dry_run {
                live::unlock(&handle).at(|| "cannot make the directory changeable")?.bits()
            } else {
                0
            };
            let dir = parent.child(&entry.name, handle, &job.handles).at(|| "cannot look at the directory")?;
            return self.descend(dir, entry, selection, Found { locks, mounted: found.mount_root });
        }
        // What is replaced must not be missed for long.
        let journal = self.journal.filter(|_| found.is_none());
        if let Some(found) = found {
            if origin == Origin::Ancestor || selection != Selection::All {
                let what = if found.stat.kind == Type::Symlink { "a symbolic link" } else { "not a directory" };
                return Err(Error::invalid_state(format!(
                    "it is {what}, and the backup has a directory there; restore to a target, or move it away"
                )));
            }
            if job.skips() {
                return self.pass_over(&entry);
            }
            if job.request.dry_run {
                return self.descend(parent.imagined(&entry.name), entry, selection, Found::default());
            }
            live::remove(&*above, &entry.name, false).at(|| "cannot replace what is there")?;
        } else if job.request.dry_run {
            return self.descend(parent.imagined(&entry.name), entry, selection, Found::default());
        }
        let dir = self.batch.hidden.make(job, journal, parent, &entry.name)?;
        self.descend(dir, entry, selection, Found::default())
    }

    /// Leaves a whole subtree alone.
    fn pass_over(&self, entry: &Entry) -> Result<()> {
        let totals = entry.totals();
        Tally::add(&self.job.tally.skipped, 1);
        self.job.progress.add(totals.entries, totals.bytes);
        Ok(())
    }

    fn descend(&mut self, dir: Arc<Dir>, entry: Entry, selection: Selection, found: Found) -> Result<()> {
        let Kind::Directory { node, origin, .. } = entry.kind else {
            return Err(Error::damaged("the root of the backup is not a directory"));
        };
        let (job, locks) = (self.job, found.locks);
        let read = matches!(origin, Origin::Read | Origin::Dumps);
        let mine = read && selection == Selection::All && !job.skips();
        let scope = match origin {
            Origin::Ancestor => Scope::Ancestor,
            Origin::Read | Origin::Skipped | Origin::Dumps => Scope::All,
        };
        job.touches(&dir);
        let is_root = dir.parent().is_none();
        // The target itself stands for `/` only where the backup is one of `/`.
        let meta = (mine || (dir.made && !is_root)).then_some((entry.meta, scope));
        let mut changed = dir.made;
        if let (Some((want, scope)), false) = (&meta, dir.made) {
            let handle = job.handle(&dir)?;
            // Locks that were just taken from it still count as its own.
            let others = if locks == 0 { *scope } else { Scope::Unlocked };
            changed = (locks != 0 && want.flags & live::LOCKS.bits() != locks)
                || meta::bring(Handle::Open(handle.as_fd()), want, others, true).changed;
        }
        let above = self.levels.last();
        let own = above.is_none_or(|above| above.own && !(found.mounted && above.pass != Pass::Everything));
        let sweeps = job.request.delete && mine && own && dir.exists() && !dir.made;
        let kept = sweeps.then(Vec::new);
        let pass = if origin == Origin::Ancestor { Pass::Everything } else { Pass::Others };
        let source = (node, selection);
        let entries = Entries::new(node, source.1.clone());
        self.levels.push(Level {
            entries,
            source,
            again: false,
            pass,
            complete: Complete { dir, meta, changed, locks },
            own,
            kept,
        });
        Ok(())
    }

    /// Leaves a directory: everything in it is restored or waits in the batch.
    fn ascend(&mut self) -> Result<()> {
        let Some(level) = self.levels.pop() else { return Ok(()) };
        let dir = level.complete.dir.clone();
        self.batch.complete.push(level.complete);
        match level.kept {
            Some(kept) => self.job.sweep(&dir, &kept).or_else(|e| self.job.tally.take(dir.path(), e)),
            None => Ok(()),
        }
    }
}
