//! The stories: what a user would tell of Strongroom, told by real parts.

// A test that cannot go on fails; that is what panics are for here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

mod architecture;
mod atomic;
mod bad_input;
mod checkpoints;
#[cfg(feature = "s3")]
mod cloud;
mod command;
mod crash;
mod databases;
mod declared;
mod deduplication;
mod e5;
mod examples;
mod history;
mod hostile;
mod jobs;
mod main_job;
mod metadata;
mod mirrors;
mod model;
mod ordinary;
mod power;
mod readers;
mod rebuild;
mod resource_root;
mod restart;
mod scale;
mod schedules;
mod secrets;
mod snapshot_schedules;
mod snapshot_writers;
mod snapshots;
mod sources;
#[cfg(feature = "s3")]
mod stores;
mod tasks;
mod trouble;
mod units;
mod views;
mod volumes;
mod year;
