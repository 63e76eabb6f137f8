//! Files through time: the versions of a file, files by pattern, what differs between two backups.
//!
//! The backups of a resource are walked from old to new, each compared with the one before, so that
//! a thousand backups cost little more than what changed between them. A version is one row, with
//! the backups from the first that has it to the last.

use std::collections::{BTreeMap, HashMap, hash_map};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

use super::fields::{self, Fields};
use super::open::OpenVault;
use super::page::Page;
use super::{Service, backups, check, select};
use crate::catalog::{Backup, Tables, VaultRow, backup as index};
use crate::model::{Args, Error, Id, Map, Progress, Result, Value};
use crate::source::Excludes;
use crate::vault::compare::{Change, Differences, compare};
use crate::vault::tree::{Content, Entry, Kind, Time};

/// More rows than this are of no use to anybody.
const ROWS: usize = 1_000_000;

const VERSION_FIELDS: &[&str] = &[
    "id",
    "path",
    "type",
    "size",
    "mtime",
    "mode",
    "backup",
    "first_backup",
    "last_backup",
    "backups",
    "created_at",
    "last_at",
    "browse_path",
];

const DIFF_FIELDS: &[&str] = &["id", "path", "change", "what", "type", "size", "old_size", "files", "from"];

/// A backup, and its place in the order of time.
#[derive(Debug, Clone, Copy)]
struct Moment {
    backup: u64,
    at: Timestamp,
    root: Id,
    vault: u64,
}

/// One content of one path, with the backups that have it.
#[derive(Debug, Clone)]
struct Version {
    path: Vec<u8>,
    entry: Entry,
    /// Places in the order of time.
    first: usize,
    last: usize,
}

/// What is wanted of a resource's past.
struct Past {
    moments: Vec<Moment>,
    vaults: HashMap<u64, Arc<OpenVault>>,
}

/// What an entry is called.
fn type_name(entry: &Entry) -> &'static str {
    match &entry.kind {
        Kind::Directory { .. } => "directory",
        Kind::File { .. } => "file",
        Kind::Symlink { .. } => "symlink",
        Kind::CharDevice(_) => "character_device",
        Kind::BlockDevice(_) => "block_device",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::Unread => "unread",
    }
}

fn size(entry: &Entry) -> u64 {
    match &entry.kind {
        Kind::File { size, .. } => *size,
        Kind::Directory { totals, .. } => totals.bytes,
        Kind::Symlink { target } => target.len() as u64,
        _ => 0,
    }
}

fn mtime(time: Time) -> Option<Timestamp> {
    Timestamp::new(time.sec, i32::try_from(time.nsec).ok()?).ok()
}

/// A path: text where it is UTF-8, else bytes.
fn path_value(path: &[u8]) -> Value {
    match std::str::from_utf8(path) {
        Ok(text) => text.into(),
        Err(_) => Value::Bytes(path.to_vec()),
    }
}

impl Service {
    /// The completed backups of a resource, from old to new, with their vaults open.
    fn past(&self, selector: &str, vault: Option<&str>) -> Result<Past> {
        let (mut rows, known) = self.catalog.read(|r| {
            let only = vault.map(|v| select::vault(r, v)).transpose()?.map(|v| v.id);
            let mut rows: Vec<Backup> = Vec::new();
            for id in select::resources_ever(r, selector)? {
                rows.extend(r.rows_at::<Backup>(index::GOOD_BY_RESOURCE, id)?);
            }
            rows.retain(|row| only.is_none_or(|only| row.vault == only));
            let known: HashMap<u64, VaultRow> = r.all::<VaultRow>()?.into_iter().map(|v| (v.id, v)).collect();
            Ok((rows, known))
        })?;
        rows.sort_by_key(|row| (row.created_at, row.id));
        let mut past = Past { moments: Vec::new(), vaults: HashMap::new() };
        for row in rows {
            let (Some(root), Some(vault)) = (row.root, known.get(&row.vault)) else { continue };
            if let hash_map::Entry::Vacant(slot) = past.vaults.entry(row.vault) {
                let open = self.open_vault_to_read(vault).map_err(|e| {
                    Error::new(e.kind, format!("{}; give another vault as vault to look there alone", e.message))
                })?;
                slot.insert(open);
            }
            past.moments.push(Moment { backup: row.id, at: row.created_at, root, vault: row.vault });
        }
        Ok(past)
    }

    /// All versions of one file of a resource.
    pub fn list_versions(&self, resource: &str, path: &str, options: Map) -> Result<(u64, Vec<Map>)> {
        let mut args = Args::new(options);
        let page = Page::take(&mut args, VERSION_FIELDS)?;
        let vault = args.string("vault")?;
        args.finish()?;
        let path = check::clean_path("path", Path::new(path))?;
        let past = self.past(resource, vault.as_deref())?;
        let mut versions: Vec<Version> = Vec::new();
        let mut before: Option<(Id, Option<Entry>)> = None;
        for (i, moment) in past.moments.iter().enumerate() {
            let same = before.as_ref().filter(|(root, _)| *root == moment.root).map(|(_, entry)| entry.clone());
            let entry = match same {
                Some(entry) => entry,
                None => match past.vaults.get(&moment.vault) {
                    Some(open) => open.vault.lookup(&moment.root, &path)?,
                    None => None,
                },
            };
            if let Some(entry) = &entry {
                match versions.last_mut().filter(|v| v.last + 1 == i && v.entry == *entry) {
                    Some(version) => version.last = i,
                    None => versions.push(Version {
                        path: path.as_os_str().as_bytes().to_vec(),
                        entry: entry.clone(),
                        first: i,
                        last: i,
                    }),
                }
            }
            before = Some((moment.root, entry));
        }
        Ok(page.cut(self.version_maps(&past, &versions)))
    }

    /// Files of a resource's backups by pattern.
    pub fn find_files(&self, resource: &str, glob: &str, options: Map) -> Result<(u64, Vec<Map>)> {
        let mut args = Args::new(options);
        let page = Page::take(&mut args, VERSION_FIELDS)?;
        let vault = args.string("vault")?;
        args.finish()?;
        if glob.is_empty() || glob.len() > 4096 || glob.contains(['\0', '\n']) || glob.starts_with(['!', '#']) {
            return Err(Error::invalid(
                "glob must be a pattern of 1 to 4096 bytes in gitignore syntax, such as *.conf or /etc/**/*.conf",
            ));
        }
        let glob = Excludes::new(&[glob.to_owned()]).map_err(|e| Error::invalid(e.message).context("glob"))?;
        let past = self.past(resource, vault.as_deref())?;
        let mut found = Matches { glob, at: 0, open: BTreeMap::new(), done: Vec::new() };
        let mut before: Option<(&OpenVault, &Id)> = None;
        for (i, moment) in past.moments.iter().enumerate() {
            let Some(open) = past.vaults.get(&moment.vault) else { continue };
            found.at = i;
            if before.is_none_or(|(_, root)| *root != moment.root) {
                let old = before.map(|(open, root)| (&*open.vault, root));
                compare(old, Some((&open.vault, &moment.root)), &mut found, &Progress::default())?;
            }
            before = Some((open, &moment.root));
        }
        let last = past.moments.len().saturating_sub(1);
        let mut versions = found.done;
        let still = found.open.into_iter();
        versions.extend(still.map(|(path, (entry, first))| Version { path, entry, first, last }));
        versions.sort_by(|a, b| (&a.path, a.first).cmp(&(&b.path, b.first)));
        Ok(page.cut(self.version_maps(&past, &versions)))
    }

    fn version_maps(&self, past: &Past, versions: &[Version]) -> Vec<Map> {
        let map = |(id, version): (u64, &Version)| {
            let (first, last) = (past.moments.get(version.first)?, past.moments.get(version.last)?);
            let mut f = Fields::default();
            f.set("id", id).set("path", path_value(&version.path)).set("type", type_name(&version.entry));
            f.set("size", size(&version.entry)).time("mtime", mtime(version.entry.meta.mtime));
            f.set("mode", format!("{:04o}", version.entry.meta.mode));
            f.set("backup", last.backup).set("first_backup", first.backup).set("last_backup", last.backup);
            f.set("backups", (version.last - version.first + 1) as u64);
            f.time("created_at", Some(first.at)).time("last_at", Some(last.at));
            if self.options.browse.is_some() {
                let top = self.options.browse_path.join("backups").join(last.backup.to_string());
                let below = version.path.strip_prefix(b"/").unwrap_or(&version.path).to_vec();
                f.set("browse_path", fields::lossy(&top.join(PathBuf::from(std::ffi::OsString::from_vec(below)))));
            }
            Some(f.done())
        };
        (1..).zip(versions).filter_map(map).collect()
    }

    /// What differs between two backups: what is added, removed, changed and moved from the first
    /// to the second.
    pub fn diff_backups(&self, first: u64, second: u64, options: Map) -> Result<(u64, Vec<Map>)> {
        let mut args = Args::new(options);
        let page = Page::take(&mut args, DIFF_FIELDS)?;
        args.finish()?;
        let sides = self.catalog.read(|r| {
            let mut sides = Vec::new();
            for id in [first, second] {
                let row = backups::completed(r, id)?;
                sides.push((row.root, r.need::<VaultRow>(row.vault)?));
            }
            Ok(sides)
        })?;
        let mut trees = Vec::new();
        for (root, vault) in &sides {
            let root = root.ok_or_else(|| Error::failed("a backup has no root"))?;
            trees.push((self.open_vault_to_read(vault)?, root));
        }
        let mut diff = Diff::default();
        if let [(old, a), (new, b)] = trees.as_slice()
            && a != b
        {
            compare(Some((&old.vault, a)), Some((&new.vault, b)), &mut diff, &Progress::default())?;
        }
        Ok(page.cut(diff.maps()))
    }
}

/// Versions of files that a pattern wants.
struct Matches {
    glob: Excludes,
    /// The backup that is looked at.
    at: usize,
    /// Versions that the one before has, and since when.
    open: BTreeMap<Vec<u8>, (Entry, usize)>,
    done: Vec<Version>,
}

impl Matches {
    fn close(&mut self, path: &[u8]) {
        if let Some((entry, first)) = self.open.remove(path) {
            self.done.push(Version { path: path.to_vec(), entry, first, last: self.at.saturating_sub(1) });
        }
    }
}

impl Differences for Matches {
    fn change(&mut self, path: &[u8], change: Change<'_>) -> Result<bool> {
        self.close(path);
        if let Change::Added(entry) | Change::Changed(_, entry) = change {
            let shown = Path::new(std::ffi::OsStr::from_bytes(path));
            if self.glob.matches(shown, matches!(entry.kind, Kind::Directory { .. })) {
                if self.open.len() + self.done.len() >= ROWS {
                    return Err(Error::invalid(format!("glob matches more than {ROWS} versions; give a narrower one")));
                }
                self.open.insert(path.to_vec(), (entry.clone(), self.at));
            }
        }
        Ok(true)
    }
}

/// One row of a comparison.
#[derive(Debug)]
struct Row {
    path: Vec<u8>,
    change: &'static str,
    what: &'static str,
    entry: Entry,
    old_size: Option<u64>,
    from: Option<Vec<u8>>,
}

#[derive(Debug, Default)]
struct Diff {
    rows: Vec<Row>,
}

/// What makes a file or directory the same at another path; nothing of what is everywhere.
fn identity(entry: &Entry) -> Option<(u64, Vec<Id>)> {
    match &entry.kind {
        Kind::Directory { node, totals, .. } if totals.entries > 0 => Some((u64::MAX, vec![*node])),
        Kind::File { size, content, .. } => match content {
            Content::Empty => None,
            Content::Whole(id) => Some((*size, vec![*id])),
            Content::Parts(parts) | Content::Lists(parts) => Some((*size, parts.iter().map(|p| p.id).collect())),
        },
        _ => None,
    }
}

impl Differences for Diff {
    fn change(&mut self, path: &[u8], change: Change<'_>) -> Result<bool> {
        if self.rows.len() >= ROWS {
            return Err(Error::invalid(format!("the backups differ in more than {ROWS} paths")));
        }
        let (name, what, entry, old) = match change {
            Change::Added(entry) => ("added", "", entry, None),
            Change::Removed(entry) => ("removed", "", entry, None),
            Change::Changed(a, b) if type_name(a) != type_name(b) => ("changed", "type", b, Some(a)),
            Change::Changed(a, b) if a.kind != b.kind && !matches!(b.kind, Kind::Directory { .. }) => {
                ("changed", "content", b, Some(a))
            }
            Change::Changed(a, b) => ("changed", "metadata", b, Some(a)),
        };
        let (entry, path) = (entry.clone(), path.to_vec());
        self.rows.push(Row { path, change: name, what, entry, old_size: old.map(size), from: None });
        // Of a directory that came or went one row tells enough.
        Ok(false)
    }
}

impl Diff {
    /// Makes one row of what was removed here and added there.
    fn join_moves(&mut self) {
        let mut removed: HashMap<(u64, Vec<Id>), usize> = HashMap::new();
        for (i, row) in self.rows.iter().enumerate().filter(|(_, row)| row.change == "removed") {
            if let Some(identity) = identity(&row.entry) {
                removed.entry(identity).or_insert(i);
            }
        }
        let mut gone = Vec::new();
        for i in 0..self.rows.len() {
            let Some(row) = self.rows.get(i).filter(|row| row.change == "added") else { continue };
            let Some(old) = identity(&row.entry).and_then(|identity| removed.remove(&identity)) else { continue };
            let from = self.rows.get(old).map(|row| row.path.clone());
            gone.push(old);
            if let Some(row) = self.rows.get_mut(i) {
                (row.change, row.from) = ("moved", from);
            }
        }
        gone.sort_unstable();
        let mut at = 0;
        self.rows.retain(|_| {
            at += 1;
            gone.binary_search(&(at - 1)).is_err()
        });
    }

    fn maps(mut self) -> Vec<Map> {
        self.join_moves();
        let map = |(id, row): (u64, &Row)| {
            let mut f = Fields::default();
            f.set("id", id).set("path", path_value(&row.path)).set("change", row.change).text("what", row.what);
            f.set("type", type_name(&row.entry)).set("size", size(&row.entry)).opt("old_size", row.old_size);
            if let Kind::Directory { totals, .. } = &row.entry.kind {
                f.set("files", totals.files);
            }
            f.opt("from", row.from.as_deref().map(path_value)).done()
        };
        (1..).zip(&self.rows).map(map).collect()
    }
}
