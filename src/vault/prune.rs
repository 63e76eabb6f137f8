//! Prune: space back from what no backup refers to.
//!
//! Mark from all manifests, plan per pack, copy what lives out of packs with much dead weight,
//! publish one index that replaces all others, and only then delete: old index objects first,
//! packs last. Killed at any moment, everything that a manifest refers to is still found.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::compress::Compression;
use super::handle::Vault;
use super::index::run::RunPack;
use super::index::{IndexObject, LocalIndex};
use super::mark::{Complete, Marks};
use super::object;
use super::pack::{self, PACK_BLOBS, PACK_MAX, PACK_TARGET, PackRecord};
use super::places;
use super::records::Tombstone;
use super::seal::Class;
use super::writer::{VaultWriter, stands_alone};
use crate::model::{Error, ErrorKind, Id, Progress, Result};

/// A pack is rewritten when less than this share of it lives, in percent.
const LIVE_MIN: u64 = 70;

/// The worst packs are rewritten until no more than this share of what is kept is dead, in percent of
/// what lives.
const DEAD_MAX: u64 = 10;

/// So many packs of a class that are smaller than a quarter of a full one are put together: many backups
/// of little leave many of them, and each costs a request.
const SMALL_MAX: usize = 8;

/// An index object lists packs with about this many blobs.
pub(super) const INDEX_BLOBS: usize = 1 << 19;

/// What a prune did, or would do.
#[derive(Debug, Clone, Default)]
pub struct PruneReport {
    /// Packs at the start.
    pub packs_before: u64,
    /// Packs in which nothing lived.
    pub packs_deleted: u64,
    /// Packs whose living blobs were copied.
    pub packs_rewritten: u64,
    /// Packs of which the index was put right.
    pub mended: u64,
    /// Stored bytes that came back (of a dry run: about).
    pub bytes_freed: u64,
    /// Stored bytes at the end.
    pub bytes_stored: u64,
    /// Why no pack was rewritten: there was no room for it. By now there may be.
    pub no_room: Option<Error>,
}

#[derive(Default, Clone, Copy)]
struct Weight {
    live: u64,
    all: u64,
    /// How many blobs live.
    blobs: usize,
}

/// Deletes what no backup refers to. With `dry_run` only says what would be deleted. Waits for
/// backups into the vault to end, and they for it. `promised` are the manifests that somebody
/// counts on: while one of them is missing nothing is deleted, since what it refers to is not
/// known, and a store that lists too little must not cost data. What is copied is compressed by `compression`.
pub fn prune(
    vault: &Arc<Vault>,
    promised: &[Id],
    compression: Compression,
    dry_run: bool,
    progress: &Progress,
) -> Result<PruneReport> {
    let _alone = vault.gate.enter_alone(progress)?;
    vault.check_identity()?;
    if let Some(other) = vault.foreign_session()? {
        return Err(Error::invalid_state(format!(
            "another machine ({other}) writes into the vault or was stopped while it did; prune when it is done"
        )));
    }
    // What is deleted is decided by the index, so nothing local is trusted for it.
    vault.rebuild_index()?;
    vault.look_for_packs()?;
    let marks = mark(vault, promised, progress)?;
    let index = marks.index().clone();
    let weights = weigh(&marks);
    let weight = |id: &Id| weights.get(id).copied().unwrap_or_default();
    let dead: HashSet<Id> = index.packs().filter(|p| weight(&p.id).live == 0).map(|p| p.id).collect();
    // What is lost cannot be copied. Its record stays as long as a backup needs it.
    let living = index.packs().filter(|p| weight(&p.id).live > 0 && !index.lost().contains(&p.id));
    let thin = worth_rewriting(living.map(|pack| (pack, weight(&pack.id))).collect());
    let before = vault.stored_size();
    let mut report = PruneReport {
        packs_before: index.packs().count() as u64,
        packs_deleted: dead.len() as u64,
        packs_rewritten: thin.len() as u64,
        ..PruneReport::default()
    };
    let known: HashSet<Id> = index.packs().map(|pack| pack.id).collect();
    let strays = object::list(&*vault.store, Class::DataPack)?.iter().any(|(id, _)| !known.contains(id));
    let truths = if dry_run { HashMap::new() } else { truths(vault, &index, progress)? };
    report.mended = truths.len() as u64;
    if dry_run || (dead.is_empty() && thin.is_empty() && !strays && truths.is_empty()) {
        let share = |p: &RunPack| {
            let Weight { live, all, .. } = weight(&p.id);
            if live == 0 { p.size } else { p.size / 100 * (all.saturating_sub(live) * 100 / all.max(1)) }
        };
        let gone = |id: &Id| dead.contains(id) || thin.contains(id);
        report.bytes_freed = index.packs().filter(|p| gone(&p.id)).map(|p| share(&p)).sum();
        report.bytes_stored = before - report.bytes_freed.min(before);
        return Ok(report);
    }
    let mut gone = dead.clone();
    match rewrite(vault, &marks, &thin, compression, progress) {
        Ok(()) => gone.extend(&thin),
        // Where there is no room for copies, what is dead goes all the same, and makes some.
        Err(e) if e.kind == ErrorKind::NoSpace && (!dead.is_empty() || strays) => {
            vault.refresh()?;
            // All that half of the copies hold is where it was. Those that no index lists make room at once.
            let listed: HashSet<Id> = vault.index().packs().map(|pack| pack.id).collect();
            let there = object::list(&*vault.store, Class::DataPack)?.into_iter().map(|(id, _)| id);
            for id in there.filter(|id| !listed.contains(id)) {
                vault.store.delete(&object::key(Class::DataPack, &id))?;
            }
            vault.store.sync()?;
            gone.extend(vault.index().packs().map(|pack| pack.id).filter(|id| !known.contains(id)));
            report.packs_rewritten = 0;
            report.no_room = Some(e);
        }
        Err(e) => return Err(e),
    }
    progress.check()?;
    // From here on nothing is cancelled: it is short, and its order is what keeps it safe.
    let replaced = publish_index(vault, &gone, &truths)?;
    vault.refresh()?;
    // Nobody writes now, so packs that no index lists are leftovers of a crash.
    let known: HashSet<Id> = vault.index().packs().map(|pack| pack.id).collect();
    let there = object::list(&*vault.store, Class::DataPack)?.into_iter().map(|(id, _)| id);
    let packs: Vec<Id> = there.filter(|id| !known.contains(id)).collect();
    // Other copies of the vault delete by what this says, not by what they miss here.
    vault.put_tombstone(Tombstone { index: replaced.clone(), packs: packs.clone(), ..Tombstone::now() })?;
    for (class, ids) in [(Class::Index, &replaced), (Class::DataPack, &packs)] {
        ids.iter().try_for_each(|id| vault.store.delete(&object::key(class, id)))?;
        vault.store.sync()?;
    }
    vault.refresh()?;
    report.bytes_stored = vault.stored_size();
    report.bytes_freed = before.saturating_sub(report.bytes_stored);
    Ok(report)
}

/// Of lost packs that are there and whole, but not as the index has them, what they say of themselves: it is sealed with
/// them. One that cannot be read stays as it is; so does one that has not some blob which the index places there and in no
/// pack that is not lost, since nobody would miss that any more.
fn truths(vault: &Vault, index: &LocalIndex, progress: &Progress) -> Result<HashMap<Id, PackRecord>> {
    let mut truths = HashMap::new();
    if index.lost().is_empty() {
        return Ok(truths);
    }
    let there: HashSet<Id> = object::list(&*vault.store, Class::DataPack)?.into_iter().map(|(id, _)| id).collect();
    let counts = places::counts(index, progress)?;
    for listed in index.packs().filter(|pack| index.lost().contains(&pack.id) && there.contains(&pack.id)) {
        progress.check()?;
        let record = match itself(vault, &listed.id) {
            Ok(record) => record,
            Err(e) => {
                tracing::debug!("pack {} of vault {} stays lost: {e}", listed.id, vault.uuid());
                continue;
            }
        };
        let same = (record.salt, record.class, record.size) == (listed.salt, listed.class, listed.size);
        let misplaced = places::misplaced(index, &record, counts.get(&record.id).copied().unwrap_or(0));
        let inside: HashSet<Id> = record.segments.iter().flat_map(|s| &s.blobs).map(|(id, _)| *id).collect();
        let elsewhere = |id: &Id| index.copies(id).any(|copy| !index.lost().contains(&copy.pack.id));
        if (!same || !misplaced.is_empty()) && misplaced.iter().all(|id| inside.contains(id) || elsewhere(id)) {
            truths.insert(record.id, record);
        }
    }
    Ok(truths)
}

/// What a pack says of itself, if it is the one that has this name: another in its place would hide what it held.
fn itself(vault: &Vault, id: &Id) -> Result<PackRecord> {
    let key = object::key(Class::DataPack, id);
    let mut bytes = vault.store.get(&key, PACK_MAX)?;
    if Id::of(&bytes) != *id {
        return Err(Error::damaged(format!("{key} is not what its name says")));
    }
    pack::read_whole(&vault.keys, id, &mut bytes).map(|(record, _)| record)
}

/// Marks what backups refer to. Anything that cannot be read ends the prune: what is beneath it
/// is not known to be dead.
fn mark(vault: &Vault, promised: &[Id], progress: &Progress) -> Result<Marks> {
    let mut marks = Marks::new(vault);
    let mut complete = Complete::default();
    let there: HashSet<Id> = vault.manifests()?.into_iter().collect();
    if let Some(id) = promised.iter().find(|id| !there.contains(id)) {
        return Err(Error::damaged(format!(
            "nothing was pruned, since the manifest {id} is missing; verify the vault, and delete the backup if it is lost"
        )));
    }
    for id in there {
        let manifest = vault.manifest(&id)?;
        marks.tree(vault, &manifest.root, &mut complete, progress)?;
        if let Some(list) = &manifest.error_list {
            marks.mark(list);
        }
        if let Some(e) = complete.0 {
            let of = format!("nothing was pruned, since backup {} is damaged", manifest.backup);
            return Err(e.context(of));
        }
    }
    Ok(marks)
}

/// Plain bytes per pack: all of them, and those that live, with how many blobs these are.
fn weigh(marks: &Marks) -> HashMap<Id, Weight> {
    let mut weights: HashMap<Id, Weight> = HashMap::new();
    for (number, run) in marks.index().runs().iter().enumerate() {
        // Segments say how much there is; blobs stored twice are listed once and so weigh less.
        for i in 0..u32::MAX {
            let Some(segment) = run.segment(i) else { break };
            if let Some(pack) = run.pack(segment.pack) {
                weights.entry(pack.id).or_default().all += u64::from(segment.plain_len);
            }
        }
        for i in (0..run.blob_count()).filter(|i| marks.is_marked(number, *i)) {
            let blob = run.blob(i);
            if let Some(pack) = run.segment(blob.segment).and_then(|segment| run.pack(segment.pack)) {
                // A blob of no length still lives.
                let weight = weights.entry(pack.id).or_default();
                weight.live += u64::from(blob.len).max(1);
                weight.blobs += 1;
            }
        }
    }
    weights
}

/// Which of these packs are to be written anew.
fn worth_rewriting(mut packs: Vec<(RunPack, Weight)>) -> HashSet<Id> {
    let dead = |weight: &Weight| weight.all.saturating_sub(weight.live);
    // The share that lives, in parts of a million; the order of ids keeps equal ones in their places.
    let share = |weight: &Weight| u128::from(weight.live) * 1_000_000 / u128::from(weight.all.max(1));
    packs.sort_by_key(|(pack, weight)| (share(weight), pack.id));
    let live: u64 = packs.iter().map(|(_, weight)| weight.live).sum();
    let mut left: u64 = packs.iter().map(|(_, weight)| dead(weight)).sum();
    let mut thin = HashSet::new();
    for (pack, weight) in &packs {
        let wasteful = left.saturating_mul(100) > live.saturating_mul(DEAD_MAX) && dead(weight) > 0;
        if wasteful || weight.live.saturating_mul(100) < weight.all.saturating_mul(LIVE_MIN) {
            left -= dead(weight);
            thin.insert(pack.id);
        }
    }
    for class in [Class::DataPack, Class::TreePack] {
        // One that is full of tiny blobs would only be written again as it is.
        let is_small = |(pack, weight): &&(RunPack, Weight)| {
            pack.class == class && pack.size < PACK_TARGET as u64 / 4 && weight.blobs < PACK_BLOBS / 4
        };
        let small = packs.iter().filter(is_small).map(|(pack, _)| pack.id);
        let small: Vec<Id> = small.filter(|id| !thin.contains(id)).collect();
        if small.len() >= SMALL_MAX {
            thin.extend(small);
        }
    }
    thin
}

/// Copies the marked blobs of thin packs into new ones, in the order in which they lie.
fn rewrite(
    vault: &Arc<Vault>,
    marks: &Marks,
    thin: &HashSet<Id>,
    compression: Compression,
    progress: &Progress,
) -> Result<()> {
    let writer = VaultWriter::start_with(vault, compression, None)?;
    match copy_living(vault, &writer, marks, thin, progress) {
        Ok(()) => writer.finish().map(drop),
        Err(e) => {
            // What is unfinished is nobody's, and to list it would need room as well.
            let _ = writer.abandon();
            Err(e)
        }
    }
}

fn copy_living(
    vault: &Arc<Vault>,
    writer: &VaultWriter,
    marks: &Marks,
    thin: &HashSet<Id>,
    progress: &Progress,
) -> Result<()> {
    for class in [Class::DataPack, Class::TreePack] {
        let mut lane = writer.lane(class)?;
        for (number, run) in marks.index().runs().iter().enumerate() {
            let mut places = Vec::new();
            for i in (0..run.blob_count()).filter(|i| marks.is_marked(number, *i)) {
                let blob = run.blob(i);
                let Some(segment) = run.segment(blob.segment) else { continue };
                let Some(pack) = run.pack(segment.pack) else { continue };
                if pack.class == class && thin.contains(&pack.id) {
                    places.push((blob.segment, blob.offset, blob.id, stands_alone(segment.plain_len, blob.len)));
                }
            }
            places.sort_unstable();
            for (_, _, id, alone) in places {
                progress.check()?;
                let bytes = vault.read_blob(&id)?;
                progress.add(0, bytes.len() as u64);
                lane.put_anew(id, &bytes, alone)?;
            }
        }
        lane.flush()?;
    }
    Ok(())
}

/// Publishes an index of all packs but those that are gone, of some with what they say of themselves; answers the
/// index objects that it replaces, which are to be deleted.
fn publish_index(vault: &Vault, gone: &HashSet<Id>, truths: &HashMap<Id, PackRecord>) -> Result<Vec<Id>> {
    let mut old: Vec<Id> = vault.index().sources().collect();
    let mut kept: Vec<PackRecord> = Vec::new();
    let mut superseded = HashSet::new();
    for id in &old {
        let object = vault.read(|store| IndexObject::get(store, &vault.keys, id))?;
        let packs = object.packs.into_iter().filter(|pack| !gone.contains(&pack.id));
        kept.extend(packs.map(|pack| truths.get(&pack.id).cloned().unwrap_or(pack)));
        superseded.extend(object.supersedes);
    }
    // What a prune that was cut short had replaced and did not delete stays replaced, or it would
    // count again once its replacement is gone.
    let there = object::list(&*vault.store, Class::Index)?.into_iter().map(|(id, _)| id);
    let left: Vec<Id> = there.filter(|id| superseded.contains(id) && !old.contains(id)).collect();
    old.extend(left);
    let mut seen = HashSet::new();
    kept.retain(|pack| seen.insert(pack.id));
    let mut groups: Vec<Vec<PackRecord>> = vec![Vec::new()];
    let mut blobs = 0;
    for pack in kept {
        blobs += pack.segments.iter().map(|s| s.blobs.len()).sum::<usize>();
        if let Some(group) = groups.last_mut() {
            group.push(pack);
        }
        if blobs >= INDEX_BLOBS {
            blobs = 0;
            groups.push(Vec::new());
        }
    }
    // Only the last object replaces the old ones: before it is there, they count.
    let last = groups.len() - 1;
    for (i, packs) in groups.into_iter().enumerate() {
        let supersedes = if i == last { old.clone() } else { Vec::new() };
        vault.store.sync()?;
        IndexObject { supersedes, packs }.put(&*vault.store, &vault.keys)?;
    }
    vault.store.sync()?;
    Ok(old)
}
