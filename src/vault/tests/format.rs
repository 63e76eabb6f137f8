//! The bytes that `docs/vault-format.md` promises, as vectors, and hostile input.

use std::sync::Arc;

use proptest::prelude::*;

use super::super::codec::Reader;
use super::super::index::IndexObject;
use super::super::pack;
use super::super::seal::{Keys, Record, TAG_LEN};
use super::super::tree::{Node, Owner, Time, content, node};
use super::*;
use crate::model::ErrorKind;
use crate::model::id::{hex, unhex};

/// One entry of every kind, with everything an entry can have.
fn everything() -> Vec<Entry> {
    use super::super::tree::Device;
    let owner = Arc::new(Owner { uid: 1000, gid: 50, user: "ada".into(), group: "staff".into() });
    let meta = Metadata {
        mode: 0o4755,
        owner,
        mtime: Time { sec: -2, nsec: 999_999_999 },
        xattrs: vec![(b"user.a".to_vec(), b"1".to_vec()), (b"user.b".to_vec(), Vec::new())],
        flags: 0x10,
    };
    let entry = |name: &[u8], kind, link| Entry { name: name.to_vec(), meta: meta.clone(), link, kind };
    let id = Id([7; 32]);
    let parts = vec![Part { id, len: 300_000 }, Part { id, len: 700_000 }];
    let sparse = Kind::File { size: 5000, holes: vec![(0, 1000), (2000, 2900)], content: Content::Whole(id) };
    let first = Kind::File { size: 1_000_000, holes: Vec::new(), content: Content::Parts(parts) };
    vec![
        entry(b"block", Kind::BlockDevice(Device { major: 8, minor: 300 }), Link::None),
        entry(b"char", Kind::CharDevice(Device { major: 1, minor: 3 }), Link::None),
        entry(b"dir", directory("", id, Totals { entries: 3, files: 2, bytes: 1 }).kind, Link::None),
        entry(b"fifo", Kind::Fifo, Link::None),
        entry(b"first", first.clone(), Link::First { nlink: 2 }),
        entry(b"later", first, Link::To { nlink: 2, up: 1, path: b"a/first".to_vec() }),
        Entry { meta: Metadata::default(), ..entry(b"lost", Kind::Unread, Link::None) },
        entry(b"not utf-8 \xff", Kind::Symlink { target: b"../\xfe".to_vec() }, Link::None),
        entry(b"socket", Kind::Socket, Link::None),
        entry(b"sparse", sparse, Link::None),
    ]
}

#[test]
fn a_leaf_reads_as_it_was_written() {
    let entries = everything();
    let bytes = node::encode_leaf(entries.iter());
    assert_eq!(Node::decode(&bytes).unwrap(), Node::Leaf(entries));
}

/// The encodings must never change: a vault of today is read for ever, and checksums are compared
/// between vaults of different ages.
#[test]
fn vectors() {
    assert_eq!(hex(&node::encode_leaf([].iter())), "010000");
    let plain = file("a", 3, Content::Whole(Id::of(b"abc")));
    let leaf = node::encode_leaf([plain].iter());
    let expected = "010100000000010201\
                    61a4030000000301ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(hex(&leaf), expected);
    let whole = node::encode_leaf(everything().iter());
    assert_eq!(Id::of(&whole).hex(), "047c7fd103d7ad5bf48de2166f620cca10854c48d3297b442b91768ded951503");
    let root = node::encode_root(&directory("", Id::of(&leaf), Totals { entries: 1, files: 1, bytes: 3 }));
    assert_eq!(Id::of(&root).hex(), "d97c782ff7c5cd7622ffbaae14d37cb1959356ba456f47bcf3602fe28999f7ae");
    let parts = [Part { id: Id::of(b"abc"), len: 3 }];
    let list = "01ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad03";
    assert_eq!(hex(&content::encode_list(&parts)), list);
    // Sealing: an independent implementation must find the same bytes.
    let keys = Keys::new(Uuid::from_bytes([1; 16]), Some(MasterKey([2; 32])));
    let mut sealed = b"plain".to_vec();
    let record = Record { ordinal: 5, codec: 0, plain_len: 5 };
    keys.sealer(Class::DataPack, [3; 32]).unwrap().seal(record, &mut sealed, 0).unwrap();
    assert_eq!(hex(&sealed), "29f06d339d104c24010b21ce838bf1056120bf605e");
    assert_eq!(*Secret([0; 32]).to_recovery(), "0000000-0000000-0000000-0000000-0000000-0000000-0000000-006ct3t");
}

#[test]
fn a_recovery_key_forgives_how_it_is_typed() {
    let secret = Secret::random().unwrap();
    let text = secret.to_recovery().to_uppercase().replace('-', " ").replace('0', "O").replace('1', "l");
    assert_eq!(Secret::from_recovery(&text).unwrap().0, secret.0);
    let wrong = if text.starts_with('7') { text.replacen('7', "8", 1) } else { format!("7{}", &text[1..]) };
    assert_eq!(Secret::from_recovery(&wrong).unwrap_err().kind, ErrorKind::InvalidArgument);
    assert_eq!(Secret::from_recovery("abc").unwrap_err().kind, ErrorKind::InvalidArgument);
}

#[test]
fn a_record_is_bound_to_its_place() {
    let keys = Keys::new(Uuid::from_bytes([1; 16]), Some(MasterKey([2; 32])));
    for keys in [keys.clone(), Keys::new(keys.uuid(), None)] {
        let sealer = keys.sealer(Class::DataPack, [3; 32]).unwrap();
        let record = Record { ordinal: 5, codec: 1, plain_len: 9 };
        let mut sealed = b"something".to_vec();
        sealer.seal(record, &mut sealed, 0).unwrap();
        assert_eq!(sealed.len(), 9 + TAG_LEN);
        assert_eq!(sealer.open(record, &mut sealed.clone()).unwrap(), b"something");
        let others = [
            (Class::DataPack, [3; 32], Record { ordinal: 6, ..record }),
            (Class::DataPack, [3; 32], Record { codec: 0, ..record }),
            (Class::DataPack, [3; 32], Record { plain_len: 8, ..record }),
            (Class::TreePack, [3; 32], record),
            (Class::DataPack, [4; 32], record),
        ];
        for (class, salt, record) in others {
            let sealer = keys.sealer(class, salt).unwrap();
            assert_eq!(sealer.open(record, &mut sealed.clone()).unwrap_err().kind, ErrorKind::Damaged);
        }
    }
}

#[test]
fn names_that_would_lead_elsewhere_are_refused() {
    for name in [&b"a/b"[..], b"..", b".", b"", b"a\0b", &[b'x'; 256]] {
        let mut entry = file("a", 0, Content::Empty);
        entry.name = name.to_vec();
        let bytes = node::encode_leaf([entry].iter());
        assert_eq!(Node::decode(&bytes).unwrap_err().kind, ErrorKind::Damaged, "{name:?}");
    }
    let two = [file("b", 0, Content::Empty), file("a", 0, Content::Empty)];
    assert!(Node::decode(&node::encode_leaf(two.iter())).is_err(), "out of order");
    let two = [file("a", 0, Content::Empty), file("a", 0, Content::Empty)];
    assert!(Node::decode(&node::encode_leaf(two.iter())).is_err(), "twice the same");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever bytes a vault gives, decoding answers or refuses, and takes no more memory than
    /// the bytes could stand for.
    #[test]
    fn decoders_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), kind in 1u8..4) {
        let mut bytes = bytes;
        let _ = IndexObject::decode(&bytes);
        let _ = pack::decode_directory(&bytes, 1 << 20);
        let _ = content::decode_list(&bytes, 10);
        let _ = Secret::from_recovery(&String::from_utf8_lossy(&bytes));
        if let Some(first) = bytes.first_mut() {
            *first = kind;
        }
        let _ = Node::decode(&bytes);
    }

    /// The same for nodes that are nearly right.
    #[test]
    fn changed_nodes_never_panic(at in any::<prop::sample::Index>(), to in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = node::encode_leaf(everything().iter());
        let i = at.index(bytes.len());
        bytes[i] = to;
        let _ = Node::decode(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        let _ = Node::decode(&bytes);
    }

    #[test]
    fn numbers_read_as_written(uint in any::<u64>(), int in any::<i64>()) {
        let mut w = codec::Writer::default();
        w.uint(uint);
        w.int(int);
        let mut r = Reader::new(&w.bytes, "numbers");
        prop_assert_eq!(r.uint().unwrap(), uint);
        prop_assert_eq!(r.int().unwrap(), int);
        r.finish().unwrap();
    }
}

#[test]
fn a_number_has_one_encoding() {
    for bytes in ["8000", "ff00", "80808000"] {
        assert!(Reader::new(&unhex(bytes).unwrap(), "a number").uint().is_err(), "{bytes}");
    }
    let too_large = unhex("ffffffffffffffffff02").unwrap();
    assert!(Reader::new(&too_large, "a number").uint().is_err());
}
