//! The browse process: `strongroomd browse --mount DIR --socket PATH [--linger SECONDS]`.
//!
//! It outlives the daemon that started it: connections come and go, the mount stays. With
//! `--linger SECONDS` it ends when no daemon was connected for that long; 0, the default, waits
//! for ever, which is right under systemd. It ends on SIGTERM, SIGINT and SIGHUP by detaching the
//! mount, and when somebody else unmounts it.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use nix::fcntl::{Flock, FlockArg};

use crate::model::{Error, ErrorKind, IoContext, Result, message};

use super::fuse::{self, Notifier};
use super::mount;
use super::process;
use super::protocol::{Line, Request, Response, VERSION, listen, make_dir};
use super::view::{MEMORY, View};

/// Serves backups as files.
#[derive(Parser, Debug)]
#[command(name = "strongroomd browse")]
struct Options {
    /// The directory to mount at; made if missing, else it must be empty
    #[arg(long)]
    mount: PathBuf,
    /// The socket by which the daemon says what to show
    #[arg(long)]
    socket: PathBuf,
    /// End when no daemon was connected for so many seconds; 0: never
    #[arg(long, default_value_t = 0)]
    linger: u64,
    /// Megabytes of what was read of vaults that are kept in memory
    #[arg(long, value_name = "MB", default_value_t = MEMORY >> 20)]
    memory: usize,
    /// Say on standard output, in one line of JSON, that the mount stands or why not
    #[arg(long, hide = true)]
    report: bool,
}

/// How often memory is tidied up.
const TIDY: Duration = Duration::from_secs(3);

/// The process's definition, for its man page.
pub fn command() -> clap::Command {
    <Options as clap::CommandFactory>::command()
}

/// Runs the browse process with the arguments that follow `browse`. Gives the exit code: 0 when
/// it was told to end, 1 when it could not start, 2 for wrong arguments, 3 when somebody
/// unmounted the file system. Every now and then it does `tidy`.
pub fn main(args: impl Iterator<Item = OsString>, tidy: fn()) -> i32 {
    let options = match Options::try_parse_from(std::iter::once(OsString::from("strongroomd browse")).chain(args)) {
        Ok(options) => options,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { 2 } else { 0 };
        }
    };
    // Fails where the caller has set up a journal already.
    let _ = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).try_init();
    match start(&options, tidy) {
        Ok((served, mount, ending)) => {
            report(&options, &welcome(&mount));
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
            let ended = served.run();
            if ending.load(Ordering::SeqCst) {
                return 0;
            }
            tracing::warn!("{} was unmounted by somebody else: {ended:?}", mount.display());
            3
        }
        Err(error) => {
            tracing::error!(message_id = message::MOUNT_FAILED, "the browse process cannot start: {error}");
            report(&options, &Response::Failed(error));
            1
        }
    }
}

fn report(options: &Options, response: &Response) {
    if let (true, Ok(text)) = (options.report, serde_json::to_string(response)) {
        let mut out = std::io::stdout();
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }
}

fn welcome(mount: &Path) -> Response {
    Response::Welcome { version: VERSION, pid: std::process::id(), mount: mount.to_path_buf() }
}

/// What the threads that serve connections share.
struct Server {
    view: Arc<View>,
    notifier: Notifier,
    mount: PathBuf,
    /// Held while the set of backups changes, so that changes are told in order.
    changing: Mutex<()>,
    /// Connections, and since when there have been none.
    connected: Mutex<(usize, Instant)>,
    /// Whether the process itself ends the mount.
    ending: Arc<AtomicBool>,
    /// Held for the life of the process: one process per socket.
    _lock: Flock<File>,
}

fn lock(socket: &Path) -> Result<Flock<File>> {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
    let file = file.at(|| format!("cannot open {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => {
            Error::already_exists(format!("another browse process serves {}", socket.display()))
        }
        errno => Error::failed(format!("cannot lock {}: {errno}", path.display())),
    })
}

fn start(options: &Options, tidy: fn()) -> Result<(fuse::Served, PathBuf, Arc<AtomicBool>)> {
    process::settle();
    let signals = process::Signals::new()?;
    make_dir(&options.socket)?;
    let lock = lock(&options.socket)?;
    let point = mount::prepare(&options.mount)?;
    let threads = thread::available_parallelism().map_or(2, usize::from);
    let view = Arc::new(View::new(threads, options.memory.saturating_mul(1 << 20)).at(|| "cannot start threads")?);
    let device = mount::attach(&point)?;
    let ending = Arc::new(AtomicBool::new(false));
    let rest = || {
        let served = fuse::open(view.clone(), device, threads).at(|| "the kernel does not agree on FUSE")?;
        mount::tune(&point);
        let listener = listen(&options.socket)?;
        let server = Arc::new(Server {
            view,
            notifier: served.notifier(),
            mount: point.clone(),
            changing: Mutex::default(),
            connected: Mutex::new((0, Instant::now())),
            ending: ending.clone(),
            _lock: lock,
        });
        let (waiting, at) = (server.clone(), options.socket.clone());
        spawn("signals", move || {
            signals.wait();
            waiting.end(&at);
        })?;
        spawn("tidy", move || {
            loop {
                thread::sleep(TIDY);
                tidy();
            }
        })?;
        if options.linger > 0 {
            let (watching, linger, at) = (server.clone(), Duration::from_secs(options.linger), options.socket.clone());
            spawn("linger", move || watching.linger(linger, &at))?;
        }
        let at = options.socket.clone();
        spawn("socket", move || {
            for stream in listener.incoming() {
                match stream {
                    Ok(stream) => server.clone().welcome(stream, at.clone()),
                    Err(error) => {
                        tracing::warn!("cannot accept a connection: {error}");
                        thread::sleep(Duration::from_millis(100));
                    }
                }
            }
        })?;
        Ok(served)
    };
    match rest() {
        Ok(served) => Ok((served, point, ending)),
        Err(error) => {
            let _ = mount::detach(&point);
            Err(error)
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(body).map(|_| ()).at(|| "cannot start a thread")
}

impl Server {
    /// Detaches the mount and ends the process.
    fn end(&self, socket: &Path) -> ! {
        self.ending.store(true, Ordering::SeqCst);
        let _ = std::fs::remove_file(socket);
        let code = match mount::detach(&self.mount) {
            Ok(()) => 0,
            Err(error) => {
                tracing::error!("{error}");
                1
            }
        };
        std::process::exit(code)
    }

    fn linger(&self, linger: Duration, socket: &Path) {
        loop {
            thread::sleep(Duration::from_millis(200).min(linger));
            let (connections, since) = *self.connected.lock().unwrap_or_else(PoisonError::into_inner);
            if connections == 0 && since.elapsed() >= linger {
                tracing::info!("no daemon for {linger:?}; unmounting {}", self.mount.display());
                self.end(socket);
            }
        }
    }

    fn count(&self, up: bool) {
        let mut connected = self.connected.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = if up { connected.0.saturating_add(1) } else { connected.0.saturating_sub(1) };
        *connected = (connections, Instant::now());
    }

    /// Serves a connection from a thread of its own.
    fn welcome(self: Arc<Self>, stream: UnixStream, socket: PathBuf) {
        let served = spawn("connection", move || {
            self.count(true);
            let talk = Line::new(stream).and_then(|mut line| self.talk(&mut line, &socket));
            self.count(false);
            if let Err(error) = talk {
                tracing::warn!("a connection ended: {error}");
            }
        });
        if let Err(error) = served {
            tracing::warn!("{error}");
        }
    }

    fn talk(&self, line: &mut Line, socket: &Path) -> Result<()> {
        while let Some(request) = line.receive::<Request>()? {
            let response = match request {
                Request::Hello(_) => welcome(&self.mount),
                Request::Stop => {
                    let _ = line.send(&Response::Done);
                    self.end(socket)
                }
                request => self.change(&request).into(),
            };
            line.send(&response)?;
        }
        Ok(())
    }

    /// Changes what is shown; done when the kernel knows.
    fn change(&self, request: &Request) -> Result<()> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let (changes, result) = match request {
            Request::Set { vaults, backups } => {
                let vaults = vaults.iter().map(|vault| vault.access()).collect::<Result<Vec<_>>>()?;
                self.view.set(&vaults, backups.clone())
            }
            Request::Add { vault, backup } => (self.view.add(&vault.access()?, backup.as_ref().clone())?, Ok(())),
            Request::Remove(id) => (self.view.remove(*id), Ok(())),
            Request::Hello(_) | Request::Stop => return Err(Error::new(ErrorKind::Failed, "not a change")),
        };
        self.notifier.tell(&changes);
        result
    }
}
