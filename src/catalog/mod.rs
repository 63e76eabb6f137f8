//! The catalog: what Strongroom knows and intends, in one redb file.
//!
//! What it guarantees: every change is one transaction that is on disk when it returns and is
//! there after a crash, whole or not at all; ids count up from 1 per kind and are never given
//! twice; one process at a time uses a state directory. What is not intent (packs, trees, change
//! caches) is never here.

pub mod backup;
pub mod checkpoint;
pub mod destination;
pub mod job;
pub mod meta;
pub mod origin;
pub use crate::model::paths;
pub mod project;
pub mod reserve;
pub mod resource;
pub mod schedule;
pub mod snapshot;
pub mod state;
pub mod table;
pub mod task;
pub mod vault;

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use nix::fcntl::{Flock, FlockArg};
use redb::{Database, ReadableDatabase};

use crate::host::notify;
use crate::model::{Error, IoContext, Result};

pub use backup::Backup;
pub use checkpoint::Checkpoint;
pub use destination::Destination;
pub use job::{Job, Task};
pub use origin::Origin;
pub use project::Project;
pub use reserve::Reserve;
pub use resource::Resource;
pub use schedule::{Keep, Schedule};
pub use snapshot::Snapshot;
pub use state::State;
pub use table::{Reader, Row, Tables, Writer, rows_read};
pub use task::TaskRow;
pub use vault::VaultRow;

/// The catalog's file in the state directory.
const FILE: &str = "catalog.redb";
/// The file whose lock says that a daemon uses the state directory.
const LOCK: &str = "lock";
/// redb would take 1 GiB; an appliance's catalog is read in pages.
const CACHE: usize = 32 << 20;

/// An open catalog. Readers wait for nobody, but while it is opened anew after an error of its disk; writers
/// wait for one another.
#[derive(Debug)]
pub struct Catalog {
    path: PathBuf,
    /// `None` where it could not be opened again after a failure.
    db: Mutex<Option<Arc<Database>>>,
    reserve: Reserve,
    _lock: Flock<File>,
}

/// Whether the database met an error of its disk. A process has one catalog, and to open one more anew
/// does no harm.
static FAILED: AtomicBool = AtomicBool::new(false);

/// A redb error as ours: damage is `Damaged`, a full disk `NoSpace`.
fn failed(error: impl Into<redb::Error>) -> Error {
    match error.into() {
        redb::Error::Corrupted(what) => Error::damaged(format!(
            "the catalog is damaged ({what}); restore {FILE} from a copy, or move it away and rebuild it from the vaults"
        )),
        redb::Error::Io(e) => {
            FAILED.store(true, Relaxed);
            Error::io("the catalog could not be read or written", &e)
        }
        redb::Error::PreviousIo => {
            FAILED.store(true, Relaxed);
            Error::failed("the catalog could not be read or written a moment ago; try again")
        }
        other => Error::failed(format!("the catalog failed: {other}")),
    }
}

/// Makes `dir` (0700) where it is missing and takes other people's rights from it where not.
pub fn private_dir(dir: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).at(|| format!("cannot create {}", dir.display()))?;
    std::fs::set_permissions(dir, Permissions::from_mode(0o700)).at(|| format!("cannot make {} private", dir.display()))
}

/// For how long another daemon is waited for that may be at its end.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// So often, and so long apart, it is looked whether the last reader of a failed database is done.
const CLOSE_TRIES: u32 = 100;
const CLOSE_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

fn open(path: &Path) -> Result<Database> {
    Database::builder()
        .set_cache_size(CACHE)
        // Seldom: what `write` commits needs no repair that takes long.
        .set_repair_callback(|session| {
            notify::starting(&format!("repairing the catalog: {:.0} %", session.progress() * 100.0));
        })
        .create(path)
        .map_err(|e| unusable(path, &redb::Error::from(e)))
}

fn lock(state_dir: &Path) -> Result<Flock<File>> {
    let path = state_dir.join(LOCK);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .at(|| format!("cannot open {}", path.display()))?;
    let mut locked = Flock::lock(file, FlockArg::LockExclusiveNonblock);
    for _ in 0..LOCK_TRIES {
        // A program that a daemon had just begun to start holds it a moment longer than the daemon.
        let Err((file, nix::errno::Errno::EWOULDBLOCK)) = locked else { break };
        std::thread::sleep(LOCK_PAUSE);
        locked = Flock::lock(file, FlockArg::LockExclusiveNonblock);
    }
    match locked {
        Ok(lock) => {
            // For people who look; the lock itself is what counts.
            let mut file: &File = &lock;
            let _ = lock.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
            Ok(lock)
        }
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
            let holder = std::fs::read_to_string(&path).unwrap_or_default();
            Err(Error::invalid_state(format!(
                "another strongroomd{} already uses {}; stop it, or give another --state-dir",
                match holder.trim() {
                    "" => String::new(),
                    pid => format!(" (process {pid})"),
                },
                state_dir.display()
            )))
        }
        Err((_, e)) => Err(Error::io(format!("cannot lock {}", path.display()), &e.into())),
    }
}

impl Catalog {
    /// Opens the catalog of a state directory, making both where they are missing.
    pub fn open(state_dir: &Path) -> Result<Self> {
        private_dir(state_dir)?;
        let lock = lock(state_dir)?;
        let path = state_dir.join(FILE);
        // Made here, because redb would give it the umask's mode.
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .at(|| format!("cannot open {}", path.display()))?;
        let db = Mutex::new(Some(Arc::new(open(&path)?)));
        // The name of a new file must survive too.
        File::open(state_dir).and_then(|d| d.sync_all()).at(|| format!("cannot sync {}", state_dir.display()))?;
        let catalog = Self { path, db, reserve: Reserve::of(state_dir), _lock: lock };
        catalog.write(|w| {
            w.make_tables()?;
            index_again(w)?;
            project::ensure_default(w)
        })?;
        Ok(catalog)
    }

    /// The database: opened anew after it failed, unless somebody still reads from it. redb takes nothing more
    /// from a file after an error of its disk; the cause, a full one most likely, may be gone by now.
    fn database(&self) -> Result<Arc<Database>> {
        let mut slot = self.db.lock().unwrap_or_else(PoisonError::into_inner);
        if FAILED.load(Relaxed)
            && let Some(held) = slot.take()
        {
            match Arc::try_unwrap(held) {
                Ok(db) => drop(db),
                Err(busy) => return Ok(slot.insert(busy).clone()),
            }
            FAILED.store(false, Relaxed);
        }
        match &*slot {
            Some(db) => Ok(db.clone()),
            None => Ok(slot.insert(Arc::new(open(&self.path)?)).clone()),
        }
    }

    /// The same for a change, for which readers are waited for a while.
    fn to_write(&self) -> Result<Arc<Database>> {
        for _ in 0..CLOSE_TRIES {
            let db = self.database()?;
            if !FAILED.load(Relaxed) {
                return Ok(db);
            }
            drop(db);
            std::thread::sleep(CLOSE_PAUSE);
        }
        self.database()
    }

    /// Reads from one consistent state.
    pub fn read<T>(&self, work: impl FnOnce(&Reader) -> Result<T>) -> Result<T> {
        let db = self.database()?;
        work(&Reader::new(db.begin_read().map_err(failed)?))
    }

    /// Does what [`Catalog::write`] would do, and changes nothing: says whether it would succeed.
    pub fn check<T>(&self, work: impl FnOnce(&Writer) -> Result<T>) -> Result<T> {
        let db = self.to_write()?;
        let writer = Writer::new(db.begin_write().map_err(failed)?);
        let done = work(&writer);
        writer.into_inner().abort().map_err(failed)?;
        done
    }

    /// The same as [`Catalog::write`] for what has happened and cannot be refused: for that there is room on a full
    /// disk too.
    pub fn record<T>(&self, work: impl FnOnce(&Writer) -> Result<T>) -> Result<T> {
        self.reserve.keep();
        self.write(work)
    }

    /// Changes the catalog in one transaction; an error changes nothing.
    pub fn write<T>(&self, work: impl FnOnce(&Writer) -> Result<T>) -> Result<T> {
        let db = self.to_write()?;
        let mut transaction = db.begin_write().map_err(failed)?;
        // A crash is then repaired in milliseconds, not by reading the whole file.
        transaction.set_quick_repair(true);
        let writer = Writer::new(transaction);
        match work(&writer) {
            Ok(value) => writer.into_inner().commit().map_err(failed).map(|()| value),
            Err(e) => {
                writer.into_inner().abort().map_err(failed)?;
                Err(e)
            }
        }
    }
}

/// What the rows are indexed by. Raise it with every change of a [`Row::keys`]: the catalog of an
/// earlier version is indexed again when it is opened.
const INDEXES: &[u8] = b"7";

fn index_again(w: &Writer) -> Result<()> {
    const KEY: &str = "indexes";
    if w.meta(KEY)?.is_some_and(|there| there == INDEXES) {
        return Ok(());
    }
    w.clear_indexes()?;
    w.index_again::<Project>()?;
    w.index_again::<Resource>()?;
    w.index_again::<Destination>()?;
    w.index_again::<VaultRow>()?;
    w.index_again::<Backup>()?;
    w.index_again::<Job>()?;
    w.index_again::<Schedule>()?;
    w.index_again::<TaskRow>()?;
    w.index_again::<Checkpoint>()?;
    w.index_again::<Snapshot>()?;
    w.set_meta(KEY, INDEXES)
}

fn unusable(path: &Path, error: &redb::Error) -> Error {
    let hint = "restore it from a copy, or move it away and rebuild the catalog from the vaults";
    match error {
        redb::Error::Io(e) if e.kind() != std::io::ErrorKind::InvalidData => {
            Error::io(format!("cannot open the catalog {}", path.display()), e)
        }
        redb::Error::DatabaseAlreadyOpen => {
            Error::invalid_state(format!("the catalog {} is in use by another process; stop it first", path.display()))
        }
        other => Error::damaged(format!("the catalog {} cannot be read ({other}); {hint}", path.display())),
    }
}

#[cfg(test)]
mod tests;
