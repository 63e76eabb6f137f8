//! Retention of snapshots that schedules take, per resource and schedule, as that of backups.
//!
//! When each of them goes is planned again whenever something changes that decides it, and stands in
//! its row. Those of a schedule that was removed stay until somebody deletes them.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::fields::Fields;
use super::retention::{AGAIN, FAILED_DAYS, decide};
use super::snapshots;
use super::{Event, ObjectKind, Service};
use crate::catalog::backup::group as key;
use crate::catalog::schedule::What;
use crate::catalog::{Job, Schedule, Snapshot, State, Tables, Writer, snapshot as index};
use crate::jobs::retention::{self, Candidate, Decision};
use crate::model::{Error, ErrorKind, Map, Result};

/// Those of one resource by one schedule, oldest first.
pub(super) fn group(t: &impl Tables, schedule: u64, resource: u64) -> Result<Vec<Snapshot>> {
    let mut rows = t.rows_at::<Snapshot>(index::BY_SCHEDULE, key(schedule, resource))?;
    rows.retain(|s| !s.deleting && s.resource == resource && s.schedule == Some(schedule));
    Ok(rows)
}

fn plan(schedule: &Schedule, rows: &[Snapshot], now: Timestamp) -> Result<Vec<Decision>> {
    let good = rows.iter().filter(|s| s.status == State::Completed);
    decide(Some(schedule), good.map(|s| Candidate { id: s.id, at: s.created_at, protected: false }).collect(), now)
}

/// The resources of which a schedule has snapshots.
fn resources(t: &impl Tables, schedule: u64) -> Result<BTreeSet<u64>> {
    let ids = t.between(index::BY_SCHEDULE, key(schedule, 0), key(schedule, u64::MAX))?;
    ids.into_iter().map(|id| t.need::<Snapshot>(id).map(|row| row.resource)).collect()
}

/// Writes down when each snapshot of a group goes; answers those that have to go now.
pub(super) fn replan(w: &Writer, schedule: u64, resource: u64, now: Timestamp) -> Result<Vec<u64>> {
    let rows = group(w, schedule, resource)?;
    let Some(schedule) = w.get::<Schedule>(schedule)? else {
        // It was removed, and with it every reason to delete.
        for row in rows.into_iter().filter(|s| s.expires_at.is_some()) {
            w.put(&Snapshot { expires_at: None, ..row })?;
        }
        return Ok(Vec::new());
    };
    let decisions = plan(&schedule, &rows, now)?;
    let mut gone = Vec::new();
    for row in rows {
        let expires = match decisions.iter().find(|d| d.id == row.id) {
            Some(decision) if decision.keep => decision.expires,
            Some(_) => Some(row.expires_at.filter(|e| *e <= now).unwrap_or(now)),
            None if row.status.ended() => retention::later(row.created_at, schedule.keep.days.unwrap_or(FAILED_DAYS)),
            None => None,
        };
        if expires.is_some_and(|e| e <= now) {
            gone.push(row.id);
        }
        if expires != row.expires_at {
            w.put(&Snapshot { expires_at: expires, ..row })?;
        }
    }
    Ok(gone)
}

/// Plans every group of a schedule again.
pub(super) fn replan_schedule(w: &Writer, schedule: u64, now: Timestamp) -> Result<()> {
    resources(w, schedule)?.into_iter().try_for_each(|resource| replan(w, schedule, resource, now).map(drop))
}

/// The same after a job about one of them ended.
pub(super) fn follow(w: &Writer, job: &Job, now: Timestamp) -> Result<()> {
    let row = job.task.snapshot().map(|id| w.get::<Snapshot>(id)).transpose()?.flatten();
    match row.and_then(|row| row.schedule.map(|schedule| (schedule, row.resource))) {
        Some((schedule, resource)) => replan(w, schedule, resource, now).map(drop),
        None => Ok(()),
    }
}

impl Service {
    /// What becomes of every snapshot of a schedule.
    pub(super) fn plan_snapshots(&self, t: &impl Tables, schedule: &Schedule) -> Result<Vec<Map>> {
        let mut maps = Vec::new();
        if schedule.what != What::Snapshot {
            return Ok(maps);
        }
        for resource in resources(t, schedule.id)? {
            let rows = group(t, schedule.id, resource)?;
            for decision in plan(schedule, &rows, self.now())? {
                let Some(row) = rows.iter().find(|s| s.id == decision.id) else { continue };
                let mut f = Fields::default();
                f.set("snapshot", row.id).set("resource", row.resource_name.as_str());
                f.time("created_at", Some(row.created_at)).set("keep", decision.keep);
                f.set("reason", decision.reason).time("expires_at", decision.expires);
                maps.push(f.done());
            }
        }
        Ok(maps)
    }

    /// Deletes what retention lets go.
    pub(super) fn tick_snapshots(&self, now: Timestamp) -> Result<Option<Timestamp>> {
        let due = self.catalog.read(|r| {
            let mut groups = BTreeSet::new();
            for id in r.between(index::EXPIRING, 0, u64::try_from(now.as_microsecond()).unwrap_or(0))? {
                let row = r.need::<Snapshot>(id)?;
                groups.extend(row.schedule.map(|schedule| (schedule, row.resource)));
            }
            Ok(groups)
        })?;
        for (schedule, resource) in due {
            let gone = self.submit_all(|w, batch| {
                let mut gone = 0;
                for id in replan(w, schedule, resource, now)? {
                    let draft = match snapshots::draft_delete(w, id) {
                        Ok((draft, _)) => draft,
                        // It is being restored.
                        Err(e) if e.kind == ErrorKind::InvalidState => continue,
                        Err(e) => return Err::<_, Error>(e),
                    };
                    let job = w.next_id::<Job>()?;
                    w.put(&draft.row(job, now))?;
                    batch.push((job, draft.ticket));
                    gone += 1;
                }
                Ok(gone)
            })?;
            if gone > 0 {
                tracing::info!(resource, "{gone} snapshots of resource {resource} have expired and are deleted");
                self.emit(Event::ObjectChanged { kind: ObjectKind::Resource, id: resource });
            }
        }
        let next = self.catalog.read(|r| r.lowest(index::EXPIRING))?;
        let next = next.and_then(|key| Timestamp::from_microsecond(i64::try_from(key).ok()?).ok());
        Ok(next.map(|next| if next <= now { now.saturating_add(AGAIN).unwrap_or(now) } else { next }))
    }
}
