//! Backup: source to vault.
//!
//! One thread walks the source in sorted order and compares it with the resource's change cache;
//! workers read what changed; a directory whose entries are all there becomes a node, and so up to
//! the root. What an interrupted backup had read can be made into a tree as well. See [`walker`],
//! [`reader`], [`tree`], [`cache`], [`salvage`].

pub mod cache;
mod cut;
pub mod dumps;
pub mod errors;
mod plan;
mod reader;
mod salvage;
mod stored;
mod tree;
mod volume;
pub mod walker;

use std::path::PathBuf;
use std::sync::Arc;

use uuid::Uuid;

pub use crate::vault::Compression;

use crate::model::{Id, Progress, Result};
use crate::vault::tree::{Entry, Totals};
use crate::vault::{Vault, VaultWriter};

pub use errors::{PathError, read_errors};
pub use plan::{Plan, View};
pub use salvage::{Salvaged, salvage};

/// What to back up, and how.
#[derive(Debug, Clone, Default)]
pub struct BackupRequest {
    /// Absolute paths, files or directories.
    pub paths: Vec<PathBuf>,
    /// Which of them are read elsewhere.
    pub views: Vec<View>,
    /// Patterns in gitignore syntax.
    pub exclude: Vec<String>,
    /// Leave out other file systems beneath the paths.
    pub one_file_system: bool,
    /// Directories of Strongroom's own (state, cache, vaults, mount): never read.
    pub never: Vec<PathBuf>,
    /// A path that is a block device or a file is a volume: stored as one file, what is zero left out.
    pub volumes: bool,
    /// Read every file again, whatever the change cache says.
    pub reread: bool,
    /// The resource's change cache; made anew if missing, damaged or of another vault.
    pub change_cache: PathBuf,
    /// The backup, whose word the new change cache is.
    pub backup: Uuid,
    /// How segments are compressed.
    pub compression: Compression,
    /// How many workers; 0 means one per core.
    pub workers: usize,
}

/// What a backup put into the vault. Its manifest is the caller's to write.
#[derive(Debug, Clone)]
pub struct BackupOutcome {
    /// The root of the tree: the backup's checksum.
    pub root: Id,
    /// What is beneath it.
    pub totals: Totals,
    /// Files that could not be read, or changed while they were.
    pub errors: u64,
    /// The blob that lists them, if there are any.
    pub error_list: Option<Id>,
    /// Bytes added to the vault.
    pub stored: u64,
}

/// Backs up into the vault. Nothing refers to what was stored until the caller publishes a
/// manifest; the change cache is replaced by [`commit_cache`] after that.
pub fn backup(vault: &Arc<Vault>, request: &BackupRequest, progress: &Progress) -> Result<BackupOutcome> {
    backup_into(vault, VaultWriter::start(vault, request.compression)?, None, request, progress)
}

/// The same by a writer that stored dumps already, which hang in the root beside the paths.
pub fn backup_into(
    vault: &Arc<Vault>,
    writer: VaultWriter,
    dumps: Option<Entry>,
    request: &BackupRequest,
    progress: &Progress,
) -> Result<BackupOutcome> {
    walker::run(vault, writer, dumps, request, progress)
}

/// Makes the change cache that the last [`backup`] wrote beside `change_cache` the current one;
/// call it once the backup's manifest is published.
pub fn commit_cache(request: &BackupRequest) -> Result<()> {
    cache::commit(&request.change_cache)
}
