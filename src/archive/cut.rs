//! Cutting by content: a file or a stream, whose length need not be known, becomes chunks.

use std::io::{Read, Result};

use fastcdc::v2020::FastCDC;

const CHUNK_MIN: usize = 256 << 10;
const CHUNK_AVERAGE: usize = 1 << 20;
/// The longest chunk.
pub const CHUNK_MAX: usize = 4 << 20;

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
    buffer: Vec<u8>,
    start: usize,
    have: usize,
    ended: bool,
}

impl<R: Read> Cutter<R> {
    /// Cuts what `reader` gives.
    pub fn new(reader: R, mut buffer: Vec<u8>) -> Self {
        buffer.resize(CHUNK_MAX * 2, 0);
        Self { reader, buffer, start: 0, have: 0, ended: false }
    }

    /// The next chunk, and how many bytes were read for it; none at the end.
    pub fn next(&mut self) -> Result<Option<(&[u8], u64)>> {
        let mut read = 0;
        if self.have - self.start < CHUNK_MAX && !self.ended {
            self.buffer.copy_within(self.start..self.have, 0);
            self.have -= self.start;
            self.start = 0;
            let had = self.have;
            self.have = fill(&mut self.reader, &mut self.buffer, had)?;
            read = (self.have - had) as u64;
            self.ended = self.have < self.buffer.len();
        }
        if self.start == self.have {
            return Ok(None);
        }
        let window = &self.buffer[self.start..self.have.min(self.start + CHUNK_MAX)];
        let (_, len) = FastCDC::new(window, CHUNK_MIN, CHUNK_AVERAGE, CHUNK_MAX).cut(0, window.len());
        let len = len.clamp(1, window.len());
        self.start += len;
        Ok(Some((&window[..len], read)))
    }

    /// The reader and the buffer.
    pub fn into_parts(self) -> (R, Vec<u8>) {
        (self.reader, self.buffer)
    }
}
