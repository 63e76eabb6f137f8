//! The objects of resources, vaults, destinations and schedules: `Id` and `Info`.

use std::sync::Arc;

use zbus::message::Header;
use zbus::wire::OwnedObjectPath;

use super::error::Result;
use super::hub::Hub;
use super::rights::Right;
use super::wire::Dict;
use super::{PATH, job};
use crate::model;
use crate::service::{ObjectKind, Service};

tokio::task_local! {
    /// Set while an object is being registered. The signal that says so reaches everyone on the
    /// bus, and signals carry no content: getters of content then answer nothing.
    pub static ANNOUNCING: ();
}

/// Where an object stands.
pub fn path(kind: ObjectKind, id: u64) -> Result<OwnedObjectPath> {
    let folder = match kind {
        ObjectKind::Resource => "resource",
        ObjectKind::Vault => "vault",
        ObjectKind::Destination => "destination",
        ObjectKind::Task => "task",
        ObjectKind::Schedule => "schedule",
        ObjectKind::Job => "job",
    };
    OwnedObjectPath::try_from(format!("{PATH}/{folder}/{id}")).map_err(|e| model::Error::failed(e).into())
}

/// Whether a getter of content may answer: to callers who may read, never into a signal.
pub async fn may_read(hub: &Hub, header: Option<&Header<'_>>) -> Result<()> {
    if ANNOUNCING.try_with(|()| ()).is_ok() {
        return Err(model::Error::access_denied("signals carry no content; get the property").into());
    }
    match header {
        Some(header) => hub.guard.check(header, Right::Read).await,
        // GetManagedObjects comes without a header; the bus policy keeps it to root.
        None => Ok(()),
    }
}

macro_rules! object {
    ($type:ident, $interface:literal, $get:ident, $doc:literal) => {
        #[doc = $doc]
        #[derive(Debug)]
        pub struct $type {
            hub: Arc<Hub>,
            id: u64,
        }

        impl $type {
            /// The object of one id.
            pub fn new(hub: Arc<Hub>, id: u64) -> Self {
                Self { hub, id }
            }
        }

        #[zbus::interface(name = $interface)]
        impl $type {
            /// The id, which is never used again.
            #[zbus(property(emits_changed_signal = "const"))]
            async fn id(&self) -> u64 {
                self.id
            }

            /// What the Manager's Get method answers.
            #[zbus(property(emits_changed_signal = "invalidates"))]
            async fn info(&self, #[zbus(header)] header: Option<Header<'_>>) -> Result<Dict> {
                may_read(&self.hub, header.as_ref()).await?;
                let id = self.id.to_string();
                let map = self.hub.run(move |s: &Service| s.$get(&id)).await?;
                Ok(Dict::write(&map)?)
            }
        }
    };
}

object!(Resource, "org.strongroom1.Resource", get_resource, "What is backed up.");
object!(Vault, "org.strongroom1.Vault", get_vault, "Where backups are kept.");
object!(Task, "org.strongroom1.Task", get_task, "What copies projects into plain files, or brings them back.");
object!(Schedule, "org.strongroom1.Schedule", get_schedule, "What is backed up by itself, and when.");
object!(Destination, "org.strongroom1.Destination", get_destination, "A place that holds copies of vaults.");

/// Puts an object on the bus; again is no mistake.
pub async fn register(hub: &Arc<Hub>, connection: &zbus::Connection, kind: ObjectKind, id: u64) -> Result<()> {
    let path = path(kind, id)?;
    let server = connection.object_server();
    let registered = ANNOUNCING.scope((), async {
        match kind {
            ObjectKind::Resource => server.at(&path, Resource::new(hub.clone(), id)).await.map(drop),
            ObjectKind::Vault => server.at(&path, Vault::new(hub.clone(), id)).await.map(drop),
            ObjectKind::Destination => server.at(&path, Destination::new(hub.clone(), id)).await.map(drop),
            ObjectKind::Task => server.at(&path, Task::new(hub.clone(), id)).await.map(drop),
            ObjectKind::Schedule => server.at(&path, Schedule::new(hub.clone(), id)).await.map(drop),
            ObjectKind::Job => server.at(&path, job::Job::new(hub.clone(), id)).await.map(drop),
        }
    });
    registered.await.map_err(|e| model::Error::failed(format!("cannot register {}: {e}", path.as_str())).into())
}

/// Takes an object off the bus; one that is not there is no mistake.
pub async fn unregister(connection: &zbus::Connection, kind: ObjectKind, id: u64) -> Result<()> {
    let path = path(kind, id)?;
    let server = connection.object_server();
    let removed = match kind {
        ObjectKind::Resource => server.remove::<Resource, _>(&path).await,
        ObjectKind::Vault => server.remove::<Vault, _>(&path).await,
        ObjectKind::Destination => server.remove::<Destination, _>(&path).await,
        ObjectKind::Task => server.remove::<Task, _>(&path).await,
        ObjectKind::Schedule => server.remove::<Schedule, _>(&path).await,
        ObjectKind::Job => server.remove::<job::Job, _>(&path).await,
    };
    match removed {
        Ok(_) | Err(zbus::Error::InterfaceNotFound) => Ok(()),
        Err(e) => Err(model::Error::failed(format!("cannot unregister {}: {e}", path.as_str())).into()),
    }
}

/// Tells that what `Info` answers has changed, without saying how.
pub async fn invalidate(connection: &zbus::Connection, kind: ObjectKind, id: u64) -> Result<()> {
    let path = path(kind, id)?;
    let server = connection.object_server();
    let told = async {
        match kind {
            ObjectKind::Resource => {
                let interface = server.interface::<_, Resource>(&path).await?;
                interface.get().await.info_invalidate(interface.signal_emitter()).await
            }
            ObjectKind::Vault => {
                let interface = server.interface::<_, Vault>(&path).await?;
                interface.get().await.info_invalidate(interface.signal_emitter()).await
            }
            ObjectKind::Destination => {
                let interface = server.interface::<_, Destination>(&path).await?;
                interface.get().await.info_invalidate(interface.signal_emitter()).await
            }
            ObjectKind::Task => {
                let interface = server.interface::<_, Task>(&path).await?;
                interface.get().await.info_invalidate(interface.signal_emitter()).await
            }
            ObjectKind::Schedule => {
                let interface = server.interface::<_, Schedule>(&path).await?;
                interface.get().await.info_invalidate(interface.signal_emitter()).await
            }
            ObjectKind::Job => Ok(()),
        }
    };
    told.await.map_err(|e: zbus::Error| model::Error::failed(e).into())
}
