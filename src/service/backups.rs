//! Backups.

use std::collections::BTreeSet;

use jiff::Timestamp;
use uuid::Uuid;

use super::fields::{self, Fields};
use super::page::Page;
use super::submit::Draft;
use super::{Event, Service, mirrors, resources, retention, select, sizes, snapshots, vaults};
use crate::archive;
use crate::catalog::{
    Backup, Destination, Project, Resource, Schedule, State, Tables, Task, VaultRow, Writer, backup as index,
};
use crate::jobs::{Key, Lane, Ticket};
use crate::model::{Args, Error, Map, Result};

/// The fields of a backup, for sorting.
const FIELDS: &[&str] = &[
    "id",
    "uuid",
    "job",
    "server",
    "project",
    "project_id",
    "machine",
    "vault",
    "schedule",
    "checkpoint",
    "type",
    "backup_type",
    "incremental",
    "partial",
    "protected",
    "status",
    "size",
    "stored_size",
    "unique_size",
    "size_mb",
    "description",
    "checksum",
    "encrypted",
    "destinations",
    "created_at",
    "completed_at",
    "expires_at",
    "error",
    "message",
    "files",
    "errors",
    "browse_path",
];
const MIB: u64 = 1 << 20;
/// The longest description, in bytes.
const DESCRIPTION: usize = 4096;

/// What kind of backup is wanted.
#[derive(Debug, Default)]
pub(super) struct Wish {
    pub kind: String,
    pub backup_type: String,
    pub description: String,
    pub incremental: bool,
    pub schedule: Option<u64>,
    pub since_full: u32,
    pub checkpoint: Option<u64>,
}

pub(super) fn description(args: &mut Args) -> Result<Option<String>> {
    let text = args.string("description")?;
    match &text {
        Some(t) if t.len() > DESCRIPTION => {
            Err(Error::invalid(format!("description is {} bytes long; at most {DESCRIPTION} are allowed", t.len())))
        }
        _ => Ok(text),
    }
}

/// Refuses a kind of backup that the resource does not have.
pub(super) fn refuse_kind(kind: &str, resource: &Resource) -> Result<()> {
    if kind == "database" && resource.databases.is_empty() {
        return Err(Error::invalid(format!(
            "type is database, but resource {:?} has no databases; use full",
            resource.name
        )));
    }
    Ok(())
}

/// The vault that a resource is backed up to.
pub(super) fn vault_of(t: &impl Tables, resource: &Resource) -> Result<VaultRow> {
    if let Some(id) = resource.vault {
        return t.need(id);
    }
    if let Some(id) = t.named::<VaultRow>(0, "main")? {
        return t.need(id);
    }
    let mut all = t.all::<VaultRow>()?;
    match (all.pop(), all.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => Err(Error::invalid_state("there is no vault; add a destination and a vault on it first")),
        (Some(_), false) => Err(Error::invalid(format!(
            "vault is missing, and resource {:?} has none; name one of the vaults",
            resource.name
        ))),
    }
}

/// What a backup job needs.
pub(super) fn ticket(backup: &Backup) -> Ticket {
    let shared = vec![Key::Vault(backup.vault)];
    match backup.copy_of {
        // What it is copied from need not wait for a slow copy; it is only not deleted meanwhile.
        Some(_) => Ticket { shared, ..Ticket::free(Lane::Copies) },
        None => Ticket { lane: Lane::Work, exclusive: vec![Key::Resource(backup.resource)], shared },
    }
}

/// What a delete job needs.
pub(super) fn delete_ticket(backup: &Backup) -> Ticket {
    Ticket { exclusive: vec![Key::Vault(backup.vault)], ..Ticket::free(Lane::Maintenance) }
}

/// A backup of which nothing is known but what it is to be of.
pub(super) fn blank(
    (id, uuid): (u64, Uuid),
    job: u64,
    resource: &Resource,
    vault: &VaultRow,
    created_at: Timestamp,
) -> Backup {
    Backup {
        id,
        uuid,
        job,
        resource: resource.id,
        resource_name: resource.name.clone(),
        project: resource.project,
        project_name: String::new(),
        machine: None,
        vault: vault.id,
        vault_name: vault.name.clone(),
        encrypted: vault.encryption,
        r#type: "full".into(),
        backup_type: "manual".into(),
        incremental: true,
        partial: false,
        protected: false,
        edited: false,
        deleting: false,
        with_vault: false,
        status: State::Pending,
        description: String::new(),
        browse: resource.browse.clone(),
        created_at,
        completed_at: None,
        expires_at: None,
        manifest: None,
        root: None,
        size: None,
        stored: None,
        unique: None,
        files: None,
        entries: None,
        errors: None,
        error_list: None,
        error: None,
        message: None,
        unsure: false,
        schedule: None,
        since_full: 0,
        checkpoint: None,
        copies: Vec::new(),
        expired_on: Vec::new(),
        copy_of: None,
    }
}

impl Service {
    /// Queues a backup and answers with it.
    pub fn create_backup(&self, selector: &str, options: Map) -> Result<Map> {
        let mut args = Args::new(options);
        let kind = args.choice("type", &["full", "database"])?.unwrap_or_else(|| "full".into());
        let description = description(&mut args)?.unwrap_or_default();
        let vault = args.string("vault")?;
        let incremental = args.bool("incremental")?.unwrap_or(true);
        let backup_type = args.choice("backup_type", &["manual", "automatic"])?.unwrap_or_else(|| "manual".into());
        args.finish()?;
        let wish = Wish { kind, backup_type, description, incremental, ..Wish::default() };
        let (_, id) = self.submit_with(|w, job| {
            let resource = select::resource(w, selector)?;
            let vault = match &vault {
                Some(selector) => select::vault(w, selector)?,
                None => vault_of(w, &resource)?,
            };
            self.refuse_full(&vault)?;
            self.draft_backup(w, job, resource, &vault, wish)
        })?;
        self.emit(Event::BackupChanged { id, status: "pending".into() });
        self.get_backup(id)
    }

    /// Refuses a vault that takes no more backups.
    pub(super) fn refuse_full(&self, vault: &VaultRow) -> Result<()> {
        vaults::refuse_removing(vault)?;
        if let (Some(capacity), Some(open)) = (vault.capacity, self.vaults.opened(vault.id)) {
            let used = open.vault.stored_size();
            if used >= capacity {
                return Err(Error::limit_reached(format!(
                    "vault {:?} holds {used} bytes of the {capacity} it may hold; delete backups or raise capacity",
                    vault.name
                )));
            }
        }
        Ok(())
    }

    /// Writes the row of a backup, and drafts the job that makes it.
    pub(super) fn draft_backup(
        &self,
        w: &Writer,
        job: u64,
        resource: Resource,
        vault: &VaultRow,
        wish: Wish,
    ) -> Result<(Draft, u64)> {
        refuse_kind(&wish.kind, &resource)?;
        if wish.backup_type == "manual" {
            let limit = self.config().manual_backups;
            let count = w.counted(index::MANUAL, resource.id)?;
            if count >= limit {
                return Err(Error::limit_reached(format!(
                    "resource {:?} has {count} manual backups and may have {limit}; delete one first",
                    resource.name
                )));
            }
        }
        let id = w.next_id::<Backup>()?;
        let row = Backup {
            project_name: w.need::<Project>(resource.project)?.name,
            r#type: wish.kind,
            backup_type: wish.backup_type,
            incremental: wish.incremental,
            description: wish.description,
            schedule: wish.schedule,
            since_full: wish.since_full,
            checkpoint: wish.checkpoint,
            ..blank((id, Uuid::new_v4()), job, &resource, vault, self.now())
        };
        w.put(&row)?;
        let draft = Draft {
            resource: Some(row.resource),
            backup: Some(id),
            vault: Some(row.vault),
            ..Draft::new(Task::Backup { reread: !row.incremental }, ticket(&row))
        };
        Ok((draft, id))
    }

    /// One backup.
    pub fn get_backup(&self, id: u64) -> Result<Map> {
        self.catalog.read(|r| self.backup_map(r, &r.need(id)?))
    }

    /// Lists backups.
    pub fn list_backups(&self, options: Map) -> Result<(u64, Vec<Map>)> {
        let mut args = Args::new(options);
        let page = Page::take(&mut args, FIELDS)?;
        let server = snapshots::server(&mut args)?;
        let in_project = args.string("project")?;
        let backup_type = args.choice("backup_type", &["manual", "automatic"])?;
        let kind = args.choice("type", &["full", "database"])?;
        let statuses = match args.string("status")?.as_deref() {
            None => None,
            Some("in_progress") => Some(vec![State::Pending, State::Running]),
            Some(name) => Some(vec![State::parse(name).ok_or_else(|| {
                Error::invalid(format!(
                    "status is {name:?}; it must be pending, running, in_progress, completed, failed or cancelled"
                ))
            })?]),
        };
        let vault = args.string("vault")?;
        let checkpoint = args.uint("checkpoint", 1, u64::MAX)?;
        let nothing = args.string("task")?.is_some();
        let machine = args.string("machine")?;
        let schedule = args.string("schedule")?;
        args.finish()?;

        self.catalog.read(|r| {
            let mut sets: Vec<Vec<u64>> = Vec::new();
            if let Some(selector) = server {
                sets.push(union(r, index::BY_RESOURCE, &select::resources_ever(r, &selector)?)?);
            }
            if let Some(states) = statuses {
                let keys: Vec<u64> = states.iter().map(|s| s.key()).collect();
                sets.push(union(r, index::BY_STATUS, &keys)?);
            }
            if let Some(selector) = vault {
                sets.push(r.indexed(index::BY_VAULT, select::vault(r, &selector)?.id)?);
            }
            if let Some(id) = checkpoint {
                sets.push(r.indexed(index::BY_CHECKPOINT, id)?);
            }
            if let Some(selector) = in_project {
                sets.push(r.indexed(index::BY_PROJECT, select::project(r, &selector)?.id)?);
            }
            if let Some(text) = backup_type {
                sets.push(r.indexed(index::BY_ORIGIN, index::origin_key(&text))?);
            }
            if let Some(text) = kind {
                sets.push(r.indexed(index::BY_TYPE, index::type_key(&text))?);
            }
            if let Some(selector) = schedule {
                let id = select::schedule(r, &selector)?.id;
                let mut ids = r.between(index::BY_SCHEDULE, index::group(id, 0), index::group(id, u64::MAX))?;
                ids.sort_unstable();
                sets.push(ids);
            }
            // Tasks make copies of their own, no backups.
            if nothing {
                return Ok((0, Vec::new()));
            }
            if let Some(name) = machine {
                let mut foreign = r.indexed(index::FOREIGN, 1)?;
                if name == self.machine().name {
                    let all = r.ids::<Backup>()?.into_iter();
                    sets.push(all.filter(|id| foreign.binary_search(id).is_err()).collect());
                } else {
                    foreign.retain(|id| r.need::<Backup>(*id).is_ok_and(|b| b.machine.is_some_and(|m| m.name == name)));
                    sets.push(foreign);
                }
            }
            let mut ids = match sets.iter().min_by_key(|s| s.len()) {
                None => r.ids::<Backup>()?,
                Some(smallest) => {
                    let others: Vec<BTreeSet<u64>> = sets.iter().map(|s| s.iter().copied().collect()).collect();
                    smallest.iter().copied().filter(|id| others.iter().all(|s| s.contains(id))).collect()
                }
            };
            // By ids and by time, only the page's own rows are read; by anything else, all of the filter's.
            if let Some(down) = page.by_id() {
                if down {
                    ids.reverse();
                }
            } else if let Some(order) = page.by_field("created_at") {
                ids = by_time(r, &ids, order)?;
            } else {
                let maps = ids.into_iter().map(|id| self.backup_map(r, &r.need(id)?)).collect::<Result<_>>()?;
                return Ok(page.cut(maps));
            }
            let (count, ids) = page.slice(ids);
            let maps = ids.into_iter().map(|id| self.backup_map(r, &r.need(id)?)).collect::<Result<_>>()?;
            Ok((count, maps))
        })
    }

    /// Changes a backup's description or protection.
    pub fn update_backup(&self, id: u64, options: Map) -> Result<()> {
        let mut args = Args::new(options);
        let description = description(&mut args)?;
        let protected = args.bool("protected")?;
        args.finish()?;
        let row = self.catalog.write(|w| {
            // Its removal may wait in the queue, which protection would come too late for.
            vaults::refuse_removing(&w.need(w.need::<Backup>(id)?.vault)?)?;
            let row = w.update::<Backup>(id, |row| {
                refuse_deleting(row)?;
                if let Some(text) = description {
                    row.description = text;
                }
                if let Some(protected) = protected {
                    row.protected = protected;
                }
                // Its manifest says what it was made with.
                row.edited = true;
                Ok(())
            })?;
            retention::replan(w, &row, self.now())?;
            Ok(row)
        })?;
        self.emit(Event::BackupChanged { id, status: row.status.name().into() });
        Ok(())
    }

    /// Starts a job that deletes a backup for good. It is gone from the mount at once.
    pub fn delete_backup(&self, id: u64, options: Map) -> Result<u64> {
        Args::new(options).finish()?;
        let job = self.submit(|w| {
            let draft = draft_delete(w, id)?;
            retention::replan(w, &w.need(id)?, self.now())?;
            Ok(draft)
        })?;
        self.hide(id);
        Ok(job)
    }

    /// Starts a job that checks a backup.
    pub fn verify_backup(&self, id: u64, options: Map) -> Result<u64> {
        let mut args = Args::new(options);
        let read_data = args.bool("read_data")?.unwrap_or(false);
        args.finish()?;
        self.submit(|w| {
            let row = completed(w, id)?;
            let ticket = Ticket { shared: vec![Key::Vault(row.vault)], ..Ticket::free(Lane::Maintenance) };
            Ok(Draft {
                resource: Some(row.resource),
                backup: Some(id),
                vault: Some(row.vault),
                ..Draft::new(Task::Verify { read_data, repair: false, share: None }, ticket)
            })
        })
    }

    /// Lists what a backup could not read.
    pub fn list_backup_errors(&self, id: u64, options: Map) -> Result<(u64, Vec<Map>)> {
        let mut args = Args::new(options);
        let page = Page::take(&mut args, &["id", "path", "code", "message"])?;
        args.finish()?;
        let (row, vault) = self.catalog.read(|r| {
            let row = r.need::<Backup>(id)?;
            let vault = r.need::<VaultRow>(row.vault)?;
            Ok((row, vault))
        })?;
        let Some(list) = row.error_list else { return Ok((0, Vec::new())) };
        let open = self.open_vault_to_read(&vault)?;
        let errors = archive::read_errors(&open.vault, &list)?;
        let maps = errors.iter().zip(1_u64..).map(|(e, n)| {
            let mut f = Fields::default();
            f.set("id", n).set("path", String::from_utf8_lossy(&e.path).into_owned());
            f.set("code", e.code.as_str()).set("message", e.message.as_str());
            f.done()
        });
        Ok(page.cut(maps.collect()))
    }

    pub(super) fn backup_map(&self, t: &impl Tables, row: &Backup) -> Result<Map> {
        let vault = t.get::<VaultRow>(row.vault)?;
        let server =
            Map::from([("id".to_owned(), row.resource.into()), ("name".to_owned(), row.resource_name.as_str().into())]);
        let mut f = Fields::default();
        f.set("id", row.id).set("uuid", row.uuid.to_string()).set("job", fields::job_path(row.job));
        f.set("server", server).set("project_id", row.project.to_string());
        f.set("project", row.project_name.as_str())
            .set("machine", row.machine.clone().unwrap_or_else(|| self.machine()).name);
        f.set("vault", vault.as_ref().map_or(row.vault_name.as_str(), |v| v.name.as_str()));
        if let Some(id) = row.schedule {
            f.opt("schedule", t.get::<Schedule>(id)?.map(|s| s.name));
        }
        f.opt("checkpoint", row.checkpoint).opt("copy_of", row.copy_of);
        f.set("type", row.r#type.as_str()).set("backup_type", row.backup_type.as_str());
        f.set("incremental", row.incremental).set("partial", row.partial).set("protected", row.protected);
        f.set("status", row.status.name()).opt("size", row.size).opt("stored_size", row.stored);
        let measured = vault.as_ref().map(|vault| sizes::hold(t, vault)).transpose()?.unwrap_or(false);
        f.opt("unique_size", row.unique.filter(|_| measured && row.is_readable()));
        f.opt("size_mb", row.size.map(|s| s.div_ceil(MIB))).set("description", row.description.as_str());
        f.opt("checksum", row.root.map(|id| format!("sha256:{}", id.hex()))).set("encrypted", row.encrypted);
        let mut destinations = Vec::new();
        for (vault, id) in vault.iter().flat_map(|v| v.destinations.iter().map(move |id| (v, id))) {
            if let Some(place) = t.get::<Destination>(*id)? {
                let (status, error) = mirrors::status(vault, row, *id);
                let mut d = Fields::default();
                d.set("name", place.name.as_str()).set("type", place.type_name()).set("status", status);
                destinations.push(d.opt("error", error).done());
            }
        }
        f.set("destinations", destinations);
        f.time("created_at", Some(row.created_at)).time("completed_at", row.completed_at);
        f.time("expires_at", row.expires_at).opt("error", row.error.as_deref());
        f.opt("files", row.files).opt("errors", row.errors);
        let message = if row.deleting { Some("it is being deleted") } else { row.message.as_deref() };
        f.opt(
            "message",
            message.or(match row.status {
                State::Pending => Some("waiting for its turn"),
                State::Running => Some("in progress"),
                _ => None,
            }),
        );
        if row.is_readable() && self.options.browse.is_some() {
            let path = self.options.browse_path.join("backups").join(row.id.to_string());
            f.set("browse_path", fields::lossy(&path));
        }
        Ok(f.done())
    }
}

/// Marks a backup as being deleted, and drafts the job that does it.
pub(super) fn draft_delete(w: &Writer, id: u64) -> Result<Draft> {
    let mut row = w.need::<Backup>(id)?;
    if !row.status.ended() {
        return Err(Error::invalid_state(format!(
            "backup {id} is {}; cancel its job {} first",
            row.status.name(),
            row.job
        )));
    }
    if row.protected {
        return Err(Error::invalid_state(format!("backup {id} is protected; unprotect it first")));
    }
    if let Some(job) = resources::open_jobs(w)?.into_iter().find(|j| j.backup == Some(id)) {
        return Err(Error::invalid_state(format!(
            "job {} ({}) uses backup {id}; wait for it or cancel it first",
            job.id,
            job.task.kind()
        )));
    }
    for job in resources::open_jobs(w)? {
        let copy = job.backup.map(|copy| w.get::<Backup>(copy)).transpose()?.flatten();
        if copy.is_some_and(|copy| copy.copy_of == Some(id)) {
            return Err(Error::invalid_state(format!(
                "job {} copies backup {id}; wait for it or cancel it first",
                job.id
            )));
        }
    }
    vaults::refuse_removing(&w.need(row.vault)?)?;
    row.deleting = true;
    w.put(&row)?;
    Ok(Draft {
        resource: Some(row.resource),
        backup: Some(id),
        vault: Some(row.vault),
        ..Draft::new(Task::Delete, delete_ticket(&row))
    })
}

fn union(t: &impl Tables, index: u8, keys: &[u64]) -> Result<Vec<u64>> {
    let mut ids = Vec::new();
    for key in keys {
        ids.extend(t.indexed(index, *key)?);
    }
    ids.sort_unstable();
    Ok(ids)
}

/// The same backups by when they were made, without reading them.
fn by_time(t: &impl Tables, ids: &[u64], (down, id_down): (bool, bool)) -> Result<Vec<u64>> {
    let mut timed: Vec<(u64, u64)> = t.in_order(index::BY_TIME)?;
    // Both are in order of something; ids ascend, so they can be looked up.
    timed.retain(|(_, id)| ids.binary_search(id).is_ok());
    timed.sort_unstable_by(|(a, x), (b, y)| {
        let time = if down { b.cmp(a) } else { a.cmp(b) };
        time.then_with(|| if id_down { y.cmp(x) } else { x.cmp(y) })
    });
    Ok(timed.into_iter().map(|(_, id)| id).collect())
}

fn refuse_deleting(row: &Backup) -> Result<()> {
    if row.deleting {
        return Err(Error::invalid_state(format!("backup {} is being deleted", row.id)));
    }
    Ok(())
}

/// A backup that can be read.
pub(super) fn completed(t: &impl Tables, id: u64) -> Result<Backup> {
    let row = t.need::<Backup>(id)?;
    refuse_deleting(&row)?;
    if !row.is_readable() {
        return Err(Error::invalid_state(format!(
            "backup {id} is {}; only a completed backup can be used",
            row.status.name()
        )));
    }
    vaults::refuse_removing(&t.need(row.vault)?)?;
    Ok(row)
}
