//! The appliance's own configuration, as tasks carry it: projects, resources, destinations and
//! vaults without their secrets, schedules, tasks. Never keys.
//!
//! On the way back it adds what is missing, and changes nothing that is there. Ids are kept where
//! they are free. What a file declared is nobody's file's here. Destinations and vaults take secrets
//! and keys that are not in it: they are added by hand, or found again by rebuilding the catalog.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::{Event, ObjectKind, Service, check, databases, scheduleform, schedules, taskform};
use crate::catalog::task::{Plan, TaskState};
use crate::catalog::{Destination, Origin, Project, Resource, Schedule, Tables, TaskRow, VaultRow, Writer};
use crate::jobs::Times;
use crate::model::{Error, Result, name};
use crate::source::Excludes;

const VERSION: u32 = 1;

/// What is carried.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CommonData {
    version: u32,
    machine: String,
    projects: Vec<Project>,
    resources: Vec<Resource>,
    destinations: Vec<Destination>,
    vaults: Vec<VaultRow>,
    /// Copies of earlier versions have none.
    #[serde(default)]
    schedules: Vec<Schedule>,
    tasks: Vec<TaskRow>,
}

impl Service {
    /// Everything that was asked for, as it stands in the catalog.
    pub(super) fn common_data(&self) -> Result<Json> {
        let data = self.catalog.read(|r| {
            Ok(CommonData {
                version: VERSION,
                machine: self.machine().name,
                projects: r.all()?,
                resources: r.all()?,
                destinations: r.all()?,
                vaults: r.all()?,
                schedules: r.all()?,
                tasks: r.all()?,
            })
        })?;
        serde_json::to_value(data).map_err(|e| Error::failed(format!("cannot encode the configuration: {e}")))
    }

    /// Adds what is missing here, and says what that was.
    pub(super) fn merge_common_data(&self, text: &[u8]) -> Result<(Json, Vec<Event>)> {
        let data = serde_json::from_slice(text).map_err(|e| unreadable(&e)).and_then(CommonData::read)?;
        self.catalog.write(|w| {
            let mut here = Here::new(self.now());
            for vault in &data.vaults {
                here.vaults.insert(vault.id, w.named::<VaultRow>(0, &vault.name)?);
            }
            let added = data.merge(w, &mut here)?;
            Ok((added.result, added.events))
        })
    }
}

fn unreadable(why: &dyn std::fmt::Display) -> Error {
    Error::damaged(format!("the common data cannot be read: {why}"))
}

impl CommonData {
    /// Common data from its JSON document, checked.
    pub fn read(document: Json) -> Result<Self> {
        let data: Self = serde_json::from_value(document).map_err(|e| unreadable(&e))?;
        if data.version != VERSION {
            return Err(unreadable(&format!("its version is {}, and this program knows {VERSION}", data.version)));
        }
        data.check().map_err(|e| unreadable(&e))?;
        Ok(data)
    }

    /// The vaults, which are not added.
    pub fn vaults(&self) -> &[VaultRow] {
        &self.vaults
    }

    /// Refuses what no catalog holds.
    fn check(&self) -> Result<()> {
        self.projects.iter().try_for_each(|p| name::check("project", &p.name))?;
        for resource in &self.resources {
            name::check("resource", &resource.name)?;
            check::clean_paths("paths", &resource.paths)?;
            Excludes::new(&resource.exclude)?;
            check::kind(&resource.kind)?;
        }
        for schedule in &self.schedules {
            name::check("schedule", &schedule.name)?;
            if !["full", "database"].contains(&schedule.r#type.as_str()) {
                return Err(Error::invalid(format!("schedule {:?} is of no known type", schedule.name)));
            }
            Times::parse(&schedule.cron, &schedule.timezone)?;
        }
        for task in &self.tasks {
            name::check("task", &task.name)?;
            check::clean_path("store_location", &task.store_location)?;
            super::tasks::Choice::all(&task.content.projects)?;
            if let Plan::CronExpression { cron } = &task.setting.plan {
                taskform::times(cron)?;
            }
        }
        Ok(())
    }

    /// Adds what is missing. `here` says what the copy's vaults are, and learns the rest.
    pub fn merge(self, w: &Writer, here: &mut Here) -> Result<Added> {
        let mut added = Added::default();
        self.projects.into_iter().try_for_each(|project| here.project(w, project, &mut added))?;
        self.resources.into_iter().try_for_each(|resource| here.resource(w, resource, &mut added))?;
        self.schedules.into_iter().try_for_each(|schedule| here.schedule(w, schedule, &mut added))?;
        let known: Vec<TaskRow> = w.all()?;
        self.tasks.into_iter().try_for_each(|task| here.task(w, task, &known, &mut added))?;
        added.result = json!({
            "projects": added.projects, "resources": added.resources, "schedules": added.schedules, "tasks": added.tasks,
        });
        if !added.switched_off.is_empty() {
            added.result["schedules_switched_off"] = std::mem::take(&mut added.switched_off).into();
        }
        Ok(added)
    }
}

/// What was added.
#[derive(Default)]
pub(super) struct Added {
    /// The same for whoever asked.
    pub result: Json,
    projects: u64,
    resources: u64,
    schedules: u64,
    tasks: u64,
    /// Schedules that do not run, because their vault is not here.
    switched_off: Vec<String>,
    pub events: Vec<Event>,
}

/// What the ids of the copy stand for in this catalog.
#[derive(Default)]
pub(super) struct Here {
    now: Timestamp,
    pub vaults: BTreeMap<u64, Option<u64>>,
    pub projects: BTreeMap<u64, u64>,
    pub resources: BTreeMap<u64, u64>,
}

impl Here {
    pub fn new(now: Timestamp) -> Self {
        Self { now, ..Self::default() }
    }

    fn vault(&self, id: Option<u64>) -> Option<u64> {
        id.and_then(|id| self.vaults.get(&id).copied().flatten())
    }

    fn project(&mut self, w: &Writer, project: Project, added: &mut Added) -> Result<()> {
        let there = project.id;
        let id = match w.named::<Project>(0, &project.name)? {
            Some(id) => id,
            None => {
                let id = w.own_id::<Project>(there)?;
                added.projects += 1;
                w.put(&Project { id, origin: Origin::default(), ..project })?;
                id
            }
        };
        self.projects.insert(there, id);
        Ok(())
    }

    fn resource(&mut self, w: &Writer, resource: Resource, added: &mut Added) -> Result<()> {
        let Some(project) = self.projects.get(&resource.project).copied().filter(|_| resource.removed_at.is_none())
        else {
            return Ok(());
        };
        if let Some(id) = w.named::<Resource>(project, &resource.name)? {
            self.resources.insert(resource.id, id);
            return Ok(());
        }
        let id = w.own_id::<Resource>(resource.id)?;
        self.resources.insert(resource.id, id);
        let vault = self.vault(resource.vault);
        // Of its backups this catalog may know nothing.
        let unknown = (None, None, None, None);
        let (last_backup, last_success, last_size, last_entries) = unknown;
        w.put(&Resource {
            id,
            project,
            vault,
            last_backup,
            last_success,
            last_size,
            last_entries,
            // Commands to run come from this machine's own files alone.
            before: Vec::new(),
            after: Vec::new(),
            databases: databases::without_commands(resource.databases),
            command_timeout: None,
            origin: Origin::default(),
            ..resource
        })?;
        added.events.push(Event::ObjectAdded { kind: ObjectKind::Resource, id });
        added.resources += 1;
        Ok(())
    }

    fn schedule(&self, w: &Writer, schedule: Schedule, added: &mut Added) -> Result<()> {
        if w.named::<Schedule>(0, &schedule.name)?.is_some() {
            return Ok(());
        }
        let resources: Vec<u64> = schedule.resources.iter().filter_map(|id| self.resources.get(id).copied()).collect();
        if resources.is_empty() && !schedule.resources.is_empty() {
            // Without any it would back up everything, which nobody asked for.
            return Ok(());
        }
        let id = w.own_id::<Schedule>(schedule.id)?;
        let usual = scheduleform::blank(id, &schedule.name, schedule.created_at);
        let vault = self.vault(schedule.vault);
        let mut row = Schedule {
            enabled: schedule.enabled,
            cron: schedule.cron,
            timezone: schedule.timezone,
            what: schedule.what,
            r#type: schedule.r#type,
            resources,
            vault,
            keep: schedule.keep,
            notify_on_failure: schedule.notify_on_failure,
            full_every: schedule.full_every,
            ..usual
        };
        if row.enabled && schedule.vault.is_some() && vault.is_none() {
            // It must not fill another one than was chosen for it.
            row.enabled = false;
            added.switched_off.push(row.name.clone());
        }
        schedules::keep(w, None, row, self.now)?;
        added.events.push(Event::ObjectAdded { kind: ObjectKind::Schedule, id });
        added.schedules += 1;
        Ok(())
    }

    fn task(&self, w: &Writer, task: TaskRow, known: &[TaskRow], added: &mut Added) -> Result<()> {
        let same =
            |k: &TaskRow| (k.r#type, &k.name, &k.store_location) == (task.r#type, &task.name, &task.store_location);
        if known.iter().any(same) {
            return Ok(());
        }
        let id = w.own_id::<TaskRow>(task.id)?;
        let due = match &task.setting.plan {
            Plan::CronExpression { cron } => taskform::times(cron)?.next(self.now),
            _ => task.due.filter(|due| *due > self.now),
        };
        let state = if task.end_date.is_some() { TaskState::Finished } else { TaskState::Pending };
        w.put(&TaskRow { id, due, state, job: None, origin: Origin::default(), ..task })?;
        added.events.push(Event::ObjectAdded { kind: ObjectKind::Task, id });
        added.tasks += 1;
        Ok(())
    }
}
