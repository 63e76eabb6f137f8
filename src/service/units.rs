//! Units of a resource, held back while its data is fixed or exchanged.

use std::time::{Duration, Instant};

use super::Service;
use super::later::not_built;
use crate::model::{Error, Result};

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

impl Service {
    /// Which of some units run and would be held back; an error says why they cannot be. Changes
    /// nothing.
    pub(super) fn units_to_hold(&self, units: &[String], action: Action) -> Result<Vec<String>> {
        match (units.first(), action) {
            (None, _) | (_, Action::None) => Ok(Vec::new()),
            (Some(unit), Action::Freeze) => Err(not_built(
                &format!("freezing units such as {unit}"),
                "give unit_action none, and stop them yourself",
            )),
            (Some(unit), Action::Stop) => Err(not_built(
                &format!("stopping units such as {unit}"),
                "stop them yourself, take units from the resource, and start them afterwards",
            )),
        }
    }

    /// Holds units back. An error leaves some of them held.
    pub(super) fn hold_units(&self, units: &[String], action: Action) -> Result<()> {
        self.units_to_hold(units, action).map(drop)
    }

    /// Lets units go on, each whatever becomes of the others.
    pub(super) fn release_units(&self, units: &[String], action: Action) -> Result<()> {
        let wrong: Vec<Error> = self.units_to_hold(units, action).err().into_iter().collect();
        match wrong.first() {
            None => Ok(()),
            Some(first) => Err(first.clone()),
        }
    }

    /// Does something while units are held back; whatever comes of it, they go on. Says how long
    /// they were held.
    pub(super) fn with_units<T>(
        &self,
        units: &[String],
        action: Action,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<(T, Duration)> {
        let running = self.units_to_hold(units, action)?;
        if running.is_empty() {
            return work().map(|done| (done, Duration::ZERO));
        }
        let start = Instant::now();
        let done = self.hold_units(&running, action).and_then(|()| work());
        let released = self.release_units(&running, action);
        let held = start.elapsed();
        let done = done?;
        released.map(|()| (done, held))
    }
}
