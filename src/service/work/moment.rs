//! The moment that a backup is of: its snapshot to read from, the units that are held back while it
//! is taken, and the commands around that.
//!
//! Where there is a snapshot of every path, units are held back only while it is taken. Where there
//! is none, units that are to be frozen go on, since nothing that serves anybody may stand still for
//! as long as a backup reads; those that are to be stopped are stopped until all is read.

use std::sync::Arc;

use crate::catalog::{Backup, Resource};
use crate::model::{Progress, Result};
use crate::service::Service;
use crate::service::units::{Action, Held, Pause};
use crate::snapshot::{Transient, View};
use crate::source::volume;

/// A backup's moment. What it is read from and who is held back for it go with it.
pub(super) struct Moment<'a> {
    transient: Option<Transient>,
    held: Option<Held<'a>>,
    pause: Option<Pause>,
    /// What there is to say of it.
    words: Vec<String>,
}

impl Service {
    /// Fixes what a resource's paths hold, as far as that is possible.
    pub(super) fn moment<'a>(
        &'a self,
        row: &Backup,
        resource: &'a Resource,
        progress: &Arc<Progress>,
    ) -> Result<Moment<'a>> {
        let images = resource.kind == "volume";
        let mut transient = match resource.snapshot.as_str() {
            "off" => None,
            "required" => Some(Transient::prepare(row.uuid, &resource.paths, images)?),
            _ => Transient::prepare(row.uuid, &resource.paths, images)
                .inspect_err(|e| tracing::warn!("backup {} reads what is there now, and no snapshot: {e}", row.id))
                .ok(),
        };
        let required = |transient: &Option<Transient>| match transient.as_ref().and_then(|t| t.without.first()) {
            Some(why) if resource.snapshot == "required" => {
                Err(why.clone().context("the resource requires a snapshot to be backed up from"))
            }
            _ => Ok(()),
        };
        required(&transient)?;
        let whole = transient.as_ref().is_some_and(|t| t.without.is_empty());
        let some = transient.as_ref().is_some_and(Transient::is_useful);
        let mut words = Vec::new();
        for (path, mount) in
            resource.paths.iter().filter(|_| images && !whole).filter_map(|p| Some((p, volume::mounted(p)?)))
        {
            words.push(format!(
                "{} is mounted at {} and was read as it stood, so it may be of no one moment",
                path.display(),
                mount.display()
            ));
        }
        let action = match Action::parse(&resource.unit_action) {
            Action::Freeze if !whole && !resource.units.is_empty() => {
                words.push(format!(
                    "{} {} not frozen, because not all paths can be read from a snapshot and nothing is frozen for as \
                     long as a backup reads; put them on btrfs, or give unit_action stop",
                    resource.units.join(", "),
                    if resource.units.len() == 1 { "was" } else { "were" },
                ));
                Action::None
            }
            action => action,
        };
        // A backup that is of no one moment is better than none.
        let action = match self.units_to_hold(&resource.units, action) {
            Ok(_) => action,
            Err(e) => {
                tracing::warn!("backup {} holds back no units: {e}", row.id);
                words.push(format!("no units were held back: {e}"));
                Action::None
            }
        };
        let held = self.hold(row.job, &resource.units, action, Some(resource), progress)?;
        if let Some(transient) = transient.as_mut().filter(|_| some) {
            transient.fix();
        }
        let mut moment = Moment { transient, held: Some(held), pause: None, words };
        required(&moment.transient)?;
        if moment.transient.as_ref().is_some_and(|t| t.without.is_empty()) {
            moment.let_go();
        }
        if let Some(transient) = &mut moment.transient {
            transient.open();
        }
        required(&moment.transient)?;
        Ok(moment)
    }
}

impl Moment<'_> {
    /// The paths as they are read elsewhere.
    pub fn views(&mut self) -> Vec<View> {
        self.transient.as_mut().map(|t| std::mem::take(&mut t.views)).unwrap_or_default()
    }

    fn let_go(&mut self) {
        if let Some(held) = self.held.take() {
            self.pause = Some(held.release());
        }
    }

    /// Ends it once all is read: who was held back goes on, the snapshot goes. What there is to say
    /// of it is put into the job's result, and answered in words.
    pub fn end(mut self, result: &mut serde_json::Value) -> Option<String> {
        self.let_go();
        drop(self.transient.take());
        if let Some(pause) = self.pause.take() {
            pause.note(result);
            self.words.extend(pause.words());
            self.words.extend(pause.trouble.as_ref().map(ToString::to_string));
        }
        (!self.words.is_empty()).then(|| std::mem::take(&mut self.words).join("; "))
    }
}
