//! Tasks: copies of projects as plain files, and the way back.

use std::path::PathBuf;

use jiff::Timestamp;
use regex_automata::meta::Regex;

use super::declare::refuse_declared;
use super::resources::{self, name_regex};
use super::submit::Draft;
use super::{Event, ObjectKind, Service, check, select, taskform};
use crate::catalog::task::{self, Plan, ProjectContent, TaskState, TaskType};
use crate::catalog::{Job, Project, Resource, Tables, Task, TaskRow, Writer, resource};
use crate::jobs::{Key, Lane, Ticket};
use crate::model::{Args, Error, ErrorKind, Map, Result};
use crate::restore::job::open_root;

/// The page when none is asked for, and the largest.
const PAGE: (u64, u64) = (20, 1000);

/// Which projects and resources are meant.
#[derive(Debug)]
pub(super) struct Choice<'a> {
    content: &'a ProjectContent,
    project: Option<Regex>,
    repo: Option<Regex>,
}

/// What a project or a resource is called: its id and its name.
pub(super) type Called<'a> = (u64, &'a str);

fn is_called(text: &str, (id, name): Called<'_>) -> bool {
    text == name || text == id.to_string()
}

fn listed(list: Option<&Vec<String>>, called: Called<'_>) -> bool {
    list.is_some_and(|list| list.iter().any(|text| is_called(text, called)))
}

impl<'a> Choice<'a> {
    pub fn all(list: &'a [ProjectContent]) -> Result<Vec<Self>> {
        let new = |content: &'a ProjectContent| {
            Ok(Self {
                content,
                project: content.project_regex.as_deref().map(|text| name_regex("project_regex", text)).transpose()?,
                repo: content.repo_regex.as_deref().map(|text| name_regex("repo_regex", text)).transpose()?,
            })
        };
        list.iter().map(new).collect()
    }

    fn wants_project(&self, project: Called<'_>) -> bool {
        let named = self.content.project_id.as_deref().is_some_and(|text| is_called(text, project));
        let matched = self.project.as_ref().is_some_and(|regex| regex.is_match(project.1));
        (named || matched) && !listed(self.content.exclude_projects.as_ref(), project)
    }

    /// Whether a resource of a project is meant.
    pub fn wants(&self, project: Called<'_>, repo: Called<'_>) -> bool {
        let content = self.content;
        let every = content.repo_list.is_none() && content.repo_regex.is_none();
        let chosen = every
            || listed(content.repo_list.as_ref(), repo)
            || self.repo.as_ref().is_some_and(|regex| regex.is_match(repo.1));
        self.wants_project(project) && chosen && !listed(content.exclude_repos.as_ref(), repo)
    }
}

/// The resources that a task is about, with their projects.
pub(super) fn chosen(t: &impl Tables, list: &[ProjectContent]) -> Result<Vec<(Project, Resource)>> {
    let choices = Choice::all(list)?;
    let mut found = Vec::new();
    for project in t.all::<Project>()? {
        for row in t.rows_at::<Resource>(resource::BY_PROJECT, project.id)? {
            if choices.iter().any(|c| c.wants((project.id, &project.name), (row.id, &row.name))) {
                found.push((project.clone(), row));
            }
        }
    }
    Ok(found)
}

/// Refuses exact names of what does not exist.
pub(super) fn names_exist(t: &impl Tables, list: &[ProjectContent]) -> Result<()> {
    let choices = Choice::all(list)?;
    let projects = t.all::<Project>()?;
    for choice in &choices {
        if let Some(text) = &choice.content.project_id {
            select::project(t, text).map_err(|e| e.context("project_id"))?;
        }
        for text in choice.content.repo_list.iter().flatten() {
            let mut there = false;
            for project in projects.iter().filter(|p| choice.wants_project((p.id, &p.name))) {
                let rows = t.rows_at::<Resource>(resource::BY_PROJECT, project.id)?;
                there |= rows.iter().any(|row| is_called(text, (row.id, &row.name)));
            }
            if !there {
                return Err(Error::not_found(format!(
                    "repo_list holds {text:?}, which is no resource of the projects that are meant"
                )));
            }
        }
    }
    Ok(())
}

/// A task that names a project, or a resource of it, exactly.
pub(super) fn naming(t: &impl Tables, project: &Project, resource: Option<&Resource>) -> Result<Option<TaskRow>> {
    let called = (project.id, project.name.as_str());
    for row in t.all::<TaskRow>()? {
        let choices = Choice::all(&row.content.projects)?;
        let names = |choice: &Choice<'_>| match resource {
            None => choice.content.project_id.as_deref().is_some_and(|text| is_called(text, called)),
            Some(r) => choice.wants_project(called) && listed(choice.content.repo_list.as_ref(), (r.id, &r.name)),
        };
        if row.r#type == TaskType::Backup && choices.iter().any(names) {
            return Ok(Some(row));
        }
    }
    Ok(None)
}

/// Refuses the removal of what a task names exactly.
pub(super) fn refuse_named(t: &impl Tables, project: &Project, resource: Option<&Resource>) -> Result<()> {
    let Some(row) = naming(t, project, resource)? else { return Ok(()) };
    let what = resource.map_or(("project", &project.name), |r| ("resource", &r.name));
    Err(Error::invalid_state(format!(
        "task {} ({}) names the {} {:?}; remove the task first",
        row.id, row.name, what.0, what.1
    )))
}

/// What a task's job needs in order to run.
pub(super) fn ticket(t: &impl Tables, row: &TaskRow) -> Result<Ticket> {
    let rows = chosen(t, &row.content.projects)?;
    let exclusive = rows.into_iter().map(|(_, resource)| Key::Resource(resource.id)).collect();
    Ok(Ticket { lane: Lane::Work, exclusive, shared: Vec::new() })
}

fn number(id: &str) -> Result<u64> {
    let digits = !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit());
    id.parse().ok().filter(|_| digits).ok_or_else(|| Error::invalid(format!("{id:?} is no task's id; give its number")))
}

/// The job that a task waits for.
pub(super) fn open_job(t: &impl Tables, row: &TaskRow) -> Result<Option<Job>> {
    Ok(resources::open_jobs(t)?.into_iter().find(|job| job.task.task() == Some(row.id)))
}

impl Service {
    /// Makes a task, and runs it where it is to run at once. `by` is who asks.
    pub fn create_task(&self, options: Map, by: &str) -> Result<String> {
        let mut row = taskform::read(options, by, self.now(), taskform::Source::Bus)?;
        let at_once = at_once(&row);
        self.check_place(&row, at_once)?;
        let mut make = |w: &Writer| {
            if row.r#type == TaskType::Backup {
                names_exist(w, &row.content.projects)?;
            }
            row.id = w.next_id::<TaskRow>()?;
            Ok(row.clone())
        };
        let id = if at_once {
            self.submit_with(|w, job| {
                let mut row = make(w)?;
                row.job = Some(job);
                w.put(&row)?;
                Ok((draft(w, &row)?, row.id))
            })?
            .1
        } else {
            self.catalog.write(|w| {
                let row = make(w)?;
                w.put(&row)?;
                Ok(row.id)
            })?
        };
        self.emit(Event::ObjectAdded { kind: ObjectKind::Task, id });
        Ok(id.to_string())
    }

    /// What can be said against a task's place before it runs.
    fn check_place(&self, row: &TaskRow, at_once: bool) -> Result<()> {
        let place = &row.store_location;
        let own = self.catalog.read(|r| self.own_directories(r))?;
        check::not_ours("store_location", place, &own)?;
        let key = |e: Error| e.context("store_location");
        match row.r#type {
            TaskType::Backup => {
                open_root(place, false).map_err(key)?;
            }
            TaskType::Restore if at_once => {
                std::fs::symlink_metadata(place).map(drop).map_err(|e| {
                    Error::invalid(format!("store_location is {}, which cannot be read: {e}", place.display()))
                })?;
            }
            TaskType::Restore => {}
        }
        Ok(())
    }

    /// Runs a task now.
    pub fn execute_task(&self, id: &str, options: Map) -> Result<u64> {
        let id = number(id)?;
        Args::new(options).finish()?;
        self.run_task(id, |_| ())
    }

    /// Queues a run, and notes what `note` says in the same transaction.
    fn run_task(&self, id: u64, note: impl FnOnce(&mut TaskRow)) -> Result<u64> {
        let (job, ()) = self.submit_with(|w, job| {
            let mut row = w.need::<TaskRow>(id)?;
            if let Some(open) = open_job(w, &row)? {
                return Err(Error::invalid_state(format!(
                    "task {id} ({}) is {} already, as job {}; wait for it",
                    row.name,
                    open.state.name(),
                    open.id
                )));
            }
            row.job = Some(job);
            row.state = TaskState::Pending;
            note(&mut row);
            w.put(&row)?;
            Ok((draft(w, &row)?, ()))
        })?;
        self.emit(Event::ObjectChanged { kind: ObjectKind::Task, id });
        Ok(job)
    }

    /// What a task does, which decides who may run it.
    pub fn task_type(&self, id: &str) -> Result<TaskType> {
        let id = number(id)?;
        self.catalog.read(|r| Ok(r.need::<TaskRow>(id)?.r#type))
    }

    /// One task.
    pub fn get_task(&self, id: &str) -> Result<Map> {
        let id = number(id)?;
        self.catalog.read(|r| Ok(taskform::map(&r.need(id)?)))
    }

    /// One page of the tasks, the newest first.
    pub fn list_tasks(&self, options: Map) -> Result<Map> {
        let mut args = Args::new(options);
        let names: Vec<&str> = TaskState::ALL.iter().map(|s| s.name()).collect();
        let state = args.choice("state", &names)?;
        let number = args.uint("page_number", 1, u64::from(u32::MAX))?.unwrap_or(1);
        let size = args.uint("page_size", 1, PAGE.1)?.unwrap_or(PAGE.0);
        args.finish()?;
        let state = TaskState::ALL.into_iter().find(|s| Some(s.name()) == state.as_deref());
        self.catalog.read(|r| {
            let mut ids = match state {
                Some(state) => r.indexed(task::BY_STATE, state.key())?,
                None => r.ids::<TaskRow>()?,
            };
            ids.reverse();
            let total = ids.len() as u64;
            let skip = usize::try_from((number - 1).saturating_mul(size)).unwrap_or(usize::MAX);
            let page = ids.into_iter().skip(skip).take(usize::try_from(size).unwrap_or(usize::MAX));
            let records: Vec<Map> = page.map(|id| Ok(taskform::map(&r.need(id)?))).collect::<Result<_>>()?;
            let mut f = super::fields::Fields::default();
            f.set("page_number", number).set("page_size", size).set("total_records", total);
            f.set("total_pages", total.div_ceil(size)).set("records", records);
            // The same again by other names, as the page of its forebear has it.
            f.set("count", total).set("page", number);
            Ok(f.done())
        })
    }

    /// Removes a task. What its runs made stays.
    pub fn remove_task(&self, id: &str, options: Map) -> Result<()> {
        let id = number(id)?;
        Args::new(options).finish()?;
        self.catalog.write(|w| {
            let row = w.need::<TaskRow>(id)?;
            refuse_declared("task", &row.name, &row.origin)?;
            if let Some(job) = open_job(w, &row)? {
                return Err(Error::invalid_state(format!(
                    "task {id} ({}) is {}, as job {}; wait for it or cancel it first",
                    row.name,
                    job.state.name(),
                    job.id
                )));
            }
            w.remove::<TaskRow>(id)
        })?;
        self.emit(Event::ObjectRemoved { kind: ObjectKind::Task, id });
        Ok(())
    }

    /// Runs the tasks whose time has come, each once however many times were missed, and answers
    /// when the next one's comes.
    pub fn tick_tasks(&self, now: Timestamp) -> Result<Option<Timestamp>> {
        let mut next: Option<Timestamp> = None;
        for row in self.catalog.read(|r| r.all::<TaskRow>())? {
            let Some(mut due) = row.due else { continue };
            if due <= now {
                let coming = match &row.setting.plan {
                    Plan::CronExpression { cron } => taskform::times(cron)?.next(now),
                    _ => None,
                };
                match self.run_task(row.id, |row| row.due = coming) {
                    Ok(job) => tracing::info!("task {} ({}) runs as job {job}", row.id, row.name),
                    // Declared anew while it runs: that comes when the run has ended, which wakes us.
                    Err(e) if e.kind == ErrorKind::InvalidState && at_once(&row) => continue,
                    // The run before still goes on; this one is left out.
                    Err(e) if e.kind == ErrorKind::InvalidState => {
                        tracing::warn!("task {} ({}) does not run: {e}", row.id, row.name);
                        self.catalog.write(|w| match w.get::<TaskRow>(row.id)? {
                            Some(row) => w.put(&TaskRow { due: coming, ..row }),
                            None => Ok(()),
                        })?;
                    }
                    Err(e) => return Err(e),
                }
                let Some(coming) = coming else { continue };
                due = coming;
            }
            next = Some(next.map_or(due, |next| next.min(due)));
        }
        Ok(next)
    }

    /// Where the results of a task are.
    pub(super) fn task_results(row: &TaskRow) -> PathBuf {
        row.store_location.join(&row.name)
    }
}

/// Whether a task runs when it is made.
pub(super) fn at_once(row: &TaskRow) -> bool {
    row.setting.plan == Plan::Immediately { execute: true }
}

fn draft(t: &impl Tables, row: &TaskRow) -> Result<Draft> {
    let task = match row.r#type {
        TaskType::Backup => Task::TaskBackup { task: row.id },
        TaskType::Restore => Task::TaskRestore { task: row.id },
    };
    Ok(Draft::new(task, ticket(t, row)?))
}
