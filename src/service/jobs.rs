//! Jobs.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::event::JobStatus;
use super::fields::{self, Fields};
use super::page::Page;
use super::{Service, locked, select};
use crate::catalog::{Job, State, Tables, Task, job};
use crate::jobs::rate::remaining;
use crate::jobs::{Live, Stopped};
use crate::model::{Args, Error, ErrorKind, Map, Result};

const FIELDS: &[&str] = &[
    "id",
    "kind",
    "state",
    "progress",
    "bytes_done",
    "bytes_total",
    "files_done",
    "files_total",
    "rate",
    "created_at",
    "started_at",
    "completed_at",
    "error",
    "error_name",
    "resource",
    "backup",
    "vault",
    "task",
    "snapshot",
    "current_item",
    "result",
];
const KINDS: &[&str] = &[
    "backup",
    "restore",
    "export",
    "delete",
    "prune",
    "verify",
    "sync",
    "test",
    "remove",
    "rebuild",
    "salvage",
    "task_backup",
    "task_restore",
    "snapshot",
    "restore_snapshot",
    "delete_snapshot",
    "checkpoint",
    "delete_checkpoint",
];
const STATES: &[&str] = &["pending", "running", "in_progress", "completed", "failed", "cancelled"];

/// The D-Bus name of a class of failures.
pub(super) fn error_name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidArgument => "org.strongroom1.Error.InvalidArgument",
        ErrorKind::NotFound => "org.strongroom1.Error.NotFound",
        ErrorKind::AlreadyExists => "org.strongroom1.Error.AlreadyExists",
        ErrorKind::LimitReached => "org.strongroom1.Error.LimitReached",
        ErrorKind::NotConfirmed => "org.strongroom1.Error.NotConfirmed",
        ErrorKind::InvalidState => "org.strongroom1.Error.InvalidState",
        ErrorKind::NoSpace => "org.strongroom1.Error.NoSpace",
        ErrorKind::DestinationFailed => "org.strongroom1.Error.DestinationFailed",
        ErrorKind::Damaged => "org.strongroom1.Error.Damaged",
        ErrorKind::AccessDenied => "org.freedesktop.DBus.Error.AccessDenied",
        ErrorKind::InteractiveAuthorizationRequired => "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired",
        ErrorKind::Cancelled => "org.strongroom1.Error.Cancelled",
        ErrorKind::Failed => "org.freedesktop.DBus.Error.Failed",
    }
}

fn micros(time: Timestamp) -> u64 {
    u64::try_from(time.as_microsecond()).unwrap_or(0)
}

#[allow(clippy::cast_precision_loss)]
fn share(done: u64, total: u64) -> f64 {
    if total == 0 { 0.0 } else { (done as f64 / total as f64).clamp(0.0, 1.0) }
}

fn status(row: &Job, live: Option<&Live>) -> JobStatus {
    let mut s = JobStatus {
        id: row.id,
        kind: row.task.kind().into(),
        state: row.state.name().into(),
        bytes_done: row.done.bytes,
        bytes_total: row.done.bytes_total,
        files_done: row.done.files,
        files_total: row.done.files_total,
        start_time: row.started_at.map_or(0, micros),
        error: row.error.clone().unwrap_or_default(),
        error_name: row.error_kind.map(error_name).unwrap_or_default().to_owned(),
        ..JobStatus::default()
    };
    if let (Some(live), false) = (live, row.state.ended()) {
        use std::sync::atomic::Ordering::Relaxed;
        let p = &live.progress;
        s.bytes_done = p.bytes_done.load(Relaxed);
        s.bytes_total = p.bytes_total.load(Relaxed);
        s.files_done = p.files_done.load(Relaxed);
        s.files_total = p.files_total.load(Relaxed);
        s.current_item = p.current();
        let mut rate = locked(&live.rate);
        rate.sample(Instant::now(), s.bytes_done);
        s.rate = rate.per_second();
        let elapsed = live.started.elapsed();
        let left = if s.bytes_total > 0 {
            remaining(s.bytes_done, s.bytes_total, elapsed)
        } else {
            remaining(s.files_done, s.files_total, elapsed)
        };
        s.expected_end_time = left.map_or(0, |left| end_time(Timestamp::now(), left));
    }
    s.progress = match row.state {
        State::Completed => 1.0,
        _ if s.bytes_total > 0 => share(s.bytes_done, s.bytes_total),
        _ => share(s.files_done, s.files_total),
    };
    if row.state == State::Completed {
        s.expected_end_time = row.completed_at.map_or(0, micros);
    }
    s
}

#[allow(clippy::cast_precision_loss)]
fn mean(sum: f64, count: usize) -> f64 {
    if count == 0 { 0.0 } else { (sum / count as f64).clamp(0.0, 1.0) }
}

/// Those of some jobs that are still known: of ended ones the oldest are dropped.
pub(super) fn parts_of(t: &impl Tables, parts: &[u64]) -> Result<Vec<Job>> {
    parts.iter().filter_map(|id| t.get(*id).transpose()).collect()
}

fn end_time(now: Timestamp, left: Duration) -> u64 {
    micros(now).saturating_add(u64::try_from(left.as_micros()).unwrap_or(u64::MAX))
}

impl Service {
    /// A job as it is now.
    pub fn job_status(&self, id: u64) -> Result<JobStatus> {
        let row: Job = self.catalog.read(|r| r.need(id))?;
        self.status_of(&row)
    }

    /// One job.
    pub fn get_job(&self, id: u64) -> Result<Map> {
        let row: Job = self.catalog.read(|r| r.need(id))?;
        self.job_map(&row)
    }

    /// A job that waits for others is as far as they are.
    fn status_of(&self, row: &Job) -> Result<JobStatus> {
        let mut whole = status(row, self.jobs.live(row.id).as_deref());
        let Some(parts) = row.task.parts().filter(|_| !row.state.ended()) else { return Ok(whole) };
        let parts = self.catalog.read(|r| parts_of(r, parts))?;
        let mut done = 0.0;
        for part in &parts {
            let s = status(part, self.jobs.live(part.id).as_deref());
            whole.bytes_done += s.bytes_done;
            whole.bytes_total += s.bytes_total;
            whole.files_done += s.files_done;
            whole.files_total += s.files_total;
            whole.rate += s.rate;
            done += if part.state.ended() { 1.0 } else { s.progress };
            if part.state == State::Running {
                whole.current_item = s.current_item;
            }
        }
        whole.progress = mean(done, parts.len());
        Ok(whole)
    }

    fn job_map(&self, row: &Job) -> Result<Map> {
        let s = self.status_of(row)?;
        let mut f = Fields::default();
        f.set("id", row.id).set("kind", s.kind).set("state", s.state).set("progress", s.progress);
        f.set("bytes_done", s.bytes_done).set("files_done", s.files_done);
        f.opt("bytes_total", (s.bytes_total > 0).then_some(s.bytes_total));
        f.opt("files_total", (s.files_total > 0).then_some(s.files_total));
        f.opt("rate", (s.rate > 0).then_some(s.rate)).text("current_item", &s.current_item);
        f.time("created_at", Some(row.created_at)).time("started_at", row.started_at);
        f.time("completed_at", row.completed_at).opt("error", row.error.as_deref());
        f.opt("error_name", row.error_kind.map(error_name));
        f.opt("resource", row.resource).opt("backup", row.backup).opt("vault", row.vault);
        f.opt("task", row.task.task().map(|id| id.to_string())).opt("snapshot", row.task.snapshot());
        if row.state.ended() {
            f.set("result", fields::from_json(&row.result));
        }
        Ok(f.done())
    }

    /// Cancels what a job waits for; it ends with the last of it. The last is asked first, so that
    /// none of them begins in the meantime.
    fn cancel_all(&self, parts: &[u64]) -> Result<()> {
        for id in parts.iter().rev() {
            match self.cancel_job(*id, Map::new()) {
                Err(e) if !matches!(e.kind, ErrorKind::InvalidState | ErrorKind::NotFound) => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    /// Lists jobs; finished ones stay listed.
    pub fn list_jobs(&self, options: Map) -> Result<(u64, Vec<Map>)> {
        let mut args = Args::new(options);
        let page = Page::take(&mut args, FIELDS)?;
        let kind = args.choice("kind", KINDS)?;
        let state = args.choice("state", STATES)?;
        let resource = args.string("resource")?;
        let backup = args.uint("backup", 1, u64::MAX)?;
        args.finish()?;
        let (count, rows, paged) = self.catalog.read(|r| {
            let resources = resource.map(|s| select::resources_ever(r, &s)).transpose()?;
            let mut ids = match state.as_deref() {
                None => r.ids::<Job>()?,
                Some("in_progress") => {
                    let mut ids = r.indexed(job::BY_STATE, State::Pending.key())?;
                    ids.extend(r.indexed(job::BY_STATE, State::Running.key())?);
                    ids.sort_unstable();
                    ids
                }
                Some(name) => match State::parse(name) {
                    Some(state) => r.indexed(job::BY_STATE, state.key())?,
                    None => Vec::new(),
                },
            };
            let plain = kind.is_none() && resources.is_none() && backup.is_none();
            if let (true, Some(down)) = (plain, page.by_id()) {
                if down {
                    ids.reverse();
                }
                let (count, ids) = page.slice(ids);
                let rows = ids.into_iter().map(|id| r.need::<Job>(id)).collect::<Result<Vec<_>>>()?;
                return Ok((count, rows, true));
            }
            let mut rows = Vec::new();
            for id in ids {
                let row = r.need::<Job>(id)?;
                if kind.as_deref().is_none_or(|k| row.task.kind() == k)
                    && resources.as_ref().is_none_or(|list| row.resource.is_some_and(|id| list.contains(&id)))
                    && backup.is_none_or(|id| row.backup == Some(id))
                {
                    rows.push(row);
                }
            }
            Ok((rows.len() as u64, rows, false))
        })?;
        let maps: Vec<Map> = rows.iter().map(|row| self.job_map(row)).collect::<Result<_>>()?;
        Ok(if paged { (count, maps) } else { page.cut(maps) })
    }

    /// Cancels a job: at once where it waits, at its next safe point where it runs.
    pub fn cancel_job(&self, id: u64, options: Map) -> Result<()> {
        Args::new(options).finish()?;
        let row: Job = self.catalog.read(|r| r.need(id))?;
        if row.state.ended() {
            return Err(Error::invalid_state(format!("job {id} is {} already", row.state.name())));
        }
        if let Some(parts) = row.task.parts() {
            return self.cancel_all(parts);
        }
        // A job whose row is there is in the queue, or was.
        let guard = locked(&self.submitting);
        let stopped = if !matches!(row.task, Task::Remove { .. }) {
            self.jobs.cancel(id)
        } else if self.jobs.withdraw(id) {
            Stopped::Withdrawn
        } else {
            return Err(Error::invalid_state(format!("job {id} removes a vault, which cannot be left half-way")));
        };
        // What is withdrawn is nobody else's any more.
        drop(guard);
        match stopped {
            Stopped::Withdrawn => self.close(id, Err(Error::cancelled()), None),
            // It ended meanwhile, or is about to say so.
            Stopped::Asked | Stopped::Unknown => {}
        }
        Ok(())
    }
}
