//! Marks: which blobs of an index something refers to, one bit each.

use std::sync::Arc;

use super::handle::Vault;
use super::index::LocalIndex;
use super::tree::{Content, Entry, Kind, Node, Totals, content};
use crate::model::{Error, Id, Progress, Result};

/// Marked blobs of one state of the index.
#[derive(Debug)]
pub struct Marks {
    index: Arc<LocalIndex>,
    bits: Vec<Vec<u64>>,
    /// Nodes that were walked. A file may hold the very bytes of a node: it is marked then, but
    /// what the node refers to is not.
    walked: Vec<Vec<u64>>,
}

/// What a walk over trees is told.
pub trait Visitor {
    /// A blob is referred to that the index does not know. The walk goes on.
    fn missing(&mut self, path: &[u8], id: &Id);
    /// A node or list could not be read. The walk goes on beside it.
    fn unreadable(&mut self, path: &[u8], error: Error);
    /// A node is not what the one above says of it. The walk goes on.
    fn inconsistent(&mut self, _path: &[u8], _what: &str) {}
    /// Whether to find such nodes also where they were walked before, by another way to them.
    fn checks(&self) -> bool {
        false
    }
    /// Called for every blob when it is met, be it a file's or a node; `path` is where it belongs.
    fn blob(&mut self, _path: &[u8], _id: &Id) {}
    /// Whether subtrees that were walked before are walked again (to name every path).
    fn everything(&self) -> bool {
        false
    }
}

/// Wants everything to be there: keeps the first thing that is missing or cannot be read.
#[derive(Debug, Default)]
pub struct Complete(pub Option<Error>);

impl Visitor for Complete {
    fn missing(&mut self, path: &[u8], id: &Id) {
        let path = String::from_utf8_lossy(path).into_owned();
        self.0.get_or_insert(Error::damaged(format!("{path}: the blob {id} is missing")));
    }

    fn unreadable(&mut self, path: &[u8], error: Error) {
        self.0.get_or_insert(error.context(String::from_utf8_lossy(path)));
    }
}

impl Marks {
    /// No marks on the vault's index as it is now.
    pub fn new(vault: &Vault) -> Self {
        let index = vault.index();
        let bits: Vec<Vec<u64>> = index.runs().iter().map(|run| vec![0; run.blob_count().div_ceil(64)]).collect();
        Self { index, walked: bits.clone(), bits }
    }

    /// Marks a blob: whether it was marked before; `None` if the index does not know it.
    pub fn mark(&mut self, id: &Id) -> Option<bool> {
        let place = self.find(id)?;
        set(&mut self.bits, place)
    }

    /// Marks a node that is about to be walked: whether it was walked before.
    fn walk(&mut self, id: &Id) -> Option<bool> {
        let place = self.find(id)?;
        set(&mut self.bits, place);
        set(&mut self.walked, place)
    }

    fn find(&self, id: &Id) -> Option<(usize, usize)> {
        self.index.home(id)
    }

    /// Whether the blob at a place of a run is marked.
    pub fn is_marked(&self, run: usize, i: usize) -> bool {
        self.bits.get(run).and_then(|bits| bits.get(i / 64)).is_some_and(|word| word >> (i % 64) & 1 == 1)
    }

    /// The index that is marked.
    pub fn index(&self) -> &Arc<LocalIndex> {
        &self.index
    }

    /// Marks everything that a tree refers to.
    pub fn tree(&mut self, vault: &Vault, root: &Id, visitor: &mut dyn Visitor, progress: &Progress) -> Result<()> {
        let mut pending = vec![(*root, Vec::new(), Claim::default())];
        while let Some((id, path, claim)) = pending.pop() {
            progress.check()?;
            let again = match self.walk(&id) {
                Some(true) if visitor.everything() => false,
                Some(true) if visitor.checks() && claim.totals.is_some() => true,
                Some(true) => continue,
                Some(false) => false,
                None => {
                    visitor.missing(&path, &id);
                    continue;
                }
            };
            if !again {
                visitor.blob(&path, &id);
            }
            let node = match vault.node(&id) {
                Ok(node) => node,
                Err(e) => {
                    if !again {
                        visitor.unreadable(&path, e);
                    }
                    continue;
                }
            };
            if let Some(what) = claim.broken_by(&node) {
                visitor.inconsistent(&path, what);
            }
            if again {
                continue;
            }
            match node {
                Node::Branch(children) => {
                    let mut after = claim.after;
                    let mut below = Vec::with_capacity(children.len());
                    for child in children {
                        let last = Some((child.last.clone(), child.count));
                        let after = after.replace(child.last);
                        let claim = Claim { totals: Some(child.totals), after, last, deep: claim.deep + 1 };
                        below.push((child.node, path.clone(), claim));
                    }
                    pending.extend(below.into_iter().rev());
                }
                Node::Root(root) => {
                    if let Kind::Directory { node, totals, .. } = root.kind {
                        pending.push((node, path, Claim::of(totals)));
                    }
                }
                Node::Leaf(entries) => {
                    progress.add(entries.len() as u64, 0);
                    let below = entries.iter().rev().filter_map(|entry| match entry.kind {
                        Kind::Directory { node, totals, .. } => {
                            Some((node, joined(&path, &entry.name), Claim::of(totals)))
                        }
                        _ => None,
                    });
                    let below: Vec<_> = below.collect();
                    for entry in &entries {
                        self.file(vault, &path, entry, visitor);
                    }
                    pending.extend(below);
                }
            }
        }
        Ok(())
    }

    fn file(&mut self, vault: &Vault, dir: &[u8], entry: &Entry, visitor: &mut dyn Visitor) {
        let Kind::File { content, .. } = &entry.kind else { return };
        let mark = |marks: &mut Self, visitor: &mut dyn Visitor, id: &Id| match marks.mark(id) {
            None => visitor.missing(&joined(dir, &entry.name), id),
            Some(_) => visitor.blob(&joined(dir, &entry.name), id),
        };
        match content {
            Content::Empty => {}
            Content::Whole(id) => mark(self, visitor, id),
            Content::Parts(parts) => parts.iter().for_each(|part| mark(self, visitor, &part.id)),
            Content::Lists(lists) => {
                for list in lists {
                    mark(self, visitor, &list.id);
                    let parts = vault.read_blob(&list.id).and_then(|blob| content::decode_list(&blob, list.len));
                    match parts {
                        Ok(parts) => parts.iter().for_each(|part| mark(self, visitor, &part.id)),
                        Err(e) => visitor.unreadable(&joined(dir, &entry.name), e),
                    }
                }
            }
        }
    }
}

/// Branches over leaves nest no deeper.
const DEEP: u32 = 5;

/// What is said of a node where it is referred to.
#[derive(Debug, Default)]
struct Claim {
    /// What it holds; `None`: it is the first.
    totals: Option<Totals>,
    /// The name that comes before its own, in a branch.
    after: Option<Vec<u8>>,
    /// Its last name, and how many it has, in a branch.
    last: Option<(Vec<u8>, u64)>,
    /// Branches above it.
    deep: u32,
}

impl Claim {
    fn of(totals: Totals) -> Self {
        Self { totals: Some(totals), ..Self::default() }
    }

    /// What is wrong with the node.
    fn broken_by(&self, node: &Node) -> Option<&'static str> {
        if self.totals.is_none() && !matches!(node, Node::Root(_)) {
            return Some("it is not the root of a backup");
        }
        let mut totals = Totals::default();
        let (first, last, count) = match node {
            Node::Root(_) => return self.totals.map(|_| "a root stands below another node"),
            Node::Leaf(entries) => {
                entries.iter().for_each(|entry| totals.add(entry.totals()));
                let name = |entry: Option<&Entry>| entry.map(|entry| entry.name.clone());
                (name(entries.first()), name(entries.last()), entries.len() as u64)
            }
            Node::Branch(children) => {
                children.iter().for_each(|child| totals.add(child.totals));
                let count = children.iter().fold(0u64, |n, child| n.saturating_add(child.count));
                (None, children.last().map(|child| child.last.clone()), count)
            }
        };
        if self.totals.is_some_and(|said| said != totals) {
            return Some("a directory's totals are not the sum of what it holds");
        }
        if self.deep > DEEP {
            return Some("a directory's nodes nest too deep");
        }
        let (name, said) = self.last.as_ref()?;
        if last.as_ref() != Some(name) || count != *said {
            return Some("a node is not the one that its branch means");
        }
        let early = first.is_some_and(|first| self.after.as_ref().is_some_and(|after| first <= *after));
        early.then_some("a directory has names out of order")
    }
}

/// Sets a bit and says whether it was set before.
fn set(bits: &mut [Vec<u64>], (run, i): (usize, usize)) -> Option<bool> {
    let word = bits.get_mut(run)?.get_mut(i / 64)?;
    let before = *word >> (i % 64) & 1 == 1;
    *word |= 1 << (i % 64);
    Some(before)
}

fn joined(dir: &[u8], name: &[u8]) -> Vec<u8> {
    [dir, b"/", name].concat()
}
