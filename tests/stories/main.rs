//! The stories: what a user would tell of Strongroom, told by real parts.

mod common;

mod main_job;
