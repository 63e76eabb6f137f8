//! `strongroom checkpoint …`

use clap::{Args, Subcommand};

use super::confirm;
use super::output::{self, name, text, time};
use super::session::{Options, Session};
use super::wait::Outcome;
use crate::bus::client::job_id;
use crate::model::{Map, Result, Value};

/// What can be done with checkpoints.
#[derive(Debug, Subcommand)]
pub enum CheckpointVerb {
    /// Back up several resources of a vault together
    Create(Create),
    /// List checkpoints
    List {
        /// Only those of this vault
        #[arg(long)]
        vault: Option<String>,
    },
    /// Show one checkpoint
    Show {
        /// The checkpoint
        id: u64,
    },
    /// Delete a checkpoint and its backups for good
    Delete {
        /// The checkpoint
        id: u64,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// A checkpoint to be made.
#[derive(Debug, Args)]
pub struct Create {
    /// NAME or id of the vault
    pub vault: String,
    /// The resources; without any, all that are backed up to the vault
    #[arg(value_name = "RESOURCE")]
    pub resources: Vec<String>,
    /// What to call it: letters, digits, Han characters, _ and -
    #[arg(long)]
    pub name: Option<String>,
    /// A note to find it by
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    /// Read everything again, whatever the change cache says
    #[arg(long)]
    pub full: bool,
    /// Make automatic backups, which do not count as made by hand and may expire
    #[arg(long)]
    pub automatic: bool,
    /// Days that its automatic backups are kept; -1: for ever
    #[arg(long, value_name = "DAYS", allow_negative_numbers = true, requires = "automatic")]
    pub retention: Option<i32>,
}

/// Does the verb.
pub async fn run(session: &Session, verb: CheckpointVerb) -> Result<u8> {
    match verb {
        CheckpointVerb::Create(what) => create(session, what).await,
        CheckpointVerb::List { vault } => {
            let mut options = Options::default();
            options.set("vault", vault);
            let list = session.all("ListCheckpoints", &options).await?;
            Ok(session.list(list, &["id", "name", "vault", "created", "status", "resources", "skipped"], |c| {
                vec![
                    text(c, "id"),
                    within(c, "extra_info", "name"),
                    name(c, "vault"),
                    time(c, "created_at"),
                    text(c, "status"),
                    members(c, "resources").len().to_string(),
                    members(c, "skipped_resources").len().to_string(),
                ]
            }))
        }
        CheckpointVerb::Show { id } => Ok(show(session, &session.client.object("GetCheckpoint", &id).await?)),
        CheckpointVerb::Delete { id, yes } => {
            if !yes {
                confirm(&format!("Delete checkpoint {id} and all backups in it for good?")).await?;
            }
            let arguments = (id, Options::default().wire()?);
            match session.work(session.client.job("DeleteCheckpoint", &arguments)).await? {
                Outcome::Left(job) => Ok(session.left(job)),
                Outcome::Completed(job) if session.json => Ok(session.show(&job)),
                Outcome::Completed(_) => {
                    output::line(format!("checkpoint {id} deleted"));
                    Ok(0)
                }
            }
        }
    }
}

async fn create(session: &Session, what: Create) -> Result<u8> {
    let mut options = Options::default();
    options
        .set("name", what.name)
        .set("description", what.description)
        .set("incremental", what.full.then_some(false))
        .flag("auto_trigger", what.automatic)
        .set("retention_duration", what.retention)
        .set("resources", (!what.resources.is_empty()).then_some(what.resources));
    let arguments = (&what.vault, options.wire()?);
    let mut made = Map::new();
    let start = async {
        made = session.client.object("CreateCheckpoint", &arguments).await?;
        job_id(&text(&made, "job"))
    };
    let done = session.work(start).await;
    // Whatever became of the others, somebody wants to know of these.
    if !session.json {
        for skipped in members(&made, "skipped_resources") {
            let called = [text(skipped, "name"), text(skipped, "id")].into_iter().find(|t| !t.is_empty());
            output::note(format!(
                "strongroom: {} was skipped ({}): {}",
                called.unwrap_or_default(),
                text(skipped, "code"),
                text(skipped, "reason")
            ));
        }
    }
    match done? {
        Outcome::Left(_) if session.json => Ok(session.show(&made)),
        Outcome::Left(id) => Ok(session.left(id)),
        Outcome::Completed(_) => {
            let id = output::number(&made, "id").unwrap_or_default();
            Ok(show(session, &session.client.object("GetCheckpoint", &id).await?))
        }
    }
}

/// The maps in a list of a checkpoint's vault.
fn members<'a>(checkpoint: &'a Map, key: &str) -> &'a [Map] {
    match checkpoint.get("vault") {
        Some(Value::Map(vault)) => match vault.get(key) {
            Some(Value::Maps(list)) => list,
            _ => &[],
        },
        _ => &[],
    }
}

fn within(map: &Map, outer: &str, inner: &str) -> String {
    match map.get(outer) {
        Some(Value::Map(map)) => text(map, inner),
        _ => String::new(),
    }
}

/// A checkpoint for people: what it is, then a line for each resource.
fn show(session: &Session, checkpoint: &Map) -> u8 {
    if session.json {
        return session.show(checkpoint);
    }
    let mut head = checkpoint.clone();
    if let Some(Value::Map(extra)) = head.remove("extra_info") {
        head.extend(extra);
    }
    head.insert("vault".into(), name(checkpoint, "vault").into());
    output::fields(&head);
    for (title, key, columns) in [
        ("resources", "resources", ["id", "name", "type", "protect_status", "backup", "error"]),
        ("skipped", "skipped_resources", ["id", "name", "type", "code", "reason", ""]),
    ] {
        let rows = members(checkpoint, key);
        if !rows.is_empty() {
            output::line(format!("\n{title}:"));
            output::table(&columns, rows.iter().map(|row| columns.map(|column| text(row, column)).to_vec()));
        }
    }
    0
}
