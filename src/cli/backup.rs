//! `strongroom backup`, `list`, `show` and `delete`.

use super::args::{Backup, List};
use super::output::{self, bytes, name, number, size, text, time};
use super::session::{Options, Session};
use super::wait::Outcome;
use crate::bus::client::job_id;
use crate::model::{Map, Result, Value};

/// Done, but some files could not be read.
pub const PARTLY: u8 = 3;

/// How many unreadable files are named to people.
const NAMED: u64 = 20;

/// Backs a resource up.
pub async fn backup(session: &Session, what: &Backup) -> Result<u8> {
    let mut options = Options::default();
    options
        .set("type", what.kind.as_deref())
        .set("description", what.description.as_deref())
        .set("vault", what.vault.as_deref())
        .set("incremental", what.full.then_some(false));
    let arguments = (&what.resource, options.wire()?);
    let mut made = Map::new();
    let start = async {
        made = session.client.object("CreateBackup", &arguments).await?;
        job_id(&text(&made, "job"))
    };
    match session.work(start).await? {
        Outcome::Left(_) if session.json => Ok(session.show(&made)),
        Outcome::Left(id) => Ok(session.left(id)),
        Outcome::Completed(_) => {
            let id = number(&made, "id").unwrap_or_default();
            let backup = session.client.object("GetBackup", &id).await?;
            if session.json {
                session.show(&backup);
            } else {
                output::line(format!(
                    "backup {id} of {}: {} files, {}, stored {}",
                    name(&backup, "server"),
                    number(&backup, "files").unwrap_or(0),
                    bytes(number(&backup, "size").unwrap_or(0)),
                    bytes(number(&backup, "stored_size").unwrap_or(0)),
                ));
            }
            unreadable(session, &backup).await
        }
    }
}

/// Names files that could not be read; the exit status says whether there are any.
async fn unreadable(session: &Session, backup: &Map) -> Result<u8> {
    let errors = number(backup, "errors").unwrap_or(0);
    if errors == 0 {
        return Ok(0);
    }
    let id = number(backup, "id").unwrap_or_default();
    let mut options = Options::default();
    options.set("page_size", Some(NAMED));
    let (_, page) = session.client.list_of("ListBackupErrors", &(id, options.wire()?)).await?;
    output::note(format!("strongroom: {errors} files could not be read and are not in backup {id}:"));
    for error in &page {
        let why = [text(error, "error"), text(error, "message")].into_iter().find(|t| !t.is_empty());
        output::note(format!("  {}: {}", text(error, "path"), why.unwrap_or_default()));
    }
    if errors > page.len() as u64 {
        output::note(format!("  and {} more", errors - page.len() as u64));
    }
    Ok(PARTLY)
}

/// Lists backups.
pub async fn list(session: &Session, which: &List) -> Result<u8> {
    let mut options = Options::default();
    options
        .set("resource", which.resource.as_deref())
        .set("status", which.status.as_deref())
        .set("backup_type", which.manual.then_some("manual").or(which.automatic.then_some("automatic")));
    let list = session.all("ListBackups", &options).await?;
    Ok(session.list(
        list,
        &["id", "resource", "created", "status", "type", "size", "stored", "errors", "description"],
        row,
    ))
}

/// A backup in a table.
pub fn row(b: &Map) -> Vec<String> {
    let errors = number(b, "errors").filter(|n| *n > 0).map(|n| n.to_string()).unwrap_or_default();
    vec![
        text(b, "id"),
        name(b, "server"),
        time(b, "created_at"),
        text(b, "status"),
        text(b, "backup_type"),
        size(b, "size"),
        size(b, "stored_size"),
        errors,
        text(b, "description"),
    ]
}

/// Shows one backup.
pub async fn show(session: &Session, id: u64) -> Result<u8> {
    let backup = session.client.object("GetBackup", &id).await?;
    session.show(&backup);
    if !session.json {
        // What it lacks was a matter of making it; showing it is done all the same.
        unreadable(session, &backup).await?;
    }
    Ok(0)
}

/// Copies a backup into another vault.
pub async fn copy(session: &Session, id: u64, vault: &str) -> Result<u8> {
    let arguments = (id, vault, Options::default().wire()?);
    match session.work(session.client.job("CopyBackup", &arguments)).await? {
        Outcome::Left(job) => Ok(session.left(job)),
        Outcome::Completed(job) if session.json => Ok(session.show(&job)),
        Outcome::Completed(job) => {
            let copy = match job.get("result") {
                Some(Value::Map(result)) => number(result, "backup").unwrap_or_default(),
                _ => 0,
            };
            output::line(format!("backup {copy} in vault {vault} is a copy of {id}"));
            Ok(0)
        }
    }
}

/// Deletes a backup.
pub async fn delete(session: &Session, id: u64) -> Result<u8> {
    let arguments = (id, Options::default().wire()?);
    match session.work(session.client.job("DeleteBackup", &arguments)).await? {
        Outcome::Left(job) => Ok(session.left(job)),
        Outcome::Completed(job) if session.json => Ok(session.show(&job)),
        Outcome::Completed(_) => {
            output::line(format!("backup {id} deleted"));
            Ok(0)
        }
    }
}
