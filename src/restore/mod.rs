//! Restore: vault to live system, whole or by path, and to a tar stream.
//!
//! What it guarantees:
//! - Nothing is written outside the target: every path is walked beneath an open directory
//!   handle, one name at a time, and no symbolic link is ever followed.
//! - A file stands under its final path only when it is whole, with all of its metadata.
//! - What could not be restored exactly is counted and listed, never passed over.

mod batch;
mod check;
pub mod data;
pub mod database;
pub mod dir;
mod hidden;
pub mod item;
pub mod job;
pub mod journal;
mod links;
pub mod live;
pub mod meta;
mod select;
mod sweep;
mod tally;
pub mod tar;
pub mod volume;
mod walk;
pub mod whole;
mod writeback;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

pub use check::check;
use dir::Dir;
use job::Job;
use journal::Journal;
pub use journal::recover;
pub use tar::export;

use crate::archive::PathError;
use crate::model::{Progress, Result};
use crate::vault::{Manifest, Vault};

/// What to do with what stands in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Conflict {
    /// Replace it.
    #[default]
    Overwrite,
    /// Leave it as it is.
    Skip,
}

/// What to do when a file cannot be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// List it and go on.
    #[default]
    Continue,
    /// Stop at once.
    FastFail,
}

/// What to restore, where to, and how.
#[derive(Debug, Clone, Default)]
pub struct RestoreRequest {
    /// The directory beneath which files are put under their absolute paths; `None`: in place.
    pub target: Option<PathBuf>,
    /// Absolute paths to restore, with everything beneath; empty: all.
    pub paths: Vec<PathBuf>,
    /// What to do with what stands in the way.
    pub conflict: Conflict,
    /// What to do when a file cannot be restored.
    pub on_error: OnError,
    /// Remove what the backup would have saved but did not hold.
    pub delete: bool,
    /// Change nothing, count only.
    pub dry_run: bool,
    /// Strongroom's own directories: never written, never removed.
    pub never: Vec<PathBuf>,
    /// Files that somebody else brings back: never written, never removed.
    pub leave: Vec<PathBuf>,
    /// Where the restore keeps its journal; without one a crash leaves temporary names.
    pub journal: Option<PathBuf>,
}

/// What a restore did; after a dry run what it would have done.
#[derive(Debug, Clone, Default)]
pub struct RestoreOutcome {
    /// Entries written.
    pub files: u64,
    /// Bytes of plain data written.
    pub bytes: u64,
    /// Entries that were already as in the backup.
    pub unchanged: u64,
    /// Entries left alone because something stood in the way.
    pub skipped: u64,
    /// Entries removed because the backup did not hold them.
    pub removed: u64,
    /// Problems met.
    pub errors: u64,
    /// The first 1000 of them.
    pub error_list: Vec<PathError>,
}

/// Restores. Cancelled or failed, it leaves whole files only.
pub fn run(
    vault: &Arc<Vault>,
    manifest: &Manifest,
    request: &RestoreRequest,
    progress: &Progress,
) -> Result<RestoreOutcome> {
    check(vault, manifest, request)?;
    let root_path = request.target.as_deref().unwrap_or(Path::new("/"));
    let (handle, made) = job::open_root(root_path, !request.dry_run)?;
    let job = Job::new(vault, manifest, request, progress, Dir::root(handle, made)?)?;
    let root = vault.root_entry(&manifest.root)?;
    let totals = job.selection.totals(vault, &root)?;
    progress.expect(totals.entries, totals.bytes);
    let journal = request.journal.as_deref().filter(|_| !request.dry_run);
    let journal = journal.map(|path| Journal::new(path, root_path, &job.prefix, request.target.is_none()));
    let result = walk::walk(&job, root, journal.as_ref()).and_then(|()| job.settle());
    // What could not be cleared away is by the next start of the daemon, if the journal says where it is.
    if let Some(journal) = journal
        && !job.left.load(Relaxed)
    {
        journal.close()?;
    }
    result?;
    Ok(job.tally.outcome())
}

/// The form of an exported backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Plain.
    Tar,
    /// Compressed by gzip.
    TarGz,
    /// Compressed by zstd.
    #[default]
    TarZst,
}

/// What an export wrote.
#[derive(Debug, Clone, Default)]
pub struct ExportOutcome {
    /// Entries in the stream.
    pub files: u64,
    /// Bytes of plain data in it.
    pub bytes: u64,
    /// Bytes written to `out`.
    pub written: u64,
    /// Entries that tar cannot carry.
    pub errors: u64,
    /// The first 1000 of them.
    pub error_list: Vec<PathError>,
}

#[cfg(test)]
mod tests;
