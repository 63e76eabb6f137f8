//! Units of the service manager: looked at, stopped, started, and waited for.
//!
//! Every call has a connection of its own: between stopping and starting hours may pass, and a bus
//! that was started anew meanwhile is found again.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use zbus::export::futures_core::Stream;
use zbus::proxy::CacheProperties;
use zbus::wire::{DynamicDeserialize, DynamicType, OwnedObjectPath};
use zbus::{Connection, MessageStream, Proxy};

use super::BusAddress;
use crate::model::{Error, IoContext, Result};

const NAME: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
pub(super) const UNIT: &str = "org.freedesktop.systemd1.Unit";
const BUS: (&str, &str) = ("org.freedesktop.DBus", "/org/freedesktop/DBus");

/// How often whoever waits may change their mind.
const LOOK: Duration = Duration::from_millis(200);

/// Kinds of units that can be stopped and started. A mount point is not among them: what is
/// restored beneath it would go into the directory that it covers.
const KINDS: &[&str] = &["service", "socket", "timer", "path", "target", "slice", "scope"];

/// Units that the service itself needs, or without which nothing could be started again.
pub(super) const NEEDED: &[&str] = &[
    "strongroomd.service",
    "strongroom-browse.service",
    "dbus.service",
    "dbus-broker.service",
    "dbus.socket",
    "polkit.service",
    "systemd-journald.service",
    "systemd-journald.socket",
    "systemd-journald-dev-log.socket",
    "systemd-udevd.service",
    "basic.target",
    "sysinit.target",
    "multi-user.target",
    "-.slice",
    "system.slice",
    "init.scope",
];

/// Refuses what is no name of a unit that can be stopped for a while.
pub fn check_name(text: &str) -> Result<()> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b);
    let (stem, kind) = text.rsplit_once('.').unwrap_or((text, ""));
    if text.len() > 255 || stem.is_empty() || stem.ends_with('@') || !text.bytes().all(fits) || !KINDS.contains(&kind) {
        return Err(Error::invalid(format!(
            "{:?} is not the name of a unit that can be stopped; give one such as nginx.service or app@one.service",
            text.chars().take(80).collect::<String>()
        )));
    }
    refuse_needed(text)
}

pub(super) fn refuse_needed(id: &str) -> Result<()> {
    if NEEDED.contains(&id) {
        return Err(Error::invalid(format!(
            "{id:?} is needed by Strongroom itself or to start anything again; name the units of the data alone"
        )));
    }
    Ok(())
}

/// Which of these run, by their full names; one that the manager does not know is an error, and so
/// is a bus without a manager. Changes nothing.
pub fn running(address: &BusAddress, units: &[String]) -> Result<Vec<String>> {
    block(async {
        let manager = connect(address).await?;
        let mut running: Vec<String> = Vec::new();
        for name in units {
            let path: OwnedObjectPath = call(&manager, "LoadUnit", &name.as_str()).await?;
            let unit = proxy(manager.connection(), path.as_str(), UNIT).await.map_err(Error::failed)?;
            let property = async |name: &'static str| unit.get_property::<String>(name).await.map_err(Error::failed);
            let id = property("Id").await?;
            refuse_needed(&id)?;
            if property("LoadState").await? != "loaded" {
                return Err(Error::invalid_state(format!(
                    "the service manager does not know the unit {name:?}; correct the resource's units"
                )));
            }
            let state = property("ActiveState").await?;
            if !["inactive", "failed", "deactivating"].contains(&state.as_str()) && !running.contains(&id) {
                running.push(id);
            }
        }
        Ok(running)
    })
}

/// Stops units and waits for that. All of them at once: their manager knows in which order, and keeps
/// what one of them would start again from doing so. An error of `check` ends the waiting.
pub fn stop(address: &BusAddress, units: &[String], check: &dyn Fn() -> Result<()>) -> Result<()> {
    block(async {
        check()?;
        let wrong = all(&connect(address).await?, "StopUnit", units, check).await?;
        wrong.into_iter().next().map_or(Ok(()), Err)
    })
}

/// Starts units, waits for that, and answers what went wrong. An error means that the manager could
/// not be asked.
pub fn start(address: &BusAddress, units: &[String]) -> Result<Vec<Error>> {
    block(async { all(&connect(address).await?, "StartUnit", units, &|| Ok(())).await })
}

pub(super) fn block<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().at(|| "cannot start a runtime")?;
    runtime.block_on(work)
}

pub(super) async fn proxy(bus: &Connection, path: &str, interface: &'static str) -> zbus::Result<Proxy<'static>> {
    let builder = zbus::proxy::Builder::<Proxy<'static>>::new(bus).destination(NAME).path(path.to_owned());
    builder.interface(interface).cache_properties(CacheProperties::No).build().await
}

pub(super) async fn connect(address: &BusAddress) -> Result<Proxy<'static>> {
    let bus = address.builder().build().await.map_err(|e| address.unreachable(&e))?;
    if !is_there(&bus).await? {
        return Err(Error::invalid_state(format!(
            "there is no service manager on {address} that could stop or freeze units; restore into a target, or take \
             the units from the resource"
        )));
    }
    manager(&bus).await
}

/// Whether a bus has a service manager.
pub(super) async fn is_there(bus: &Connection) -> Result<bool> {
    let owned = bus.call_method(Some(BUS.0), BUS.1, Some(BUS.0), "NameHasOwner", &NAME).await;
    owned.and_then(|reply| reply.body().deserialize::<bool>()).map_err(Error::failed)
}

pub(super) async fn manager(bus: &Connection) -> Result<Proxy<'static>> {
    proxy(bus, PATH, MANAGER).await.map_err(Error::failed)
}

pub(super) async fn call<B, R>(manager: &Proxy<'_>, method: &'static str, arguments: &B) -> Result<R>
where
    B: serde::Serialize + DynamicType,
    R: for<'d> DynamicDeserialize<'d>,
{
    manager.call(method, arguments).await.map_err(Error::failed)
}

/// Has the manager do a job for each of the units, and waits for the end of them all. Answers those
/// that went wrong.
async fn all(
    manager: &Proxy<'_>,
    method: &'static str,
    units: &[String],
    check: &dyn Fn() -> Result<()>,
) -> Result<Vec<Error>> {
    // Listening first: a job may end before the answer that names it is here.
    let mut ended = listen(manager).await?;
    let (mut jobs, mut wrong) = (BTreeMap::new(), Vec::new());
    for unit in units {
        match call::<_, OwnedObjectPath>(manager, method, &(unit.as_str(), "replace")).await {
            Ok(path) => drop(jobs.insert(path.to_string(), unit.clone())),
            Err(e) => wrong.push(e.context(format!("{method} of {unit}"))),
        }
    }
    for (unit, result) in wait(&mut ended, jobs, check).await? {
        if !["done", "skipped"].contains(&result.as_str()) {
            let state = format!("{method} of {unit} ended with the result {result:?}; see systemctl status {unit}");
            wrong.push(Error::failed(state));
        }
    }
    Ok(wrong)
}

/// Listens for the ends of the manager's jobs.
pub(super) async fn listen(manager: &Proxy<'_>) -> Result<MessageStream> {
    let rule = zbus::MatchRule::builder()
        .msg_type(zbus::message::Type::Signal)
        .sender(NAME)
        .path(PATH)
        .interface(MANAGER)
        .member("JobRemoved")
        .build()
        .map_err(Error::failed)?;
    let ended = MessageStream::for_match_rule(rule, manager.connection(), None).await.map_err(Error::failed)?;
    call::<_, ()>(manager, "Subscribe", &()).await?;
    Ok(ended)
}

/// Waits for the end of jobs, by path, and answers what came of each.
pub(super) async fn wait(
    ended: &mut MessageStream,
    mut jobs: BTreeMap<String, String>,
    check: &dyn Fn() -> Result<()>,
) -> Result<Vec<(String, String)>> {
    let mut results = Vec::new();
    while !jobs.is_empty() {
        let next = tokio::time::timeout(LOOK, poll_fn(|context| Pin::new(&mut *ended).poll_next(context)));
        let message = match next.await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(_))) => continue,
            Ok(None) => return Err(Error::failed("the bus has gone before the service manager had ended its work")),
            Err(_) => {
                check()?;
                continue;
            }
        };
        let Ok((_, job, _, result)) = message.body().deserialize::<(u32, OwnedObjectPath, String, String)>() else {
            continue;
        };
        if let Some(unit) = jobs.remove(job.as_str()) {
            results.push((unit, result));
        }
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_units() {
        for good in ["nginx.service", "app@one.service", "a-b_c:d\\x2d.socket", "db.target", "x.y.timer"] {
            check_name(good).unwrap();
        }
        for bad in
            ["", "nginx", ".service", "app@.service", "srv-data.mount", "a b.service", "../x.service", "x.servise"]
        {
            assert!(check_name(bad).unwrap_err().message.contains("nginx.service"), "{bad}");
        }
        for needed in NEEDED.iter().filter(|n| !n.starts_with('-')) {
            assert!(check_name(needed).unwrap_err().message.contains("needed"), "{needed}");
        }
        assert!(check_name(&format!("{}.service", "x".repeat(300))).unwrap_err().message.len() < 300);
    }
}
