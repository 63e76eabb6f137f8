//! `MANIFEST.json`: what a copy is.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::backup::Request;
use crate::model::{Error, Id, Result};

/// What the file says it is.
const FORMAT: &str = "strongroom plain copy 1";

/// What a copy is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    format: String,
    /// When its run began.
    pub created_at: Timestamp,
    /// The machine's name.
    pub machine: String,
    /// The task's name.
    pub task: String,
    /// Where only what changed was taken: since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// The resources in it.
    pub resources: Vec<ResourceRecord>,
    /// Whether it holds the appliance's own configuration.
    pub common_data: bool,
    /// Entries in it.
    pub entries: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// Entries that could not be taken.
    pub errors: u64,
    /// The checksum of `ENTRIES.jsonl`.
    pub entries_sha256: Id,
}

/// A resource in a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceRecord {
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Its project's id.
    pub project_id: u64,
    /// Its project's name.
    pub project: String,
    /// Its paths.
    #[serde(with = "paths")]
    pub paths: Vec<PathBuf>,
    /// What it leaves out.
    pub exclude: Vec<String>,
    /// Whether it leaves out other file systems.
    pub one_file_system: bool,
}

impl ResourceRecord {
    /// The folder of its files in a copy.
    pub fn folder(&self) -> Vec<u8> {
        [super::PROJECTS, &self.project, &self.name].join("/").into_bytes()
    }
}

impl Manifest {
    /// The manifest of a copy that begins.
    pub fn new(request: &Request) -> Self {
        Self {
            format: FORMAT.into(),
            created_at: request.now,
            machine: request.machine.clone(),
            task: request.task.clone(),
            since: request.since,
            resources: request.resources.clone(),
            common_data: false,
            entries: 0,
            bytes: 0,
            errors: 0,
            entries_sha256: Id::default(),
        }
    }

    /// Reads one. Nothing in it is trusted.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let bad = |why: &dyn std::fmt::Display| Error::damaged(format!("{} cannot be read: {why}", super::MANIFEST));
        let manifest: Self = serde_json::from_slice(bytes).map_err(|e| bad(&e))?;
        if manifest.format != FORMAT {
            return Err(bad(&format!("it is of the format {:?}, and this program knows {FORMAT:?}", manifest.format)));
        }
        for resource in &manifest.resources {
            for name in [&resource.project, &resource.name] {
                crate::model::name::check("resource", name).map_err(|e| bad(&e))?;
            }
        }
        Ok(manifest)
    }
}

/// Paths: text where they are UTF-8, else `hex:` and their bytes.
mod paths {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::PathBuf;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::model::id::{hex, unhex};

    pub fn serialize<S: Serializer>(paths: &[PathBuf], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(paths.iter().map(|path| match path.to_str() {
            Some(text) => text.to_owned(),
            None => format!("hex:{}", hex(path.as_os_str().as_bytes())),
        }))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<PathBuf>, D::Error> {
        let path = |text: String| match text.strip_prefix("hex:") {
            None => Ok(PathBuf::from(text)),
            Some(digits) => unhex(digits)
                .map(|bytes| PathBuf::from(OsString::from_vec(bytes)))
                .ok_or_else(|| D::Error::custom("a path is not hexadecimal")),
        };
        Vec::<String>::deserialize(d)?.into_iter().map(path).collect()
    }
}
