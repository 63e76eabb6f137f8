//! Files in which something is looked for here and there: read past the page cache, cut finely.

use std::collections::HashSet;

use super::*;
use crate::vault::prune;
use crate::vault::tree::Content;

/// Where the vault has the parts of the file `image`, and how long they are.
fn parts(world: &World, manifest: &Manifest) -> Vec<(u32, u32, u64)> {
    let mut entry = world.vault.root_entry(&manifest.root).unwrap();
    for name in world.at("image").components().skip(1) {
        let Kind::Directory { node, .. } = entry.kind else { panic!() };
        entry = world.vault.entry(&node, name.as_os_str().as_encoded_bytes()).unwrap().unwrap();
    }
    let Kind::File { content, holes, size } = entry.kind else { panic!() };
    assert!(!holes.is_empty() && !matches!(content, Content::Whole(_)));
    let len = size - holes.iter().map(|(_, len)| len).sum::<u64>();
    let parts = world.vault.parts(&content, len).unwrap();
    let place = |id: &Id| world.vault.locate(id).map(|at| (at.pack, at.segment)).unwrap();
    parts.iter().map(|part| (place(&part.id).0, place(&part.id).1, part.len)).collect()
}

/// Each part is a segment of its own, and small.
fn check_parts(world: &World, manifest: &Manifest) {
    let parts = parts(world, manifest);
    assert!(parts.len() > 100, "{} parts", parts.len());
    assert!(parts.iter().all(|(.., len)| *len <= 1 << 20), "a part is long: {parts:?}");
    let segments: HashSet<_> = parts.iter().map(|(pack, segment, _)| (pack, segment)).collect();
    assert_eq!(segments.len(), parts.len(), "parts share a segment");
}

fn check_restore(world: &World, manifest: &Manifest, target: &str) {
    let target = world.dir.path().join(target);
    world.restore(manifest, to(&target)).unwrap();
    assert_eq!(sh(&world.source(), &format!("cmp image {}", world.beneath(&target).join("image").display())), "");
}

#[test]
fn a_little_of_an_image_costs_a_little_also_after_a_prune() {
    let world = World::new();
    // Data that ends within a block, holes, and all of it out of memory.
    sh(
        &world.source(),
        "head -c 70000123 /dev/urandom > image; truncate -s 90000000 image; \
         head -c 3000001 /dev/urandom | dd of=image bs=1M oflag=seek_bytes seek=80000007 conv=notrunc status=none; \
         dd of=image oflag=nocache conv=notrunc,fdatasync count=0 status=none",
    );
    let first = world.backup();
    check_parts(&world, &first);
    check_restore(&world, &first, "first");
    let first = world.vault.put_manifest(&first).unwrap();

    sh(
        &world.source(),
        "for i in $(seq 0 2 66); do head -c 1M /dev/urandom | dd of=image bs=1M seek=$i conv=notrunc status=none; done",
    );
    let second = world.backup();
    check_restore(&world, &second, "second");
    world.vault.put_manifest(&second).unwrap();
    world.vault.delete_manifest(&first).unwrap();
    let report = prune(&world.vault, &[], Compression::default(), false, &Progress::default()).unwrap();
    assert!(report.packs_rewritten > 0, "{report:?}");
    check_parts(&world, &second);
    check_restore(&world, &second, "third");
}
