//! A backup into a plain copy.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufWriter, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use jiff::Timestamp;
use rustix::fs::{AtFlags, Mode, OFlags, openat, readlinkat, unlinkat};
use sha2::{Digest, Sha256};

use super::archive::Archive;
use super::content::Content;
use super::folder::Folder;
use super::line::{Line, What};
use super::manifest::{Manifest, ResourceRecord};
use super::walk::{self, Leaf, Tree, Visitor};
use super::work::{self, WorkDir};
use super::{COMMON_DATA, ENTRIES, Errors, MANIFEST, SUMS, sums};
use crate::archive::PathError;
use crate::model::{Error, Id, IoContext, Progress, Result};
use crate::restore::job::never;
use crate::restore::live::Identity;
use crate::restore::{Format, OnError};
use crate::source::stat::Type;
use crate::source::{Excludes, Owners, Stat, capture, file};
use crate::vault::tree::{Metadata, Time};

/// What an entry takes beside its data: its line, its name and its inode, roughly.
const ENTRY_COST: u64 = 1024;
/// Data takes whole blocks.
const BLOCK: u64 = 4096;

/// What to copy, and where to.
#[derive(Debug, Clone)]
pub struct Request {
    /// The directory that holds the task's results.
    pub results: PathBuf,
    /// The result's name, without an extension.
    pub name: String,
    /// The job.
    pub job: u64,
    /// When it begins.
    pub now: Timestamp,
    /// The task's name.
    pub task: String,
    /// The machine's name.
    pub machine: String,
    /// What to copy.
    pub resources: Vec<ResourceRecord>,
    /// Directories that are never copied.
    pub never: Vec<PathBuf>,
    /// Only files changed since then.
    pub since: Option<Timestamp>,
    /// One archive of this form; none: a folder.
    pub format: Option<Format>,
    /// Whether the first error ends it.
    pub on_error: OnError,
    /// Whether it must fit before it begins.
    pub space_check: bool,
    /// The appliance's own configuration.
    pub common_data: Option<serde_json::Value>,
}

/// What was copied.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Where to.
    pub path: PathBuf,
    /// Entries.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// What could not be copied, or not exactly.
    pub errors: u64,
    /// The first of them.
    pub error_list: Vec<PathError>,
}

/// Where a copy goes. Answers are problems of the entry alone.
pub trait Sink {
    /// The folder of the resource whose entries follow.
    fn begin(&mut self, folder: &[u8]) -> Result<()>;
    /// A directory; what follows until it is left is in it.
    fn enter(&mut self, line: &Line, at: &[u8], meta: &Metadata, ancestor: bool) -> Result<Vec<String>>;
    /// The end of a directory.
    fn leave(&mut self) -> Result<Vec<String>>;
    /// A file. Where its content fails, it is not kept.
    fn file(
        &mut self,
        path: &[u8],
        at: &[u8],
        meta: &Metadata,
        size: u64,
        content: &mut Content<'_>,
    ) -> Result<Vec<String>>;
    /// A later name of an inode.
    fn link(&mut self, line: &Line, first: &[u8], at: &[u8], first_at: &[u8]) -> Result<Vec<String>>;
    /// Anything else.
    fn special(&mut self, line: &Line, at: &[u8], meta: &Metadata) -> Result<Vec<String>>;
    /// A file at the top, from memory.
    fn top(&mut self, name: &str, content: &[u8]) -> Result<()>;
    /// A file at the top, from the beginning of a file.
    fn top_file(&mut self, name: &str, spool: &File, len: u64) -> Result<()>;
    /// Everything was given. How long the archive is.
    fn finish(&mut self) -> Result<u64>;
}

/// Copies. What fails or is cancelled leaves nothing behind.
pub fn run(request: &Request, progress: &Progress) -> Result<Outcome> {
    let excludes = request.resources.iter().map(|r| Excludes::new(&r.exclude)).collect::<Result<Vec<_>>>()?;
    let mut left_out = request.never.clone();
    left_out.push(request.results.clone());
    let since =
        request.since.map(|t| Time { sec: t.as_second(), nsec: u32::try_from(t.subsec_nanosecond()).unwrap_or(0) });
    let trees = |never| {
        request.resources.iter().zip(&excludes).map(move |(resource, excludes)| Tree {
            paths: &resource.paths,
            excludes,
            one_file_system: resource.one_file_system,
            never,
            since,
        })
    };
    let mut count = Count::default();
    let known = never(&left_out);
    for tree in trees(&known) {
        walk::walk(&tree, &mut count, progress)?;
    }
    if request.space_check {
        let room = work::room(&request.results)?;
        if count.space > room {
            return Err(Error::no_space(format!(
                "{} bytes are to be written to {}, which has room for {room}; make room, or give space_cap_check false",
                count.space,
                request.results.display()
            )));
        }
    }
    progress.expect(count.entries, count.bytes);

    let work = WorkDir::new(&request.results, request.job)?;
    // Again: the directory of the results may have been made only now.
    let known = never(&left_out);
    let mut manifest = Manifest::new(request);
    let now = manifest.created_at.as_second();
    let mut sink: Box<dyn Sink> = match request.format {
        None => Box::new(Folder::new(work.dir.try_clone().at(|| "cannot use the copy's directory")?)),
        Some(format) => Box::new(Archive::new(format, make(&work.dir, ARCHIVE)?, now)?),
    };
    let mut copier = Copier {
        sink: &mut *sink,
        progress,
        owners: Owners::default(),
        errors: Errors::new(request.on_error),
        entries: Spool::new(&work.dir, ".entries")?,
        sums: Spool::new(&work.dir, ".sums")?,
        resource: 0,
        folder: Vec::new(),
        open: Vec::new(),
        linked: HashMap::new(),
        outcome: Outcome::default(),
    };
    for (n, (tree, resource)) in trees(&known).zip(&request.resources).enumerate() {
        copier.begin(n, resource)?;
        walk::walk(&tree, &mut copier, progress)?;
    }
    manifest.entries = copier.outcome.entries;
    manifest.bytes = copier.outcome.bytes;
    manifest.errors = copier.errors.count;
    let mut outcome = copier.finish(manifest, request.common_data.as_ref())?;
    drop(sink);
    let name = match request.format {
        None => work.publish(None, &request.name, "")?,
        Some(Format::TarGz) => work.publish(Some(ARCHIVE), &request.name, ".tar.gz")?,
        Some(Format::TarZst) => work.publish(Some(ARCHIVE), &request.name, ".tar.zst")?,
        Some(Format::Tar) => work.publish(Some(ARCHIVE), &request.name, ".tar")?,
    };
    outcome.path = request.results.join(name);
    Ok(outcome)
}

/// The archive's name until it is whole.
const ARCHIVE: &str = "archive";

fn make(dir: &OwnedFd, name: &str) -> Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::RUSR | Mode::WUSR).at(|| "cannot write into the copy's directory").map(File::from)
}

/// A file without a name, hashed as it is written.
struct Spool {
    file: BufWriter<File>,
    hash: Sha256,
    len: u64,
}

impl Spool {
    fn new(dir: &OwnedFd, name: &str) -> Result<Self> {
        let file = make(dir, name)?;
        unlinkat(dir, name, AtFlags::empty()).at(|| "cannot write into the copy's directory")?;
        Ok(Self { file: BufWriter::with_capacity(1 << 16, file), hash: Sha256::new(), len: 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        self.file.write_all(bytes).at(|| "cannot write the list of entries")
    }

    /// The file from its beginning, its length and its hash.
    fn finish(self) -> Result<(File, u64, Id)> {
        let what = || "cannot write the list of entries";
        let mut file = self.file.into_inner().map_err(|e| Error::io(what(), e.error()))?;
        file.rewind().at(what)?;
        Ok((file, self.len, Id(self.hash.finalize().into())))
    }
}

/// Counts what a walk would copy.
#[derive(Debug, Default)]
struct Count {
    entries: u64,
    bytes: u64,
    space: u64,
    seen: HashSet<Identity>,
}

impl Visitor for Count {
    fn enter(&mut self, _path: &[u8], _dir: &OwnedFd, _stat: &Stat, _ancestor: bool) -> Result<()> {
        self.entries += 1;
        self.space += ENTRY_COST + BLOCK;
        Ok(())
    }

    fn leave(&mut self) -> Result<()> {
        Ok(())
    }

    fn leaf(&mut self, leaf: Leaf<'_>) -> Result<bool> {
        self.entries += 1;
        self.space += ENTRY_COST;
        let stat = &leaf.stat;
        if stat.kind == Type::File && (stat.nlink < 2 || self.seen.insert((stat.dev, stat.ino))) {
            self.bytes = self.bytes.saturating_add(stat.size);
            let data = stat.size.min(stat.blocks.saturating_mul(512));
            self.space = self.space.saturating_add(data.saturating_add(BLOCK - 1) / BLOCK * BLOCK);
        }
        Ok(true)
    }

    fn trouble(&mut self, _path: Vec<u8>, _code: &str, _message: String) -> Result<()> {
        Ok(())
    }
}

struct Copier<'a> {
    sink: &'a mut dyn Sink,
    progress: &'a Progress,
    owners: Owners,
    errors: Errors,
    entries: Spool,
    sums: Spool,
    resource: usize,
    /// The resource's folder in the copy.
    folder: Vec<u8>,
    /// Paths of the directories that are open.
    open: Vec<Vec<u8>>,
    /// What first names of files with several names are.
    linked: HashMap<Vec<u8>, What>,
    outcome: Outcome,
}

impl Copier<'_> {
    fn begin(&mut self, n: usize, resource: &ResourceRecord) -> Result<()> {
        self.resource = n;
        self.folder = resource.folder();
        self.linked.clear();
        self.sink.begin(&self.folder)
    }

    /// Where a path stands in the copy.
    fn at(&self, path: &[u8]) -> Vec<u8> {
        let path = if path == b"/" { b"" } else { path };
        [self.folder.as_slice(), path].concat()
    }

    fn basic(&mut self, stat: &Stat, xattrs: capture::Xattrs, flags: u32) -> Metadata {
        let owner = self.owners.get(stat.uid, stat.gid);
        Metadata { mode: stat.mode, owner, mtime: stat.mtime, xattrs, flags }
    }

    /// Writes down an entry that was copied.
    fn note(&mut self, line: &Line, problems: &[String]) -> Result<()> {
        self.errors.problems(&line.path, problems)?;
        let mut text =
            serde_json::to_vec(line).map_err(|e| Error::failed(format!("cannot write an entry down: {e}")))?;
        text.push(b'\n');
        self.entries.write(&text)?;
        if let What::File { sha256, .. } = &line.what {
            let at = self.at(&line.path);
            self.sums.write(&sums::line(sha256, &at))?;
        }
        self.outcome.entries += 1;
        self.progress.add(1, 0);
        Ok(())
    }

    fn file(&mut self, leaf: &Leaf<'_>) -> Result<bool> {
        let opened = file::open(leaf.dir, leaf.name).and_then(|(file, stat)| {
            let holes = file::holes(&file, &stat)?;
            let xattrs = capture::xattrs(file.as_fd())?;
            Ok((file, stat, holes, xattrs))
        });
        let (file, stat, holes, xattrs) = match opened {
            Ok(opened) => opened,
            Err(e) => {
                let code = if e.kind() == std::io::ErrorKind::NotFound { "vanished" } else { "unreadable" };
                self.errors.add(&leaf.path, code, e)?;
                return Ok(false);
            }
        };
        self.progress.set_current(&String::from_utf8_lossy(&leaf.path));
        let meta = self.basic(&stat, xattrs, capture::flags(file.as_fd()));
        let reader = file::DataReader::new(&file, &holes, stat.size);
        let mut content = Content::new(Box::new(reader), stat.size, &holes, self.progress);
        let at = self.at(&leaf.path);
        let problems = match self.sink.file(&leaf.path, &at, &meta, stat.size, &mut content) {
            Ok(problems) => problems,
            Err(e) => {
                self.errors.take(&leaf.path, e)?;
                return Ok(false);
            }
        };
        let sha256 = content.finish()?;
        let (failed, short) = (content.failed.take(), content.short);
        drop(content);
        if let Some(why) = failed {
            self.errors.add(&leaf.path, "unreadable", why)?;
            return Ok(false);
        }
        if short || Stat::of(&file).map_or(true, |after| after.changed_since(&stat)) {
            self.errors.add(&leaf.path, "changed", "it changed while it was read")?;
        }
        self.outcome.bytes += stat.size;
        let what = What::File { size: stat.size, holes, sha256 };
        if stat.nlink > 1 {
            self.linked.insert(leaf.path.clone(), what.clone());
        }
        self.note(&Line::new(self.resource, &leaf.path, what, &meta, None), &problems)?;
        Ok(true)
    }

    fn other(&mut self, leaf: &Leaf<'_>) -> Result<bool> {
        let device = leaf.stat.rdev;
        let what = match leaf.stat.kind {
            Type::Symlink => {
                readlinkat(leaf.dir, leaf.name, Vec::new()).map(|target| What::Symlink { target: target.into_bytes() })
            }
            Type::CharDevice => Ok(What::CharDevice { major: device.major, minor: device.minor }),
            Type::BlockDevice => Ok(What::BlockDevice { major: device.major, minor: device.minor }),
            Type::Fifo => Ok(What::Fifo),
            _ => Ok(What::Socket),
        };
        let read = what.and_then(|what| Ok((what, capture::xattrs_at(leaf.dir.as_fd(), leaf.name)?)));
        let (what, xattrs) = match read {
            Ok(read) => read,
            Err(e) => {
                self.errors.add(&leaf.path, "unreadable", e)?;
                return Ok(false);
            }
        };
        let meta = self.basic(&leaf.stat, xattrs, 0);
        let line = Line::new(self.resource, &leaf.path, what, &meta, None);
        let at = self.at(&leaf.path);
        let problems = match self.sink.special(&line, &at, &meta) {
            Ok(problems) => problems,
            // Its line says all there is to it, for wherever the copy itself cannot hold it.
            Err(e) => {
                self.errors.take(&leaf.path, e)?;
                Vec::new()
            }
        };
        if leaf.stat.nlink > 1 {
            self.linked.insert(leaf.path.clone(), line.what.clone());
        }
        self.note(&line, &problems)?;
        Ok(true)
    }

    fn finish(mut self, mut manifest: Manifest, common: Option<&serde_json::Value>) -> Result<Outcome> {
        let json = |value: serde_json::Result<Vec<u8>>| {
            value.map_err(|e| Error::failed(format!("cannot write the manifest: {e}")))
        };
        if let Some(common) = common {
            let text = json(serde_json::to_vec_pretty(common))?;
            self.sink.top(COMMON_DATA, &text)?;
            self.sums.write(&sums::line(&Id::of(&text), COMMON_DATA.as_bytes()))?;
            manifest.common_data = true;
        }
        let (entries, len, sum) = self.entries.finish()?;
        self.sink.top_file(ENTRIES, &entries, len)?;
        self.sums.write(&sums::line(&sum, ENTRIES.as_bytes()))?;
        manifest.entries_sha256 = sum;
        let text = json(serde_json::to_vec_pretty(&manifest))?;
        self.sums.write(&sums::line(&Id::of(&text), MANIFEST.as_bytes()))?;
        let (sums, len, _) = self.sums.finish()?;
        self.sink.top_file(SUMS, &sums, len)?;
        self.sink.top(MANIFEST, &text)?;
        self.sink.finish()?;
        let (errors, error_list) = (self.errors.count, self.errors.list);
        Ok(Outcome { errors, error_list, ..self.outcome })
    }
}

impl Visitor for Copier<'_> {
    fn enter(&mut self, path: &[u8], dir: &OwnedFd, stat: &Stat, ancestor: bool) -> Result<()> {
        let xattrs = match capture::xattrs(dir) {
            Ok(xattrs) => xattrs,
            Err(e) => {
                self.errors.add(path, "unreadable", format!("its attributes cannot be read: {e}"))?;
                Vec::new()
            }
        };
        let mut meta = self.basic(stat, xattrs, capture::flags(dir));
        if ancestor {
            (meta.mtime, meta.flags) = (Time::default(), 0);
            meta.xattrs.retain(|(name, _)| name.starts_with(b"system.posix_acl_"));
        }
        let line = Line::new(self.resource, path, What::Directory { ancestor }, &meta, None);
        let at = self.at(path);
        // Nothing in it could be copied either.
        let problems = self.sink.enter(&line, &at, &meta, ancestor)?;
        self.open.push(path.to_vec());
        self.note(&line, &problems)
    }

    fn leave(&mut self) -> Result<()> {
        let problems = self.sink.leave()?;
        let path = self.open.pop().unwrap_or_default();
        self.errors.problems(&path, &problems)
    }

    fn leaf(&mut self, leaf: Leaf<'_>) -> Result<bool> {
        if let Some(first) = &leaf.first
            && let Some(what) = self.linked.get(first).cloned()
        {
            let meta = self.basic(&leaf.stat, Vec::new(), 0);
            let line = Line::new(self.resource, &leaf.path, what, &meta, Some(first.clone()));
            let (at, first_at) = (self.at(&leaf.path), self.at(first));
            return match self.sink.link(&line, first, &at, &first_at) {
                Ok(problems) => self.note(&line, &problems).map(|()| true),
                // A file system without links: a file of its own.
                Err(_) => self.unlinked(&leaf),
            };
        }
        self.unlinked(&leaf)
    }

    fn trouble(&mut self, path: Vec<u8>, code: &str, message: String) -> Result<()> {
        self.errors.add(&path, code, message)
    }
}

impl Copier<'_> {
    fn unlinked(&mut self, leaf: &Leaf<'_>) -> Result<bool> {
        match leaf.stat.kind {
            Type::File => self.file(leaf),
            _ => self.other(leaf),
        }
    }
}
