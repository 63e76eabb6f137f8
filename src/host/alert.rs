//! Telling people: `strongroom-notify@ID.service` is started with the facts in its environment.
//!
//! What the unit does is the administrator's. Without systemd nothing happens. Nobody waits for
//! the service manager: a thread of its own talks to it.

use std::fmt::Write as _;
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::model::{Error, IoContext, Result};

/// Where the unit looks for its environment, if systemd runs us.
fn directory() -> Option<PathBuf> {
    std::env::var_os("NOTIFY_SOCKET")?;
    let runtime = std::env::var("RUNTIME_DIRECTORY").ok()?;
    let first = runtime.split(':').next().filter(|first| !first.is_empty())?;
    Some(Path::new(first).join("notify"))
}

/// A line of an environment file, quoted so that the value comes out as one line of text. A shell
/// reads it alike.
fn line(name: &str, value: &str) -> String {
    let mut text = format!("{name}=\"");
    for c in value.chars() {
        match c {
            '"' | '\\' | '$' | '`' => {
                text.push('\\');
                text.push(c);
            }
            c if c.is_control() => text.push(' '),
            c => text.push(c),
        }
    }
    text.push_str("\"\n");
    text
}

fn write(dir: &Path, id: &str, facts: &[(&str, String)]) -> Result<()> {
    let path = dir.join(format!("{id}.env"));
    let what = || format!("cannot write {}", path.display());
    DirBuilder::new().recursive(true).mode(0o700).create(dir).at(what)?;
    let mut text = String::new();
    for (name, value) in facts {
        let _ = write!(text, "{}", line(&format!("STRONGROOM_{name}"), value));
    }
    let beside = dir.join(format!("{id}.new"));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
    options.open(&beside).and_then(|mut file| file.write_all(text.as_bytes())).at(what)?;
    std::fs::rename(&beside, &path).at(what)
}

/// Starts the notification unit of `id`, which is of letters, digits and dashes.
pub fn start(id: &str, facts: &[(&str, String)]) {
    let Some(dir) = directory() else { return };
    if let Err(e) = write(&dir, id, facts) {
        tracing::error!("nobody is notified of {id}: {e}");
        return;
    }
    let unit = format!("strongroom-notify@{id}.service");
    let spawned = std::thread::Builder::new().name("notify".into()).spawn(move || {
        if let Err(e) = start_unit(&unit) {
            tracing::error!("{unit} could not be started: {e}");
        }
    });
    if let Err(e) = spawned {
        tracing::error!("cannot start a thread to notify: {e}");
    }
}

fn start_unit(unit: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().at(|| "cannot start a runtime")?;
    let call = async {
        let bus = zbus::Connection::system().await?;
        let manager = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager");
        bus.call_method(Some(manager.0), manager.1, Some(manager.2), "StartUnit", &(unit, "replace")).await
    };
    runtime.block_on(call).map(drop).map_err(|e: zbus::Error| Error::failed(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell reads the file and prints what it found.
    #[test]
    fn facts_arrive_as_they_are_whatever_they_hold() {
        let dir = tempfile::tempdir().unwrap();
        let hostile = "a \"b\" $(touch /x) `id` \\ 'c' ; exit 7 # é";
        write(dir.path(), "7", &[("JOB", "7".into()), ("ERROR", hostile.into()), ("TWO", "a\nb".into())]).unwrap();
        let script = "set -e; . ./7.env; printf '%s\\n' \"$STRONGROOM_JOB\" \"$STRONGROOM_ERROR\" \"$STRONGROOM_TWO\"";
        let said = std::process::Command::new("sh").current_dir(dir.path()).args(["-c", script]).output().unwrap();
        assert_eq!(String::from_utf8(said.stdout).unwrap(), format!("7\n{hostile}\na b\n"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
