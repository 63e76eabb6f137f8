//! A few threads for work that may take long.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

type Job = Box<dyn FnOnce() + Send>;

/// A pool of threads. It ends when it is dropped and its work is done.
pub struct Pool(Sender<Job>);

impl Pool {
    /// Starts `threads` threads; at most `waiting` jobs wait for one.
    pub fn new(name: &str, threads: usize, waiting: Option<usize>) -> std::io::Result<Self> {
        let (send, receive): (Sender<Job>, Receiver<Job>) = waiting.map_or_else(unbounded, bounded);
        for n in 0..threads {
            let receive = receive.clone();
            thread::Builder::new().name(format!("{name}-{n}")).spawn(move || {
                for job in receive {
                    // A reply that a panic drops answers EIO by itself.
                    if catch_unwind(AssertUnwindSafe(job)).is_err() {
                        tracing::error!("a worker of the browse process met a bug; its request failed");
                    }
                }
            })?;
        }
        Ok(Self(send))
    }

    /// Does the job when a thread is free.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        // Fails only when no thread is left, and then the dropped reply says so.
        let _ = self.0.send(Box::new(job));
    }

    /// Does the job unless too many are waiting.
    pub fn offer(&self, job: impl FnOnce() + Send + 'static) {
        let _ = self.0.try_send(Box::new(job));
    }
}
