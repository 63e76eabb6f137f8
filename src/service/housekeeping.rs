//! Housekeeping: vaults prune by their own cron expression, or soon where space waits to come
//! back, and read everything they hold, share by share, within the days that they were given.

use jiff::Timestamp;

use super::submit::Draft;
use super::{Service, mirrors};
use crate::catalog::vault::Round;
use crate::catalog::{Job, Tables, Task, VaultRow, Writer};
use crate::jobs::{Key, Lane, Ticket, Times};
use crate::model::Result;
use crate::vault::Share;

/// The times of a vault's own prune, in the machine's time zone.
pub(super) fn prune_times(row: &VaultRow) -> Result<Option<Times>> {
    row.prune.as_ref().map(|cron| Times::parse(cron, "").map_err(|e| e.context("prune"))).transpose()
}

/// Has the space of what nothing refers to come back soon.
pub(super) fn prune_soon(w: &Writer, vault: u64, now: Timestamp) -> Result<()> {
    if let Some(row) = w.get::<VaultRow>(vault)? {
        w.put(&VaultRow { prune_due: Some(now), ..row })?;
    }
    Ok(())
}

/// The next share of the vault to be read, and when; nothing where it is not to be read by itself.
fn verify_due(row: &VaultRow, now: Timestamp) -> Option<(Timestamp, Share)> {
    let days = row.verify_within?;
    // A clock that was set back leaves nothing waiting for what is far ahead now.
    let round = row.round.unwrap_or(Round::new(row.last_read.unwrap_or(row.created_at))).sane(days, now);
    let due = round.due(days);
    let again =
        row.verify_tried.filter(|tried| *tried <= now).and_then(|tried| tried.checked_add(Round::pause(days)).ok());
    Some((again.map_or(due, |again| due.max(again)), round.share(days, now)))
}

fn draft(t: &impl Tables, row: &VaultRow, task: Task) -> Result<Draft> {
    let key = vec![Key::Vault(row.id)];
    let ticket = match task {
        Task::Prune { .. } => Ticket { exclusive: key, ..Ticket::free(Lane::Maintenance) },
        _ => mirrors::verify_ticket(t, row)?,
    };
    Ok(Draft { vault: Some(row.id), ..Draft::new(task, ticket) })
}

impl Service {
    /// Prunes and checks what is due.
    pub(super) fn tick_housekeeping(&self, now: Timestamp) -> Result<Option<Timestamp>> {
        let mut next = None;
        for row in self.catalog.read(Tables::all::<VaultRow>)?.into_iter().filter(|v| !v.removing && !v.emptied) {
            let (times, mut prune, verify) = (prune_times(&row)?, row.prune_due, verify_due(&row, now));
            let coming = times.as_ref().and_then(|t| t.next(now));
            // A clock that was set back does not leave it waiting for what is far ahead now.
            if prune.is_none_or(|due| due > now) && coming != prune {
                prune = [prune, coming].into_iter().flatten().min();
                if prune != row.prune_due {
                    self.catalog.write(|w| {
                        w.update::<VaultRow>(row.id, |v| {
                            v.prune_due = prune;
                            Ok(())
                        })
                    })?;
                }
            }
            if prune.is_some_and(|due| due <= now) {
                self.keep_house(&row, Task::Prune { dry_run: false }, |v| v.prune_due = coming)?;
                prune = coming;
            }
            let mut check = verify.map(|(due, _)| due);
            if let Some((_, share)) = verify.filter(|(due, _)| *due <= now) {
                let task = Task::Verify { read_data: true, repair: false, share: Some(share) };
                self.keep_house(&row, task, |v| {
                    v.verify_tried = Some(now);
                    let round = v.round.unwrap_or(Round::new(v.last_read.unwrap_or(v.created_at)));
                    v.round = Some(round.sane(v.verify_within.unwrap_or_default(), now));
                })?;
                // Its end wakes the clock; if it comes to nothing, it is tried again.
                check = now.checked_add(Round::pause(row.verify_within.unwrap_or_default())).ok();
            }
            next = [next, prune, check].into_iter().flatten().min();
        }
        Ok(next)
    }

    /// Queues a job of a vault, unless one like it waits already, and notes when.
    fn keep_house(&self, vault: &VaultRow, task: Task, note: impl FnOnce(&mut VaultRow)) -> Result<()> {
        self.submit_all(|w, batch| {
            let Some(mut row) = w.get::<VaultRow>(vault.id)?.filter(|v| !v.removing && !v.emptied) else {
                return Ok(());
            };
            note(&mut row);
            w.put(&row)?;
            let open = super::resources::open_jobs(w)?;
            let reads = |task: &Task| matches!(task, Task::Verify { read_data: true, .. });
            let alike = |other: &Task| *other == task || (reads(other) && reads(&task));
            if open.iter().any(|j| j.vault == Some(row.id) && j.backup.is_none() && alike(&j.task)) {
                return Ok(());
            }
            tracing::info!("vault {:?}: {} is due", row.name, task.kind());
            let (id, draft) = (w.next_id::<Job>()?, draft(w, &row, task)?);
            w.put(&draft.row(id, self.now()))?;
            batch.push((id, draft.ticket));
            Ok(())
        })
    }
}
