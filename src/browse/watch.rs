//! Requests that wait for the vault, and the watch that ends them when they wait too long.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::fail::Answer;

/// No request waits longer than this.
const PATIENCE: Duration = Duration::from_secs(60);

/// With more than this in the queue those that were answered are sought out.
const MANY: usize = 4096;

/// So many lines about failures go to the journal every ten seconds.
const LINES: u32 = 50;

/// A reply that can say no.
pub trait Refuse: Send + 'static {
    /// Answers with an error.
    fn refuse(self, errno: Errno);
}

/// A request that waits. Whoever takes its reply first answers it.
pub struct Pending<R>(Arc<Mutex<Option<R>>>);

impl<R> Pending<R> {
    /// Lets `fill` have the reply; ESTALE when it was answered meanwhile.
    pub fn with<T>(&self, fill: impl FnOnce(&mut R) -> Answer<T>) -> Answer<T> {
        match &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(reply) => fill(reply),
            None => Err(Errno::ESTALE.into()),
        }
    }

    /// Takes the reply and answers, unless that was done.
    pub fn end(self, answer: impl FnOnce(R)) {
        let reply = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reply) = reply {
            answer(reply);
        }
    }
}

trait Overdue: Send + Sync {
    fn give_up(&self) -> bool;
}

impl<R: Refuse> Overdue for Mutex<Option<R>> {
    fn give_up(&self) -> bool {
        let reply = self.lock().unwrap_or_else(PoisonError::into_inner).take();
        reply.map(|reply| reply.refuse(Errno::EIO)).is_some()
    }
}

#[derive(Default)]
struct State {
    /// All have the same patience, so the first is the first to be overdue.
    held: VecDeque<(Instant, Weak<dyn Overdue>)>,
    lines: u32,
    since: Option<Instant>,
}

/// The watch over requests that wait.
pub struct Watch(Arc<Mutex<State>>);

impl Watch {
    /// Starts it.
    pub fn new() -> std::io::Result<Self> {
        let state: Arc<Mutex<State>> = Arc::default();
        let weak = Arc::downgrade(&state);
        thread::Builder::new().name("watch".to_owned()).spawn(move || {
            while let Some(state) = weak.upgrade() {
                let mut overdue = Vec::new();
                {
                    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                    if state.held.len() > MANY {
                        state.held.retain(|(_, weak)| weak.strong_count() > 0);
                    }
                    while let Some((when, _)) = state.held.front() {
                        // What was answered is gone and only costs its place in the queue.
                        if when.elapsed() < PATIENCE && state.held.front().is_some_and(|(_, w)| w.strong_count() > 0) {
                            break;
                        }
                        overdue.extend(state.held.pop_front().and_then(|(_, weak)| weak.upgrade()));
                    }
                }
                drop(state);
                let ended = overdue.iter().filter(|pending| pending.give_up()).count();
                if ended > 0 {
                    tracing::warn!("{ended} requests waited {PATIENCE:?} for the vault and were ended with EIO");
                }
                thread::sleep(Duration::from_millis(500));
            }
        })?;
        Ok(Self(state))
    }

    /// Takes a reply into care.
    pub fn hold<R: Refuse>(&self, reply: R) -> Pending<R> {
        let held = Arc::new(Mutex::new(Some(reply)));
        let weak: Weak<dyn Overdue> = Arc::downgrade(&(held.clone() as Arc<dyn Overdue>));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).held.push_back((Instant::now(), weak));
        Pending(held)
    }

    /// Whether another line about a failure may go to the journal.
    pub fn may_say(&self) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.since.is_none_or(|since| since.elapsed() > Duration::from_secs(10)) {
            (state.since, state.lines) = (Some(Instant::now()), 0);
        }
        state.lines += 1;
        if state.lines == LINES {
            tracing::warn!("more failures follow that are not told");
        }
        state.lines < LINES
    }
}
