//! The change cache: what the last backup of a resource found, in the order it walked.
//!
//! One block per directory: its path, and for every entry that is not a directory the whole tree
//! entry with the inode's number and change time. A walk in the same order reads it front to back
//! in step. Losing it costs one re-read; a damaged block ends its use. An entry is only taken over
//! when the vault still holds its blobs.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::model::{Error, Id, IoContext, Result};
use crate::source::Stat;
use crate::vault::codec::{Reader, Writer};
use crate::vault::tree::{Entry, Node, Time, node};

const MAGIC: &[u8; 8] = b"SRCACHE1";
const BLOCK_MAX: usize = 1 << 30;

/// What a file was when its entry was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Inode number.
    pub ino: u64,
    /// Last change of the inode.
    pub ctime: Time,
}

/// The entries of one directory by name.
#[derive(Debug, Default)]
pub struct Block {
    entries: HashMap<Vec<u8>, (Key, Entry)>,
}

impl Block {
    /// The entry of an inode that did not change since: same size, times and number.
    pub fn take(&mut self, name: &[u8], stat: &Stat) -> Option<Entry> {
        use crate::vault::tree::Kind;
        let (key, entry) = self.entries.remove(name)?;
        let size = match &entry.kind {
            Kind::File { size, .. } => *size,
            _ => stat.size,
        };
        let same = key.ino == stat.ino
            && key.ctime == stat.ctime
            && entry.meta.mtime == stat.mtime
            && size == stat.size
            && entry.type_bits() == crate::archive::tree::type_bits(stat.kind);
        same.then_some(entry)
    }
}

/// Where a new cache is written until its backup is published.
pub fn new_path(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// A block's bytes. Entries without a key (read too soon after they changed, or with errors) are
/// left out and so read again next time.
pub fn encode_block(path: &[u8], entries: &[(Key, &Entry)]) -> Vec<u8> {
    let mut w = Writer::default();
    w.bytes(path);
    w.uint(entries.len().div_ceil(node::LEAF_MAX) as u64);
    for leaf in entries.chunks(node::LEAF_MAX) {
        w.bytes(&node::encode_leaf(leaf.iter().map(|(_, entry)| *entry)));
        for (key, _) in leaf {
            w.uint(key.ino);
            w.int(key.ctime.sec);
            w.uint(key.ctime.nsec.into());
        }
    }
    w.bytes
}

fn decode_block(bytes: &[u8]) -> Result<(Vec<u8>, Block)> {
    let mut r = Reader::new(bytes, "a change cache");
    let path = r.bytes()?.to_vec();
    let leaves = r.count(1)?;
    let mut block = Block::default();
    for _ in 0..leaves {
        let Node::Leaf(entries) = Node::decode(r.bytes()?)? else { return Err(r.bad("it holds a branch")) };
        for entry in entries {
            let key = Key { ino: r.uint()?, ctime: Time { sec: r.int()?, nsec: r.u32()? } };
            block.entries.insert(entry.name.clone(), (key, entry));
        }
    }
    r.finish()?;
    Ok((path, block))
}

/// Writes a new cache, block by block.
#[derive(Debug)]
pub struct CacheWriter {
    file: BufWriter<File>,
    path: PathBuf,
}

impl CacheWriter {
    /// Begins the cache that is to follow the one at `path`.
    pub fn create(path: &Path, vault: Uuid) -> Result<Self> {
        let path = new_path(path);
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).at(|| format!("cannot create {}", dir.display()))?;
        }
        let file = File::create(&path).at(|| format!("cannot create {}", path.display()))?;
        let mut this = Self { file: BufWriter::with_capacity(1 << 18, file), path };
        this.write(MAGIC)?;
        this.write(vault.as_bytes())?;
        Ok(this)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).at(|| format!("cannot write {}", self.path.display()))
    }

    /// Adds an encoded block.
    pub fn add(&mut self, block: &[u8]) -> Result<()> {
        let len = u32::try_from(block.len()).ok().filter(|len| *len as usize <= BLOCK_MAX);
        // A directory too large to remember is read again.
        let Some(len) = len else { return Ok(()) };
        self.write(&len.to_le_bytes())?;
        self.write(&Id::of(block).0[..8])?;
        self.write(block)
    }

    /// Completes the file.
    pub fn finish(mut self) -> Result<()> {
        self.file.flush().at(|| format!("cannot write {}", self.path.display()))
    }
}

/// Reads a cache in step with a walk.
#[derive(Debug, Default)]
pub struct CacheReader {
    file: Option<BufReader<File>>,
    ahead: Option<(Vec<u8>, Block)>,
}

/// Compares absolute paths in the order of a walk: part by part.
fn walk_order(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    a.split(|c| *c == b'/').cmp(b.split(|c| *c == b'/'))
}

impl CacheReader {
    /// Opens the cache at `path`; one that is missing, damaged or of another vault is empty.
    pub fn open(path: &Path, vault: Uuid) -> Self {
        let open = || -> std::io::Result<Option<BufReader<File>>> {
            let mut file = BufReader::with_capacity(1 << 18, File::open(path)?);
            let mut head = [0; 24];
            file.read_exact(&mut head)?;
            Ok((&head[..8] == MAGIC && &head[8..] == vault.as_bytes()).then_some(file))
        };
        let mut this = Self { file: open().ok().flatten(), ahead: None };
        this.advance();
        this
    }

    fn advance(&mut self) {
        self.ahead = self.file.as_mut().and_then(|file| read_block(file).ok());
        if self.ahead.is_none() {
            self.file = None;
        }
    }

    /// The block of a directory; directories must be asked for in the order of the walk.
    pub fn block(&mut self, path: &[u8]) -> Block {
        loop {
            match self.ahead.as_ref().map(|(ahead, _)| walk_order(ahead, path)) {
                Some(std::cmp::Ordering::Less) => self.advance(),
                Some(std::cmp::Ordering::Equal) => {
                    let block = self.ahead.take().map(|(_, block)| block).unwrap_or_default();
                    self.advance();
                    return block;
                }
                _ => return Block::default(),
            }
        }
    }
}

fn read_block(file: &mut impl Read) -> Result<(Vec<u8>, Block)> {
    let what = || "cannot read the change cache";
    let mut head = [0; 12];
    file.read_exact(&mut head).at(what)?;
    let [a, b, c, d, check @ ..] = head;
    let len = u32::from_le_bytes([a, b, c, d]);
    let bad = || Error::damaged("a change cache is damaged");
    let len = usize::try_from(len).ok().filter(|len| *len <= BLOCK_MAX).ok_or_else(bad)?;
    let mut block = Vec::new();
    file.take(len as u64).read_to_end(&mut block).at(what)?;
    if block.len() != len || Id::of(&block).0[..8] != check {
        return Err(bad());
    }
    decode_block(&block)
}
