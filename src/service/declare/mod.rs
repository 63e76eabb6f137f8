//! Bringing the catalog in line with what the configuration files declare: all of it or nothing.
//!
//! What it guarantees: every declaration is checked before anything is made; directories and new
//! vaults are made next, each of which can be done again; the catalog changes in one transaction.
//! An object belongs to the file that declares it. One that no file declares any more is removed,
//! unless something still needs it: then it stays, and is marked orphaned.

mod timed;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use uuid::Uuid;

use super::declared::{Declaration, Kind};
use super::{
    Event, ObjectKind, Service, destinations, locked, mirrors, places, projects, resources, schedules, select, tasks,
    vaults,
};
use crate::catalog::destination::Place;
use crate::catalog::{
    Destination, Origin, Project, Resource, Row, Tables, VaultRow, Writer, backup, project, resource,
};
use crate::model::{Args, Error, Result, name};

/// What has to be made outside the catalog, and then what was.
#[derive(Debug, Default)]
struct Places {
    /// Places of destinations that are new.
    new: Vec<(usize, Place)>,
    /// Places to which a vault is said to have moved.
    moved: Vec<(usize, VaultRow, Place)>,
    /// Vaults that are new, and their places.
    vaults: Vec<(usize, VaultRow, Place)>,
}

#[derive(Debug, Default)]
struct Outcome {
    places: Places,
    events: Vec<Event>,
    /// Whether the mount shows something else now.
    shown: bool,
    forget: Vec<u64>,
    /// Vaults with mirrors.
    mirrored: Vec<u64>,
}

/// Identity and key file of the vaults that were made, by declaration.
type Made = BTreeMap<usize, (Uuid, Option<PathBuf>)>;

/// Refuses to change over the bus what a file owns.
pub(super) fn refuse_declared(noun: &str, name: &str, origin: &Origin) -> Result<()> {
    match origin.owner() {
        None => Ok(()),
        Some(file) => Err(Error::invalid_state(format!(
            "{noun} {name:?} is declared in {}; change it there and reload",
            file.display()
        ))),
    }
}

impl Service {
    /// Applies all declarations; an error names file, line and key, and nothing has changed.
    pub(super) fn declare(&self, list: &[Declaration]) -> Result<()> {
        let _one = locked(&self.making);
        let planned = self.catalog.check(|w| self.declare_all(w, list, None))?.places;
        let located = |at: &usize, e: Error| list.get(*at).map_or(e.clone(), |d| d.locate(e));
        for (at, place) in &planned.new {
            self.make_place(place, None).map_err(|e| located(at, e))?;
        }
        for (at, vault, place) in &planned.moved {
            let there = self.store_place(place).and_then(|place| destinations::holds(&place, vault));
            there.map_err(|e| located(at, e))?;
        }
        let mut made = Made::new();
        for (at, mut row, place) in planned.vaults {
            let stored = self.store_place(&place).and_then(|place| self.create_store(&mut row, &place));
            stored.map_err(|e| located(&at, e))?;
            made.insert(at, (row.uuid, row.key_file));
        }
        let done = self.catalog.write(|w| self.declare_all(w, list, Some(&made)))?;
        for id in done.forget {
            self.vaults.forget(id);
        }
        for id in done.mirrored {
            self.mirrors_changed(id, false);
        }
        if done.shown {
            self.show_all();
        }
        done.events.into_iter().for_each(|event| self.emit(event));
        Ok(())
    }

    fn declare_all(&self, w: &Writer, list: &[Declaration], made: Option<&Made>) -> Result<Outcome> {
        let (mut out, now) = (Outcome::default(), self.now());
        let mut kept: BTreeMap<Kind, BTreeSet<u64>> = BTreeMap::new();
        for (at, declaration) in list.iter().enumerate() {
            let id = match declaration.kind {
                Kind::Project => self.declare_project(w, declaration),
                Kind::Destination => self.declare_destination(w, at, declaration, made.is_none(), &mut out),
                Kind::Vault => self.declare_vault(w, at, declaration, made, &mut out),
                Kind::Resource => self.declare_resource(w, declaration, &mut out),
                Kind::Schedule => timed::declare_schedule(w, declaration, now, &mut out),
                Kind::Task => timed::declare_task(self, w, declaration, now, &mut out),
            };
            kept.entry(declaration.kind).or_default().insert(id.map_err(|e| declaration.locate(e))?);
        }
        let kept = |kind, id| kept.get(&kind).is_some_and(|ids| ids.contains(&id));
        // Those first that need others.
        timed::drop_tasks(w, |id| kept(Kind::Task, id), &mut out)?;
        timed::drop_schedules(w, |id| kept(Kind::Schedule, id), now, &mut out)?;
        self.drop_resources(w, |id| kept(Kind::Resource, id), &mut out)?;
        self.drop_vaults(w, |id| kept(Kind::Vault, id), &mut out)?;
        drop_destinations(w, |id| kept(Kind::Destination, id), &mut out)?;
        drop_projects(w, |id| kept(Kind::Project, id))?;
        Ok(out)
    }

    fn declare_project(&self, w: &Writer, d: &Declaration) -> Result<u64> {
        name::check("project", &d.name)?;
        let description = projects::take(d.options.clone())?;
        let old = named::<Project>(w, 0, &d.name)?;
        let mut row = match &old {
            Some(row) => row.clone(),
            None => Project {
                id: w.next_id::<Project>()?,
                name: d.name.clone(),
                description: String::new(),
                created_at: self.now(),
                origin: Origin::default(),
            },
        };
        row.description = description;
        row.origin = Origin::file(&d.file);
        put(w, old.as_ref(), &row)?;
        Ok(row.id)
    }

    fn declare_destination(
        &self,
        w: &Writer,
        at: usize,
        d: &Declaration,
        first: bool,
        out: &mut Outcome,
    ) -> Result<u64> {
        name::check("destination", &d.name)?;
        let mut args = Args::new(d.options.clone());
        let kind = args.string("type")?.unwrap_or_else(|| "local".into());
        let wanted = places::take(&kind, args, true)?;
        let (place, max_backups) = (wanted.place.clone(), wanted.max_backups);
        let old = named::<Destination>(w, 0, &d.name)?;
        let mut row = match &old {
            Some(row) => row.clone(),
            None => Destination {
                id: w.next_id::<Destination>()?,
                name: d.name.clone(),
                place: place.clone(),
                max_backups: None,
                created_at: self.now(),
                origin: Origin::default(),
            },
        };
        if old.as_ref().map(|row| &row.place) != Some(&place) {
            if first {
                let others: Vec<_> = w.all::<Destination>()?.into_iter().filter(|o| o.id != row.id).collect();
                self.check_destination(&others, &wanted)?;
            }
            match destinations::vault_on(w, row.id)? {
                Some(vault) => {
                    vaults::refuse_busy(w, &vault)?;
                    vaults::refuse_plain(&Destination { place: place.clone(), ..row.clone() }, vault.encryption)?;
                    out.forget.push(vault.id);
                    out.shown = true;
                    out.places.moved.push((at, vault, place.clone()));
                }
                None => out.places.new.push((at, place.clone())),
            }
        }
        row.place = place;
        row.max_backups = max_backups;
        row.origin = Origin::file(&d.file);
        tell(out, ObjectKind::Destination, row.id, put(w, old.as_ref(), &row)?);
        Ok(row.id)
    }

    fn declare_vault(
        &self,
        w: &Writer,
        at: usize,
        d: &Declaration,
        made: Option<&Made>,
        out: &mut Outcome,
    ) -> Result<u64> {
        name::check("vault", &d.name)?;
        let wanted = vaults::take(d.options.clone())?;
        let old = named::<VaultRow>(w, 0, &d.name)?;
        let mut places = mirrors::places(w, old.as_ref(), &wanted.destinations)?;
        let first = places.first().map(|place| place.id).unwrap_or_default();
        let mut row = match &old {
            Some(row) => {
                vaults::refuse_removing(row)?;
                vaults::refuse_other(row, wanted.encryption)?;
                // What the file does not say is what it is by default.
                let usual = vaults::blank(row.id, &d.name, first, row.encryption, row.created_at);
                VaultRow {
                    compression: usual.compression,
                    capacity: usual.capacity,
                    project: usual.project,
                    grace: usual.grace,
                    prune: usual.prune,
                    verify_within: usual.verify_within,
                    ..row.clone()
                }
            }
            None => {
                let id = w.next_id::<VaultRow>()?;
                vaults::blank(id, &d.name, first, wanted.encryption, self.now())
            }
        };
        if mirrors::change(w, &mut row, &places, false)?.promoted {
            out.forget.push(row.id);
            out.shown = true;
        }
        wanted.settings.apply(w, &mut row)?;
        row.origin = Origin::file(&d.file);
        if let Some(old) = old.as_ref().filter(|old| old.prune == row.prune) {
            // What is due stays due, also if it was missed.
            row.prune_due = old.prune_due;
        } else {
            row.prune_due = None;
        }
        if old.is_none() {
            out.shown = true;
            if let Some((uuid, key_file)) = made.and_then(|made| made.get(&at)) {
                row.uuid = *uuid;
                row.key_file.clone_from(key_file);
            } else if made.is_some() {
                return Err(Error::invalid_state("the catalog was changed meanwhile; reload again"));
            }
            out.places.vaults.push((at, row.clone(), places.swap_remove(0).place));
        }
        if !row.mirrors.is_empty() {
            out.mirrored.push(row.id);
        }
        tell(out, ObjectKind::Vault, row.id, put(w, old.as_ref(), &row)?);
        Ok(row.id)
    }

    fn declare_resource(&self, w: &Writer, d: &Declaration, out: &mut Outcome) -> Result<u64> {
        let (owner, plain) = match d.name.split_once('/') {
            Some((owner, plain)) => (Some(owner.to_owned()), plain),
            None => (None, d.name.as_str()),
        };
        name::check("resource", plain)?;
        let settings = resources::Settings::take(Args::new(d.options.clone()), resources::Source::File)?;
        if owner.is_some() && settings.project.is_some() {
            return Err(Error::invalid("project is given twice; leave it out, the name says it already"));
        }
        let owner = owner.or_else(|| settings.project.clone()).unwrap_or_else(|| project::DEFAULT.into());
        let owner = select::project(w, &owner)?;
        let old = named::<Resource>(w, owner.id, plain)?;
        let id = match &old {
            Some(row) => row.id,
            None => w.next_id::<Resource>()?,
        };
        let mut row = resources::blank(id, owner.id, plain, self.now());
        settings.apply(w, self, &mut row)?;
        row.origin = Origin::file(&d.file);
        if let Some(old) = &old {
            row = Resource {
                created_at: old.created_at,
                last_backup: old.last_backup,
                last_success: old.last_success,
                last_size: old.last_size,
                last_entries: old.last_entries,
                ..row
            };
            if old.browse != row.browse {
                resources::spread(w, &row, &owner.name)?;
                out.shown = true;
            }
        }
        tell(out, ObjectKind::Resource, row.id, put(w, old.as_ref(), &row)?);
        Ok(row.id)
    }

    fn drop_resources(&self, w: &Writer, kept: impl Fn(u64) -> bool, out: &mut Outcome) -> Result<()> {
        let mut jobs = None;
        for mut row in w.all::<Resource>()? {
            if row.removed_at.is_some() || row.origin.owner().is_none() || kept(row.id) {
                continue;
            }
            if jobs.is_none() {
                jobs = Some(resources::open_jobs(w)?);
            }
            let busy = jobs.iter().flatten().any(|j| j.resource == Some(row.id));
            let named = schedules::naming(w, |s| s.resources.contains(&row.id))?.is_some()
                || tasks::naming(w, &w.need(row.project)?, Some(&row))?.is_some();
            if busy || named || w.counted(backup::BY_RESOURCE, row.id)? > 0 {
                row.origin = row.origin.orphan();
                out.events.push(Event::ObjectChanged { kind: ObjectKind::Resource, id: row.id });
            } else {
                row.removed_at = Some(self.now());
                out.events.push(Event::ObjectRemoved { kind: ObjectKind::Resource, id: row.id });
            }
            w.put(&row)?;
        }
        Ok(())
    }

    fn drop_vaults(&self, w: &Writer, kept: impl Fn(u64) -> bool, out: &mut Outcome) -> Result<()> {
        for mut row in w.all::<VaultRow>()? {
            if row.origin.owner().is_none() || kept(row.id) {
                continue;
            }
            let named = w.all::<Resource>()?.iter().any(|r| r.vault == Some(row.id) && r.removed_at.is_none())
                || schedules::naming(w, |s| s.vault == Some(row.id))?.is_some();
            let busy = resources::open_jobs(w)?.iter().any(|j| j.vault == Some(row.id));
            if named || busy || !w.indexed(backup::BY_VAULT, row.id)?.is_empty() {
                row.origin = row.origin.orphan();
                w.put(&row)?;
                out.events.push(Event::ObjectChanged { kind: ObjectKind::Vault, id: row.id });
            } else {
                // Its store and its key stay: only what the catalog knows of it goes.
                w.remove::<VaultRow>(row.id)?;
                out.forget.push(row.id);
                out.shown = true;
                out.events.push(Event::ObjectRemoved { kind: ObjectKind::Vault, id: row.id });
            }
        }
        Ok(())
    }
}

fn drop_destinations(w: &Writer, kept: impl Fn(u64) -> bool, out: &mut Outcome) -> Result<()> {
    for mut row in w.all::<Destination>()? {
        if row.origin.owner().is_none() || kept(row.id) {
            continue;
        }
        if destinations::vault_on(w, row.id)?.is_some() {
            row.origin = row.origin.orphan();
            w.put(&row)?;
            out.events.push(Event::ObjectChanged { kind: ObjectKind::Destination, id: row.id });
        } else {
            w.remove::<Destination>(row.id)?;
            out.events.push(Event::ObjectRemoved { kind: ObjectKind::Destination, id: row.id });
        }
    }
    Ok(())
}

fn drop_projects(w: &Writer, kept: impl Fn(u64) -> bool) -> Result<()> {
    for mut row in w.all::<Project>()? {
        if row.origin.owner().is_none() || kept(row.id) {
            continue;
        }
        let used = !w.indexed(resource::BY_PROJECT, row.id)?.is_empty()
            || !w.indexed(backup::BY_PROJECT, row.id)?.is_empty()
            || w.all::<VaultRow>()?.iter().any(|v| v.project == Some(row.id))
            || tasks::naming(w, &row, None)?.is_some();
        if used || row.name == project::DEFAULT {
            row.origin = if row.name == project::DEFAULT { Origin::default() } else { row.origin.orphan() };
            w.put(&row)?;
        } else {
            w.remove::<Project>(row.id)?;
        }
    }
    Ok(())
}

fn named<R: Row>(w: &Writer, scope: u64, name: &str) -> Result<Option<R>> {
    w.named::<R>(scope, name)?.map(|id| w.need(id)).transpose()
}

/// Whether a row was new, changed, or as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Added,
    Changed,
    Same,
}

pub(super) fn put<R: Row + PartialEq>(w: &Writer, old: Option<&R>, row: &R) -> Result<Change> {
    if old == Some(row) {
        return Ok(Change::Same);
    }
    w.put(row)?;
    Ok(if old.is_some() { Change::Changed } else { Change::Added })
}

fn tell(out: &mut Outcome, kind: ObjectKind, id: u64, change: Change) {
    match change {
        Change::Added => out.events.push(Event::ObjectAdded { kind, id }),
        Change::Changed => out.events.push(Event::ObjectChanged { kind, id }),
        Change::Same => {}
    }
}

/// Whether a first start has nothing of its own to make: a file says where backups go.
pub(super) fn says_where(list: &[Declaration]) -> bool {
    list.iter().any(|d| d.kind == Kind::Vault || (d.kind == Kind::Destination && d.name == "local"))
}
