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
use crate::vault::tree::{Entry, Kind, Link, Origin, Time};

use super::attr::{Attr, door};
use super::fail::{Answer, Fail};
use super::ino::Ino;
use super::listing::Listing;
use super::paths::Way;
use super::tree::Dir;
use super::types::Policy;
use super::view::{PATH_MAX, View};
use super::world::Mounted;

/// What is put behind a version's name, as often as needed, until no other has it.
const MARK: u8 = b'~';

/// Where so many states of a directory must be looked through, what was found is worth more than its room. (In tests
/// there are few.)
const MANY: usize = if cfg!(test) { 3 } else { 16 };

/// A directory of versions.
pub struct Past {
    /// The directory's own attributes.
    pub attr: Attr,
    /// Whether it was much work to find out.
    pub dear: bool,
    parent: Ino,
    level: Level,
}

impl Past {
    /// What a name in it stands for, and what is found out by that of a directory. Waits for the vault.
    pub fn lookup(&self, view: &View, name: &[u8]) -> Answer<Option<(Attr, Option<Self>)>> {
        let level = descend(view, &self.level, name)?;
        if let Some(past) = self.beneath(view.paths().ino(self.attr.ino, name), level) {
            return Ok(Some((past.attr, Some(past))));
        }
        // It may be a version, whose name has as many marks as others have taken.
        let marks = name.iter().rev().take_while(|byte| **byte == MARK).count();
        let bare = name.len().saturating_sub(marks);
        let own = name.get(..bare).unwrap_or_default();
        let Some(version) = self.level.versions.iter().find(|version| version.name() == own) else { return Ok(None) };
        for end in bare..name.len() {
            if descend(view, &self.level, name.get(..end).unwrap_or_default())?.is_empty() {
                return Ok(None);
            }
        }
        Ok(Some((version.attr, None)))
    }

    /// What is in it, if there is anything.
    fn beneath(&self, ino: Ino, level: Level) -> Option<Self> {
        let attr = level.attr(ino, self.attr.mtime)?;
        Some(Self { attr, dear: self.level.is_many(), parent: self.attr.ino, level })
    }

    /// All that is in it, and of its directories what was found out by the way, if that was much work and is not much
    /// in itself. Waits for the vault.
    pub fn listing(&self, view: &View) -> Answer<(Listing, Vec<Self>)> {
        let mut rows: BTreeMap<Vec<u8>, Attr> = BTreeMap::new();
        let mut pasts = Vec::new();
        let names = names(view, &self.level)?;
        for (name, found) in names.found {
            let ino = view.paths().ino(self.attr.ino, &name);
            if let Some(attr) = found.attr(ino, self.attr.mtime) {
                rows.insert(name, attr);
            }
            if names.whole && names.known {
                pasts.extend(self.beneath(ino, found.level(self.level.whole)));
            }
        }
        for version in &self.level.versions {
            let mut name = version.name();
            while rows.contains_key(&name) {
                name.push(MARK);
            }
            rows.insert(name, version.attr);
        }
        Ok((Listing::new(self.attr, self.parent, rows, names.whole && self.level.whole), pasts))
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
#[derive(Debug, Default, Clone, Copy)]
enum Access {
    #[default]
    Unknown,
    All {
        mode: u16,
        uid: u32,
        gid: u32,
    },
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

/// One state of a directory, and the backups that have it.
struct Strand {
    newest: Arc<Mounted>,
    oldest: Arc<Mounted>,
    dir: Dir,
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
    fn is_many(&self) -> bool {
        self.strands.len() >= MANY
    }

    fn is_empty(&self) -> bool {
        self.strands.is_empty() && self.versions.is_empty()
    }

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
                }
            }
            hash_map::Entry::Vacant(slot) => {
                slot.insert(self.all.len());
                self.all.push(strand);
            }
        }
    }
}

/// The roots of these backups.
fn top(view: &View, backups: &[Arc<Mounted>]) -> Level {
    let (mut strands, mut access, mut whole) = (Strands::default(), Access::Unknown, true);
    for backup in backups {
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
        strands.add(Strand { newest: backup.clone(), oldest: backup.clone(), dir: backup.tree.root() });
    }
    Level { strands: strands.all, versions: Vec::new(), access, whole }
}

/// What a name stands for, as it is put together.
#[derive(Default)]
struct Found {
    /// The first backup that has it.
    newest: Option<Arc<Mounted>>,
    strands: Strands,
    versions: Vec<Version>,
    access: Access,
    /// Whether it is a file in some backup.
    file: bool,
}

impl Found {
    /// Adds what is `number` in the directory of `strand`, its content only if `more`: then it says whether it is
    /// another than those before.
    fn add(&mut self, view: &View, strand: &Strand, (number, entry): (u64, &Entry), more: bool) -> Answer<bool> {
        let (newest, oldest) = (&strand.newest, &strand.oldest);
        let before = (self.strands.all.len(), self.versions.len());
        match (Dir::of(number, entry), &entry.kind) {
            (Some(dir), Kind::Directory { origin, .. }) => {
                self.access.and_entry(newest, strand.dir.dumps || *origin == Origin::Dumps, entry);
                if more {
                    self.strands.add(Strand { newest: newest.clone(), oldest: oldest.clone(), dir });
                }
            }
            (_, kind) => {
                if more {
                    match self.versions.iter_mut().find(|version| version.kind == *kind) {
                        Some(known) => known.oldest = older(&known.oldest, oldest),
                        None => {
                            let attr = version_attr(view, strand, number, entry)?;
                            let (newest, oldest) = (newest.clone(), oldest.clone());
                            self.versions.push(Version { newest, oldest, kind: kind.clone(), attr });
                        }
                    }
                }
                self.file = true;
            }
        }
        if self.newest.is_none() {
            self.newest = Some(newest.clone());
        }
        Ok(before != (self.strands.all.len(), self.versions.len()))
    }

    /// The attributes of the directory that stands for it, if there is anything.
    fn attr(&self, ino: Ino, changed: Time) -> Option<Attr> {
        let access = of_name(self.file, self.access, self.newest.as_ref()?.view.policy);
        Some(access.attr(ino, changed))
    }

    fn level(self, whole: bool) -> Level {
        Level { strands: self.strands.all, versions: self.versions, access: self.access, whole }
    }
}

/// The attributes of an entry that is no directory.
fn version_attr(view: &View, strand: &Strand, number: u64, entry: &Entry) -> Answer<Attr> {
    let Strand { newest, dir, .. } = strand;
    // The way is asked for by later names of hard links only; to find it may take as many nodes as it has parts.
    let way = match entry.link {
        Link::To { .. } => view.insist(|| newest.tree.dirs(dir.number))?,
        _ => vec![*dir],
    };
    let parent = Ino::new(newest.slot, dir.number);
    view.insist(|| super::view::entry_attr(newest, parent, &way, number, entry))
}

/// What is called `name` in these directories.
fn descend(view: &View, level: &Level, name: &[u8]) -> Answer<Level> {
    let (mut found, mut troubles) = (Found::default(), Troubles::default());
    for strand in &level.strands {
        let mut look = || match view.insist(|| strand.newest.tree.by_name(&strand.dir, name))? {
            Some(spot) => found.add(view, strand, (spot.number, spot.entry()?), true).map(|_| ()),
            None => Ok(()),
        };
        troubles.pass(strand, look())?;
    }
    let whole = level.whole && troubles.end(found.newest.is_none())?;
    Ok(found.level(whole))
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

/// Names in a directory of versions that are directories themselves.
struct Names {
    found: BTreeMap<Vec<u8>, Found>,
    /// Whether all of them could be read.
    whole: bool,
    /// Whether their contents were kept too.
    known: bool,
}

/// So many contents are kept of the names in one directory, a few megabytes.
const CONTENTS: usize = 8192;

/// The names of everything that is or was in these directories.
fn names(view: &View, level: &Level) -> Answer<Names> {
    let mut found: BTreeMap<Vec<u8>, Found> = BTreeMap::new();
    // What is little work is done again when it is wanted.
    let most = if level.is_many() { CONTENTS } else { 0 };
    let (mut troubles, mut contents) = (Troubles::default(), 0);
    for strand in &level.strands {
        let Strand { newest, dir, .. } = strand;
        let mut after = 0;
        loop {
            let before = after;
            let listed = view.insist(|| {
                newest.tree.list(dir, after, &mut |number, entry| {
                    let more = most > 0 && contents <= most;
                    let other = match found.get_mut(&entry.name) {
                        Some(known) => known.add(view, strand, (number, entry), more)?,
                        None => {
                            let mut new = Found::default();
                            let other = new.add(view, strand, (number, entry), more)?;
                            found.insert(entry.name.clone(), new);
                            other
                        }
                    };
                    contents += usize::from(other);
                    if more && contents > most {
                        for known in found.values_mut() {
                            (known.strands, known.versions) = Default::default();
                        }
                    }
                    after = number.saturating_sub(dir.number);
                    Ok(true)
                })
            });
            if troubles.pass(strand, listed)?.is_none() || after == before {
                break;
            }
        }
    }
    let whole = troubles.end(found.is_empty())?;
    Ok(Names { found, whole, known: most > 0 && contents <= most })
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

/// What the `backups` of a resource, from new to old, have at a path. The resource is seen in the directory `above`;
/// its backups last changed at `changed`, which is the time of all directories here, so that the kernel lists them
/// anew. `known` gives what was found out about other directories. Waits for the vault.
pub fn past(
    view: &View,
    way: &Way,
    backups: impl FnOnce() -> Vec<Arc<Mounted>>,
    (above, changed): (Ino, Time),
    known: impl Fn(Ino) -> Option<Arc<Past>>,
) -> Answer<Past> {
    if way.up().nth(PATH_MAX / 2).is_some() {
        return Err(Fail::Errno(Errno::ENAMETOOLONG));
    }
    let parent = way.above.as_ref().map_or(above, |over| over.ino);
    // Mostly whoever comes here was in the directory above a moment ago.
    let (level, dear) = match way.above.as_ref().and_then(|over| known(over.ino)) {
        Some(past) => (descend(view, &past.level, &way.name)?, past.level.is_many()),
        None => {
            let mut names: Vec<&[u8]> = way.up().filter(|way| way.above.is_some()).map(|way| &*way.name).collect();
            names.reverse();
            names.into_iter().try_fold((top(view, &backups()), true), |(level, _), name| {
                Ok::<_, Fail>((descend(view, &level, name)?, level.is_many()))
            })?
        }
    };
    // The kernel must not keep what is not all.
    let changed = if level.whole { changed } else { super::attr::time(jiff::Timestamp::now()) };
    let attr = level.attr(way.ino, changed).ok_or(Errno::ESTALE)?;
    Ok(Past { attr, dear, parent, level })
}
