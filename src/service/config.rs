//! The configuration files: `strongroom.toml` and `conf.d/*.toml` beside it, in order of name.
//!
//! Every key is known or refused, with file, line and key. A later file overrides an earlier one.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;
use toml::Spanned;

use crate::jobs::Limits;
use crate::model::{Error, IoContext, Result};

/// More than this at once is a slip of the pen.
const MOST_JOBS: u64 = 64;

/// What the files say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Manual backups that a resource may have.
    pub manual_backups: u64,
    /// Snapshots by hand that a resource may have.
    pub manual_snapshots: u64,
    /// Jobs at once.
    pub lanes: Limits,
    /// The file that metrics are written to.
    pub metrics: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self { manual_backups: 10, manual_snapshots: 5, lanes: Limits::default(), metrics: None }
    }
}

#[derive(Debug, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct File {
    limits: LimitsTable,
    jobs: JobsTable,
    // Objects, which `declared` reads.
    project: IgnoredAny,
    destination: IgnoredAny,
    vault: IgnoredAny,
    resource: IgnoredAny,
    schedule: IgnoredAny,
    task: IgnoredAny,
    metrics: MetricsTable,
}

#[derive(Debug, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct LimitsTable {
    manual_backups: Option<u64>,
    manual_snapshots: Option<u64>,
}

#[derive(Debug, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct JobsTable {
    work: Option<Spanned<u64>>,
    maintenance: Option<Spanned<u64>>,
    export: Option<Spanned<u64>>,
}

#[derive(Debug, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct MetricsTable {
    file: Option<Spanned<PathBuf>>,
}

/// An error at a byte of a file: its line, and the key that stands there.
fn at(path: &Path, text: &str, byte: usize, what: &str) -> Error {
    let before = text.get(..byte).unwrap_or(text);
    let number = before.matches('\n').count() + 1;
    let line = text.lines().nth(number - 1).unwrap_or_default();
    let key = match line.split_once('=') {
        Some((key, _)) => format!("key {:?}: ", key.trim()),
        None if line.trim_start().starts_with('[') => format!("table {}: ", line.trim()),
        None => String::new(),
    };
    Error::invalid(format!("{}, line {number}: {key}{what}", path.display()))
}

impl Config {
    /// Reads the files. None at all is the default.
    pub fn load(main: &Path) -> Result<Self> {
        let mut config = Self::default();
        for path in files(main)? {
            let text = std::fs::read_to_string(&path)
                .at(|| format!("cannot read the configuration file {}", path.display()))
                .map_err(|e| Error::invalid(e.message))?;
            config.apply(&path, &text)?;
        }
        Ok(config)
    }

    fn apply(&mut self, path: &Path, text: &str) -> Result<()> {
        let file: File = toml::from_str(text).map_err(|e| {
            let byte = e.span().map_or(0, |span| span.start);
            at(path, text, byte, e.message())
        })?;
        let lane = |value: Option<Spanned<u64>>, target: &mut usize| -> Result<()> {
            let Some(value) = value else { return Ok(()) };
            match usize::try_from(*value.get_ref()) {
                Ok(n) if (1..=MOST_JOBS).contains(value.get_ref()) => {
                    *target = n;
                    Ok(())
                }
                _ => Err(at(
                    path,
                    text,
                    value.span().start,
                    &format!("{} is out of range; give 1 to {MOST_JOBS}", value.get_ref()),
                )),
            }
        };
        lane(file.jobs.work, &mut self.lanes.work)?;
        lane(file.jobs.maintenance, &mut self.lanes.maintenance)?;
        lane(file.jobs.export, &mut self.lanes.export)?;
        if let Some(value) = file.metrics.file {
            let (start, file) = (value.span().start, value.into_inner());
            if !file.is_absolute() || file.file_name().is_none() {
                return Err(at(path, text, start, "it is not the absolute path of a file"));
            }
            self.metrics = Some(file);
        }
        if let Some(limit) = file.limits.manual_backups {
            self.manual_backups = limit;
        }
        if let Some(limit) = file.limits.manual_snapshots {
            self.manual_snapshots = limit;
        }
        Ok(())
    }
}

/// The files there are, in the order in which they are read.
pub(super) fn files(main: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    if main.exists() {
        files.push(main.to_path_buf());
    }
    let dir = main.parent().unwrap_or(Path::new("/")).join("conf.d");
    match std::fs::read_dir(&dir) {
        Ok(entries) => {
            let mut more: Vec<PathBuf> =
                entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "toml")).collect();
            more.sort();
            files.append(&mut more);
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::invalid(format!("cannot list {}: {e}", dir.display()))),
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("strongroom.toml");
        std::fs::write(&file, text).unwrap();
        Config::load(&file)
    }

    #[test]
    fn no_file_is_the_default() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Config::load(&dir.path().join("none.toml")).unwrap(), Config::default());
    }

    #[test]
    fn keys_are_taken() {
        let config = load("[limits]\nmanual_backups = 3\n[jobs]\nwork = 2\n").unwrap();
        assert_eq!((config.manual_backups, config.manual_snapshots), (3, 5));
        assert_eq!(config.lanes, Limits { work: 2, ..Limits::default() });
    }

    #[test]
    fn later_files_override() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("strongroom.toml");
        std::fs::create_dir(dir.path().join("conf.d")).unwrap();
        std::fs::write(&file, "[jobs]\nwork = 2\nexport = 7\n").unwrap();
        std::fs::write(dir.path().join("conf.d/50-more.toml"), "[jobs]\nwork = 4\n").unwrap();
        let lanes = Config::load(&file).unwrap().lanes;
        assert_eq!((lanes.work, lanes.export), (4, 7));
    }

    #[test]
    fn what_is_wrong_is_named_with_file_line_and_key() {
        for (text, line, key) in [
            ("[limits]\nmanual_backup = 3\n", "line 2", "manual_backup"),
            ("[limits]\nmanual_backups = \"x\"\n", "line 2", "manual_backups"),
            ("[limits]\nmanual_backups = -1\n", "line 2", "manual_backups"),
            ("\n\n[jobs]\nwork = 0\n", "line 4", "work"),
            ("[job]\nwork = 1\n", "line 1", "job"),
            ("[jobs\n", "line 1", ""),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.message.contains("strongroom.toml"), "{error}");
            assert!(error.message.contains(line), "{text:?}: {error}");
            assert!(error.message.contains(key), "{text:?}: {error}");
        }
    }
}
