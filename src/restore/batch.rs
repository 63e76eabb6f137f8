//! A bounded number of entries, restored by all workers in the order in which the vault holds
//! their data.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::dir::Dir;
use super::hidden::Hidden;
use super::item::{Done, Item, Ready};
use super::job::{Job, Temporary};
use super::journal::Journal;
use super::meta::{self, Handle, Scope};
use super::tally::Tally;
use crate::model::{Error, Id, IoContext, Result};
use crate::vault::Location;
use crate::vault::tree::{Content, Kind, Link, Metadata};

/// Entries of a batch at most.
const ENTRIES: usize = 4096;
/// Bytes of a batch at most, a larger file aside.
const BYTES: u64 = 64 << 20;
/// The same where the vault is elsewhere: at the end of a batch some threads have nothing to wait for.
const BYTES_ELSEWHERE: u64 = 1 << 30;
/// Entries without data that one worker takes at a time.
const HANDFUL: usize = 32;

/// A directory all of whose entries are restored, or wait in the same batch.
#[derive(Debug)]
pub struct Complete {
    /// The directory.
    pub dir: Arc<Dir>,
    /// Its metadata, and which of it is set; `None`: it stays as it is.
    pub meta: Option<(Metadata, Scope)>,
    /// Whether it is not as in the backup, before anything in it is changed.
    pub changed: bool,
    /// Flags that were taken from it so that it could be changed.
    pub locks: u32,
}

/// What waits to be restored together.
#[derive(Debug, Default)]
pub struct Batch {
    items: Vec<(Option<Location>, Item)>,
    links: Vec<Item>,
    /// Directories whose metadata is set when the rest is restored.
    pub complete: Vec<Complete>,
    /// Directories that get their names before that.
    pub hidden: Hidden,
    bytes: u64,
}

impl Batch {
    /// Adds an entry that is no directory.
    pub fn add(&mut self, job: &Job<'_>, item: Item) {
        self.bytes = self.bytes.saturating_add(item.entry.totals().bytes);
        if matches!(item.entry.link, Link::To { .. }) {
            return self.links.push(item);
        }
        let blob = blobs(&item).next();
        self.items.push((blob.and_then(|id| job.vault.locate(&id)), item));
    }

    /// Whether it should be restored before more is added.
    pub fn is_full(&self, job: &Job<'_>) -> bool {
        let most = if job.vault.is_elsewhere() { BYTES_ELSEWHERE } else { BYTES };
        self.bytes >= most || self.items.len() + self.links.len() + self.complete.len() >= ENTRIES
    }

    /// Restores everything in it, and leaves it empty.
    pub fn flush(&mut self, job: &Job<'_>, journal: Option<&Journal>) -> Result<()> {
        let mut items = std::mem::take(&mut self.items);
        let links = std::mem::take(&mut self.links);
        self.bytes = 0;
        if let Some(journal) = journal
            && !(items.is_empty() && links.is_empty())
        {
            let named = self.hidden.named();
            let mut dirs = named.above.clone();
            dirs.extend(items.iter().map(|(_, item)| item).chain(&links).map(|item| item.dir.path()));
            journal.announce(dirs.iter(), &named.inodes)?;
        }
        items.sort_by_key(|(location, _)| *location);
        let ready = restore_all(job, items)?;
        match self.hidden.reveal(job) {
            Ok(()) => replace_all(job, ready)?,
            Err(e) => {
                discard(job, ready);
                return Err(e);
            }
        }
        for item in links {
            job.progress.check()?;
            let path = item.dir.path_of(&item.entry.name);
            job.restore_link(item).or_else(|e| failed(job, path, e))?;
        }
        let complete = std::mem::take(&mut self.complete);
        run_all(job, complete.len(), |i| match complete.get(i) {
            Some(dir) => dir.finish(job).or_else(|e| failed(job, dir.dir.path(), e)),
            None => Ok(()),
        })
    }
}

/// What a file consists of, or lists of that.
fn blobs(item: &Item) -> impl Iterator<Item = Id> {
    let (whole, parts) = match &item.entry.kind {
        Kind::File { content: Content::Whole(id), .. } => (Some(*id), [].as_slice()),
        Kind::File { content: Content::Parts(parts) | Content::Lists(parts), .. } => (None, parts.as_slice()),
        _ => (None, [].as_slice()),
    };
    whole.into_iter().chain(parts.iter().map(|part| part.id))
}

fn failed(job: &Job<'_>, path: Vec<u8>, error: Error) -> Result<()> {
    job.tally.take(path, error)?;
    job.progress.add(1, 0);
    Ok(())
}

/// Restores entries with all workers; those that share a segment go to one, so that it is decoded
/// once.
fn restore_all(job: &Job<'_>, items: Vec<(Option<Location>, Item)>) -> Result<Vec<Ready>> {
    let mut groups: Vec<Vec<Item>> = Vec::new();
    let mut last = None;
    for (location, item) in items {
        let segment = location.map(|l| (l.pack, l.segment));
        match groups.last_mut() {
            Some(group) if last == Some(segment) && (segment.is_some() || group.len() < HANDFUL) => group.push(item),
            _ => groups.push(vec![item]),
        }
        last = Some(segment);
    }
    // What stands there already may be equal, and is not read from the vault then.
    let new = groups.iter().flatten().filter(|item| item.dir.made);
    let reader = job.vault.reader(new.flat_map(blobs));
    let groups: Vec<_> = groups.into_iter().map(Mutex::new).collect();
    let ready = Mutex::new(Vec::new());
    let result = run_all(job, groups.len(), |i| {
        let Some(group) = groups.get(i) else { return Ok(()) };
        let group = std::mem::take(&mut *group.lock().unwrap_or_else(PoisonError::into_inner));
        for item in group {
            job.progress.check()?;
            let path = item.dir.path_of(&item.entry.name);
            job.progress.set_current(&String::from_utf8_lossy(&path));
            let first = matches!(item.entry.link, Link::First { .. });
            match job.restore_item(item, &reader) {
                Ok(Done::Ready(one)) => ready.lock().unwrap_or_else(PoisonError::into_inner).push(*one),
                Ok(Done::Skipped) if first => job.without_first(path),
                Ok(Done::Counted | Done::Skipped) => {}
                Err(e) => {
                    if first {
                        job.without_first(path.clone());
                    }
                    failed(job, path, e)?;
                }
            }
        }
        Ok(())
    });
    let ready = ready.into_inner().unwrap_or_else(PoisonError::into_inner);
    match result {
        Ok(()) => Ok(ready),
        Err(e) => {
            discard(job, ready);
            Err(e)
        }
    }
}

/// Puts files in place of what they replace, once all of them are on disk: a crash of the system
/// must leave one or the other.
fn replace_all(job: &Job<'_>, ready: Vec<Ready>) -> Result<()> {
    let mut synced = BTreeSet::new();
    let mut result = Ok(());
    for one in &ready {
        if let Some((dev, _)) = one.item.dir.identity()
            && result.is_ok()
            && synced.insert(dev)
        {
            let handle = job.handle(&one.item.dir);
            result = handle.and_then(|dir| rustix::fs::syncfs(dir).at(|| "cannot write the files to disk"));
        }
    }
    let mut ready = ready.into_iter();
    while result.is_ok() {
        let Some(one) = ready.next() else { break };
        let path = one.item.dir.path_of(&one.item.entry.name);
        result = job.progress.check().and_then(|()| job.replace(&one)).or_else(|e| {
            if matches!(one.item.entry.link, Link::First { .. }) {
                job.without_first(path.clone());
            }
            failed(job, path, e)
        });
    }
    discard(job, ready);
    result
}

fn discard(job: &Job<'_>, ready: impl IntoIterator<Item = Ready>) {
    for one in ready {
        if let Ok(dir) = job.handle(&one.item.dir) {
            drop(Temporary::new(&dir, one.temporary));
        }
    }
}

/// Calls `each` with all numbers below `count` from all workers, until one fails.
fn run_all(job: &Job<'_>, count: usize, each: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let i = next.fetch_add(1, Relaxed);
            if i >= count {
                return Ok(());
            }
            if let Err(e) = each(i) {
                next.store(count, Relaxed);
                return Err(e);
            }
        }
    };
    let workers = job.workers.min(count);
    if workers < 2 {
        return work();
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let results: Vec<_> = threads.into_iter().map(|t| t.join()).collect();
        results.into_iter().try_for_each(|r| r.unwrap_or_else(|_| Err(Error::failed("a thread of the restore died"))))
    })
}

impl Complete {
    /// Sets a directory's metadata and counts it.
    fn finish(&self, job: &Job<'_>) -> Result<()> {
        if self.dir.is_hidden() {
            // It could not have its name, which was listed.
            return Ok(());
        }
        let is_root = self.dir.parent().is_none();
        if let (Some((want, scope)), true) = (&self.meta, self.dir.exists()) {
            let handle = job.handle(&self.dir)?;
            let brought = meta::bring(Handle::Open(handle.as_fd()), want, *scope, job.request.dry_run);
            job.tally.problems(|| self.dir.path(), &brought.problems)?;
        } else {
            self.relock(job);
        }
        if !is_root {
            Tally::add(if self.changed { &job.tally.files } else { &job.tally.unchanged }, 1);
            job.progress.add(1, 0);
        }
        Ok(())
    }

    /// Gives back the flags that were taken from a directory.
    pub fn relock(&self, job: &Job<'_>) {
        if self.locks != 0
            && let Ok(handle) = job.handle(&self.dir)
        {
            // It had them a moment ago, so it can have them again.
            let _ = meta::lock(&*handle, self.locks);
        }
    }
}
