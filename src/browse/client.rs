//! The daemon's end: keeps a browse process running and tells it what to show.
//!
//! The client remembers what is to be shown. A process that died is started again (its dead
//! mount swept) and told everything anew; one that survived a restart of the daemon is found by
//! its socket and told only what is different. Where the environment has `STRONGROOM_BROWSE=unit`
//! the process is a unit of systemd's: it is never started from here, only found again.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, recv};
use uuid::Uuid;

use crate::model::{Error, ErrorKind, IoContext, Result, message};

use super::protocol::{Line, Request, Response, VERSION, VaultLine, connect};
pub use super::types::{BackupView, Policy, VaultAccess};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long a process may take to mount.
const STARTING: Duration = Duration::from_secs(20);

/// How often the client looks whether the process is still there.
const LOOK: Duration = Duration::from_millis(500);

/// The longest pause between attempts to start a process that does not stay.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Where to mount, and how to start the process that does.
#[derive(Debug, Clone)]
pub struct BrowseOptions {
    /// The directory to mount at.
    pub mount: PathBuf,
    /// The private socket.
    pub socket: PathBuf,
    /// The process ends when no daemon was there for so long; zero: never.
    pub linger: Duration,
    /// The program, and the arguments that make it the browse process (`browse`, in front of
    /// its options).
    pub executable: (PathBuf, Vec<OsString>),
}

#[derive(Default)]
struct State {
    line: Option<Line>,
    child: Option<Child>,
    vaults: BTreeMap<Uuid, VaultAccess>,
    backups: BTreeMap<u64, BackupView>,
    stopped: bool,
    /// When to try again after a failure, and how long to wait after the next.
    retry: Option<(Instant, Duration)>,
}

struct Inner {
    options: BrowseOptions,
    unit: bool,
    state: Mutex<State>,
}

/// A browse process, kept alive. Dropping it leaves the process to itself.
pub struct BrowseClient(Arc<Inner>);

impl std::fmt::Debug for BrowseClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BrowseClient({})", self.0.options.mount.display())
    }
}

impl BrowseClient {
    /// Finds the browse process of an earlier daemon, or starts one. With
    /// `STRONGROOM_BROWSE=unit` it is no error if there is none yet.
    pub fn start(options: BrowseOptions) -> Result<Self> {
        let unit = std::env::var_os("STRONGROOM_BROWSE").is_some_and(|value| value == "unit");
        let inner = Arc::new(Inner { options, unit, state: Mutex::default() });
        match inner.connect(&mut inner.state()) {
            Err(error) if unit => tracing::info!("the browse process is not there yet: {error}"),
            other => other?,
        }
        let weak = Arc::downgrade(&inner);
        thread::Builder::new()
            .name("browse-watch".to_owned())
            .spawn(move || watch(&weak))
            .at(|| "cannot start a thread")?;
        Ok(Self(inner))
    }

    /// Shows exactly these backups; returns when that can be seen. What is shown already and is
    /// not different is left alone, open files included. Vaults are opened when first looked into.
    pub fn set(&self, vaults: Vec<VaultAccess>, backups: Vec<BackupView>) -> Result<()> {
        let mut state = self.0.state();
        state.vaults = vaults.into_iter().map(|vault| (vault.uuid, vault)).collect();
        state.backups = backups.into_iter().map(|backup| (backup.id, backup)).collect();
        let request = set_request(&state);
        self.0.ask(&mut state, &request)
    }

    /// Shows one more backup; returns when it can be seen.
    pub fn add(&self, vault: VaultAccess, backup: BackupView) -> Result<()> {
        let mut state = self.0.state();
        let request = Request::Add { vault: VaultLine::from(&vault), backup: Box::new(backup.clone()) };
        state.vaults.insert(vault.uuid, vault);
        state.backups.insert(backup.id, backup);
        self.0.ask(&mut state, &request)
    }

    /// Shows a backup no longer; returns when it is gone.
    pub fn remove(&self, id: u64) -> Result<()> {
        let mut state = self.0.state();
        state.backups.remove(&id);
        self.0.ask(&mut state, &Request::Remove(id))
    }

    /// Unmounts and ends the process.
    pub fn stop(&self) -> Result<()> {
        let mut state = self.0.state();
        state.stopped = true;
        let Some(mut line) = state.line.take() else { return Ok(()) };
        exchange(&mut line, &Request::Stop)?;
        // The end of the connection is the end of the process.
        let _ = line.receive::<Response>();
        if let Some(mut child) = state.child.take() {
            let _ = child.wait();
        }
        Ok(())
    }

    /// The browse process, while there is one.
    pub fn pid(&self) -> Option<u32> {
        self.0.state().child.as_ref().map(Child::id)
    }
}

fn set_request(state: &State) -> Request {
    Request::Set {
        vaults: state.vaults.values().map(VaultLine::from).collect(),
        backups: state.backups.values().cloned().collect(),
    }
}

/// Starts the process again when it has died, and waits for its remains.
fn watch(inner: &Weak<Inner>) {
    loop {
        thread::sleep(LOOK);
        let Some(inner) = inner.upgrade() else { return };
        let mut state = inner.state();
        if state.stopped {
            return;
        }
        if state.line.as_ref().is_some_and(alive) {
            continue;
        }
        if let Some(mut line) = state.line.take() {
            // Only to tell the journal why, where the other end still said so.
            let _ = line.stream().set_nonblocking(true);
            let _ = line.receive::<Response>();
            tracing::warn!("the browse process is gone; starting it again");
        }
        if state.retry.is_some_and(|(when, _)| Instant::now() < when) {
            continue;
        }
        if let Err(error) = inner.revive(&mut state) {
            let pause = state.retry.map_or(LOOK, |(_, pause)| (pause * 2).min(LONGEST_PAUSE));
            state.retry = Some((Instant::now() + pause, pause));
            tracing::warn!(message_id = message::MOUNT_FAILED, "{error}; trying again in {pause:?}");
        }
    }
}

/// Whether the other end is still there.
fn alive(line: &Line) -> bool {
    use std::os::fd::AsRawFd;
    let mut byte = [0];
    let got = recv(line.stream().as_raw_fd(), &mut byte, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
    matches!(got, Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR))
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request. A process that is gone is replaced and told everything, which has the
    /// request's effect too.
    fn ask(&self, state: &mut State, request: &Request) -> Result<()> {
        if state.stopped {
            return Err(Error::invalid_state("the browse process was stopped"));
        }
        if let Some(line) = &mut state.line {
            match exchange(line, request) {
                Ok(Response::Failed(error)) => return Err(error),
                Ok(_) => return Ok(()),
                Err(error) => tracing::warn!("the browse process does not answer ({error}); looking for it again"),
            }
            state.line = None;
        }
        self.revive(state)
    }

    /// Finds or starts a process and tells it everything.
    fn revive(&self, state: &mut State) -> Result<()> {
        self.connect(state)?;
        let request = set_request(state);
        let Some(line) = &mut state.line else { return Err(Error::failed("the browse process is not there")) };
        match exchange(line, &request) {
            Ok(Response::Failed(error)) => Err(error),
            Ok(_) => {
                state.retry = None;
                Ok(())
            }
            Err(error) => {
                state.line = None;
                Err(error)
            }
        }
    }

    /// Connects to a process that is there, or starts one.
    fn connect(&self, state: &mut State) -> Result<()> {
        if let Some(child) = &mut state.child
            && matches!(child.try_wait(), Ok(Some(_)))
        {
            state.child = None;
        }
        match self.greet() {
            Ok(line) => {
                state.line = Some(line);
                return Ok(());
            }
            Err(error) if self.unit => {
                return Err(error.context("the browse process of strongroom-browse.service cannot be reached"));
            }
            Err(_) => {}
        }
        state.child = Some(self.spawn()?);
        state.line = Some(self.greet()?);
        Ok(())
    }

    /// Connects, and sees that the process speaks the same language. One that does not is ended.
    fn greet(&self) -> Result<Line> {
        let mut line = connect(&self.options.socket)?;
        match exchange(&mut line, &Request::Hello(VERSION)) {
            Ok(Response::Welcome { version: VERSION, .. }) => Ok(line),
            other => {
                let _ = exchange(&mut line, &Request::Stop);
                let _ = line.receive::<serde_json::Value>();
                Err(Error::failed(format!("a browse process of another version was there ({other:?})")))
            }
        }
    }

    /// Starts a process and waits until its mount stands.
    fn spawn(&self) -> Result<Child> {
        let (program, args) = &self.options.executable;
        let mut child = Command::new(program)
            .args(args)
            .arg("--mount")
            .arg(&self.options.mount)
            .arg("--socket")
            .arg(&self.options.socket)
            .arg("--linger")
            .arg(self.options.linger.as_secs().to_string())
            .arg("--report")
            // Many threads free large buffers; with an arena each, the C library hoards them.
            .env("MALLOC_ARENA_MAX", "2")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .at(|| format!("cannot start the browse process {}", program.display()))?;
        let (send, receive) = std::sync::mpsc::channel();
        if let Some(out) = child.stdout.take() {
            let reading = thread::Builder::new().name("browse-start".to_owned()).spawn(move || {
                // The program may say other things first.
                let lines = BufReader::new(out).lines().map_while(|line| line.ok());
                let report = |line: String| serde_json::from_str::<Response>(line.get(line.find('{')?..)?).ok();
                let _ = send.send(lines.filter_map(report).next());
            });
            reading.at(|| "cannot start a thread")?;
        }
        let error = match receive.recv_timeout(STARTING).ok().flatten() {
            Some(Response::Failed(error)) => error,
            Some(_) => return Ok(child),
            None => Error::failed("it ended, or did not get ready in time"),
        };
        let _ = child.kill();
        let _ = child.wait();
        Err(error.context("the browse process cannot start"))
    }
}

/// Sends a request and waits for its answer.
fn exchange(line: &mut Line, request: &Request) -> Result<Response> {
    line.stream().set_read_timeout(Some(PATIENCE)).at(|| "cannot set a timeout")?;
    line.stream().set_write_timeout(Some(PATIENCE)).at(|| "cannot set a timeout")?;
    line.send(request)?;
    line.receive()?.ok_or_else(|| Error::new(ErrorKind::Failed, "the browse process has closed the connection"))
}
