//! Verification: does the vault hold what its backups need, and is it what it was?

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::handle::Vault;
use super::index::LocalIndex;
use super::index::run::RunPack;
use super::mark::{Marks, Visitor};
use super::object;
use super::pack::{self, PACK_MAX, PackRecord};
use super::places;
use super::seal::Class;
use super::share::Share;
use super::writer::lock;
use crate::model::{Error, ErrorKind, Id, Progress, Result};

/// More problems than this are counted but not described.
const PROBLEMS_MAX: usize = 1000;

/// What is said of a pack whose bytes are other than they can be.
const NOT_STORED_SO: &str = "its bytes are not those it was stored with";

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The object or path.
    pub object: String,
    /// What is wrong with it.
    pub message: String,
}

/// What a verification found.
#[derive(Debug, Clone, Default)]
pub struct VerifyReport {
    /// Blobs that were checked.
    pub blobs: u64,
    /// Stored bytes that were read.
    pub bytes: u64,
    /// How many problems there are.
    pub problem_count: u64,
    /// The first of them.
    pub problems: Vec<Problem>,
    /// Backups (manifests) that cannot be restored in full, or whose trees contradict themselves.
    pub damaged_backups: Vec<Id>,
}

impl VerifyReport {
    fn add(&mut self, object: impl std::fmt::Display, message: impl std::fmt::Display) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem { object: object.to_string(), message: message.to_string() });
        }
    }
}

/// Checks that everything the given backups (all, if none are given) refer to is there; with
/// `read_data` also reads it all and compares it with the ids. Problems are reported, not errors;
/// an error is what kept the verification from its work.
pub fn verify(vault: &Vault, manifests: &[Id], read_data: bool, progress: &Progress) -> Result<VerifyReport> {
    verify_with(vault, manifests, read_data.then_some(Share::ALL), &HashSet::new(), progress)
}

/// The same, reading the packs of a share; backups that need packs which are whole `elsewhere`, in another copy, are
/// not damaged. If that is not everything, only the trees of the share's own manifests are gone through, and of what
/// lies beside it no more is read than what was found damaged before.
pub fn verify_with(
    vault: &Vault,
    manifests: &[Id],
    read: Option<Share>,
    elsewhere: &HashSet<Id>,
    progress: &Progress,
) -> Result<VerifyReport> {
    vault.check_identity()?;
    vault.refresh()?;
    vault.look_for_packs()?;
    let mut report = VerifyReport::default();
    let all = manifests.is_empty();
    let manifests = if all { vault.manifests()? } else { manifests.to_vec() };
    // A backup of its own is checked by the packs that it needs.
    let mut needed = None;
    if !all {
        let mut marks = Marks::new(vault);
        let mut quiet = Findings::default();
        for id in &manifests {
            if let Ok(manifest) = vault.manifest(id) {
                marks.tree(vault, &manifest.root, &mut quiet, progress)?;
                if let Some(list) = &manifest.error_list {
                    marks.mark(list);
                }
            }
        }
        needed = Some(packs_of(&marks));
    }
    let damaged = check_packs(vault, needed.as_ref(), read, elsewhere, &mut report, progress)?;
    // Which backups need what is damaged is said by all trees.
    let trees = |id: &&Id| !damaged.is_empty() || read.is_none_or(|share| share.contains(id));
    for id in manifests.iter().filter(trees) {
        let manifest = match vault.manifest(id) {
            Ok(manifest) => manifest,
            // Deleted since it was listed.
            Err(e) if e.kind == ErrorKind::NotFound && all => continue,
            Err(e) => {
                report.add(object::key(Class::Manifest, id), e);
                report.damaged_backups.push(*id);
                continue;
            }
        };
        let mut findings = Findings { damaged: Some(&damaged), ..Findings::default() };
        let mut marks = Marks::new(vault);
        marks.tree(vault, &manifest.root, &mut findings, progress)?;
        if manifest.error_list.is_some_and(|list| !vault.contains(&list) || damaged.contains(&list)) {
            findings.add(&[], "the list of errors cannot be read".into());
        }
        if findings.count > 0 {
            report.damaged_backups.push(*id);
        }
        report.problem_count += findings.count - findings.found.len() as u64;
        for (path, message) in findings.found {
            let path = String::from_utf8_lossy(&path).into_owned();
            report.add(format!("backup {} of {}: {path}", manifest.backup, manifest.resource.name), message);
        }
    }
    Ok(report)
}

#[derive(Default)]
struct Findings<'a> {
    damaged: Option<&'a HashSet<Id>>,
    count: u64,
    /// The first of them, by path.
    found: Vec<(Vec<u8>, String)>,
}

impl Findings<'_> {
    fn add(&mut self, path: &[u8], message: String) {
        self.count += 1;
        if self.found.len() < PROBLEMS_MAX {
            self.found.push((path.to_vec(), message));
        }
    }
}

impl Visitor for Findings<'_> {
    fn missing(&mut self, path: &[u8], id: &Id) {
        self.add(path, format!("the blob {id} is missing"));
    }

    fn unreadable(&mut self, path: &[u8], error: Error) {
        self.add(path, error.message);
    }

    fn inconsistent(&mut self, path: &[u8], what: &str) {
        self.add(path, what.into());
    }

    fn checks(&self) -> bool {
        self.damaged.is_some()
    }

    fn blob(&mut self, path: &[u8], id: &Id) {
        if self.damaged.is_some_and(|damaged| damaged.contains(id)) {
            self.add(path, format!("the blob {id} is damaged"));
        }
    }
}

/// Packs in which something is marked.
pub(super) fn packs_of(marks: &Marks) -> HashSet<Id> {
    let mut packs = HashSet::new();
    for (number, run) in marks.index().runs().iter().enumerate() {
        let marked = (0..run.blob_count()).filter(|i| marks.is_marked(number, *i));
        packs.extend(marked.filter_map(|i| run.pack(run.segment(run.blob(i).segment)?.pack)).map(|pack| pack.id));
    }
    packs
}

/// Checks packs and gives the blobs of which no whole copy was found.
fn check_packs(
    vault: &Vault,
    needed: Option<&HashSet<Id>>,
    read: Option<Share>,
    elsewhere: &HashSet<Id>,
    report: &mut VerifyReport,
    progress: &Progress,
) -> Result<HashSet<Id>> {
    let index = vault.index();
    let packs: Vec<RunPack> = index.packs().filter(|p| needed.is_none_or(|needed| needed.contains(&p.id))).collect();
    // What was damaged is told of until it is whole again.
    let is_read = |pack: &&RunPack| read.is_some_and(|s| s.contains(&pack.id) || index.lost().contains(&pack.id));
    let to_read: Vec<&RunPack> = packs.iter().filter(is_read).collect();
    progress.expect(0, to_read.iter().map(|pack| pack.size).sum());
    let sizes: HashMap<Id, u64> = object::list(&*vault.store, Class::DataPack)?.into_iter().collect();
    let mut bad_packs = HashSet::new();
    // A blob by the pack that does not give it.
    let mut damaged: HashSet<(Id, Id)> = HashSet::new();
    let mut whole_packs = HashSet::new();
    for pack in &packs {
        let key = object::key(Class::DataPack, &pack.id);
        match sizes.get(&pack.id) {
            Some(size) if *size == pack.size => {}
            Some(size) => {
                report.add(key, format!("it has {size} bytes instead of {}", pack.size));
                bad_packs.insert(pack.id);
            }
            None => {
                report.add(key, "it is missing");
                bad_packs.insert(pack.id);
            }
        }
    }
    if read.is_some() {
        let next = AtomicUsize::new(0);
        let counts = places::counts(&index, progress)?;
        let twins = twins(&packs);
        let results = Mutex::new((&mut *report, &mut damaged, None::<Error>, &mut whole_packs));
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(8);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let mut buffers = Buffers::default();
                    while let Some(&pack) = to_read.get(next.fetch_add(1, Relaxed)) {
                        if bad_packs.contains(&pack.id) || progress.is_cancelled() {
                            continue;
                        }
                        let checked =
                            check_pack(vault, pack, (&index, &counts), twins.contains(&pack.id), &mut buffers);
                        progress.add(0, pack.size);
                        let mut results = lock(&results);
                        match checked {
                            Ok(checked) => {
                                results.0.blobs += checked.blobs;
                                results.0.bytes += pack.size;
                                if checked.problems.is_empty() {
                                    results.3.insert(pack.id);
                                }
                                for (object, message) in checked.problems {
                                    results.0.add(object, message);
                                }
                                results.1.extend(checked.damaged.into_iter().map(|id| (id, pack.id)));
                            }
                            // What kept it from being read is not known to be damage.
                            Err(e) => drop(results.2.get_or_insert(e)),
                        }
                    }
                });
            }
        });
        progress.check()?;
        if let Some(e) = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).2 {
            return Err(e);
        }
    } else {
        report.blobs += index.blob_count();
    }
    let damaged_packs: HashSet<Id> = damaged.iter().map(|(_, pack)| *pack).collect();
    if read.is_some() {
        vault.note_damage(&whole_packs, &damaged_packs)?;
    }
    if !bad_packs.is_empty() {
        for run in index.runs() {
            let pack = |i: usize| run.segment(run.blob(i).segment).and_then(|segment| run.pack(segment.pack));
            let bad = (0..run.blob_count()).filter_map(|i| Some((run.blob(i).id, pack(i)?.id)));
            damaged.extend(bad.filter(|(_, pack)| bad_packs.contains(pack)));
        }
    }
    damaged.retain(|(_, pack)| !elsewhere.contains(pack));
    let checked: HashSet<Id> = packs.iter().map(|pack| pack.id).collect();
    let gone =
        |id: &Id| !index.copies(id).any(|c| checked.contains(&c.pack.id) && !damaged.contains(&(*id, c.pack.id)));
    Ok(damaged.iter().map(|(id, _)| *id).filter(gone).collect())
}

#[derive(Default)]
struct Checked {
    blobs: u64,
    problems: Vec<(String, String)>,
    damaged: Vec<Id>,
}

/// Buffers of one thread that checks packs.
#[derive(Default)]
struct Buffers {
    pack: Vec<u8>,
    plain: Vec<u8>,
}

/// Reads a whole pack: every frame, every blob, and what lies between; and compares it with the index. Every byte of a
/// pack as we write it is sealed under the salt that the index knows, so it need not be hashed as a whole as well: what
/// opens is what was stored. Only of packs with one salt, of which one must be a copy, the hash says which it is.
fn check_pack(
    vault: &Vault,
    pack: &RunPack,
    (index, counts): (&LocalIndex, &HashMap<Id, u64>),
    hash: bool,
    buffers: &mut Buffers,
) -> Result<Checked> {
    let key = object::key(pack.class, &pack.id);
    let mut checked = Checked::default();
    let len = usize::try_from(pack.size.min(PACK_MAX)).unwrap_or(0);
    match vault.store.get_range_into(&key, 0, len, std::mem::take(&mut buffers.pack)) {
        Ok(bytes) => buffers.pack = bytes,
        Err(e) if matches!(e.kind, ErrorKind::NotFound | ErrorKind::Damaged) => {
            checked.problems.push((key, e.message));
            checked.damaged = blobs_of(vault, &pack.id);
            return Ok(checked);
        }
        Err(e) => return Err(e),
    }
    let is_itself = !hash || Id::of(&buffers.pack) == pack.id;
    let record: PackRecord = match pack::read_whole(&vault.keys, &pack.id, &mut buffers.pack) {
        Ok((record, covered)) => {
            if !(is_itself && covered && record.salt == pack.salt && record.class == pack.class) {
                checked.problems.push((key.clone(), NOT_STORED_SO.into()));
            }
            record
        }
        Err(e) => {
            checked.problems.push((key, e.message));
            // Frames may still be good, and the index knows where they are; but whoever lost a
            // directory lost what recovery relies on, so its blobs count as damaged.
            checked.damaged = blobs_of(vault, &pack.id);
            return Ok(checked);
        }
    };
    let sealer = vault.keys.sealer(pack.class, pack.salt)?;
    for (ordinal, segment) in (0u32..).zip(&record.segments) {
        let start = segment.offset as usize;
        let frame = buffers.pack.get_mut(start..start.saturating_add(segment.stored_len as usize));
        let buffer = std::mem::take(&mut buffers.plain);
        let plain = frame
            .ok_or_else(|| Error::damaged("a frame leaves its pack"))
            .and_then(|frame| pack::open_frame(&sealer, ordinal, segment.codec, segment.plain_len, frame, buffer));
        let mut at = 0;
        match plain {
            Ok(plain) => {
                for (id, len) in &segment.blobs {
                    let blob = plain.get(at..at + *len as usize).unwrap_or_default();
                    at += *len as usize;
                    checked.blobs += 1;
                    if Id::of(blob) != *id {
                        checked.problems.push((key.clone(), format!("the blob {id} is not what its name says")));
                        checked.damaged.push(*id);
                    }
                }
                if let Cow::Owned(buffer) = plain {
                    buffers.plain = buffer;
                }
            }
            Err(e) => {
                checked.problems.push((key.clone(), e.message));
                checked.damaged.extend(segment.blobs.iter().map(|(id, _)| *id));
            }
        }
    }
    let misplaced = places::misplaced(index, &record, counts.get(&pack.id).copied().unwrap_or(0));
    if let Some(first) = misplaced.first() {
        let many = misplaced.len();
        let message =
            format!("the index does not say where {many} of its blobs are, {first} first; a prune mends that");
        checked.problems.push((key, message));
        // They count as damaged, so that they are stored again.
        checked.damaged.extend(misplaced);
    }
    Ok(checked)
}

/// Packs that have their salt in common with another.
fn twins(packs: &[RunPack]) -> HashSet<Id> {
    let mut by_salt: HashMap<[u8; 32], Id> = HashMap::new();
    let mut twins = HashSet::new();
    for pack in packs {
        if let Some(other) = by_salt.insert(pack.salt, pack.id).filter(|other| *other != pack.id) {
            twins.extend([other, pack.id]);
        }
    }
    twins
}

/// The blobs that the index places in a pack.
fn blobs_of(vault: &Vault, id: &Id) -> Vec<Id> {
    let index = vault.index();
    let of = |run: &super::index::run::Run| {
        let inside = |i: &usize| {
            let pack = run.segment(run.blob(*i).segment).and_then(|segment| run.pack(segment.pack));
            pack.is_some_and(|pack| pack.id == *id)
        };
        (0..run.blob_count()).filter(inside).map(|i| run.blob(i).id).collect::<Vec<_>>()
    };
    index.runs().iter().flat_map(|run| of(run)).collect()
}
