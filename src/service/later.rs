//! What is on the bus before it is built: every argument is checked as it will be, and what is
//! missing is named.

use std::path::Path;

use super::page::Page;
use super::{Service, backups, check, select};
use crate::model::{Args, Error, Map, Result};

/// The error of a use case that is not built yet.
pub(super) fn not_built(what: &str, instead: &str) -> Error {
    Error::invalid_state(format!("{what} is not built into this version; {instead}"))
}

impl Service {
    /// All versions of one file of a resource.
    pub fn list_versions(&self, resource: &str, path: &str, options: Map) -> Result<(u64, Vec<Map>)> {
        let mut args = Args::new(options);
        Page::take(&mut args, &["id", "backup", "path", "size", "mtime", "created_at"])?;
        args.finish()?;
        check::clean_path("path", Path::new(path))?;
        self.catalog.read(|r| select::resources_ever(r, resource))?;
        Err(not_built("listing the versions of a file", "compare them below the browse path"))
    }

    /// Files of a resource's backups by pattern.
    pub fn find_files(&self, resource: &str, glob: &str, options: Map) -> Result<(u64, Vec<Map>)> {
        let mut args = Args::new(options);
        Page::take(&mut args, &["id", "backup", "path", "size", "mtime", "created_at"])?;
        args.finish()?;
        if glob.is_empty() || glob.len() > 4096 || glob.contains('\0') {
            return Err(Error::invalid("glob must be a pattern of 1 to 4096 bytes, such as *.conf"));
        }
        self.catalog.read(|r| select::resources_ever(r, resource))?;
        Err(not_built("finding files by pattern", "use find below the browse path"))
    }

    /// What differs between two backups.
    pub fn diff_backups(&self, first: u64, second: u64, options: Map) -> Result<(u64, Vec<Map>)> {
        let mut args = Args::new(options);
        Page::take(&mut args, &["id", "path", "change"])?;
        args.finish()?;
        self.catalog.read(|r| backups::completed(r, first).and_then(|_| backups::completed(r, second)))?;
        Err(not_built("comparing two backups", "compare them below the browse path"))
    }
}
