//! Strongroom: a backup appliance for Linux.
//!
//! Rooms, from the bottom up; imports point upwards in this list only (see `ARCHITECTURE.md`).

pub mod archive;
pub mod browse;
pub mod bus;
pub mod catalog;
pub mod cli;
pub mod daemon;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod host;
pub mod jobs;
pub mod model;
pub mod plain;
pub mod restore;
pub mod service;
pub mod snapshot;
pub mod source;
pub mod store;
pub mod vault;
