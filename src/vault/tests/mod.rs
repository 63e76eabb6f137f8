//! Tests of the vault as a whole, on a real directory.

mod damage;
mod fetch;
mod format;
mod hostile;
mod life;
mod mirrors;
mod unique;

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use uuid::Uuid;

use super::directory::{put_content, put_directory, put_root};
use super::seal::Class;
use super::tree::{Content, Entry, Kind, Link, Metadata, Origin, Part, Totals};
use super::*;
use crate::model::{Id, Progress};
use crate::store::LocalStore;

pub const SECRET: Secret = Secret([3; 32]);

/// A vault in `dir`, made on first use.
pub fn vault(dir: &Path) -> Arc<Vault> {
    let objects = dir.join("vault");
    LocalStore::create_dir(&objects).unwrap();
    let store = Arc::new(LocalStore::open(&objects).unwrap());
    let master = if read_config(&*store).is_ok() {
        unlock(&*store, &SECRET).unwrap()
    } else {
        let master = MasterKey::random().unwrap();
        let new = NewVault { uuid: Uuid::new_v4(), master: Some(master.clone()), key_file: Some(SECRET) };
        Vault::create(&*store, &new).unwrap();
        master
    };
    Vault::open(store, Some(master), &dir.join("cache"), 1 << 20).unwrap()
}

pub fn file(name: &str, size: u64, content: Content) -> Entry {
    let kind = Kind::File { size, holes: Vec::new(), content };
    Entry { name: name.into(), meta: Metadata { mode: 0o644, ..Metadata::default() }, link: Link::None, kind }
}

pub fn directory(name: &str, node: Id, totals: Totals) -> Entry {
    let kind = Kind::Directory { node, totals, origin: Origin::Read };
    Entry { name: name.into(), meta: Metadata { mode: 0o755, ..Metadata::default() }, link: Link::None, kind }
}

/// Backs up files (name and bytes, sorted by name) that stand in `/`; gives the manifest's id.
pub fn back_up(vault: &Arc<Vault>, files: &[(String, Vec<u8>)]) -> Id {
    let writer = VaultWriter::start(vault, Compression::Zstd(1)).unwrap();
    let mut data = writer.lane(Class::DataPack).unwrap();
    let mut tree = writer.lane(Class::TreePack).unwrap();
    let mut entries = Vec::new();
    for (name, bytes) in files {
        let mut parts = Vec::new();
        for chunk in bytes.chunks(700_000) {
            parts.push(Part { id: data.put(chunk).unwrap(), len: chunk.len() as u64 });
        }
        let content = put_content(&mut tree, parts).unwrap();
        entries.push(file(name, bytes.len() as u64, content));
    }
    publish(vault, writer, (data, tree), &entries)
}

/// Publishes a backup whose `/` has these entries; gives the manifest's id.
pub fn publish(vault: &Vault, writer: VaultWriter, lanes: (writer::Lane, writer::Lane), entries: &[Entry]) -> Id {
    let (mut data, mut tree) = lanes;
    let (node, totals) = put_directory(&mut tree, entries).unwrap();
    let root = put_root(&mut tree, &directory("", node, totals)).unwrap();
    data.flush().unwrap();
    tree.flush().unwrap();
    drop((data, tree));
    let stored = writer.finish().unwrap();
    vault.put_manifest(&manifest(root, totals, stored)).unwrap()
}

pub fn manifest(root: Id, totals: Totals, stored: u64) -> Manifest {
    Manifest {
        format: manifest::MANIFEST_FORMAT,
        uuid: Uuid::new_v4(),
        machine: Machine { id: Uuid::nil(), name: "machine".into() },
        backup: 1,
        high_water: 1,
        previous: None,
        parent: None,
        resource: Source { name: "files".into(), ..Source::default() },
        r#type: "full".into(),
        backup_type: "manual".into(),
        description: String::new(),
        created_at: Timestamp::UNIX_EPOCH,
        completed_at: Timestamp::UNIX_EPOCH,
        incremental: true,
        partial: false,
        root,
        totals,
        errors: 0,
        error_list: None,
        stored,
        schedule: None,
        since_full: 0,
        checkpoint: None,
    }
}

/// Reads a backup back.
pub fn read_back(vault: &Vault, id: &Id) -> Vec<(String, Vec<u8>)> {
    let root = vault.manifest(id).unwrap().root;
    let entries = vault.entries(&root).unwrap();
    let read = |entry: Entry| {
        let Kind::File { size, content, .. } = &entry.kind else { panic!("not a file") };
        let parts = vault.parts(content, *size).unwrap();
        let bytes = parts.iter().flat_map(|p| vault.read_blob(&p.id).unwrap().to_vec()).collect();
        (String::from_utf8(entry.name).unwrap(), bytes)
    };
    entries.into_iter().map(read).collect()
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
    .take(len)
    .collect()
}

pub fn clean(vault: &Vault) -> bool {
    let report = verify(vault, &[], true, &Progress::default()).unwrap();
    report.problem_count == 0
}
