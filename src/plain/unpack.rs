//! Reading a tar stream, as far as copies need it: names, lengths, maps of holes. Nothing in it is
//! trusted, and nothing is unpacked here.

use std::io::Read;

use crate::model::{Error, IoContext, Result};
use crate::restore::tar::header::BLOCK;

/// The longest extended header: it holds a path, attributes and a few numbers.
const EXTENDED: u64 = 16 << 20;
/// The most ranges of a file with holes.
const RANGES: usize = 1 << 20;

/// A tar stream.
pub struct Tar<R> {
    stream: R,
    /// Bytes of the current entry that were not read, and what fills its last block.
    left: u64,
    padding: u64,
}

/// An entry. Its data is read from the stream.
#[derive(Debug, Default)]
pub struct Entry {
    /// Its name.
    pub path: Vec<u8>,
    /// The letter of its type.
    pub kind: u8,
    /// Where its data belongs as (offset, length), if it has holes.
    pub ranges: Option<Vec<(u64, u64)>>,
    /// How much data follows.
    pub len: u64,
}

fn bad(what: &str) -> Error {
    Error::damaged(format!("the archive {what}"))
}

/// An octal number, or one of GNU's binary ones.
fn number(field: &[u8]) -> Result<u64> {
    if let Some((0x80, rest)) = field.split_first() {
        let digits = rest.iter().skip_while(|b| **b == 0);
        return digits
            .clone()
            .try_fold(0_u64, |n, b| n.checked_mul(256).map(|n| n | u64::from(*b)))
            .ok_or_else(|| bad("has a number out of range"));
    }
    let text: Vec<u8> = field.iter().copied().filter(|b| !matches!(b, 0 | b' ')).collect();
    if text.is_empty() {
        return Ok(0);
    }
    let text = std::str::from_utf8(&text).map_err(|_| bad("has a field that is no number"))?;
    u64::from_str_radix(text, 8).map_err(|_| bad("has a field that is no number"))
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

impl<R: Read> Tar<R> {
    /// A stream from its start.
    pub fn new(stream: R) -> Self {
        Self { stream, left: 0, padding: 0 }
    }

    /// The next entry; what was not read of the one before is passed over.
    pub fn next(&mut self) -> Result<Option<Entry>> {
        let mut entry = Entry::default();
        let (mut path, mut size, mut sparse) = (None, None, false);
        loop {
            self.skip()?;
            let mut block = [0; BLOCK];
            if !self.fill(&mut block)? {
                return Err(bad("ends too early"));
            }
            if block.iter().all(|b| *b == 0) {
                // What follows the end is drained, so that the compressed stream is checked to its own end.
                std::io::copy(&mut self.stream, &mut std::io::sink()).at(|| "cannot read the archive")?;
                return Ok(None);
            }
            let field = |from: usize, len: usize| block.get(from..from + len).unwrap_or_default();
            let sum: u64 =
                block.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u64::from(*b) }).sum();
            if sum != number(field(148, 8))? {
                return Err(bad("has a header that is damaged"));
            }
            let kind = block[156];
            let len = number(field(124, 12))?;
            match kind {
                b'x' => {
                    for (key, value) in records(&self.whole(len)?)? {
                        match key.as_slice() {
                            b"path" => path = path.or(Some(value)),
                            b"GNU.sparse.name" => path = Some(value),
                            b"GNU.sparse.major" => sparse = value == b"1",
                            b"size" => {
                                let text = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
                                size = Some(text.ok_or_else(|| bad("has a size that is no number"))?);
                            }
                            _ => {}
                        }
                    }
                    continue;
                }
                b'L' => {
                    path = Some(until_nul(&self.whole(len)?).to_vec());
                    continue;
                }
                b'g' | b'K' => {
                    self.whole(len)?;
                    continue;
                }
                _ => {}
            }
            entry.kind = kind;
            let len = match kind {
                b'0' | 0 | b'7' => size.unwrap_or(len),
                _ => 0,
            };
            self.set(len);
            let (name, prefix) = (until_nul(field(0, 100)), until_nul(field(345, 155)));
            let own = if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() };
            entry.path = path.unwrap_or(own);
            if sparse {
                entry.ranges = Some(self.map()?);
            }
            entry.len = self.left;
            return Ok(Some(entry));
        }
    }

    fn set(&mut self, len: u64) {
        self.left = len;
        self.padding = len.next_multiple_of(BLOCK as u64).saturating_sub(len);
    }

    /// Fills the buffer; `false` at the end of the stream.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<bool> {
        match self.stream.read_exact(buffer) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
            Err(e) => Err(Error::damaged(format!("cannot read the archive: {e}"))),
        }
    }

    fn skip(&mut self) -> Result<()> {
        let len = self.left.saturating_add(self.padding);
        let skipped = std::io::copy(&mut (&mut self.stream).take(len), &mut std::io::sink());
        let skipped = skipped.map_err(|e| Error::damaged(format!("cannot read the archive: {e}")))?;
        (self.left, self.padding) = (0, 0);
        if skipped == len { Ok(()) } else { Err(bad("ends too early")) }
    }

    /// The data of an extended header.
    fn whole(&mut self, len: u64) -> Result<Vec<u8>> {
        if len > EXTENDED {
            return Err(bad("has an extended header that is too long"));
        }
        self.set(len);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        if !self.fill(&mut bytes)? {
            return Err(bad("ends too early"));
        }
        self.left = 0;
        Ok(bytes)
    }

    /// The map that the data of a file with holes begins with.
    fn map(&mut self) -> Result<Vec<(u64, u64)>> {
        let mut numbers: Vec<u64> = Vec::new();
        let (mut block, mut text) = ([0; BLOCK], Vec::new());
        loop {
            if self.left < BLOCK as u64 || !self.fill(&mut block)? {
                return Err(bad("has a map of holes that ends too early"));
            }
            self.left -= BLOCK as u64;
            for b in block {
                if b != b'\n' {
                    text.push(b);
                    if text.len() > 20 && b != 0 {
                        return Err(bad("has a map of holes that is none"));
                    }
                    continue;
                }
                let number = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
                numbers.push(number.ok_or_else(|| bad("has a map of holes that is none"))?);
                text.clear();
                let count = numbers.first().copied().unwrap_or(0);
                if count > RANGES as u64 {
                    return Err(bad("has a file with too many holes"));
                }
                if numbers.len() as u64 == 1 + 2 * count {
                    let ranges = numbers.get(1..).unwrap_or_default().chunks_exact(2).map(|pair| (pair[0], pair[1]));
                    return Ok(ranges.filter(|(_, len)| *len > 0).collect());
                }
            }
        }
    }
}

impl<R: Read> Read for Tar<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let n = self.stream.read(buffer.get_mut(..room).unwrap_or_default())?;
        self.left -= n as u64;
        Ok(n)
    }
}

/// Key and value of each record of an extended header.
fn records(mut bytes: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let wrong = || bad("has an extended header that cannot be read");
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|b| *b == b' ').ok_or_else(wrong)?;
        let len: usize =
            std::str::from_utf8(&bytes[..space]).ok().and_then(|text| text.parse().ok()).ok_or_else(wrong)?;
        let record = bytes.get(space + 1..len).and_then(|record| record.strip_suffix(b"\n")).ok_or_else(wrong)?;
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(wrong)?;
        records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        bytes = &bytes[len..];
    }
    Ok(records)
}
