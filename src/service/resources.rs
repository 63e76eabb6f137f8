//! Resources.

use std::path::PathBuf;

use jiff::Timestamp;
use regex_automata::meta::Regex;

use super::declare::refuse_declared;
use super::fields::{self, Fields};
use super::page::Page;
use super::{Event, ObjectKind, Service, check, databases, schedules, select, tasks};
use crate::catalog::schedule::What;
use crate::catalog::{
    Backup, Job, Origin, Project, Resource, Schedule, State, Tables, Task, VaultRow, Writer, backup, job, project,
    resource, snapshot,
};
use crate::host::{freezer, units};
use crate::model::{Args, Database, Error, Map, Result, Value, name};

const FIELDS: &[&str] = &[
    "id",
    "name",
    "project",
    "project_id",
    "kind",
    "paths",
    "exclude",
    "one_file_system",
    "databases",
    "units",
    "unit_action",
    "snapshot",
    "engine",
    "vault",
    "browse",
    "extra_info",
    "status",
    "size",
    "backup_count",
    "manual_count",
    "manual_limit",
    "snapshot_count",
    "snapshot_limit",
    "created_at",
    "last_backup",
    "last_success",
    "origin",
];

/// Settings as a caller gives them: checked one by one, not yet against the catalog.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub project: Option<String>,
    name: Option<String>,
    kind: Option<&'static str>,
    paths: Option<Vec<PathBuf>>,
    exclude: Option<Vec<String>>,
    one_file_system: Option<bool>,
    units: Option<Vec<String>>,
    unit_action: Option<String>,
    snapshot: Option<String>,
    vault: Option<String>,
    browse: Option<String>,
    extra_info: Option<String>,
    before: Option<Vec<Vec<String>>>,
    after: Option<Vec<Vec<String>>>,
    databases: Option<Vec<Database>>,
    command_timeout: Option<u32>,
}

/// Who gives the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// A caller, for a new resource.
    New,
    /// A caller, for one that there is.
    Update,
    /// A configuration file, which may name commands, and things that are not there just now.
    File,
}

impl Settings {
    pub(super) fn take(mut args: Args, source: Source) -> Result<Self> {
        let file = source == Source::File;
        let settings = Self {
            project: args.string("project")?,
            name: if source == Source::Update { args.string("name")? } else { None },
            kind: args.string("kind")?.map(|k| check::kind(&k)).transpose()?,
            paths: args.paths("paths")?.map(|list| some_paths("paths", &list, !file)).transpose()?,
            exclude: args.strings("exclude")?,
            one_file_system: args.bool("one_file_system")?,
            units: args.strings("units")?,
            unit_action: args.choice("unit_action", &["none", "freeze", "stop"])?,
            snapshot: args.choice("snapshot", &["auto", "required", "off"])?,
            vault: args.string("vault")?,
            browse: args.string("browse")?,
            extra_info: args.string("extra_info")?,
            before: commands(&mut args, "before", file)?,
            after: commands(&mut args, "after", file)?,
            databases: databases::take(&mut args, file)?,
            command_timeout: if file {
                args.uint("command_timeout", 1, 86_400)?.and_then(|n| u32::try_from(n).ok())
            } else {
                None
            },
        };
        args.finish()?;
        if source != Source::Update && settings.paths.is_none() && settings.databases.iter().flatten().next().is_none()
        {
            return Err(Error::invalid("paths is missing; give at least one absolute path, or databases"));
        }
        if let Some(patterns) = &settings.exclude {
            check_patterns(patterns)?;
        }
        settings.units.iter().flatten().try_for_each(|u| units::check_name(u)).map_err(|e| e.context("units"))?;
        if let Some(browse) = &settings.browse {
            check::browse(browse)?;
        }
        if let Some(name) = &settings.name {
            name::check("resource", name)?;
        }
        Ok(settings)
    }

    pub(super) fn apply(self, t: &impl Tables, service: &Service, row: &mut Resource) -> Result<()> {
        if let Some(project) = self.project {
            row.project = select::project(t, &project)?.id;
        }
        if let Some(vault) = self.vault {
            row.vault = if vault.is_empty() { None } else { Some(select::vault(t, &vault)?.id) };
        }
        if let Some(paths) = self.paths {
            let ours = service.own_directories(t)?;
            paths.iter().try_for_each(|path| check::not_ours("paths", path, &ours))?;
            row.paths = paths;
        }
        set(&mut row.name, self.name);
        set(&mut row.kind, self.kind.map(str::to_owned));
        set(&mut row.exclude, self.exclude);
        set(&mut row.one_file_system, self.one_file_system);
        set(&mut row.units, self.units);
        set(&mut row.unit_action, self.unit_action);
        set(&mut row.snapshot, self.snapshot);
        set(&mut row.browse, self.browse);
        set(&mut row.extra_info, self.extra_info);
        set(&mut row.before, self.before);
        set(&mut row.after, self.after);
        set(&mut row.databases, self.databases);
        row.command_timeout = self.command_timeout.or(row.command_timeout);
        if row.unit_action == "freeze" {
            row.units.iter().try_for_each(|unit| freezer::check_name(unit)).map_err(|e| e.context("units"))?;
        }
        if row.kind == "volume" && row.browse != "root" {
            return Err(Error::invalid(format!(
                "browse is {:?}, but a volume holds the files of many, whoever owns its image: it is root's alone; use root",
                row.browse
            )));
        }
        databases::check_with_paths(row)
    }
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

fn some_paths(key: &str, list: &[PathBuf], existing: bool) -> Result<Vec<PathBuf>> {
    let list = check::clean_paths(key, list)?;
    for path in list.iter().filter(|_| existing) {
        std::fs::symlink_metadata(path)
            .map_err(|e| Error::invalid(format!("{key} holds {}, which cannot be backed up: {e}", path.display())))?;
    }
    Ok(list)
}

/// Commands as argument lists. Whoever may configure over the bus must not thereby run programs.
fn commands(args: &mut Args, key: &str, file: bool) -> Result<Option<Vec<Vec<String>>>> {
    let Some(value) = args.value(key) else { return Ok(None) };
    if !file {
        return Err(Error::invalid(format!(
            "{key} names programs to run, which only a configuration file may do; declare the resource there"
        )));
    }
    let wrong = || {
        Error::invalid(format!(
            "{key} must be a list of commands, each a list of strings whose first is an absolute path"
        ))
    };
    let Value::List(list) = value else { return Err(wrong()) };
    let mut commands = Vec::new();
    for command in list {
        let Value::List(words) = command else { return Err(wrong()) };
        let text = |v| if let Value::Str(s) = v { Some(s) } else { None };
        let words: Vec<String> = words.into_iter().map(text).collect::<Option<_>>().ok_or_else(wrong)?;
        if !words.first().is_some_and(|program| program.starts_with('/')) || words.iter().any(|w| w.contains('\0')) {
            return Err(wrong());
        }
        commands.push(words);
    }
    Ok(Some(commands))
}

fn check_patterns(patterns: &[String]) -> Result<()> {
    let mut builder = ignore::gitignore::GitignoreBuilder::new("/");
    for pattern in patterns {
        builder
            .add_line(None, pattern)
            .map_err(|e| Error::invalid(format!("exclude holds {pattern:?}, which is not a pattern: {e}")))?;
    }
    builder.build().map(drop).map_err(|e| Error::invalid(format!("exclude cannot be used: {e}")))
}

impl Service {
    /// Declares what is to be backed up.
    pub fn add_resource(&self, name: &str, options: Map) -> Result<u64> {
        name::check("resource", name)?;
        let settings = Settings::take(Args::new(options), Source::New)?;
        let id = self.catalog.write(|w| {
            let id = w.next_id::<Resource>()?;
            let mut row = blank(id, select::project(w, project::DEFAULT)?.id, name, self.now());
            settings.apply(w, self, &mut row)?;
            w.put(&row)?;
            Ok(id)
        })?;
        self.emit(Event::ObjectAdded { kind: ObjectKind::Resource, id });
        self.adopt_snapshots();
        Ok(id)
    }

    /// Changes a resource's settings; what is not given stays.
    pub fn update_resource(&self, selector: &str, options: Map) -> Result<()> {
        let settings = Settings::take(Args::new(options), Source::Update)?;
        let seen = settings.browse.is_some() || settings.name.is_some() || settings.project.is_some();
        let id = self.catalog.write(|w| {
            let mut row = select::resource(w, selector)?;
            refuse_declared("resource", &row.name, &row.origin)?;
            settings.apply(w, self, &mut row)?;
            w.put(&row)?;
            if seen {
                spread(w, &row, &w.need::<Project>(row.project)?.name)?;
            }
            Ok(row.id)
        })?;
        if seen {
            self.show_all();
        }
        self.emit(Event::ObjectChanged { kind: ObjectKind::Resource, id });
        Ok(())
    }

    /// Removes a resource; its backups stay listed, browsable and restorable to a target.
    pub fn remove_resource(&self, selector: &str, options: Map) -> Result<()> {
        Args::new(options).finish()?;
        let id = self.catalog.write(|w| {
            let mut row = select::resource(w, selector)?;
            refuse_declared("resource", &row.name, &row.origin)?;
            if let Some(job) = open_jobs(w)?.into_iter().find(|j| j.resource == Some(row.id)) {
                return Err(Error::invalid_state(format!(
                    "job {} still works on resource {:?}; wait for it or cancel it first",
                    job.id, row.name
                )));
            }
            let project = w.need::<Project>(row.project)?;
            tasks::refuse_named(w, &project, Some(&row))?;
            schedules::refuse_named(w, &format!("resource {:?}", row.name), |s| s.resources.contains(&row.id))?;
            row.removed_at = Some(self.now());
            w.put(&row)?;
            Ok(row.id)
        })?;
        self.emit(Event::ObjectRemoved { kind: ObjectKind::Resource, id });
        Ok(())
    }

    /// One resource.
    pub fn get_resource(&self, selector: &str) -> Result<Map> {
        self.catalog.read(|r| {
            let row = select::resource(r, selector)?;
            self.resource_map(r, &row, &open_jobs(r)?)
        })
    }

    /// Lists resources.
    pub fn list_resources(&self, options: Map) -> Result<(u64, Vec<Map>)> {
        let mut args = Args::new(options);
        let page = Page::take(&mut args, FIELDS)?;
        let in_project = args.string("project")?;
        let pattern = args.string("name_regex")?.map(|p| name_regex("name_regex", &p)).transpose()?;
        let kind = args.string("kind")?.map(|k| check::kind(&k)).transpose()?;
        let unprotected = args.bool("unprotected")?;
        let never = args.bool("never_backed_up")?;
        args.finish()?;
        self.catalog.read(|r| {
            let ids = match in_project {
                Some(project) => r.indexed(resource::BY_PROJECT, select::project(r, &project)?.id)?,
                None => r.ids::<Resource>()?,
            };
            let jobs = open_jobs(r)?;
            let mut schedules = r.all::<Schedule>()?;
            // A snapshot is lost with its disk: it protects nothing.
            schedules.retain(|s| s.enabled && s.what == What::Backup);
            let bare = |row: &Resource| row.vault.is_none() && !schedules.iter().any(|s| s.covers(row.id));
            let mut rows = Vec::new();
            for id in ids {
                let row = r.need::<Resource>(id)?;
                if row.removed_at.is_none()
                    && pattern.as_ref().is_none_or(|p| p.is_match(&row.name))
                    && kind.is_none_or(|k| row.kind == k)
                    && unprotected.is_none_or(|wanted| bare(&row) == wanted)
                    && never.is_none_or(|wanted| row.last_success.is_none() == wanted)
                {
                    rows.push(row);
                }
            }
            if let Some(down) = page.by_id() {
                if down {
                    rows.reverse();
                }
                let (count, rows) = page.slice(rows);
                let maps = rows.iter().map(|row| self.resource_map(r, row, &jobs)).collect::<Result<_>>()?;
                return Ok((count, maps));
            }
            let maps = rows.iter().map(|row| self.resource_map(r, row, &jobs)).collect::<Result<_>>()?;
            Ok(page.cut(maps))
        })
    }

    fn resource_map(&self, t: &impl Tables, row: &Resource, jobs: &[Job]) -> Result<Map> {
        let project = t.need::<Project>(row.project)?;
        let status = jobs
            .iter()
            .filter(|j| j.resource == Some(row.id) && j.state == State::Running)
            .find_map(|j| match &j.task {
                Task::Backup { .. } => Some("protecting"),
                Task::Restore(task) if task.target.is_none() && !task.dry_run => Some("restoring"),
                Task::RestoreSnapshot { .. } => Some("restoring"),
                _ => None,
            })
            .unwrap_or(if row.origin.orphaned() { "orphaned" } else { "available" });
        let mut f = Fields::default();
        f.set("id", row.id).set("name", row.name.as_str()).set("project", project.name);
        f.set("project_id", project.id.to_string()).set("kind", row.kind.as_str()).set("status", status);
        f.set("paths", fields::paths(&row.paths)).set("exclude", row.exclude.clone());
        f.set("one_file_system", row.one_file_system).set("units", row.units.clone());
        f.set("databases", row.databases.iter().map(databases::map).collect::<Vec<_>>());
        f.set("unit_action", row.unit_action.as_str()).set("snapshot", row.snapshot.as_str());
        f.set("engine", crate::snapshot::engines(&row.paths).unwrap_or_else(|_| "none".into()));
        if let Some(vault) = row.vault {
            f.opt("vault", t.get::<VaultRow>(vault)?.map(|v| v.name));
        }
        f.set("browse", row.browse.as_str()).text("extra_info", &row.extra_info).opt("size", row.last_size);
        f.set("backup_count", t.counted(backup::GOOD_BY_RESOURCE, row.id)?);
        f.set("manual_count", t.counted(backup::MANUAL, row.id)?);
        f.set("manual_limit", self.config().manual_backups).set("snapshot_count", t.counted(snapshot::MANUAL, row.id)?);
        f.set("snapshot_limit", self.config().manual_snapshots).origin(&row.origin);
        f.time("created_at", Some(row.created_at)).time("last_backup", row.last_backup);
        f.time("last_success", row.last_success);
        Ok(f.done())
    }
}

/// A resource with nothing set.
pub(super) fn blank(id: u64, project: u64, name: &str, now: Timestamp) -> Resource {
    Resource {
        id,
        project,
        name: name.to_owned(),
        kind: "server".into(),
        paths: Vec::new(),
        exclude: Vec::new(),
        one_file_system: false,
        units: Vec::new(),
        unit_action: "none".into(),
        snapshot: "auto".into(),
        vault: None,
        browse: "root".into(),
        extra_info: String::new(),
        created_at: now,
        removed_at: None,
        last_backup: None,
        last_success: None,
        last_size: None,
        last_entries: None,
        databases: Vec::new(),
        before: Vec::new(),
        after: Vec::new(),
        command_timeout: None,
        origin: Origin::default(),
    }
}

/// Gives a resource's backups the policy and the place that it has now, which the mount shows.
pub(super) fn spread(w: &Writer, row: &Resource, project: &str) -> Result<()> {
    for mut backup in w.rows_at::<Backup>(backup::BY_RESOURCE, row.id)? {
        backup.browse.clone_from(&row.browse);
        backup.resource_name.clone_from(&row.name);
        backup.project = row.project;
        project.clone_into(&mut backup.project_name);
        w.put(&backup)?;
    }
    Ok(())
}

/// Jobs that have not ended.
pub(super) fn open_jobs(t: &impl Tables) -> Result<Vec<Job>> {
    let mut jobs = t.rows_at::<Job>(job::BY_STATE, State::Pending.key())?;
    jobs.extend(t.rows_at::<Job>(job::BY_STATE, State::Running.key())?);
    Ok(jobs)
}

/// A regular expression that must match a whole name; a lone `*` means all.
pub(super) fn name_regex(key: &str, text: &str) -> Result<Regex> {
    let pattern = if text == "*" { ".*" } else { text };
    let build = |pattern: &str| {
        Regex::builder()
            .configure(Regex::config().nfa_size_limit(Some(1 << 20)))
            .build(pattern)
            .map_err(|_| Error::invalid(format!("{key} is {text:?}, which is not a regular expression")))
    };
    // By itself first: it must not end the group that is put around it.
    build(pattern).and_then(|_| build(&format!("^(?:{pattern})$")))
}
