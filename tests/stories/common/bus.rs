//! A bus of its own for every daemon, and calls over it with `busctl` alone.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::tools::wait_for;

/// What a call answered, without the signatures that busctl writes around every value.
pub type Reply = Value;

/// A call that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The D-Bus error's full name.
    pub name: String,
    pub message: String,
}

/// Runs a program as somebody without any rights, whom the bus can look up (it refuses who is in no list).
const STRANGER: &[&str] = &["setpriv", "--reuid=nobody", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--"];

pub struct Bus {
    pub address: String,
    child: Child,
}

/// A command whose program ends when this process does.
pub fn tied(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).stdin(Stdio::null());
    command
}

/// Writes what a bus at `bus` in a directory is started with, and gives its address. Everybody may connect:
/// whom the daemon serves is for it to say.
pub fn write_configuration(dir: &Path) -> String {
    let address = format!("unix:path={}/bus", dir.display());
    let text = format!(
        "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\"\n \
         \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n\
         <busconfig><type>session</type><listen>{address}</listen><auth>EXTERNAL</auth>\n\
         <policy context=\"default\"><allow user=\"*\"/><allow send_destination=\"*\" eavesdrop=\"true\"/>\n\
         <allow eavesdrop=\"true\"/><allow own=\"*\"/></policy></busconfig>\n"
    );
    std::fs::write(dir.join("bus.conf"), text).unwrap();
    address
}

impl Bus {
    pub fn start(dir: &Path) -> Self {
        let socket: PathBuf = dir.join("bus");
        let address = write_configuration(dir);
        let configuration = dir.join("bus.conf");
        let child = tied("dbus-daemon")
            .args(["--nofork", "--nopidfile"])
            .arg(format!("--config-file={}", configuration.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for("the bus listens", Duration::from_secs(20), || socket.exists());
        Self { address, child }
    }

    /// Calls a method of any interface; `words` are the signature and the arguments as busctl
    /// takes them.
    pub fn call<S: AsRef<str>>(
        &self,
        object: &str,
        interface: &str,
        method: &str,
        words: &[S],
    ) -> Result<Reply, Failure> {
        self.call_through(&[], object, interface, method, words)
    }

    /// The same by a user without any rights.
    pub fn call_as_stranger<S: AsRef<str>>(
        &self,
        object: &str,
        interface: &str,
        method: &str,
        words: &[S],
    ) -> Result<Reply, Failure> {
        self.call_through(STRANGER, object, interface, method, words)
    }

    fn call_through<S: AsRef<str>>(
        &self,
        through: &[&str],
        object: &str,
        interface: &str,
        method: &str,
        words: &[S],
    ) -> Result<Reply, Failure> {
        let output = Command::new("timeout")
            .arg("60")
            .args(through)
            .args(["busctl", "--json=short", "--timeout=55", &format!("--address={}", self.address), "call", "--"])
            .args(["org.strongroom1", object, interface, method])
            .args(words.iter().map(AsRef::as_ref))
            // So that it tells the error's name as well.
            .env("SYSTEMD_LOG_LEVEL", "debug")
            .env("SYSTEMD_LOG_TARGET", "console")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        if output.status.success() {
            let text = String::from_utf8(output.stdout).unwrap();
            if text.trim().is_empty() {
                return Ok(Value::Null);
            }
            let reply: Value = serde_json::from_str(&text).unwrap();
            return Ok(match plain(reply) {
                Value::Array(mut one) if one.len() == 1 => one.remove(0),
                other => other,
            });
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let error = said
            .lines()
            .rfind(|l| l.starts_with("Got message type=error"))
            .and_then(|l| l.split_once(" error-name="))
            .unwrap_or_else(|| panic!("{method}: no answer, but {}: {said}", output.status))
            .1;
        let (name, words) = error.split_once(" error-message=").unwrap_or((error, ""));
        let message = said.lines().find_map(|l| l.strip_prefix("Call failed: ")).unwrap_or_default();
        // Of errors that the system knows busctl says no more than what the system calls them.
        let message = if message == "Access denied" { words } else { message };
        Err(Failure { name: name.into(), message: message.into() })
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The value without `{"type": …, "data": …}` around it and what is in it.
fn plain(value: Value) -> Value {
    match value {
        Value::Object(mut map) => {
            let wrapped = map.len() == 2 && map.get("type").is_some_and(Value::is_string) && map.contains_key("data");
            match wrapped.then(|| map.remove("data")).flatten() {
                Some(data) => plain(data),
                None => Value::Object(map.into_iter().map(|(key, value)| (key, plain(value))).collect()),
            }
        }
        Value::Array(list) => Value::Array(list.into_iter().map(plain).collect()),
        other => other,
    }
}
