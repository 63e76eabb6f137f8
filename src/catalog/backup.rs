//! Backups, as the catalog knows them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Row, State};
use crate::model::Id;
use crate::vault::Machine;

/// The index of backups by resource.
pub const BY_RESOURCE: u8 = 2;
/// The index of backups by status ([`State::key`]).
pub const BY_STATUS: u8 = 3;
/// The index of backups by vault.
pub const BY_VAULT: u8 = 4;
/// The index of backups being deleted; the key is 1.
pub const DELETING: u8 = 5;

/// The index of backups by checkpoint.
pub const BY_CHECKPOINT: u8 = 9;
/// The index of backups by project.
pub const BY_PROJECT: u8 = 20;
/// The index of backups by when they were made, in microseconds.
pub const BY_TIME: u8 = 21;
/// The index of backups by what they are; the keys are those of [`type_key`].
pub const BY_TYPE: u8 = 22;
/// The index of backups by who wanted them; the keys are those of [`origin_key`].
pub const BY_ORIGIN: u8 = 23;
/// The index of completed backups by resource.
pub const GOOD_BY_RESOURCE: u8 = 24;
/// The index of completed backups by vault.
pub const GOOD_BY_VAULT: u8 = 25;
/// The index of backups that count against a limit, by resource.
pub const MANUAL: u8 = 26;
/// The index by vault of ended backups of which it is not known whether they were published.
pub const UNSURE: u8 = 27;
/// The index by vault of backups of which more is known than their manifests say.
pub const NOTED: u8 = 28;
/// The index of backups that other machines made; the key is 1.
pub const FOREIGN: u8 = 29;

/// The index by vault of backups that ended before everything was read, and can be read as far as they got.
pub const PARTIAL: u8 = 30;

/// The key of a type.
pub fn type_key(text: &str) -> u64 {
    u64::from(text != "full")
}

/// The key of a backup type.
pub fn origin_key(text: &str) -> u64 {
    u64::from(text != "manual")
}

/// The index of automatic backups by schedule and resource ([`group`]).
pub const BY_SCHEDULE: u8 = 7;

/// The index of backups that go by themselves, by the microsecond in which they do ([`moment`]).
pub const EXPIRING: u8 = 10;

/// The key of the automatic backups of one resource by one schedule; schedule 0: by none.
pub fn group(schedule: u64, resource: u64) -> u64 {
    // Ids count up from 1: neither half ever overflows, and the rows say exactly what they are.
    (schedule << 32) | (resource & u64::from(u32::MAX))
}

/// The key of a time: the first microsecond that is not before it.
pub fn moment(time: Timestamp) -> u64 {
    u64::try_from((time.as_nanosecond() + 999) / 1000).unwrap_or(0)
}

/// A backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Its id.
    pub id: u64,
    /// Unique among all backups; its manifest carries it.
    pub uuid: Uuid,
    /// The job that makes or made it.
    pub job: u64,
    /// Of what.
    pub resource: u64,
    /// The resource's name at the time.
    pub resource_name: String,
    /// The resource's project.
    pub project: u64,
    /// That project's name at the time.
    pub project_name: String,
    /// Which other machine made it; none: this one.
    #[serde(default)]
    pub machine: Option<Machine>,
    /// Into what.
    pub vault: u64,
    /// The vault's name at the time.
    pub vault_name: String,
    /// Whether that vault is encrypted.
    pub encrypted: bool,
    /// `full` or `database`.
    pub r#type: String,
    /// `manual` or `automatic`.
    pub backup_type: String,
    /// Whether unchanged files are taken over from the backup before.
    pub incremental: bool,
    /// Whether it ended before everything was read.
    pub partial: bool,
    /// Whether it may not be deleted.
    pub protected: bool,
    /// Whether it was described anew or protected after it was made.
    #[serde(default)]
    pub edited: bool,
    /// Whether it is on its way out.
    pub deleting: bool,
    /// Whether that is because its vault is.
    #[serde(default)]
    pub with_vault: bool,
    /// How far it is.
    pub status: State,
    /// Words of whoever asked for it.
    pub description: String,
    /// Who may browse it.
    pub browse: String,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
    /// When it may be dropped; never if absent.
    pub expires_at: Option<Timestamp>,
    /// Its manifest.
    pub manifest: Option<Id>,
    /// The node of `/`: its checksum.
    pub root: Option<Id>,
    /// Bytes as restored.
    pub size: Option<u64>,
    /// Bytes it added to the vault.
    pub stored: Option<u64>,
    /// Bytes that the vault holds for it alone, as [`super::VaultRow::measured`] says when.
    #[serde(default)]
    pub unique: Option<u64>,
    /// Regular files.
    pub files: Option<u64>,
    /// Entries of all types.
    pub entries: Option<u64>,
    /// What could not be read.
    pub errors: Option<u64>,
    /// The blob that lists it.
    pub error_list: Option<Id>,
    /// Why it failed.
    pub error: Option<String>,
    /// What there is to say.
    pub message: Option<String>,
    /// Whether its manifest may be in the vault all the same: the daemon was killed or publishing
    /// it ended in an error, and the vault could not be asked since.
    #[serde(default)]
    pub unsure: bool,
    /// The schedule that made it.
    #[serde(default)]
    pub schedule: Option<u64>,
    /// How many backups by that schedule there were since the one that read everything.
    #[serde(default)]
    pub since_full: u32,
    /// The checkpoint it belongs to.
    #[serde(default)]
    pub checkpoint: Option<u64>,
    /// The mirrors that hold it, by destination.
    #[serde(default)]
    pub copies: Vec<u64>,
    /// The mirrors that held it or would, and keep only newer ones.
    #[serde(default)]
    pub expired_on: Vec<u64>,
    /// The backup that this one was copied from, out of another vault.
    #[serde(default)]
    pub copy_of: Option<u64>,
}

impl Backup {
    /// Whether it ended before everything was read and can be read as far as it got.
    pub fn is_partial(&self) -> bool {
        !self.deleting && self.partial && self.status == State::Failed && self.manifest.is_some()
    }

    /// Whether it can be browsed and restored.
    pub fn is_readable(&self) -> bool {
        self.is_partial() || (!self.deleting && self.status == State::Completed)
    }
}

impl Row for Backup {
    const TABLE: &'static str = "backups";
    const KIND: u8 = 5;
    const NOUN: &'static str = "backup";
    const COUNTED: &'static [u8] = &[BY_RESOURCE, GOOD_BY_RESOURCE, GOOD_BY_VAULT, MANUAL, PARTIAL];

    fn id(&self) -> u64 {
        self.id
    }

    fn keys(&self) -> Vec<(u8, u64)> {
        let mut keys = vec![(BY_RESOURCE, self.resource), (BY_STATUS, self.status.key()), (BY_VAULT, self.vault)];
        keys.push((BY_PROJECT, self.project));
        keys.push((BY_TIME, u64::try_from(self.created_at.as_microsecond()).unwrap_or(0)));
        keys.push((BY_TYPE, type_key(&self.r#type)));
        keys.push((BY_ORIGIN, origin_key(&self.backup_type)));
        // A checkpoint says itself how long its backups are kept.
        if self.backup_type == "automatic" && self.checkpoint.is_none() {
            keys.push((BY_SCHEDULE, group(self.schedule.unwrap_or(0), self.resource)));
        }
        if self.deleting {
            keys.push((DELETING, 1));
        } else {
            keys.extend(self.expires_at.map(|time| (EXPIRING, moment(time))));
        }
        if !self.deleting && self.status == State::Completed {
            keys.push((GOOD_BY_RESOURCE, self.resource));
            keys.push((GOOD_BY_VAULT, self.vault));
        }
        if self.is_partial() {
            keys.push((PARTIAL, self.vault));
        }
        // One that failed takes nobody's place, and neither does a copy of one that took its own.
        let counts =
            self.copy_of.is_none() && matches!(self.status, State::Pending | State::Running | State::Completed);
        if counts && !self.deleting && self.backup_type == "manual" {
            keys.push((MANUAL, self.resource));
        }
        if self.unsure && self.status.ended() {
            keys.push((UNSURE, self.vault));
        }
        if self.edited {
            keys.push((NOTED, self.vault));
        }
        if self.machine.is_some() {
            keys.push((FOREIGN, 1));
        }
        keys.extend(self.checkpoint.map(|id| (BY_CHECKPOINT, id)));
        keys
    }
}
