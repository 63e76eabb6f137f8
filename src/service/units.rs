//! Units that use a resource's data: stopped while it is restored in place or fixed in a snapshot,
//! and started afterwards, whatever becomes of that.
//!
//! Which of them ran is in the job's row before the first is stopped, so that a daemon that died
//! meanwhile starts them when it is back.

use std::sync::Weak;
use std::time::{Duration, Instant};

use super::{Service, not_built};
use crate::catalog::{Job, Tables, job};
use crate::host::units;
use crate::model::{Error, Progress, Result};

/// What a crash left stopped is started again; the manager is asked so often for it, and so often
/// that a machine that is still coming up is up by then.
const TRIES: u32 = 30;
const PAUSE: Duration = Duration::from_secs(2);

/// What is done to units meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing.
    None,
    /// They are frozen, and thawed afterwards.
    Freeze,
    /// They are stopped, and started afterwards.
    Stop,
}

impl Action {
    /// The action of that name; what is unknown is none.
    pub fn parse(name: &str) -> Self {
        match name {
            "freeze" => Self::Freeze,
            "stop" => Self::Stop,
            _ => Self::None,
        }
    }
}

/// What was done while units were stopped.
pub(super) struct Paused<T> {
    pub done: T,
    /// The units that were stopped.
    pub units: Vec<String>,
    /// Why some of them were not started.
    pub trouble: Option<Error>,
}

impl<T> Paused<T> {
    /// What became of the units, for the job's result.
    pub fn note(&self, result: &mut serde_json::Value) {
        result["units_stopped"] = self.units.len().into();
        result["message"] = if self.units.is_empty() {
            "no units were stopped".into()
        } else {
            result["units"] = self.units.clone().into();
            format!("stopped for it, and started afterwards: {}", self.units.join(", ")).into()
        };
    }
}

/// Units that are stopped; starts them when it goes, at the latest.
struct Stopped<'a> {
    service: &'a Service,
    job: u64,
    units: Vec<String>,
}

impl Stopped<'_> {
    fn start(&mut self) -> Result<()> {
        self.service.start_units(self.job, &std::mem::take(&mut self.units))
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        if !self.units.is_empty()
            && let Err(e) = self.start()
        {
            tracing::error!("units that were stopped for job {}: {e}", self.job);
        }
    }
}

impl Service {
    /// Refuses units that could not be stopped. Changes nothing.
    pub(super) fn check_units(&self, names: &[String]) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        units::running(&self.options.bus, names).map(drop)
    }

    /// Does a job's work while those of the units that run are stopped.
    pub(super) fn paused<T>(
        &self,
        job: u64,
        names: &[String],
        progress: &Progress,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<Paused<T>> {
        let running = if names.is_empty() { Vec::new() } else { units::running(&self.options.bus, names)? };
        if running.is_empty() {
            return Ok(Paused { done: work()?, units: running, trouble: None });
        }
        self.note_units(job, &running)?;
        let mut stopped = Stopped { service: self, job, units: running.clone() };
        tracing::info!("job {job} stops {}", running.join(", "));
        let result = units::stop(&self.options.bus, &running, &|| progress.check()).and_then(|()| work());
        let trouble = stopped.start().err();
        match (result, trouble) {
            (Ok(done), trouble) => Ok(Paused { done, units: running, trouble }),
            (Err(e), None) => Err(e),
            (Err(e), Some(trouble)) => Err(Error::new(e.kind, format!("{e}; and {trouble}"))),
        }
    }

    /// Which of some units run and would be held back; an error says why they cannot be. Changes
    /// nothing.
    pub(super) fn units_to_hold(&self, units: &[String], action: Action) -> Result<Vec<String>> {
        match (units.first(), action) {
            (None, _) | (_, Action::None) => Ok(Vec::new()),
            (Some(unit), Action::Freeze) => Err(not_built(
                &format!("freezing units such as {unit}"),
                "give unit_action stop, or none and hold them back yourself",
            )),
            (Some(_), Action::Stop) => units::running(&self.options.bus, units),
        }
    }

    /// Does something while units are held back; whatever comes of it, they go on. Says how long
    /// they were held.
    pub(super) fn with_units<T>(
        &self,
        job: u64,
        units: &[String],
        action: Action,
        progress: &Progress,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<(T, Duration)> {
        let running = self.units_to_hold(units, action)?;
        let start = Instant::now();
        let paused = self.paused(job, &running, progress, work)?;
        let held = if running.is_empty() { Duration::ZERO } else { start.elapsed() };
        paused.trouble.map_or(Ok((paused.done, held)), Err)
    }

    /// Stops units that run; the job's row keeps which until they are started.
    pub(super) fn stop_units(&self, job: u64, list: &[String]) -> Result<()> {
        if list.is_empty() {
            return Ok(());
        }
        self.note_units(job, list)?;
        units::stop(&self.options.bus, list, &|| Ok(()))
    }

    fn note_units(&self, job: u64, units: &[String]) -> Result<()> {
        self.catalog.write(|w| {
            w.update::<Job>(job, |row| {
                row.units = units.to_vec();
                Ok(())
            })
            .map(drop)
        })
    }

    /// Starts what was stopped for a job. While the manager cannot be asked, the job's row keeps it.
    pub(super) fn start_units(&self, job: u64, list: &[String]) -> Result<()> {
        if list.is_empty() {
            return Ok(());
        }
        let wrong = units::start(&self.options.bus, list)?;
        self.note_units(job, &[])?;
        if wrong.is_empty() {
            tracing::info!("started after job {job}: {}", list.join(", "));
            return Ok(());
        }
        let wrong: Vec<String> = wrong.into_iter().map(|e| e.message).collect();
        Err(Error::failed(format!("not every unit that was stopped runs again: {}", wrong.join("; "))))
    }

    /// Starts, in a thread of its own, what a crash left stopped: the manager may be waiting for us.
    pub(super) fn start_left_units(&self) {
        let left = match self.catalog.read(|r| r.rows_at::<Job>(job::STOPPED, 1)) {
            Ok(left) if left.is_empty() => return,
            Ok(left) => left,
            Err(e) => return tracing::error!("units that a crash left stopped cannot be found: {e}"),
        };
        let me = Weak::clone(&self.me);
        let spawned = std::thread::Builder::new().name("units".into()).spawn(move || {
            for job in left {
                for tried in 1..=TRIES {
                    let Some(me) = me.upgrade() else { return };
                    tracing::warn!("units that were stopped for job {} are started: {}", job.id, job.units.join(", "));
                    match me.start_units(job.id, &job.units) {
                        Err(e) if me.catalog.read(|r| r.need::<Job>(job.id)).is_ok_and(|j| !j.units.is_empty()) => {
                            tracing::error!("try {tried}: {e}");
                            drop(me);
                            std::thread::sleep(PAUSE);
                        }
                        Err(e) => {
                            tracing::error!("{e}");
                            break;
                        }
                        Ok(()) => break,
                    }
                }
            }
        });
        if let Err(e) = spawned {
            tracing::error!("cannot start a thread to start units: {e}");
        }
    }
}
