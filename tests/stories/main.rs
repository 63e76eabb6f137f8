//! The stories: what a user would tell of Strongroom, told by real parts.

mod common;

mod architecture;
mod bad_input;
mod command;
mod crash;
mod deduplication;
mod jobs;
mod main_job;
mod metadata;
mod resource_root;
mod restart;
mod trouble;
