//! Checkpoints: one backup of each of several resources of a vault, made together.
//!
//! What they are is in their backups' rows, so they need no care of their own after a crash. A
//! resource that cannot be backed up now is skipped, with a code and a reason, and the others go on.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::backups::{self, Wish};
use super::fields::{self, Fields};
use super::page::Page;
use super::selection::{Chooser, Code, Plan, Refused, Wanted, skipped};
use super::submit::{Batch, Draft};
use super::{Event, Service, select};
use crate::catalog::checkpoint::{EXPIRING, Member, Skipped};
use crate::catalog::{
    Backup, Checkpoint, Job, Project, Resource, State, Tables, Task, VaultRow, Writer, backup as index, project,
};
use crate::jobs::{Lane, Ticket};
use crate::model::{Args, Error, ErrorKind, Map, Result, Value};

const FIELDS: &[&str] = &["id", "job", "project_id", "status", "created_at", "vault", "extra_info", "message"];
const GIB: u64 = 1 << 30;

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
                row.skipped.push(skipped(&wanted, (Code::Limit, e.message, Some(Box::new(resource)))));
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
