//! `strongroom restore`, `export` and `browse`.

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::args::{Export, Restore};
use super::backup::PARTLY;
use super::output::{self, bytes, number};
use super::session::{Options, Session};
use super::wait::Outcome;
use super::{confirm, paths, usage};
use crate::model::{Error, Map, Result, Value};

/// Restores.
pub async fn restore(session: &Session, what: &Restore) -> Result<u8> {
    let mut options = Options::default();
    match &what.target {
        Some(target) => {
            options.set("target", Some(paths::value(target)?));
        }
        None => {
            if !what.dry_run && !what.yes {
                let backup = session.client.object("GetBackup", &what.id).await?;
                let all = if what.paths.is_empty() { "everything" } else { "these paths" };
                let resource = output::name(&backup, "server");
                let made = output::time(&backup, "created_at");
                confirm(&format!("Put {all} of {resource} back as it was at {made}, over what is there now?")).await?;
            }
            options.set("confirm", Some(true));
        }
    }
    if !what.paths.is_empty() {
        options.set("paths", Some(paths::values(&what.paths)?));
    }
    options.set("type", what.kind.as_deref());
    options.set("conflict_strategy", what.conflict.as_deref()).flag("dry_run", what.dry_run);
    options.flag("atomic", what.atomic);
    let arguments = (what.id, options.wire()?);
    match session.work(session.client.job("RestoreBackup", &arguments)).await? {
        Outcome::Left(id) => Ok(session.left(id)),
        Outcome::Completed(job) => {
            let none = Map::new();
            let result = if let Some(Value::Map(result)) = job.get("result") { result } else { &none };
            if session.json {
                session.show(&job);
            } else {
                output::line(summary(result, what.dry_run));
            }
            errors(result, "restored")
        }
    }
}

fn summary(result: &Map, dry_run: bool) -> String {
    let count = |key| number(result, key).unwrap_or(0);
    let verb = if dry_run { "would restore" } else { "restored" };
    let mut text = format!("{verb} {} entries, {}", count("files"), bytes(count("bytes")));
    for key in ["unchanged", "skipped", "removed"] {
        if count(key) > 0 {
            text += &format!(", {} {key}", count(key));
        }
    }
    text
}

fn errors(result: &Map, done: &str) -> Result<u8> {
    let errors = number(result, "errors").unwrap_or(0);
    if errors == 0 {
        return Ok(0);
    }
    output::note(format!("strongroom: {errors} files could not be {done}"));
    let list = match result.get("error_list") {
        Some(Value::Maps(list)) => list.as_slice(),
        _ => &[],
    };
    for error in list.iter().take(20) {
        let why = [output::text(error, "error"), output::text(error, "message")].into_iter().find(|t| !t.is_empty());
        output::note(format!("  {}: {}", output::text(error, "path"), why.unwrap_or_default()));
    }
    Ok(PARTLY)
}

/// Writes a backup to standard output.
pub async fn export(session: &Session, what: &Export) -> Result<u8> {
    let stdout = std::io::stdout();
    if stdout.is_terminal() {
        return Ok(usage("an archive does not go to a terminal; redirect it: strongroom export ID > FILE"));
    }
    if !session.wait {
        return Ok(usage("an export is read as it is written, so it cannot be left; omit --no-wait"));
    }
    let fd = stdout.as_fd().try_clone_to_owned().map_err(|e| Error::io("cannot pass on standard output", &e))?;
    let mut options = Options::default();
    options.set("format", Some(what.format.as_str()));
    options.0.insert("fd".to_owned(), Value::Fd(Arc::new(fd)));
    let arguments = (what.id, options.wire()?);
    match session.work(session.client.job("ExportBackup", &arguments)).await? {
        Outcome::Left(_) => Ok(0),
        Outcome::Completed(job) => {
            let none = Map::new();
            let result = if let Some(Value::Map(result)) = job.get("result") { result } else { &none };
            errors(result, "exported")
        }
    }
}

/// Prints where backups are mounted.
pub async fn browse(session: &Session, id: Option<u64>) -> Result<u8> {
    let path = match id {
        Some(id) => {
            let backup = session.client.object("GetBackup", &id).await?;
            match output::text(&backup, "browse_path") {
                none if none.is_empty() => {
                    return Err(Error::invalid_state(format!(
                        "backup {id} cannot be browsed; only completed backups can, where the mount is running"
                    )));
                }
                path => path,
            }
        }
        None => session.client.text("BrowsePath").await?,
    };
    if session.json {
        output::json(&serde_json::json!({ "browse_path": path }));
    } else {
        output::line(&path);
    }
    if session.private {
        output::note("press Ctrl-C to end browsing");
        let _ = tokio::signal::ctrl_c().await;
    }
    Ok(0)
}
