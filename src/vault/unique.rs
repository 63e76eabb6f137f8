//! What each backup alone refers to: the space that its deletion would give back.
//!
//! Every blob has the first backup in which it was met for its owner, until a second one refers to it
//! as well. What hangs under a node that is shared is shared too, so every node is read twice at most,
//! however many backups there are.

use std::collections::HashMap;
use std::sync::Arc;

use super::handle::Vault;
use super::index::LocalIndex;
use super::tree::{Content, Entry, Kind, Node, content};
use crate::model::{Error, Id, Progress, Result};

/// Nobody's so far.
const NOBODY: u32 = 0;
/// Of more than one backup.
const SHARED: u32 = u32::MAX;

/// Nodes and lists that are remembered; with more a vault is not measured, since it would take too much memory.
const NODES_MAX: usize = 8 << 20;

/// A blob's place in the index: its run, and its number there.
type Place = (u32, u32);

/// Stored bytes that nothing but one backup refers to, by manifest. `reads` counts the nodes and lists that
/// were read for it.
#[derive(Debug, Default)]
pub struct UniqueSizes {
    /// By the id of the manifest.
    pub sizes: HashMap<Id, u64>,
    /// Nodes and lists that were read.
    pub reads: u64,
}

/// Looks through all backups of a vault. Anything that cannot be read is an error: what hangs under it is
/// not known.
pub fn unique_sizes(vault: &Vault, progress: &Progress) -> Result<UniqueSizes> {
    let mut owners = Owners::new(vault.index());
    let manifests = vault.manifests()?;
    for (id, owner) in manifests.iter().zip(1..SHARED) {
        let manifest = vault.manifest(id)?;
        owners.tree(vault, owner, &manifest.root, progress)?;
        if let Some(list) = &manifest.error_list {
            owners.blob(owner, list, false)?;
        }
    }
    let sizes = owners.sizes(manifests.len());
    Ok(UniqueSizes { sizes: manifests.into_iter().zip(sizes).collect(), reads: owners.reads })
}

struct Owners {
    index: Arc<LocalIndex>,
    blobs: Vec<Vec<u32>>,
    /// Nodes and lists that were gone through. A file may hold the very bytes of one, which says nothing of
    /// what hangs under it: so they have an owner of their own.
    nodes: HashMap<Place, u32>,
    reads: u64,
}

impl Owners {
    fn new(index: Arc<LocalIndex>) -> Self {
        let blobs = index.runs().iter().map(|run| vec![NOBODY; run.blob_count()]).collect();
        Self { index, blobs, nodes: HashMap::new(), reads: 0 }
    }

    /// Notes that a backup refers to a blob; `shared` if others do for certain.
    fn blob(&mut self, owner: u32, id: &Id, shared: bool) -> Result<Place> {
        let (run, i) = self.index.home(id).ok_or_else(|| Error::damaged(format!("the blob {id} is missing")))?;
        if let Some(now) = self.blobs.get_mut(run).and_then(|run| run.get_mut(i)) {
            *now = joined(*now, owner, shared);
        }
        let many = |_| Error::limit_reached("the vault has too many blobs to be measured");
        Ok((u32::try_from(run).map_err(many)?, u32::try_from(i).map_err(many)?))
    }

    /// Notes the same of a node or list: whether to go through what hangs under it, and whether that is shared.
    fn node(&mut self, owner: u32, id: &Id, shared: bool) -> Result<Option<bool>> {
        let place = self.blob(owner, id, shared)?;
        if self.nodes.len() >= NODES_MAX {
            return Err(Error::limit_reached("the vault has too many directories to be measured"));
        }
        let now = self.nodes.entry(place).or_insert(NOBODY);
        let before = *now;
        *now = joined(before, owner, shared);
        // Whose it was and is has been said of all that hangs under it.
        Ok((before != *now).then_some(*now == SHARED))
    }

    fn tree(&mut self, vault: &Vault, owner: u32, root: &Id, progress: &Progress) -> Result<()> {
        let mut pending = vec![(*root, false)];
        while let Some((id, shared)) = pending.pop() {
            progress.check()?;
            let Some(shared) = self.node(owner, &id, shared)? else { continue };
            self.reads += 1;
            match vault.node(&id)? {
                Node::Branch(children) => pending.extend(children.iter().rev().map(|child| (child.node, shared))),
                Node::Root(root) => pending.extend(below(&root).map(|node| (node, shared))),
                Node::Leaf(entries) => {
                    entries.iter().try_for_each(|entry| self.file(vault, owner, entry, shared))?;
                    pending.extend(entries.iter().rev().filter_map(below).map(|node| (node, shared)));
                }
            }
        }
        Ok(())
    }

    fn file(&mut self, vault: &Vault, owner: u32, entry: &Entry, shared: bool) -> Result<()> {
        let Kind::File { content, .. } = &entry.kind else { return Ok(()) };
        match content {
            Content::Empty => {}
            Content::Whole(id) => drop(self.blob(owner, id, shared)?),
            Content::Parts(parts) => {
                for part in parts {
                    self.blob(owner, &part.id, shared)?;
                }
            }
            Content::Lists(lists) => {
                for list in lists {
                    let Some(shared) = self.node(owner, &list.id, shared)? else { continue };
                    self.reads += 1;
                    for part in content::decode_list(&vault.read_blob(&list.id)?, list.len)? {
                        self.blob(owner, &part.id, shared)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Stored bytes by owner: of each blob its share of the frame that it lies in. What is lost takes no space.
    fn sizes(&self, owners: usize) -> Vec<u64> {
        let mut sizes = vec![0_u64; owners];
        for (run, blobs) in self.index.runs().iter().zip(&self.blobs) {
            for (i, owner) in blobs.iter().enumerate() {
                let Some(size) = owner.checked_sub(1).and_then(|at| sizes.get_mut(at as usize)) else { continue };
                let blob = run.blob(i);
                let Some(segment) = run.segment(blob.segment) else { continue };
                let lost = |pack| run.pack(pack).is_none_or(|pack| self.index.lost().contains(&pack.id));
                if !self.index.lost().is_empty() && lost(segment.pack) {
                    continue;
                }
                let stored = u64::from(segment.stored_len) * u64::from(blob.len);
                *size += stored.checked_div(u64::from(segment.plain_len)).unwrap_or(0);
            }
        }
        sizes
    }
}

/// Whose something is once `owner` refers to it too.
fn joined(now: u32, owner: u32, shared: bool) -> u32 {
    match now {
        _ if shared => SHARED,
        NOBODY => owner,
        same if same == owner => owner,
        _ => SHARED,
    }
}

/// The node of a directory.
fn below(entry: &Entry) -> Option<Id> {
    match entry.kind {
        Kind::Directory { node, .. } => Some(node),
        _ => None,
    }
}
