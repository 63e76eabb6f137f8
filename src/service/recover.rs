//! What a restart makes of what a crash or a stop left.
//!
//! A backup whose manifest is in its vault is completed, whatever the catalog says; what can be
//! done again without harm is queued again; everything else that had begun has failed and says so.

use std::collections::BTreeMap;

use super::submit::Draft;
use super::work::temporary;
use super::{Event, Service, backups, mirrors, snapshots, tasks};
use crate::catalog::{Backup, Job, Resource, Snapshot, State, Tables, Task, TaskRow, VaultRow, backup, job};
use crate::host;
use crate::jobs::{Key, Lane, Ticket};
use crate::model::{Error, ErrorKind, Result};
use crate::vault::{Manifest, Vault};

/// What a job becomes.
enum Fate {
    Again,
    Failed(&'static str),
}

fn fate(job: &Job) -> Fate {
    match (&job.task, job.state) {
        (
            Task::Delete
            | Task::Salvage
            | Task::Remove { .. }
            | Task::Rebuild { .. }
            | Task::DeleteSnapshot { .. }
            | Task::Sync { .. },
            _,
        ) => Fate::Again,
        // What it was to hold is not there any more.
        (Task::Snapshot { .. }, _) => Fate::Failed("the daemon stopped before it was taken; take another one"),
        (Task::RestoreSnapshot { .. }, State::Pending) => {
            Fate::Failed("the daemon stopped before it began; restore the snapshot again")
        }
        (Task::RestoreSnapshot { .. }, _) => Fate::Failed(
            "the daemon stopped before it finished, and all is as it was before: restore the snapshot again",
        ),
        (Task::Backup { .. } | Task::TaskBackup { .. } | Task::Prune { .. } | Task::Verify { .. }, State::Pending) => {
            Fate::Again
        }
        (Task::Backup { .. }, _) => Fate::Failed(
            "the daemon stopped before it finished; what it had stored is found and used by the next backup",
        ),
        (Task::TaskBackup { .. }, _) => {
            Fate::Failed("the daemon stopped before it finished; nothing of it was left: run the task again")
        }
        (Task::TaskRestore { .. }, State::Pending) => {
            Fate::Failed("the daemon stopped before it began; run the task again")
        }
        (Task::TaskRestore { .. }, _) => {
            Fate::Failed("the daemon stopped before it finished; every file is whole, old or new: run the task again")
        }
        (Task::Restore(_), State::Pending) => Fate::Failed("the daemon stopped before it began; restore again"),
        (Task::Restore(_), _) => {
            Fate::Failed("the daemon stopped before it finished; every file is whole, old or new: restore again")
        }
        (_, State::Pending) => Fate::Failed("the daemon stopped before it began; start it again"),
        _ => Fate::Failed("the daemon stopped before it finished; start it again"),
    }
}

/// What a job needs in order to run, from its row.
fn ticket(t: &impl Tables, job: &Job) -> Result<Ticket> {
    let vault = || job.vault.map(Key::Vault);
    if let (Some(_), Some(resource)) = (job.task.snapshot(), job.resource) {
        return Ok(snapshots::ticket(&job.task, resource));
    }
    Ok(match (&job.task, job.backup) {
        (Task::Backup { .. }, Some(id)) => backups::ticket(&t.need(id)?),
        // Whatever a row says, the daemon starts; of what is gone the job finds that itself.
        (Task::Verify { .. }, None) => match t.get::<VaultRow>(job.vault.unwrap_or_default())? {
            Some(row) => mirrors::verify_ticket(t, &row)?,
            None => Ticket::free(Lane::Maintenance),
        },
        (Task::Sync { mirror }, _) => mirrors::ticket(*mirror),
        (Task::TaskBackup { task } | Task::TaskRestore { task }, _) => tasks::ticket(t, &t.need(*task)?)?,
        (Task::Salvage, Some(id)) => match t.get::<Backup>(id)? {
            Some(row) => super::work::salvage_ticket(&row),
            None => Ticket::free(Lane::Work),
        },
        (Task::Delete, Some(id)) => backups::delete_ticket(&t.need(id)?),
        (Task::Prune { .. } | Task::Remove { .. } | Task::Rebuild { .. } | Task::Delete, _) => {
            Ticket { exclusive: vault().into_iter().collect(), ..Ticket::free(Lane::Maintenance) }
        }
        _ => Ticket { shared: vault().into_iter().collect(), ..Ticket::free(Lane::Maintenance) },
    })
}

impl Service {
    /// Ends or queues again what was open, and finishes deletions.
    pub(super) fn recover(&self) -> Result<()> {
        let open = self.catalog.read(|r| {
            let mut open = r.rows_at::<Job>(job::BY_STATE, State::Running.key())?;
            open.extend(r.rows_at::<Job>(job::BY_STATE, State::Pending.key())?);
            open.sort_by_key(|j| j.id);
            Ok(open)
        })?;
        let swaps = self.recover_swaps();
        for job in open.iter().filter(|j| j.task.parts().is_none()) {
            host::notify::starting(&format!("recovering job {} ({})", job.id, job.task.kind()));
            let mut unsure = false;
            if let (Task::Backup { .. }, State::Running, Some(id)) = (&job.task, job.state, job.backup) {
                match self.find_manifest(id) {
                    Ok(Some(found)) if !found.1.partial => {
                        self.complete_from(id, found)?;
                        self.clean_up(job);
                        continue;
                    }
                    Ok(_) => {}
                    // An unreachable destination must not keep the daemon from starting. The vault
                    // is asked when it can be opened.
                    Err(e) => {
                        tracing::warn!("cannot look for the manifest of backup {id}: {e}");
                        unsure = true;
                    }
                }
            }
            if self.is_done(job, &swaps)? {
                continue;
            }
            self.clean_up(job);
            match fate(job) {
                Fate::Again => self.queue_again(job)?,
                Fate::Failed(why) => self.submit_all(|w, batch| {
                    let now = self.now();
                    let why = match swaps.get(&job.id) {
                        Some(Err(e)) => format!("the daemon stopped before it finished, and it is half done: {e}"),
                        _ => why.to_owned(),
                    };
                    let ended = w.update::<Job>(job.id, |row| {
                        row.state = State::Failed;
                        row.completed_at = Some(now);
                        row.error = Some(why.clone());
                        row.error_kind = Some(ErrorKind::Failed);
                        Ok(())
                    })?;
                    super::work::follow(w, &ended)?;
                    if let (Task::Prune { .. }, Some(vault)) = (&job.task, job.vault) {
                        // It may have copied some, which takes more or less than before.
                        super::work::unmeasure(w, vault)?;
                    }
                    if let Task::Snapshot { snapshot } = &job.task {
                        w.update::<Snapshot>(*snapshot, |row| {
                            row.status = State::Failed;
                            row.message = Some(why.clone());
                            Ok(())
                        })?;
                    }
                    if let (Task::Backup { .. }, Some(id)) = (&job.task, job.backup) {
                        w.update::<Backup>(id, |row| {
                            row.status = State::Failed;
                            row.completed_at = Some(now);
                            row.error = Some(why.clone());
                            row.unsure = unsure;
                            Ok(())
                        })?;
                        if job.state == State::Running && !unsure {
                            self.salvage_later(w, batch, id)?;
                        }
                    }
                    Ok(())
                })?,
            }
            self.tell_failure(job.id);
        }
        self.forget_swaps(&swaps);
        self.finish_deletions()?;
        self.all_mirrors_behind()?;
        if let Err(e) = crate::snapshot::sweep() {
            tracing::warn!("empty places of snapshots could not be looked for: {e}");
        }
        // What only waits for others is as far as they are.
        for job in open.iter().filter(|j| j.task.parts().is_some()) {
            self.settle(job.id);
        }
        Ok(())
    }

    /// Ends a job about a snapshot that had done all it should. What it left half-done is removed.
    fn is_done(&self, job: &Job, swaps: &BTreeMap<u64, Result<()>>) -> Result<bool> {
        let found = match &job.task {
            Task::Snapshot { snapshot } => match self.settle_snapshot(*snapshot) {
                Ok(Some(marker)) => Some((*snapshot, marker)),
                Ok(None) => return Ok(false),
                Err(e) => {
                    tracing::warn!("what there was of snapshot {snapshot} could not be removed: {e}");
                    return Ok(false);
                }
            },
            Task::RestoreSnapshot { .. } | Task::Restore(_) if matches!(swaps.get(&job.id), Some(Ok(()))) => None,
            _ => return Ok(false),
        };
        let now = self.now();
        self.catalog.write(|w| {
            if let Some((id, marker)) = &found {
                w.update::<Snapshot>(*id, |row| {
                    super::work::publish(row, marker);
                    row.completed_at = Some(row.completed_at.unwrap_or(now));
                    Ok(())
                })?;
            }
            w.update::<Job>(job.id, |row| {
                row.state = State::Completed;
                row.completed_at = Some(now);
                Ok(())
            })
        })?;
        Ok(true)
    }

    fn queue_again(&self, job: &Job) -> Result<()> {
        let ticket = self.catalog.write(|w| {
            let row = w.update::<Job>(job.id, |row| {
                row.state = State::Pending;
                row.started_at = None;
                Ok(())
            })?;
            super::work::follow(w, &row)?;
            if let (Task::Backup { .. }, Some(id)) = (&row.task, row.backup) {
                w.update::<Backup>(id, |backup| {
                    backup.status = State::Pending;
                    Ok(())
                })?;
            }
            ticket(w, &row)
        })?;
        if let Some(me) = self.me.upgrade() {
            self.jobs.push(job.id, ticket, &me);
        }
        Ok(())
    }

    /// Removes what an interrupted job left beside its results.
    fn clean_up(&self, job: &Job) {
        match &job.task {
            Task::Backup { .. } => {
                let left = job.backup.map(|id| self.catalog.read(|r| r.get::<Backup>(id))).transpose();
                let left = left.and_then(|row| match row.flatten() {
                    Some(row) => crate::source::database::remove_left(&row.uuid.to_string())
                        .and_then(|()| crate::snapshot::delete(row.uuid, &[])),
                    None => Ok(()),
                });
                if let Err(e) = left {
                    tracing::warn!("what job {} read from could not be removed: {e}", job.id);
                }
            }
            Task::Export { path: Some(path), .. } => {
                let _ = std::fs::remove_file(temporary(path, job.id));
            }
            Task::TaskBackup { task } => {
                let left = self.catalog.read(|r| r.get::<TaskRow>(*task)).and_then(|row| match row {
                    Some(row) => crate::plain::remove_left(&Self::task_results(&row), job.id),
                    None => Ok(()),
                });
                if let Err(e) = left {
                    tracing::warn!("what the copy of job {} left could not be removed: {e}", job.id);
                }
            }
            Task::Restore(_) | Task::TaskRestore { .. } => {
                if let Err(e) = crate::restore::recover(&self.journal(job.id)) {
                    tracing::warn!("what the restore of job {} left could not be removed: {e}", job.id);
                }
            }
            _ => {}
        }
    }

    /// The manifest of a backup that had begun, if it was published.
    fn find_manifest(&self, id: u64) -> Result<Option<(crate::model::Id, Manifest)>> {
        let (row, vault) = self.catalog.read(|r| {
            let row = r.need::<Backup>(id)?;
            let vault = r.need::<VaultRow>(row.vault)?;
            Ok((row, vault))
        })?;
        self.open_promptly(std::slice::from_ref(&vault));
        let open = self.vaults.opened(vault.id);
        let open =
            open.ok_or_else(|| Error::destination_failed(format!("vault {:?} could not be opened", vault.name)))?;
        self.find_manifest_in(&open.vault, &row)
    }

    /// The manifest of a backup, or none if the vault is there and has none of it.
    pub(super) fn find_manifest_in(&self, vault: &Vault, row: &Backup) -> Result<Option<(crate::model::Id, Manifest)>> {
        let known = self.catalog.read(|r| r.rows_at::<Backup>(backup::BY_VAULT, row.vault))?;
        let known: Vec<_> = known.into_iter().filter_map(|b| b.manifest).collect();
        let mut partial = None;
        for manifest in vault.manifests()?.into_iter().filter(|m| !known.contains(m)) {
            match vault.manifest(&manifest) {
                Ok(found) if found.uuid == row.uuid && found.partial => partial = Some((manifest, found)),
                Ok(found) if found.uuid == row.uuid => return Ok(Some((manifest, found))),
                Ok(_) => {}
                Err(e) if e.kind == ErrorKind::Damaged => tracing::warn!("manifest {manifest} cannot be read: {e}"),
                Err(e) => return Err(e),
            }
        }
        // Nothing is concluded from what another place does not have.
        vault.check_identity()?;
        Ok(partial)
    }

    /// Writes down that a backup may have been published, although that ended in an error.
    pub(super) fn note_unsure(&self, id: u64) {
        let noted = self.catalog.write(|w| {
            w.update::<Backup>(id, |row| {
                row.unsure = true;
                Ok(())
            })
        });
        if let Err(e) = noted {
            tracing::error!("backup {id} may be in its vault, which could not be written down: {e}");
        }
    }

    /// Asks an open vault for the ended backups of which it is not known whether they were
    /// published, and shows those that were.
    pub(super) fn ask_for_unsure(&self, vault: u64, open: &Vault) -> Result<()> {
        let unsure = self.catalog.read(|r| r.rows_at::<Backup>(backup::UNSURE, vault))?;
        let mut any = false;
        for row in unsure {
            match self.find_manifest_in(open, &row)? {
                Some(found) => {
                    let status = if found.1.partial { row.status } else { State::Completed };
                    self.complete_from(row.id, found)?;
                    self.emit(Event::BackupChanged { id: row.id, status: status.name().into() });
                    any = true;
                }
                None => self.submit_all(|w, batch| {
                    w.update::<Backup>(row.id, |row| {
                        row.unsure = false;
                        Ok(())
                    })?;
                    self.salvage_later(w, batch, row.id)
                })?,
            }
        }
        if any {
            self.show_all();
        }
        Ok(())
    }

    fn complete_from(&self, id: u64, (object, manifest): (crate::model::Id, Manifest)) -> Result<()> {
        self.catalog.write(|w| {
            let row = w.update::<Backup>(id, |row| {
                super::work::fill(row, object, &manifest);
                row.unsure = false;
                Ok(())
            })?;
            super::retention::replan(w, &row, self.now())?;
            // Later ones may have been completed meanwhile.
            if w.indexed(backup::GOOD_BY_VAULT, row.vault)?.last() == Some(&id) {
                w.update::<VaultRow>(row.vault, |vault| {
                    vault.last_manifest = Some(object);
                    Ok(())
                })?;
            }
            if row.copy_of.is_none()
                && w.indexed(backup::GOOD_BY_RESOURCE, row.resource)?.last() == Some(&id)
                && let Some(mut resource) = w.get::<Resource>(row.resource)?
            {
                super::work::note_success(&mut resource, &row);
                w.put(&resource)?;
            }
            // Of a finished job the oldest are dropped.
            if let Some(mut job) = w.get::<Job>(row.job)?.filter(|_| !manifest.partial) {
                job.state = State::Completed;
                job.completed_at = Some(manifest.completed_at);
                (job.error, job.error_kind) = (None, None);
                w.put(&job)?;
            }
            Ok(())
        })
    }

    /// Queues a job for every backup that is marked but has none: its manifest must go.
    fn finish_deletions(&self) -> Result<()> {
        let left = self.catalog.read(|r| {
            let jobs = super::resources::open_jobs(r)?;
            let mut left = r.rows_at::<Backup>(backup::DELETING, 1)?;
            left.retain(|b| !jobs.iter().any(|j| j.backup == Some(b.id) && j.task == Task::Delete));
            let mut kept = Vec::new();
            for row in left {
                if r.get::<VaultRow>(row.vault)?.is_some_and(|v| !v.removing && !v.emptied) {
                    kept.push(row);
                }
            }
            Ok(kept)
        })?;
        for row in left {
            self.submit(|_| {
                Ok(Draft {
                    resource: Some(row.resource),
                    backup: Some(row.id),
                    vault: Some(row.vault),
                    ..Draft::new(Task::Delete, backups::delete_ticket(&row))
                })
            })?;
        }
        Ok(())
    }
}

/// The error of a job that the daemon's own stop ended.
pub(super) fn stopped(task: &Task) -> Option<Error> {
    match task {
        Task::Restore(_) | Task::TaskRestore { .. } => {
            Some(Error::failed("the daemon stopped before it finished; every file is whole, old or new: restore again"))
        }
        Task::Snapshot { .. } => Some(Error::failed("the daemon stopped before it was taken; take another one")),
        Task::RestoreSnapshot { .. } => Some(Error::failed(
            "the daemon stopped before it finished, and all is as it was before: restore the snapshot again",
        )),
        Task::Export { .. } | Task::Test { .. } => {
            Some(Error::failed("the daemon stopped before it finished; start it again"))
        }
        _ => None,
    }
}
