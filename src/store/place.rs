//! Where a store is, with what it takes to open it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{LocalStore, Login, LoginFile, ObjectStore, S3Settings};
use crate::model::Result;

/// How long a store that does not answer is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// No attempt begins later than this after the first.
    pub total: Duration,
    /// How long one attempt may take, besides the time that its bytes need.
    pub attempt: Duration,
}

impl Patience {
    /// Of jobs: a server may be started again meanwhile.
    pub const WORK: Self = Self { total: Duration::from_secs(60), attempt: Duration::from_secs(30) };
    /// Of somebody who waits for a file.
    pub const READ: Self = Self { total: Duration::from_secs(10), attempt: Duration::from_secs(10) };
    /// Of somebody who asks whether it is there at all.
    pub const ASK: Self = Self { total: Duration::from_secs(3), attempt: Duration::from_secs(5) };
}

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// A directory of this machine.
    Local(PathBuf),
    /// A bucket.
    S3(Box<S3Place>),
}

/// A bucket, with the keys to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3Place {
    /// How it is reached.
    pub settings: S3Settings,
    /// What opens it.
    pub login: Login,
    /// Where the login was read from. It stays with the process that can read it.
    #[serde(skip)]
    pub file: Option<LoginFile>,
}

impl Place {
    /// Which place it is, in words.
    pub fn title(&self) -> String {
        match self {
            Self::Local(directory) => directory.display().to_string(),
            Self::S3(place) => place.settings.title(),
        }
    }

    /// Whether it is somebody else's machine.
    pub fn is_elsewhere(&self) -> bool {
        matches!(self, Self::S3(_))
    }

    /// The same place with the keys to it that are there now.
    #[must_use]
    pub fn fresh(&self) -> Self {
        let mut fresh = self.clone();
        if let Self::S3(place) = &mut fresh
            && let Some(login) = place.file.as_ref().and_then(|file| file.read().ok())
        {
            place.login = login;
        }
        fresh
    }

    /// Opens the store. A local directory must exist; whether a bucket does is found by the first
    /// request.
    pub fn open(&self, patience: Patience) -> Result<Arc<dyn ObjectStore>> {
        match self {
            Self::Local(directory) => Ok(Arc::new(LocalStore::open(directory)?)),
            #[cfg(feature = "s3")]
            Self::S3(place) => Ok(Arc::new(super::S3Store::open(place, patience)?)),
            #[cfg(not(feature = "s3"))]
            Self::S3(_) => {
                let _ = patience;
                Err(crate::model::Error::invalid("this strongroomd was built without S3; use a local directory"))
            }
        }
    }
}
