//! Mirrors: copies of a vault on its other destinations.
//!
//! A backup is completed when the first destination holds it. The mirrors are brought up to date by
//! a job for each: after every change, at every start, and again where that failed, so that one
//! that is down or slow delays nothing and is caught up when it is there again.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use super::fields::Fields;
use super::submit::Draft;
use super::{Service, destinations, locked, select, vaults};
use crate::catalog::vault::MirrorRow;
use crate::catalog::{Backup, Destination, Job, State, Tables, Task, VaultRow, Writer, backup};
use crate::jobs::{Key, Lane, Ticket};
use crate::model::{Error, Id, Map, Progress, Result};
use crate::store::Place;

/// A mirror that failed is tried again after this long, and twice as long each time it fails again.
const AGAIN: SignedDuration = SignedDuration::from_mins(1);
/// But never later than this.
const AT_LAST: SignedDuration = SignedDuration::from_mins(30);

/// What a job that brings a mirror up to date needs. It goes beside backups and prunes of the vault. One for
/// all of them (`None`) waits for nothing in the queue, and at each mirror for whoever is at it.
pub(super) fn ticket(mirror: Option<u64>) -> Ticket {
    Ticket { exclusive: mirror.into_iter().map(Key::Mirror).collect(), ..Ticket::free(Lane::Copies) }
}

/// What a check of a vault needs: nothing is deleted from it meanwhile, nor from its mirrors. A mirror that
/// is copied to when the check is asked for is not waited for in the queue, or whatever waits for the check
/// would wait for days: see [`CHECK_PATIENCE`].
pub(super) fn verify_ticket(t: &impl Tables, vault: &VaultRow) -> Result<Ticket> {
    let open = super::resources::open_jobs(t)?;
    let free = vault.mirrors.keys().copied().filter(|id| !copying(&open, vault.id, *id));
    Ok(Ticket {
        exclusive: free.map(Key::Mirror).collect(),
        shared: vec![Key::Vault(vault.id)],
        ..Ticket::free(Lane::Maintenance)
    })
}

/// Whether a job that brings the mirror up to date is among these.
fn copying(jobs: &[Job], vault: u64, mirror: u64) -> bool {
    jobs.iter().filter(|j| j.vault == Some(vault)).any(|j| match j.task {
        Task::Sync { mirror: only } => only == Some(mirror),
        _ => false,
    })
}

/// So long a check waits for a mirror that is copied to.
pub(super) const CHECK_PATIENCE: Duration = Duration::from_secs(60);

/// A mirror that nobody else copies to or checks meanwhile.
pub(super) struct Held<'a> {
    service: &'a Service,
    mirror: u64,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        locked(&self.service.mirrors_held).remove(&self.mirror);
    }
}

/// When a mirror is tried next, if it is behind.
fn due(mirror: &MirrorRow) -> Option<Timestamp> {
    if !mirror.behind {
        return None;
    }
    let wait = match mirror.failures {
        0 => SignedDuration::ZERO,
        n => (AGAIN * (1_i32 << (n - 1).min(8))).min(AT_LAST),
    };
    Some(mirror.tried_at.and_then(|tried| tried.checked_add(wait).ok()).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// What became of a backup on a destination of its vault, and what is wrong with that.
pub(super) fn status<'a>(vault: &'a VaultRow, row: &'a Backup, id: u64) -> (&'static str, Option<&'a str>) {
    let mirror = match vault.mirrors.get(&id) {
        Some(mirror) if row.status == State::Completed => mirror,
        _ => return (row.status.name(), row.error.as_deref()),
    };
    if row.copies.contains(&id) {
        (State::Completed.name(), None)
    } else if row.expired_on.contains(&id) {
        ("expired", None)
    } else if mirror.error.is_some() {
        (State::Failed.name(), mirror.error.as_deref())
    } else {
        (State::Pending.name(), None)
    }
}

/// What there is to say of each copy of a vault.
pub(super) fn copies(t: &impl Tables, row: &VaultRow) -> Result<Vec<Map>> {
    let mut copies = Vec::new();
    for id in &row.destinations {
        let Some(place) = t.get::<Destination>(*id)? else { continue };
        let mut f = Fields::default();
        f.set("name", place.name.as_str()).set("type", place.type_name());
        match row.mirrors.get(id) {
            None => f.set("role", "primary"),
            Some(mirror) => {
                let state = match (&mirror.error, mirror.behind) {
                    (Some(_), _) => "failed",
                    (None, false) if mirror.synced_at.is_some() => "current",
                    (None, _) => "behind",
                };
                f.set("role", "mirror").set("state", state).opt("error", mirror.error.as_deref());
                f.time("synced_at", mirror.synced_at).time("tried_at", mirror.tried_at).opt("used", mirror.used)
            }
        };
        copies.push(f.done());
    }
    Ok(copies)
}

/// The destinations that a vault is to have, the first its primary, as a caller or a file names them.
pub(super) fn places(t: &impl Tables, row: Option<&VaultRow>, wanted: &[String]) -> Result<Vec<Destination>> {
    let mut found: Vec<Destination> = Vec::new();
    for selector in wanted {
        let place = select::destination(t, selector)?;
        if found.iter().any(|other| other.id == place.id) {
            return Err(Error::invalid(format!("destinations names {:?} twice; name each once", place.name)));
        }
        match destinations::vault_on(t, place.id)? {
            Some(other) if row.is_none_or(|row| row.id != other.id) => vaults::refuse_taken(t, &place)?,
            _ => {}
        }
        found.push(place);
    }
    let first = found.first().ok_or_else(|| {
        Error::invalid("destinations is missing; name the destination that holds the vault, and then its mirrors")
    })?;
    refuse_limit(first, found.len() > 1)?;
    Ok(found)
}

/// Refuses a limit of backups on the first of several destinations: the others are copies of it.
pub(super) fn refuse_limit(first: &Destination, mirrored: bool) -> Result<()> {
    match first.max_backups {
        Some(limit) if mirrored => Err(Error::invalid_state(format!(
            "destination {:?} keeps at most {limit} backups (max_backups), and the first destination of a vault with \
             mirrors holds all of them; name another first, or take the limit away",
            first.name
        ))),
        _ => Ok(()),
    }
}

/// What changing the destinations of a vault brings about.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// Whether there is another primary.
    pub promoted: bool,
}

/// Gives a vault other destinations. Its primary may only become one of its mirrors, which must
/// have everything unless `force` is set.
pub(super) fn change(w: &Writer, row: &mut VaultRow, places: &[Destination], force: bool) -> Result<Change> {
    let ids: Vec<u64> = places.iter().map(|place| place.id).collect();
    let (Some(first), Some(new)) = (row.destinations.first().copied(), places.first()) else {
        return Ok(Change::default());
    };
    for place in places {
        vaults::refuse_plain(place, row.encryption)?;
    }
    let promoted = new.id != first;
    if promoted {
        promote(w, row, new, first, force)?;
    }
    for id in row.destinations.iter().filter(|id| !ids.contains(id)) {
        row.mirrors.remove(id);
        forget_copies(w, row.id, *id)?;
    }
    for id in ids.iter().skip(1) {
        row.mirrors.entry(*id).or_insert_with(MirrorRow::empty);
    }
    row.mirrors.retain(|id, _| ids.contains(id) && *id != new.id);
    row.destinations = ids;
    Ok(Change { promoted })
}

fn promote(w: &Writer, row: &mut VaultRow, new: &Destination, old: u64, force: bool) -> Result<()> {
    vaults::refuse_removing(row)?;
    // A copy into a mirror may hang because the first one is lost.
    let jobs = super::resources::open_jobs(w)?;
    if !force || jobs.iter().any(|j| j.vault == Some(row.id) && !matches!(j.task, Task::Sync { .. })) {
        vaults::refuse_jobs(w, row)?;
    }
    let mirror = row.mirrors.get(&new.id).filter(|mirror| mirror.joined).ok_or_else(|| {
        Error::invalid_state(format!(
            "destination {:?} holds no copy of the vault {:?}; name it after the first one and sync the vault, then \
             name it first",
            new.name, row.name
        ))
    })?;
    let behind = mirror.behind;
    let mut rows = w.rows_at::<Backup>(backup::GOOD_BY_VAULT, row.id)?;
    let missing: Vec<String> =
        rows.iter().filter(|b| !b.copies.contains(&new.id)).map(|b| b.id.to_string()).take(5).collect();
    if !force && (behind || !missing.is_empty()) {
        let what =
            if missing.is_empty() { "the newest changes".into() } else { format!("backups {}", missing.join(", ")) };
        return Err(Error::invalid_state(format!(
            "destination {:?} does not have {what} of the vault {:?} yet; sync the vault first, or give force true if \
             the first destination is lost",
            new.name, row.name
        )));
    }
    row.mirrors.remove(&new.id);
    row.mirrors.insert(old, MirrorRow { joined: true, ..MirrorRow::empty() });
    for backup in &mut rows {
        backup.copies.retain(|id| *id != new.id);
        backup.copies.push(old);
        w.put(backup)?;
    }
    Ok(())
}

/// A destination is no mirror of a vault any more.
fn forget_copies(w: &Writer, vault: u64, destination: u64) -> Result<()> {
    for mut row in w.rows_at::<Backup>(backup::BY_VAULT, vault)? {
        let before = row.copies.len() + row.expired_on.len();
        row.copies.retain(|id| *id != destination);
        row.expired_on.retain(|id| *id != destination);
        if row.copies.len() + row.expired_on.len() != before {
            w.put(&row)?;
        }
    }
    Ok(())
}

/// The manifests beyond the limit of a mirror that has one: all but those of the newest backups. What the
/// catalog does not know is not among them.
pub(super) fn over(t: &impl Tables, vault: u64, place: &Destination) -> Result<Option<HashSet<Id>>> {
    let Some(limit) = place.max_backups else { return Ok(None) };
    let mut rows = t.rows_at::<Backup>(backup::GOOD_BY_VAULT, vault)?;
    rows.sort_by_key(|row| std::cmp::Reverse((row.created_at, row.id)));
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    Ok(Some(rows.iter().skip(limit).filter_map(|row| row.manifest).collect()))
}

impl Service {
    /// Takes a mirror for a job; waits for another that has it, but no longer than `patience`. Tickets see
    /// to most of this, and to the rest of it they cannot.
    pub(super) fn hold_mirror(&self, mirror: u64, patience: Duration, progress: &Progress) -> Result<Held<'_>> {
        let since = Instant::now();
        while !locked(&self.mirrors_held).insert(mirror) {
            if since.elapsed() > patience {
                return Err(Error::invalid_state("another job still copies to it or checks it; try again later"));
            }
            progress.check()?;
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(Held { service: self, mirror })
    }

    /// Where a vault's mirrors are that were filled before.
    pub(super) fn mirror_places(&self, row: &VaultRow) -> Vec<Place> {
        let places = self.catalog.read(|r| {
            let joined = row.mirrors.iter().filter(|(_, mirror)| mirror.joined);
            joined.map(|(id, _)| r.get::<Destination>(*id)).collect::<Result<Vec<_>>>()
        });
        let places = places.unwrap_or_default().into_iter().flatten();
        places.filter_map(|place| self.store_place(&place.place).ok()).collect()
    }

    /// Has what follows from other destinations done.
    pub(super) fn mirrors_changed(&self, id: u64, promoted: bool) {
        if promoted {
            // What is open writes into what is a mirror now.
            self.vaults.forget(id);
            self.show_all();
        }
        self.renew_mirrors(id);
        self.ticker.wake();
    }

    /// Tells an open vault where its mirrors are now.
    pub(super) fn renew_mirrors(&self, id: u64) {
        let Ok(row) = self.catalog.read(|r| r.need::<VaultRow>(id)) else { return };
        if let Some(open) = self.vaults.opened(id) {
            open.set_others(self.mirror_places(&row));
        }
    }

    /// Has the mirrors of a vault brought up to date.
    pub(super) fn mirrors_behind(&self, id: u64) {
        let noted = self.catalog.write(|w| {
            let Some(mut row) = w.get::<VaultRow>(id)?.filter(|row| !row.mirrors.is_empty()) else { return Ok(false) };
            row.set_behind();
            w.put(&row)?;
            Ok(true)
        });
        match noted {
            Ok(true) => self.ticker.wake(),
            Ok(false) => {}
            Err(e) => tracing::error!("the mirrors of vault {id} are not brought up to date: {e}"),
        }
    }

    /// The same for all vaults: nobody knows what happened while we were away.
    pub(super) fn all_mirrors_behind(&self) -> Result<()> {
        self.catalog.write(|w| {
            for mut row in w.all::<VaultRow>()?.into_iter().filter(|row| !row.mirrors.is_empty()) {
                row.set_behind();
                // Who failed before may be there now.
                row.mirrors.values_mut().for_each(|mirror| mirror.tried_at = None);
                w.put(&row)?;
            }
            Ok(())
        })
    }

    /// Queues what brings mirrors up to date that are behind.
    pub(super) fn tick_mirrors(&self, now: Timestamp) -> Result<Option<Timestamp>> {
        let mut next: Option<Timestamp> = None;
        for row in self.catalog.read(Tables::all::<VaultRow>)?.into_iter().filter(|v| !v.removing && !v.emptied) {
            let due = row.mirrors.iter().filter_map(|(mirror, state)| due(state).map(|due| (*mirror, due)));
            let (now_due, later): (Vec<_>, Vec<_>) = due.partition(|(_, due)| *due <= now);
            next = later.into_iter().map(|(_, due)| due).chain(next).min();
            if now_due.is_empty() {
                continue;
            }
            self.submit_all(|w, batch| {
                if w.get::<VaultRow>(row.id)?.is_none_or(|v| v.removing || v.emptied) {
                    return Ok(());
                }
                let open = super::resources::open_jobs(w)?;
                for (mirror, _) in now_due.into_iter().filter(|(mirror, _)| !copying(&open, row.id, *mirror)) {
                    let task = Task::Sync { mirror: Some(mirror) };
                    let draft = Draft { vault: Some(row.id), ..Draft::new(task, ticket(Some(mirror))) };
                    let id = w.next_id::<Job>()?;
                    w.put(&draft.row(id, now))?;
                    batch.push((id, draft.ticket));
                }
                Ok(())
            })?;
        }
        Ok(next)
    }
}
