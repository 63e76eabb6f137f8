//! What each backup alone takes: measured for whole vaults at a time, while nothing is done in them.
//!
//! It is derived from the vault and known only of the state of its backups that was measured; the next backup
//! or deletion makes it unknown, and ends a measurement that runs. One reads all trees, so they get a hundredth of
//! the time.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use super::open::OpenVault;
use super::{Service, locked, resources};
use crate::catalog::{Backup, Tables, Task, VaultRow, Writer, backup};
use crate::model::{ErrorKind, Id, Progress, Result};
use crate::vault::unique_sizes;

/// A vault is left alone for so long first: backups come one after another, and commands that bring their own
/// daemon are over soon.
const QUIET: SignedDuration = SignedDuration::from_secs(10);

/// How often it is looked whether a measurement that was cancelled has ended.
const PAUSE: Duration = Duration::from_millis(10);

/// A measurement may take one part in so many of the time.
const SHARE: i32 = 100;

/// What failed is not tried again for so long, however fast that was.
const FAILED: SignedDuration = SignedDuration::from_mins(10);

/// The same where it is too much for the memory that a measurement may take.
const TOO_MUCH: SignedDuration = SignedDuration::from_hours(24);

/// What is being measured, and when there may be something next.
#[derive(Debug, Default)]
pub(super) struct Sizes(Mutex<Measured>);

#[derive(Debug, Default)]
struct Measured {
    running: Option<Running>,
    stopped: bool,
    /// Since when a vault's backups are what they are, and from when on it may be measured.
    waiting: BTreeMap<u64, Waiting>,
}

#[derive(Debug)]
struct Running {
    vault: u64,
    stamp: Stamp,
    progress: Arc<Progress>,
    thread: JoinHandle<()>,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    stamp: Stamp,
    from: Timestamp,
    /// Not before, since the last one took as long as it did.
    rest: Timestamp,
    /// How long that is.
    pause: SignedDuration,
}

impl Sizes {
    /// Has what runs end soon; nothing begins any more.
    pub fn cancel(&self) {
        let mut state = locked(&self.0);
        state.stopped = true;
        if let Some(running) = &state.running {
            running.progress.cancel();
        }
    }

    /// Has what is found out about a vault not be written down: it is being written to.
    pub(super) fn outdated(&self, vault: u64) {
        if let Some(running) = locked(&self.0).running.as_ref().filter(|running| running.vault == vault) {
            running.progress.cancel();
        }
    }

    /// Waits for what runs, until a time at the latest: a store that hangs is left to itself, since nothing is
    /// written down once it was cancelled.
    pub fn settle(&self, until: Instant) {
        let Some(running) = locked(&self.0).running.take() else { return };
        while !running.thread.is_finished() && Instant::now() < until {
            std::thread::sleep(PAUSE);
        }
        if running.thread.is_finished() {
            let _ = running.thread.join();
        }
    }
}

/// The state of a vault's backups, for comparing.
type Stamp = [u64; 2];

fn stamp(t: &impl Tables, vault: u64) -> Result<Stamp> {
    Ok([t.changes(backup::GOOD_BY_VAULT, vault)?, t.changes(backup::PARTIAL, vault)?])
}

/// Whether what was measured is still so.
pub(super) fn hold(t: &impl Tables, vault: &VaultRow) -> Result<bool> {
    Ok(match vault.measured {
        Some(measured) => stamp(t, vault.id)? == measured,
        None => false,
    })
}

/// Whether something is written to the vault or deleted from it, or has yet to be.
fn busy(t: &impl Tables, vault: u64) -> Result<bool> {
    let jobs = resources::open_jobs(t)?;
    if jobs.iter().any(|job| job.vault == Some(vault) && !matches!(job.task, Task::Sync { .. })) {
        return Ok(true);
    }
    // What is half deleted, or perhaps there, is in no index that the stamp counts.
    let leaving = t.rows_at::<Backup>(backup::DELETING, 1)?;
    Ok(leaving.iter().any(|row| row.vault == vault) || !t.indexed(backup::UNSURE, vault)?.is_empty())
}

fn save(
    w: &Writer,
    vault: u64,
    (measured, pruned): (Stamp, Option<Timestamp>),
    sizes: &HashMap<Id, u64>,
) -> Result<()> {
    // What was measured is of no use once it is another state.
    let Some(vault) = w.get::<VaultRow>(vault)?.filter(|v| !v.removing) else { return Ok(()) };
    if stamp(w, vault.id)? != measured || vault.last_pruned != pruned || busy(w, vault.id)? {
        return Ok(());
    }
    let mut rows = w.rows_at::<Backup>(backup::GOOD_BY_VAULT, vault.id)?;
    rows.extend(w.rows_at::<Backup>(backup::PARTIAL, vault.id)?);
    let ours: HashSet<Id> = rows.iter().filter_map(|row| row.manifest).collect();
    // Whoever else writes into the vault does so unseen: what is nobody else's now may be at any time.
    let alone = sizes.keys().all(|id| ours.contains(id));
    for row in rows {
        let unique = row.manifest.filter(|_| alone).and_then(|id| sizes.get(&id)).copied();
        if row.unique != unique {
            w.put(&Backup { unique, ..row })?;
        }
    }
    w.put(&VaultRow { measured: Some(measured), ..vault })
}

impl Service {
    /// Measures a vault whose backups are others than when it was measured last.
    pub(super) fn tick_sizes(&self, now: Timestamp) -> Result<Option<Timestamp>> {
        let rows = self.catalog.read(|r| {
            let mut rows = Vec::new();
            for row in r.all::<VaultRow>()?.into_iter().filter(|v| !v.removing && !v.emptied) {
                let stamp = stamp(r, row.id)?;
                if row.measured != Some(stamp) {
                    rows.push((row.id, stamp, row.last_pruned, busy(r, row.id)?));
                }
            }
            Ok(rows)
        })?;
        let mut state = locked(&self.sizes.0);
        let there: HashSet<u64> = rows.iter().map(|(id, ..)| *id).collect();
        state.waiting.retain(|id, waiting| there.contains(id) || waiting.rest > now);
        if state.running.as_ref().is_some_and(|running| running.thread.is_finished()) {
            state.running = None;
        }
        // Nobody waits for the sizes of what is gone, or is not as it was.
        if let Some(running) = &state.running {
            let same =
                rows.iter().any(|(id, stamp, _, busy)| (*id, *stamp, *busy) == (running.vault, running.stamp, false));
            if !same {
                running.progress.cancel();
            }
        }
        for (id, stamp, pruned, busy) in rows {
            let quiet = now.saturating_add(QUIET).unwrap_or(now);
            let waiting = state.waiting.entry(id).or_insert(Waiting { stamp, from: quiet, rest: now, pause: QUIET });
            if waiting.stamp != stamp || busy {
                (waiting.stamp, waiting.from) = (stamp, quiet);
            }
            // A clock that was set back does not leave it waiting.
            waiting.from = waiting.from.min(quiet);
            waiting.rest = waiting.rest.min(now.saturating_add(waiting.pause).unwrap_or(now));
            let due = waiting.from.max(waiting.rest) <= now;
            if due
                && state.running.is_none()
                && !state.stopped
                && let Some(open) = self.vaults.opened(id)
            {
                state.running = self.measure(id, (stamp, pruned), open);
            }
        }
        // Nobody waits for it: when everything is looked after the next time is soon enough.
        Ok(None)
    }

    fn measure(
        &self,
        vault: u64,
        (stamp, pruned): (Stamp, Option<Timestamp>),
        open: Arc<OpenVault>,
    ) -> Option<Running> {
        let me = self.me.upgrade()?;
        let progress = Arc::new(Progress::default());
        let cancelled = Arc::clone(&progress);
        let spawned = std::thread::Builder::new().name("sizes".into()).spawn(move || {
            let began = Instant::now();
            let measured = unique_sizes(&open.vault, &cancelled);
            drop(open);
            let took = SignedDuration::try_from(began.elapsed()).unwrap_or(QUIET).saturating_mul(SHARE);
            let pause = match &measured {
                Ok(_) => took,
                Err(e) if e.kind == ErrorKind::Cancelled => took,
                Err(e) if e.kind == ErrorKind::LimitReached => took.max(TOO_MUCH),
                Err(_) => took.max(FAILED),
            };
            let rest = me.now().saturating_add(pause).unwrap_or(Timestamp::MAX);
            {
                let mut state = locked(&me.sizes.0);
                if state.stopped {
                    return;
                }
                let waiting = state.waiting.entry(vault).or_insert(Waiting { stamp, from: rest, rest, pause });
                (waiting.rest, waiting.pause) = (rest, pause);
            }
            let saved = measured.and_then(|found| {
                me.catalog.write(|w| {
                    // Whoever changes the vault says so first, and then forgets what was written down before.
                    cancelled.check()?;
                    save(w, vault, (stamp, pruned), &found.sizes)
                })
            });
            match saved {
                Err(e) if e.kind != ErrorKind::Cancelled => {
                    tracing::info!(vault, "what each backup alone takes is not known yet: {e}");
                }
                _ => {}
            }
        });
        match spawned {
            Ok(thread) => Some(Running { vault, stamp, progress, thread }),
            Err(e) => {
                tracing::warn!("cannot start the thread that measures backups: {e}");
                None
            }
        }
    }
}
