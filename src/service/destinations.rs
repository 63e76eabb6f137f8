//! Destinations.

use std::path::{Path, PathBuf};

use super::declare::refuse_declared;
use super::fields::{self, Fields};
use super::page::Page;
use super::places::{self, Wanted};
use super::submit::Draft;
use super::{Event, ObjectKind, Service, check, locked, mirrors, retention, select};
use crate::catalog::destination::{Bucket, Credential, Place};
use crate::catalog::{Destination, Origin, Tables, Task, VaultRow, Writer};
use crate::jobs::{Lane, Ticket};
use crate::model::{Args, Error, Map, Result, name};
use crate::store::{self, LocalStore, ObjectStore, Patience};

const FIELDS: &[&str] = &[
    "id",
    "name",
    "type",
    "directory",
    "bucket",
    "endpoint",
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
    /// Adds a place for a vault. A directory that does not exist is made, private; a bucket must exist,
    /// which is found when it is first used.
    pub fn add_destination(&self, name: &str, kind: &str, options: Map) -> Result<u64> {
        name::check("destination", name)?;
        let wanted = places::take(kind, Args::new(options), false)?;
        // Directories, which may be slow, are not touched while others wait for the catalog.
        let _one = locked(&self.making);
        self.check_destination(&self.catalog.read(Tables::all::<Destination>)?, &wanted)?;
        let add = |w: &Writer| {
            let id = w.next_id::<Destination>()?;
            w.put(&Destination {
                id,
                name: name.to_owned(),
                place: wanted.place.clone(),
                max_backups: wanted.max_backups,
                created_at: self.now(),
                origin: Origin::default(),
            })?;
            Ok(id)
        };
        self.catalog.check(add)?;
        self.make_place(&wanted.place, wanted.login.as_ref())?;
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
        let kept = ["keys", "restores", "credentials"];
        if real == state || kept.iter().any(|dir| real.starts_with(state.join(dir))) {
            return Err(Error::invalid(format!(
                "directory is {shown}, where Strongroom keeps its catalog and keys; give another"
            )));
        }
        for other in others {
            let Some(theirs) = other.directory() else { continue };
            let there = real_path(theirs);
            if real.starts_with(&there) || there.starts_with(&real) {
                return Err(Error::invalid(format!(
                    "directory is {shown}, which overlaps {} of destination {:?}; give another",
                    theirs.display(),
                    other.name
                )));
            }
        }
        Ok(())
    }

    /// Changes a destination. Where it is may change while no vault uses it, or to where the vault
    /// was moved.
    pub fn update_destination(&self, selector: &str, options: Map) -> Result<()> {
        let mut args = Args::new(options);
        let new_name = args.string("name")?;
        let max_backups = args.uint("max_backups", 0, u64::from(u32::MAX))?;
        if let Some(name) = &new_name {
            name::check("destination", name)?;
        }
        let _one = locked(&self.making);
        let (was, others) = self.catalog.read(|r| {
            let row = select::destination(r, selector)?;
            refuse_declared("destination", &row.name, &row.origin)?;
            let others: Vec<_> = r.all::<Destination>()?.into_iter().filter(|d| d.id != row.id).collect();
            Ok((row, others))
        })?;
        let wanted = self.changed(&was, args)?;
        let moved = wanted.place != was.place;
        if moved {
            self.check_destination(&others, &wanted)?;
            self.make_login(&wanted)?;
            if let Some(vault) = self.catalog.read(|r| vault_on(r, was.id))? {
                holds(&self.store_place(&wanted.place)?, &vault)?;
            }
        }
        let (id, vault) = self.catalog.write(|w| {
            let mut limited = None;
            let mut row: Destination = w.need(was.id)?;
            let vault = vault_on(w, row.id)?;
            if moved {
                if let Some(vault) = &vault {
                    super::vaults::refuse_busy(w, vault)?;
                }
                row.place = wanted.place;
            }
            if let Some(name) = new_name {
                row.name = name;
            }
            if let Some(max) = max_backups {
                row.max_backups = (max > 0).then_some(max);
                if let Some(vault) = &vault
                    && !vault.mirrors.contains_key(&row.id)
                {
                    mirrors::refuse_limit(&row, !vault.mirrors.is_empty())?;
                    limited = Some(vault.id);
                }
            }
            w.put(&row)?;
            if let Some(vault) = limited {
                retention::replan_vault(w, vault, self.now())?;
            }
            // An open vault that stays where it is stays open: a backup may be writing into it.
            if let Some(vault) = vault.as_ref().filter(|_| moved) {
                self.vaults.forget(vault.id);
            }
            Ok((row.id, vault.map(|vault| vault.id)))
        })?;
        if let Some(vault) = vault {
            self.mirrors_behind(vault);
        }
        if moved {
            self.sweep_credentials();
            self.show_all();
        }
        self.emit(Event::ObjectChanged { kind: ObjectKind::Destination, id });
        Ok(())
    }

    /// Where a destination is to be after a change.
    fn changed(&self, was: &Destination, mut args: Args) -> Result<Wanted> {
        let (mut place, mut login) = (was.place.clone(), None);
        match &was.place {
            Place::Local { .. } => {
                if let Some(directory) = args.string("directory")? {
                    place = Place::Local { directory: check::clean_path("directory", Path::new(&directory))? };
                }
            }
            Place::S3(before) => {
                let (bucket, given) = places::take_bucket(&mut args, Some(before), false)?;
                (place, login) = (Place::S3(bucket), given);
            }
        }
        args.finish()?;
        Ok(Wanted { place, login, max_backups: None })
    }

    /// Keeps new keys to a bucket. A directory must be there already: it holds a vault, or will.
    fn make_login(&self, wanted: &Wanted) -> Result<()> {
        if wanted.place.is_cloud() { self.make_place(&wanted.place, wanted.login.as_ref()) } else { Ok(()) }
    }

    /// Removes a destination that no vault uses. What lies there stays there.
    pub fn remove_destination(&self, selector: &str, options: Map) -> Result<()> {
        Args::new(options).finish()?;
        let _one = locked(&self.making);
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
        self.sweep_credentials();
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
        f.opt("max_backups", row.max_backups).origin(&row.origin);
        f.time("created_at", Some(row.created_at)).opt("vault", vault.map(|v| v.name.as_str()));
        let (state, trouble) = match &row.place {
            Place::Local { directory } => {
                f.set("directory", fields::lossy(directory));
                match LocalStore::open(directory).and_then(|store| store.space()) {
                    Ok(space) => {
                        f.opt("free", space.free);
                        ("available", None)
                    }
                    Err(e) => ("unavailable", Some(e.message)),
                }
            }
            Place::S3(bucket) => {
                bucket_fields(bucket, &mut f);
                // Nobody waits for another machine here: it is what was met last.
                let mirror = vault.and_then(|v| v.mirrors.get(&row.id));
                let met = match mirror {
                    None => vault.map(|v| self.vaults.state(v.id)),
                    Some(mirror) => Some(match &mirror.error {
                        Some(e) => Some(Err(Error::destination_failed(e.clone()))),
                        None => mirror.synced_at.map(|_| Ok(())),
                    }),
                };
                match met {
                    Some(Some(Ok(()))) => ("available", None),
                    Some(Some(Err(e))) => ("unavailable", Some(e.message)),
                    _ => ("unknown", None),
                }
            }
        };
        f.set("state", state).opt("error", trouble);
        let used = match vault {
            Some(vault) => match vault.mirrors.get(&row.id) {
                Some(mirror) => mirror.used,
                None => self.vaults.opened(vault.id).map(|open| open.vault.stored_size()),
            },
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

/// What is shown of a bucket: never what opens it.
fn bucket_fields(bucket: &Bucket, f: &mut Fields) {
    let s = &bucket.settings;
    f.set("bucket", s.bucket.as_str()).opt("region", s.region.as_deref()).opt("endpoint", s.endpoint.as_deref());
    f.text("prefix", &s.prefix).opt("storage_class", s.storage_class.as_deref());
    f.opt("ca_file", s.ca_file.as_deref().map(fields::lossy)).opt("bandwidth_limit", s.bandwidth_limit);
    f.set("force_path_style", s.path_style()).opt("access_key_id", bucket.access_key_id.as_deref());
    if let Credential::Named(name) = &bucket.credential {
        f.set("credential", name.as_str());
    }
}

/// Refuses a place that does not hold the vault.
pub(super) fn holds(place: &store::Place, vault: &VaultRow) -> Result<()> {
    let there = crate::vault::read_config(&*place.open(Patience::ASK)?)?;
    if there.uuid == vault.uuid {
        return Ok(());
    }
    Err(Error::invalid_state(format!(
        "{} does not hold the vault {:?}; copy it there first",
        place.title(),
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
