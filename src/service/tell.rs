//! Telling people: of backups that failed, and of schedules that are overdue.

use jiff::{SignedDuration, Timestamp};

use super::fields::time;
use super::jobs::error_name;
use super::{Event, ObjectKind, Service, locked, schedules};
use crate::catalog::{Backup, Job, Schedule, Snapshot, State, Tables, Task};
use crate::host::alert;
use crate::model::Result;

/// What is overdue is looked for no more often than this.
const LOOK: SignedDuration = SignedDuration::from_secs(10);

impl Service {
    /// Starts the notification unit for a failed backup whose schedule wants that.
    pub(super) fn tell_failure(&self, job: u64) {
        let found = self.catalog.read(|r| {
            let job: Job = r.need(job)?;
            if let (Task::Snapshot { snapshot }, State::Failed) = (&job.task, job.state) {
                self.tell_snapshot(r, &job, *snapshot)?;
            }
            let (Task::Backup { .. }, State::Failed, Some(backup)) = (&job.task, job.state, job.backup) else {
                return Ok(None);
            };
            let backup: Backup = r.need(backup)?;
            let schedule = backup.schedule.map(|id| r.get::<Schedule>(id)).transpose()?.flatten();
            Ok(schedule.filter(|s| s.notify_on_failure).map(|s| (job, backup, s)))
        });
        match found {
            Ok(Some((job, backup, schedule))) => {
                let facts = [
                    ("EVENT", "backup-failed".to_owned()),
                    ("JOB", job.id.to_string()),
                    ("BACKUP", backup.id.to_string()),
                    ("RESOURCE", backup.resource_name),
                    ("PROJECT", backup.project_name),
                    ("VAULT", backup.vault_name),
                    ("SCHEDULE", schedule.name),
                    ("MACHINE", self.machine().name),
                    ("TIME", time(self.now())),
                    ("ERROR", job.error.unwrap_or_default()),
                    ("ERROR_NAME", job.error_kind.map(error_name).unwrap_or_default().to_owned()),
                ];
                alert::start(&job.id.to_string(), &facts);
            }
            Ok(None) => {}
            Err(e) => tracing::error!("nobody is notified of job {job}: {e}"),
        }
    }

    /// The same for a snapshot.
    fn tell_snapshot(&self, t: &impl Tables, job: &Job, id: u64) -> Result<()> {
        let row: Snapshot = t.need(id)?;
        let schedule = row.schedule.map(|id| t.get::<Schedule>(id)).transpose()?.flatten();
        let Some(schedule) = schedule.filter(|s| s.notify_on_failure) else { return Ok(()) };
        let facts = [
            ("EVENT", "snapshot-failed".to_owned()),
            ("JOB", job.id.to_string()),
            ("SNAPSHOT", row.id.to_string()),
            ("RESOURCE", row.resource_name),
            ("SCHEDULE", schedule.name),
            ("MACHINE", self.machine().name),
            ("TIME", time(self.now())),
            ("ERROR", job.error.clone().unwrap_or_default()),
            ("ERROR_NAME", job.error_kind.map(error_name).unwrap_or_default().to_owned()),
        ];
        alert::start(&job.id.to_string(), &facts);
        Ok(())
    }

    /// Notices, once, that a schedule has become overdue, or is well again.
    pub(super) fn tick_overdue(&self, now: Timestamp) -> Result<Option<Timestamp>> {
        let mut looked = locked(&self.overdue_looked);
        // A clock that was set back does not keep us from looking.
        if looked.is_some_and(|last| last <= now && now.duration_since(last) < LOOK) {
            // The clock asks again before long, whatever we say.
            return Ok(None);
        }
        *looked = Some(now);
        drop(looked);
        for row in self.catalog.read(Tables::all::<Schedule>)? {
            let late = self.catalog.read(|r| schedules::overdue(r, &row, now))?;
            if late.is_empty() != row.overdue {
                continue;
            }
            let names = late.iter().map(|r| r.name.as_str()).collect::<Vec<_>>().join(", ");
            self.catalog.write(|w| {
                if let Some(mut row) = w.get::<Schedule>(row.id)? {
                    row.overdue = !late.is_empty();
                    w.put(&row)?;
                }
                Ok(())
            })?;
            self.emit(Event::ObjectChanged { kind: ObjectKind::Schedule, id: row.id });
            if late.is_empty() {
                tracing::info!("schedule {:?} is no longer overdue", row.name);
                continue;
            }
            tracing::warn!("schedule {:?} is overdue: no good {} in time of {names}", row.name, row.what.name());
            if row.notify_on_failure {
                let facts = [
                    ("EVENT", "overdue".to_owned()),
                    ("SCHEDULE", row.name.clone()),
                    ("RESOURCE", names),
                    ("MACHINE", self.machine().name),
                    ("TIME", time(now)),
                ];
                alert::start(&format!("overdue-{}", row.id), &facts);
            }
        }
        Ok(None)
    }
}
