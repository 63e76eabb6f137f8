//! What all backups of a resource have at one path: every name that was ever there, and every content
//! of a file once.
//!
//! The backups are looked through from new to old. Directories that are equal are one strand, so the
//! cost grows with what changed, not with how many backups there are.
//!
//! Whoever may enter a directory here could enter it in each of the backups: where owners differ, or
//! ACLs say more than modes do, root alone may.
//!
//! Where a file's versions and the names of what was once a directory are in one directory, a version whose name
//! is taken has one with a mark behind it, so that both are seen.

use std::collections::{BTreeMap, HashMap, hash_map};
use std::sync::Arc;

use nix::errno::Errno;

use crate::model::Id;
use crate::vault::tree::{Entry, Kind, Origin, Time};

use super::attr::{Attr, door};
use super::fail::{Answer, Fail};
use super::ino::Ino;
use super::listing::Listing;
use super::tree::Dir;
use super::types::Policy;
use super::view::{PATH_MAX, View};
use super::world::Mounted;

/// What is put behind a version's name, as often as needed, until no other has it.
const MARK: u8 = b'~';

/// A directory of versions.
pub struct Past {
    /// The directory's own attributes.
    pub attr: Attr,
    parent: Ino,
    level: Level,
}

impl Past {
    /// What a name in it stands for. Waits for the vault.
    pub fn lookup(&self, view: &View, name: &[u8]) -> Answer<Option<Attr>> {
        let found = descend(view, &self.level, name)?;
        if let Some(home) = found.home {
            return Ok(found.attr(home.ino(), self.attr.mtime));
        }
        // It may be a version, whose name has as many marks as others have taken.
        let marks = name.iter().rev().take_while(|byte| **byte == MARK).count();
        let bare = name.len().saturating_sub(marks);
        let own = name.get(..bare).unwrap_or_default();
        let Some(version) = self.level.versions.iter().find(|version| version.name() == own) else { return Ok(None) };
        for end in bare..name.len() {
            if descend(view, &self.level, name.get(..end).unwrap_or_default())?.home.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(version.attr))
    }

    /// All that is in it. Waits for the vault.
    pub fn listing(&self, view: &View) -> Answer<Listing> {
        let mut rows: BTreeMap<Vec<u8>, Attr> = BTreeMap::new();
        let (names, whole) = names(view, &self.level)?;
        for (name, found) in names {
            let access = of_name(found.file, found.access, found.newest.view.policy);
            rows.insert(name, access.attr(found.home.ino(), self.attr.mtime));
        }
        for version in &self.level.versions {
            let mut name = version.name();
            while rows.contains_key(&name) {
                name.push(MARK);
            }
            rows.insert(name, version.attr);
        }
        Ok(Listing::new(self.attr, self.parent, rows, whole && self.level.whole))
    }

    /// Whether everything could be read.
    pub fn is_whole(&self) -> bool {
        self.level.whole
    }

    /// What keeping it costs, in bytes.
    pub fn weight(&self) -> usize {
        256 + self.level.strands.len() * size_of::<Strand>() + self.level.versions.len() * 400
    }
}

/// What each of several directories lets its callers do.
#[derive(Debug, Clone, Copy)]
enum Access {
    Unknown,
    All { mode: u16, uid: u32, gid: u32 },
    Root,
}

impl Access {
    fn and(&mut self, (mode, uid, gid): (u16, u32, u32)) {
        *self = match *self {
            Self::Unknown => Self::All { mode: mode & 0o777, uid, gid },
            Self::All { mode: before, uid: u, gid: g } if (u, g) == (uid, gid) => {
                Self::All { mode: before & mode, uid, gid }
            }
            _ => Self::Root,
        };
    }

    /// And what this directory of that backup does.
    fn and_entry(&mut self, mounted: &Mounted, dumps: bool, entry: &Entry) {
        let owner = &entry.meta.owner;
        match mounted.view.policy {
            _ if dumps => *self = Self::Root,
            Policy::Strict if entry.meta.xattrs.iter().any(|(name, _)| name.starts_with(b"system.posix_acl")) => {
                *self = Self::Root;
            }
            Policy::Strict => self.and((entry.meta.mode, owner.uid, owner.gid)),
            other => self.and_door(other),
        }
    }

    fn and_door(&mut self, policy: Policy) {
        let (mode, uid) = door(policy);
        self.and((mode, uid, 0));
    }

    fn attr(self, ino: Ino, changed: Time) -> Attr {
        let (mode, uid, gid) = match self {
            Self::All { mode, uid, gid } => (mode, uid, gid),
            Self::Unknown | Self::Root => (0o700, 0, 0),
        };
        Attr { gid, ..Attr::directory(ino, mode, uid, changed) }
    }
}

/// Where a path has its inode from: of all backups that have it the one with the lowest rank. A backup that comes
/// has a higher rank than the others that are as new as the anchor, so it changes no inode of what they have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Home {
    rank: usize,
    slot: u64,
    number: u64,
}

impl Home {
    fn ino(self) -> Ino {
        Ino::new(self.slot, 0).versions(self.number)
    }

    /// That of what is `number` in `dir`, which has this one: directories that are equal are numbered alike.
    fn of(self, dir: &Dir, number: u64) -> Self {
        Self { number: self.number.saturating_add(number.saturating_sub(dir.number)), ..self }
    }
}

/// One state of a directory, and the backups that have it.
struct Strand {
    newest: Arc<Mounted>,
    oldest: Arc<Mounted>,
    dir: Dir,
    home: Home,
}

/// One content of a file.
struct Version {
    newest: Arc<Mounted>,
    oldest: Arc<Mounted>,
    kind: Kind,
    attr: Attr,
}

/// What lies at a path, from new to old.
struct Level {
    /// Where its inode is from, if there is anything.
    home: Option<Home>,
    strands: Vec<Strand>,
    versions: Vec<Version>,
    access: Access,
    /// Whether everything could be read.
    whole: bool,
}

impl Version {
    /// What it is called, by the first backup that has it, unless something else is.
    fn name(&self) -> Vec<u8> {
        self.oldest.view.dir_name().into_bytes()
    }
}

impl Level {
    /// The attributes of the directory that stands for it, if there is anything.
    fn attr(&self, ino: Ino, changed: Time) -> Option<Attr> {
        let newest = self.strands.first().map(|strand| &strand.newest);
        let newest = newest.into_iter().chain(self.versions.first().map(|version| &version.newest));
        let newest = newest.max_by_key(|m| (m.view.created_at, m.view.id))?;
        let access = of_name(!self.versions.is_empty(), self.access, newest.view.policy);
        Some(access.attr(ino, changed))
    }
}

fn older(a: &Arc<Mounted>, b: &Arc<Mounted>) -> Arc<Mounted> {
    let age = |m: &Mounted| (m.view.created_at, m.view.id);
    if age(b) < age(a) { b.clone() } else { a.clone() }
}

/// Strands by what they hold, in the order in which they come.
#[derive(Default)]
struct Strands {
    all: Vec<Strand>,
    known: HashMap<(Id, bool), usize>,
}

impl Strands {
    fn add(&mut self, strand: Strand) {
        match self.known.entry((strand.dir.node, strand.dir.dumps)) {
            hash_map::Entry::Occupied(slot) => {
                if let Some(known) = self.all.get_mut(*slot.get()) {
                    known.oldest = older(&known.oldest, &strand.oldest);
                    // What is read by the newest must be found by this too, also when other vaults are away.
                    if known.newest.view.vault == strand.newest.view.vault {
                        known.home = known.home.min(strand.home);
                    }
                }
            }
            hash_map::Entry::Vacant(slot) => {
                slot.insert(self.all.len());
                self.all.push(strand);
            }
        }
    }
}

/// The roots of these backups, of which the one in the slot `anchor` has the lowest rank, then those that are newer,
/// the oldest of them first, then the others.
fn top(view: &View, backups: &[Arc<Mounted>], anchor: u64) -> Level {
    let anchor = backups.iter().position(|backup| backup.slot == anchor).unwrap_or(0);
    let (mut strands, mut access, mut whole) = (Strands::default(), Access::Unknown, true);
    for (at, backup) in backups.iter().enumerate() {
        let home = Home { rank: anchor.checked_sub(at).unwrap_or(at), slot: backup.slot, number: 0 };
        if backup.view.policy == Policy::Strict {
            let root = view.insist(|| {
                backup.tree.root_entry(|root| match root {
                    Some(entry) => access.and_entry(backup, false, entry),
                    None => access.and_door(Policy::Strict),
                })
            });
            // What cannot be read is not shown, and lets nobody in.
            if root.is_err() {
                access = Access::Root;
                whole = false;
            }
        } else {
            access.and_door(backup.view.policy);
        }
        strands.add(Strand { newest: backup.clone(), oldest: backup.clone(), dir: backup.tree.root(), home });
    }
    let home = strands.all.iter().map(|strand| strand.home).min();
    Level { home, strands: strands.all, versions: Vec::new(), access, whole }
}

/// What is called `name` in these directories.
fn descend(view: &View, level: &Level, name: &[u8]) -> Answer<Level> {
    let (mut strands, mut access) = (Strands::default(), Access::Unknown);
    let mut versions: Vec<Version> = Vec::new();
    let mut home: Option<Home> = None;
    let mut troubles = Troubles::default();
    for strand in &level.strands {
        // Everything that it takes from this backup, or nothing.
        let look = || {
            let Some(spot) = view.insist(|| strand.newest.tree.by_name(&strand.dir, name))? else { return Ok(None) };
            let attr = if matches!(spot.entry()?.kind, Kind::Directory { .. }) {
                None
            } else {
                let parent = Ino::new(strand.newest.slot, strand.dir.number);
                let way = view.insist(|| strand.newest.tree.dirs(strand.dir.number))?;
                let entry = spot.entry()?;
                Some(view.insist(|| super::view::entry_attr(&strand.newest, parent, &way, spot.number, entry))?)
            };
            Ok(Some((spot, attr)))
        };
        let Some((spot, attr)) = troubles.pass(strand, look())?.flatten() else { continue };
        let entry = spot.entry()?;
        let own = strand.home.of(&strand.dir, spot.number);
        home = Some(home.map_or(own, |other| other.min(own)));
        let (newest, oldest) = (strand.newest.clone(), strand.oldest.clone());
        match (&entry.kind, attr) {
            (Kind::Directory { origin, .. }, _) => {
                access.and_entry(&strand.newest, strand.dir.dumps || *origin == Origin::Dumps, entry);
                strands.add(Strand { newest, oldest, dir: spot.dir()?, home: own });
            }
            (kind, Some(attr)) => match versions.iter_mut().find(|version| version.kind == *kind) {
                Some(known) => known.oldest = older(&known.oldest, &oldest),
                None => versions.push(Version { newest, oldest, kind: kind.clone(), attr }),
            },
            (_, None) => {}
        }
    }
    let whole = level.whole && troubles.end(strands.all.is_empty() && versions.is_empty())?;
    Ok(Level { home, strands: strands.all, versions, access, whole })
}

/// Backups that could not be read: the others are shown, if there are any.
#[derive(Default)]
struct Troubles(Option<Fail>);

impl Troubles {
    fn pass<T>(&mut self, strand: &Strand, found: Answer<T>) -> Answer<Option<T>> {
        match found {
            Ok(found) => Ok(Some(found)),
            Err(Fail::Broken(error)) => {
                if self.0.is_none() {
                    tracing::warn!(backup = strand.newest.view.id, "cannot be read for a list of versions: {error}");
                }
                self.0 = Some(Fail::Broken(error));
                Ok(None)
            }
            Err(fail) => Err(fail),
        }
    }

    /// Whether there were none.
    fn end(self, nothing: bool) -> Answer<bool> {
        match self.0 {
            Some(fail) if nothing => Err(fail),
            troubles => Ok(troubles.is_none()),
        }
    }
}

/// A name in a directory of versions that is one itself.
struct Name {
    home: Home,
    newest: Arc<Mounted>,
    access: Access,
    /// Whether it is a file in some backup: then its times may be listed by whoever sees the file.
    file: bool,
}

/// The names of everything that is or was in these directories, and whether all of them could be read.
fn names(view: &View, level: &Level) -> Answer<(BTreeMap<Vec<u8>, Name>, bool)> {
    let mut names: BTreeMap<Vec<u8>, Name> = BTreeMap::new();
    let mut troubles = Troubles::default();
    for strand in &level.strands {
        let Strand { newest, dir, .. } = strand;
        let mut add = |number: u64, entry: &Entry| {
            let home = strand.home.of(dir, number);
            if !names.contains_key(&entry.name) {
                let name = Name { home, newest: newest.clone(), access: Access::Unknown, file: false };
                names.insert(entry.name.clone(), name);
            }
            let Some(name) = names.get_mut(&entry.name) else { return };
            name.home = name.home.min(home);
            match entry.kind {
                Kind::Directory { origin, .. } => {
                    name.access.and_entry(newest, dir.dumps || origin == Origin::Dumps, entry);
                }
                _ => name.file = true,
            }
        };
        let mut after = 0;
        loop {
            let before = after;
            let listed = view.insist(|| {
                newest.tree.list(dir, after, &mut |number, entry| {
                    add(number, entry);
                    after = number.saturating_sub(dir.number);
                    Ok(true)
                })
            });
            if troubles.pass(strand, listed)?.is_none() || after == before {
                break;
            }
        }
    }
    let whole = troubles.end(names.is_empty())?;
    Ok((names, whole))
}

/// Who may list the versions of what is a file in some backup and perhaps a directory in others.
fn of_name(file: bool, mut access: Access, policy: Policy) -> Access {
    if file {
        match policy {
            // As whoever sees the file among others.
            Policy::Strict if matches!(access, Access::Unknown) => access.and((0o755, 0, 0)),
            Policy::Strict => {}
            other => access.and_door(other),
        }
    }
    access
}

/// What the backups of a resource, from new to old, have at the path of an inode's entry in `mounted`.
/// The resource is seen in the directory `above`; its backups last changed at `changed`, which is the
/// time of all directories here, so that the kernel lists them anew. Inodes are of the backup in the slot `anchor`
/// as far as that has what they stand for. `known` gives what was found out
/// about other directories. Waits for the vault.
pub fn past(
    view: &View,
    ino: Ino,
    mounted: &Mounted,
    backups: &[Arc<Mounted>],
    anchor: u64,
    (above, changed): (Ino, Time),
    known: impl Fn(Ino) -> Option<Arc<Past>>,
) -> Answer<Past> {
    let number = ino.number();
    let (level, parent) = if number == 0 {
        (top(view, backups, anchor), above)
    } else {
        let place = view.insist(|| mounted.tree.place(number))?;
        if place.dirs.len() > PATH_MAX / 2 {
            return Err(Fail::Errno(Errno::ENAMETOOLONG));
        }
        let name_of = |number| view.insist(|| Ok(mounted.tree.place(number)?.spot.entry()?.name.clone()));
        // Mostly whoever comes here was in the directory above a moment ago.
        if let Some(past) = place.dirs.last().and_then(|dir| known(ino.versions(dir.number))) {
            (descend(view, &past.level, &name_of(number)?)?, past.level.home.map_or(above, Home::ino))
        } else {
            let mut level = top(view, backups, anchor);
            for dir in place.dirs.iter().skip(1) {
                level = descend(view, &level, &name_of(dir.number)?)?;
            }
            (descend(view, &level, &name_of(number)?)?, level.home.map_or(above, Home::ino))
        }
    };
    // The kernel must not keep what is not all.
    let changed = if level.whole { changed } else { super::attr::time(jiff::Timestamp::now()) };
    let attr = level.attr(ino, changed).ok_or(Errno::ESTALE)?;
    Ok(Past { attr, parent, level })
}
