//! Restores.

use std::sync::Arc;

use serde_json::{Value as JsonValue, json};

use super::databases::told;
use super::{Report, error_list};
use crate::catalog::job::RestoreTask;
use crate::catalog::{Job, Resource, Tables};
use crate::model::{Error, Progress, Result};
use crate::restore::{self, RestoreOutcome};
use crate::service::Service;
use crate::service::restores::volumes;

impl Service {
    pub(super) fn run_restore(&self, job: &Job, task: &RestoreTask, progress: &Arc<Progress>) -> Result<Report> {
        if task.atomic {
            return self.run_atomic_restore(job, task, progress);
        }
        let row = self.backup_of_job(job)?;
        let open = self.vault_to_read(job)?;
        let manifest = self.manifest(&open.vault, &row)?;
        let (never, units) = self.catalog.read(|r| {
            let resource = r.get::<Resource>(row.resource)?.filter(|_| task.stops_units());
            Ok((self.own_directories(r)?, resource.map(|r| r.units).unwrap_or_default()))
        })?;
        let (volumes, rest) = if task.files { volumes(&open.vault, &manifest, task)? } else { (Vec::new(), None) };
        let mut request = rest.map(|task| self.restore_request(&task, never.clone(), job.id));
        let mut plan = self.plan_databases(job, task, &open.vault, &manifest, progress)?;
        let mut extra = JsonValue::Null;
        if !plan.is_empty() {
            // What is wrong with a server, and what will not be one step, is said before anything begins.
            extra = told(task, &plan.check()?);
            self.tell_databases(job, &extra)?;
            let (dumps, bytes) = plan.totals();
            let rest = if task.files { manifest.totals.bytes } else { bytes };
            progress.expect(dumps, rest.max(bytes));
        }
        // Beside what is there, and while units still run.
        let staged = if task.dry_run { Ok(()) } else { plan.stage() };
        if let Some(request) = &mut request {
            request.leave = plan.files();
        }
        let work = || {
            let mut sum = RestoreOutcome::default();
            for onto in &volumes {
                let one = restore::volume::run(&open.vault, &manifest, onto, &never, task.dry_run, progress)?;
                sum.files += one.files;
                sum.bytes += one.bytes;
                sum.unchanged += one.unchanged;
            }
            if let Some(request) = &request {
                let done = restore::run(&open.vault, &manifest, request, progress)?;
                sum = RestoreOutcome {
                    files: sum.files + done.files,
                    bytes: sum.bytes + done.bytes,
                    unchanged: sum.unchanged + done.unchanged,
                    ..done
                };
            }
            if !task.dry_run {
                plan.swap()?;
            }
            Ok(sum)
        };
        let paused = staged.and_then(|()| self.paused(job.id, &units, progress, work));
        let cleaned = plan.clean_up();
        let paused = match (paused, cleaned) {
            (Ok(paused), Ok(())) => paused,
            (Ok(mut paused), Err(e)) => {
                let trouble = Error::failed(format!("all is restored, but {e}"));
                paused.trouble = paused.trouble.or(Some(trouble));
                paused
            }
            (Err(e), Ok(())) => return Err(e),
            (Err(e), Err(more)) => return Err(Error::new(e.kind, format!("{e}; and {more}"))),
        };
        let done = &paused.done;
        let mut result = json!({
            "files": done.files, "bytes": done.bytes, "unchanged": done.unchanged, "skipped": done.skipped,
            "removed": done.removed, "errors": done.errors, "dry_run": task.dry_run,
        });
        paused.note(&mut result);
        if let (JsonValue::Object(result), JsonValue::Object(extra)) = (&mut result, extra) {
            result.extend(extra);
        }
        if !done.error_list.is_empty() {
            result["error_list"] = error_list(&done.error_list);
        }
        Ok(Report { error: paused.trouble, ..Report::of(result) })
    }
}
