//! Tests of browse: the numbering of trees from memory, and real mounts of real vaults.

mod memory;
mod mounted;
mod numbers;
mod reading;
mod versions;
