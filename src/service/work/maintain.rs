//! Deletion and prune.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map as Json, json};

use super::Report;
use crate::catalog::{Backup, Job, Tables, Task, VaultRow, backup, checkpoint};
use crate::model::{Id, Progress, Result};
use crate::service::open::OpenVault;
use crate::service::{Event, Service, housekeeping, resources};
use crate::vault::{self, PruneReport};

/// Space that could not be given back is tried for again after this long.
const PRUNE_AGAIN: SignedDuration = SignedDuration::from_mins(15);

fn pruned(report: &PruneReport) -> Json<String, serde_json::Value> {
    let mut value = json!({
        "packs_before": report.packs_before, "packs_deleted": report.packs_deleted,
        "packs_rewritten": report.packs_rewritten, "bytes_freed": report.bytes_freed,
        "bytes_stored": report.bytes_stored,
    });
    if let Some(e) = &report.no_room {
        value["message"] = format!("packs that are partly dead were not written anew: {e}; prune again").into();
    }
    value.as_object().cloned().unwrap_or_default()
}

impl Service {
    /// Manifest first, then space; the catalog's row last, so that a crash in between is finished
    /// by the next start.
    pub(super) fn run_delete(&self, job: &Job, progress: &Arc<Progress>) -> Result<Report> {
        let mut row = self.backup_of_job(job)?;
        if row.unsure {
            // The vault tells whether there is a manifest to delete.
            self.vault_of_job(job)?;
            row = self.backup_of_job(job)?;
        }
        let id = row.id;
        let mut result = Json::new();
        let mut export = None;
        let (mut space, mut later, mut rewrote) = (None, None, false);
        if let Some(manifest) = row.manifest {
            let (vault, open) = self.vault_of_job(job)?;
            // The last moment to change one's mind.
            progress.check()?;
            self.hide(id);
            open.vault.delete_manifest(&manifest)?;
            // Of several deletions in a row the last one gives back the space of all.
            let more = self.catalog.read(|r| {
                Ok(resources::open_jobs(r)?
                    .iter()
                    .any(|j| j.id != job.id && j.vault == Some(vault.id) && j.task == Task::Delete))
            })?;
            if more {
                result.insert("message".into(), "the next deletion in this vault gives back the space".into());
            } else {
                match self.collect(&vault, &open, false, progress) {
                    Ok(report) => {
                        result = pruned(&report);
                        rewrote = report.packs_rewritten > 0 || report.mended > 0;
                        space = Some(vault.id);
                    }
                    // The backup is gone all the same; its space comes back with the next prune.
                    Err(e) => {
                        tracing::warn!("backup {id} is deleted, but its space was not given back: {e}");
                        result.insert("message".into(), format!("the space was not given back yet: {e}").into());
                        later = Some(vault.id);
                    }
                }
            }
            export = Some(open);
        }
        let now = self.now();
        let mut report = Report { result, export, ..Report::default() }.then(move |w| {
            w.remove::<Backup>(id)?;
            if let Some(checkpoint) = row.checkpoint {
                checkpoint::remove_empty(w, checkpoint)?;
            }
            super::snapshots::drop_unused(w, row.resource)?;
            if let Some(vault) = later {
                unmeasure(w, vault)?;
                housekeeping::prune_soon(w, vault, now.saturating_add(PRUNE_AGAIN).unwrap_or(now))?;
            }
            if let Some(vault) = space {
                note(w, vault, |v| pruned_at(v, now, rewrote))?;
            }
            Ok(())
        });
        report.events.push(Event::BackupChanged { id, status: "deleted".into() });
        Ok(report)
    }

    /// The manifests in a vault that the catalog counts on.
    fn promised(&self, vault: u64) -> Result<Vec<Id>> {
        let rows = self.catalog.read(|r| {
            let mut rows = r.rows_at::<Backup>(backup::GOOD_BY_VAULT, vault)?;
            rows.extend(r.rows_at::<Backup>(backup::PARTIAL, vault)?);
            Ok(rows)
        })?;
        Ok(rows.into_iter().filter_map(|b| b.manifest).collect())
    }

    fn collect(&self, row: &VaultRow, open: &OpenVault, dry_run: bool, progress: &Progress) -> Result<PruneReport> {
        let result = vault::prune(&open.vault, &self.promised(row.id)?, row.compression.parse()?, dry_run, progress);
        if !dry_run {
            // Also when it failed: it may have copied some before.
            self.sizes.outdated(row.id);
        }
        result
    }

    pub(super) fn run_prune(&self, job: &Job, dry_run: bool, progress: &Arc<Progress>) -> Result<Report> {
        let (row, open) = self.vault_of_job(job)?;
        let before = open.vault.stored_size();
        let report = match self.collect(&row, &open, dry_run, progress) {
            // It had copied some before it failed. What it failed with is what counts.
            Err(e) if !dry_run && open.vault.stored_size() != before => {
                if let Err(e) = self.catalog.record(|w| unmeasure(w, row.id)) {
                    tracing::warn!("sizes of backups may be out of date: {e}");
                }
                return Err(e);
            }
            result => result?,
        };
        let mut result = pruned(&report);
        result.insert("dry_run".into(), dry_run.into());
        let (now, rewrote) = (self.now(), report.packs_rewritten > 0 || report.mended > 0);
        if !dry_run {
            self.mirrors_behind(row.id);
        }
        let report = Report { result, ..Report::default() };
        Ok(if dry_run { report } else { report.then(move |w| note(w, row.id, |v| pruned_at(v, now, rewrote))) })
    }
}

fn pruned_at(row: &mut VaultRow, now: Timestamp, rewrote: bool) {
    row.last_pruned = Some(now);
    if rewrote {
        // What was copied may take more or less than before.
        row.measured = None;
    }
}

/// Forgets what backups take that was measured.
pub(in crate::service) fn unmeasure(w: &crate::catalog::Writer, vault: u64) -> Result<()> {
    note(w, vault, |v| v.measured = None)
}

pub(super) fn note(w: &crate::catalog::Writer, vault: u64, change: impl FnOnce(&mut VaultRow)) -> Result<()> {
    w.update::<VaultRow>(vault, |row| {
        change(row);
        Ok(())
    })
    .map(drop)
}
