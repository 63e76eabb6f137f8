//! Keeping the mount in step with the catalog.
//!
//! A mount that cannot be had never holds up a backup: it is logged, and the rest goes on.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use jiff::Timestamp;

use super::open::OpenVault;
use super::{Service, ServiceOptions, check, locked};
use crate::browse::{BackupView, BrowseClient, BrowseOptions, Policy, VaultAccess};
use crate::catalog::{Backup, Tables, VaultRow, backup};
use crate::model::{Error, Result, message, name};
use crate::store::Place;
use crate::vault::tree::Totals;

/// The mount, if there is one.
pub(super) struct Show {
    client: Option<BrowseClient>,
    /// Held while the mount and the catalog are changed together.
    order: Mutex<()>,
    /// Set while somebody looks for vaults that were away.
    looking: AtomicBool,
}

impl Show {
    /// Starts the browse process, or finds the one that is still there.
    pub fn start(options: &ServiceOptions) -> Self {
        let client = options.browse.as_ref().and_then(|browse| {
            let options = BrowseOptions {
                mount: options.browse_path.clone(),
                socket: browse.socket.clone(),
                // To the process itself zero means for ever.
                linger: browse.linger.map_or(Duration::ZERO, |linger| linger.max(Duration::from_secs(1))),
                executable: browse.executable.clone(),
            };
            let failed =
                |e: &Error| tracing::warn!(message_id = message::MOUNT_FAILED, "backups cannot be browsed: {e}");
            BrowseClient::start(options).inspect_err(failed).ok()
        });
        Self { client, order: Mutex::default(), looking: AtomicBool::new(false) }
    }

    /// Keeps others from changing the mount meanwhile.
    pub fn hold(&self) -> MutexGuard<'_, ()> {
        locked(&self.order)
    }

    /// Unmounts.
    pub fn stop(&self) {
        if let Some(client) = &self.client
            && let Err(e) = client.stop()
        {
            tracing::warn!("the mount could not be ended: {e}");
        }
    }
}

fn policy(text: &str) -> Policy {
    match text.strip_prefix("owner=") {
        // A user who went away leaves root alone to look.
        Some(user) => check::owner(user).map_or(Policy::Root, Policy::Owner),
        None if text == "strict" => Policy::Strict,
        None => Policy::Root,
    }
}

fn view(row: &Backup, vault: &VaultRow) -> Result<BackupView> {
    let missing = || Error::failed(format!("backup {} has no root", row.id));
    let (project, machine, policy) = match &row.machine {
        None => (row.project_name.clone(), None, policy(&row.browse)),
        // Whose users are who here is not known.
        Some(machine) => {
            let known = name::check("machine", &machine.name).is_ok();
            let name = if known { machine.name.clone() } else { machine.id.to_string() };
            (format!("{}@{name}", row.project_name), Some((name, row.project_name.clone())), Policy::Root)
        }
    };
    Ok(BackupView {
        id: row.id,
        vault: vault.uuid,
        root: row.root.ok_or_else(missing)?,
        totals: Totals {
            entries: row.entries.unwrap_or_default(),
            files: row.files.unwrap_or_default(),
            bytes: row.size.unwrap_or_default(),
        },
        project,
        resource: row.resource_name.clone(),
        machine,
        checkpoint: row.checkpoint,
        created_at: row.created_at,
        policy,
        partial: row.partial,
    })
}

impl Service {
    fn access(&self, open: &Arc<OpenVault>) -> VaultAccess {
        VaultAccess {
            uuid: open.vault.uuid(),
            // Keys to a bucket may be others by now.
            place: open.place.fresh(),
            others: open.others().iter().map(Place::fresh).collect(),
            master: open.master.clone(),
            cache_dir: self.options.cache_dir.clone(),
        }
    }

    /// Shows everything that the catalog says is there, and nothing else.
    pub(super) fn show_all(&self) {
        let Some(client) = &self.show.client else { return };
        // Opened before anybody waits: a destination may be slow.
        let mut vaults = self.catalog.read(Tables::all::<VaultRow>).unwrap_or_default();
        vaults.retain(|v| !v.removing && !v.emptied);
        self.open_promptly(&vaults);
        let _order = self.show.hold();
        let shown = self.catalog.read(|r| {
            let mut found = Vec::new();
            for vault in r.all::<VaultRow>()?.into_iter().filter(|v| !v.removing) {
                let mut rows = r.rows_at::<Backup>(backup::GOOD_BY_VAULT, vault.id)?;
                rows.extend(r.rows_at::<Backup>(backup::PARTIAL, vault.id)?);
                found.push((vault, rows));
            }
            Ok(found)
        });
        let sent = shown.and_then(|found| {
            let (mut vaults, mut views) = (Vec::new(), Vec::new());
            for (vault, rows) in found {
                let Some(open) = self.vaults.opened_to_read(vault.id) else { continue };
                vaults.push(self.access(&open));
                for row in rows {
                    views.push(view(&row, &vault)?);
                }
            }
            client.set(vaults, views)
        });
        if let Err(e) = sent {
            tracing::warn!(message_id = message::MOUNT_FAILED, "the mount could not be brought up to date: {e}");
        }
    }

    /// Looks again for vaults on other machines that could not be opened, and shows what is in them.
    pub(super) fn tick_absent(&self, _now: Timestamp) -> Result<Option<Timestamp>> {
        if !self.vaults.any_left() || self.show.looking.swap(true, SeqCst) {
            return Ok(None);
        }
        // Nothing else that is due waits for it.
        let me = Weak::clone(&self.me);
        let spawned = std::thread::Builder::new().name("absent vaults".into()).spawn(move || {
            if let Some(me) = me.upgrade() {
                me.show_all();
                me.show.looking.store(false, SeqCst);
            }
        });
        spawned.map(drop).map_err(|e| {
            self.show.looking.store(false, SeqCst);
            Error::io("cannot start a thread", &e)
        })?;
        Ok(None)
    }

    /// Shows a backup that is about to be completed; returns when it can be seen. The caller
    /// holds [`Show::hold`].
    pub(super) fn show_one(&self, row: &Backup, vault: &VaultRow, open: &Arc<OpenVault>) {
        let Some(client) = &self.show.client else { return };
        let shown = view(row, vault).and_then(|view| client.add(self.access(open), view));
        if let Err(e) = shown {
            tracing::warn!("backup {} cannot be browsed: {e}", row.id);
        }
    }

    /// Takes a backup out of the mount; returns when it is gone.
    pub(super) fn hide(&self, id: u64) {
        let Some(client) = &self.show.client else { return };
        let _order = self.show.hold();
        if let Err(e) = client.remove(id) {
            tracing::warn!("backup {id} could not be taken out of the mount: {e}");
        }
    }
}
