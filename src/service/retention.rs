//! Retention: what becomes of automatic backups, per resource and schedule.
//!
//! Whenever something changes that decides it (a backup ends or goes, is protected, the schedule
//! is changed), the group is planned again in the same transaction, and each backup carries when it
//! goes. What is due is planned once more before it is deleted, by the way every backup is deleted.
//! Backups of a schedule that was removed stay until somebody deletes them.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::fields::Fields;
use super::{Service, backups, select, snapretention};
use crate::catalog::{
    Backup, Destination, Job, Keep, Resource, Schedule, State, Tables, VaultRow, Writer, backup as index,
};
use crate::jobs::retention::{self, Candidate, Decision};
use crate::jobs::{Times, cron};
use crate::model::{Error, ErrorKind, Map, Result};

/// What is due and cannot go yet is looked at again after this long.
pub(super) const AGAIN: SignedDuration = SignedDuration::from_mins(1);
/// Failed backups go after so many days where their schedule names none.
pub(super) const FAILED_DAYS: u32 = 30;

/// The automatic backups of one resource by one schedule, oldest first.
fn group(t: &impl Tables, schedule: u64, resource: u64) -> Result<Vec<Backup>> {
    let mut rows = t.rows_at::<Backup>(index::BY_SCHEDULE, index::group(schedule, resource))?;
    rows.retain(|b| !b.deleting && b.resource == resource && b.schedule.unwrap_or(0) == schedule);
    Ok(rows)
}

/// Automatic backups beyond the number that the only destination of a vault keeps. The newest of
/// each resource stays, as under every other rule. Of several destinations a limit is a mirror's,
/// and only the copies there go.
fn over_limit(t: &impl Tables, vault: u64) -> Result<BTreeSet<u64>> {
    let mut over = BTreeSet::new();
    let place = match t.get::<VaultRow>(vault)? {
        Some(row) if row.mirrors.is_empty() => row.destinations.first().copied(),
        _ => None,
    };
    let Some(place) = place.map(|id| t.get::<Destination>(id)).transpose()?.flatten() else { return Ok(over) };
    let Some(limit) = place.max_backups.and_then(|limit| usize::try_from(limit).ok()) else { return Ok(over) };
    let mut rows = t.rows_at::<Backup>(index::GOOD_BY_VAULT, vault)?;
    rows.sort_by_key(|row| std::cmp::Reverse((row.created_at, row.id)));
    let mut newest = BTreeSet::new();
    for (i, row) in rows.iter().enumerate() {
        let last = row.copy_of.is_none() && newest.insert(row.resource);
        let goes = row.backup_type == "automatic" && row.checkpoint.is_none() && !row.protected;
        if i >= limit && goes && !last {
            over.insert(row.id);
        }
    }
    Ok(over)
}

/// What becomes of the good ones of a group.
fn decide_backups(
    t: &impl Tables,
    schedule: Option<&Schedule>,
    rows: &[Backup],
    now: Timestamp,
) -> Result<Vec<Decision>> {
    let good = rows.iter().filter(|b| b.status == State::Completed);
    let candidates = good.map(|b| Candidate { id: b.id, at: b.created_at, protected: b.protected }).collect();
    let mut decisions = decide(schedule, candidates, now)?;
    let mut over = BTreeSet::new();
    for vault in rows.iter().map(|row| row.vault).collect::<BTreeSet<_>>() {
        over.append(&mut over_limit(t, vault)?);
    }
    for decision in decisions.iter_mut().filter(|d| d.keep && over.contains(&d.id)) {
        (decision.keep, decision.reason, decision.expires) = (false, "max_backups of the destination", Some(now));
    }
    Ok(decisions)
}

/// What becomes of the candidates of one resource.
pub(super) fn decide(schedule: Option<&Schedule>, candidates: Vec<Candidate>, now: Timestamp) -> Result<Vec<Decision>> {
    let (keep, times) = match schedule {
        None => (Keep::default(), None),
        Some(s) => (s.keep, Some(Times::parse(&s.cron, &s.timezone)?).filter(|_| s.enabled)),
    };
    let zone = cron::zone(schedule.map_or("", |s| &s.timezone))?;
    Ok(retention::plan(&keep, &zone, &candidates, now, times.as_ref()))
}

/// Writes down when each backup of the group of `of` goes; answers those that have to go now.
pub(super) fn replan(w: &Writer, of: &Backup, now: Timestamp) -> Result<Vec<u64>> {
    if of.backup_type != "automatic" || of.checkpoint.is_some() {
        return Ok(Vec::new());
    }
    let schedule = of.schedule.map(|id| w.get::<Schedule>(id)).transpose()?;
    let rows = group(w, of.schedule.unwrap_or(0), of.resource)?;
    let schedule = match &schedule {
        None => None,
        Some(Some(schedule)) => Some(schedule),
        // It was removed, and with it every reason to delete.
        Some(None) => {
            for row in rows.into_iter().filter(|b| b.expires_at.is_some()) {
                w.put(&Backup { expires_at: None, ..row })?;
            }
            return Ok(Vec::new());
        }
    };
    let decisions = decide_backups(w, schedule, &rows, now)?;
    let failed_days = schedule.and_then(|s| s.keep.days).unwrap_or(FAILED_DAYS);
    let mut gone = Vec::new();
    for row in rows {
        let expires = match decisions.iter().find(|d| d.id == row.id) {
            Some(decision) if decision.keep => decision.expires,
            Some(_) => Some(row.expires_at.filter(|e| *e <= now).unwrap_or(now)),
            None if row.status.ended() && !row.protected => retention::later(row.created_at, failed_days),
            None => None,
        };
        if expires.is_some_and(|e| e <= now) {
            gone.push(row.id);
        }
        if expires != row.expires_at {
            w.put(&Backup { expires_at: expires, ..row })?;
        }
    }
    Ok(gone)
}

/// Plans again what a vault's only destination has no place for.
pub(super) fn replan_vault(w: &Writer, vault: u64, now: Timestamp) -> Result<()> {
    let mut seen = BTreeSet::new();
    for id in over_limit(w, vault)? {
        let row = w.need::<Backup>(id)?;
        if seen.insert((row.schedule, row.resource)) {
            replan(w, &row, now)?;
        }
    }
    Ok(())
}

/// Plans every group of a schedule again.
pub(super) fn replan_schedule(w: &Writer, schedule: u64, now: Timestamp) -> Result<()> {
    snapretention::replan_schedule(w, schedule, now)?;
    let ids = w.between(index::BY_SCHEDULE, index::group(schedule, 0), index::group(schedule, u64::MAX))?;
    let mut seen = BTreeSet::new();
    for id in ids {
        let row = w.need::<Backup>(id)?;
        if seen.insert(row.resource) {
            replan(w, &row, now)?;
        }
    }
    Ok(())
}

impl Service {
    /// What becomes of every backup of a schedule, newest first by resource.
    pub fn plan_retention(&self, selector: &str) -> Result<Vec<Map>> {
        self.catalog.read(|r| {
            let schedule = select::schedule(r, selector)?;
            let (low, high) = (index::group(schedule.id, 0), index::group(schedule.id, u64::MAX));
            let mut resources = BTreeSet::new();
            for id in r.between(index::BY_SCHEDULE, low, high)? {
                resources.insert(r.need::<Backup>(id)?.resource);
            }
            let mut maps = self.plan_snapshots(r, &schedule)?;
            for resource in resources {
                let rows = group(r, schedule.id, resource)?;
                let name = r.get::<Resource>(resource)?.map(|r| r.name);
                for decision in decide_backups(r, Some(&schedule), &rows, self.now())? {
                    let Some(row) = rows.iter().find(|b| b.id == decision.id) else { continue };
                    let mut f = Fields::default();
                    f.set("backup", row.id).set("resource", name.as_deref().unwrap_or(&row.resource_name));
                    f.time("created_at", Some(row.created_at)).set("keep", decision.keep);
                    f.set("reason", decision.reason).time("expires_at", decision.expires);
                    maps.push(f.done());
                }
            }
            Ok(maps)
        })
    }

    /// Deletes what retention lets go.
    pub(super) fn tick_retention(&self, now: Timestamp) -> Result<Option<Timestamp>> {
        let due = self.catalog.read(|r| {
            let mut groups: Vec<Backup> = Vec::new();
            for id in r.between(index::EXPIRING, 0, u64::try_from(now.as_microsecond()).unwrap_or(0))? {
                let row = r.need::<Backup>(id)?;
                if !groups.iter().any(|b| (b.schedule, b.resource) == (row.schedule, row.resource)) {
                    groups.push(row);
                }
            }
            Ok(groups)
        })?;
        for of in due {
            let gone = self.submit_all(|w, batch| {
                let mut gone = Vec::new();
                for id in replan(w, &of, now)? {
                    let draft = match backups::draft_delete(w, id) {
                        Ok(draft) => draft,
                        // It is being read, or its vault is on its way out.
                        Err(e) if e.kind == ErrorKind::InvalidState => {
                            tracing::debug!("backup {id} has expired and goes later: {e}");
                            continue;
                        }
                        Err(e) => return Err::<_, Error>(e),
                    };
                    let job = w.next_id::<Job>()?;
                    w.put(&draft.row(job, now))?;
                    batch.push((job, draft.ticket));
                    gone.push(id);
                }
                Ok(gone)
            })?;
            for id in gone {
                tracing::info!(backup = id, resource = of.resource, "backup {id} has expired and is deleted");
                self.hide(id);
            }
        }
        let next = self.catalog.read(|r| r.lowest(index::EXPIRING))?;
        let next = next.and_then(|key| Timestamp::from_microsecond(i64::try_from(key).ok()?).ok());
        Ok(next.map(|next| if next <= now { now.saturating_add(AGAIN).unwrap_or(now) } else { next }))
    }
}
