//! A share of a vault: the objects whose ids lie in a range. Ids are hashes, so ranges of equal length hold about
//! as much, and an object is always in exactly one of ranges that follow each other.

use serde::{Deserialize, Serialize};

use crate::model::Id;

/// A range of ids, by their first eight bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Where it begins.
    pub from: u64,
    /// Where it ends, which is outside; `u64::MAX`: it has all ids from `from` on.
    pub to: u64,
}

impl Share {
    /// Everything.
    pub const ALL: Self = Self { from: 0, to: u64::MAX };

    /// Whether an object is in it.
    pub fn contains(&self, id: &Id) -> bool {
        let at = id.prefix();
        self.from <= at && (at < self.to || self.to == u64::MAX)
    }

    /// Whether it is everything.
    pub fn is_all(&self) -> bool {
        *self == Self::ALL
    }
}
