//! Verification of a backup, or of a vault in all its copies, and repair of one from another.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Report;
use super::maintain::note;
use crate::catalog::vault::{MirrorRow, Round};
use crate::catalog::{Backup, Destination, Job, Tables, Task, VaultRow, backup};
use crate::model::{Error, ErrorKind, Id, Progress, Result};
use crate::service::open::OpenVault;
use crate::service::{Service, mirrors, resources};
use crate::store::{ObjectStore, Patience};
use crate::vault::config::VaultConfig;
use crate::vault::mirror::{Before, Copy, CopyReport, check_copies, holds_copy, repair_identity};
use crate::vault::seal::FORMAT;
use crate::vault::{self, Share, VerifyReport};

/// Problems listed in a job's result.
const LISTED: usize = 1000;

/// What was found in the copies of a vault.
#[derive(Default)]
struct Copies {
    /// By destination, the primary first.
    found: Vec<(String, CopyReport)>,
    /// Packs that the primary lacks and a mirror has.
    elsewhere: HashSet<Id>,
    /// What was made whole before anything could be looked at.
    identity: Vec<Value>,
}

/// A copy that can be read.
struct Opened<'a> {
    name: String,
    _held: Option<mirrors::Held<'a>>,
    store: Arc<dyn ObjectStore>,
    over: Option<HashSet<Id>>,
}

/// What there is to say about problems.
#[derive(Default)]
struct Problems {
    count: u64,
    list: Vec<Value>,
}

impl Problems {
    fn add(&mut self, object: String, message: &str) {
        self.count += 1;
        if self.list.len() < LISTED {
            self.list.push(json!({"object": object, "message": message}));
        }
    }
}

impl Service {
    pub(super) fn run_verify(
        &self,
        job: &Job,
        read: Option<Share>,
        repair: bool,
        progress: &Arc<Progress>,
    ) -> Result<Report> {
        let mut copies = Copies::default();
        if repair {
            copies.identity = self.repair_primary(job)?;
        }
        let (row, open) = self.vault_of_job(job)?;
        let only: Vec<Id> = match job.backup {
            None => Vec::new(),
            Some(_) => self.backup_of_job(job)?.manifest.into_iter().collect(),
        };
        let whole = job.backup.is_none();
        if whole && !row.mirrors.is_empty() {
            self.look_at_copies(&row, &open, read, repair, &mut copies, progress)?;
        }
        let found = vault::verify_with(&open.vault, &only, read, &copies.elsewhere, progress)?;
        self.verified(&row, &open, &only, &found, &copies, read)
    }

    /// Gives the primary its `vault.json` back where it lost that, from a mirror.
    fn repair_primary(&self, job: &Job) -> Result<Vec<Value>> {
        let id = job.vault.ok_or_else(|| Error::failed("the job names no vault"))?;
        let row: VaultRow = self.catalog.read(|r| r.need(id))?;
        let Some(primary) = row.destinations.first().filter(|_| !row.mirrors.is_empty()) else {
            return Ok(Vec::new());
        };
        let place = self.catalog.read(|r| r.need::<Destination>(*primary))?;
        let store = self.store_place(&place.place)?.open(Patience::ASK)?;
        self.repair_config(&row, &place.name, &*store)
    }

    fn repair_config(&self, row: &VaultRow, name: &str, store: &dyn ObjectStore) -> Result<Vec<Value>> {
        let config = VaultConfig { format: FORMAT, uuid: row.uuid, encrypted: row.encryption };
        let primary = row.destinations.first().map(|id| self.catalog.read(|r| r.need::<Destination>(*id)));
        let primary = primary.transpose()?.and_then(|place| self.store_place(&place.place).ok());
        for known in self.mirror_places(row).into_iter().chain(primary) {
            // A store that is compared with itself proves nothing.
            let Ok(known) = known.open(Patience::ASK) else { continue };
            let theirs = vault::read_config(&*known).ok();
            if theirs.as_ref() == Some(&config) && repair_identity(store, &config, &*known)? {
                return Ok(vec![json!({
                    "object": vault::config::KEY, "destination": name, "message": "it was missing or damaged",
                })]);
            }
        }
        Ok(Vec::new())
    }

    fn look_at_copies(
        &self,
        row: &VaultRow,
        open: &OpenVault,
        read: Option<Share>,
        repair: bool,
        copies: &mut Copies,
        progress: &Progress,
    ) -> Result<()> {
        let places = self.catalog.read(|r| {
            let places = row.destinations.iter().map(|id| r.need::<Destination>(*id));
            places.map(|place| place.and_then(|p| Ok((mirrors::over(r, row.id, &p)?, p)))).collect::<Result<Vec<_>>>()
        })?;
        let before = Before::of(&open.vault)?;
        let mut opened = Vec::new();
        let mut away = Vec::new();
        for (i, (over, place)) in places.into_iter().enumerate() {
            let (name, mirror) = (place.name.clone(), row.mirrors.get(&place.id));
            let held = mirror
                .filter(|_| i > 0)
                .map(|_| self.hold_mirror(place.id, mirrors::CHECK_PATIENCE, progress))
                .transpose();
            let (held, mirror) = match held {
                Ok(held) => (held, mirror),
                Err(e) if e.kind == ErrorKind::Cancelled => return Err(e),
                Err(e) => {
                    away.push((name, e));
                    continue;
                }
            };
            let store = match mirror.filter(|_| i > 0) {
                None => Ok(Arc::clone(open.vault.store())),
                Some(mirror) => self.open_to_check(row, open, &place, mirror, over.clone(), (repair, progress), copies),
            };
            match store {
                Ok(store) => opened.push(Opened { name, _held: held, store, over: over.filter(|_| i > 0) }),
                Err(e) if e.kind == ErrorKind::Cancelled => return Err(e),
                Err(e) => away.push((name, e)),
            }
        }
        let list: Vec<Copy<'_>> =
            opened.iter().map(|o| Copy { name: &o.name, store: &*o.store, over: o.over.clone() }).collect();
        let reports = check_copies(&open.vault, before, &list, read, repair, progress)?;
        if let Some(primary) = reports.first() {
            let whole = |id: &&Id| {
                let mut mirrors = reports.iter().zip(&list).skip(1);
                mirrors.any(|(r, copy)| r.away.is_none() && copy.over.is_none() && !r.bad_packs.contains(id))
            };
            copies.elsewhere = primary.bad_packs.iter().filter(whole).copied().collect();
        }
        copies.found = opened.iter().map(|o| o.name.clone()).zip(reports).collect();
        let away = away.into_iter().map(|(name, e)| (name, CopyReport { away: Some(e), ..CopyReport::default() }));
        copies.found.extend(away);
        Ok(())
    }

    /// Opens a mirror; one that may lack what the vault has got since is brought up to date first, or
    /// that would count as damage.
    #[allow(clippy::too_many_arguments)]
    fn open_to_check(
        &self,
        row: &VaultRow,
        open: &OpenVault,
        place: &Destination,
        mirror: &MirrorRow,
        over: Option<HashSet<Id>>,
        (repair, progress): (bool, &Progress),
        copies: &mut Copies,
    ) -> Result<Arc<dyn ObjectStore>> {
        // To fill it may take days, in which nothing could be deleted.
        if !mirror.joined || mirror.synced_at.is_none() {
            return Err(Error::invalid_state("it was not filled yet; sync the vault"));
        }
        let store = self.store_place(&place.place)?.open(Patience::WORK)?;
        if repair {
            copies.identity.extend(self.repair_config(row, &place.name, &*store)?);
        }
        holds_copy(&*store, &open.vault)?;
        let busy = self.catalog.read(|r| {
            let jobs = resources::open_jobs(r)?;
            let writes = |task: &Task| matches!(task, Task::Backup { .. } | Task::Sync { .. });
            Ok(jobs.iter().any(|j| j.vault == Some(row.id) && writes(&j.task)))
        })?;
        if busy || mirror.behind {
            self.sync_one(row, &open.vault, place, over, true, progress)?;
        }
        Ok(store)
    }

    fn verified(
        &self,
        row: &VaultRow,
        open: &OpenVault,
        only: &[Id],
        found: &VerifyReport,
        copies: &Copies,
        read: Option<Share>,
    ) -> Result<Report> {
        let whole = only.is_empty();
        // What the catalog promises and the vault does not hold is damage too.
        let promised = self.catalog.read(|r| r.rows_at::<Backup>(backup::BY_VAULT, row.id))?;
        let there = open.vault.manifests()?;
        let mut damaged = Vec::new();
        let mut problems = Problems { count: found.problem_count, list: Vec::new() };
        let listed = found.problems.iter().take(LISTED).map(|p| json!({"object": p.object, "message": p.message}));
        problems.list.extend(listed);
        for backup in promised.iter().filter(|b| !b.deleting) {
            let Some(manifest) = backup.manifest else { continue };
            if !(whole || only.contains(&manifest)) {
                continue;
            }
            if !there.contains(&manifest) {
                let message = format!("the manifest of backup {} is missing", backup.id);
                problems.add(format!("backups/{manifest}"), &message);
            } else if !found.damaged_backups.contains(&manifest) {
                continue;
            }
            damaged.push(backup.id);
        }
        let told: HashSet<&String> = found.problems.iter().map(|p| &p.object).collect();
        for (i, (name, report)) in copies.found.iter().enumerate() {
            for (key, why) in report.left().filter(|(key, _)| i > 0 || !told.contains(key)) {
                problems.add(format!("{key} on {name}"), why);
            }
        }
        let mut result = json!({
            "blobs": found.blobs, "bytes": found.bytes, "problems": problems.count, "read_data": read.is_some(),
        });
        let part = read.filter(|share| !share.is_all());
        if let Some(Share { from, to }) = part {
            let percent = |at: u64| (u128::from(at) * 100).div_ceil(1 << 64) as u64;
            result["share"] = json!({"from_percent": percent(from), "to_percent": percent(to)});
        }
        if !damaged.is_empty() {
            result["damaged_backups"] = damaged.iter().map(|id| json!({"id": id})).collect::<Vec<_>>().into();
        }
        copies.describe(&mut result);
        let first = problems.list.first().map(|p| {
            let text = |key: &str| p.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            format!("{}: {}", text("object"), text("message"))
        });
        if !problems.list.is_empty() {
            result["problem_list"] = problems.list.into();
        }
        let (now, id, name, well) = (self.now(), row.id, &row.name, problems.count == 0);
        let mut report = Report::of(result);
        if !well {
            let message = format!(
                "{} problems in vault {name:?}, {} backups are damaged: {}",
                problems.count,
                damaged.len(),
                first.unwrap_or_default()
            );
            report.error = Some(Error::new(ErrorKind::Damaged, message));
        }
        Ok(if whole { report.then(move |w| note(w, id, |v| checked(v, read, well, now))) } else { report })
    }
}

/// Writes down that a vault was checked: its structure, and what it holds in a share.
fn checked(row: &mut VaultRow, read: Option<Share>, well: bool, now: Timestamp) {
    let ended = match (read.filter(|share| !share.is_all()), row.round, row.verify_within) {
        (None, round, _) => {
            // Everything at once is a round of its own.
            row.round = round.map(|round| if read.is_some() { Round::new(now) } else { round });
            Some(well)
        }
        (Some(share), Some(round), Some(days)) if round.to == share.from => {
            // What is damaged does not keep the rest waiting.
            let (round, ended) = round.after(share, well, days, now);
            row.round = Some(round);
            ended
        }
        // Everything was read meanwhile, and another round began; or nothing is read by itself any more.
        _ => None,
    };
    if ended == Some(true) {
        row.last_verified = Some(now);
        if read.is_some() {
            row.last_read = Some(now);
        }
    }
}

impl Copies {
    fn describe(&self, result: &mut Value) {
        if self.found.is_empty() && self.identity.is_empty() {
            return;
        }
        let mut repaired = self.identity.clone();
        let mut list = Vec::new();
        for (name, report) in &self.found {
            let mut entry = json!({
                "name": name, "objects": report.objects, "bad": report.bad.len(), "repaired": report.repaired.len(),
            });
            entry["state"] = if report.away.is_some() { "away" } else { "checked" }.into();
            if let Some(e) = &report.away {
                entry["error"] = e.message.clone().into();
            }
            list.push(entry);
            let fixed = report.bad.iter().filter(|(key, _)| report.repaired.contains(*key));
            repaired.extend(fixed.map(|(key, why)| json!({"object": key, "destination": name, "message": why})));
        }
        result["copies"] = list.into();
        result["repaired"] = repaired.len().into();
        repaired.truncate(LISTED);
        if !repaired.is_empty() {
            result["repaired_list"] = repaired.into();
        }
    }
}
