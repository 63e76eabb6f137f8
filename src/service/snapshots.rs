//! Snapshots: what a resource held at one moment, on the same storage.

use uuid::Uuid;

use super::fields::{self, Fields};
use super::page::Page;
use super::submit::Draft;
use super::units::Action;
use super::{Event, ObjectKind, Service, backups, resources, select};
use crate::catalog::snapshot::{BY_RESOURCE, MANUAL};
use crate::catalog::{Project, Resource, Schedule, Snapshot, State, Tables, Task, Writer};
use crate::jobs::{Key, Lane, Ticket};
use crate::model::{Args, Error, Map, Result, Value};
use crate::snapshot::{self, Marker, part_path, swap};

/// The longest name of a snapshot, in bytes.
const LONGEST: usize = 255;

const FIELDS: &[&str] = &[
    "id",
    "job",
    "server",
    "name",
    "status",
    "size",
    "size_mb",
    "entries",
    "engine",
    "automatic",
    "created_at",
    "completed_at",
    "expires_at",
    "schedule",
    "description",
    "location",
    "message",
];

fn check_name(name: &str) -> Result<()> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if name.is_empty() || name.len() > LONGEST || !name.bytes().all(fits) {
        let start: String = name.chars().take(40).collect();
        return Err(Error::invalid(format!(
            "snapshot name {start:?} must be 1 to {LONGEST} letters, digits, dashes and underscores"
        )));
    }
    Ok(())
}

/// A server's selector, which may be a number: `resource` or `server_id`.
pub(super) fn server(args: &mut Args) -> Result<Option<String>> {
    let resource = args.string("resource")?;
    let server = match args.value("server_id") {
        None => None,
        Some(Value::Str(s)) => Some(s),
        Some(Value::Uint(n)) => Some(n.to_string()),
        Some(Value::Uint32(n)) => Some(n.to_string()),
        Some(Value::Int(n)) if n >= 0 => Some(n.to_string()),
        Some(Value::Int32(n)) if n >= 0 => Some(n.to_string()),
        Some(other) => {
            return Err(Error::invalid(format!("server_id is {}; it must be a string (s) or an id", other.kind())));
        }
    };
    if resource.is_some() && server.is_some() {
        return Err(Error::invalid("resource and server_id are both given; they mean the same, give one"));
    }
    Ok(resource.or(server))
}

/// What the jobs of a snapshot need. Taking one does not wait for a backup, which only reads; but a
/// restore and whatever is done to the snapshots of a resource exclude each other.
pub(super) fn ticket(task: &Task, resource: u64) -> Ticket {
    let mut exclusive = vec![Key::Snapshots(resource)];
    if matches!(task, Task::RestoreSnapshot { .. }) {
        exclusive.push(Key::Resource(resource));
    }
    Ticket { exclusive, ..Ticket::free(Lane::Snapshots) }
}

/// A snapshot that is to be taken.
pub(super) struct Wish {
    pub name: String,
    pub description: String,
    pub unit_action: String,
    pub schedule: Option<u64>,
    pub automatic: bool,
    pub engine: String,
}

/// What a status is called of a snapshot.
fn status(state: State) -> &'static str {
    match state {
        State::Pending | State::Running => "in_progress",
        State::Completed => "completed",
        State::Failed | State::Cancelled => "failed",
    }
}

fn snapshot_map(t: &impl Tables, row: &Snapshot) -> Result<Map> {
    let name = t.get::<Resource>(row.resource)?.map_or_else(|| row.resource_name.clone(), |r| r.name);
    let mut server = Fields::default();
    server.set("id", row.resource).set("name", name);
    let mut f = Fields::default();
    f.set("id", row.id).opt("job", (row.job != 0).then(|| fields::job_path(row.job))).set("server", server.done());
    f.set("name", row.name.as_str()).set("status", status(row.status)).set("engine", row.engine.as_str());
    f.opt("size", row.size).opt("size_mb", row.size.map(|s| s.div_ceil(1 << 20))).opt("entries", row.entries);
    f.set("automatic", row.automatic).set("description", row.description.as_str());
    f.time("created_at", Some(row.created_at)).time("completed_at", row.completed_at);
    f.time("expires_at", row.expires_at);
    if let Some(schedule) = row.schedule {
        f.opt("schedule", t.get::<Schedule>(schedule)?.map(|s| s.name));
    }
    let places: Vec<_> = row.parts.iter().enumerate().filter_map(|(i, part)| part_path(part, row.uuid, i)).collect();
    f.opt("location", (!places.is_empty()).then(|| fields::paths(&places)));
    let message = if row.deleting { Some("it is being deleted") } else { row.message.as_deref() };
    Ok(f.opt("message", message).done())
}

impl Service {
    /// Takes a snapshot of a resource: its row is there at once, the job does the work.
    pub fn create_snapshot(&self, selector: &str, name: &str, options: Map) -> Result<Map> {
        let mut args = Args::new(options);
        let description = backups::description(&mut args)?;
        let unit_action = args.choice("unit_action", &["none", "freeze", "stop"])?;
        args.finish()?;
        check_name(name)?;
        let row = self.catalog.read(|r| select::resource(r, selector))?;
        let unit_action = unit_action.unwrap_or_else(|| row.unit_action.clone());
        self.units_to_hold(&row.units, Action::parse(&unit_action))?;
        // Why it cannot be, before anything is written.
        if row.paths.is_empty() {
            return Err(Error::invalid_state(format!(
                "resource {:?} has databases and no paths, so there is nothing to snapshot; back it up",
                row.name
            )));
        }
        let engine = snapshot::ready(&row.paths)?;
        let (name, description) = (name.to_owned(), description.unwrap_or_default());
        let wish = Wish { name, description, unit_action, schedule: None, automatic: false, engine };
        let (_, id) = self.submit_with(|w, job| {
            let resource = select::resource(w, selector)?;
            let limit = self.config().manual_snapshots;
            let count = w.counted(MANUAL, resource.id)?;
            if count >= limit {
                return Err(Error::limit_reached(format!(
                    "resource {:?} has {count} snapshots, and {limit} is the most; delete one of them first",
                    resource.name
                )));
            }
            self.draft_snapshot(w, job, &resource, wish)
        })?;
        self.emit(Event::ObjectChanged { kind: ObjectKind::Resource, id: row.id });
        self.get_snapshot(id)
    }

    /// Writes a snapshot's row, and drafts the job that takes it.
    pub(super) fn draft_snapshot(&self, w: &Writer, job: u64, resource: &Resource, wish: Wish) -> Result<(Draft, u64)> {
        let id = w.next_id::<Snapshot>()?;
        let held = Action::parse(&wish.unit_action) != Action::None && !resource.units.is_empty();
        let row = Snapshot {
            id,
            uuid: Uuid::new_v4(),
            job,
            resource: resource.id,
            resource_name: resource.name.clone(),
            name: wish.name,
            description: wish.description,
            automatic: wish.automatic,
            schedule: wish.schedule,
            unit_action: wish.unit_action,
            status: State::Pending,
            parts: Vec::new(),
            engine: wish.engine,
            size: None,
            entries: None,
            deleting: false,
            created_at: self.now(),
            completed_at: None,
            expires_at: None,
            message: Some(if held {
                "it is being taken; the resource's units are held back meanwhile".into()
            } else {
                "it is being taken; nothing is stopped, so what is being written may be in it half-written".into()
            }),
        };
        w.put(&row)?;
        let task = Task::Snapshot { snapshot: id };
        let ticket = ticket(&task, resource.id);
        Ok((Draft { resource: Some(resource.id), ..Draft::new(task, ticket) }, id))
    }

    /// One snapshot.
    pub fn get_snapshot(&self, id: u64) -> Result<Map> {
        self.catalog.read(|r| snapshot_map(r, &r.need(id)?))
    }

    /// Lists snapshots.
    pub fn list_snapshots(&self, options: Map) -> Result<(u64, Vec<Map>)> {
        let mut args = Args::new(options);
        let page = Page::take(&mut args, FIELDS)?;
        let server = server(&mut args)?;
        let wanted = args.choice("status", &["in_progress", "completed", "failed"])?;
        let automatic = args.bool("automatic")?;
        args.finish()?;
        self.catalog.read(|r| {
            let mut ids = match server {
                None => r.ids::<Snapshot>()?,
                Some(selector) => {
                    let mut ids = Vec::new();
                    for resource in select::resources_ever(r, &selector)? {
                        ids.extend(r.indexed(BY_RESOURCE, resource)?);
                    }
                    ids.sort_unstable();
                    ids
                }
            };
            let plain = wanted.is_none() && automatic.is_none();
            if let (true, Some(down)) = (plain, page.by_id()) {
                if down {
                    ids.reverse();
                }
                let (count, ids) = page.slice(ids);
                let maps = ids.into_iter().map(|id| snapshot_map(r, &r.need(id)?)).collect::<Result<_>>()?;
                return Ok((count, maps));
            }
            let mut maps = Vec::new();
            for id in ids {
                let row = r.need::<Snapshot>(id)?;
                if wanted.as_deref().is_none_or(|s| s == status(row.status))
                    && automatic.is_none_or(|a| a == row.automatic)
                {
                    maps.push(snapshot_map(r, &row)?);
                }
            }
            Ok(page.cut(maps))
        })
    }

    /// Starts a job that deletes a snapshot for good.
    pub fn delete_snapshot(&self, id: u64, options: Map) -> Result<u64> {
        Args::new(options).finish()?;
        let (job, resource) = self.submit_with(|w, _| draft_delete(w, id))?;
        self.emit(Event::ObjectChanged { kind: ObjectKind::Resource, id: resource });
        Ok(job)
    }

    /// Starts a job that puts a resource back to one of its snapshots.
    pub fn restore_snapshot(&self, id: u64, options: Map) -> Result<Map> {
        let mut args = Args::new(options);
        let confirm = args.bool("confirm")?.unwrap_or(false);
        args.finish()?;
        let (row, resource) = self.catalog.read(|r| restorable(r, id))?;
        if !confirm {
            return Err(Error::not_confirmed(format!(
                "restoring snapshot {id} overwrites what {:?} holds now; give confirm true",
                resource.name
            )));
        }
        self.units_to_hold(&resource.units, Action::Stop)?;
        swap::check(row.uuid, &row.parts)?;
        let job = self.submit(|w| {
            let (row, _) = restorable(w, id)?;
            let task = Task::RestoreSnapshot { snapshot: id };
            let ticket = ticket(&task, row.resource);
            Ok(Draft { resource: Some(row.resource), ..Draft::new(task, ticket) })
        })?;
        let mut which = Fields::default();
        which.set("id", row.id).set("name", row.name.as_str()).time("created_at", Some(row.created_at));
        let mut who = Fields::default();
        who.set("id", resource.id).set("name", resource.name.as_str()).set("status", "restoring");
        let stopped = match resource.units.len() {
            0 => "no units are stopped".to_owned(),
            n => format!("{n} units are stopped first and started afterwards"),
        };
        let mut f = Fields::default();
        f.set("status", "pending").set("job", fields::job_path(job));
        f.set("snapshot", which.done()).set("server", who.done());
        f.set("message", format!("{:?} will be as it was in snapshot {:?}; {stopped}", resource.name, row.name));
        Ok(f.done())
    }

    /// Takes snapshots into the catalog that it does not know: another catalog did. Those of
    /// resources that are not there, and of other machines, are left alone until they are.
    pub(super) fn adopt_snapshots(&self) {
        if let Err(e) = self.try_adopt() {
            tracing::warn!("snapshots that the catalog does not know could not be looked for: {e}");
        }
    }

    fn try_adopt(&self) -> Result<()> {
        let mut found: Vec<Marker> = snapshot::markers()?.into_iter().map(|(_, marker)| marker).collect();
        found.retain(|marker| marker.machine == self.machine().id);
        let known = |t: &crate::catalog::Reader| -> Result<Vec<Uuid>> {
            Ok(t.all::<Snapshot>()?.into_iter().map(|row| row.uuid).collect())
        };
        let known = self.catalog.read(known)?;
        found.retain(|marker| !known.contains(&marker.uuid));
        // One that rests on several file systems is found on each of them.
        found.sort_by_key(|marker| (marker.id, marker.uuid));
        found.dedup_by_key(|marker| marker.uuid);
        for marker in found {
            let adopted = self.catalog.write(|w| {
                let Some(project) = w.named::<Project>(0, &marker.resource.project)? else { return Ok(None) };
                let Some(resource) = w.named::<Resource>(project, &marker.resource.name)? else { return Ok(None) };
                let row = from_marker(w, &marker, resource)?;
                w.put(&row)?;
                Ok(Some(row))
            })?;
            if let Some(row) = adopted {
                tracing::info!("snapshot {} ({}) of {} was found again", row.id, row.name, row.resource_name);
            }
        }
        Ok(())
    }
}

/// The row of a snapshot that says itself what it is.
fn from_marker(w: &Writer, marker: &Marker, resource: u64) -> Result<Snapshot> {
    let id = w.own_id::<Snapshot>(marker.id)?;
    let mut name = marker.name.clone();
    if check_name(&name).is_err() || w.named::<Snapshot>(resource, &name)?.is_some() {
        name = format!("found-{id}");
    }
    Ok(Snapshot {
        id,
        uuid: marker.uuid,
        // A job of a catalog that is not there any more.
        job: 0,
        resource,
        resource_name: marker.resource.name.clone(),
        name,
        description: marker.description.clone(),
        automatic: marker.automatic,
        schedule: None,
        unit_action: "none".into(),
        status: State::Completed,
        parts: marker.parts.clone(),
        engine: engines(marker),
        size: None,
        entries: None,
        deleting: false,
        created_at: marker.created_at,
        completed_at: Some(marker.created_at),
        expires_at: None,
        message: Some("it was found on its file system by a catalog that did not know it".into()),
    })
}

/// The engines of a snapshot, by name.
pub(super) fn engines(marker: &Marker) -> String {
    let mut names: Vec<_> = marker.parts.iter().map(|part| part.engine.name()).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

/// Marks a snapshot as being deleted, and drafts the job that does it.
pub(super) fn draft_delete(w: &Writer, id: u64) -> Result<(Draft, u64)> {
    let mut row = w.need::<Snapshot>(id)?;
    if let Some(job) = resources::open_jobs(w)?.into_iter().find(|j| j.task.snapshot() == Some(id)) {
        return Err(Error::invalid_state(format!(
            "job {} ({}) works on snapshot {id}; wait for it or cancel it first",
            job.id,
            job.task.kind()
        )));
    }
    row.deleting = true;
    w.put(&row)?;
    let task = Task::DeleteSnapshot { snapshot: id };
    let ticket = ticket(&task, row.resource);
    Ok((Draft { resource: Some(row.resource), ..Draft::new(task, ticket) }, row.resource))
}

/// A snapshot that can be put in place now, and its resource.
pub(super) fn restorable(t: &impl Tables, id: u64) -> Result<(Snapshot, Resource)> {
    let row = t.need::<Snapshot>(id)?;
    if row.deleting || row.status != State::Completed {
        let state = if row.deleting { "being deleted" } else { status(row.status) };
        return Err(Error::invalid_state(format!(
            "snapshot {id} is {state}; only a completed snapshot can be restored"
        )));
    }
    let resource = t.get::<Resource>(row.resource)?.filter(|r| r.removed_at.is_none()).ok_or_else(|| {
        Error::invalid_state(format!(
            "resource {:?} of snapshot {id} was removed; copy what you need from where the snapshot rests",
            row.resource_name
        ))
    })?;
    if let Some(part) = row.parts.iter().find(|part| !resource.paths.contains(&part.path)) {
        return Err(Error::invalid_state(format!(
            "{} is in snapshot {id}, and no longer among the paths of {:?}; add it again, or copy what you need from \
             where the snapshot rests",
            part.path.display(),
            resource.name
        )));
    }
    for job in resources::open_jobs(t)?.into_iter().filter(|j| j.resource == Some(resource.id)) {
        let doing = match &job.task {
            Task::Backup { .. } if job.state == State::Running => "being backed up",
            Task::Restore(task) if task.target.is_none() && !task.dry_run => "being restored",
            Task::RestoreSnapshot { .. } => "being restored",
            Task::DeleteSnapshot { snapshot } if *snapshot == id => "losing this snapshot",
            _ => continue,
        };
        return Err(Error::invalid_state(format!(
            "resource {:?} is {doing} by job {}; wait for it or cancel it first",
            resource.name, job.id
        )));
    }
    Ok((row, resource))
}
