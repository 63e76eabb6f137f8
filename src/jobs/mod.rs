//! The queue and those who work on it.
//!
//! What it guarantees: jobs begin in the order of their ids within their lane; no two jobs that
//! need the same thing for themselves run at once; a job that panics ends as failed and takes
//! nothing else with it; a job that has begun always ends through [`Work::end`]. What a job does,
//! and what is written about it, is the service's.

pub mod cron;
pub mod queue;
pub mod rate;
pub mod retention;
pub mod rounds;
pub mod runner;

pub use cron::Times;
pub use queue::{Key, Lane, Limits, Ticket};
pub use rate::Rate;
pub use runner::{Jobs, Live, Stopped, Work};
