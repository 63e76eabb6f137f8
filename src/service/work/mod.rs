//! What each kind of job does, and how its end is written down.

mod atomic;
mod backups;
mod checkpoint;
mod copy;
mod databases;
mod export;
mod maintain;
mod mirrors;
mod moment;
mod rebuild;
mod remove;
mod restore;
mod salvage;
mod sink;
mod snapshots;
mod tasks;
mod test;
mod verify;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Map as Json, Value as JsonValue, json};

use super::jobs::error_name;
use super::journal::About;
use super::open::OpenVault;
use super::recover::stopped;
use super::{Event, Service, housekeeping, locked, retention, snapretention};
use crate::archive::PathError;
use crate::catalog::{Backup, Checkpoint, Job, Resource, Schedule, State, Tables, Task, VaultRow, Writer, backup, job};
use crate::jobs::{Live, Work};
use crate::model::{Error, ErrorKind, Progress, Result};
use crate::vault::Share;

pub(super) use backups::{fill, note_success};
pub(super) use export::temporary;
pub(super) use maintain::unmeasure;
pub(super) use salvage::ticket as salvage_ticket;
pub(super) use snapshots::publish;
pub(super) use tasks::follow;

/// Finished jobs that stay listed.
const JOBS_KEPT: u64 = 10_000;
/// How many are dropped at once beyond that.
const JOBS_DROPPED: usize = 100;
/// Paths listed in a job's result.
const LISTED: usize = 1000;

type Change = Box<dyn FnOnce(&Writer) -> Result<()> + Send>;

/// What a finished job has to say.
#[derive(Default)]
pub struct Report {
    /// Its answer.
    result: Json<String, JsonValue>,
    /// Set where the job did its work, and what it found is bad.
    error: Option<Error>,
    /// What is written in the same transaction as its end.
    change: Option<Change>,
    /// A backup to be seen in the mount before anybody hears that it is completed.
    show: Option<Box<(Backup, VaultRow, Arc<OpenVault>)>>,
    /// Events that follow its end.
    events: Vec<Event>,
    /// The vault that should hold a fresh copy of the configuration.
    export: Option<Arc<OpenVault>>,
    /// A journal that a restart needs until its end is written down.
    journal: Option<PathBuf>,
}

/// How a job ended, as it was written down.
struct End {
    state: State,
    /// What the journal is told; nothing where the end could not be written down.
    about: Option<About>,
    message: String,
    error: Option<ErrorKind>,
    events: Vec<Event>,
    /// The job that waits for it.
    part_of: Option<u64>,
    /// Whether backups that were taken out of the mount are there after all.
    reshow: bool,
}

impl Report {
    fn of(result: JsonValue) -> Self {
        let result = match result {
            JsonValue::Object(map) => map,
            _ => Json::new(),
        };
        Self { result, ..Self::default() }
    }

    fn then(mut self, change: impl FnOnce(&Writer) -> Result<()> + Send + 'static) -> Self {
        self.change = Some(Box::new(change));
        self
    }
}

fn error_list(errors: &[PathError]) -> JsonValue {
    errors
        .iter()
        .take(LISTED)
        .map(|e| json!({"path": String::from_utf8_lossy(&e.path), "code": e.code, "message": e.message}))
        .collect()
}

fn forget(journal: &std::path::Path) {
    if let Err(e) = crate::snapshot::swap::forget(journal) {
        tracing::warn!("{e}; the next start does it");
    }
}

impl Work for Service {
    type Report = Report;

    fn begin(&self, id: u64) -> Result<()> {
        let mut events = Vec::new();
        let (about, backup) = self.catalog.write(|w| {
            let row = w.update::<Job>(id, |row| {
                row.state = State::Running;
                row.started_at = Some(self.now());
                Ok(())
            })?;
            events = tasks::follow(w, &row)?;
            if let (Task::Backup { .. }, Some(backup)) = (&row.task, row.backup) {
                w.update::<Backup>(backup, |row| {
                    row.status = State::Running;
                    Ok(())
                })?;
                return Ok((About::of(w, &row)?, Some(backup)));
            }
            Ok((About::of(w, &row)?, None))
        })?;
        about.started();
        self.emit(Event::JobChanged { id });
        events.into_iter().for_each(|event| self.emit(event));
        if let Some(id) = backup {
            self.emit(Event::BackupChanged { id, status: "running".into() });
        }
        Ok(())
    }

    fn run(&self, id: u64, progress: &Arc<Progress>) -> Result<Report> {
        let job: Job = self.catalog.read(|r| r.need(id))?;
        match &job.task {
            Task::Backup { reread } => self.run_backup(&job, *reread, progress),
            Task::Restore(task) => self.run_restore(&job, task, progress),
            Task::Export { path, format } => self.run_export(&job, path.as_deref(), format, progress),
            Task::Delete => self.run_delete(&job, progress),
            Task::Prune { dry_run } => self.run_prune(&job, *dry_run, progress),
            Task::Verify { read_data, repair, share } => {
                self.run_verify(&job, read_data.then_some(share.unwrap_or(Share::ALL)), *repair, progress)
            }
            Task::Sync { mirror } => self.run_sync(&job, *mirror, progress),
            Task::Test { destination } => self.run_test(*destination, progress),
            Task::Rebuild { machine, rename } => self.run_rebuild(&job, machine, *rename, progress),
            Task::Remove { delete_data } => self.run_remove(&job, *delete_data, progress),
            Task::Salvage => self.run_salvage(&job, progress),
            Task::TaskBackup { task } => self.run_task_backup(&job, *task, progress),
            Task::TaskRestore { task } => self.run_task_restore(&job, *task, progress),
            Task::Snapshot { .. } => self.run_snapshot(&job, progress),
            Task::RestoreSnapshot { .. } => self.run_restore_snapshot(&job, progress),
            Task::DeleteSnapshot { .. } => self.run_delete_snapshot(&job),
            Task::Checkpoint { .. } | Task::DeleteCheckpoint { .. } => self.sum_up(&job),
        }
    }

    fn end(&self, id: u64, result: Result<Report>, live: &Live) {
        let by_us = live.stopping.load(Ordering::SeqCst);
        if by_us && matches!(&result, Err(e) if e.kind == ErrorKind::Cancelled) {
            match self.put_back(id) {
                Ok(true) => return,
                Ok(false) => {}
                Err(e) => tracing::error!("job {id} could not be put back into the queue: {e}"),
            }
        }
        self.close(id, result, Some(live));
    }
}

impl Service {
    /// A job that our own stop interrupted waits for the next start where that does no harm.
    fn put_back(&self, id: u64) -> Result<bool> {
        self.catalog.write(|w| {
            let mut row = w.need::<Job>(id)?;
            if stopped(&row.task).is_some() {
                return Ok(false);
            }
            row.state = State::Pending;
            row.started_at = None;
            w.put(&row)?;
            tasks::follow(w, &row)?;
            if let (Task::Backup { .. }, Some(backup)) = (&row.task, row.backup) {
                w.update::<Backup>(backup, |row| {
                    row.status = State::Pending;
                    row.message = Some("interrupted by the daemon's stop; it goes on at the next start".into());
                    Ok(())
                })?;
            }
            Ok(true)
        })
    }

    /// Writes down how a job ended, and says so.
    pub(super) fn close(&self, id: u64, result: Result<Report>, live: Option<&Live>) {
        locked(&self.descriptors).remove(&id);
        let mut report = Report::default();
        let mut error = None;
        match result {
            Ok(done) => report = done,
            Err(e) => error = Some(e),
        }
        let by_us = live.is_some_and(|l| l.stopping.load(Ordering::SeqCst));
        if by_us && error.as_ref().is_some_and(|e| e.kind == ErrorKind::Cancelled) {
            let task = self.catalog.read(|r| r.need::<Job>(id)).map(|row| row.task);
            error = task.ok().and_then(|task| stopped(&task)).or(error);
        }
        error = error.or_else(|| report.error.take());
        let order = self.show.hold();
        if let Some(shown) = &report.show {
            self.show_one(&shown.0, &shown.1, &shown.2);
        }
        let written = self.catalog.record(|w| {
            if let Some(change) = report.change.take() {
                change(w)?;
            }
            self.write_end(w, id, error.clone(), std::mem::take(&mut report.result), live)
        });
        drop(order);
        let mut end = match written {
            Ok(end) => {
                if let Some(file) = report.journal.take() {
                    forget(&file);
                }
                end
            }
            Err(e) => {
                // The next start finds the job open and ends it by what it finds.
                tracing::error!("the end of job {id} could not be written down: {e}");
                End {
                    state: State::Failed,
                    about: None,
                    message: e.message,
                    error: Some(e.kind),
                    events: Vec::new(),
                    part_of: None,
                    reshow: false,
                }
            }
        };
        end.events.append(&mut report.events);
        if let Some(about) = &end.about {
            about.ended(end.state, &end.message);
        }
        if end.reshow {
            self.show_all();
        }
        self.emit(Event::JobChanged { id });
        for event in end.events {
            self.emit(event);
        }
        let error = end.error.map(error_name).unwrap_or_default().to_owned();
        self.emit(Event::JobRemoved { id, result: end.state.name().into(), error });
        if let Some(whole) = end.part_of {
            self.settle(whole);
        }
        if let Some(shown) = &report.show
            && let Err(e) = self.drop_partial(&shown.0)
        {
            tracing::warn!("partial backups before backup {} stay: {e}", shown.0.id);
        }
        if let Some(open) = report.export {
            self.save_configuration(&open);
            // The mirrors miss that too.
            self.mirrors_behind(open.id);
        }
        if matches!(end.error, Some(ErrorKind::LimitReached | ErrorKind::NoSpace))
            && let Err(e) = self.drop_partial_for_room(id)
        {
            tracing::warn!("partial backups stay, although job {id} found no room: {e}");
        }
        if end.state == State::Failed {
            self.tell_failure(id);
        }
        self.drop_old_jobs();
    }

    fn write_end(
        &self,
        w: &Writer,
        id: u64,
        error: Option<Error>,
        result: Json<String, JsonValue>,
        live: Option<&Live>,
    ) -> Result<End> {
        let mut row = w.need::<Job>(id)?;
        let state = match &error {
            None => State::Completed,
            Some(e) if e.kind == ErrorKind::Cancelled => State::Cancelled,
            Some(_) => State::Failed,
        };
        let now = self.now();
        row.state = state;
        row.completed_at = Some(now);
        row.result = result;
        if let Some(live) = live {
            let (p, o) = (&live.progress, Ordering::Relaxed);
            row.done = job::Done {
                bytes: p.bytes_done.load(o),
                bytes_total: p.bytes_total.load(o),
                files: p.files_done.load(o),
                files_total: p.files_total.load(o),
            };
        }
        row.error = error.as_ref().map(|e| e.message.clone());
        row.error_kind = error.as_ref().map(|e| e.kind);
        w.put(&row)?;
        let mut events = tasks::follow(w, &row)?;
        snapshots::note_end(w, &row.task, error.as_ref())?;
        snapretention::follow(w, &row, now)?;
        match (&row.task, row.backup, &error) {
            (Task::Backup { .. }, Some(backup), _) => {
                let row = w.update::<Backup>(backup, |b| {
                    b.status = state;
                    b.completed_at = Some(now);
                    b.error = error.as_ref().map(|e| e.message.clone());
                    Ok(())
                })?;
                if let Some(mut resource) = w.get::<Resource>(row.resource)?.filter(|_| row.copy_of.is_none()) {
                    resource.last_backup = Some(now);
                    w.put(&resource)?;
                    if resource.removed_at.is_none() {
                        let kind = super::ObjectKind::Resource;
                        events.push(Event::ObjectChanged { kind, id: resource.id });
                    }
                }
                retention::replan(w, &row, now)?;
                retention::replan_vault(w, row.vault, now)?;
                if let Some(id) = row.schedule.filter(|id| w.get::<Schedule>(*id).is_ok_and(|s| s.is_some())) {
                    events.push(Event::ObjectChanged { kind: super::ObjectKind::Schedule, id });
                }
                events.push(Event::BackupChanged { id: backup, status: state.name().into() });
                if let (State::Failed, Some(e)) = (state, &error) {
                    if matches!(e.kind, ErrorKind::LimitReached | ErrorKind::NoSpace) {
                        // What it stored until then gives its space back.
                        housekeeping::prune_soon(w, row.vault, now)?;
                    }
                    let error = error_name(e.kind).to_owned();
                    events.push(Event::BackupFailed { id: backup, resource: row.resource, error });
                }
            }
            (Task::Delete, Some(backup), Some(e)) if e.kind == ErrorKind::Cancelled => {
                // Nothing was removed yet: it stays, and can be seen again.
                let row = w.update::<Backup>(backup, |b| {
                    b.deleting = false;
                    Ok(())
                })?;
                retention::replan(w, &row, now)?;
                // Deletions before it may have left their space to it.
                housekeeping::prune_soon(w, row.vault, now)?;
                events.push(Event::BackupChanged { id: backup, status: row.status.name().into() });
            }
            (Task::Remove { .. }, _, Some(_)) => {
                if let Some(vault) = row.vault {
                    let vault = w.update::<VaultRow>(vault, |v| {
                        v.removing = false;
                        Ok(())
                    })?;
                    // Nothing was deleted yet: its backups are there again.
                    let rows = w.rows_at::<Backup>(backup::BY_VAULT, vault.id)?;
                    for mut row in rows.into_iter().filter(|row| row.with_vault && !vault.emptied) {
                        (row.deleting, row.with_vault) = (false, false);
                        w.put(&row)?;
                    }
                }
            }
            _ => {}
        }
        let reshow = error.is_some() && matches!(row.task, Task::Delete | Task::Remove { .. });
        let about = Some(About::of(w, &row)?);
        let (part_of, message) = (row.part_of, row.error.unwrap_or_default());
        Ok(End { state, about, message, error: error.map(|e| e.kind), events, part_of, reshow })
    }

    fn drop_old_jobs(&self) {
        let dropped = self.catalog.read(|r| Ok(r.count::<Job>()? > JOBS_KEPT)).and_then(|many| {
            if !many {
                return Ok(());
            }
            self.catalog.write(|w| {
                let ids = w.ids::<Job>()?;
                let excess = ids.len().saturating_sub(usize::try_from(JOBS_KEPT).unwrap_or(usize::MAX));
                for id in ids.into_iter().take(excess + JOBS_DROPPED) {
                    if w.need::<Job>(id)?.state.ended() {
                        w.remove::<Job>(id)?;
                    }
                }
                Ok(())
            })
        });
        if let Err(e) = dropped {
            tracing::warn!("old jobs could not be dropped: {e}");
        }
    }

    /// Leaves a copy of the configuration, without secrets, in the vault, for an empty machine to
    /// find. A vault without it is still complete.
    fn save_configuration(&self, open: &OpenVault) {
        let saved = self.configuration(open.id).and_then(|content| open.vault.put_state(&content));
        if let Err(e) = saved {
            tracing::warn!("the configuration could not be saved in vault {}: {e}", open.vault.uuid());
        }
    }

    fn configuration(&self, vault: u64) -> Result<JsonValue> {
        let common = self.common_data()?;
        self.catalog.read(|r| {
            let mut noted = Vec::new();
            for b in r.rows_at::<Backup>(backup::NOTED, vault)?.iter().filter(|b| !b.deleting) {
                noted.push(json!({"uuid": b.uuid, "description": b.description, "protected": b.protected}));
            }
            let mut checkpoints = r.all::<Checkpoint>()?;
            checkpoints.retain(|c| c.vault == vault);
            let value = |v: std::result::Result<JsonValue, serde_json::Error>| {
                v.map_err(|e| Error::failed(format!("cannot encode the configuration: {e}")))
            };
            Ok(json!({
                "version": 1,
                "machine": value(serde_json::to_value(self.machine()))?,
                "last_backup": r.last_id::<Backup>()?,
                "common": common,
                "checkpoints": value(serde_json::to_value(checkpoints))?,
                "backups": noted,
            }))
        })
    }

    /// Where an in-place restore keeps its journal.
    pub(super) fn journal(&self, job: u64) -> PathBuf {
        self.options.state_dir.join(format!("restore-{job}.journal"))
    }

    fn vault_of_job(&self, job: &Job) -> Result<(VaultRow, Arc<OpenVault>)> {
        let id = job.vault.ok_or_else(|| Error::failed(format!("job {} names no vault", job.id)))?;
        let row: VaultRow = self.catalog.read(|r| r.need(id))?;
        let open = self.open_vault(&row)?;
        // A destination that was swapped or unmounted since is noticed before anything is done.
        open.vault.check_identity()?;
        self.ask_for_unsure(id, &open.vault)?;
        // As it is now: a backup that was found may be the newest.
        Ok((self.catalog.read(|r| r.need(id))?, open))
    }

    /// The job's vault, or a mirror of it, for reading.
    fn vault_to_read(&self, job: &Job) -> Result<Arc<OpenVault>> {
        self.vault_of_job(job).map(|(_, open)| open).or_else(|e| {
            let id = job.vault.filter(|_| e.kind == ErrorKind::DestinationFailed).ok_or(e)?;
            self.open_vault_to_read(&self.catalog.read(|r| r.need(id))?)
        })
    }

    fn backup_of_job(&self, job: &Job) -> Result<Backup> {
        let id = job.backup.ok_or_else(|| Error::failed(format!("job {} names no backup", job.id)))?;
        self.catalog.read(|r| r.need(id))
    }
}
