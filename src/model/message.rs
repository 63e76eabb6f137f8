//! The ids of the journal's messages. Scripts and message catalogs know them: they never change
//! their meaning, and none is ever given to another. `docs/journal.md` lists them.

/// The daemon serves.
pub const READY: &str = "e833dca099fa43e7908ed131326d615f";
/// A job has begun.
pub const JOB_STARTED: &str = "4b87592c605b49cba47f9dfe77920f5b";
/// A job is done, or was cancelled.
pub const JOB_FINISHED: &str = "2a1f21f28cba4a718ce98ee27623eb41";
/// A job failed.
pub const JOB_FAILED: &str = "c1aa2c38334640e7b6b186a56ff1ced3";
/// A backup is complete.
pub const BACKUP_COMPLETED: &str = "d58afac2a4dd4ab6af2c22dfb3ee9bc4";
/// A backup failed.
pub const BACKUP_FAILED: &str = "a7c9cb6f71434846ae03cf9774d68f85";
/// Backups cannot be browsed.
pub const MOUNT_FAILED: &str = "095a094bdba54d1799f3923e43644e65";
