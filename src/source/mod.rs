//! Reading a live system: what is on it, and what of that belongs in a backup.

pub mod cachedir;
pub mod capture;
pub mod database;
pub mod excludes;
pub mod file;
pub mod mounts;
pub mod names;
pub mod owners;
pub mod stat;
pub mod users;
pub mod volume;

pub use excludes::Excludes;
pub use mounts::Mounts;
pub use owners::Owners;
pub use stat::Stat;
