//! Sealed records that lie about lengths and places.

use super::super::compress::{self, Compressor, GZIP, PLAIN, ZSTD};
use super::super::index::IndexObject;
use super::super::object;
use super::super::pack::{self, PackRecord};
use super::super::seal::{HEADER_LEN, Record};
use super::*;
use crate::model::ErrorKind;

#[test]
fn what_unpacks_to_more_than_was_promised_is_damaged() {
    let zeros = vec![0; 64 << 20];
    for (codec, compression) in [(ZSTD, Compression::Zstd(19)), (GZIP, Compression::Gzip(9))] {
        let mut bomb = Vec::new();
        assert_eq!(Compressor::new(compression).unwrap().compress(&zeros, &mut bomb).unwrap(), codec);
        assert!(bomb.len() < 100_000);
        for promised in [0, 1, 1 << 20, zeros.len() - 1, zeros.len() + 1] {
            let error = compress::decompress_into(codec, &bomb, promised, Vec::new()).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Damaged, "{codec} {promised}");
        }
    }
}

#[test]
fn an_object_that_promises_more_than_its_class_holds_is_damaged_before_it_is_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(dir.path());
    let classes = [Class::Manifest, Class::Index, Class::Session, Class::State, Class::Tombstone];
    for class in classes {
        for (plain_len, codec) in [(u32::MAX, ZSTD), (u32::MAX, PLAIN), ((256 << 20) + 1, GZIP)] {
            let sealer = vault.keys.new_sealer(class).unwrap();
            let mut bytes = sealer.header().to_vec();
            bytes.push(codec);
            bytes.extend_from_slice(&plain_len.to_be_bytes());
            let start = bytes.len();
            bytes.extend_from_slice(b"little");
            sealer.seal(Record { ordinal: 0, codec, plain_len }, &mut bytes, start).unwrap();
            assert_eq!(start, HEADER_LEN + 5);
            let error = object::open(&vault.keys, class, &mut bytes).unwrap_err();
            assert!(error.kind == ErrorKind::Damaged && error.message.contains("larger"), "{error}");
        }
    }
}

/// An index is trusted by nobody: wherever it says that a blob lies, other bytes are not taken for it.
#[test]
fn an_index_that_misplaces_blobs_gives_no_wrong_byte() {
    type Lie = fn(&mut PackRecord);
    let lies: [(&str, Lie); 8] = [
        ("lengths of neighbours exchanged", |record| {
            let blobs = &mut record.segments[0].blobs;
            (blobs[0].1, blobs[1].1) = (blobs[1].1, blobs[0].1);
        }),
        ("ids of neighbours exchanged", |record| {
            let blobs = &mut record.segments[0].blobs;
            (blobs[0].0, blobs[1].0) = (blobs[1].0, blobs[0].0);
        }),
        ("a longer segment", |record| {
            record.segments[0].plain_len += 1000;
            record.segments[0].blobs[0].1 += 1000;
        }),
        ("a shorter segment", |record| {
            record.segments[0].plain_len -= 1;
            record.segments[0].blobs[0].1 -= 1;
        }),
        ("a frame that ends later", |record| record.segments[0].stored_len += 1),
        ("another codec", |record| record.segments[0].codec ^= 1),
        ("another salt", |record| record.salt[0] ^= 1),
        ("another pack", |record| record.id.0[0] ^= 1),
    ];
    for (what, lie) in lies {
        let dir = tempfile::tempdir().unwrap();
        let files: Vec<_> = (0..5).map(|i| (format!("file{i}"), noise(i, 500 + 100 * i as usize))).collect();
        let id = back_up(&vault(dir.path()), &files);
        let store = vault(dir.path()).store().clone();
        for (index, _) in object::list(&*store, Class::Index).unwrap() {
            let keys = &vault(dir.path()).keys;
            let mut lying = IndexObject::get(&*store, keys, &index).unwrap();
            lying.packs.iter_mut().filter(|pack| pack.class == Class::DataPack).for_each(lie);
            store.delete(&object::key(Class::Index, &index)).unwrap();
            lying.put(&*store, keys).unwrap();
        }
        std::fs::remove_dir_all(dir.path().join("cache")).unwrap();
        let vault = vault(dir.path());
        let root = vault.manifest(&id).unwrap().root;
        let mut refused = 0;
        for (entry, (_, bytes)) in vault.entries(&root).unwrap().iter().zip(&files) {
            let Kind::File { content: Content::Whole(blob), .. } = &entry.kind else { panic!() };
            match vault.read_blob(blob) {
                Ok(read) => assert_eq!(*read, **bytes, "{what}: wrong bytes"),
                Err(e) => {
                    assert_eq!(e.kind, ErrorKind::Damaged, "{what}: {e}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 0, "{what}");
        let report = verify(&vault, &[], true, &Progress::default()).unwrap();
        assert!(report.problem_count > 0 && report.damaged_backups == [id], "{what}: {report:?}");
        // A prune believes what packs say of themselves, where they are; what was found is stored again besides.
        if what != "another pack" {
            let copy = tempfile::tempdir().unwrap();
            let copied =
                std::process::Command::new("cp").arg("-a").arg(dir.path()).arg(copy.path().join("all")).status();
            assert!(copied.unwrap().success());
            let vault = self::vault(&copy.path().join("all"));
            prune(&vault, &[id], Compression::default(), true, &Progress::default()).unwrap();
            assert!(verify(&vault, &[], true, &Progress::default()).unwrap().problem_count > 0, "{what}: a dry run");
            prune(&vault, &[id], Compression::default(), false, &Progress::default()).unwrap();
            assert_eq!(read_back(&vault, &id), files, "{what}: after a prune");
            let report = verify(&vault, &[], true, &Progress::default()).unwrap();
            assert_eq!(report.problem_count, 0, "{what}: {report:?}");
        }
        let again = back_up(&vault, &files);
        assert_eq!(read_back(&vault, &again), files, "{what}");
        assert_eq!(read_back(&vault, &id), files, "{what}");
    }
}

#[test]
fn a_directory_of_a_pack_that_claims_too_much_is_damaged() {
    let segment =
        |stored_len, plain_len, blobs| pack::Segment { offset: 0, stored_len, plain_len, codec: PLAIN, blobs };
    let id = Id::default();
    let lies = [
        vec![segment(10, 5, vec![(id, 6)])],
        vec![segment(10, u32::MAX, vec![(id, u32::MAX)])],
        vec![segment(10, 7, vec![(id, u32::MAX), (id, 8)])],
        vec![segment(u32::MAX, 5, vec![(id, 5)])],
        vec![segment(500, 5, vec![(id, 5)]), segment(501, 5, vec![(id, 5)])],
    ];
    for lie in lies {
        let error = pack::decode_directory(&pack::encode_directory(&lie), 1000).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Damaged, "{lie:?}");
    }
}

/// Branches of branches of one leaf: 4096⁵ entries, or a hundred thousand of them, from some kilobytes.
#[test]
fn branches_that_repeat_a_leaf_are_refused_at_once() {
    use super::super::tree::{Child, node};
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(dir.path());
    let leaf: Vec<Entry> = (0..4096).map(|i| file(&format!("{i:04}"), 0, Content::Empty)).collect();
    for leaf in [leaf.as_slice(), &[]] {
        let writer = VaultWriter::start(&vault, Compression::Zstd(1)).unwrap();
        let mut tree = writer.lane(Class::TreePack).unwrap();
        let mut top = tree.put(&node::encode_leaf(leaf.iter())).unwrap();
        for _ in 0..5 {
            let child =
                |i: u32| Child { last: i.to_be_bytes().to_vec(), count: 1, totals: Totals::default(), node: top };
            top = tree.put(&node::encode_branch(&(0..4096).map(child).collect::<Vec<_>>())).unwrap();
        }
        let root = put_root(&mut tree, &directory("", top, Totals::default())).unwrap();
        tree.flush().unwrap();
        drop(tree);
        writer.finish().unwrap();
        assert_eq!(vault.entries(&root).unwrap_err().kind, ErrorKind::Damaged);
        assert_eq!(vault.entries(&top).unwrap_err().kind, ErrorKind::Damaged);
        let manifest = vault.put_manifest(&manifest(root, Totals::default(), 0)).unwrap();
        let report = verify(&vault, &[manifest], false, &Progress::default()).unwrap();
        assert!(report.problem_count >= 4096 && report.damaged_backups == [manifest], "{}", report.problem_count);
    }
}

/// What is said of a node is checked wherever it is said, also where the node is known already.
#[test]
fn a_second_way_to_a_node_is_checked_as_well() {
    use super::super::tree::{Child, node};
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(dir.path());
    let writer = VaultWriter::start(&vault, Compression::Zstd(1)).unwrap();
    let mut tree = writer.lane(Class::TreePack).unwrap();
    let leaf = [file("a", 1, Content::Whole(Id::default())), file("b", 0, Content::Empty)];
    let (node, totals) = put_directory(&mut tree, &leaf).unwrap();
    let child = |last: &str| Child { last: last.into(), count: 2, totals, node };
    let mut twice = totals;
    twice.add(totals);
    let branch = tree.put(&node::encode_branch(&[child("b"), child("c")])).unwrap();
    let honest = directory("x", node, totals);
    let lying = directory("y", node, Totals { bytes: 2, ..totals });
    let (pair, below) = put_directory(&mut tree, &[honest, lying]).unwrap();
    let roots = [directory("", branch, twice), directory("", pair, below)];
    let roots: Vec<Id> = roots.iter().map(|root| put_root(&mut tree, root).unwrap()).chain([node]).collect();
    tree.flush().unwrap();
    drop(tree);
    writer.finish().unwrap();
    for root in roots {
        let manifest = vault.put_manifest(&manifest(root, Totals::default(), 0)).unwrap();
        let report = verify(&vault, &[manifest], false, &Progress::default()).unwrap();
        // The blob that nobody stored is one.
        assert_eq!(report.problem_count, 2, "{report:?}");
    }
}
