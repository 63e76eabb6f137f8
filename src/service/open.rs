//! Open vaults, and making new ones.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind as Io, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Service, locked};
use crate::catalog::{Destination, Tables, VaultRow, private_dir};
use crate::model::{Error, ErrorKind, Id, IoContext, Result};
use crate::store::{ObjectMeta, ObjectStore, Patience, Place, Space};
use crate::vault::{self, MasterKey, NewVault, Secret, SegmentCache, Vault};

/// A vault elsewhere that could not be opened is left alone for so long by who only wants to show it.
const LEFT_ALONE: Duration = Duration::from_secs(20);

/// Decoded segments kept per vault.
const MEMORY: usize = 64 << 20;
/// The same of a vault elsewhere, of which much is fetched at once.
const MEMORY_ELSEWHERE: usize = 128 << 20;

/// How long destinations may take to answer where others wait that need not.
const PATIENCE: Duration = Duration::from_secs(5);

/// A vault that is open, with what others need to open it too.
#[derive(Debug)]
pub(super) struct OpenVault {
    pub id: u64,
    pub vault: Arc<Vault>,
    pub master: Option<MasterKey>,
    pub place: Place,
    /// Where else it is.
    others: Mutex<Vec<Place>>,
    key_file: Option<PathBuf>,
}

impl OpenVault {
    /// Where else it is.
    pub fn others(&self) -> Vec<Place> {
        locked(&self.others).clone()
    }

    /// It is elsewhere from now on.
    pub fn set_others(&self, others: Vec<Place>) {
        self.vault.set_others(others.clone());
        *locked(&self.others) = others;
    }

    /// The slot that this machine's key file opens.
    pub fn own_slot(&self) -> Result<Option<Id>> {
        let Some(path) = &self.key_file else { return Ok(None) };
        let secret = read_key_file(path)?;
        for slot in self.vault.key_slots()? {
            let one = OneSlot { store: &**self.vault.store(), id: slot.id.hex() };
            if vault::slots::unlock(&one, self.vault.uuid(), &secret).is_ok() {
                return Ok(Some(slot.id));
            }
        }
        Ok(None)
    }
}

/// A store that shows one key slot only, to learn which one a secret opens.
#[derive(Debug)]
struct OneSlot<'a> {
    store: &'a dyn ObjectStore,
    id: String,
}

impl ObjectStore for OneSlot<'_> {
    fn put(&self, key: &str, _data: &[u8]) -> Result<()> {
        Err(Error::failed(format!("{key} is not to be written here")))
    }

    fn put_if_absent(&self, key: &str, _data: &[u8]) -> Result<bool> {
        Err(Error::failed(format!("{key} is not to be written here")))
    }

    fn get(&self, key: &str, limit: u64) -> Result<Vec<u8>> {
        self.store.get(key, limit)
    }

    fn get_range(&self, key: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
        self.store.get_range(key, offset, len)
    }

    fn size(&self, key: &str) -> Result<Option<u64>> {
        self.store.size(key)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>> {
        Ok(self.store.list(prefix)?.into_iter().filter(|o| o.key.ends_with(&self.id)).collect())
    }

    fn delete(&self, key: &str) -> Result<()> {
        Err(Error::failed(format!("{key} is not to be removed here")))
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn space(&self) -> Result<Space> {
        self.store.space()
    }

    fn sweep(&self) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Slot {
    /// Never held while anything is read or written.
    open: Mutex<Option<Arc<OpenVault>>>,
    /// A mirror of it, for reading, while it is away.
    copy: Mutex<Option<Arc<OpenVault>>>,
    /// Held while the vault is opened.
    opening: Mutex<()>,
    /// Held while a mirror is opened.
    copying: Mutex<()>,
}

/// The vaults that are open, by id. Opening one does not hold up the others.
#[derive(Debug, Default)]
pub(super) struct OpenVaults {
    slots: Mutex<BTreeMap<u64, Arc<Slot>>>,
    /// Those that are opened by a thread of their own, and whether somebody went on without.
    awaited: Mutex<BTreeMap<u64, bool>>,
    changed: Condvar,
    /// When and why one could not be opened last.
    failed: Mutex<BTreeMap<u64, (Instant, Error)>>,
}

impl OpenVaults {
    fn slot(&self, id: u64) -> Arc<Slot> {
        Arc::clone(locked(&self.slots).entry(id).or_default())
    }

    /// A vault that is open already; never waits for one that is being opened.
    pub fn opened(&self, id: u64) -> Option<Arc<OpenVault>> {
        locked(&self.slot(id).open).clone()
    }

    /// A vault that is open already, or a mirror of it, for reading.
    pub fn opened_to_read(&self, id: u64) -> Option<Arc<OpenVault>> {
        self.opened(id).or_else(|| locked(&self.slot(id).copy).clone())
    }

    /// Forgets a vault: the next use opens it again.
    pub fn forget(&self, id: u64) {
        locked(&self.slots).remove(&id);
        locked(&self.failed).remove(&id);
    }

    /// What is known of a vault's store without asking it; `None` where it was never tried.
    pub fn state(&self, id: u64) -> Option<Result<()>> {
        match self.opened(id) {
            Some(open) => Some(open.vault.store().space().map(drop)),
            None => locked(&self.failed).get(&id).map(|(_, e)| Err(e.clone())),
        }
    }

    /// Notes that a vault could not be opened, and tells when that is news.
    fn note_failure(&self, id: u64, error: &Error) {
        if locked(&self.failed).insert(id, (Instant::now(), error.clone())).is_none() {
            tracing::warn!("{error}");
        }
    }

    /// Why a vault could not be opened, if that was a moment ago.
    fn failed_lately(&self, id: u64) -> Option<Error> {
        let failed = locked(&self.failed);
        failed.get(&id).filter(|(when, _)| when.elapsed() < LEFT_ALONE).map(|(_, e)| e.clone())
    }

    /// Whether one could not be opened, and may be tried again.
    pub fn any_left(&self) -> bool {
        locked(&self.failed).values().any(|(when, _)| when.elapsed() >= LEFT_ALONE)
    }
}

/// Writes a new key file (0600), durably, before anything relies on it.
pub(super) fn write_key_file(path: &Path, secret: &Secret) -> Result<()> {
    write_private(path, &secret.to_file())
}

/// Writes a new file (0600), durably.
pub(super) fn write_private(path: &Path, text: &str) -> Result<()> {
    let what = || format!("cannot write {}", path.display());
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(path)
        .at(what)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).at(what)?;
    match path.parent() {
        Some(parent) => File::open(parent).and_then(|d| d.sync_all()).at(what),
        None => Ok(()),
    }
}

pub(super) fn read_key_file(path: &Path) -> Result<Secret> {
    let text = zeroize::Zeroizing::new(std::fs::read_to_string(path).map_err(|e| {
        Error::failed(format!("the key file {} cannot be read: {e}; put it back from its copy", path.display()))
    })?);
    Secret::from_file(&text).map_err(|e| e.context(path.display()))
}

/// Whether a vault is on another machine.
pub(super) fn is_elsewhere(t: &impl Tables, row: &VaultRow) -> Result<bool> {
    let primary = row.destinations.first().copied().unwrap_or_default();
    Ok(t.get::<Destination>(primary)?.is_some_and(|d| d.place.is_cloud()))
}

/// Fails as `DestinationFailed` unless the vault is there. Whether it is there at all is found
/// sooner than what became of a line that broke.
fn check_uuid(row: &VaultRow, place: &Place) -> Result<()> {
    let config = vault::read_config(&*place.open(Patience::ASK)?).map_err(|e| match e.kind {
        ErrorKind::NotFound => Error::destination_failed(format!(
            "{} holds no vault any more; mount or restore what was there",
            place.title()
        )),
        _ => e,
    })?;
    if config.uuid == row.uuid {
        return Ok(());
    }
    Err(Error::destination_failed(format!(
        "{} holds another vault ({}); mount the right one",
        place.title(),
        config.uuid
    )))
}

impl Service {
    /// The vault, opened if it is not yet.
    pub(super) fn open_vault(&self, row: &VaultRow) -> Result<Arc<OpenVault>> {
        let slot = self.vaults.slot(row.id);
        let ready = || locked(&slot.open).clone();
        if let Some(open) = ready() {
            return Ok(open);
        }
        let opening = locked(&slot.opening);
        if let Some(open) = ready() {
            return Ok(open);
        }
        let primary = row.destinations.first().copied().unwrap_or_default();
        let place: Destination = self.catalog.read(|r| r.need(primary))?;
        let name = || format!("vault {:?} on destination {:?}", row.name, place.name);
        let opened = self.store_place(&place.place).and_then(|there| self.open_at(row, there));
        let opened = Arc::new(opened.map_err(|e| {
            let e = e.context(name());
            if place.place.is_cloud() || !row.mirrors.is_empty() {
                self.vaults.note_failure(row.id, &e);
            }
            e
        })?);
        locked(&self.vaults.failed).remove(&row.id);
        *locked(&slot.open) = Some(Arc::clone(&opened));
        *locked(&slot.copy) = None;
        drop(opening);
        if let Err(e) = self.ask_for_unsure(row.id, &opened.vault) {
            tracing::warn!("{}: {e}", name());
        }
        Ok(opened)
    }

    /// The same for who only wants to show it: one elsewhere that did not answer a moment ago is not
    /// asked again yet.
    pub(super) fn open_vault_to_show(&self, row: &VaultRow) -> Result<Arc<OpenVault>> {
        let elsewhere = self.catalog.read(|r| is_elsewhere(r, row))? || !row.mirrors.is_empty();
        let opened = match self.vaults.failed_lately(row.id).filter(|_| elsewhere) {
            Some(e) => Err(e),
            None => self.open_vault(row),
        };
        opened.or_else(|e| self.open_mirror(row, e))
    }

    /// A vault for reading: a mirror of it, where it does not answer itself.
    pub(super) fn open_vault_to_read(&self, row: &VaultRow) -> Result<Arc<OpenVault>> {
        self.open_vault(row).or_else(|e| self.open_mirror(row, e))
    }

    /// Opens the first mirror that can be had, for reading; else answers with why the vault itself
    /// cannot be.
    fn open_mirror(&self, row: &VaultRow, why: Error) -> Result<Arc<OpenVault>> {
        if why.kind != ErrorKind::DestinationFailed {
            return Err(why);
        }
        let slot = self.vaults.slot(row.id);
        let mut places = self.mirror_places(row);
        let _opening = locked(&slot.copying);
        let ready = locked(&slot.copy).clone();
        if let Some(open) = ready.filter(|open| places.contains(&open.place)) {
            return Ok(open);
        }
        for i in 0..places.len() {
            let place = places.remove(i);
            match self.open_copy(row, place.clone(), places.clone()) {
                Ok(open) => {
                    tracing::warn!("vault {:?} is read from its mirror in {}: {why}", row.name, place.title());
                    let open = Arc::new(open);
                    *locked(&slot.copy) = Some(Arc::clone(&open));
                    return Ok(open);
                }
                Err(e) => tracing::warn!("the mirror of vault {:?} in {} cannot be read: {e}", row.name, place.title()),
            }
            places.insert(i, place);
        }
        Err(why)
    }

    /// Opens a copy of a vault without changing anything in it.
    fn open_copy(&self, row: &VaultRow, place: Place, others: Vec<Place>) -> Result<OpenVault> {
        check_uuid(row, &place)?;
        let store = place.open(Patience::READ)?;
        let master = match &row.key_file {
            Some(path) => Some(vault::unlock(&*store, &read_key_file(path)?)?),
            None => None,
        };
        let vault = self.open_in(&place, store, &others, &master)?;
        Ok(OpenVault { id: row.id, vault, master, place, others: Mutex::new(others), key_file: row.key_file.clone() })
    }

    fn open_in(
        &self,
        place: &Place,
        store: Arc<dyn ObjectStore>,
        others: &[Place],
        master: &Option<MasterKey>,
    ) -> Result<Arc<Vault>> {
        let memory = if place.is_elsewhere() { MEMORY_ELSEWHERE } else { MEMORY };
        let cache = Arc::new(SegmentCache::new(memory));
        let vault = Vault::open_with(store, others.to_vec(), master.clone(), &self.options.cache_dir, cache)?;
        if place.is_elsewhere() {
            vault.keep_frames(vault::FRAMES_KEPT);
        }
        Ok(vault)
    }

    /// Opens vaults, all at once, and waits for them, but not for ever: a destination that hangs
    /// must not keep the daemon from starting or from answering. What opens later is shown in the
    /// mount then.
    pub(super) fn open_promptly(&self, rows: &[VaultRow]) {
        let vaults = &self.vaults;
        let closed = |row: &&VaultRow| vaults.opened(row.id).is_none();
        let wanted: Vec<u64> = rows.iter().filter(closed).map(|row| row.id).collect();
        let mut awaited = locked(&vaults.awaited);
        for row in rows.iter().filter(|row| wanted.contains(&row.id)) {
            let Some(me) = self.me.upgrade() else { return };
            let row = row.clone();
            if awaited.contains_key(&row.id) {
                continue;
            }
            awaited.insert(row.id, false);
            std::thread::spawn(move || {
                match me.open_vault_to_show(&row) {
                    // Of one elsewhere it was told already, and the clock looks for it again.
                    Err(e) if me.vaults.state(row.id).is_none() => {
                        tracing::warn!("backups in vault {:?} cannot be browsed: {e}", row.name);
                    }
                    _ => {}
                }
                let late = locked(&me.vaults.awaited).remove(&row.id);
                me.vaults.changed.notify_all();
                if late == Some(true) {
                    me.show_all();
                }
            });
        }
        let waiting = |awaited: &mut BTreeMap<u64, bool>| wanted.iter().any(|id| awaited.contains_key(id));
        let waited = vaults.changed.wait_timeout_while(awaited, PATIENCE, waiting);
        let (mut awaited, _) = waited.unwrap_or_else(PoisonError::into_inner);
        for id in &wanted {
            if let Some(late) = awaited.get_mut(id) {
                *late = true;
                tracing::warn!("vault {id} does not open: its destination does not answer; going on without it");
            }
        }
    }

    /// What a destination holds, whatever that is.
    pub(super) fn open_store(&self, place: &Destination) -> Result<Arc<dyn ObjectStore>> {
        self.store_place(&place.place)?.open(Patience::ASK)
    }

    fn open_at(&self, row: &VaultRow, place: Place) -> Result<OpenVault> {
        check_uuid(row, &place)?;
        let store = place.open(Patience::WORK)?;
        store.sweep()?;
        let master = match &row.key_file {
            Some(path) => Some(vault::unlock(&*store, &read_key_file(path)?)?),
            None => None,
        };
        let others = self.mirror_places(row);
        let vault = self.open_in(&place, store, &others, &master)?;
        let found = vault.recover(self.machine().id)?;
        tracing::debug!(vault = %row.name, ?found, "opened");
        Ok(OpenVault { id: row.id, vault, master, place, others: Mutex::new(others), key_file: row.key_file.clone() })
    }

    /// Makes the vault of a new row in its destination. What an attempt that was cut
    /// short left is taken up again: its key file is there, and nothing is in it yet.
    pub(super) fn create_store(&self, row: &mut VaultRow, place: &Place) -> Result<()> {
        let store = place.open(Patience::ASK)?;
        let store = &*store;
        let empty_one = match place {
            Place::Local(_) => "an empty directory",
            Place::S3(_) => "a prefix with nothing beneath it",
        };
        let keys = self.options.state_dir.join("keys");
        private_dir(&keys)?;
        match vault::read_config(store) {
            Err(e) if e.kind == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
            Ok(there) => {
                let path = keys.join(format!("{}.key", there.uuid));
                let empty = store.list("backups/")?.is_empty();
                let ours = there.encrypted == row.encryption && (!there.encrypted || path.exists());
                if !empty || !ours {
                    return Err(Error::invalid_state(format!(
                        "{} holds the vault {} already; give {empty_one}",
                        place.title(),
                        there.uuid
                    )));
                }
                row.uuid = there.uuid;
                if row.encryption {
                    vault::unlock(store, &read_key_file(&path)?)?;
                    row.key_file = Some(path);
                }
                return Ok(());
            }
        }
        for prefix in ["backups/", "packs/", "index/", "state/", "deleted/", "sessions/"] {
            if !store.list(prefix)?.is_empty() {
                return Err(Error::invalid_state(format!(
                    "{} has files in {prefix} already; give {empty_one}",
                    place.title()
                )));
            }
        }
        let mut new = NewVault { uuid: row.uuid, master: None, key_file: None };
        if row.encryption {
            let (master, secret) = (MasterKey::random()?, Secret::random()?);
            let path = keys.join(format!("{}.key", row.uuid));
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != Io::NotFound => {
                    return Err(Error::io(format!("cannot replace {}", path.display()), &e));
                }
                _ => write_key_file(&path, &secret)?,
            }
            row.key_file = Some(path);
            new = NewVault { uuid: row.uuid, master: Some(master), key_file: Some(secret) };
        }
        Vault::create(store, &new)
    }
}
