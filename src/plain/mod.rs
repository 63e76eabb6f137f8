//! Plain copies: resources as a folder of ordinary files, or one archive of the same, and back.
//!
//! What it guarantees: a copy has its name only when it is whole; everything in it is as it was on
//! the live system, and `ENTRIES.jsonl` says how that was, for wherever the copy itself cannot
//! keep it; `SHA256SUMS` is for `sha256sum -c`. On the way back nothing in a copy is trusted: every
//! checksum is verified before a file has its name, and nothing is written outside the paths of the
//! resources that are meant. On both sides no symbolic link in a directory that users control is followed.
//!
//! ```text
//! NAME-YYYYMMDD.HHMMSS/          or NAME-YYYYMMDD.HHMMSS.tar.zst (.tar.gz) of the same
//!   projects/PROJECT/RESOURCE/ABSOLUTE/PATH
//!   COMMON_DATA.json             the appliance's own configuration, where it was asked for
//!   ENTRIES.jsonl                one line for every entry: metadata, checksum
//!   MANIFEST.json                what this is; checksum of ENTRIES.jsonl
//!   SHA256SUMS                   checksums of all of the above
//! ```

mod archive;
pub mod backup;
mod content;
mod folder;
pub(crate) mod line;
pub mod manifest;
mod put;
pub mod restore;
pub mod source;
mod sums;
pub(crate) mod unpack;
mod walk;
mod work;

#[cfg(test)]
mod tests;

use crate::archive::PathError;
use crate::model::{Error, ErrorKind, Result};
use crate::restore::OnError;

pub use manifest::{Manifest, ResourceRecord};
pub use source::Source;
pub use work::remove_left;

/// The folder of the resources' files in a copy.
pub const PROJECTS: &str = "projects";
/// The file of the appliance's own configuration.
pub const COMMON_DATA: &str = "COMMON_DATA.json";
/// The file with a line for every entry.
pub const ENTRIES: &str = "ENTRIES.jsonl";
/// The file that says what the copy is.
pub const MANIFEST: &str = "MANIFEST.json";
/// The file of checksums.
pub const SUMS: &str = "SHA256SUMS";

/// Errors listed at most.
const LISTED: usize = 1000;

/// What went wrong with single entries.
#[derive(Debug, Default)]
pub struct Errors {
    on_error: OnError,
    /// How many.
    pub count: u64,
    /// The first of them.
    pub list: Vec<PathError>,
}

impl Errors {
    /// None yet.
    pub fn new(on_error: OnError) -> Self {
        Self { on_error, ..Self::default() }
    }

    /// Lists a problem of one entry; an error where the first one is to end everything.
    pub fn add(&mut self, path: &[u8], code: &str, message: impl std::fmt::Display) -> Result<()> {
        if self.on_error == OnError::FastFail {
            return Err(Error::failed(format!("{}: {message}", String::from_utf8_lossy(path))));
        }
        self.count += 1;
        if self.list.len() < LISTED {
            self.list.push(PathError { path: path.to_vec(), code: code.to_owned(), message: message.to_string() });
        }
        Ok(())
    }

    /// Lists an error that concerns one entry alone; others end everything.
    pub fn take(&mut self, path: &[u8], error: Error) -> Result<()> {
        match error.kind {
            ErrorKind::Cancelled | ErrorKind::NoSpace | ErrorKind::DestinationFailed => Err(error),
            ErrorKind::Damaged => self.add(path, "damaged", error.message),
            _ => self.add(path, "failed", error.message),
        }
    }

    /// Lists metadata that could not be set.
    pub fn problems(&mut self, path: &[u8], problems: &[String]) -> Result<()> {
        if problems.is_empty() { Ok(()) } else { self.add(path, "unsupported", problems.join("; ")) }
    }
}
