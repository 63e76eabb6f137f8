//! Bringing the mirrors of a vault up to date, all at once: a slow one delays none of the others.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::Report;
use crate::catalog::{Backup, Destination, Job, Tables, VaultRow, Writer, backup};
use crate::model::{Error, ErrorKind, Id, Progress, Result};
use crate::service::{Event, ObjectKind, Service, mirrors};
use crate::store::Patience;
use crate::vault::{self, Mirror, SyncReport, Vault};

/// Problems listed in a job's result, for each mirror.
const LISTED: usize = 100;
/// With so many backups those that have not changed for as many are not looked at again.
const UNCHANGED: usize = 2000;

struct Done {
    place: Destination,
    over: Option<HashSet<Id>>,
    first: bool,
    result: Result<SyncReport>,
}

impl Service {
    pub(super) fn run_sync(&self, job: &Job, only: Option<u64>, progress: &Arc<Progress>) -> Result<Report> {
        let id = job.vault.ok_or_else(|| Error::failed("the job names no vault"))?;
        // What changes from here on makes them be behind again.
        let row = self.catalog.write(|w| {
            let mut row: VaultRow = w.need(id)?;
            let mut before = row.clone();
            before.mirrors.retain(|id, _| only.is_none_or(|only| only == *id));
            row.mirrors
                .iter_mut()
                .filter(|(id, _)| before.mirrors.contains_key(*id))
                .for_each(|(_, m)| m.behind = false);
            w.put(&row)?;
            Ok(before)
        })?;
        if row.mirrors.is_empty() {
            return Ok(Report::of(json!({
                "copied": 0,
                "message": format!("vault {:?} has no mirror to bring up to date", row.name),
            })));
        }
        let done = match self.sync_all(job, &row, progress) {
            Ok(done) => done,
            // The mirrors are not to blame.
            Err(e) => {
                let now = self.now();
                self.catalog.write(|w| {
                    row.mirrors.keys().try_for_each(|mirror| {
                        note(w, id, *mirror, |mirror| {
                            (mirror.behind, mirror.tried_at) = (true, Some(now));
                            mirror.failures = mirror.failures.saturating_add(1);
                        })
                    })
                })?;
                return Err(e);
            }
        };
        progress.set_current("");
        let cancelled = progress.check();
        self.note_done(&row, &done, cancelled.is_err())?;
        self.renew_mirrors(id);
        for done in &done {
            self.emit(Event::ObjectChanged { kind: ObjectKind::Destination, id: done.place.id });
        }
        self.emit(Event::ObjectChanged { kind: ObjectKind::Vault, id });
        cancelled?;
        Ok(report(&row, &done))
    }

    fn sync_all(&self, job: &Job, row: &VaultRow, progress: &Arc<Progress>) -> Result<Vec<Done>> {
        let (_, open) = self.vault_of_job(job)?;
        let wanted = self.catalog.read(|r| {
            let mut wanted = Vec::new();
            for (id, mirror) in &row.mirrors {
                let Some(place) = r.get::<Destination>(*id)? else { continue };
                wanted.push((mirrors::over(r, row.id, &place)?, place, mirror.joined));
            }
            Ok(wanted)
        })?;
        Ok(std::thread::scope(|scope| {
            let vault = &open.vault;
            let begun = wanted.into_iter().map(|(over, place, joined)| {
                scope.spawn(move || {
                    let result = self
                        .hold_mirror(place.id, Duration::MAX, progress)
                        .and_then(|_held| self.sync_one(row, vault, &place, over.clone(), joined, progress));
                    Done { place, over, first: !joined, result }
                })
            });
            let begun: Vec<_> = begun.collect();
            begun.into_iter().filter_map(|thread| thread.join().ok()).collect()
        }))
    }

    pub(super) fn sync_one(
        &self,
        row: &VaultRow,
        vault: &Vault,
        place: &Destination,
        over: Option<HashSet<Id>>,
        joined: bool,
        progress: &Progress,
    ) -> Result<SyncReport> {
        let at = self.store_place(&place.place)?;
        if joined {
            // Whether it is there at all is found sooner than what became of a line that broke.
            vault::mirror::holds_copy(&*at.open(Patience::ASK)?, vault)?;
        }
        let store = at.open(Patience::WORK)?;
        if joined {
            // What an earlier copy left half-done; in a place that is not known to be ours nothing is touched.
            store.sweep()?;
        } else {
            vault::mirror::begin(&*store, vault)?;
            // From now on its absence is a failure.
            self.catalog.write(|w| note(w, row.id, place.id, |mirror| mirror.joined = true))?;
        }
        let mut report = vault::sync(vault, &Mirror { store: &*store, joined: true, over }, progress)?;
        report.problems.truncate(LISTED);
        Ok(report)
    }

    fn note_failures(&self, row: &VaultRow, failed: impl Fn(u64) -> Option<Error>) -> Result<()> {
        let now = self.now();
        self.catalog.write(|w| {
            for id in row.mirrors.keys() {
                let Some(e) = failed(*id) else { continue };
                note(w, row.id, *id, |mirror| {
                    mirror.behind = true;
                    mirror.tried_at = Some(now);
                    mirror.failures = mirror.failures.saturating_add(1);
                    if e.kind != ErrorKind::Cancelled {
                        mirror.error = Some(e.message.clone());
                    }
                })?;
            }
            Ok(())
        })
    }

    fn note_done(&self, row: &VaultRow, done: &[Done], cancelled: bool) -> Result<()> {
        self.note_failures(row, |id| {
            let done = done.iter().find(|d| d.place.id == id);
            match done.map(|d| &d.result) {
                Some(Ok(_)) => None,
                Some(Err(e)) => Some(e.clone()),
                None if cancelled => Some(Error::new(ErrorKind::Cancelled, "cancelled")),
                None => Some(Error::failed("copying ended unexpectedly")),
            }
        })?;
        let now = self.now();
        for done in done {
            let Ok(report) = &done.result else { continue };
            self.catalog.write(|w| {
                note(w, row.id, done.place.id, |mirror| {
                    (mirror.synced_at, mirror.tried_at) = (Some(now), Some(now));
                    (mirror.failures, mirror.used) = (0, Some(report.stored));
                    mirror.error = report.problems.first().map(|p| format!("{}: {}", p.object, p.message));
                })?;
                note_copies(w, row.id, done, report)
            })?;
        }
        Ok(())
    }
}

fn note(
    w: &Writer,
    vault: u64,
    destination: u64,
    change: impl FnOnce(&mut crate::catalog::vault::MirrorRow),
) -> Result<()> {
    let Some(mut row) = w.get::<VaultRow>(vault)? else { return Ok(()) };
    if let Some(mirror) = row.mirrors.get_mut(&destination) {
        change(mirror);
        w.put(&row)?;
    }
    Ok(())
}

/// Writes down which backups the mirror holds.
fn note_copies(w: &Writer, vault: u64, done: &Done, report: &SyncReport) -> Result<()> {
    let id = done.place.id;
    let mut unchanged = 0;
    for backup in w.indexed(backup::GOOD_BY_VAULT, vault)?.into_iter().rev() {
        let mut row: Backup = w.need(backup)?;
        let Some(manifest) = row.manifest else { continue };
        let there = report.manifests.contains(&manifest);
        let expired = !there && done.over.as_ref().is_some_and(|over| over.contains(&manifest));
        if (row.copies.contains(&id), row.expired_on.contains(&id)) == (there, expired) {
            unchanged += 1;
            if unchanged >= UNCHANGED && !done.first && done.over.is_none() {
                break;
            }
            continue;
        }
        unchanged = 0;
        row.copies.retain(|other| *other != id);
        row.expired_on.retain(|other| *other != id);
        if there {
            row.copies.push(id);
        }
        if expired {
            row.expired_on.push(id);
        }
        w.put(&row)?;
    }
    Ok(())
}

fn report(row: &VaultRow, done: &[Done]) -> Report {
    let (mut copied, mut bytes, mut deleted) = (0, 0, 0);
    let mut list: Vec<Value> = Vec::new();
    let mut error: Option<Error> = None;
    for done in done {
        let mut entry = json!({ "name": done.place.name });
        match &done.result {
            Ok(report) => {
                copied += report.objects;
                bytes += report.bytes;
                deleted += report.deleted;
                entry["state"] = "current".into();
                entry["copied"] = report.objects.into();
                entry["copied_bytes"] = report.bytes.into();
                entry["deleted"] = report.deleted.into();
                if !report.problems.is_empty() {
                    let problems = report.problems.iter().map(|p| json!({"object": p.object, "message": p.message}));
                    entry["problem_list"] = problems.collect::<Vec<_>>().into();
                    let first = report.problems.first().map(|p| format!("{}: {}", p.object, p.message));
                    let why = format!(
                        "{} objects could not be copied from vault {:?} to {:?}: {}",
                        report.problems.len(),
                        row.name,
                        done.place.name,
                        first.unwrap_or_default()
                    );
                    error.get_or_insert(Error::damaged(why));
                }
            }
            Err(e) => {
                entry["state"] = "failed".into();
                entry["error"] = e.message.clone().into();
                let e = e.clone().context(format!("mirror {:?} of vault {:?}", done.place.name, row.name));
                error.get_or_insert(e);
            }
        }
        list.push(entry);
    }
    let mut report = Report::of(json!({
        "copied": copied, "copied_bytes": bytes, "deleted": deleted, "mirrors": list,
    }));
    report.error = error;
    report
}
