//! How a service is run.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::Clock;
use crate::host::BusAddress;

/// Where a service keeps what, and what it shows where.
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
    /// The directory of the first destination, made when nothing is configured.
    pub first_vault: PathBuf,
    /// How the browse process is started; `None` mounts nothing.
    pub browse: Option<BrowseProcess>,
    /// The bus that the service manager is on.
    pub bus: BusAddress,
    /// What time it is.
    pub clock: Clock,
}

/// How the browse process is started.
#[derive(Debug, Clone)]
pub struct BrowseProcess {
    /// Its control socket.
    pub socket: PathBuf,
    /// How long it stays after the daemon went; `None`: until it is unmounted.
    pub linger: Option<Duration>,
    /// The program and its first arguments.
    pub executable: (PathBuf, Vec<OsString>),
}
