//! Directories under construction: entries come in any order and from any thread; the last one
//! makes the directory's node, which is an entry of the directory above, and so up to the root.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering::AcqRel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::cache::{self, Key};
use super::errors::Errors;
use crate::model::{Error, Id, Progress, Result};
use crate::source::stat::Type;
use crate::vault::directory::{put_directory, put_root};
use crate::vault::tree::{Entry, Kind, Link, Metadata, Origin, Totals};
use crate::vault::writer::Lane;
use crate::vault::{Vault, VaultWriter};

/// The file type bits of `st_mode`.
pub fn type_bits(kind: Type) -> u32 {
    use nix::libc;
    match kind {
        Type::Directory => libc::S_IFDIR,
        Type::File => libc::S_IFREG,
        Type::Symlink => libc::S_IFLNK,
        Type::CharDevice => libc::S_IFCHR,
        Type::BlockDevice => libc::S_IFBLK,
        Type::Fifo => libc::S_IFIFO,
        Type::Socket => libc::S_IFSOCK,
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What all threads of one backup share.
#[derive(Debug)]
pub struct Context<'a> {
    pub vault: &'a Arc<Vault>,
    pub writer: &'a VaultWriter,
    pub progress: &'a Progress,
    pub errors: Errors,
    /// Where nodes go; `None` once the backup ends.
    pub tree: Mutex<Option<Lane>>,
    /// The directory of dumps, which hangs in the root.
    pub dumps: Option<Entry>,
    failure: Mutex<Option<Error>>,
    root: OnceLock<(Id, Totals)>,
}

impl<'a> Context<'a> {
    pub fn new(
        vault: &'a Arc<Vault>,
        writer: &'a VaultWriter,
        tree: Lane,
        dumps: Option<Entry>,
        progress: &'a Progress,
    ) -> Self {
        let errors = Errors::default();
        let (failure, root) = (Mutex::default(), OnceLock::new());
        Self { vault, writer, progress, errors, tree: Mutex::new(Some(tree)), dumps, failure, root }
    }

    /// Ends the backup with an error; the first one counts.
    pub fn fail(&self, error: Error) {
        lock(&self.failure).get_or_insert(error);
    }

    /// Fails once the backup was cancelled or failed anywhere.
    pub fn check(&self) -> Result<()> {
        self.progress.check()?;
        lock(&self.failure).clone().map_or(Ok(()), Err)
    }

    /// Does something with the lane for nodes.
    pub fn with_tree<T>(&self, f: impl FnOnce(&mut Lane) -> Result<T>) -> Result<T> {
        f(lock(&self.tree).as_mut().ok_or_else(|| Error::failed("the backup has ended"))?)
    }

    /// The root, when all is done.
    pub fn root(&self) -> Option<(Id, Totals)> {
        self.root.get().copied()
    }
}

type Slot = Option<(Entry, Option<Key>)>;

/// The blocks of the change cache of one directory.
#[derive(Debug, Default)]
struct Blocks {
    /// Which entries are in an early one.
    saved: HashSet<usize>,
    /// The last one, when the files are all there.
    last: Option<Vec<u8>>,
}

/// One directory whose entries are being found.
#[derive(Debug)]
pub struct Directory {
    parent: Option<(Arc<Directory>, usize)>,
    /// Absolute path, as raw bytes.
    pub path: Vec<u8>,
    name: Vec<u8>,
    meta: Metadata,
    origin: Origin,
    slots: Mutex<Vec<Slot>>,
    /// Entries that are not there yet.
    pending: AtomicUsize,
    /// Those of them that are no directories.
    files: AtomicUsize,
    blocks: Mutex<Blocks>,
}

impl Drop for Directory {
    /// Lets go of the directories above one by one: a chain of them may be long, the stack is not.
    fn drop(&mut self) {
        let mut above = self.parent.take();
        while let Some((directory, _)) = above {
            above = Arc::into_inner(directory).and_then(|mut directory| directory.parent.take());
        }
    }
}

impl Directory {
    /// A directory that will have `entries` entries, `directories` of them directories. `parent`
    /// says where it belongs; the root has none.
    pub fn new(
        parent: Option<(Arc<Self>, usize)>,
        path: Vec<u8>,
        meta: Metadata,
        origin: Origin,
        entries: usize,
        directories: usize,
    ) -> Arc<Self> {
        let name = match &parent {
            Some(_) => path.rsplit(|b| *b == b'/').next().unwrap_or_default().to_vec(),
            None => Vec::new(),
        };
        Arc::new(Self {
            parent,
            path,
            name,
            meta,
            origin,
            slots: Mutex::new(std::iter::repeat_with(|| None).take(entries).collect()),
            // One more each for the walker, which lets go by `files_listed` and `seal`.
            pending: AtomicUsize::new(entries + 1),
            files: AtomicUsize::new(entries - directories + 1),
            blocks: Mutex::default(),
        })
    }

    /// The path of an entry.
    pub fn child_path(&self, name: &[u8]) -> Vec<u8> {
        let mut path = self.path.clone();
        if path != b"/" {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    /// The last block of the directory for the change cache, when its files are all there. It is
    /// given once.
    pub fn block(&self) -> Option<Vec<u8>> {
        lock(&self.blocks).last.take()
    }

    /// A block of the files that are there by now and in no earlier one.
    pub fn early_block(&self) -> Option<Vec<u8>> {
        let mut blocks = lock(&self.blocks);
        if blocks.last.is_some() { None } else { self.encode(&mut blocks, true) }
    }

    fn encode(&self, blocks: &mut Blocks, early: bool) -> Option<Vec<u8>> {
        let slots = lock(&self.slots);
        let known = slots.iter().enumerate().filter_map(|(i, slot)| {
            let (entry, key) = slot.as_ref()?;
            Some((i, ((*key)?, entry)))
        });
        let known: Vec<_> = known.filter(|(i, _)| !blocks.saved.contains(i)).collect();
        // A directory without files is remembered too: one that is interrupted is told by it.
        if known.is_empty() && (early || !blocks.saved.is_empty()) {
            return None;
        }
        let kind = Kind::Directory { node: Id([0; 32]), totals: Totals::default(), origin: self.origin };
        let dir = Entry { name: Vec::new(), meta: self.meta.clone(), link: Link::None, kind };
        let block = cache::encode_block(&self.path, &dir, &known.iter().map(|(_, known)| *known).collect::<Vec<_>>());
        blocks.saved.extend(known.iter().map(|(i, _)| *i));
        Some(block)
    }

    /// Says that the walker has been through the entries that are no directories, so that the
    /// block of the change cache need not wait for what is beneath.
    pub fn files_listed(&self) {
        self.file_done();
    }

    /// Says that the walker will put in no more entries itself.
    pub fn seal(self: &Arc<Self>, context: &Context<'_>) -> Result<()> {
        self.done(context)
    }

    /// Puts an entry that is no directory in its place, or nothing where it vanished. With a key
    /// it may be taken over by the next backup.
    pub fn file(
        self: &Arc<Self>,
        context: &Context<'_>,
        slot: usize,
        entry: Option<(Entry, Option<Key>)>,
    ) -> Result<()> {
        self.put(slot, entry);
        self.file_done();
        self.done(context)
    }

    /// Puts a name where a directory was expected and could not be read.
    pub fn no_directory(self: &Arc<Self>, context: &Context<'_>, slot: usize, entry: Option<Entry>) -> Result<()> {
        self.put(slot, entry.map(|entry| (entry, None)));
        self.done(context)
    }

    fn put(&self, slot: usize, entry: Slot) {
        if let Some(place) = lock(&self.slots).get_mut(slot) {
            *place = entry;
        }
    }

    fn file_done(&self) {
        if self.files.fetch_sub(1, AcqRel) == 1 {
            let mut blocks = lock(&self.blocks);
            blocks.last = Some(self.encode(&mut blocks, false).unwrap_or_default());
            // What was saved is asked no more.
            blocks.saved = HashSet::new();
        }
    }

    /// One entry fewer to wait for. The last one makes the node, and perhaps those above.
    fn done(self: &Arc<Self>, context: &Context<'_>) -> Result<()> {
        let mut at = self.clone();
        while at.pending.fetch_sub(1, AcqRel) == 1 {
            let mut entries: Vec<Entry> =
                std::mem::take(&mut *lock(&at.slots)).into_iter().flatten().map(|s| s.0).collect();
            if let (None, Some(dumps)) = (&at.parent, &context.dumps) {
                super::dumps::hang(&mut entries, dumps)?;
            }
            let (node, totals) = context.with_tree(|lane| put_directory(lane, &entries))?;
            let kind = Kind::Directory { node, totals, origin: at.origin };
            let entry = Entry { name: at.name.clone(), meta: at.meta.clone(), link: Link::None, kind };
            let Some((parent, slot)) = &at.parent else {
                let root = context.with_tree(|lane| put_root(lane, &entry))?;
                let _ = context.root.set((root, totals));
                return Ok(());
            };
            parent.put(*slot, Some((entry, None)));
            at = parent.clone();
        }
        Ok(())
    }
}
