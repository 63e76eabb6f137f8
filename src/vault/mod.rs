//! The vault: its format, and everything that reads and writes it. See `docs/vault-format.md`.
//!
//! A vault is complete by itself: with its objects and one key, everything can be read back.
//! Nothing a vault says is trusted: every byte is authenticated, every number checked.

mod buffers;
mod cache;
pub mod check;
pub mod codec;
pub mod compare;
pub mod compress;
pub mod config;
pub mod directory;
mod fetch;
mod frames;
mod gate;
pub mod handle;
pub mod index;
mod lost;
pub mod manifest;
pub mod mark;
pub mod mirror;
pub mod object;
pub mod pack;
mod places;
pub mod prune;
pub mod records;
pub mod seal;
mod share;
pub mod slots;
#[cfg(test)]
mod tests;
pub mod transfer;
pub mod tree;
mod trees;
pub mod unique;
pub mod writer;

pub use cache::SegmentCache;
pub use check::{Problem, VerifyReport, verify, verify_with};
pub use compress::Compression;
pub use config::{VaultConfig, read_config};
pub use fetch::Reader;
pub use frames::FRAMES_KEPT;
pub use handle::{Blob, Location, NewVault, Vault, unlock};
pub use manifest::{Machine, Manifest, Source};
pub use mirror::{Mirror, SyncReport, check_copies, sync};
pub use prune::{PruneReport, prune};
pub use records::SavedState;
pub use seal::MasterKey;
pub use share::Share;
pub use slots::{Secret, SlotInfo, SlotKind};
pub use unique::{UniqueSizes, unique_sizes};
pub use writer::VaultWriter;
