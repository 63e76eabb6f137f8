//! The catalog from nothing: what a vault says of the machines that wrote into it.
//!
//! What it guarantees: everything is added in one transaction, nothing that is there is changed or
//! removed, and doing it again adds only what came since, so that a crash in the middle costs
//! nothing. This machine's own backups keep their numbers; those of other machines get new ones,
//! belong to resources that were removed, are root's alone, and no schedule lets them go.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::Report;
use crate::catalog::{
    Backup, Checkpoint, Destination, Job, Origin, Project, Resource, Schedule, Tables, VaultRow, Writer, backup,
    project,
};
use crate::host;
use crate::model::{Error, ErrorKind, Id, Progress, Result, name};
use crate::service::common::{CommonData, Here};
use crate::service::rebuild::unused;
use crate::service::{Event, ObjectKind, Service, backups, check, resources, retention};
use crate::vault::{Machine, Manifest, SavedState, Vault};

/// A machine whose writer gave a sign of life within this time is taken to be at work.
const ALIVE: Duration = Duration::from_secs(15 * 60);
/// Numbers of backups are never this high: whoever claims one would leave none for the others.
const HIGHEST: u64 = 1 << 40;
/// Objects that could not be read, as listed in the result.
const LISTED: usize = 100;

/// What a machine saved beside its backups.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Saved {
    last_backup: u64,
    common: Option<Json>,
    checkpoints: Vec<Checkpoint>,
    backups: Vec<Noted>,
}

/// What was said of a backup after it was made.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Noted {
    uuid: Uuid,
    description: String,
    protected: bool,
}

type Manifests = Vec<(Id, Manifest)>;

/// All manifests, oldest first, and what could not be read.
fn read_all(vault: &Vault, progress: &Progress) -> Result<(Manifests, Vec<String>)> {
    let ids = vault.manifests()?;
    progress.expect(ids.len() as u64, 0);
    let (mut found, mut unreadable) = (Vec::new(), Vec::new());
    for id in ids {
        progress.check()?;
        progress.add(1, 0);
        match vault.manifest(&id) {
            Ok(manifest) if manifest.backup < HIGHEST && manifest.high_water < HIGHEST => found.push((id, manifest)),
            Ok(_) => unreadable.push(format!("backups/{id}: its number is out of range")),
            Err(e) if e.kind == ErrorKind::NotFound => {}
            Err(e) if e.kind == ErrorKind::Damaged => unreadable.push(format!("backups/{id}: {e}")),
            Err(e) => return Err(e),
        }
    }
    found.sort_by_key(|(_, m)| (m.completed_at, m.backup));
    Ok((found, unreadable))
}

/// The machines that wrote into a vault, by the name that each had last.
fn machines(manifests: &Manifests, states: &[SavedState]) -> BTreeMap<Uuid, String> {
    let mut machines = BTreeMap::new();
    for state in states.iter().rev() {
        if let Some(id) = state.machine {
            let name = state.content.pointer("/machine/name").and_then(Json::as_str).unwrap_or_default();
            machines.insert(id, name.to_owned());
        }
    }
    machines.extend(manifests.iter().map(|(_, m)| (m.machine.id, m.machine.name.clone())));
    machines
}

impl Service {
    pub(super) fn run_rebuild(
        &self,
        job: &Job,
        machine: &str,
        rename: bool,
        progress: &Arc<Progress>,
    ) -> Result<Report> {
        let (row, mut open) = self.vault_of_job(job)?;
        let (manifests, unreadable) = read_all(&open.vault, progress)?;
        let states = open.vault.states()?;
        let machines = machines(&manifests, &states);
        let empty = self.catalog.read(|r| r.count::<Backup>())? == 0;
        if let Some(id) = self.identity(machine, &machines, empty)? {
            let since = self.now().saturating_sub(ALIVE).unwrap_or_default();
            if let Some(seen) = open.vault.seen(id, since)? {
                return Err(Error::invalid_state(format!(
                    "the machine {id} gave a sign of life at {seen}; stop Strongroom there before this machine takes \
                     its place, or give machine none"
                )));
            }
            self.take_identity(id)?;
            // Opened by another name; what that machine's crash left is taken over now.
            open = self.open_vault(&row)?;
        }
        let ours = self.machine();
        let saved = states.into_iter().find(|s| s.machine == Some(ours.id));
        let mut notes = Vec::new();
        let saved = match saved.map(|s| serde_json::from_value::<Saved>(s.content)) {
            Some(Ok(saved)) => saved,
            Some(Err(e)) => {
                notes.push(format!("the saved configuration cannot be read: {e}"));
                Saved::default()
            }
            None => Saved::default(),
        };
        let common = match saved.common.clone().map(CommonData::read) {
            Some(Ok(common)) => Some(common),
            Some(Err(e)) => {
                notes.push(e.message);
                None
            }
            None => None,
        };
        let now = self.now();
        let (mut result, events, forget) = self.catalog.write(|w| {
            let vault: VaultRow = w.need(row.id)?;
            let mut rebuild = Rebuild::new(w, vault, job.id, ours.clone(), now)?;
            // Also where an earlier attempt got as far as the identity, and no further.
            if empty && machines.contains_key(&ours.id) {
                rebuild.drop_unused(&self.options.first_vault)?;
            }
            if let Some(common) = common {
                rebuild.common(common, rename)?;
            }
            rebuild.backups(&manifests, &saved)?;
            rebuild.checkpoints(saved.checkpoints)?;
            rebuild.finish(saved.last_backup)
        })?;
        forget.into_iter().for_each(|id| self.vaults.forget(id));
        self.show_all();
        result["machine"] = ours.id.to_string().into();
        result["unreadable"] = unreadable.len().into();
        if !unreadable.is_empty() {
            result["unreadable_list"] = unreadable.into_iter().take(LISTED).collect();
        }
        // A copy that was not understood is not replaced by what was made without it.
        let export = notes.is_empty().then_some(open);
        if !notes.is_empty() {
            result["notes"] = notes.into();
        }
        Ok(Report { events, export, ..Report::of(result) })
    }

    /// Whose place this machine takes: only that of one whose backups are all it will have.
    fn identity(&self, wanted: &str, machines: &BTreeMap<Uuid, String>, empty: bool) -> Result<Option<Uuid>> {
        let ours = self.machine();
        let listed = || machines.iter().map(|(id, name)| format!("{name} ({id})")).collect::<Vec<_>>().join(", ");
        let named = |wanted: &str| -> Vec<Uuid> {
            machines
                .iter()
                .filter(|(id, name)| *name == wanted || id.to_string() == wanted)
                .map(|(id, _)| *id)
                .collect()
        };
        let chosen = match wanted {
            "none" => return Ok(None),
            "" if !empty || machines.contains_key(&ours.id) => return Ok(None),
            "" => match (named(&ours.name).as_slice(), machines.keys().collect::<Vec<_>>().as_slice()) {
                ([one], _) => *one,
                (_, [one]) => **one,
                (_, []) => return Ok(None),
                _ => {
                    return Err(Error::invalid(format!(
                        "more than one machine wrote into the vault; say as machine whose place this one takes, or \
                         none: {}",
                        listed()
                    )));
                }
            },
            wanted => match named(wanted).as_slice() {
                [one] => *one,
                [] => {
                    return Err(Error::not_found(format!(
                        "no machine {wanted:?} wrote into the vault, but {}",
                        listed()
                    )));
                }
                _ => {
                    return Err(Error::invalid(format!(
                        "more than one machine is called {wanted:?}; give its id: {}",
                        listed()
                    )));
                }
            },
        };
        if chosen == ours.id {
            return Ok(None);
        }
        if !empty {
            return Err(Error::invalid_state(
                "this machine has backups of its own and cannot take another one's place; give machine none",
            ));
        }
        Ok(Some(chosen))
    }

    /// Makes this machine the one that wrote those backups.
    fn take_identity(&self, id: Uuid) -> Result<()> {
        host::set_machine_id(&self.options.state_dir, id)?;
        self.machine.write().unwrap_or_else(std::sync::PoisonError::into_inner).id = id;
        for vault in self.catalog.read(|r| r.ids::<VaultRow>())? {
            self.vaults.forget(vault);
        }
        Ok(())
    }
}

/// One rebuilding, within its transaction.
struct Rebuild<'w> {
    w: &'w Writer,
    vault: VaultRow,
    job: u64,
    ours: Machine,
    now: Timestamp,
    /// What the ids of this machine's saved configuration stand for.
    here: Here,
    /// Resources of backups, by machine (none: ours), project and name.
    owners: BTreeMap<(Option<Uuid>, String, String), u64>,
    /// This machine's numbers of the backups that were added, and their ids here.
    added: BTreeMap<u64, u64>,
    /// A schedule that there is not, which lets nothing go.
    nobody: Option<u64>,
    events: Vec<Event>,
    forget: Vec<u64>,
    result: Json,
}

impl<'w> Rebuild<'w> {
    fn new(w: &'w Writer, vault: VaultRow, job: u64, ours: Machine, now: Timestamp) -> Result<Self> {
        let mut owners = BTreeMap::new();
        for row in w.rows_at::<Backup>(backup::BY_VAULT, vault.id)? {
            let machine = row.machine.map(|m| m.id);
            owners.insert((machine, row.project_name, row.resource_name), row.resource);
        }
        let (here, result) = (Here::new(now), json!({}));
        let (added, events, forget) = (BTreeMap::new(), Vec::new(), Vec::new());
        Ok(Self { w, vault, job, ours, now, here, owners, added, nobody: None, events, forget, result })
    }

    /// Forgets the empty vault that the first start made, which would only be in the way.
    fn drop_unused(&mut self, first: &Path) -> Result<()> {
        for row in self.w.all::<VaultRow>()?.into_iter().filter(|v| v.id != self.vault.id) {
            let place = row.destinations.first().map(|id| self.w.need::<Destination>(*id)).transpose()?;
            if place.is_some_and(|place| place.directory() == Some(first)) && unused(self.w, &row)? {
                self.w.remove::<VaultRow>(row.id)?;
                self.forget.push(row.id);
                self.events.push(Event::ObjectRemoved { kind: ObjectKind::Vault, id: row.id });
            }
        }
        Ok(())
    }

    /// Adds projects, resources, schedules and tasks, and gives the vault its settings back.
    fn common(&mut self, common: CommonData, rename: bool) -> Result<()> {
        for there in common.vaults() {
            let known = self.w.all::<VaultRow>()?.into_iter().find(|v| v.uuid == there.uuid);
            self.here.vaults.insert(there.id, known.map(|v| v.id));
        }
        let settings = common.vaults().iter().find(|v| v.uuid == self.vault.uuid).cloned();
        let added = common.merge(self.w, &mut self.here)?;
        self.result = added.result;
        self.events.extend(added.events);
        let Some(there) = settings else { return Ok(()) };
        let row = &mut self.vault;
        if rename && name::check("vault", &there.name).is_ok() && self.w.named::<VaultRow>(0, &there.name)?.is_none() {
            row.name = there.name;
        }
        if check::compression(&there.compression).is_ok() {
            row.compression = there.compression;
        }
        (row.capacity, row.grace, row.created_at) = (there.capacity, there.grace, there.created_at);
        (row.prune, row.verify_within) = (there.prune, there.verify_within);
        row.project = there.project.and_then(|id| self.here.projects.get(&id).copied());
        self.w.put(row)
    }

    fn backups(&mut self, manifests: &Manifests, saved: &Saved) -> Result<()> {
        let noted: BTreeMap<Uuid, &Noted> = saved.backups.iter().map(|n| (n.uuid, n)).collect();
        let mut known = BTreeSet::new();
        for id in self.w.ids::<Backup>()? {
            known.insert(self.w.need::<Backup>(id)?.uuid);
        }
        let mut foreign = 0_u64;
        for (object, manifest) in manifests {
            if !known.insert(manifest.uuid) {
                continue;
            }
            let own = manifest.machine.id == self.ours.id;
            let id = if own { self.w.own_id::<Backup>(manifest.backup)? } else { self.w.next_id::<Backup>()? };
            let row = self.row(id, *object, manifest, own, noted.get(&manifest.uuid).copied())?;
            self.w.put(&row)?;
            if own {
                self.added.insert(manifest.backup, id);
                self.w.reserve::<Backup>(manifest.high_water)?;
            }
            foreign += u64::from(!own);
        }
        let all = self.added.len() as u64 + foreign;
        (self.result["backups"], self.result["foreign_backups"]) = (all.into(), foreign.into());
        Ok(())
    }

    fn row(&mut self, id: u64, object: Id, manifest: &Manifest, own: bool, noted: Option<&Noted>) -> Result<Backup> {
        let resource = self.owner(manifest, own)?;
        let schedule = match &manifest.schedule {
            _ if manifest.backup_type != "automatic" || manifest.checkpoint.is_some() => None,
            Some(name) if own => self.w.named::<Schedule>(0, name)?,
            _ => None,
        };
        let automatic = manifest.backup_type == "automatic";
        let schedule = match schedule {
            None if automatic && manifest.checkpoint.is_none() => Some(self.nobody()?),
            other => other,
        };
        let mut row = Backup {
            project_name: manifest.resource.project.clone(),
            resource_name: manifest.resource.name.clone(),
            machine: (!own).then(|| manifest.machine.clone()),
            r#type: if manifest.r#type == "database" { "database" } else { "full" }.into(),
            backup_type: if automatic { "automatic" } else { "manual" }.into(),
            incremental: manifest.incremental,
            protected: noted.is_some_and(|n| n.protected),
            edited: noted.is_some(),
            description: noted.map_or_else(|| manifest.description.clone(), |n| n.description.clone()),
            browse: if own { resource.browse.clone() } else { "root".into() },
            schedule,
            since_full: manifest.since_full,
            checkpoint: manifest.checkpoint.filter(|_| own),
            ..backups::blank((id, manifest.uuid), self.job, &resource, &self.vault, manifest.created_at)
        };
        super::fill(&mut row, object, manifest);
        Ok(row)
    }

    /// The id of a schedule that was removed: what it made stays.
    fn nobody(&mut self) -> Result<u64> {
        match self.nobody {
            Some(id) => Ok(id),
            None => Ok(*self.nobody.insert(self.w.next_id::<Schedule>()?)),
        }
    }

    /// The resource that a backup is of: one that is there, else one that counts as removed.
    fn owner(&mut self, manifest: &Manifest, own: bool) -> Result<Resource> {
        let source = &manifest.resource;
        let key = ((!own).then_some(manifest.machine.id), source.project.clone(), source.name.clone());
        let mapped = self.here.resources.get(&source.id).copied().filter(|_| own);
        if let Some(id) = mapped.or_else(|| self.owners.get(&key).copied())
            && let Some(row) = self.w.get::<Resource>(id)?
        {
            return Ok(row);
        }
        let project = self.project(&source.project, own)?;
        if own
            && let Some(id) = self.w.named::<Resource>(project, &source.name)?
            && let Some(row) = self.w.get::<Resource>(id)?
        {
            return Ok(row);
        }
        let id = if own && source.id < HIGHEST {
            self.w.own_id::<Resource>(source.id)?
        } else {
            self.w.next_id::<Resource>()?
        };
        let fine = name::check("resource", &source.name).is_ok();
        let name = if fine { source.name.clone() } else { format!("resource-{id}") };
        let row = Resource {
            kind: check::kind(&source.kind).unwrap_or("server").into(),
            paths: check::clean_paths("paths", &source.paths).unwrap_or_default(),
            exclude: source.exclude.clone(),
            one_file_system: source.one_file_system,
            vault: Some(self.vault.id),
            browse: if own && check::browse(&source.browse).is_ok() { source.browse.clone() } else { "root".into() },
            removed_at: Some(self.now),
            ..resources::blank(id, project, &name, manifest.created_at)
        };
        self.w.put(&row)?;
        self.owners.insert(key, id);
        if own {
            self.here.resources.insert(source.id, id);
        }
        Ok(row)
    }

    fn project(&self, wanted: &str, own: bool) -> Result<u64> {
        let usual = || self.w.named::<Project>(0, project::DEFAULT).map(Option::unwrap_or_default);
        if name::check("project", wanted).is_err() {
            return usual();
        }
        match self.w.named::<Project>(0, wanted)? {
            Some(id) => Ok(id),
            None if !own => usual(),
            None => {
                let id = self.w.next_id::<Project>()?;
                self.w.put(&Project {
                    id,
                    name: wanted.to_owned(),
                    description: String::new(),
                    created_at: self.now,
                    origin: Origin::default(),
                })?;
                Ok(id)
            }
        }
    }

    /// Adds the checkpoints of which there are backups.
    fn checkpoints(&mut self, saved: Vec<Checkpoint>) -> Result<()> {
        let mut count = 0_u64;
        for mut row in saved.into_iter().filter(|row| row.id > 0 && row.id < HIGHEST) {
            let ours = self.here.vaults.get(&row.vault).copied().flatten() == Some(self.vault.id);
            if !ours || self.w.get::<Checkpoint>(row.id)?.is_some() {
                continue;
            }
            row.members.retain(|m| self.added.contains_key(&m.backup));
            if row.members.is_empty() {
                continue;
            }
            for member in &mut row.members {
                member.backup = self.added.get(&member.backup).copied().unwrap_or(member.backup);
                member.resource = self.here.resources.get(&member.resource).copied().unwrap_or(member.resource);
            }
            row.project = self.here.projects.get(&row.project).copied().unwrap_or(row.project);
            (row.vault, row.job) = (self.vault.id, self.job);
            self.w.own_id::<Checkpoint>(row.id)?;
            self.w.put(&row)?;
            count += 1;
        }
        self.result["checkpoints"] = count.into();
        Ok(())
    }

    /// Brings what depends on backups up to date.
    fn finish(mut self, last_backup: u64) -> Result<(Json, Vec<Event>, Vec<u64>)> {
        let w = self.w;
        if last_backup < HIGHEST {
            w.reserve::<Backup>(last_backup)?;
        }
        for id in self.added.values().copied().collect::<Vec<_>>() {
            let mut row: Backup = w.need(id)?;
            if let Some(checkpoint) = row.checkpoint
                && w.get::<Checkpoint>(checkpoint)?.is_none()
            {
                // Nobody knows how long it was to be kept.
                row.checkpoint = None;
                row.schedule = if row.backup_type == "automatic" { Some(self.nobody()?) } else { None };
                w.put(&row)?;
            }
            let newest = w.indexed(backup::GOOD_BY_RESOURCE, row.resource)?.last() == Some(&id);
            if newest && let Some(mut resource) = w.get::<Resource>(row.resource)? {
                super::note_success(&mut resource, &row);
                w.put(&resource)?;
            }
        }
        let mut newest = self.added.values().rev().map(|id| w.need::<Backup>(*id));
        if let Some(row) = newest.find(|row| row.as_ref().map_or(true, |row| !row.partial)).transpose()? {
            w.update::<VaultRow>(self.vault.id, |vault| {
                vault.last_manifest = row.manifest;
                Ok(())
            })?;
        }
        for id in w.ids::<Schedule>()? {
            retention::replan_schedule(w, id, self.now)?;
        }
        let mut events = self.events;
        events.push(Event::ObjectChanged { kind: ObjectKind::Vault, id: self.vault.id });
        Ok((self.result, events, self.forget))
    }
}
