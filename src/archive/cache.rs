//! The change cache: what the last backup of a resource found, in the order it walked.
//!
//! One block per directory: its path, what it is itself, and for every entry that is not a directory the
//! whole tree entry with the inode's number and change time. A walk in the same order reads it front to back
//! in step. Losing it costs one re-read; a damaged block ends its use. An entry is only taken over
//! when the vault still holds its blobs.
//!
//! A backup writes its cache beside the current one, and of a directory with much in it a block now
//! and then. What one that was interrupted left there is as good: the next backup reads it along
//! with the current cache, and so goes on where that one ended.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::model::{Error, Id, IoContext, Result};
use crate::source::Stat;
use crate::vault::codec::{Reader, Writer};
use crate::vault::tree::{Entry, Kind, Node, Time, node};

const MAGIC: &[u8; 8] = b"SRCACHE2";
/// Bytes before the first block: magic, vault, backup.
const HEAD: usize = 8 + 16 + 16;
const BLOCK_MAX: usize = 1 << 30;

/// What a file was when its entry was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Inode number.
    pub ino: u64,
    /// Last change of the inode.
    pub ctime: Time,
}

/// The entries of one directory by name, as one or several backups found them.
#[derive(Debug, Default)]
pub struct Block {
    found: Vec<HashMap<Vec<u8>, (Key, Entry)>>,
}

impl Block {
    /// The entry of an inode that did not change since: same size, times and number.
    pub fn take(&mut self, name: &[u8], stat: &Stat) -> Option<Entry> {
        self.found.iter_mut().filter_map(|found| found.remove(name)).find_map(|(key, entry)| {
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
        })
    }
}

/// Where a new cache is written until its backup is published.
pub fn new_path(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// What backups that were interrupted left of theirs.
fn rest_path(path: &Path) -> PathBuf {
    path.with_extension("rest")
}

/// Makes the new cache the current one, and forgets what earlier ones left.
pub fn commit(path: &Path) -> Result<()> {
    std::fs::rename(new_path(path), path).at(|| format!("cannot put {} in place", path.display()))?;
    // In a rest that stays nothing is wrong, only old.
    let _ = std::fs::remove_file(rest_path(path));
    Ok(())
}

/// A block's bytes. Entries without a key (read too soon after they changed, or with errors) are
/// left out and so read again next time.
///
/// `dir` is the directory itself, as the root of a tree is: without a name.
pub fn encode_block(path: &[u8], dir: &Entry, entries: &[(Key, &Entry)]) -> Vec<u8> {
    let mut w = Writer::default();
    w.bytes(path);
    w.bytes(&node::encode_root(dir));
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

/// What a block says.
#[derive(Debug)]
pub struct Found {
    /// The directory's absolute path.
    pub path: Vec<u8>,
    /// The directory itself.
    pub dir: Entry,
    /// Its entries that are no directories.
    pub entries: Vec<(Key, Entry)>,
}

pub(crate) fn decode_block(bytes: &[u8]) -> Result<Found> {
    let mut r = Reader::new(bytes, "a change cache");
    let path = r.bytes()?.to_vec();
    let Node::Root(dir) = Node::decode(r.bytes()?)? else { return Err(r.bad("it does not say what a directory is")) };
    let leaves = r.count(1)?;
    let mut found = Vec::new();
    for _ in 0..leaves {
        let Node::Leaf(entries) = Node::decode(r.bytes()?)? else { return Err(r.bad("it holds a branch")) };
        for entry in entries {
            let key = Key { ino: r.uint()?, ctime: Time { sec: r.int()?, nsec: r.u32()? } };
            found.push((key, entry));
        }
    }
    r.finish()?;
    Ok(Found { path, dir: *dir, entries: found })
}

/// Writes a new cache, block by block.
#[derive(Debug)]
pub struct CacheWriter {
    file: BufWriter<File>,
    path: PathBuf,
}

impl CacheWriter {
    /// Begins the cache of a backup, which is to follow the one at `path`. What an interrupted backup left
    /// there is kept for [`CacheReader::open`].
    pub fn create(path: &Path, vault: Uuid, backup: Uuid) -> Result<Self> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).at(|| format!("cannot create {}", dir.display()))?;
        }
        if let Err(e) = keep_rest(path, vault) {
            tracing::warn!("what an interrupted backup had read is read again: {e}");
        }
        Self::begin(new_path(path), vault, backup)
    }

    fn begin(path: PathBuf, vault: Uuid, backup: Uuid) -> Result<Self> {
        let file = File::create(&path).at(|| format!("cannot create {}", path.display()))?;
        let mut this = Self { file: BufWriter::with_capacity(1 << 18, file), path };
        this.write(MAGIC)?;
        this.write(vault.as_bytes())?;
        this.write(backup.as_bytes())?;
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

    /// Hands what was added to the system, so that it survives the end of this process.
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush().at(|| format!("cannot write {}", self.path.display()))
    }

    /// Completes the file.
    pub fn finish(mut self) -> Result<()> {
        self.flush()
    }
}

/// Adds what the last backup left, if it was interrupted, to what earlier ones did: all of its own, and
/// what they have of directories that it did not get to.
fn keep_rest(path: &Path, vault: Uuid) -> Result<()> {
    let (new, rest) = (new_path(path), rest_path(path));
    let Some((mut from, _)) = open_file(&new, vault) else { return Ok(()) };
    let merged = path.with_extension("merged");
    let mut to = CacheWriter::begin(merged.clone(), vault, Uuid::nil())?;
    let mut last = Vec::new();
    while let Ok(block) = read_block(&mut from) {
        last = path_of(&block)?;
        to.add(&block)?;
    }
    if let Some((mut older, _)) = open_file(&rest, vault) {
        while let Ok(block) = read_block(&mut older) {
            if walk_order(&path_of(&block)?, &last).is_ge() {
                to.add(&block)?;
            }
        }
    }
    to.finish()?;
    std::fs::rename(&merged, &rest).at(|| format!("cannot put {} in place", rest.display()))?;
    std::fs::remove_file(&new).at(|| format!("cannot remove {}", new.display()))
}

/// Reads a cache in step with a walk, and beside it what interrupted backups left.
#[derive(Debug, Default)]
pub struct CacheReader {
    files: Vec<CacheFile>,
}

#[derive(Debug, Default)]
struct CacheFile {
    file: Option<BufReader<File>>,
    ahead: Option<(Vec<u8>, Block)>,
}

/// Compares absolute paths in the order of a walk: part by part.
pub(super) fn walk_order(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    a.split(|c| *c == b'/').cmp(b.split(|c| *c == b'/'))
}

impl CacheReader {
    /// Opens the cache at `path`; one that is missing, damaged or of another vault is empty. To be
    /// called after [`CacheWriter::create`].
    pub fn open(path: &Path, vault: Uuid) -> Self {
        let files = [rest_path(path), path.to_path_buf()];
        let open = |path: &PathBuf| {
            let mut file = CacheFile { file: open_file(path, vault).map(|(file, _)| file), ahead: None };
            file.advance();
            file
        };
        Self { files: files.iter().map(open).collect() }
    }

    /// The block of a directory; directories must be asked for in the order of the walk.
    pub fn block(&mut self, path: &[u8]) -> Block {
        let mut block = Block::default();
        self.files.iter_mut().for_each(|file| file.take(path, &mut block));
        block
    }
}

impl CacheFile {
    fn advance(&mut self) {
        let block = self.file.as_mut().and_then(|file| read_block(file).ok());
        self.ahead = block.and_then(|block| decode_block(&block).ok()).map(|Found { path, entries, .. }| {
            let by_name = entries.into_iter().map(|(key, entry)| (entry.name.clone(), (key, entry)));
            (path, Block { found: vec![by_name.collect()] })
        });
        if self.ahead.is_none() {
            self.file = None;
        }
    }

    /// Adds all that it has of a directory.
    fn take(&mut self, path: &[u8], to: &mut Block) {
        while let Some((ahead, block)) = &mut self.ahead {
            match walk_order(ahead, path) {
                std::cmp::Ordering::Greater => return,
                std::cmp::Ordering::Equal => to.found.append(&mut block.found),
                std::cmp::Ordering::Less => {}
            }
            self.advance();
        }
    }
}

/// What an interrupted backup left, block by block in the order of the walk. It stays there.
pub struct Rest(Option<BufReader<File>>);

impl Rest {
    /// Opens what `backup` left beside the cache at `path`; nothing, if another wrote there last.
    pub fn open(path: &Path, vault: Uuid, backup: Uuid) -> Self {
        Self(open_file(&new_path(path), vault).filter(|(_, by)| *by == backup).map(|(file, _)| file))
    }
}

impl Iterator for Rest {
    type Item = Found;

    /// The next block; a damaged one is the end.
    fn next(&mut self) -> Option<Found> {
        let block = self.0.as_mut().and_then(|file| read_block(file).ok())?;
        decode_block(&block).ok()
    }
}

/// A cache of the vault, and the backup that wrote it.
fn open_file(path: &Path, vault: Uuid) -> Option<(BufReader<File>, Uuid)> {
    let mut file = BufReader::with_capacity(1 << 18, File::open(path).ok()?);
    let mut head = [0; HEAD];
    file.read_exact(&mut head).ok()?;
    let by = Uuid::from_slice(&head[24..]).ok()?;
    (&head[..8] == MAGIC && &head[8..24] == vault.as_bytes()).then_some((file, by))
}

fn path_of(block: &[u8]) -> Result<Vec<u8>> {
    Ok(Reader::new(block, "a change cache").bytes()?.to_vec())
}

/// The bytes of the next block.
fn read_block(file: &mut impl Read) -> Result<Vec<u8>> {
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
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::tree::{Content, Link, Metadata, Origin, Totals};

    const VAULT: Uuid = Uuid::from_u128(7);

    fn entry(name: &str, ino: u64) -> (Key, Entry) {
        let kind = Kind::File { size: ino, holes: vec![(0, ino)], content: Content::Empty };
        let entry = Entry { name: name.into(), meta: Metadata::default(), link: Link::None, kind };
        (Key { ino, ctime: Time::default() }, entry)
    }

    fn directory() -> Entry {
        let kind = Kind::Directory { node: Id([0; 32]), totals: Totals::default(), origin: Origin::Read };
        Entry { name: Vec::new(), meta: Metadata::default(), link: Link::None, kind }
    }

    /// Writes blocks as a backup does; `committed` or interrupted.
    fn write(path: &Path, blocks: &[(&str, &[(&str, u64)])], committed: bool) {
        let mut writer = CacheWriter::create(path, VAULT, Uuid::nil()).unwrap();
        for (dir, files) in blocks {
            let files: Vec<_> = files.iter().map(|(name, ino)| entry(name, *ino)).collect();
            let known: Vec<_> = files.iter().map(|(key, entry)| (*key, entry)).collect();
            writer.add(&encode_block(dir.as_bytes(), &directory(), &known)).unwrap();
        }
        drop(writer);
        if committed {
            commit(path).unwrap();
        }
    }

    /// Of these files, which are known as they are.
    fn known(path: &Path, files: &[(&str, &str, u64)]) -> String {
        drop(CacheWriter::create(path, VAULT, Uuid::nil()).unwrap());
        std::fs::remove_file(new_path(path)).unwrap();
        let mut reader = CacheReader::open(path, VAULT);
        let (mut at, mut block, mut found) = ("", Block::default(), String::new());
        for (dir, name, ino) in files {
            if *dir != at {
                (at, block) = (dir, reader.block(dir.as_bytes()));
            }
            let mut stat = Stat::at(rustix::fs::CWD, b"/dev/null").unwrap();
            (stat.ino, stat.size, stat.kind) = (*ino, *ino, crate::source::stat::Type::File);
            (stat.ctime, stat.mtime) = (Time::default(), Time::default());
            found.push(if block.take(name.as_bytes(), &stat).is_some() { '+' } else { '-' });
        }
        found
    }

    #[test]
    fn what_interrupted_backups_left_counts_until_one_is_through() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1");
        write(&path, &[("/a", &[("one", 1), ("two", 2)]), ("/a/b", &[("three", 3)]), ("/c", &[("four", 4)])], true);
        let all = [("/a", "one", 1), ("/a", "two", 22), ("/a/b", "three", 33), ("/c", "four", 44), ("/c", "five", 5)];
        assert_eq!(known(&path, &all), "+----");
        // Cut off in the middle of a directory, which has two blocks so far.
        write(
            &path,
            &[("/a", &[("two", 22)]), ("/a/b", &[("three", 33)]), ("/c", &[("four", 44)]), ("/c", &[("five", 5)])],
            false,
        );
        assert_eq!(known(&path, &all), "+++++");
        // A later one did not get as far, and found another file there.
        write(&path, &[("/a", &[("two", 222)])], false);
        assert_eq!(known(&path, &all), "+++++", "what it was before counts, if it is like that again");
        assert_eq!(known(&path, &[("/a", "two", 222), ("/a/b", "three", 3)]), "++");
        write(&path, &[("/a", &[("one", 1)])], true);
        assert_eq!(known(&path, &all), "+----", "now that one is current");
        assert!(!rest_path(&path).exists());
    }

    #[test]
    fn a_rest_that_is_cut_off_anywhere_is_good_up_to_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1");
        write(&path, &[("/a", &[("one", 1)]), ("/b", &[("two", 2)]), ("/c", &[("three", 3)])], false);
        let whole = std::fs::read(new_path(&path)).unwrap();
        for len in 0..=whole.len() {
            std::fs::write(new_path(&path), &whole[..len]).unwrap();
            let found = known(&path, &[("/a", "one", 1), ("/b", "two", 2), ("/c", "three", 3)]);
            assert!(["---", "+--", "++-", "+++"].contains(&found.as_str()), "{found} of {len}");
            assert_eq!(found == "+++", len == whole.len());
            let _ = std::fs::remove_file(rest_path(&path));
        }
    }
}
