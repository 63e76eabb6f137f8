//! `strongroom schedule …`

use super::args::{ScheduleSettings, ScheduleVerb};
use super::output::{self, text, time};
use super::session::{Options, Session};
use super::wait::Outcome;
use crate::bus::client::job_id;
use crate::model::{Error, Result};

/// Does the verb.
pub async fn run(session: &Session, verb: ScheduleVerb) -> Result<u8> {
    match verb {
        ScheduleVerb::Set { name, settings } => {
            let options = options(*settings);
            let id: u64 = session.client.call("SetSchedule", &(&name, options.wire()?)).await?;
            if session.json {
                output::json(&serde_json::json!({ "id": id }));
            } else {
                let now = session.client.object("GetSchedule", &id.to_string()).await?;
                let next = time(&now, "next_run");
                let next = if next.is_empty() { "it is not enabled".to_owned() } else { format!("next run {next}") };
                output::line(format!("schedule {id} set; {next}"));
            }
            Ok(0)
        }
        ScheduleVerb::List => {
            let list = session.all("ListSchedules", &Options::default()).await?;
            let heading =
                ["id", "name", "enabled", "what", "cron", "resources", "next run", "last run", "result", "overdue"];
            Ok(session.list(list, &heading, |s| {
                let resources = text(s, "resources");
                vec![
                    text(s, "id"),
                    text(s, "name"),
                    text(s, "enabled"),
                    text(s, "what"),
                    text(s, "cron"),
                    if resources.is_empty() { "all".to_owned() } else { resources },
                    time(s, "next_run"),
                    time(s, "last_run"),
                    text(s, "last_result"),
                    text(s, "overdue"),
                ]
            }))
        }
        ScheduleVerb::Show { schedule } => Ok(session.show(&session.client.object("GetSchedule", &schedule).await?)),
        ScheduleVerb::Plan { schedule } => {
            let plan = session.client.objects("PlanRetention", &schedule).await?;
            let count = plan.len() as u64;
            Ok(session.list((count, plan), &["id", "resource", "created", "stays", "why", "until"], |p| {
                vec![
                    if text(p, "backup").is_empty() { text(p, "snapshot") } else { text(p, "backup") },
                    text(p, "resource"),
                    time(p, "created_at"),
                    text(p, "keep"),
                    text(p, "reason"),
                    time(p, "expires_at"),
                ]
            }))
        }
        ScheduleVerb::Run { schedule } => start(session, &schedule).await,
        ScheduleVerb::Remove { schedule } => {
            let none = Options::default().wire()?;
            session.done("removed; its backups and snapshots stay", "RemoveSchedule", &(&schedule, none)).await
        }
    }
}

/// Runs it, and follows its jobs one after the other.
async fn start(session: &Session, schedule: &str) -> Result<u8> {
    let none = Options::default().wire()?;
    let jobs: Vec<zbus::wire::OwnedObjectPath> = session.client.call("RunSchedule", &(schedule, none)).await?;
    let mut failed = 0;
    let mut ended = Vec::new();
    for path in jobs {
        let id = job_id(path.as_str());
        match session.work(async { id }).await {
            Ok(Outcome::Left(id)) => {
                session.left(id);
            }
            Ok(Outcome::Completed(job)) => ended.push(job),
            Err(e) => {
                failed += 1;
                output::note(output::printable(&e.message));
            }
        }
    }
    if session.json && failed == 0 {
        output::json_list(ended.len() as u64, &ended);
    } else if !session.json && !ended.is_empty() {
        output::line(format!("{} jobs completed", ended.len()));
    }
    if failed > 0 {
        return Err(Error::failed(format!("{failed} jobs of schedule {schedule} failed")));
    }
    Ok(0)
}

fn options(s: ScheduleSettings) -> Options {
    let mut options = Options::default();
    let resources = (s.all || !s.resources.is_empty()).then_some(s.resources);
    options
        .set("cron", s.cron)
        .set("timezone", s.timezone)
        .set("what", s.what)
        .set("resources", resources)
        .set("vault", s.vault)
        .set("type", s.kind)
        .set("retention", s.retention)
        .set("max_backups", s.max_backups)
        .set("keep_daily", s.keep_daily)
        .set("keep_weekly", s.keep_weekly)
        .set("keep_monthly", s.keep_monthly)
        .set("keep_yearly", s.keep_yearly)
        .set("full_every", s.full_every)
        .set("notify_on_failure", s.notify_on_failure)
        .set("enabled", s.enabled);
    options
}
