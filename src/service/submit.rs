//! How jobs come into the queue: the row first, then the work.

use jiff::Timestamp;

use super::{Event, Service, locked};
use crate::catalog::{Job, State, Task, Writer, job};
use crate::jobs::Ticket;
use crate::model::Result;

/// Jobs whose rows are written, and what they need in order to run.
pub(super) type Batch = Vec<(u64, Ticket)>;

/// A job that is to be queued.
#[derive(Debug)]
pub(super) struct Draft {
    pub task: Task,
    pub ticket: Ticket,
    pub resource: Option<u64>,
    pub backup: Option<u64>,
    pub vault: Option<u64>,
}

impl Draft {
    pub fn new(task: Task, ticket: Ticket) -> Self {
        Self { task, ticket, resource: None, backup: None, vault: None }
    }

    /// The row of the job.
    pub fn row(&self, id: u64, now: Timestamp) -> Job {
        Job {
            id,
            task: self.task.clone(),
            state: State::Pending,
            resource: self.resource,
            backup: self.backup,
            vault: self.vault,
            part_of: None,
            created_at: now,
            started_at: None,
            completed_at: None,
            done: job::Done::default(),
            error: None,
            error_kind: None,
            units: Vec::new(),
            frozen: false,
            commands: false,
            result: serde_json::Map::new(),
        }
    }

    /// The row of a job that only waits for others, which is never queued.
    pub fn waiting(&self, id: u64, now: Timestamp) -> Job {
        let row = self.row(id, now);
        Job { state: State::Running, started_at: Some(row.created_at), ..row }
    }
}

impl Service {
    /// Writes what `plan` wants written together with its job's row, and queues the job.
    pub(super) fn submit(&self, plan: impl FnOnce(&Writer) -> Result<Draft>) -> Result<u64> {
        self.submit_with(|w, _| Ok((plan(w)?, ()))).map(|(id, ())| id)
    }

    /// The same for a plan that needs to know the job's id, or gives something back.
    pub(super) fn submit_with<T>(&self, plan: impl FnOnce(&Writer, u64) -> Result<(Draft, T)>) -> Result<(u64, T)> {
        self.submit_all(|w, batch| {
            let id = w.next_id::<Job>()?;
            let (draft, value) = plan(w, id)?;
            w.put(&draft.row(id, self.now()))?;
            batch.push((id, draft.ticket));
            Ok((id, value))
        })
    }

    /// The same for a plan that writes the rows of several jobs, and tells them with their tickets.
    pub(super) fn submit_all<T>(&self, plan: impl FnOnce(&Writer, &mut Batch) -> Result<T>) -> Result<T> {
        let guard = locked(&self.submitting);
        let (batch, value) = self.catalog.write(|w| {
            let mut batch = Batch::new();
            let value = plan(w, &mut batch)?;
            Ok((batch, value))
        })?;
        for (id, ticket) in batch {
            self.emit(Event::JobNew { id });
            if let Some(me) = self.me.upgrade() {
                self.jobs.push(id, ticket, &me);
            }
        }
        drop(guard);
        Ok(value)
    }
}
