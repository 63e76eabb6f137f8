//! What the journal is told about jobs: lines for people, with fields and message ids for
//! programs (`docs/journal.md`).

use super::Service;
use crate::catalog::{Job, Resource, State, Tables, Task};
use crate::model::{Result, message};

/// What is said of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct About {
    job: u64,
    kind: &'static str,
    backup: Option<u64>,
    /// The resource's name.
    resource: Option<String>,
    /// Whether it makes a backup.
    makes: bool,
}

impl About {
    /// A job's own facts.
    pub fn of(t: &impl Tables, row: &Job) -> Result<Self> {
        let resource = row.resource.map(|id| t.get::<Resource>(id)).transpose()?.flatten();
        Ok(Self {
            job: row.id,
            kind: row.task.kind(),
            backup: row.backup,
            resource: resource.map(|r| r.name),
            makes: matches!(row.task, Task::Backup { .. }),
        })
    }

    /// ` of web`, where it is of something.
    fn whose(&self) -> String {
        self.resource.as_ref().map(|name| format!(" of {name}")).unwrap_or_default()
    }

    /// It begins.
    pub fn started(&self) {
        tracing::info!(
            message_id = message::JOB_STARTED,
            strongroom_job = self.job,
            strongroom_kind = self.kind,
            strongroom_backup = self.backup,
            strongroom_resource = self.resource,
            "job {} ({}{}) started",
            self.job,
            self.kind,
            self.whose()
        );
    }

    /// It ended. `why` is empty unless it failed.
    pub fn ended(&self, state: State, why: &str) {
        if state == State::Failed {
            tracing::warn!(
                message_id = message::JOB_FAILED,
                strongroom_job = self.job,
                strongroom_kind = self.kind,
                strongroom_backup = self.backup,
                strongroom_resource = self.resource,
                strongroom_result = state.name(),
                strongroom_error = why,
                "job {} ({}{}) failed: {why}",
                self.job,
                self.kind,
                self.whose()
            );
        } else {
            tracing::info!(
                message_id = message::JOB_FINISHED,
                strongroom_job = self.job,
                strongroom_kind = self.kind,
                strongroom_backup = self.backup,
                strongroom_resource = self.resource,
                strongroom_result = state.name(),
                "job {} ({}{}) {}",
                self.job,
                self.kind,
                self.whose(),
                state.name()
            );
        }
        if let (true, Some(backup)) = (self.makes, self.backup) {
            self.backup_ended(backup, state, why);
        }
    }

    fn backup_ended(&self, backup: u64, state: State, why: &str) {
        match state {
            State::Completed => tracing::info!(
                message_id = message::BACKUP_COMPLETED,
                strongroom_job = self.job,
                strongroom_backup = backup,
                strongroom_resource = self.resource,
                "backup {backup}{} completed",
                self.whose()
            ),
            State::Failed => tracing::error!(
                message_id = message::BACKUP_FAILED,
                strongroom_job = self.job,
                strongroom_backup = backup,
                strongroom_resource = self.resource,
                strongroom_error = why,
                "backup {backup}{} failed: {why}",
                self.whose()
            ),
            _ => {}
        }
    }
}

impl Service {
    /// One line for `systemctl status`: what runs, what waits, and what comes next.
    pub fn summary(&self) -> String {
        let running = self.catalog.read(|r| {
            let rows = r.rows_at::<Job>(crate::catalog::job::BY_STATE, State::Running.key())?;
            rows.iter().map(|row| About::of(r, row)).collect::<Result<Vec<_>>>()
        });
        let mut parts: Vec<String> = running.unwrap_or_default().iter().map(|about| self.at_work(about)).collect();
        if parts.is_empty() {
            parts.push("idle".to_owned());
        }
        match self.queued_jobs() {
            0 => {}
            waiting => parts.push(format!("{waiting} waiting")),
        }
        parts.extend(self.upcoming().map(|next| format!("next: {next}")));
        parts.join("; ")
    }

    fn at_work(&self, about: &About) -> String {
        let progress = self.job_status(about.job).map(|s| s.progress).unwrap_or_default();
        let share = if progress > 0.0 { format!(" {:.0} %", progress * 100.0) } else { String::new() };
        format!("{}{}{share} (job {})", about.kind, about.whose(), about.job)
    }

    /// What will run next by schedule, and when, as in `nightly at 2026-03-01 02:00 UTC`.
    fn upcoming(&self) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_messages_are_what_the_journal_takes_and_all_different() {
        let mut ids = [
            message::READY,
            message::JOB_STARTED,
            message::JOB_FINISHED,
            message::JOB_FAILED,
            message::BACKUP_COMPLETED,
            message::BACKUP_FAILED,
            message::MOUNT_FAILED,
        ];
        let documented = include_str!("../../docs/journal.md");
        for id in ids {
            assert!(id.len() == 32 && id.bytes().all(|b| b"0123456789abcdef".contains(&b)), "{id}");
            assert!(documented.contains(id), "{id} is not in docs/journal.md");
        }
        ids.sort_unstable();
        assert!(ids.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
