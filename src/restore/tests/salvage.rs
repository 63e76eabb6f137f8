//! What is made of a backup that was interrupted: all of it, or as much as there is.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{World, sh as run};
use crate::archive::salvage;
use crate::model::{Id, Progress};
use crate::vault::tree::{Entry, Kind, Link};
use crate::vault::{Compression, VaultWriter};

/// Every entry of a tree by its path, directories without what is in them.
fn all(world: &World, root: &Id) -> BTreeMap<Vec<u8>, Entry> {
    let mut found = BTreeMap::new();
    let mut todo = vec![(Vec::new(), world.vault.root_entry(root).unwrap())];
    while let Some((path, mut entry)) = todo.pop() {
        if let Kind::Directory { node, totals, .. } = &mut entry.kind {
            for below in world.vault.entries(node).unwrap() {
                todo.push(([&path, b"/".as_slice(), &below.name].concat(), below));
            }
            (*node, *totals) = (Id([0; 32]), crate::vault::tree::Totals::default());
        }
        found.insert(path, entry);
    }
    found
}

#[test]
fn what_an_interrupted_backup_left_is_a_tree() {
    let world = World::new();
    run(
        &world.source(),
        "
        mkdir -p a/b/c d/e empty .hidden; for i in $(seq 300); do echo $i > a/b/$i; done
        echo one > a/one; ln a/one a/b/c/two; ln a/one d/three; echo 0 > 0; ln d/three zzz
        head -c 5000000 /dev/urandom > d/e/large; truncate -s 9M d/e/hole; echo end >> d/e/hole
        ln -s nowhere d/link; mkfifo d/pipe; setfattr -n user.x -v y a/b; chmod 2751 a/b; touch -d 2001-02-03 d d/e
    ",
    );
    // What changed just now is not remembered.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let whole = world.backup();
    let cache = world.dir.path().join("changes");
    let saved = |world: &World| {
        let writer = VaultWriter::start(&world.vault, Compression::default()).unwrap();
        salvage(&world.vault, writer, (&cache, Uuid::nil()), &Progress::default()).unwrap()
    };
    let found = saved(&world).unwrap();
    assert_eq!((found.root, found.totals), (whole.root, whole.totals), "all was read, so it is the same tree");
    assert_eq!(saved(&world).unwrap().root, whole.root, "and the cache is as it was");

    let (expected, rest) = (all(&world, &whole.root), cache.with_extension("new"));
    let bytes = std::fs::read(&rest).unwrap();
    let mut sizes = Vec::new();
    for len in (0..bytes.len()).step_by(bytes.len() / 40) {
        std::fs::write(&rest, &bytes[..len]).unwrap();
        let Some(part) = saved(&world) else {
            sizes.push(0);
            continue;
        };
        let there = all(&world, &part.root);
        let files = there.values().filter(|entry| matches!(entry.kind, Kind::File { .. })).count();
        assert_eq!(part.totals.files, files as u64);
        let firsts = there.values().filter(|entry| matches!(entry.link, Link::First { .. })).count();
        let links = there.values().filter(|entry| matches!(entry.link, Link::To { .. })).count();
        assert!(links == 0 || firsts > 0, "a link to what is not there, of {len} bytes");
        for (path, entry) in &there {
            assert_eq!(expected.get(path), Some(entry), "{} of {len} bytes", String::from_utf8_lossy(path));
        }
        sizes.push(there.len());
    }
    assert!(sizes.is_sorted() && sizes.iter().any(|n| (10..250).contains(n)), "{sizes:?}");
}

#[test]
fn nothing_is_made_of_what_the_vault_does_not_hold() {
    let world = World::new();
    run(&world.source(), "echo one > one; echo two > two");
    std::thread::sleep(std::time::Duration::from_millis(2100));
    world.backup();
    let cache = world.dir.path().join("changes");
    let other = World::new();
    let uuid = |world: &World| world.vault.uuid();
    // The cache of another vault says nothing, even if it says that it is this one's.
    let new = cache.with_extension("new");
    let mut bytes = std::fs::read(&new).unwrap();
    for forged in [false, true] {
        if forged {
            bytes[8..24].copy_from_slice(uuid(&other).as_bytes());
        }
        std::fs::write(other.dir.path().join("changes.new"), &bytes).unwrap();
        let writer = VaultWriter::start(&other.vault, Compression::default()).unwrap();
        let found =
            salvage(&other.vault, writer, (&other.dir.path().join("changes"), Uuid::nil()), &Progress::default())
                .unwrap();
        assert!(found.is_none(), "{found:?}");
    }
}
