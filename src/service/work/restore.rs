//! Restores.

use std::sync::Arc;

use serde_json::json;

use super::{Report, error_list};
use crate::catalog::job::RestoreTask;
use crate::catalog::{Job, Resource, Tables};
use crate::model::{Progress, Result};
use crate::restore;
use crate::service::Service;

impl Service {
    pub(super) fn run_restore(&self, job: &Job, task: &RestoreTask, progress: &Arc<Progress>) -> Result<Report> {
        let row = self.backup_of_job(job)?;
        let open = self.vault_to_read(job)?;
        let manifest = self.manifest(&open.vault, &row)?;
        let (never, units) = self.catalog.read(|r| {
            let resource = r.get::<Resource>(row.resource)?.filter(|_| task.stops_units());
            Ok((self.own_directories(r)?, resource.map(|r| r.units).unwrap_or_default()))
        })?;
        let request = self.restore_request(task, never, job.id);
        let work = || restore::run(&open.vault, &manifest, &request, progress);
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
