//! What the interfaces share: the way of a call through the rights to the service and back.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use zbus::message::Header;
use zbus::wire::OwnedObjectPath;

use super::error::{Error, Result};
use super::rights::{Guard, Right};
use super::wire::Dict;
use super::{PATH, objects};
use crate::model::{self, Map, Value};
use crate::service::{ObjectKind, Service};

/// Asks for a job's object to stand before the reply that names it goes out.
#[derive(Debug)]
pub struct Announce {
    /// The job.
    pub job: u64,
    /// Completed once its object stands, or once it has ended.
    pub done: oneshot::Sender<()>,
}

/// Shared by all interfaces.
#[derive(Debug)]
pub struct Hub {
    /// The use cases.
    pub service: Arc<Service>,
    /// Who may call.
    pub guard: Guard,
    announce: mpsc::UnboundedSender<Announce>,
}

impl Hub {
    /// A hub, and where its requests for the announcer arrive.
    pub fn new(service: Arc<Service>) -> (Arc<Self>, mpsc::UnboundedReceiver<Announce>) {
        let (announce, requests) = mpsc::unbounded_channel();
        (Arc::new(Self { service, guard: Guard::default(), announce }), requests)
    }

    /// Does a service call for a caller who has the right to it, off the bus's own threads.
    pub async fn call<T: Send + 'static>(
        &self,
        header: &Header<'_>,
        right: Right,
        work: impl FnOnce(&Service) -> model::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.guard.check(header, right).await?;
        self.run(work).await
    }

    /// Does a service call without asking for rights.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Service) -> model::Result<T> + Send + 'static,
    ) -> Result<T> {
        let service = self.service.clone();
        match tokio::task::spawn_blocking(move || work(&service)).await {
            Ok(result) => result.map_err(Error),
            Err(error) => {
                tracing::error!(%error, "a call ended in a panic");
                Err(model::Error::failed("this call met an internal error; the daemon's log has more").into())
            }
        }
    }

    /// A call that answers with an object.
    pub async fn object(
        &self,
        header: &Header<'_>,
        right: Right,
        work: impl FnOnce(&Service) -> model::Result<Map> + Send + 'static,
    ) -> Result<Dict> {
        Ok(Dict::write(&self.call(header, right, work).await?)?)
    }

    /// A call that answers with some objects.
    pub async fn objects(
        &self,
        header: &Header<'_>,
        right: Right,
        work: impl FnOnce(&Service) -> model::Result<Vec<Map>> + Send + 'static,
    ) -> Result<Vec<Dict>> {
        Ok(Dict::write_all(&self.call(header, right, work).await?)?)
    }

    /// A call that answers with one page of a list, and how long the list is.
    pub async fn list(
        &self,
        header: &Header<'_>,
        right: Right,
        work: impl FnOnce(&Service) -> model::Result<(u64, Vec<Map>)> + Send + 'static,
    ) -> Result<(u64, Vec<Dict>)> {
        let (count, page) = self.call(header, right, work).await?;
        Ok((count, Dict::write_all(&page)?))
    }

    /// A call that starts a job and answers with its path.
    pub async fn job(
        &self,
        header: &Header<'_>,
        right: Right,
        work: impl FnOnce(&Service) -> model::Result<u64> + Send + 'static,
    ) -> Result<OwnedObjectPath> {
        let id = self.call(header, right, work).await?;
        self.announced(id).await;
        objects::path(ObjectKind::Job, id)
    }

    /// A call that starts some jobs and answers with their paths.
    pub async fn jobs(
        &self,
        header: &Header<'_>,
        right: Right,
        work: impl FnOnce(&Service) -> model::Result<Vec<u64>> + Send + 'static,
    ) -> Result<Vec<OwnedObjectPath>> {
        let ids = self.call(header, right, work).await?;
        for id in &ids {
            self.announced(*id).await;
        }
        ids.into_iter().map(|id| objects::path(ObjectKind::Job, id)).collect()
    }

    /// A call that starts a job and answers with an object that names it.
    pub async fn object_with_job(
        &self,
        header: &Header<'_>,
        right: Right,
        work: impl FnOnce(&Service) -> model::Result<Map> + Send + 'static,
    ) -> Result<Dict> {
        let map = self.call(header, right, work).await?;
        if let Some(Value::Path(path)) = map.get("job")
            && let Some(id) =
                path.strip_prefix(PATH).and_then(|p| p.strip_prefix("/job/")).and_then(|id| id.parse().ok())
        {
            self.announced(id).await;
        }
        Ok(Dict::write(&map)?)
    }

    async fn announced(&self, job: u64) {
        let (done, wait) = oneshot::channel();
        if self.announce.send(Announce { job, done }).is_ok() {
            let _ = wait.await;
        }
    }
}
