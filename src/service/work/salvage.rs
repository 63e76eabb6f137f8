//! What becomes of a backup that the end of the daemon or of the machine interrupted: the files that
//! it had stored, as a partial backup. It goes when a later one of the resource is there.

use std::sync::Arc;

use serde_json::json;

use super::{Report, fill};
use crate::archive;
use crate::catalog::{Backup, Job, Resource, State, Tables, Task, VaultRow, Writer, backup};
use crate::jobs::{Key, Lane, Ticket};
use crate::model::{ErrorKind, Progress, Result};
use crate::service::submit::{Batch, Draft};
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
    /// Has what an interrupted backup stored saved, if it may be worth anything.
    pub(in crate::service) fn salvage_later(&self, w: &Writer, batch: &mut Batch, id: u64) -> Result<()> {
        let Some(row) = w.get::<Backup>(id)?.filter(|row| is_wanted(row) && row.copy_of.is_none()) else {
            return Ok(());
        };
        if row.r#type == "database" || w.get::<VaultRow>(row.vault)?.is_none_or(|vault| vault.removing) {
            return Ok(());
        }
        let draft = Draft {
            resource: Some(row.resource),
            backup: Some(row.id),
            vault: Some(row.vault),
            ..Draft::new(Task::Salvage, ticket(&row))
        };
        let job = w.next_id::<Job>()?;
        w.put(&draft.row(job, self.now()))?;
        batch.push((job, draft.ticket));
        Ok(())
    }

    pub(super) fn run_salvage(&self, job: &Job, progress: &Arc<Progress>) -> Result<Report> {
        let nothing = |why: &str| Ok(Report::of(json!({ "files": 0, "bytes": 0, "message": why })));
        let row = self.catalog.read(|r| job.backup.map_or(Ok(None), |id| r.get::<Backup>(id)))?;
        let Some(row) = row.filter(is_wanted) else { return nothing("there is nothing to save") };
        let (vault, open) = self.vault_of_job(job)?;
        let (resource, later) = self.catalog.read(|r| {
            let later =
                r.indexed(backup::GOOD_BY_RESOURCE, row.resource)?.into_iter().rev().take_while(|id| *id > row.id);
            let later = later.map(|id| r.need::<Backup>(id)).collect::<Result<Vec<_>>>()?;
            Ok((r.get::<Resource>(row.resource)?, later.iter().any(|b| b.vault == row.vault && replaces(b))))
        })?;
        let Some(resource) = resource.filter(|_| !later) else { return nothing("a later backup is complete") };
        // One that was killed in the middle of this may have published it.
        let (object, manifest) = match self.find_manifest_in(&open.vault, &row)? {
            Some(found) => found,
            None => {
                let writer = VaultWriter::start(&open.vault, check::compression(&vault.compression)?.1)?;
                let cache = self.change_cache(&vault, resource.id)?;
                let Some(saved) = archive::salvage(&open.vault, writer, (&cache, row.uuid), progress)? else {
                    return nothing("it had stored no file");
                };
                progress.check()?;
                let mut manifest = self.draft_manifest(&row, &resource, row.created_at)?;
                (manifest.root, manifest.totals, manifest.stored) = (saved.root, saved.totals, saved.stored);
                manifest.partial = true;
                (open.vault.put_manifest(&manifest).inspect_err(|_| self.note_unsure(row.id))?, manifest)
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

    /// Deletes the partial backups that a later one of the resource makes needless. One that is partial
    /// itself does that to those that hold less.
    pub(super) fn drop_partial(&self, of: &Backup) -> Result<()> {
        if !of.partial && !replaces(of) {
            return Ok(());
        }
        self.drop_partial_if(of, |row| row.id < of.id && (!of.partial || row.size <= of.size))
    }

    /// Deletes those of a resource whose next backup found no room: what they hold could keep it from
    /// being made for ever.
    pub(super) fn drop_partial_for_room(&self, job: u64) -> Result<()> {
        let row = self.catalog.read(|r| {
            let job = r.need::<Job>(job)?;
            let backup = job.backup.filter(|_| matches!(job.task, Task::Backup { .. }));
            backup.map_or(Ok(None), |id| r.get::<Backup>(id))
        })?;
        row.map_or(Ok(()), |row| self.drop_partial_if(&row, |_| true))
    }

    fn drop_partial_if(&self, of: &Backup, goes: impl Fn(&Backup) -> bool) -> Result<()> {
        let old = self.catalog.read(|r| r.rows_at::<Backup>(backup::PARTIAL, of.vault))?;
        for row in old.into_iter().filter(|row| row.resource == of.resource && !row.protected && goes(row)) {
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

/// Whether a backup failed and is not known to hold anything yet.
fn is_wanted(row: &Backup) -> bool {
    row.status == State::Failed && !row.deleting && row.manifest.is_none()
}

/// Whether a completed backup holds what an earlier one of the resource was to hold.
fn replaces(row: &Backup) -> bool {
    row.copy_of.is_none() && row.r#type != "database"
}
