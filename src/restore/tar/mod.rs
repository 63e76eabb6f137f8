//! Export: a backup as a tar stream.
//!
//! The stream is POSIX (pax) tar that GNU tar restores with `--xattrs --xattrs-include='*' --acls`.
//! It is never silently incomplete: if the export fails, the stream ends inside an entry.

mod acl;
pub mod compress;
pub mod header;
pub mod stream;

use std::io::Write;
use std::sync::Arc;

use super::select::{Entries, Selection};
use super::{ExportOutcome, Format};
use crate::model::{Error, Progress, Result};
use crate::vault::tree::{Entry, Kind, Origin};
use crate::vault::{Manifest, Vault};
use compress::Compressor;
use stream::Tar;

/// A directory whose entries are being written.
struct Level {
    entries: Entries,
    source: crate::model::Id,
    path: Vec<u8>,
    /// As in a restore: directories come after everything else, except above the backup's paths.
    pass: Pass,
    again: bool,
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum Pass {
    Everything,
    Others,
    Directories,
}

/// Writes a whole backup as a tar stream. A file that cannot be read fails the export.
pub fn export(
    vault: &Arc<Vault>,
    manifest: &Manifest,
    format: Format,
    out: Box<dyn Write + Send>,
    progress: &Progress,
) -> Result<ExportOutcome> {
    progress.expect(manifest.totals.entries, manifest.totals.bytes);
    let compressor = Compressor::new(format, out)?;
    let mut tar = Tar::new(vault, compressor, progress, manifest.created_at.as_second());
    let result = write_all(vault, manifest, &mut tar, progress);
    tar.finish(result)
}

fn write_all(vault: &Vault, manifest: &Manifest, tar: &mut Tar<'_>, progress: &Progress) -> Result<()> {
    let root = vault.root_entry(&manifest.root)?;
    let mut levels = vec![Level::new(&root, Vec::new())?];
    while let Some(level) = levels.last_mut() {
        progress.check()?;
        let Some((entry, _)) = level.entries.next(vault)? else {
            if std::mem::take(&mut level.again) {
                level.entries = Entries::new(level.source, Selection::All);
                level.pass = Pass::Directories;
            } else {
                levels.pop();
            }
            continue;
        };
        match level.pass {
            Pass::Others if entry.is_dir() => {
                level.again = true;
                continue;
            }
            Pass::Directories if !entry.is_dir() => continue,
            _ => {}
        }
        let path = if level.path.is_empty() { entry.name.clone() } else { [&level.path, &entry.name[..]].join(&b'/') };
        progress.set_current(&String::from_utf8_lossy(&path));
        tar.entry(&path, &entry)
            .map_err(|e| e.context(format!("cannot export /{}", String::from_utf8_lossy(&path))))?;
        if entry.is_dir() {
            levels.push(Level::new(&entry, path)?);
        }
    }
    Ok(())
}

impl Level {
    fn new(entry: &Entry, path: Vec<u8>) -> Result<Self> {
        let Kind::Directory { node, origin, .. } = entry.kind else {
            return Err(Error::damaged("the root of the backup is not a directory"));
        };
        let pass = if origin == Origin::Ancestor { Pass::Everything } else { Pass::Others };
        Ok(Self { entries: Entries::new(node, Selection::All), source: node, path, pass, again: false })
    }
}
