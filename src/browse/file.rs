//! A file's bytes: which blobs hold them, and where its holes are.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;

use crate::model::{Error, Id, Result};
use crate::vault::tree::content::{LIST_PARTS, decode_list};
use crate::vault::tree::{Content, Part};

use super::ahead::Pace;
use super::fail::{Answer, Fail};
use super::source::{Bytes, TreeSource};

/// Bytes that were read: part of one blob, or put together from several and from holes.
pub enum Data {
    /// From a blob, without a copy.
    Slice(Bytes, usize, usize),
    /// Put together.
    Joined(Vec<u8>),
}

impl Data {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Slice(blob, start, end) => blob.get(*start..*end).unwrap_or_default(),
            Self::Joined(bytes) => bytes,
        }
    }
}

/// A stretch of a file that is no hole.
struct Extent {
    offset: u64,
    len: u64,
    /// Where it begins in the content, which is all stretches joined.
    content: u64,
}

/// Blobs one after another, or lists of blobs.
struct Row {
    parts: Vec<Part>,
    /// Where each begins in the content.
    starts: Vec<u64>,
    end: u64,
}

impl Row {
    fn new(parts: Vec<Part>, begin: u64) -> Result<Self> {
        let (mut starts, mut end) = (Vec::with_capacity(parts.len()), begin);
        for part in &parts {
            starts.push(end);
            end = end.checked_add(part.len).ok_or_else(|| Error::damaged("a file's parts are too long"))?;
        }
        Ok(Self { parts, starts, end })
    }

    /// The one that holds a place in the content: which it is, and where it begins.
    fn at(&self, content: u64) -> Result<(usize, &Part, u64)> {
        let i = self.starts.partition_point(|start| *start <= content).saturating_sub(1);
        let found = self.parts.get(i).zip(self.starts.get(i)).filter(|(part, start)| content < **start + part.len);
        let (part, start) = found.ok_or_else(|| Error::damaged("a file's parts end too early"))?;
        Ok((i, part, *start))
    }
}

/// Lists of a file that were read lately, with their numbers.
type Recent = Mutex<VecDeque<(usize, Arc<Row>)>>;

/// What a file consists of. An image of terabytes has millions of blobs, so lists of them are read as they are needed.
enum Blobs {
    All(Arc<Row>),
    Lists(Row, Recent),
}

/// So many lists of one file are kept.
const RECENT: usize = 16;

/// So many blobs are wanted ahead, and a list more, however small they are.
const WANTED: usize = 1024;

/// Where a file's bytes are.
pub struct FileMap {
    size: u64,
    extents: Vec<Extent>,
    blobs: Blobs,
    /// How it is being read.
    pub pace: Pace,
}

/// No read is answered with more than this at once; the kernel asks for no more than 1 MiB.
const MAX_READ: u64 = 16 << 20;

impl FileMap {
    /// The map of a file.
    pub fn new(size: u64, holes: &[(u64, u64)], content: &Content) -> Result<Self> {
        let mut extents = Vec::with_capacity(holes.len() + 1);
        let (mut at, mut data) = (0u64, 0u64);
        for (hole, len) in holes.iter().copied().chain([(size, 0)]) {
            let before = hole.checked_sub(at).filter(|_| hole.saturating_add(len) <= size);
            let before = before.ok_or_else(|| Error::damaged("a file's holes overlap or lie beyond its end"))?;
            if before > 0 {
                extents.push(Extent { offset: at, len: before, content: data });
            }
            data += before;
            at = hole + len;
        }
        let all = |parts| Row::new(parts, 0).map(|row| Blobs::All(Arc::new(row)));
        let blobs = match content {
            Content::Empty => all(Vec::new())?,
            Content::Whole(id) => all(vec![Part { id: *id, len: data }])?,
            Content::Parts(parts) => all(parts.clone())?,
            Content::Lists(lists) => Blobs::Lists(Row::new(lists.clone(), 0)?, Mutex::default()),
        };
        let map = Self { size, extents, blobs, pace: Pace::default() };
        if map.row().end == data { Ok(map) } else { Err(Error::damaged("a file's parts do not add up to its size")) }
    }

    /// The blobs, or the lists of them.
    fn row(&self) -> &Row {
        match &self.blobs {
            Blobs::All(row) => row,
            Blobs::Lists(row, _) => row,
        }
    }

    /// What keeping it costs, in bytes, once it was read.
    pub fn weight(&self) -> usize {
        let part = size_of::<Part>() + 8;
        let lists = match &self.blobs {
            Blobs::All(_) => 0,
            Blobs::Lists(row, _) => row.parts.len().min(RECENT) * LIST_PARTS / 4 * part,
        };
        256 + self.extents.len() * size_of::<Extent>() + self.row().parts.len() * part + lists
    }

    /// The blobs around a place in the content.
    fn blobs_at(&self, source: &dyn TreeSource, content: u64) -> Result<Arc<Row>> {
        let (row, recent) = match &self.blobs {
            Blobs::All(row) => return Ok(row.clone()),
            Blobs::Lists(row, recent) => (row, recent),
        };
        let (number, list, start) = row.at(content)?;
        let known = || recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, found)) = known().iter().find(|(n, _)| *n == number) {
            return Ok(found.clone());
        }
        let found = Arc::new(Row::new(decode_list(&source.blob(&list.id)?, list.len)?, start)?);
        let mut recent = known();
        if recent.iter().all(|(n, _)| *n != number) {
            recent.truncate(RECENT - 1);
            recent.push_front((number, found.clone()));
        }
        Ok(found)
    }

    /// The first extent that ends after `offset`.
    fn extent_after(&self, offset: u64) -> usize {
        self.extents.partition_point(|e| e.offset + e.len <= offset)
    }

    /// Up to `size` bytes from `offset`, as many as there are.
    pub fn read(&self, source: &dyn TreeSource, offset: u64, size: u64) -> Result<Data> {
        let end = offset.saturating_add(size.min(MAX_READ)).min(self.size);
        let len = end.saturating_sub(offset);
        if len == 0 {
            return Ok(Data::Joined(Vec::new()));
        }
        let first = self.extent_after(offset);
        if let Some(extent) = self.extents.get(first)
            && extent.offset <= offset
            && end <= extent.offset + extent.len
        {
            let from = extent.content + (offset - extent.offset);
            let row = self.blobs_at(source, from)?;
            let (_, part, start) = row.at(from)?;
            if from + len <= start + part.len {
                let (blob, start) = (blob(source, part)?, from - start);
                return Ok(Data::Slice(blob, index(start), index(start + len)));
            }
        }
        let mut bytes = vec![0; index(len)];
        for extent in self.extents.iter().skip(first).take_while(|e| e.offset < end) {
            let (from, to) = (extent.offset.max(offset), (extent.offset + extent.len).min(end));
            let room = bytes.get_mut(index(from - offset)..index(to - offset)).unwrap_or_default();
            self.fill(source, extent.content + (from - extent.offset), room)?;
        }
        Ok(Data::Joined(bytes))
    }

    fn fill(&self, source: &dyn TreeSource, content: u64, room: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < room.len() {
            let at = content + done as u64;
            let row = self.blobs_at(source, at)?;
            let (_, part, start) = row.at(at)?;
            let (blob, start) = (blob(source, part)?, index(at - start));
            let n = blob.len().saturating_sub(start).min(room.len() - done);
            let (Some(from), Some(to)) = (blob.get(start..start + n), room.get_mut(done..done + n)) else { break };
            if n == 0 {
                return Err(Error::damaged("a file's parts end too early"));
            }
            to.copy_from_slice(from);
            done += n;
        }
        Ok(())
    }

    /// Where the next data (`true`) or the next hole begins at or after `offset`.
    pub fn seek(&self, offset: u64, data: bool) -> Answer<u64> {
        if offset >= self.size {
            return Err(Fail::Errno(Errno::ENXIO));
        }
        match self.extents.get(self.extent_after(offset)) {
            Some(extent) if data => Ok(offset.max(extent.offset)),
            None if data => Err(Fail::Errno(Errno::ENXIO)),
            Some(extent) if extent.offset <= offset => Ok(extent.offset + extent.len),
            _ => Ok(offset),
        }
    }

    /// Whether one blob holds all of it.
    pub fn is_whole(&self) -> bool {
        matches!(&self.blobs, Blobs::All(row) if row.parts.len() == 1)
    }

    /// The blobs worth reading now, when `len` bytes at `offset` were just asked for. May read lists of them.
    pub fn ahead(&self, source: &dyn TreeSource, offset: u64, len: u64) -> Vec<Id> {
        if self.row().parts.is_empty() || self.is_whole() {
            return Vec::new();
        }
        let Some((from, to)) = self.pace.step(offset, len, self.size) else { return Vec::new() };
        let content = |offset: u64| match self.extents.get(self.extent_after(offset)) {
            Some(extent) => extent.content + offset.saturating_sub(extent.offset),
            None => self.row().end,
        };
        let (mut from, to) = (content(from), content(to).min(self.row().end));
        let mut wanted = Vec::new();
        while from < to && wanted.len() < WANTED {
            // What cannot be read is said when it is asked for.
            let Ok(row) = self.blobs_at(source, from) else { break };
            // Only blobs that begin in the window: the one before was asked for by the last step.
            let first = row.starts.partition_point(|start| *start < from);
            let begun = row.starts.iter().zip(&row.parts).skip(first).take_while(|(start, _)| **start < to);
            wanted.extend(begun.map(|(_, part)| part.id));
            from = row.end.max(from + 1);
        }
        wanted
    }
}

/// The blob of a part, as long as it should be.
fn blob(source: &dyn TreeSource, part: &Part) -> Result<Bytes> {
    let blob = source.blob(&part.id)?;
    if blob.len() as u64 == part.len {
        Ok(blob)
    } else {
        Err(Error::damaged(format!("the blob {} has {} bytes instead of {}", part.id, blob.len(), part.len)))
    }
}

/// An offset within bytes that are in memory.
fn index(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
