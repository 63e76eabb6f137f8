//! What each backup alone refers to, beside the same counted backup by backup.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::vault::mark::{Marks, Visitor};

/// A directory: contents of its files by number; a file of many parts where the number is high.
type Tree = Vec<Vec<usize>>;

const MANY: usize = 20;

fn content_of(data: &mut writer::Lane, tree: &mut writer::Lane, number: usize) -> (u64, Content) {
    // Numbers from MANY on differ in one part of several hundred, so that they share lists.
    let parts: Vec<Vec<u8>> = match number {
        n if n < MANY => vec![noise(n as u64, 200 + 3_000 * n)],
        n => (0..600).map(|i| noise(if i == 5 { 900 + n as u64 } else { 2_000 + i }, 40)).collect(),
    };
    let len = parts.iter().map(|part| part.len() as u64).sum();
    let parts = parts.iter().map(|p| Part { id: data.put(p).unwrap(), len: p.len() as u64 }).collect();
    (len, put_content(tree, parts).unwrap())
}

fn back_up_tree(vault: &Arc<Vault>, dirs: &Tree) -> Id {
    let writer = VaultWriter::start(vault, Compression::Zstd(1)).unwrap();
    let mut data = writer.lane(Class::DataPack).unwrap();
    let mut tree = writer.lane(Class::TreePack).unwrap();
    let mut above = Vec::new();
    for (d, files) in dirs.iter().enumerate() {
        let mut entries = Vec::new();
        for (i, number) in files.iter().enumerate() {
            let (len, content) = content_of(&mut data, &mut tree, *number);
            entries.push(file(&format!("f{i:02}"), len, content));
        }
        let (node, totals) = put_directory(&mut tree, &entries).unwrap();
        above.push(directory(&format!("d{d:02}"), node, totals));
    }
    publish(vault, writer, (data, tree), &above)
}

struct All(HashSet<Id>);

impl Visitor for All {
    fn missing(&mut self, _: &[u8], id: &Id) {
        panic!("{id} is missing");
    }
    fn unreadable(&mut self, _: &[u8], error: crate::model::Error) {
        panic!("{error}");
    }
    fn blob(&mut self, _: &[u8], id: &Id) {
        self.0.insert(*id);
    }
}

fn blobs_of(vault: &Vault, manifest: &Id) -> HashSet<Id> {
    let mut all = All(HashSet::new());
    Marks::new(vault).tree(vault, &vault.manifest(manifest).unwrap().root, &mut all, &Progress::default()).unwrap();
    all.0
}

fn stored(vault: &Vault, id: &Id) -> u64 {
    let found = vault.index().find(id).unwrap();
    u64::from(found.segment.stored_len) * u64::from(found.len) / u64::from(found.segment.plain_len)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn it_is_what_no_other_backup_refers_to(
        trees in prop::collection::vec(prop::collection::vec(prop::collection::vec(0..MANY + 3, 0..6), 0..4), 1..6),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let vault = vault(dir.path());
        let ids: Vec<Id> = trees.iter().map(|tree| back_up_tree(&vault, tree)).collect();
        let blobs: HashMap<Id, HashSet<Id>> = ids.iter().map(|id| (*id, blobs_of(&vault, id))).collect();
        let found = unique_sizes(&vault, &Progress::default()).unwrap();
        prop_assert_eq!(found.sizes.len(), blobs.len());
        let mut nodes = 0;
        for (id, own) in &blobs {
            let others: HashSet<Id> = blobs.iter().filter(|(o, _)| *o != id).flat_map(|(_, b)| b.iter().copied()).collect();
            let expected: u64 = own.difference(&others).map(|blob| stored(&vault, blob)).sum();
            prop_assert_eq!(found.sizes.get(id), Some(&expected), "{}", id);
            nodes = nodes.max(others.union(own).count() as u64);
        }
        prop_assert!(found.reads <= 2 * nodes);
    }
}

#[test]
fn a_file_that_holds_the_bytes_of_a_node_hides_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(dir.path());
    let first = back_up_tree(&vault, &vec![vec![1, 2], vec![3]]);
    let root = vault.manifest(&first).unwrap().root;
    let node = vault.entries(&root).unwrap().into_iter().find_map(|e| match e.kind {
        Kind::Directory { node, .. } => Some(node),
        _ => None,
    });
    // A second backup has a file whose content is the directory itself, and that directory besides.
    let bytes = vault.read_blob(&node.unwrap()).unwrap().to_vec();
    let second = back_up(&vault, &[("node".into(), bytes)]);
    let found = unique_sizes(&vault, &Progress::default()).unwrap();
    let file = |number: usize| stored(&vault, &Id::of(&noise(number as u64, 200 + 3_000 * number)));
    let own = blobs_of(&vault, &first);
    let shared = stored(&vault, &node.unwrap());
    let expected: u64 = own.iter().map(|blob| stored(&vault, blob)).sum::<u64>() - shared;
    assert_eq!(found.sizes.get(&first), Some(&expected));
    assert!(expected > file(1) + file(2) + file(3), "what hangs under it is the first one's alone");
    assert!(found.sizes.contains_key(&second));
}

#[test]
fn many_backups_cost_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(dir.path());
    // Each backup changes one of twenty directories.
    let mut tree: Tree = (0..20).map(|d| vec![d % MANY; 3]).collect();
    for i in 0..60 {
        tree[i % 20][0] = (i * 7) % MANY;
        tree[i % 20][1] = i % MANY;
        back_up_tree(&vault, &tree);
    }
    let found = unique_sizes(&vault, &Progress::default()).unwrap();
    assert_eq!(found.sizes.len(), 60);
    // A root, its directory and one below it are new in each; each is read twice at most.
    assert!(found.reads <= 2 * (20 + 3 * 60), "{} reads", found.reads);
}
