//! Runs of schedules that take snapshots.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::snapretention::group;
use super::snapshots::Wish;
use super::submit::Batch;
use super::{Service, schedules};
use crate::catalog::{Job, Resource, Schedule, Snapshot, State, Tables, Writer};
use crate::model::Result;
use crate::snapshot;

/// Bytes of a schedule's name that are part of a snapshot's.
const NAME: usize = 200;

/// The engines of the resources that a run is about, or why they have none: found out before the
/// catalog is written, since file systems may take their time.
pub(super) type Engines = Vec<(u64, Result<String>)>;

/// What came of planning a run.
#[derive(Debug, Default)]
pub(super) struct Planned {
    pub jobs: Vec<u64>,
    pub made: Vec<u64>,
    pub skipped: Vec<String>,
    pub refused: Vec<String>,
}

/// A name that no snapshot of the resource has.
fn free_name(w: &Writer, resource: &Resource, schedule: &str, now: Timestamp) -> Result<String> {
    let fits = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '-' };
    let begin: String = schedule.chars().map(fits).take(NAME).collect();
    let name = format!("{begin}-{}", now.to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ"));
    let mut number = 1;
    let mut free = name.clone();
    while w.named::<Snapshot>(resource.id, &free)?.is_some() {
        number += 1;
        free = format!("{name}-{number}");
    }
    Ok(free)
}

impl Service {
    /// Finds out how the resources of a schedule would be snapshotted.
    pub(super) fn engines_of(&self, schedule: &Schedule) -> Result<Engines> {
        let covered = self.catalog.read(|r| schedules::covered(r, schedule))?;
        Ok(covered.into_iter().map(|resource| (resource.id, snapshot::engines(&resource.paths))).collect())
    }

    /// Writes the snapshots of a run.
    pub(super) fn plan_snapshot_run(
        &self,
        w: &Writer,
        batch: &mut Batch,
        schedule: &Schedule,
        engines: &Engines,
    ) -> Result<Planned> {
        let (now, mut planned) = (self.now(), Planned::default());
        for resource in schedules::covered(w, schedule)? {
            let earlier = group(w, schedule.id, resource.id)?.into_iter().find(|s| !s.status.ended());
            if let Some(earlier) = earlier {
                planned.skipped.push(format!(
                    "{} was left out, because its earlier snapshot {} is still being taken",
                    resource.name, earlier.id
                ));
                continue;
            }
            let engine = match engines.iter().find(|(id, _)| *id == resource.id) {
                Some((_, Ok(engine))) => engine.clone(),
                // Who takes snapshots of everything means everything that allows it.
                Some((_, Err(e))) if schedule.resources.is_empty() => {
                    planned.skipped.push(format!("{} was left out: {e}", resource.name));
                    continue;
                }
                Some((_, Err(e))) => {
                    planned.refused.push(format!("{} could not be snapshotted: {e}", resource.name));
                    continue;
                }
                // It came just now.
                None => continue,
            };
            let wish = Wish {
                name: free_name(w, &resource, &schedule.name, now)?,
                description: format!("by schedule {}", schedule.name),
                unit_action: resource.unit_action.clone(),
                schedule: Some(schedule.id),
                automatic: true,
                engine,
            };
            let job = w.next_id::<Job>()?;
            let (draft, id) = self.draft_snapshot(w, job, &resource, wish)?;
            w.put(&draft.row(job, now))?;
            batch.push((job, draft.ticket));
            planned.jobs.push(job);
            planned.made.push(id);
        }
        Ok(planned)
    }
}

/// The newest good snapshot of one resource by a schedule.
pub(super) fn newest_good(t: &impl Tables, schedule: u64, resource: u64) -> Result<Option<Snapshot>> {
    let mut rows = group(t, schedule, resource)?;
    rows.retain(|s| s.status == State::Completed);
    Ok(rows.pop())
}
