//! The journal of a restore: where it may have left temporary names.
//!
//! It is on disk before the first such name of a batch is made. A file under a temporary name is
//! never the only copy of anything, so finishing after a crash is removing it.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::dir::open_dir;
use super::job::{TEMPORARY, open_root};
use super::live;
use crate::model::id::{hex, unhex};
use crate::model::{Error, IoContext, Result};

const FIRST_LINE: &str = "strongroom restore journal 1";

/// The journal of a restore at work.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    head: String,
    durable: bool,
}

impl Journal {
    /// A journal at `path` for temporary names that start with `prefix`, beneath `root`. One that
    /// is not durable survives a crash of the process alone: enough where nothing is replaced.
    pub fn new(path: &Path, root: &Path, prefix: &str, durable: bool) -> Self {
        let head = format!("{FIRST_LINE}\n{prefix}\n{}\n", hex(root.as_os_str().as_bytes()));
        Self { path: path.to_path_buf(), head, durable }
    }

    /// Says that temporary names may now be in these directories (absolute paths in the backup),
    /// and in none that was named before.
    pub fn announce<'a>(&self, dirs: impl Iterator<Item = &'a Vec<u8>>) -> Result<()> {
        let what = || format!("cannot write the restore's journal {:?}", self.path);
        let mut text = self.head.clone();
        for dir in dirs {
            text.push_str(&hex(dir));
            text.push('\n');
        }
        let beside = self.path.with_extension("new");
        let mut file = fs::File::create(&beside).at(what)?;
        file.write_all(text.as_bytes()).at(what)?;
        if self.durable {
            file.sync_data().at(what)?;
        }
        fs::rename(&beside, &self.path).at(what)
    }

    /// Ends the journal: no temporary name is left.
    pub fn close(self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("cannot remove the restore's journal {:?}", self.path), &e))
            }
            _ => Ok(()),
        }
    }
}

/// Removes what a restore that was cut short left behind; the journal last. None is no error.
pub fn recover(path: &Path) -> Result<()> {
    let what = || format!("cannot read the restore's journal {path:?}");
    let text = match fs::read_to_string(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        text => text.at(what)?,
    };
    let bad = || Error::damaged(format!("the restore's journal {path:?} is damaged; remove it"));
    let mut lines = text.lines();
    let (first, prefix, root) = (lines.next(), lines.next(), lines.next());
    let prefix = prefix.filter(|p| p.starts_with(TEMPORARY) && p.len() > TEMPORARY.len()).ok_or_else(bad)?;
    let root = root.and_then(unhex).ok_or_else(bad)?;
    if first != Some(FIRST_LINE) {
        return Err(bad());
    }
    if let (Some(root), _) = open_root(Path::new(OsStr::from_bytes(&root)), false)? {
        for line in lines {
            let dir = unhex(line).ok_or_else(bad)?;
            let mut at = open_dir(&root, b".").at(what)?;
            let names = dir.split(|b| *b == b'/').filter(|name| !name.is_empty());
            let opened = names.into_iter().try_for_each(|name| open_dir(&at, name).map(|next| at = next));
            if opened.is_ok() {
                remove_temporary(&at, prefix)?;
            }
        }
    }
    fs::remove_file(path).at(|| format!("cannot remove the restore's journal {path:?}"))
}

fn remove_temporary(dir: &std::os::fd::OwnedFd, prefix: &str) -> Result<()> {
    for name in live::names(dir).at(|| "cannot list a directory of a restore that was cut short")? {
        if name.starts_with(prefix.as_bytes()) {
            let shown = String::from_utf8_lossy(&name);
            live::remove(dir, &name, false).at(|| format!("cannot remove {shown}, left by a restore"))?;
        }
    }
    Ok(())
}
