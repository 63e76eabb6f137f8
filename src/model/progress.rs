//! What a long piece of work tells its observers, and how they tell it to stop.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::{Error, Result};

/// Counters and the cancel flag of one job; shared between the work and those who watch it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of plain data handled so far.
    pub bytes_done: AtomicU64,
    /// Bytes expected in all; 0 while unknown.
    pub bytes_total: AtomicU64,
    /// Entries handled so far.
    pub files_done: AtomicU64,
    /// Entries expected in all; 0 while unknown.
    pub files_total: AtomicU64,
    current: Mutex<String>,
    cancelled: AtomicBool,
}

impl Progress {
    /// Adds to what is done.
    pub fn add(&self, files: u64, bytes: u64) {
        self.files_done.fetch_add(files, Relaxed);
        self.bytes_done.fetch_add(bytes, Relaxed);
    }

    /// Sets what is expected.
    pub fn expect(&self, files: u64, bytes: u64) {
        self.files_total.store(files, Relaxed);
        self.bytes_total.store(bytes, Relaxed);
    }

    /// Names what is being worked on (lossy text).
    pub fn set_current(&self, item: &str) {
        if let Ok(mut current) = self.current.lock() {
            current.clear();
            current.push_str(item);
        }
    }

    /// What is being worked on.
    pub fn current(&self) -> String {
        self.current.lock().map(|c| c.clone()).unwrap_or_default()
    }

    /// Asks the work to stop.
    pub fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
    }

    /// Whether the work was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Relaxed)
    }

    /// Fails once the work was asked to stop; long loops call this often.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::cancelled()) } else { Ok(()) }
    }
}
