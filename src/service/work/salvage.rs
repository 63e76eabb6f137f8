//! What becomes of a backup that the end of the daemon or of the machine interrupted: the files that
//! it had stored, as a partial backup. It goes when a later one of the resource is there.

use std::sync::Arc;

use serde_json::json;

use super::{Report, fill};
use crate::archive;
use crate::catalog::{Backup, Job, Resource, State, Tables, Task, backup};
use crate::jobs::{Key, Lane, Ticket};
use crate::model::{ErrorKind, Progress, Result};
use crate::service::submit::Draft;
use crate::service::{Service, backups, check};
use crate::vault::VaultWriter;

/// What such a job needs: no backup of the resource changes what the interrupted one left.
pub(in crate::service) fn ticket(row: &Backup) -> Ticket {
    Ticket {
        exclusive: vec![Key::Resource(row.resource)],
        shared: vec![Key::Vault(row.vault)],
        ..Ticket::free(Lane::Work)
    }
}

impl Service {
    /// Has what an interrupted backup stored saved, if that is worth anything.
    pub(in crate::service) fn salvage_later(&self, id: u64) -> Result<()> {
        let row = self.catalog.read(|r| r.get::<Backup>(id))?;
        let Some(row) = row.filter(|row| row.copy_of.is_none() && row.r#type != "database") else { return Ok(()) };
        self.submit(|_| {
            Ok(Draft {
                resource: Some(row.resource),
                backup: Some(row.id),
                vault: Some(row.vault),
                ..Draft::new(Task::Salvage, ticket(&row))
            })
        })?;
        Ok(())
    }

    pub(super) fn run_salvage(&self, job: &Job, progress: &Arc<Progress>) -> Result<Report> {
        let row = self.backup_of_job(job)?;
        let (vault, open) = self.vault_of_job(job)?;
        let nothing = |why: &str| Ok(Report::of(json!({ "files": 0, "bytes": 0, "message": why })));
        if row.status != State::Failed || row.deleting || row.manifest.is_some() {
            return nothing("there is nothing to save");
        }
        let (resource, later) = self.catalog.read(|r| {
            let later = r.indexed(backup::GOOD_BY_RESOURCE, row.resource)?.last().is_some_and(|id| *id > row.id);
            Ok((r.get::<Resource>(row.resource)?, later))
        })?;
        let Some(resource) = resource.filter(|_| !later) else { return nothing("a later backup is complete") };
        // One that was killed in the middle of this may have published it.
        let (object, manifest) = match self.find_manifest_in(&open.vault, &row)? {
            Some(found) => found,
            None => {
                let writer = VaultWriter::start(&open.vault, check::compression(&vault.compression)?.1)?;
                let cache = self.change_cache(&vault, resource.id)?;
                let Some(saved) = archive::salvage(&open.vault, writer, &cache, progress)? else {
                    return nothing("it had stored no file");
                };
                progress.check()?;
                let mut manifest = self.draft_manifest(&row, &resource, row.created_at)?;
                (manifest.root, manifest.totals, manifest.stored) = (saved.root, saved.totals, saved.stored);
                manifest.partial = true;
                (open.vault.put_manifest(&manifest)?, manifest)
            }
        };
        let (id, totals) = (row.id, manifest.totals);
        let mut shown = row;
        fill(&mut shown, object, &manifest);
        let ended = shown.completed_at;
        let mut report = Report::of(json!({ "files": totals.files, "bytes": totals.bytes, "stored": manifest.stored }));
        report.show = Some(Box::new((shown, vault, Arc::clone(&open))));
        report.export = Some(open);
        Ok(report.then(move |w| {
            w.update::<Backup>(id, |row| {
                fill(row, object, &manifest);
                row.completed_at = row.completed_at.or(ended);
                Ok(())
            })
            .map(drop)
        }))
    }

    /// Deletes the partial backups that a later one of the resource makes needless.
    pub(super) fn drop_partial(&self, of: &Backup) -> Result<()> {
        let old = self.catalog.read(|r| r.rows_at::<Backup>(backup::PARTIAL, of.vault))?;
        for row in old.into_iter().filter(|row| row.resource == of.resource && row.id < of.id && !row.protected) {
            match self.submit(|w| backups::draft_delete(w, row.id)) {
                Ok(_) => self.hide(row.id),
                // It is being read; the next backup tries again.
                Err(e) if matches!(e.kind, ErrorKind::InvalidState | ErrorKind::NotFound) => {
                    tracing::debug!("the partial backup {} stays for now: {e}", row.id);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
