//! Units of a resource, held back while its data is fixed or exchanged.

use std::time::{Duration, Instant};

use super::Service;
use super::later::not_built;
use crate::model::Result;

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
    /// Refuses beforehand what cannot be done to units.
    pub(super) fn check_units(&self, units: &[String], action: Action) -> Result<()> {
        match (units.first(), action) {
            (None, _) | (_, Action::None) => Ok(()),
            (Some(unit), Action::Freeze) => {
                Err(not_built(&format!("freezing units such as {unit}"), "give unit_action none, and stop them yourself"))
            }
            (Some(unit), Action::Stop) => Err(not_built(
                &format!("stopping units such as {unit}"),
                "stop them yourself, take units from the resource, and start them afterwards",
            )),
        }
    }

    /// Holds units back.
    pub(super) fn hold_units(&self, units: &[String], action: Action) -> Result<()> {
        self.check_units(units, action)
    }

    /// Lets units go on.
    pub(super) fn release_units(&self, units: &[String], action: Action) -> Result<()> {
        self.check_units(units, action)
    }

    /// Does something while units are held back; whatever comes of it, they go on. Says how long
    /// they were held.
    pub(super) fn with_units<T>(
        &self,
        units: &[String],
        action: Action,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<(T, Duration)> {
        if units.is_empty() || action == Action::None {
            return work().map(|done| (done, Duration::ZERO));
        }
        let start = Instant::now();
        let done = self.hold_units(units, action).and_then(|()| work());
        let released = self.release_units(units, action);
        let held = start.elapsed();
        let done = done?;
        released.map(|()| (done, held))
    }
}
