//! Jobs: rows before they are work.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Row, State};
use crate::model::ErrorKind;
use crate::vault::Share;

/// The index of jobs by state ([`State::key`]).
pub const BY_STATE: u8 = 6;
/// The index, at 1, of jobs after which something is still to be done: units that are held back go
/// on, commands are run.
pub const STOPPED: u8 = 28;

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its id.
    pub id: u64,
    /// What it does.
    pub task: Task,
    /// How far it is.
    pub state: State,
    /// The resource it is about.
    pub resource: Option<u64>,
    /// The backup it is about.
    pub backup: Option<u64>,
    /// The vault it is about.
    pub vault: Option<u64>,
    /// The job that waits for the end of this one, among others.
    #[serde(default)]
    pub part_of: Option<u64>,
    /// When it was queued.
    pub created_at: Timestamp,
    /// When its work began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
    /// What was done by its end.
    pub done: Done,
    /// Why it failed.
    pub error: Option<String>,
    /// What class of failure that is.
    pub error_kind: Option<ErrorKind>,
    /// Units that were stopped for it and are to be started again.
    #[serde(default)]
    pub units: Vec<String>,
    /// Whether those were frozen instead, and are to be thawed.
    #[serde(default)]
    pub frozen: bool,
    /// Whether the resource's commands `before` have begun, so that those `after` are to be run.
    #[serde(default)]
    pub commands: bool,
    /// What it answers.
    pub result: serde_json::Map<String, serde_json::Value>,
}

/// What a job had done when it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Done {
    /// Bytes handled.
    pub bytes: u64,
    /// Bytes expected.
    pub bytes_total: u64,
    /// Entries handled.
    pub files: u64,
    /// Entries expected.
    pub files_total: u64,
}

/// What a job does, with all it needs to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Task {
    /// Makes the job's backup.
    Backup {
        /// Whether every file is read again.
        reread: bool,
    },
    /// Restores the job's backup.
    Restore(RestoreTask),
    /// Writes the job's backup as an archive.
    Export {
        /// The file to make; none: a descriptor that the caller passed.
        path: Option<PathBuf>,
        /// `tar`, `tar.gz` or `tar.zst`.
        format: String,
    },
    /// Deletes the job's backup.
    Delete,
    /// Gives back space of the job's vault.
    Prune {
        /// Whether nothing is to be changed.
        dry_run: bool,
    },
    /// Checks the job's backup, or all of its vault.
    Verify {
        /// Whether all data is read.
        read_data: bool,
        /// Whether one copy is repaired from another.
        #[serde(default)]
        repair: bool,
        /// Of what lies in this share alone.
        #[serde(default)]
        share: Option<Share>,
    },
    /// Brings mirrors up to date.
    Sync {
        /// This one alone, so that it waits for none of the others.
        #[serde(default)]
        mirror: Option<u64>,
    },
    /// Tries a destination.
    Test {
        /// Which.
        destination: u64,
    },
    /// Removes the job's vault.
    Remove {
        /// Whether its data goes too.
        delete_data: bool,
    },
    /// Adds to the catalog what the job's vault holds.
    Rebuild {
        /// Whose place this machine takes: a machine's name or id, `none`, or empty.
        machine: String,
        /// Whether the vault gets the name it had.
        rename: bool,
    },
    /// Makes what the job's backup had stored before it was interrupted a partial backup.
    Salvage,
    /// Runs a task that copies resources into plain files.
    TaskBackup {
        /// Which.
        task: u64,
    },
    /// Runs a task that brings such a copy back.
    TaskRestore {
        /// Which.
        task: u64,
    },
    /// Has no work of its own: ends when the backups of a checkpoint have ended.
    Checkpoint {
        /// Which.
        checkpoint: u64,
        /// Their jobs.
        parts: Vec<u64>,
    },
    /// Takes a snapshot.
    Snapshot {
        /// Which.
        snapshot: u64,
    },
    /// Puts a snapshot in place.
    RestoreSnapshot {
        /// Which.
        snapshot: u64,
    },
    /// Deletes a snapshot.
    DeleteSnapshot {
        /// Which.
        snapshot: u64,
    },
    /// Has no work of its own: ends when the backups of a checkpoint are deleted.
    DeleteCheckpoint {
        /// Which.
        checkpoint: u64,
        /// The jobs that delete them.
        parts: Vec<u64>,
    },
}

/// How to restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreTask {
    /// Where to; none: in place.
    pub target: Option<PathBuf>,
    /// What; empty: all.
    #[serde(with = "super::paths")]
    pub paths: Vec<PathBuf>,
    /// Whether files that stand in the way are left alone.
    pub skip: bool,
    /// Whether the first error ends it.
    pub fast_fail: bool,
    /// Whether what the backup does not hold is removed.
    pub delete: bool,
    /// Whether nothing is to be changed.
    pub dry_run: bool,
    /// Whether files are restored.
    #[serde(default = "yes")]
    pub files: bool,
    /// Dumps to be brought back into their databases, by their paths in the backup.
    #[serde(default)]
    pub databases: Vec<PathBuf>,
    /// The name of a new database that the one dump goes to.
    #[serde(default)]
    pub fresh: Option<String>,
    /// Whether directories are exchanged as a whole.
    #[serde(default)]
    pub atomic: bool,
}

fn yes() -> bool {
    true
}

impl RestoreTask {
    /// Whether it overwrites what the resource's units use, so that they are stopped meanwhile.
    pub fn stops_units(&self) -> bool {
        self.target.is_none() && !self.dry_run && self.fresh.is_none()
    }
}

impl Task {
    /// Its name on the bus.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Backup { .. } => "backup",
            Self::Restore(_) => "restore",
            Self::Export { .. } => "export",
            Self::Delete => "delete",
            Self::Prune { .. } => "prune",
            Self::Verify { .. } => "verify",
            Self::Sync { .. } => "sync",
            Self::Test { .. } => "test",
            Self::Remove { .. } => "remove",
            Self::Rebuild { .. } => "rebuild",
            Self::Salvage => "salvage",
            Self::TaskBackup { .. } => "task_backup",
            Self::TaskRestore { .. } => "task_restore",
            Self::Snapshot { .. } => "snapshot",
            Self::RestoreSnapshot { .. } => "restore_snapshot",
            Self::DeleteSnapshot { .. } => "delete_snapshot",
            Self::Checkpoint { .. } => "checkpoint",
            Self::DeleteCheckpoint { .. } => "delete_checkpoint",
        }
    }

    /// The task that it runs.
    pub fn task(&self) -> Option<u64> {
        match self {
            Self::TaskBackup { task } | Self::TaskRestore { task } => Some(*task),
            _ => None,
        }
    }

    /// The snapshot that it is about.
    pub fn snapshot(&self) -> Option<u64> {
        match self {
            Self::Snapshot { snapshot } | Self::RestoreSnapshot { snapshot } | Self::DeleteSnapshot { snapshot } => {
                Some(*snapshot)
            }
            _ => None,
        }
    }

    /// The jobs that do the work, of one that only waits for others.
    pub fn parts(&self) -> Option<&[u64]> {
        match self {
            Self::Checkpoint { parts, .. } | Self::DeleteCheckpoint { parts, .. } => Some(parts),
            _ => None,
        }
    }
}

impl Row for Job {
    const TABLE: &'static str = "jobs";
    const KIND: u8 = 6;
    const NOUN: &'static str = "job";

    fn id(&self) -> u64 {
        self.id
    }

    fn keys(&self) -> Vec<(u8, u64)> {
        let mut keys = vec![(BY_STATE, self.state.key())];
        if !self.units.is_empty() || self.commands {
            keys.push((STOPPED, 1));
        }
        keys
    }
}
