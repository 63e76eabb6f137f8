//! Backup: source to vault.

use std::path::PathBuf;
use std::sync::Arc;

use crate::model::{Error, Id, Progress, Result};
pub use crate::vault::Compression;
use crate::vault::Vault;
use crate::vault::tree::Totals;

/// What to back up, and how.
#[derive(Debug, Clone, Default)]
pub struct BackupRequest {
    /// Absolute paths, files or directories.
    pub paths: Vec<PathBuf>,
    /// Patterns in gitignore syntax.
    pub exclude: Vec<String>,
    /// Leave out other file systems beneath the paths.
    pub one_file_system: bool,
    /// Directories of Strongroom's own (state, cache, vaults, mount): never read.
    pub never: Vec<PathBuf>,
    /// Read every file again, whatever the change cache says.
    pub reread: bool,
    /// The resource's change cache; made anew if missing, damaged or of another vault.
    pub change_cache: PathBuf,
    /// How segments are compressed.
    pub compression: Compression,
    /// How many workers; 0 means one per core.
    pub workers: usize,
}

/// One file that could not be read, or changed while it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathError {
    /// Its absolute path, as raw bytes.
    pub path: Vec<u8>,
    /// A stable code: `unreadable`, `vanished`, `changed`, `unsupported`.
    pub code: String,
    /// What the system said.
    pub message: String,
}

/// What a backup put into the vault. Its manifest is the caller's to write.
#[derive(Debug, Clone)]
pub struct BackupOutcome {
    /// The node of `/`: the backup's checksum.
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
pub fn backup(_vault: &Arc<Vault>, _request: &BackupRequest, _progress: &Progress) -> Result<BackupOutcome> {
    Err(Error::failed("not built yet"))
}

/// Makes the change cache that the last [`backup`] wrote beside `change_cache` the current one;
/// call it once the backup's manifest is published.
pub fn commit_cache(_request: &BackupRequest) -> Result<()> {
    Ok(())
}

/// Reads the list of errors of a backup.
pub fn read_errors(_vault: &Vault, _list: &Id) -> Result<Vec<PathError>> {
    Err(Error::failed("not built yet"))
}
