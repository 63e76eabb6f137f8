//! An open vault.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use super::manifest::Manifest;
use super::tree::{Content, Entry, Node, Part};
use crate::model::{Error, Id, Result};
use crate::store::ObjectStore;

/// The key from which all keys of a vault are derived.
#[derive(Clone, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub struct MasterKey(pub [u8; 32]);

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey")
    }
}

/// What a new vault is to be.
#[derive(Debug)]
pub struct NewVault {
    /// Its identity.
    pub uuid: Uuid,
    /// Its key; `None` makes an unencrypted vault.
    pub master: Option<MasterKey>,
}

/// A blob's plain bytes, verified against its id; shares its segment's memory.
#[derive(Debug, Clone)]
pub struct Blob {
    segment: Arc<[u8]>,
    start: usize,
    end: usize,
}

impl Deref for Blob {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.segment.get(self.start..self.end).unwrap_or_default()
    }
}

/// Where a blob lies. Sorting by location makes reads sequential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The pack, by its number in the local index (not stable across openings).
    pub pack: u32,
    /// The segment's ordinal in the pack.
    pub segment: u32,
    /// The blob's offset in the segment.
    pub offset: u32,
    /// The blob's length.
    pub len: u32,
}

/// An open vault: cheap to share, safe to use from many threads.
#[derive(Debug)]
pub struct Vault {
    uuid: Uuid,
}

impl Vault {
    /// Makes a vault in an empty place. Doing it again with the same uuid and key is no error.
    pub fn create(_store: &dyn ObjectStore, _new: &NewVault) -> Result<()> {
        Err(Error::failed("not built yet"))
    }

    /// Opens the vault in `store`. `master` must be its key, or `None` if it is unencrypted.
    /// The local index is kept beneath `cache_dir` (one directory per vault, made if missing).
    /// `memory` bounds the cache of decoded segments, in bytes.
    pub fn open(
        _store: Arc<dyn ObjectStore>,
        _master: Option<MasterKey>,
        _cache_dir: &Path,
        _memory: usize,
    ) -> Result<Arc<Self>> {
        Err(Error::failed("not built yet"))
    }

    /// The vault's identity.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// Whether it is encrypted.
    pub fn encrypted(&self) -> bool {
        true
    }

    /// Brings the local index up to what the store holds now (another process may have written).
    pub fn refresh(&self) -> Result<()> {
        Err(Error::failed("not built yet"))
    }

    /// Whether the vault holds the blob.
    pub fn contains(&self, _id: &Id) -> bool {
        false
    }

    /// Where the blob lies, if the vault holds it.
    pub fn locate(&self, _id: &Id) -> Option<Location> {
        None
    }

    /// A blob's plain bytes, authenticated and checked against `id`; decoded segments are kept
    /// in a bounded cache, so blobs of one segment cost one decode.
    pub fn read_blob(&self, _id: &Id) -> Result<Blob> {
        Err(Error::failed("not built yet"))
    }

    /// One node of a tree.
    pub fn node(&self, _id: &Id) -> Result<Node> {
        Err(Error::failed("not built yet"))
    }

    /// All entries of a directory, over all of its nodes, sorted by name.
    pub fn entries(&self, _node: &Id) -> Result<Vec<Entry>> {
        Err(Error::failed("not built yet"))
    }

    /// One entry of a directory by name.
    pub fn entry(&self, _node: &Id, _name: &[u8]) -> Result<Option<Entry>> {
        Err(Error::failed("not built yet"))
    }

    /// The entry at an absolute `path` beneath the root node (`/` itself has none: `None`).
    pub fn lookup(&self, _root: &Id, _path: &Path) -> Result<Option<Entry>> {
        Err(Error::failed("not built yet"))
    }

    /// The blobs of a content of `len` bytes, lists resolved.
    pub fn parts(&self, _content: &Content, _len: u64) -> Result<Vec<Part>> {
        Err(Error::failed("not built yet"))
    }

    /// The ids of all manifests in the store.
    pub fn manifests(&self) -> Result<Vec<Id>> {
        Err(Error::failed("not built yet"))
    }

    /// Reads a manifest.
    pub fn manifest(&self, _id: &Id) -> Result<Manifest> {
        Err(Error::failed("not built yet"))
    }

    /// Publishes a backup: everything stored before it is made durable first, then it.
    pub fn put_manifest(&self, _manifest: &Manifest) -> Result<Id> {
        Err(Error::failed("not built yet"))
    }

    /// Deletes a backup for good: tombstone first, then the manifest. Space comes back by prune.
    pub fn delete_manifest(&self, _id: &Id) -> Result<()> {
        Err(Error::failed("not built yet"))
    }

    /// The directory of this vault's local index.
    pub fn cache_dir(&self) -> PathBuf {
        PathBuf::new()
    }
}
