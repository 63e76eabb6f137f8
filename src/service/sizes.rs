//! What each backup alone takes: measured when nothing else is done, for whole vaults at a time.
//!
//! It is derived from the vault and known only of the state of its backups that was measured; the next backup
//! or deletion makes it unknown. A measurement reads all trees, so it is given a hundredth of the time.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};

use super::open::OpenVault;
use super::{Service, locked, resources};
use crate::catalog::{Backup, Tables, Task, VaultRow, Writer, backup};
use crate::model::{Id, Progress, Result};
use crate::vault::unique_sizes;

/// A vault is left alone for so long first: backups come one after another, and commands that bring their own
/// daemon are over soon.
const QUIET: SignedDuration = SignedDuration::from_secs(10);

/// A measurement may take one part in so many of the time.
const SHARE: i32 = 100;

/// What is being measured, and when there may be something next.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    stop: Arc<Progress>,
    state: Mutex<Measured>,
}

#[derive(Debug, Default)]
struct Measured {
    thread: Option<JoinHandle<()>>,
    /// Since when a vault's backups are what they are, and from when on it may be measured.
    waiting: BTreeMap<u64, Waiting>,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    stamp: [u64; 2],
    from: Timestamp,
    /// Not before, since the last one took as long as it did.
    rest: Timestamp,
}

impl Sizes {
    /// Ends what runs and waits for it.
    pub fn stop(&self) {
        self.stop.cancel();
        self.settle();
    }

    /// Waits for what runs.
    pub fn settle(&self) {
        let thread = locked(&self.state).thread.take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

/// The state of a vault's backups, for comparing.
fn stamp(t: &impl Tables, vault: u64) -> Result<[u64; 2]> {
    Ok([t.changes(backup::GOOD_BY_VAULT, vault)?, t.changes(backup::PARTIAL, vault)?])
}

/// Whether what was measured is still so.
pub(super) fn hold(t: &impl Tables, vault: &VaultRow) -> Result<bool> {
    Ok(vault.measured.is_some_and(|measured| stamp(t, vault.id).is_ok_and(|now| now == measured)))
}

/// Whether jobs are waited for that write to the vault or delete from it.
fn busy(t: &impl Tables, vault: u64) -> Result<bool> {
    let jobs = resources::open_jobs(t)?;
    Ok(jobs.iter().any(|job| job.vault == Some(vault) && !matches!(job.task, Task::Sync { .. })))
}

fn save(w: &Writer, vault: u64, measured: [u64; 2], sizes: &HashMap<Id, u64>) -> Result<()> {
    // What was measured is of no use once it is another state.
    let Some(row) = w.get::<VaultRow>(vault)?.filter(|v| !v.removing) else { return Ok(()) };
    if stamp(w, vault)? != measured {
        return Ok(());
    }
    for index in [backup::GOOD_BY_VAULT, backup::PARTIAL] {
        for row in w.rows_at::<Backup>(index, vault)? {
            let unique = row.manifest.and_then(|id| sizes.get(&id)).copied();
            if row.unique != unique {
                w.put(&Backup { unique, ..row })?;
            }
        }
    }
    w.put(&VaultRow { measured: Some(measured), ..row })
}

impl Service {
    /// Measures a vault whose backups are others than when it was measured last.
    pub(super) fn tick_sizes(&self, now: Timestamp) -> Result<Option<Timestamp>> {
        let rows = self.catalog.read(|r| {
            let mut rows = Vec::new();
            for row in r.all::<VaultRow>()?.into_iter().filter(|v| !v.removing && !v.emptied) {
                let stamp = stamp(r, row.id)?;
                if row.measured != Some(stamp) {
                    rows.push((row.id, stamp, busy(r, row.id)?));
                }
            }
            Ok(rows)
        })?;
        let mut state = locked(&self.sizes.state);
        let there: HashSet<u64> = rows.iter().map(|(id, ..)| *id).collect();
        state.waiting.retain(|id, waiting| there.contains(id) || waiting.rest > now);
        let running = state.thread.as_ref().is_some_and(|thread| !thread.is_finished());
        for (id, stamp, busy) in rows {
            let quiet = now.saturating_add(QUIET).unwrap_or(now);
            let fresh = Waiting { stamp, from: quiet, rest: now };
            let waiting = state.waiting.entry(id).or_insert(fresh);
            if waiting.stamp != stamp || busy {
                (waiting.stamp, waiting.from) = (stamp, quiet);
            }
            if waiting.from.max(waiting.rest) <= now
                && !running
                && let Some(open) = self.vaults.opened(id)
            {
                self.measure(&mut state, id, stamp, open);
                break;
            }
        }
        // Nobody waits for it: when everything is looked after the next time is soon enough.
        Ok(None)
    }

    fn measure(&self, state: &mut Measured, vault: u64, stamp: [u64; 2], open: Arc<OpenVault>) {
        let Some(me) = self.me.upgrade() else { return };
        let spawned = std::thread::Builder::new().name("sizes".into()).spawn(move || {
            let began = Instant::now();
            let measured = unique_sizes(&open.vault, &me.sizes.stop);
            drop(open);
            if me.sizes.stop.is_cancelled() {
                return;
            }
            let saved = measured.and_then(|found| me.catalog.write(|w| save(w, vault, stamp, &found.sizes)));
            if let Err(e) = &saved {
                tracing::debug!(vault, "what each backup alone takes is not known yet: {e}");
            }
            let took = SignedDuration::try_from(began.elapsed()).unwrap_or(QUIET);
            // What failed is not tried at once again, however fast that was.
            let rest = if saved.is_ok() {
                took.saturating_mul(SHARE)
            } else {
                took.saturating_mul(SHARE).max(SignedDuration::from_mins(10))
            };
            let rest = me.now().saturating_add(rest).unwrap_or(Timestamp::MAX);
            if let Some(waiting) = locked(&me.sizes.state).waiting.get_mut(&vault) {
                waiting.rest = rest;
            }
            me.ticker.wake();
        });
        match spawned {
            Ok(thread) => state.thread = Some(thread),
            Err(e) => tracing::warn!("cannot start the thread that measures backups: {e}"),
        }
    }
}
