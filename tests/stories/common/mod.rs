//! What every story needs: a daemon on a bus of its own, and the tools to look at what it did.
//!
//! The parts are real: the built programs, a real bus, real mounts and file systems. What a story
//! compares with is never our own code: `busctl`, `rsync`, `find`, `getfacl`, `tar`, `du`.

mod bus;
mod daemon;
pub mod databases;
mod disk;
mod facts;
pub mod many;
pub mod pass;
#[cfg(feature = "s3")]
pub mod proxy;
#[cfg(feature = "s3")]
pub mod s3;
mod tools;
mod tree;

pub use bus::{Failure, write_configuration as write_bus_configuration};
pub use daemon::{Daemon, number};
pub use disk::Disk;
pub use facts::{Facts, assert_same};
pub use tools::{Dice, cannot, differences, du, eventually, heavy, lacks, sh, sh_fails, wait_for};
pub use tree::{everything, random_files};

/// Ends the story, loudly, where the machine lacks what it needs. In CI that is a failure.
#[macro_export]
macro_rules! needs_root {
    ($name:expr) => {
        if $crate::common::cannot($name) {
            return;
        }
    };
}
