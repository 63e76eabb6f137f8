//! Where every blob lies: index objects in the vault, and their local form for looking up.

pub mod local;
pub mod object;
pub mod run;

pub use local::{Found, LocalIndex};
pub use object::IndexObject;
