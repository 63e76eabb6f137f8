//! What time it is, and the one thread that does what is due.
//!
//! Every kind of thing that comes by time has a function `tick_…(now)`, which does what is due by
//! `now` and answers when it wants to be asked next. The thread sleeps until the earliest of them,
//! is woken early by every change, and never sleeps blindly for long: a clock that was set or a
//! machine that was suspended is noticed within [`LONGEST`]. A tick must be cheap when nothing is
//! due, and must not rely on being asked at the time it named: it may be asked sooner or later.

use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;

use super::{Service, locked};
use crate::model::Result;

/// The longest sleep.
const LONGEST: Duration = Duration::from_secs(30);
/// The shortest one, should something be due that its tick did not do.
const SHORTEST: Duration = Duration::from_millis(50);

/// Where the time comes from.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The system's clock.
    #[default]
    System,
    /// A clock that stands still until it is set. Nothing comes by itself: whoever sets it calls
    /// [`Service::tick`].
    Manual(Arc<Mutex<Timestamp>>),
}

impl Clock {
    /// A clock that stands at `start`.
    pub fn manual(start: Timestamp) -> Self {
        Self::Manual(Arc::new(Mutex::new(start)))
    }

    /// What time it is.
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => Timestamp::now(),
            Self::Manual(time) => *locked(time),
        }
    }

    /// Sets a manual clock; the system's stays as it is.
    pub fn set(&self, now: Timestamp) {
        if let Self::Manual(time) = self {
            *locked(time) = now;
        }
    }
}

#[derive(Debug, Default)]
struct Call {
    woken: bool,
    stopped: bool,
}

/// The thread's alarm clock.
#[derive(Debug, Default)]
pub(super) struct Ticker {
    call: Mutex<Call>,
    called: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Ticker {
    /// Has everything looked at again soon.
    pub fn wake(&self) {
        locked(&self.call).woken = true;
        self.called.notify_all();
    }

    /// Ends the thread and waits for it.
    pub fn stop(&self) {
        locked(&self.call).stopped = true;
        self.called.notify_all();
        if let Some(thread) = locked(&self.thread).take() {
            let _ = thread.join();
        }
    }

    fn run(&self, service: &Weak<Service>) {
        loop {
            // Held only while it works, so that it keeps nothing alive.
            let Some(me) = service.upgrade() else { return };
            let next = me.tick();
            let pause = next.map_or(LONGEST, |next| {
                let left = next.duration_since(me.now());
                Duration::try_from(left).unwrap_or(Duration::ZERO).clamp(SHORTEST, LONGEST)
            });
            drop(me);
            if self.sleep(pause) {
                return;
            }
        }
    }

    /// Sleeps until it is time or something changed; says whether to end.
    fn sleep(&self, pause: Duration) -> bool {
        let call = locked(&self.call);
        let waiting = self.called.wait_timeout_while(call, pause, |c| !c.woken && !c.stopped);
        let (mut call, _) = waiting.unwrap_or_else(PoisonError::into_inner);
        call.woken = false;
        call.stopped
    }
}

type Tick = fn(&Service, Timestamp) -> Result<Option<Timestamp>>;

impl Service {
    /// Everything that comes by time.
    const TICKS: &[(&'static str, Tick)] = &[
        ("schedules", Self::tick_schedules),
        ("expired backups", Self::tick_retention),
        ("expired snapshots", Self::tick_snapshots),
        ("vaults", Self::tick_housekeeping),
        ("mirrors", Self::tick_mirrors),
        ("overdue schedules", Self::tick_overdue),
        ("tasks", Self::tick_tasks),
        ("checkpoints", Self::tick_checkpoints),
        ("vaults that are away", Self::tick_absent),
        ("sizes of backups", Self::tick_sizes),
        ("metrics", Self::tick_metrics),
    ];

    /// What time it is.
    pub(super) fn now(&self) -> Timestamp {
        self.options.clock.now()
    }

    /// Does everything that is due, and says when to look again. What fails is tried again.
    pub fn tick(&self) -> Option<Timestamp> {
        let ticks = Self::TICKS.iter().filter_map(|(what, tick)| {
            tick(self, self.now()).unwrap_or_else(|e| {
                tracing::error!("{what} cannot be looked after, and are tried again soon: {e}");
                None
            })
        });
        ticks.min()
    }

    /// Starts the thread, where time passes by itself.
    pub(super) fn start_ticking(&self) {
        if !matches!(self.options.clock, Clock::System) {
            return;
        }
        let (ticker, me) = (Arc::clone(&self.ticker), Weak::clone(&self.me));
        let spawned = std::thread::Builder::new().name("clock".into()).spawn(move || ticker.run(&me));
        match spawned {
            Ok(thread) => *locked(&self.ticker.thread) = Some(thread),
            Err(e) => tracing::error!("cannot start the thread that does what is due: {e}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_sleeper_is_woken_and_stopped() {
        let ticker = Arc::new(Ticker::default());
        ticker.wake();
        let start = Instant::now();
        assert!(!ticker.sleep(LONGEST), "a call before the sleep is not lost");
        assert!(!ticker.sleep(Duration::from_millis(1)), "and heard once");
        let sleeper = Arc::clone(&ticker);
        let thread = std::thread::spawn(move || sleeper.sleep(LONGEST));
        ticker.stop();
        assert!(thread.join().unwrap());
        assert!(start.elapsed() < LONGEST);
    }

    #[test]
    fn a_manual_clock_stands_still_until_it_is_set() {
        let clock = Clock::manual(Timestamp::UNIX_EPOCH);
        assert_eq!(clock.now(), Timestamp::UNIX_EPOCH);
        let same = clock.clone();
        same.set("2024-02-29T12:00:00Z".parse().unwrap());
        assert_eq!(clock.now().to_string(), "2024-02-29T12:00:00Z");
    }
}
