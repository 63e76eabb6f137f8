//! What observers are told: ids and results, no content.

/// What kind of bus object something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// A resource.
    Resource,
    /// A vault.
    Vault,
    /// A destination.
    Destination,
    /// A task.
    Task,
    /// A schedule.
    Schedule,
    /// A job that has not ended. Announced by the job events alone.
    Job,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A job was queued.
    JobNew {
        /// The job.
        id: u64,
    },
    /// A job ended.
    JobRemoved {
        /// The job.
        id: u64,
        /// The state it ended in.
        result: String,
        /// The name of the error it ended with; the words may name paths, and are the job's.
        error: String,
    },
    /// A job changed its state.
    JobChanged {
        /// The job.
        id: u64,
    },
    /// A backup changed its status; `deleted` is the last one.
    BackupChanged {
        /// The backup.
        id: u64,
        /// Its status.
        status: String,
    },
    /// A backup failed.
    BackupFailed {
        /// The backup.
        id: u64,
        /// Its resource.
        resource: u64,
        /// The name of the error.
        error: String,
    },
    /// An object came.
    ObjectAdded {
        /// What it is.
        kind: ObjectKind,
        /// Which.
        id: u64,
    },
    /// An object changed.
    ObjectChanged {
        /// What it is.
        kind: ObjectKind,
        /// Which.
        id: u64,
    },
    /// An object went.
    ObjectRemoved {
        /// What it was.
        kind: ObjectKind,
        /// Which.
        id: u64,
    },
}

/// A job as its bus object shows it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct JobStatus {
    /// Its number.
    pub id: u64,
    /// `backup`, `restore`, `export`, `delete`, `prune`, `verify`, `sync`, `test`, `remove`, `task_backup`,
    /// `task_restore`, `snapshot`, `restore_snapshot`, `delete_snapshot`, `checkpoint` or `delete_checkpoint`.
    pub kind: String,
    /// `pending`, `running`, `completed`, `failed` or `cancelled`.
    pub state: String,
    /// From 0 to 1.
    pub progress: f64,
    /// Bytes handled.
    pub bytes_done: u64,
    /// Bytes expected; 0 while unknown.
    pub bytes_total: u64,
    /// Entries handled.
    pub files_done: u64,
    /// Entries expected; 0 while unknown.
    pub files_total: u64,
    /// Bytes per second.
    pub rate: u64,
    /// Microseconds since 1970; 0 while unknown.
    pub start_time: u64,
    /// Microseconds since 1970; 0 while unknown.
    pub expected_end_time: u64,
    /// What is being worked on (lossy).
    pub current_item: String,
    /// Why it failed.
    pub error: String,
    /// The name of that error.
    pub error_name: String,
}
