//! A file of metrics for Prometheus' textfile collector, written whole or not at all whenever
//! something in it has changed. `[metrics] file` says where; without it there is none.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};

use super::{Service, locked, schedules};
use crate::catalog::{Destination, Project, Resource, Schedule, State, Tables, VaultRow, backup, job};
use crate::model::{IoContext, Result};

/// It is written no more often than this.
const PAUSE: SignedDuration = SignedDuration::from_secs(1);

/// The file in the making: metrics of one name stand together.
#[derive(Default)]
struct Page(String);

impl Page {
    fn metric(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (String, i64)>) {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return;
        }
        let _ = writeln!(self.0, "# HELP strongroom_{name} {help}\n# TYPE strongroom_{name} gauge");
        for (labels, value) in values {
            let _ = writeln!(self.0, "strongroom_{name}{labels} {value}");
        }
    }
}

fn labels(pairs: &[(&str, &str)]) -> String {
    let escaped = |v: &str| v.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let list: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}=\"{}\"", escaped(value))).collect();
    format!("{{{}}}", list.join(","))
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn write(path: &Path, text: &str) -> Result<()> {
    let what = || format!("cannot write the metrics file {}", path.display());
    let mut name = path.file_name().unwrap_or_default().to_owned();
    // Not read by the collector, which looks for the ending.
    name.push(".new");
    let beside = path.with_file_name(name);
    let _ = std::fs::remove_file(&beside);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o644).custom_flags(nix::libc::O_NOFOLLOW);
    options.open(&beside).and_then(|mut file| file.write_all(text.as_bytes())).at(what)?;
    std::fs::rename(&beside, path).at(what)
}

impl Service {
    /// Writes the file where something changed.
    pub(super) fn tick_metrics(&self, now: Timestamp) -> Result<Option<Timestamp>> {
        let Some(path) = self.config().metrics else { return Ok(None) };
        let mut last = locked(&self.metrics_written);
        if let Some((time, _)) = &*last {
            let since = now.duration_since(*time);
            if !since.is_negative() && since < PAUSE {
                return Ok(now.checked_add(PAUSE).ok());
            }
        }
        let text = self.metrics(now)?;
        if last.as_ref().is_none_or(|(_, before)| *before != text) || !path.exists() {
            write(&path, &text)?;
        }
        *last = Some((now, text));
        Ok(None)
    }

    fn metrics(&self, now: Timestamp) -> Result<String> {
        let used = |id: u64| self.vaults.opened(id).map(|open| signed(open.vault.stored_size()));
        self.catalog.read(|r| {
            let mut page = Page::default();
            let mut resources = Vec::new();
            for row in r.all::<Resource>()?.into_iter().filter(|r| r.removed_at.is_none()) {
                let project = r.get::<Project>(row.project)?.map(|p| p.name).unwrap_or_default();
                let count = r.indexed(backup::BY_RESOURCE, row.id)?.len() as u64;
                resources.push((labels(&[("project", &project), ("resource", &row.name)]), row, count));
            }
            let of = |get: &dyn Fn(&Resource) -> Option<i64>| -> Vec<(String, i64)> {
                resources.iter().filter_map(|(labels, row, _)| Some((labels.clone(), get(row)?))).collect()
            };
            page.metric(
                "resource_last_success_timestamp_seconds",
                "When a backup last completed.",
                of(&|r| r.last_success.map(Timestamp::as_second)),
            );
            page.metric(
                "resource_last_attempt_timestamp_seconds",
                "When a backup last ended, however it ended.",
                of(&|r| r.last_backup.map(Timestamp::as_second)),
            );
            page.metric(
                "resource_size_bytes",
                "What the last completed backup holds.",
                of(&|r| r.last_size.map(signed)),
            );
            page.metric(
                "resource_backups",
                "Backups that are listed, of every status.",
                resources.iter().map(|(labels, _, count)| (labels.clone(), signed(*count))),
            );
            let mut schedules = Vec::new();
            for row in r.all::<Schedule>()? {
                let late = schedules::overdue(r, &row, now)?.len() as u64;
                schedules.push((labels(&[("schedule", &row.name)]), row, late));
            }
            page.metric(
                "schedule_overdue_resources",
                "Resources without a good backup in time.",
                schedules.iter().map(|(labels, _, late)| (labels.clone(), signed(*late))),
            );
            page.metric(
                "schedule_next_run_timestamp_seconds",
                "When it runs next.",
                schedules.iter().filter_map(|(labels, row, _)| Some((labels.clone(), row.due?.as_second()))),
            );
            let mut states = Vec::new();
            for state in State::ALL {
                states.push((labels(&[("state", state.name())]), r.indexed(job::BY_STATE, state.key())?.len() as i64));
            }
            page.metric("jobs", "Jobs that are listed, by state.", states);
            let vaults = r.all::<VaultRow>()?;
            let of = |get: &dyn Fn(&VaultRow) -> Option<i64>| -> Vec<(String, i64)> {
                vaults.iter().filter_map(|v| Some((labels(&[("vault", &v.name)]), get(v)?))).collect()
            };
            page.metric("vault_used_bytes", "Bytes of the packs it stores.", of(&|v| used(v.id)));
            page.metric("vault_capacity_bytes", "The most it may store.", of(&|v| v.capacity.map(signed)));
            page.metric(
                "vault_last_verified_timestamp_seconds",
                "When a check last found nothing wrong.",
                of(&|v| v.last_verified.map(Timestamp::as_second)),
            );
            page.metric(
                "vault_last_pruned_timestamp_seconds",
                "When it was last pruned.",
                of(&|v| v.last_pruned.map(Timestamp::as_second)),
            );
            page.metric(
                "destinations",
                "Destinations there are.",
                [(String::new(), signed(r.count::<Destination>()?))],
            );
            Ok(page.0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_quoted() {
        assert_eq!(labels(&[("a", "x\"y\\z\n"), ("b", "é")]), "{a=\"x\\\"y\\\\z\\n\",b=\"é\"}");
    }

    #[test]
    fn nobody_reads_half_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("strongroom.prom");
        std::os::unix::fs::symlink("/dev/full", dir.path().join("strongroom.prom.new")).unwrap();
        write(&path, "one\n").unwrap();
        write(&path, "two\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
