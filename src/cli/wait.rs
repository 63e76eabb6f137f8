//! Waiting for a job: progress for people, its end for everyone, and what Ctrl-C means meanwhile.

use std::future::Future;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output;
use super::session::{Options, Session};
use crate::bus::client::Signals;
use crate::model::value::map_to_json;
use crate::model::{Error, ErrorKind, Map, Result, Value};

/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// Work that is done sooner needs no telling.
const QUICK: Duration = Duration::from_secs(2);
/// How often a line is written where there is no terminal.
const LINE: Duration = Duration::from_secs(10);

/// How waiting for a job ended.
#[derive(Debug)]
pub enum Outcome {
    /// It completed; this is the job.
    Completed(Map),
    /// Nobody waited: its id.
    Left(u64),
}

impl Session {
    /// Starts a job and waits for it, unless the user would rather not.
    ///
    /// Who listens before asking cannot miss the end.
    pub async fn work(&self, start: impl Future<Output = Result<u64>>) -> Result<Outcome> {
        if !self.wait {
            return Ok(Outcome::Left(start.await?));
        }
        let ends = self.client.signals("JobRemoved").await?;
        let id = start.await?;
        self.watch_with(id, ends).await
    }

    /// Waits for a job that is there already.
    pub async fn watch(&self, id: u64) -> Result<Outcome> {
        let ends = self.client.signals("JobRemoved").await?;
        self.watch_with(id, ends).await
    }

    async fn watch_with(&self, id: u64, mut ends: Signals) -> Result<Outcome> {
        let mut view = View::new(self.json);
        loop {
            let job = self.client.object("GetJob", &id).await?;
            match output::text(&job, "state").as_str() {
                "completed" => {
                    view.clear();
                    return Ok(Outcome::Completed(job));
                }
                "failed" | "cancelled" => {
                    view.clear();
                    self.explain(&job);
                    return Err(why(&job));
                }
                _ => view.show(&job),
            }
            tokio::select! {
                _ = ends.next() => {}
                () = tokio::time::sleep(LOOK) => {}
                _ = tokio::signal::ctrl_c() => {
                    view.clear();
                    if self.interrupted(id).await? {
                        return Ok(Outcome::Left(id));
                    }
                }
            }
        }
    }

    /// What a job that failed has found, besides the reason that becomes the error.
    fn explain(&self, job: &Map) {
        if self.json {
            output::json(&map_to_json(job));
        } else if let Some(Value::Map(result)) = job.get("result")
            && let Some(Value::Maps(problems)) = result.get("problem_list")
        {
            for problem in problems {
                output::note(format!("  {}: {}", output::text(problem, "object"), output::text(problem, "message")));
            }
        }
    }

    /// Asks what Ctrl-C meant; true: leave the job.
    async fn interrupted(&self, id: u64) -> Result<bool> {
        let answer = if std::io::stdin().is_terminal() && std::io::stderr().is_terminal() {
            let leave = if self.private { "" } else { ", l to leave it running" };
            output::note(format!("job {id} is not done: c to cancel it{leave}, anything else to go on watching"));
            tokio::select! {
                line = read_line() => line,
                _ = tokio::signal::ctrl_c() => if self.private { "c" } else { "l" }.to_owned(),
            }
        } else if self.private {
            "c".to_owned()
        } else {
            "l".to_owned()
        };
        match answer.trim() {
            "c" | "cancel" => {
                let cancelled: Result<()> = self.client.call("CancelJob", &(id, Options::default().wire()?)).await;
                match cancelled {
                    Err(e) if e.kind == ErrorKind::InvalidState => {}
                    other => other?,
                }
                Ok(false)
            }
            "l" | "leave" if !self.private => {
                output::note(format!("job {id} goes on; see: strongroom job watch {id}"));
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// The end of a verb whose job nobody waited for.
    pub fn left(&self, id: u64) -> u8 {
        if self.json {
            output::json(&serde_json::json!({ "job": format!("{}/job/{id}", crate::bus::PATH), "id": id }));
        } else {
            output::line(format!("job {id} does it; see: strongroom job watch {id}"));
        }
        0
    }
}

/// One line that the user types.
pub async fn read_line() -> String {
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        let _ = std::io::stdin().read_line(&mut line);
        line
    });
    read.await.unwrap_or_default()
}

/// Why a job did not complete.
fn why(job: &Map) -> Error {
    let kind = match (output::text(job, "state").as_str(), job.get("error_name")) {
        ("cancelled", _) => ErrorKind::Cancelled,
        (_, Some(Value::Str(name))) => crate::bus::error::kind(name),
        _ => ErrorKind::Failed,
    };
    let message = match output::text(job, "error") {
        empty if empty.is_empty() && kind == ErrorKind::Cancelled => "the job was cancelled".to_owned(),
        empty if empty.is_empty() => "the job failed and does not say why; see the daemon's log".to_owned(),
        message => message,
    };
    Error::new(kind, message)
}

/// What a job's map says about how far it is.
fn describe(job: &Map) -> String {
    let done = output::number(job, "bytes_done").unwrap_or(0);
    let total = output::number(job, "bytes_total").unwrap_or(0);
    let files = output::number(job, "files_done").unwrap_or(0);
    let mut text = format!("{files} files, {}", output::bytes(done));
    if total > 0 {
        text += &format!(" of {}", output::bytes(total));
    }
    if let Some(rate) = output::number(job, "rate").filter(|rate| *rate > 0) {
        text += &format!(", {}/s", output::bytes(rate));
    }
    text
}

/// Progress on standard error: a bar on a terminal, now and then a line elsewhere.
struct View {
    bar: Option<ProgressBar>,
    lines: bool,
    /// What state was told last, and when; quick work needs no telling.
    told: (String, Instant),
}

impl View {
    fn new(json: bool) -> Self {
        let bar = std::io::stderr()
            .is_terminal()
            .then(|| ProgressBar::with_draw_target(Some(1000), ProgressDrawTarget::stderr()));
        Self { lines: bar.is_none() && !json, bar, told: (String::new(), Instant::now()) }
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn show(&mut self, job: &Map) {
        let state = output::text(job, "state");
        if let Some(bar) = &self.bar {
            let progress = if let Some(Value::Double(p)) = job.get("progress") { p.clamp(0.0, 1.0) } else { 0.0 };
            // How much there is may not be known before all of it is done.
            let known = progress > 0.0;
            let template =
                if known { "{prefix} [{bar:30}] {percent:>3}% {wide_msg}" } else { "{prefix} {spinner} {wide_msg}" };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(output::text(job, "kind"));
            bar.set_position((progress * 1000.0) as u64);
            bar.set_message(if state == "pending" { "waiting".to_owned() } else { describe(job) });
        } else if self.lines {
            let (last, at) = &self.told;
            let told = *last == state;
            let due = at.elapsed() >= if told { LINE } else { QUICK } && !(told && state == "pending");
            if due {
                let id = output::text(job, "id");
                let kind = output::text(job, "kind");
                if state == "pending" {
                    output::note(format!("{kind} (job {id}): waiting"));
                } else {
                    output::note(format!("{kind} (job {id}): {}", describe(job)));
                }
                self.told = (state, Instant::now());
            }
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(pairs: &[(&str, &str)]) -> Map {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), Value::from(*v))).collect()
    }

    #[test]
    fn a_failed_job_says_why_and_of_what_kind() {
        let error =
            why(&job(&[("state", "failed"), ("error", "no room"), ("error_name", "org.strongroom1.Error.NoSpace")]));
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::NoSpace, "no room"));
        assert_eq!(why(&job(&[("state", "cancelled")])).kind, ErrorKind::Cancelled);
        assert!(why(&job(&[("state", "failed")])).message.contains("does not say why"));
    }
}
