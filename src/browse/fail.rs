//! Why a request cannot be answered, yet or at all.

use std::sync::Arc;

use nix::errno::Errno;

use crate::model::{Error, Id};

use super::source::TreeSource;

/// Why a request has no answer.
#[derive(Clone)]
pub enum Fail {
    /// Not yet: this node must be read first. Whoever can wait reads it and asks again.
    Missing(Arc<dyn TreeSource>, Id),
    /// This is the answer.
    Errno(Errno),
    /// The vault failed: EIO to the caller, the reason to the journal.
    Broken(Error),
}

impl std::fmt::Debug for Fail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing(_, id) => write!(f, "Missing({id})"),
            Self::Errno(errno) => write!(f, "Errno({errno})"),
            Self::Broken(error) => write!(f, "Broken({error})"),
        }
    }
}

impl From<Error> for Fail {
    fn from(error: Error) -> Self {
        Self::Broken(error)
    }
}

impl From<Errno> for Fail {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

/// An answer, or why there is none.
pub type Answer<T> = Result<T, Fail>;
