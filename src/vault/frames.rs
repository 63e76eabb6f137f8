//! Frames of a vault that is elsewhere, kept in local files as they are stored: what a directory
//! holds is asked of the store once. Sealed as they came, so they tell no more than the store does,
//! and are authenticated whenever they are read.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use crate::model::Id;

/// How much of a vault elsewhere is kept here, in bytes.
pub const FRAMES_KEPT: u64 = 512 << 20;

/// A file that was used is said to be, but no more often than this.
const TOUCH: Duration = Duration::from_secs(600);

/// Files of frames, a directory for each pack. Losing them costs nothing but time, so errors here
/// are none.
#[derive(Debug)]
pub struct FrameCache {
    dir: PathBuf,
    limit: u64,
    used: AtomicU64,
}

struct Kept {
    path: PathBuf,
    size: u64,
    used: SystemTime,
}

impl FrameCache {
    /// The files in `dir`, which may use about `limit` bytes.
    pub fn open(dir: &Path, limit: u64) -> Self {
        let cache = Self { dir: dir.to_path_buf(), limit, used: AtomicU64::new(0) };
        cache.used.store(cache.files().iter().map(|file| file.size).sum(), Relaxed);
        cache
    }

    fn path(&self, pack: &Id, ordinal: u32) -> PathBuf {
        self.dir.join(pack.hex()).join(ordinal.to_string())
    }

    /// A frame of `len` bytes, as it was kept.
    pub fn get(&self, pack: &Id, ordinal: u32, len: usize) -> Option<Vec<u8>> {
        let path = self.path(pack, ordinal);
        let bytes = fs::read(&path).ok()?;
        if bytes.len() != len {
            self.drop_frame(pack, ordinal);
            return None;
        }
        if let Ok(file) = fs::File::open(&path)
            && let Ok(used) = file.metadata().and_then(|meta| meta.modified())
            && used.elapsed().is_ok_and(|age| age > TOUCH)
        {
            let _ = file.set_modified(SystemTime::now());
        }
        Some(bytes)
    }

    /// Keeps a frame.
    pub fn put(&self, pack: &Id, ordinal: u32, frame: &[u8]) {
        let path = self.path(pack, ordinal);
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let Some(dir) = path.parent() else { return };
        let kept = fs::create_dir_all(dir)
            .and_then(|()| fs::write(&temporary, frame))
            .and_then(|()| fs::rename(&temporary, &path));
        if kept.is_err() {
            let _ = fs::remove_file(&temporary);
            return;
        }
        let size = frame.len() as u64;
        if self.used.fetch_add(size, Relaxed).saturating_add(size) > self.limit {
            self.shrink();
        }
    }

    /// Drops a frame that is not what it should be.
    pub fn drop_frame(&self, pack: &Id, ordinal: u32) {
        let _ = fs::remove_file(self.path(pack, ordinal));
    }

    /// Drops what is kept of packs.
    pub fn forget(&self, packs: &HashSet<Id>) {
        for pack in packs {
            let _ = fs::remove_dir_all(self.dir.join(pack.hex()));
        }
    }

    fn files(&self) -> Vec<Kept> {
        let packs = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let frames = packs.flat_map(|pack| fs::read_dir(pack.path()).into_iter().flatten().flatten());
        let kept = frames.filter_map(|frame| {
            let meta = frame.metadata().ok().filter(std::fs::Metadata::is_file)?;
            Some(Kept { path: frame.path(), size: meta.len(), used: meta.modified().ok()? })
        });
        kept.collect()
    }

    /// Drops what was not used for longest, until a fifth of the room is free.
    fn shrink(&self) {
        let mut files = self.files();
        files.sort_by_key(|file| file.used);
        let mut used: u64 = files.iter().map(|file| file.size).sum();
        for file in files {
            if used <= self.limit / 5 * 4 {
                break;
            }
            if fs::remove_file(&file.path).is_ok() {
                used -= file.size;
            }
            // Only the last one of a pack can do this.
            let _ = file.path.parent().map(fs::remove_dir);
        }
        self.used.store(used, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_kept_within_their_room_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let cache = FrameCache::open(&dir.path().join("frames"), 10_000);
        let pack = |n: u8| Id([n; 32]);
        for n in 0..5 {
            cache.put(&pack(n), 7, &[n; 1500]);
            let past = SystemTime::now() - Duration::from_secs(3600 * (10 - u64::from(n)));
            fs::File::open(cache.path(&pack(n), 7)).unwrap().set_modified(past).unwrap();
        }
        assert_eq!(cache.get(&pack(0), 7, 1500).unwrap(), [0; 1500], "and used anew");
        assert_eq!(cache.get(&pack(1), 7, 1501), None, "of another length");
        for n in 5..8 {
            cache.put(&pack(n), 7, &[n; 1500]);
        }
        let there = |n: u8| cache.get(&pack(n), 7, 1500).is_some();
        assert_eq!((0..8).filter(|n| there(*n)).collect::<Vec<_>>(), [0, 3, 4, 5, 6, 7]);
        let again = FrameCache::open(&dir.path().join("frames"), 10_000);
        assert_eq!(again.used.load(Relaxed), 6 * 1500, "found again");
        again.forget(&HashSet::from([pack(4)]));
        assert!(again.get(&pack(4), 7, 1500).is_none());
    }
}
