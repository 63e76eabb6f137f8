//! Where bytes rest: objects under keys, in a place that can put, get, list and delete.
//!
//! A store promises that a put is atomic (an object is there whole or not at all) and that after
//! [`ObjectStore::sync`] everything put or deleted before survives a loss of power. It promises
//! nothing about what it gives back: whoever reads checks.

pub mod local;

use std::fmt::Debug;

use crate::model::Result;

pub use local::LocalStore;

/// One object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// The whole key, such as `packs/ab/ab12…`.
    pub key: String,
    /// Stored bytes.
    pub size: u64,
}

/// Room in a destination, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What the destination can still take, where that is known.
    pub free: Option<u64>,
}

/// A place for objects. Keys are relative paths of `[a-z0-9./-]` without `.` or `..` parts.
pub trait ObjectStore: Send + Sync + Debug {
    /// Stores `data` under `key`, replacing what was there. The content is durable before the
    /// name can be seen; the name is durable after the next [`ObjectStore::sync`].
    fn put(&self, key: &str, data: &[u8]) -> Result<()>;

    /// The whole object; `NotFound` if there is none, `Damaged` if it is larger than `limit` or its
    /// bytes cannot be had while those of others can.
    fn get(&self, key: &str, limit: u64) -> Result<Vec<u8>>;

    /// Exactly `len` bytes from `offset`; `Damaged` if the object is shorter or they cannot be had
    /// while those of others can.
    fn get_range(&self, key: &str, offset: u64, len: usize) -> Result<Vec<u8>>;

    /// The object's size, or `None` if there is none.
    fn size(&self, key: &str) -> Result<Option<u64>>;

    /// All objects whose key starts with `prefix` (which ends in `/`), in no order.
    fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>>;

    /// Removes the object; one that is not there is no error.
    fn delete(&self, key: &str) -> Result<()>;

    /// Makes all earlier puts and deletions survive a loss of power.
    fn sync(&self) -> Result<()>;

    /// Room in the place.
    fn space(&self) -> Result<Space>;
}
