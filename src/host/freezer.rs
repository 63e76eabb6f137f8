//! Units that are frozen for a moment: their processes stand still, and go on as if nothing had
//! been.
//!
//! What Strongroom itself needs is never frozen, by whatever name or slice it is reached: who asks
//! to thaw must not stand still.

use std::time::Duration;

use zbus::Proxy;
use zbus::wire::OwnedObjectPath;

use super::BusAddress;
use super::units::{NEEDED, UNIT, block, call, connect, proxy, refuse_needed};
use crate::model::{Error, Result};

/// Kinds of units that have processes.
const KINDS: &[&str] = &["service", "scope", "slice"];
/// A unit that is not frozen by then waits for a disk or a network, and the others must not wait
/// for it.
const FREEZE_LIMIT: Duration = Duration::from_secs(10);
/// Thawing waits for nothing.
const THAW_LIMIT: Duration = Duration::from_secs(10);
/// Units beside those that cannot be stopped either, whose standing still is felt by everything.
const NEVER: &[&str] = &["systemd-logind.service", "user.slice", "machine.slice", "systemd-userdbd.service"];

/// Refuses a unit that cannot be frozen, by its name alone.
pub fn check_name(name: &str) -> Result<()> {
    refuse_needed(name)?;
    let kind = name.rsplit_once('.').map_or("", |(_, kind)| kind);
    if NEVER.contains(&name) {
        return Err(Error::invalid(format!("{name:?} is never frozen; name the services that use the data")));
    }
    if !KINDS.contains(&kind) {
        return Err(Error::invalid(format!(
            "{name:?} has no processes of its own to freeze; name the service, or give unit_action stop"
        )));
    }
    Ok(())
}

/// A property of a unit that is loaded.
async fn property<T>(manager: &Proxy<'_>, unit: &str, interface: &'static str, name: &str) -> Result<T>
where
    T: serde::de::DeserializeOwned + zbus::wire::Type,
{
    let path: OwnedObjectPath = call(manager, "GetUnit", &unit).await?;
    let unit = proxy(manager.connection(), path.as_str(), interface).await.map_err(Error::failed)?;
    unit.get_property::<T>(name).await.map_err(Error::failed)
}

/// The control group of a unit; empty where it has none.
async fn group(manager: &Proxy<'_>, unit: &str) -> String {
    let interface = match unit.rsplit_once('.').map(|(_, kind)| kind) {
        Some("service") => "org.freedesktop.systemd1.Service",
        Some("scope") => "org.freedesktop.systemd1.Scope",
        Some("slice") => "org.freedesktop.systemd1.Slice",
        _ => return String::new(),
    };
    property(manager, unit, interface, "ControlGroup").await.unwrap_or_default()
}

/// Refuses units that cannot be frozen, or that something lives in which Strongroom needs. Changes
/// nothing.
pub fn check(address: &BusAddress, units: &[String]) -> Result<()> {
    units.iter().try_for_each(|unit| check_name(unit))?;
    if units.is_empty() {
        return Ok(());
    }
    block(async {
        let manager = connect(address).await?;
        let mut needed = vec![("Strongroom itself".to_owned(), own_group())];
        for unit in NEEDED.iter().filter(|unit| !unit.ends_with(".slice")) {
            needed.push(((*unit).to_owned(), group(&manager, unit).await));
        }
        for unit in units {
            let can = property::<bool>(&manager, unit, UNIT, "CanFreeze").await;
            if !can.unwrap_or(false) {
                return Err(Error::invalid_state(format!(
                    "the service manager cannot freeze {unit:?}; give unit_action stop, or none"
                )));
            }
            let group = group(&manager, unit).await;
            if let Some((name, _)) = needed.iter().find(|(_, inner)| holds(&group, inner)) {
                return Err(Error::invalid(format!(
                    "{unit:?} is never frozen, because {name} is in it; name the services that use the data"
                )));
            }
        }
        Ok(())
    })
}

/// Whether one control group is another, or around it.
fn holds(group: &str, inner: &str) -> bool {
    !group.is_empty() && inner.strip_prefix(group).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Our own control group; empty where it is not known.
fn own_group() -> String {
    let text = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default().to_owned()
}

/// Freezes units, one after the other. After an error some of them may be frozen.
pub fn freeze(address: &BusAddress, units: &[String], check: &dyn Fn() -> Result<()>) -> Result<()> {
    block(async {
        let manager = connect(address).await?;
        for unit in units {
            check()?;
            let name = unit.as_str();
            let frozen = tokio::time::timeout(FREEZE_LIMIT, call::<_, ()>(&manager, "FreezeUnit", &name));
            match frozen.await {
                Ok(done) => done.map_err(|e| e.context(format!("{unit} cannot be frozen")))?,
                Err(_) => {
                    return Err(Error::failed(format!(
                        "{unit} was not frozen within {} s: one of its processes waits for a disk or a network",
                        FREEZE_LIMIT.as_secs()
                    )));
                }
            }
        }
        Ok(())
    })
}

/// Thaws units and makes sure of it; answers those that are frozen still. An error means that the
/// manager could not be asked.
pub fn thaw(address: &BusAddress, units: &[String]) -> Result<Vec<Error>> {
    block(async {
        let manager = connect(address).await?;
        let mut wrong = Vec::new();
        for unit in units {
            let name = unit.as_str();
            let call = tokio::time::timeout(THAW_LIMIT, call::<_, ()>(&manager, "ThawUnit", &name));
            let asked = call.await.unwrap_or_else(|_| Err(Error::failed("it takes too long")));
            // What is not there any more is not frozen.
            let state = property::<String>(&manager, unit, UNIT, "FreezerState").await;
            let frozen = state.is_ok_and(|state| state == "frozen" || state == "freezing");
            if let (Err(e), true) = (asked, frozen) {
                wrong.push(e.context(format!("{unit} is frozen still")));
            }
        }
        Ok(wrong)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_is_never_frozen() {
        for name in NEEDED.iter().chain(NEVER) {
            let refused = check_name(name).unwrap_err().message;
            assert!(refused.contains(*name), "{refused}");
        }
        assert!(check_name("nginx.socket").unwrap_err().message.contains("no processes"));
        check_name("nginx.service").unwrap();
    }

    #[test]
    fn a_slice_holds_what_is_in_it() {
        assert!(holds("/system.slice", "/system.slice/dbus.service"));
        assert!(holds("/system.slice/dbus.service", "/system.slice/dbus.service"));
        assert!(!holds("/system.slice/db", "/system.slice/dbus.service"));
        assert!(!holds("", "/system.slice/dbus.service"));
    }
}
