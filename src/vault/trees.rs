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
        let mut entries = Vec::new();
        self.visit_leaves(node, DEPTH, &mut |leaf| {
            entries.extend(leaf);
            Ok(())
        })?;
        if !entries.is_sorted_by(|a, b| a.name < b.name) {
            return Err(Error::damaged(format!("the directory {node} has names out of order")));
        }
        Ok(entries)
    }

    /// Calls `visit` with the entries of each leaf of a directory, in order.
    fn visit_leaves(&self, node: &Id, depth: usize, visit: &mut dyn FnMut(Vec<Entry>) -> Result<()>) -> Result<()> {
        match self.node(node)? {
            Node::Leaf(entries) => visit(entries),
            Node::Root(root) => match root.kind {
                Kind::Directory { node, .. } if depth == DEPTH => self.visit_leaves(&node, depth - 1, visit),
                _ => Err(Error::damaged("a root stands below another node")),
            },
            Node::Branch(_) if depth == 0 => Err(Error::damaged("a directory's nodes nest too deep")),
            Node::Branch(children) => {
                children.iter().try_for_each(|child| self.visit_leaves(&child.node, depth - 1, visit))
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

    /// The blobs of a content of `len` bytes, lists resolved.
    pub fn parts(&self, content: &Content, len: u64) -> Result<Vec<Part>> {
        match content {
            Content::Empty => Ok(Vec::new()),
            Content::Whole(id) => Ok(vec![Part { id: *id, len }]),
            Content::Parts(parts) => Ok(parts.clone()),
            Content::Lists(lists) => {
                let mut parts = Vec::new();
                for list in lists {
                    parts.extend(content::decode_list(&self.read_blob(&list.id)?, list.len)?);
                }
                Ok(parts)
            }
        }
    }
}
