//! Which part of a backup is meant.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::model::{Error, Result};
use crate::vault::Vault;
use crate::vault::tree::{Entry, Totals};
use crate::vault::tree::{Kind, Node};

/// More bytes than this are no path.
const PATH_LEN_MAX: usize = 1 << 20;

/// What is meant of a directory and everything beneath.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Selection {
    /// All of it.
    #[default]
    All,
    /// Only what is named, each with what is meant of it.
    Some(BTreeMap<Vec<u8>, Selection>),
}

impl Selection {
    /// The paths, or everything if there are none.
    pub fn new(paths: &[PathBuf]) -> Result<Self> {
        if paths.is_empty() {
            return Ok(Self::All);
        }
        let mut root = Self::Some(BTreeMap::new());
        for path in paths {
            root.add(path)?;
        }
        Ok(root)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        if !path.is_absolute() || path.as_os_str().len() > PATH_LEN_MAX {
            let path = path.to_string_lossy();
            let path = path.chars().take(100).collect::<String>();
            return Err(Error::invalid(format!("the path {path:?} to restore is not absolute; give it from / on")));
        }
        let mut at = self;
        for part in path.components() {
            let name = match part {
                Component::Normal(name) => name.as_bytes().to_vec(),
                Component::ParentDir => {
                    return Err(Error::invalid(format!("the path {path:?} to restore has '..' in it; leave that out")));
                }
                _ => continue,
            };
            match at {
                Self::All => return Ok(()),
                Self::Some(names) => at = names.entry(name).or_insert_with(|| Self::Some(BTreeMap::new())),
            }
        }
        *at = Self::All;
        Ok(())
    }

    /// Whether an absolute path is meant.
    pub fn contains(&self, path: &[u8]) -> bool {
        let mut at = self;
        for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
            match at {
                Self::All => return true,
                Self::Some(names) => match names.get(name) {
                    Some(next) => at = next,
                    None => return false,
                },
            }
        }
        *at == Self::All
    }

    /// What is beneath the root node, as far as it is meant; `NotFound` for a path that is not there.
    pub fn totals(&self, vault: &Vault, root: &Entry) -> Result<Totals> {
        let mut sum = Totals::default();
        let mut todo = vec![(root.clone(), self, Vec::new())];
        while let Some((entry, selection, path)) = todo.pop() {
            match selection {
                Self::All if path.is_empty() => {
                    let Kind::Directory { totals, .. } = entry.kind else { continue };
                    sum.add(totals);
                }
                Self::All => sum.add(entry.totals()),
                Self::Some(names) => {
                    for (name, selection) in names {
                        let path = [path.as_slice(), b"/", name].concat();
                        let found = match &entry.kind {
                            Kind::Directory { node, .. } => vault.entry(node, name)?,
                            _ => None,
                        };
                        let found = found.ok_or_else(|| {
                            let path = String::from_utf8_lossy(&path);
                            Error::not_found(format!("the backup does not hold {path}; browse it to see what it holds"))
                        })?;
                        todo.push((found, selection, path));
                    }
                }
            }
        }
        Ok(sum)
    }
}

/// Nodes of one directory nest no deeper than this.
const NODES_DEEP: usize = 8;

/// The meant entries of a directory, in order, one leaf in memory at a time.
#[derive(Debug)]
pub struct Entries {
    nodes: Vec<(crate::model::Id, usize)>,
    leaf: std::vec::IntoIter<Entry>,
    last: Vec<u8>,
    named: Option<std::vec::IntoIter<(Vec<u8>, Selection)>>,
    node: crate::model::Id,
}

impl Entries {
    /// Those of the directory at `node`.
    pub fn new(node: crate::model::Id, selection: Selection) -> Self {
        let (nodes, named) = match selection {
            Selection::All => (vec![(node, 0)], None),
            Selection::Some(names) => (Vec::new(), Some(names.into_iter().collect::<Vec<_>>().into_iter())),
        };
        Self { nodes, leaf: Vec::new().into_iter(), last: Vec::new(), named, node }
    }

    /// The next entry, and what is meant of it.
    pub fn next(&mut self, vault: &Vault) -> Result<Option<(Entry, Selection)>> {
        if let Some(named) = &mut self.named {
            let Some((name, selection)) = named.next() else { return Ok(None) };
            let entry = vault.entry(&self.node, &name)?;
            let gone = || Error::not_found(format!("the backup does not hold {}", String::from_utf8_lossy(&name)));
            return Ok(Some((entry.ok_or_else(gone)?, selection)));
        }
        loop {
            if let Some(entry) = self.leaf.next() {
                if entry.name <= self.last {
                    return Err(Error::damaged("a directory of the backup has names out of order"));
                }
                self.last.clone_from(&entry.name);
                return Ok(Some((entry, Selection::All)));
            }
            let Some((id, depth)) = self.nodes.pop() else { return Ok(None) };
            match vault.node(&id)? {
                Node::Leaf(entries) => self.leaf = entries.into_iter(),
                Node::Branch(children) if depth < NODES_DEEP => {
                    self.nodes.extend(children.iter().rev().map(|child| (child.node, depth + 1)));
                }
                _ => return Err(Error::damaged("a directory of the backup nests its nodes too deep")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn wider_paths_win_and_bad_ones_are_named() {
        let paths = |list: &[&str]| Selection::new(&list.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(paths(&["/a/b", "/a"]).unwrap(), paths(&["/a", "/a/b/"]).unwrap());
        assert_ne!(paths(&["/a/b"]).unwrap(), paths(&["/a"]).unwrap());
        assert_eq!(paths(&["/"]).unwrap(), Selection::All);
        assert!(paths(&["etc"]).unwrap_err().message.contains("\"etc\""));
        assert!(paths(&["/etc/../root"]).unwrap_err().message.contains(".."));
    }
}
