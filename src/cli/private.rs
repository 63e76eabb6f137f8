//! A bus and a daemon of one's own, over state in one directory, for as long as one command runs.
//!
//! They end with the command, however it ends: stopped in order when it returns, and by the
//! kernel's signal when it was killed. Only the same user can connect.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

use super::paths;
use crate::bus::client::Client;
use crate::bus::{BusAddress, NAME};
use crate::model::{Error, IoContext, Result};

/// What a socket's address has room for, less the name we add.
const MAX_DIR: usize = 100;
/// A daemon that recovers from a crash may take a while to say that it is there.
const START: Duration = Duration::from_secs(60);
/// What the daemon is given to come to a safe stop, and a little more.
const STOP: Duration = Duration::from_secs(35);
/// The bus has nothing to put away.
const BUS_STOP: Duration = Duration::from_secs(2);
/// How often is looked whether something has happened.
const LOOK: Duration = Duration::from_millis(20);

/// A running private bus with its daemon.
#[derive(Debug)]
pub struct Private {
    address: BusAddress,
    dir: PathBuf,
    /// Absent where another command's are used.
    own: Option<Own>,
}

#[derive(Debug)]
struct Own {
    daemon: Child,
    bus: Child,
    _lock: Flock<File>,
}

impl Private {
    /// Starts both, or joins those that another command runs over the same directory.
    pub async fn start(dir: &Path) -> Result<Self> {
        let dir = paths::absolute(dir)?;
        let Some(name) = dir.to_str().filter(|name| name.len() <= MAX_DIR) else {
            return Err(Error::invalid(format!(
                "{} cannot hold the socket of a private bus; give a directory of at most {MAX_DIR} bytes of UTF-8",
                dir.display()
            )));
        };
        let address = format!("unix:path={}/bus", escape_address(name));
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).at(|| format!("cannot make {name}"))?;
        let lock = open_private(&dir.join("private.lock"))?;
        let lock = match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => return Self::join(dir, address).await,
            Err((_, errno)) => return Err(Error::io(format!("cannot lock {name}"), &errno.into())),
        };
        let (bus, daemon) = spawn_both(&dir, name, &address).await?;
        let mut private =
            Self { address: BusAddress::Address(address), dir, own: Some(Own { daemon, bus, _lock: lock }) };
        match private.wait_for_name().await {
            Ok(()) => Ok(private),
            Err(error) => {
                private.stop().await;
                Err(error)
            }
        }
    }

    async fn join(dir: PathBuf, address: String) -> Result<Self> {
        let mut private = Self { address: BusAddress::Address(address), dir, own: None };
        private.wait_for_name().await.map_err(|_| {
            Error::invalid_state(format!(
                "another command is using {}, and its daemon does not answer; wait for it to end",
                private.dir.display()
            ))
        })?;
        Ok(private)
    }

    /// The bus.
    pub fn address(&self) -> &BusAddress {
        &self.address
    }

    async fn wait_for_name(&mut self) -> Result<()> {
        let until = Instant::now() + if self.own.is_some() { START } else { START / 6 };
        let client = loop {
            match Client::connect(&self.address).await {
                Ok(client) => break client,
                Err(error) if Instant::now() > until => return Err(error),
                Err(_) => self.check_alive().await?,
            }
        };
        let names = zbus::fdo::DBusProxy::new(client.connection()).await.map_err(crate::bus::error::from_call)?;
        loop {
            let name = zbus::names::BusName::try_from(NAME).map_err(Error::failed)?;
            match names.name_has_owner(name).await {
                Ok(true) => return Ok(()),
                _ if Instant::now() > until => {
                    return Err(Error::failed(format!(
                        "the daemon did not start within {} s{}",
                        START.as_secs(),
                        self.last_words()
                    )));
                }
                _ => self.check_alive().await?,
            }
        }
    }

    /// Waits a moment; fails when one of the two has ended meanwhile.
    async fn check_alive(&mut self) -> Result<()> {
        tokio::time::sleep(LOOK).await;
        let ended = |child: &mut Child| matches!(child.try_wait(), Ok(Some(_)) | Err(_));
        if let Some(own) = &mut self.own {
            let who = if ended(&mut own.bus) {
                "the private bus"
            } else if ended(&mut own.daemon) {
                "the daemon"
            } else {
                return Ok(());
            };
            return Err(Error::failed(format!("{who} ended at once{}", self.last_words())));
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let log = self.dir.join("log");
        let text = std::fs::read(&log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
        match text.lines().rev().find(|l| !l.trim().is_empty()) {
            Some(line) => format!(": {}", line.trim()),
            None => format!("; see {}", log.display()),
        }
    }

    /// Stops what was started, and takes the mount away.
    pub async fn stop(mut self) {
        let Some(mut own) = self.own.take() else { return };
        end(&mut own.daemon, STOP).await;
        end(&mut own.bus, BUS_STOP).await;
        sweep(&self.dir);
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        if let Some(own) = &mut self.own {
            for child in [&mut own.daemon, &mut own.bus] {
                let _ = child.kill();
                let _ = child.wait();
            }
            sweep(&self.dir);
        }
    }
}

/// Takes away what a run leaves in the directory besides its state.
fn sweep(dir: &Path) {
    // No mount there, most often: the daemon's mount process has ended with it.
    let _ = umount2(&dir.join("browse"), MntFlags::MNT_DETACH);
    for file in ["bus", "bus.conf"] {
        let _ = std::fs::remove_file(dir.join(file));
    }
}

async fn end(child: &mut Child, patience: Duration) {
    let until = Instant::now() + patience;
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    while Instant::now() < until {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
    let _ = child.kill();
    let _ = child.wait();
}

async fn spawn_both(dir: &Path, name: &str, address: &str) -> Result<(Child, Child)> {
    if !is_installed("dbus-daemon") {
        return Err(Error::failed("a private bus needs dbus-daemon, which is not installed; install the package dbus"));
    }
    // The socket of a run that was killed, and a mount that it left.
    sweep(dir);
    let configuration = dir.join("bus.conf");
    std::fs::write(&configuration, bus_configuration(address)).at(|| format!("cannot write {name}/bus.conf"))?;
    let log = dir.join("log");
    let _ = std::fs::remove_file(&log);
    let log = open_private(&log)?;
    let mut option = OsString::from("--config-file=");
    option.push(&configuration);
    let bus = tied(&log, ["dbus-daemon".into(), "--nofork".into(), "--nopidfile".into(), option])?;
    let mut daemon: Vec<OsString> = vec![executable()?.into(), "__strongroomd".into()];
    for (option, value) in [
        ("--bus", OsStr::new(address)),
        ("--config", dir.join("strongroom.toml").as_os_str()),
        ("--state-dir", dir.join("state").as_os_str()),
        ("--cache-dir", dir.join("cache").as_os_str()),
        ("--browse-path", dir.join("browse").as_os_str()),
        ("--browse-linger", OsStr::new("0")),
    ] {
        daemon.extend([option.into(), value.to_owned()]);
    }
    // The daemon finds its bus listening.
    let until = Instant::now() + START;
    while !dir.join("bus").exists() && Instant::now() < until {
        tokio::time::sleep(LOOK / 4).await;
    }
    match tied(&log, daemon) {
        Ok(daemon) => Ok((bus, daemon)),
        Err(error) => {
            let mut bus = bus;
            end(&mut bus, BUS_STOP).await;
            Err(error)
        }
    }
}

fn open_private(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600);
    options.open(path).at(|| format!("cannot open {}", path.display()))
}

fn executable() -> Result<PathBuf> {
    let path = std::env::current_exe().at(|| "cannot tell the own program's path")?;
    // One that was replaced since it started is still to be had.
    Ok(if path.exists() { path } else { "/proc/self/exe".into() })
}

fn is_installed(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// Starts a program that ends when this one does, out of reach of the terminal's Ctrl-C.
fn tied(log: &File, command: impl IntoIterator<Item = OsString>) -> Result<Child> {
    let output = log.try_clone().at(|| "cannot share the log")?;
    Command::new(executable()?)
        .arg("__tied")
        .arg(std::process::id().to_string())
        .args(command)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(output)
        .process_group(0)
        .spawn()
        .at(|| "cannot start the own program again")
}

/// The other side of [`tied`]: asks the kernel for a signal when the parent ends, then becomes
/// the program. Takes the parent's process id, the program and its arguments.
pub fn exec_tied(mut arguments: impl Iterator<Item = OsString>) -> i32 {
    let parent = arguments.next().and_then(|a| a.to_str()?.parse::<i32>().ok());
    let (Some(parent), Some(program)) = (parent, arguments.next()) else { return 2 };
    if rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM)).is_err() {
        return 1;
    }
    if nix::unistd::getppid().as_raw() != parent {
        // It ended before the signal was asked for.
        return 1;
    }
    let error = Command::new(&program).args(arguments).exec();
    super::output::note(format!("cannot run {}: {error}", program.display()));
    127
}

/// Completes when somebody asks the command to end.
pub async fn told_to_end() {
    let (Ok(mut term), Ok(mut hup)) = (signal(SignalKind::terminate()), signal(SignalKind::hangup())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = hup.recv() => {}
    }
}

/// A path in a D-Bus address: what is not plain is escaped.
fn escape_address(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_/.\\*".contains(&b);
    path.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02x}") }).collect()
}

fn bus_configuration(address: &str) -> String {
    // Without an <allow user=…> rule the bus takes connections of its own user only. The address
    // is escaped, so nothing in it means anything to XML.
    format!(
        r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>{address}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_odd_directory_makes_a_sound_address() {
        let escaped = escape_address("/tmp/a b,c=d<&é");
        assert_eq!(escaped, "/tmp/a%20b%2cc%3dd%3c%26%c3%a9");
        let address = format!("unix:path={escaped}/bus");
        assert!(address.parse::<BusAddress>().is_ok(), "{address}");
    }

    #[test]
    fn nothing_is_tied_to_nobody() {
        assert_eq!(exec_tied(std::iter::empty()), 2);
    }
}
