//! Copying a backup into another vault: a backup of its own there, with the same content.

use std::sync::Arc;

use serde_json::json;

use super::Report;
use super::backups::fill;
use crate::catalog::{Backup, Job, Tables, VaultRow};
use crate::model::{Error, Progress, Result};
use crate::service::{Service, check};
use crate::vault::transfer::transfer;
use crate::vault::{Manifest, Source};

impl Service {
    pub(super) fn run_copy(&self, job: &Job, mut row: Backup, of: u64, progress: &Arc<Progress>) -> Result<Report> {
        let (source, from, high_water) = self.catalog.read(|r| {
            let source = r.get::<Backup>(of)?.filter(|b| !b.deleting);
            let source = source.ok_or_else(|| Error::not_found(format!("backup {of} was deleted meanwhile")))?;
            let from: VaultRow = r.need(source.vault)?;
            Ok((source, from, r.last_id::<Backup>()?))
        })?;
        let object = source.manifest.ok_or_else(|| Error::failed(format!("backup {of} has no manifest")))?;
        let from = self.open_vault_to_read(&from)?;
        let (vault, open) = self.vault_of_job(job)?;
        let original = from.vault.manifest(&object)?;
        open.vault.set_capacity(vault.capacity);
        let compression = check::compression(&vault.compression)?.1;
        let stored = transfer(&from.vault, &open.vault, &original, compression, progress)?;
        progress.check()?;
        let manifest = Manifest {
            uuid: row.uuid,
            machine: self.machine(),
            backup: row.id,
            high_water,
            previous: vault.last_manifest,
            parent: None,
            resource: Source {
                id: row.resource,
                name: row.resource_name.clone(),
                project: row.project_name.clone(),
                ..original.resource
            },
            backup_type: row.backup_type.clone(),
            description: row.description.clone(),
            completed_at: self.now(),
            incremental: row.incremental,
            stored,
            schedule: None,
            since_full: 0,
            checkpoint: None,
            ..original
        };
        let object = open.vault.put_manifest(&manifest).inspect_err(|_| self.note_unsure(row.id))?;
        fill(&mut row, object, &manifest);
        let (id, vault_id) = (row.id, vault.id);
        let mut report = Report::of(json!({ "stored": stored, "backup": id, "copy_of": of })).then(move |w| {
            w.update::<Backup>(id, |row| {
                fill(row, object, &manifest);
                Ok(())
            })?;
            w.update::<VaultRow>(vault_id, |vault| {
                vault.last_manifest = Some(object);
                Ok(())
            })?;
            Ok(())
        });
        report.show = Some(Box::new((row, vault, Arc::clone(&open))));
        report.export = Some(open);
        Ok(report)
    }
}
