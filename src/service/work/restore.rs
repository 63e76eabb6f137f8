//! Restores.

use std::sync::Arc;

use serde_json::json;

use super::{Report, error_list};
use crate::catalog::Job;
use crate::catalog::job::RestoreTask;
use crate::model::{Progress, Result};
use crate::restore;
use crate::service::Service;

impl Service {
    pub(super) fn run_restore(&self, job: &Job, task: &RestoreTask, progress: &Arc<Progress>) -> Result<Report> {
        let row = self.backup_of_job(job)?;
        let (_, open) = self.vault_of_job(job)?;
        let manifest = self.manifest(&open.vault, &row)?;
        let never = self.catalog.read(|r| self.own_directories(r))?;
        let request = self.restore_request(task, never, job.id);
        let done = restore::run(&open.vault, &manifest, &request, progress)?;
        let mut result = json!({
            "files": done.files, "bytes": done.bytes, "unchanged": done.unchanged, "skipped": done.skipped,
            "removed": done.removed, "errors": done.errors, "dry_run": task.dry_run, "units_stopped": 0,
            "message": "no units were stopped",
        });
        if !done.error_list.is_empty() {
            result["error_list"] = error_list(&done.error_list);
        }
        Ok(Report::of(result))
    }
}
