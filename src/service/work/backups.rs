//! Backups: source to vault, then manifest, change cache, mount and catalog, in this order.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;

use super::Report;
use crate::archive::{self, BackupRequest};
use crate::catalog::{Backup, Job, Resource, Schedule, State, Tables, VaultRow, backup};
use crate::model::{Id, Progress, Result};
use crate::service::{Service, check};
use crate::snapshot;
use crate::vault::manifest::{MANIFEST_FORMAT, Source};
use crate::vault::tree::Totals;
use crate::vault::{Manifest, VaultWriter};

/// Takes over what a manifest says.
pub(in crate::service) fn fill(row: &mut Backup, object: Id, manifest: &Manifest) {
    row.status = if manifest.partial { State::Failed } else { State::Completed };
    row.manifest = Some(object);
    row.root = Some(manifest.root);
    row.size = Some(manifest.totals.bytes);
    row.files = Some(manifest.totals.files);
    row.entries = Some(manifest.totals.entries);
    row.stored = Some(manifest.stored);
    row.errors = Some(manifest.errors);
    row.error_list = manifest.error_list;
    row.partial = manifest.partial;
    row.completed_at = Some(manifest.completed_at);
    row.error = manifest.partial.then(|| row.error.take().unwrap_or_else(|| "it was interrupted".into()));
    if manifest.partial {
        row.message =
            Some("what it had stored by then can be browsed and restored, until a later one completes".into());
    } else if manifest.errors > 0 {
        row.message =
            Some(format!("{} files could not be read or changed meanwhile; list its errors", manifest.errors));
    }
}

/// Notes on a resource that it has a new good backup.
pub(in crate::service) fn note_success(resource: &mut Resource, row: &Backup) {
    resource.last_success = row.completed_at;
    resource.last_backup = row.completed_at;
    resource.last_size = row.size;
    resource.last_entries = row.entries;
}

/// Adds to what there is to say of a backup.
fn say(row: &mut Backup, words: Option<String>) {
    if let Some(words) = words {
        row.message = Some(match row.message.take() {
            Some(said) => format!("{said}; {words}"),
            None => words,
        });
    }
}

fn view(view: snapshot::View) -> archive::View {
    let snapshot::View { path, handle, is_dir, device, original } = view;
    archive::View { path, handle: Arc::new(handle), is_dir, device, original }
}

impl Service {
    /// The manifest of a backup but for what it found: root, totals, errors, parent and stored bytes.
    pub(super) fn draft_manifest(&self, row: &Backup, resource: &Resource, began: Timestamp) -> Result<Manifest> {
        let (schedule, previous, high_water) = self.catalog.read(|r| {
            let schedule = row.schedule.map(|id| r.get::<Schedule>(id)).transpose()?.flatten();
            Ok((schedule.map(|s| s.name), r.need::<VaultRow>(row.vault)?.last_manifest, r.last_id::<Backup>()?))
        })?;
        Ok(Manifest {
            format: MANIFEST_FORMAT,
            uuid: row.uuid,
            machine: self.machine(),
            backup: row.id,
            high_water,
            previous,
            parent: None,
            resource: Source {
                id: resource.id,
                name: resource.name.clone(),
                project: row.project_name.clone(),
                kind: resource.kind.clone(),
                // Databases alone, or files as well.
                paths: if row.r#type == "database" { Vec::new() } else { resource.paths.clone() },
                exclude: resource.exclude.clone(),
                one_file_system: resource.one_file_system,
                browse: resource.browse.clone(),
            },
            r#type: row.r#type.clone(),
            backup_type: row.backup_type.clone(),
            description: row.description.clone(),
            created_at: began,
            completed_at: self.now(),
            incremental: row.incremental,
            partial: false,
            root: Id([0; 32]),
            totals: Totals::default(),
            errors: 0,
            error_list: None,
            stored: 0,
            schedule,
            since_full: row.since_full,
            checkpoint: row.checkpoint,
        })
    }

    /// The change cache of a resource's backups in a vault.
    pub(super) fn change_cache(&self, vault: &VaultRow, resource: u64) -> Result<PathBuf> {
        let caches = self.options.cache_dir.join("changes").join(vault.uuid.to_string());
        crate::catalog::private_dir(&caches)?;
        Ok(caches.join(resource.to_string()))
    }

    pub(super) fn run_backup(&self, job: &Job, reread: bool, progress: &Arc<Progress>) -> Result<Report> {
        let mut row = self.backup_of_job(job)?;
        if let Some(of) = row.copy_of {
            return self.run_copy(job, row, of, progress);
        }
        let (vault, open) = self.vault_of_job(job)?;
        let (resource, parent, never) = self.catalog.read(|r| {
            // The newest good one in this vault; those before it are not read.
            let good = r.indexed(backup::GOOD_BY_RESOURCE, row.resource)?;
            let mut newest = good.into_iter().rev().map(|id| r.need::<Backup>(id));
            let parent = newest.find(|b| b.as_ref().map_or(true, |b| b.vault == row.vault)).transpose()?;
            let resource = r.need::<Resource>(row.resource)?;
            Ok((resource, parent, self.own_directories(r)?))
        })?;
        let began = self.now();
        // Databases alone, or files as well.
        let paths = if row.r#type == "database" { Vec::new() } else { resource.paths.clone() };
        let compression = check::compression(&vault.compression)?.1;
        open.vault.set_capacity(vault.capacity);
        let databases = self.prepare_dumps(&row, &resource, &paths, progress)?;
        let writer = VaultWriter::start(&open.vault, compression)?;
        // Before anything is held back: dumps need their servers.
        let dumps = databases.store(&writer, began, progress)?;
        let mut moment = match paths.is_empty() {
            true => None,
            false => Some(self.moment(&row, &resource, progress)?),
        };
        let views = moment.as_mut().map(|m| m.views()).unwrap_or_default();
        let through = views.len();
        let mut request = BackupRequest {
            paths: paths.clone(),
            views: views.into_iter().map(view).collect(),
            exclude: resource.exclude.clone(),
            one_file_system: resource.one_file_system,
            never,
            volumes: resource.kind == "volume",
            reread,
            change_cache: self.change_cache(&vault, resource.id)?,
            backup: row.uuid,
            compression,
            workers: 0,
        };
        if let (Some(bytes), Some(entries)) = (resource.last_size, resource.last_entries) {
            progress.expect(entries, bytes);
        }
        let outcome = archive::backup_into(&open.vault, writer, dumps, &request, progress)?;
        // What was read is read; what holds it open keeps it from going.
        request.views.clear();
        let mut result = serde_json::json!({
            "files": outcome.totals.files, "bytes": outcome.totals.bytes,
            "stored": outcome.stored, "errors": outcome.errors, "paths_from_snapshots": through,
            "databases": databases.count(),
        });
        let words = moment.and_then(|moment| moment.end(&mut result));
        progress.check()?;
        progress.set_current("");
        let mut manifest = self.draft_manifest(&row, &resource, began)?;
        manifest.parent = parent.as_ref().filter(|_| !reread).map(|b| b.uuid);
        (manifest.root, manifest.totals, manifest.stored) = (outcome.root, outcome.totals, outcome.stored);
        (manifest.errors, manifest.error_list) = (outcome.errors, outcome.error_list);
        let object = open.vault.put_manifest(&manifest).inspect_err(|_| self.note_unsure(row.id))?;
        // From here on the backup is there, whatever happens to us; nothing below may fail it.
        if row.r#type != "database"
            && let Err(e) = archive::commit_cache(&request)
        {
            tracing::warn!("backup {}: {e}; the next backup reads everything again", row.id);
        }
        fill(&mut row, object, &manifest);
        databases.note(&mut row);
        progress.expect(outcome.totals.entries, outcome.totals.bytes);
        let (id, vault_id, resource_id) = (row.id, vault.id, resource.id);
        let mut report = Report::of(result).then(move |w| {
            let row = w.update::<Backup>(id, |row| {
                fill(row, object, &manifest);
                databases.note(row);
                say(row, words);
                Ok(())
            })?;
            w.update::<VaultRow>(vault_id, |vault| {
                vault.last_manifest = Some(object);
                Ok(())
            })?;
            if let Some(mut resource) = w.get::<Resource>(resource_id)? {
                note_success(&mut resource, &row);
                w.put(&resource)?;
            }
            Ok(())
        });
        // What the mount shows is what the catalog says by now, not what it said at the start.
        let now = self.catalog.read(|r| r.need::<Backup>(id))?;
        row.resource_name = now.resource_name;
        row.project_name = now.project_name;
        row.browse = now.browse;
        report.show = Some(Box::new((row, vault, Arc::clone(&open))));
        report.export = Some(open);
        Ok(report)
    }
}
