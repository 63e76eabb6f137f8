//! Destinations.

use std::path::{Path, PathBuf};

use super::declare::refuse_declared;
use super::fields::{self, Fields};
use super::later::not_built;
use super::page::Page;
use super::submit::Draft;
use super::{Event, ObjectKind, Service, check, locked, select};
use crate::catalog::destination::Place;
use crate::catalog::{Destination, Origin, Tables, Task, VaultRow, Writer};
use crate::jobs::{Lane, Ticket};
use crate::model::{Args, Error, Map, Result, name};
use crate::store::{LocalStore, ObjectStore};

const FIELDS: &[&str] = &[
    "id",
    "name",
    "type",
    "directory",
    "max_backups",
    "state",
    "used",
    "free",
    "error",
    "created_at",
    "vault",
    "origin",
];

impl Service {
    /// Adds a place for a vault. A directory that does not exist is made, private.
    pub fn add_destination(&self, name: &str, kind: &str, options: Map) -> Result<u64> {
        name::check("destination", name)?;
        let (directory, max_backups) = take(kind, Args::new(options), false)?;
        // Directories, which may be slow, are not touched while others wait for the catalog.
        let _one = locked(&self.making);
        self.check_directory(&self.catalog.read(Tables::all::<Destination>)?, &directory)?;
        let add = |w: &Writer| {
            let id = w.next_id::<Destination>()?;
            let place = Place::Local { directory: directory.clone() };
            w.put(&Destination {
                id,
                name: name.to_owned(),
                place,
                max_backups,
                created_at: self.now(),
                origin: Origin::default(),
            })?;
            Ok(id)
        };
        self.catalog.check(add)?;
        LocalStore::create_dir(&directory)?;
        let id = self.catalog.write(add)?;
        self.emit(Event::ObjectAdded { kind: ObjectKind::Destination, id });
        Ok(id)
    }

    pub(super) fn check_directory(&self, others: &[Destination], directory: &Path) -> Result<()> {
        let shown = directory.display();
        if directory == Path::new("/") {
            return Err(Error::invalid("directory is /; give a directory of its own"));
        }
        if directory.exists() && !directory.is_dir() {
            return Err(Error::invalid(format!("directory is {shown}, which is not a directory")));
        }
        for ours in [&self.options.cache_dir, &self.options.browse_path] {
            check::not_ours("directory", directory, std::slice::from_ref(ours))?;
        }
        let real = real_path(directory);
        let state = real_path(&self.options.state_dir);
        if real == state || real.starts_with(state.join("keys")) || real.starts_with(state.join("restores")) {
            return Err(Error::invalid(format!(
                "directory is {shown}, where Strongroom keeps its catalog and keys; give another"
            )));
        }
        for other in others {
            let there = real_path(other.directory());
            if real.starts_with(&there) || there.starts_with(&real) {
                return Err(Error::invalid(format!(
                    "directory is {shown}, which overlaps {} of destination {:?}; give another",
                    other.directory().display(),
                    other.name
                )));
            }
        }
        Ok(())
    }

    /// Changes a destination. Its directory may change while no vault uses it, or to where the
    /// vault was moved.
    pub fn update_destination(&self, selector: &str, options: Map) -> Result<()> {
        let mut args = Args::new(options);
        let new_name = args.string("name")?;
        let max_backups = args.uint("max_backups", 0, u64::from(u32::MAX))?;
        let directory = args.string("directory")?;
        args.finish()?;
        if let Some(name) = &new_name {
            name::check("destination", name)?;
        }
        let directory = directory.map(|d| check::clean_path("directory", Path::new(&d))).transpose()?;
        let _one = locked(&self.making);
        let (was, others) = self.catalog.read(|r| {
            let row = select::destination(r, selector)?;
            refuse_declared("destination", &row.name, &row.origin)?;
            let others: Vec<_> = r.all::<Destination>()?.into_iter().filter(|d| d.id != row.id).collect();
            Ok((row, others))
        })?;
        if let Some(directory) = &directory {
            self.check_directory(&others, directory)?;
            if let Some(vault) = self.catalog.read(|r| vault_on(r, was.id))? {
                holds(directory, &vault)?;
            }
        }
        let id = self.catalog.write(|w| {
            let mut row: Destination = w.need(was.id)?;
            if let Some(directory) = &directory {
                if let Some(vault) = vault_on(w, row.id)? {
                    super::vaults::refuse_busy(w, &vault)?;
                }
                row.place = Place::Local { directory: directory.clone() };
            }
            if let Some(name) = new_name {
                row.name = name;
            }
            if let Some(max) = max_backups {
                row.max_backups = (max > 0).then_some(max);
            }
            w.put(&row)?;
            // An open vault that stays where it is stays open: a backup may be writing into it.
            if directory.is_some()
                && let Some(vault) = vault_on(w, row.id)?
            {
                self.vaults.forget(vault.id);
            }
            Ok(row.id)
        })?;
        if directory.is_some() {
            self.show_all();
        }
        self.emit(Event::ObjectChanged { kind: ObjectKind::Destination, id });
        Ok(())
    }

    /// Removes a destination that no vault uses. What lies there stays there.
    pub fn remove_destination(&self, selector: &str, options: Map) -> Result<()> {
        Args::new(options).finish()?;
        let id = self.catalog.write(|w| {
            let row = select::destination(w, selector)?;
            refuse_declared("destination", &row.name, &row.origin)?;
            if let Some(vault) = vault_on(w, row.id)? {
                return Err(Error::invalid_state(format!(
                    "destination {:?} holds the vault {:?}; remove the vault first",
                    row.name, vault.name
                )));
            }
            w.remove::<Destination>(row.id)?;
            Ok(row.id)
        })?;
        self.emit(Event::ObjectRemoved { kind: ObjectKind::Destination, id });
        Ok(())
    }

    /// One destination.
    pub fn get_destination(&self, selector: &str) -> Result<Map> {
        let (row, vault) = self.catalog.read(|r| {
            let row = select::destination(r, selector)?;
            let vault = vault_on(r, row.id)?;
            Ok((row, vault))
        })?;
        Ok(self.destination_map(&row, vault.as_ref()))
    }

    /// Lists destinations.
    pub fn list_destinations(&self, options: Map) -> Result<(u64, Vec<Map>)> {
        let mut args = Args::new(options);
        let page = Page::take(&mut args, FIELDS)?;
        args.finish()?;
        let rows = self.catalog.read(|r| {
            r.all::<Destination>()?
                .into_iter()
                .map(|row| vault_on(r, row.id).map(|vault| (row, vault)))
                .collect::<Result<Vec<_>>>()
        })?;
        Ok(page.cut(rows.iter().map(|(row, vault)| self.destination_map(row, vault.as_ref())).collect()))
    }

    fn destination_map(&self, row: &Destination, vault: Option<&VaultRow>) -> Map {
        let mut f = Fields::default();
        f.set("id", row.id).set("name", row.name.as_str()).set("type", row.type_name());
        f.set("directory", fields::lossy(row.directory())).opt("max_backups", row.max_backups);
        f.origin(&row.origin);
        f.time("created_at", Some(row.created_at)).opt("vault", vault.map(|v| v.name.as_str()));
        match LocalStore::open(row.directory()).and_then(|store| store.space()) {
            Ok(space) => f.set("state", "available").opt("free", space.free),
            Err(e) => f.set("state", "unavailable").set("error", e.message),
        };
        let used = match vault {
            Some(vault) => self.vaults.opened(vault.id).map(|open| open.vault.stored_size()),
            None => Some(0),
        };
        f.opt("used", used).done()
    }

    /// Starts a job that tries the destination.
    pub fn test_destination(&self, selector: &str, options: Map) -> Result<u64> {
        Args::new(options).finish()?;
        self.submit(|w| {
            let row = select::destination(w, selector)?;
            Ok(Draft::new(Task::Test { destination: row.id }, Ticket::free(Lane::Maintenance)))
        })
    }
}

/// The settings of a destination, from what a caller or a file says.
pub(super) fn take(kind: &str, mut args: Args, file: bool) -> Result<(PathBuf, Option<u64>)> {
    let directory = match kind {
        "local" => args.string("directory")?,
        "s3" => return Err(s3(args, file)),
        _ => return Err(Error::invalid(format!("type is {kind:?}; it must be local or s3"))),
    };
    let max_backups = args.uint("max_backups", 1, u64::from(u32::MAX))?;
    args.finish()?;
    let directory = directory.ok_or_else(|| Error::invalid("directory is missing; give an absolute path"))?;
    Ok((check::clean_path("directory", Path::new(&directory))?, max_backups))
}

/// What is wrong with the settings of an S3 destination: in the end, that there are none yet.
fn s3(mut args: Args, file: bool) -> Error {
    let mut checked = || -> Result<()> {
        // Never shown, never logged, and gone from memory with this call.
        let secret = args.string("secret_access_key")?.map(zeroize::Zeroizing::new);
        if secret.is_some() && file {
            return Err(Error::invalid("secret_access_key is not taken from a file; name one as credential instead"));
        }
        let credential = args.string("credential")?;
        if secret.is_some() && credential.is_some() {
            return Err(Error::invalid("credential and secret_access_key are both given; give credential alone"));
        }
        let bucket = args.string("bucket")?;
        for key in ["region", "endpoint", "prefix", "access_key_id", "storage_class"] {
            args.string(key)?;
        }
        args.bool("force_path_style")?;
        args.uint("bandwidth_limit", 0, u64::MAX)?;
        args.uint("max_backups", 1, u64::from(u32::MAX))?;
        match bucket {
            Some(bucket) if !bucket.is_empty() => Ok(()),
            _ => Err(Error::invalid("bucket is missing, which the type s3 needs; name one")),
        }
    };
    match checked().and_then(|()| args.finish()) {
        Err(e) => e,
        Ok(()) => not_built("the destination type s3", "use a local directory"),
    }
}

/// Refuses a directory that does not hold the vault.
pub(super) fn holds(directory: &Path, vault: &VaultRow) -> Result<()> {
    let there = crate::vault::read_config(&LocalStore::open(directory)?)?;
    if there.uuid == vault.uuid {
        return Ok(());
    }
    Err(Error::invalid_state(format!(
        "{} does not hold the vault {:?}; copy it there first",
        directory.display(),
        vault.name
    )))
}

/// The vault that lies on a destination.
pub(super) fn vault_on(t: &impl Tables, destination: u64) -> Result<Option<VaultRow>> {
    Ok(t.all::<VaultRow>()?.into_iter().find(|v| v.destinations.contains(&destination)))
}

/// Where a path leads, as far as it exists.
fn real_path(path: &Path) -> PathBuf {
    let mut at = path;
    let mut rest = Vec::new();
    loop {
        if let Ok(real) = std::fs::canonicalize(at) {
            return rest.iter().rev().fold(real, |path, name| path.join(name));
        }
        match (at.parent(), at.file_name()) {
            (Some(parent), Some(name)) => {
                rest.push(name);
                at = parent;
            }
            _ => return path.to_path_buf(),
        }
    }
}
