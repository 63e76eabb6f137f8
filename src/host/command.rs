//! Commands that an administrator's configuration names, run with a time limit.
//!
//! Under a service manager each is a transient unit of its own: it has none of the daemon's
//! restrictions, its output is in the journal under its own name, and nothing of it is left when its
//! time is over. Where there is none it is a child in a process group of its own.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use zbus::wire::{OwnedObjectPath, Variant};

use super::BusAddress;
use super::units::{block, call, is_there, listen, manager, wait};
use crate::model::{Error, IoContext, Result};

/// How often whoever waits looks.
const LOOK: Duration = Duration::from_millis(20);
/// Bytes of what a command said that an error repeats.
const SAID: usize = 400;

/// A command to run.
#[derive(Debug, Clone)]
pub struct Run<'a> {
    /// The program and its arguments.
    pub words: &'a [String],
    /// Names and values for its environment.
    pub environment: &'a [(String, String)],
    /// What its unit is called, without the type.
    pub unit: &'a str,
    /// After so long it is ended.
    pub limit: Duration,
}

/// Runs a command and waits for it; an error says how it ended. An error of `check` ends it.
pub fn run(address: &BusAddress, run: &Run<'_>, check: &dyn Fn() -> Result<()>) -> Result<()> {
    let began = Instant::now();
    let done = block(async {
        let bus = address.builder().build().await.map_err(|e| address.unreachable(&e))?;
        if !is_there(&bus).await? {
            return Ok(None);
        }
        let manager = manager(&bus).await?;
        let mut ended = listen(&manager).await?;
        let unit = format!("{}.service", run.unit);
        // What an earlier daemon began under that name is over.
        let _ = call::<_, ()>(&manager, "ResetFailedUnit", &unit.as_str()).await;
        let path: OwnedObjectPath =
            call(&manager, "StartTransientUnit", &(unit.as_str(), "fail", properties(run), Aux::new())).await?;
        let jobs = BTreeMap::from([(path.to_string(), unit.clone())]);
        let waited = wait(&mut ended, jobs, check).await;
        if waited.is_err() {
            let _ = call::<_, OwnedObjectPath>(&manager, "StopUnit", &(unit.as_str(), "replace")).await;
        }
        waited.map(|results| results.into_iter().next().map(|(_, result)| (unit, result)))
    })?;
    match done {
        None => child(run, check),
        Some((_, result)) if result == "done" => Ok(()),
        // The manager says of either only that it failed.
        Some(_) if began.elapsed() >= run.limit => Err(too_long(run)),
        Some((unit, _)) => Err(Error::failed(format!("{} failed; see journalctl -u {unit}", shown(run)))),
    }
}

/// Ends a command that an earlier daemon may have left at work.
pub fn end(address: &BusAddress, unit: &str) -> Result<()> {
    block(async {
        let bus = address.builder().build().await.map_err(|e| address.unreachable(&e))?;
        if is_there(&bus).await? {
            let manager = manager(&bus).await?;
            let mut ended = listen(&manager).await?;
            let unit = format!("{unit}.service");
            // Most often it is not there.
            if let Ok(path) = call::<_, OwnedObjectPath>(&manager, "StopUnit", &(unit.as_str(), "replace")).await {
                wait(&mut ended, BTreeMap::from([(path.to_string(), unit)]), &|| Ok(())).await?;
            }
        }
        Ok(())
    })
}

type Aux = Vec<(String, Vec<(String, Variant<'static>)>)>;

fn properties(run: &Run<'_>) -> Vec<(&'static str, Variant<'static>)> {
    let program = run.words.first().cloned().unwrap_or_default();
    // The manager puts variables in place of what begins with a dollar; two of them stand for one.
    let words: Vec<String> = run.words.iter().map(|word| word.replace('$', "$$")).collect();
    let limit = u64::try_from(run.limit.as_micros()).unwrap_or(u64::MAX);
    let environment: Vec<String> = run.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    vec![
        ("Description", Variant::from(format!("Strongroom: {program}"))),
        ("Type", Variant::from("oneshot")),
        ("ExecStart", Variant::from(vec![(program, words, false)])),
        ("Environment", Variant::from(environment)),
        ("TimeoutStartUSec", Variant::from(limit)),
        ("TimeoutStopUSec", Variant::from(5_000_000_u64)),
        ("CollectMode", Variant::from("inactive-or-failed")),
    ]
}

fn shown(run: &Run<'_>) -> String {
    run.words.join(" ").chars().take(200).collect()
}

fn too_long(run: &Run<'_>) -> Error {
    Error::failed(format!("{} was ended, because it took longer than {} s", shown(run), run.limit.as_secs()))
}

/// The same as a child of ours.
fn child(run: &Run<'_>, check: &dyn Fn() -> Result<()>) -> Result<()> {
    let what = || format!("cannot run {}", shown(run));
    let Some((program, arguments)) = run.words.split_first() else { return Ok(()) };
    let said = rustix::fs::memfd_create("output", rustix::fs::MemfdFlags::CLOEXEC).at(what)?;
    let mut said = std::fs::File::from(said);
    let mut command = Command::new(program);
    command.args(arguments).envs(run.environment.iter().cloned()).current_dir("/").process_group(0);
    command.stdin(Stdio::null()).stdout(said.try_clone().at(what)?).stderr(said.try_clone().at(what)?);
    let mut child = command.spawn().at(what)?;
    let until = Instant::now() + run.limit;
    let ended = loop {
        match child.try_wait().at(what)? {
            Some(status) => break Ok(status),
            None if Instant::now() >= until => break Err(too_long(run)),
            None => match check() {
                Ok(()) => std::thread::sleep(LOOK),
                Err(e) => break Err(e),
            },
        }
    };
    if let (Err(_), Ok(group)) = (&ended, i32::try_from(child.id())) {
        // Whatever it started goes with it. It is not waited for yet, so the number is still its own.
        let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(group), nix::sys::signal::Signal::SIGKILL);
        let _ = child.wait();
    }
    let status = ended?;
    if status.success() {
        return Ok(());
    }
    let mut text = Vec::new();
    let _ = std::io::Seek::rewind(&mut said).and_then(|()| std::io::Read::read_to_end(&mut said, &mut text));
    let text = String::from_utf8_lossy(text.get(text.len().saturating_sub(SAID)..).unwrap_or_default());
    Err(Error::failed(format!("{} failed ({status}): {}", shown(run), text.trim())))
}
