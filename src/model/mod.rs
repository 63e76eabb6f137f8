//! The nouns of Strongroom and their rules: pure data, no I/O, no async.

pub mod args;
pub mod database;
pub mod error;
pub mod id;
pub mod message;
pub mod name;
pub mod paths;
pub mod progress;
pub mod value;

pub use args::Args;
pub use database::{Database, DatabaseKind};
pub use error::{Error, ErrorKind, IoContext, Result};
pub use id::Id;
pub use progress::Progress;
pub use value::{Map, Value};
