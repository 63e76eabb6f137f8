//! Room for what must be written down although the disk is full: a file that is given up for it.
//!
//! What somebody asks for is refused when there is no room. How a job ended is not asked for, and would
//! otherwise be unknown until the next start.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// The file's name in the state directory.
const FILE: &str = "reserve";
/// Its length, in bytes: some hundred times what the end of a job takes.
const SIZE: u64 = 4 << 20;
/// It is given up when there are fewer bytes beside it.
const SCARCE: u64 = 2 << 20;
/// It is made anew only where it takes no more than a small part of what is left.
const PLENTY: u64 = 64 << 20;

/// The reserve of a state directory.
#[derive(Debug)]
pub struct Reserve(PathBuf);

impl Reserve {
    /// That of a directory; made if there is room for it.
    pub fn of(state_dir: &Path) -> Self {
        let reserve = Self(state_dir.join(FILE));
        reserve.keep();
        reserve
    }

    /// Gives the room up if there is hardly any other, or takes it again. Nothing depends on it: what goes wrong is
    /// that there is none.
    pub fn keep(&self) {
        let Some(free) =
            self.0.parent().and_then(|dir| statvfs(dir).ok()).map(|s| s.f_bavail.saturating_mul(s.f_frsize))
        else {
            return;
        };
        if free < SCARCE {
            if fs::remove_file(&self.0).is_ok() {
                tracing::warn!("the disk of the state directory is full: what was kept for that is in use now");
            }
        } else if free > PLENTY && !self.0.exists() {
            let Ok(file) = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.0) else { return };
            if fallocate(&file, FallocateFlags::empty(), 0, SIZE).is_err() {
                let _ = fs::remove_file(&self.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_takes_room_while_there_is_plenty() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let reserve = Reserve::of(dir.path());
        let blocks = || fs::metadata(dir.path().join(FILE)).map(|m| std::os::unix::fs::MetadataExt::blocks(&m) * 512);
        assert!(blocks().unwrap() >= SIZE);
        fs::remove_file(dir.path().join(FILE)).unwrap();
        reserve.keep();
        assert!(blocks().unwrap() >= SIZE);
    }
}
