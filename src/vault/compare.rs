//! What differs between two trees, in the same vault or in two: subtrees that are equal are not
//! looked at, so the cost grows with what changed.

use std::cmp::Ordering;

use super::handle::Vault;
use super::tree::{Entry, Kind};
use crate::model::{Error, Id, Progress, Result};

/// Deeper than this no path goes.
const DEPTH: usize = 4096;

/// More entries are not compared: a few nodes that stand for each other many times over stand for more than anybody
/// could wait for.
const ENTRIES: u64 = if cfg!(test) { 100_000 } else { 100_000_000 };

/// One difference.
#[derive(Debug, Clone, Copy)]
pub enum Change<'a> {
    /// There is such an entry in the second tree only.
    Added(&'a Entry),
    /// There is such an entry in the first tree only.
    Removed(&'a Entry),
    /// There is one in both, and they differ. Of two directories this is about themselves.
    Changed(&'a Entry, &'a Entry),
}

/// Who is told.
pub trait Differences {
    /// Called in the order of a walk. `path` is absolute. Says whether what is beneath a directory
    /// that was added or removed is to be told one by one too.
    fn change(&mut self, path: &[u8], change: Change<'_>) -> Result<bool>;
}

/// A tree in a vault; nothing where there is none.
pub type Tree<'a> = Option<(&'a Vault, &'a Id)>;

/// Tells what differs between two backups' trees, given by their roots.
pub fn compare(old: Tree<'_>, new: Tree<'_>, found: &mut dyn Differences, progress: &Progress) -> Result<()> {
    let top = |tree: Tree<'_>| -> Result<Option<Id>> {
        match tree {
            Some((vault, root)) => Ok(node_of(&vault.root_entry(root)?)),
            None => Ok(None),
        }
    };
    let mut walk =
        Walk { old: old.map(|t| t.0), new: new.map(|t| t.0), found, progress, pending: Vec::new(), left: ENTRIES };
    walk.push(Vec::new(), 0, top(old)?, top(new)?);
    walk.run()
}

fn node_of(entry: &Entry) -> Option<Id> {
    match entry.kind {
        Kind::Directory { node, .. } => Some(node),
        _ => None,
    }
}

struct Walk<'a> {
    old: Option<&'a Vault>,
    new: Option<&'a Vault>,
    found: &'a mut dyn Differences,
    progress: &'a Progress,
    pending: Vec<Dirs>,
    /// Entries that may still be looked at.
    left: u64,
}

/// A directory in one tree or in both.
struct Dirs {
    path: Vec<u8>,
    depth: usize,
    old: Option<Id>,
    new: Option<Id>,
}

impl Walk<'_> {
    fn push(&mut self, path: Vec<u8>, depth: usize, old: Option<Id>, new: Option<Id>) {
        if old != new {
            self.pending.push(Dirs { path, depth, old, new });
        }
    }

    fn run(&mut self) -> Result<()> {
        while let Some(dirs) = self.pending.pop() {
            self.progress.check()?;
            if dirs.depth > DEPTH {
                return Err(Error::damaged("a tree nests deeper than any path"));
            }
            let first = self.pending.len();
            self.directory(&dirs)?;
            // Those beneath come next, in order.
            if let Some(new) = self.pending.get_mut(first..) {
                new.reverse();
            }
        }
        Ok(())
    }

    fn directory(&mut self, dirs: &Dirs) -> Result<()> {
        let read = |vault: Option<&Vault>, node: Option<Id>| match (vault, node) {
            (Some(vault), Some(node)) => vault.entries(&node),
            _ => Ok(Vec::new()),
        };
        let (old, new) = (read(self.old, dirs.old)?, read(self.new, dirs.new)?);
        let left = self.left.checked_sub((old.len() + new.len()).max(1) as u64);
        self.left = left.ok_or_else(|| {
            Error::limit_reached(format!("there are more than {ENTRIES} files to look at in directories that differ"))
        })?;
        let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) => a.name.cmp(&b.name),
            };
            let a = if order.is_le() { old.next() } else { None };
            let b = if order.is_ge() { new.next() } else { None };
            self.entry(dirs, a, b)?;
        }
    }

    fn entry(&mut self, dirs: &Dirs, a: Option<&Entry>, b: Option<&Entry>) -> Result<()> {
        let Some(name) = a.or(b).map(|entry| &entry.name) else { return Ok(()) };
        let path = [dirs.path.as_slice(), b"/", name].concat();
        let (mut old, mut new) = (a.and_then(node_of), b.and_then(node_of));
        let deeper = match (a, b) {
            (Some(a), Some(b)) if old.is_some() && new.is_some() => {
                if about_itself(a, b) {
                    self.found.change(&path, Change::Changed(a, b))?;
                }
                true
            }
            (Some(a), Some(b)) => {
                if a != b {
                    self.found.change(&path, Change::Changed(a, b))?;
                }
                // What one of them holds, where only that one is a directory.
                old.is_some() || new.is_some()
            }
            (Some(a), None) => self.found.change(&path, Change::Removed(a))?,
            (None, Some(b)) => self.found.change(&path, Change::Added(b))?,
            (None, None) => false,
        };
        if deeper {
            self.push(path, dirs.depth + 1, old.take(), new.take());
        }
        Ok(())
    }
}

/// Whether two directories differ but for what they hold, and the time that this changes.
fn about_itself(a: &Entry, b: &Entry) -> bool {
    let (x, y) = (&a.meta, &b.meta);
    (x.mode, &x.owner, &x.xattrs, x.flags) != (y.mode, &y.owner, &y.xattrs, y.flags)
}
