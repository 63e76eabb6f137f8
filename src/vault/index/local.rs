//! The local index: all runs of one vault together.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::object::IndexObject;
use super::run::{self, Run, RunPack, RunSegment};
use crate::model::{Id, IoContext, Result};
use crate::store::ObjectStore;
use crate::vault::object;
use crate::vault::pack::PackRecord;
use crate::vault::seal::Class;

/// An immutable set of runs. Changing the index makes a new set; readers keep the one they have.
#[derive(Debug, Default, Clone)]
pub struct LocalIndex {
    dir: PathBuf,
    runs: Vec<Arc<Run>>,
    /// Packs that are missing or damaged: what they held is only held if another pack has it too.
    lost: Arc<HashSet<Id>>,
}

/// Where a blob was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// A number for the pack that sorts with its place in this index.
    pub number: u32,
    /// The pack.
    pub pack: RunPack,
    /// The segment.
    pub segment: RunSegment,
    /// Where the blob begins in the segment.
    pub offset: u32,
    /// Its length.
    pub len: u32,
}

impl LocalIndex {
    /// The index of what the store holds now, from runs in `dir` where they fit and otherwise from
    /// index objects, which `get` reads.
    pub fn load(dir: &Path, store: &dyn ObjectStore, get: &dyn Fn(&Id) -> Result<IndexObject>) -> Result<Self> {
        fs::create_dir_all(dir).at(|| format!("cannot create {}", dir.display()))?;
        let present: HashSet<Id> = object::list(store, Class::Index)?.into_iter().map(|(id, _)| id).collect();
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).at(|| format!("cannot list {}", dir.display()))?.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|e| e == "run") {
                // A damaged run is made again from its index objects.
                match Run::open(&path) {
                    Ok(run) => found.push(run),
                    Err(_) => drop(fs::remove_file(&path)),
                }
            } else if stale_temporary(&entry) {
                let _ = fs::remove_file(&path);
            }
        }
        found.sort_by_key(|run| std::cmp::Reverse(run.sources.len()));
        // Index objects are superseded only by ones that exist.
        let mut fresh: Vec<(Id, IndexObject)> = Vec::new();
        let known: HashSet<Id> = found.iter().flat_map(|r| r.sources.iter().copied()).collect();
        for id in present.iter().filter(|id| !known.contains(id)) {
            match get(id) {
                Ok(index) => fresh.push((*id, index)),
                // A prune on the way may have replaced it since it was listed.
                Err(e) if e.kind == crate::model::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        let superseded: HashSet<Id> = found
            .iter()
            .filter(|r| r.sources.iter().all(|s| present.contains(s)))
            .flat_map(|r| r.superseded.iter().copied())
            .chain(fresh.iter().flat_map(|(_, index)| index.supersedes.iter().copied()))
            .collect();
        let valid: HashSet<Id> = present.difference(&superseded).copied().collect();
        let mut this = Self { dir: dir.to_path_buf(), ..Self::default() };
        let mut covered: HashSet<Id> = HashSet::new();
        for run in found {
            let fits = run.sources.iter().all(|s| valid.contains(s) && !covered.contains(s));
            if fits {
                covered.extend(run.sources.iter().copied());
                this.runs.push(Arc::new(run));
            } else {
                let _ = fs::remove_file(run.path());
            }
        }
        for id in valid.difference(&covered) {
            let index = match fresh.iter().find(|(fresh, _)| fresh == id) {
                Some((_, index)) => index.clone(),
                // Its run was thrown away because it covered superseded objects too.
                None => get(id)?,
            };
            this = this.with(*id, &index.supersedes, &index.packs)?;
        }
        Ok(this)
    }

    /// Removes the runs in `dir`; those who read them go on.
    pub fn forget(dir: &Path) -> Result<()> {
        for entry in fs::read_dir(dir).at(|| format!("cannot list {}", dir.display()))?.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|e| e == "run") {
                fs::remove_file(&path).at(|| format!("cannot remove {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// This index with one more index object.
    pub fn with(&self, id: Id, supersedes: &[Id], packs: &[PackRecord]) -> Result<Self> {
        // A refresh may have found it in the store already.
        if self.sources().any(|source| source == id) {
            return Ok(self.clone());
        }
        let mut runs = self.runs.clone();
        runs.push(Arc::new(run::write(&self.dir, &[id], supersedes, packs)?));
        // Runs double in size from new to old, so a look-up asks few of them.
        while let [.., older, newer] = runs.as_slice()
            && older.file_len() < 2 * newer.file_len()
        {
            let merged = run::merge(&self.dir, &[older, newer])?;
            for run in runs.drain(runs.len() - 2..) {
                let _ = fs::remove_file(run.path());
            }
            runs.push(Arc::new(merged));
        }
        Ok(Self { dir: self.dir.clone(), runs, lost: self.lost.clone() })
    }

    /// This index with other packs known to be lost.
    pub fn with_lost(self, lost: Arc<HashSet<Id>>) -> Self {
        Self { lost, ..self }
    }

    /// Packs known to be missing or damaged.
    pub fn lost(&self) -> &Arc<HashSet<Id>> {
        &self.lost
    }

    /// Finds a blob; where there are several copies, one that is not lost.
    pub fn find(&self, id: &Id) -> Option<Found> {
        let (run, i) = self.home(id)?;
        self.found(run, i)
    }

    /// All places of a blob.
    pub fn copies(&self, id: &Id) -> impl Iterator<Item = Found> {
        self.places(id).filter_map(|(run, i)| self.found(run, i))
    }

    /// Whether a blob is known, if only in a pack that is lost.
    pub fn contains(&self, id: &Id) -> bool {
        self.runs.iter().any(|run| run.position(id).is_some())
    }

    /// Whether a blob is in a pack that is not lost.
    pub fn holds(&self, id: &Id) -> bool {
        if self.lost.is_empty() { self.contains(id) } else { self.copies(id).any(|c| !self.lost.contains(&c.pack.id)) }
    }

    /// Where a blob is at home: its run and its place there. Of several copies it is one that is
    /// not lost, always the same one.
    pub fn home(&self, id: &Id) -> Option<(usize, usize)> {
        if self.lost.is_empty() {
            return self.places(id).next();
        }
        let mut places = self.places(id).peekable();
        let first = places.peek().copied();
        places.find(|(run, i)| self.found(*run, *i).is_some_and(|f| !self.lost.contains(&f.pack.id))).or(first)
    }

    fn places(&self, id: &Id) -> impl Iterator<Item = (usize, usize)> {
        self.runs.iter().enumerate().flat_map(|(number, run)| run.copies(id).map(move |i| (number, i)))
    }

    fn found(&self, number: usize, i: usize) -> Option<Found> {
        let run = self.runs.get(number)?;
        let blob = run.blob(i);
        let segment = run.segment(blob.segment)?;
        let pack = run.pack(segment.pack)?;
        let base: usize = self.runs.iter().take(number).map(|run| run.pack_count()).sum();
        let base = u32::try_from(base).unwrap_or(0);
        Some(Found { number: base + segment.pack, pack, segment, offset: blob.offset, len: blob.len })
    }

    /// Its runs.
    pub fn runs(&self) -> &[Arc<Run>] {
        &self.runs
    }

    /// All packs.
    pub fn packs(&self) -> impl Iterator<Item = RunPack> {
        self.runs.iter().flat_map(|run| (0..u32::try_from(run.pack_count()).unwrap_or(0)).filter_map(|i| run.pack(i)))
    }

    /// Index objects that it was made from.
    pub fn sources(&self) -> impl Iterator<Item = Id> {
        self.runs.iter().flat_map(|run| run.sources.iter().copied())
    }

    /// How many blobs it knows.
    pub fn blob_count(&self) -> u64 {
        self.runs.iter().map(|run| run.blob_count() as u64).sum()
    }
}

/// Whether a leftover of a crash: nobody writes a run for an hour.
fn stale_temporary(entry: &fs::DirEntry) -> bool {
    let age = entry.metadata().ok().and_then(|m| m.modified().ok()).and_then(|t| t.elapsed().ok());
    age.is_some_and(|age| age.as_secs() > 3600)
}
