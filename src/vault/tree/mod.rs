//! Directory trees: what a node of the Merkle tree is, and how it reads and writes.

pub mod content;
pub mod entry;
pub mod node;

pub use content::{Content, Part};
pub use entry::{Device, Entry, Kind, Link, Metadata, Origin, Owner, Time, Totals};
pub use node::{Child, Node};
