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
mod tests;
