//! Several threads that go through the directories of one tree.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use crate::model::{Error, Progress, Result};
use crate::source::Stat;
use crate::source::stat::Type;

/// Threads at most: the file system's own journal is what they wait for.
const MOST: usize = 16;
/// A path that the kernel resolves at once is shorter.
const PIECE: usize = 4000;

/// What a tree holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Entries of all types.
    pub entries: u64,
    /// Bytes that its files take: holes do not count, a file with many names once.
    pub bytes: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.entries += other.entries;
        self.bytes += other.bytes;
    }
}

#[derive(Default)]
struct State {
    /// Directories to go through, the last one first, so that few of them wait.
    ahead: Vec<Vec<u8>>,
    busy: usize,
    failed: Option<Error>,
}

/// Calls `visit` with the path of every directory from the root of a tree on, from all threads; it
/// answers with the paths of those in it. The first error ends it.
pub fn each_directory(visit: impl Fn(&[u8]) -> Result<Vec<Vec<u8>>> + Sync) -> Result<()> {
    let state = Mutex::new(State { ahead: vec![Vec::new()], ..State::default() });
    let changed = Condvar::new();
    let lock = || -> MutexGuard<'_, State> { state.lock().unwrap_or_else(PoisonError::into_inner) };
    let work = || {
        let mut state = lock();
        loop {
            if state.failed.is_some() {
                break;
            }
            let Some(path) = state.ahead.pop() else {
                if state.busy == 0 {
                    break;
                }
                state = changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.busy += 1;
            drop(state);
            let visited = visit(&path);
            state = lock();
            state.busy -= 1;
            match visited {
                Ok(mut more) => state.ahead.append(&mut more),
                Err(e) => state.failed = state.failed.take().or(Some(e)),
            }
            changed.notify_all();
        }
        drop(state);
        changed.notify_all();
    };
    // Some wait for the journal while others work. None of them is the caller's own thread, which
    // must stay as it is.
    let workers = std::thread::available_parallelism().map_or(2, |n| usize::from(n) * 2).clamp(4, MOST);
    std::thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(work))));
    match state.into_inner().unwrap_or_else(PoisonError::into_inner).failed {
        Some(e) => Err(e),
        None => Ok(()),
    }
}

/// Opens a directory beneath another, following no symbolic link and entering no other mount.
pub fn below(root: impl AsFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOATIME;
    let open = |dir: &dyn AsFd, piece: &[u8]| openat2(dir.as_fd(), piece, flags, Mode::empty(), resolve);
    if path.is_empty() {
        return open(&root, b".");
    }
    let (mut at, mut rest): (Option<OwnedFd>, &[u8]) = (None, path);
    loop {
        let end = if rest.len() <= PIECE {
            rest.len()
        } else {
            rest[..PIECE].iter().rposition(|b| *b == b'/').unwrap_or(PIECE)
        };
        let next = match &at {
            Some(dir) => open(dir, &rest[..end])?,
            None => open(&root, &rest[..end])?,
        };
        match rest.get(end + 1..) {
            Some(more) if !more.is_empty() => rest = more,
            _ => return Ok(next),
        }
        at = Some(next);
    }
}

/// The path of `name` in the directory at `path`.
pub fn child(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

/// Counts what is in a tree that nobody changes.
pub fn measure(root: &OwnedFd, progress: &Progress) -> Result<Tally> {
    let total = Mutex::new((Tally::default(), BTreeSet::new()));
    each_directory(|path| {
        let failed = |e: rustix::io::Errno| {
            Error::io(format!("cannot read {:?} in the snapshot", String::from_utf8_lossy(path)), &e.into())
        };
        progress.check()?;
        let dir = below(root, path).map_err(failed)?;
        let (mut here, mut shared, mut ahead) = (Tally::default(), Vec::new(), Vec::new());
        for name in crate::restore::live::names(&dir).map_err(failed)? {
            let stat = Stat::at(&dir, &name).map_err(failed)?;
            here.entries += 1;
            match stat.kind {
                Type::Directory => ahead.push(child(path, &name)),
                Type::File if stat.nlink > 1 => shared.push((stat.ino, stat.blocks * 512)),
                Type::File => here.bytes += stat.blocks * 512,
                _ => {}
            }
        }
        let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
        for (ino, bytes) in shared {
            here.bytes += if total.1.insert(ino) { bytes } else { 0 };
        }
        total.0 += here;
        Ok(ahead)
    })?;
    Ok(total.into_inner().unwrap_or_else(PoisonError::into_inner).0)
}
