//! A decoded node with the numbers of what it holds, and the cache of such nodes.
//!
//! Numbers in a sheet are relative to its first entry, so the sheet of a directory that did not
//! change serves every backup that has it.

use std::sync::Arc;

use crate::model::{Error, Id, Result};
use crate::vault::tree::{Child, Content, Entry, Kind, Node};

use super::cache::Cache;
use super::fail::{Answer, Fail};
use super::source::TreeSource;

/// What a node holds.
pub enum Rows {
    /// Entries sorted by name.
    Leaf(Vec<Entry>),
    /// Further nodes in the order of their names.
    Branch(Vec<Child>),
    /// `/` itself, a directory; its entries are in its node.
    Root(Box<Entry>),
}

/// A decoded node.
pub struct Sheet {
    /// What it holds.
    pub rows: Rows,
    /// For every row the number of its first entry, counted from this node's first.
    starts: Vec<u64>,
    /// How many entries there are in it and beneath.
    total: u64,
}

impl Sheet {
    /// Numbers the rows of a node.
    pub fn new(node: Node) -> Result<Self> {
        let mut total = 0u64;
        let mut starts = Vec::new();
        let mut row = |entries: u64| {
            starts.push(total);
            total = total.checked_add(entries)?;
            Some(())
        };
        let counted = match &node {
            Node::Leaf(entries) => entries.iter().try_for_each(|entry| match &entry.kind {
                Kind::Directory { totals, .. } => row(totals.entries.checked_add(1)?),
                _ => row(1),
            }),
            Node::Branch(children) => children.iter().try_for_each(|child| row(child.totals.entries)),
            Node::Root(root) => row(root.totals().entries.saturating_sub(1)),
        };
        counted.ok_or_else(|| Error::damaged("a directory claims more entries than can be counted"))?;
        let rows = match node {
            Node::Leaf(entries) => Rows::Leaf(entries),
            Node::Branch(children) => Rows::Branch(children),
            Node::Root(root) => Rows::Root(root),
        };
        Ok(Self { rows, starts, total })
    }

    /// The row that holds the entry with this number, if there is one.
    pub fn row_of(&self, number: u64) -> Option<usize> {
        if number < self.total { self.starts.partition_point(|start| *start <= number).checked_sub(1) } else { None }
    }

    /// The first row whose start is `number` or more.
    pub fn row_from(&self, number: u64) -> usize {
        self.starts.partition_point(|start| *start < number)
    }

    /// The number of a row's first entry.
    pub fn start(&self, row: usize) -> u64 {
        self.starts.get(row).copied().unwrap_or(self.total)
    }

    fn weight(&self) -> usize {
        let rows = match &self.rows {
            Rows::Leaf(entries) => entries.iter().map(entry_weight).sum(),
            Rows::Branch(children) => children.iter().map(|c| size_of::<Child>() + c.last.len() + 16).sum::<usize>(),
            Rows::Root(root) => entry_weight(root),
        };
        rows + self.starts.len() * 8 + 256
    }
}

fn entry_weight(entry: &Entry) -> usize {
    let kind = match &entry.kind {
        Kind::File { holes, content, .. } => {
            holes.len() * 16
                + match content {
                    Content::Parts(parts) | Content::Lists(parts) => parts.len() * 40,
                    _ => 0,
                }
        }
        Kind::Symlink { target } => target.len() + 16,
        _ => 0,
    };
    let xattrs: usize = entry.meta.xattrs.iter().map(|(name, value)| name.len() + value.len() + 80).sum();
    size_of::<Entry>() + entry.name.len() + 16 + kind + xattrs
}

/// The decoded nodes that were in use lately, of all vaults: a node's id says all it holds.
pub struct Sheets(Cache<Id, Arc<Sheet>>);

impl Sheets {
    /// None yet; they are kept in about `memory` bytes.
    pub fn new(memory: usize) -> Self {
        Self(Cache::new(memory))
    }

    /// The node, if it is in memory and has `total` entries as its parent said; a node that
    /// breaks its parent's word would give two entries one number.
    pub fn get(&self, source: &Arc<dyn TreeSource>, id: &Id, total: u64) -> Answer<Arc<Sheet>> {
        let sheet = self.0.get(id).ok_or_else(|| Fail::Missing(source.clone(), *id))?;
        if sheet.total == total {
            Ok(sheet)
        } else {
            Err(Fail::Broken(Error::damaged(format!(
                "a directory holds {} entries where its parent says {total}",
                sheet.total
            ))))
        }
    }

    /// Reads a node into memory.
    pub fn load(&self, source: &Arc<dyn TreeSource>, id: &Id) -> Result<()> {
        let sheet = Sheet::new(source.node(id)?)?;
        let weight = sheet.weight();
        self.0.put(*id, Arc::new(sheet), weight);
        Ok(())
    }
}
