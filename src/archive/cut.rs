//! Cutting by content: a file or a stream, whose length need not be known, becomes chunks.

use std::io::{Read, Result};

use fastcdc::v2020::FastCDC;

use crate::store::direct::{ALIGN, first_aligned};

/// How long chunks are, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    min: usize,
    average: usize,
    max: usize,
    /// Whether each is a segment of its own.
    pub alone: bool,
}

/// Chunks of most files, and of streams. Several small ones become a segment together.
pub const COMMON: Sizes = Sizes { min: 256 << 10, average: 1 << 20, max: 4 << 20, alone: false };

/// Chunks of files in which something is looked for here and there: images, databases. Each is a segment of its own,
/// so that reading a little costs a little.
const FINE: Sizes = Sizes { min: 128 << 10, average: 256 << 10, max: 1 << 20, alone: true };

/// Files of these sizes have fine chunks. Of a larger one there would be too many to keep in memory.
const IMAGES: std::ops::Range<u64> = 64 << 20..256 << 30;

/// The longest chunk.
pub const CHUNK_MAX: usize = COMMON.max;

const BUFFER: usize = CHUNK_MAX * 2 + ALIGN;

impl Sizes {
    /// How a file of this size is cut.
    pub fn of(size: u64) -> Self {
        if IMAGES.contains(&size) { FINE } else { COMMON }
    }
}

/// What a [`Cutter`] reads into, or whoever needs less: what is not used takes no memory.
pub fn buffer() -> Vec<u8> {
    vec![0; BUFFER]
}

/// Fills as much of `buffer[have..]` as there is.
pub fn fill(reader: &mut impl Read, buffer: &mut [u8], mut have: usize) -> Result<usize> {
    while have < buffer.len() {
        match reader.read(&mut buffer[have..]) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(have)
}

/// Cuts what it reads. The buffer is the caller's, who gets it back.
#[derive(Debug)]
pub struct Cutter<R> {
    reader: R,
    sizes: Sizes,
    buffer: Vec<u8>,
    start: usize,
    have: usize,
    ended: bool,
}

impl<R: Read> Cutter<R> {
    /// Cuts what `reader` gives.
    pub fn new(reader: R, sizes: Sizes, mut buffer: Vec<u8>) -> Self {
        buffer.resize(BUFFER, 0);
        let start = first_aligned(&buffer);
        Self { reader, sizes, buffer, start, have: start, ended: false }
    }

    /// The next chunk, and how many bytes were read for it; none at the end.
    pub fn next(&mut self) -> Result<Option<(&[u8], u64)>> {
        let mut read = 0;
        if self.have - self.start < self.sizes.max && !self.ended {
            // What is left ends where memory is aligned, so that what is read begins there.
            let left = self.have - self.start;
            let first = first_aligned(&self.buffer);
            let had = first + left.next_multiple_of(ALIGN);
            self.buffer.copy_within(self.start..self.have, had - left);
            self.start = had - left;
            let room = self.buffer.get_mut(..first + CHUNK_MAX * 2).unwrap_or_default();
            let full = room.len();
            self.have = fill(&mut self.reader, room, had)?;
            read = (self.have - had) as u64;
            self.ended = self.have < full;
        }
        if self.start == self.have {
            return Ok(None);
        }
        let Sizes { min, average, max, .. } = self.sizes;
        let window = &self.buffer[self.start..self.have.min(self.start + max)];
        let (_, len) = FastCDC::new(window, min, average, max).cut(0, window.len());
        let len = len.clamp(1, window.len());
        self.start += len;
        Ok(Some((&window[..len], read)))
    }

    /// The reader and the buffer.
    pub fn into_parts(self) -> (R, Vec<u8>) {
        (self.reader, self.buffer)
    }
}
