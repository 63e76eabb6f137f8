//! Resources: what is backed up.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Origin, Row};
use crate::model::Database;

/// The index of resources by project.
pub const BY_PROJECT: u8 = 1;

/// A resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    /// Its id.
    pub id: u64,
    /// Its project's id.
    pub project: u64,
    /// Its name, unique in the project.
    pub name: String,
    /// `server`, `volume` or `share`.
    pub kind: String,
    /// What to back up: absolute paths.
    #[serde(with = "super::paths")]
    pub paths: Vec<PathBuf>,
    /// What to leave out, in gitignore syntax.
    pub exclude: Vec<String>,
    /// Whether other file systems beneath the paths are left out.
    pub one_file_system: bool,
    /// Units of the service manager that use the data.
    pub units: Vec<String>,
    /// `none`, `freeze` or `stop`.
    pub unit_action: String,
    /// `auto`, `required` or `off`.
    pub snapshot: String,
    /// The vault it is backed up to; none: the only one there is.
    pub vault: Option<u64>,
    /// `root`, `strict` or `owner=USER`.
    pub browse: String,
    /// Words of its owner's.
    pub extra_info: String,
    /// When it was declared.
    pub created_at: Timestamp,
    /// When it was removed: the row stays for its backups' sake.
    pub removed_at: Option<Timestamp>,
    /// When a backup of it last ended, however it ended.
    pub last_backup: Option<Timestamp>,
    /// When a backup of it last completed.
    pub last_success: Option<Timestamp>,
    /// What the last completed backup held.
    pub last_size: Option<u64>,
    /// How many entries that was.
    pub last_entries: Option<u64>,
    /// Its databases.
    #[serde(default)]
    pub databases: Vec<Database>,
    /// Commands to run before a backup or snapshot, as argument lists; from files only.
    #[serde(default)]
    pub before: Vec<Vec<String>>,
    /// Commands to run after it, as argument lists; from files only.
    #[serde(default)]
    pub after: Vec<Vec<String>>,
    /// Seconds that each of them may take.
    #[serde(default)]
    pub command_timeout: Option<u32>,
    /// Where it was declared.
    #[serde(default)]
    pub origin: Origin,
}

impl Row for Resource {
    const TABLE: &'static str = "resources";
    const KIND: u8 = 2;
    const NOUN: &'static str = "resource";

    fn id(&self) -> u64 {
        self.id
    }

    fn name(&self) -> Option<(u64, &str)> {
        self.removed_at.is_none().then_some((self.project, self.name.as_str()))
    }

    fn keys(&self) -> Vec<(u8, u64)> {
        if self.removed_at.is_none() { vec![(BY_PROJECT, self.project)] } else { Vec::new() }
    }
}
