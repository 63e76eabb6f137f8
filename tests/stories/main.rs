//! The stories: what a user would tell of Strongroom, told by real parts.

mod common;

mod bad_input;
mod crash;
mod deduplication;
mod main_job;
mod metadata;
mod resource_root;
mod restart;
mod trouble;
