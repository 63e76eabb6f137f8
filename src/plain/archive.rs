//! A copy as one archive: the folder of plain files as a compressed tar stream.

use std::fs::File;
use std::io::Read;

use super::backup::Sink;
use super::content::{Content, PIECE};
use super::line::{Line, What};
use crate::model::{Error, ErrorKind, IoContext, Result};
use crate::restore::Format;
use crate::restore::tar::compress::Compressor;
use crate::restore::tar::header::{BLOCK, Header};
use crate::restore::tar::stream::{header, padding, sparse};
use crate::vault::tree::{Metadata, Time};

/// The archive being written.
pub struct Archive {
    out: Compressor,
    /// Time of what has none: seconds since 1970.
    now: i64,
    buffer: Vec<u8>,
}

/// No entry can be written once the stream is broken.
fn fatal(e: Error) -> Error {
    match e.kind {
        ErrorKind::Cancelled | ErrorKind::NoSpace => e,
        _ => Error::destination_failed(e.message),
    }
}

impl Archive {
    /// An archive in a new file.
    pub fn new(format: Format, file: File, now: i64) -> Result<Self> {
        Ok(Self { out: Compressor::new(format, Box::new(file))?, now, buffer: vec![0; PIECE] })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write(bytes).map_err(fatal)
    }

    fn plain(&mut self, header: &Header) -> Result<Vec<String>> {
        self.write(&header.encode())?;
        Ok(Vec::new())
    }

    fn own(&self, name: &str, size: u64) -> Header {
        Header {
            path: name.as_bytes().to_vec(),
            kind: b'0',
            mode: 0o600,
            size,
            mtime: Time { sec: self.now, nsec: 0 },
            ..Header::default()
        }
    }
}

impl Sink for Archive {
    fn begin(&mut self, _folder: &[u8]) -> Result<()> {
        Ok(())
    }

    fn enter(&mut self, _line: &Line, at: &[u8], meta: &Metadata, ancestor: bool) -> Result<Vec<String>> {
        let mut header = header(at, meta);
        header.kind = b'5';
        header.path.push(b'/');
        if ancestor {
            header.mtime = Time { sec: self.now, nsec: 0 };
        }
        self.plain(&header)
    }

    fn leave(&mut self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn file(
        &mut self,
        _path: &[u8],
        at: &[u8],
        meta: &Metadata,
        size: u64,
        content: &mut Content<'_>,
    ) -> Result<Vec<String>> {
        let mut header = header(at, meta);
        header.kind = b'0';
        let ranges = content.ranges();
        let whole = ranges.iter().map(|(_, len)| len).sum::<u64>() == size;
        let len = if whole {
            header.size = size;
            self.write(&header.encode())?;
            size
        } else {
            let (head, len) = sparse(header, ranges, size);
            self.write(&head)?;
            len
        };
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut copy = || -> Result<()> {
            while let Some((_, n)) = content.next(&mut buffer)? {
                self.out.write(buffer.get(..n).unwrap_or_default()).map_err(fatal)?;
            }
            Ok(())
        };
        let copied = copy();
        self.buffer = buffer;
        copied?;
        self.write(padding(len))?;
        Ok(Vec::new())
    }

    fn link(&mut self, line: &Line, _first: &[u8], at: &[u8], first_at: &[u8]) -> Result<Vec<String>> {
        if line.what == What::Socket {
            return Ok(Vec::new());
        }
        let mut header = header(at, &line.meta());
        header.records.clear();
        header.kind = b'1';
        header.link = first_at.to_vec();
        self.plain(&header)
    }

    fn special(&mut self, line: &Line, at: &[u8], meta: &Metadata) -> Result<Vec<String>> {
        let mut header = header(at, meta);
        match &line.what {
            What::Symlink { target } => {
                (header.kind, header.mode) = (b'2', 0o777);
                header.link.clone_from(target);
            }
            What::CharDevice { major, minor } => (header.kind, header.device) = (b'3', Some((*major, *minor))),
            What::BlockDevice { major, minor } => (header.kind, header.device) = (b'4', Some((*major, *minor))),
            What::Fifo => header.kind = b'6',
            // Tar cannot carry a socket; its line can.
            _ => return Ok(Vec::new()),
        }
        self.plain(&header)
    }

    fn top(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.write(&self.own(name, content.len() as u64).encode())?;
        self.write(content)?;
        self.write(padding(content.len() as u64))
    }

    fn top_file(&mut self, name: &str, spool: &File, len: u64) -> Result<()> {
        self.write(&self.own(name, len).encode())?;
        let mut from = spool.take(len);
        let mut buffer = vec![0; PIECE];
        let mut left = len;
        while left > 0 {
            let n = from.read(&mut buffer).at(|| format!("cannot read {name} again"))?;
            if n == 0 {
                return Err(Error::failed(format!("cannot read {name} again: it ends too early")));
            }
            self.write(buffer.get(..n).unwrap_or_default())?;
            left -= n as u64;
        }
        self.write(padding(len))
    }

    fn finish(&mut self) -> Result<u64> {
        self.write(&[0; 2 * BLOCK])?;
        self.out.finish().map_err(fatal)
    }
}
