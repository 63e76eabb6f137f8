//! The catalog from nothing: the call that finds a vault on a destination and opens it.
//!
//! The key that the caller has opens the vault once, and a key file of this machine's own is made
//! beside it, so that nothing secret is in the job that reads the rest.

use std::path::Path;

use uuid::Uuid;
use zeroize::Zeroizing;

use super::declare::refuse_declared;
use super::open::{read_key_file, write_key_file};
use super::submit::Draft;
use super::{Event, ObjectKind, Service, check, destinations, locked, select, vaults};
use crate::catalog::{Destination, Tables, Task, VaultRow, Writer, private_dir};
use crate::jobs::{Key, Lane, Ticket};
use crate::model::{Args, Error, ErrorKind, Map, Result, name};
use crate::store::ObjectStore;
use crate::vault::{self, Secret, SlotKind};

/// What opens a vault that this machine does not know yet.
enum Opener {
    Recovery(Secret),
    File(Secret),
}

impl Service {
    /// Reads a catalog back from a destination. What opens the vault is never repeated. A vault
    /// that is known already needs no key: what it holds and the catalog lacks is added.
    pub fn rebuild_catalog(&self, destination: &str, options: Map) -> Result<u64> {
        let mut args = Args::new(options);
        let recovery = args.string("recovery_key")?.map(Zeroizing::new);
        let file = args.string("key_file")?;
        let machine = args.string("machine")?.unwrap_or_default();
        let wanted = args.string("name")?;
        args.finish()?;
        wanted.as_deref().map_or(Ok(()), |wanted| name::check("vault", wanted))?;
        let opener = match (recovery, file) {
            (Some(_), Some(_)) => {
                return Err(Error::invalid("recovery_key and key_file are both given; give the one that there is"));
            }
            (Some(text), None) => {
                Some(Opener::Recovery(Secret::from_recovery(&text).map_err(|e| e.context("recovery_key"))?))
            }
            (None, Some(path)) => {
                let path = check::clean_path("key_file", Path::new(&path))?;
                Some(Opener::File(read_key_file(&path).map_err(|e| Error::invalid(e.message).context("key_file"))?))
            }
            (None, None) => None,
        };
        let _one = locked(&self.making);
        let (place, known) = self.catalog.read(|r| {
            let place = select::destination(r, destination)?;
            let known = destinations::vault_on(r, place.id)?;
            Ok((place, known))
        })?;
        let (vault, rename) = match known {
            Some(vault) => {
                vaults::refuse_removing(&vault)?;
                (vault.id, false)
            }
            None => (self.take_in(&place, opener, wanted.as_deref())?, wanted.is_none()),
        };
        self.submit(|w| {
            vaults::refuse_removing(&w.need(vault)?)?;
            let ticket = Ticket { exclusive: vec![Key::Vault(vault)], ..Ticket::free(Lane::Maintenance) };
            Ok(Draft { vault: Some(vault), ..Draft::new(Task::Rebuild { machine, rename }, ticket) })
        })
    }

    /// Makes a row for the vault that lies on a destination: key file first, then the row.
    fn take_in(&self, place: &Destination, opener: Option<Opener>, wanted: Option<&str>) -> Result<u64> {
        let store = self.open_store(place)?;
        let config = vault::read_config(&*store).map_err(|e| match e.kind {
            ErrorKind::NotFound => Error::invalid_state(format!("destination {:?} holds no vault", place.name)),
            _ => e,
        })?;
        let known = self.catalog.read(Tables::all::<VaultRow>)?;
        if let Some(there) = known.iter().find(|v| v.uuid == config.uuid) {
            return Err(Error::invalid_state(format!(
                "destination {:?} holds a copy of the vault {:?}, which is known already; rebuild from its own",
                place.name, there.name
            )));
        }
        let key_file = match (config.encrypted, opener) {
            (false, _) => None,
            (true, None) => {
                return Err(Error::invalid("the vault is encrypted; give its recovery_key or a key_file of it"));
            }
            (true, Some(opener)) => Some(self.take_key(&*store, config.uuid, opener)?),
        };
        let plan = |w: &Writer| {
            let id = w.next_id::<VaultRow>()?;
            let name = match wanted {
                Some(name) => name.to_owned(),
                None => free_name(w, &place.name)?,
            };
            let mut row = vaults::blank(id, &name, place.id, config.encrypted, self.now());
            (row.uuid, row.key_file) = (config.uuid, key_file.clone());
            w.put(&row)?;
            Ok(id)
        };
        let id = self.catalog.write(plan)?;
        self.emit(Event::ObjectAdded { kind: ObjectKind::Vault, id });
        Ok(id)
    }

    /// Opens a vault with what the caller has, and makes this machine's own key file for it.
    fn take_key(&self, store: &dyn ObjectStore, uuid: Uuid, opener: Opener) -> Result<std::path::PathBuf> {
        let refused = |e: Error| match e.kind {
            ErrorKind::DestinationFailed => e,
            _ => Error::invalid("the key does not open the vault on this destination; give one of its own keys"),
        };
        let (Opener::Recovery(secret) | Opener::File(secret)) = &opener;
        let master = vault::unlock(store, secret).map_err(refused)?;
        let keys = self.options.state_dir.join("keys");
        private_dir(&keys)?;
        let path = keys.join(format!("{uuid}.key"));
        if path.exists() {
            // Of an attempt that was cut short, or of a vault that was forgotten.
            let there = read_key_file(&path)?;
            vault::unlock(store, &there)?;
            return Ok(path);
        }
        match opener {
            Opener::File(secret) => write_key_file(&path, &secret)?,
            Opener::Recovery(_) => {
                let secret = Secret::random()?;
                // The file first: a slot whose secret is lost would only look like a key.
                write_key_file(&path, &secret)?;
                let added = vault::slots::add(store, uuid, &master, SlotKind::File, &secret);
                if let Err(e) = added.and_then(|_| store.sync()) {
                    let _ = std::fs::remove_file(&path);
                    return Err(e);
                }
            }
        }
        Ok(path)
    }
}

/// The destination's name, or that with a number where a vault has it.
fn free_name(t: &impl Tables, wish: &str) -> Result<String> {
    let mut name = wish.to_owned();
    let mut n = 1;
    while t.named::<VaultRow>(0, &name)?.is_some() {
        n += 1;
        name = format!("{wish}-{n}");
    }
    Ok(name)
}

/// Whether a vault is the one that the first start made, and nobody uses it.
pub(super) fn unused(t: &impl Tables, row: &VaultRow) -> Result<bool> {
    let free = refuse_declared("vault", &row.name, &row.origin).is_ok()
        && vaults::refuse_jobs(t, row).is_ok()
        && t.indexed(crate::catalog::backup::BY_VAULT, row.id)?.is_empty()
        && !t.all::<crate::catalog::Resource>()?.iter().any(|r| r.vault == Some(row.id))
        && !t.all::<crate::catalog::Schedule>()?.iter().any(|s| s.vault == Some(row.id));
    Ok(free)
}
