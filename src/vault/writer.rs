//! Storing blobs: deduplicated, laid into segments, segments into packs, packs into the index.
//!
//! Workers each have a lane, which is where their blobs become segments; compression happens
//! there, in parallel. A segment is sealed into the open pack under a lock. Full packs go to one
//! thread that hashes and stores them while the workers go on; it publishes an index when enough
//! came together. Nothing refers to what is stored here until a manifest does.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::compress::{Compression, Compressor};
use super::gate::Pass;
use super::handle::Vault;
use super::pack::{PackBuilder, PackRecord, SEGMENT_MAX};
use super::records::OpenSession;
use super::seal::Class;
use crate::model::{Error, Id, Result};

/// A segment is closed when it has this many plain bytes.
pub const SEGMENT_TARGET: usize = 1 << 20;

/// A blob of at least this many bytes is a segment of its own.
const ALONE: usize = SEGMENT_TARGET / 2;

/// Whether a blob of `len` bytes stood alone in a segment of `plain_len`, so that a copy should as well: what is that
/// small was only the last to come.
pub(super) fn stands_alone(plain_len: u32, len: u32) -> bool {
    plain_len == len && len >= 64 << 10
}

/// An index object is published when packs with this many blobs wait for one, which bounds what
/// a backup keeps in memory.
const INDEX_BLOBS: usize = 1 << 16;

const SHARDS: usize = 16;
const RENEW: Duration = Duration::from_secs(300);

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Shared {
    vault: Arc<Vault>,
    compression: Compression,
    /// Blobs that this writer took on and that no run of the index has yet.
    claimed: [Mutex<HashSet<Id>>; SHARDS],
    data: Mutex<Option<PackBuilder>>,
    tree: Mutex<Option<PackBuilder>>,
    waiting: Mutex<Waiting>,
    stored: AtomicU64,
    /// Whether the vault's capacity counts: prune needs room before it makes some.
    limited: bool,
    failure: Mutex<Option<Error>>,
}

/// Packs that are stored and that no index lists yet.
#[derive(Debug, Default)]
struct Waiting {
    packs: Vec<PackRecord>,
    blobs: usize,
    bytes: u64,
}

/// Stores blobs into a vault.
#[derive(Debug)]
pub struct VaultWriter {
    shared: Arc<Shared>,
    packs: Option<Sender<PackBuilder>>,
    thread: Option<JoinHandle<()>>,
    session: OpenSession,
    _pass: Option<Pass>,
}

/// Where one worker's blobs become segments.
#[derive(Debug)]
pub struct Lane {
    shared: Arc<Shared>,
    packs: Sender<PackBuilder>,
    class: Class,
    compressor: Compressor,
    plain: Vec<u8>,
    blobs: Vec<(Id, u32)>,
    packed: Vec<u8>,
}

impl VaultWriter {
    /// Begins to write: checks that the vault is still there and announces a session.
    pub fn start(vault: &Arc<Vault>, compression: Compression) -> Result<Self> {
        let pass = vault.gate.enter();
        vault.look_for_packs()?;
        Self::start_with(vault, compression, Some(pass))
    }

    /// Begins to write with the writer's own pass, or within somebody else's.
    pub(super) fn start_with(vault: &Arc<Vault>, compression: Compression, pass: Option<Pass>) -> Result<Self> {
        vault.check_identity()?;
        let session = vault.begin_session()?;
        let shared = Arc::new(Shared {
            vault: vault.clone(),
            compression,
            claimed: Default::default(),
            data: Mutex::default(),
            tree: Mutex::default(),
            waiting: Mutex::default(),
            stored: AtomicU64::new(0),
            limited: pass.is_some(),
            failure: Mutex::default(),
        });
        // While one is stored none waits but in the hands of a worker that filled it: the bound on memory.
        let (packs, queue) = bounded(0);
        let thread = std::thread::Builder::new().name("packs".into()).spawn({
            let shared = shared.clone();
            move || shared.store_packs(&queue)
        });
        let thread = thread.map_err(|e| Error::io("cannot start a thread", &e))?;
        Ok(Self { shared, packs: Some(packs), thread: Some(thread), session, _pass: pass })
    }

    /// A lane for blobs of one class ([`Class::DataPack`] or [`Class::TreePack`]).
    pub fn lane(&self, class: Class) -> Result<Lane> {
        let packs = self.packs.clone().ok_or_else(|| Error::failed("the writer is closed"))?;
        Ok(Lane {
            shared: self.shared.clone(),
            packs,
            class,
            compressor: Compressor::new(self.shared.compression)?,
            plain: Vec::new(),
            blobs: Vec::new(),
            packed: Vec::new(),
        })
    }

    /// Whether the vault holds the blob or this writer took it on.
    pub fn contains(&self, id: &Id) -> bool {
        self.shared.contains(id)
    }

    /// Says that the writer lives; call it from time to time.
    pub fn renew(&mut self, last: &mut Instant) -> Result<()> {
        if last.elapsed() >= RENEW {
            *last = Instant::now();
            self.shared.vault.renew_session(&mut self.session)?;
        }
        Ok(())
    }

    /// Stores and publishes everything that the lanes (all flushed or dropped) gave; answers the
    /// stored bytes. After it a manifest may refer to all of it.
    pub fn finish(mut self) -> Result<u64> {
        for class in [&self.shared.data, &self.shared.tree] {
            if let Some(pack) = lock(class).take().filter(|pack| !pack.is_empty()) {
                self.shared.send(self.packs.as_ref(), pack)?;
            }
        }
        self.close();
        self.shared.check()?;
        self.shared.publish()?;
        self.shared.vault.end_session(&self.session)?;
        Ok(self.shared.stored.load(Relaxed))
    }

    /// Ends without publishing what it stored: those packs are garbage.
    pub(super) fn abandon(mut self) -> Result<()> {
        self.close();
        self.shared.vault.end_session(&self.session)
    }

    fn close(&mut self) {
        self.packs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            self.shared.fail(Error::failed("storing packs ended unexpectedly"));
        }
    }
}

impl Drop for VaultWriter {
    /// A writer that does not finish publishes what it stored all the same, so that the next one
    /// need not store it again. Where that fails too, recovery finds it.
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.close();
            if self.shared.publish().is_ok() {
                let _ = self.shared.vault.end_session(&self.session);
            }
        }
    }
}

impl Shared {
    fn shard(&self, id: &Id) -> MutexGuard<'_, HashSet<Id>> {
        lock(&self.claimed[usize::from(id.0[31]) % SHARDS])
    }

    fn contains(&self, id: &Id) -> bool {
        self.vault.holds(id) || self.shard(id).contains(id) || self.vault.holds(id)
    }

    /// Takes a blob on unless it is known.
    fn claim(&self, id: &Id) -> bool {
        // The index is asked under the lock: publishing first adds to it, then forgets claims.
        let mut shard = self.shard(id);
        !shard.contains(id) && !self.vault.holds(id) && shard.insert(*id)
    }

    fn fail(&self, error: Error) {
        lock(&self.failure).get_or_insert(error);
    }

    fn check(&self) -> Result<()> {
        lock(&self.failure).clone().map_or(Ok(()), Err)
    }

    fn send(&self, packs: Option<&Sender<PackBuilder>>, pack: PackBuilder) -> Result<()> {
        self.check()?;
        match packs.map(|packs| packs.send(pack)) {
            Some(Ok(())) => Ok(()),
            _ => Err(Error::failed("storing packs has ended")),
        }
    }

    fn store_packs(&self, queue: &Receiver<PackBuilder>) {
        for pack in queue {
            // After a failure the queue is only emptied, so that no worker waits for ever.
            if self.check().is_ok()
                && let Err(e) = self.store_pack(pack)
            {
                self.fail(e);
            }
        }
    }

    fn store_pack(&self, pack: PackBuilder) -> Result<()> {
        let pack = pack.finish()?;
        self.check_capacity(pack.bytes.len() as u64)?;
        self.vault.store.put(&super::object::key(pack.record.class, &pack.record.id), &pack.bytes)?;
        // A destination that went away meanwhile leaves an empty directory to write into.
        self.vault.check_identity()?;
        self.stored.fetch_add(pack.bytes.len() as u64, Relaxed);
        let full = {
            let mut waiting = lock(&self.waiting);
            waiting.blobs += pack.record.segments.iter().map(|s| s.blobs.len()).sum::<usize>();
            waiting.bytes += pack.bytes.len() as u64;
            waiting.packs.push(pack.record);
            waiting.blobs >= INDEX_BLOBS
        };
        if full { self.publish() } else { Ok(()) }
    }

    fn check_capacity(&self, more: u64) -> Result<()> {
        let capacity = self.vault.capacity();
        if !self.limited || capacity == u64::MAX {
            return Ok(());
        }
        let used = self.vault.stored_size().saturating_add(lock(&self.waiting).bytes);
        if used.saturating_add(more) <= capacity {
            return Ok(());
        }
        Err(Error::limit_reached(format!(
            "the vault holds {used} bytes of the {capacity} it may hold, and this needs {more} more; \
             delete backups or raise capacity"
        )))
    }

    fn publish(&self) -> Result<()> {
        let packs = std::mem::take(&mut *lock(&self.waiting)).packs;
        if packs.is_empty() {
            return Ok(());
        }
        let ids: Vec<Id> = packs.iter().flat_map(|p| &p.segments).flat_map(|s| &s.blobs).map(|(id, _)| *id).collect();
        self.vault.publish(packs)?;
        for id in &ids {
            self.shard(id).remove(id);
        }
        Ok(())
    }
}

impl Lane {
    /// Stores a blob unless it is known; gives its id.
    pub fn put(&mut self, bytes: &[u8]) -> Result<Id> {
        let id = Id::of(bytes);
        self.put_hashed(id, bytes, false)?;
        Ok(id)
    }

    /// Stores a blob whose id is known, `alone` in its segment or with others; says whether it was new.
    pub fn put_hashed(&mut self, id: Id, bytes: &[u8], alone: bool) -> Result<bool> {
        if !self.shared.claim(&id) {
            return Ok(false);
        }
        self.put_anew(id, bytes, alone)?;
        Ok(true)
    }

    /// Stores a blob though the vault holds it, as prune does before it deletes the old place.
    pub(super) fn put_anew(&mut self, id: Id, bytes: &[u8], alone: bool) -> Result<()> {
        let len = u32::try_from(bytes.len()).map_err(|_| Error::failed("a blob is too long"))?;
        if bytes.len() > SEGMENT_MAX {
            return Err(Error::failed("a blob is longer than a segment may be"));
        }
        if alone || bytes.len() >= ALONE {
            // Of small chunks that stand alone; a prune copies larger ones that do as well.
            let fine = alone && self.class == Class::DataPack && bytes.len() < ALONE;
            self.emit(bytes, vec![(id, len)], fine)?;
        } else {
            if self.plain.len() + bytes.len() > SEGMENT_TARGET {
                self.flush()?;
            }
            self.plain.extend_from_slice(bytes);
            self.blobs.push((id, len));
        }
        Ok(())
    }

    /// Closes the open segment.
    pub fn flush(&mut self) -> Result<()> {
        if self.blobs.is_empty() {
            return Ok(());
        }
        let blobs = std::mem::take(&mut self.blobs);
        let plain = std::mem::take(&mut self.plain);
        let result = self.emit(&plain, blobs, false);
        self.plain = plain;
        self.plain.clear();
        result
    }

    fn emit(&mut self, plain: &[u8], blobs: Vec<(Id, u32)>, fine: bool) -> Result<()> {
        self.compressor.set_fine(fine)?;
        let codec = self.compressor.compress(plain, &mut self.packed)?;
        let len = u32::try_from(plain.len()).map_err(|_| Error::failed("a segment is too long"))?;
        let full = {
            let mut open = lock(if self.class == Class::TreePack { &self.shared.tree } else { &self.shared.data });
            let pack = match &mut *open {
                Some(pack) => pack,
                none => none.insert(PackBuilder::new(&self.shared.vault.keys, self.class)?),
            };
            pack.add(codec, &self.packed, len, blobs)?;
            if pack.is_full() { open.take() } else { None }
        };
        full.map_or(Ok(()), |pack| self.shared.send(Some(&self.packs), pack))
    }
}
