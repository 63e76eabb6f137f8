//! A run: an immutable local file of sorted blob ids with their places, read by mmap.
//!
//! A run says which index objects it was made from, so it can be thrown away and made again. What
//! it answers needs no trust: a wrong place fails the authentication of the frame or the check of
//! the blob's id. A Bloom filter in front answers "not here" from one cache line.
//!
//! ```text
//! magic 8 | counts 4 × u64 | filter bits u64 | sources | superseded | packs | segments | filter | blobs
//! ```
//! Numbers are little-endian.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::model::{Error, Id, IoContext, Result};
use crate::vault::pack::{self, PackRecord};
use crate::vault::seal::{Class, Sealer};

const MAGIC: &[u8; 8] = b"SRRUN001";
const HEADER: usize = 56;
const PACK: usize = 80;
const SEGMENT: usize = 24;
const BLOB: usize = 44;
/// Bits of the filter per blob, and how many of them each blob sets: one false answer in 2000.
const FILTER_BITS: u64 = 16;
const FILTER_PROBES: u64 = 6;
/// Guesses at a blob's place before it is searched for: of 2,000,000 the last is off by some five.
const GUESSES: usize = 3;

/// A pack as a run knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunPack {
    /// SHA-256 of the stored pack.
    pub id: Id,
    /// Its salt.
    pub salt: [u8; 32],
    /// Stored bytes.
    pub size: u64,
    /// Data or tree.
    pub class: Class,
}

/// A segment as a run knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunSegment {
    /// The pack's number in the run.
    pub pack: u32,
    /// The segment's ordinal in the pack.
    pub ordinal: u32,
    /// Where its frame begins.
    pub offset: u32,
    /// The frame's length.
    pub stored_len: u32,
    /// Its length before compression.
    pub plain_len: u32,
    /// How it is compressed.
    pub codec: u8,
}

impl RunSegment {
    /// Opens the segment's frame, as [`pack::open_frame`] does.
    pub fn open<'a>(&self, sealer: &Sealer, frame: &'a mut [u8], buffer: Vec<u8>) -> Result<Cow<'a, [u8]>> {
        pack::open_frame(sealer, self.ordinal, self.codec, self.plain_len, frame, buffer)
    }
}

/// A blob as a run knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunBlob {
    /// SHA-256 of the plain bytes.
    pub id: Id,
    /// The segment's number in the run.
    pub segment: u32,
    /// Where the blob begins in the segment.
    pub offset: u32,
    /// Its length.
    pub len: u32,
}

/// An open run.
#[derive(Debug)]
pub struct Run {
    map: Mmap,
    path: PathBuf,
    packs: usize,
    segments: usize,
    blobs: usize,
    /// Index objects it was made from.
    pub sources: Vec<Id>,
    /// Index objects that its sources replace.
    pub superseded: Vec<Id>,
    packs_at: usize,
    segments_at: usize,
    filter_at: usize,
    filter_bits: u64,
    blobs_at: usize,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn id_at(bytes: &[u8], at: usize) -> Id {
    bytes.get(at..at + 32).and_then(|b| b.try_into().ok()).map_or_else(Id::default, Id)
}

fn probes(id: &Id, bits: u64) -> impl Iterator<Item = u64> {
    let (a, b) = (u64_at(&id.0, 8), u64_at(&id.0, 16) | 1);
    (0..FILTER_PROBES).map(move |i| a.wrapping_add(b.wrapping_mul(i)) & (bits - 1))
}

impl Run {
    /// Opens a run, checking that its parts fit its length.
    pub fn open(path: &Path) -> Result<Self> {
        let what = || format!("the local index {}", path.display());
        let map = map(&File::open(path).at(what)?).at(what)?;
        let bad = || Error::damaged(format!("{} is not a local index", path.display()));
        if map.len() < HEADER || &map[..8] != MAGIC {
            return Err(bad());
        }
        let count = |i: usize| usize::try_from(u64_at(&map, 8 + 8 * i)).ok().filter(|n| *n <= map.len());
        let (Some(n_sources), Some(n_superseded), Some(packs), Some(segments), Some(blobs)) =
            (count(0), count(1), count(2), count(3), count(4))
        else {
            return Err(bad());
        };
        let filter_bits = u64_at(&map, 48);
        let filter_len = usize::try_from(filter_bits / 8).map_err(|_| bad())?;
        let packs_at = HEADER + 32 * (n_sources + n_superseded);
        let segments_at = packs_at + PACK * packs;
        let filter_at = segments_at + SEGMENT * segments;
        let blobs_at = filter_at.checked_add(filter_len).ok_or_else(bad)?;
        if !filter_bits.is_power_of_two() || filter_bits < 64 || map.len() != blobs_at + BLOB * blobs {
            return Err(bad());
        }
        let ids = |from: usize, n: usize| (0..n).map(|i| id_at(&map, HEADER + 32 * (from + i))).collect();
        let (sources, superseded) = (ids(0, n_sources), ids(n_sources, n_superseded));
        let path = path.to_path_buf();
        Ok(Self {
            map,
            path,
            packs,
            segments,
            blobs,
            sources,
            superseded,
            packs_at,
            segments_at,
            filter_at,
            filter_bits,
            blobs_at,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many packs it knows.
    pub fn pack_count(&self) -> usize {
        self.packs
    }

    /// How many blobs it knows.
    pub fn blob_count(&self) -> usize {
        self.blobs
    }

    /// Bytes on disk.
    pub fn file_len(&self) -> usize {
        self.map.len()
    }

    /// The pack with this number.
    pub fn pack(&self, number: u32) -> Option<RunPack> {
        let i = usize::try_from(number).ok().filter(|i| *i < self.packs)?;
        let record = self.map.get(self.packs_at + PACK * i..)?.get(..PACK)?;
        let mut salt = [0; 32];
        salt.copy_from_slice(&record[32..64]);
        Some(RunPack {
            id: id_at(record, 0),
            salt,
            size: u64_at(record, 64),
            class: if record[72] == Class::TreePack as u8 { Class::TreePack } else { Class::DataPack },
        })
    }

    /// The segment with this number.
    pub fn segment(&self, number: u32) -> Option<RunSegment> {
        let i = usize::try_from(number).ok().filter(|i| *i < self.segments)?;
        let record = self.map.get(self.segments_at + SEGMENT * i..)?.get(..SEGMENT)?;
        Some(RunSegment {
            pack: u32_at(record, 0),
            ordinal: u32_at(record, 4),
            offset: u32_at(record, 8),
            stored_len: u32_at(record, 12),
            plain_len: u32_at(record, 16),
            codec: record[20],
        })
    }

    /// The `i`th blob in order of ids.
    pub fn blob(&self, i: usize) -> RunBlob {
        let at = self.blobs_at + BLOB * i;
        RunBlob {
            id: id_at(&self.map, at),
            segment: u32_at(&self.map, at + 32),
            offset: u32_at(&self.map, at + 36),
            len: u32_at(&self.map, at + 40),
        }
    }

    fn id(&self, i: usize) -> &[u8] {
        let at = self.blobs_at + BLOB * i;
        self.map.get(at..at + 32).unwrap_or_default()
    }

    fn may_contain(&self, id: &Id) -> bool {
        probes(id, self.filter_bits).all(|bit| {
            let at = self.filter_at + usize::try_from(bit / 8).unwrap_or(0);
            self.map.get(at).is_some_and(|byte| byte & (1 << (bit % 8)) != 0)
        })
    }

    /// The places of a blob in the order of ids. There are several where it was stored again.
    pub fn copies(&self, id: &Id) -> std::ops::Range<usize> {
        let Some(at) = self.position(id) else { return 0..0 };
        let (mut start, mut end) = (at, at + 1);
        while start > 0 && self.id(start - 1) == &id.0[..] {
            start -= 1;
        }
        while end < self.blobs && self.id(end) == &id.0[..] {
            end += 1;
        }
        start..end
    }

    /// Finds a blob.
    pub fn find(&self, id: &Id) -> Option<RunBlob> {
        self.position(id).map(|i| self.blob(i))
    }

    /// Where a blob must be nearly, if the run holds it. Ids are uniform, so the first guess is off by some
    /// √n, and going as far as the id there differs by the root of that each time (Perl, Itai and Avni,
    /// "Interpolation search – a log log N search", 1978). Wrong guesses only take longer.
    fn guess(&self, id: &Id) -> usize {
        let (n, last) = (self.blobs as i128, self.blobs.saturating_sub(1));
        let scaled = |distance: i128| (distance * n) >> 64;
        let mut guess = 0;
        let mut there = 0;
        for _ in 0..GUESSES {
            let to = guess as i128 + scaled(i128::from(id.prefix()) - there);
            guess = usize::try_from(to).unwrap_or(0).min(last);
            there = i128::from(self.id(guess).first_chunk().map_or(0, |prefix| u64::from_be_bytes(*prefix)));
        }
        guess
    }

    /// The place of a blob in the order of ids: guessed, the guess widened until it brackets the id, then a
    /// binary search.
    pub fn position(&self, id: &Id) -> Option<usize> {
        if self.blobs == 0 || !self.may_contain(id) {
            return None;
        }
        let n = self.blobs;
        let guess = self.guess(id);
        let (mut low, mut high, mut step) = (guess, guess + 1, 4);
        while low > 0 && self.id(low) > &id.0[..] {
            low = low.saturating_sub(step);
            step *= 2;
        }
        step = 4;
        while high < n && self.id(high - 1) < &id.0[..] {
            high = (high + step).min(n);
            step *= 2;
        }
        while low < high {
            let middle = low + (high - low) / 2;
            match self.id(middle).cmp(&id.0[..]) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Some(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }
}

/// Maps a file that is never written again after it got its name.
#[allow(unsafe_code)]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: runs are written under another name, renamed and never changed; only root can write
    // in their directory. A file cut short by someone else would end the process with SIGBUS.
    unsafe { Mmap::map(file) }
}

/// Writes a run of `packs`, made from the index objects `sources`.
pub fn write(dir: &Path, sources: &[Id], superseded: &[Id], packs: &[PackRecord]) -> Result<Run> {
    let mut segments = Vec::new();
    let mut blobs = Vec::new();
    let mut pack_table = Vec::with_capacity(packs.len());
    for (number, pack) in (0u32..).zip(packs) {
        pack_table.push(RunPack { id: pack.id, salt: pack.salt, size: pack.size, class: pack.class });
        for (ordinal, s) in (0u32..).zip(&pack.segments) {
            let segment = u32::try_from(segments.len()).map_err(|_| Error::failed("an index has too many segments"))?;
            segments.push(RunSegment {
                pack: number,
                ordinal,
                offset: s.offset,
                stored_len: s.stored_len,
                plain_len: s.plain_len,
                codec: s.codec,
            });
            let mut offset = 0;
            for (id, len) in &s.blobs {
                blobs.push(RunBlob { id: *id, segment, offset, len: *len });
                offset += len;
            }
        }
    }
    blobs.sort_unstable_by_key(|b| (b.id, b.segment));
    blobs.dedup_by_key(|b| (b.id, b.segment));
    let parts = Parts { sources, superseded, packs: &pack_table, segments: &segments, count: blobs.len() };
    parts.write(dir, || blobs.iter().copied())
}

/// Writes one run that holds all of `runs`.
pub fn merge(dir: &Path, runs: &[&Run]) -> Result<Run> {
    let sources: Vec<Id> = runs.iter().flat_map(|r| r.sources.iter().copied()).collect();
    let superseded: Vec<Id> = runs.iter().flat_map(|r| r.superseded.iter().copied()).collect();
    let (mut packs, mut segments, mut bases) = (Vec::new(), Vec::new(), Vec::new());
    for run in runs {
        let number = |n: usize| u32::try_from(n).map_err(|_| Error::failed("an index has too many packs"));
        let base = number(packs.len())?;
        bases.push(number(segments.len())?);
        packs.extend((0..number(run.packs)?).filter_map(|i| run.pack(i)));
        segments.extend((0..number(run.segments)?).filter_map(|i| {
            let s = run.segment(i)?;
            Some(RunSegment { pack: s.pack + base, ..s })
        }));
    }
    let merged = || Merge { runs, bases: &bases, at: vec![0; runs.len()] };
    let count = merged().count();
    let parts = Parts { sources: &sources, superseded: &superseded, packs: &packs, segments: &segments, count };
    parts.write(dir, merged)
}

/// The blobs of several runs in order of ids, with every copy: one of them may be lost.
struct Merge<'a> {
    runs: &'a [&'a Run],
    bases: &'a [u32],
    at: Vec<usize>,
}

impl Iterator for Merge<'_> {
    type Item = RunBlob;
    fn next(&mut self) -> Option<RunBlob> {
        let heads = self.runs.iter().zip(&self.at).enumerate().filter(|(_, (run, at))| **at < run.blobs);
        let (i, _) = heads.min_by_key(|(_, (run, at))| run.id(**at))?;
        let blob = self.runs[i].blob(self.at[i]);
        self.at[i] += 1;
        Some(RunBlob { segment: blob.segment + self.bases[i], ..blob })
    }
}

struct Parts<'a> {
    sources: &'a [Id],
    superseded: &'a [Id],
    packs: &'a [RunPack],
    segments: &'a [RunSegment],
    count: usize,
}

impl Parts<'_> {
    fn write<I: Iterator<Item = RunBlob>>(&self, dir: &Path, blobs: impl Fn() -> I) -> Result<Run> {
        let mut name: Vec<u8> = Vec::with_capacity(32 * self.sources.len());
        self.sources.iter().for_each(|id| name.extend_from_slice(&id.0));
        let path = dir.join(format!("{}.run", Id::of(&name)));
        let temporary = dir.join(format!("{}-{}.tmp", Id::of(&name), uuid::Uuid::new_v4()));
        let written = self.write_to(&temporary, blobs).and_then(|()| fs::rename(&temporary, &path));
        if written.is_err() {
            // Best effort: the error that matters is reported, and opening sweeps leftovers.
            let _ = fs::remove_file(&temporary);
        }
        written.at(|| format!("the local index {}", path.display()))?;
        Run::open(&path)
    }

    fn write_to<I: Iterator<Item = RunBlob>>(&self, path: &Path, blobs: impl Fn() -> I) -> std::io::Result<()> {
        let bits = (self.count as u64 * FILTER_BITS).next_power_of_two().max(64);
        let mut filter = vec![0u8; usize::try_from(bits / 8).unwrap_or(8)];
        for blob in blobs() {
            for bit in probes(&blob.id, bits) {
                if let Some(byte) = filter.get_mut(usize::try_from(bit / 8).unwrap_or(0)) {
                    *byte |= 1 << (bit % 8);
                }
            }
        }
        let mut out = BufWriter::with_capacity(1 << 18, File::create_new(path)?);
        out.write_all(MAGIC)?;
        let counts = [self.sources.len(), self.superseded.len(), self.packs.len(), self.segments.len(), self.count];
        for count in counts {
            out.write_all(&(count as u64).to_le_bytes())?;
        }
        out.write_all(&bits.to_le_bytes())?;
        for id in self.sources.iter().chain(self.superseded) {
            out.write_all(&id.0)?;
        }
        for pack in self.packs {
            out.write_all(&pack.id.0)?;
            out.write_all(&pack.salt)?;
            out.write_all(&pack.size.to_le_bytes())?;
            out.write_all(&[pack.class as u8, 0, 0, 0, 0, 0, 0, 0])?;
        }
        for s in self.segments {
            for number in [s.pack, s.ordinal, s.offset, s.stored_len, s.plain_len, u32::from(s.codec)] {
                out.write_all(&number.to_le_bytes())?;
            }
        }
        out.write_all(&filter)?;
        for blob in blobs() {
            out.write_all(&blob.id.0)?;
            for number in [blob.segment, blob.offset, blob.len] {
                out.write_all(&number.to_le_bytes())?;
            }
        }
        // Not synced: a run that a loss of power damaged fails its checks and is made again.
        out.into_inner().map(drop).map_err(std::io::IntoInnerError::into_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::pack::Segment;
    use proptest::prelude::*;

    fn run_of(dir: &Path, ids: &[Id]) -> Run {
        let blobs = ids.iter().map(|id| (*id, 1)).collect();
        let segment = Segment { offset: 0, stored_len: 1, plain_len: 1, codec: 0, blobs };
        let (id, salt) = (Id::default(), [0; 32]);
        write(dir, &[], &[], &[PackRecord { id, salt, class: Class::DataPack, size: 1, segments: vec![segment] }])
            .unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Ids that somebody chose are found as well, only later.
        #[test]
        fn every_blob_is_found_and_no_other(
            firsts in prop::collection::vec(prop_oneof![any::<u8>(), Just(0), Just(255)], 1..300),
            uniform in any::<bool>(),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut ids: Vec<Id> = (0u64..).zip(&firsts).map(|(i, first)| {
                let mut id = Id::of(&i.to_le_bytes());
                if !uniform {
                    id.0[..8].fill(*first);
                }
                id
            }).collect();
            let run = run_of(dir.path(), &ids);
            for id in &ids {
                prop_assert_eq!(run.find(id).map(|blob| blob.id), Some(*id));
                let (mut before, mut after) = (*id, *id);
                before.0[31] ^= 1;
                after.0[0] ^= 128;
                prop_assert!([before, after].iter().all(|other| run.find(other).is_none() || ids.contains(other)));
            }
            ids.sort();
            prop_assert!(ids.iter().enumerate().all(|(i, id)| run.position(id) == Some(i)));
        }
    }

    #[test]
    fn the_last_guess_is_near() {
        let dir = tempfile::tempdir().unwrap();
        let ids: Vec<Id> = (0..200_000u32).map(|i| Id::of(&i.to_le_bytes())).collect();
        let run = run_of(dir.path(), &ids);
        let off = ids.iter().map(|id| run.position(id).unwrap().abs_diff(run.guess(id))).sum::<usize>();
        assert!(off < 8 * ids.len(), "off by {} on average", off / ids.len());
    }
}
