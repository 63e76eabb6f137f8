//! Browse: every backup as plain files in one read-only mount.
//!
//! A process of its own (`strongroomd browse`) serves the mount and is fed by the daemon over a
//! private socket, so that a restarted daemon leaves the mount and its open files alone.
//!
//! ```text
//! client ── protocol ── server ── view ── world       the few directories that change
//!                          │        ├── tree ── sheet  a backup's tree: numbers, names, links
//!                        mount      ├── versions ─ listing  what all backups have at a path
//!                          │        ├── paths      which path that is, as long as the kernel may ask
//!                          │        └── file ── ahead  a file's bytes, holes and read-ahead
//!                          │
//!                        fuse: translates between the kernel and view
//! ```
//!
//! What holds throughout: below `view` nothing waits for the vault except where the caller asked
//! for it, no table grows with what has been looked at (that of `paths` follows the kernel's own, and
//! the kernel is asked to keep that small), and no number that a vault says is used before it was
//! checked.

mod ahead;
mod attr;
mod cache;
pub mod client;
mod fail;
mod file;
mod fuse;
mod ino;
mod listing;
mod mount;
mod paths;
mod pool;
mod process;
mod protocol;
mod server;
mod sheet;
mod source;
mod tree;
mod types;
mod versions;
mod view;
mod virtuals;
mod watch;
mod world;

#[cfg(test)]
mod tests;

pub use client::{BrowseClient, BrowseOptions};
pub use server::{command, main};
pub use types::{BackupView, Policy, VaultAccess};
