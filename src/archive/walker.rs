//! The walk: one thread, one directory at a time, sorted; unchanged entries are taken over from
//! the change cache, the rest goes to the workers.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use rustix::fs::{Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;

use super::cache::{CacheReader, CacheWriter, Key};
use super::plan::{Plan, View, relative};
use super::reader::{Chunk, FileItem, Task, WHOLE_MAX, Worker, key_of, limit, unread};
use super::stored::is_stored;
use super::tree::{Context, Directory};
use super::{BackupOutcome, BackupRequest};
use crate::model::{Error, Progress, Result};
use crate::source::mounts::MountKind;
use crate::source::stat::Type;
use crate::source::{Excludes, Mounts, Owners, Stat, cachedir, capture, names};
use crate::vault::seal::Class;
use crate::vault::tree::entry::NAME_MAX;
use crate::vault::tree::{Entry, Kind, Link, Metadata, Origin, Time};
use crate::vault::{Vault, VaultWriter};

/// Small files are handed out together until they have this many bytes or are this many.
const BATCH_BYTES: u64 = 1 << 20;
const BATCH_FILES: usize = 256;

/// Blocks of the change cache that may wait for one slow file before it.
const CACHE_BACKLOG: usize = 10_000;

/// So many bytes may have to be read again when a backup is interrupted.
const UNSAVED: u64 = 64 << 20;

/// What stands in a snapshot on btrfs for a subvolume that is not in it has this inode number, and
/// is empty.
const EMPTY_SUBVOLUME: u64 = 2;
/// The directory in which snapshots rest.
const STORE: &[u8] = b".strongroom";

/// Directories with longer paths are not entered: anyone can nest directories without end, and
/// every level on the way costs memory and a handle.
const PATH_LIMIT: usize = 32 << 10;

/// See [`super::backup_into`].
pub fn run(
    vault: &Arc<Vault>,
    writer: VaultWriter,
    dumps: Option<Entry>,
    request: &BackupRequest,
    progress: &Progress,
) -> Result<BackupOutcome> {
    let plan = Plan::new(&request.paths);
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let workers = if request.workers == 0 { cores } else { request.workers };
    let context = Context::new(vault, &writer, writer.lane(Class::TreePack)?, dumps, progress);
    // What an interrupted backup left there is put aside before it is read.
    let new_cache = CacheWriter::create(&request.change_cache, vault.uuid(), request.backup)?;
    let cache =
        if request.reread { CacheReader::default() } else { CacheReader::open(&request.change_cache, vault.uuid()) };
    let lanes = (0..workers).map(|_| writer.lane(Class::DataPack)).collect::<Result<Vec<_>>>()?;
    std::thread::scope(|scope| {
        let (tasks, queue) = bounded::<Task>(2 * workers);
        let (chunks, received) = bounded::<Chunk>(workers);
        for lane in lanes {
            let worker = Worker {
                context: &context,
                lane,
                chunks: Some(chunks.clone()),
                received: received.clone(),
                buffer: super::cut::buffer(),
            };
            let queue = queue.clone();
            scope.spawn(move || worker.run(&queue));
        }
        drop((chunks, received, queue));
        let walk = Walker::new(&context, request, (cache, new_cache), tasks).and_then(|walker| walker.walk(&plan));
        if let Err(e) = walk {
            context.fail(e);
        }
    });
    context.check()?;
    let (root, totals) = context.root().ok_or_else(|| Error::failed("the backup ended without a root"))?;
    let (errors, error_list) = context.with_tree(|lane| {
        let stored = context.errors.store(lane)?;
        lane.flush()?;
        Ok(stored)
    })?;
    drop(context);
    let stored = writer.finish()?;
    Ok(BackupOutcome { root, totals, errors, error_list, stored })
}

/// A directory on the way down.
struct Frame {
    directory: Arc<Directory>,
    fd: Arc<OwnedFd>,
    stat: Stat,
    /// Directories in it that were not entered yet, last one first.
    ahead: Vec<(usize, Vec<u8>)>,
}

/// An inode across file systems.
type Inode = ((u32, u32), u64);

struct Walker<'a> {
    context: &'a Context<'a>,
    request: &'a BackupRequest,
    excludes: Excludes,
    mounts: Mounts,
    owners: Owners,
    never: HashSet<Inode>,
    /// The resource's own paths, with their mounts: entered wherever they lie.
    named: HashSet<(Inode, u64)>,
    /// First names of inodes with several: how many names are still to come, and the path.
    links: HashMap<Inode, (u32, Vec<u8>)>,
    cache: CacheReader,
    new_cache: CacheWriter,
    /// Bytes handed out since the new cache was last saved.
    unsaved: u64,
    cache_queue: VecDeque<Arc<Directory>>,
    tasks: Sender<Task>,
    batch: Vec<FileItem>,
    batch_bytes: u64,
    found: usize,
}

impl<'a> Walker<'a> {
    fn new(
        context: &'a Context<'a>,
        request: &'a BackupRequest,
        (cache, new_cache): (CacheReader, CacheWriter),
        tasks: Sender<Task>,
    ) -> Result<Self> {
        let id = |path: &std::path::PathBuf| {
            Stat::at(rustix::fs::CWD, path.as_os_str().as_bytes()).ok().map(|stat| (stat.dev, stat.ino))
        };
        let named = |path: &std::path::PathBuf| {
            let stat = Stat::at(rustix::fs::CWD, path.as_os_str().as_bytes()).ok()?;
            Some(((stat.dev, stat.ino), stat.mount))
        };
        let mut never: HashSet<Inode> = request.never.iter().filter_map(id).collect();
        for view in &request.views {
            let there = Stat::of(&view.handle).map_err(|e| Error::io("cannot look at a snapshot", &e.into()))?;
            // The same inodes, under another device.
            let same: Vec<_> = never.iter().filter(|(device, _)| *device == view.device).map(|(_, ino)| *ino).collect();
            never.extend(same.into_iter().map(|ino| (there.dev, ino)));
        }
        Ok(Self {
            context,
            request,
            excludes: Excludes::new(&request.exclude)?,
            mounts: Mounts::read()?,
            owners: Owners::default(),
            never,
            named: request.paths.iter().filter_map(named).collect(),
            links: HashMap::new(),
            cache,
            new_cache,
            unsaved: 0,
            cache_queue: VecDeque::new(),
            tasks,
            batch: Vec::new(),
            batch_bytes: 0,
            found: 0,
        })
    }

    fn walk(mut self, plan: &Plan) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open("/", flags, Mode::empty()).map_err(|e| Error::io("cannot open /", &e.into()))?;
        let root = Arc::new(root);
        let stat = Stat::of(&root).map_err(|e| Error::io("cannot look at /", &e.into()))?;
        if plan.wanted {
            self.found += 1;
            let top = self.read(None, root, stat, b"/".to_vec(), None)?;
            self.descend(top)?;
        } else {
            self.ancestor(None, &root, stat, b"/".to_vec(), plan)?;
        }
        if self.found == 0 && !self.request.paths.is_empty() {
            let paths: Vec<_> = self.request.paths.iter().map(|p| p.display().to_string()).collect();
            return Err(Error::not_found(format!("none of the resource's paths exists: {}", paths.join(", "))));
        }
        self.send_batch()?;
        drop(self.tasks);
        // What is left of the cache waits for the workers' last files.
        while let Some(directory) = self.cache_queue.pop_front() {
            let block = loop {
                match directory.block() {
                    Some(block) => break block,
                    None => self.context.check()?,
                }
                std::thread::sleep(Duration::from_millis(1));
            };
            if !block.is_empty() {
                self.new_cache.add(&block)?;
            }
        }
        self.new_cache.finish()
    }

    /// A directory above the resource's paths: only what leads to them.
    fn ancestor(
        &mut self,
        parent: Option<(Arc<Directory>, usize)>,
        fd: &Arc<OwnedFd>,
        stat: Stat,
        path: Vec<u8>,
        plan: &Plan,
    ) -> Result<()> {
        let mut meta = match self.metadata(fd, &stat) {
            Ok(meta) => meta,
            Err(e) => limit(&path, e).map(|()| Metadata::default())?,
        };
        meta.mtime = Time::default();
        meta.flags = 0;
        meta.xattrs.retain(|(name, _)| name.starts_with(b"system.posix_acl_"));
        // What a path leads to decides how its slot is filled, so it is looked at first.
        let mut below = Vec::new();
        for (name, plan) in &plan.below {
            let stat = match self.request.view(&path, name) {
                Some(view) if plan.wanted && view.is_dir => Stat::of(&view.handle),
                Some(View { original: Some(stat), .. }) if plan.wanted => Ok(*stat),
                Some(view) if plan.wanted => Stat::at(&view.handle, name),
                _ if plan.wanted => Stat::at(fd, name),
                _ => self.follow(fd, name).map(|(_, stat)| stat),
            };
            below.push((name, plan, stat));
        }
        let is_dir = |stat: &rustix::io::Result<Stat>| stat.is_ok_and(|s| s.kind == Type::Directory);
        let directories = below.iter().filter(|(_, _, stat)| is_dir(stat)).count();
        let directory = Directory::new(parent, path, meta, Origin::Ancestor, below.len(), directories);
        self.remember(&directory)?;
        let mut block = self.cache.block(&directory.path);
        for (slot, (name, plan, stat)) in below.iter().enumerate().filter(|(_, (_, _, stat))| !is_dir(stat)) {
            let path = directory.child_path(name);
            match stat {
                Ok(stat) if plan.wanted => {
                    self.found += 1;
                    let fd = self.request.view(&directory.path, name).map_or(fd, |view| &view.handle);
                    self.entry(&directory, slot, fd, name, *stat, &mut block)?;
                    continue;
                }
                Ok(_) => self.context.errors.add(path, "unreadable", "it is not a directory"),
                Err(Errno::NOENT) => self.context.errors.add(path, "vanished", "it does not exist"),
                Err(e) => {
                    limit(&path, *e)?;
                    self.context.errors.add(path, "unreadable", e);
                }
            }
            directory.file(self.context, slot, None)?;
        }
        directory.files_listed();
        for (slot, (name, plan, stat)) in below.iter().enumerate().filter(|(_, (_, _, stat))| is_dir(stat)) {
            if plan.wanted {
                self.found += 1;
                let top = match (self.request.view(&directory.path, name), stat) {
                    (Some(view), Ok(stat)) => {
                        let (handle, path) = (view.handle.clone(), directory.child_path(name));
                        self.read(Some((directory.clone(), slot)), handle, *stat, path, None)?
                    }
                    _ => self.open(&directory, slot, fd, name, None)?,
                };
                self.descend(top)?;
                continue;
            }
            match self.follow(fd, name) {
                Ok((below, stat)) => {
                    let path = directory.child_path(name);
                    self.ancestor(Some((directory.clone(), slot)), &Arc::new(below), stat, path, plan)?;
                }
                Err(e) => {
                    limit(&directory.child_path(name), e)?;
                    self.context.errors.add(directory.child_path(name), "unreadable", e);
                    directory.no_directory(self.context, slot, None)?;
                }
            }
        }
        directory.seal(self.context)
    }

    /// Opens a directory above a path; the administrator named it, so symbolic links count.
    fn follow(&self, fd: &Arc<OwnedFd>, name: &[u8]) -> rustix::io::Result<(OwnedFd, Stat)> {
        let below = openat(fd, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let stat = Stat::of(&below)?;
        Ok((below, stat))
    }

    /// Walks everything beneath a directory; the stack grows no deeper for a deeper tree.
    fn descend(&mut self, top: Option<Frame>) -> Result<()> {
        let mut stack: Vec<Frame> = top.into_iter().collect();
        while let Some(frame) = stack.last_mut() {
            let Some((slot, name)) = frame.ahead.pop() else {
                stack.pop();
                continue;
            };
            let (directory, fd, stat) = (frame.directory.clone(), frame.fd.clone(), frame.stat);
            stack.extend(self.open(&directory, slot, &fd, &name, Some(&stat))?);
        }
        Ok(())
    }

    /// Opens the directory `name` and reads it.
    fn open(
        &mut self,
        parent: &Arc<Directory>,
        slot: usize,
        fd: &Arc<OwnedFd>,
        name: &[u8],
        above: Option<&Stat>,
    ) -> Result<Option<Frame>> {
        self.context.check()?;
        let path = parent.child_path(name);
        if path.len() > PATH_LIMIT {
            self.context.errors.add(path, "unsupported", "it lies too deep");
            parent.no_directory(self.context, slot, Some(unread(name)))?;
            return Ok(None);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = match openat(fd, name, flags | OFlags::NOATIME, Mode::empty()) {
            Err(Errno::PERM) => openat(fd, name, flags, Mode::empty()),
            other => other,
        };
        match opened.and_then(|fd| Stat::of(&fd).map(|stat| (fd, stat))) {
            Ok((fd, stat)) => self.read(Some((parent.clone(), slot)), Arc::new(fd), stat, path, above),
            Err(e) => {
                limit(&path, e)?;
                let gone = e == Errno::NOENT;
                self.context.errors.add(path, if gone { "vanished" } else { "unreadable" }, e);
                parent.no_directory(self.context, slot, (!gone).then(|| unread(name)))?;
                Ok(None)
            }
        }
    }

    /// Whether a directory's content is left out by rule.
    fn skipped(&mut self, stat: &Stat, above: Option<&Stat>) -> bool {
        if self.never.contains(&(stat.dev, stat.ino)) {
            return true;
        }
        if self.named.contains(&((stat.dev, stat.ino), stat.mount)) {
            return false;
        }
        let Some(above) = above.filter(|above| above.mount != stat.mount) else { return false };
        self.mounts.kind(stat.mount) != MountKind::Real || (self.request.one_file_system && above.dev != stat.dev)
    }

    /// Reads an open directory: unchanged and special entries are put in their places, changed
    /// files handed out, directories left in the frame.
    fn read(
        &mut self,
        parent: Option<(Arc<Directory>, usize)>,
        fd: Arc<OwnedFd>,
        stat: Stat,
        path: Vec<u8>,
        above: Option<&Stat>,
    ) -> Result<Option<Frame>> {
        self.context.progress.set_current(&String::from_utf8_lossy(&path));
        let listed = self.metadata(&fd, &stat).and_then(|meta| Ok((meta, names::sorted(&fd)?)));
        let (meta, mut names) = match listed {
            Ok(listed) => listed,
            Err(e) => {
                limit(&path, e)?;
                self.context.errors.add(path.clone(), "unreadable", e);
                let Some((parent, slot)) = parent else { return Err(Error::io("cannot read /", &e.into())) };
                let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
                parent.no_directory(self.context, slot, Some(unread(name)))?;
                return Ok(None);
            }
        };
        let mut origin = Origin::Read;
        if self.skipped(&stat, above) {
            origin = Origin::Skipped;
            names.clear();
        } else if cachedir::is_cache(&fd, &names) {
            origin = Origin::Skipped;
            names.retain(|name| name == cachedir::TAG_NAME);
        }
        if self.request.views.iter().any(|view| view.path.as_os_str().as_bytes() == path) {
            // Where the snapshot itself rests, which is not there without it.
            let stub = |s: Stat| s.ino == EMPTY_SUBVOLUME && s.dev != stat.dev;
            names.retain(|name| name != STORE || !Stat::at(&fd, name).is_ok_and(stub));
        }
        names.retain(|name| {
            let fits = name.len() <= NAME_MAX;
            if !fits {
                // Some foreign file systems have them; a vault cannot hold them.
                let long = [path.as_slice(), b"/", name].concat();
                self.context.errors.add(long, "unsupported", "its name is longer than 255 bytes");
            }
            fits
        });
        let found = self.look(&fd, &path, names);
        let directories = found.iter().filter(|(_, stat)| matches!(stat, Ok(s) if s.kind == Type::Directory)).count();
        let directory = Directory::new(parent, path, meta, origin, found.len(), directories);
        self.remember(&directory)?;
        let mut block = self.cache.block(&directory.path);
        self.context.progress.add(1, 0);
        let mut ahead = Vec::with_capacity(directories);
        for (slot, (name, stat)) in found.into_iter().enumerate() {
            match stat {
                Ok(stat) if stat.kind == Type::Directory => ahead.push((slot, name)),
                Ok(stat) => self.entry(&directory, slot, &fd, &name, stat, &mut block)?,
                Err(e) => {
                    limit(&directory.child_path(&name), e)?;
                    self.context.errors.add(directory.child_path(&name), "unreadable", e);
                    directory.file(self.context, slot, Some((unread(&name), None)))?;
                }
            }
        }
        ahead.reverse();
        directory.files_listed();
        directory.seal(self.context)?;
        Ok(Some(Frame { directory, fd, stat, ahead }))
    }

    /// The status of each name that is not left out; names that vanished meanwhile are dropped.
    fn look(&self, fd: &Arc<OwnedFd>, path: &[u8], names: Vec<Vec<u8>>) -> Vec<(Vec<u8>, rustix::io::Result<Stat>)> {
        let dir = Path::new(OsStr::from_bytes(path));
        let look = |name: Vec<u8>| {
            let stat = Stat::at(fd, &name);
            let is_dir = stat.is_ok_and(|s| s.kind == Type::Directory);
            let excluded =
                !self.excludes.is_empty() && self.excludes.matches(&dir.join(OsStr::from_bytes(&name)), is_dir);
            (!excluded && stat != Err(Errno::NOENT)).then_some((name, stat))
        };
        names.into_iter().filter_map(look).collect()
    }

    /// One entry that is no directory.
    fn entry(
        &mut self,
        directory: &Arc<Directory>,
        slot: usize,
        fd: &Arc<OwnedFd>,
        name: &[u8],
        stat: Stat,
        block: &mut super::cache::Block,
    ) -> Result<()> {
        let link = self.link(directory, name, &stat);
        let volume = self.request.is_volume(|| directory.child_path(name), stat.kind);
        // When a device was written to last is written nowhere.
        let known = if volume && stat.kind != Type::File { None } else { block.take(name, &stat) };
        if let Some(mut entry) = known.filter(|entry| is_stored(self.context.vault, self.context.writer, entry)) {
            entry.link = link;
            entry.meta.owner = self.owners.get(stat.uid, stat.gid);
            self.context.progress.add(1, if stat.kind == Type::File { stat.size } else { 0 });
            let key = Key { ino: stat.ino, ctime: stat.ctime };
            return directory.file(self.context, slot, Some((entry, Some(key))));
        }
        if stat.kind == Type::File || volume {
            let owner = self.owners.get(stat.uid, stat.gid);
            let link = if stat.kind == Type::File { link } else { Link::None };
            let item =
                FileItem { directory: directory.clone(), slot, dir: fd.clone(), name: name.to_vec(), owner, link };
            if volume {
                self.send_batch()?;
                let view = self.request.view(&directory.path, name);
                let original = view.and_then(|view| view.original);
                return self.send(Task::Volume(Box::new(item), stat.kind == Type::Symlink, original));
            }
            return self.hand_out(item, stat.size);
        }
        self.context.progress.add(1, 0);
        let entry = match self.special(fd, name, &stat) {
            Ok((meta, kind)) => Some((Entry { name: name.to_vec(), meta, link, kind }, key_of(&stat))),
            Err(Errno::NOENT) => None,
            Err(e) => {
                limit(&directory.child_path(name), e)?;
                self.context.errors.add(directory.child_path(name), "unreadable", e);
                Some((unread(name), None))
            }
        };
        directory.file(self.context, slot, entry)
    }

    fn special(&mut self, fd: &Arc<OwnedFd>, name: &[u8], stat: &Stat) -> Result<(Metadata, Kind), Errno> {
        let kind = match stat.kind {
            Type::Symlink => {
                let target = readlinkat(fd, name, Vec::new())?.into_bytes();
                if target.is_empty() || target.len() > 4096 {
                    return Err(Errno::INVAL);
                }
                Kind::Symlink { target }
            }
            Type::CharDevice => Kind::CharDevice(stat.rdev),
            Type::BlockDevice => Kind::BlockDevice(stat.rdev),
            Type::Fifo => Kind::Fifo,
            _ => Kind::Socket,
        };
        let xattrs = capture::xattrs_at(fd.as_fd(), name)?;
        Ok((self.basic(stat, xattrs, 0), kind))
    }

    fn metadata(&mut self, fd: &Arc<OwnedFd>, stat: &Stat) -> Result<Metadata, Errno> {
        Ok(self.basic(stat, capture::xattrs(fd)?, capture::flags(fd)))
    }

    fn basic(&mut self, stat: &Stat, xattrs: capture::Xattrs, flags: u32) -> Metadata {
        let owner = self.owners.get(stat.uid, stat.gid);
        Metadata { mode: stat.mode, owner, mtime: stat.mtime, xattrs, flags }
    }

    /// What an inode with several names is called elsewhere in this backup.
    fn link(&mut self, directory: &Arc<Directory>, name: &[u8], stat: &Stat) -> Link {
        if stat.nlink < 2 {
            return Link::None;
        }
        let path = directory.child_path(name);
        let id = (stat.dev, stat.ino);
        let Some((left, first)) = self.links.get_mut(&id) else {
            self.links.insert(id, (stat.nlink - 1, path));
            return Link::First { nlink: stat.nlink };
        };
        let (up, path) = relative(&directory.path, first);
        let link = Link::To { nlink: stat.nlink, up, path };
        *left -= 1;
        if *left == 0 {
            self.links.remove(&id);
        }
        link
    }

    fn hand_out(&mut self, item: FileItem, size: u64) -> Result<()> {
        self.unsaved += size;
        if self.unsaved >= UNSAVED {
            self.save()?;
        }
        if size > WHOLE_MAX {
            self.send_batch()?;
            return self.send(Task::Large(Box::new(item)));
        }
        self.batch.push(item);
        self.batch_bytes += size;
        if self.batch_bytes >= BATCH_BYTES || self.batch.len() >= BATCH_FILES { self.send_batch() } else { Ok(()) }
    }

    fn send_batch(&mut self) -> Result<()> {
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() { Ok(()) } else { self.send(Task::Small(batch)) }
    }

    fn send(&self, task: Task) -> Result<()> {
        self.context.check()?;
        self.tasks.send(task).map_err(|_| Error::failed("the readers have ended"))
    }

    /// Queues a directory's block for the new change cache and writes those that are complete.
    fn remember(&mut self, directory: &Arc<Directory>) -> Result<()> {
        self.cache_queue.push_back(directory.clone());
        self.write_blocks()
    }

    /// Saves what is known by now, so that a backup which is interrupted need not be begun anew: of the
    /// directory that everything waits for, what there is of it.
    fn save(&mut self) -> Result<()> {
        self.unsaved = 0;
        self.write_blocks()?;
        if let Some(block) = self.cache_queue.front().and_then(|first| first.early_block()) {
            self.new_cache.add(&block)?;
        }
        self.new_cache.flush()
    }

    fn write_blocks(&mut self) -> Result<()> {
        while let Some(first) = self.cache_queue.front() {
            match first.block() {
                Some(block) if block.is_empty() => {}
                Some(block) => self.new_cache.add(&block)?,
                None if self.cache_queue.len() > CACHE_BACKLOG => {
                    // The file it waits for may still be in our hands.
                    self.send_batch()?;
                    self.context.check()?;
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                }
                None => break,
            }
            self.cache_queue.pop_front();
        }
        Ok(())
    }
}
