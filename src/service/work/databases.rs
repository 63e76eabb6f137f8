//! The databases of a backup and of a restore.

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value as JsonValue, json};

use crate::archive::dumps;
use crate::catalog::job::RestoreTask;
use crate::catalog::{Backup, Job, Resource, Tables};
use crate::model::{Error, Progress, Result};
use crate::restore::database::{self, Goal, Plan};
use crate::service::Service;
use crate::source::Excludes;
use crate::source::database::{self as source, DIRECTORY, Prepared};
use crate::vault::tree::{Entry, Time};
use crate::vault::{Manifest, Vault, VaultWriter};

/// How often, and with which pause, a server is asked for what a crash left beside its databases.
const TRIES: u32 = 60;
const PAUSE: Duration = Duration::from_secs(5);

/// The dumps that a backup makes.
pub(super) struct Dumps {
    prepared: Prepared,
    any: bool,
}

impl Dumps {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.prepared.dumps.len()
    }

    /// Makes them.
    pub fn store(&self, writer: &VaultWriter, now: Timestamp, progress: &Arc<Progress>) -> Result<Option<Entry>> {
        if !self.any {
            return Ok(None);
        }
        let now = Time { sec: now.as_second(), nsec: u32::try_from(now.subsec_nanosecond()).unwrap_or(0) };
        let stored = dumps::store(writer, &self.prepared.dumps, now, progress);
        progress.check()?;
        stored.map(Some)
    }

    /// Says in the backup what its reader should know.
    pub fn note(&self, row: &mut Backup) {
        if !self.prepared.notes.is_empty() {
            let said = row.message.iter().chain(&self.prepared.notes).cloned().collect::<Vec<_>>();
            row.message = Some(said.join("; "));
        }
    }
}

impl Service {
    /// Looks at every database that a backup is to have, before anything is stored.
    pub(super) fn prepare_dumps(
        &self,
        row: &Backup,
        resource: &Resource,
        paths: &[PathBuf],
        progress: &Arc<Progress>,
    ) -> Result<Dumps> {
        if resource.databases.is_empty() {
            return Ok(Dumps { prepared: Prepared::default(), any: false });
        }
        let place = PathBuf::from("/").join(DIRECTORY);
        let whole = paths.iter().any(|path| path.as_os_str() == "/");
        if whole
            && place.symlink_metadata().is_ok()
            && !Excludes::new(&resource.exclude)?.matches(&place, place.is_dir())
        {
            return Err(Error::invalid_state(format!(
                "there is a {} among the files of {:?}, where a backup has the dumps of its databases; exclude or move it",
                place.display(),
                resource.name
            )));
        }
        let list = resource.databases.iter().map(|database| self.connection(database)).collect::<Result<Vec<_>>>()?;
        Ok(Dumps { prepared: source::prepare(&list, &row.uuid.to_string(), progress)?, any: true })
    }

    /// The plan to bring back the databases of a restore.
    pub(super) fn plan_databases<'a>(
        &self,
        job: &Job,
        task: &RestoreTask,
        vault: &'a Arc<Vault>,
        manifest: &Manifest,
        progress: &'a Arc<Progress>,
    ) -> Result<Plan<'a>> {
        let mut goals = Vec::new();
        if !task.databases.is_empty() {
            let resource = job.resource.ok_or_else(|| Error::failed("the job names no resource"))?;
            let resource = self.catalog.read(|r| r.need::<Resource>(resource))?;
            for dump in database::list(vault, manifest)? {
                if !task.databases.contains(&dump.place.path()) {
                    continue;
                }
                let declared = resource.databases.iter().find(|database| dump.place.is_of(database));
                let declared = declared.ok_or_else(|| {
                    Error::invalid_state(format!(
                        "resource {:?} has no database for {}; declare it, or restore to a target",
                        resource.name,
                        dump.place.path().display()
                    ))
                })?;
                goals.push(Goal { connection: self.connection(declared)?, dump, fresh: task.fresh.clone() });
            }
        }
        Ok(Plan::new(vault, goals, self.database_journal(job.id), progress))
    }

    /// Says in the job, before anything begins, which databases it is about and what is not one step.
    pub(super) fn tell_databases(&self, job: &Job, told: &JsonValue) -> Result<()> {
        self.catalog.write(|w| {
            w.update::<Job>(job.id, |row| {
                if let JsonValue::Object(told) = told {
                    row.result.extend(told.clone());
                }
                Ok(())
            })
        })?;
        Ok(())
    }

    /// Settles, in a thread of its own, what a crash left beside databases: their servers may be coming
    /// up just now.
    pub(in crate::service) fn settle_left_databases(&self) {
        let Ok(entries) = std::fs::read_dir(&self.options.state_dir) else { return };
        let ours = |path: &PathBuf| {
            path.extension().is_some_and(|e| e == "databases")
                && path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with("restore-"))
        };
        let left: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(ours).collect();
        if left.is_empty() {
            return;
        }
        let me = Weak::clone(&self.me);
        let spawned = std::thread::Builder::new().name("databases".into()).spawn(move || {
            for path in left {
                for tried in 1..=TRIES {
                    let Some(me) = me.upgrade() else { return };
                    let settled = database::recover(&path, &|item| me.connection(&item.database));
                    drop(me);
                    match settled {
                        Ok(()) => {
                            tracing::info!("what {} tells of is settled", path.display());
                            break;
                        }
                        Err(e) => tracing::error!("try {tried} to settle what {} tells of: {e}", path.display()),
                    }
                    std::thread::sleep(PAUSE);
                }
            }
        });
        if let Err(e) = spawned {
            tracing::error!("cannot start a thread to settle databases: {e}");
        }
    }
}

/// What a job says of its databases.
pub(super) fn told(task: &RestoreTask, apart: &[String]) -> JsonValue {
    let paths: Vec<_> = task.databases.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    let mut told = json!({ "databases": paths });
    if !apart.is_empty() {
        told["not_atomic"] = apart.join("; ").into();
    }
    told
}
