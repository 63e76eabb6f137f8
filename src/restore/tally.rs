//! What a restore counts and lists while many threads work on it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use super::{OnError, RestoreOutcome};
use crate::archive::PathError;
use crate::model::{Error, ErrorKind, Result};

/// Errors listed at most.
const LISTED: usize = 1000;

/// The counters of one restore.
#[derive(Debug, Default)]
pub struct Tally {
    /// Entries written.
    pub files: AtomicU64,
    /// Bytes written.
    pub bytes: AtomicU64,
    /// Entries that were as in the backup.
    pub unchanged: AtomicU64,
    /// Entries left alone.
    pub skipped: AtomicU64,
    /// Entries removed.
    pub removed: AtomicU64,
    errors: AtomicU64,
    list: Mutex<Vec<PathError>>,
    on_error: OnError,
}

impl Tally {
    /// A tally that takes errors as asked for.
    pub fn new(on_error: OnError) -> Self {
        Self { on_error, ..Self::default() }
    }

    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Relaxed);
    }

    /// Lists a problem with `path`.
    pub fn list(&self, path: Vec<u8>, code: &str, message: String) {
        self.errors.fetch_add(1, Relaxed);
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        if list.len() < LISTED {
            list.push(PathError { path, code: code.to_string(), message });
        }
    }

    /// Takes an error met at `path`: listed, or given back where the restore must end.
    pub fn take(&self, path: Vec<u8>, error: Error) -> Result<()> {
        let stop = match error.kind {
            ErrorKind::Cancelled => return Err(error),
            // Every other file would fail the same way.
            ErrorKind::NoSpace | ErrorKind::DestinationFailed => true,
            _ => self.on_error == OnError::FastFail,
        };
        if stop {
            return Err(error.context(format!("cannot restore {}", String::from_utf8_lossy(&path))));
        }
        let code = match error.kind {
            ErrorKind::Damaged => "damaged",
            ErrorKind::InvalidState => "refused",
            _ => "failed",
        };
        self.list(path, code, error.message);
        Ok(())
    }

    /// Takes what could not be set of an entry's metadata.
    pub fn problems(&self, path: impl FnOnce() -> Vec<u8>, problems: &[String]) -> Result<()> {
        if problems.is_empty() {
            return Ok(());
        }
        let (path, message) = (path(), problems.join("; "));
        if self.on_error == OnError::FastFail {
            let path = String::from_utf8_lossy(&path);
            return Err(Error::failed(format!("cannot restore {path} exactly: {message}")));
        }
        self.list(path, "unsupported", message);
        Ok(())
    }

    /// What was counted.
    pub fn outcome(self) -> RestoreOutcome {
        RestoreOutcome {
            files: self.files.into_inner(),
            bytes: self.bytes.into_inner(),
            unchanged: self.unchanged.into_inner(),
            skipped: self.skipped.into_inner(),
            removed: self.removed.into_inner(),
            errors: self.errors.into_inner(),
            error_list: self.list.into_inner().unwrap_or_else(PoisonError::into_inner),
        }
    }
}
