//! A file's bytes on their way: laid around its holes, hashed as they pass.

use std::io::Read;

use sha2::{Digest, Sha256};

use crate::model::{Id, Progress, Result};
use crate::restore::data::ranges;

/// Bytes at a time.
pub const PIECE: usize = 1 << 20;

/// What a file holds.
pub struct Content<'a> {
    /// Gives the bytes outside the holes, joined.
    reader: Box<dyn Read + 'a>,
    /// Ranges outside the holes that are not read yet, the last one first.
    ranges: Vec<(u64, u64)>,
    size: u64,
    /// How much of the file is hashed.
    at: u64,
    hash: Sha256,
    progress: &'a Progress,
    /// Why it could not be read to its end. From there on it reads as zeros.
    pub failed: Option<String>,
    /// Whether there was less than was expected. What is missing reads as zeros.
    pub short: bool,
}

impl<'a> Content<'a> {
    /// A file of this size with these holes.
    pub fn new(reader: Box<dyn Read + 'a>, size: u64, holes: &[(u64, u64)], progress: &'a Progress) -> Self {
        let ranges = ranges(size, holes).into_iter().rev().map(|(offset, len, _)| (offset, len)).collect();
        Self { reader, ranges, size, at: 0, hash: Sha256::new(), progress, failed: None, short: false }
    }

    /// The ranges that hold data.
    pub fn ranges(&self) -> Vec<(u64, u64)> {
        self.ranges.iter().rev().copied().collect()
    }

    /// The next piece of data: where it belongs, and how much of the buffer it is.
    pub fn next(&mut self, buffer: &mut [u8]) -> Result<Option<(u64, usize)>> {
        self.progress.check()?;
        let Some((offset, len)) = self.ranges.last().copied() else { return Ok(None) };
        self.hash_hole(offset);
        let want = usize::try_from(len).unwrap_or(usize::MAX).min(buffer.len());
        let piece = buffer.get_mut(..want).unwrap_or_default();
        let mut have = 0;
        while have < piece.len() && self.failed.is_none() && !self.short {
            match self.reader.read(piece.get_mut(have..).unwrap_or_default()) {
                Ok(0) => self.short = true,
                Ok(n) => have += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => self.failed = Some(e.to_string()),
            }
        }
        piece.get_mut(have..).unwrap_or_default().fill(0);
        self.hash.update(&*piece);
        let done = piece.len() as u64;
        self.at = offset + done;
        self.progress.add(0, done);
        self.ranges.pop();
        if done < len {
            self.ranges.push((offset + done, len - done));
        }
        Ok(Some((offset, piece.len())))
    }

    /// The hash of the whole file; what was not asked for is read.
    pub fn finish(&mut self) -> Result<Id> {
        let mut buffer = vec![0; if self.ranges.is_empty() { 0 } else { PIECE }];
        while self.next(&mut buffer)?.is_some() {}
        self.hash_hole(self.size);
        Ok(Id(std::mem::take(&mut self.hash).finalize().into()))
    }

    fn hash_hole(&mut self, until: u64) {
        static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
        let hole = until.saturating_sub(self.at);
        let mut left = hole;
        while left > 0 {
            let n = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len());
            self.hash.update(ZEROS.get(..n).unwrap_or_default());
            left -= n as u64;
        }
        self.at = self.at.max(until);
        self.progress.add(0, hole);
    }
}
