//! Copies of backups in other vaults.

use uuid::Uuid;

use super::submit::Draft;
use super::{Event, Service, backups, select};
use crate::catalog::{Backup, State, Task};
use crate::model::{Args, Error, Map, Result};

impl Service {
    /// Copies a backup into another vault, as a manual backup of its own there.
    pub fn copy_backup(&self, id: u64, vault: &str, options: Map) -> Result<u64> {
        let mut args = Args::new(options);
        let description = args.string("description")?;
        args.finish()?;
        let (job, copy) = self.submit_with(|w, job| {
            let of = backups::completed(w, id)?;
            if of.is_partial() {
                return Err(Error::invalid_state(format!("backup {id} is partial; copy one that is complete")));
            }
            let target = select::vault(w, vault)?;
            self.refuse_full(&target)?;
            if of.vault == target.id {
                return Err(Error::invalid(format!("backup {id} is in vault {:?} already; name another", target.name)));
            }
            let copy = w.next_id::<Backup>()?;
            let row = Backup {
                id: copy,
                uuid: Uuid::new_v4(),
                job,
                machine: None,
                vault: target.id,
                vault_name: target.name.clone(),
                encrypted: target.encryption,
                backup_type: "manual".into(),
                protected: false,
                edited: false,
                status: State::Pending,
                description: description.unwrap_or_else(|| of.description.clone()),
                completed_at: None,
                expires_at: None,
                manifest: None,
                stored: None,
                unique: None,
                message: None,
                schedule: None,
                since_full: 0,
                checkpoint: None,
                copies: Vec::new(),
                expired_on: Vec::new(),
                copy_of: Some(id),
                ..of
            };
            w.put(&row)?;
            let draft = Draft {
                resource: Some(row.resource),
                backup: Some(copy),
                vault: Some(row.vault),
                ..Draft::new(Task::Backup { reread: false }, backups::ticket(&row))
            };
            Ok((draft, copy))
        })?;
        self.emit(Event::BackupChanged { id: copy, status: "pending".into() });
        Ok(job)
    }
}
