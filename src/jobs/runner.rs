//! Threads that run jobs.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::queue::{Limits, Queue, Ticket};
use super::rate::Rate;
use crate::model::{Error, Progress, Result};

/// What jobs do; the service knows.
pub trait Work: Send + Sync {
    /// What a finished job has to say.
    type Report;

    /// Writes down that the job begins.
    fn begin(&self, id: u64) -> Result<()>;

    /// Does it.
    fn run(&self, id: u64, progress: &Arc<Progress>) -> Result<Self::Report>;

    /// Writes down how it ended. Called exactly once for every job that was taken from the queue.
    fn end(&self, id: u64, result: Result<Self::Report>, live: &Live);
}

/// A job that runs.
#[derive(Debug)]
pub struct Live {
    /// Its counters and its cancel flag.
    pub progress: Arc<Progress>,
    /// When it began.
    pub started: Instant,
    /// How fast it is, in bytes.
    pub rate: Mutex<Rate>,
    /// Whether it is being stopped because the program stops, not because somebody asked.
    pub stopping: std::sync::atomic::AtomicBool,
}

/// What a request to cancel met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// It had not begun and never will.
    Withdrawn,
    /// It runs and was asked to stop.
    Asked,
    /// It is not in the queue.
    Unknown,
}

#[derive(Debug, Default)]
struct State {
    queue: Queue,
    live: BTreeMap<u64, Arc<Live>>,
    open: bool,
}

/// The queue with its threads.
#[derive(Debug, Default)]
pub struct Jobs {
    state: Mutex<State>,
    ended: Condvar,
}

impl Jobs {
    /// An empty queue that does not begin anything yet.
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State { queue: Queue::new(limits), ..State::default() }),
            ended: Condvar::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics while the state is half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins what may begin, from now on.
    pub fn start<W: Work + 'static>(self: &Arc<Self>, work: &Arc<W>) {
        self.state().open = true;
        self.pump(work);
    }

    /// Changes how many run at once.
    pub fn set_limits<W: Work + 'static>(self: &Arc<Self>, limits: Limits, work: &Arc<W>) {
        self.state().queue.set_limits(limits);
        self.pump(work);
    }

    /// Adds a job whose row is written.
    pub fn push<W: Work + 'static>(self: &Arc<Self>, id: u64, ticket: Ticket, work: &Arc<W>) {
        self.state().queue.push(id, ticket);
        self.pump(work);
    }

    fn pump<W: Work + 'static>(self: &Arc<Self>, work: &Arc<W>) {
        loop {
            let (id, live) = {
                let mut state = self.state();
                if !state.open {
                    return;
                }
                let Some(id) = state.queue.take() else { return };
                let live = Arc::new(Live {
                    progress: Arc::default(),
                    started: Instant::now(),
                    rate: Mutex::default(),
                    stopping: false.into(),
                });
                state.live.insert(id, Arc::clone(&live));
                (id, live)
            };
            let (jobs, worker, running) = (Arc::clone(self), Arc::clone(work), Arc::clone(&live));
            let spawned = std::thread::Builder::new().name(format!("job-{id}")).spawn(move || {
                run(id, &*worker, &running);
                jobs.finish(id);
                jobs.pump(&worker);
            });
            if let Err(e) = spawned {
                work.end(id, Err(Error::io("cannot start a thread for the job", &e)), &live);
                self.finish(id);
            }
        }
    }

    fn finish(&self, id: u64) {
        let mut state = self.state();
        state.queue.done(id);
        state.live.remove(&id);
        drop(state);
        self.ended.notify_all();
    }

    /// Takes a job that waits out of the queue; says whether it still waited.
    pub fn withdraw(&self, id: u64) -> bool {
        self.state().queue.withdraw(id)
    }

    /// Withdraws a job that waits, or asks one that runs to stop.
    pub fn cancel(&self, id: u64) -> Stopped {
        let mut state = self.state();
        if state.queue.withdraw(id) {
            return Stopped::Withdrawn;
        }
        match state.live.get(&id) {
            Some(live) => {
                live.progress.cancel();
                Stopped::Asked
            }
            None => Stopped::Unknown,
        }
    }

    /// A running job.
    pub fn live(&self, id: u64) -> Option<Arc<Live>> {
        self.state().live.get(&id).cloned()
    }

    /// How many run, and how many wait.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.state();
        (state.queue.running(), state.queue.waiting())
    }

    /// Begins nothing more, asks everything that runs to stop, and waits for it. Whether all of
    /// it stopped in time.
    pub fn stop(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut state = self.state();
        state.open = false;
        for live in state.live.values() {
            // Whoever cancelled it before does not want it to run again.
            if !live.progress.is_cancelled() {
                live.stopping.store(true, std::sync::atomic::Ordering::SeqCst);
                live.progress.cancel();
            }
        }
        while !state.live.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Waits until nothing runs and nothing waits, for tests.
    #[cfg(test)]
    pub fn settle(&self) {
        let mut state = self.state();
        while !state.live.is_empty() || state.queue.waiting() > 0 {
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn run<W: Work>(id: u64, work: &W, live: &Arc<Live>) {
    let result = catch_unwind(AssertUnwindSafe(|| {
        work.begin(id)?;
        live.progress.check()?;
        work.run(id, &live.progress)
    }))
    .unwrap_or_else(|panic| {
        let what = panic
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        Err(Error::failed(format!("an internal error stopped the job ({what}); this is a defect, please report it")))
    });
    // If even this panics, the row stays as it is and the next start ends it.
    let _ = catch_unwind(AssertUnwindSafe(|| work.end(id, result, live)));
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::queue::Lane;
    use super::*;
    use crate::model::ErrorKind;

    #[derive(Default)]
    struct Recorder {
        running: AtomicUsize,
        most: AtomicUsize,
        ends: Mutex<Vec<(u64, std::result::Result<(), ErrorKind>)>>,
    }

    impl Work for Recorder {
        type Report = ();

        fn begin(&self, _id: u64) -> Result<()> {
            Ok(())
        }

        fn run(&self, id: u64, progress: &Arc<Progress>) -> Result<()> {
            let now = self.running.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            let result = match id {
                13 => {
                    self.running.fetch_sub(1, Ordering::SeqCst);
                    panic!("thirteen")
                }
                99 => loop {
                    if let Err(e) = progress.check() {
                        break Err(e);
                    }
                    std::thread::sleep(Duration::from_millis(1));
                },
                _ => {
                    std::thread::sleep(Duration::from_millis(5));
                    Ok(())
                }
            };
            self.running.fetch_sub(1, Ordering::SeqCst);
            result
        }

        fn end(&self, id: u64, result: Result<()>, _live: &Live) {
            self.ends.lock().unwrap().push((id, result.map_err(|e| e.kind)));
        }
    }

    #[test]
    fn jobs_run_one_after_another_and_each_ends_once() {
        let (work, jobs) = (Arc::new(Recorder::default()), Jobs::new(Limits::default()));
        (1..=5).for_each(|id| jobs.push(id, Ticket::free(Lane::Work), &work));
        assert_eq!(jobs.counts(), (0, 5), "nothing begins before start");
        jobs.start(&work);
        jobs.settle();
        let ends = work.ends.lock().unwrap();
        assert_eq!(*ends, (1..=5).map(|id| (id, Ok(()))).collect::<Vec<_>>());
        assert_eq!(work.most.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_panic_fails_its_job_alone() {
        let (work, jobs) = (Arc::new(Recorder::default()), Jobs::new(Limits::default()));
        jobs.start(&work);
        jobs.push(13, Ticket::free(Lane::Work), &work);
        jobs.push(14, Ticket::free(Lane::Work), &work);
        jobs.settle();
        assert_eq!(*work.ends.lock().unwrap(), [(13, Err(ErrorKind::Failed)), (14, Ok(()))]);
    }

    #[test]
    fn cancelling_tells_what_it_met() {
        let (work, jobs) = (Arc::new(Recorder::default()), Jobs::new(Limits::default()));
        jobs.start(&work);
        jobs.push(99, Ticket::free(Lane::Work), &work);
        jobs.push(100, Ticket::free(Lane::Work), &work);
        assert_eq!(jobs.cancel(100), Stopped::Withdrawn);
        assert_eq!(jobs.cancel(99), Stopped::Asked);
        assert_eq!(jobs.cancel(7), Stopped::Unknown);
        jobs.settle();
        assert_eq!(*work.ends.lock().unwrap(), [(99, Err(ErrorKind::Cancelled))]);
    }

    #[test]
    fn stopping_waits_for_what_runs_and_begins_nothing() {
        let (work, jobs) = (Arc::new(Recorder::default()), Jobs::new(Limits::default()));
        jobs.start(&work);
        jobs.push(99, Ticket::free(Lane::Work), &work);
        jobs.push(100, Ticket::free(Lane::Work), &work);
        assert!(jobs.stop(Duration::from_secs(10)));
        assert_eq!(jobs.counts(), (0, 1));
        assert_eq!(*work.ends.lock().unwrap(), [(99, Err(ErrorKind::Cancelled))]);
    }
}
