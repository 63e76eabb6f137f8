//! Workers: reading files that are new or changed, and storing what they hold.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering::AcqRel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, Sender, TrySendError, select};
use rustix::io::Errno;

use super::cache::Key;
use super::cut::{Cutter, Sizes, fill};
use super::tree::{Context, Directory, lock};
use crate::model::{Id, Result};
use crate::source::file::{DataReader, holes, open};
use crate::source::{Stat, capture};
use crate::vault::directory::put_content;
use crate::vault::tree::{Content, Entry, Kind, Link, Metadata, Owner, Part, Time};
use crate::vault::writer::Lane;

/// Files up to this size are one blob; larger ones are cut by content.
pub const WHOLE_MAX: u64 = 256 << 10;

/// Times this close to the moment of reading prove nothing about later changes.
const RACY: Duration = Duration::from_secs(2);

/// So many small files are open ahead of the one that is read: the disk brings them while others are hashed and
/// compressed, and has several to bring at a time.
const AHEAD: usize = 128;

/// A file to read.
#[derive(Debug)]
pub struct FileItem {
    pub directory: Arc<Directory>,
    pub slot: usize,
    pub dir: Arc<OwnedFd>,
    pub name: Vec<u8>,
    pub owner: Arc<Owner>,
    pub link: Link,
}

/// What a worker is given.
#[derive(Debug)]
pub enum Task {
    /// Small files that lie together.
    Small(Vec<FileItem>),
    /// One file that will be cut.
    Large(Box<FileItem>),
    /// One block device, perhaps through a link, or disk image, which may be a clone of one that was
    /// like that.
    Volume(Box<FileItem>, bool, Option<Stat>),
}

/// A piece of a large file for whichever worker is free.
#[derive(Debug)]
pub struct Chunk {
    file: Arc<LargeFile>,
    index: usize,
    bytes: Vec<u8>,
}

/// A large file whose chunks are being stored.
#[derive(Debug)]
pub(super) struct LargeFile {
    pub item: FileItem,
    /// Whether its chunks are segments of their own.
    pub alone: bool,
    pub parts: Mutex<Vec<Option<Part>>>,
    /// Chunks under way, and one for the reader.
    pub pending: AtomicUsize,
    /// Set by the reader when it is through.
    pub end: Mutex<Option<LargeEnd>>,
}

impl LargeFile {
    pub fn new(item: FileItem, alone: bool) -> Self {
        Self { item, alone, parts: Mutex::default(), pending: AtomicUsize::new(1), end: Mutex::default() }
    }
}

/// Metadata, size, holes, the key for the change cache, and whether the file changed meanwhile.
pub(super) type LargeEnd = (Metadata, u64, Vec<(u64, u64)>, Option<Key>, bool);

/// The key for the change cache if the file did not change meanwhile, metadata, size, holes, length of the content.
type SmallRead = (Option<Option<Key>>, Metadata, u64, Vec<(u64, u64)>, usize);

/// A small file that is open, and its key for the change cache.
type Opened = (File, Stat, Option<Key>);

/// One worker.
pub struct Worker<'a> {
    pub context: &'a Context<'a>,
    pub lane: Lane,
    pub chunks: Option<Sender<Chunk>>,
    pub received: Receiver<Chunk>,
    /// As [`super::cut::buffer`] gives it.
    pub buffer: Vec<u8>,
}

/// Why a file could not be read as it stands.
pub(super) enum Trouble {
    Vanished,
    Unreadable(String),
    /// Nothing is wrong with the file: see [`limit`].
    Limit(Errno),
}

/// The failure of the backup that an error of a file is, where it tells not of the file but of how many this
/// process may open: or whatever comes after it would be missing.
pub(super) fn limit(path: &[u8], e: Errno) -> Result<()> {
    match e {
        Errno::MFILE | Errno::NFILE => {
            Err(crate::model::Error::io(format!("cannot read {}", String::from_utf8_lossy(path)), &e.into()))
        }
        _ => Ok(()),
    }
}

impl From<Errno> for Trouble {
    fn from(e: Errno) -> Self {
        match e {
            Errno::NOENT => Self::Vanished,
            e if limit(b"", e).is_err() => Self::Limit(e),
            e => Self::Unreadable(e.to_string()),
        }
    }
}

impl From<std::io::Error> for Trouble {
    fn from(e: std::io::Error) -> Self {
        if let Some(e) = Errno::from_io_error(&e) {
            return e.into();
        }
        if e.kind() == std::io::ErrorKind::NotFound { Self::Vanished } else { Self::Unreadable(e.to_string()) }
    }
}

/// Opens a small file, and has its content brought from the disk. What goes wrong does so again when it is read.
fn open_ahead(item: &FileItem) -> Option<Opened> {
    let (file, stat, key) = opened(item).ok()?;
    if stat.size > 0 && stat.size <= WHOLE_MAX {
        // The kernel may fail an advice; it is only that.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::WillNeed);
    }
    Some((file, stat, key))
}

/// Opens a small file.
fn opened(item: &FileItem) -> std::io::Result<Opened> {
    let (file, stat) = open(&item.dir, &item.name)?;
    // By the clock of then: a change while it is open must not look old afterwards.
    let key = key_of(&stat);
    Ok((file, stat, key))
}

/// The key under which an entry may be taken over later, unless it changed too recently.
pub fn key_of(stat: &Stat) -> Option<Key> {
    let limit = SystemTime::now().checked_sub(RACY)?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let limit = Time { sec: i64::try_from(limit.as_secs()).ok()?, nsec: limit.subsec_nanos() };
    (stat.mtime < limit && stat.ctime < limit).then_some(Key { ino: stat.ino, ctime: stat.ctime })
}

impl Worker<'_> {
    /// Works until no task can come any more.
    pub fn run(mut self, tasks: &Receiver<Task>) {
        let work = std::panic::AssertUnwindSafe(|| self.work(tasks).and_then(|()| self.lane.flush()));
        let ended = std::panic::catch_unwind(work)
            .unwrap_or_else(|_| Err(crate::model::Error::failed("a reader ended unexpectedly")));
        if let Err(e) = ended {
            self.context.fail(e);
            // Whoever sends tasks must not wait for ever.
            for _ in tasks {}
        }
    }

    fn work(&mut self, tasks: &Receiver<Task>) -> Result<()> {
        loop {
            // Chunks first: they hold memory.
            let task = match self.received.try_recv() {
                Ok(chunk) => {
                    self.chunk(&chunk.file, chunk.index, &chunk.bytes)?;
                    continue;
                }
                Err(_) => select! {
                    recv(self.received) -> chunk => {
                        if let Ok(chunk) = chunk {
                            self.chunk(&chunk.file, chunk.index, &chunk.bytes)?;
                        }
                        continue;
                    }
                    recv(tasks) -> task => task,
                },
            };
            self.context.check()?;
            match task {
                Ok(Task::Small(items)) => self.smalls(items)?,
                Ok(Task::Large(item)) => self.large(*item)?,
                Ok(Task::Volume(item, link, original)) => self.volume(*item, link, original)?,
                Err(_) => break,
            }
        }
        // The others may still cut files; their chunks end when the last of us gets here.
        self.chunks = None;
        while let Ok(chunk) = self.received.recv() {
            self.chunk(&chunk.file, chunk.index, &chunk.bytes)?;
        }
        Ok(())
    }

    /// Reads small files, one after another.
    fn smalls(&mut self, items: Vec<FileItem>) -> Result<()> {
        let mut items = items.into_iter();
        let mut ahead = VecDeque::with_capacity(AHEAD);
        loop {
            if ahead.len() <= AHEAD / 4 {
                let more = items.by_ref().take(AHEAD - ahead.len());
                ahead.extend(more.map(|item| {
                    let opened = open_ahead(&item);
                    (item, opened)
                }));
            }
            let Some((item, opened)) = ahead.pop_front() else { return Ok(()) };
            if opened.is_none() {
                // Perhaps too many files are open; then it is not for want of these that it fails.
                ahead.iter_mut().for_each(|(_, opened)| *opened = None);
            }
            self.small(item, opened)?;
        }
    }

    /// Reads a small file, again if it changed meanwhile.
    fn small(&mut self, item: FileItem, mut opened: Option<Opened>) -> Result<()> {
        self.context.check()?;
        let mut tries = 0;
        loop {
            tries += 1;
            match self.read_small(&item, opened.take()) {
                Ok(Some((None, ..))) if tries < 3 => {}
                Ok(Some((key, meta, size, holes, len))) => {
                    if key.is_none() {
                        let path = item.directory.child_path(&item.name);
                        self.context.errors.add(path, "changed", "it changed while it was read");
                    }
                    let content = match self.buffer.get(..len) {
                        None | Some([]) => Content::Empty,
                        Some(bytes) => Content::Whole(self.lane.put(bytes)?),
                    };
                    let kind = Kind::File { size, holes, content };
                    self.context.progress.add(1, size);
                    return self.finish(item, meta, kind, key.flatten());
                }
                // It grew past what is small: the other way reads it.
                Ok(None) => return self.large(item),
                Err(trouble) => return self.trouble(item, trouble),
            }
        }
    }

    /// Reads a small file into the buffer: status if it did not change meanwhile, metadata, size,
    /// holes and the length of the content. `None` where it is not small any more.
    fn read_small(&mut self, item: &FileItem, ahead: Option<Opened>) -> Result<Option<SmallRead>, Trouble> {
        let (file, stat, key) = match ahead {
            Some(ahead) => ahead,
            None => opened(item)?,
        };
        if stat.size > WHOLE_MAX {
            return Ok(None);
        }
        let holes = holes(&file, &stat)?;
        if (self.buffer.len() as u64) < WHOLE_MAX {
            self.buffer = super::cut::buffer();
        }
        let mut have = 0;
        if stat.size > 0 {
            let size = usize::try_from(stat.size).unwrap_or(0);
            let mut reader = DataReader::new(&file, &holes, stat.size);
            have = fill(&mut reader, self.buffer.get_mut(..size).unwrap_or_default(), 0)?;
        }
        let meta = metadata(&file, &stat, &item.owner)?;
        let after = Stat::of(&file)?;
        let (size, holes) = cut_short(stat.size, holes, have as u64);
        Ok(Some(((!after.changed_since(&stat)).then_some(key), meta, size, holes, have)))
    }

    /// Cuts a large file; the chunks are stored by whoever is free.
    fn large(&mut self, item: FileItem) -> Result<()> {
        self.context.progress.set_current(&String::from_utf8_lossy(&item.directory.child_path(&item.name)));
        let (file, stat, holes) = match open(&item.dir, &item.name).and_then(|(file, stat)| {
            let holes = holes(&file, &stat)?;
            Ok((file, stat, holes))
        }) {
            Ok(opened) => opened,
            Err(e) => return self.trouble(item, e.into()),
        };
        // The kernel may fail an advice; it is only that.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        let large = Arc::new(LargeFile::new(item, Sizes::of(stat.size).alone));
        let end = self.cut(&large, &file, &stat, holes)?;
        let item = &large.item;
        match end {
            Ok(end) => {
                if end.4 {
                    self.context.errors.add(
                        item.directory.child_path(&item.name),
                        "changed",
                        "it changed while it was read",
                    );
                }
                *lock(&large.end) = Some(end);
            }
            Err(Trouble::Vanished) => {}
            Err(Trouble::Unreadable(why)) => {
                self.context.errors.add(item.directory.child_path(&item.name), "unreadable", why);
            }
            Err(Trouble::Limit(e)) => limit(&item.directory.child_path(&item.name), e)?,
        }
        self.part_done(&large)
    }

    /// The outer error ends the backup, the inner one only the file.
    fn cut(
        &mut self,
        large: &Arc<LargeFile>,
        file: &File,
        stat: &Stat,
        holes: Vec<(u64, u64)>,
    ) -> Result<Result<LargeEnd, Trouble>> {
        let before = key_of(stat);
        let reader = DataReader::direct(file, &holes, stat.size);
        let mut cutter = Cutter::new(reader, Sizes::of(stat.size), std::mem::take(&mut self.buffer));
        let (mut total, mut index) = (0u64, 0);
        let trouble = loop {
            match cutter.next() {
                Ok(Some((chunk, read))) => {
                    self.context.progress.add(0, read);
                    total += chunk.len() as u64;
                    self.offer(large, index, chunk)?;
                    index += 1;
                }
                Ok(None) => break None,
                Err(e) => break Some(e),
            }
        };
        self.buffer = cutter.into_parts().1;
        if let Some(e) = trouble {
            return Ok(Err(e.into()));
        }
        self.context.progress.add(1, 0);
        let meta = match metadata(file, stat, &large.item.owner) {
            Ok(meta) => meta,
            Err(trouble) => return Ok(Err(trouble)),
        };
        let changed = Stat::of(file).map_or(true, |after| after.changed_since(stat));
        let key = if changed { None } else { before };
        let (size, holes) = cut_short(stat.size, holes, total);
        Ok(Ok((meta, size, holes, key, changed)))
    }

    /// Gives a chunk to a worker that is free, else stores it at once.
    pub(super) fn offer(&mut self, large: &Arc<LargeFile>, index: usize, bytes: &[u8]) -> Result<()> {
        self.context.check()?;
        large.pending.fetch_add(1, AcqRel);
        if self.chunks.as_ref().is_some_and(|chunks| !chunks.is_full()) {
            let chunk = Chunk { file: large.clone(), index, bytes: bytes.to_vec() };
            match self.chunks.as_ref().map(|chunks| chunks.try_send(chunk)) {
                Some(Ok(())) => return Ok(()),
                Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) | None => {}
            }
        }
        self.chunk(large, index, bytes)
    }

    fn chunk(&mut self, large: &Arc<LargeFile>, index: usize, bytes: &[u8]) -> Result<()> {
        self.context.check()?;
        let id = Id::of(bytes);
        self.lane.put_hashed(id, bytes, large.alone)?;
        {
            let mut parts = lock(&large.parts);
            if parts.len() <= index {
                parts.resize(index + 1, None);
            }
            parts[index] = Some(Part { id, len: bytes.len() as u64 });
        }
        self.part_done(large)
    }

    pub(super) fn part_done(&self, large: &Arc<LargeFile>) -> Result<()> {
        if large.pending.fetch_sub(1, AcqRel) != 1 {
            return Ok(());
        }
        let item = &large.item;
        let end = lock(&large.end).take();
        let entry = match end {
            Some((meta, size, holes, key, _)) => {
                let parts: Vec<Part> = std::mem::take(&mut *lock(&large.parts)).into_iter().flatten().collect();
                let content = self.context.with_tree(|lane| put_content(lane, parts))?;
                let kind = Kind::File { size, holes, content };
                (Entry { name: item.name.clone(), meta, link: item.link.clone(), kind }, key)
            }
            None => (unread(&item.name), None),
        };
        item.directory.file(self.context, item.slot, Some(entry))
    }

    fn finish(&self, item: FileItem, meta: Metadata, kind: Kind, key: Option<Key>) -> Result<()> {
        let entry = Entry { name: item.name, meta, link: item.link, kind };
        item.directory.file(self.context, item.slot, Some((entry, key)))
    }

    pub(super) fn trouble(&self, item: FileItem, trouble: Trouble) -> Result<()> {
        let path = item.directory.child_path(&item.name);
        let entry = match trouble {
            Trouble::Vanished => {
                self.context.errors.add(path, "vanished", "it was removed before it could be read");
                None
            }
            Trouble::Unreadable(why) => {
                self.context.errors.add(path, "unreadable", why);
                Some((unread(&item.name), None))
            }
            Trouble::Limit(e) => {
                limit(&path, e)?;
                None
            }
        };
        item.directory.file(self.context, item.slot, entry)
    }
}

/// A name that was there and could not be read.
pub fn unread(name: &[u8]) -> Entry {
    Entry { name: name.to_vec(), meta: Metadata::default(), link: Link::None, kind: Kind::Unread }
}

pub(super) fn metadata(file: &File, stat: &Stat, owner: &Arc<Owner>) -> Result<Metadata, Trouble> {
    Ok(Metadata {
        mode: stat.mode,
        owner: owner.clone(),
        mtime: stat.mtime,
        xattrs: capture::xattrs(file.as_fd())?,
        flags: capture::flags(file.as_fd()),
    })
}

/// Size and holes of a file of which only `have` bytes outside the holes could be read.
pub(super) fn cut_short(size: u64, mut holes: Vec<(u64, u64)>, have: u64) -> (u64, Vec<(u64, u64)>) {
    let hollow: u64 = holes.iter().map(|(_, len)| len).sum();
    if hollow + have == size {
        return (size, holes);
    }
    // Data ends inside some extent: what follows it is gone, holes there too.
    let (mut end, mut left) = (0, have);
    let kept = holes.iter().position(|(offset, len)| {
        let data = offset - end;
        if left < data {
            return true;
        }
        left -= data;
        end = offset + len;
        false
    });
    holes.truncate(kept.unwrap_or(holes.len()));
    (end + left, holes)
}
