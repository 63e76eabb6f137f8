//! Read-ahead: blobs are decoded on other cores before the reader asks for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::Id;

use super::pool::Pool;
use super::source::TreeSource;

/// The first window of a sequential reader; it doubles with every read.
const FIRST: u64 = 1 << 20;

/// The largest window.
const LARGEST: u64 = 16 << 20;

/// Reads of one sequential reader come out of order by up to this much.
const NEAR: u64 = 4 << 20;

/// No more blobs than this wait to be read ahead.
const WAITING: usize = 64;

/// How a file is being read. Several readers of one file share it; the worst that can happen is
/// that too much or too little is read ahead.
#[derive(Default)]
pub struct Pace {
    /// Where the next read of a sequential reader begins.
    next: AtomicU64,
    window: AtomicU64,
    /// Up to where blobs were asked for.
    asked: AtomicU64,
}

impl Pace {
    /// Takes note of a read and gives the stretch to read ahead, if there is one.
    pub fn step(&self, offset: u64, len: u64, size: u64) -> Option<(u64, u64)> {
        let end = offset.saturating_add(len);
        let next = self.next.swap(end, Ordering::Relaxed);
        if offset.abs_diff(next) > NEAR {
            self.window.store(0, Ordering::Relaxed);
            self.asked.store(end, Ordering::Relaxed);
            return None;
        }
        let window = (self.window.load(Ordering::Relaxed) * 2).clamp(FIRST, LARGEST);
        self.window.store(window, Ordering::Relaxed);
        let to = end.saturating_add(window).min(size);
        let from = self.asked.fetch_max(to, Ordering::Relaxed).max(end.min(size));
        (from < to).then_some((from, to))
    }
}

/// The workers that read ahead.
pub struct Ahead(Pool);

impl Ahead {
    /// Starts `threads` workers.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        Pool::new("ahead", threads, Some(WAITING)).map(Self)
    }

    /// Reads a blob into the vault's cache some time soon, unless there is too much to do.
    pub fn want(&self, source: &Arc<dyn TreeSource>, id: Id) {
        let source = source.clone();
        // What fails here fails again, and is told, when it is really read.
        self.0.offer(move || drop(source.blob(&id)));
    }
}
