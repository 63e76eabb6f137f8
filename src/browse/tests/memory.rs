//! Trees and blobs in memory, encoded and decoded as a vault would.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use uuid::Uuid;

use crate::browse::source::{Bytes, TreeSource};
use crate::browse::types::{BackupView, Policy};
use crate::model::{Error, Id, Result};
use crate::vault::tree::node::{encode_branch, encode_leaf};
use crate::vault::tree::{Child, Content, Entry, Kind, Link, Metadata, Node, Origin, Totals};

/// Nodes and blobs by id.
#[derive(Default)]
pub struct Memory(Mutex<HashMap<Id, Vec<u8>>>);

impl Memory {
    pub fn put(&self, bytes: Vec<u8>) -> Id {
        let id = Id::of(&bytes);
        self.0.lock().unwrap().insert(id, bytes);
        id
    }

    /// Takes something away, to be put back.
    pub fn take(&self, id: &Id) -> Vec<u8> {
        self.0.lock().unwrap().remove(id).unwrap()
    }

    fn get(&self, id: &Id) -> Result<Vec<u8>> {
        self.0.lock().unwrap().get(id).cloned().ok_or_else(|| Error::damaged(format!("no blob {id}")))
    }

    /// Stores a directory as one leaf; gives its node and what is beneath it.
    pub fn leaf(&self, mut entries: Vec<Entry>) -> (Id, Totals) {
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        (self.put(encode_leaf(entries.iter())), totals(&entries))
    }

    /// Stores a directory as a branch over leaves of `size` entries.
    pub fn branch(&self, mut entries: Vec<Entry>, size: usize) -> (Id, Totals) {
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let child = |part: &[Entry]| Child {
            last: part.last().unwrap().name.clone(),
            count: part.len() as u64,
            totals: totals(part),
            node: self.put(encode_leaf(part.iter())),
        };
        let children: Vec<Child> = entries.chunks(size).map(child).collect();
        (self.put(encode_branch(&children)), totals(&entries))
    }
}

fn totals(entries: &[Entry]) -> Totals {
    let mut sum = Totals::default();
    entries.iter().for_each(|entry| sum.add(entry.totals()));
    sum
}

impl TreeSource for Memory {
    fn node(&self, id: &Id) -> Result<Node> {
        Node::decode(&self.get(id)?)
    }

    fn blob(&self, id: &Id) -> Result<Bytes> {
        self.get(id).map(|bytes| Arc::new(bytes) as Bytes)
    }
}

fn entry(name: &str, kind: Kind) -> Entry {
    let meta = Metadata { mode: 0o644, ..Metadata::default() };
    Entry { name: name.as_bytes().to_vec(), meta, link: Link::None, kind }
}

/// An empty file.
pub fn file(name: &str) -> Entry {
    entry(name, Kind::File { size: 0, holes: Vec::new(), content: Content::Empty })
}

/// A file of this text.
pub fn holding(memory: &Memory, name: &str, text: &str) -> Entry {
    let content = Content::Whole(memory.put(text.as_bytes().to_vec()));
    entry(name, Kind::File { size: text.len() as u64, holes: Vec::new(), content })
}

/// A name that could not be read.
pub fn unread(name: &str) -> Entry {
    entry(name, Kind::Unread)
}

/// A directory.
pub fn dir(name: &str, (node, totals): (Id, Totals)) -> Entry {
    entry(name, Kind::Directory { node, totals, origin: Origin::Read })
}

/// The first name of a hard link.
pub fn first(name: &str, nlink: u32) -> Entry {
    Entry { link: Link::First { nlink }, ..file(name) }
}

/// A later name of a hard link.
pub fn later(name: &str, nlink: u32, up: u32, path: &str) -> Entry {
    Entry { link: Link::To { nlink, up, path: path.as_bytes().to_vec() }, ..file(name) }
}

/// A backup that is a view of `root`.
pub fn backup(id: u64, (root, totals): (Id, Totals)) -> BackupView {
    BackupView {
        id,
        vault: Uuid::nil(),
        root,
        totals,
        project: "default".to_owned(),
        resource: "web".to_owned(),
        machine: None,
        checkpoint: None,
        created_at: Timestamp::from_second(1_768_578_300 + i64::try_from(id).unwrap()).unwrap(),
        policy: Policy::Strict,
        partial: false,
    }
}
