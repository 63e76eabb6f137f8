//! `strongroom snapshot …`

use clap::Subcommand;

use super::confirm;
use super::output::{self, bytes, name, number, size, text, time};
use super::session::{Options, Session};
use super::wait::Outcome;
use crate::bus::client::job_id;
use crate::model::{Map, Result, Value};

/// What can be done with snapshots.
#[derive(Debug, Subcommand)]
pub enum SnapshotVerb {
    /// Take a snapshot of a resource now
    Create {
        /// NAME, PROJECT/NAME or id
        resource: String,
        /// What to call it: letters, digits, dashes and underscores
        name: String,
        /// A note to find it by
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        /// What to do with the resource's units meanwhile
        #[arg(long, value_parser = ["none", "freeze", "stop"])]
        unit_action: Option<String>,
    },
    /// List snapshots, the newest first
    List {
        /// Only those of this resource
        resource: Option<String>,
    },
    /// Show one snapshot
    Show {
        /// The snapshot
        id: u64,
    },
    /// Put a resource back to how it was in a snapshot
    Restore {
        /// The snapshot
        id: u64,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Delete a snapshot for good
    Delete {
        /// The snapshot
        id: u64,
    },
}

/// Does the verb.
pub async fn run(session: &Session, verb: SnapshotVerb) -> Result<u8> {
    match verb {
        SnapshotVerb::Create { resource, name, description, unit_action } => {
            let mut options = Options::default();
            options.set("description", description).set("unit_action", unit_action);
            create(session, &resource, &name, &options).await
        }
        SnapshotVerb::List { resource } => {
            let mut options = Options::default();
            options.set("resource", resource);
            let list = session.all("ListSnapshots", &options).await?;
            let heading = ["id", "resource", "name", "created", "status", "engine", "size", "automatic", "description"];
            Ok(session.list(list, &heading, |s| {
                vec![
                    text(s, "id"),
                    name(s, "server"),
                    text(s, "name"),
                    time(s, "created_at"),
                    text(s, "status"),
                    text(s, "engine"),
                    size(s, "size"),
                    text(s, "automatic"),
                    text(s, "description"),
                ]
            }))
        }
        SnapshotVerb::Show { id } => Ok(session.show(&session.client.object("GetSnapshot", &id).await?)),
        SnapshotVerb::Restore { id, yes } => {
            if !yes {
                let snapshot = session.client.object("GetSnapshot", &id).await?;
                let (resource, made) = (name(&snapshot, "server"), time(&snapshot, "created_at"));
                confirm(&format!("Put {resource} back as it was at {made}, instead of what is there now?")).await?;
            }
            let mut options = Options::default();
            options.set("confirm", Some(true));
            let arguments = (id, options.wire()?);
            let start = async {
                let answer = session.client.object("RestoreSnapshot", &arguments).await?;
                job_id(&text(&answer, "job"))
            };
            match session.work(start).await? {
                Outcome::Left(job) => Ok(session.left(job)),
                Outcome::Completed(job) if session.json => Ok(session.show(&job)),
                Outcome::Completed(job) => {
                    output::line(format!("snapshot {id} restored{}", said(&job)));
                    Ok(0)
                }
            }
        }
        SnapshotVerb::Delete { id } => {
            let arguments = (id, Options::default().wire()?);
            match session.work(session.client.job("DeleteSnapshot", &arguments)).await? {
                Outcome::Left(job) => Ok(session.left(job)),
                Outcome::Completed(job) if session.json => Ok(session.show(&job)),
                Outcome::Completed(_) => {
                    output::line(format!("snapshot {id} deleted"));
                    Ok(0)
                }
            }
        }
    }
}

/// What a job's result says besides.
fn said(job: &Map) -> String {
    match job.get("result") {
        Some(Value::Map(result)) if result.contains_key("message") => format!("; {}", text(result, "message")),
        _ => String::new(),
    }
}

async fn create(session: &Session, resource: &str, called: &str, options: &Options) -> Result<u8> {
    let arguments = (resource, called, options.wire()?);
    let mut made = Map::new();
    let start = async {
        made = session.client.object("CreateSnapshot", &arguments).await?;
        job_id(&text(&made, "job"))
    };
    match session.work(start).await? {
        Outcome::Left(_) if session.json => Ok(session.show(&made)),
        Outcome::Left(job) => Ok(session.left(job)),
        Outcome::Completed(_) => {
            let id = number(&made, "id").unwrap_or_default();
            let snapshot = session.client.object("GetSnapshot", &id).await?;
            if session.json {
                return Ok(session.show(&snapshot));
            }
            let held = number(&snapshot, "size").map(|n| format!(", {}", bytes(n))).unwrap_or_default();
            let note = Some(text(&snapshot, "message")).filter(|m| !m.is_empty());
            let note = note.map(|m| format!("; {m}")).unwrap_or_default();
            output::line(format!(
                "snapshot {id} ({called}) of {}, {}{held}{note}",
                name(&snapshot, "server"),
                text(&snapshot, "engine")
            ));
            Ok(0)
        }
    }
}
