//! What reads bytes that somebody else may have written: one function for each decoder, for the targets
//! of `fuzz/` and for the test below, which tries their corpora and seeded mutations of them in every
//! run of the tests.
//!
//! A target returns, whatever it is given; what it accepts keeps the promises that others rely on.

use crate::archive::cache;
use crate::jobs::cron::Times;
use crate::plain::{line::Line, manifest, unpack::Tar};
use crate::vault::index::object::IndexObject;
use crate::vault::tree::content::decode_list;
use crate::vault::tree::{Kind, Node};
use crate::vault::{Manifest, Secret, compress, pack, slots};

/// No record is longer, whatever it says.
const LONGEST: usize = 8 << 20;
/// Nobody reads further than this in an archive here.
const ENTRIES: usize = 10_000;

/// A decoder, given bytes.
pub type Target = fn(&[u8]);

/// All of them, by the names of their corpora.
pub const TARGETS: &[(&str, Target)] = &[
    ("node", node),
    ("list", list),
    ("directory", directory),
    ("index", index),
    ("record", record),
    ("manifest", manifest),
    ("slot", slot),
    ("secret", secret),
    ("cache", block),
    ("copy-manifest", copy_manifest),
    ("copy-line", copy_line),
    ("copy-tar", copy_tar),
    ("cron", cron),
];

/// Gives bytes to the target of this name.
pub fn run(name: &str, bytes: &[u8]) {
    TARGETS.iter().filter(|(known, _)| *known == name).for_each(|(_, target)| target(bytes));
}

/// Splits a number off, for decoders that are told one beside the bytes.
fn number(bytes: &[u8]) -> (u64, &[u8]) {
    match bytes.split_first_chunk::<8>() {
        Some((number, rest)) => (u64::from_be_bytes(*number), rest),
        None => (0, bytes),
    }
}

fn node(bytes: &[u8]) {
    let Ok(Node::Leaf(entries)) = Node::decode(bytes) else { return };
    for pair in entries.windows(2) {
        assert!(pair[0].name < pair[1].name, "names are sorted, and none comes twice");
    }
    for entry in &entries {
        let name = entry.name.as_slice();
        assert!(!name.is_empty() && name != b"." && name != b"..", "a name that leads elsewhere");
        assert!(!name.contains(&b'/') && !name.contains(&0), "a name that is a path");
        if let Kind::File { size, holes, .. } = &entry.kind {
            let mut end = 0;
            for (offset, len) in holes {
                assert!(*offset >= end && *len > 0, "holes lie one after another");
                end = offset.saturating_add(*len);
                assert!(end <= *size, "a hole leaves its file");
            }
        }
    }
}

fn list(bytes: &[u8]) {
    let (len, rest) = number(bytes);
    if let Ok(parts) = decode_list(rest, len) {
        let sum = parts.iter().try_fold(0u64, |sum, part| sum.checked_add(part.len));
        assert_eq!(sum, Some(len), "parts add up to what was promised");
    }
}

fn directory(bytes: &[u8]) {
    let (size, rest) = number(bytes);
    let Ok(segments) = pack::decode_directory(rest, size) else { return };
    for segment in segments {
        let end = u64::from(segment.offset) + u64::from(segment.stored_len);
        assert!(end <= size, "a segment leaves its pack");
        let blobs: u64 = segment.blobs.iter().map(|(_, len)| u64::from(*len)).sum();
        assert!(blobs <= u64::from(segment.plain_len), "blobs leave their segment");
    }
}

fn index(bytes: &[u8]) {
    let _ = IndexObject::decode(bytes);
}

fn record(bytes: &[u8]) {
    let (header, rest) = number(bytes);
    let len = usize::try_from(header >> 8).unwrap_or(LONGEST) % LONGEST;
    if let Ok(plain) = compress::decompress((header & 3) as u8, rest, len) {
        assert_eq!(plain.len(), len);
    }
}

fn manifest(bytes: &[u8]) {
    let _ = serde_json::from_slice::<Manifest>(bytes);
}

fn slot(bytes: &[u8]) {
    let _ = slots::check(bytes, uuid::Uuid::nil());
}

fn secret(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Secret::from_file(text);
        if let Ok(secret) = Secret::from_recovery(text) {
            assert!(Secret::from_recovery(&secret.to_recovery()).is_ok());
        }
    }
}

fn block(bytes: &[u8]) {
    let _ = cache::decode_block(bytes);
}

fn copy_manifest(bytes: &[u8]) {
    let _ = manifest::Manifest::read(bytes);
}

fn copy_line(bytes: &[u8]) {
    if let Ok(line) = serde_json::from_slice::<Line>(bytes) {
        let _ = line.check(3);
    }
}

fn copy_tar(bytes: &[u8]) {
    let mut tar = Tar::new(bytes);
    for _ in 0..ENTRIES {
        if !matches!(tar.next(), Ok(Some(_))) {
            return;
        }
    }
}

fn cron(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Times::parse(text, "UTC");
    }
}

#[cfg(test)]
mod tests {
    //! The corpora of `fuzz/corpus` and seeded mutations of them, without any other tool.
    //! `STRONGROOM_FUZZ` says how many mutations of each file are tried, `STRONGROOM_SEED` with which seed.

    use std::collections::BTreeMap;
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::archive::cache::{Key, encode_block};
    use crate::model::Id;
    use crate::vault::compress::{Compression, Compressor};
    use crate::vault::tree::content::encode_list;
    use crate::vault::tree::node::{encode_branch, encode_leaf, encode_root};
    use crate::vault::tree::{Child, Content, Device, Entry, Link, Metadata, Origin, Owner, Part, Time, Totals};

    fn corpus(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name)
    }

    fn from_env(name: &str, usual: u64) -> u64 {
        std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
    }

    /// Numbers that come again with the same seed (xorshift64).
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, n: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 >> 16).unwrap() % n.max(1)
        }
    }

    /// Bytes that mean much to decoders.
    const TELLING: &[&[u8]] = &[
        &[0],
        &[0xff],
        &[0x80],
        &[0x7f],
        &[0xff; 9],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        b"..",
        b"/",
        b"\0",
        b"99999999999999999999",
        b"-1",
        b"{\"",
        b"\\u0000",
    ];

    fn mutate(bytes: &mut Vec<u8>, other: &[u8], dice: &mut Dice) {
        for _ in 0..=dice.below(4) {
            let (at, to) = (dice.below(bytes.len()), dice.below(bytes.len() + 1));
            let range = at.min(to)..at.max(to);
            match dice.below(7) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << dice.below(8),
                1 if !bytes.is_empty() => bytes[at] = bytes[at].wrapping_add(1),
                2 => bytes.truncate(at),
                3 => drop(bytes.splice(range.clone(), [])),
                4 => {
                    let again = bytes[range.clone()].to_vec();
                    bytes.splice(at..at, again);
                }
                5 => drop(bytes.splice(at..at, TELLING[dice.below(TELLING.len())].iter().copied())),
                _ => {
                    let from = dice.below(other.len());
                    let piece = &other[from..(from + dice.below(200)).min(other.len())];
                    bytes.splice(at..at, piece.iter().copied());
                }
            }
            bytes.truncate(1 << 20);
        }
    }

    fn memory() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    #[test]
    fn corpora_and_their_mutations_do_no_harm() {
        let (seed, tries) = (from_env("STRONGROOM_SEED", 20_261_127), from_env("STRONGROOM_FUZZ", 3000));
        println!("seed {seed} (STRONGROOM_SEED), {tries} mutations of each file (STRONGROOM_FUZZ)");
        for (name, target) in TARGETS {
            let mut files: Vec<_> = std::fs::read_dir(corpus(name)).unwrap().map(|file| file.unwrap().path()).collect();
            files.sort();
            let seeds: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
            assert!(!seeds.is_empty(), "{name} has no corpus");
            let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            let before = memory();
            for bytes in &seeds {
                target(bytes);
                for _ in 0..tries {
                    let mut bytes = bytes.clone();
                    mutate(&mut bytes, &seeds[dice.below(seeds.len())], &mut dice);
                    let since = Instant::now();
                    if std::panic::catch_unwind(|| target(&bytes)).is_err() {
                        let kept = std::env::temp_dir().join(format!("fuzz-{name}-{}", Id::of(&bytes)));
                        std::fs::write(&kept, &bytes).unwrap();
                        panic!("{name} does not bear {}", kept.display());
                    }
                    // Loops, not slow machines: a mutation is a megabyte at most.
                    assert!(since.elapsed().as_secs() < 20, "{name} takes too long");
                }
            }
            assert!(memory() < before + (256 << 20), "{name} takes more memory than it was given bytes for");
        }
    }

    fn entry(name: &[u8], kind: Kind) -> Entry {
        let owner = Arc::new(Owner { uid: 1000, gid: 100, user: "maria".into(), group: "users".into() });
        let xattrs = vec![(b"user.note".to_vec(), b"kept".to_vec())];
        let meta = Metadata { mode: 0o4755, owner, mtime: Time { sec: 1_700_000_000, nsec: 5 }, xattrs, flags: 0x10 };
        Entry { name: name.to_vec(), meta, link: Link::None, kind }
    }

    fn entries() -> Vec<Entry> {
        let id = |n: u8| Id::of(&[n]);
        let file = |size, holes, content| Kind::File { size, holes, content };
        let parts = vec![Part { id: id(1), len: 700 }, Part { id: id(2), len: 300 }];
        let device = Device { major: 8, minor: 1 };
        let totals = Totals { entries: 3, files: 2, bytes: 99 };
        vec![
            entry(b"a", file(0, Vec::new(), Content::Empty)),
            entry(b"b", file(12, Vec::new(), Content::Whole(id(3)))),
            entry(b"c", file(9192, vec![(1000, 8192)], Content::Parts(parts.clone()))),
            entry(b"d", file(1000, Vec::new(), Content::Lists(parts))),
            entry(b"e", Kind::Directory { node: id(4), totals, origin: Origin::Read }),
            entry(b"f", Kind::Symlink { target: b"../e".to_vec() }),
            entry(b"g", Kind::CharDevice(device)),
            entry(b"h", Kind::BlockDevice(device)),
            entry(b"i", Kind::Fifo),
            entry(b"j", Kind::Socket),
            entry(b"k", Kind::Unread),
            Entry { link: Link::First { nlink: 2 }, ..entry(b"l", file(12, Vec::new(), Content::Whole(id(3)))) },
            Entry {
                link: Link::To { nlink: 2, up: 1, path: b"x/l".to_vec() },
                ..entry(b"m", file(12, Vec::new(), Content::Whole(id(3))))
            },
        ]
    }

    const MANIFEST: &str = r#"{"format":1,"uuid":"7b0c9d0e-5a8e-4c1c-9f5e-0a3b6f9d2c11","machine":{"id":"0d6f2b5c-3a1e-4f27-8c55-1b9e7d4a6f02","name":"web-1"},"backup":7,"high_water":9,"previous":null,"parent":"7b0c9d0e-5a8e-4c1c-9f5e-0a3b6f9d2c10","resource":{"id":1,"name":"web","project":"default","kind":"server","paths":["2f737276"],"exclude":["*.tmp"],"one_file_system":false,"browse":"strict"},"type":"full","backup_type":"manual","description":"","created_at":"2026-01-16T15:45:00Z","completed_at":"2026-01-16T15:45:10Z","incremental":true,"partial":false,"root":"0101010101010101010101010101010101010101010101010101010101010101","totals":{"entries":13,"files":6,"bytes":5000},"errors":1,"error_list":"0202020202020202020202020202020202020202020202020202020202020202","stored":4096,"schedule":"nightly","since_full":3,"checkpoint":2}"#;

    const SLOT: &str = r#"{"format":1,"vault":"00000000-0000-0000-0000-000000000000","kind":"file","created_at":"2026-01-16T15:45:00Z","salt":"3b26b2b829162b51266f5817f57f7d39ea5b99c7b73bb5a243fcc0ef5683f88c","commitment":"25765efa21b9dc05693c1d7a718f4f7d105c408748747fb15761e960df0b94d7","wrapped":"fe6c124f2b2b4f2d1d309ecba8056f14a0842b0cee5262c6ccdd5f02d7c970d1f4249b0a64c630d37e17ec8a61bcebbc"}"#;

    const COPY: &str = r#"{"format":"strongroom plain copy 1","created_at":"2026-01-16T15:45:00Z","machine":"web-1","task":"nightly","resources":[{"id":1,"name":"web","project_id":1,"project":"default","paths":["/srv/web"],"exclude":[],"one_file_system":false}],"common_data":true,"entries":3,"bytes":12,"errors":0,"entries_sha256":"0303030303030303030303030303030303030303030303030303030303030303"}"#;

    const LINES: [&str; 3] = [
        r#"{"resource":0,"path":"/srv/web/a","type":"file","size":9192,"holes":[[1000,8192]],"sha256":"0404040404040404040404040404040404040404040404040404040404040404","mode":420,"uid":0,"gid":0,"user":"root","mtime":[1700000000,5],"xattrs":[["user.note","6b657074"]]}"#,
        r#"{"resource":0,"path":"/srv","type":"directory","ancestor":true,"mode":493,"uid":0,"gid":0,"mtime":[1700000000,0]}"#,
        r#"{"resource":0,"path":"/srv/web/b","type":"symlink","target":"../a","mode":511,"uid":0,"gid":0,"mtime":[1700000000,0],"first":"/srv/web/a"}"#,
    ];

    #[test]
    fn the_corpora_in_text_are_what_programs_write() {
        serde_json::from_str::<Manifest>(MANIFEST).unwrap();
        slots::check(SLOT.as_bytes(), uuid::Uuid::nil()).unwrap();
        manifest::Manifest::read(COPY.as_bytes()).unwrap();
        for line in LINES {
            serde_json::from_str::<Line>(line).unwrap().check(1).unwrap();
        }
    }

    /// What real encoders write. A corpus that is there stays and gets what is missing:
    /// `cargo test --release --lib -- --ignored fuzz::tests::write_corpora`
    #[test]
    #[ignore = "writes files into fuzz/corpus"]
    fn write_corpora() {
        let mut seeds: BTreeMap<&str, Vec<Vec<u8>>> = BTreeMap::new();
        let mut add = |name, bytes: Vec<u8>| seeds.entry(name).or_default().push(bytes);
        let told = |number: u64, bytes: &[u8]| [&number.to_be_bytes(), bytes].concat();
        let all = entries();
        add("node", encode_leaf(all.iter()));
        let totals = Totals { entries: 13, files: 6, bytes: 5000 };
        let child = |last: &[u8]| Child { last: last.to_vec(), count: 13, totals, node: Id::of(last) };
        add("node", encode_branch(&[child(b"m"), child(b"z")]));
        add("node", encode_root(&entry(b"", Kind::Directory { node: Id::of(b"r"), totals, origin: Origin::Ancestor })));
        let parts = [Part { id: Id::of(b"1"), len: 1 << 20 }, Part { id: Id::of(b"2"), len: 77 }];
        add("list", told((1 << 20) + 77, &encode_list(&parts)));
        let segment = |offset, codec| pack::Segment {
            offset,
            stored_len: 500,
            plain_len: 1000,
            codec,
            blobs: vec![(Id::of(&[codec]), 400), (Id::of(b"x"), 600)],
        };
        let segments = vec![segment(64, 0), segment(564, 1)];
        add("directory", told(2000, &pack::encode_directory(&segments)));
        let class = crate::vault::seal::Class::DataPack;
        let record = pack::PackRecord { id: Id::of(b"p"), salt: [7; 32], class, size: 2000, segments };
        add("index", IndexObject { supersedes: vec![Id::of(b"old")], packs: vec![record] }.encode());
        let text = b"what is said twice is said twice ".repeat(40);
        for method in [Compression::Zstd(3), Compression::Gzip(6), Compression::None] {
            let mut packed = Vec::new();
            let codec = Compressor::new(method).unwrap().compress(&text, &mut packed).unwrap();
            add("record", told((text.len() as u64) << 8 | u64::from(codec), &packed));
        }
        add("manifest", MANIFEST.into());
        add("slot", SLOT.into());
        let known = Secret::from_file(&"ab".repeat(32)).ok();
        add("secret", "ab".repeat(32).into());
        add("secret", known.map_or_else(Vec::new, |secret| secret.to_recovery().as_bytes().to_vec()));
        let key = Key { ino: 5, ctime: Time { sec: 1_700_000_000, nsec: 9 } };
        let keyed: Vec<(Key, &Entry)> = all.iter().map(|entry| (Key { ..key }, entry)).collect();
        add(
            "cache",
            encode_block(
                b"/srv/web",
                &entry(b"", Kind::Directory { node: Id::of(b"r"), totals, origin: Origin::Read }),
                &keyed,
            ),
        );
        add("copy-manifest", COPY.into());
        LINES.iter().for_each(|line| add("copy-line", (*line).into()));
        let header =
            crate::restore::tar::header::Header { path: b"a/b".to_vec(), kind: b'0', size: 5, ..Default::default() };
        let mut tar = header.encode();
        tar.extend(b"hello");
        tar.resize(512 * 4, 0);
        add("copy-tar", tar);
        for text in ["0 3 * * *", "@daily", "*/15 8-18 * * MON-FRI", "0 0 L * *"] {
            add("cron", text.into());
        }
        for (name, seeds) in seeds {
            std::fs::create_dir_all(corpus(name)).unwrap();
            for bytes in seeds {
                std::fs::write(corpus(name).join(&Id::of(&bytes).hex()[..16]), bytes).unwrap();
            }
        }
    }
}
