//! Units that use a resource's data: stopped or frozen while it is restored in place or fixed in a
//! snapshot, and going on afterwards, whatever becomes of that.
//!
//! What is done to which of them is in the job's row before it is done to the first, so that a
//! daemon that died meanwhile lets them go on when it is back.

use std::sync::Weak;
use std::time::{Duration, Instant};

use super::Service;
use crate::catalog::{Job, Resource, Tables, job};
use crate::host::{freezer, units};
use crate::model::{Error, Progress, Result};

/// What a crash left held back goes on again; the manager is asked so often for it, and so often
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

/// Units that were held back, and how long.
#[derive(Debug, Clone)]
pub(super) struct Pause {
    /// What was done to them.
    pub action: Action,
    /// Which: those that ran.
    pub units: Vec<String>,
    /// From the first of them to the last.
    pub time: Duration,
    /// What went wrong when they were let go, or in the commands `after`.
    pub trouble: Option<Error>,
}

impl Pause {
    fn milliseconds(&self) -> u64 {
        u64::try_from(self.time.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
    }

    /// What became of them, in words; nothing where nothing did.
    pub fn words(&self) -> Option<String> {
        let done = match self.action {
            _ if self.units.is_empty() => return None,
            Action::None => return None,
            Action::Freeze => "frozen",
            Action::Stop => "stopped",
        };
        Some(format!("{done} for {} ms: {}", self.milliseconds(), self.units.join(", ")))
    }

    /// The same, for a job's result.
    pub fn note(&self, result: &mut serde_json::Value) {
        result["held_ms"] = if self.units.is_empty() { 0 } else { self.milliseconds() }.into();
        let key = if self.action == Action::Freeze { "units_frozen" } else { "units_stopped" };
        result[key] = self.units.len().into();
        if !self.units.is_empty() {
            result["units"] = self.units.clone().into();
        }
    }
}

/// Units that are held back; they go on when it goes, at the latest.
pub(super) struct Held<'a> {
    service: &'a Service,
    job: u64,
    pause: Pause,
    since: Instant,
    /// Whether that is still to be done.
    units: bool,
    /// Whose commands `after` are still to be run.
    commands: Option<&'a Resource>,
}

impl Held<'_> {
    fn go_on(&mut self) -> Result<()> {
        let mut result = Ok(());
        if std::mem::take(&mut self.units) {
            result = self.service.let_go(self.job, self.pause.action, &self.pause.units);
            self.pause.time = self.since.elapsed();
            if result.is_err() {
                self.service.let_go_later(vec![self.job]);
            }
        }
        match self.commands.take() {
            None => result,
            Some(resource) => match (result, self.service.run_after(self.job, resource)) {
                (Ok(()), ran) => ran,
                (Err(e), Ok(())) => Err(e),
                (Err(e), Err(more)) => Err(Error::new(e.kind, format!("{e}; and {more}"))),
            },
        }
    }

    /// Lets them go on, runs the commands `after`, and says how long that took and what went wrong.
    pub fn release(mut self) -> Pause {
        self.pause.trouble = self.go_on().err();
        self.pause.clone()
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Err(e) = self.go_on() {
            tracing::error!("what was done for job {}: {e}", self.job);
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
        let held = self.hold(job, names, Action::Stop, None, progress)?;
        let result = work();
        let pause = held.release();
        match (result, pause.trouble) {
            (Ok(done), trouble) => Ok(Paused { done, units: pause.units, trouble }),
            (Err(e), None) => Err(e),
            (Err(e), Some(trouble)) => Err(Error::new(e.kind, format!("{e}; and {trouble}"))),
        }
    }

    /// Which of some units run and would be held back; an error says why they cannot be. Changes
    /// nothing.
    pub(super) fn units_to_hold(&self, units: &[String], action: Action) -> Result<Vec<String>> {
        if units.is_empty() || action == Action::None {
            return Ok(Vec::new());
        }
        if action == Action::Freeze {
            units.iter().try_for_each(|unit| freezer::check_name(unit))?;
        }
        let running = units::running(&self.options.bus, units)?;
        if action == Action::Freeze {
            freezer::check(&self.options.bus, &running)?;
        }
        Ok(running)
    }

    /// Runs the commands `before` of a resource, and holds units back. Whatever comes of it, they go
    /// on when what this answers with goes.
    pub(super) fn hold<'a>(
        &'a self,
        job: u64,
        units: &[String],
        action: Action,
        commands: Option<&'a Resource>,
        progress: &Progress,
    ) -> Result<Held<'a>> {
        let running = self.units_to_hold(units, action)?;
        let pause = Pause { action, units: running, time: Duration::ZERO, trouble: None };
        let mut held = Held { service: self, job, pause, since: Instant::now(), units: false, commands: None };
        if let Some(resource) =
            commands.filter(|r| r.origin.owner().is_some() && !(r.before.is_empty() && r.after.is_empty()))
        {
            self.update_job(job, |row| row.commands = true)?;
            held.commands = Some(resource);
            self.run_before(job, resource, &|| progress.check())?;
        }
        if held.pause.units.is_empty() {
            return Ok(held);
        }
        self.note_units(job, &held.pause.units, action == Action::Freeze)?;
        held.units = true;
        held.since = Instant::now();
        let (list, check) = (&held.pause.units, || progress.check());
        match action {
            Action::Freeze => freezer::freeze(&self.options.bus, list, &check)?,
            _ => {
                tracing::info!("job {job} stops {}", list.join(", "));
                units::stop(&self.options.bus, list, &check)?;
            }
        }
        Ok(held)
    }

    /// Does something while units are held back; whatever comes of it, they go on. Says how long
    /// they were held.
    pub(super) fn with_units<T>(
        &self,
        job: u64,
        resource: &Resource,
        action: Action,
        progress: &Progress,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<(T, Pause)> {
        let held = self.hold(job, &resource.units, action, Some(resource), progress)?;
        let result = work();
        let pause = held.release();
        match (result, &pause.trouble) {
            (Ok(done), _) => Ok((done, pause)),
            (Err(e), None) => Err(e),
            (Err(e), Some(more)) => Err(Error::new(e.kind, format!("{e}; and {more}"))),
        }
    }

    /// Lets units go on that were held back for a job.
    fn let_go(&self, job: u64, action: Action, list: &[String]) -> Result<()> {
        if action != Action::Freeze {
            return self.start_units(job, list);
        }
        let wrong = freezer::thaw(&self.options.bus, list)?;
        match wrong.into_iter().next() {
            None => self.note_units(job, &[], false),
            Some(e) => Err(e),
        }
    }

    /// Stops units that run; the job's row keeps which until they are started.
    pub(super) fn stop_units(&self, job: u64, list: &[String]) -> Result<()> {
        if list.is_empty() {
            return Ok(());
        }
        self.note_units(job, list, false)?;
        units::stop(&self.options.bus, list, &|| Ok(()))
    }

    fn note_units(&self, job: u64, units: &[String], frozen: bool) -> Result<()> {
        self.update_job(job, |row| {
            row.units = units.to_vec();
            row.frozen = frozen;
        })
    }

    pub(super) fn update_job(&self, job: u64, change: impl Fn(&mut Job)) -> Result<()> {
        self.catalog.write(|w| {
            w.update::<Job>(job, |row| {
                change(row);
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
        self.note_units(job, &[], false)?;
        if wrong.is_empty() {
            tracing::info!("started after job {job}: {}", list.join(", "));
            return Ok(());
        }
        let wrong: Vec<String> = wrong.into_iter().map(|e| e.message).collect();
        Err(Error::failed(format!("not every unit that was stopped runs again: {}", wrong.join("; "))))
    }

    /// Lets go on what a crash left held back, and runs the commands `after` that it left.
    pub(super) fn start_left_units(&self) {
        match self.catalog.read(|r| r.rows_at::<Job>(job::STOPPED, 1)) {
            Ok(left) if left.is_empty() => {}
            Ok(left) => self.let_go_later(left.into_iter().map(|job| job.id).collect()),
            Err(e) => tracing::error!("units that a crash left stopped cannot be found: {e}"),
        }
    }

    /// Does so in a thread of its own: the manager may be waiting for us, or not be there just now.
    fn let_go_later(&self, left: Vec<u64>) {
        let me = Weak::clone(&self.me);
        let spawned = std::thread::Builder::new().name("units".into()).spawn(move || {
            for job in left {
                for tried in 1..=TRIES {
                    let Some(me) = me.upgrade() else { return };
                    match me.finish_left(job) {
                        Err(e) if me.catalog.read(|r| r.need::<Job>(job)).is_ok_and(|j| !j.units.is_empty()) => {
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
            tracing::error!("cannot start a thread to let units go on: {e}");
        }
    }

    /// Lets go on what was held back for one job, as its row says now, and runs its commands `after`.
    fn finish_left(&self, id: u64) -> Result<()> {
        let job = self.catalog.read(|r| r.need::<Job>(id))?;
        if !job.units.is_empty() {
            let (done, action) = if job.frozen { ("frozen", Action::Freeze) } else { ("stopped", Action::Stop) };
            let goes = if job.frozen { "thawed" } else { "started" };
            tracing::warn!("units that were {done} for job {id} are {goes}: {}", job.units.join(", "));
            self.let_go(id, action, &job.units)?;
        }
        if !job.commands || !job.state.ended() {
            return Ok(());
        }
        let resource = job.resource.map(|id| self.catalog.read(|r| r.get::<Resource>(id))).transpose()?.flatten();
        match resource {
            Some(resource) => self.finish_commands(id, &resource),
            None => self.update_job(id, |row| row.commands = false),
        }
    }
}
