//! `vault.json`: what a vault is, in the clear, written once.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::seal::FORMAT;
use crate::model::{Error, ErrorKind, Result};
use crate::store::ObjectStore;

/// The key of the object.
pub const KEY: &str = "vault.json";

/// What `vault.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultConfig {
    /// The format's version.
    pub format: u8,
    /// The vault's identity.
    pub uuid: Uuid,
    /// Whether its objects are encrypted (AES-256-GCM) or only protected by checksums.
    pub encrypted: bool,
}

/// Reads `vault.json`; `NotFound` where there is none.
pub fn read_config(store: &dyn ObjectStore) -> Result<VaultConfig> {
    let bytes = store.get(KEY, 1 << 16).map_err(|e| match e.kind {
        ErrorKind::NotFound => Error::not_found("there is no vault here: vault.json does not exist"),
        _ => e,
    })?;
    let config: VaultConfig =
        serde_json::from_slice(&bytes).map_err(|e| Error::damaged(format!("vault.json cannot be read: {e}")))?;
    if config.format != FORMAT {
        return Err(Error::damaged(format!(
            "the vault is of format {}; this version reads format {FORMAT}",
            config.format
        )));
    }
    Ok(config)
}

/// Writes `vault.json`.
pub fn write_config(store: &dyn ObjectStore, config: &VaultConfig) -> Result<()> {
    let bytes = serde_json::to_vec(config).map_err(|e| Error::failed(format!("vault.json cannot be written: {e}")))?;
    store.put(KEY, &bytes)
}
