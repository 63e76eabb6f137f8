//! `strongroom job …`

use super::args::JobVerb;
use super::output::{self, text, time};
use super::session::{Options, Session};
use super::wait::Outcome;
use crate::model::{Result, Value};

/// Does the verb.
pub async fn run(session: &Session, verb: JobVerb) -> Result<u8> {
    match verb {
        JobVerb::List => {
            let list = session.all("ListJobs", &Options::default()).await?;
            Ok(session.list(list, &["id", "kind", "state", "progress", "created", "ended", "error"], |j| {
                let progress = match j.get("progress") {
                    Some(Value::Double(p)) => format!("{:.0}%", p * 100.0),
                    _ => String::new(),
                };
                let ended = time(j, "completed_at");
                vec![
                    text(j, "id"),
                    text(j, "kind"),
                    text(j, "state"),
                    progress,
                    time(j, "created_at"),
                    ended,
                    text(j, "error"),
                ]
            }))
        }
        JobVerb::Watch { id } => match session.watch(id).await? {
            Outcome::Left(_) => Ok(0),
            Outcome::Completed(job) => Ok(session.show(&job)),
        },
        JobVerb::Cancel { id } => {
            session.client.call::<_, ()>("CancelJob", &(id, Options::default().wire()?)).await?;
            if session.wait {
                // Its end as cancelled is what was asked for.
                match session.watch(id).await {
                    Err(e) if e.kind == crate::model::ErrorKind::Cancelled => {}
                    Ok(Outcome::Completed(job)) => {
                        output::note(format!("strongroom: job {id} had completed already"));
                        return Ok(session.show(&job));
                    }
                    other => {
                        other?;
                    }
                }
            }
            if session.json {
                return Ok(session.show(&session.client.object("GetJob", &id).await?));
            }
            output::line(if session.wait {
                format!("job {id} cancelled")
            } else {
                format!("job {id} was asked to stop")
            });
            Ok(0)
        }
    }
}
