//! A file's bytes: which blobs hold them, and where its holes are.

use nix::errno::Errno;

use crate::model::{Error, Id, Result};
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

/// Where a file's bytes are.
pub struct FileMap {
    size: u64,
    extents: Vec<Extent>,
    parts: Vec<Part>,
    /// Where each part begins in the content.
    starts: Vec<u64>,
    /// How it is being read.
    pub pace: Pace,
}

/// No read is answered with more than this at once; the kernel asks for no more than 1 MiB.
const MAX_READ: u64 = 16 << 20;

impl FileMap {
    /// The map of a file. May read lists of parts from the vault.
    pub fn new(size: u64, holes: &[(u64, u64)], content: &Content, source: &dyn TreeSource) -> Result<Self> {
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
        let parts = match content {
            Content::Empty => Vec::new(),
            Content::Whole(id) => vec![Part { id: *id, len: data }],
            Content::Parts(parts) => parts.clone(),
            Content::Lists(_) => source.parts(content, data)?,
        };
        let mut starts = Vec::with_capacity(parts.len());
        let mut end = 0u64;
        for part in &parts {
            starts.push(end);
            end = end.checked_add(part.len).ok_or_else(|| Error::damaged("a file's parts are too long"))?;
        }
        if end != data {
            return Err(Error::damaged("a file's parts do not add up to its size"));
        }
        Ok(Self { size, extents, parts, starts, pace: Pace::default() })
    }

    /// What keeping it costs, in bytes.
    pub fn weight(&self) -> usize {
        256 + self.extents.len() * size_of::<Extent>() + self.parts.len() * (size_of::<Part>() + 8)
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
            let part = self.part_at(from);
            if from + len <= self.part_end(part) {
                let blob = self.blob(source, part)?;
                let start = from - self.starts.get(part).copied().unwrap_or(0);
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

    fn part_at(&self, content: u64) -> usize {
        self.starts.partition_point(|start| *start <= content).saturating_sub(1)
    }

    fn part_end(&self, part: usize) -> u64 {
        let len = self.parts.get(part).map_or(0, |p| p.len);
        self.starts.get(part).map_or(0, |start| start + len)
    }

    fn blob(&self, source: &dyn TreeSource, part: usize) -> Result<Bytes> {
        let part = self.parts.get(part).ok_or_else(|| Error::damaged("a file's parts end too early"))?;
        let blob = source.blob(&part.id)?;
        if blob.len() as u64 == part.len {
            Ok(blob)
        } else {
            Err(Error::damaged(format!("the blob {} has {} bytes instead of {}", part.id, blob.len(), part.len)))
        }
    }

    fn fill(&self, source: &dyn TreeSource, content: u64, room: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < room.len() {
            let at = content + done as u64;
            let part = self.part_at(at);
            let blob = self.blob(source, part)?;
            let start = index(at - self.starts.get(part).copied().unwrap_or(0));
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
        self.parts.len() == 1
    }

    /// The blobs worth reading now, when `len` bytes at `offset` were just asked for.
    pub fn ahead(&self, offset: u64, len: u64) -> Vec<Id> {
        if self.parts.len() < 2 {
            return Vec::new();
        }
        let Some((from, to)) = self.pace.step(offset, len, self.size) else { return Vec::new() };
        let content = |offset: u64| match self.extents.get(self.extent_after(offset)) {
            Some(extent) => extent.content + offset.saturating_sub(extent.offset),
            None => self.part_end(self.parts.len() - 1),
        };
        let (from, to) = (content(from), content(to));
        // Only blobs that begin in the window: the one before was asked for by the last step.
        let first = self.starts.partition_point(|start| *start < from);
        let wanted = self.starts.iter().zip(&self.parts).skip(first).take_while(|(start, _)| **start < to);
        wanted.map(|(_, part)| part.id).collect()
    }
}

/// An offset within bytes that are in memory.
fn index(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
