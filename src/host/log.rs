//! The log: to the journal where stderr is the journal, else to stderr as text.

use std::fmt::Debug;
use std::os::fd::AsFd;

use nix::sys::stat::fstat;
use tracing::field::Field;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::prelude::*;

/// Whether stderr leads to the journal, as systemd says.
fn in_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stat) = fstat(std::io::stderr().as_fd()) else { return false };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// Writes a field where people read: what is for the journal alone stays away, since the message
/// says it too.
fn for_people(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> std::fmt::Result {
    match field.name() {
        "message" => write!(writer, "{value:?}"),
        name if name == "message_id" || name.starts_with("strongroom_") => Ok(()),
        name => write!(writer, "{name}={value:?}"),
    }
}

/// Starts logging. Of what lies beneath, only warnings matter below `debug`.
pub fn start(level: LevelFilter) {
    let below = if level >= LevelFilter::DEBUG { level } else { level.min(LevelFilter::WARN) };
    let filter = Targets::new().with_target("strongroom", level).with_default(below);
    // Those who sign and send requests would tell what with.
    let filter = filter.with_targets(["aws", "hyper", "rustls"].map(|target| (target, level.min(LevelFilter::WARN))));
    // Fields go to the journal under their own names: strongroom_job is STRONGROOM_JOB there.
    let journal = in_journal().then(|| tracing_journald::layer().ok()).flatten();
    let journal = journal.map(|layer| layer.with_field_prefix(None));
    let text = journal.is_none().then(|| {
        tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .with_target(false)
            .fmt_fields(debug_fn(for_people).delimited(" "))
    });
    // A second start (in tests) changes nothing.
    let _ = tracing_subscriber::registry().with(filter).with(journal).with(text).try_init();
}
