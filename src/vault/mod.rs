//! The vault: its format, and everything that reads and writes it. See `docs/vault-format.md`.
//!
//! A vault is complete by itself: with its objects and one key, everything can be read back.
//! Nothing a vault says is trusted: every byte is authenticated, every number checked.

pub mod codec;
pub mod handle;
pub mod manifest;
pub mod tree;

pub use handle::{Blob, Location, MasterKey, NewVault, Vault};
pub use manifest::{Machine, Manifest, Source};
