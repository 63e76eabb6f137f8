//! Trying again: what may pass is waited for, in bounded time; what will not is told at once.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::fault::{Class, Fault};
use crate::store::Patience;

/// The first pause; each is twice as long as the one before, up to the longest.
const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(5);

/// After a store was given up, others try it only once for so long.
const DOWN: Duration = Duration::from_secs(5);

/// What a line must carry of each request to be waited for, in bytes a second.
const SLOWEST: u64 = 32 << 10;

/// What is known of a store without asking it.
#[derive(Debug, Default)]
pub struct Health(Mutex<Option<(Instant, String)>>);

impl Health {
    fn set(&self, state: Option<(Instant, String)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Why it was given up last, if nothing went well since.
    pub fn trouble(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(_, said)| said.clone())
    }

    fn down(&self) -> bool {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.as_ref().is_some_and(|(since, _)| since.elapsed() < DOWN)
    }
}

/// How one store is tried.
#[derive(Debug)]
pub struct Retry {
    patience: Patience,
    /// The slowest that bytes may go, in bytes a second.
    slowest: u64,
    /// What came of it.
    pub health: Health,
}

impl Retry {
    /// Tries with `patience`; `limit` is how fast bytes may go at most.
    pub fn new(patience: Patience, limit: Option<u64>) -> Self {
        // Parallel parts share the line, and the limit.
        let slowest = limit.map_or(SLOWEST, |limit| (limit / 8).clamp(1, SLOWEST));
        Self { patience, slowest, health: Health::default() }
    }

    /// Waits for one thing that comes at once where all is well: an answer, the next piece of it.
    pub async fn soon<T>(&self, work: impl Future<Output = T>) -> Result<T, Fault> {
        let done = tokio::time::timeout(self.patience.attempt, work).await;
        done.map_err(|_| Fault::busy(format!("nothing came for {} s", self.patience.attempt.as_secs())))
    }

    /// How long an attempt that moves `bytes` may take.
    fn limit(&self, bytes: u64) -> Duration {
        self.patience.attempt.saturating_add(Duration::from_secs(bytes / self.slowest))
    }

    /// Does `work`, which moves `bytes`, until it is done or given up. `renew` looks for other
    /// keys when those that were used are denied.
    pub async fn run<T, F>(&self, bytes: u64, renew: impl Fn() -> bool, work: impl Fn(u32) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let (began, limit) = (Instant::now(), self.limit(bytes));
        let (mut tries, mut renewed) = (0_u32, false);
        loop {
            let done = tokio::time::timeout(limit, work(tries)).await;
            let done = done
                .unwrap_or_else(|_| Err(Fault::busy(format!("a request was not done within {} s", limit.as_secs()))));
            let mut fault = match done {
                Ok(value) => {
                    self.health.set(None);
                    return Ok(value);
                }
                Err(fault) => fault,
            };
            tries += 1;
            let pause = pause(tries).max(fault.wait.unwrap_or_default().min(LONGEST));
            match fault.class {
                Class::Busy if !self.health.down() && began.elapsed() + pause < self.patience.total => {
                    tracing::debug!("an S3 request is tried again in {} ms: {}", pause.as_millis(), fault.said);
                    tokio::time::sleep(pause).await;
                    continue;
                }
                Class::Denied if !renewed && renew() => {
                    renewed = true;
                    continue;
                }
                // The store works.
                Class::Missing | Class::Exists | Class::Short | Class::Restart => self.health.set(None),
                Class::Busy | Class::Denied | Class::Full | Class::Refused => {
                    if tries > 1 && fault.class == Class::Busy {
                        fault.said = format!("{} ({tries} times in {} s)", fault.said, began.elapsed().as_secs());
                    }
                    self.health.set(Some((Instant::now(), fault.said.clone())));
                }
            }
            return Err(fault);
        }
    }
}

/// The pause before the next attempt, at random from the half up to the whole of what it may be.
fn pause(tries: u32) -> Duration {
    let most = FIRST.saturating_mul(1 << tries.saturating_sub(1).min(10)).min(LONGEST);
    let share = getrandom::u32().unwrap_or_default() % 512;
    most / 2 + most / 2 * share / 512
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const SHORT: Patience = Patience { total: Duration::from_millis(900), attempt: Duration::from_millis(200) };

    fn block<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
    }

    fn tried(retry: &Retry, outcome: impl Fn(u32) -> Result<u32, Fault>) -> (Result<u32, Fault>, u32) {
        let count = Cell::new(0);
        let done = block(retry.run(
            0,
            || false,
            |n| {
                count.set(count.get() + 1);
                std::future::ready(outcome(n))
            },
        ));
        (done, count.get())
    }

    #[test]
    fn what_passes_is_waited_for() {
        let retry = Retry::new(SHORT, None);
        let (done, count) = tried(&retry, |n| if n < 2 { Err(Fault::busy("busy")) } else { Ok(n) });
        assert_eq!((done.unwrap(), count), (2, 3));
        assert!(retry.health.trouble().is_none());
    }

    #[test]
    fn what_does_not_pass_is_given_up_and_then_tried_once_only() {
        let retry = Retry::new(SHORT, None);
        let (done, count) = tried(&retry, |_| Err(Fault::busy("busy")));
        assert!(done.is_err() && count > 1 && count < 10, "{count}");
        assert!(retry.health.trouble().unwrap().contains("busy"));
        assert_eq!(tried(&retry, |_| Err(Fault::busy("busy"))).1, 1);
        assert_eq!(tried(&retry, |_| Ok(7)).1, 1);
        assert!(tried(&retry, |_| Err(Fault::busy("busy"))).1 > 1);
    }

    #[test]
    fn other_failures_are_told_at_once() {
        for class in [Class::Missing, Class::Denied, Class::Full, Class::Refused, Class::Short, Class::Exists] {
            let retry = Retry::new(SHORT, None);
            assert_eq!(tried(&retry, |_| Err(Fault::new(class, "no"))).1, 1, "{class:?}");
        }
    }

    #[test]
    fn new_keys_are_tried_once() {
        let retry = Retry::new(SHORT, None);
        let count = Cell::new(0);
        let denied = block(retry.run(
            0,
            || true,
            |_| {
                count.set(count.get() + 1);
                std::future::ready(Err::<(), _>(Fault::new(Class::Denied, "no")))
            },
        ));
        assert!(denied.is_err());
        assert_eq!(count.get(), 2);
    }

    #[test]
    fn what_never_answers_is_given_up() {
        let retry = Retry::new(SHORT, None);
        let done: Result<(), Fault> = block(retry.run(0, || false, |_| std::future::pending()));
        assert!(done.unwrap_err().said.contains("not done within"));
    }
}
