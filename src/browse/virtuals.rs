//! The directories and links that are no backup's: the only part of the mount that changes.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;

use crate::vault::tree::Time;

use super::attr::{self, Attr};
use super::ino::{Ino, ROOT};

/// A name that appeared, vanished or changed its meaning: the kernel must forget it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The directory.
    pub parent: Ino,
    /// The name in it.
    pub name: Vec<u8>,
}

/// A directory that is no archived one.
struct VirtualDir {
    parent: Ino,
    mode: u16,
    uid: u32,
    mtime: Time,
    names: HashMap<Vec<u8>, u64>,
    /// By a number that grows, so that a listing can go on where it stopped.
    rows: BTreeMap<u64, (Vec<u8>, Ino)>,
}

enum Virtual {
    Dir(VirtualDir),
    Link { target: Vec<u8>, mtime: Time },
}

/// All virtual inodes.
pub struct Virtuals {
    /// Inode numbers and numbers of rows; never given twice.
    next: u64,
    nodes: HashMap<Ino, Virtual>,
    changes: Vec<Change>,
    /// Rows of names that went since changes were last asked for. A name that comes back before keeps its row:
    /// in a listing that is half read it was given already, or is still to come.
    vacated: HashMap<(Ino, Vec<u8>), u64>,
}

fn now() -> Time {
    attr::time(Timestamp::now())
}

impl Default for Virtuals {
    fn default() -> Self {
        let mut virtuals =
            Self { next: ROOT.0 + 1, nodes: HashMap::new(), changes: Vec::new(), vacated: HashMap::new() };
        virtuals.nodes.insert(ROOT, Virtual::dir(ROOT));
        virtuals
    }
}

impl Virtual {
    fn dir(parent: Ino) -> Self {
        let (names, rows) = (HashMap::new(), BTreeMap::new());
        Self::Dir(VirtualDir { parent, mode: 0o755, uid: 0, mtime: now(), names, rows })
    }
}

impl Virtuals {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    fn dir(&self, ino: Ino) -> Option<&VirtualDir> {
        match self.nodes.get(&ino)? {
            Virtual::Dir(dir) => Some(dir),
            Virtual::Link { .. } => None,
        }
    }

    fn dir_mut(&mut self, ino: Ino) -> Option<&mut VirtualDir> {
        match self.nodes.get_mut(&ino)? {
            Virtual::Dir(dir) => Some(dir),
            Virtual::Link { .. } => None,
        }
    }

    /// The changes since this was last asked.
    pub fn take_changes(&mut self) -> Vec<Change> {
        self.vacated.clear();
        std::mem::take(&mut self.changes)
    }

    /// Gives `target` a name, which must be free.
    pub fn link(&mut self, parent: Ino, name: &[u8], target: Ino) {
        let row = self.vacated.remove(&(parent, name.to_vec())).unwrap_or_else(|| self.number());
        if let Some(dir) = self.dir_mut(parent) {
            dir.names.insert(name.to_vec(), row);
            dir.rows.insert(row, (name.to_vec(), target));
            dir.mtime = now();
            self.changes.push(Change { parent, name: name.to_vec() });
        }
    }

    /// Takes a name away, and the virtual inode it named.
    pub fn unlink(&mut self, parent: Ino, name: &[u8]) {
        let Some(dir) = self.dir_mut(parent) else { return };
        let Some(row) = dir.names.remove(name) else { return };
        let Some((_, target)) = dir.rows.remove(&row) else { return };
        dir.mtime = now();
        self.vacated.insert((parent, name.to_vec()), row);
        if target.is_virtual() {
            self.nodes.remove(&target);
        }
        self.changes.push(Change { parent, name: name.to_vec() });
    }

    /// The directory of this name, made if there is none.
    pub fn make_dir(&mut self, parent: Ino, name: &[u8]) -> Ino {
        if let Some(ino) = self.lookup(parent, name) {
            return ino;
        }
        let ino = Ino(self.number());
        self.nodes.insert(ino, Virtual::dir(parent));
        self.link(parent, name, ino);
        ino
    }

    /// Makes `name` a symbolic link to `target`, or takes it away; a link that is already so stays.
    pub fn set_symlink(&mut self, parent: Ino, name: &[u8], target: Option<&[u8]>) {
        let old = self.lookup(parent, name);
        if old.and_then(|ino| self.readlink(ino)) == target {
            return;
        }
        self.unlink(parent, name);
        if let Some(target) = target {
            let ino = Ino(self.number());
            self.nodes.insert(ino, Virtual::Link { target: target.to_vec(), mtime: now() });
            self.link(parent, name, ino);
        }
    }

    /// Sets who may enter a directory.
    pub fn set_door(&mut self, ino: Ino, (mode, uid): (u16, u32)) {
        if let Some(dir) = self.dir_mut(ino) {
            (dir.mode, dir.uid) = (mode, uid);
        }
    }

    /// What a name stands for.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Option<Ino> {
        let dir = self.dir(parent)?;
        dir.rows.get(dir.names.get(name)?).map(|(_, ino)| *ino)
    }

    /// The attributes of a virtual inode.
    pub fn attr(&self, ino: Ino) -> Option<Attr> {
        Some(match self.nodes.get(&ino)? {
            Virtual::Dir(dir) => Attr::directory(ino, dir.mode, dir.uid, dir.mtime),
            Virtual::Link { target, mtime } => Attr::symlink(ino, target, *mtime),
        })
    }

    /// The target of a virtual symbolic link.
    pub fn readlink(&self, ino: Ino) -> Option<&[u8]> {
        match self.nodes.get(&ino)? {
            Virtual::Link { target, .. } => Some(target),
            Virtual::Dir(_) => None,
        }
    }

    /// The directory that holds a virtual directory.
    pub fn parent(&self, ino: Ino) -> Option<Ino> {
        self.dir(ino).map(|dir| dir.parent)
    }

    /// The names in a directory whose row is greater than `after`; `None` if it is no directory.
    pub fn list(&self, ino: Ino, after: u64) -> Option<impl Iterator<Item = (u64, &[u8], Ino)>> {
        let rows = &self.dir(ino)?.rows;
        Some(rows.range(after.saturating_add(1)..).map(|(row, (name, ino))| (*row, name.as_slice(), *ino)))
    }

    /// Takes away a directory that has nothing in it, and likewise those above it up to `top`, which
    /// stays.
    pub fn drop_empty(&mut self, mut dir: Ino, top: Ino) {
        while dir != top && self.dir(dir).is_some_and(|d| d.rows.is_empty()) {
            let Some(parent) = self.parent(dir) else { return };
            let rows = self.list(parent, 0);
            let name = rows.and_then(|mut rows| rows.find(|(_, _, ino)| *ino == dir)).map(|(_, name, _)| name.to_vec());
            let Some(name) = name else { return };
            self.unlink(parent, &name);
            dir = parent;
        }
    }
}
