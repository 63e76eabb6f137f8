//! Runs of tasks.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::{Report, error_list};
use crate::catalog::task::TaskState;
use crate::catalog::{Job, Project, Resource, State, Tables, TaskRow, Writer};
use crate::model::{Error, Progress, Result};
use crate::plain::{ResourceRecord, Source, backup, restore};
use crate::restore::{Format, OnError};
use crate::service::{Event, ObjectKind, Service, check, taskform, tasks};

/// A resource as a copy's manifest records it.
fn record((project, row): (Project, Resource)) -> ResourceRecord {
    ResourceRecord {
        id: row.id,
        name: row.name,
        project_id: project.id,
        project: project.name,
        paths: row.paths,
        exclude: row.exclude,
        one_file_system: row.one_file_system,
    }
}

fn on_error(row: &TaskRow) -> OnError {
    if row.setting.fast_fail { OnError::FastFail } else { OnError::Continue }
}

/// Notes in the task how far its job is.
pub(in crate::service) fn follow(w: &Writer, job: &Job) -> Result<Vec<Event>> {
    let Some(id) = job.task.task() else { return Ok(Vec::new()) };
    let Some(mut row) = w.get::<TaskRow>(id)? else { return Ok(Vec::new()) };
    match job.state {
        State::Pending => row.state = TaskState::Pending,
        State::Running => {
            row.state = TaskState::Running;
            row.start_date = job.started_at;
            (row.end_date, row.result, row.error) = (None, None, None);
            row.report.clear();
        }
        ended => {
            row.state = TaskState::Finished;
            row.end_date = job.completed_at;
            row.result = Some(ended.name().into());
            row.error.clone_from(&job.error);
            row.report.clone_from(&job.result);
        }
    }
    w.put(&row)?;
    Ok(vec![Event::ObjectChanged { kind: ObjectKind::Task, id }])
}

impl Service {
    pub(super) fn run_task_backup(&self, job: &Job, task: u64, progress: &Arc<Progress>) -> Result<Report> {
        let (row, chosen, never) = self.catalog.read(|r| {
            let row = r.need::<TaskRow>(task)?;
            let chosen = tasks::chosen(r, &row.content.projects)?;
            // Copies of other tasks are no data of the resources around them.
            let others = r.all::<TaskRow>()?;
            let mut never = self.own_directories(r)?;
            let backups = others.iter().filter(|t| t.r#type == crate::catalog::task::TaskType::Backup);
            never.extend(backups.map(Self::task_results));
            Ok((row, chosen, never))
        })?;
        if chosen.is_empty() && !row.content.common_data {
            return Err(Error::invalid_state("no resource is what the task names, so there is nothing to copy"));
        }
        let now = self.now();
        let format = match row.content.format.as_deref() {
            _ if !row.content.compression => None,
            Some("tar.gz") => Some(Format::TarGz),
            _ => Some(Format::TarZst),
        };
        let request = backup::Request {
            results: Self::task_results(&row),
            name: format!("{}-{}", row.name, now.strftime("%Y%m%d.%H%M%S")),
            job: job.id,
            now,
            task: row.name.clone(),
            machine: self.machine().name,
            resources: chosen.into_iter().map(record).collect(),
            never,
            since: taskform::since(&row.content, now)?,
            format,
            on_error: on_error(&row),
            space_check: row.setting.space_cap_check,
            common_data: if row.content.common_data { Some(self.common_data()?) } else { None },
        };
        let done = backup::run(&request, progress)?;
        let mut result = json!({
            "path": done.path.to_string_lossy(), "entries": done.entries, "bytes": done.bytes,
            "errors": done.errors, "resources": request.resources.len(),
        });
        if let Some(since) = request.since {
            result["since"] = Json::from(crate::service::fields::time(since));
        }
        if !done.error_list.is_empty() {
            result["error_list"] = error_list(&done.error_list);
        }
        Ok(Report::of(result))
    }

    pub(super) fn run_task_restore(&self, job: &Job, task: u64, progress: &Arc<Progress>) -> Result<Report> {
        let row: TaskRow = self.catalog.read(|r| r.need(task))?;
        let mut source = Source::open(&row.store_location, &self.options.cache_dir, progress)?;
        let choices = tasks::Choice::all(&row.content.projects)?;
        let (allowed, never, units) = self.catalog.read(|r| {
            let allowed = |resource: &ResourceRecord| {
                let called = ((resource.project_id, resource.project.as_str()), (resource.id, resource.name.as_str()));
                let wanted = choices.iter().any(|choice| choice.wants(called.0, called.1));
                if wanted { places(r, resource).map(Some) } else { Ok(None) }
            };
            let allowed = source.manifest.resources.iter().map(allowed).collect::<Result<Vec<_>>>()?;
            let mut units: Vec<String> = Vec::new();
            for (resource, _) in source.manifest.resources.iter().zip(&allowed).filter(|(_, a)| a.is_some()) {
                units.extend(here(r, resource)?.map(|row| row.units).unwrap_or_default());
            }
            Ok((allowed, self.own_directories(r)?, units))
        })?;
        let resources = allowed.iter().flatten().count();
        let mut result = json!({"resources": resources});
        let mut events = Vec::new();
        if row.content.common_data {
            let Some(common) = &source.common_data else {
                return Err(Error::invalid_state(format!(
                    "{} was written without common_data; leave that out",
                    row.store_location.display()
                )));
            };
            let merged = self.merge_common_data(common)?;
            result["common_data"] = merged.0;
            events = merged.1;
        } else if resources == 0 {
            return Err(Error::invalid_state(format!(
                "{} holds no resource that the task names, so there is nothing to restore",
                row.store_location.display()
            )));
        }
        events.into_iter().for_each(|event| self.emit(event));
        let request = restore::Request {
            allowed,
            skip: row.setting.skip,
            on_error: on_error(&row),
            space_check: row.setting.space_cap_check,
            never,
            journal: self.journal(job.id),
        };
        let paused = self.paused(job.id, &units, progress, || restore::run(&mut source, &request, progress))?;
        paused.note(&mut result);
        let done = &paused.done;
        for (key, value) in [
            ("entries", done.entries),
            ("bytes", done.bytes),
            ("unchanged", done.unchanged),
            ("skipped", done.skipped),
            ("errors", done.errors),
        ] {
            result[key] = value.into();
        }
        if !done.error_list.is_empty() {
            result["error_list"] = error_list(&done.error_list);
        }
        Ok(Report { error: paused.trouble, ..Report::of(result) })
    }
}

/// Beneath which paths a resource of a copy is brought back: those that it has now, else those
/// that it had.
fn places(t: &impl Tables, resource: &ResourceRecord) -> Result<Vec<PathBuf>> {
    match here(t, resource)? {
        Some(row) => Ok(row.paths),
        None => check::clean_paths("the copy's manifest", &resource.paths),
    }
}

/// The resource of that name in this catalog.
fn here(t: &impl Tables, resource: &ResourceRecord) -> Result<Option<Resource>> {
    let Some(project) = t.named::<Project>(0, &resource.project)? else { return Ok(None) };
    t.named::<Resource>(project, &resource.name)?.map(|id| t.need::<Resource>(id)).transpose()
}
