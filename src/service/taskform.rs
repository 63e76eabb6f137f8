//! What a task looks like: as a caller gives it, and as it is shown.

use std::path::Path;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

use super::fields::{self, Fields};
use super::{check, resources};
use crate::catalog::task::{Content, Plan, ProjectContent, Setting, TaskState, TaskType};
use crate::catalog::{Origin, TaskRow};
use crate::jobs::cron::Times;
use crate::model::{Args, Error, Map, Result, Value, name};

/// More of them are hardly meant.
const PROJECTS: usize = 1000;

/// Who gives a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// A caller.
    Bus,
    /// A configuration file, which stays when a time it names has passed.
    File,
}

/// A task as a caller or a file gives it. `by` is who.
pub(super) fn read(options: Map, by: &str, now: Timestamp, source: Source) -> Result<TaskRow> {
    let mut args = Args::new(options);
    let missing = |key: &str| Error::invalid(format!("{key} is missing; no task can do without it"));
    let name = args.string("name")?.ok_or_else(|| missing("name"))?;
    let store = args.string("store_location")?.ok_or_else(|| missing("store_location"))?;
    let content = args.map("content")?.ok_or_else(|| missing("content"))?;
    let setting = args.map("backup_setting")?.unwrap_or_default();
    let r#type = match args.choice("type", &["DATA_BACKUP", "DATA_RESTORE"])?.as_deref() {
        Some("DATA_RESTORE") => TaskType::Restore,
        _ => TaskType::Backup,
    };
    args.finish()?;
    name::check("task", &name)?;
    let store_location = check::clean_path("store_location", Path::new(&store))?;
    let content = within("content", read_content(content, now))?;
    let setting = within("backup_setting", read_setting(setting, now, source))?;
    let due = match &setting.plan {
        Plan::Immediately { .. } => None,
        Plan::SpecifiedTime { time } => Some(*time).filter(|time| *time > now),
        Plan::CronExpression { cron } => times(cron)?.next(now),
    };
    Ok(TaskRow {
        id: 0,
        name,
        r#type,
        store_location,
        content,
        setting,
        created_by: by.to_owned(),
        created_date: now,
        last_modified_by: by.to_owned(),
        last_modified_date: now,
        start_date: None,
        end_date: None,
        state: TaskState::Pending,
        result: None,
        error: None,
        report: serde_json::Map::new(),
        job: None,
        due,
        origin: Origin::default(),
    })
}

/// Says which map a mistake is in.
fn within<T>(key: &str, result: Result<T>) -> Result<T> {
    result.map_err(|e| e.context(key))
}

fn read_content(map: Map, now: Timestamp) -> Result<Content> {
    let mut args = Args::new(map);
    let content = Content {
        common_data: args.bool("common_data")?.unwrap_or(false),
        compression: args.bool("compression")?.unwrap_or(false),
        format: args.choice("format", &["tar.zst", "tar.gz"])?,
        increment: args.bool("increment")?,
        increment_date: args.string("increment_date")?,
        projects: args
            .maps("projects")?
            .unwrap_or_default()
            .into_iter()
            .map(|map| within("projects", read_project(map)))
            .collect::<Result<_>>()?,
    };
    args.finish()?;
    if content.format.is_some() && !content.compression {
        return Err(Error::invalid("format names an archive's form, but compression is not true; give both"));
    }
    if content.increment_date.is_some() && content.increment != Some(true) {
        return Err(Error::invalid("increment_date is given, but increment is not true; give both"));
    }
    if content.projects.len() > PROJECTS {
        return Err(Error::invalid(format!("projects has more than {PROJECTS} entries; use regular expressions")));
    }
    if content.projects.is_empty() && !content.common_data {
        return Err(Error::invalid("it names nothing; give projects, or common_data true"));
    }
    since(&content, now)?;
    Ok(content)
}

fn read_project(map: Map) -> Result<ProjectContent> {
    let mut args = Args::new(map);
    let project = ProjectContent {
        project_id: args.string("project_id")?,
        project_regex: args.string("project_regex")?,
        repo_list: args.strings("repo_list")?,
        repo_regex: args.string("repo_regex")?,
        exclude_projects: args.strings("exclude_projects")?,
        exclude_repos: args.strings("exclude_repos")?,
    };
    args.finish()?;
    if project.project_id.is_none() && project.project_regex.is_none() {
        return Err(Error::invalid("an entry has neither project_id nor project_regex; give project_regex * for all"));
    }
    for (key, text) in [("project_regex", &project.project_regex), ("repo_regex", &project.repo_regex)] {
        if let Some(text) = text {
            resources::name_regex(key, text)?;
        }
    }
    Ok(project)
}

fn read_setting(map: Map, now: Timestamp, source: Source) -> Result<Setting> {
    let mut args = Args::new(map);
    let skip = args.choice("conflict_strategy", &["SKIP", "OVERWRITE"])?.as_deref() == Some("SKIP");
    let fast_fail = args.choice("error_strategy", &["CONTINUE", "FAST_FAIL"])?.as_deref() == Some("FAST_FAIL");
    let strategies = ["IMMEDIATELY", "SPECIFIED_TIME", "CRON_EXPRESSION"];
    let strategy = args.choice("execution_strategy", &strategies)?.unwrap_or_else(|| "IMMEDIATELY".into());
    let plan = args.map("execution_plan")?.unwrap_or_default();
    let space_cap_check = args.bool("space_cap_check")?.unwrap_or(true);
    args.finish()?;
    let plan = within("execution_plan", read_plan(&strategy, plan, now, source))?;
    Ok(Setting { skip, fast_fail, space_cap_check, plan })
}

fn read_plan(strategy: &str, map: Map, now: Timestamp, source: Source) -> Result<Plan> {
    let mut args = Args::new(map);
    let execute = args.bool("execute_immediately")?;
    let time = args.string("execute_time")?;
    let cron = args.string("cron_expression")?;
    args.finish()?;
    let unused =
        |key: &str| Error::invalid(format!("{key} is given, but execution_strategy is {strategy}; leave it out"));
    let lacking =
        |key: &str| Error::invalid(format!("{key} is missing, and execution_strategy is {strategy}; give it"));
    match strategy {
        "SPECIFIED_TIME" => {
            if cron.is_some() {
                return Err(unused("cron_expression"));
            }
            let time = moment("execute_time", &time.ok_or_else(|| lacking("execute_time"))?)?;
            if time <= now && source == Source::Bus {
                return Err(Error::invalid(format!("execute_time is {time}, which is past; give a time to come")));
            }
            Ok(Plan::SpecifiedTime { time })
        }
        "CRON_EXPRESSION" => {
            if time.is_some() {
                return Err(unused("execute_time"));
            }
            let cron = cron.ok_or_else(|| lacking("cron_expression"))?;
            times(&cron)?;
            Ok(Plan::CronExpression { cron })
        }
        _ => match (time, cron) {
            (Some(_), _) => Err(unused("execute_time")),
            (_, Some(_)) => Err(unused("cron_expression")),
            _ => Ok(Plan::Immediately { execute: execute.unwrap_or(true) }),
        },
    }
}

/// When a cron expression comes true, by the machine's own time.
pub(super) fn times(cron: &str) -> Result<Times> {
    Times::parse(cron, "").map_err(|e| e.context("cron_expression"))
}

/// A point in time: with its offset from UTC, else by the machine's own time.
fn moment(key: &str, text: &str) -> Result<Timestamp> {
    let zoned = |time: DateTime| time.to_zoned(TimeZone::system()).map(|z| z.timestamp());
    text.parse::<Timestamp>()
        .or_else(|_| text.parse::<DateTime>().and_then(zoned))
        .or_else(|_| text.parse::<Date>().and_then(|date| zoned(date.at(0, 0, 0, 0))))
        .map_err(|_| {
            Error::invalid(format!("{key} is {text:?}; give a time such as 2026-01-16T15:45:00Z or 2026-01-16"))
        })
}

/// Since when what changed is copied, in a run that begins now: the given date, else the beginning
/// of the day before.
pub(super) fn since(content: &Content, now: Timestamp) -> Result<Option<Timestamp>> {
    match (&content.increment_date, content.increment) {
        (Some(text), Some(true)) => moment("increment_date", text).map(Some),
        (None, Some(true)) => {
            let day = now.to_zoned(TimeZone::system()).yesterday().and_then(|day| day.start_of_day());
            day.map(|day| Some(day.timestamp()))
                .map_err(|e| Error::failed(format!("there is no day before today: {e}")))
        }
        _ => Ok(None),
    }
}

/// A task as it is shown.
pub(super) fn map(row: &TaskRow) -> Map {
    let mut f = Fields::default();
    f.set("id", row.id.to_string()).set("name", row.name.as_str()).set("type", row.r#type.name());
    f.set("created_by", row.created_by.as_str()).time("created_date", Some(row.created_date));
    f.set("last_modified_by", row.last_modified_by.as_str()).time("last_modified_date", Some(row.last_modified_date));
    f.time("start_date", row.start_date).time("end_date", row.end_date).set("state", row.state.name());
    f.set("content", content_map(&row.content)).set("store_location", fields::lossy(&row.store_location));
    f.set("backup_setting", setting_map(&row.setting));
    f.opt("result", row.result.as_deref()).opt("error", row.error.as_deref());
    if !row.report.is_empty() {
        f.set("report", fields::from_json(&row.report));
    }
    f.opt("job", row.job.map(fields::job_path)).time("next_run", row.due).origin(&row.origin);
    f.done()
}

fn content_map(content: &Content) -> Map {
    let projects: Vec<Map> = content.projects.iter().map(project_map).collect();
    let mut f = Fields::default();
    f.set("common_data", content.common_data).set("compression", content.compression);
    f.opt("format", content.format.as_deref()).opt("increment", content.increment);
    f.opt("increment_date", content.increment_date.as_deref()).set("projects", projects);
    f.done()
}

fn project_map(project: &ProjectContent) -> Map {
    let mut f = Fields::default();
    f.opt("project_id", project.project_id.as_deref()).opt("project_regex", project.project_regex.as_deref());
    f.opt("repo_list", project.repo_list.clone()).opt("repo_regex", project.repo_regex.as_deref());
    f.opt("exclude_projects", project.exclude_projects.clone()).opt("exclude_repos", project.exclude_repos.clone());
    f.done()
}

fn setting_map(setting: &Setting) -> Map {
    let mut plan = Fields::default();
    let strategy = match &setting.plan {
        Plan::Immediately { execute } => {
            plan.set("execute_immediately", *execute);
            "IMMEDIATELY"
        }
        Plan::SpecifiedTime { time } => {
            plan.set("execute_immediately", false).time("execute_time", Some(*time));
            "SPECIFIED_TIME"
        }
        Plan::CronExpression { cron } => {
            plan.set("execute_immediately", false).set("cron_expression", cron.as_str());
            "CRON_EXPRESSION"
        }
    };
    let mut f = Fields::default();
    f.set("conflict_strategy", if setting.skip { "SKIP" } else { "OVERWRITE" });
    f.set("error_strategy", if setting.fast_fail { "FAST_FAIL" } else { "CONTINUE" });
    f.set("execution_strategy", strategy).set("execution_plan", Value::Map(plan.done()));
    f.set("space_cap_check", setting.space_cap_check);
    f.done()
}
