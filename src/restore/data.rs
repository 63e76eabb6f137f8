//! A file's bytes: laid around its holes, and compared with what is on disk.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rustix::fs::{SeekFrom, ftruncate, seek};
use rustix::io::{Errno, pread, pwrite};
use sha2::{Digest, Sha256};

use super::writeback;
use crate::model::{Error, Id, IoContext, Progress, Result};
use crate::vault::tree::{Content, Part};
use crate::vault::{Reader, Vault};

/// Files with more bytes than this are written by several threads.
const SHARED: u64 = 16 << 20;

/// So many parts of such a file are written before the next are begun with.
const WINDOW: usize = 256;

/// What a file consists of.
#[derive(Debug)]
pub struct Layout<'a> {
    vault: &'a Vault,
    size: u64,
    /// Ranges outside the holes: (offset in the file, length, offset in the content).
    ranges: Vec<(u64, u64, u64)>,
    content: &'a Content,
    /// Bytes of the content.
    len: u64,
}

impl<'a> Layout<'a> {
    /// Lays `content` around `holes`.
    pub fn new(vault: &'a Vault, size: u64, holes: &[(u64, u64)], content: &'a Content) -> Result<Self> {
        let ranges = ranges(size, holes);
        let len = ranges.iter().map(|r| r.1).sum();
        let covered = match content {
            Content::Empty => Some(0),
            Content::Whole(_) => Some(len),
            Content::Parts(parts) | Content::Lists(parts) => parts.iter().try_fold(0u64, |n, p| n.checked_add(p.len)),
        };
        if covered != Some(len) {
            return Err(Error::damaged("its parts do not add up to its size"));
        }
        Ok(Self { vault, size, ranges, content, len })
    }

    /// The blobs, in order, each with its offset in the content. Lists of them are read from the vault when they
    /// are needed.
    pub fn parts(&self) -> impl Iterator<Item = Result<(u64, Part)>> {
        let mut at = 0;
        self.vault.each_part(self.content, self.len).map(move |part| {
            let part = part?;
            let start = at;
            at += part.len;
            Ok((start, part))
        })
    }

    /// The same, so many together.
    pub fn windows(&self, parts: usize) -> impl Iterator<Item = Result<Vec<(u64, Part)>>> {
        let mut rest = self.parts();
        std::iter::from_fn(move || {
            let window: Result<Vec<_>> = rest.by_ref().take(parts).collect();
            (!window.as_ref().is_ok_and(Vec::is_empty)).then_some(window)
        })
    }

    /// The ranges outside the holes: (offset in the file, length).
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        self.ranges.iter().map(|(offset, len, _)| (*offset, *len))
    }

    /// Where a piece of the content lies in the file: (offset in the file, length), in order.
    pub(super) fn places(&self, start: u64, len: u64) -> impl Iterator<Item = (u64, u64)> {
        let end = start + len;
        let first = self.ranges.partition_point(|(_, len, at)| at + len <= start);
        self.ranges[first..].iter().take_while(move |(_, _, at)| *at < end).map(move |(offset, len, at)| {
            let from = start.max(*at);
            (offset + (from - at), end.min(at + len) - from)
        })
    }

    /// Writes everything into an empty file; `workers` threads share a large one.
    pub fn write(
        &self,
        reader: &Reader<'_>,
        file: impl AsFd + Sync,
        workers: usize,
        progress: &Progress,
    ) -> Result<()> {
        if self.ranges.last().map_or(0, |(offset, len, _)| offset + len) != self.size {
            ftruncate(&file, self.size).at(|| "cannot set the size")?;
        }
        if self.size <= SHARED {
            for part in self.parts() {
                let (start, part) = part?;
                self.write_part(reader, &file, &part, start, progress)?;
            }
            writeback::begin(&file, 0, self.size);
            return Ok(());
        }
        for parts in self.windows(WINDOW) {
            let parts = parts?;
            let reader = reader.of(parts.iter().map(|(_, part)| part.id));
            self.write_parts(&reader, &file, &parts, workers, progress)?;
            // A length of 0 would be all of the file.
            let end = |(start, part): &(u64, Part)| start + part.len;
            if let (Some((from, _)), Some(last)) = (parts.first(), parts.last()) {
                let (from, to) = (self.places(*from, 1).next(), self.places(end(last) - 1, 1).last());
                if let (Some((from, _)), Some((to, _))) = (from, to) {
                    writeback::begin(&file, from, to.saturating_sub(from) + 1);
                }
            }
        }
        Ok(())
    }

    /// Writes some parts, each with its offset in the content.
    fn write_parts(
        &self,
        reader: &Reader<'_>,
        file: impl AsFd + Sync,
        parts: &[(u64, Part)],
        workers: usize,
        progress: &Progress,
    ) -> Result<()> {
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let Some((start, part)) = parts.get(next.fetch_add(1, Relaxed)) else { return Ok(()) };
                if let Err(e) = self.write_part(reader, &file, part, *start, progress) {
                    next.store(parts.len(), Relaxed);
                    return Err(e);
                }
            }
        };
        if parts.len() < 2 || workers < 2 {
            return work();
        }
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            let results = threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(Error::failed("a thread died"))));
            results.collect::<Vec<_>>().into_iter().collect()
        })
    }

    fn write_part(
        &self,
        reader: &Reader<'_>,
        file: impl AsFd,
        part: &Part,
        start: u64,
        progress: &Progress,
    ) -> Result<()> {
        progress.check()?;
        let blob = reader.read_blob(&part.id)?;
        if blob.len() as u64 != part.len {
            return Err(Error::damaged(format!("the blob {} is not as long as the file says", part.id)));
        }
        let mut rest: &[u8] = &blob;
        for (offset, len) in self.places(start, part.len) {
            let (piece, after) = rest.split_at(usize::try_from(len).unwrap_or(rest.len()).min(rest.len()));
            write_at(&file, piece, offset).at(|| "cannot write")?;
            rest = after;
        }
        progress.add(0, part.len);
        Ok(())
    }

    /// Whether a file of the right size holds exactly these bytes. The vault's data is not read:
    /// what is on disk is hashed and compared with the ids.
    pub fn is_on_disk(&self, file: impl AsFd, progress: &Progress) -> Result<bool> {
        let mut buffer = vec![0u8; 256 << 10];
        for part in self.parts() {
            let (start, part) = part?;
            progress.check()?;
            let mut hash = Sha256::new();
            for (offset, len) in self.places(start, part.len) {
                let whole = read_range(&file, offset, len, &mut buffer, |bytes| {
                    hash.update(bytes);
                    true
                });
                if !whole.at(|| "cannot read what is on disk")? {
                    return Ok(false);
                }
            }
            if Id(hash.finalize().into()) != part.id {
                return Ok(false);
            }
        }
        let mut at = 0;
        for (offset, len, _) in self.ranges.iter().copied().chain([(self.size, 0, 0)]) {
            progress.check()?;
            if !is_zero(&file, at, offset, &mut buffer).at(|| "cannot read what is on disk")? {
                return Ok(false);
            }
            at = offset + len;
        }
        Ok(true)
    }
}

/// The ranges of a file outside its holes, with how much content lies before each.
/// The ranges outside the holes: (offset in the file, length, offset in the content).
pub fn ranges(size: u64, holes: &[(u64, u64)]) -> Vec<(u64, u64, u64)> {
    let mut ranges = Vec::with_capacity(holes.len() + 1);
    let (mut at, mut content) = (0, 0);
    for (offset, len) in holes.iter().copied().chain([(size, 0)]) {
        if offset > at {
            ranges.push((at, offset - at, content));
            content += offset - at;
        }
        at = offset + len;
    }
    ranges
}

pub(super) fn write_at(file: impl AsFd, mut bytes: &[u8], mut offset: u64) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match pwrite(&file, bytes, offset) {
            Ok(0) => return Err(Errno::IO),
            Ok(n) => {
                bytes = &bytes[n..];
                offset += n as u64;
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Hands a range to `each` in pieces until it says no; `false` then, or if the file ends early.
pub(super) fn read_range(
    file: impl AsFd,
    mut offset: u64,
    mut len: u64,
    buffer: &mut [u8],
    mut each: impl FnMut(&[u8]) -> bool,
) -> rustix::io::Result<bool> {
    while len > 0 {
        let most = usize::try_from(len).unwrap_or(usize::MAX).min(buffer.len());
        match pread(&file, &mut buffer[..most], offset) {
            Ok(0) => return Ok(false),
            Ok(n) => {
                if !each(&buffer[..n]) {
                    return Ok(false);
                }
                offset += n as u64;
                len -= n as u64;
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

/// Whether all bytes from `at` to `end` are zero; holes are not read.
pub(super) fn is_zero(file: impl AsFd, mut at: u64, end: u64, buffer: &mut [u8]) -> rustix::io::Result<bool> {
    while at < end {
        at = match seek(&file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => return Ok(true),
            // A file system that cannot tell holes.
            Err(Errno::INVAL) => at,
            Err(e) => return Err(e),
        };
        if at >= end {
            return Ok(true);
        }
        let hole = seek(&file, SeekFrom::Hole(at)).unwrap_or(end).clamp(at + 1, end);
        if !read_range(&file, at, hole - at, buffer, |bytes| bytes.iter().all(|b| *b == 0))? {
            return Ok(false);
        }
        at = hole;
    }
    Ok(true)
}
