//! `strongroom status`: health at a glance, in one screen.
//!
//! Wrong, so that the exit status is 1: a resource's last backup failed, a resource was never
//! backed up, a schedule is overdue or its last run failed, a destination does not answer, a vault
//! without a recovery key, full to its capacity, or not read within its days. Only advice: a
//! resource that nothing covers, a schedule that is not enabled, no copy off this machine.

use std::collections::BTreeSet;

use jiff::Timestamp;
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
    let (_, schedules) = session.all("ListSchedules", &none).await?;
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
    problems.extend(vaults.iter().flat_map(vault_limits));
    problems.extend(vaults.iter().flat_map(mirror_problems));
    problems.extend(failures(&resources, &backups));
    problems.extend(schedules.iter().filter_map(schedule_problem));
    problems.extend(never.iter().map(|r| format!("resource {} was never backed up", text(r, "name"))));
    // Backed up by hand is not wrong, only worth knowing.
    let mut notes: Vec<String> =
        unprotected.iter().map(|r| format!("no vault or schedule covers resource {}", text(r, "name"))).collect();
    let idle = schedules.iter().filter(|s| matches!(s.get("enabled"), Some(Value::Bool(false))));
    notes.extend(idle.map(|s| format!("schedule {} is not enabled", text(s, "name"))));
    if !destinations.is_empty() && destinations.iter().all(|d| text(d, "type") == "local") {
        notes.push("no destination is off this machine, unless a directory of theirs is mounted from elsewhere".into());
    }
    let shown: Vec<&Map> = backups.iter().take(SHOWN).collect();
    if session.json {
        output::json(&json!({
            "ok": problems.is_empty(),
            "problems": problems,
            "notes": notes,
            "vaults": vaults.iter().map(map_to_json).collect::<Vec<_>>(),
            "destinations": destinations.iter().map(map_to_json).collect::<Vec<_>>(),
            "schedules": schedules.iter().map(map_to_json).collect::<Vec<_>>(),
            "resources": resources.len(),
            "backups": count,
            "last_backups": shown.iter().map(|b| map_to_json(b)).collect::<Vec<_>>(),
        }));
    } else {
        output::line(format!(
            "vaults: {}, resources: {}, schedules: {}, backups: {count}",
            vaults.len(),
            resources.len(),
            schedules.len()
        ));
        print(&vaults, &schedules, &shown, (&problems, &notes));
    }
    Ok(u8::from(!problems.is_empty()))
}

fn print(vaults: &[Map], schedules: &[Map], shown: &[&Map], (problems, notes): (&[String], &[String])) {
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
    if !schedules.is_empty() {
        output::line("");
        let heading = ["schedule", "next run", "last run", "result", "overdue"];
        output::table(
            &heading,
            schedules.iter().map(|s| {
                vec![
                    text(s, "name"),
                    time(s, "next_run"),
                    time(s, "last_run"),
                    text(s, "last_result"),
                    text(s, "overdue"),
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

/// Mirrors that could not be brought up to date.
fn mirror_problems(vault: &Map) -> Vec<String> {
    let name = text(vault, "name");
    let Some(Value::Maps(copies)) = vault.get("copies") else { return Vec::new() };
    let failed = copies.iter().filter(|copy| text(copy, "state") == "failed");
    failed.map(|c| format!("the mirror of vault {name} on {} failed: {}", text(c, "name"), text(c, "error"))).collect()
}

/// A vault that is full, or was not read within its days.
fn vault_limits(vault: &Map) -> Vec<String> {
    let name = text(vault, "name");
    let mut problems = Vec::new();
    if let (Some(used), Some(capacity)) = (number(vault, "used"), number(vault, "capacity"))
        && used >= capacity
    {
        problems.push(format!("vault {name} is full: it holds {} of {}", size(vault, "used"), size(vault, "capacity")));
    }
    if let Some(days) = number(vault, "verify_within").filter(|days| *days > 0) {
        let last = text(vault, if vault.contains_key("last_read") { "last_read" } else { "created_at" });
        let hours = i64::try_from(days).unwrap_or(i64::MAX).saturating_mul(24);
        let since = last.parse::<Timestamp>().map(|last| Timestamp::now().duration_since(last));
        if since.is_ok_and(|since| since.as_hours() >= hours) {
            problems.push(format!("vault {name} was not read whole within {days} days"));
        }
    }
    problems
}

/// A schedule that is overdue, or whose last run could not back up everything.
fn schedule_problem(schedule: &Map) -> Option<String> {
    let (name, words) = (text(schedule, "name"), text(schedule, "message"));
    let what = if matches!(schedule.get("overdue"), Some(Value::Bool(true))) {
        "is overdue"
    } else if text(schedule, "last_result") == "failed" {
        "failed when it ran last"
    } else {
        return None;
    };
    let words = if words.is_empty() { words } else { format!(": {words}") };
    Some(format!("schedule {name} {what}{words}"))
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
