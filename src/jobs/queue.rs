//! Which job may begin: pure, so that it can be tested without a thread.

use std::collections::BTreeMap;

/// What runs beside what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Backups and restores.
    Work,
    /// Deletion, prune, verification, synchronisation.
    Maintenance,
    /// Archives on their way out.
    Export,
    /// Copies of vaults and of backups. Elsewhere may be slow: nothing else waits for them.
    Copies,
    /// Snapshots: taken, restored and deleted. They are quick, and wait for nothing that is not.
    Snapshots,
}

/// How many jobs of [`Lane::Copies`] run at once.
const COPIES: usize = 8;

/// How many jobs of [`Lane::Snapshots`] run at once.
const SNAPSHOTS: usize = 2;

/// How many jobs of a lane run at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of [`Lane::Work`].
    pub work: usize,
    /// Of [`Lane::Maintenance`].
    pub maintenance: usize,
    /// Of [`Lane::Export`].
    pub export: usize,
}

impl Default for Limits {
    /// One backup or restore at a time, as its users expect; exports wait for their readers, so
    /// one of them does not hold up another.
    fn default() -> Self {
        Self { work: 1, maintenance: 1, export: 2 }
    }
}

impl Limits {
    fn of(&self, lane: Lane) -> usize {
        match lane {
            Lane::Work => self.work,
            Lane::Maintenance => self.maintenance,
            Lane::Export => self.export,
            Lane::Copies => COPIES,
            Lane::Snapshots => SNAPSHOTS,
        }
    }
}

/// Something a job needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// A resource.
    Resource(u64),
    /// A vault.
    Vault(u64),
    /// A vault's mirror, by its destination; a destination holds one vault.
    Mirror(u64),
    /// The snapshots of a resource.
    Snapshots(u64),
}

/// What a job needs in order to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// Its lane.
    pub lane: Lane,
    /// What it needs for itself.
    pub exclusive: Vec<Key>,
    /// What it needs along with others.
    pub shared: Vec<Key>,
}

impl Ticket {
    /// A job that needs nothing but its lane.
    pub fn free(lane: Lane) -> Self {
        Self { lane, exclusive: Vec::new(), shared: Vec::new() }
    }

    fn conflicts(&self, other: &Self) -> bool {
        let claims = |a: &Self, b: &Self| a.exclusive.iter().any(|k| b.exclusive.contains(k) || b.shared.contains(k));
        claims(self, other) || claims(other, self)
    }
}

/// Jobs that wait and jobs that run.
#[derive(Debug, Default)]
pub struct Queue {
    limits: Limits,
    waiting: BTreeMap<u64, Ticket>,
    running: BTreeMap<u64, Ticket>,
}

impl Queue {
    /// An empty queue.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Changes how many run at once; what runs goes on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Adds a job.
    pub fn push(&mut self, id: u64, ticket: Ticket) {
        self.waiting.insert(id, ticket);
    }

    /// Takes a job that waits out of the queue.
    pub fn withdraw(&mut self, id: u64) -> bool {
        self.waiting.remove(&id).is_some()
    }

    /// The next job that may begin; it counts as running from here on.
    ///
    /// A job that must wait also holds up later ones that conflict with it, so that a stream of
    /// small jobs cannot keep a large one waiting for ever.
    pub fn take(&mut self) -> Option<u64> {
        let mut ahead: Vec<&Ticket> = self.running.values().collect();
        let mut found = None;
        for (&id, ticket) in &self.waiting {
            let busy = self.running.values().filter(|t| t.lane == ticket.lane).count();
            if busy < self.limits.of(ticket.lane) && !ahead.iter().any(|t| t.conflicts(ticket)) {
                found = Some(id);
                break;
            }
            ahead.push(ticket);
        }
        let id = found?;
        let ticket = self.waiting.remove(&id)?;
        self.running.insert(id, ticket);
        Some(id)
    }

    /// A running job ended.
    pub fn done(&mut self, id: u64) {
        self.running.remove(&id);
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many run.
    pub fn running(&self) -> usize {
        self.running.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup(resource: u64, vault: u64) -> Ticket {
        Ticket { lane: Lane::Work, exclusive: vec![Key::Resource(resource)], shared: vec![Key::Vault(vault)] }
    }

    fn prune(vault: u64) -> Ticket {
        Ticket { lane: Lane::Maintenance, exclusive: vec![Key::Vault(vault)], shared: vec![] }
    }

    fn drain(queue: &mut Queue) -> Vec<u64> {
        std::iter::from_fn(|| queue.take()).collect()
    }

    #[test]
    fn one_backup_or_restore_at_a_time_in_order() {
        let mut queue = Queue::new(Limits::default());
        (1..=3).rev().for_each(|id| queue.push(id, backup(id, 1)));
        assert_eq!(drain(&mut queue), [1]);
        queue.done(1);
        assert_eq!(drain(&mut queue), [2]);
        assert_eq!((queue.running(), queue.waiting()), (1, 1));
    }

    #[test]
    fn a_resource_is_never_worked_on_twice() {
        let mut queue = Queue::new(Limits { work: 3, ..Limits::default() });
        queue.push(1, backup(7, 1));
        queue.push(2, backup(7, 1));
        queue.push(3, backup(8, 1));
        assert_eq!(drain(&mut queue), [1, 3]);
        queue.done(1);
        assert_eq!(drain(&mut queue), [2]);
    }

    #[test]
    fn prune_waits_for_writers_and_is_not_overtaken() {
        let mut queue = Queue::new(Limits { work: 2, ..Limits::default() });
        queue.push(1, backup(1, 1));
        queue.push(2, prune(1));
        queue.push(3, backup(2, 1));
        queue.push(4, backup(3, 2));
        assert_eq!(drain(&mut queue), [1, 4], "another vault is not held up");
        queue.done(1);
        assert_eq!(drain(&mut queue), [2]);
        queue.done(2);
        assert_eq!(drain(&mut queue), [3]);
    }

    #[test]
    fn lanes_do_not_wait_for_each_other() {
        let mut queue = Queue::new(Limits::default());
        queue.push(1, backup(1, 1));
        (2..=4).for_each(|id| queue.push(id, Ticket::free(Lane::Export)));
        queue.push(5, prune(2));
        assert_eq!(drain(&mut queue), [1, 2, 3, 5]);
    }

    #[test]
    fn a_withdrawn_job_never_begins() {
        let mut queue = Queue::new(Limits::default());
        queue.push(1, backup(1, 1));
        queue.push(2, backup(2, 1));
        assert!(queue.withdraw(1));
        assert!(!queue.withdraw(1));
        assert_eq!(drain(&mut queue), [2]);
    }
}
