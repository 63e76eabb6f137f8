//! Restores of backups in one step: the directories are restored beside what is there, and exchanged
//! with it by renames, as a snapshot's are.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;

use super::Report;
use crate::catalog::job::RestoreTask;
use crate::catalog::{Job, Resource, Tables};
use crate::model::{Error, Progress, Result};
use crate::restore::{self, RestoreOutcome, RestoreRequest, whole};
use crate::service::Service;
use crate::service::units::Action;
use crate::snapshot::swap;
use crate::source::users;
use crate::vault::{Manifest, Vault};

/// The directories that are exchanged: those that are within no other.
fn directories(manifest: &Manifest, task: &RestoreTask) -> Vec<PathBuf> {
    let mut all = if task.paths.is_empty() { manifest.resource.paths.clone() } else { task.paths.clone() };
    all.sort();
    all.dedup();
    let within = |path: &PathBuf| all.iter().any(|other| other != path && path.starts_with(other));
    all.iter().filter(|path| !within(path)).cloned().collect()
}

/// Refuses directories that somebody uses who is not stopped, and would go on in what was replaced.
fn refuse_used(paths: &[PathBuf], units: &[String]) -> Result<()> {
    for path in paths {
        let mut users = users::beneath(path)?;
        users.retain(|user| !user.is_of(units));
        if !users.is_empty() {
            return Err(Error::invalid_state(format!(
                "{} cannot be restored in one step: {} have files in it open, and would go on with what was replaced; name \
                 their units in the resource, so that they are stopped, end them, or leave atomic out",
                path.display(),
                users::words(&users)
            )));
        }
    }
    Ok(())
}

impl Service {
    /// Says beforehand why a backup cannot be restored in one step. Changes nothing.
    pub(in crate::service) fn check_atomic(
        &self,
        vault: &Arc<Vault>,
        manifest: &Manifest,
        task: &RestoreTask,
        resource: &Resource,
    ) -> Result<()> {
        if manifest.resource.kind == "volume" {
            return Err(Error::invalid(
                "a volume is not restored in one step, block by block as it is; leave atomic out",
            ));
        }
        if manifest.partial {
            return Err(Error::invalid(
                "a partial backup does not hold everything, so it cannot replace what is there",
            ));
        }
        if !task.databases.is_empty() {
            return Err(Error::invalid(
                "the backup has databases, which come back in one step by themselves; give paths of directories with atomic, \
                 and restore the databases with type database",
            ));
        }
        let paths = directories(manifest, task);
        let files = resource.databases.iter().filter_map(|database| database.path.as_ref());
        if let Some(file) = files.into_iter().find(|file| paths.iter().any(|path| file.starts_with(path))) {
            return Err(Error::invalid(format!(
                "the database {} is in what would be exchanged, and comes back from its dump alone; leave atomic out",
                file.display()
            )));
        }
        swap::check_trees(&paths)?;
        whole::refuse_full(vault, manifest, &paths)?;
        refuse_used(&paths, &resource.units)
    }

    pub(super) fn run_atomic_restore(&self, job: &Job, task: &RestoreTask, progress: &Arc<Progress>) -> Result<Report> {
        let row = self.backup_of_job(job)?;
        let open = self.vault_to_read(job)?;
        let manifest = self.manifest(&open.vault, &row)?;
        let (never, resource) =
            self.catalog.read(|r| Ok((self.own_directories(r)?, r.need::<Resource>(row.resource)?)))?;
        let paths = directories(&manifest, task);
        let request = self.restore_request(task, never, job.id);
        // What is free, and who is at work, is said of now.
        self.check_atomic(&open.vault, &manifest, task, &resource)?;
        let untouched = |progress: &Progress| whole::refuse_spared(&open.vault, &manifest, &request, &paths, progress);
        untouched(progress)?;
        if task.dry_run {
            let done = restore::run(&open.vault, &manifest, &request, progress)?;
            let mut result = counts(&done);
            result["dry_run"] = true.into();
            return Ok(Report::of(result));
        }
        let running = self.units_to_hold(&resource.units, Action::Stop)?;
        let mut done = RestoreOutcome::default();
        let mut make = |target: &std::path::Path, paths: &[PathBuf]| {
            let (target, paths) = (Some(target.to_owned()), paths.to_vec());
            let request = RestoreRequest { target, paths, delete: false, ..request.clone() };
            let one = restore::run(&open.vault, &manifest, &request, progress)?;
            if let Some(first) = one.error_list.first() {
                return Err(Error::failed(format!(
                    "nothing was changed, because not all could be restored exactly: {}: {} ({} errors); leave atomic out to \
                     restore what can be",
                    String::from_utf8_lossy(&first.path),
                    first.message,
                    one.errors
                )));
            }
            (done.files, done.bytes) = (done.files + one.files, done.bytes + one.bytes);
            Ok(())
        };
        let mut swap = swap::stage_trees(&self.swap_file(job.id), &paths, progress, &mut make)?;
        // Nobody who came meanwhile, and nothing that came, is left behind.
        let ready = || refuse_used(&paths, &[]).and_then(|()| untouched(progress));
        let done_by = self.swap_in(job.id, &running, &mut swap, progress, ready, "with what was restored");
        if let Err(e) = done_by {
            self.abandon(job.id, swap);
            return Err(e);
        }
        let mut result = counts(&done);
        result["atomic"] = true.into();
        result["units_stopped"] = running.len().into();
        result["message"] = match running.as_slice() {
            [] => "no units were stopped".into(),
            running => format!("stopped for it, and started afterwards: {}", running.join(", ")).into(),
        };
        let journal = self.finish(job.id, swap, &mut result);
        Ok(Report { journal, ..Report::of(result) })
    }
}

fn counts(done: &RestoreOutcome) -> serde_json::Value {
    json!({
        "files": done.files, "bytes": done.bytes, "unchanged": done.unchanged, "skipped": done.skipped,
        "removed": done.removed, "errors": done.errors, "dry_run": false,
    })
}
