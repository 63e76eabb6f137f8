//! An open vault.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use bytes::Bytes;
use uuid::Uuid;

use super::cache::SegmentCache;
use super::compress::PLAIN;
use super::config::{self, VaultConfig};
use super::frames::FrameCache;
use super::gate::Gate;
use super::index::{Found, IndexObject, LocalIndex};
use super::lost;
use super::pack::PackRecord;
use super::records::Tombstone;
use super::seal::{Class, Keys, MasterKey};
use super::slots::{self, Secret, SlotInfo, SlotKind};
use crate::model::{Error, ErrorKind, Id, Result};
use crate::store::{Copies, ObjectStore, Place};

/// What a new vault is to be.
#[derive(Debug)]
pub struct NewVault {
    /// Its identity.
    pub uuid: Uuid,
    /// Its key; `None` makes an unencrypted vault.
    pub master: Option<MasterKey>,
    /// The secret of its key file; needed where there is a master key.
    pub key_file: Option<Secret>,
}

/// A blob's plain bytes, verified against its id; shares its segment's memory.
#[derive(Debug, Clone)]
pub struct Blob {
    bytes: Bytes,
}

impl Deref for Blob {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Where a blob lies. Sorting by location makes reads sequential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The pack, by its number in the local index (not stable across openings).
    pub pack: u32,
    /// The segment's ordinal in the pack.
    pub segment: u32,
    /// The blob's offset in the segment.
    pub offset: u32,
    /// The blob's length.
    pub len: u32,
}

/// An open vault: cheap to share, safe to use from many threads.
#[derive(Debug)]
pub struct Vault {
    pub(super) store: Arc<dyn ObjectStore>,
    /// Where else its objects are, for reading.
    copies: Copies,
    pub(super) keys: Keys,
    dir: PathBuf,
    index: RwLock<Arc<LocalIndex>>,
    /// Held while the index is replaced.
    replacing: Mutex<()>,
    pub(super) cache: Arc<SegmentCache>,
    /// Frames of trees, where the vault is elsewhere.
    frames: OnceLock<FrameCache>,
    pub(super) gate: Gate,
    pub(super) machine: OnceLock<Uuid>,
    /// The most that backups may make it store, in bytes.
    capacity: AtomicU64,
}

impl Vault {
    /// Makes a vault in an empty place: key slot first, `vault.json` last, so that a vault that
    /// can be seen can be opened. Doing it again with the same uuid and secret is no error.
    pub fn create(store: &dyn ObjectStore, new: &NewVault) -> Result<()> {
        let config = VaultConfig { format: super::seal::FORMAT, uuid: new.uuid, encrypted: new.master.is_some() };
        match config::read_config(store) {
            Ok(there) if there == config => return Ok(()),
            Ok(there) => {
                return Err(Error::invalid_state(format!(
                    "the destination holds the vault {} already; use an empty directory",
                    there.uuid
                )));
            }
            Err(e) if e.kind == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        if let Some(master) = &new.master {
            let secret =
                new.key_file.as_ref().ok_or_else(|| Error::failed("an encrypted vault was given no key file"))?;
            if slots::unlock(store, new.uuid, secret).is_err() {
                slots::add(store, new.uuid, master, SlotKind::File, secret)?;
            }
        }
        config::write_config(store, &config)?;
        store.sync()
    }

    /// Opens the vault in `store`. `master` must be its key, or `None` if it is unencrypted.
    /// The local index is kept beneath `cache_dir` (one directory per vault, made if missing).
    /// `memory` bounds the cache of decoded segments, in bytes.
    pub fn open(
        store: Arc<dyn ObjectStore>,
        master: Option<MasterKey>,
        cache_dir: &Path,
        memory: usize,
    ) -> Result<Arc<Self>> {
        Self::open_with(store, Vec::new(), master, cache_dir, Arc::new(SegmentCache::new(memory)))
    }

    /// The same; what `store` does not give is read from the `others`. Several vaults may share one `cache`.
    pub fn open_with(
        store: Arc<dyn ObjectStore>,
        others: Vec<Place>,
        master: Option<MasterKey>,
        cache_dir: &Path,
        cache: Arc<SegmentCache>,
    ) -> Result<Arc<Self>> {
        let config = config::read_config(&*store).map_err(|e| match e.kind {
            ErrorKind::NotFound => Error::destination_failed(e.message),
            _ => e,
        })?;
        if config.encrypted != master.is_some() {
            return Err(Error::damaged(if config.encrypted {
                "the vault is encrypted, and no key was given for it"
            } else {
                "vault.json says that the vault is not encrypted, but there is a key for it"
            }));
        }
        let keys = Keys::new(config.uuid, master);
        let dir = cache_dir.join(config.uuid.to_string());
        let copies = Copies::new(others);
        let get = |id: &Id| copies.read(&*store, |store| IndexObject::get(store, &keys, id));
        let index = LocalIndex::load(&dir.join("index"), &*store, &get)?.with_lost(Arc::new(lost::read(&dir)));
        Ok(Arc::new(Self {
            store,
            copies,
            keys,
            dir,
            index: RwLock::new(Arc::new(index)),
            replacing: Mutex::new(()),
            cache,
            frames: OnceLock::new(),
            gate: Gate::default(),
            machine: OnceLock::new(),
            capacity: AtomicU64::new(u64::MAX),
        }))
    }

    /// The vault's identity.
    pub fn uuid(&self) -> Uuid {
        self.keys.uuid()
    }

    /// Whether it is encrypted.
    pub fn encrypted(&self) -> bool {
        self.keys.master().is_some()
    }

    /// Where its objects rest.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The directory of this vault's local files.
    pub fn cache_dir(&self) -> &Path {
        &self.dir
    }

    /// Fails as `DestinationFailed` unless the store still holds this very vault: a destination
    /// that was emptied or exchanged is never written to.
    pub fn check_identity(&self) -> Result<()> {
        match config::read_config(&*self.store) {
            Ok(config) if config.uuid == self.uuid() && config.encrypted == self.encrypted() => Ok(()),
            Ok(config) => Err(Error::destination_failed(format!(
                "the destination holds the vault {} where {} is expected",
                config.uuid,
                self.uuid()
            ))),
            Err(e) => Err(Error::destination_failed(format!("the vault {} is not there: {e}", self.uuid()))),
        }
    }

    /// The index as it is now.
    pub(super) fn index(&self) -> Arc<LocalIndex> {
        self.index.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the index by what `change` makes of it; one change at a time.
    pub(super) fn replace_index<T>(&self, change: impl FnOnce(&LocalIndex) -> Result<(LocalIndex, T)>) -> Result<T> {
        let _one = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.index();
        let (index, result) = change(&old)?;
        let index = index.with_lost(old.lost().clone());
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(index);
        Ok(result)
    }

    /// Publishes packs: what was stored is made durable, then an index object that lists them.
    pub(super) fn publish(&self, packs: Vec<PackRecord>) -> Result<()> {
        self.store.sync()?;
        let object = IndexObject { supersedes: Vec::new(), packs };
        let id = object.put(&*self.store, &self.keys)?;
        self.replace_index(|index| Ok((index.with(id, &object.supersedes, &object.packs)?, ())))
    }

    /// Brings the local index up to what the store holds now (another process may have written).
    pub fn refresh(&self) -> Result<()> {
        self.replace_index(|_| Ok((self.load_index()?, ())))
    }

    fn load_index(&self) -> Result<LocalIndex> {
        let get = |id: &Id| self.read(|store| IndexObject::get(store, &self.keys, id));
        LocalIndex::load(&self.dir.join("index"), &*self.store, &get)
    }

    /// Other places of the same objects from now on.
    pub fn set_others(&self, others: Vec<Place>) {
        self.copies.set(others);
    }

    /// Whether it is on another machine, as far as was said.
    pub fn is_elsewhere(&self) -> bool {
        self.frames.get().is_some()
    }

    /// Keeps frames of trees in local files, of about `limit` bytes in all: for a vault elsewhere.
    pub fn keep_frames(&self, limit: u64) {
        let _ = self.frames.set(FrameCache::open(&self.dir.join("frames"), limit));
    }

    /// What `read` makes of the store, or of another copy where that one does not give it.
    pub(super) fn read<T>(&self, read: impl Fn(&dyn ObjectStore) -> Result<T>) -> Result<T> {
        self.copies.read(&*self.store, read)
    }

    /// Makes the local index anew from the authenticated index objects, trusting no local file.
    pub fn rebuild_index(&self) -> Result<()> {
        self.replace_index(|_| {
            LocalIndex::forget(&self.dir.join("index"))?;
            Ok((self.load_index()?, ()))
        })
    }

    /// Takes other packs for lost. What is cached of them must not hide that.
    pub(super) fn set_lost(&self, lost: HashSet<Id>) {
        self.cache.forget(&lost);
        if let Some(frames) = self.frames.get() {
            frames.forget(&lost);
        }
        let _one = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let index = self.index().as_ref().clone().with_lost(Arc::new(lost));
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(index);
    }

    /// Whether the vault knows the blob, if only in a pack that is lost.
    pub fn contains(&self, id: &Id) -> bool {
        self.index().contains(id)
    }

    /// Whether the vault holds the blob, as far as is known: what lies in packs that are missing
    /// or were found damaged is to be stored again.
    pub fn holds(&self, id: &Id) -> bool {
        self.index().holds(id)
    }

    /// Where the blob lies, if the vault holds it.
    pub fn locate(&self, id: &Id) -> Option<Location> {
        let found = self.index().find(id)?;
        let Found { number, segment, offset, len, .. } = found;
        Some(Location { pack: number, segment: segment.ordinal, offset, len })
    }

    /// A blob's plain bytes, authenticated and checked against `id`; decoded segments are kept
    /// in a bounded cache, so blobs of one segment cost one decode.
    pub fn read_blob(&self, id: &Id) -> Result<Blob> {
        match self.read_any(id) {
            // A prune may have moved the blob since this index was loaded.
            Err(e) if e.kind == ErrorKind::NotFound => {
                self.refresh()?;
                self.read_any(id).map_err(|e| match e.kind {
                    ErrorKind::NotFound => Error::damaged(e.message),
                    _ => e,
                })
            }
            other => other,
        }
    }

    /// Reads whichever copy of a blob is whole.
    fn read_any(&self, id: &Id) -> Result<Blob> {
        let index = self.index();
        let found = index.find(id);
        let found = found.ok_or_else(|| Error::not_found(format!("the vault does not hold the blob {id}")))?;
        self.read_found(id, &found).or_else(|e| {
            let gone = matches!(e.kind, ErrorKind::NotFound | ErrorKind::Damaged);
            let mut others = index.copies(id).filter(|copy| gone && copy.pack.id != found.pack.id);
            others.find_map(|copy| self.read_found(id, &copy).ok()).ok_or(e)
        })
    }

    fn read_found(&self, id: &Id, found: &Found) -> Result<Blob> {
        let size = usize::try_from(found.segment.plain_len).unwrap_or(usize::MAX);
        let slot = self.cache.slot((found.pack.id, found.segment.ordinal), size);
        let segment = slot.get(|| self.decode(found))?;
        let start = usize::try_from(found.offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(usize::try_from(found.len).unwrap_or(usize::MAX));
        let bytes =
            segment.get(start..end).ok_or_else(|| Error::damaged(format!("the blob {id} leaves its segment")))?;
        if !slot.is_verified(id, found.offset, found.len) {
            if Id::of(bytes) != *id {
                return Err(Error::damaged(format!("the blob {id} is not what its name says")));
            }
            slot.set_verified(id, found.offset, found.len);
        }
        Ok(Blob { bytes: segment.slice(start..end) })
    }

    fn decode(&self, found: &Found) -> Result<Bytes> {
        let sealer = self.keys.sealer(found.pack.class, found.pack.salt)?;
        let key = super::object::key(found.pack.class, &found.pack.id);
        let len = usize::try_from(found.segment.stored_len).unwrap_or(usize::MAX);
        let segment = found.segment;
        let buffers = self.cache.buffers();
        let open = |mut frame: Vec<u8>| {
            let packed = segment.codec != PLAIN;
            let room = if packed { usize::try_from(segment.plain_len).unwrap_or(0) } else { 0 };
            let len = match segment.open(&sealer, &mut frame, buffers.take(room))? {
                Cow::Owned(plain) => {
                    buffers.give(frame);
                    return Ok(buffers.lend(plain));
                }
                Cow::Borrowed(plain) => plain.len(),
            };
            frame.truncate(len);
            Ok(buffers.lend(frame))
        };
        let frames = self.frames.get().filter(|_| found.pack.class == Class::TreePack);
        if let Some(frames) = frames
            && let Some(frame) = frames.get(&found.pack.id, segment.ordinal, len)
        {
            match open(frame) {
                Ok(plain) => return Ok(plain),
                Err(_) => frames.drop_frame(&found.pack.id, segment.ordinal),
            }
        }
        self.read(|store| {
            let frame = store.get_range_into(&key, segment.offset.into(), len, buffers.take(len))?;
            // Opening a frame changes it.
            let sealed = frames.map(|_| frame.clone());
            let plain = open(frame).map_err(|e: Error| e.context(&key))?;
            if let (Some(frames), Some(sealed)) = (frames, sealed) {
                frames.put(&found.pack.id, segment.ordinal, &sealed);
            }
            Ok(plain)
        })
    }

    /// Says how many bytes of packs ([`Vault::stored_size`]) the vault may hold. A writer that
    /// would exceed it fails with `LimitReached` and nothing of it can be seen.
    pub fn set_capacity(&self, capacity: Option<u64>) {
        self.capacity.store(capacity.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// Bytes of all packs.
    pub fn stored_size(&self) -> u64 {
        self.index().packs().map(|pack| pack.size).sum()
    }

    /// Makes a recovery key and gives its printable form, which is kept nowhere.
    pub fn add_recovery_key(&self) -> Result<(SlotInfo, String)> {
        let secret = Secret::random()?;
        let slot = self.add_slot(SlotKind::Recovery, &secret)?;
        Ok((slot, secret.to_recovery().to_string()))
    }

    /// Makes a slot for a key file that holds `secret`.
    pub fn add_key_file(&self, secret: &Secret) -> Result<SlotInfo> {
        self.add_slot(SlotKind::File, secret)
    }

    fn add_slot(&self, kind: SlotKind, secret: &Secret) -> Result<SlotInfo> {
        let master =
            self.keys.master().ok_or_else(|| Error::invalid_state("the vault is not encrypted and has no keys"))?;
        self.check_identity()?;
        slots::add(&*self.store, self.uuid(), master, kind, secret)
    }

    /// The vault's keys, oldest first.
    pub fn key_slots(&self) -> Result<Vec<SlotInfo>> {
        slots::list(&*self.store, self.uuid())
    }

    /// Removes a key, in every copy of the vault; `InvalidState` for the last one.
    pub fn remove_key_slot(&self, id: &Id) -> Result<()> {
        slots::check_removal(&*self.store, self.uuid(), id)?;
        self.put_tombstone(Tombstone { keys: vec![*id], ..Tombstone::now() })?;
        slots::remove(&*self.store, self.uuid(), id)
    }
}

/// The master key of the vault in `store`, if `secret` opens it.
pub fn unlock(store: &dyn ObjectStore, secret: &Secret) -> Result<MasterKey> {
    slots::unlock(store, config::read_config(store)?.uuid, secret)
}
