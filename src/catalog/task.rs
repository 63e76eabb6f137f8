//! Tasks: copies of projects as plain files, and the way back.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Origin, Row};

/// The index of tasks by state ([`TaskState::key`]).
pub const BY_STATE: u8 = 8;

/// A task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskRow {
    /// Its id.
    pub id: u64,
    /// Its name; others may have it too.
    pub name: String,
    /// What it does.
    pub r#type: TaskType,
    /// Where its results go, or what it brings back.
    #[serde(with = "super::paths::one")]
    pub store_location: PathBuf,
    /// What it is about.
    pub content: Content,
    /// How it works.
    pub setting: Setting,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_date: Timestamp,
    /// Who changed it last.
    pub last_modified_by: String,
    /// When.
    pub last_modified_date: Timestamp,
    /// When its last run began.
    pub start_date: Option<Timestamp>,
    /// When that ended.
    pub end_date: Option<Timestamp>,
    /// How far it is.
    pub state: TaskState,
    /// `completed`, `failed` or `cancelled`: how its last run ended.
    pub result: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// What its last run has to say.
    #[serde(default)]
    pub report: serde_json::Map<String, serde_json::Value>,
    /// The job of its last run.
    pub job: Option<u64>,
    /// When it runs next by itself.
    pub due: Option<Timestamp>,
    /// Where it was declared.
    #[serde(default)]
    pub origin: Origin,
}

/// What a task does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskType {
    /// Copies resources into plain files.
    #[serde(rename = "DATA_BACKUP")]
    Backup,
    /// Brings such a copy back.
    #[serde(rename = "DATA_RESTORE")]
    Restore,
}

impl TaskType {
    /// Its name on the bus.
    pub fn name(self) -> &'static str {
        match self {
            Self::Backup => "DATA_BACKUP",
            Self::Restore => "DATA_RESTORE",
        }
    }
}

/// How far a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum TaskState {
    /// It waits for its first run, or for its turn.
    Pending,
    /// It runs.
    Running,
    /// Its last run ended.
    Finished,
}

impl TaskState {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Pending, Self::Running, Self::Finished];

    /// Its name on the bus.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Finished => "FINISHED",
        }
    }

    /// Its key in the index.
    pub fn key(self) -> u64 {
        match self {
            Self::Pending => 0,
            Self::Running => 1,
            Self::Finished => 2,
        }
    }
}

/// What a task is about.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Content {
    /// The appliance's own configuration.
    pub common_data: bool,
    /// Whether the result is one archive.
    pub compression: bool,
    /// The archive's form, where one was named: `tar.zst` or `tar.gz`.
    #[serde(default)]
    pub format: Option<String>,
    /// Whether only what changed is copied.
    pub increment: Option<bool>,
    /// Since when, as it was given.
    pub increment_date: Option<String>,
    /// Which projects and resources.
    pub projects: Vec<ProjectContent>,
}

/// Some projects, and some of their resources.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProjectContent {
    /// A project, by name or id.
    pub project_id: Option<String>,
    /// Projects whose whole name matches.
    pub project_regex: Option<String>,
    /// Resources, by name or id.
    pub repo_list: Option<Vec<String>>,
    /// Resources whose whole name matches.
    pub repo_regex: Option<String>,
    /// Projects left out.
    pub exclude_projects: Option<Vec<String>>,
    /// Resources left out.
    pub exclude_repos: Option<Vec<String>>,
}

/// How a task works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Whether what stands in the way is left alone.
    pub skip: bool,
    /// Whether the first error ends a run.
    pub fast_fail: bool,
    /// Whether a run must fit before it begins.
    pub space_cap_check: bool,
    /// When it runs by itself.
    pub plan: Plan,
}

/// When a task runs by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "strategy", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Plan {
    /// When it is made.
    Immediately {
        /// Or never by itself.
        execute: bool,
    },
    /// Once.
    SpecifiedTime {
        /// When.
        time: Timestamp,
    },
    /// Again and again.
    CronExpression {
        /// When.
        cron: String,
    },
}

impl Row for TaskRow {
    const TABLE: &'static str = "tasks";
    const KIND: u8 = 8;
    const NOUN: &'static str = "task";

    fn id(&self) -> u64 {
        self.id
    }

    fn keys(&self) -> Vec<(u8, u64)> {
        vec![(BY_STATE, self.state.key())]
    }
}
