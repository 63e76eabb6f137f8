//! Entries and their bytes, laid one after another.

use super::acl;
use super::compress::Compressor;
use super::header::{BLOCK, Header};
use crate::archive::PathError;
use crate::model::{Error, Progress, Result};
use crate::restore::ExportOutcome;
use crate::restore::data::Layout;
use crate::vault::Vault;
use crate::vault::tree::{Entry, Kind, Link, Metadata, Origin, Time};

/// Entries listed at most as not carried.
const LISTED: usize = 1000;

/// A tar stream being written.
pub struct Tar<'a> {
    vault: &'a Vault,
    out: Compressor,
    progress: &'a Progress,
    outcome: ExportOutcome,
    /// Modification time of directories for which the backup has none.
    now: i64,
}

impl<'a> Tar<'a> {
    /// A stream into `out`; `now` is the backup's time in seconds since 1970.
    pub fn new(vault: &'a Vault, out: Compressor, progress: &'a Progress, now: i64) -> Self {
        Self { vault, out, progress, outcome: ExportOutcome::default(), now }
    }

    /// Writes one entry.
    pub fn entry(&mut self, path: &[u8], entry: &Entry) -> Result<()> {
        let mut header = header(path, &entry.meta);
        if let Link::To { up, path: to, .. } = &entry.link
            && !matches!(entry.kind, Kind::Socket)
        {
            header.records.clear();
            header.kind = b'1';
            header.link = first_path(path, *up, to)?;
            return self.plain(&header, entry);
        }
        match &entry.kind {
            Kind::Directory { origin, .. } => {
                header.kind = b'5';
                header.path.push(b'/');
                if *origin == Origin::Ancestor {
                    header.mtime = Time { sec: self.now, nsec: 0 };
                }
            }
            Kind::File { size, holes, content } => {
                header.kind = b'0';
                let layout = Layout::new(self.vault, *size, holes, content)?;
                if holes.is_empty() {
                    self.file(header, &layout, *size)?
                } else {
                    self.sparse(header, &layout, *size)?
                }
                self.outcome.files += 1;
                self.outcome.bytes += size;
                let hollow = holes.iter().map(|(_, len)| len).sum();
                self.progress.add(1, hollow);
                return Ok(());
            }
            Kind::Symlink { target } => {
                header.kind = b'2';
                header.mode = 0o777;
                header.link.clone_from(target);
            }
            Kind::CharDevice(device) | Kind::BlockDevice(device) => {
                header.kind = if matches!(entry.kind, Kind::CharDevice(_)) { b'3' } else { b'4' };
                header.device = Some((device.major, device.minor));
            }
            Kind::Fifo => header.kind = b'6',
            Kind::Socket => return self.left_out(path, "unsupported", "tar cannot carry a socket"),
            Kind::Unread => return self.left_out(path, "unreadable", "it could not be read when it was backed up"),
        }
        self.plain(&header, entry)
    }

    fn plain(&mut self, header: &Header, entry: &Entry) -> Result<()> {
        self.out.write(&header.encode())?;
        self.outcome.files += 1;
        let bytes = if entry.is_dir() { 0 } else { entry.totals().bytes };
        self.progress.add(1, bytes);
        Ok(())
    }

    fn left_out(&mut self, path: &[u8], code: &str, message: &str) -> Result<()> {
        self.outcome.errors += 1;
        if self.outcome.error_list.len() < LISTED {
            let path = [b"/", path].concat();
            self.outcome.error_list.push(PathError { path, code: code.into(), message: message.into() });
        }
        self.progress.add(1, 0);
        Ok(())
    }

    fn file(&mut self, mut header: Header, layout: &Layout<'_>, size: u64) -> Result<()> {
        header.size = size;
        self.out.write(&header.encode())?;
        self.content(layout)?;
        self.pad(size)
    }

    fn sparse(&mut self, header: Header, layout: &Layout<'_>, size: u64) -> Result<()> {
        let (head, len) = sparse(header, layout.ranges().collect(), size);
        self.out.write(&head)?;
        self.content(layout)?;
        self.pad(len)
    }

    fn content(&mut self, layout: &Layout<'_>) -> Result<()> {
        for part in layout.parts() {
            let (_, part) = part?;
            self.progress.check()?;
            let blob = self.vault.read_blob(&part.id)?;
            if blob.len() as u64 != part.len {
                return Err(Error::damaged(format!("the blob {} is not as long as the file says", part.id)));
            }
            self.out.write(&blob)?;
            self.progress.add(0, part.len);
        }
        Ok(())
    }

    fn pad(&mut self, len: u64) -> Result<()> {
        self.out.write(padding(len))
    }

    /// Ends the stream as what was written deserves: whole, or so that every reader notices.
    pub fn finish(mut self, result: Result<()>) -> Result<ExportOutcome> {
        if let Err(e) = result {
            let cut =
                Header { path: b".strongroom-export-failed".to_vec(), kind: b'0', size: 1 << 40, ..Header::default() };
            // The first error is the one to tell.
            let _ = self.out.write(&cut.encode());
            let _ = self.out.finish();
            return Err(e);
        }
        self.out.write(&[0; 2 * BLOCK])?;
        self.outcome.written = self.out.finish()?;
        Ok(self.outcome)
    }
}

/// What all kinds of entries have.
pub fn header(path: &[u8], meta: &Metadata) -> Header {
    let mut header = Header {
        path: path.to_vec(),
        mode: meta.mode,
        uid: meta.owner.uid,
        gid: meta.owner.gid,
        user: meta.owner.user.clone().into_bytes(),
        group: meta.owner.group.clone().into_bytes(),
        mtime: meta.mtime,
        ..Header::default()
    };
    for (name, value) in &meta.xattrs {
        let acl = match name.as_slice() {
            b"system.posix_acl_access" => acl::text(value).map(|text| ("SCHILY.acl.access", text)),
            b"system.posix_acl_default" => acl::text(value).map(|text| ("SCHILY.acl.default", text)),
            _ => None,
        };
        header.records.push(match acl {
            Some((key, text)) => (key.into(), text.into_bytes()),
            None => ([b"SCHILY.xattr.", name.as_slice()].concat(), value.clone()),
        });
    }
    if let Some(flags) = flags_text(meta.flags) {
        header.records.push((b"SCHILY.fflags".to_vec(), flags.into_bytes()));
    }
    header
}

/// The head of a file with holes, in the form `GNU.sparse` 1.0 (a map of what follows, then that),
/// and how many bytes of data follow it.
pub fn sparse(mut header: Header, mut ranges: Vec<(u64, u64)>, size: u64) -> (Vec<u8>, u64) {
    // A hole at the end is told by an empty range there.
    if ranges.last().is_none_or(|(offset, len)| offset + len < size) {
        ranges.push((size, 0));
    }
    let mut map = format!("{}\n", ranges.len());
    for (offset, len) in &ranges {
        map.push_str(&format!("{offset}\n{len}\n"));
    }
    let mut map = map.into_bytes();
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    let len: u64 = ranges.iter().map(|(_, len)| len).sum();
    let record = |key: &str, value: Vec<u8>| (key.as_bytes().to_vec(), value);
    header.records.extend([
        record("GNU.sparse.major", b"1".to_vec()),
        record("GNU.sparse.minor", b"0".to_vec()),
        record("GNU.sparse.name", header.path.clone()),
        record("GNU.sparse.realsize", size.to_string().into_bytes()),
    ]);
    let at = header.path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
    header.path = [&header.path[..at], b"GNUSparseFile.0/", &header.path[at..]].concat();
    header.size = map.len() as u64 + len;
    let mut head = header.encode();
    head.extend_from_slice(&map);
    (head, len)
}

/// What fills the last block after so many bytes.
pub fn padding(len: u64) -> &'static [u8] {
    const ZEROS: [u8; BLOCK] = [0; BLOCK];
    match usize::try_from(len % BLOCK as u64).unwrap_or(0) {
        0 => &[],
        over => &ZEROS[over..],
    }
}

/// The path in the stream of a hard link's first name.
fn first_path(path: &[u8], up: u32, to: &[u8]) -> Result<Vec<u8>> {
    let mut names: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
    names.pop();
    let depth = usize::try_from(up).ok().and_then(|up| names.len().checked_sub(up));
    names.truncate(depth.ok_or_else(|| Error::damaged("its hard link leads above the root of the backup"))?);
    names.push(to);
    Ok(names.join(&b'/'))
}

/// Inode flags by the names that BSD's tar gives them; GNU's has none.
fn flags_text(flags: u32) -> Option<String> {
    const NAMES: [(u32, &str); 9] = [
        (0x04, "compress"),
        (0x08, "sync"),
        (0x10, "schg"),
        (0x20, "sappnd"),
        (0x40, "nodump"),
        (0x80, "noatime"),
        (0x4000, "journal-data"),
        (0x1_0000, "dirsync"),
        (0x80_0000, "nocow"),
    ];
    let names: Vec<_> = NAMES.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect();
    (!names.is_empty()).then(|| names.join(","))
}
