//! Whether a place holds a copy of a vault, and beginning one.

use super::listing::Small;
use crate::model::{Error, ErrorKind, Result};
use crate::store::ObjectStore;
use crate::vault::Vault;
use crate::vault::config::{self, VaultConfig};
use crate::vault::seal::FORMAT;

/// Where objects of a vault are, besides `vault.json`.
const PREFIXES: [&str; 7] = ["backups/", "packs/", "index/", "keys/", "state/", "deleted/", "sessions/"];

fn config_of(vault: &Vault) -> VaultConfig {
    VaultConfig { format: FORMAT, uuid: vault.uuid(), encrypted: vault.encrypted() }
}

/// Fails as `DestinationFailed` unless the store holds a copy of the vault.
pub fn holds_copy(store: &dyn ObjectStore, vault: &Vault) -> Result<()> {
    let lost = |why: String| {
        Error::destination_failed(format!(
            "it does not hold the copy of the vault {} that was made there ({why}); mount or bring back what did, or \
             take the mirror out of the vault and add it again to have it filled anew",
            vault.uuid()
        ))
    };
    match config::read_config(store) {
        Ok(there) if there == config_of(vault) => Ok(()),
        Ok(there) => Err(lost(format!("it holds the vault {}", there.uuid))),
        Err(e) if e.kind == ErrorKind::DestinationFailed => Err(e),
        Err(e) => Err(lost(e.message)),
    }
}

/// Begins a copy in an empty place: keys first, `vault.json` last, so that what can be seen can be
/// opened. A copy that is there already, or was begun, is taken up again.
pub fn begin(store: &dyn ObjectStore, vault: &Vault) -> Result<()> {
    match config::read_config(store) {
        Ok(there) if there == config_of(vault) => return Ok(()),
        Ok(there) => {
            return Err(Error::invalid_state(format!(
                "it holds the vault {} already; give an empty place to the mirror",
                there.uuid
            )));
        }
        Err(e) if e.kind == ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let keys = Small::Key.list(&*vault.store)?;
    for prefix in PREFIXES {
        let there = store.list(prefix)?;
        // Keys of ours are those of an attempt that was cut short.
        let ours = prefix == "keys/" && Small::Key.list(store)?.is_subset(&keys);
        if !there.is_empty() && !ours {
            return Err(Error::invalid_state(format!(
                "it has files in {prefix} already; give an empty place to the mirror"
            )));
        }
    }
    for id in &keys {
        let key = Small::Key.key(id);
        let bytes = vault.read_object(&key, id, super::listing::SMALL_MAX)?;
        store.put(&key, &bytes)?;
    }
    store.sync()?;
    config::write_config(store, &config_of(vault))?;
    store.sync()
}

/// Writes `vault.json` anew where it is missing or damaged in a place that is certainly a copy of
/// the vault: it has a manifest or a key of it, whose names nobody comes upon by chance. Says
/// whether that was needed and done.
pub fn repair_identity(store: &dyn ObjectStore, config: &VaultConfig, known: &dyn ObjectStore) -> Result<bool> {
    match config::read_config(store) {
        Ok(there) if there == *config => return Ok(false),
        Err(e) if e.kind == ErrorKind::DestinationFailed => return Err(e),
        _ => {}
    }
    for class in [Small::Key, Small::Manifest, Small::Index] {
        if !class.list(store)?.is_disjoint(&class.list(known)?) {
            config::write_config(store, config)?;
            store.sync()?;
            return Ok(true);
        }
    }
    Ok(false)
}
