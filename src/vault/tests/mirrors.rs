//! Copies of a vault in other places: whole, no more than the vault, and a cure for it.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::*;
use crate::model::{Error, ErrorKind, Result};
use crate::store::{ObjectMeta, ObjectStore, Place, Space};
use crate::vault::mirror::{Before, Copy, CopyReport, check_copies, repair_identity};

type Files = Vec<(String, Vec<u8>)>;

fn files(seed: u64, n: usize) -> Files {
    let size = |i: usize| [10, 3000, 90_000, 0, 700_000][i % 5];
    (0..n).map(|i| (format!("file{i:04}"), noise(seed * 1000 + i as u64, size(i)))).collect()
}

fn place(dir: &Path, name: &str) -> LocalStore {
    LocalStore::create_dir(&dir.join(name)).unwrap();
    LocalStore::open(&dir.join(name)).unwrap()
}

fn bring(vault: &Vault, store: &dyn ObjectStore, joined: bool, keep: Option<&[Id]>) -> Result<SyncReport> {
    let all = vault.manifests().unwrap_or_default();
    let over = keep.map(|keep| all.into_iter().filter(|id| !keep.contains(id)).collect());
    sync(vault, &Mirror { store, joined, over }, &Progress::default())
}

/// Opens a copy as if it were all that is left.
fn alone(dir: &Path, name: &str) -> Arc<Vault> {
    let store = Arc::new(LocalStore::open(&dir.join(name)).unwrap());
    let master = unlock(&*store, &SECRET).unwrap();
    Vault::open(store, Some(master), &tempfile::tempdir().unwrap().keep(), 1 << 20).unwrap()
}

/// All objects of a copy, but sessions.
fn objects(dir: &Path, name: &str) -> BTreeMap<String, Vec<u8>> {
    let top = dir.join(name);
    let mut found = BTreeMap::new();
    let mut pending: Vec<PathBuf> = vec![top.clone()];
    while let Some(at) = pending.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let key = path.strip_prefix(&top).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                pending.push(path);
            } else if !key.starts_with("sessions/") && !key.starts_with("tmp/") {
                found.insert(key, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn a_mirror_is_a_whole_vault_and_gets_only_what_is_new() {
    let dir = tempfile::tempdir().unwrap();
    let (vault, mirror) = (vault(dir.path()), place(dir.path(), "mirror"));
    let first = back_up(&vault, &files(1, 20));
    vault.put_state(&serde_json::json!({"a": 1})).unwrap();
    bring(&vault, &mirror, false, None).unwrap();
    assert_eq!(objects(dir.path(), "mirror"), objects(dir.path(), "vault"));
    assert_eq!(read_back(&alone(dir.path(), "mirror"), &first), files(1, 20));
    assert_eq!(bring(&vault, &mirror, true, None).unwrap().objects, 0, "it has everything");
    let packs = vault.store().list("packs/").unwrap().len() as u64;
    let mut more = files(1, 20);
    more.push(("more".into(), noise(77, 5000)));
    let second = back_up(&vault, &more);
    vault.put_state(&serde_json::json!({"a": 2})).unwrap();
    vault.add_recovery_key().unwrap();
    let report = bring(&vault, &mirror, true, None).unwrap();
    let new = vault.store().list("packs/").unwrap().len() as u64 - packs;
    // An index, a manifest, a state and a key beside the packs.
    assert_eq!((report.objects, report.deleted), (new + 4, 1), "the state before goes");
    assert_eq!(objects(dir.path(), "mirror"), objects(dir.path(), "vault"));
    assert!(clean(&alone(dir.path(), "mirror")));
    assert_eq!(read_back(&alone(dir.path(), "mirror"), &second), more);
}

#[test]
fn what_is_deleted_goes_everywhere_also_from_a_mirror_that_missed_much() {
    let dir = tempfile::tempdir().unwrap();
    let (vault, mirror) = (vault(dir.path()), place(dir.path(), "mirror"));
    let ids: Vec<Id> = (0..4).map(|i| back_up(&vault, &files(i, 12))).collect();
    let (slot, _) = vault.add_recovery_key().unwrap();
    bring(&vault, &mirror, false, None).unwrap();
    vault.remove_key_slot(&slot.id).unwrap();
    for id in &ids[..3] {
        vault.delete_manifest(id).unwrap();
        prune(&vault, &ids[3..], Compression::default(), false, &Progress::default()).unwrap();
    }
    let report = bring(&vault, &mirror, true, None).unwrap();
    assert!(report.deleted > 6 && report.problems.is_empty(), "{report:?}");
    assert_eq!(objects(dir.path(), "mirror"), objects(dir.path(), "vault"));
    assert_eq!(read_back(&alone(dir.path(), "mirror"), &ids[3]), files(3, 12));
}

#[test]
fn nothing_is_deleted_because_it_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let (vault, mirror) = (vault(dir.path()), place(dir.path(), "mirror"));
    let ids: Vec<Id> = (0..2).map(|i| back_up(&vault, &files(i, 8))).collect();
    bring(&vault, &mirror, false, None).unwrap();
    let whole = objects(dir.path(), "mirror");
    // The disk of the vault loses backups, an index and packs.
    for prefix in ["backups/", "index/", "packs/"] {
        for object in vault.store().list(prefix).unwrap().iter().skip(1) {
            vault.store().delete(&object.key).unwrap();
        }
    }
    let report = bring(&vault, &mirror, true, None).unwrap();
    assert!(!report.problems.is_empty(), "the backup that only the mirror has is told of");
    assert_eq!(objects(dir.path(), "mirror"), whole);
    assert_eq!(read_back(&alone(dir.path(), "mirror"), &ids[0]), files(0, 8));
    // Emptied altogether it is no vault any more.
    std::fs::remove_dir_all(dir.path().join("vault")).unwrap();
    std::fs::create_dir(dir.path().join("vault")).unwrap();
    assert_eq!(bring(&vault, &mirror, true, None).unwrap_err().kind, ErrorKind::DestinationFailed);
    assert_eq!(objects(dir.path(), "mirror"), whole);
}

#[test]
fn a_mirror_that_is_another_place_now_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let (vault, mirror) = (vault(dir.path()), place(dir.path(), "mirror"));
    back_up(&vault, &files(1, 8));
    std::fs::create_dir(dir.path().join("mirror/packs")).unwrap();
    std::fs::write(dir.path().join("mirror/packs/theirs"), "x").unwrap();
    let refused = bring(&vault, &mirror, false, None).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::InvalidState, "{refused}: it has files");
    std::fs::remove_dir_all(dir.path().join("mirror/packs")).unwrap();
    bring(&vault, &mirror, false, None).unwrap();
    // An empty mount point.
    std::fs::rename(dir.path().join("mirror"), dir.path().join("unmounted")).unwrap();
    let empty = place(dir.path(), "mirror");
    assert_eq!(bring(&vault, &empty, true, None).unwrap_err().kind, ErrorKind::DestinationFailed);
    assert!(objects(dir.path(), "mirror").is_empty(), "nothing was written there");
    // The disk of somebody else.
    let theirs = super::vault(other.path());
    back_up(&theirs, &files(9, 4));
    let before = objects(other.path(), "vault");
    for joined in [true, false] {
        let refused = bring(&vault, &**theirs.store(), joined, None).unwrap_err();
        let kind = if joined { ErrorKind::DestinationFailed } else { ErrorKind::InvalidState };
        assert_eq!(refused.kind, kind, "{refused}");
    }
    assert_eq!(objects(other.path(), "vault"), before);
}

#[test]
fn a_limited_mirror_keeps_the_newest_whole_and_little_else() {
    let dir = tempfile::tempdir().unwrap();
    let (vault, mirror) = (vault(dir.path()), place(dir.path(), "mirror"));
    let mut ids = Vec::new();
    for i in 0..5 {
        ids.push(back_up(&vault, &files(i, 10)));
        let keep = &ids[ids.len().saturating_sub(2)..];
        let report = bring(&vault, &mirror, i > 0, Some(keep)).unwrap();
        assert_eq!(report.manifests, keep.iter().copied().collect::<HashSet<_>>());
    }
    let size = |name: &str| objects(dir.path(), name).values().map(|bytes| bytes.len()).sum::<usize>();
    assert!(size("mirror") * 2 < size("vault"), "{} of {}", size("mirror"), size("vault"));
    let left = alone(dir.path(), "mirror");
    for i in [3, 4] {
        assert_eq!(read_back(&left, &ids[i as usize]), files(i, 10));
    }
    let report = verify(&left, &[], true, &Progress::default()).unwrap();
    assert_eq!(report.damaged_backups, [], "{report:?}");
    // With more room it gets the others again.
    bring(&vault, &mirror, true, None).unwrap();
    assert_eq!(objects(dir.path(), "mirror"), objects(dir.path(), "vault"));
}

/// A store that breaks down for good after so many changes, in the middle of the last one; or of which
/// one read fails.
#[derive(Debug)]
struct Failing {
    store: LocalStore,
    changes: AtomicUsize,
    reads: AtomicUsize,
    /// How it fails.
    why: ErrorKind,
}

impl Failing {
    fn new(store: LocalStore, changes: usize, reads: usize) -> Self {
        let (changes, reads) = (AtomicUsize::new(changes), AtomicUsize::new(reads));
        Self { store, changes, reads, why: ErrorKind::DestinationFailed }
    }
    fn change<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        match self.changes.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)) {
            Ok(_) => work(),
            Err(_) => Err(Error::destination_failed("broken")),
        }
    }
    fn read<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        match self.reads.fetch_sub(1, SeqCst) {
            0 => Err(Error { kind: self.why, ..Error::failed("not this time") }),
            _ => work(),
        }
    }
}

impl ObjectStore for Failing {
    fn put(&self, key: &str, data: &[u8]) -> Result<()> {
        self.change(|| self.store.put(key, data))
    }
    fn put_if_absent(&self, key: &str, data: &[u8]) -> Result<bool> {
        self.change(|| self.store.put_if_absent(key, data))
    }
    fn get(&self, key: &str, limit: u64) -> Result<Vec<u8>> {
        self.read(|| self.store.get(key, limit))
    }
    fn get_range(&self, key: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
        self.read(|| self.store.get_range(key, offset, len))
    }
    fn size(&self, key: &str) -> Result<Option<u64>> {
        self.read(|| self.store.size(key))
    }
    fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>> {
        self.read(|| self.store.list(prefix))
    }
    fn delete(&self, key: &str) -> Result<()> {
        self.change(|| self.store.delete(key))
    }
    fn sync(&self) -> Result<()> {
        self.store.sync()
    }
    fn space(&self) -> Result<Space> {
        self.store.space()
    }
    fn sweep(&self) -> Result<()> {
        self.store.sweep()
    }
}

#[test]
fn cut_short_anywhere_a_mirror_shows_only_whole_backups_and_is_taken_up_again() {
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(dir.path());
    let ids: Vec<Id> = (0..3).map(|i| back_up(&vault, &files(i, 6))).collect();
    let contents: BTreeMap<Id, Files> = ids.iter().copied().zip((0..3).map(|i| files(i, 6))).collect();
    let mut changed = false;
    for round in 0..400 {
        let name = format!("mirror{round}");
        let store = Failing::new(place(dir.path(), &name), round, usize::MAX);
        let begun = bring(&vault, &store, false, None);
        let seen = |name: &str| {
            let Ok(store) = LocalStore::open(&dir.path().join(name)) else { return };
            if read_config(&store).is_err() {
                return;
            }
            let left = alone(dir.path(), name);
            for id in left.manifests().unwrap() {
                assert_eq!(read_back(&left, &id), contents[&id], "cut after {round} changes");
            }
        };
        seen(&name);
        if begun.is_ok() {
            // The same for deletions.
            if !changed {
                vault.delete_manifest(&ids[0]).unwrap();
                prune(&vault, &ids[1..], Compression::default(), false, &Progress::default()).unwrap();
                changed = true;
            }
            let left = round % 7;
            store.changes.store(left, SeqCst);
            let dropped = bring(&vault, &store, true, None);
            seen(&name);
            if dropped.is_ok() && left == 6 {
                break;
            }
        }
        store.changes.store(usize::MAX, SeqCst);
        let joined = begun.is_ok();
        bring(&vault, &store, joined, None).unwrap();
        assert_eq!(objects(dir.path(), &name), objects(dir.path(), "vault"), "taken up after {round} changes");
        std::fs::remove_dir_all(dir.path().join(&name)).unwrap();
        if changed && round > 60 {
            break;
        }
    }
    assert!(changed, "no round was long enough to get to the end");
}

#[test]
fn what_cannot_be_read_for_once_is_not_taken_for_needless() {
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(dir.path());
    let master = unlock(&**vault.store(), &SECRET).unwrap();
    let ids: Vec<Id> = (0..3).map(|i| back_up(&vault, &files(i, 4))).collect();
    let mut ended = 0;
    let (lost, wrong) = (ErrorKind::DestinationFailed, ErrorKind::Damaged);
    for (which, why) in [("vault", lost), ("mirror", lost), ("vault", wrong), ("mirror", wrong)] {
        for read in 0.. {
            let name = format!("mirror-{which}-{read}");
            bring(&vault, &place(dir.path(), &name), false, None).unwrap();
            let failing = |of: &str, name: &str| {
                let reads = if of == which { usize::MAX } else { usize::MAX / 2 };
                let store = LocalStore::open(&dir.path().join(name)).unwrap();
                Arc::new(Failing { why, ..Failing::new(store, usize::MAX, reads) })
            };
            let (here, there) = (failing("vault", "vault"), failing("mirror", &name));
            let cache = tempfile::tempdir().unwrap();
            let again = Vault::open(here.clone(), Some(master.clone()), cache.path(), 1 << 20).unwrap();
            let fails = if which == "vault" { &here } else { &there };
            fails.reads.store(read, SeqCst);
            // The mirror may keep the last only, so that much of it goes.
            let over = Some(ids[..2].iter().copied().collect());
            let done = sync(&again, &Mirror { store: &*there, joined: true, over }, &Progress::default());
            let reached = fails.reads.load(SeqCst) > read;
            let left = alone(dir.path(), &name);
            for id in left.manifests().unwrap() {
                let i = ids.iter().position(|one| *one == id).unwrap();
                assert_eq!(
                    read_back(&left, &id),
                    files(i as u64, 4),
                    "read {read} of the {which} failed ({why:?}): {done:?}"
                );
            }
            assert!(left.manifests().unwrap().contains(&ids[2]));
            std::fs::remove_dir_all(dir.path().join(&name)).unwrap();
            if !reached {
                done.unwrap();
                ended += 1;
                break;
            }
        }
    }
    assert_eq!(ended, 4);
}

#[test]
fn another_copy_is_read_where_the_vault_is_damaged_or_gone() {
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(dir.path());
    let id = back_up(&vault, &files(5, 15));
    bring(&vault, &place(dir.path(), "mirror"), false, None).unwrap();
    let master = unlock(&**vault.store(), &SECRET).unwrap();
    let open = |cache: &Path| {
        let others = vec![Place::Local(dir.path().join("mirror"))];
        Vault::open_with(
            vault.store().clone(),
            others,
            Some(master.clone()),
            cache,
            crate::vault::SegmentCache::new(1 << 20).into(),
        )
        .unwrap()
    };
    for object in vault.store().list("packs/").unwrap().iter().chain(&vault.store().list("index/").unwrap()) {
        let mut bytes = vault.store().get(&object.key, 1 << 30).unwrap();
        bytes.iter_mut().skip(80).step_by(11).for_each(|b| *b ^= 4);
        vault.store().put(&object.key, &bytes).unwrap();
    }
    let cache = tempfile::tempdir().unwrap();
    let reader = open(cache.path());
    assert_eq!(read_back(&reader, &id), files(5, 15), "packs and index are damaged");
    let reader = open(cache.path());
    std::fs::remove_dir_all(dir.path().join("vault")).unwrap();
    assert_eq!(read_back(&reader, &id), files(5, 15), "the vault's place is gone");
}

#[test]
fn a_backup_is_the_same_in_another_vault() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (vault(dir.path()), vault(other.path()));
    back_up(&from, &files(1, 20));
    let id = back_up(&from, &files(2, 30));
    let manifest = from.manifest(&id).unwrap();
    let copy = |stored: u64| to.put_manifest(&Manifest { uuid: Uuid::new_v4(), stored, ..manifest.clone() }).unwrap();
    let stored = transfer::transfer(&from, &to, &manifest, Compression::Zstd(1), &Progress::default()).unwrap();
    let there = copy(stored);
    assert_eq!(read_back(&super::vault(other.path()), &there), files(2, 30));
    assert!(clean(&to));
    assert!(stored < from.stored_size() * 3 / 4, "the other backup's content stays behind");
    let again = transfer::transfer(&from, &to, &manifest, Compression::Zstd(1), &Progress::default()).unwrap();
    assert_eq!(again, 0, "what is there is not stored again");
    // Nothing is copied from what is not whole.
    let pack = from.store().list("packs/").unwrap()[0].key.clone();
    from.store().delete(&pack).unwrap();
    let fresh = tempfile::tempdir().unwrap();
    let to = super::vault(fresh.path());
    let from = super::vault(dir.path());
    let failed = [id].iter().chain(&from.manifests().unwrap()).any(|id| {
        let manifest = from.manifest(id).unwrap();
        transfer::transfer(&from, &to, &manifest, Compression::Zstd(1), &Progress::default()).is_err()
    });
    assert!(failed && to.manifests().unwrap().is_empty());
}

/// Damage of one copy: a flipped bit, a cut, a deletion, two objects swapped, or an object put back
/// that was deleted.
struct Damages {
    dir: tempfile::TempDir,
    vault: Arc<Vault>,
    good: BTreeMap<String, Vec<u8>>,
    /// What was deleted once.
    old: BTreeMap<String, Vec<u8>>,
    seed: u64,
}

impl Damages {
    fn new(seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let vault = vault(dir.path());
        let ids: Vec<Id> = (0..3).map(|i| back_up(&vault, &files(i, 5))).collect();
        let before = objects(dir.path(), "vault");
        vault.delete_manifest(&ids[0]).unwrap();
        prune(&vault, &ids[1..], Compression::default(), false, &Progress::default()).unwrap();
        back_up(&vault, &files(7, 5));
        vault.put_state(&serde_json::json!({"configuration": true})).unwrap();
        bring(&vault, &place(dir.path(), "mirror"), false, None).unwrap();
        let good = objects(dir.path(), "vault");
        assert_eq!(objects(dir.path(), "mirror"), good);
        let old = before.into_iter().filter(|(key, _)| !good.contains_key(key)).collect();
        Self { dir, vault, good, old, seed }
    }

    fn random(&mut self, below: usize) -> usize {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        usize::try_from(self.seed >> 20).unwrap() % below
    }

    /// Does harm to a copy; gives the objects in which that is to be found.
    fn harm(&mut self, copy: &str, log: &mut String) -> Vec<String> {
        let keys: Vec<String> = self.good.keys().cloned().collect();
        let key = keys[self.random(keys.len())].clone();
        let path = |key: &str| self.dir.path().join(copy).join(key);
        let (at, mut bytes) = (path(&key), self.good[&key].clone());
        let kind = self.random(5);
        writeln!(log, "{copy}: {kind} {key}").unwrap();
        match kind {
            0 => {
                let (place, bit) = (self.random(bytes.len()), self.random(8));
                bytes[place] ^= 1 << bit;
                std::fs::write(at, bytes).unwrap();
            }
            1 => {
                let len = self.random(bytes.len());
                std::fs::write(at, &bytes[..len]).unwrap();
            }
            2 => std::fs::remove_file(at).unwrap(),
            3 => {
                let other = keys[self.random(keys.len())].clone();
                if self.good[&other] == bytes {
                    return Vec::new();
                }
                std::fs::write(at, &self.good[&other]).unwrap();
                std::fs::write(self.dir.path().join(copy).join(&other), bytes).unwrap();
                return vec![key, other];
            }
            _ => {
                let old: Vec<String> = self.old.keys().cloned().collect();
                let key = old[self.random(old.len())].clone();
                let at = self.dir.path().join(copy).join(&key);
                std::fs::create_dir_all(at.parent().unwrap()).unwrap();
                std::fs::write(at, &self.old[&key]).unwrap();
                // One that takes only room is no damage.
                return if key.starts_with("packs/") { Vec::new() } else { vec![key] };
            }
        }
        vec![key]
    }

    fn check(&self, repair: bool) -> [CopyReport; 2] {
        let stores = ["vault", "mirror"].map(|name| LocalStore::open(&self.dir.path().join(name)).unwrap());
        let mut found = [const { Vec::new() }; 2];
        for i in 0..2 {
            let config = VaultConfig { format: seal::FORMAT, uuid: self.vault.uuid(), encrypted: true };
            if read_config(&stores[i]).ok().as_ref() != Some(&config) {
                found[i].push(config::KEY.to_owned());
                assert!(!repair || repair_identity(&stores[i], &config, &stores[1 - i]).unwrap());
            }
        }
        let copy = |i: usize| Copy { name: ["vault", "mirror"][i], store: &stores[i], over: None };
        let copies = [copy(0), copy(1)];
        // At once, or share by share.
        let shares: &[Share] = match self.seed % 2 {
            0 => &[Share::ALL],
            _ => &[
                Share { from: 0, to: 1 << 62 },
                Share { from: 1 << 62, to: 3 << 62 },
                Share { from: 3 << 62, to: u64::MAX },
            ],
        };
        let mut reports: [CopyReport; 2] = Default::default();
        for share in shares {
            let before = Before::of(&self.vault).unwrap();
            let found = check_copies(&self.vault, before, &copies, Some(*share), repair, &Progress::default()).unwrap();
            for (report, found) in reports.iter_mut().zip(found) {
                assert!(found.away.is_none());
                report.objects = found.objects;
                report.bad.extend(found.bad);
                report.repaired.extend(found.repaired);
                report.bad_packs.extend(found.bad_packs);
            }
        }
        for (report, found) in reports.iter_mut().zip(found) {
            report.bad.extend(found.into_iter().map(|key| (key, "not the vault's".to_owned())));
        }
        reports
    }
}

#[test]
fn every_damage_to_one_of_two_copies_is_found_named_and_repaired() {
    let count = std::env::var("STRONGROOM_DAMAGES").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    let seed = std::env::var("STRONGROOM_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(4711);
    let mut damages = Damages::new(seed);
    for round in 0..count {
        let mut log = format!("seed {seed}, damage {round}, ");
        let which = damages.random(2);
        let harmed = damages.harm(["vault", "mirror"][which], &mut log);
        let found = damages.check(false);
        let keys = |report: &CopyReport| report.bad.keys().cloned().collect::<HashSet<_>>();
        assert_eq!(keys(&found[which]), harmed.iter().cloned().collect(), "found, {log}");
        assert!(found[1 - which].bad.is_empty(), "the other copy is whole, {log}: {:?}", found[1 - which].bad);
        let found = damages.check(true);
        assert_eq!(keys(&found[which]), harmed.into_iter().collect(), "{log}");
        for name in ["vault", "mirror"] {
            assert!(objects(damages.dir.path(), name) == damages.good, "{name} is as it was, {log}");
        }
    }
    assert!(damages.check(false).iter().all(|report| report.bad.is_empty()));
}

#[test]
fn what_no_copy_has_is_named_and_the_rest_repaired() {
    let damages = Damages::new(1);
    let pack = damages.good.keys().find(|key| key.starts_with("packs/")).unwrap().clone();
    let other = damages.good.keys().rfind(|key| key.starts_with("packs/")).unwrap().clone();
    for name in ["vault", "mirror"] {
        std::fs::remove_file(damages.dir.path().join(name).join(&pack)).unwrap();
    }
    std::fs::remove_file(damages.dir.path().join("mirror").join(&other)).unwrap();
    let reports = damages.check(true);
    for report in &reports {
        assert_eq!(report.left().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), [pack.as_str()]);
    }
    assert_eq!(reports[1].repaired.len(), 1);
    let report = verify(&damages.vault, &[], false, &Progress::default()).unwrap();
    assert!(!report.damaged_backups.is_empty(), "the vault says which backups need it: {report:?}");
}

#[test]
fn what_a_former_first_copy_deleted_is_not_deleted_where_it_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let first = vault(dir.path());
    // One large backup of which little stays, so that a prune rewrites what the others need.
    let mut all = files(1, 30);
    let gone = back_up(&first, &all);
    all.truncate(4);
    let kept = back_up(&first, &all);
    bring(&first, &place(dir.path(), "mirror"), false, None).unwrap();
    // The mirror was away when this was done, and then took the first one's place.
    first.delete_manifest(&gone).unwrap();
    let pruned = prune(&first, &[kept], Compression::default(), false, &Progress::default()).unwrap();
    assert!(pruned.packs_rewritten > 0, "{pruned:?}");
    let second = alone(dir.path(), "mirror");
    all.extend(files(1, 30).into_iter().skip(20));
    let newest = back_up(&second, &all);
    let before = objects(dir.path(), "mirror");
    let stores = ["mirror", "vault"].map(|name| LocalStore::open(&dir.path().join(name)).unwrap());
    let copies = [0, 1].map(|i| Copy { name: ["mirror", "vault"][i], store: &stores[i], over: None });
    for _ in 0..2 {
        let looked = Before::of(&second).unwrap();
        check_copies(&second, looked, &copies, Some(Share::ALL), true, &Progress::default()).unwrap();
        let after = objects(dir.path(), "mirror");
        let lost: Vec<_> =
            before.keys().filter(|key| !after.contains_key(*key) && !key.starts_with("backups/")).collect();
        assert!(lost.is_empty(), "{lost:?}");
        for (id, name) in [(newest, "mirror"), (kept, "mirror"), (newest, "vault")] {
            let copy = alone(dir.path(), name);
            let wanted = if id == newest { all.clone() } else { files(1, 4) };
            assert_eq!(read_back(&copy, &id), wanted, "{name}");
        }
    }
}

#[test]
fn a_limit_takes_nothing_that_nobody_named() {
    let dir = tempfile::tempdir().unwrap();
    let (vault, mirror) = (vault(dir.path()), place(dir.path(), "mirror"));
    // The first two are another machine's, say, which the catalog does not know.
    let ids: Vec<Id> = (0..4).map(|i| back_up(&vault, &files(i, 6))).collect();
    bring(&vault, &mirror, false, None).unwrap();
    let over = Some(HashSet::from([ids[2]]));
    let report = sync(&vault, &Mirror { store: &mirror, joined: true, over }, &Progress::default()).unwrap();
    assert_eq!(report.manifests, HashSet::from([ids[0], ids[1], ids[3]]));
    for i in [0, 1, 3] {
        assert_eq!(read_back(&alone(dir.path(), "mirror"), &ids[i as usize]), files(i, 6));
    }
}
