//! Paths in rows: text where they are UTF-8, else `hex:` and their bytes. Absolute paths start
//! with a slash, so the two cannot be confused.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serializer};

use crate::model::id::{hex, unhex};

fn text(path: &Path) -> String {
    match path.to_str() {
        Some(text) => text.to_owned(),
        None => format!("hex:{}", hex(path.as_os_str().as_bytes())),
    }
}

fn path(text: String) -> Option<PathBuf> {
    match text.strip_prefix("hex:") {
        None => Some(PathBuf::from(text)),
        Some(digits) => Some(PathBuf::from(OsString::from_vec(unhex(digits)?))),
    }
}

/// Writes a list of paths.
pub fn serialize<S: Serializer>(paths: &[PathBuf], s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(paths.iter().map(|p| text(p)))
}

/// Reads a list of paths.
pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<PathBuf>, D::Error> {
    Vec::<String>::deserialize(d)?
        .into_iter()
        .map(|t| path(t).ok_or_else(|| serde::de::Error::custom("a path is not hexadecimal")))
        .collect()
}

/// The same for one path.
pub mod one {
    use super::{Deserialize, Deserializer, Path, PathBuf, Serializer, path, text};

    /// Writes a path.
    pub fn serialize<S: Serializer>(value: &Path, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&text(value))
    }

    /// Reads a path.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<PathBuf, D::Error> {
        path(String::deserialize(d)?).ok_or_else(|| serde::de::Error::custom("a path is not hexadecimal"))
    }
}
