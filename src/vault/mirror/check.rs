//! Comparing the copies of a vault, object by object, and repairing one from another.
//!
//! Every object is named by the SHA-256 of its bytes, so which copy is right needs no vote.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use uuid::Uuid;

use super::drop::Dead;
use super::join::holds_copy;
use super::listing::{Listing, SMALL, SMALL_MAX, Small};
use super::lives::{contradicts, take_back};
use super::sync::{needed, read_intact};
use crate::model::{Error, ErrorKind, Id, Progress, Result};
use crate::store::ObjectStore;
use crate::vault::Vault;
use crate::vault::index::LocalIndex;
use crate::vault::pack::PACK_MAX;
use crate::vault::seal::Class;
use crate::vault::share::Share;
use crate::vault::writer::lock;
use crate::vault::{object, slots};

/// Objects that are read at once.
const THREADS: usize = 4;

/// One copy.
#[derive(Debug)]
pub struct Copy<'a> {
    /// How it is called.
    pub name: &'a str,
    /// Where it is.
    pub store: &'a dyn ObjectStore,
    /// The manifests beyond its limit, where it has one.
    pub over: Option<HashSet<Id>>,
}

/// What was found in one copy.
#[derive(Debug, Clone, Default)]
pub struct CopyReport {
    /// Objects that were looked at.
    pub objects: u64,
    /// What is wrong, by the object's key.
    pub bad: BTreeMap<String, String>,
    /// Of these, what is right now.
    pub repaired: HashSet<String>,
    /// Packs that are missing or damaged.
    pub bad_packs: HashSet<Id>,
    /// Whether it could not be read to the end, and why.
    pub away: Option<Error>,
}

impl CopyReport {
    /// What is still wrong.
    pub fn left(&self) -> impl Iterator<Item = (&String, &String)> {
        self.bad.iter().filter(|(key, _)| !self.repaired.contains(*key))
    }

    fn add(&mut self, key: String, what: impl std::fmt::Display) {
        self.bad.entry(key).or_insert_with(|| what.to_string());
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Object {
    key: String,
    id: Id,
    limit: u64,
    /// What it is; a pack, if nothing.
    small: Option<Small>,
    /// Its length, where that is known.
    size: Option<u64>,
}

impl Object {
    fn small(class: Small, id: Id) -> Self {
        Self { key: class.key(&id), id, limit: SMALL_MAX, small: Some(class), size: None }
    }
}

/// What a vault has, and all its copies should have, before they are looked at: what is written
/// meanwhile is missed nowhere.
#[derive(Debug)]
pub struct Before {
    listing: Listing,
    index: Arc<LocalIndex>,
}

impl Before {
    /// What it has now.
    pub fn of(vault: &Vault) -> Result<Self> {
        // Manifests are listed before the index is read: everything they need is in that.
        let listing = Listing::of(&*vault.store)?;
        vault.refresh()?;
        vault.look_for_packs()?;
        Ok(Self { listing, index: vault.index() })
    }
}

/// Compares copies of a vault, the first of which is its own store. Every object of the share `read`
/// is read; of others only what is missing or has another length is found. With `repair` a copy gets
/// what another one has intact, and what was deleted and is there again goes.
pub fn check_copies(
    vault: &Vault,
    before: Before,
    copies: &[Copy<'_>],
    read: Option<Share>,
    repair: bool,
    progress: &Progress,
) -> Result<Vec<CopyReport>> {
    let mut reports = vec![CopyReport::default(); copies.len()];
    // Indexes first: what packs there should be is known only when they are whole.
    let mut listings = vec![before.listing];
    for (copy, report) in copies.iter().zip(&mut reports).skip(1) {
        match Listing::of(copy.store) {
            Ok(listing) => listings.push(listing),
            Err(e) => {
                report.away = Some(e);
                listings.push(Listing::default());
            }
        }
    }
    let mut check = Check { vault, index: before.index, copies, read, repair, progress, reports, listings };
    check.other_lives()?;
    let (first, last): (Expected, Expected) = check
        .expected_small()?
        .into_iter()
        .partition(|(object, _)| matches!(object.small, Some(Small::Key | Small::Index)));
    check.objects(&first)?;
    if check.reports.first().is_some_and(|primary| primary.repaired.iter().any(|key| key.starts_with("index/"))) {
        vault.refresh()?;
        check.index = vault.index();
    }
    let packs = check.expected_packs()?;
    let read = packs.iter().filter(|(object, _)| check.reads(&object.id));
    progress.expect(0, read.map(|(object, on)| object.size.unwrap_or_default() * on.len() as u64).sum());
    check.objects(&packs)?;
    // A backup is there once everything that it needs is.
    check.objects(&last)?;
    check.risen()?;
    let mended = |pack: &Id| check.mended(pack);
    let whole: HashSet<Id> = check.index.packs().map(|pack| pack.id).filter(mended).collect();
    if !whole.is_empty() {
        vault.note_damage(&whole, &HashSet::new())?;
    }
    Ok(check.reports)
}

struct Check<'a> {
    vault: &'a Vault,
    index: Arc<LocalIndex>,
    copies: &'a [Copy<'a>],
    read: Option<Share>,
    repair: bool,
    progress: &'a Progress,
    reports: Vec<CopyReport>,
    listings: Vec<Listing>,
}

/// Objects, with the copies that should have them.
type Expected = Vec<(Object, Vec<usize>)>;

impl Check<'_> {
    /// The copies that can be read.
    fn present(&self) -> impl Iterator<Item = usize> {
        (0..self.copies.len()).filter(|i| self.reports.get(*i).is_some_and(|r| r.away.is_none()))
    }

    /// Whether an object is read: one of the share, or one that was found damaged before.
    fn reads(&self, id: &Id) -> bool {
        self.read.is_some_and(|share| share.contains(id) || self.index.lost().contains(id))
    }

    /// Whether a pack of the vault's own was made whole.
    fn mended(&self, pack: &Id) -> bool {
        let key = object::key(Class::DataPack, pack);
        self.reports.first().is_some_and(|primary| primary.repaired.contains(&key))
    }

    /// Takes care of index objects of mirrors that would hide what the vault uses: they are known no more, or
    /// with `repair` known without what they say of others.
    fn other_lives(&mut self) -> Result<()> {
        let live: HashSet<Id> = self.index.sources().collect();
        let own: HashSet<Id> = self.listings.first().into_iter().flat_map(|l| l.ids(Small::Index).copied()).collect();
        for i in self.present().filter(|i| *i > 0).collect::<Vec<_>>() {
            let (Some(copy), Some(listing)) = (self.copies.get(i), self.listings.get_mut(i)) else { continue };
            let extra: Vec<Id> = listing.ids(Small::Index).filter(|id| !own.contains(id)).copied().collect();
            for id in extra {
                let found = contradicts(self.vault, copy.store, &id, &live);
                let object = match found {
                    Ok(Some(object)) => object,
                    Ok(None) => continue,
                    // That it is away is noticed by whoever looks at its objects.
                    Err(e) if e.kind == ErrorKind::DestinationFailed => continue,
                    Err(e) => return Err(e),
                };
                listing.remove(Small::Index, &id);
                if self.repair {
                    holds_copy(copy.store, self.vault)?;
                    listing.add(Small::Index, take_back(self.vault, copy.store, &id, object)?);
                }
            }
        }
        Ok(())
    }

    /// All objects of a class that any copy has.
    fn all(&self, class: Small) -> HashSet<Id> {
        self.listings.iter().flat_map(|l| l.ids(class).copied()).collect()
    }

    /// What the vault itself says was deleted. What a mirror alone says may be of another life of it, when
    /// that mirror was the first.
    fn dead(&self) -> Result<Dead> {
        let said = self.listings.first().into_iter().flat_map(|l| l.ids(Small::Tombstone));
        let mut dead = Dead::read(self.vault, said)?;
        // What is in use is not dead, whatever was said of it once.
        let sources: HashSet<Id> = self.index.sources().collect();
        let packs: HashSet<Id> = self.index.packs().map(|pack| pack.id).collect();
        dead.index.retain(|id| !sources.contains(id));
        dead.packs.retain(|id| !packs.contains(id));
        Ok(dead)
    }

    /// Every copy should have every small object, but what was deleted, old configurations, and
    /// backups that a limited mirror does not keep.
    fn expected_small(&self) -> Result<Expected> {
        let dead = self.dead()?;
        let newest = self.newest_states();
        let mut expected = Vec::new();
        for class in SMALL {
            for id in self.all(class) {
                if dead.has(class, &id) || (class == Small::State && !newest.contains(&id)) {
                    continue;
                }
                let keeps = |i: &usize| {
                    let over = self.copies.get(*i).and_then(|copy| copy.over.as_ref());
                    class != Small::Manifest || over.is_none_or(|over| !over.contains(&id))
                };
                expected.push((Object::small(class, id), self.present().filter(keeps).collect()));
            }
        }
        Ok(expected)
    }

    /// The newest configuration of each machine, and those that cannot be read.
    fn newest_states(&self) -> HashSet<Id> {
        let mut newest: HashMap<Option<Uuid>, (Timestamp, Id)> = HashMap::new();
        let mut found = HashSet::new();
        for id in self.all(Small::State) {
            let state = self.copies.iter().find_map(|copy| self.vault.state_of(copy.store, &id).ok());
            match state {
                Some((machine, saved)) => {
                    let best = newest.entry(machine).or_insert((saved, id));
                    *best = (*best).max((saved, id));
                }
                None => drop(found.insert(id)),
            }
        }
        found.extend(newest.into_values().map(|(_, id)| id));
        found
    }

    /// The packs that the index lists; of a limited mirror those that its backups need.
    fn expected_packs(&self) -> Result<Expected> {
        let mut needs: HashMap<usize, HashSet<Id>> = HashMap::new();
        for i in self.present() {
            if let Some(over) = self.copies.get(i).and_then(|copy| copy.over.as_ref()) {
                let kept = self.listings.first().into_iter().flat_map(|l| l.ids(Small::Manifest));
                needs.insert(i, needed(self.vault, kept.filter(|id| !over.contains(id)), self.progress)?.packs);
            }
        }
        let mut seen = HashSet::new();
        let object = |pack: crate::vault::index::run::RunPack| {
            let key = object::key(pack.class, &pack.id);
            let on = self.present().filter(|i| needs.get(i).is_none_or(|needed| needed.contains(&pack.id))).collect();
            (Object { key, id: pack.id, limit: PACK_MAX, small: None, size: Some(pack.size) }, on)
        };
        Ok(self.index.packs().filter(|pack| seen.insert(pack.id)).map(object).collect())
    }

    /// Looks at every object in every copy that should have it.
    fn objects(&mut self, expected: &Expected) -> Result<()> {
        let next = AtomicUsize::new(0);
        let found = Mutex::new(Vec::new());
        let error = Mutex::new(None::<Error>);
        std::thread::scope(|scope| {
            for _ in 0..THREADS.min(expected.len()) {
                scope.spawn(|| {
                    while let Some((object, on)) = expected.get(next.fetch_add(1, Relaxed)) {
                        if lock(&error).is_some() {
                            return;
                        }
                        match self.progress.check().and_then(|()| self.object(object, on)) {
                            Ok(results) => lock(&found).extend(results),
                            Err(e) => drop(lock(&error).get_or_insert(e)),
                        }
                    }
                });
            }
        });
        if let Some(e) = error.into_inner().unwrap_or_default() {
            return Err(e);
        }
        for (i, object, fate) in found.into_inner().unwrap_or_default() {
            let Some(report) = self.reports.get_mut(i) else { continue };
            report.objects += 1;
            match fate {
                Fate::Whole => {}
                Fate::Away(e) => drop(report.away.get_or_insert(e)),
                Fate::Bad { why, repaired } => {
                    if object.small.is_none() && !repaired {
                        report.bad_packs.insert(object.id);
                    }
                    if repaired {
                        report.repaired.insert(object.key.clone());
                    }
                    report.add(object.key, why);
                }
            }
        }
        Ok(())
    }

    fn object(&self, object: &Object, on: &[usize]) -> Result<Vec<(usize, Object, Fate)>> {
        let mut results = Vec::new();
        let mut bad = Vec::new();
        for &i in on {
            let Some(copy) = self.copies.get(i) else { continue };
            match self.look(i, copy, object) {
                Ok(()) => results.push((i, object.clone(), Fate::Whole)),
                Err(e) if matches!(e.kind, ErrorKind::NotFound | ErrorKind::Damaged) => bad.push((i, copy, e)),
                Err(e) if i == 0 => return Err(e),
                Err(e) => results.push((i, object.clone(), Fate::Away(e))),
            }
        }
        let mut intact = None;
        if !bad.is_empty() && self.repair {
            // A copy that should not have it may do so all the same.
            let others = self.copies.iter().enumerate().filter(|(i, _)| !bad.iter().any(|(b, ..)| b == i));
            let read = |copy: &Copy<'_>| {
                let bytes = read_intact(copy.store, &object.key, &object.id, object.limit)?;
                self.authentic(object, &bytes).map(|()| bytes)
            };
            intact = others.map(|(_, copy)| read(copy)).find_map(Result::ok);
        }
        for (i, copy, e) in bad {
            let why = match e.kind {
                ErrorKind::NotFound => "it is missing".to_owned(),
                _ => e.message,
            };
            let put = |bytes: &[u8]| {
                // Nothing is missing in a place that is another's, or nobody's, by now.
                holds_copy(copy.store, self.vault)?;
                copy.store.put(&object.key, bytes)?;
                copy.store.sync()?;
                holds_copy(copy.store, self.vault)
            };
            let repaired = match &intact {
                Some(bytes) => match put(bytes) {
                    Ok(()) => true,
                    Err(e) if i == 0 => return Err(e),
                    Err(_) => false,
                },
                None => false,
            };
            results.push((i, object.clone(), Fate::Bad { why, repaired }));
        }
        Ok(results)
    }

    /// Fails unless the bytes are the vault's own: a name says only that they are not damaged.
    fn authentic(&self, object: &Object, bytes: &[u8]) -> Result<()> {
        let class = match object.small {
            // Which packs there are is said by an index that was authenticated.
            None => return Ok(()),
            Some(Small::Key) => return slots::check(bytes, self.vault.uuid()),
            Some(small) => small.class(),
        };
        let class = class.ok_or_else(|| Error::failed("a key is no sealed object"))?;
        object::open(&self.vault.keys, class, &mut bytes.to_vec()).map(drop)
    }

    fn look(&self, i: usize, copy: &Copy<'_>, object: &Object) -> Result<()> {
        let listing = self.listings.get(i);
        if object.small.is_none() {
            match listing.and_then(|l| l.packs.get(&object.id)).copied() {
                None => return Err(Error::not_found("it is missing")),
                Some(size) if Some(size) != object.size => {
                    let right = object.size.unwrap_or_default();
                    return Err(Error::damaged(format!("it has {size} bytes instead of {right}")));
                }
                Some(_) => {}
            }
        } else if !listing.is_some_and(|l| SMALL.iter().any(|class| l.has(*class, &object.id))) {
            return Err(Error::not_found("it is missing"));
        }
        if self.reads(&object.id) {
            read_intact(copy.store, &object.key, &object.id, object.limit)?;
            self.progress.add(0, object.size.unwrap_or_default());
        }
        Ok(())
    }

    /// What was deleted and is there again.
    fn risen(&mut self) -> Result<()> {
        let mut dead = self.dead()?;
        let keys = self.listings.first().map(|l| l.ids(Small::Key).filter(|id| !dead.keys.contains(id)).count());
        if keys.unwrap_or(0) == 0 {
            dead.keys.clear();
        }
        for i in self.present().collect::<Vec<_>>() {
            let (Some(copy), Some(listing)) = (self.copies.get(i), self.listings.get(i)) else { continue };
            let Some(report) = self.reports.get_mut(i) else { continue };
            let mut found = Vec::new();
            for class in [Small::Manifest, Small::Index, Small::Key] {
                found.extend(listing.ids(class).filter(|id| dead.has(class, id)).map(|id| class.key(id)));
            }
            // These only take room.
            let packs = listing.packs.keys().filter(|id| dead.packs.contains(id));
            let packs: Vec<String> = packs.map(|id| object::key(Class::DataPack, id)).collect();
            if self.repair {
                holds_copy(copy.store, self.vault)?;
                for key in found.iter().chain(&packs) {
                    copy.store.delete(key)?;
                }
                copy.store.sync()?;
                report.repaired.extend(found.iter().cloned());
            }
            for key in found {
                report.add(key, "it was deleted, and is there again");
            }
        }
        Ok(())
    }
}

enum Fate {
    Whole,
    Away(Error),
    Bad { why: String, repaired: bool },
}
