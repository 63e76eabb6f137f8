//! What a resource leaves out: patterns in gitignore syntax, read as from a `.gitignore` in `/`.

use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::model::{Error, Result};

/// Compiled patterns.
#[derive(Debug, Clone)]
pub struct Excludes {
    patterns: Gitignore,
}

impl Excludes {
    /// Compiles patterns; the first bad one is named.
    pub fn new(patterns: &[String]) -> Result<Self> {
        let mut builder = GitignoreBuilder::new("/");
        for pattern in patterns {
            builder
                .add_line(None, pattern)
                .map_err(|e| Error::invalid(format!("exclude pattern {pattern:?} is not gitignore syntax: {e}")))?;
        }
        let patterns =
            builder.build().map_err(|e| Error::invalid(format!("exclude patterns cannot be combined: {e}")))?;
        Ok(Self { patterns })
    }

    /// Whether there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether an absolute path is left out. Directories above it are not looked at: who walks
    /// down does not enter those that are left out.
    pub fn matches(&self, path: &Path, is_dir: bool) -> bool {
        !self.patterns.is_empty() && self.patterns.matched(path, is_dir).is_ignore()
    }

    /// Whether an absolute path or a directory above it is left out.
    pub fn matches_beneath(&self, path: &Path, is_dir: bool) -> bool {
        let mut above = path.ancestors().skip(1).filter(|p| *p != Path::new("/"));
        self.matches(path, is_dir) || above.any(|p| self.matches(p, true))
    }
}
