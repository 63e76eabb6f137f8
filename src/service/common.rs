//! The appliance's own configuration, as tasks carry it: projects, resources, destinations and
//! vaults without their secrets, tasks. Never keys.
//!
//! On the way back it adds what is missing, and changes nothing that is there. Ids are kept where
//! they are free. Destinations and vaults take secrets and keys that are not in it: they are added
//! by hand, or found again by rebuilding the catalog.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::{Event, ObjectKind, Service, check, taskform};
use crate::catalog::task::{Plan, TaskState};
use crate::catalog::{Destination, Project, Resource, Tables, TaskRow, VaultRow, Writer};
use crate::model::{Error, Result, name};
use crate::source::Excludes;

const VERSION: u32 = 1;

/// What is carried.
#[derive(Debug, Serialize, Deserialize)]
struct CommonData {
    version: u32,
    machine: String,
    projects: Vec<Project>,
    resources: Vec<Resource>,
    destinations: Vec<Destination>,
    vaults: Vec<VaultRow>,
    tasks: Vec<TaskRow>,
}

impl Service {
    /// Everything that was asked for, as it stands in the catalog.
    pub(super) fn common_data(&self) -> Result<Json> {
        let data = self.catalog.read(|r| {
            Ok(CommonData {
                version: VERSION,
                machine: self.machine.name.clone(),
                projects: r.all()?,
                resources: r.all()?,
                destinations: r.all()?,
                vaults: r.all()?,
                tasks: r.all()?,
            })
        })?;
        serde_json::to_value(data).map_err(|e| Error::failed(format!("cannot encode the configuration: {e}")))
    }

    /// Adds what is missing here, and says what that was.
    pub(super) fn merge_common_data(&self, text: &[u8]) -> Result<(Json, Vec<Event>)> {
        let bad = |why: &dyn std::fmt::Display| Error::damaged(format!("the copy's common data cannot be read: {why}"));
        let data: CommonData = serde_json::from_slice(text).map_err(|e| bad(&e))?;
        if data.version != VERSION {
            return Err(bad(&format!("its version is {}, and this program knows {VERSION}", data.version)));
        }
        data.check().map_err(|e| bad(&e))?;
        self.catalog.write(|w| data.merge(w, self.now()))
    }
}

impl CommonData {
    /// Refuses what no catalog holds.
    fn check(&self) -> Result<()> {
        self.projects.iter().try_for_each(|p| name::check("project", &p.name))?;
        for resource in &self.resources {
            name::check("resource", &resource.name)?;
            check::clean_paths("paths", &resource.paths)?;
            Excludes::new(&resource.exclude)?;
            check::kind(&resource.kind)?;
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

    fn merge(self, w: &Writer, now: Timestamp) -> Result<(Json, Vec<Event>)> {
        let mut events = Vec::new();
        let mut added = (0_u64, 0_u64, 0_u64);
        let mut projects = BTreeMap::new();
        for mut project in self.projects {
            let id = match w.named::<Project>(0, &project.name)? {
                Some(id) => id,
                None => {
                    let id = w.own_id::<Project>(project.id)?;
                    added.0 += 1;
                    w.put(&Project { id, name: project.name.clone(), ..project.clone() })?;
                    id
                }
            };
            projects.insert(std::mem::replace(&mut project.id, id), id);
        }
        let vaults: BTreeMap<u64, String> = self.vaults.into_iter().map(|vault| (vault.id, vault.name)).collect();
        for resource in self.resources.into_iter().filter(|r| r.removed_at.is_none()) {
            let Some(project) = projects.get(&resource.project).copied() else { continue };
            if w.named::<Resource>(project, &resource.name)?.is_some() {
                continue;
            }
            let vault = match resource.vault.and_then(|id| vaults.get(&id)) {
                Some(name) => w.named::<VaultRow>(0, name)?,
                None => None,
            };
            let id = w.own_id::<Resource>(resource.id)?;
            // Of its backups this catalog may know nothing.
            let unknown = (None, None, None, None);
            let (last_backup, last_success, last_size, last_entries) = unknown;
            w.put(&Resource { id, project, vault, last_backup, last_success, last_size, last_entries, ..resource })?;
            events.push(Event::ObjectAdded { kind: ObjectKind::Resource, id });
            added.1 += 1;
        }
        let known: Vec<TaskRow> = w.all()?;
        for task in self.tasks {
            let same =
                |k: &TaskRow| (k.r#type, &k.name, &k.store_location) == (task.r#type, &task.name, &task.store_location);
            if known.iter().any(same) {
                continue;
            }
            let id = w.own_id::<TaskRow>(task.id)?;
            let due = match &task.setting.plan {
                Plan::CronExpression { cron } => taskform::times(cron)?.next(now),
                _ => task.due.filter(|due| *due > now),
            };
            let state = if task.end_date.is_some() { TaskState::Finished } else { TaskState::Pending };
            w.put(&TaskRow { id, due, state, job: None, ..task })?;
            events.push(Event::ObjectAdded { kind: ObjectKind::Task, id });
            added.2 += 1;
        }
        Ok((json!({"projects": added.0, "resources": added.1, "tasks": added.2}), events))
    }
}
