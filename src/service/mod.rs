//! What a caller can ask for, in the domain's terms.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;

use crate::model::{Error, Map, Result};

/// What kind of bus object something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// A resource.
    Resource,
    /// A vault.
    Vault,
    /// A destination.
    Destination,
    /// A job that has not ended.
    Job,
}

/// What observers are told. Ids and results only.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Event {
    /// A job was queued.
    JobNew { id: u64 },
    /// A job ended: `result` is its state.
    JobRemoved { id: u64, result: String, error: String },
    /// A job changed its state.
    JobChanged { id: u64 },
    /// A backup changed its status.
    BackupChanged { id: u64, status: String },
    /// A backup failed.
    BackupFailed { id: u64, resource: u64, error: String },
    /// An object came.
    ObjectAdded { kind: ObjectKind, id: u64 },
    /// An object changed.
    ObjectChanged { kind: ObjectKind, id: u64 },
    /// An object went.
    ObjectRemoved { kind: ObjectKind, id: u64 },
}

/// A job as its bus object shows it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct JobStatus {
    /// Its number.
    pub id: u64,
    /// `backup`, `restore`, `export`, `delete`, `prune`, `verify`, `sync`, `test` or `remove`.
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
}

/// How to run a service.
#[derive(Debug, Clone)]
pub struct ServiceOptions {
    /// The main configuration file; it may be absent.
    pub config: PathBuf,
    /// Where the catalog and the keys are.
    pub state_dir: PathBuf,
    /// Where the vaults' indexes and the change caches are.
    pub cache_dir: PathBuf,
    /// Where backups are mounted.
    pub browse_path: PathBuf,
    /// Where the first vault's destination is made when nothing is configured.
    pub first_vault: PathBuf,
    /// How the browse process is started; `None` browses nothing.
    pub browse: Option<BrowseProcess>,
}

/// How the browse process is started.
#[derive(Debug, Clone)]
pub struct BrowseProcess {
    /// Its control socket.
    pub socket: PathBuf,
    /// How long it stays after the daemon went.
    pub linger: Duration,
    /// The program and its first arguments.
    pub executable: (PathBuf, Vec<std::ffi::OsString>),
}

/// The service: every use case, safe to call from many threads.
#[derive(Debug)]
pub struct Service {
    events: broadcast::Sender<Event>,
}

fn later<T>() -> Result<T> {
    Err(Error::failed("not built yet"))
}

impl Service {
    /// Opens the state, and finishes or fails what a crash left.
    pub fn open(_options: ServiceOptions) -> Result<Arc<Self>> {
        later()
    }

    /// Starts working on the queue.
    pub fn start(&self) {}

    /// Stops: running work is cancelled and waited for until the deadline.
    pub fn stop(&self, _deadline: Duration) {}

    /// Tells what happens from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// The program's version.
    pub fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    /// Where backups are mounted.
    pub fn browse_path(&self) -> String {
        String::new()
    }

    /// How many jobs run.
    pub fn running_jobs(&self) -> u32 {
        0
    }

    /// How many jobs wait.
    pub fn queued_jobs(&self) -> u32 {
        0
    }

    /// Everything that is a bus object now.
    pub fn objects(&self) -> Vec<(ObjectKind, u64)> {
        Vec::new()
    }

    /// A job as it is now.
    pub fn job_status(&self, _id: u64) -> Result<JobStatus> {
        later()
    }

    /// Makes a project.
    pub fn add_project(&self, _name: &str, _options: Map) -> Result<u64> {
        later()
    }

    /// Lists projects.
    pub fn list_projects(&self, _options: Map) -> Result<(u64, Vec<Map>)> {
        later()
    }

    /// Removes a project that holds no resource.
    pub fn remove_project(&self, _project: &str, _options: Map) -> Result<()> {
        later()
    }

    /// Declares what is to be backed up.
    pub fn add_resource(&self, _name: &str, _options: Map) -> Result<u64> {
        later()
    }

    /// Changes a resource's settings.
    pub fn update_resource(&self, _resource: &str, _options: Map) -> Result<()> {
        later()
    }

    /// Removes a resource; its backups stay.
    pub fn remove_resource(&self, _resource: &str, _options: Map) -> Result<()> {
        later()
    }

    /// One resource.
    pub fn get_resource(&self, _resource: &str) -> Result<Map> {
        later()
    }

    /// Lists resources.
    pub fn list_resources(&self, _options: Map) -> Result<(u64, Vec<Map>)> {
        later()
    }

    /// Adds a place for vaults.
    pub fn add_destination(&self, _name: &str, _kind: &str, _options: Map) -> Result<u64> {
        later()
    }

    /// Changes a destination.
    pub fn update_destination(&self, _destination: &str, _options: Map) -> Result<()> {
        later()
    }

    /// Removes a destination that no vault uses.
    pub fn remove_destination(&self, _destination: &str, _options: Map) -> Result<()> {
        later()
    }

    /// One destination.
    pub fn get_destination(&self, _destination: &str) -> Result<Map> {
        later()
    }

    /// Lists destinations.
    pub fn list_destinations(&self, _options: Map) -> Result<(u64, Vec<Map>)> {
        later()
    }

    /// Starts a job that tries the destination.
    pub fn test_destination(&self, _destination: &str, _options: Map) -> Result<u64> {
        later()
    }

    /// Makes a vault.
    pub fn add_vault(&self, _name: &str, _options: Map) -> Result<u64> {
        later()
    }

    /// Changes a vault's settings.
    pub fn update_vault(&self, _vault: &str, _options: Map) -> Result<()> {
        later()
    }

    /// Starts a job that forgets a vault, or deletes it with `delete_data`.
    pub fn remove_vault(&self, _vault: &str, _options: Map) -> Result<u64> {
        later()
    }

    /// One vault.
    pub fn get_vault(&self, _vault: &str) -> Result<Map> {
        later()
    }

    /// Lists vaults.
    pub fn list_vaults(&self, _options: Map) -> Result<(u64, Vec<Map>)> {
        later()
    }

    /// Makes the vault the one that the resources are backed up to.
    pub fn associate_resources(&self, _vault: &str, _resources: Vec<String>) -> Result<()> {
        later()
    }

    /// Undoes `associate_resources`.
    pub fn dissociate_resources(&self, _vault: &str, _resources: Vec<String>) -> Result<()> {
        later()
    }

    /// Starts a job that gives back space nothing refers to.
    pub fn prune_vault(&self, _vault: &str, _options: Map) -> Result<u64> {
        later()
    }

    /// Starts a job that checks the vault.
    pub fn verify_vault(&self, _vault: &str, _options: Map) -> Result<u64> {
        later()
    }

    /// Starts a job that brings mirrors up to date.
    pub fn sync_vault(&self, _vault: &str, _options: Map) -> Result<u64> {
        later()
    }

    /// Adds a key; a recovery key is answered once, here.
    pub fn add_vault_key(&self, _vault: &str, _options: Map) -> Result<Map> {
        later()
    }

    /// Lists a vault's keys.
    pub fn list_vault_keys(&self, _vault: &str) -> Result<Vec<Map>> {
        later()
    }

    /// Removes a key that is not the last.
    pub fn remove_vault_key(&self, _vault: &str, _key: &str, _options: Map) -> Result<()> {
        later()
    }

    /// Queues a backup and answers with it.
    pub fn create_backup(&self, _resource: &str, _options: Map) -> Result<Map> {
        later()
    }

    /// One backup.
    pub fn get_backup(&self, _id: u64) -> Result<Map> {
        later()
    }

    /// Lists backups.
    pub fn list_backups(&self, _options: Map) -> Result<(u64, Vec<Map>)> {
        later()
    }

    /// Changes a backup's description or protection.
    pub fn update_backup(&self, _id: u64, _options: Map) -> Result<()> {
        later()
    }

    /// Starts a job that deletes a backup for good.
    pub fn delete_backup(&self, _id: u64, _options: Map) -> Result<u64> {
        later()
    }

    /// Starts a job that checks a backup.
    pub fn verify_backup(&self, _id: u64, _options: Map) -> Result<u64> {
        later()
    }

    /// Lists the files a backup could not read.
    pub fn list_backup_errors(&self, _id: u64, _options: Map) -> Result<(u64, Vec<Map>)> {
        later()
    }

    /// Starts a job that restores a backup.
    pub fn restore_backup(&self, _id: u64, _options: Map) -> Result<u64> {
        later()
    }

    /// Restores a server in place from one of its backups.
    pub fn restore_server(&self, _server: &str, _id: u64, _options: Map) -> Result<Map> {
        later()
    }

    /// Starts a job that writes a backup as a tar archive.
    pub fn export_backup(&self, _id: u64, _options: Map) -> Result<u64> {
        later()
    }

    /// One job.
    pub fn get_job(&self, _id: u64) -> Result<Map> {
        later()
    }

    /// Lists jobs.
    pub fn list_jobs(&self, _options: Map) -> Result<(u64, Vec<Map>)> {
        later()
    }

    /// Cancels a job that has not ended.
    pub fn cancel_job(&self, _id: u64, _options: Map) -> Result<()> {
        later()
    }

    /// Reads the configuration files again.
    pub fn reload(&self, _options: Map) -> Result<()> {
        later()
    }
}
