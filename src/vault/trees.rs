//! Reading trees and file contents of an open vault.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use super::handle::Vault;
use super::tree::{Content, Entry, Kind, Node, Part, content};
use crate::model::{Error, Id, Result};

/// A root and branches over leaves never nest deeper than this.
const DEPTH: usize = 5;

impl Vault {
    /// One node of a tree.
    pub fn node(&self, id: &Id) -> Result<Node> {
        Node::decode(&self.read_blob(id)?)
    }

    /// The entry of `/` itself (its name is empty), from a backup's root.
    pub fn root_entry(&self, root: &Id) -> Result<Entry> {
        match self.node(root)? {
            Node::Root(entry) => Ok(*entry),
            _ => Err(Error::damaged(format!("{root} is not the root of a backup"))),
        }
    }

    /// All entries of a directory, over all of its nodes, sorted by name.
    pub fn entries(&self, node: &Id) -> Result<Vec<Entry>> {
        let mut top = self.node(node)?;
        if let Node::Root(root) = &top
            && let Kind::Directory { node, .. } = root.kind
        {
            top = self.node(&node)?;
        }
        let mut entries = Vec::new();
        match top {
            Node::Leaf(all) => entries = all,
            top => self.gather(top, DEPTH, &mut entries)?,
        }
        Ok(entries)
    }

    /// Appends the entries beneath a node. Out of order is said at once: nodes that say the same many times over
    /// would fill the memory first.
    fn gather(&self, node: Node, depth: usize, entries: &mut Vec<Entry>) -> Result<()> {
        match node {
            Node::Leaf(leaf) => {
                let first = leaf.first().ok_or_else(|| Error::damaged("a leaf of a branch is empty"))?;
                if entries.last().is_some_and(|last| last.name >= first.name) {
                    return Err(Error::damaged("a directory has names out of order"));
                }
                entries.extend(leaf);
                Ok(())
            }
            Node::Root(_) => Err(Error::damaged("a root stands below another node")),
            Node::Branch(_) if depth == 0 => Err(Error::damaged("a directory's nodes nest too deep")),
            Node::Branch(children) => {
                children.iter().try_for_each(|child| self.gather(self.node(&child.node)?, depth - 1, entries))
            }
        }
    }

    /// One entry of a directory by name.
    pub fn entry(&self, node: &Id, name: &[u8]) -> Result<Option<Entry>> {
        let mut at = *node;
        for _ in 0..=DEPTH + 1 {
            match self.node(&at)? {
                Node::Leaf(mut entries) => {
                    let found = entries.binary_search_by(|e| e.name.as_slice().cmp(name));
                    return Ok(found.ok().map(|i| entries.swap_remove(i)));
                }
                Node::Branch(children) => match children.iter().find(|c| c.last.as_slice() >= name) {
                    Some(child) => at = child.node,
                    None => return Ok(None),
                },
                Node::Root(root) => match root.kind {
                    Kind::Directory { node, .. } => at = node,
                    _ => return Err(Error::damaged("a root is not a directory")),
                },
            }
        }
        Err(Error::damaged("a directory's nodes nest too deep"))
    }

    /// The entry at an absolute `path` beneath the root node (`/` itself has none: `None`).
    pub fn lookup(&self, root: &Id, path: &Path) -> Result<Option<Entry>> {
        let mut node = Some(*root);
        let mut found = None;
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            let Some(at) = node else { return Ok(None) };
            found = self.entry(&at, name.as_bytes())?;
            node = match &found {
                Some(Entry { kind: Kind::Directory { node, .. }, .. }) => Some(*node),
                Some(_) => None,
                None => return Ok(None),
            };
        }
        Ok(found)
    }

    /// The parts of a file's content of `len` bytes, all at once: in tests, whose files are small.
    #[cfg(test)]
    pub fn parts(&self, content: &Content, len: u64) -> Result<Vec<Part>> {
        self.each_part(content, len).collect()
    }

    /// The parts of a file's content of `len` bytes, one after another; of lists no more than one is in memory.
    pub fn each_part(&self, content: &Content, len: u64) -> Parts<'_> {
        let (lists, parts) = match content {
            Content::Empty => (Vec::new(), Vec::new()),
            Content::Whole(id) => (Vec::new(), vec![Part { id: *id, len }]),
            Content::Parts(parts) => (Vec::new(), parts.clone()),
            Content::Lists(lists) => (lists.clone(), Vec::new()),
        };
        Parts { vault: self, lists: lists.into_iter(), parts: parts.into_iter() }
    }
}

/// The parts of a file, read from the vault as they are asked for. Ends after an error.
#[derive(Debug)]
pub struct Parts<'a> {
    vault: &'a Vault,
    lists: std::vec::IntoIter<Part>,
    parts: std::vec::IntoIter<Part>,
}

impl Iterator for Parts<'_> {
    type Item = Result<Part>;

    fn next(&mut self) -> Option<Result<Part>> {
        loop {
            if let Some(part) = self.parts.next() {
                return Some(Ok(part));
            }
            let list = self.lists.next()?;
            let blob = self.vault.read_blob(&list.id);
            match blob.and_then(|blob| content::decode_list(&blob, list.len)) {
                Ok(parts) => self.parts = parts.into_iter(),
                Err(e) => {
                    self.lists = Vec::new().into_iter();
                    return Some(Err(e));
                }
            }
        }
    }
}
