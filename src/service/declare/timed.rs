//! What files declare that comes by time: schedules and tasks.

use jiff::Timestamp;

use super::{Change, Outcome, named, put, tell};
use crate::catalog::task::TaskType;
use crate::catalog::{Origin, Schedule, Tables, TaskRow, Writer};
use crate::model::{Args, Error, Result, name};
use crate::service::declared::Declaration;
use crate::service::scheduleform::{self, Settings};
use crate::service::taskform::{self, Source};
use crate::service::{Event, ObjectKind, Service, check, schedules, tasks};

/// A schedule: its settings are the file's, what its runs left stays.
pub(super) fn declare_schedule(w: &Writer, d: &Declaration, now: Timestamp, out: &mut Outcome) -> Result<u64> {
    name::check("schedule", &d.name)?;
    let settings = Settings::take(Args::new(d.options.clone()))?;
    if settings.cron.is_none() {
        return Err(Error::invalid("cron is missing; give one such as \"0 2 * * *\""));
    }
    let old = named::<Schedule>(w, 0, &d.name)?;
    // What the file does not say is what it is by default.
    let mut row = match &old {
        Some(old) => {
            let usual = scheduleform::blank(old.id, &d.name, old.created_at);
            Schedule {
                enabled: usual.enabled,
                cron: usual.cron,
                timezone: usual.timezone,
                what: usual.what,
                r#type: usual.r#type,
                resources: usual.resources,
                vault: usual.vault,
                keep: usual.keep,
                notify_on_failure: usual.notify_on_failure,
                full_every: usual.full_every,
                ..old.clone()
            }
        }
        None => scheduleform::blank(w.next_id::<Schedule>()?, &d.name, now),
    };
    settings.apply(w, &mut row)?;
    row.origin = Origin::file(&d.file);
    let id = row.id;
    tell(out, ObjectKind::Schedule, id, schedules::keep(w, old.as_ref(), row, now)?);
    Ok(id)
}

/// A task. One that is to run at once runs when it is declared first and when its declaration
/// changes, never because the file is read again.
pub(super) fn declare_task(s: &Service, w: &Writer, d: &Declaration, now: Timestamp, out: &mut Outcome) -> Result<u64> {
    let mut options = d.options.clone();
    if options.insert("name".into(), d.name.as_str().into()).is_some() {
        return Err(Error::invalid("name is given twice; leave it out, the table says it already"));
    }
    let file = Origin::file(&d.file);
    let mut row = taskform::read(options, &file.text(), now, Source::File)?;
    check::not_ours("store_location", &row.store_location, &s.own_directories(w)?)?;
    if row.r#type == TaskType::Backup {
        tasks::names_exist(w, &row.content.projects).map_err(|e| e.context("content: projects"))?;
    } else if tasks::at_once(&row) {
        return Err(Error::invalid(
            "backup_setting: execution_plan: a DATA_RESTORE that a file declares does not overwrite anything just \
             because the file is read; give execute_immediately false and run it with ExecuteTask, or give it a time",
        ));
    }
    // Names of tasks are not taken: one that was made over the bus is another.
    let old = w.all::<TaskRow>()?.into_iter().find(|t| t.name == d.name && t.origin != Origin::default());
    let says = |t: &TaskRow| (t.r#type, t.store_location.clone(), t.content.clone(), t.setting.clone());
    row.origin = file;
    match &old {
        Some(old) if says(old) == says(&row) => {
            row = TaskRow { origin: row.origin, due: old.due.or(row.due), ..old.clone() };
        }
        Some(old) => {
            row = TaskRow {
                id: old.id,
                created_by: old.created_by.clone(),
                created_date: old.created_date,
                start_date: old.start_date,
                end_date: old.end_date,
                state: old.state,
                result: old.result.clone(),
                error: old.error.clone(),
                report: old.report.clone(),
                job: old.job,
                ..row
            }
        }
        None => row.id = w.next_id::<TaskRow>()?,
    }
    if tasks::at_once(&row) && old.as_ref().map(says) != Some(says(&row)) {
        row.due = Some(now);
    }
    tell(out, ObjectKind::Task, row.id, put(w, old.as_ref(), &row)?);
    Ok(row.id)
}

/// Removes the schedules that no file declares any more; their backups stay.
pub(super) fn drop_schedules(w: &Writer, kept: impl Fn(u64) -> bool, now: Timestamp, out: &mut Outcome) -> Result<()> {
    for row in w.all::<Schedule>()? {
        if row.origin.owner().is_some() && !kept(row.id) {
            schedules::forget(w, row.id, now)?;
            out.events.push(Event::ObjectRemoved { kind: ObjectKind::Schedule, id: row.id });
        }
    }
    Ok(())
}

/// Removes the tasks that no file declares any more, but for those that a job is about.
pub(super) fn drop_tasks(w: &Writer, kept: impl Fn(u64) -> bool, out: &mut Outcome) -> Result<()> {
    for mut row in w.all::<TaskRow>()? {
        if row.origin == Origin::default() || kept(row.id) {
            continue;
        }
        if tasks::open_job(w, &row)?.is_none() {
            w.remove::<TaskRow>(row.id)?;
            out.events.push(Event::ObjectRemoved { kind: ObjectKind::Task, id: row.id });
        } else if !row.origin.orphaned() {
            (row.origin, row.due) = (row.origin.orphan(), None);
            w.put(&row)?;
            tell(out, ObjectKind::Task, row.id, Change::Changed);
        }
    }
    Ok(())
}
