//! What is on the bus before it is built: every argument is checked as it will be, and what is
//! missing is named.

use std::path::Path;

use super::page::Page;
use super::{Service, backups, check, select, vaults};
use crate::model::{Args, Error, Map, Result, Value};

/// The longest name of a snapshot, in bytes.
const SNAPSHOT_NAME: usize = 255;

const SNAPSHOT_FIELDS: &[&str] = &[
    "id",
    "job",
    "server",
    "name",
    "status",
    "size_mb",
    "engine",
    "automatic",
    "created_at",
    "description",
    "message",
];

/// The error of a use case that is not built yet.
pub(super) fn not_built(what: &str, instead: &str) -> Error {
    Error::invalid_state(format!("{what} is not built into this version; {instead}"))
}

fn snapshot_name(name: &str) -> Result<()> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if name.is_empty() || name.len() > SNAPSHOT_NAME || !name.bytes().all(fits) {
        let start: String = name.chars().take(40).collect();
        return Err(Error::invalid(format!(
            "snapshot name {start:?} must be 1 to {SNAPSHOT_NAME} letters, digits, dashes and underscores"
        )));
    }
    Ok(())
}

fn no_snapshot(id: u64) -> Error {
    Error::not_found(format!("there is no snapshot {id}; list the snapshots for those there are"))
}

/// A server's selector, which may be a number: `resource` or `server_id`.
pub(super) fn server(args: &mut Args) -> Result<Option<String>> {
    let resource = args.string("resource")?;
    let server = match args.value("server_id") {
        None => None,
        Some(Value::Str(s)) => Some(s),
        Some(Value::Uint(n)) => Some(n.to_string()),
        Some(Value::Uint32(n)) => Some(n.to_string()),
        Some(Value::Int(n)) if n >= 0 => Some(n.to_string()),
        Some(Value::Int32(n)) if n >= 0 => Some(n.to_string()),
        Some(other) => {
            return Err(Error::invalid(format!("server_id is {}; it must be a string (s) or an id", other.kind())));
        }
    };
    if resource.is_some() && server.is_some() {
        return Err(Error::invalid("resource and server_id are both given; they mean the same, give one"));
    }
    Ok(resource.or(server))
}

impl Service {
    /// Takes a snapshot, once there is an engine for it.
    pub fn create_snapshot(&self, selector: &str, name: &str, options: Map) -> Result<Map> {
        let mut args = Args::new(options);
        backups::description(&mut args)?;
        args.choice("unit_action", &["none", "freeze", "stop"])?;
        args.finish()?;
        snapshot_name(name)?;
        let row = self.catalog.read(|r| select::resource(r, selector))?;
        Err(not_built(&format!("an engine that takes snapshots of resource {:?}", row.name), "make a backup"))
    }

    /// One snapshot: there are none yet.
    pub fn get_snapshot(&self, id: u64) -> Result<Map> {
        Err(no_snapshot(id))
    }

    /// Lists snapshots: there are none yet.
    pub fn list_snapshots(&self, options: Map) -> Result<(u64, Vec<Map>)> {
        let mut args = Args::new(options);
        let page = Page::take(&mut args, SNAPSHOT_FIELDS)?;
        let server = server(&mut args)?;
        args.finish()?;
        if let Some(selector) = server {
            self.catalog.read(|r| select::resources_ever(r, &selector))?;
        }
        Ok(page.cut(Vec::new()))
    }

    /// Deletes a snapshot.
    pub fn delete_snapshot(&self, id: u64, options: Map) -> Result<u64> {
        Args::new(options).finish()?;
        Err(no_snapshot(id))
    }

    /// Restores a snapshot.
    pub fn restore_snapshot(&self, id: u64, options: Map) -> Result<Map> {
        let mut args = Args::new(options);
        args.bool("confirm")?;
        args.finish()?;
        Err(no_snapshot(id))
    }

    /// Copies a backup to another vault.
    pub fn copy_backup(&self, id: u64, vault: &str, options: Map) -> Result<u64> {
        Args::new(options).finish()?;
        self.catalog.read(|r| {
            let row = backups::completed(r, id)?;
            let target = select::vault(r, vault)?;
            vaults::refuse_removing(&target)?;
            if row.vault == target.id {
                return Err(Error::invalid(format!("backup {id} is in vault {:?} already; name another", target.name)));
            }
            Err(not_built("copying a backup to another vault", "back the resource up to it with the key vault"))
        })
    }

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
