//! Copies of a vault in other places: filled, kept up to date, checked and repaired.
//!
//! A mirror is a copy of the vault's objects, which are never changed and are named by what they
//! hold, so whatever is there under its name is either right or damaged. It is written in the
//! order in which the vault itself is (packs, index, manifests), so that a backup that can be seen
//! in it is whole; and nothing in it is deleted because something is missing in the vault: only
//! what a tombstone names goes, and what a mirror with a limit of backups does not need.
//!
//! | file | what it holds |
//! |---|---|
//! | `listing` | which objects a copy has |
//! | `join` | whether a place holds a copy of this vault, and beginning one |
//! | `lives` | index objects of a mirror that was the first copy once |
//! | `sync` | bringing a mirror up to date |
//! | `drop` | deleting from a mirror |
//! | `check` | comparing all copies object by object, and repairing one from another |

mod check;
mod drop;
mod join;
mod listing;
mod lives;
mod sync;

use std::collections::HashSet;

use crate::model::Id;
use crate::store::ObjectStore;

use super::check::Problem;

pub use check::{Before, Copy, CopyReport, check_copies};
pub use join::{begin, holds_copy, repair_identity};
pub use sync::sync;

/// A copy of a vault, as it is to be.
#[derive(Debug)]
pub struct Mirror<'a> {
    /// Where it is.
    pub store: &'a dyn ObjectStore,
    /// Whether it was filled before. Then it must be there; else the place must be empty.
    pub joined: bool,
    /// The manifests beyond its limit, where it has one: what is not named here stays.
    pub over: Option<HashSet<Id>>,
}

/// What bringing a mirror up to date did.
#[derive(Debug, Clone, Default)]
pub struct SyncReport {
    /// Objects that were copied.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that were deleted.
    pub deleted: u64,
    /// Manifests that the mirror has now.
    pub manifests: HashSet<Id>,
    /// Bytes of all packs that it has now.
    pub stored: u64,
    /// What could not be copied, or is there and nobody knows why.
    pub problems: Vec<Problem>,
}
