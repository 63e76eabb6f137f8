//! Destinations: where vaults rest.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Origin, Row};
use crate::store::S3Settings;

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
    /// A bucket.
    S3(Bucket),
}

/// A bucket. What opens it is not here, but in a file of its own: rows are copied and exported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// How it is reached.
    pub settings: S3Settings,
    /// Who asks, where the credential need not say it.
    #[serde(default)]
    pub access_key_id: Option<String>,
    /// What opens it.
    pub credential: Credential,
}

/// Where the keys to a bucket are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Credential {
    /// A systemd credential, or a file by its absolute path.
    Named(String),
    /// A file of ours, made of what was given over the bus.
    Own(Uuid),
}

impl Destination {
    /// Its directory, where it is one.
    pub fn directory(&self) -> Option<&Path> {
        match &self.place {
            Place::Local { directory } => Some(directory),
            Place::S3(_) => None,
        }
    }

    /// Its type's name.
    pub fn type_name(&self) -> &'static str {
        match self.place {
            Place::Local { .. } => "local",
            Place::S3(_) => "s3",
        }
    }
}

impl Place {
    /// Whether it is somebody else's machine: what lies there is always encrypted.
    pub fn is_cloud(&self) -> bool {
        matches!(self, Self::S3(_))
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
