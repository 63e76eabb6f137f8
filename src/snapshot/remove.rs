//! Trees that are nobody's any more, removed whatever they hold.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, renameat, unlinkat};
use rustix::io::{Errno, Result};

use super::ioctl::{self, SUBVOLUME_ROOT};
use crate::restore::dir::open_dir;
use crate::restore::live::{self, Found};

/// Removes `name` in `dir` with all that is in it, if it is there. Subvolumes go as a whole.
///
/// A tree may be deeper than handles can be open: directories that are not empty are moved up to
/// the top of it, one after the other, so that two handles are enough.
pub fn all(dir: &OwnedFd, name: &[u8]) -> Result<()> {
    let Some(found) = live::find(dir, name)? else { return Ok(()) };
    if !found.is_dir() {
        return live::remove(dir, name, false);
    }
    if subvolume(dir, name, &found)? {
        return Ok(());
    }
    let top = open_dir(dir, name)?;
    live::unlock(&top)?;
    let mut moved = 0_u64;
    loop {
        let mut left = false;
        for entry in live::names(&top)? {
            if let Some(directory) = clear(&top, &entry)? {
                left = true;
                live::unlock(&directory)?;
                for inner in live::names(&directory)? {
                    if clear(&directory, &inner)?.is_some() {
                        moved = lift(&directory, &inner, &top, moved)?;
                    }
                }
            }
        }
        if !left {
            break;
        }
    }
    unlinkat(dir, name, AtFlags::REMOVEDIR)
}

/// Moves a directory up under a name that nothing has there.
fn lift(from: &OwnedFd, name: &[u8], top: &OwnedFd, mut moved: u64) -> Result<u64> {
    loop {
        moved += 1;
        let free = format!("removed-{moved}");
        if live::find(top, free.as_bytes())?.is_some() {
            continue;
        }
        match renameat(from, name, top, free.as_str()) {
            // It is immutable itself.
            Err(Errno::PERM) => {
                live::unlock(open_dir(from, name)?)?;
                renameat(from, name, top, free.as_str())?;
            }
            renamed => renamed?,
        }
        return Ok(moved);
    }
}

/// Removes a name; a directory that is not empty is opened instead.
fn clear(dir: &OwnedFd, name: &[u8]) -> Result<Option<OwnedFd>> {
    let Some(found) = live::find(dir, name)? else { return Ok(None) };
    if !found.is_dir() {
        return live::remove(dir, name, false).map(|()| None);
    }
    if subvolume(dir, name, &found)? {
        return Ok(None);
    }
    match live::remove(dir, name, true) {
        Err(Errno::NOTEMPTY | Errno::EXIST) => open_dir(dir, name).map(Some),
        removed => removed.map(|()| None),
    }
}

/// Deletes a subvolume; false where it is none.
fn subvolume(dir: &OwnedFd, name: &[u8], found: &Found) -> Result<bool> {
    if found.stat.ino != SUBVOLUME_ROOT {
        return Ok(false);
    }
    match ioctl::destroy(dir, name) {
        // Another file system, which counts its inodes as it likes.
        Err(Errno::NOTTY | Errno::INVAL | Errno::OPNOTSUPP) => Ok(false),
        destroyed => destroyed.map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, Mode, mkdirat};

    use super::*;

    #[test]
    fn a_tree_of_any_depth_goes() {
        let tmp = tempfile::tempdir().unwrap();
        let root = open_dir(CWD, tmp.path().as_os_str().as_encoded_bytes()).unwrap();
        std::fs::create_dir_all(tmp.path().join("tree/a/removed-1/b")).unwrap();
        std::fs::write(tmp.path().join("tree/a/file"), "x").unwrap();
        std::os::unix::fs::symlink("/etc", tmp.path().join("tree/a/link")).unwrap();
        let mut dir = open_dir(&root, b"tree").unwrap();
        for _ in 0..2000 {
            mkdirat(&dir, "down", Mode::RWXU).unwrap();
            dir = open_dir(&dir, b"down").unwrap();
        }
        drop(dir);
        all(&root, b"tree").unwrap();
        assert!(!tmp.path().join("tree").exists());
        all(&root, b"tree").unwrap();
        assert!(std::path::Path::new("/etc/passwd").exists());
    }
}
