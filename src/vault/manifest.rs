//! What a completed backup says about itself.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::tree::Totals;
use crate::model::Id;

/// The version of the manifest's fields.
pub const MANIFEST_FORMAT: u32 = 1;

/// Which machine wrote a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Stable across renames of the machine.
    pub id: Uuid,
    /// Its host name at the time.
    pub name: String,
}

/// The resource as it was declared when it was backed up.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The resource's id on its machine.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Its project's name.
    pub project: String,
    /// `server`, `volume` or `share`.
    pub kind: String,
    /// Absolute paths, as raw bytes in hexadecimal, since they need not be UTF-8.
    #[serde(with = "hex_paths")]
    pub paths: Vec<std::path::PathBuf>,
    /// Patterns in gitignore syntax of what was left out.
    pub exclude: Vec<String>,
    /// Whether other file systems beneath the paths were left out.
    pub one_file_system: bool,
    /// Who may browse: `root`, `strict` or `owner=USER`.
    pub browse: String,
}

/// A completed (or, where it says so, partial) backup. Its object's id is the SHA-256 of the
/// sealed manifest; the backup's checksum is `root`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`MANIFEST_FORMAT`].
    pub format: u32,
    /// Unique among all backups.
    pub uuid: Uuid,
    /// Who wrote it.
    pub machine: Machine,
    /// The machine's own number for this backup.
    pub backup: u64,
    /// The highest backup number the machine had given when it wrote this.
    pub high_water: u64,
    /// The manifest that this machine wrote before this one, as far as it knows.
    pub previous: Option<Id>,
    /// The backup that this one compared itself with.
    pub parent: Option<Uuid>,
    /// What was backed up.
    pub resource: Source,
    /// `full` or `database`.
    pub r#type: String,
    /// `manual` or `automatic`.
    pub backup_type: String,
    /// Words of whoever asked for it.
    pub description: String,
    /// When the job began.
    pub created_at: Timestamp,
    /// When everything it names was in the vault.
    pub completed_at: Timestamp,
    /// Whether unchanged files were taken over from the parent.
    pub incremental: bool,
    /// Whether the job ended before everything was read.
    pub partial: bool,
    /// The node of `/`.
    pub root: Id,
    /// What is beneath `/`.
    #[serde(with = "TotalsFields")]
    pub totals: Totals,
    /// Files that could not be read, or changed while they were.
    pub errors: u64,
    /// The blob that lists them.
    pub error_list: Option<Id>,
    /// Bytes this backup added to the vault.
    pub stored: u64,
    /// The name of the schedule that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// How many backups by that schedule there were since the one that read everything.
    #[serde(default, skip_serializing_if = "none")]
    pub since_full: u32,
    /// The machine's number of the checkpoint it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<u64>,
}

// As serde wants it.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn none(count: &u32) -> bool {
    *count == 0
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Totals", deny_unknown_fields)]
struct TotalsFields {
    entries: u64,
    files: u64,
    bytes: u64,
}

mod hex_paths {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::PathBuf;

    use serde::{Deserialize, Deserializer, Serializer};

    use crate::model::id::{hex, unhex};

    pub fn serialize<S: Serializer>(paths: &[PathBuf], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(paths.iter().map(|p| hex(p.as_os_str().as_bytes())))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<PathBuf>, D::Error> {
        let path = |text: String| unhex(&text).map(|b| PathBuf::from(OsString::from_vec(b)));
        Vec::<String>::deserialize(d)?
            .into_iter()
            .map(|text| path(text).ok_or_else(|| serde::de::Error::custom("a path is not hexadecimal")))
            .collect()
    }
}
