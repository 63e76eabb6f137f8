//! `strongroom status`: health at a glance.

use std::collections::BTreeSet;

use serde_json::json;

use super::backup;
use super::output::{self, name, number, size, text, time};
use super::session::{Options, Session};
use crate::model::value::map_to_json;
use crate::model::{Map, Result, Value};

/// How many backups are looked at to tell each resource's last.
const RECENT: u64 = 1000;
/// How many of them are shown.
const SHOWN: usize = 5;

/// Shows what is there; 1 when something is wrong.
pub async fn run(session: &Session) -> Result<u8> {
    let none = Options::default();
    let (_, vaults) = session.all("ListVaults", &none).await?;
    let (_, resources) = session.all("ListResources", &none).await?;
    let (_, destinations) = session.all("ListDestinations", &none).await?;
    let mut recent = Options::default();
    recent.set("page_size", Some(RECENT));
    let (count, backups) = session.client.list("ListBackups", &recent.0).await?;
    let mut unprotected = Options::default();
    unprotected.flag("unprotected", true);
    let (_, unprotected) = session.all("ListResources", &unprotected).await?;
    let mut never = Options::default();
    never.flag("never_backed_up", true);
    let (_, never) = session.all("ListResources", &never).await?;

    let mut problems = Vec::new();
    for vault in &vaults {
        problems.extend(vault_problem(session, vault).await?);
    }
    problems.extend(destinations.iter().filter_map(destination_problem));
    problems.extend(failures(&resources, &backups));
    problems.extend(never.iter().map(|r| format!("resource {} was never backed up", text(r, "name"))));
    // Backed up by hand is not wrong, only worth knowing.
    let notes: Vec<String> =
        unprotected.iter().map(|r| format!("no vault or schedule covers resource {}", text(r, "name"))).collect();
    let shown: Vec<&Map> = backups.iter().take(SHOWN).collect();
    if session.json {
        output::json(&json!({
            "ok": problems.is_empty(),
            "problems": problems,
            "notes": notes,
            "vaults": vaults.iter().map(map_to_json).collect::<Vec<_>>(),
            "destinations": destinations.iter().map(map_to_json).collect::<Vec<_>>(),
            "resources": resources.len(),
            "backups": count,
            "last_backups": shown.iter().map(|b| map_to_json(b)).collect::<Vec<_>>(),
        }));
    } else {
        print(&vaults, resources.len(), count, &shown, (&problems, &notes));
    }
    Ok(u8::from(!problems.is_empty()))
}

fn print(vaults: &[Map], resources: usize, count: u64, shown: &[&Map], (problems, notes): (&[String], &[String])) {
    output::line(format!("vaults: {}, resources: {resources}, backups: {count}", vaults.len()));
    if !vaults.is_empty() {
        output::line("");
        output::table(
            &["vault", "backups", "used", "verified", "destinations"],
            vaults.iter().map(|v| {
                vec![
                    text(v, "name"),
                    text(v, "backups"),
                    size(v, "used"),
                    time(v, "last_verified"),
                    text(v, "destinations"),
                ]
            }),
        );
    }
    if !shown.is_empty() {
        output::line("");
        let heading = ["backup", "resource", "created", "status", "type", "size", "stored", "errors", "description"];
        output::table(&heading, shown.iter().map(|b| backup::row(b)));
    }
    output::line("");
    if problems.is_empty() {
        output::line("all is well");
    }
    for problem in problems {
        output::line(format!("! {problem}"));
    }
    for note in notes {
        output::line(format!("- {note}"));
    }
}

async fn vault_problem(session: &Session, vault: &Map) -> Result<Option<String>> {
    let name = text(vault, "name");
    if matches!(vault.get("encryption"), Some(Value::Bool(false))) {
        return Ok(None);
    }
    let id = number(vault, "id").map(|id| id.to_string()).unwrap_or_default();
    let keys = session.client.objects("ListVaultKeys", &id).await?;
    let kept = keys.iter().any(|key| text(key, "kind") == "recovery");
    Ok((!kept).then(|| {
        format!("vault {name} has no recovery key: without this machine its backups cannot be read; strongroom vault key add {name}")
    }))
}

fn destination_problem(destination: &Map) -> Option<String> {
    let state = text(destination, "state");
    let fine = matches!(state.as_str(), "" | "ok" | "available" | "online" | "ready" | "unknown" | "untested");
    (!fine).then(|| format!("destination {} is {state}", text(destination, "name")))
}

/// Resources whose last backup that ended has failed; `backups` come newest first.
fn failures(resources: &[Map], backups: &[Map]) -> Vec<String> {
    let known: BTreeSet<u64> = resources.iter().filter_map(|r| number(r, "id")).collect();
    let mut seen = BTreeSet::new();
    let mut problems = Vec::new();
    for backup in backups {
        let Some(Value::Map(server)) = backup.get("server") else { continue };
        let status = text(backup, "status");
        let ended = matches!(status.as_str(), "completed" | "failed");
        let Some(id) = number(server, "id").filter(|id| ended && known.contains(id)) else { continue };
        if seen.insert(id) && status == "failed" {
            let why = text(backup, "error");
            let why = if why.is_empty() { String::new() } else { format!(": {why}") };
            problems.push(format!("the last backup of {} failed{why}", name(backup, "server")));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup_of(resource: u64, status: &str) -> Map {
        let server = Map::from([("id".to_owned(), Value::Uint(resource)), ("name".to_owned(), Value::from("web"))]);
        Map::from([("server".to_owned(), Value::Map(server)), ("status".to_owned(), Value::from(status))])
    }

    #[test]
    fn only_the_last_backup_that_ended_counts() {
        let resources = [Map::from([("id".to_owned(), Value::Uint(1))])];
        let list = |statuses: &[&str]| statuses.iter().map(|s| backup_of(1, s)).collect::<Vec<_>>();
        assert!(failures(&resources, &list(&["completed", "failed"])).is_empty());
        assert!(failures(&resources, &list(&["running", "completed"])).is_empty());
        assert_eq!(failures(&resources, &list(&["running", "cancelled", "failed", "completed"])).len(), 1);
        assert!(failures(&[], &list(&["failed"])).is_empty(), "a removed resource is nobody's worry");
    }
}
