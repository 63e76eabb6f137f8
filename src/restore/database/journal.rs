//! What stands beside databases while they are restored: a file that is whole at every moment.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::model::{Database, Error, IoContext, Result};

/// One database under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Where it goes.
    pub database: Database,
    /// What the names beside it are made of.
    pub token: String,
    /// The name that it will have.
    pub name: String,
    /// Whether nothing had that name.
    pub fresh: bool,
    /// Whether it is finished from here on, and not undone.
    pub swapping: bool,
    /// What is made anew after the tables have moved.
    pub programs: String,
    /// What is made anew where they have not.
    pub undo: String,
}

impl Item {
    /// The name of the new one until it has its own.
    pub fn new_name(&self) -> String {
        format!("strongroom_{}_new", self.token)
    }

    /// The name of the old one until it goes.
    pub fn old_name(&self) -> String {
        format!("strongroom_{}_old", self.token)
    }
}

/// The file of them.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    items: Vec<Item>,
}

impl Journal {
    /// An empty one; the file comes with the first item.
    pub fn new(path: PathBuf) -> Self {
        Self { path, items: Vec::new() }
    }

    /// The one that a crash left; empty where there is none.
    pub fn read(path: &Path) -> Result<Self> {
        let what = || format!("the journal {} cannot be read", path.display());
        let items = match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| Error::failed(format!("{}: {e}", what())))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(e).at(what),
        };
        Ok(Self { path: path.to_owned(), items })
    }

    /// What is under way.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Adds one, durably.
    pub fn add(&mut self, item: Item) -> Result<()> {
        self.items.push(item);
        self.write()
    }

    /// Changes one, durably.
    pub fn replace(&mut self, item: Item) -> Result<()> {
        match self.items.iter_mut().find(|old| old.token == item.token) {
            Some(old) => *old = item,
            None => self.items.push(item),
        }
        self.write()
    }

    fn write(&self) -> Result<()> {
        let what = || format!("cannot write {}", self.path.display());
        let bytes = serde_json::to_vec(&self.items).map_err(|e| Error::failed(format!("{}: {e}", what())))?;
        let beside = self.path.with_extension("new");
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&beside).at(what)?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).at(what)?;
        std::fs::rename(&beside, &self.path).at(what)?;
        self.sync_directory()
    }

    fn sync_directory(&self) -> Result<()> {
        let Some(dir) = self.path.parent() else { return Ok(()) };
        File::open(dir).and_then(|dir| dir.sync_all()).at(|| format!("cannot write {}", dir.display()))
    }

    /// Removes the file: nothing is beside any more.
    pub fn remove(&self) -> Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).at(|| format!("cannot remove {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }
}
