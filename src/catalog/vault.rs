//! Vaults, as the catalog knows them.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Origin, Row};
use crate::model::Id;

/// A vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultRow {
    /// Its id here.
    pub id: u64,
    /// Its identity everywhere.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// Its destinations: the first is the primary.
    pub destinations: Vec<u64>,
    /// `zstd:N`, `gzip:N` or `none`.
    pub compression: String,
    /// Whether it is encrypted.
    pub encryption: bool,
    /// The most it may store, in bytes.
    pub capacity: Option<u64>,
    /// The project it serves.
    pub project: Option<u64>,
    /// The machine's own key file.
    pub key_file: Option<PathBuf>,
    /// How long a silent session is trusted, in seconds.
    pub grace: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When a check last found nothing wrong.
    pub last_verified: Option<Timestamp>,
    /// When it was last pruned.
    pub last_pruned: Option<Timestamp>,
    /// When a check last read everything and found nothing wrong.
    #[serde(default)]
    pub last_read: Option<Timestamp>,
    /// When it prunes itself: a cron expression.
    #[serde(default)]
    pub prune: Option<String>,
    /// When it is pruned next.
    #[serde(default)]
    pub prune_due: Option<Timestamp>,
    /// Everything in it is read once in so many days.
    #[serde(default)]
    pub verify_within: Option<u32>,
    /// When that was last begun.
    #[serde(default)]
    pub verify_tried: Option<Timestamp>,
    /// The manifest that this machine wrote last.
    pub last_manifest: Option<Id>,
    /// Set while a job removes it.
    pub removing: bool,
    /// Set before the first of its objects is deleted with it: it can only be removed for good.
    #[serde(default)]
    pub emptied: bool,
    /// Where it was declared.
    #[serde(default)]
    pub origin: Origin,
}

impl Row for VaultRow {
    const TABLE: &'static str = "vaults";
    const KIND: u8 = 4;
    const NOUN: &'static str = "vault";

    fn id(&self) -> u64 {
        self.id
    }

    fn name(&self) -> Option<(u64, &str)> {
        Some((0, &self.name))
    }
}
