//! Packs: many segments of blobs in one object.
//!
//! ```text
//! header | frame 0 | frame 1 | … | sealed directory | footer
//! ```
//! A frame is one segment, compressed and sealed with its ordinal. The directory, sealed with the
//! highest ordinal, says what is where; the footer where the directory is.

use std::borrow::Cow;

use super::codec::{Reader, Writer};
use super::compress::{self, PLAIN};
use super::seal::{Class, HEADER_LEN, Keys, Record, Sealer, TAG_LEN};
use crate::model::{Error, Id, Result};
use crate::store::ObjectStore;

/// A pack is closed when its frames reach this many bytes.
pub const PACK_TARGET: usize = 16 << 20;

/// A pack is closed as well when it has this many blobs: its directory is kept in memory until an index is
/// published, and tiny files that compress well would make millions of them a pack.
pub const PACK_BLOBS: usize = 1 << 16;

/// No pack is larger than this.
pub const PACK_MAX: u64 = 128 << 20;

/// No segment is longer than this before compression.
pub const SEGMENT_MAX: usize = 16 << 20;

const FOOTER_LEN: usize = 24;
const FOOTER_MAGIC: &[u8; 4] = b"SREN";
const DIRECTORY: u32 = u32::MAX;

/// One frame of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Where the frame begins in the pack.
    pub offset: u32,
    /// The frame's length with its tag.
    pub stored_len: u32,
    /// The segment's length before compression: the sum of its blobs'.
    pub plain_len: u32,
    /// How it is compressed.
    pub codec: u8,
    /// Ids and lengths of its blobs, one after another.
    pub blobs: Vec<(Id, u32)>,
}

/// What an index knows about a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackRecord {
    /// SHA-256 of the stored pack.
    pub id: Id,
    /// The pack's salt.
    pub salt: [u8; 32],
    /// [`Class::DataPack`] or [`Class::TreePack`].
    pub class: Class,
    /// Stored bytes.
    pub size: u64,
    /// Its frames in order.
    pub segments: Vec<Segment>,
}

/// Lays frames into a pack.
#[derive(Debug)]
pub struct PackBuilder {
    sealer: Sealer,
    bytes: Vec<u8>,
    segments: Vec<Segment>,
    blobs: usize,
}

/// A pack ready to be stored.
#[derive(Debug)]
pub struct FinishedPack {
    /// What the index will say about it.
    pub record: PackRecord,
    /// What is stored.
    pub bytes: Vec<u8>,
}

impl PackBuilder {
    /// An empty pack of the class.
    pub fn new(keys: &Keys, class: Class) -> Result<Self> {
        let sealer = keys.new_sealer(class)?;
        let bytes = sealer.header().to_vec();
        Ok(Self { sealer, bytes, segments: Vec::new(), blobs: 0 })
    }

    /// Whether nothing was added yet.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Stored bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it is to be closed.
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= PACK_TARGET || self.blobs >= PACK_BLOBS
    }

    /// Adds a segment whose compressed bytes are `packed`.
    pub fn add(&mut self, codec: u8, packed: &[u8], plain_len: u32, blobs: Vec<(Id, u32)>) -> Result<()> {
        let full = |_| Error::failed("a pack has too many segments or is too large");
        let ordinal = u32::try_from(self.segments.len()).map_err(full)?;
        let start = self.bytes.len();
        self.bytes.reserve(packed.len() + TAG_LEN);
        self.bytes.extend_from_slice(packed);
        self.sealer.seal(Record { ordinal, codec, plain_len }, &mut self.bytes, start)?;
        self.blobs += blobs.len();
        self.segments.push(Segment {
            offset: u32::try_from(start).map_err(full)?,
            stored_len: u32::try_from(self.bytes.len() - start).map_err(full)?,
            plain_len,
            codec,
            blobs,
        });
        Ok(())
    }

    /// Closes the pack.
    pub fn finish(mut self) -> Result<FinishedPack> {
        let directory = encode_directory(&self.segments);
        let too_large = |_| Error::failed("a pack's directory is too large");
        let start = self.bytes.len();
        let plain_len = u32::try_from(directory.len()).map_err(too_large)?;
        self.bytes.extend_from_slice(&directory);
        self.sealer.seal(Record { ordinal: DIRECTORY, codec: PLAIN, plain_len }, &mut self.bytes, start)?;
        let stored_len = u32::try_from(self.bytes.len() - start).map_err(too_large)?;
        self.bytes.extend_from_slice(&(start as u64).to_be_bytes());
        self.bytes.extend_from_slice(&stored_len.to_be_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(FOOTER_MAGIC);
        let record = PackRecord {
            id: Id::of(&self.bytes),
            salt: self.sealer.salt,
            class: self.sealer.class(),
            size: self.bytes.len() as u64,
            segments: self.segments,
        };
        Ok(FinishedPack { record, bytes: self.bytes })
    }
}

/// A pack's directory: per segment its stored and plain length, codec and blobs. Offsets follow
/// from the lengths.
pub fn encode_directory(segments: &[Segment]) -> Vec<u8> {
    let blobs: usize = segments.iter().map(|s| s.blobs.len()).sum();
    let mut w = Writer { bytes: Vec::with_capacity(16 * segments.len() + 36 * blobs) };
    w.uint(segments.len() as u64);
    for segment in segments {
        w.uint(segment.stored_len.into());
        w.uint(segment.plain_len.into());
        w.u8(segment.codec);
        w.uint(segment.blobs.len() as u64);
        for (id, len) in &segment.blobs {
            w.id(id);
            w.uint((*len).into());
        }
    }
    w.bytes
}

/// Reads a directory of a pack of `size` bytes.
pub fn decode_directory(bytes: &[u8], size: u64) -> Result<Vec<Segment>> {
    let mut r = Reader::new(bytes, "a pack's directory");
    let n = r.count(37)?;
    let mut segments = Vec::with_capacity(n);
    let mut offset = HEADER_LEN as u64;
    for _ in 0..n {
        let (stored_len, plain_len, codec) = (r.u32()?, r.u32()?, r.u8()?);
        if usize::try_from(plain_len).map_or(true, |len| len > SEGMENT_MAX) {
            return Err(r.bad("a segment is too long"));
        }
        let count = r.count(33)?;
        let mut blobs = Vec::with_capacity(count);
        let mut sum = 0u64;
        for _ in 0..count {
            let (id, len) = (r.id()?, r.u32()?);
            sum += u64::from(len);
            blobs.push((id, len));
        }
        if sum != u64::from(plain_len) {
            return Err(r.bad("blobs do not fill their segment"));
        }
        let at = u32::try_from(offset).map_err(|_| r.bad("a segment lies beyond the end"))?;
        offset += u64::from(stored_len);
        if offset > size {
            return Err(r.bad("a segment lies beyond the end"));
        }
        segments.push(Segment { offset: at, stored_len, plain_len, codec, blobs });
    }
    r.finish()?;
    Ok(segments)
}

/// Reads the directory of a stored pack, as recovery after a crash does.
pub fn read_record(store: &dyn ObjectStore, keys: &Keys, id: &Id, size: u64) -> Result<PackRecord> {
    let key = super::object::key(Class::DataPack, id);
    let footer_at = footer_at(&key, size)?;
    let header = store.get_range(&key, 0, HEADER_LEN)?;
    let footer = store.get_range(&key, footer_at, FOOTER_LEN)?;
    let (start, stored_len) = directory_at(&key, &footer, footer_at)?;
    let mut sealed = store.get_range(&key, start, stored_len)?;
    open_directory(keys, id, size, &header, start, &mut sealed).map(|(record, _)| record)
}

/// Reads the directory of a pack whose bytes are all here; and says whether every byte of it belongs to something
/// that is sealed or can only have one value, so that the pack is what was stored if all frames open.
pub fn read_whole(keys: &Keys, id: &Id, bytes: &mut [u8]) -> Result<(PackRecord, bool)> {
    let key = super::object::key(Class::DataPack, id);
    let short = || Error::damaged(format!("{key} is shorter than a pack"));
    let size = bytes.len() as u64;
    let footer_at = footer_at(&key, size)?;
    let (rest, footer) = bytes.split_last_chunk_mut::<FOOTER_LEN>().ok_or_else(short)?;
    let (start, stored_len) = directory_at(&key, footer, footer_at)?;
    let header = rest.first_chunk::<HEADER_LEN>().copied().ok_or_else(short)?;
    let sealed = rest.len().checked_sub(stored_len).and_then(|at| rest.get_mut(at..)).ok_or_else(short)?;
    let (record, sealer) = open_directory(keys, id, size, &header, start, sealed)?;
    let end = record.segments.last().map_or(HEADER_LEN as u64, |s| u64::from(s.offset) + u64::from(s.stored_len));
    let covered = header == sealer.header() && end == start && footer[12..20] == [0; 8];
    Ok((record, covered))
}

/// Where the footer of a pack of this size is.
fn footer_at(key: &str, size: u64) -> Result<u64> {
    if size > PACK_MAX {
        return Err(Error::damaged(format!("{key} is larger than a pack can be")));
    }
    let at = size.checked_sub(FOOTER_LEN as u64).filter(|at| *at >= HEADER_LEN as u64);
    at.ok_or_else(|| Error::damaged(format!("{key} is shorter than a pack")))
}

/// Where a footer says that the directory is, and how long.
fn directory_at(key: &str, footer: &[u8], footer_at: u64) -> Result<(u64, usize)> {
    let bad = || Error::damaged(format!("{key} does not end as a pack does"));
    let (Some(start), Some(len)) = (footer.first_chunk(), footer.get(8..).and_then(|f| f.first_chunk())) else {
        return Err(bad());
    };
    let (start, stored_len) = (u64::from_be_bytes(*start), u32::from_be_bytes(*len));
    if footer.get(20..) != Some(FOOTER_MAGIC) || start.checked_add(stored_len.into()) != Some(footer_at) {
        return Err(bad());
    }
    Ok((start, usize::try_from(stored_len).map_err(|_| bad())?))
}

/// Opens a sealed directory which begins at `start`.
fn open_directory(
    keys: &Keys,
    id: &Id,
    size: u64,
    header: &[u8],
    start: u64,
    sealed: &mut [u8],
) -> Result<(PackRecord, Sealer)> {
    let key = super::object::key(Class::DataPack, id);
    let class = header.get(5).copied().and_then(Class::from_code);
    let class = class.filter(|c| matches!(c, Class::DataPack | Class::TreePack));
    let class = class.ok_or_else(|| Error::damaged(format!("{key} is not a pack")))?;
    let sealer = keys.open_header(class, header).map_err(|e| e.context(&key))?;
    let plain_len = u32::try_from(sealed.len()).ok().and_then(|len| len.checked_sub(TAG_LEN as u32));
    let plain_len = plain_len.ok_or_else(|| Error::damaged(format!("{key} has no directory")))?;
    let record = Record { ordinal: DIRECTORY, codec: PLAIN, plain_len };
    let directory = sealer.open(record, sealed).map_err(|e| e.context(&key))?;
    let segments = decode_directory(directory, start).map_err(|e| e.context(&key))?;
    Ok((PackRecord { id: *id, salt: sealer.salt, class, size, segments }, sealer))
}

/// Opens one frame: authenticates, then decompresses. What was not compressed is the beginning of `frame`,
/// the rest is put into `buffer`.
pub fn open_frame<'a>(
    sealer: &Sealer,
    ordinal: u32,
    codec: u8,
    plain_len: u32,
    frame: &'a mut [u8],
    buffer: Vec<u8>,
) -> Result<Cow<'a, [u8]>> {
    let plain = usize::try_from(plain_len).ok().filter(|len| *len <= SEGMENT_MAX);
    let plain = plain.ok_or_else(|| Error::damaged("a segment is too long"))?;
    let packed = sealer.open(Record { ordinal, codec, plain_len }, frame)?;
    compress::decompress_into(codec, packed, plain, buffer)
}
