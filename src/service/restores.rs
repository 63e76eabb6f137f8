//! Restores.

use std::path::{Path, PathBuf};

use super::fields::{self, Fields};
use super::submit::Draft;
use super::{Service, backups, check, select};
use crate::catalog::job::RestoreTask;
use crate::catalog::{Backup, Resource, Tables, Task, VaultRow};
use crate::jobs::{Key, Lane, Ticket};
use crate::model::{Args, DatabaseKind, Error, Map, Result};
use crate::restore::database::DumpFile;
use crate::restore::volume::Onto;
use crate::restore::{self, Conflict, OnError, RestoreRequest};
use crate::source::database::place::is_beneath;
use crate::source::database::{DIRECTORY, Place};
use crate::vault::Manifest;

/// Which files of a volume's backup are written onto a device or an image that is there, and what
/// is left to be restored as files are; `None` where nothing is.
pub(super) fn volumes(
    vault: &crate::vault::Vault,
    manifest: &Manifest,
    task: &RestoreTask,
) -> Result<(Vec<Onto>, Option<RestoreTask>)> {
    if manifest.resource.kind != "volume" || task.skip {
        return Ok((Vec::new(), Some(task.clone())));
    }
    let wanted = if task.paths.is_empty() { &manifest.resource.paths } else { &task.paths };
    if let Some(target) = task.target.as_ref().filter(|target| restore::volume::is_there(target)) {
        return match wanted.as_slice() {
            [path] => Ok((vec![Onto { path: path.clone(), target: target.clone() }], None)),
            _ => Err(Error::invalid(format!(
                "the target {} takes one volume, and the backup has {}; say by paths which",
                target.display(),
                wanted.len()
            ))),
        };
    }
    if let Some(target) = &task.target {
        // A directory of that name would be of no use to anybody.
        return match target.starts_with("/dev") && !target.is_dir() {
            true => Err(Error::invalid(format!("the target {} is not there, or no block device", target.display()))),
            false => Ok((Vec::new(), Some(task.clone()))),
        };
    }
    let (mut onto, mut others) = (Vec::new(), Vec::new());
    for path in wanted {
        if restore::volume::find(vault, manifest, path)?.is_none() {
            others.push(path.clone());
        } else if restore::volume::is_there(path) {
            onto.push(Onto { path: path.clone(), target: path.clone() });
        } else if path.starts_with("/dev") {
            return Err(Error::invalid_state(format!(
                "the device {} is not there; give another as target",
                path.display()
            )));
        } else {
            others.push(path.clone());
        }
    }
    let rest = (!others.is_empty()).then(|| RestoreTask { paths: others, ..task.clone() });
    Ok((onto, rest))
}

/// What a caller wants restored.
struct Wish {
    confirm: bool,
    kind: Option<String>,
    task: RestoreTask,
}

impl Wish {
    fn take(options: Map, in_place_only: bool) -> Result<Self> {
        let mut args = Args::new(options);
        let confirm = args.bool("confirm")?.unwrap_or(false);
        let target = if in_place_only { None } else { args.string("target")? };
        let target = target.map(|t| check::clean_path("target", Path::new(&t))).transpose()?;
        let paths = args.paths("paths")?.unwrap_or_default();
        let paths = check::clean_paths("paths", &paths)?;
        let kind = args.choice("type", &["full", "database"])?;
        let skip = args.choice("conflict_strategy", &["overwrite", "skip"])?.as_deref() == Some("skip");
        let fast_fail = args.choice("error_strategy", &["continue", "fast_fail"])?.as_deref() == Some("fast_fail");
        let delete = args.bool("delete")?;
        let atomic = args.bool("atomic")?.unwrap_or(false);
        let dry_run = args.bool("dry_run")?.unwrap_or(false);
        let fresh = if in_place_only { None } else { args.string("database")? };
        args.finish()?;
        if target.is_some() && fresh.is_some() {
            return Err(Error::invalid("database and target are both given; give one of them"));
        }
        if atomic {
            refuse_with_atomic(&[
                (target.is_some(), "target", "atomic is about what is replaced in place"),
                (skip, "conflict_strategy skip", "atomic replaces whole directories"),
                (delete == Some(false), "delete false", "atomic replaces whole directories"),
                (fresh.is_some(), "database", "a database comes back in one step by itself"),
                (kind.as_deref() == Some("database"), "type database", "databases come back in one step by themselves"),
            ])?;
        }
        let delete = delete.unwrap_or(target.is_none() && paths.is_empty());
        let (files, databases) = (true, Vec::new());
        let task = RestoreTask { target, paths, skip, fast_fail, delete, dry_run, files, databases, fresh, atomic };
        Ok(Self { confirm, kind, task })
    }
}

/// Refuses what has no meaning together with `atomic`.
fn refuse_with_atomic(given: &[(bool, &str, &str)]) -> Result<()> {
    match given.iter().find(|(given, ..)| *given) {
        Some((_, what, why)) => {
            Err(Error::invalid(format!("atomic and {what} are both given; {why}; give one of them")))
        }
        None => Ok(()),
    }
}

/// Decides what is restored as files and what into databases.
fn choose(wish: &mut Wish, row: &Backup, dumps: Vec<DumpFile>) -> Result<()> {
    let (task, only) = (&mut wish.task, wish.kind.as_deref() == Some("database"));
    let all: Vec<PathBuf> = dumps.iter().map(|dump| dump.place.path()).collect();
    let none = || Error::invalid(format!("backup {} holds no databases; browse it to see what it holds", row.id));
    if (only || task.fresh.is_some()) && all.is_empty() {
        return Err(none());
    }
    if task.target.is_some() {
        // As files.
        if only && task.paths.is_empty() {
            task.paths = vec![Path::new("/").join(DIRECTORY)];
        }
        return Ok(());
    }
    if all.is_empty() {
        return Ok(());
    }
    let (mut paths, files): (Vec<PathBuf>, Vec<PathBuf>) = task.paths.drain(..).partition(|path| is_beneath(path));
    if let Some(path) = paths.iter().find(|path| !all.iter().any(|dump| dump.starts_with(path))) {
        let path = path.display();
        return Err(Error::not_found(format!("the backup does not hold {path}; browse it to see what it holds")));
    }
    let everything = paths.is_empty() && files.is_empty();
    let whole = everything || files.iter().any(|path| path == Path::new("/"));
    if whole {
        paths = all.clone();
    }
    if (only || task.fresh.is_some()) && paths.is_empty() {
        return Err(Error::invalid("paths holds no database; give some beneath /databases, or leave it out"));
    }
    task.databases = all.iter().filter(|dump| paths.iter().any(|path| dump.starts_with(path))).cloned().collect();
    task.files = !only && task.fresh.is_none() && row.r#type != "database" && (whole || !files.is_empty());
    task.paths = files;
    let chosen = |dump: &&DumpFile| task.databases.contains(&dump.place.path()) && !dump.place.is_globals();
    let Some(name) = &task.fresh else { return Ok(()) };
    let mut chosen = dumps.iter().filter(chosen);
    let (Some(dump), None) = (chosen.next(), chosen.next()) else {
        return Err(Error::invalid("database names one new database; give the path of one dump in paths"));
    };
    task.databases = vec![dump.place.path()];
    let good = match dump.place.kind {
        DatabaseKind::Postgresql => !name.is_empty() && name.len() <= 63 && !name.contains('\0'),
        DatabaseKind::Mariadb => {
            !name.is_empty() && name.chars().count() <= 64 && !name.contains('\0') && !name.ends_with(' ')
        }
        DatabaseKind::Sqlite => {
            check::clean_path("database", Path::new(name)).map(|path| path.file_name().is_some())?
        }
        DatabaseKind::Command => {
            return Err(Error::invalid("a dump made by a command goes to no database of another name; leave it out"));
        }
    };
    if good { Ok(()) } else { Err(Error::invalid(format!("database is {name:?}, which none can be called"))) }
}

/// Refuses what is declared nowhere, and dumps of commands that nobody said how to read back.
fn refuse_commands(task: &RestoreTask, resource: &Resource) -> Result<()> {
    for path in &task.databases {
        let names: Vec<&str> = path.iter().skip(2).filter_map(|name| name.to_str()).collect();
        let place = Place::parse(&names);
        let declared = place.and_then(|place| resource.databases.iter().find(|d| place.is_of(d)).cloned());
        let Some(declared) = declared else {
            return Err(Error::invalid_state(format!(
                "resource {:?} has no database for {}; declare it, or restore to a target",
                resource.name,
                path.display()
            )));
        };
        if declared.kind == DatabaseKind::Command && declared.restore.is_empty() {
            return Err(Error::invalid_state(format!(
                "{} has no command restore; declare one, or restore to a target",
                declared.title()
            )));
        }
    }
    Ok(())
}

impl Service {
    /// Starts a job that restores a backup: into a target, or in place with `confirm`.
    pub fn restore_backup(&self, id: u64, options: Map) -> Result<u64> {
        self.queue_restore(id, Wish::take(options, false)?)
    }

    fn queue_restore(&self, id: u64, mut wish: Wish) -> Result<u64> {
        let row = self.catalog.read(|r| backups::completed(r, id))?;
        let in_place = wish.task.target.is_none();
        if in_place && !wish.confirm && !wish.task.dry_run && wish.task.fresh.is_none() {
            return Err(Error::not_confirmed(format!(
                "restoring backup {id} in place overwrites what is there now; give confirm true, or a target"
            )));
        }
        // What is part of a backup can be restored from it.
        let part = wish.kind.as_deref() == Some("database") || wish.task.fresh.is_some();
        if !part && wish.kind.as_ref().is_some_and(|kind| *kind != row.r#type) {
            return Err(Error::invalid(format!("type is not the backup's, which is {:?}; leave it out", row.r#type)));
        }
        let (vault, resource, never) = self.catalog.read(|r| {
            let resource = r.get::<Resource>(row.resource)?.filter(|r| r.removed_at.is_none());
            Ok((r.need::<VaultRow>(row.vault)?, resource, self.own_directories(r)?))
        })?;
        if in_place && resource.is_none() {
            return Err(Error::invalid_state(format!(
                "resource {:?} of backup {id} was removed; restore into a target",
                row.resource_name
            )));
        }
        let open = self.open_vault_to_read(&vault)?;
        let manifest = self.manifest(&open.vault, &row)?;
        choose(&mut wish, &row, restore::database::list(&open.vault, &manifest)?)?;
        if let Some(resource) = &resource {
            refuse_commands(&wish.task, resource)?;
        }
        // The rules of the restorer itself, before anything is queued.
        let (volumes, rest) = volumes(&open.vault, &manifest, &wish.task)?;
        let held = resource.as_ref().is_some_and(|r| in_place && !r.units.is_empty());
        for onto in volumes.iter().filter(|_| !held) {
            restore::volume::check(&open.vault, &manifest, onto, &never)?;
        }
        if let Some(resource) = resource.as_ref().filter(|_| wish.task.atomic) {
            self.check_atomic(&open.vault, &manifest, &wish.task, resource)?;
        }
        if let Some(task) = rest {
            restore::check(&open.vault, &manifest, &self.restore_request(&task, never, 0))?;
        }
        if let Some(resource) = resource.filter(|_| wish.task.stops_units()) {
            self.check_units(&resource.units)?;
        }
        self.submit(|w| {
            let row = backups::completed(w, id)?;
            let ticket = Ticket {
                lane: Lane::Work,
                // No snapshot of what is half restored.
                exclusive: vec![Key::Resource(row.resource), Key::Snapshots(row.resource)],
                shared: vec![Key::Vault(row.vault)],
            };
            Ok(Draft {
                resource: Some(row.resource),
                backup: Some(id),
                vault: Some(row.vault),
                ..Draft::new(Task::Restore(wish.task), ticket)
            })
        })
    }

    /// The manifest of a completed backup.
    pub(super) fn manifest(&self, vault: &crate::vault::Vault, row: &Backup) -> Result<Manifest> {
        let id = row.manifest.ok_or_else(|| Error::failed(format!("backup {} has no manifest", row.id)))?;
        vault.manifest(&id).map_err(|e| e.context(format!("backup {}", row.id)))
    }

    pub(super) fn restore_request(
        &self,
        task: &RestoreTask,
        never: Vec<std::path::PathBuf>,
        job: u64,
    ) -> RestoreRequest {
        RestoreRequest {
            target: task.target.clone(),
            paths: task.paths.clone(),
            conflict: if task.skip { Conflict::Skip } else { Conflict::Overwrite },
            on_error: if task.fast_fail { OnError::FastFail } else { OnError::Continue },
            delete: task.delete,
            dry_run: task.dry_run,
            never,
            leave: Vec::new(),
            // Into a target too: a crash must leave no temporary names among the user's files.
            journal: Some(self.journal(job)),
        }
    }

    /// Restores a server in place from one of its own backups.
    pub fn restore_server(&self, server: &str, id: u64, options: Map) -> Result<Map> {
        let wish = Wish::take(options, true)?;
        let (row, resource) = self.catalog.read(|r| {
            let resource = select::resource(r, server)?;
            Ok((r.need::<Backup>(id)?, resource))
        })?;
        if row.resource != resource.id {
            return Err(Error::invalid(format!(
                "backup {id} is of {:?}, not of server {:?}; list that server's backups",
                row.resource_name, resource.name
            )));
        }
        let stops = wish.task.stops_units();
        let job = self.queue_restore(id, wish)?;
        let mut who = Fields::default();
        who.set("id", resource.id).set("name", resource.name.as_str()).set("status", "restoring");
        let mut f = Fields::default();
        f.set("status", "pending").set("job", fields::job_path(job)).set("server", who.done());
        f.set("backup", self.get_backup(id)?);
        let units = match resource.units.as_slice() {
            [] => "no units are stopped".to_owned(),
            _ if !stops => "nothing is changed, and no units are stopped".to_owned(),
            units => format!("of its units ({}) those that run are stopped for it", units.join(", ")),
        };
        f.set("message", format!("{:?} will be overwritten with backup {id}; {units}", resource.name));
        Ok(f.done())
    }
}
