//! Bytes to numbers and back: the primitives of every binary record of the vault.
//!
//! Numbers are unsigned LEB128 varints in their shortest form; signed ones are zigzag-coded first.
//! The reader never trusts a length: what it hands out is always inside what it was given.

use crate::model::{Error, Id, Result};

/// Appends primitives to a buffer.
#[derive(Debug, Default)]
pub struct Writer {
    /// What was written so far.
    pub bytes: Vec<u8>,
}

impl Writer {
    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// An unsigned varint.
    pub fn uint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push((value as u8 & 0x7f) | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// A signed number, zigzag-coded.
    pub fn int(&mut self, value: i64) {
        self.uint(((value << 1) ^ (value >> 63)).cast_unsigned());
    }

    /// A varint length and that many bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.uint(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    /// The 32 bytes of an id.
    pub fn id(&mut self, id: &Id) {
        self.bytes.extend_from_slice(&id.0);
    }
}

/// Takes primitives off the front of a slice.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// A reader of `bytes`, which are `what` (for error messages).
    pub fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    /// The error of a record that is not as the format says.
    pub fn bad(&self, why: &str) -> Error {
        Error::damaged(format!("{} is malformed: {why}", self.what))
    }

    /// Bytes left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or_else(|| self.bad("it ends early"))?;
        self.rest = rest;
        Ok(head)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// An unsigned varint in its shortest form.
    pub fn uint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                break;
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(self.bad("a number is not in its shortest form"));
                }
                return Ok(value);
            }
        }
        Err(self.bad("a number is too large"))
    }

    /// An unsigned varint that must fit 32 bits.
    pub fn u32(&mut self) -> Result<u32> {
        u32::try_from(self.uint()?).map_err(|_| self.bad("a number is too large"))
    }

    /// A signed number, zigzag-coded.
    pub fn int(&mut self) -> Result<i64> {
        let value = self.uint()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// A count of records that each take at least `each` bytes: bounded by what is left.
    pub fn count(&mut self, each: usize) -> Result<usize> {
        let n = usize::try_from(self.uint()?).map_err(|_| self.bad("a count is too large"))?;
        if n > self.rest.len() / each.max(1) {
            return Err(self.bad("a count is larger than the record"));
        }
        Ok(n)
    }

    /// A varint length and that many bytes.
    pub fn bytes(&mut self) -> Result<&'a [u8]> {
        let n = self.count(1)?;
        self.take(n)
    }

    /// An id.
    pub fn id(&mut self) -> Result<Id> {
        let mut id = Id::default();
        id.0.copy_from_slice(self.take(32)?);
        Ok(id)
    }

    /// Refuses bytes after the end of the record.
    pub fn finish(self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.bad("it has bytes after its end")) }
    }
}
