//! A copy that was written before, opened: its manifest and its list of entries are checked before
//! anything is made of them.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, unlinkat};
use sha2::{Digest, Sha256};

use super::line::{Line, What};
use super::manifest::Manifest;
use super::unpack::{Entry, Tar};
use super::{COMMON_DATA, ENTRIES, MANIFEST, SUMS, sums};
use crate::model::{Error, Id, IoContext, Progress, Result};
use crate::restore::data::ranges;
use crate::restore::dir::open_dir;
use crate::restore::job::open_root;
use crate::source::file;

/// The longest manifest, and the longest configuration.
const WHOLE: u64 = 64 << 20;

/// A copy that can be brought back.
pub struct Source {
    /// What it is.
    pub manifest: Manifest,
    /// The appliance's own configuration, if it is in it.
    pub common_data: Option<Vec<u8>>,
    /// The list of entries, out of anybody's reach.
    lines: File,
    place: Place,
}

enum Place {
    Folder {
        root: OwnedFd,
        /// The directory that was opened last.
        last: Option<(Vec<u8>, OwnedFd)>,
    },
    Archive {
        file: File,
        tar: Option<Box<Tar<Box<dyn Read>>>>,
    },
}

fn not_a_copy(path: &Path, why: &str) -> Error {
    Error::invalid(format!(
        "store_location is {}, which {why}; give the folder or the archive that a task wrote",
        path.display()
    ))
}

/// What stands beside the entries.
#[derive(Default)]
struct Top {
    manifest: Option<Vec<u8>>,
    common: Option<Vec<u8>>,
    entries: Option<(File, Id)>,
    /// The lines of the checksums that are about the top.
    sums: Option<String>,
}

impl Top {
    /// Takes one of the files at the top; one that comes twice is refused.
    fn take(&mut self, name: &[u8], content: &mut dyn Read, scratch: &Path, progress: &Progress) -> Result<()> {
        let shown = String::from_utf8_lossy(name).into_owned();
        let whole = |content: &mut dyn Read| {
            let mut bytes = Vec::new();
            content.take(WHOLE + 1).read_to_end(&mut bytes).at(|| format!("cannot read {shown}"))?;
            if bytes.len() as u64 > WHOLE { Err(Error::damaged(format!("{shown} is too long"))) } else { Ok(bytes) }
        };
        let twice = match name {
            n if n == MANIFEST.as_bytes() => self.manifest.replace(whole(content)?).is_some(),
            n if n == COMMON_DATA.as_bytes() => self.common.replace(whole(content)?).is_some(),
            n if n == ENTRIES.as_bytes() => self.entries.replace(spool(content, scratch, progress)?).is_some(),
            n if n == SUMS.as_bytes() => self.sums.replace(top_sums(content)?).is_some(),
            _ => false,
        };
        if twice { Err(Error::damaged(format!("{shown} is in it twice"))) } else { Ok(()) }
    }

    fn check(self) -> Result<(Manifest, Option<Vec<u8>>, File)> {
        let missing = |name: &str| Error::damaged(format!("{name} is missing"));
        let sums = self.sums.ok_or_else(|| missing(SUMS))?;
        let bytes = self.manifest.ok_or_else(|| missing(MANIFEST))?;
        let (lines, entries) = self.entries.ok_or_else(|| missing(ENTRIES))?;
        let known = [
            (MANIFEST, Some(Id::of(&bytes))),
            (ENTRIES, Some(entries)),
            (COMMON_DATA, self.common.as_deref().map(Id::of)),
        ];
        for (name, sum) in known {
            if let Some(sum) = sum
                && sums::find(&sums, name) != Some(sum)
            {
                return Err(Error::damaged(format!("{name} is not as {SUMS} says")));
            }
        }
        let manifest = Manifest::read(&bytes)?;
        if manifest.entries_sha256 != entries {
            return Err(Error::damaged(format!("{ENTRIES} is not as {MANIFEST} says")));
        }
        if manifest.common_data != self.common.is_some() {
            return Err(missing(COMMON_DATA));
        }
        Ok((manifest, self.common, lines))
    }
}

/// A private copy of a stream, and its hash.
fn spool(content: &mut dyn Read, scratch: &Path, progress: &Progress) -> Result<(File, Id)> {
    let what = || "cannot keep the list of entries";
    let name = scratch.join(format!("entries-{}", std::process::id()));
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let _ = unlinkat(CWD, &name, AtFlags::empty());
    let mut file = File::from(openat(CWD, &name, flags, Mode::RUSR | Mode::WUSR).at(what)?);
    unlinkat(CWD, &name, AtFlags::empty()).at(what)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        progress.check()?;
        let n = content.read(&mut buffer).at(|| format!("cannot read {ENTRIES}"))?;
        let Some(piece) = buffer.get(..n).filter(|piece| !piece.is_empty()) else { break };
        hash.update(piece);
        file.write_all(piece).at(what)?;
    }
    file.rewind().at(what)?;
    Ok((file, Id(hash.finalize().into())))
}

/// The lines about files at the top: those whose paths have no slash.
fn top_sums(content: &mut dyn Read) -> Result<String> {
    let mut found = String::new();
    let mut reader = BufReader::new(content);
    let mut line = Vec::new();
    loop {
        line.clear();
        let n = (&mut reader).take(WHOLE).read_until(b'\n', &mut line).at(|| format!("cannot read {SUMS}"))?;
        if n == 0 {
            return Ok(found);
        }
        if !line.contains(&b'/')
            && let Ok(text) = std::str::from_utf8(&line)
            && found.len() < 1 << 16
        {
            found.push_str(text);
        }
    }
}

fn decompressed(file: &File) -> Result<Box<dyn Read>> {
    let what = || "cannot read the archive";
    let mut file = file.try_clone().at(what)?;
    file.rewind().at(what)?;
    let mut magic = [0; 4];
    let n = rustix::io::pread(&file, &mut magic, 0).at(what)?;
    let magic = magic.get(..n).unwrap_or_default();
    Ok(if magic.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::read::MultiGzDecoder::new(BufReader::with_capacity(1 << 16, file)))
    } else if magic == [0x28, 0xb5, 0x2f, 0xfd] {
        Box::new(zstd::stream::read::Decoder::new(file).at(what)?)
    } else {
        Box::new(BufReader::with_capacity(1 << 16, file))
    })
}

/// A name in an archive, without what GNU tar may put before it.
fn name_in(entry: &Entry) -> &[u8] {
    entry.path.strip_prefix(b"./").unwrap_or(&entry.path)
}

impl Source {
    /// Opens a copy. `scratch` is a directory of our own.
    pub fn open(path: &Path, scratch: &Path, progress: &Progress) -> Result<Self> {
        let damaged = |e: Error| e.context(path.display());
        let mut top = Top::default();
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(not_a_copy(path, "is the root of everything"));
        };
        let Some(above) = open_root(parent, false).map_err(|e| e.context("store_location"))?.0 else {
            return Err(not_a_copy(path, "does not exist"));
        };
        let place = if let Ok(root) = open_dir(&above, name.as_bytes()) {
            for name in [MANIFEST, COMMON_DATA, ENTRIES, SUMS] {
                match file::open(&root, name.as_bytes()) {
                    Ok((mut file, _)) => {
                        top.take(name.as_bytes(), &mut file, scratch, progress).map_err(damaged)?;
                    }
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound && name == MANIFEST => {
                        return Err(not_a_copy(path, "has no MANIFEST.json"));
                    }
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                    Err(e) => return Err(e).at(|| format!("cannot open {name} in {}", path.display())),
                }
            }
            Place::Folder { root, last: None }
        } else {
            let (file, _) = file::open(&above, name.as_bytes()).map_err(|e| {
                not_a_copy(
                    path,
                    &if e.kind() == std::io::ErrorKind::NotFound {
                        "does not exist".into()
                    } else {
                        format!("cannot be opened ({e})")
                    },
                )
            })?;
            let mut tar = Tar::new(decompressed(&file)?);
            while let Some(entry) = tar.next().map_err(damaged)? {
                progress.check()?;
                if matches!(entry.kind, b'0' | 0) && !name_in(&entry).contains(&b'/') {
                    top.take(name_in(&entry), &mut tar, scratch, progress).map_err(damaged)?;
                }
            }
            Place::Archive { file, tar: None }
        };
        let (manifest, common_data, lines) = top.check().map_err(damaged)?;
        Ok(Self { manifest, common_data, lines, place })
    }

    /// The lines from the first. Only one reader of them may be at work.
    pub fn lines(&self) -> Result<Lines> {
        let what = || "cannot read the list of entries";
        let mut file = self.lines.try_clone().at(what)?;
        file.rewind().at(what)?;
        Ok(Lines { reader: BufReader::with_capacity(1 << 16, file), resources: self.manifest.resources.len() })
    }

    /// Gives `read` the bytes of a file outside its holes. Files come in the order of their lines.
    pub fn content(&mut self, at: &[u8], line: &Line, read: &mut dyn FnMut(&mut dyn Read) -> Result<()>) -> Result<()> {
        let What::File { size, holes, .. } = &line.what else { return Err(Error::failed("it is not a file")) };
        match &mut self.place {
            Place::Folder { root, last } => {
                let split = at.iter().rposition(|b| *b == b'/').unwrap_or(0);
                let (above, name) = (at.get(..split).unwrap_or_default(), at.get(split + 1..).unwrap_or_default());
                if last.as_ref().is_none_or(|(path, _)| path != above) {
                    let mut dir = open_dir(&*root, b".").at(|| "cannot open the copy")?;
                    for part in above.split(|b| *b == b'/') {
                        dir = open_dir(&dir, part)
                            .map_err(|e| Error::damaged(format!("its directory in the copy cannot be opened: {e}")))?;
                    }
                    *last = Some((above.to_vec(), dir));
                }
                let Some((_, dir)) = last else { return Ok(()) };
                let (file, stat) = file::open(&*dir, name)
                    .map_err(|e| Error::damaged(format!("it cannot be opened in the copy: {e}")))?;
                if stat.size != *size {
                    return Err(Error::damaged(format!("it has {} bytes in the copy, and had {size}", stat.size)));
                }
                read(&mut file::DataReader::new(&file, holes, *size))
            }
            Place::Archive { .. } if line.first.is_some() => Err(Error::invalid_state(
                "it is a hard link to a file that was not restored, and an archive has its content only there",
            )),
            Place::Archive { file, tar } => {
                let tar = match tar {
                    Some(tar) => tar,
                    None => tar.insert(Box::new(Tar::new(decompressed(file)?))),
                };
                let entry = loop {
                    match tar.next()? {
                        Some(entry) if name_in(&entry) == at => break entry,
                        Some(_) => {}
                        // Every later one would be missing too.
                        None => {
                            return Err(Error::destination_failed(format!(
                                "the archive does not hold {} where it was written; if it was packed again, unpack it and give the folder",
                                String::from_utf8_lossy(at)
                            )));
                        }
                    }
                };
                let want: Vec<_> = ranges(*size, holes).iter().map(|(offset, len, _)| (*offset, *len)).collect();
                let len: u64 = want.iter().map(|(_, len)| len).sum();
                let same = match &entry.ranges {
                    Some(ranges) => *ranges == want,
                    None => holes.is_empty(),
                };
                if !matches!(entry.kind, b'0' | 0) || !same || entry.len != len {
                    return Err(Error::damaged("it is other in the archive than in the list of entries"));
                }
                read(tar)
            }
        }
    }
}

/// The lines of a copy.
pub struct Lines {
    reader: BufReader<File>,
    resources: usize,
}

impl Lines {
    /// The next one.
    pub fn read(&mut self) -> Result<Option<Line>> {
        let mut text = Vec::new();
        let n = (&mut self.reader).take(WHOLE).read_until(b'\n', &mut text).at(|| format!("cannot read {ENTRIES}"))?;
        if n == 0 {
            return Ok(None);
        }
        let line: Line = serde_json::from_slice(&text)
            .map_err(|e| Error::damaged(format!("{ENTRIES} has a line that cannot be read: {e}")))?;
        line.check(self.resources)?;
        Ok(Some(line))
    }
}
