//! Reading much at once from a vault elsewhere.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::*;
use crate::model::Result;
use crate::store::{ObjectMeta, ObjectStore, Space};

/// Counts ranged reads, and can flip a bit in long ones.
#[derive(Debug)]
struct Counting(LocalStore, AtomicUsize, bool);

impl ObjectStore for Counting {
    fn put(&self, key: &str, data: &[u8]) -> Result<()> {
        self.0.put(key, data)
    }
    fn put_if_absent(&self, key: &str, data: &[u8]) -> Result<bool> {
        self.0.put_if_absent(key, data)
    }
    fn get(&self, key: &str, limit: u64) -> Result<Vec<u8>> {
        self.0.get(key, limit)
    }
    fn get_range(&self, key: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
        self.1.fetch_add(1, SeqCst);
        let mut bytes = self.0.get_range(key, offset, len)?;
        if self.2 && len > 2_000_000 {
            bytes.iter_mut().step_by(1000).for_each(|b| *b ^= 1);
        }
        Ok(bytes)
    }
    fn size(&self, key: &str) -> Result<Option<u64>> {
        self.0.size(key)
    }
    fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>> {
        self.0.list(prefix)
    }
    fn delete(&self, key: &str) -> Result<()> {
        self.0.delete(key)
    }
    fn sync(&self) -> Result<()> {
        self.0.sync()
    }
    fn space(&self) -> Result<Space> {
        self.0.space()
    }
    fn sweep(&self) -> Result<()> {
        self.0.sweep()
    }
}

/// Opens the vault of `dir` as one elsewhere, and reads all files by one reader from several threads;
/// gives how many requests that took.
fn requests(dir: &Path, id: &Id, files: &[(String, Vec<u8>)], damages: bool) -> usize {
    let store = LocalStore::open(&dir.join("vault")).unwrap();
    let master = unlock(&store, &SECRET).unwrap();
    let store = Arc::new(Counting(store, AtomicUsize::new(0), damages));
    let cache = tempfile::tempdir().unwrap();
    let vault = Vault::open(store.clone(), Some(master), cache.path(), 64 << 20).unwrap();
    vault.keep_frames(1 << 20);
    let entries = vault.entries(&vault.manifest(id).unwrap().root).unwrap();
    let parts: Vec<Vec<Part>> = entries
        .iter()
        .map(|entry| match &entry.kind {
            Kind::File { size, content, .. } => vault.parts(content, *size).unwrap(),
            _ => panic!("not a file"),
        })
        .collect();
    let reader = vault.reader(parts.iter().flatten().map(|part| part.id));
    let before = store.1.load(SeqCst);
    std::thread::scope(|scope| {
        for (parts, (name, bytes)) in parts.iter().zip(files) {
            let reader = &reader;
            scope.spawn(move || {
                let read = parts.iter().flat_map(|p| reader.read_blob(&p.id).unwrap().to_vec());
                assert!(read.eq(bytes.iter().copied()), "{name}");
            });
        }
    });
    store.1.load(SeqCst) - before
}

#[test]
fn neighbouring_frames_are_fetched_once_and_together() {
    let dir = tempfile::tempdir().unwrap();
    let files: Vec<_> = (0..8).map(|i| (format!("f{i}"), noise(i, 2_800_000))).collect();
    let id = back_up(&vault(dir.path()), &files);
    // 22.4 MB in frames of 0.7 to 1 MB, which lie in two packs; a stretch has 8 MiB at most.
    let (together, one_by_one) = (requests(dir.path(), &id, &files, false), requests(dir.path(), &id, &files, true));
    assert!((3..=6).contains(&together), "{together} requests");
    // What comes damaged in one piece is asked for again, frame by frame.
    assert!(one_by_one > 20, "{one_by_one} requests");
}
