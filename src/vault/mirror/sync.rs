//! Bringing a mirror up to date: only what is missing is copied.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::drop::drop_deleted;
use super::join;
use super::listing::{Listing, SMALL_MAX, Small};
use super::{Mirror, Problem, SyncReport};
use crate::model::{Error, ErrorKind, Id, Progress, Result};
use crate::store::ObjectStore;
use crate::vault::Vault;
use crate::vault::check::packs_of;
use crate::vault::index::run::RunPack;
use crate::vault::mark::{Marks, Visitor};
use crate::vault::object;
use crate::vault::pack::PACK_MAX;
use crate::vault::writer::lock;

/// Packs that are copied at once.
const THREADS: usize = 4;
/// How often a vault may be pruned meanwhile before the copy is given up.
const ROUNDS: usize = 10;

/// Copies to the mirror what it misses and deletes there what was deleted. Goes beside writers and
/// beside a prune.
pub fn sync(vault: &Vault, mirror: &Mirror<'_>, progress: &Progress) -> Result<SyncReport> {
    vault.check_identity()?;
    if mirror.joined {
        join::holds_copy(mirror.store, vault)?;
    } else {
        join::begin(mirror.store, vault)?;
    }
    let mut report = SyncReport::default();
    for _ in 0..ROUNDS {
        if Pass::begin(vault, mirror)?.run(&mut report, progress)? {
            return Ok(report);
        }
        report.problems.clear();
    }
    Err(Error::failed("the vault was pruned again and again while it was copied; what is missing is copied later"))
}

impl Vault {
    /// An object's stored bytes, as they were when they were stored, from any copy.
    pub(super) fn read_object(&self, key: &str, id: &Id, limit: u64) -> Result<Vec<u8>> {
        self.read(|store| read_intact(store, key, id, limit))
    }
}

/// An object's stored bytes; `Damaged` if they are not those that its name says.
pub(super) fn read_intact(store: &dyn ObjectStore, key: &str, id: &Id, limit: u64) -> Result<Vec<u8>> {
    let bytes = store.get(key, limit)?;
    if Id::of(&bytes) == *id { Ok(bytes) } else { Err(Error::damaged(format!("{key} is not what its name says"))) }
}

/// A walk that only marks.
#[derive(Default)]
struct Quiet {
    /// Whether something is missing or damaged.
    torn: bool,
    /// Why something could not be read that may be there.
    failed: Option<Error>,
}

impl Visitor for Quiet {
    fn missing(&mut self, _path: &[u8], _id: &Id) {
        self.torn = true;
    }

    fn unreadable(&mut self, _path: &[u8], error: Error) {
        match error.kind {
            ErrorKind::Damaged | ErrorKind::NotFound => self.torn = true,
            _ => drop(self.failed.get_or_insert(error)),
        }
    }
}

/// What backups need.
pub(super) struct Needed {
    /// The packs.
    pub packs: HashSet<Id>,
    /// Whether that is all: nothing was missing or damaged on the way.
    pub whole: bool,
}

/// The packs that backups need. What could not be read and may be there is an error.
pub(super) fn needed<'a>(
    vault: &Vault,
    manifests: impl Iterator<Item = &'a Id>,
    progress: &Progress,
) -> Result<Needed> {
    let (mut marks, mut quiet) = (Marks::new(vault), Quiet::default());
    for id in manifests {
        let manifest = match vault.manifest(id) {
            Ok(manifest) => manifest,
            Err(e) if e.kind == ErrorKind::NotFound => continue,
            Err(e) if e.kind == ErrorKind::Damaged => {
                quiet.torn = true;
                continue;
            }
            Err(e) => return Err(e),
        };
        // Its own progress: these are no files that are copied.
        marks.tree(vault, &manifest.root, &mut quiet, &Progress::default())?;
        progress.check()?;
        if let Some(e) = quiet.failed.take() {
            return Err(e);
        }
        if let Some(list) = &manifest.error_list {
            marks.mark(list);
        }
    }
    Ok(Needed { packs: packs_of(&marks), whole: !quiet.torn })
}

struct Pass<'a> {
    vault: &'a Vault,
    mirror: &'a Mirror<'a>,
    /// What the vault had when the pass began. Its manifests were listed before its index was
    /// read: everything they need is in that.
    here: Listing,
    /// What the mirror has.
    there: Listing,
    /// Index objects that count.
    index: HashSet<Id>,
}

impl<'a> Pass<'a> {
    fn begin(vault: &'a Vault, mirror: &'a Mirror<'a>) -> Result<Self> {
        let there = Listing::of(mirror.store)?;
        let here = Listing::of(&*vault.store)?;
        vault.refresh()?;
        let index = vault.index().sources().collect();
        Ok(Self { vault, mirror, here, there, index })
    }

    fn keeps(&self, manifest: &Id) -> bool {
        self.mirror.over.as_ref().is_none_or(|over| !over.contains(manifest))
    }

    /// Says whether the mirror is up to date now; if not, the vault was pruned meanwhile.
    fn run(mut self, report: &mut SyncReport, progress: &Progress) -> Result<bool> {
        let wanted: Vec<Id> = self.here.ids(Small::Manifest).filter(|id| self.keeps(id)).copied().collect();
        let new = wanted.iter().any(|id| !self.there.has(Small::Manifest, id));
        let mut whole = true;
        let packs = match self.mirror.over {
            None => None,
            // Nothing has changed since everything was there.
            Some(_) if !new && self.index.iter().all(|id| self.there.has(Small::Index, id)) => Some(HashSet::new()),
            Some(_) => {
                let found = needed(self.vault, wanted.iter(), progress)?;
                whole = found.whole;
                Some(found.packs)
            }
        };
        let failed = self.copy_packs(packs.as_ref(), report, progress)?;
        self.mirror.store.sync()?;
        let index: Vec<Id> = self.index.iter().copied().collect();
        self.copy(Small::Index, &index, report, progress)?;
        for class in [Small::Key, Small::State, Small::Tombstone] {
            let ids: Vec<Id> = self.here.ids(class).copied().collect();
            self.copy(class, &ids, report, progress)?;
        }
        self.mirror.store.sync()?;
        join::holds_copy(self.mirror.store, self.vault)?;
        // What a prune replaced meanwhile may be what the manifests need.
        let now = Small::Index.list(&*self.vault.store)?;
        if !self.index.is_subset(&now) {
            return Ok(false);
        }
        // Where anything is wrong, each backup is looked at by itself.
        let whole = |id: &Id| -> Result<bool> {
            if whole && failed.is_empty() {
                return Ok(true);
            }
            let found = needed(self.vault, [*id].iter(), progress)?;
            Ok(found.whole && found.packs.is_disjoint(&failed))
        };
        let mut publish = Vec::new();
        for id in wanted {
            if self.there.has(Small::Manifest, &id) || whole(&id)? {
                publish.push(id);
            } else {
                let message = "not everything that this backup needs can be read; verify the vault".to_owned();
                report.problems.push(Problem { object: Small::Manifest.key(&id), message });
            }
        }
        self.copy(Small::Manifest, &publish, report, progress)?;
        self.mirror.store.sync()?;
        drop_deleted(self.vault, self.mirror, &self.here, &mut self.there, report, progress)?;
        join::holds_copy(self.mirror.store, self.vault)?;
        report.manifests = self.there.ids(Small::Manifest).copied().collect();
        report.stored = self.there.packs.values().sum();
        Ok(true)
    }

    /// Copies small objects that the mirror misses. One that is gone meanwhile was deleted.
    fn copy(&mut self, class: Small, ids: &[Id], report: &mut SyncReport, progress: &Progress) -> Result<()> {
        let missing: Vec<&Id> = ids.iter().filter(|id| !self.there.has(class, id)).collect();
        for id in missing {
            progress.check()?;
            let key = class.key(id);
            match self.vault.read_object(&key, id, SMALL_MAX) {
                Ok(bytes) => {
                    self.mirror.store.put(&key, &bytes)?;
                    report.objects += 1;
                    report.bytes += bytes.len() as u64;
                    progress.add(1, bytes.len() as u64);
                    self.there.add(class, *id);
                }
                Err(e) if e.kind == ErrorKind::NotFound => {}
                Err(e) if e.kind == ErrorKind::Damaged => {
                    report.problems.push(Problem { object: key, message: e.message });
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Copies packs that the mirror misses or has at another length; gives those that no copy of
    /// the vault has whole.
    fn copy_packs(
        &mut self,
        needed: Option<&HashSet<Id>>,
        report: &mut SyncReport,
        progress: &Progress,
    ) -> Result<HashSet<Id>> {
        let index = self.vault.index();
        let missing = |pack: &RunPack| {
            needed.is_none_or(|needed| needed.contains(&pack.id)) && self.there.packs.get(&pack.id) != Some(&pack.size)
        };
        let mut seen = HashSet::new();
        let todo: Vec<RunPack> = index.packs().filter(missing).filter(|pack| seen.insert(pack.id)).collect();
        progress.expect(todo.len() as u64, todo.iter().map(|pack| pack.size).sum());
        let next = AtomicUsize::new(0);
        let copied = Mutex::new(Vec::new());
        let failed = Mutex::new(Vec::new());
        let error = Mutex::new(None::<Error>);
        std::thread::scope(|scope| {
            for _ in 0..THREADS.min(todo.len()) {
                scope.spawn(|| {
                    while let Some(pack) = todo.get(next.fetch_add(1, Relaxed)) {
                        if lock(&error).is_some() {
                            return;
                        }
                        match progress.check().map_err(Failed::Other).and_then(|()| self.copy_pack(pack)) {
                            Ok(()) => {
                                progress.add(1, pack.size);
                                lock(&copied).push((pack.id, pack.size));
                            }
                            Err(Failed::Source(e)) => lock(&failed).push((pack.id, e)),
                            Err(Failed::Other(e)) => drop(lock(&error).get_or_insert(e)),
                        }
                    }
                });
            }
        });
        let unlocked = |list: Mutex<Vec<(Id, u64)>>| list.into_inner().unwrap_or_default();
        for (id, size) in unlocked(copied) {
            report.objects += 1;
            report.bytes += size;
            self.there.packs.insert(id, size);
        }
        if let Some(e) = error.into_inner().unwrap_or_default() {
            return Err(e);
        }
        let mut lost = HashSet::new();
        for (id, e) in failed.into_inner().unwrap_or_default() {
            let key = object::key(crate::vault::seal::Class::DataPack, &id);
            report.problems.push(Problem { object: key, message: e.message });
            lost.insert(id);
        }
        Ok(lost)
    }

    fn copy_pack(&self, pack: &RunPack) -> Result<(), Failed> {
        let key = object::key(pack.class, &pack.id);
        let bytes = self.vault.read_object(&key, &pack.id, PACK_MAX).map_err(|e| match e.kind {
            ErrorKind::NotFound | ErrorKind::Damaged => Failed::Source(e),
            _ => Failed::Other(e),
        })?;
        self.mirror.store.put(&key, &bytes).map_err(Failed::Other)?;
        // A disk that was unmounted meanwhile leaves an empty directory to write into.
        join::holds_copy(self.mirror.store, self.vault).map_err(Failed::Other)
    }
}

enum Failed {
    /// No copy of the vault gives the pack.
    Source(Error),
    Other(Error),
}
