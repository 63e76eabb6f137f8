//! Destinations: where vaults rest.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Origin, Row};

/// A destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// What it is.
    #[serde(flatten)]
    pub place: Place,
    /// How many backups are kept on this copy.
    pub max_backups: Option<u64>,
    /// When it was added.
    pub created_at: Timestamp,
    /// Where it was declared.
    #[serde(default)]
    pub origin: Origin,
}

/// What a destination is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Place {
    /// A directory of this machine.
    Local {
        /// Which.
        #[serde(with = "super::paths::one")]
        directory: PathBuf,
    },
}

impl Destination {
    /// Its directory.
    pub fn directory(&self) -> &std::path::Path {
        match &self.place {
            Place::Local { directory } => directory,
        }
    }

    /// Its type's name.
    pub fn type_name(&self) -> &'static str {
        match self.place {
            Place::Local { .. } => "local",
        }
    }
}

impl Row for Destination {
    const TABLE: &'static str = "destinations";
    const KIND: u8 = 3;
    const NOUN: &'static str = "destination";

    fn id(&self) -> u64 {
        self.id
    }

    fn name(&self) -> Option<(u64, &str)> {
        Some((0, &self.name))
    }
}
