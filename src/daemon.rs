//! The daemon: options, configuration, the service on the bus, signals, and a clean end.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::LevelFilter;

use crate::bus::{self, BusAddress};
use crate::host::{limits, log, notify};
use crate::model::{Error, IoContext, Result, message};
use crate::service::{BrowseProcess, Clock, Config, Service, ServiceOptions, Unopened};

const CONFIG: &str = "/etc/strongroom/strongroom.toml";
const STATE: &str = "/var/lib/strongroom";
const CACHE: &str = "/var/cache/strongroom";
const RUNTIME: &str = "/run/strongroom";
const FIRST_VAULT: &str = "/var/backups/strongroom";

/// The exit status of a bad configuration (`EX_CONFIG`).
const BAD_CONFIGURATION: i32 = 78;
/// Jobs have this long to stop; systemd and the rest of us stay within 30 s.
const STOP: Duration = Duration::from_secs(25);
/// The first argument that makes the command this daemon.
const HIDDEN: &str = "__strongroomd";

/// The Strongroom daemon: backups of this machine, controlled over D-Bus.
///
/// `strongroomd browse` is the process that mounts them.
#[derive(Debug, Parser)]
#[command(name = "strongroomd", version)]
struct Options {
    /// The configuration file; it may be absent. `conf.d/*.toml` beside it is read too
    #[arg(long, default_value = CONFIG)]
    config: PathBuf,
    /// The bus: system, session, or a D-Bus address
    #[arg(long, default_value = "system")]
    bus: String,
    /// Where the catalog and the keys are
    #[arg(long)]
    state_dir: Option<PathBuf>,
    /// Where indexes and change caches are, which may be lost
    #[arg(long)]
    cache_dir: Option<PathBuf>,
    /// Where backups are mounted
    #[arg(long)]
    browse_path: Option<PathBuf>,
    /// Keep the mount for so many seconds after the daemon ended [default: for ever]
    #[arg(long, value_name = "SECONDS")]
    browse_linger: Option<u64>,
    /// Mount nothing
    #[arg(long, hide = true)]
    no_browse: bool,
    /// How much to log: error, warn, info, debug or trace
    #[arg(long, default_value = "info")]
    log: LevelFilter,
}

/// The definitions of the daemon and of `strongroomd browse`, for man pages.
pub fn commands() -> [clap::Command; 2] {
    [<Options as clap::CommandFactory>::command(), crate::browse::command()]
}

/// Runs the daemon with the arguments after the program's name, and gives the exit status.
pub fn main(args: impl Iterator<Item = OsString>) -> i32 {
    let mut args = args.peekable();
    if args.peek().is_some_and(|first| first == "browse") {
        log::start(LevelFilter::INFO);
        limits::apply(limits::Buffers::Returned);
        return crate::browse::main(args.skip(1), limits::trim);
    }
    let options = match Options::try_parse_from(std::iter::once(OsString::from("strongroomd")).chain(args)) {
        Ok(options) => options,
        Err(e) => {
            let _ = e.print();
            return if e.use_stderr() { 2 } else { 0 };
        }
    };
    log::start(options.log);
    limits::apply(limits::Buffers::Kept);
    let address = match options.bus.parse::<BusAddress>() {
        Ok(address) => address,
        Err(e) => return fail(&e, 2),
    };
    let service_options = match service_options(options) {
        Ok(options) => options,
        Err(e) => return fail(&e, 2),
    };
    if let Err(e) = Config::load(&service_options.config) {
        return fail(&e, BAD_CONFIGURATION);
    }
    match run(service_options, address) {
        Ok(()) => 0,
        Err(e) => fail(&e.error, if e.configuration { BAD_CONFIGURATION } else { 1 }),
    }
}

fn fail(error: &Error, status: i32) -> i32 {
    tracing::error!("{error}");
    status
}

/// The first directory that systemd gives us, if it runs us.
fn from_systemd(variable: &str) -> Option<PathBuf> {
    let value = std::env::var_os(variable)?;
    let first = value.to_str()?.split(':').next()?.to_owned();
    (!first.is_empty()).then(|| PathBuf::from(first))
}

fn absolute(path: PathBuf) -> Result<PathBuf> {
    let path = std::path::absolute(&path).at(|| format!("{} cannot be made absolute", path.display()))?;
    // Without a trailing slash or `.`, so that paths can be compared.
    Ok(path.components().collect())
}

fn service_options(options: Options) -> Result<ServiceOptions> {
    let pick = |given: Option<PathBuf>, variable: &str, usual: &str| {
        absolute(given.or_else(|| from_systemd(variable)).unwrap_or_else(|| PathBuf::from(usual)))
    };
    let state_dir = pick(options.state_dir, "STATE_DIRECTORY", STATE)?;
    let cache_dir = pick(options.cache_dir, "CACHE_DIRECTORY", CACHE)?;
    let runtime = pick(None, "RUNTIME_DIRECTORY", RUNTIME)?;
    let given = options.browse_path.is_some();
    let browse_path = match options.browse_path {
        Some(path) => absolute(path)?,
        None => runtime.join("browse"),
    };
    // Beside the mount where that was chosen, so that two daemons do not meet at one socket.
    let socket = if given { beside(&browse_path, ".sock") } else { runtime.join("browse.sock") };
    let first_vault = if state_dir == Path::new(STATE) { PathBuf::from(FIRST_VAULT) } else { state_dir.join("vault") };
    let browse = if options.no_browse {
        None
    } else {
        Some(BrowseProcess {
            socket,
            linger: options.browse_linger.map(Duration::from_secs),
            executable: executable()?,
        })
    };
    let (config, bus, clock) = (absolute(options.config)?, options.bus.parse()?, Clock::System);
    Ok(ServiceOptions { config, state_dir, cache_dir, browse_path, first_vault, browse, bus, clock })
}

/// The same path with `suffix` at its end.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push(suffix);
    PathBuf::from(text)
}

/// This program again, as the browse process.
fn executable() -> Result<(PathBuf, Vec<OsString>)> {
    let program = std::env::current_exe().at(|| "cannot find the program's own file")?;
    let hidden = std::env::args_os().nth(1).filter(|first| first == HIDDEN);
    Ok((program, hidden.into_iter().chain([OsString::from("browse")]).collect()))
}

fn run(options: ServiceOptions, address: BusAddress) -> Result<(), Unopened> {
    let lingers = options.browse.as_ref().is_none_or(|b| b.linger != Some(Duration::ZERO));
    let service = Service::open_declared(options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .at(|| "cannot start the runtime")?;
    let result = runtime.block_on(serve(&service, address));
    // Whatever ended it, what runs is brought to a safe stop; a second time does nothing.
    service.stop(STOP);
    if !lingers {
        service.stop_browse();
    }
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(result?)
}

async fn serve(service: &Arc<Service>, address: BusAddress) -> Result<()> {
    let what = || "cannot listen for signals";
    let mut terminate = signal(SignalKind::terminate()).at(what)?;
    let mut interrupt = signal(SignalKind::interrupt()).at(what)?;
    let hangup = signal(SignalKind::hangup()).at(what)?;
    let attendants = [tokio::spawn(reload_on(hangup, Arc::clone(service))), tokio::spawn(report(Arc::clone(service)))];
    let place = address.to_string();
    let ready = || {
        service.start();
        tracing::info!(message_id = message::READY, "ready on {place}");
        notify::ready(&service.summary());
    };
    let stopping = Arc::clone(service);
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        notify::stopping(STOP + Duration::from_secs(4));
        // The bus is still served, so that everybody hears how their jobs ended.
        let _ = tokio::task::spawn_blocking(move || stopping.stop(STOP)).await;
    };
    let result = bus::serve(Arc::clone(service), address, ready, shutdown).await;
    attendants.iter().for_each(tokio::task::JoinHandle::abort);
    result
}

async fn reload_on(mut hangup: tokio::signal::unix::Signal, service: Arc<Service>) {
    while hangup.recv().await.is_some() {
        let service = Arc::clone(&service);
        match tokio::task::spawn_blocking(move || service.reload(crate::model::Map::new())).await {
            Ok(Ok(())) => tracing::info!("configuration read again"),
            Ok(Err(e)) => tracing::error!("the configuration stays as it was: {e}"),
            Err(e) => tracing::error!("reloading failed: {e}"),
        }
    }
}

/// How often `systemctl status` is brought up to date.
const TELL: Duration = Duration::from_secs(2);

/// Tells systemd that we live, and what we are about.
async fn report(service: Arc<Service>) {
    let pause = notify::watchdog().map_or(TELL, |limit| (limit / 3).min(TELL));
    let mut before = String::new();
    loop {
        tokio::time::sleep(pause.max(Duration::from_millis(100))).await;
        let asked = Arc::clone(&service);
        // Answered only while the queue and the catalog can be had: a daemon that hangs says nothing.
        let Ok(now) = tokio::task::spawn_blocking(move || asked.summary()).await else { continue };
        notify::alive();
        if now != before {
            notify::status(&now);
            before = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> ServiceOptions {
        let args = std::iter::once("strongroomd").chain(args.iter().copied());
        service_options(Options::try_parse_from(args).unwrap()).unwrap()
    }

    #[test]
    fn the_first_vault_lies_in_a_state_directory_of_ones_own() {
        let options = parse(&["--state-dir", "/x/state/"]);
        assert_eq!(options.state_dir, Path::new("/x/state"));
        assert_eq!(options.first_vault, Path::new("/x/state/vault"));
    }

    #[test]
    fn the_socket_stands_beside_a_chosen_mount() {
        let options = parse(&["--browse-path", "/x/browse", "--browse-linger", "3"]);
        let browse = options.browse.unwrap();
        assert_eq!(browse.socket, Path::new("/x/browse.sock"));
        assert_eq!(browse.linger, Some(Duration::from_secs(3)));
        assert!(browse.executable.1.last().is_some_and(|a| a == "browse"));
    }
}
