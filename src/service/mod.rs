//! What a caller can ask for, in the domain's terms.
//!
//! What it guarantees: every argument is checked before anything is done; every change is in the
//! catalog before anybody hears of it; nothing here waits for long work, which is queued as a job
//! whose row is written first. The bus, and whoever else asks, only translates.
//!
//! | file | what it holds |
//! |---|---|
//! | `projects` … `backups`, `schedules`, `checkpoints`, `snapshots`, `restores`, `exports`, `tasks`, `jobs`, `keys` | the use cases, by kind of object |
//! | `work` | what each kind of job does |
//! | `history` | files through time: versions, patterns, differences |
//! | `retention`, `snapretention` | which automatic backups and snapshots go, and when |
//! | `snapruns` | schedules that take snapshots |
//! | `mirrors`, `copies` | copies of vaults on other destinations, and of backups in other vaults |
//! | `sizes` | what each backup alone takes |
//! | `housekeeping` | vaults that prune and check themselves |
//! | `databases` | databases of a resource, and how they are reached |
//! | `units`, `commands` | units that are held back meanwhile, and commands that are run before and after |
//! | `tell`, `metrics` | who is told what went wrong |
//! | `places` | where destinations are, and what opens them |
//! | `submit`, `recover` | how jobs come into the queue, and what a restart makes of them |
//! | `open`, `show` | open vaults, and the mount |
//! | `clock` | what time it is, and what is due |
//! | `config`, `declared`, `declare`, `first` | the configuration files, what they declare, and the first start |
//! | `scheduleform`, `taskform`, `common` | what a schedule and a task look like, and the configuration that tasks carry |
//! | `selection` | which resources a checkpoint backs up |
//! | `select`, `check`, `page`, `fields` | selectors, arguments, lists and maps |

mod backups;
mod check;
mod checkpoints;
mod clock;
mod commands;
mod common;
mod config;
mod copies;
mod databases;
mod declare;
mod declared;
mod destinations;
mod event;
mod exports;
mod fields;
mod first;
mod history;
mod housekeeping;
mod jobs;
mod journal;
mod keys;
mod metrics;
mod mirrors;
mod open;
mod options;
mod page;
mod places;
mod projects;
mod rebuild;
mod recover;
mod resources;
mod restores;
mod retention;
mod scheduleform;
mod schedules;
mod select;
mod selection;
mod show;
mod sizes;
mod snapretention;
mod snapruns;
mod snapshots;
mod submit;
mod taskform;
mod tasks;
mod tell;
mod units;
mod vaults;
mod work;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use tokio::sync::broadcast;

use crate::catalog::{Catalog, Destination, Resource, Schedule, State, Tables, TaskRow, VaultRow, private_dir};
use crate::host;
use crate::jobs::Jobs;
use crate::model::{Args, Error, Map, Result};
use crate::vault::Machine;

pub use clock::Clock;
pub use config::Config;
pub use event::{Event, JobStatus, ObjectKind};
pub use options::{BrowseProcess, ServiceOptions};

/// A slow listener that falls further behind than this is told so and looks again.
const EVENTS: usize = 4096;

/// The service: every use case, safe to call from many threads.
pub struct Service {
    me: Weak<Self>,
    options: ServiceOptions,
    config: RwLock<Config>,
    catalog: Catalog,
    jobs: Arc<Jobs>,
    ticker: Arc<clock::Ticker>,
    events: broadcast::Sender<Event>,
    vaults: open::OpenVaults,
    show: show::Show,
    machine: RwLock<Machine>,
    /// Descriptors that callers passed, by job.
    descriptors: Mutex<BTreeMap<u64, Arc<OwnedFd>>>,
    /// Held from a job's row to its place in the queue, so that nobody sees one without the other.
    submitting: Mutex<()>,
    /// Held while a job that waits for others is ended, so that it ends once.
    settling: Mutex<()>,
    /// Held while a vault or destination is made or moved, outside of transactions.
    making: Mutex<()>,
    /// Mirrors that something is copied to, or that are checked.
    mirrors_held: Mutex<HashSet<u64>>,
    /// When it was last looked for what is overdue.
    overdue_looked: Mutex<Option<jiff::Timestamp>>,
    /// What each backup alone takes, as it is measured.
    sizes: sizes::Sizes,
    /// The metrics as they were last written, and when.
    metrics_written: Mutex<Option<(jiff::Timestamp, String)>>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Why a service could not be opened.
#[derive(Debug)]
pub struct Unopened {
    /// What was wrong.
    pub error: Error,
    /// Whether a configuration file has to be changed.
    pub configuration: bool,
}

impl Unopened {
    fn configuration(error: Error) -> Self {
        Self { error, configuration: true }
    }
}

impl From<Error> for Unopened {
    fn from(error: Error) -> Self {
        Self { error, configuration: false }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these guard is whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Service {
    /// Opens the state, makes what a first start needs, and finishes or fails what a crash left.
    pub fn open(options: ServiceOptions) -> Result<Arc<Self>> {
        Self::open_declared(options).map_err(|unopened| unopened.error)
    }

    /// The same, telling mistakes in the configuration files from everything else.
    pub fn open_declared(options: ServiceOptions) -> Result<Arc<Self>, Unopened> {
        let config = Config::load(&options.config).map_err(Unopened::configuration)?;
        let declared = declared::load(&options.config).map_err(Unopened::configuration)?;
        let catalog = Catalog::open(&options.state_dir)?;
        private_dir(&options.cache_dir)?;
        let machine = Machine { id: host::machine_id(&options.state_dir)?, name: host::name() };
        let show = show::Show::start(&options);
        let service = Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            jobs: Jobs::new(config.lanes),
            config: RwLock::new(config),
            catalog,
            ticker: Arc::default(),
            events: broadcast::Sender::new(EVENTS),
            vaults: open::OpenVaults::default(),
            show,
            machine: RwLock::new(machine),
            descriptors: Mutex::default(),
            submitting: Mutex::default(),
            mirrors_held: Mutex::default(),
            settling: Mutex::default(),
            making: Mutex::default(),
            overdue_looked: Mutex::default(),
            sizes: sizes::Sizes::default(),
            metrics_written: Mutex::default(),
            options,
        });
        if declare::says_where(&declared) {
            service.declare(&declared).map_err(Unopened::configuration)?;
            service.first_start()?;
        } else {
            service.first_start()?;
            service.declare(&declared).map_err(Unopened::configuration)?;
        }
        service.sweep_credentials();
        service.recover()?;
        service.adopt_snapshots();
        host::notify::starting("showing the backups");
        service.show_all();
        Ok(service)
    }

    /// Starts working on the queue, and doing what is due.
    pub fn start(&self) {
        if let Some(me) = self.me.upgrade() {
            self.start_left_units();
            self.settle_left_databases();
            self.jobs.start(&me);
            self.start_ticking();
        }
    }

    /// Stops: running work is asked to stop and waited for until the deadline. The mount goes on.
    pub fn stop(&self, deadline: Duration) {
        let until = Instant::now() + deadline;
        self.ticker.stop();
        self.sizes.cancel();
        if !self.jobs.stop(deadline) {
            tracing::warn!("not all jobs stopped in time; the next start ends them");
        }
        self.sizes.settle(until);
    }

    /// Unmounts the backups and ends the browse process.
    pub fn stop_browse(&self) {
        self.show.stop();
    }

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
        fields::lossy(&self.options.browse_path)
    }

    /// How many jobs run.
    pub fn running_jobs(&self) -> u32 {
        u32::try_from(self.jobs.counts().0).unwrap_or(u32::MAX)
    }

    /// How many jobs wait.
    pub fn queued_jobs(&self) -> u32 {
        u32::try_from(self.jobs.counts().1).unwrap_or(u32::MAX)
    }

    /// Everything that is a bus object now.
    pub fn objects(&self) -> Vec<(ObjectKind, u64)> {
        let found = self.catalog.read(|r| {
            let mut found = Vec::new();
            for resource in r.all::<Resource>()? {
                if resource.removed_at.is_none() {
                    found.push((ObjectKind::Resource, resource.id));
                }
            }
            found.extend(r.ids::<VaultRow>()?.into_iter().map(|id| (ObjectKind::Vault, id)));
            found.extend(r.ids::<Destination>()?.into_iter().map(|id| (ObjectKind::Destination, id)));
            found.extend(r.ids::<TaskRow>()?.into_iter().map(|id| (ObjectKind::Task, id)));
            found.extend(r.ids::<Schedule>()?.into_iter().map(|id| (ObjectKind::Schedule, id)));
            for state in [State::Pending, State::Running] {
                let ids = r.indexed(crate::catalog::job::BY_STATE, state.key())?;
                found.extend(ids.into_iter().map(|id| (ObjectKind::Job, id)));
            }
            Ok(found)
        });
        found.unwrap_or_else(|e| {
            tracing::error!("cannot list the objects: {e}");
            Vec::new()
        })
    }

    /// Reads the configuration files again. What is wrong changes nothing.
    pub fn reload(&self, options: Map) -> Result<()> {
        Args::new(options).finish()?;
        let config = Config::load(&self.options.config)?;
        self.declare(&declared::load(&self.options.config)?)?;
        self.adopt_snapshots();
        let lanes = config.lanes;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        if let Some(me) = self.me.upgrade() {
            self.jobs.set_limits(lanes, &me);
        }
        self.ticker.wake();
        Ok(())
    }

    /// Who this machine is.
    fn machine(&self) -> Machine {
        self.machine.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn config(&self) -> Config {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn emit(&self, event: Event) {
        let matters = !matches!(event, Event::JobNew { .. } | Event::JobChanged { .. });
        // Nobody listening is no error.
        let _ = self.events.send(event);
        if matters {
            self.ticker.wake();
        }
    }

    /// Directories that are Strongroom's own: never backed up, never restored into.
    fn own_directories(&self, t: &impl Tables) -> Result<Vec<PathBuf>> {
        let o = &self.options;
        let mut dirs = vec![o.state_dir.clone(), o.cache_dir.clone(), o.browse_path.clone()];
        dirs.extend(crate::snapshot::Store::all(&crate::source::mounts::all()?).iter().map(|s| s.path()));
        dirs.extend(t.all::<Destination>()?.iter().filter_map(|d| d.directory().map(PathBuf::from)));
        // A directory may be reached by another name: the real one counts too.
        let real: Vec<PathBuf> = dirs.iter().filter_map(|d| std::fs::canonicalize(d).ok()).collect();
        dirs.extend(real);
        dirs.sort();
        dirs.dedup();
        Ok(dirs)
    }
}
