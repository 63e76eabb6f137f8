//! Reading much of a vault elsewhere: neighbouring frames of a pack in one request, where a request
//! costs more than the bytes it brings.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::OnceLock;

use bytes::Bytes;

use super::handle::{Blob, Vault};
use super::index::Found;
use super::object;
use super::pack::PACK_MAX;
use super::seal::Class;
use crate::model::{Id, Result};
use crate::store::ObjectStore;

/// What is fetched at once, in bytes before compression: what all threads of a restore fetch together
/// must find room in the cache of segments.
const STRETCH: u64 = 8 << 20;

/// So many bytes between two frames are fetched with them rather than asked around.
const GAP: u32 = 128 << 10;

/// Reads blobs that were said beforehand: whoever is the first to need one fetches what lies beside
/// it and is needed too.
pub struct Reader<'a> {
    vault: &'a Vault,
    stretches: Vec<Stretch>,
    /// In which stretch a segment is, by its pack's number and its ordinal.
    by_segment: HashMap<(u32, u32), usize>,
}

struct Stretch {
    frames: Vec<Found>,
    fetched: OnceLock<()>,
}

impl Vault {
    /// A reader of these blobs, in any order, by any number of threads. It reads others as well.
    pub fn reader(&self, ids: impl IntoIterator<Item = Id>) -> Reader<'_> {
        let mut reader = Reader { vault: self, stretches: Vec::new(), by_segment: HashMap::new() };
        if !self.is_elsewhere() {
            return reader;
        }
        let index = self.index();
        let mut wanted: Vec<_> = ids.into_iter().filter_map(|id| index.find(&id)).collect();
        wanted.retain(|found| found.pack.class == Class::DataPack);
        wanted.sort_unstable_by_key(|found| (found.number, found.segment.ordinal));
        wanted.dedup_by_key(|found| (found.number, found.segment.ordinal));
        for found in wanted {
            match reader.stretches.last_mut() {
                Some(stretch) if stretch.takes(&found) => stretch.frames.push(found),
                _ => reader.stretches.push(Stretch { frames: vec![found], fetched: OnceLock::new() }),
            }
            reader.by_segment.insert((found.number, found.segment.ordinal), reader.stretches.len() - 1);
        }
        reader
    }
}

impl Stretch {
    fn takes(&self, next: &Found) -> bool {
        let len = |found: &Found| u64::from(found.segment.plain_len);
        self.frames.last().is_some_and(|last| {
            let end = last.segment.offset.saturating_add(last.segment.stored_len);
            last.number == next.number && next.segment.offset.checked_sub(end).is_some_and(|gap| gap <= GAP)
        }) && self.frames.iter().map(len).sum::<u64>() + len(next) <= STRETCH
    }

    /// Decodes the frames into the cache. What cannot be had here fails again, and is told, when it
    /// is read.
    fn fetch(&self, vault: &Vault) {
        let (Some(first), Some(last)) = (self.frames.first(), self.frames.last()) else { return };
        let start = first.segment.offset;
        let len = last.segment.offset.saturating_add(last.segment.stored_len).saturating_sub(start);
        if self.frames.len() < 2 || u64::from(len) > PACK_MAX {
            return;
        }
        let Ok(sealer) = vault.keys.sealer(first.pack.class, first.pack.salt) else { return };
        let key = object::key(first.pack.class, &first.pack.id);
        let bytes = vault.read(|store: &dyn ObjectStore| store.get_range(&key, start.into(), at(len)));
        let Ok(mut bytes) = bytes else { return };
        let mut opened = Vec::with_capacity(self.frames.len());
        for found in &self.frames {
            let from = at(found.segment.offset.saturating_sub(start));
            let Some(frame) = bytes.get_mut(from..from.saturating_add(at(found.segment.stored_len))) else { break };
            match found.segment.open(&sealer, frame, Vec::new()) {
                Ok(Cow::Owned(plain)) => opened.push((found, Ok(Bytes::from(plain)))),
                Ok(Cow::Borrowed(plain)) => opened.push((found, Err(from..from + plain.len()))),
                Err(_) => {}
            }
        }
        // What was not compressed stays where it was read, unless it would hold much else in memory.
        let inside: usize = opened.iter().filter_map(|(_, plain)| plain.as_ref().err().map(std::ops::Range::len)).sum();
        let (bytes, mostly) = (Bytes::from(bytes), inside.saturating_mul(4) > at(len).saturating_mul(3));
        for (found, plain) in opened {
            let plain = plain.unwrap_or_else(|range| match mostly {
                true => bytes.slice(range),
                false => Bytes::copy_from_slice(&bytes[range]),
            });
            let slot = vault.cache.slot((found.pack.id, found.segment.ordinal), plain.len());
            let _ = slot.get(|| Ok(plain));
        }
    }
}

impl Reader<'_> {
    /// A reader of other blobs, where that is worth its while; this one is good for them too.
    pub fn of(&self, ids: impl IntoIterator<Item = Id>) -> Reader<'_> {
        self.vault.reader(ids)
    }

    /// As [`Vault::read_blob`] does.
    pub fn read_blob(&self, id: &Id) -> Result<Blob> {
        if !self.stretches.is_empty()
            && let Some(location) = self.vault.locate(id)
            && let Some(stretch) = self.by_segment.get(&(location.pack, location.segment))
            && let Some(stretch) = self.stretches.get(*stretch)
        {
            stretch.fetched.get_or_init(|| stretch.fetch(self.vault));
        }
        self.vault.read_blob(id)
    }
}

fn at(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
