//! Read-ahead: blobs are decoded on other cores before the reader asks for them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::model::Id;

use super::ino::Ino;
use super::pool::Pool;
use super::source::TreeSource;

/// The first window of a sequential reader; it doubles with every read.
const FIRST: u64 = 1 << 20;

/// The largest window: those of several readers must find room among the decoded segments.
const LARGEST: u64 = 8 << 20;

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

/// Small files are read ahead as far as entries whose numbers are greater by this.
const REACH: u64 = 64;

/// Of small files that are read ahead those whose number is a multiple of this are not given to the
/// kernel: that it asks for them shows how far its reader has come.
const MARK: u64 = 16;

/// So many numbers are left to a reader that is faster.
const LEAD: u64 = 1;

/// No more bytes of small files are read ahead at once.
const BYTES: u64 = 4 << 20;

/// Gives the kernel all bytes of a file.
pub type Push = Box<dyn Fn(Ino, &[u8]) + Send + Sync>;

/// A small file to be read ahead.
pub struct Small {
    /// Its inode.
    pub ino: Ino,
    /// What holds all of it.
    pub blob: Id,
    /// How many bytes that are.
    pub size: u64,
}

/// How the small files of a backup are being read. Several readers share it; the worst that can happen
/// is that too much or too little is read ahead.
#[derive(Default)]
pub struct Stride {
    /// The number of the last file that the kernel asked for.
    last: AtomicU64,
    /// The number up to which files were read ahead.
    upto: AtomicU64,
}

impl Stride {
    /// Takes note of a file that is read, and gives the numbers after which and up to which others are to
    /// be read ahead, if it is time to.
    pub fn step(&self, number: u64) -> Option<(u64, u64)> {
        let before = self.last.swap(number, Ordering::Relaxed);
        match number.wrapping_sub(before) {
            0 => return None,
            1..=REACH => {}
            _ => {
                self.upto.store(number, Ordering::Relaxed);
                return None;
            }
        }
        let from = self.upto.load(Ordering::Relaxed).max(number);
        (from - number <= REACH / 2).then_some((from, number.saturating_add(REACH)))
    }

    /// The number of the last file that the kernel asked for.
    pub fn reader(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    /// Takes note of how far files were read ahead.
    pub fn reached(&self, number: u64) {
        self.upto.store(number, Ordering::Relaxed);
    }
}

/// The workers that read ahead.
pub struct Ahead {
    pool: Pool,
    push: Arc<OnceLock<Push>>,
}

impl Ahead {
    /// Starts `threads` workers.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let pool = Pool::new("ahead", threads, Some(WAITING))?;
        Ok(Self { pool, push: Arc::default() })
    }

    /// Reads a blob into the vault's cache some time soon, unless there is too much to do.
    pub fn want(&self, source: &Arc<dyn TreeSource>, id: Id) {
        let source = source.clone();
        // What fails here fails again, and is told, when it is really read.
        self.pool.offer(move || drop(source.blob(&id)));
    }

    /// Reads small files, one after another, and gives them to the kernel before it asks: most of what it
    /// takes to read a small file is to ask for it.
    /// `reader` says how far the one who reads has come: where it overtakes, some are left to it, so that it
    /// is overtaken again.
    pub fn want_all(&self, source: &Arc<dyn TreeSource>, files: Vec<Small>, reader: impl Fn() -> u64 + Send + 'static) {
        let (source, push) = (source.clone(), self.push.clone());
        let ahead = |reader: u64| reader.saturating_add(LEAD);
        let (mut room, mut start) = (BYTES, ahead(reader()));
        self.pool.offer(move || {
            for Small { ino, blob, size } in files {
                let Some(rest) = room.checked_sub(size) else { return };
                if ino.number() <= start {
                    continue;
                }
                room = rest;
                let bytes = source.blob(&blob);
                if reader() >= ino.number() {
                    start = ahead(reader());
                } else if let (Ok(bytes), Some(push)) = (bytes, push.get())
                    && bytes.len() as u64 == size
                    && ino.number() % MARK != 0
                {
                    push(ino, &bytes);
                }
            }
        });
    }

    /// Says how files are given to the kernel.
    pub fn set_push(&self, push: Push) {
        let _ = self.push.set(push);
    }
}
