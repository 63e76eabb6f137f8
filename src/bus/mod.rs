//! The D-Bus skin over the service: it checks the caller, translates, and never waits for work.
//!
//! | file | what it holds |
//! |---|---|
//! | `manager` | the interface `org.strongroom1.Manager`: one thin method per use case |
//! | `objects`, `job` | the interfaces of single objects |
//! | `hub` | what they share: the way from a call through the rights to the service and back |
//! | `events` | service events to signals, objects that come and go |
//! | `rights` | who may call what |
//! | `wire`, `error` | values and errors as they cross the bus |
//! | `client` | the calling side, for the command and for tests |
//!
//! Every interface method takes `&self`, so that no call waits for another.

pub mod client;
pub mod error;
mod events;
mod hub;
mod job;
mod manager;
mod objects;
mod rights;
#[cfg(test)]
mod tests;
pub mod wire;

use std::future::Future;
use std::sync::Arc;

use zbus::Connection;
use zbus::fdo::RequestNameFlags;

use crate::model::{Error, Result};
use crate::service::Service;

pub use crate::host::BusAddress;

/// The name on the bus.
pub const NAME: &str = "org.strongroom1";
/// The object with the Manager interface.
pub const PATH: &str = "/org/strongroom1";
/// The interface of the use cases.
pub const MANAGER: &str = "org.strongroom1.Manager";

/// Serves the service on a bus until `shutdown` completes.
///
/// Objects stand before the name is taken, so the first call finds everything; `ready` is called
/// when the name is ours. Fails when the name is taken or the bus goes away.
pub async fn serve(
    service: Arc<Service>,
    address: BusAddress,
    ready: impl FnOnce(),
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let events = service.subscribe();
    let (hub, requests) = hub::Hub::new(service);
    let connection = address
        .builder()
        .serve_at(PATH, zbus::fdo::ObjectManager)
        .serve_at(PATH, manager::Manager::new(hub.clone()))
        .build()
        .await
        .map_err(|e| address.unreachable(&e))?;
    hub.guard.attach(&connection);
    let mut announcer = events::Announcer::new(hub.clone(), connection.clone(), events, requests);
    announcer.register_all().await;
    if let Err(error) = take_name(&connection, &address).await {
        hub.guard.detach();
        return Err(error);
    }
    ready();
    let gone = || Error::failed(format!("{address} went away; start again when it is back"));
    let result = tokio::select! {
        () = announcer.run() => Err(gone()),
        () = connection.closed() => Err(gone()),
        () = shutdown => Ok(()),
    };
    if result.is_ok() {
        // What ended during the shutdown is still announced.
        announcer.drain().await;
        let _ = connection.release_name(NAME).await;
    }
    hub.guard.detach();
    let _ = connection.close().await;
    result
}

async fn take_name(connection: &Connection, address: &BusAddress) -> Result<()> {
    match connection.request_name_with_flags(NAME, RequestNameFlags::DO_NOT_QUEUE).await {
        Ok(_) => Ok(()),
        Err(zbus::Error::NameTaken) => Err(Error::already_exists(format!(
            "the name {NAME} is taken on {address}; another strongroomd runs there, stop it first"
        ))),
        Err(error) => Err(Error::failed(format!(
            "{address} does not give us the name {NAME}: {error}; its policy must allow it to this user"
        ))),
    }
}
