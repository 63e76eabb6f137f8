//! Snapshots: what paths hold at one moment, kept on the same storage.
//!
//! What it guarantees: a snapshot is there when its marker is, which is written last and removed
//! first; it holds every path whole, with all metadata; what is there by then is never changed.
//! Nothing outside the directory `.strongroom` of a mount, and volumes of its own, is written, but by a
//! restore ([`swap`]), which leaves every path whole in one state or the other. No symbolic link is ever
//! followed. `docs/snapshots.md` says what administrators should know.
//!
//! | file | what it holds |
//! |---|---|
//! | `place` | a path as it stands, and which engine can take it |
//! | `store` | where snapshots rest, and how they are found again |
//! | `engine` | what an engine is: btrfs subvolumes, trees of reflinked files |
//! | `clone`, `crew`, `remove` | trees: cloned, gone through, removed |
//! | `thin` | thin volumes of LVM |
//! | `take` | the steps by which a snapshot comes to be |
//! | `transient` | snapshots that last as long as a backup |
//! | `swap` | the steps by which one is put in place of what is there |
//! | `ioctl` | what btrfs is asked |

mod clone;
mod crew;
mod engine;
mod ioctl;
mod place;
mod remove;
mod store;
pub mod swap;
mod take;
mod thin;
mod transient;

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::paths;

pub use crew::Tally;
pub use place::Place;
pub use store::{Store, part_path, sweep};
pub use take::{Taking, delete, engines, markers, measure, plan, ready};
pub use transient::{Transient, View};

/// The format of a marker.
pub const FORMAT: u32 = 1;

/// An engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Subvolumes of btrfs.
    Btrfs,
    /// Trees of files that share their blocks.
    Reflink,
    /// Thin volumes of LVM.
    Thin,
}

impl Kind {
    /// Its name on the bus.
    pub fn name(self) -> &'static str {
        match self {
            Self::Btrfs => "btrfs",
            Self::Reflink => "reflink",
            Self::Thin => "lvm-thin",
        }
    }
}

/// One path in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The path it is of.
    #[serde(with = "paths::one")]
    pub path: PathBuf,
    /// How it was taken.
    pub engine: Kind,
    /// Whether all of it is of one moment.
    pub atomic: bool,
    /// Where the file system that holds it was mounted; of a volume, its own path.
    #[serde(with = "paths::one")]
    pub mount: PathBuf,
    /// The store there; of a volume, what tells it from others.
    pub store: Uuid,
}

/// What a snapshot says of itself, for a catalog that does not know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// [`FORMAT`].
    pub format: u32,
    /// The snapshot's own name.
    pub uuid: Uuid,
    /// Its id in the catalog of its machine.
    pub id: u64,
    /// The machine that took it.
    pub machine: Uuid,
    /// Of what.
    pub resource: Whose,
    /// What it is called.
    pub name: String,
    /// Words of whoever asked for it.
    pub description: String,
    /// Whether a schedule took it.
    pub automatic: bool,
    /// Which.
    pub schedule: Option<u64>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// Its paths, in the order of their names in the snapshot.
    pub parts: Vec<Part>,
}

/// The resource that a snapshot is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whose {
    /// Its id.
    pub id: u64,
    /// Its name at the time.
    pub name: String,
    /// Its project's name at the time.
    pub project: String,
}
