//! Checkpoints: one backup of each of several resources of a vault, made together.
//!
//! A row says what was asked for and what was skipped. How far it is, and what it holds, is in the
//! rows of its backups alone, so that the two can never disagree; it goes with the last of them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::backup::BY_CHECKPOINT;
use super::{Row, Tables, Writer};
use crate::model::Result;

/// The key in [`BY_CHECKPOINT`] of the checkpoints whose backups expire: no checkpoint has this id.
pub const EXPIRING: u64 = 0;

/// A checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Its id.
    pub id: u64,
    /// Its name; empty if it was given none.
    pub name: String,
    /// Words of whoever asked for it.
    pub description: String,
    /// Of what.
    pub vault: u64,
    /// The vault's name at the time.
    pub vault_name: String,
    /// The vault's project, or the one that always exists.
    pub project: u64,
    /// The job that ends when its backups have ended.
    pub job: u64,
    /// Whether its backups are automatic ones.
    pub automatic: bool,
    /// Whether unchanged files are taken over from the backups before.
    pub incremental: bool,
    /// Days after which its automatic backups may go; never if absent.
    pub retention: Option<u32>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// What is backed up.
    pub members: Vec<Member>,
    /// What is not.
    pub skipped: Vec<Skipped>,
}

/// A resource in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The resource.
    pub resource: u64,
    /// Its name at the time.
    pub name: String,
    /// What the caller called its type, else its kind.
    pub r#type: String,
    /// Words about it.
    pub extra_info: String,
    /// Its backup.
    pub backup: u64,
    /// What its last backup held before this one, in bytes.
    pub size_before: Option<u64>,
    /// How many completed backups it had in the vault before this one.
    pub count_before: u64,
    /// What those had added to the vault, in bytes.
    pub stored_before: u64,
}

/// A resource that is not backed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Its id, or what the caller called it.
    pub id: String,
    /// Its name, where known.
    pub name: String,
    /// Its type, where known.
    pub r#type: String,
    /// Why, for programs.
    pub code: String,
    /// Why, for people.
    pub reason: String,
}

impl Row for Checkpoint {
    const TABLE: &'static str = "checkpoints";
    const KIND: u8 = 9;
    const NOUN: &'static str = "checkpoint";

    fn id(&self) -> u64 {
        self.id
    }

    fn keys(&self) -> Vec<(u8, u64)> {
        if self.automatic && self.retention.is_some() { vec![(BY_CHECKPOINT, EXPIRING)] } else { Vec::new() }
    }
}

/// Removes a checkpoint whose last backup has just gone.
pub fn remove_empty(w: &Writer, id: u64) -> Result<()> {
    if w.indexed(BY_CHECKPOINT, id)?.is_empty() { w.remove::<Checkpoint>(id) } else { Ok(()) }
}
