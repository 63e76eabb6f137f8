//! Where bytes rest: objects under keys, in a place that can put, get, list and delete.
//!
//! A store promises that a put is atomic (an object is there whole or not at all) and that after
//! [`ObjectStore::sync`] everything put or deleted before survives a loss of power. It promises
//! nothing about what it gives back: whoever reads checks.
//!
//! | file | what it holds |
//! |---|---|
//! | `place` | where a store is, and opening it |
//! | `local` | a directory of this machine |
//! | `copies` | other copies of the same objects, for reading |
//! | `direct` | large files past the page cache |
//! | `settings`, `login` | how a bucket is reached, and the keys to it |
//! | `s3` | a bucket of an S3 store (cargo feature `s3`) |

pub mod copies;
pub mod direct;
pub mod local;
pub mod login;
pub mod place;
#[cfg(feature = "s3")]
pub mod s3;
pub mod settings;

use std::fmt::Debug;

use crate::model::{Error, Result};

pub use copies::Copies;
pub use local::LocalStore;
pub use login::{Login, LoginFile};
pub use place::{Patience, Place, S3Place};
#[cfg(feature = "s3")]
pub use s3::S3Store;
pub use settings::S3Settings;

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

    /// The same, unless there is an object already; says whether it was stored.
    fn put_if_absent(&self, key: &str, data: &[u8]) -> Result<bool>;

    /// The whole object; `NotFound` if there is none, `Damaged` if it is larger than `limit` or its
    /// bytes cannot be had while those of others can.
    fn get(&self, key: &str, limit: u64) -> Result<Vec<u8>>;

    /// Exactly `len` bytes from `offset`; `Damaged` if the object is shorter or they cannot be had
    /// while those of others can.
    fn get_range(&self, key: &str, offset: u64, len: usize) -> Result<Vec<u8>>;

    /// The same into `buffer`, by a store that can. What it held is lost.
    fn get_range_into(&self, key: &str, offset: u64, len: usize, buffer: Vec<u8>) -> Result<Vec<u8>> {
        drop(buffer);
        self.get_range(key, offset, len)
    }

    /// The object's size, or `None` if there is none.
    fn size(&self, key: &str) -> Result<Option<u64>>;

    /// All objects whose key starts with `prefix` (which ends in `/`), in no order.
    fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>>;

    /// Removes the object; one that is not there is no error.
    fn delete(&self, key: &str) -> Result<()>;

    /// Makes all earlier puts and deletions survive a loss of power.
    fn sync(&self) -> Result<()>;

    /// Room in the place; an error where it is known not to work. Asks no other machine.
    fn space(&self) -> Result<Space>;

    /// Settles what an earlier process left: names it gave become durable, and what it put
    /// without giving it a name is removed. Only for the one writer of the place.
    fn sweep(&self) -> Result<()>;
}

/// Refuses what is no key.
fn check_key(key: &str) -> Result<()> {
    let fine = !key.is_empty()
        && key.split('/').all(|part| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b))
        });
    if fine { Ok(()) } else { Err(Error::invalid(format!("{key:?} is not an object's key"))) }
}
