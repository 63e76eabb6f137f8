//! What a file's bytes consist of.

use crate::model::{Id, Result};
use crate::vault::codec::{Reader, Writer};

/// A list entry: a blob (or, one level up, a list blob) and how many content bytes it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The blob.
    pub id: Id,
    /// Content bytes it stands for; never 0.
    pub len: u64,
}

/// The bytes of a file outside its holes, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Content {
    /// No bytes.
    #[default]
    Empty,
    /// One blob holds them all.
    Whole(Id),
    /// Blobs one after another.
    Parts(Vec<Part>),
    /// Lists of blobs one after another: each part's blob is an encoded list of parts.
    Lists(Vec<Part>),
}

/// More parts than this go into list blobs, so that an entry stays small.
pub const INLINE_PARTS: usize = 256;

/// The most parts a list blob may have.
pub const LIST_PARTS: usize = 4096;

impl Content {
    /// Appends the record.
    pub fn encode(&self, w: &mut Writer) {
        match self {
            Self::Empty => w.u8(0),
            Self::Whole(id) => {
                w.u8(1);
                w.id(id);
            }
            Self::Parts(parts) => {
                w.u8(2);
                encode_parts(parts, w);
            }
            Self::Lists(lists) => {
                w.u8(3);
                encode_parts(lists, w);
            }
        }
    }

    /// Reads a record that must cover `len` bytes.
    pub fn decode(r: &mut Reader<'_>, len: u64) -> Result<Self> {
        let (content, covered) = match r.u8()? {
            0 => (Self::Empty, 0),
            1 => (Self::Whole(r.id()?), len.max(1)),
            code @ (2 | 3) => {
                let parts = decode_parts(r)?;
                let covered = cover(&parts).ok_or_else(|| r.bad("a file's parts are too long"))?;
                (if code == 2 { Self::Parts(parts) } else { Self::Lists(parts) }, covered)
            }
            _ => return Err(r.bad("a file's content is of an unknown kind")),
        };
        if covered == len { Ok(content) } else { Err(r.bad("a file's parts do not add up to its size")) }
    }
}

fn cover(parts: &[Part]) -> Option<u64> {
    parts.iter().try_fold(0u64, |sum, part| sum.checked_add(part.len))
}

/// Appends a count and that many parts.
pub fn encode_parts(parts: &[Part], w: &mut Writer) {
    w.uint(parts.len() as u64);
    for part in parts {
        w.id(&part.id);
        w.uint(part.len);
    }
}

fn decode_parts(r: &mut Reader<'_>) -> Result<Vec<Part>> {
    let n = r.count(33)?;
    let mut parts = Vec::with_capacity(n);
    for _ in 0..n {
        let part = Part { id: r.id()?, len: r.uint()? };
        if part.len == 0 {
            return Err(r.bad("a file's part is empty"));
        }
        parts.push(part);
    }
    Ok(parts)
}

/// A list blob: the plain bytes of `parts`.
pub fn encode_list(parts: &[Part]) -> Vec<u8> {
    let mut w = Writer::default();
    encode_parts(parts, &mut w);
    w.bytes
}

/// Reads a list blob that must cover `len` bytes.
pub fn decode_list(bytes: &[u8], len: u64) -> Result<Vec<Part>> {
    let mut r = Reader::new(bytes, "a list of a file's parts");
    let parts = decode_parts(&mut r)?;
    if parts.len() > LIST_PARTS {
        return Err(r.bad("it has too many parts"));
    }
    if cover(&parts) != Some(len) {
        return Err(r.bad("its parts do not add up"));
    }
    r.finish()?;
    Ok(parts)
}

/// Whether a list blob ends after the part `id`, so that a changed part changes only its own
/// list: one in 512 on average.
pub fn ends_list(id: &Id) -> bool {
    id.prefix() & 511 == 0
}
