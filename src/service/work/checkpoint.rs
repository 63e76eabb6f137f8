//! Jobs that wait for others, without a thread and outside of every lane: the last of their parts
//! to end ends them too.

use std::collections::BTreeMap;

use serde_json::json;

use super::Report;
use crate::catalog::{Backup, Checkpoint, Job, State, Tables, Task, backup, checkpoint};
use crate::model::{Error, ErrorKind, Result};
use crate::service::jobs::parts_of;
use crate::service::{Service, locked};

/// Whether a job and all its parts have ended, as far as they are known.
fn settled(t: &impl Tables, job: &Job) -> Result<bool> {
    // The last one first: it is likeliest to be open, and one is enough.
    for id in job.task.parts().unwrap_or_default().iter().rev() {
        if t.get::<Job>(*id)?.is_some_and(|part| !part.state.ended()) {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Service {
    /// Ends a job that waits for others, if they have all ended.
    pub(in crate::service) fn settle(&self, id: u64) {
        let _once = locked(&self.settling);
        let due = self.catalog.read(|r| {
            let row = r.get::<Job>(id)?.filter(|row| !row.state.ended());
            match row {
                Some(row) if settled(r, &row)? => Ok(Some(row)),
                _ => Ok(None),
            }
        });
        match due {
            Ok(Some(job)) => self.close(id, self.sum_up(&job), None),
            Ok(None) => {}
            // The next start finds it open, and asks again.
            Err(e) => tracing::error!("job {id} cannot be ended: {e}"),
        }
    }

    /// What came of a job's parts.
    pub(super) fn sum_up(&self, job: &Job) -> Result<Report> {
        match &job.task {
            Task::Checkpoint { checkpoint, .. } => self.sum_up_backups(*checkpoint),
            Task::DeleteCheckpoint { checkpoint, parts } => self.sum_up_deletions(*checkpoint, parts),
            _ => Err(Error::failed(format!("job {} does not wait for others", job.id))),
        }
    }

    /// What counts are the backups themselves: a backup that a crash left in doubt is looked for in
    /// its vault, whatever became of its job.
    fn sum_up_backups(&self, id: u64) -> Result<Report> {
        let (row, backups) = self.catalog.read(|r| {
            let row = r.get::<Checkpoint>(id)?;
            Ok((row, r.rows_at::<Backup>(backup::BY_CHECKPOINT, id)?))
        })?;
        let Some(row) = row else { return Ok(Report::default()) };
        let mut counts: BTreeMap<State, u64> = BTreeMap::new();
        for backup in &backups {
            *counts.entry(backup.status).or_default() += 1;
        }
        let count = |state| counts.get(&state).copied().unwrap_or_default();
        let mut report = Report::of(json!({
            "checkpoint": id, "backups": row.members.len(), "completed": count(State::Completed),
            "failed": count(State::Failed), "cancelled": count(State::Cancelled), "skipped": row.skipped.len(),
        }));
        let first = |state| backups.iter().find(|b| b.status == state);
        report.error = if row.members.is_empty() {
            let why = row.skipped.first().map(|s| s.reason.as_str()).unwrap_or_default();
            Some(Error::invalid_state(format!("every resource was skipped, the first because {why}")))
        } else if let Some(failed) = first(State::Failed) {
            Some(Error::failed(format!(
                "{} of {} backups failed, the first of {:?}: {}",
                count(State::Failed),
                row.members.len(),
                failed.resource_name,
                failed.error.as_deref().unwrap_or("it does not say why")
            )))
        } else {
            first(State::Cancelled).map(|_| Error::cancelled())
        };
        Ok(report)
    }

    fn sum_up_deletions(&self, id: u64, parts: &[u64]) -> Result<Report> {
        let (left, parts) = self.catalog.read(|r| Ok((r.indexed(backup::BY_CHECKPOINT, id)?, parts_of(r, parts)?)))?;
        let mut report = Report::of(json!({ "checkpoint": id, "backups_left": left.len() }));
        if left.is_empty() {
            return Ok(report.then(move |w| checkpoint::remove_empty(w, id)));
        }
        let failed = parts.into_iter().find(|p| p.state == State::Failed);
        report.error = Some(match failed {
            Some(part) => Error::new(
                part.error_kind.unwrap_or(ErrorKind::Failed),
                format!("{} of its backups are left: {}", left.len(), part.error.unwrap_or_default()),
            ),
            None => Error::cancelled(),
        });
        Ok(report)
    }
}
