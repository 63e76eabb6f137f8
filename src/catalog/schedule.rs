//! Schedules: what is backed up or snapshotted by itself, when, and for how long that is kept.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Origin, Row};

/// A schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Whether it runs.
    pub enabled: bool,
    /// When: a cron expression.
    pub cron: String,
    /// The time zone that the expression is in; empty: the machine's.
    pub timezone: String,
    /// What it makes.
    #[serde(default)]
    pub what: What,
    /// What kind of backup it makes: `full` or `database`.
    pub r#type: String,
    /// The resources it backs up; none: all there are when it runs.
    pub resources: Vec<u64>,
    /// Into what; none: each resource's own vault.
    pub vault: Option<u64>,
    /// How long its backups are kept.
    pub keep: Keep,
    /// Whether a failure is told by the notification unit.
    pub notify_on_failure: bool,
    /// Every so many backups of a resource everything is read again; 0: never.
    pub full_every: u32,
    /// When it was made.
    pub created_at: Timestamp,
    /// Since when it runs as it does: when it was made, enabled, or given other times.
    pub since: Timestamp,
    /// When it runs next; in the past if it was missed.
    pub due: Option<Timestamp>,
    /// The time that it last ran for.
    pub served: Option<Timestamp>,
    /// When it ran last, by itself or by hand.
    pub last_run: Option<Timestamp>,
    /// The backups of that run.
    pub last_backups: Vec<u64>,
    /// The snapshots of that run.
    #[serde(default)]
    pub last_snapshots: Vec<u64>,
    /// Resources that were left out of that run, and why.
    pub last_skipped: Option<String>,
    /// Resources that could not be backed up in that run, and why.
    pub last_refused: Option<String>,
    /// Whether somebody was told that it is overdue.
    pub overdue: bool,
    /// Where it was declared.
    #[serde(default)]
    pub origin: Origin,
}

/// What a schedule makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// Backups, in a vault.
    #[default]
    Backup,
    /// Snapshots, beside the data.
    Snapshot,
}

impl What {
    /// Its name on the bus.
    pub fn name(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Snapshot => "snapshot",
        }
    }
}

/// How long automatic backups or snapshots are kept, per resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    /// Days; none: as long as the other rules say.
    pub days: Option<u32>,
    /// At most so many.
    pub most: Option<u32>,
    /// The last one of each of so many days.
    pub daily: u32,
    /// The last one of each of so many weeks.
    pub weekly: u32,
    /// The last one of each of so many months.
    pub monthly: u32,
    /// The last one of each of so many years.
    pub yearly: u32,
}

impl Schedule {
    /// Whether it makes something of a resource.
    pub fn covers(&self, resource: u64) -> bool {
        self.resources.is_empty() || self.resources.contains(&resource)
    }
}

impl Default for Keep {
    /// Thirty days.
    fn default() -> Self {
        Self { days: Some(30), most: None, daily: 0, weekly: 0, monthly: 0, yearly: 0 }
    }
}

impl Row for Schedule {
    const TABLE: &'static str = "schedules";
    const KIND: u8 = 7;
    const NOUN: &'static str = "schedule";

    fn id(&self) -> u64 {
        self.id
    }

    fn name(&self) -> Option<(u64, &str)> {
        Some((0, &self.name))
    }
}
