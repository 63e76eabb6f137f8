//! Programs of the database servers: found, run with argument lists as the right user, watched.
//!
//! What it guarantees: no shell; an environment of our own, in which alone a password stands; every
//! wait ends when the job is cancelled, and the program with it; a program that fails says why.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, User};

use crate::model::{Error, IoContext, Progress, Result};

/// How long a wait lasts before the cancel flag is looked at again, in milliseconds.
const PATIENCE: u16 = 200;
/// What is kept of a program's complaints, in bytes.
const COMPLAINTS: usize = 16 << 10;
/// The longest answer of a program that is read into memory, in bytes.
const ANSWER: usize = 64 << 20;

/// The system's user that a program runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunAs {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl RunAs {
    /// The system's user of that name.
    pub fn named(name: &str) -> Result<Option<Self>> {
        let user =
            User::from_name(name).map_err(|e| Error::failed(format!("cannot look up the user {name:?}: {e}")))?;
        Ok(user.map(|user| Self { uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
    }

    /// Ourselves.
    pub fn us() -> Self {
        Self { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() }
    }
}

/// A program with its arguments.
#[derive(Clone)]
pub struct Tool {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(&'static str, String)>,
    run_as: RunAs,
}

impl fmt::Debug for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The environment holds passwords.
        f.debug_struct("Tool").field("program", &self.program).field("arguments", &self.arguments).finish()
    }
}

/// Where a program of this name is: in `places`, or in the daemon's own `PATH`.
pub fn find(name: &str, places: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin:/usr/sbin:/sbin".into());
    let all = places.iter().cloned().chain(std::env::split_paths(&path));
    all.filter(|dir| dir.is_absolute()).map(|dir| dir.join(name)).find(|file| is_program(file))
}

/// Whether a file can be run.
pub fn is_program(file: &Path) -> bool {
    file.is_file() && nix::unistd::access(file, nix::unistd::AccessFlags::X_OK).is_ok()
}

/// The error of a program that is not there.
pub fn missing(name: &str, package: &str) -> Error {
    Error::invalid_state(format!("the program {name} is not installed; install the package {package}"))
}

impl Tool {
    /// A program run by a user of the system.
    pub fn new(program: &Path, run_as: RunAs) -> Self {
        Self { program: program.to_owned(), arguments: Vec::new(), environment: Vec::new(), run_as }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// What to call it in messages.
    pub fn name(&self) -> String {
        self.program.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn spawn(&self, input: Stdio, output: Stdio) -> Result<Running> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env_clear().current_dir("/");
        // Messages in English, since they are looked at.
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8").env("LC_MESSAGES", "C");
        command.env("HOME", "/nonexistent").envs(self.environment.iter().map(|(k, v)| (k, v)));
        command.stdin(input).stdout(output).stderr(Stdio::piped()).process_group(0);
        if self.run_as != RunAs::us() {
            // Supplementary groups go too.
            command.uid(self.run_as.uid).gid(self.run_as.gid);
        }
        let mut child = command.spawn().at(|| format!("cannot run {}", self.program.display()))?;
        let errors = child.stderr.take().map(|pipe| std::thread::spawn(move || complaints(pipe)));
        Ok(Running { name: self.name(), child, errors, ended: false })
    }

    /// Runs it with this on its standard input, and gives what it wrote.
    pub fn output(&self, input: &[u8], progress: &Arc<Progress>) -> Result<Vec<u8>> {
        let (answer, status, complaint) = self.run(input, progress)?;
        if status.success() { Ok(answer) } else { Err(failure(&self.name(), status, &complaint)) }
    }

    /// The same, where a failure is looked at: its answer, how it ended and what it said.
    pub fn run(&self, input: &[u8], progress: &Arc<Progress>) -> Result<(Vec<u8>, ExitStatus, String)> {
        let mut running = self.spawn(Stdio::piped(), Stdio::piped())?;
        // Small inputs fit into the pipe; a program that does not read them has failed anyway.
        if let Some(mut pipe) = running.child.stdin.take() {
            let input = input.to_vec();
            std::thread::spawn(move || drop(pipe.write_all(&input)));
        }
        let out = running.child.stdout.take().ok_or_else(|| Error::failed("a program has no output"))?;
        let mut stream = Stream { running, out, progress: Arc::clone(progress) };
        let mut answer = Vec::new();
        let read = (&mut stream).take(ANSWER as u64).read_to_end(&mut answer);
        progress.check()?;
        read.at(|| format!("cannot read what {} says", self.name()))?;
        let (status, complaint) = stream.running.wait(progress)?;
        Ok((answer, status, complaint))
    }

    /// Runs it for what it writes.
    pub fn stream(&self, progress: &Arc<Progress>) -> Result<Stream> {
        let mut running = self.spawn(Stdio::null(), Stdio::piped())?;
        let out = running.child.stdout.take().ok_or_else(|| Error::failed("a program has no output"))?;
        Ok(Stream { running, out, progress: Arc::clone(progress) })
    }

    /// Runs it for what it reads.
    pub fn feed(&self, progress: &Arc<Progress>) -> Result<Feed> {
        let mut running = self.spawn(Stdio::piped(), Stdio::null())?;
        let pipe = running.child.stdin.take();
        Feed::new(running, pipe, None, progress)
    }

    /// Runs it for what it reads and what it writes, which is little.
    pub fn feed_and_answer(&self, progress: &Arc<Progress>) -> Result<Feed> {
        let mut running = self.spawn(Stdio::piped(), Stdio::piped())?;
        let out = running.child.stdout.take();
        let answer = out.map(|pipe| {
            std::thread::spawn(move || {
                let mut answer = Vec::new();
                let _ = pipe.take(ANSWER as u64).read_to_end(&mut answer);
                answer
            })
        });
        let pipe = running.child.stdin.take();
        Feed::new(running, pipe, answer, progress)
    }
}

/// The last of what a program complained about.
fn complaints(mut pipe: impl Read) -> Vec<u8> {
    let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(n) = pipe.read(&mut buffer) {
        if n == 0 {
            break;
        }
        kept.extend_from_slice(buffer.get(..n).unwrap_or_default());
        if kept.len() > 2 * COMPLAINTS {
            kept.drain(..kept.len() - COMPLAINTS);
        }
    }
    kept
}

/// The error of a program that failed, with what it said in one line.
pub fn failure(name: &str, status: ExitStatus, complaint: &str) -> Error {
    let lines: Vec<&str> = complaint.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    // The first line says what went wrong, the last ones what it led to.
    let said: String = lines.iter().take(6).copied().collect::<Vec<_>>().join("; ").chars().take(1000).collect();
    let said = if said.is_empty() { status.to_string() } else { said };
    Error::failed(format!("{name} failed: {said}"))
}

/// A program at work; it ends when this goes.
#[derive(Debug)]
struct Running {
    name: String,
    child: Child,
    errors: Option<JoinHandle<Vec<u8>>>,
    ended: bool,
}

impl Running {
    /// Waits for its end: how it ended, and what it complained about.
    fn wait(&mut self, progress: &Progress) -> Result<(ExitStatus, String)> {
        let status = loop {
            if let Some(status) = self.child.try_wait().at(|| format!("cannot wait for {}", self.name))? {
                break status;
            }
            progress.check()?;
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        self.ended = true;
        let said = self.errors.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        Ok((status, String::from_utf8_lossy(&said).into_owned()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            if let Ok(id) = i32::try_from(self.child.id()) {
                let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Waits until a pipe can be used, or the job is cancelled.
fn wait_for(pipe: BorrowedFd<'_>, events: PollFlags, progress: &Progress) -> io::Result<()> {
    loop {
        if progress.is_cancelled() {
            return Err(io::Error::other("the job was cancelled"));
        }
        match poll(&mut [PollFd::new(pipe, events)], PollTimeout::from(PATIENCE)) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
    }
}

/// What a program writes. At its end it must be [`Stream::finish`]ed, which says whether that was
/// all.
#[derive(Debug)]
pub struct Stream {
    running: Running,
    out: ChildStdout,
    progress: Arc<Progress>,
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        wait_for(self.out.as_fd(), PollFlags::POLLIN, &self.progress)?;
        self.out.read(buffer)
    }
}

impl Stream {
    /// Waits for the program's end; an error where it failed, whatever it had written.
    pub fn finish(mut self) -> Result<()> {
        let (status, complaint) = self.running.wait(&self.progress)?;
        if status.success() { Ok(()) } else { Err(failure(&self.running.name, status, &complaint)) }
    }
}

/// What a program reads.
#[derive(Debug)]
pub struct Feed {
    running: Running,
    pipe: Option<ChildStdin>,
    answer: Option<JoinHandle<Vec<u8>>>,
    progress: Arc<Progress>,
}

impl Feed {
    fn new(
        running: Running,
        pipe: Option<ChildStdin>,
        answer: Option<JoinHandle<Vec<u8>>>,
        progress: &Arc<Progress>,
    ) -> Result<Self> {
        if let Some(pipe) = &pipe {
            let flags = rustix::fs::OFlags::NONBLOCK;
            rustix::fs::fcntl_setfl(pipe, flags).at(|| "cannot set up a pipe")?;
        }
        Ok(Self { running, pipe, answer, progress: Arc::clone(progress) })
    }

    /// Ends the input and waits for the program's end; gives its answer.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.pipe = None;
        let (status, complaint) = self.running.wait(&self.progress)?;
        if !status.success() {
            return Err(failure(&self.running.name, status, &complaint));
        }
        Ok(self.answer.take().and_then(|thread| thread.join().ok()).unwrap_or_default())
    }
}

impl Write for Feed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(pipe) = &mut self.pipe else { return Err(io::ErrorKind::BrokenPipe.into()) };
        loop {
            match pipe.write(bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    wait_for(pipe.as_fd(), PollFlags::POLLOUT, &self.progress)?;
                }
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
