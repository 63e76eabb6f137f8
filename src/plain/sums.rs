//! `SHA256SUMS`: lines as `sha256sum` writes and checks them.

use crate::model::Id;

/// One line.
pub fn line(sum: &Id, path: &[u8]) -> Vec<u8> {
    let odd = path.iter().any(|b| matches!(b, b'\\' | b'\n' | b'\r'));
    let mut line = Vec::with_capacity(path.len() + 68);
    if odd {
        line.push(b'\\');
    }
    line.extend_from_slice(sum.hex().as_bytes());
    line.extend_from_slice(b"  ");
    for b in path {
        match b {
            b'\\' => line.extend_from_slice(b"\\\\"),
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            other => line.push(*other),
        }
    }
    line.push(b'\n');
    line
}

/// The sum of a file whose name needs no escaping, if the text has it.
pub fn find(sums: &str, name: &str) -> Option<Id> {
    sums.lines().find_map(|line| line.strip_suffix(name)?.strip_suffix("  ")?.parse().ok())
}
