//! Where an object was declared: over the bus, or in a configuration file, which then owns it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where an object comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Origin {
    file: Option<PathBuf>,
    orphaned: bool,
}

impl Origin {
    /// Of an object that a file declares.
    pub fn file(path: &Path) -> Self {
        Self { file: Some(path.to_path_buf()), orphaned: false }
    }

    /// The file that declares it now, and alone may change it.
    pub fn owner(&self) -> Option<&Path> {
        self.file.as_deref().filter(|_| !self.orphaned)
    }

    /// Whether the file that declared it does so no more.
    pub fn orphaned(&self) -> bool {
        self.orphaned
    }

    /// The same once its file does not declare it any more.
    pub fn orphan(&self) -> Self {
        Self { file: self.file.clone(), orphaned: true }
    }

    /// `bus`, or the file's path.
    pub fn text(&self) -> String {
        self.file.as_ref().map_or_else(|| "bus".to_owned(), |path| path.to_string_lossy().into_owned())
    }
}
