//! Projects: what groups resources.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Origin, Row, Tables, Writer};
use crate::model::Result;

/// The project that always exists.
pub const DEFAULT: &str = "default";

/// A project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Project {
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Words about it.
    #[serde(default)]
    pub description: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Where it was declared.
    #[serde(default)]
    pub origin: Origin,
}

impl Row for Project {
    const TABLE: &'static str = "projects";
    const KIND: u8 = 1;
    const NOUN: &'static str = "project";

    fn id(&self) -> u64 {
        self.id
    }

    fn name(&self) -> Option<(u64, &str)> {
        Some((0, &self.name))
    }
}

/// Makes the project `default` where it is missing.
pub(super) fn ensure_default(w: &Writer) -> Result<()> {
    if w.named::<Project>(0, DEFAULT)?.is_none() {
        let id = w.next_id::<Project>()?;
        w.put(&Project {
            id,
            name: DEFAULT.into(),
            description: String::new(),
            created_at: Timestamp::now(),
            origin: Origin::default(),
        })?;
    }
    Ok(())
}
