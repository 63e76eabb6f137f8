//! Entries of a copy, put in their places on the live system.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, linkat, mkdirat, syncfs};
use rustix::io::Errno;

use super::Errors;
use super::content::{Content, PIECE};
use super::folder::write_file;
use super::line::{Line, What};
use super::restore::{Outcome, Reach, Request, reach};
use super::source::Source;
use crate::model::id::hex;
use crate::model::{Error, Id, IoContext, Progress, Result};
use crate::restore::dir::open_dir;
use crate::restore::item::{is_what_was_made, make_special};
use crate::restore::job::{TEMPORARY, Temporary, never};
use crate::restore::journal::Journal;
use crate::restore::live::{self, Found, Identity};
use crate::restore::meta::{self, Handle, Scope};
use crate::source::{Stat, file};
use crate::vault::tree::{Entry, Link, Metadata};

/// A directory on the way.
struct Level {
    resource: usize,
    path: Vec<u8>,
    /// None: nothing beneath it is brought back.
    dir: Option<Arc<OwnedFd>>,
    /// What it becomes, once everything in it is there.
    becomes: Option<(Metadata, Scope)>,
    /// Flags that were taken from it so that it could be changed.
    locks: u32,
}

/// A whole file under a temporary name, which replaces something.
struct Pending {
    dir: Arc<OwnedFd>,
    temporary: Vec<u8>,
    name: Vec<u8>,
    path: Vec<u8>,
    file: OwnedFd,
    locks: u32,
}

/// Puts entries in their places, in the order of their lines.
pub struct Put<'a> {
    request: &'a Request,
    progress: &'a Progress,
    /// What was counted.
    pub outcome: Outcome,
    /// What went wrong.
    pub errors: Errors,
    never: HashSet<Identity>,
    prefix: String,
    counter: u64,
    journal: Journal,
    levels: Vec<Level>,
    pending: Vec<Pending>,
    complete: Vec<Level>,
    /// First names of inodes with several, and those that are there, with their inodes.
    firsts: HashSet<(usize, Vec<u8>)>,
    leaders: HashMap<(usize, Vec<u8>), Identity>,
    /// A directory on each file system that was written to.
    systems: HashMap<(u32, u32), Arc<OwnedFd>>,
    buffer: Vec<u8>,
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let at = path.iter().rposition(|b| *b == b'/').unwrap_or(0);
    (path.get(..at.max(1)).unwrap_or_default(), path.get(at + 1..).unwrap_or_default())
}

impl<'a> Put<'a> {
    /// Nothing is there yet.
    pub fn new(request: &'a Request, firsts: HashSet<(usize, Vec<u8>)>, progress: &'a Progress) -> Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|e| Error::failed(format!("no random numbers: {e}")))?;
        let prefix = format!("{TEMPORARY}{}-", hex(&random));
        Ok(Self {
            request,
            progress,
            outcome: Outcome::default(),
            errors: Errors::new(request.on_error),
            never: never(&request.never),
            journal: Journal::new(&request.journal, std::path::Path::new("/"), &prefix, true),
            prefix,
            counter: 0,
            levels: Vec::new(),
            pending: Vec::new(),
            complete: Vec::new(),
            firsts,
            leaders: HashMap::new(),
            systems: HashMap::new(),
            buffer: vec![0; PIECE],
        })
    }

    /// Says where temporary names will be.
    pub fn announce(&self, dirs: &BTreeSet<Vec<u8>>) -> Result<()> {
        if dirs.is_empty() { Ok(()) } else { self.journal.announce(dirs.iter(), &[]) }
    }

    /// Nothing has a temporary name any more.
    pub fn end_journal(&self) -> Result<()> {
        match std::fs::remove_file(&self.request.journal) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("cannot remove the restore's journal", &e))
            }
            _ => Ok(()),
        }
    }

    /// Puts one entry in its place. An error is of this one alone unless it says otherwise.
    pub fn line(&mut self, line: &Line, at: &[u8], source: &mut Source) -> Result<()> {
        let request = self.request;
        let Some(Some(allowed)) = request.allowed.get(line.resource) else { return Ok(()) };
        let (above, name) = split(&line.path);
        while let Some(level) = self.levels.last() {
            if line.path != b"/" && level.resource == line.resource && level.path == above {
                break;
            }
            self.leave();
        }
        let reach = reach(&line.path, allowed);
        if reach == Reach::Outside || (reach == Reach::Above && !line.is_dir()) {
            if line.is_dir() {
                self.levels.push(Level::blocked(line));
            }
            return Err(Error::invalid_state("it lies outside the paths of its resource, and is not restored there"));
        }
        let parent = match self.levels.last() {
            Some(level) => match &level.dir {
                Some(dir) => Some(dir.clone()),
                // Why was told where the directory was.
                None => {
                    if line.is_dir() {
                        self.levels.push(Level::blocked(line));
                    }
                    self.outcome.skipped += 1;
                    return Ok(());
                }
            },
            None if line.path == b"/" => None,
            None => return Err(Error::damaged("its directory is not in the list of entries before it")),
        };
        match &line.what {
            What::Directory { ancestor } => {
                let ancestor = *ancestor || reach == Reach::Above;
                self.levels.push(Level::blocked(line));
                let level = self.directory(line, parent.as_deref(), name, ancestor)?;
                self.levels.pop();
                self.levels.push(level);
                Ok(())
            }
            _ => match parent {
                Some(parent) => self.leaf(line, at, &parent, name, source),
                None => Ok(()),
            },
        }
    }

    /// Makes or opens a directory.
    fn directory(&mut self, line: &Line, parent: Option<&OwnedFd>, name: &[u8], ancestor: bool) -> Result<Level> {
        let what = || "cannot open the directory";
        let (mut made, mut locks) = (false, 0);
        let dir = match parent {
            None => open_dir(CWD, b"/").at(what)?,
            Some(parent) => {
                let found = live::find(parent, name).at(|| "cannot look at what is there")?;
                match found {
                    Some(found) if found.is_dir() => {
                        if self.never.contains(&found.identity()) {
                            self.outcome.skipped += 1;
                            return Ok(Level::blocked(line));
                        }
                        let dir = open_dir(parent, name).at(what)?;
                        if found.locked {
                            locks = live::unlock(&dir).at(|| "cannot make the directory changeable")?.bits();
                        }
                        dir
                    }
                    Some(_) if ancestor => {
                        return Err(Error::invalid_state(
                            "it is no directory, or a symbolic link, and stands above the resource's paths; move it away",
                        ));
                    }
                    Some(_) if self.request.skip => {
                        self.outcome.skipped += 1;
                        return Ok(Level::blocked(line));
                    }
                    other => {
                        if other.is_some() {
                            live::remove(parent, name, false).at(|| "cannot replace what is there")?;
                        }
                        made = true;
                        mkdirat(parent, name, Mode::RWXU).at(|| "cannot make the directory")?;
                        let dir = open_dir(parent, name).at(what)?;
                        if Stat::of(&dir).at(what)?.uid != rustix::process::geteuid().as_raw() {
                            return Err(Error::failed("somebody exchanged the directory while it was made"));
                        }
                        dir
                    }
                }
            }
        };
        let dir = Arc::new(dir);
        let stat = Stat::of(&*dir).at(what)?;
        self.systems.entry(stat.dev).or_insert_with(|| dir.clone());
        let scope = if ancestor { Scope::Ancestor } else { Scope::All };
        let becomes = (made || !(ancestor || self.request.skip)).then(|| (line.meta(), scope));
        if made {
            self.outcome.entries += 1;
        } else {
            self.outcome.unchanged += 1;
        }
        Ok(Level { resource: line.resource, path: line.path.clone(), dir: Some(dir), becomes, locks })
    }

    /// Leaves the last directory. What it becomes is set when all that waits is in its place.
    fn leave(&mut self) {
        self.complete.extend(self.levels.pop().filter(|level| level.dir.is_some()));
    }

    fn leaf(&mut self, line: &Line, at: &[u8], dir: &Arc<OwnedFd>, name: &[u8], source: &mut Source) -> Result<()> {
        let found = live::find(&**dir, name).at(|| "cannot look at what is there")?;
        if found.is_some() && self.request.skip {
            self.outcome.skipped += 1;
            return Ok(());
        }
        if let Some(first) = &line.first
            && let Some(leader) = self.leaders.get(&(line.resource, first.clone())).copied()
        {
            match self.link(first, leader, dir, name, found.as_ref()) {
                Ok(()) => return Ok(()),
                // Another file system than it was, or one without hard links: a file of its own.
                Err(Errno::XDEV | Errno::MLINK | Errno::OPNOTSUPP) => {}
                Err(e) => return Err(e).at(|| "cannot make the hard link"),
            }
        }
        if let Some(found) = &found
            && self.is_so(line, dir, name, found)?
        {
            self.outcome.unchanged += 1;
            self.lead(line, found.identity());
            return Ok(());
        }
        let (temporary, file) = self.make(line, at, dir, source)?;
        let locks = line.meta().flags & live::LOCKS.bits();
        let identity = live::identity(&file).at(|| "cannot look at what was made")?;
        self.outcome.entries += 1;
        self.outcome.bytes += line.size();
        self.lead(line, identity);
        if found.is_none() {
            match live::rename(&**dir, &temporary, name, true) {
                Ok(()) => return self.lock(&line.path, &file, locks),
                // It came since it was looked for.
                Err(Errno::EXIST) => {}
                Err(e) => {
                    drop(Temporary::new(dir, temporary));
                    return Err(e).at(|| "cannot give the file its name");
                }
            }
        }
        let (dir, name, path) = (dir.clone(), name.to_vec(), line.path.clone());
        self.pending.push(Pending { dir, temporary, name, path, file, locks });
        Ok(())
    }

    /// Remembers the inode of a first name.
    fn lead(&mut self, line: &Line, identity: Identity) {
        let key = (line.resource, line.path.clone());
        if self.firsts.contains(&key) {
            self.leaders.insert(key, identity);
        }
        // The next name leads, where the first one is not there.
        if let Some(first) = &line.first {
            self.leaders.entry((line.resource, first.clone())).or_insert(identity);
        }
    }

    fn lock(&mut self, path: &[u8], file: &OwnedFd, locks: u32) -> Result<()> {
        match if locks == 0 { Ok(()) } else { meta::lock(file, locks) } {
            Ok(()) => Ok(()),
            Err(e) => self.errors.add(path, "unsupported", format!("the inode flags cannot be set: {e}")),
        }
    }

    fn link(
        &mut self,
        first: &[u8],
        leader: Identity,
        dir: &Arc<OwnedFd>,
        name: &[u8],
        found: Option<&Found>,
    ) -> std::result::Result<(), Errno> {
        if found.is_some_and(|found| found.identity() == leader) {
            self.outcome.unchanged += 1;
            return Ok(());
        }
        // The first one may still wait for its name.
        if self.flush_pending().is_err() {
            return Err(Errno::IO);
        }
        let mut at = open_dir(CWD, b"/")?;
        let mut parts: Vec<&[u8]> = first.split(|b| *b == b'/').filter(|part| !part.is_empty()).collect();
        let last = parts.pop().unwrap_or_default();
        for part in parts {
            at = open_dir(&at, part)?;
        }
        let file = live::open_path(&at, last)?;
        if live::identity(&file)? != leader {
            // Somebody exchanged it: a file of its own.
            return Err(Errno::XDEV);
        }
        let magic = format!("/proc/self/fd/{}", file.as_raw_fd());
        let temporary = self.temporary();
        match linkat(CWD, magic.as_str(), &**dir, temporary.as_slice(), AtFlags::SYMLINK_FOLLOW) {
            // It is immutable already.
            Err(Errno::PERM) => return Err(Errno::XDEV),
            linked => linked?,
        }
        let temporary = Temporary::new(dir, temporary);
        live::rename(&**dir, temporary.name(), name, found.is_none())?;
        temporary.keep();
        self.outcome.entries += 1;
        Ok(())
    }

    /// Whether what is there is as in the copy; metadata that is not is set where nobody else can mind.
    fn is_so(&mut self, line: &Line, dir: &OwnedFd, name: &[u8], found: &Found) -> Result<bool> {
        let entry = Entry { name: name.to_vec(), meta: line.meta(), link: Link::None, kind: line.kind() };
        if !found.is_like(&entry) {
            return Ok(false);
        }
        let same = match &line.what {
            What::File { size, sha256, .. } => {
                found.stat.size == *size && self.hash_of(dir, name, *size).is_some_and(|hash| hash == *sha256)
            }
            What::Symlink { target } => {
                rustix::fs::readlinkat(dir, name, Vec::new()).is_ok_and(|there| there.as_bytes() == target)
            }
            What::CharDevice { major, minor } | What::BlockDevice { major, minor } => {
                (found.stat.rdev.major, found.stat.rdev.minor) == (*major, *minor)
            }
            _ => true,
        };
        if !same {
            return Ok(false);
        }
        let opened = match line.what {
            What::File { .. } => live::open_file(dir, name),
            _ => live::open_path(dir, name),
        };
        let Ok(file) = opened else { return Ok(false) };
        if live::identity(&file).at(|| "cannot look at what is there")? != found.identity() {
            return Ok(false);
        }
        let handle = match line.what {
            What::File { .. } => Handle::Open(file.as_fd()),
            _ => Handle::Named(file.as_fd(), dir.as_fd(), name),
        };
        let differs = meta::bring(handle, &entry.meta, Scope::All, true);
        let many = found.stat.nlink > 1;
        // An inode that has other names may be someone else's file as well.
        let shared = many && (differs.changed || !self.is_group(line));
        if shared || !differs.problems.is_empty() {
            return Ok(false);
        }
        if differs.changed {
            let brought = meta::bring(handle, &entry.meta, Scope::All, false);
            self.errors.problems(&line.path, &brought.problems)?;
        }
        Ok(true)
    }

    /// Whether the copy knows several names of this inode.
    fn is_group(&self, line: &Line) -> bool {
        line.first.is_some() || self.firsts.contains(&(line.resource, line.path.clone()))
    }

    fn hash_of(&self, dir: &OwnedFd, name: &[u8], size: u64) -> Option<Id> {
        let (file, stat) = file::open(dir, name).ok()?;
        let holes = file::holes(&file, &stat).ok()?;
        let reader = file::DataReader::new(&file, &holes, size);
        let mut content = Content::new(Box::new(reader), size, &holes, self.progress);
        let hash = content.finish().ok()?;
        (content.failed.is_none() && !content.short).then_some(hash)
    }

    fn temporary(&mut self) -> Vec<u8> {
        self.counter += 1;
        format!("{}{}", self.prefix, self.counter).into_bytes()
    }

    /// Makes the inode under a temporary name, whole and verified.
    fn make(&mut self, line: &Line, at: &[u8], dir: &OwnedFd, source: &mut Source) -> Result<(Vec<u8>, OwnedFd)> {
        let temporary = Temporary::new(dir, self.temporary());
        let meta = line.meta();
        let file = match &line.what {
            What::File { size, holes, sha256 } => {
                let (progress, buffer) = (self.progress, &mut self.buffer);
                let mut made = None;
                source.content(at, line, &mut |reader| {
                    let mut content = Content::new(Box::new(reader), *size, holes, progress);
                    let file = write_file(dir, temporary.name(), *size, &mut content, buffer)?;
                    let hash = content.finish()?;
                    if let Some(why) = &content.failed {
                        return Err(Error::damaged(format!("it cannot be read in the copy: {why}")));
                    }
                    if content.short || hash != *sha256 {
                        return Err(Error::damaged("its checksum in the copy is not the one that was written down"));
                    }
                    made = Some(file);
                    Ok(())
                })?;
                made.ok_or_else(|| Error::damaged("the copy does not hold it"))?
            }
            _ => {
                let kind = line.kind();
                make_special(dir, temporary.name(), &kind).at(|| "cannot make it")?;
                let file = live::open_path(dir, temporary.name()).at(|| "cannot make it")?;
                is_what_was_made(&file, &kind)?;
                file
            }
        };
        let handle = match line.what {
            What::File { .. } => Handle::Open(file.as_fd()),
            _ => Handle::Named(file.as_fd(), dir.as_fd(), temporary.name()),
        };
        let brought = meta::bring(handle, &meta, Scope::Unlocked, false);
        self.errors.problems(&line.path, &brought.problems)?;
        Ok((temporary.keep(), file))
    }

    /// Gives everything that waits its name, and sets what directories become.
    pub fn flush(&mut self) -> Result<()> {
        self.flush_pending()?;
        for level in std::mem::take(&mut self.complete) {
            self.finish(&level)?;
        }
        Ok(())
    }

    fn flush_pending(&mut self) -> Result<()> {
        let mut synced = HashSet::new();
        for one in &self.pending {
            let (device, _) = live::identity(&*one.dir).at(|| "cannot look at the directory")?;
            if synced.insert(device) {
                syncfs(&*one.dir).at(|| "cannot write the files to disk")?;
            }
        }
        let mut waiting = std::mem::take(&mut self.pending).into_iter();
        while let Some(one) = waiting.next() {
            if let Err(e) = self.replace(&one) {
                self.outcome.entries = self.outcome.entries.saturating_sub(1);
                if let Err(e) = self.errors.take(&one.path, e) {
                    self.pending = waiting.collect();
                    return Err(e);
                }
            }
        }
        Ok(())
    }

    /// Puts a file in place of what stands there.
    fn replace(&mut self, one: &Pending) -> Result<()> {
        let temporary = Temporary::new(&one.dir, one.temporary.clone());
        match live::rename(&*one.dir, temporary.name(), &one.name, false) {
            Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => {
                live::remove(&*one.dir, &one.name, true).map_err(|_| {
                    Error::invalid_state("a directory that is not empty stands in its place; move it away")
                })?;
                live::rename(&*one.dir, temporary.name(), &one.name, false).at(|| "cannot replace what is there")?;
            }
            renamed => renamed.at(|| "cannot replace what is there")?,
        }
        temporary.keep();
        self.lock(&one.path, &one.file, one.locks)
    }

    fn finish(&mut self, level: &Level) -> Result<()> {
        let Some(dir) = &level.dir else { return Ok(()) };
        match &level.becomes {
            Some((meta, scope)) => {
                let brought = meta::bring(Handle::Open(dir.as_fd()), meta, *scope, false);
                self.errors.problems(&level.path, &brought.problems)
            }
            None if level.locks != 0 => meta::lock(&**dir, level.locks).at(|| "cannot lock the directory again"),
            None => Ok(()),
        }
    }

    /// Everything was given: all of it is made to stay.
    pub fn close(&mut self) -> Result<()> {
        while !self.levels.is_empty() {
            self.leave();
        }
        self.flush()?;
        self.systems.values().try_for_each(|dir| syncfs(&**dir).at(|| "cannot write the restored files to disk"))
    }

    /// It failed: what waits goes, and what was unlocked is locked again.
    pub fn abandon(&mut self) {
        for one in std::mem::take(&mut self.pending) {
            drop(Temporary::new(&one.dir, one.temporary));
        }
        while !self.levels.is_empty() {
            self.leave();
        }
        for level in std::mem::take(&mut self.complete) {
            if let Some(dir) = level.dir.as_ref().filter(|_| level.locks != 0) {
                // It had them a moment ago, so it can have them again.
                let _ = meta::lock(&**dir, level.locks);
            }
        }
    }
}

impl Level {
    fn blocked(line: &Line) -> Self {
        Self { resource: line.resource, path: line.path.clone(), dir: None, becomes: None, locks: 0 }
    }
}
