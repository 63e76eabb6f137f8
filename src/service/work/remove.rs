//! Removing a vault: its backups are marked before its first object goes, and what says that
//! there is a vault goes last, so that a removal cut short is taken up again.

use std::sync::Arc;

use serde_json::json;

use super::Report;
use crate::catalog::{Backup, Checkpoint, Destination, Job, Resource, Tables, VaultRow, backup};
use crate::model::{Error, ErrorKind, Id, Progress, Result};
use crate::service::{Event, ObjectKind, Service};
use crate::store::{ObjectStore, Patience, Place};
use crate::vault::read_config;

/// Where a vault keeps objects: manifests first, keys last.
const PREFIXES: [&str; 7] = ["backups/", "deleted/", "state/", "index/", "packs/", "sessions/", "keys/"];

impl Service {
    pub(super) fn run_remove(&self, job: &Job, delete_data: bool, progress: &Arc<Progress>) -> Result<Report> {
        let id = job.vault.ok_or_else(|| Error::failed("the job names no vault"))?;
        let Some(row) = self.catalog.read(|r| r.get::<VaultRow>(id))? else { return Ok(Report::default()) };
        let (places, backups) = self.catalog.write(|w| {
            let rows = w.rows_at::<Backup>(backup::BY_VAULT, id)?;
            for mut row in rows.iter().filter(|b| !b.deleting).cloned() {
                (row.deleting, row.with_vault) = (true, true);
                w.put(&row)?;
            }
            // Of a mirror that was never filled there is nothing.
            let filled = row.destinations.iter().filter(|id| row.mirrors.get(id).is_none_or(|mirror| mirror.joined));
            let places = filled.map(|id| w.need::<Destination>(*id)).collect::<Result<Vec<_>>>()?;
            Ok((places, rows))
        })?;
        self.show_all();
        let mut deleted = 0_u64;
        if delete_data {
            let mut stores = Vec::new();
            for place in &places {
                stores.extend(self.place_to_empty(&row, place)?);
            }
            // From the first deletion on there is no way back.
            self.catalog.write(|w| {
                w.update::<VaultRow>(id, |vault| {
                    vault.emptied = true;
                    Ok(())
                })
            })?;
            // The mirrors first: what says that there is a vault goes last.
            for store in stores.iter().rev() {
                deleted += empty(&**store, progress)?;
            }
        }
        self.vaults.forget(id);
        let cache = &self.options.cache_dir;
        for dir in [cache.join(row.uuid.to_string()), cache.join("changes").join(row.uuid.to_string())] {
            let _ = std::fs::remove_dir_all(dir);
        }
        let key_file = row.key_file.filter(|_| delete_data);
        let ids: Vec<u64> = backups.iter().map(|b| b.id).collect();
        let events = ids.iter().map(|id| Event::BackupChanged { id: *id, status: "deleted".into() });
        let mut report = Report::of(json!({ "objects_deleted": deleted, "backups": ids.len() }));
        report.events = events.collect();
        report.events.push(Event::ObjectRemoved { kind: ObjectKind::Vault, id });
        Ok(report.then(move |w| {
            for id in ids {
                w.remove::<Backup>(id)?;
            }
            for mut resource in w.all::<Resource>()? {
                if resource.vault == Some(id) {
                    resource.vault = None;
                    w.put(&resource)?;
                }
            }
            for checkpoint in w.all::<Checkpoint>()?.into_iter().filter(|c| c.vault == id) {
                w.remove::<Checkpoint>(checkpoint.id)?;
            }
            w.remove::<VaultRow>(id)?;
            // With its data gone the key opens nothing any more.
            if let Some(path) = key_file {
                let _ = std::fs::remove_file(path);
            }
            Ok(())
        }))
    }
}

impl Service {
    /// A copy of the vault whose objects are to go; none, if an earlier attempt got that far.
    fn place_to_empty(&self, row: &VaultRow, place: &Destination) -> Result<Option<Arc<dyn ObjectStore>>> {
        let place = self.store_place(&place.place)?;
        let store = place.open(Patience::WORK)?;
        match read_config(&*store) {
            Ok(config) if config.uuid == row.uuid => Ok(Some(store)),
            Ok(config) => Err(Error::destination_failed(format!(
                "{} holds another vault ({}); mount the right one",
                place.title(),
                config.uuid
            ))),
            Err(e) if e.kind == ErrorKind::NotFound && row.emptied && was_here(&place) => Ok(None),
            Err(e) if e.kind == ErrorKind::NotFound => Err(Error::destination_failed(format!(
                "{} does not hold the vault; mount what does, or remove the vault without its data",
                place.title()
            ))),
            Err(e) => Err(e),
        }
    }
}

/// Whether a place without `vault.json` is the one that had it. A disk may only not be mounted: a
/// vault leaves its empty directories, an empty mount point has none.
fn was_here(place: &Place) -> bool {
    match place {
        Place::Local(directory) => ["keys", "packs", "backups"].iter().any(|name| directory.join(name).is_dir()),
        // A bucket that is another's does not answer to the same name and keys.
        Place::S3(_) => true,
    }
}

/// Whether a key is of an object that a vault makes; whatever else lies there is not ours.
fn is_ours(prefix: &str, key: &str) -> bool {
    let name = key.rsplit('/').next().unwrap_or_default();
    match prefix {
        "sessions/" => name.len() == 32 && name.bytes().all(|b| b.is_ascii_hexdigit()),
        _ => name.parse::<Id>().is_ok(),
    }
}

fn empty(store: &dyn ObjectStore, progress: &Progress) -> Result<u64> {
    let mut deleted = 0;
    for prefix in PREFIXES {
        let objects = store.list(prefix)?;
        progress.expect(objects.len() as u64, 0);
        for object in objects {
            progress.check()?;
            if !is_ours(prefix, &object.key) {
                continue;
            }
            store.delete(&object.key)?;
            progress.add(1, 0);
            deleted += 1;
        }
        store.sync()?;
    }
    store.delete(crate::vault::config::KEY)?;
    store.sync()?;
    Ok(deleted)
}
