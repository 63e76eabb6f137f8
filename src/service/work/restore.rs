//! Restores.

use std::sync::Arc;

use serde_json::json;

use super::{Report, error_list};
use crate::catalog::job::RestoreTask;
use crate::catalog::{Job, Resource, Tables};
use crate::model::{Progress, Result};
use crate::restore::{self, RestoreOutcome};
use crate::service::Service;
use crate::service::restores::volumes;

impl Service {
    pub(super) fn run_restore(&self, job: &Job, task: &RestoreTask, progress: &Arc<Progress>) -> Result<Report> {
        let row = self.backup_of_job(job)?;
        let open = self.vault_to_read(job)?;
        let manifest = self.manifest(&open.vault, &row)?;
        let (never, units) = self.catalog.read(|r| {
            let resource = r.get::<Resource>(row.resource)?.filter(|_| task.stops_units());
            Ok((self.own_directories(r)?, resource.map(|r| r.units).unwrap_or_default()))
        })?;
        let (volumes, rest) = volumes(&open.vault, &manifest, task)?;
        let request = rest.map(|task| self.restore_request(&task, never.clone(), job.id));
        let work = || {
            let mut sum = RestoreOutcome::default();
            for onto in &volumes {
                let one = restore::volume::run(&open.vault, &manifest, onto, &never, task.dry_run, progress)?;
                sum.files += one.files;
                sum.bytes += one.bytes;
                sum.unchanged += one.unchanged;
            }
            let Some(request) = &request else { return Ok(sum) };
            let done = restore::run(&open.vault, &manifest, request, progress)?;
            Ok(RestoreOutcome {
                files: sum.files + done.files,
                bytes: sum.bytes + done.bytes,
                unchanged: sum.unchanged + done.unchanged,
                ..done
            })
        };
        let paused = self.paused(job.id, &units, progress, work)?;
        let done = &paused.done;
        let mut result = json!({
            "files": done.files, "bytes": done.bytes, "unchanged": done.unchanged, "skipped": done.skipped,
            "removed": done.removed, "errors": done.errors, "dry_run": task.dry_run,
        });
        paused.note(&mut result);
        if !done.error_list.is_empty() {
            result["error_list"] = error_list(&done.error_list);
        }
        Ok(Report { error: paused.trouble, ..Report::of(result) })
    }
}
