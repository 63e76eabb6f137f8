//! Commands that a resource's declaration names: `before` its data is fixed at a moment or read, and
//! `after` that, whatever came of it.
//!
//! That the first has begun is in the job's row before, so that a daemon that died meanwhile runs
//! those `after` when it is back.

use std::time::Duration;

use super::Service;
use crate::catalog::{Resource, Tables};
use crate::host::command::{self, Run};
use crate::model::{Error, Result};

/// Seconds that a command may take where its resource says nothing else.
pub(super) const LIMIT: u32 = 300;

/// What a command's unit is called.
fn unit(job: u64, when: &str, number: usize) -> String {
    format!("strongroom-{when}-{job}-{number}")
}

impl Service {
    fn run_command(
        &self,
        (job, when, number): (u64, &str, usize),
        words: &[String],
        resource: &Resource,
        check: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        let kind = self.catalog.read(|r| r.need::<crate::catalog::Job>(job)).map(|row| row.task.kind());
        let environment = [
            ("STRONGROOM_WHEN".to_owned(), when.to_owned()),
            ("STRONGROOM_JOB".to_owned(), job.to_string()),
            ("STRONGROOM_KIND".to_owned(), kind.unwrap_or("backup").to_owned()),
            ("STRONGROOM_RESOURCE".to_owned(), resource.name.clone()),
        ];
        let limit = Duration::from_secs(resource.command_timeout.unwrap_or(LIMIT).into());
        let run = Run { words, environment: &environment, unit: &unit(job, when, number), limit };
        command::run(&self.options.bus, &run, check)
            .map_err(|e| e.context(format!("the command {when} the {}", environment[2].1)))
    }

    /// Runs the commands `before`, one after the other, until one of them fails.
    pub(super) fn run_before(&self, job: u64, resource: &Resource, check: &dyn Fn() -> Result<()>) -> Result<()> {
        for (number, words) in resource.before.iter().enumerate() {
            check()?;
            self.run_command((job, "before", number), words, resource, check)?;
        }
        Ok(())
    }

    /// Runs the commands `after`, all of them, and answers the first error.
    pub(super) fn run_after(&self, job: u64, resource: &Resource) -> Result<()> {
        let mut wrong: Option<Error> = None;
        for (number, words) in resource.after.iter().enumerate() {
            // A job that was cancelled owes them all the same.
            if let Err(e) = self.run_command((job, "after", number), words, resource, &|| Ok(())) {
                tracing::error!("job {job}: {e}");
                wrong = wrong.or(Some(e));
            }
        }
        self.update_job(job, |row| row.commands = false)?;
        wrong.map_or(Ok(()), Err)
    }

    /// Does what a daemon that died left to be done of them.
    pub(super) fn finish_commands(&self, job: u64, resource: &Resource) -> Result<()> {
        tracing::warn!("the commands after job {job} are run, since the daemon stopped before them");
        for number in 0..resource.before.len() {
            command::end(&self.options.bus, &unit(job, "before", number))?;
        }
        self.run_after(job, resource)
    }
}
