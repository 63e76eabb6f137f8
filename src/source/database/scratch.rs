//! A directory for what a program of another user must have as a file: that user's alone, and gone
//! with its owner.

use std::fs::{DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::tool::RunAs;
use crate::model::{IoContext, Result};

/// Where users may put large files.
const ABOVE: &str = "/var/tmp";

/// A directory that goes when this does.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

fn path(token: &str) -> PathBuf {
    Path::new(ABOVE).join(format!("strongroom-{token}"))
}

/// Removes what interrupted programs left whose tokens begin with this.
pub fn remove(token: &str) -> Result<()> {
    let start = format!("strongroom-{token}");
    let Ok(entries) = std::fs::read_dir(ABOVE) else { return Ok(()) };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(&start)) {
        // Nothing is followed, neither here nor beneath.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            std::fs::remove_dir_all(entry.path()).at(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

/// Writes a file in a scratch directory, for its user to read.
pub fn write(file: &Path, bytes: &[u8], user: RunAs) -> Result<()> {
    let what = || format!("cannot write {}", file.display());
    let flags = nix::libc::O_NOFOLLOW;
    let mut open = File::options().write(true).create_new(true).mode(0o600).custom_flags(flags).open(file).at(what)?;
    open.write_all(bytes).at(what)?;
    if user != RunAs::us() {
        std::os::unix::fs::fchown(&open, Some(user.uid), Some(user.gid)).at(what)?;
    }
    Ok(())
}

impl Scratch {
    /// Makes one for a user.
    pub fn new(token: &str, user: RunAs) -> Result<Self> {
        let path = path(token);
        let what = || format!("cannot make {}", path.display());
        // A directory that is there already is not ours.
        DirBuilder::new().mode(0o700).create(&path).at(what)?;
        if user != RunAs::us() {
            std::os::unix::fs::lchown(&path, Some(user.uid), Some(user.gid)).at(what)?;
        }
        Ok(Self { path })
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!("cannot remove {}: {e}", self.path.display());
        }
    }
}
