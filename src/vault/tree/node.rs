//! A directory's node, as a leaf of entries or a branch over several leaves.
//!
//! The encoding is canonical: one directory has one encoding, so its SHA-256 is its checksum.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Entry, Owner, Totals};
use crate::model::{Id, Result};
use crate::vault::codec::{Reader, Writer};

const LEAF: u8 = 1;
const BRANCH: u8 = 2;
const ROOT: u8 = 3;

/// A leaf gets no more entries than this.
pub const LEAF_MAX: usize = 4096;

/// A leaf ends after a name whose hash says so only when it has this many entries.
pub const LEAF_MIN: usize = 512;

/// A branch gets no more children than this.
pub const BRANCH_MAX: usize = 4096;

/// One node beneath a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// The last name in it.
    pub last: Vec<u8>,
    /// How many entries of this directory are in it.
    pub count: u64,
    /// Those entries and everything beneath them.
    pub totals: Totals,
    /// The node.
    pub node: Id,
}

/// A directory's entries, or part of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// Entries sorted by name.
    Leaf(Vec<Entry>),
    /// Nodes in the order of their names.
    Branch(Vec<Child>),
    /// The top of a backup: `/` itself, a directory whose name is empty. Its id is the backup's
    /// checksum; readers of its entries go on to its node.
    Root(Box<Entry>),
}

/// Encodes a leaf.
pub fn encode_leaf<'a>(entries: impl ExactSizeIterator<Item = &'a Entry> + Clone) -> Vec<u8> {
    encode_entries(LEAF, entries)
}

/// Encodes the top of a backup.
pub fn encode_root(root: &Entry) -> Vec<u8> {
    encode_entries(ROOT, std::iter::once(root))
}

fn encode_entries<'a>(kind: u8, entries: impl ExactSizeIterator<Item = &'a Entry> + Clone) -> Vec<u8> {
    let mut table: HashMap<&Owner, u64> = HashMap::new();
    let mut owners: Vec<&Owner> = Vec::new();
    for entry in entries.clone() {
        let owner: &Owner = &entry.meta.owner;
        if !matches!(entry.kind, super::Kind::Unread) && !table.contains_key(owner) {
            table.insert(owner, owners.len() as u64);
            owners.push(owner);
        }
    }
    let mut w = Writer { bytes: Vec::with_capacity(64 + entries.len() * 96) };
    w.u8(kind);
    w.uint(owners.len() as u64);
    for owner in owners {
        w.uint(owner.uid.into());
        w.uint(owner.gid.into());
        w.bytes(owner.user.as_bytes());
        w.bytes(owner.group.as_bytes());
    }
    w.uint(entries.len() as u64);
    for entry in entries {
        let owner: &Owner = &entry.meta.owner;
        entry.encode(table.get(owner).copied().unwrap_or(0), &mut w);
    }
    w.bytes
}

/// Encodes a branch.
pub fn encode_branch(children: &[Child]) -> Vec<u8> {
    let mut w = Writer::default();
    w.u8(BRANCH);
    w.uint(children.len() as u64);
    for child in children {
        w.bytes(&child.last);
        w.uint(child.count);
        child.totals.encode(&mut w);
        w.id(&child.node);
    }
    w.bytes
}

/// Whether a leaf may end after `name`: about one name in 1024, by the name alone, so that the
/// split is the same in every vault and a new name moves no other boundary.
pub fn ends_leaf(name: &[u8]) -> bool {
    // FNV-1a, 64 bits.
    let hash = name.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    (hash >> 32) & 1023 == 0
}

impl Node {
    /// Reads a node, checking everything that can be checked without other nodes.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new(bytes, "a directory's node");
        let node = match r.u8()? {
            LEAF => Self::Leaf(decode_entries(&mut r, false)?),
            BRANCH => Self::Branch(decode_branch(&mut r)?),
            ROOT => {
                let [root] = <[Entry; 1]>::try_from(decode_entries(&mut r, true)?)
                    .map_err(|_| r.bad("a root does not have one entry"))?;
                if !root.name.is_empty() || !root.is_dir() {
                    return Err(r.bad("a root is not a directory without a name"));
                }
                Self::Root(Box::new(root))
            }
            _ => return Err(r.bad("it is of an unknown kind")),
        };
        r.finish()?;
        Ok(node)
    }
}

fn decode_entries(r: &mut Reader<'_>, root: bool) -> Result<Vec<Entry>> {
    let n = r.count(4)?;
    let mut owners = Vec::with_capacity(n);
    for _ in 0..n {
        let (uid, gid) = (r.u32()?, r.u32()?);
        let (user, group) = (r.bytes()?, r.bytes()?);
        let text = |b: &[u8]| String::from_utf8(b.to_vec()).map_err(|_| r.bad("a user's name is not UTF-8"));
        owners.push(Arc::new(Owner { uid, gid, user: text(user)?, group: text(group)? }));
    }
    let n = r.count(3)?;
    if n > LEAF_MAX {
        return Err(r.bad("a leaf has too many entries"));
    }
    let mut entries: Vec<Entry> = Vec::with_capacity(n);
    for _ in 0..n {
        let entry = Entry::decode(r, &owners, root)?;
        if entries.last().is_some_and(|last| last.name >= entry.name) {
            return Err(r.bad("its names are not sorted"));
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn decode_branch(r: &mut Reader<'_>) -> Result<Vec<Child>> {
    let n = r.count(37)?;
    if n == 0 || n > BRANCH_MAX {
        return Err(r.bad("a branch has no or too many children"));
    }
    let mut children: Vec<Child> = Vec::with_capacity(n);
    for _ in 0..n {
        let child = Child { last: r.bytes()?.to_vec(), count: r.uint()?, totals: Totals::decode(r)?, node: r.id()? };
        if children.last().is_some_and(|last| last.last >= child.last) {
            return Err(r.bad("its names are not sorted"));
        }
        children.push(child);
    }
    Ok(children)
}
