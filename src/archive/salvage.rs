//! What an interrupted backup had read, made into a tree: the change cache that it left says what
//! each file was and which blobs hold it, directory by directory in the order of the walk.
//!
//! An entry is only taken when the vault holds all of it. What the backup did not get to is not
//! there, and neither is what it could not remember: files that changed just before they were read.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use super::cache::{self, Found};
use super::plan::absolute;
use super::stored::is_stored;
use crate::model::{Error, Id, Progress, Result};
use crate::vault::directory::{put_directory, put_root};
use crate::vault::seal::Class;
use crate::vault::tree::{Entry, Kind, Link, Metadata, Origin, Totals};
use crate::vault::writer::Lane;
use crate::vault::{Vault, VaultWriter};

/// What could be saved.
#[derive(Debug, Clone, Copy)]
pub struct Salvaged {
    /// The root of the tree.
    pub root: Id,
    /// What is beneath it.
    pub totals: Totals,
    /// Bytes added to the vault.
    pub stored: u64,
}

/// A directory whose entries are being collected.
struct Open {
    path: Vec<u8>,
    meta: Metadata,
    origin: Origin,
    entries: BTreeMap<Vec<u8>, Entry>,
}

impl Open {
    /// One of which nothing is known but that something lies beneath it.
    fn above(path: Vec<u8>) -> Self {
        let meta = Metadata { mode: 0o700, ..Metadata::default() };
        Self { path, meta, origin: Origin::Ancestor, entries: BTreeMap::new() }
    }

    fn holds(&self, path: &[u8]) -> bool {
        self.path == b"/"
            || path.strip_prefix(self.path.as_slice()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }
}

struct Salvage<'a> {
    vault: &'a Vault,
    writer: &'a VaultWriter,
    lane: Lane,
    /// From `/` down to the directory that was read last.
    open: Vec<Open>,
    last: Vec<u8>,
    /// First names of inodes with several.
    firsts: HashSet<Vec<u8>>,
}

/// Stores a tree of what `backup`, which was interrupted, left beside `change_cache`; `None` if that is no
/// file at all, or another wrote there since. Nothing refers to the tree until the caller publishes a manifest. The cache
/// stays as good as it was for the next backup.
///
/// # Errors
/// When the vault cannot be read or written, or the work is cancelled. A damaged cache is read up to there.
pub fn salvage(
    vault: &Arc<Vault>,
    writer: VaultWriter,
    (change_cache, backup): (&Path, Uuid),
    progress: &Progress,
) -> Result<Option<Salvaged>> {
    let rest = cache::Rest::open(change_cache, vault.uuid(), backup);
    let lane = writer.lane(Class::TreePack)?;
    let mut salvage = Salvage {
        vault,
        writer: &writer,
        lane,
        open: vec![Open::above(b"/".to_vec())],
        last: Vec::new(),
        firsts: HashSet::new(),
    };
    for found in rest {
        progress.check()?;
        progress.set_current(&String::from_utf8_lossy(&found.path));
        salvage.add(found)?;
    }
    let (root, totals) = salvage.finish()?;
    let Salvage { lane, .. } = salvage;
    drop(lane);
    let stored = writer.finish()?;
    Ok((totals.files > 0).then_some(Salvaged { root, totals, stored }))
}

impl Salvage<'_> {
    fn add(&mut self, found: Found) -> Result<()> {
        let Found { path, dir, entries } = found;
        // What has been left is stored by now.
        if !path.starts_with(b"/") || cache::walk_order(&path, &self.last).is_lt() {
            return Ok(());
        }
        self.last.clone_from(&path);
        while self.open.last().is_some_and(|top| !top.holds(&path)) {
            self.close()?;
        }
        self.descend(&path);
        let Some(top) = self.open.last_mut() else { return Err(Error::failed("a tree without a root")) };
        if let Kind::Directory { origin, .. } = dir.kind {
            (top.meta, top.origin) = (dir.meta, origin);
        }
        for (_, entry) in entries {
            let linked = match &entry.link {
                Link::To { up, path: to, .. } => {
                    absolute(&path, *up, to).is_some_and(|first| self.firsts.contains(&first))
                }
                Link::First { .. } | Link::None => true,
            };
            if !linked || top.entries.contains_key(&entry.name) || !is_stored(self.vault, self.writer, &entry) {
                continue;
            }
            if matches!(entry.link, Link::First { .. }) {
                self.firsts.insert(child(&path, &entry.name));
            }
            top.entries.insert(entry.name.clone(), entry);
        }
        Ok(())
    }

    /// Opens what lies between the last directory and this one.
    fn descend(&mut self, path: &[u8]) {
        let from = self.open.last().map_or(0, |top| if top.path == b"/" { 0 } else { top.path.len() });
        let rest = path.get(from..).unwrap_or_default();
        let mut at = path.get(..from).unwrap_or_default().to_vec();
        for name in rest.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
            at.push(b'/');
            at.extend_from_slice(name);
            self.open.push(Open::above(at.clone()));
        }
    }

    /// Makes the last directory an entry of the one above.
    fn close(&mut self) -> Result<()> {
        let Some(done) = self.open.pop() else { return Ok(()) };
        let name = done.path.rsplit(|b| *b == b'/').next().unwrap_or_default().to_vec();
        let entry = self.entry(name.clone(), done)?;
        if let Some(above) = self.open.last_mut() {
            above.entries.insert(name, entry);
        }
        Ok(())
    }

    fn entry(&mut self, name: Vec<u8>, done: Open) -> Result<Entry> {
        let entries: Vec<Entry> = done.entries.into_values().collect();
        let (node, totals) = put_directory(&mut self.lane, &entries)?;
        let kind = Kind::Directory { node, totals, origin: done.origin };
        Ok(Entry { name, meta: done.meta, link: Link::None, kind })
    }

    fn finish(&mut self) -> Result<(Id, Totals)> {
        while self.open.len() > 1 {
            self.close()?;
        }
        let root = self.open.pop().unwrap_or_else(|| Open::above(b"/".to_vec()));
        let root = self.entry(Vec::new(), root)?;
        let id = put_root(&mut self.lane, &root)?;
        self.lane.flush()?;
        let Kind::Directory { totals, .. } = root.kind else { return Err(Error::failed("a tree without a root")) };
        Ok((id, totals))
    }
}

fn child(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let dir = if dir == b"/" { b"" } else { dir };
    [dir, b"/", name].concat()
}
