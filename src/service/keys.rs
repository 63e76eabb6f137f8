//! Keys of vaults.

use std::path::Path;

use super::fields::{self, Fields};
use super::open::write_key_file;
use super::{Service, check, select};
use crate::catalog::VaultRow;
use crate::model::{Args, Error, Id, Map, Result};
use crate::vault::{Secret, SlotInfo, SlotKind};

fn slot_map(slot: &SlotInfo) -> Fields {
    let mut f = Fields::default();
    f.set("id", slot.id.hex()).set(
        "kind",
        match slot.kind {
            SlotKind::File => "file",
            SlotKind::Recovery => "recovery",
        },
    );
    f.time("created_at", Some(slot.created_at));
    f
}

impl Service {
    fn vault_row(&self, selector: &str) -> Result<VaultRow> {
        self.catalog.read(|r| select::vault(r, selector))
    }

    /// Adds a key. A recovery key is answered here, once, and kept nowhere.
    pub fn add_vault_key(&self, selector: &str, options: Map) -> Result<Map> {
        let mut args = Args::new(options);
        let kind = args.choice("kind", &["recovery", "file"])?.unwrap_or_else(|| "recovery".into());
        let path = args.string("path")?;
        args.finish()?;
        if kind == "recovery" {
            if path.is_some() {
                return Err(Error::invalid("path is given for a recovery key, which is only printed; leave it out"));
            }
            let open = self.open_vault(&self.vault_row(selector)?)?;
            let (slot, printed) = open.vault.add_recovery_key()?;
            self.mirrors_behind(open.id);
            return Ok(slot_map(&slot).set("recovery_key", printed).done());
        }
        let path = path.ok_or_else(|| Error::invalid("path is missing; give the absolute path of the file to make"))?;
        let path = check::clean_path("path", Path::new(&path))?;
        if path.symlink_metadata().is_ok() {
            return Err(Error::already_exists(format!("path is {}, which exists; give a new one", path.display())));
        }
        let open = self.open_vault(&self.vault_row(selector)?)?;
        let secret = Secret::random()?;
        // The file first: a slot whose secret is lost would only look like a key.
        write_key_file(&path, &secret)?;
        match open.vault.add_key_file(&secret) {
            Ok(slot) => {
                self.mirrors_behind(open.id);
                Ok(slot_map(&slot).set("path", fields::lossy(&path)).done())
            }
            Err(e) => {
                let _ = std::fs::remove_file(&path);
                Err(e)
            }
        }
    }

    /// Lists a vault's keys, oldest first.
    pub fn list_vault_keys(&self, selector: &str) -> Result<Vec<Map>> {
        let row = self.vault_row(selector)?;
        if !row.encryption {
            return Ok(Vec::new());
        }
        let open = self.open_vault(&row)?;
        let own = open.own_slot()?;
        let map = |slot: &SlotInfo| slot_map(slot).set("own", own == Some(slot.id)).done();
        Ok(open.vault.key_slots()?.iter().map(map).collect())
    }

    /// Removes a key; neither the last one, nor the one this machine itself opens the vault with.
    pub fn remove_vault_key(&self, selector: &str, key: &str, options: Map) -> Result<()> {
        Args::new(options).finish()?;
        let id: Id = key.parse().map_err(|e: Error| e.context("key"))?;
        let row = self.vault_row(selector)?;
        let open = self.open_vault(&row)?;
        let slots = open.vault.key_slots()?;
        if !slots.iter().any(|s| s.id == id) {
            return Err(Error::not_found(format!("vault {:?} has no key {key}; list its keys", row.name)));
        }
        if slots.len() > 1 && open.own_slot()? == Some(id) {
            return Err(Error::invalid_state(format!(
                "this machine itself opens the vault {:?} with that key; it stays",
                row.name
            )));
        }
        open.vault.remove_key_slot(&id)?;
        self.mirrors_behind(open.id);
        Ok(())
    }
}
