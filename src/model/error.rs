//! The one error type.
//!
//! Rules: a message is one sentence that says what was wrong, with what, and what would be
//! right; the kind decides the D-Bus error name (see `bus/`) and is never downgraded on the way
//! up; context is added in front, never instead.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What class of failure an [`Error`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// A bad name, key, type or range.
    InvalidArgument,
    /// No such object.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// A configured limit is reached.
    LimitReached,
    /// Would overwrite, and `confirm` was not true.
    NotConfirmed,
    /// The object's state does not allow it.
    InvalidState,
    /// Not enough room.
    NoSpace,
    /// A destination did not answer, refused, or is not the one expected.
    DestinationFailed,
    /// Data failed its check.
    Damaged,
    /// The caller may not do this.
    AccessDenied,
    /// The caller may do this only after being asked.
    InteractiveAuthorizationRequired,
    /// The job was cancelled.
    Cancelled,
    /// Anything else: an operating system error, a bug.
    Failed,
}

/// An error with its kind and a message for people.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Error {
    /// The class of failure.
    pub kind: ErrorKind,
    /// One sentence: what was wrong, with what, and what would be right.
    pub message: String,
}

/// The result of anything that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! constructors {
    ($($name:ident => $kind:ident),* $(,)?) => {
        $(#[doc = concat!("An error of kind `", stringify!($kind), "`.")]
        pub fn $name(message: impl fmt::Display) -> Self {
            Self::new(ErrorKind::$kind, message)
        })*
    };
}

impl Error {
    /// An error of the given kind.
    pub fn new(kind: ErrorKind, message: impl fmt::Display) -> Self {
        Self { kind, message: message.to_string() }
    }

    constructors! {
        invalid => InvalidArgument,
        not_found => NotFound,
        already_exists => AlreadyExists,
        limit_reached => LimitReached,
        not_confirmed => NotConfirmed,
        invalid_state => InvalidState,
        no_space => NoSpace,
        destination_failed => DestinationFailed,
        damaged => Damaged,
        access_denied => AccessDenied,
        failed => Failed,
    }

    /// The error of a job that was cancelled.
    pub fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "the job was cancelled")
    }

    /// The same error with `what` in front of its message.
    #[must_use]
    pub fn context(self, what: impl fmt::Display) -> Self {
        Self { kind: self.kind, message: format!("{what}: {}", self.message) }
    }

    /// An operating system error met while doing `what`. A full disk or quota is `NoSpace`.
    pub fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        let kind = match error.raw_os_error() {
            Some(nix::libc::ENOSPC | nix::libc::EDQUOT) => ErrorKind::NoSpace,
            _ => ErrorKind::Failed,
        };
        Self::new(kind, format!("{what}: {error}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Says what was being done when an operating system call failed.
pub trait IoContext<T> {
    /// Turns the error into an [`Error`] whose message starts with `what()`.
    fn at<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> IoContext<T> for std::result::Result<T, E> {
    fn at<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|e| Error::io(what(), &e.into()))
    }
}
