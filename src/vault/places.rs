//! Whether the index and a pack agree about where the pack's blobs lie: data that is whole cannot be read if it is
//! looked for in the wrong place.

use std::collections::{HashMap, HashSet};

use super::index::{Found, LocalIndex};
use super::pack::PackRecord;
use crate::model::{Id, Progress, Result};

/// Where a blob lies in its pack, as far as reading it depends on that: ordinal, offset, stored and plain length and
/// codec of the segment, offset and length of the blob.
type Place = (u32, u32, u32, u32, u8, u32, u32);

fn place(found: &Found) -> Place {
    let s = &found.segment;
    (s.ordinal, s.offset, s.stored_len, s.plain_len, s.codec, found.offset, found.len)
}

/// How many blobs an index places in each pack.
pub fn counts(index: &LocalIndex, progress: &Progress) -> Result<HashMap<Id, u64>> {
    let mut counts = HashMap::new();
    for run in index.runs() {
        progress.check()?;
        let mut by_number = vec![0u64; run.pack_count()];
        for i in 0..run.blob_count() {
            let number = run.segment(run.blob(i).segment).and_then(|segment| usize::try_from(segment.pack).ok());
            if let Some(count) = number.and_then(|number| by_number.get_mut(number)) {
                *count += 1;
            }
        }
        for (number, count) in (0u32..).zip(by_number) {
            if let Some(pack) = run.pack(number) {
                *counts.entry(pack.id).or_default() += count;
            }
        }
    }
    Ok(counts)
}

/// The blobs of a pack, as its own directory has them, that the index, which places `count` blobs in it, does not
/// place where they are; and those that only the index knows.
pub fn misplaced(index: &LocalIndex, pack: &PackRecord, count: u64) -> Vec<Id> {
    let in_pack = |id: &Id| -> Vec<Found> { index.copies(id).filter(|found| found.pack.id == pack.id).collect() };
    let (mut right, mut all) = (0, true);
    each(pack, |id, at| {
        let here = in_pack(&id).iter().filter(|found| place(found) == at).count() as u64;
        right += here;
        all &= here > 0;
    });
    if all && right == count {
        return Vec::new();
    }
    let mut places: HashMap<Id, HashSet<Place>> = HashMap::new();
    each(pack, |id, at| {
        places.entry(id).or_default().insert(at);
    });
    let is_true = |id: &Id, found: &Found| places.get(id).is_some_and(|all| all.contains(&place(found)));
    let fine = |id: &Id| {
        let found = in_pack(id);
        !found.is_empty() && found.iter().all(|found| is_true(id, found))
    };
    let mut wrong: HashSet<Id> = places.keys().filter(|id| !fine(id)).copied().collect();
    for run in index.runs() {
        let pack_of = |i: usize| run.segment(run.blob(i).segment).and_then(|segment| run.pack(segment.pack));
        let inside = (0..run.blob_count()).filter(|i| pack_of(*i).is_some_and(|p| p.id == pack.id));
        wrong.extend(inside.map(|i| run.blob(i).id).filter(|id| !places.contains_key(id)));
    }
    let mut wrong: Vec<Id> = wrong.into_iter().collect();
    wrong.sort_unstable();
    wrong
}

/// All blobs of a pack with their places.
fn each(pack: &PackRecord, mut visit: impl FnMut(Id, Place)) {
    for (ordinal, s) in (0u32..).zip(&pack.segments) {
        let mut at = 0u32;
        for (id, len) in &s.blobs {
            visit(*id, (ordinal, s.offset, s.stored_len, s.plain_len, s.codec, at, *len));
            at = at.saturating_add(*len);
        }
    }
}
