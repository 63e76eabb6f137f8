//! What the daemon tells the browse process about.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::{Error, Id, Result, name};
use crate::store::Place;
use crate::vault::MasterKey;
use crate::vault::tree::Totals;

use super::ino::MAX_NUMBER;

/// Who may look into a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Root alone.
    Root,
    /// Everybody, as far as the archived owners, modes and ACLs let them.
    Strict,
    /// One user, to whom everything in it belongs.
    Owner(u32),
}

/// How the browse process opens a vault.
#[derive(Debug, Clone)]
pub struct VaultAccess {
    /// The vault's identity.
    pub uuid: Uuid,
    /// Where it lies.
    pub place: Place,
    /// Where else it lies.
    pub others: Vec<Place>,
    /// Its key; `None` where it is unencrypted.
    pub master: Option<MasterKey>,
    /// Where its local index is kept.
    pub cache_dir: PathBuf,
}

impl VaultAccess {
    /// Whether `other` opens the same vault in the same way.
    pub fn same(&self, other: &Self) -> bool {
        let key = |access: &Self| access.master.as_ref().map(|m| m.0);
        self.uuid == other.uuid
            && self.place == other.place
            && self.others == other.others
            && self.cache_dir == other.cache_dir
            && key(self) == key(other)
    }
}

/// One backup as it is to be seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupView {
    /// The backup's id.
    pub id: u64,
    /// The vault that holds it.
    pub vault: Uuid,
    /// The node of `/`.
    pub root: Id,
    /// What is beneath it.
    #[serde(with = "TotalsFields")]
    pub totals: Totals,
    /// The project's name.
    pub project: String,
    /// The resource's name.
    pub resource: String,
    /// The other machine that made it, by a name, and the project's name there.
    #[serde(default)]
    pub machine: Option<(String, String)>,
    /// The checkpoint that it belongs to.
    pub checkpoint: Option<u64>,
    /// When the backup was made.
    pub created_at: Timestamp,
    /// Who may look into it.
    pub policy: Policy,
    /// Whether it ended before everything was read; `latest` never points at such a one.
    pub partial: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Totals", deny_unknown_fields)]
struct TotalsFields {
    entries: u64,
    files: u64,
    bytes: u64,
}

impl BackupView {
    /// Checks that the names can be names of directories and that the tree can be numbered.
    pub fn check(&self) -> Result<()> {
        name::check("project", &self.project)?;
        name::check("resource", &self.resource)?;
        if let Some((machine, project)) = &self.machine {
            name::check("machine", machine)?;
            name::check("project", project)?;
        }
        if self.totals.entries >= MAX_NUMBER {
            return Err(Error::damaged(format!(
                "backup {} claims {} entries, more than any backup can have",
                self.id, self.totals.entries
            )));
        }
        Ok(())
    }

    /// The backup's name in its resource's directory: `2026-01-16T154500Z-ID`.
    pub fn dir_name(&self) -> String {
        format!("{}-{}", self.created_at.strftime("%Y-%m-%dT%H%M%SZ"), self.id)
    }

    /// Whether `other` shows the same files in the same way, wherever it may stand.
    pub fn same_content(&self, other: &Self) -> bool {
        self.id == other.id
            && self.vault == other.vault
            && self.root == other.root
            && self.totals == other.totals
            && self.created_at == other.created_at
            && self.policy == other.policy
    }
}
