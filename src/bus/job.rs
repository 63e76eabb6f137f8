//! The object of a job that has not ended.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use zbus::Connection;
use zbus::message::Header;
use zbus::names::InterfaceName;
use zbus::object_server::SignalEmitter;
use zbus::wire::Variant;

use super::error::Result;
use super::hub::Hub;
use super::objects;
use super::rights::Right;
use super::wire::Dict;
use crate::model::Args;
use crate::service::{JobStatus, ObjectKind};

const INTERFACE: &str = "org.strongroom1.Job";

/// A job on the bus.
#[derive(Debug)]
pub struct Job {
    hub: Arc<Hub>,
    id: u64,
}

impl Job {
    /// The object of one job.
    pub fn new(hub: Arc<Hub>, id: u64) -> Self {
        Self { hub, id }
    }

    fn status(&self) -> Result<JobStatus> {
        Ok(self.hub.service.job_status(self.id)?)
    }
}

/// A piece of work that takes time. The object is gone when the work has ended; the Manager's
/// GetJob and the signal JobRemoved tell how.
#[zbus::interface(name = "org.strongroom1.Job")]
impl Job {
    /// Asks the work to stop. It ends as cancelled; what it made so far is left consistent.
    async fn cancel(&self, options: Dict, #[zbus(header)] header: Header<'_>) -> Result<()> {
        let right = Right::of_job(&self.status()?.kind);
        let id = self.id;
        self.hub
            .call(&header, right, move |s| {
                let options = options.read()?;
                Args::new(options.clone()).finish()?;
                s.cancel_job(id, options)
            })
            .await
    }

    /// The job's number.
    #[zbus(property(emits_changed_signal = "const"))]
    async fn id(&self) -> u64 {
        self.id
    }

    /// What it does: backup, restore, export, delete, prune, verify, sync, test, remove, task_backup,
    /// task_restore, checkpoint or delete_checkpoint.
    #[zbus(property(emits_changed_signal = "const"))]
    async fn kind(&self) -> Result<String> {
        Ok(self.status()?.kind)
    }

    /// pending, running, completed, failed or cancelled.
    #[zbus(property)]
    async fn state(&self) -> Result<String> {
        Ok(self.status()?.state)
    }

    /// From 0 to 1.
    #[zbus(property)]
    async fn progress(&self) -> Result<f64> {
        Ok(self.status()?.progress)
    }

    /// Bytes handled so far.
    #[zbus(property)]
    async fn bytes_done(&self) -> Result<u64> {
        Ok(self.status()?.bytes_done)
    }

    /// Bytes expected; 0 while unknown.
    #[zbus(property)]
    async fn bytes_total(&self) -> Result<u64> {
        Ok(self.status()?.bytes_total)
    }

    /// Files and directories handled so far.
    #[zbus(property)]
    async fn files_done(&self) -> Result<u64> {
        Ok(self.status()?.files_done)
    }

    /// Files and directories expected; 0 while unknown.
    #[zbus(property)]
    async fn files_total(&self) -> Result<u64> {
        Ok(self.status()?.files_total)
    }

    /// Bytes per second.
    #[zbus(property)]
    async fn rate(&self) -> Result<u64> {
        Ok(self.status()?.rate)
    }

    /// When it began to run, in microseconds since 1970; 0 while it waits.
    #[zbus(property)]
    async fn start_time(&self) -> Result<u64> {
        Ok(self.status()?.start_time)
    }

    /// When it will probably have ended, in microseconds since 1970; 0 while unknown.
    #[zbus(property)]
    async fn expected_end_time(&self) -> Result<u64> {
        Ok(self.status()?.expected_end_time)
    }

    /// What is being worked on, as text; for those who may read.
    #[zbus(property(emits_changed_signal = "invalidates"))]
    async fn current_item(&self, #[zbus(header)] header: Option<Header<'_>>) -> Result<String> {
        objects::may_read(&self.hub, header.as_ref()).await?;
        Ok(self.status()?.current_item)
    }

    /// Why it failed, or nothing; for those who may read.
    #[zbus(property(emits_changed_signal = "invalidates"))]
    async fn error(&self, #[zbus(header)] header: Option<Header<'_>>) -> Result<String> {
        objects::may_read(&self.hub, header.as_ref()).await?;
        Ok(self.status()?.error)
    }
}

/// Tells what changed between two looks at a job, in one signal; nothing when nothing did.
pub async fn emit_changes(connection: &Connection, before: &JobStatus, now: &JobStatus) -> zbus::Result<()> {
    let mut changed: HashMap<&str, Variant<'_>> = HashMap::new();
    if before.state != now.state {
        changed.insert("State", Variant::from(now.state.as_str()));
    }
    if before.progress.to_bits() != now.progress.to_bits() {
        changed.insert("Progress", Variant::F64(now.progress));
    }
    for (name, old, new) in [
        ("BytesDone", before.bytes_done, now.bytes_done),
        ("BytesTotal", before.bytes_total, now.bytes_total),
        ("FilesDone", before.files_done, now.files_done),
        ("FilesTotal", before.files_total, now.files_total),
        ("Rate", before.rate, now.rate),
        ("StartTime", before.start_time, now.start_time),
        ("ExpectedEndTime", before.expected_end_time, now.expected_end_time),
    ] {
        if old != new {
            changed.insert(name, Variant::U64(new));
        }
    }
    // The item and the error's words are content, and signals carry none.
    let mut invalidated = Vec::new();
    if before.current_item != now.current_item {
        invalidated.push("CurrentItem");
    }
    if before.error != now.error {
        invalidated.push("Error");
    }
    if changed.is_empty() && invalidated.is_empty() {
        return Ok(());
    }
    let Ok(path) = objects::path(ObjectKind::Job, now.id) else { return Ok(()) };
    let emitter = SignalEmitter::new(connection, path)?;
    let interface = InterfaceName::from_static_str_unchecked(INTERFACE);
    zbus::fdo::Properties::properties_changed(&emitter, interface, changed, Cow::Borrowed(&invalidated)).await
}
