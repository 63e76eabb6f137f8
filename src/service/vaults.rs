//! Vaults.

use jiff::Timestamp;
use uuid::Uuid;

use super::declare::refuse_declared;
use super::fields::Fields;
use super::page::Page;
use super::submit::Draft;
use super::{Event, ObjectKind, Service, check, destinations, locked, mirrors, open, resources, schedules, select};
use crate::catalog::{Backup, Destination, Origin, Project, Resource, Tables, Task, VaultRow, backup};
use crate::jobs::{Key, Lane, Ticket, Times};
use crate::model::{Args, Error, Map, Result, name};

const FIELDS: &[&str] = &[
    "id",
    "uuid",
    "name",
    "destinations",
    "copies",
    "compression",
    "encryption",
    "capacity",
    "project",
    "grace",
    "prune",
    "verify_within",
    "next_prune",
    "last_read",
    "created_at",
    "used",
    "backups",
    "last_verified",
    "last_pruned",
    "origin",
];

/// Longer than anybody waits for a check.
const MOST_DAYS: u64 = 36_500;

/// Settings that can be changed, as a caller gives them.
#[derive(Debug, Default, Clone)]
pub(super) struct Settings {
    compression: Option<String>,
    capacity: Option<u64>,
    project: Option<String>,
    grace: Option<u64>,
    prune: Option<String>,
    verify_within: Option<u32>,
}

impl Settings {
    fn take(args: &mut Args) -> Result<Self> {
        let settings = Self {
            compression: args
                .string("compression")?
                .map(|c| check::compression(&c).map(|(name, _)| name))
                .transpose()?,
            capacity: args.uint("capacity", 0, u64::MAX)?,
            project: args.string("project")?,
            grace: args.uint("grace", 0, 365 * 86_400)?,
            prune: args.string("prune")?.map(|cron| cron.trim().to_owned()),
            verify_within: args.uint("verify_within", 0, MOST_DAYS)?.and_then(|days| u32::try_from(days).ok()),
        };
        if let Some(cron) = settings.prune.as_ref().filter(|cron| !cron.is_empty()) {
            Times::parse(cron, "").map_err(|e| e.context("prune"))?;
        }
        Ok(settings)
    }

    pub(super) fn apply(self, t: &impl Tables, row: &mut VaultRow) -> Result<()> {
        if let Some(compression) = self.compression {
            row.compression = compression;
        }
        if let Some(capacity) = self.capacity {
            row.capacity = (capacity > 0).then_some(capacity);
        }
        if let Some(project) = self.project {
            row.project = if project.is_empty() { None } else { Some(select::project(t, &project)?.id) };
        }
        if let Some(grace) = self.grace {
            row.grace = grace;
        }
        if let Some(cron) = self.prune {
            row.prune = (!cron.is_empty()).then_some(cron);
            // The clock finds when that is.
            row.prune_due = None;
        }
        if let Some(days) = self.verify_within {
            row.verify_within = (days > 0).then_some(days);
        }
        Ok(())
    }
}

impl Service {
    /// Makes a vault on a destination.
    pub fn add_vault(&self, name: &str, options: Map) -> Result<u64> {
        name::check("vault", name)?;
        let Wanted { destinations, encryption, settings } = take(options)?;
        let id = self.make_vault(name, &destinations, encryption, |t, row| settings.clone().apply(t, row))?;
        self.emit(Event::ObjectAdded { kind: ObjectKind::Vault, id });
        self.show_all();
        self.ticker.wake();
        Ok(id)
    }

    /// Makes a vault: key file, key slot, `vault.json`, catalog row, in this order, each of which
    /// can be done again after a crash.
    pub(super) fn make_vault(
        &self,
        name: &str,
        destinations: &[String],
        encryption: bool,
        settings: impl Fn(&crate::catalog::Writer, &mut VaultRow) -> Result<()>,
    ) -> Result<u64> {
        let _one = locked(&self.making);
        let plan = |w: &crate::catalog::Writer| {
            let mut places = mirrors::places(w, None, destinations)?;
            let first = places.first().map(|place| place.id).unwrap_or_default();
            let mut row = blank(w.next_id::<VaultRow>()?, name, first, encryption, self.now());
            mirrors::change(w, &mut row, &places, false)?;
            settings(w, &mut row)?;
            // Says whether the name is free.
            w.put(&row)?;
            Ok((row, places.swap_remove(0)))
        };
        // What a caller got wrong is found before anything is made, and the destination, which may
        // be slow, is not touched while others wait for the catalog.
        let (mut row, place) = self.catalog.check(plan)?;
        self.create_store(&mut row, &self.store_place(&place.place)?)?;
        self.catalog.write(|w| {
            let (planned, now) = plan(w)?;
            if now.place != place.place {
                return Err(Error::invalid_state(format!("destination {:?} was changed meanwhile", place.name)));
            }
            let id = planned.id;
            w.put(&VaultRow { uuid: row.uuid, key_file: row.key_file, ..planned })?;
            Ok(id)
        })
    }

    /// Changes a vault's settings; what is not given stays.
    pub fn update_vault(&self, selector: &str, options: Map) -> Result<()> {
        let mut args = Args::new(options);
        let new_name = args.string("name")?;
        let destinations = args.strings("destinations")?;
        let encryption = args.bool("encryption")?;
        let force = args.bool("force")?.unwrap_or(false);
        let settings = Settings::take(&mut args)?;
        args.finish()?;
        if let Some(name) = &new_name {
            name::check("vault", name)?;
        }
        let mut promoted = false;
        let _one = locked(&self.making);
        if let Some(first) = destinations.as_ref().and_then(|list| list.first()) {
            self.check_promotion(selector, first)?;
        }
        let id = self.catalog.write(|w| {
            let mut row = select::vault(w, selector)?;
            refuse_declared("vault", &row.name, &row.origin)?;
            refuse_other(&row, encryption.unwrap_or(row.encryption))?;
            if let Some(list) = &destinations {
                let places = mirrors::places(w, Some(&row), list)?;
                promoted = mirrors::change(w, &mut row, &places, force)?.promoted;
            }
            settings.apply(w, &mut row)?;
            if let Some(name) = new_name {
                row.name = name;
            }
            w.put(&row)?;
            Ok(row.id)
        })?;
        self.mirrors_changed(id, promoted);
        self.emit(Event::ObjectChanged { kind: ObjectKind::Vault, id });
        Ok(())
    }

    /// Refuses to name a destination first that does not hold the vault (any more).
    fn check_promotion(&self, selector: &str, first: &str) -> Result<()> {
        let (row, place) = self.catalog.read(|r| Ok((select::vault(r, selector)?, select::destination(r, first)?)))?;
        match row.mirrors.get(&place.id) {
            Some(mirror) if mirror.joined => destinations::holds(&self.store_place(&place.place)?, &row),
            _ => Ok(()),
        }
    }

    /// Starts a job that forgets a vault and its backups; with `delete_data` their data goes too.
    pub fn remove_vault(&self, selector: &str, options: Map) -> Result<u64> {
        let mut args = Args::new(options);
        let delete_data = args.bool("delete_data")?.unwrap_or(false);
        args.finish()?;
        self.submit(|w| {
            let mut row = select::vault(w, selector)?;
            refuse_declared("vault", &row.name, &row.origin)?;
            if row.removing {
                refuse_removing(&row)?;
            }
            let named = w
                .all::<Resource>()?
                .into_iter()
                .find(|r| r.vault == Some(row.id) && r.removed_at.is_none() && r.origin.owner().is_some());
            if let Some(resource) = named {
                return Err(Error::invalid_state(format!(
                    "resource {:?} names the vault {:?} in {}; change it there and reload",
                    resource.name,
                    row.name,
                    resource.origin.text()
                )));
            }
            refuse_jobs(w, &row)?;
            schedules::refuse_named(w, &format!("vault {:?}", row.name), |s| s.vault == Some(row.id))?;
            if delete_data && !row.emptied {
                let backups = w.rows_at::<Backup>(backup::BY_VAULT, row.id)?;
                if let Some(kept) = backups.iter().find(|b| b.protected) {
                    return Err(Error::invalid_state(format!(
                        "backup {} in vault {:?} is protected; unprotect it first",
                        kept.id, row.name
                    )));
                }
            }
            row.removing = true;
            w.put(&row)?;
            let ticket = Ticket { exclusive: vec![Key::Vault(row.id)], ..Ticket::free(Lane::Maintenance) };
            Ok(Draft { vault: Some(row.id), ..Draft::new(Task::Remove { delete_data }, ticket) })
        })
    }

    /// One vault.
    pub fn get_vault(&self, selector: &str) -> Result<Map> {
        let row = self.catalog.read(|r| select::vault(r, selector))?;
        self.vault_map(&row)
    }

    /// Lists vaults.
    pub fn list_vaults(&self, options: Map) -> Result<(u64, Vec<Map>)> {
        let mut args = Args::new(options);
        let page = Page::take(&mut args, FIELDS)?;
        args.finish()?;
        let rows = self.catalog.read(Tables::all::<VaultRow>)?;
        Ok(page.cut(rows.iter().map(|row| self.vault_map(row)).collect::<Result<_>>()?))
    }

    fn vault_map(&self, row: &VaultRow) -> Result<Map> {
        // Outside of any transaction: a destination may be slow. One elsewhere is not waited for at all.
        if !self.catalog.read(|r| open::is_elsewhere(r, row))? {
            self.open_promptly(std::slice::from_ref(row));
        }
        let used = self.vaults.opened(row.id).map(|open| open.vault.stored_size());
        self.catalog.read(|r| {
            let names = row
                .destinations
                .iter()
                .filter_map(|id| r.get::<Destination>(*id).transpose())
                .map(|d| d.map(|d| d.name))
                .collect::<Result<Vec<String>>>()?;
            let mut f = Fields::default();
            f.set("id", row.id).set("uuid", row.uuid.to_string()).set("name", row.name.as_str());
            f.set("destinations", names).set("compression", row.compression.as_str());
            f.set("encryption", row.encryption).opt("capacity", row.capacity).set("grace", row.grace);
            if let Some(project) = row.project {
                f.opt("project", r.get::<Project>(project)?.map(|p| p.name));
            }
            f.time("created_at", Some(row.created_at)).opt("used", used);
            f.set("backups", r.counted(backup::GOOD_BY_VAULT, row.id)?);
            f.origin(&row.origin).set("copies", mirrors::copies(r, row)?);
            f.opt("prune", row.prune.as_deref()).opt("verify_within", row.verify_within);
            f.time("next_prune", row.prune_due).time("last_read", row.last_read);
            f.time("last_verified", row.last_verified).time("last_pruned", row.last_pruned);
            Ok(f.done())
        })
    }

    /// Makes the vault the one that the resources are backed up to.
    pub fn associate_resources(&self, vault: &str, list: Vec<String>) -> Result<()> {
        self.associate(vault, &list, true)
    }

    /// Undoes [`Service::associate_resources`].
    pub fn dissociate_resources(&self, vault: &str, list: Vec<String>) -> Result<()> {
        self.associate(vault, &list, false)
    }

    fn associate(&self, vault: &str, list: &[String], with: bool) -> Result<()> {
        if list.is_empty() {
            return Err(Error::invalid("resources is empty; name at least one"));
        }
        let changed = self.catalog.write(|w| {
            let vault = select::vault(w, vault)?;
            let mut changed = Vec::new();
            for selector in list {
                let mut row = select::resource(w, selector)?;
                refuse_declared("resource", &row.name, &row.origin)?;
                if with {
                    row.vault = Some(vault.id);
                } else if row.vault == Some(vault.id) {
                    row.vault = None;
                } else {
                    return Err(Error::invalid_state(format!(
                        "resource {:?} is not associated with the vault {:?}",
                        row.name, vault.name
                    )));
                }
                w.put::<Resource>(&row)?;
                changed.push(row.id);
            }
            Ok(changed)
        })?;
        for id in changed {
            self.emit(Event::ObjectChanged { kind: ObjectKind::Resource, id });
        }
        Ok(())
    }

    /// Starts a job that gives back space nothing refers to.
    pub fn prune_vault(&self, selector: &str, options: Map) -> Result<u64> {
        let mut args = Args::new(options);
        let dry_run = args.bool("dry_run")?.unwrap_or(false);
        args.finish()?;
        self.submit_for_vault(selector, Task::Prune { dry_run })
    }

    /// Starts a job that checks the vault.
    pub fn verify_vault(&self, selector: &str, options: Map) -> Result<u64> {
        let mut args = Args::new(options);
        let read_data = args.bool("read_data")?.unwrap_or(false);
        let repair = args.bool("repair")?.unwrap_or(false);
        args.finish()?;
        // What is to be repaired has to be found first.
        self.submit(|w| {
            let row = select::vault(w, selector)?;
            refuse_removing(&row)?;
            let task = Task::Verify { read_data: read_data || repair, repair, share: None };
            Ok(Draft { vault: Some(row.id), ..Draft::new(task, mirrors::verify_ticket(w, &row)?) })
        })
    }

    /// Starts a job that brings mirrors up to date.
    pub fn sync_vault(&self, selector: &str, options: Map) -> Result<u64> {
        Args::new(options).finish()?;
        self.submit(|w| {
            let row = select::vault(w, selector)?;
            refuse_removing(&row)?;
            Ok(Draft { vault: Some(row.id), ..Draft::new(Task::Sync { mirror: None }, mirrors::ticket(None)) })
        })
    }

    fn submit_for_vault(&self, selector: &str, task: Task) -> Result<u64> {
        self.submit(|w| {
            let row = select::vault(w, selector)?;
            refuse_removing(&row)?;
            let mut ticket = Ticket::free(Lane::Maintenance);
            ticket.exclusive.push(Key::Vault(row.id));
            Ok(Draft { vault: Some(row.id), ..Draft::new(task, ticket) })
        })
    }
}

/// A vault as it is asked for.
pub(super) struct Wanted {
    /// The first is the primary.
    pub destinations: Vec<String>,
    pub encryption: bool,
    pub settings: Settings,
}

/// The settings of a new vault, from what a caller or a file says.
pub(super) fn take(options: Map) -> Result<Wanted> {
    let mut args = Args::new(options);
    let destinations = args.strings("destinations")?.unwrap_or_default();
    let encryption = args.bool("encryption")?.unwrap_or(true);
    let settings = Settings::take(&mut args)?;
    args.finish()?;
    if destinations.is_empty() {
        return Err(Error::invalid("destinations is missing; name the destination that holds the vault"));
    }
    Ok(Wanted { destinations, encryption, settings })
}

/// A vault with nothing set.
pub(super) fn blank(id: u64, name: &str, destination: u64, encryption: bool, now: Timestamp) -> VaultRow {
    VaultRow {
        id,
        uuid: Uuid::new_v4(),
        name: name.to_owned(),
        destinations: vec![destination],
        mirrors: std::collections::BTreeMap::new(),
        compression: "zstd:3".into(),
        encryption,
        capacity: None,
        project: None,
        key_file: None,
        grace: 0,
        created_at: now,
        last_verified: None,
        last_pruned: None,
        last_read: None,
        prune: None,
        prune_due: None,
        verify_within: None,
        round: None,
        verify_tried: None,
        measured: None,
        last_manifest: None,
        removing: false,
        emptied: false,
        origin: Origin::default(),
    }
}

/// Refuses a destination that holds a vault already.
pub(super) fn refuse_taken(t: &impl Tables, place: &Destination) -> Result<()> {
    match destinations::vault_on(t, place.id)? {
        None => Ok(()),
        Some(other) => Err(Error::invalid_state(format!(
            "destination {:?} holds the vault {:?} already; add another destination for this one",
            place.name, other.name
        ))),
    }
}

/// Refuses to keep anything in the clear on somebody else's machine.
pub(super) fn refuse_plain(place: &Destination, encryption: bool) -> Result<()> {
    if encryption || !place.place.is_cloud() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "encryption is false, but destination {:?} is of type {}, where every vault is encrypted; leave it out",
        place.name,
        place.type_name()
    )))
}

/// Refuses what cannot be changed about a vault.
pub(super) fn refuse_other(row: &VaultRow, encryption: bool) -> Result<()> {
    if encryption == row.encryption {
        return Ok(());
    }
    Err(Error::invalid_state(format!("encryption of vault {:?} cannot be changed; make another vault", row.name)))
}

/// Refuses a vault that is on its way out.
pub(super) fn refuse_removing(row: &VaultRow) -> Result<()> {
    if row.removing {
        return Err(Error::invalid_state(format!("vault {:?} is being removed; use another", row.name)));
    }
    if row.emptied {
        return Err(Error::invalid_state(format!(
            "vault {:?} was removed in part; remove it again, and use another",
            row.name
        )));
    }
    Ok(())
}

/// Refuses a vault that jobs still need.
pub(super) fn refuse_busy(t: &impl Tables, row: &VaultRow) -> Result<()> {
    refuse_removing(row)?;
    refuse_jobs(t, row)
}

pub(super) fn refuse_jobs(t: &impl Tables, row: &VaultRow) -> Result<()> {
    match resources::open_jobs(t)?.into_iter().find(|j| j.vault == Some(row.id)) {
        None => Ok(()),
        Some(job) => Err(Error::invalid_state(format!(
            "job {} still needs the vault {:?}; wait for it or cancel it first",
            job.id, row.name
        ))),
    }
}
