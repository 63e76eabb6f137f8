//! The log: to the journal where stderr is the journal, else to stderr as text.

use std::os::fd::AsFd;

use nix::sys::stat::fstat;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

/// Whether stderr leads to the journal, as systemd says.
fn in_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stat) = fstat(std::io::stderr().as_fd()) else { return false };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// Starts logging. Of what lies beneath, only warnings matter below `debug`.
pub fn start(level: LevelFilter) {
    let below = if level >= LevelFilter::DEBUG { level } else { level.min(LevelFilter::WARN) };
    let filter = Targets::new().with_target("strongroom", level).with_default(below);
    let journal = in_journal().then(|| tracing_journald::layer().ok()).flatten();
    let text = journal
        .is_none()
        .then(|| tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false).with_target(false));
    // A second start (in tests) changes nothing.
    let _ = tracing_subscriber::registry().with(filter).with(journal).with(text).try_init();
}
