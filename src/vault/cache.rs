//! Decoded segments, kept in memory within a bound.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::buffers::Buffers;
use crate::model::{Id, Result};

/// A segment by its pack and ordinal.
pub type SegmentKey = (Id, u32);

/// Bytes of buffers that wait to be used again: few segments are read at a time.
const SPARE: usize = 3 << 20;

/// One decoded segment.
#[derive(Debug, Default)]
pub struct Slot {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    plain: Option<Bytes>,
    /// Blobs whose ids were checked: id, offset and length, since an index may lie about any of them.
    verified: HashSet<(Id, u32, u32)>,
}

impl Slot {
    /// The segment's bytes, decoding them unless someone did. Others that ask meanwhile wait.
    pub fn get(&self, decode: impl FnOnce() -> Result<Bytes>) -> Result<Bytes> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plain) = &state.plain {
            return Ok(plain.clone());
        }
        let plain = decode()?;
        state.plain = Some(plain.clone());
        Ok(plain)
    }

    /// Whether the blob `id` of `len` bytes at `offset` was checked already.
    pub fn is_verified(&self, id: &Id, offset: u32, len: u32) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).verified.contains(&(*id, offset, len))
    }

    /// Remembers that it was checked.
    pub fn set_verified(&self, id: &Id, offset: u32, len: u32) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).verified.insert((*id, offset, len));
    }
}

#[derive(Debug, Default)]
struct Slots {
    map: HashMap<SegmentKey, (Arc<Slot>, usize, u64)>,
    bytes: usize,
    clock: u64,
}

/// The most recently used segments, up to a number of bytes.
#[derive(Debug)]
pub struct SegmentCache {
    slots: Mutex<Slots>,
    limit: usize,
    buffers: Arc<Buffers>,
}

impl SegmentCache {
    /// A cache of at most `limit` bytes (one segment is always kept).
    pub fn new(limit: usize) -> Self {
        Self { slots: Mutex::default(), limit, buffers: Buffers::new(limit.min(SPARE)) }
    }

    /// Where segments have their memory from.
    pub(super) fn buffers(&self) -> &Arc<Buffers> {
        &self.buffers
    }

    /// The slot of a segment of `size` plain bytes, made if it is not there.
    pub(super) fn slot(&self, key: SegmentKey, size: usize) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.clock += 1;
        let clock = slots.clock;
        if let Some((slot, _, used)) = slots.map.get_mut(&key) {
            *used = clock;
            return slot.clone();
        }
        // Few segments fit, so the oldest is found by looking at all.
        while slots.bytes + size > self.limit {
            let Some(oldest) = slots.map.iter().min_by_key(|(_, (_, _, used))| *used).map(|(key, _)| *key) else {
                break;
            };
            if let Some((_, size, _)) = slots.map.remove(&oldest) {
                slots.bytes -= size;
            }
        }
        let slot = Arc::<Slot>::default();
        slots.bytes += size;
        slots.map.insert(key, (slot.clone(), size, clock));
        slot
    }

    /// Forgets the segments of some packs, so that they are asked for in the store again.
    pub(super) fn forget(&self, packs: &HashSet<Id>) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.map.retain(|(pack, _), _| !packs.contains(pack));
        slots.bytes = slots.map.values().map(|(_, size, _)| size).sum();
    }
}
