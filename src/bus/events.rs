//! From service events to signals, and to objects that come and go.
//!
//! One task does all of it, in the order of the events. A method that started a job waits until
//! this task has come that far, so the job's object stands before the reply goes out.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::{self, error::RecvError, error::TryRecvError};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use zbus::Connection;
use zbus::object_server::{InterfaceRef, SignalEmitter};

use super::hub::{Announce, Hub};
use super::manager::Manager;
use super::{PATH, job, objects};
use crate::service::{Event, JobStatus, ObjectKind};

/// At most two PropertiesChanged a second for any job.
const TICK: Duration = Duration::from_millis(500);

/// What a job looked like when last told.
#[derive(Debug, Default)]
struct Told {
    status: JobStatus,
    /// Whether to look again: it runs, or the service said that it changed.
    look: bool,
}

/// Keeps the bus in step with the service.
#[derive(Debug)]
pub struct Announcer {
    hub: Arc<Hub>,
    connection: Connection,
    events: broadcast::Receiver<Event>,
    requests: mpsc::UnboundedReceiver<Announce>,
    jobs: BTreeMap<u64, Told>,
    /// The other objects that stand.
    objects: HashSet<(ObjectKind, u64)>,
    counts: (u32, u32),
}

fn log<T, E: std::fmt::Display>(what: &str, result: Result<T, E>) -> Option<T> {
    result.map_err(|error| tracing::warn!(%error, "{what}")).ok()
}

impl Announcer {
    /// An announcer that has told nothing yet.
    pub fn new(
        hub: Arc<Hub>,
        connection: Connection,
        events: broadcast::Receiver<Event>,
        requests: mpsc::UnboundedReceiver<Announce>,
    ) -> Self {
        Self { hub, connection, events, requests, jobs: BTreeMap::new(), objects: HashSet::new(), counts: (0, 0) }
    }

    /// Puts everything there is on the bus.
    pub async fn register_all(&mut self) {
        for (kind, id) in self.current_objects().await {
            self.add(kind, id).await;
        }
        self.counts = (self.hub.service.running_jobs(), self.hub.service.queued_jobs());
    }

    /// Works until the service is gone.
    pub async fn run(&mut self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                event = self.events.recv() => match event {
                    Ok(event) => self.handle(event).await,
                    Err(RecvError::Lagged(_)) => self.resync().await,
                    Err(RecvError::Closed) => return,
                },
                Some(request) = self.requests.recv() => self.answer(request).await,
                _ = ticks.tick() => self.tick().await,
            }
        }
    }

    /// Tells what has happened so far, and no more.
    pub async fn drain(&mut self) {
        loop {
            match self.events.try_recv() {
                Ok(event) => self.handle(event).await,
                Err(TryRecvError::Lagged(_)) => self.resync().await,
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    async fn current_objects(&self) -> Vec<(ObjectKind, u64)> {
        self.hub.run(|s| Ok(s.objects())).await.unwrap_or_default()
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::JobNew { id } => self.job_new(id).await,
            Event::JobRemoved { id, result, error } => self.job_removed(id, &result, &error).await,
            Event::JobChanged { id } => {
                if let Some(told) = self.jobs.get_mut(&id) {
                    told.look = true;
                }
            }
            Event::BackupChanged { id, status } => {
                if let Some(emitter) = self.emitter() {
                    log("BackupChanged", Manager::backup_changed(&emitter, id, &status).await);
                }
            }
            Event::BackupFailed { id, resource, error } => {
                if let Some(emitter) = self.emitter() {
                    log("BackupFailed", Manager::backup_failed(&emitter, id, resource, &plain(&error)).await);
                }
            }
            Event::ObjectAdded { kind: ObjectKind::Job, id } => self.job_new(id).await,
            Event::ObjectAdded { kind, id } => self.add(kind, id).await,
            Event::ObjectRemoved { kind, id } => self.remove(kind, id).await,
            Event::ObjectChanged { kind: ObjectKind::Job, id } => {
                if let Some(told) = self.jobs.get_mut(&id) {
                    told.look = true;
                }
            }
            Event::ObjectChanged { kind, id } => {
                // One that is gone again needs no telling.
                let _ = objects::invalidate(&self.connection, kind, id).await;
            }
        }
    }

    fn emitter(&self) -> Option<SignalEmitter<'static>> {
        SignalEmitter::new(&self.connection, PATH).ok().map(SignalEmitter::into_owned)
    }

    async fn add(&mut self, kind: ObjectKind, id: u64) {
        if kind == ObjectKind::Job {
            let status = self.status(id).await.unwrap_or(JobStatus { id, ..JobStatus::default() });
            self.jobs.insert(id, Told { status, look: true });
        } else {
            self.objects.insert((kind, id));
        }
        log("register an object", objects::register(&self.hub, &self.connection, kind, id).await.map_err(|e| e.0));
    }

    async fn remove(&mut self, kind: ObjectKind, id: u64) {
        if kind == ObjectKind::Job {
            self.jobs.remove(&id);
        } else {
            self.objects.remove(&(kind, id));
        }
        log("unregister an object", objects::unregister(&self.connection, kind, id).await.map_err(|e| e.0));
    }

    async fn status(&self, id: u64) -> Option<JobStatus> {
        self.hub.run(move |s| s.job_status(id)).await.ok()
    }

    async fn job_new(&mut self, id: u64) {
        if !self.jobs.contains_key(&id) {
            self.add(ObjectKind::Job, id).await;
            if let (Some(emitter), Ok(path)) = (self.emitter(), objects::path(ObjectKind::Job, id)) {
                log("JobNew", Manager::job_new(&emitter, id, path.as_ref()).await);
            }
        }
    }

    async fn job_removed(&mut self, id: u64, result: &str, error: &str) {
        self.remove(ObjectKind::Job, id).await;
        if let (Some(emitter), Ok(path)) = (self.emitter(), objects::path(ObjectKind::Job, id)) {
            log("JobRemoved", Manager::job_removed(&emitter, id, path.as_ref(), result, &plain(error)).await);
        }
    }

    /// Everything that happened before the request was made has been handled by now, unless
    /// events are still queued: those come first.
    async fn answer(&mut self, request: Announce) {
        self.drain().await;
        if !self.jobs.contains_key(&request.job) {
            // Ended already, or the service has yet to say that it is new; it is told once.
            let state = self.status(request.job).await.map(|s| s.state).unwrap_or_default();
            if matches!(state.as_str(), "pending" | "running") {
                self.job_new(request.job).await;
            }
        }
        let _ = request.done.send(());
    }

    /// Events were lost: compare instead.
    async fn resync(&mut self) {
        let now: HashSet<_> = self.current_objects().await.into_iter().collect();
        for &(kind, id) in &now {
            if kind == ObjectKind::Job {
                self.job_new(id).await;
            } else {
                self.add(kind, id).await;
                let _ = objects::invalidate(&self.connection, kind, id).await;
            }
        }
        let gone: Vec<_> = self.objects.iter().copied().filter(|object| !now.contains(object)).collect();
        for (kind, id) in gone {
            self.remove(kind, id).await;
        }
        let ended: Vec<u64> = self.jobs.keys().copied().filter(|id| !now.contains(&(ObjectKind::Job, *id))).collect();
        for id in ended {
            let status = self.status(id).await.unwrap_or_default();
            self.job_removed(id, &status.state, &status.error_name).await;
        }
    }

    async fn tick(&mut self) {
        let looked: Vec<u64> = self.jobs.iter().filter(|(_, told)| told.look).map(|(id, _)| *id).collect();
        if !looked.is_empty() {
            let read =
                self.hub.run(move |s| Ok(looked.iter().filter_map(|id| s.job_status(*id).ok()).collect::<Vec<_>>()));
            for now in read.await.unwrap_or_default() {
                if let Some(told) = self.jobs.get_mut(&now.id) {
                    log("PropertiesChanged", job::emit_changes(&self.connection, &told.status, &now).await);
                    told.look = now.state == "running";
                    told.status = now;
                }
            }
        }
        let counts = (self.hub.service.running_jobs(), self.hub.service.queued_jobs());
        if counts != self.counts {
            let before = std::mem::replace(&mut self.counts, counts);
            let manager: zbus::Result<InterfaceRef<Manager>> = self.connection.object_server().interface(PATH).await;
            if let Some(manager) = log("the manager", manager) {
                if before.0 != counts.0 {
                    log("RunningJobs", manager.get().await.running_jobs_changed(manager.signal_emitter()).await);
                }
                if before.1 != counts.1 {
                    log("QueuedJobs", manager.get().await.queued_jobs_changed(manager.signal_emitter()).await);
                }
            }
        }
    }
}

/// Text that the bus carries.
fn plain(s: &str) -> String {
    s.replace('\0', "\u{fffd}")
}
