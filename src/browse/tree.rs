//! A backup's tree: from numbers and names to entries.
//!
//! The entry of a number is found by going down from the root, in each directory to the one row
//! whose range holds the number. A child's range always lies within its directory's (see
//! [`Sheets::get`]), so the way down ends whatever the vault says. Nothing here waits: what is
//! not in memory is [`Fail::Missing`].

use std::sync::Arc;

use nix::errno::Errno;

use crate::model::{Error, Id};
use crate::vault::tree::{Entry, Kind, Link, Origin};

use super::fail::{Answer, Fail};
use super::sheet::{Rows, Sheet, Sheets};
use super::source::TreeSource;

/// A root and branches above branches: two levels already hold 68 billion entries.
const MAX_LEVELS: usize = 6;

/// A directory on the way to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dir {
    /// Its number.
    pub number: u64,
    /// Its node.
    pub node: Id,
    /// How many entries are beneath it.
    pub entries: u64,
    /// Whether it holds dumps of databases.
    pub dumps: bool,
}

impl Dir {
    /// The entry with this number, if it is one.
    pub fn of(number: u64, entry: &Entry) -> Option<Self> {
        match &entry.kind {
            Kind::Directory { node, totals, origin } => {
                let dumps = *origin == Origin::Dumps;
                Some(Self { number, node: *node, entries: totals.entries, dumps })
            }
            _ => None,
        }
    }
}

/// An entry in its sheet.
#[derive(Clone)]
pub struct Spot {
    /// Its number.
    pub number: u64,
    sheet: Arc<Sheet>,
    row: usize,
}

impl Spot {
    /// The entry.
    pub fn entry(&self) -> Answer<&Entry> {
        match &self.sheet.rows {
            Rows::Leaf(entries) => entries.get(self.row).ok_or(Fail::Errno(Errno::ESTALE)),
            _ => Err(Fail::Errno(Errno::ESTALE)),
        }
    }

    /// What follows it in the same node, with their numbers.
    pub fn following(&self) -> impl Iterator<Item = (u64, &Entry)> {
        let entries = match &self.sheet.rows {
            Rows::Leaf(entries) => entries.as_slice(),
            _ => &[],
        };
        let first = self.number.saturating_sub(self.sheet.start(self.row));
        let numbered = entries.iter().enumerate().skip(self.row.saturating_add(1));
        numbered.map(move |(row, entry)| (first.saturating_add(self.sheet.start(row)), entry))
    }

    /// The entry as a directory.
    pub fn dir(&self) -> Answer<Dir> {
        Dir::of(self.number, self.entry()?).ok_or(Fail::Errno(Errno::ENOTDIR))
    }
}

/// An entry and the directories that lead to it, the root first.
pub struct Place {
    /// At least the root.
    pub dirs: Vec<Dir>,
    /// The entry.
    pub spot: Spot,
}

/// The tree of one backup.
pub struct Tree {
    root: Dir,
    source: Arc<dyn TreeSource>,
    sheets: Arc<Sheets>,
}

impl Tree {
    /// The tree beneath the node `root`, which holds `entries` entries.
    pub fn new(root: Id, entries: u64, source: Arc<dyn TreeSource>, sheets: Arc<Sheets>) -> Self {
        Self { root: Dir { number: 0, node: root, entries, dumps: false }, source, sheets }
    }

    /// The root directory.
    pub fn root(&self) -> Dir {
        self.root
    }

    /// Gives `look` the archived entry of the root directory, if the backup has one.
    pub fn root_entry<T>(&self, look: impl FnOnce(Option<&Entry>) -> T) -> Answer<T> {
        let sheet = self.sheets.get(&self.source, &self.root.node, self.root.entries)?;
        Ok(match &sheet.rows {
            Rows::Root(root) => look(Some(root)),
            _ => look(None),
        })
    }

    /// Where blobs come from.
    pub fn source(&self) -> &Arc<dyn TreeSource> {
        &self.source
    }

    /// The directories from the root to the one with this number.
    pub fn dirs(&self, number: u64) -> Answer<Vec<Dir>> {
        if number == 0 {
            return Ok(vec![self.root]);
        }
        let mut place = self.place(number)?;
        let dir = place.spot.dir()?;
        place.dirs.push(dir);
        Ok(place.dirs)
    }

    /// The entry with this number, which is not 0, and the way to it.
    pub fn place(&self, number: u64) -> Answer<Place> {
        let mut dirs = vec![self.root];
        loop {
            let dir = dirs.last().copied().unwrap_or(self.root);
            let spot = self.by_number(&dir, number)?;
            if spot.number == number {
                return Ok(Place { dirs, spot });
            }
            // The number lies beneath this entry, so it is a directory with entries.
            dirs.push(spot.dir().map_err(|_| Errno::ESTALE)?);
        }
    }

    /// The entry of `dir` that has the number, or has it beneath.
    fn by_number(&self, dir: &Dir, number: u64) -> Answer<Spot> {
        let within = number.checked_sub(dir.number.saturating_add(1));
        let mut rest = within.filter(|rest| *rest < dir.entries).ok_or(Errno::ESTALE)?;
        let (mut node, mut total) = (dir.node, dir.entries);
        for _ in 0..MAX_LEVELS {
            let sheet = self.sheets.get(&self.source, &node, total)?;
            let row = sheet.row_of(rest).ok_or(Errno::ESTALE)?;
            let start = sheet.start(row);
            match &sheet.rows {
                Rows::Leaf(_) => return Ok(Spot { number: number - (rest - start), sheet, row }),
                Rows::Branch(children) => {
                    let child = children.get(row).ok_or(Errno::ESTALE)?;
                    (node, total, rest) = (child.node, child.totals.entries, rest - start);
                }
                Rows::Root(root) => node = below(root, &node)?,
            }
        }
        Err(too_deep())
    }

    /// The entry of `dir` with this name. A name that could not be read is not shown.
    pub fn by_name(&self, dir: &Dir, name: &[u8]) -> Answer<Option<Spot>> {
        let (mut node, mut total, mut number) = (dir.node, dir.entries, dir.number.saturating_add(1));
        for _ in 0..MAX_LEVELS {
            let sheet = self.sheets.get(&self.source, &node, total)?;
            match &sheet.rows {
                Rows::Leaf(entries) => {
                    let Ok(row) = entries.binary_search_by(|entry| entry.name.as_slice().cmp(name)) else {
                        return Ok(None);
                    };
                    if entries[row].kind == Kind::Unread {
                        return Ok(None);
                    }
                    number = number.saturating_add(sheet.start(row));
                    return Ok(Some(Spot { number, sheet, row }));
                }
                Rows::Branch(children) => {
                    let row = children.partition_point(|child| child.last.as_slice() < name);
                    let Some(child) = children.get(row) else { return Ok(None) };
                    number = number.saturating_add(sheet.start(row));
                    (node, total) = (child.node, child.totals.entries);
                }
                Rows::Root(root) => node = below(root, &node)?,
            }
        }
        Err(too_deep())
    }

    /// Gives `each` the entries of `dir` whose place (their number counted from the directory's)
    /// is greater than `after`, with their numbers, until it answers `false`. A failure counts
    /// only if it comes first: whoever got some entries asks for the rest and then learns of it.
    pub fn list(&self, dir: &Dir, after: u64, each: &mut dyn FnMut(u64, &Entry) -> Answer<bool>) -> Answer<()> {
        let mut given = false;
        let mut each = |number: u64, entry: &Entry| {
            let more = each(number, entry)?;
            given = true;
            Ok(more)
        };
        // An entry's place is one more than its number counted from the first entry's.
        let first = dir.number.saturating_add(1);
        match self.list_node(&dir.node, dir.entries, first, after, MAX_LEVELS, &mut each) {
            Err(_) if given => Ok(()),
            other => other.map(|_| ()),
        }
    }

    fn list_node(
        &self,
        node: &Id,
        total: u64,
        first: u64,
        from: u64,
        levels: usize,
        each: &mut dyn FnMut(u64, &Entry) -> Answer<bool>,
    ) -> Answer<bool> {
        let levels = levels.checked_sub(1).ok_or_else(too_deep)?;
        let sheet = self.sheets.get(&self.source, node, total)?;
        match &sheet.rows {
            Rows::Leaf(entries) => {
                let row = sheet.row_from(from);
                for (entry, row) in entries.iter().skip(row).zip(row..) {
                    let shown = entry.kind != Kind::Unread;
                    if shown && !each(first.saturating_add(sheet.start(row)), entry)? {
                        return Ok(false);
                    }
                }
            }
            Rows::Branch(children) => {
                // The row before the first that starts at `from` or later may hold it too.
                let row = sheet.row_from(from).saturating_sub(1);
                for (child, row) in children.iter().skip(row).zip(row..) {
                    let start = sheet.start(row);
                    let (first, from) = (first.saturating_add(start), from.saturating_sub(start));
                    let beneath = child.totals.entries;
                    if from < beneath && !self.list_node(&child.node, beneath, first, from, levels, each)? {
                        return Ok(false);
                    }
                }
            }
            Rows::Root(root) => return self.list_node(&below(root, node)?, total, first, from, levels, each),
        }
        Ok(true)
    }

    /// The number of the inode that `entry`, which is `number` in the last of `dirs`, is a name
    /// of: for a later name of a hard link that of the first, if there is such a file, else its own.
    pub fn inode(&self, dirs: &[Dir], number: u64, entry: &Entry) -> Answer<u64> {
        let Link::To { nlink, up, path } = &entry.link else { return Ok(number) };
        let level = usize::try_from(*up).ok().and_then(|up| dirs.len().checked_sub(up.checked_add(1)?));
        let Some(mut dir) = level.and_then(|level| dirs.get(level).copied()) else { return Ok(number) };
        let mut names = path.split(|byte| *byte == b'/').peekable();
        while let Some(name) = names.next() {
            let Some(spot) = self.by_name(&dir, name)? else { return Ok(number) };
            let found = spot.entry()?;
            if names.peek().is_none() {
                let same =
                    found.link == Link::First { nlink: *nlink } && found.kind == entry.kind && found.meta == entry.meta;
                return Ok(if same { spot.number } else { number });
            }
            match Dir::of(spot.number, found) {
                Some(next) => dir = next,
                None => return Ok(number),
            }
        }
        Ok(number)
    }
}

/// The node of the root directory's entries.
fn below(root: &Entry, node: &Id) -> Answer<Id> {
    match Dir::of(0, root) {
        Some(dir) if dir.node != *node => Ok(dir.node),
        _ => Err(too_deep()),
    }
}

fn too_deep() -> Fail {
    Fail::Broken(Error::damaged("a directory's nodes lie too deep"))
}
