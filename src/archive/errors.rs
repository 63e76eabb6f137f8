//! Files that a backup could not read: counted, listed, and no reason to fail the rest.

use std::sync::{Mutex, PoisonError};

use crate::model::{Id, Result};
use crate::vault::Vault;
use crate::vault::codec::{Reader, Writer};
use crate::vault::writer::Lane;

/// More errors than this are counted but not listed.
const LISTED_MAX: usize = 1 << 16;

/// One file that could not be read, or changed while it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathError {
    /// Its absolute path, as raw bytes.
    pub path: Vec<u8>,
    /// A stable code: `unreadable`, `vanished`, `changed`, `unsupported`.
    pub code: String,
    /// What the system said.
    pub message: String,
}

/// Errors as they come, from many threads.
#[derive(Debug, Default)]
pub struct Errors {
    inner: Mutex<(u64, Vec<PathError>)>,
}

impl Errors {
    /// Counts and lists one.
    pub fn add(&self, path: Vec<u8>, code: &str, message: impl std::fmt::Display) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.0 += 1;
        if inner.1.len() < LISTED_MAX {
            inner.1.push(PathError { path, code: code.to_owned(), message: message.to_string() });
        }
    }

    /// Stores the list, sorted by path, and gives the count.
    pub fn store(&self, lane: &mut Lane) -> Result<(u64, Option<Id>)> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.0 == 0 {
            return Ok((0, None));
        }
        inner.1.sort_by(|a, b| a.path.cmp(&b.path));
        let mut w = Writer::default();
        // The longest list of the longest paths stays below what a segment may have.
        let mut listed = 0;
        for error in &inner.1 {
            if w.bytes.len() > 8 << 20 {
                break;
            }
            w.bytes(&error.path);
            w.bytes(error.code.as_bytes());
            w.bytes(error.message.as_bytes());
            listed += 1;
        }
        let mut head = Writer::default();
        head.uint(listed);
        head.bytes.extend_from_slice(&w.bytes);
        Ok((inner.0, Some(lane.put(&head.bytes)?)))
    }
}

/// Reads the list of errors of a backup.
pub fn read_errors(vault: &Vault, list: &Id) -> Result<Vec<PathError>> {
    let blob = vault.read_blob(list)?;
    let mut r = Reader::new(&blob, "a list of errors");
    let n = r.count(3)?;
    let mut errors = Vec::with_capacity(n);
    for _ in 0..n {
        let path = r.bytes()?.to_vec();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        errors.push(PathError { path, code: text(r.bytes()?), message: text(r.bytes()?) });
    }
    r.finish()?;
    Ok(errors)
}
