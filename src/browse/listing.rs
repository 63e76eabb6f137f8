//! Listings of directories of versions, and how one goes on.
//!
//! Such a directory has the names that all backups have, so a backup that comes or goes between two parts of one
//! listing would move the places in it. The kernel is told to open no directories, so nothing says for how long
//! a listing is needed. Therefore a cookie says which listing it is a place of, and those that were given lately
//! are kept, also when they are out of date: who has begun with one goes on with it. A name that is there before
//! and after is given exactly once. Whoever comes back to a listing that is neither kept nor can be made again
//! is told so by ESTALE, and misses nothing unknowingly.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use nix::errno::Errno;

use crate::vault::tree::Time;

use super::attr::{self, Attr};
use super::cache::Cache;
use super::fail::{Answer, Fail};
use super::ino::Ino;
use super::versions::Past;
use super::view::Row;

/// Bits of a cookie that say the place in the listing; those above, but for the sign, say which listing.
const PLACE: u32 = 32;

/// Which listings of a directory: all that are whole are alike until the resource's backups change, so the
/// generation of those says which; any other is like no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Edition(u64);

impl Edition {
    const MASK: u64 = (1 << (63 - PLACE)) - 1;

    fn whole(generation: u64) -> Self {
        Self(generation << 1 & Self::MASK)
    }

    fn unlike(number: u64) -> Self {
        Self((number << 1 | 1) & Self::MASK)
    }

    fn of(cookie: u64) -> Self {
        Self(cookie >> PLACE)
    }
}

/// What lies at a path, and its listings, as they were put together lately: by the generation of the resource's
/// backups and the directory.
pub struct Pasts {
    pasts: Cache<(u64, Ino), Arc<Past>>,
    /// Those that were much work: a walk through all the others must not push them out.
    dear: Cache<(u64, Ino), Arc<Past>>,
    listings: Cache<(Edition, Ino), Arc<Listing>>,
    /// Counts listings that were not whole.
    broken: AtomicU64,
    /// When something could last not be read.
    trouble: RwLock<Option<Time>>,
}

impl Pasts {
    /// None yet; they are kept in about `memory` bytes.
    pub fn new(memory: usize) -> Self {
        // They are few and may be heavy, and are asked for by few threads.
        let twelfth = memory / 12;
        let (pasts, dear) = (Cache::with_shards(twelfth, 1), Cache::with_shards(twelfth * 4, 1));
        let listings = Cache::with_shards(twelfth * 7, 1);
        Self { pasts, dear, listings, broken: AtomicU64::default(), trouble: RwLock::default() }
    }

    /// What lies at the path of a directory of versions, by `make` if it is not known.
    pub fn past(&self, key: (u64, Ino), make: impl FnOnce() -> Answer<Past>) -> Answer<Arc<Past>> {
        if let Some(past) = self.known(key) {
            return Ok(past);
        }
        let past = Arc::new(make()?);
        self.put(key.0, past.clone());
        Ok(past)
    }

    /// Keeps what was found out about directories of this generation by the way.
    pub fn keep(&self, generation: u64, pasts: impl IntoIterator<Item = Past>) {
        pasts.into_iter().for_each(|past| self.put(generation, Arc::new(past)));
    }

    fn put(&self, generation: u64, past: Arc<Past>) {
        if past.is_whole() {
            let (key, weight) = ((generation, past.attr.ino), past.weight());
            let cache = if past.dear { &self.dear } else { &self.pasts };
            cache.put(key, past, weight);
        }
    }

    /// What lies there, if that was asked for before.
    pub fn known(&self, key: (u64, Ino)) -> Option<Arc<Past>> {
        self.dear.get(&key).or_else(|| self.pasts.get(&key))
    }

    /// What is in it, if that was asked for before.
    pub fn listed(&self, (generation, ino): (u64, Ino)) -> Option<Arc<Listing>> {
        self.listings.get(&(Edition::whole(generation), ino))
    }

    /// The listing that `cookie` is a place of; for 0 that of `generation`, which is `None` where the directory
    /// is gone, by `make` if it is not known.
    pub fn listing(
        &self,
        (generation, ino): (Option<u64>, Ino),
        cookie: u64,
        make: impl FnOnce() -> Answer<Listing>,
    ) -> Answer<Arc<Listing>> {
        let now = generation.map(Edition::whole);
        let wanted = if cookie == 0 { now } else { Some(Edition::of(cookie)) };
        let wanted = wanted.ok_or(Errno::ESTALE)?;
        if let Some(listing) = self.listings.get(&(wanted, ino)) {
            return Ok(listing);
        }
        if now != Some(wanted) {
            return Err(Fail::Errno(Errno::ESTALE));
        }
        let mut listing = make()?;
        listing.generation = generation;
        if listing.whole {
            listing.edition = wanted;
        } else {
            if cookie != 0 {
                // The one that was begun was whole.
                return Err(Fail::Errno(Errno::ESTALE));
            }
            listing.edition = Edition::unlike(self.broken.fetch_add(1, Ordering::Relaxed));
            let now = attr::time(jiff::Timestamp::now());
            *self.trouble.write().unwrap_or_else(PoisonError::into_inner) = Some(now);
        }
        let listing = Arc::new(listing);
        self.listings.put((listing.edition, ino), listing.clone(), listing.weight());
        Ok(listing)
    }

    /// The attributes of a directory: its time changes when a listing was not all, so that the kernel does
    /// not keep that one.
    pub fn attr(&self, past: &Past) -> Attr {
        let trouble = *self.trouble.read().unwrap_or_else(PoisonError::into_inner);
        Attr { mtime: trouble.map_or(past.attr.mtime, |trouble| past.attr.mtime.max(trouble)), ..past.attr }
    }
}

/// What is in a directory of versions.
pub struct Listing {
    edition: Edition,
    /// Of which backups it was made.
    generation: Option<u64>,
    attr: Attr,
    parent: Ino,
    /// By name.
    rows: Vec<(Vec<u8>, Attr)>,
    /// Whether everything could be read.
    whole: bool,
}

impl Listing {
    /// These rows of the directory `attr`, which is in `parent`.
    pub fn new(attr: Attr, parent: Ino, rows: BTreeMap<Vec<u8>, Attr>, whole: bool) -> Self {
        Self { edition: Edition(0), generation: None, attr, parent, rows: rows.into_iter().collect(), whole }
    }

    /// What a name in it stands for.
    pub fn lookup(&self, name: &[u8]) -> Option<Attr> {
        let at = self.rows.binary_search_by(|(n, _)| n.as_slice().cmp(name)).ok()?;
        self.rows.get(at).map(|(_, attr)| *attr)
    }

    /// Gives `each` the names that follow `cookie`, until it answers `false`.
    pub fn list(&self, cookie: u64, each: &mut dyn FnMut(Row<'_>) -> bool) {
        let bare = |ino| Attr::directory(ino, 0o755, 0, Default::default());
        let dots = [(&b"."[..], bare(self.attr.ino), false), (&b".."[..], bare(self.parent), false)];
        let rows = self.rows.iter().map(|(name, attr)| (name.as_slice(), *attr, true));
        let skipped = usize::try_from(cookie & ((1 << PLACE) - 1)).unwrap_or(usize::MAX);
        for ((name, attr, sure), place) in dots.into_iter().chain(rows).zip(1..).skip(skipped) {
            if !each(Row { cookie: self.edition.0 << PLACE | place, name, attr, sure }) {
                return;
            }
        }
    }

    /// Whether this is a place in it.
    pub fn has(&self, cookie: u64) -> bool {
        self.edition == Edition::of(cookie)
    }

    /// Whether it was made of these backups.
    pub fn is_of(&self, generation: u64) -> bool {
        self.generation == Some(generation)
    }

    /// Whether the directory lets in nobody `today` whom it did not then.
    pub fn may_be_seen(&self, today: &Attr) -> bool {
        let closed = today.uid == 0 && today.mode & 0o077 == 0;
        closed || (self.attr.mode, self.attr.uid, self.attr.gid) == (today.mode, today.uid, today.gid)
    }

    fn weight(&self) -> usize {
        let rows = self.rows.iter().map(|(name, _)| name.len() + size_of::<(Vec<u8>, Attr)>() + 16);
        rows.sum::<usize>() + 256
    }
}
