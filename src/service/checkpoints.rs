//! Checkpoints: one backup of each of several resources of a vault, made together.
//!
//! What they are is in their backups' rows, so they need no care of their own after a crash. A
//! resource that cannot be backed up now is skipped, with a code and a reason, and the others go on.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use regex_automata::meta::Regex;

use super::backups::{self, Wish};
use super::fields::{self, Fields};
use super::page::Page;
use super::submit::{Batch, Draft};
use super::{Event, Service, check, select};
use crate::catalog::checkpoint::{EXPIRING, Member, Skipped};
use crate::catalog::{
    Backup, Checkpoint, Job, Project, Resource, State, Tables, Task, VaultRow, Writer, backup as index, project,
};
use crate::jobs::{Lane, Ticket};
use crate::model::value::map_to_json;
use crate::model::{Args, Error, ErrorKind, Map, Result, Value};

const FIELDS: &[&str] = &["id", "job", "project_id", "status", "created_at", "vault", "message"];
/// The longest name, in bytes, and the longest label of a resource, in characters.
const NAME: usize = 255;
/// The longest text that is kept with a resource, in bytes.
const EXTRA: usize = 4096;
/// More resources than this are named by none.
const MOST: usize = 1000;
/// The longest retention, in days.
const LONGEST: u64 = 99_999;
const GIB: u64 = 1 << 30;

/// Why a resource is skipped. The codes are documented in `docs/checkpoints.md`, and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    Unknown,
    Removed,
    Ambiguous,
    OtherVault,
    OtherType,
    Orphaned,
    Running,
    Waiting,
    Limit,
}

impl Code {
    fn text(self) -> &'static str {
        match self {
            Self::Unknown => "Strongroom.1001",
            Self::Removed => "Strongroom.1002",
            Self::Ambiguous => "Strongroom.1003",
            Self::OtherVault => "Strongroom.1004",
            Self::OtherType => "Strongroom.1005",
            Self::Orphaned => "Strongroom.1006",
            Self::Running => "Strongroom.1101",
            Self::Waiting => "Strongroom.1102",
            Self::Limit => "Strongroom.1201",
        }
    }
}

/// A resource as the caller names it.
#[derive(Debug, Clone, Default)]
struct Wanted {
    selector: String,
    name: String,
    kind: Option<(String, &'static str)>,
    extra: Option<String>,
}

/// What a caller wants.
struct Plan {
    automatic: bool,
    description: String,
    incremental: bool,
    name: String,
    retention: Option<u32>,
    wanted: Option<Vec<Wanted>>,
}

/// The id of a resource, which is text in the cloud and a number here.
fn selector(key: &str, value: Value) -> Result<String> {
    match value {
        Value::Str(s) => Ok(s),
        Value::Uint(n) => Ok(n.to_string()),
        Value::Uint32(n) => Ok(n.to_string()),
        Value::Int(n) if n >= 0 => Ok(n.to_string()),
        Value::Int32(n) if n >= 0 => Ok(n.to_string()),
        other => Err(Error::invalid(format!("{key} holds {}; it must hold ids or names of resources", other.kind()))),
    }
}

fn selectors(args: &mut Args) -> Result<Option<Vec<String>>> {
    match args.value("resources") {
        None => Ok(None),
        Some(Value::List(list)) => list.into_iter().map(|v| selector("resources", v)).collect::<Result<_>>().map(Some),
        Some(Value::Maps(list)) if list.is_empty() => Ok(Some(Vec::new())),
        Some(other) => {
            Err(Error::invalid(format!("resources is {}; it must be an array of strings (as)", other.kind())))
        }
    }
}

fn detail(map: Map) -> Result<Wanted> {
    let within = |e: Error| e.context("resource_details");
    let mut args = Args::new(map);
    let id = args.value("id").ok_or_else(|| Error::invalid("resource_details holds a resource without an id"))?;
    let name = args.string("name").map_err(within)?.unwrap_or_default();
    if name.chars().count() > NAME {
        return Err(Error::invalid(format!(
            "resource_details holds a name of {} characters; at most {NAME} are allowed",
            name.chars().count()
        )));
    }
    let kind = args.string("type").map_err(within)?;
    let kind = kind
        .map(|k| check::kind(&k).map(|ours| (k, ours)))
        .transpose()
        .map_err(|e| Error::invalid(e.message.replacen("kind is", "resource_details holds a type that is", 1)))?;
    let extra = match args.value("extra_info") {
        None => None,
        Some(Value::Str(text)) => Some(text),
        Some(Value::Map(map)) => Some(map_to_json(&map).to_string()),
        Some(other) => {
            return Err(Error::invalid(format!(
                "resource_details holds an extra_info that is {}; it must be a string (s) or a map (a{{sv}})",
                other.kind()
            )));
        }
    };
    if extra.as_ref().is_some_and(|e| e.len() > EXTRA) {
        return Err(Error::invalid(format!("resource_details holds an extra_info of more than {EXTRA} bytes")));
    }
    args.finish().map_err(within)?;
    Ok(Wanted { selector: selector("resource_details", id)?, name, kind, extra })
}

fn check_name(name: String) -> Result<String> {
    if name.len() > NAME {
        return Err(Error::invalid(format!("name is {} bytes long; at most {NAME} are allowed", name.len())));
    }
    let allowed = Regex::new(r"\A[A-Za-z0-9_\-\p{Han}]+\z").map_err(|e| Error::failed(e.to_string()))?;
    if allowed.is_match(&name) {
        return Ok(name);
    }
    Err(Error::invalid(format!(
        "name is {name:?}; it must have letters (A to Z, a to z), digits, Han characters, '_' and '-' alone"
    )))
}

impl Plan {
    fn take(mut options: Map) -> Result<Self> {
        // As the cloud has it, or one level up.
        if let Some(nested) = Args::new(Map::from_iter(options.remove_entry("parameters"))).map("parameters")? {
            for (key, value) in nested {
                if options.contains_key(&key) {
                    return Err(Error::invalid(format!("{key} is given twice, once within parameters; give it once")));
                }
                options.insert(key, value);
            }
        }
        let mut args = Args::new(options);
        let automatic = args.bool("auto_trigger")?.unwrap_or(false);
        let description = backups::description(&mut args)?.unwrap_or_default();
        let incremental = args.bool("incremental")?.unwrap_or(true);
        let name = args.string("name")?.map(check_name).transpose()?.unwrap_or_default();
        let days = args.integer("retention_duration", -1, LONGEST)?.unwrap_or(-1);
        if days == 0 {
            return Err(Error::invalid("retention_duration is 0; it must be a number of days, or -1 for ever"));
        }
        let mut wanted: Option<Vec<Wanted>> = selectors(&mut args)?
            .map(|list| list.into_iter().map(|selector| Wanted { selector, ..Wanted::default() }).collect());
        for map in args.maps("resource_details")?.into_iter().flatten() {
            let detail = detail(map)?;
            let list = wanted.get_or_insert_default();
            match list.iter_mut().find(|w| w.selector == detail.selector) {
                Some(there) => *there = detail,
                None => list.push(detail),
            }
        }
        args.finish()?;
        match &wanted {
            Some(list) if list.is_empty() => {
                return Err(Error::invalid("resources is empty; name some, or leave it out for all of the vault"));
            }
            Some(list) if list.len() > MOST => {
                return Err(Error::invalid(format!(
                    "resources names {}; at most {MOST} are allowed, or leave it out for all of the vault",
                    list.len()
                )));
            }
            _ => {}
        }
        Ok(Self { automatic, description, incremental, name, retention: u32::try_from(days).ok(), wanted })
    }
}

/// What stands in the way of a resource's backup, and what is known of the resource.
type Refused = (Code, String, Option<Resource>);

/// Everything that decides about single resources.
struct Chooser<'a> {
    w: &'a Writer,
    vault: &'a VaultRow,
    /// Resources that are backed up or wait for it.
    busy: BTreeMap<u64, State>,
}

impl<'a> Chooser<'a> {
    fn new(w: &'a Writer, vault: &'a VaultRow) -> Result<Self> {
        let mut busy = BTreeMap::new();
        for state in [State::Pending, State::Running] {
            for row in w.rows_at::<Backup>(index::BY_STATUS, state.key())? {
                busy.insert(row.resource, state);
            }
        }
        Ok(Self { w, vault, busy })
    }

    /// All resources that are backed up to the vault.
    fn all(&self) -> Result<Vec<Resource>> {
        let ours = |r: &Resource| {
            r.removed_at.is_none() && backups::vault_of(self.w, r).is_ok_and(|vault| vault.id == self.vault.id)
        };
        Ok(self.w.all::<Resource>()?.into_iter().filter(ours).collect())
    }

    /// The resource that a caller named, if its backup may begin.
    fn named(&self, wanted: &Wanted) -> Result<Result<Resource, Refused>> {
        let row = match select::resource(self.w, &wanted.selector) {
            Ok(row) => row,
            Err(e) => {
                let removed = match wanted.selector.parse::<u64>() {
                    Ok(id) => self.w.get::<Resource>(id)?,
                    Err(_) => None,
                };
                let code = match (&removed, e.kind) {
                    (Some(_), _) => Code::Removed,
                    (None, ErrorKind::InvalidArgument) if e.message.starts_with("more than one") => Code::Ambiguous,
                    (None, ErrorKind::InvalidArgument | ErrorKind::NotFound) => Code::Unknown,
                    _ => return Err(e),
                };
                let reason = match &removed {
                    Some(row) => format!("resource {:?} was removed; its backups are still there", row.name),
                    None => e.message,
                };
                return Ok(Err((code, reason, removed)));
            }
        };
        if let Some((called, kind)) = wanted.kind.as_ref().filter(|(_, kind)| *kind != row.kind) {
            let reason = format!("resource {:?} is of kind {}, not {kind} as {called} is", row.name, row.kind);
            return Ok(Err((Code::OtherType, reason, Some(row))));
        }
        if let Some(other) = row.vault.filter(|id| *id != self.vault.id) {
            let other = self.w.get::<VaultRow>(other)?.map(|v| v.name).unwrap_or_default();
            let reason =
                format!("resource {:?} is associated with the vault {other:?}; associate it with this one", row.name);
            return Ok(Err((Code::OtherVault, reason, Some(row))));
        }
        Ok(self.idle(row))
    }

    fn idle(&self, row: Resource) -> Result<Resource, Refused> {
        if row.origin.orphaned() {
            let reason = format!("resource {:?} is orphaned: the file that declared it no longer does", row.name);
            return Err((Code::Orphaned, reason, Some(row)));
        }
        let refused = match self.busy.get(&row.id) {
            None => return Ok(row),
            Some(State::Running) => (Code::Running, format!("resource {:?} is being backed up already", row.name)),
            Some(_) => (Code::Waiting, format!("resource {:?} waits for a backup already", row.name)),
        };
        Err((refused.0, refused.1, Some(row)))
    }
}

fn skipped(wanted: &Wanted, (code, reason, row): Refused) -> Skipped {
    let called = wanted.kind.as_ref().map(|(called, _)| called.clone());
    let kind = row.as_ref().map(|r| r.kind.clone());
    Skipped {
        id: row.as_ref().map_or_else(|| wanted.selector.clone(), |r| r.id.to_string()),
        name: row.map_or_else(|| wanted.name.clone(), |r| r.name),
        r#type: called.or(kind).unwrap_or_default(),
        code: code.text().into(),
        reason,
    }
}

impl Service {
    /// Queues a backup of each resource, and answers with their checkpoint.
    pub fn create_checkpoint(&self, vault: &str, options: Map) -> Result<Map> {
        let plan = Plan::take(options)?;
        let row = self.submit_all(|w, batch| self.draft_checkpoint(w, batch, vault, plan))?;
        self.emit(Event::JobNew { id: row.job });
        for member in &row.members {
            self.emit(Event::BackupChanged { id: member.backup, status: "pending".into() });
        }
        // With nothing to wait for it has ended.
        self.settle(row.job);
        self.get_checkpoint(row.id)
    }

    fn draft_checkpoint(&self, w: &Writer, batch: &mut Batch, vault: &str, plan: Plan) -> Result<Checkpoint> {
        let vault = select::vault(w, vault)?;
        self.refuse_full(&vault)?;
        let mut row = Checkpoint {
            id: w.next_id::<Checkpoint>()?,
            name: plan.name,
            description: plan.description,
            vault: vault.id,
            vault_name: vault.name.clone(),
            project: match vault.project {
                Some(project) => project,
                None => w.named::<Project>(0, project::DEFAULT)?.unwrap_or_default(),
            },
            job: w.next_id::<Job>()?,
            automatic: plan.automatic,
            incremental: plan.incremental,
            retention: plan.retention,
            created_at: self.now(),
            members: Vec::new(),
            skipped: Vec::new(),
        };
        let chooser = Chooser::new(w, &vault)?;
        let mut taken = BTreeSet::new();
        let chosen: Vec<(Wanted, Result<Resource, Refused>)> = match plan.wanted {
            None => chooser.all()?.into_iter().map(|r| (Wanted::default(), chooser.idle(r))).collect(),
            Some(list) => {
                list.into_iter().map(|wanted| chooser.named(&wanted).map(|c| (wanted, c))).collect::<Result<_>>()?
            }
        };
        if chosen.is_empty() {
            return Err(Error::invalid_state(format!(
                "no resource is backed up to the vault {:?}; associate some with it, or name them",
                vault.name
            )));
        }
        for (wanted, choice) in chosen {
            match choice {
                // Named twice, by its name and by its id.
                Ok(resource) if !taken.insert(resource.id) => {}
                Ok(resource) => self.draft_member(w, batch, &vault, &mut row, (wanted, resource))?,
                Err(refused) => row.skipped.push(skipped(&wanted, refused)),
            }
        }
        let parts = batch.iter().map(|(id, _)| *id).collect();
        let waits = Draft {
            vault: Some(vault.id),
            // It never is in the queue.
            ..Draft::new(Task::Checkpoint { checkpoint: row.id, parts }, Ticket::free(Lane::Work))
        };
        w.put(&waits.waiting(row.job, self.now()))?;
        w.put(&row)?;
        Ok(row)
    }

    fn draft_member(
        &self,
        w: &Writer,
        batch: &mut Batch,
        vault: &VaultRow,
        row: &mut Checkpoint,
        (wanted, resource): (Wanted, Resource),
    ) -> Result<()> {
        let (mut count_before, mut stored_before) = (0, 0);
        for before in w.rows_at::<Backup>(index::BY_RESOURCE, resource.id)? {
            if before.vault == vault.id && before.status == State::Completed && !before.deleting {
                count_before += 1;
                stored_before += before.stored.unwrap_or_default();
            }
        }
        let job = w.next_id::<Job>()?;
        let wish = Wish {
            kind: "full".into(),
            backup_type: if row.automatic { "automatic" } else { "manual" }.into(),
            description: row.description.clone(),
            incremental: row.incremental,
            checkpoint: Some(row.id),
            ..Wish::default()
        };
        let (draft, backup) = match self.draft_backup(w, job, resource.clone(), vault, wish) {
            Ok(drafted) => drafted,
            Err(e) if e.kind == ErrorKind::LimitReached => {
                row.skipped.push(skipped(&wanted, (Code::Limit, e.message, Some(resource))));
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        w.put(&Job { part_of: Some(row.job), ..draft.row(job, self.now()) })?;
        batch.push((job, draft.ticket));
        row.members.push(Member {
            resource: resource.id,
            name: resource.name,
            r#type: wanted.kind.map_or(resource.kind, |(called, _)| called),
            extra_info: wanted.extra.unwrap_or(resource.extra_info),
            backup,
            size_before: resource.last_size,
            count_before,
            stored_before,
        });
        Ok(())
    }

    /// One checkpoint.
    pub fn get_checkpoint(&self, id: u64) -> Result<Map> {
        self.catalog.read(|r| checkpoint_map(r, &r.need(id)?))
    }

    /// Lists checkpoints.
    pub fn list_checkpoints(&self, options: Map) -> Result<(u64, Vec<Map>)> {
        let mut args = Args::new(options);
        let page = Page::take(&mut args, FIELDS)?;
        let vault = args.string("vault")?;
        let resource = args.string("resource")?;
        let name = args.string("name")?;
        let status = args.choice("status", &["protecting", "available", "error"])?;
        args.finish()?;
        self.catalog.read(|r| {
            let vault = vault.map(|s| select::vault(r, &s).map(|v| v.id)).transpose()?;
            let resources = resource.map(|s| select::resources_ever(r, &s)).transpose()?;
            let mut ids = r.ids::<Checkpoint>()?;
            let plain = vault.is_none() && resources.is_none() && name.is_none() && status.is_none();
            if let (true, Some(down)) = (plain, page.by_id()) {
                if down {
                    ids.reverse();
                }
                let (count, ids) = page.slice(ids);
                let maps = ids.into_iter().map(|id| checkpoint_map(r, &r.need(id)?)).collect::<Result<_>>()?;
                return Ok((count, maps));
            }
            let mut maps = Vec::new();
            for id in ids {
                let row = r.need::<Checkpoint>(id)?;
                let members = |list: &Vec<u64>| row.members.iter().any(|m| list.contains(&m.resource));
                if vault.is_none_or(|v| row.vault == v)
                    && resources.as_ref().is_none_or(members)
                    && name.as_ref().is_none_or(|n| row.name == *n)
                {
                    let map = checkpoint_map(r, &row)?;
                    let is = |wanted: &String| matches!(map.get("status"), Some(Value::Str(s)) if s == wanted);
                    if status.as_ref().is_none_or(is) {
                        maps.push(map);
                    }
                }
            }
            Ok(page.cut(maps))
        })
    }

    /// Starts a job that ends when all backups of a checkpoint are deleted; it goes with the last.
    pub fn delete_checkpoint(&self, id: u64, options: Map) -> Result<u64> {
        Args::new(options).finish()?;
        let (job, hidden) = self.submit_all(|w, batch| {
            let row = w.need::<Checkpoint>(id)?;
            let whole = w.next_id::<Job>()?;
            let backups = w.indexed(index::BY_CHECKPOINT, id)?;
            for backup in &backups {
                let draft = backups::draft_delete(w, *backup).map_err(|e| e.context(format!("checkpoint {id}")))?;
                let job = w.next_id::<Job>()?;
                w.put(&Job { part_of: Some(whole), ..draft.row(job, self.now()) })?;
                batch.push((job, draft.ticket));
            }
            let parts = batch.iter().map(|(id, _)| *id).collect();
            let draft = Draft {
                vault: Some(row.vault),
                ..Draft::new(Task::DeleteCheckpoint { checkpoint: id, parts }, Ticket::free(Lane::Maintenance))
            };
            w.put(&draft.waiting(whole, self.now()))?;
            Ok((whole, backups))
        })?;
        self.emit(Event::JobNew { id: job });
        hidden.into_iter().for_each(|backup| self.hide(backup));
        self.settle(job);
        Ok(job)
    }

    /// Says of the backups of checkpoints when they will go, and starts to delete those whose time
    /// has come. Answers when the next one's comes.
    pub fn tick_checkpoints(&self, now: Timestamp) -> Result<Option<Timestamp>> {
        let (changes, due, next) = self.catalog.read(|r| {
            let (mut changes, mut due) = (Vec::new(), Vec::new());
            let mut next: Option<Timestamp> = None;
            let mut newest = BTreeMap::new();
            for row in r.rows_at::<Checkpoint>(index::BY_CHECKPOINT, EXPIRING)? {
                let Some(days) = row.retention else { continue };
                let end = row.created_at.saturating_add(SignedDuration::from_hours(i64::from(days) * 24));
                let end = end.unwrap_or(Timestamp::MAX);
                for backup in r.rows_at::<Backup>(index::BY_CHECKPOINT, row.id)? {
                    let expires = expiry(r, &backup, end, &mut newest)?;
                    if backup.expires_at != expires {
                        changes.push((backup.id, expires));
                    }
                    match expires {
                        Some(end) if end <= now && !backup.deleting => due.push(backup.id),
                        Some(end) if end > now => next = Some(next.map_or(end, |n| n.min(end))),
                        _ => {}
                    }
                }
            }
            Ok((changes, due, next))
        })?;
        if !changes.is_empty() {
            self.catalog.write(|w| {
                changes.iter().filter(|(id, _)| !due.contains(id)).try_for_each(|(id, expires)| {
                    w.update::<Backup>(*id, |row| {
                        row.expires_at = *expires;
                        Ok(())
                    })
                    .map(drop)
                })
            })?;
        }
        for id in due {
            match self.delete_backup(id, Map::new()) {
                Ok(job) => tracing::info!("backup {id} of a checkpoint has expired; job {job} deletes it"),
                // In use, or its vault is on its way out: the next time will tell.
                Err(e) if matches!(e.kind, ErrorKind::InvalidState | ErrorKind::NotFound) => {
                    tracing::debug!("backup {id} has expired and stays for now: {e}");
                }
                Err(e) => return Err(e),
            }
        }
        Ok(next)
    }
}

/// When a backup of a checkpoint goes: never while it is the newest good one of its resource,
/// protected, or a manual one.
fn expiry(
    t: &impl Tables,
    row: &Backup,
    end: Timestamp,
    newest: &mut BTreeMap<u64, Option<u64>>,
) -> Result<Option<Timestamp>> {
    if !row.status.ended() || row.protected || row.backup_type != "automatic" {
        return Ok(None);
    }
    let good = match newest.get(&row.resource) {
        Some(found) => *found,
        None => {
            let mut found = None;
            for id in t.indexed(index::BY_RESOURCE, row.resource)?.into_iter().rev() {
                let good = |b: &Backup| b.status == State::Completed && !b.deleting && !b.partial;
                if t.get::<Backup>(id)?.is_some_and(|b| good(&b)) {
                    found = Some(id);
                    break;
                }
            }
            newest.insert(row.resource, found);
            found
        }
    };
    Ok((good != Some(row.id)).then_some(end))
}

/// A resource in a checkpoint, and how far it is.
fn member_map(t: &impl Tables, member: &Member, backup: Option<&Backup>) -> Result<Map> {
    let status = match backup {
        None => "removed",
        Some(b) if b.deleting => "removing",
        Some(b) => match b.status {
            State::Pending | State::Running => "protecting",
            State::Completed => "available",
            State::Failed | State::Cancelled => "error",
        },
    };
    let done = backup.filter(|b| b.status == State::Completed && !b.deleting);
    let size = done.and_then(|b| b.size).or(member.size_before);
    let name = t.get::<Resource>(member.resource)?.map_or_else(|| member.name.clone(), |r| r.name);
    let mut f = Fields::default();
    f.set("id", member.resource).set("name", name).set("type", member.r#type.as_str());
    f.set("protect_status", status).opt("resource_size", size.map(|s| s.div_ceil(GIB)));
    f.set("backup_size", member.stored_before + done.and_then(|b| b.stored).unwrap_or_default());
    let count = member.count_before + u64::from(done.is_some());
    f.set("backup_count", u32::try_from(count).unwrap_or(u32::MAX));
    f.text("extra_info", &member.extra_info).opt("backup", backup.map(|b| b.id));
    f.opt("error", backup.and_then(|b| b.error.as_deref()));
    Ok(f.done())
}

fn skipped_map(skipped: &Skipped) -> Map {
    let mut f = Fields::default();
    match skipped.id.parse::<u64>() {
        Ok(id) => f.set("id", id),
        Err(_) => f.set("id", skipped.id.as_str()),
    };
    f.text("type", &skipped.r#type).text("name", &skipped.name);
    f.set("code", skipped.code.as_str()).set("reason", skipped.reason.as_str()).done()
}

fn checkpoint_map(t: &impl Tables, row: &Checkpoint) -> Result<Map> {
    let (mut resources, mut states, mut deleting) = (Vec::new(), Vec::new(), false);
    for member in &row.members {
        let backup = t.get::<Backup>(member.backup)?;
        states.extend(backup.as_ref().map(|b| b.status));
        deleting |= backup.as_ref().is_some_and(|b| b.deleting);
        resources.push(member_map(t, member, backup.as_ref())?);
    }
    let status = if states.iter().any(|s| !s.ended()) {
        "protecting"
    } else if !states.is_empty() && states.iter().all(|s| *s == State::Completed) {
        "available"
    } else {
        "error"
    };
    let mut vault = Fields::default();
    let name = t.get::<VaultRow>(row.vault)?.map_or_else(|| row.vault_name.clone(), |v| v.name);
    vault.set("id", row.vault).set("name", name).set("resources", resources);
    vault.set("skipped_resources", row.skipped.iter().map(skipped_map).collect::<Vec<_>>());
    let retention = row.retention.and_then(|days| i32::try_from(days).ok()).unwrap_or(-1);
    let mut extra = Fields::default();
    extra.set("name", row.name.as_str()).set("description", row.description.as_str());
    extra.set("retention_duration", retention);
    let mut f = Fields::default();
    f.set("id", row.id).set("job", fields::job_path(row.job)).set("project_id", row.project.to_string());
    f.set("status", status).time("created_at", Some(row.created_at)).set("vault", vault.done());
    f.set("extra_info", extra.done());
    let message = if deleting {
        Some("backups of it are being deleted")
    } else if row.members.is_empty() {
        Some("every resource was skipped; nothing was backed up")
    } else if row.retention.is_some() && !row.automatic {
        Some("its backups are manual ones, which never expire; retention_duration is for those of auto_trigger")
    } else {
        None
    };
    Ok(f.opt("message", message).done())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, Value)]) -> Map {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect()
    }

    #[test]
    fn names_are_of_letters_digits_and_han() {
        for good in ["backup_name", "a-B_9", "2024", "备份-1", "-"] {
            assert!(check_name(good.into()).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a/b", "é", "a\n", "ありがとう", &"x".repeat(256)] {
            assert!(check_name(bad.into()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn parameters_may_be_nested_but_not_doubled() {
        let nested = map(&[("parameters", map(&[("name", "inner".into()), ("auto_trigger", true.into())]).into())]);
        let plan = Plan::take(nested.clone()).map_err(|e| e.message).ok().unwrap();
        assert_eq!((plan.name.as_str(), plan.automatic), ("inner", true));
        let mut doubled = nested;
        doubled.insert("name".into(), "outer".into());
        assert!(Plan::take(doubled).err().unwrap().message.starts_with("name is given twice"));
        let odd = map(&[("parameters", "text".into())]);
        assert!(Plan::take(odd).err().unwrap().message.starts_with("parameters is a string"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let long = "x".repeat(256);
        let detail = |pairs: &[(&str, Value)]| Value::Maps(vec![map(pairs)]);
        for (key, value, word) in [
            ("retention_duration", Value::Int32(0), "retention_duration"),
            ("retention_duration", Value::Int32(-2), "retention_duration"),
            ("retention_duration", Value::from("1"), "retention_duration"),
            ("resources", Value::from("web"), "resources"),
            ("resources", Value::List(Vec::new()), "resources is empty"),
            ("resources", Value::List(vec![Value::Int32(-1)]), "resources"),
            ("resource_details", detail(&[("type", "OS::Nova::Server".into())]), "without an id"),
            ("resource_details", detail(&[("id", "1".into()), ("type", "OS::Other".into())]), "OS::Nova::Server"),
            ("resource_details", detail(&[("id", "1".into()), ("name", long.as_str().into())]), "256 characters"),
            ("resource_details", detail(&[("id", "1".into()), ("extra_info", true.into())]), "extra_info"),
            ("resource_details", detail(&[("id", "1".into()), ("more", true.into())]), "more"),
            ("vault_id", Value::from("main"), "vault_id"),
        ] {
            let error = Plan::take(map(&[(key, value)])).err().unwrap();
            assert_eq!(error.kind, ErrorKind::InvalidArgument, "{error}");
            assert!(error.message.contains(word), "{error}");
        }
    }
}
