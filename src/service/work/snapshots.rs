//! Snapshots: taken, put in place, deleted; and what a killed daemon left of that.
//!
//! A snapshot is completed when its markers are there, whatever the catalog says. A restore has a
//! journal, by which it is finished or put back.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;

use super::Report;
use crate::catalog::{Job, Resource, Snapshot, State, Tables, Task, Writer, backup, snapshot as index};
use crate::model::{Error, Progress, Result};
use crate::service::snapshots::engines;
use crate::service::units::{Action, Pause};
use crate::service::{Event, ObjectKind, Service};
use crate::snapshot::swap::{Phase, Swap};
use crate::snapshot::{self, FORMAT, Marker, Taking, Whose};

/// How many paths a message names.
const NAMED: usize = 5;

/// What a journal of a restore is called.
const SWAP: (&str, &str) = ("swap-", ".json");

impl Service {
    fn snapshot_of_job(&self, job: &Job) -> Result<(Snapshot, Resource)> {
        let id = job.task.snapshot().ok_or_else(|| Error::failed(format!("job {} names no snapshot", job.id)))?;
        self.catalog.read(|r| {
            let row = r.need::<Snapshot>(id)?;
            let resource = r.need(row.resource)?;
            Ok((row, resource))
        })
    }

    pub(super) fn run_snapshot(&self, job: &Job, progress: &Arc<Progress>) -> Result<Report> {
        let (row, resource) = self.snapshot_of_job(job)?;
        let (marker, tally, pause, message) = self.take(&row, &resource, progress).inspect_err(|_| {
            // Nothing of it is left, so that it is not there by halves.
            if let Err(e) = snapshot::delete(row.uuid, &[]) {
                tracing::warn!("what there was of snapshot {} could not be removed: {e}", row.id);
            }
        })?;
        // It is there: whatever is still to be found out about it, others may use it.
        let now = self.now();
        let parts = marker.parts.clone();
        self.catalog.write(|w| {
            w.update::<Snapshot>(row.id, |row| {
                publish(row, &marker);
                row.completed_at = Some(now);
                row.message = message;
                Ok(())
            })
        })?;
        self.emit(Event::ObjectChanged { kind: ObjectKind::Resource, id: row.resource });
        let tally = tally.or_else(|| match snapshot::measure(row.uuid, &parts, progress) {
            Ok(tally) => Some(tally),
            Err(e) => {
                tracing::warn!("how much snapshot {} holds is not known: {e}", row.id);
                None
            }
        });
        let mut result = json!({
            "snapshot": row.id,
            "atomic": parts.iter().all(|part| part.atomic),
        });
        pause.note(&mut result);
        let error = pause.trouble;
        let Some(tally) = tally else { return Ok(Report { error, ..Report::of(result) }) };
        result["bytes"] = tally.bytes.into();
        result["files"] = tally.entries.into();
        progress.expect(tally.entries, tally.bytes);
        let report = Report { error, ..Report::of(result) };
        Ok(report.then(move |w| {
            w.update::<Snapshot>(row.id, |row| {
                (row.size, row.entries) = (Some(tally.bytes), Some(tally.entries));
                Ok(())
            })
            .map(drop)
        }))
    }

    /// Takes it, and says what it is, what it holds where that is known already, how long units
    /// were held back, and what should be said of it.
    fn take(
        &self,
        row: &Snapshot,
        resource: &Resource,
        progress: &Arc<Progress>,
    ) -> Result<(Marker, Option<snapshot::Tally>, Pause, Option<String>)> {
        let project = self.catalog.read(|r| r.need::<crate::catalog::Project>(resource.project))?;
        let marker = Marker {
            format: FORMAT,
            uuid: row.uuid,
            id: row.id,
            machine: self.machine().id,
            resource: Whose { id: resource.id, name: resource.name.clone(), project: project.name },
            name: row.name.clone(),
            description: row.description.clone(),
            automatic: row.automatic,
            schedule: row.schedule,
            created_at: row.created_at,
            parts: Vec::new(),
        };
        let mut taking = Taking::begin(marker, &resource.paths)?;
        let action = Action::parse(&row.unit_action);
        let ((), pause) = self.with_units(row.job, resource, action, progress, || taking.fix(progress))?;
        taking.finish(progress)?;
        let left_out = taking.left_out()?;
        progress.check()?;
        let (marker, tally) = taking.publish()?;
        let mut message = Vec::from_iter(pause.words());
        message.extend(pause.trouble.as_ref().map(ToString::to_string));
        let holds = !pause.units.is_empty();
        for part in marker.parts.iter().filter(|part| !part.atomic && !holds) {
            message.push(format!("the files of {} are not all of one moment", part.path.display()));
        }
        if !left_out.is_empty() {
            let names: Vec<_> = left_out.iter().take(NAMED).map(|p| p.display().to_string()).collect();
            message.push(format!("{} subvolumes are not in it: {}", left_out.len(), names.join(", ")));
        }
        let message = (!message.is_empty()).then(|| message.join("; "));
        Ok((marker, tally, pause, message))
    }

    pub(super) fn run_delete_snapshot(&self, job: &Job) -> Result<Report> {
        let (row, resource) = self.snapshot_of_job(job)?;
        snapshot::delete(row.uuid, &row.parts)?;
        let mut report = Report::of(json!({ "snapshot": row.id }));
        report.events.push(Event::ObjectChanged { kind: ObjectKind::Resource, id: resource.id });
        Ok(report.then(move |w| {
            w.remove::<Snapshot>(row.id)?;
            drop_unused(w, row.resource)
        }))
    }

    /// The journal of a restore.
    pub(super) fn swap_file(&self, job: u64) -> PathBuf {
        self.options.state_dir.join(format!("{}{job}{}", SWAP.0, SWAP.1))
    }

    pub(super) fn run_restore_snapshot(&self, job: &Job, progress: &Arc<Progress>) -> Result<Report> {
        let (row, resource) = self.snapshot_of_job(job)?;
        let running = self.units_to_hold(&resource.units, Action::Stop)?;
        let units = running.as_slice();
        let mut swap = Swap::stage(&self.swap_file(job.id), row.uuid, &row.parts, progress)?;
        if let Err(e) = self.swap_in(job.id, units, &mut swap, progress, || Ok(()), "with the snapshot") {
            self.abandon(job.id, swap);
            return Err(e);
        }
        let mut result = json!({ "snapshot": row.id, "units_stopped": units.len() });
        if resource.units.is_empty() {
            result["message"] = "no units were stopped".into();
        }
        let journal = self.finish(job.id, swap, &mut result);
        Ok(Report { journal, ..Report::of(result) })
    }

    /// Removes what was replaced, and says of which journal nothing is left to be done.
    pub(super) fn finish(&self, job: u64, swap: Swap, result: &mut serde_json::Value) -> Option<PathBuf> {
        match swap.finish() {
            Ok(()) => Some(self.swap_file(job)),
            Err(left) => {
                tracing::warn!("what job {job} replaced is not all removed, the next start tries again: {left}");
                result["message"] = format!("what was replaced is not all removed: {left}").into();
                None
            }
        }
    }

    /// Stops units, puts what was staged in place where it is still `ready` to be, and starts them.
    pub(super) fn swap_in(
        &self,
        job: u64,
        units: &[String],
        swap: &mut Swap,
        progress: &Progress,
        ready: impl FnOnce() -> Result<()>,
        with: &str,
    ) -> Result<()> {
        let stopped = progress.check().and_then(|()| self.stop_units(job, units));
        let done = stopped.and_then(|()| ready()).and_then(|()| swap.exchange());
        // Whatever came of it, they run again; if they do not on what they found, what was there
        // before is better.
        match (done, self.start_units(job, units)) {
            (Ok(()), Ok(())) => Ok(()),
            (Ok(()), Err(e)) => {
                let e = e.context(format!("the units do not start {with}, and what was there before was put back"));
                let back = self.stop_units(job, units).and_then(|()| swap.back());
                Err(match back.and_then(|()| self.start_units(job, units)) {
                    Ok(()) => e,
                    Err(worse) => e.context(worse),
                })
            }
            (Err(e), Ok(())) => Err(e),
            (Err(e), Err(worse)) => Err(e.context(worse)),
        }
    }

    /// Removes what was staged, unless some of it is in place.
    pub(super) fn abandon(&self, job: u64, swap: Swap) {
        if swap.phase() == Phase::Staging
            && let Err(left) = swap.abandon()
        {
            tracing::warn!("what was staged for job {job} is left: {left}");
        }
    }

    /// Finishes restores that were interrupted, or puts back what they had begun. Answers with the
    /// jobs that did all they should, and with those that could not be looked after, and why.
    pub(in crate::service) fn recover_swaps(&self) -> BTreeMap<u64, Result<()>> {
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir(&self.options.state_dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name.to_str().is_some_and(|n| n.starts_with(SWAP.0) && n.ends_with(".new")) {
                // One that was not written to its end says nothing yet.
                let _ = std::fs::remove_file(entry.path());
                continue;
            }
            let number = name.to_str().and_then(|n| n.strip_prefix(SWAP.0)?.strip_suffix(SWAP.1)?.parse::<u64>().ok());
            let Some(job) = number else { continue };
            crate::host::notify::starting(&format!("recovering the restore of job {job}"));
            match self.recover_swap(&entry.path()) {
                Ok(true) => drop(found.insert(job, Ok(()))),
                Ok(false) => {}
                Err(e) => {
                    tracing::error!("the restore of job {job} is half done, and the next start tries again: {e}");
                    found.insert(job, Err(e));
                }
            }
        }
        found
    }

    /// Lets go of the journals of restores that did all they should, once their jobs say so.
    pub(in crate::service) fn forget_swaps(&self, swaps: &BTreeMap<u64, Result<()>>) {
        for (job, _) in swaps.iter().filter(|(_, done)| done.is_ok()) {
            super::forget(&self.swap_file(*job));
        }
    }

    fn recover_swap(&self, file: &std::path::Path) -> Result<bool> {
        let Some(mut swap) = Swap::open(file)? else { return Ok(false) };
        // Units that were stopped are started once the daemon runs: their manager may wait for it.
        if swap.phase() == Phase::Swapped {
            return swap.finish().map(|()| true);
        }
        if swap.phase() != Phase::Staging {
            swap.back()?;
        }
        swap.abandon().map(|()| false)
    }

    /// Finds out whether a snapshot that had begun is there, and removes what there is if not.
    pub(in crate::service) fn settle_snapshot(&self, id: u64) -> Result<Option<Marker>> {
        let row = self.catalog.read(|r| r.need::<Snapshot>(id))?;
        let mut markers = snapshot::markers()?;
        markers.retain(|(_, marker)| marker.uuid == row.uuid);
        if let Some((_, marker)) = markers.first()
            && marker.parts.iter().all(|part| markers.iter().any(|(store, _)| *store == part.store))
        {
            return Ok(Some(marker.clone()));
        }
        snapshot::delete(row.uuid, &[]).map(|()| None)
    }
}

/// Takes over what a marker says.
pub(in crate::service) fn publish(row: &mut Snapshot, marker: &Marker) {
    row.status = State::Completed;
    row.engine = engines(marker);
    row.parts.clone_from(&marker.parts);
    row.message = None;
}

/// Removes a resource that was removed, once nothing is left of it.
pub(super) fn drop_unused(w: &Writer, id: u64) -> Result<()> {
    let Some(resource) = w.get::<Resource>(id)? else { return Ok(()) };
    let unused = w.indexed(backup::BY_RESOURCE, id)?.is_empty() && w.indexed(index::BY_RESOURCE, id)?.is_empty();
    if resource.removed_at.is_some() && unused { w.remove::<Resource>(id) } else { Ok(()) }
}

/// What the end of a job means for its snapshot.
pub(super) fn note_end(w: &Writer, task: &Task, error: Option<&Error>) -> Result<()> {
    let (Some(id), Some(error)) = (task.snapshot(), error) else { return Ok(()) };
    let Some(mut row) = w.get::<Snapshot>(id)? else { return Ok(()) };
    match task {
        // What is there stays so, whatever happened afterwards.
        Task::Snapshot { .. } if row.status != State::Completed => {
            row.status = State::Failed;
            row.message = Some(error.message.clone());
        }
        Task::DeleteSnapshot { .. } => {
            row.deleting = false;
            // Another may have its name by now.
            if w.named::<Snapshot>(row.resource, &row.name)?.is_some_and(|other| other != id) {
                row.name = format!("kept-{id}");
            }
        }
        _ => return Ok(()),
    }
    w.put(&row)
}
