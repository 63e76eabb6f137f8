//! Where trees and bytes come from: a vault, opened when it is first needed and again when it
//! was away.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::model::{Error, ErrorKind, Id, Result};
use crate::store::Patience;
use crate::vault::tree::Node;
use crate::vault::{self, SegmentCache, Vault};

use super::types::VaultAccess;

/// A blob's plain bytes.
pub type Bytes = Arc<dyn Deref<Target = [u8]> + Send + Sync>;

/// What the tree view needs from a vault. Every call may take long.
pub trait TreeSource: Send + Sync {
    /// One node of a tree.
    fn node(&self, id: &Id) -> Result<Node>;
    /// A blob's plain bytes.
    fn blob(&self, id: &Id) -> Result<Bytes>;
}

/// A vault that could not be opened is tried again after this time.
const REOPEN: Duration = Duration::from_secs(5);

/// After an error the index is read again, but not more often than this.
const REFRESH: Duration = Duration::from_secs(2);

/// A vault as the daemon told about it.
pub struct VaultSource {
    access: VaultAccess,
    segments: Arc<SegmentCache>,
    vault: RwLock<Option<Arc<Vault>>>,
    opening: Mutex<Option<(Instant, Error)>>,
    refreshed: Mutex<Option<Instant>>,
}

impl VaultSource {
    /// Takes note of how to open the vault. What is decoded of it is kept among `segments`.
    pub fn new(access: VaultAccess, segments: Arc<SegmentCache>) -> Self {
        Self { access, segments, vault: RwLock::default(), opening: Mutex::default(), refreshed: Mutex::default() }
    }

    /// How it is opened.
    pub fn access(&self) -> &VaultAccess {
        &self.access
    }

    /// The open vault. An attempt that failed is answered for a while without another.
    pub fn open(&self) -> Result<Arc<Vault>> {
        if let Some(vault) = &*self.vault.read().unwrap_or_else(PoisonError::into_inner) {
            return Ok(vault.clone());
        }
        let mut opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(vault) = &*self.vault.read().unwrap_or_else(PoisonError::into_inner) {
            return Ok(vault.clone());
        }
        if let Some((when, error)) = &*opening
            && when.elapsed() < REOPEN
        {
            return Err(error.clone());
        }
        let access = &self.access;
        let opened = access.place.open(Patience::READ);
        let others = access.others.clone();
        let opened = opened.and_then(|store| {
            Vault::open_with(store, others, access.master.clone(), &access.cache_dir, self.segments.clone())
        });
        match opened {
            Ok(vault) if vault.uuid() == access.uuid => {
                if access.place.is_elsewhere() {
                    vault.keep_frames(vault::FRAMES_KEPT);
                }
                *self.vault.write().unwrap_or_else(PoisonError::into_inner) = Some(vault.clone());
                *opening = None;
                Ok(vault)
            }
            Ok(vault) => Err(Error::destination_failed(format!(
                "{} holds the vault {}, not the expected {}",
                access.place.title(),
                vault.uuid(),
                access.uuid
            ))),
            Err(error) => {
                *opening = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Reads the index again, since the daemon may have written or pruned; not too often. Gives
    /// whether it did.
    fn refresh(&self, vault: &Vault) -> bool {
        let mut refreshed = self.refreshed.lock().unwrap_or_else(PoisonError::into_inner);
        if refreshed.is_some_and(|when| when.elapsed() < REFRESH) {
            return false;
        }
        let done = vault.refresh();
        *refreshed = Some(Instant::now());
        if let Err(error) = &done {
            tracing::warn!(vault = %self.access.uuid, "cannot read the vault's index again: {error}");
        }
        done.is_ok()
    }

    /// Reads the index again now.
    pub fn refresh_now(&self) -> Result<()> {
        self.open()?.refresh()
    }

    fn attempt<T>(&self, read: impl Fn(&Vault) -> Result<T>) -> Result<T> {
        let vault = self.open()?;
        match read(&vault) {
            Err(error) if error.kind != ErrorKind::Cancelled && self.refresh(&vault) => read(&vault),
            other => other,
        }
    }
}

impl TreeSource for VaultSource {
    fn node(&self, id: &Id) -> Result<Node> {
        self.attempt(|vault| vault.node(id))
    }

    fn blob(&self, id: &Id) -> Result<Bytes> {
        self.attempt(|vault| vault.read_blob(id).map(|blob| Arc::new(blob) as Bytes))
    }
}
