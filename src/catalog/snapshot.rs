//! Snapshots, as the catalog knows them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Row, State};
use crate::snapshot::Part;

/// The index of snapshots by resource.
pub const BY_RESOURCE: u8 = 30;
/// The index of snapshots that count against a limit, by resource.
pub const MANUAL: u8 = 31;
/// The index of automatic snapshots by schedule and resource ([`super::backup::group`]).
pub const BY_SCHEDULE: u8 = 32;
/// The index of completed snapshots by resource.
pub const GOOD_BY_RESOURCE: u8 = 33;
/// The index of snapshots that go at some time, by that time in microseconds.
pub const EXPIRING: u8 = 34;

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its id.
    pub id: u64,
    /// Its name where it rests.
    pub uuid: Uuid,
    /// The job that takes or took it.
    pub job: u64,
    /// Of what.
    pub resource: u64,
    /// The resource's name at the time.
    pub resource_name: String,
    /// Its own name, unique among the resource's.
    pub name: String,
    /// Words of whoever asked for it.
    pub description: String,
    /// Whether a schedule took it, or Strongroom for itself.
    pub automatic: bool,
    /// That schedule.
    pub schedule: Option<u64>,
    /// What is done to the resource's units meanwhile.
    pub unit_action: String,
    /// How far it is.
    pub status: State,
    /// Its paths, once it is there.
    pub parts: Vec<Part>,
    /// The engines, as planned at first.
    pub engine: String,
    /// Bytes that its files take, once they are counted.
    pub size: Option<u64>,
    /// Entries of all types.
    pub entries: Option<u64>,
    /// Whether it is on its way out.
    pub deleting: bool,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it was there.
    pub completed_at: Option<Timestamp>,
    /// When it goes; none: never.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    /// What there is to say.
    pub message: Option<String>,
}

impl Snapshot {
    /// Whether it is there, or will be.
    fn lives(&self) -> bool {
        !self.deleting && !matches!(self.status, State::Failed | State::Cancelled)
    }
}

impl Row for Snapshot {
    const TABLE: &'static str = "snapshots";
    const KIND: u8 = 10;
    const NOUN: &'static str = "snapshot";
    const COUNTED: &'static [u8] = &[BY_RESOURCE, MANUAL, GOOD_BY_RESOURCE];

    fn id(&self) -> u64 {
        self.id
    }

    /// One that failed, or is being deleted, has left its name to others.
    fn name(&self) -> Option<(u64, &str)> {
        self.lives().then_some((self.resource, self.name.as_str()))
    }

    fn keys(&self) -> Vec<(u8, u64)> {
        let mut keys = vec![(BY_RESOURCE, self.resource)];
        if self.lives() && !self.automatic {
            keys.push((MANUAL, self.resource));
        }
        if self.lives() && self.status == State::Completed {
            keys.push((GOOD_BY_RESOURCE, self.resource));
        }
        if self.automatic {
            keys.push((BY_SCHEDULE, super::backup::group(self.schedule.unwrap_or(0), self.resource)));
        }
        if let Some(at) = self.expires_at.filter(|_| !self.deleting) {
            keys.push((EXPIRING, u64::try_from(at.as_microsecond()).unwrap_or(0)));
        }
        keys
    }
}
