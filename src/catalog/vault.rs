//! Vaults, as the catalog knows them.

use std::collections::BTreeMap;
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
    /// How far the others are, by destination.
    #[serde(default)]
    pub mirrors: BTreeMap<u64, MirrorRow>,
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
    /// How far that has come.
    #[serde(default)]
    pub round: Option<Round>,
    /// When a share of it was last begun.
    #[serde(default)]
    pub verify_tried: Option<Timestamp>,
    /// Of which state of its backups it is known what each of them alone takes ([`Backup::unique`]).
    ///
    /// [`Backup::unique`]: super::Backup::unique
    #[serde(default)]
    pub measured: Option<[u64; 2]>,
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

/// How far the reading of everything has come (`jobs/rounds.rs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// When it began.
    pub began: Timestamp,
    /// The ids before this, by their first eight bytes, were read.
    pub to: u64,
    /// Whether anything was damaged.
    #[serde(default)]
    pub bad: bool,
}

/// How far a mirror is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorRow {
    /// Whether it was filled once: from then on it must be there.
    pub joined: bool,
    /// Whether the vault has changed since it was last brought up to date.
    pub behind: bool,
    /// When it was last up to date.
    pub synced_at: Option<Timestamp>,
    /// When that was last tried.
    pub tried_at: Option<Timestamp>,
    /// How often in a row that failed.
    pub failures: u32,
    /// Why it failed last.
    pub error: Option<String>,
    /// Bytes of all packs there.
    pub used: Option<u64>,
}

impl MirrorRow {
    /// One that is to be filled.
    pub fn empty() -> Self {
        Self { behind: true, ..Self::default() }
    }
}

impl VaultRow {
    /// Says that the mirrors miss something from now on.
    pub fn set_behind(&mut self) {
        self.mirrors.values_mut().for_each(|mirror| mirror.behind = true);
    }
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
