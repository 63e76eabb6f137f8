//! PostgreSQL: restored into a new database, which takes the old one's name in one transaction.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Goal, Item, Plan};
use crate::model::{Error, Progress, Result};
use crate::source::database::Connection;
use crate::source::database::postgres::{Server, column, literal, quoted};
use crate::source::database::scratch::Scratch;

/// How often somebody else may come between.
const TRIES: u32 = 20;

fn server(connection: &Connection, token: &str, progress: &Arc<Progress>) -> Result<Server> {
    Ok(Server::connect(connection, progress)?.named(&format!("strongroom-{token}")))
}

/// Where to be while the database of this name is renamed.
fn elsewhere(name: &str) -> &'static str {
    if name == "postgres" { "template1" } else { "postgres" }
}

fn exists(server: &Server, name: &str, progress: &Arc<Progress>) -> Result<bool> {
    let question = format!("SELECT datname FROM pg_database WHERE datname = {}", literal(name));
    Ok(!server.ask(elsewhere(name), &question, progress)?.is_empty())
}

/// Checks that the server is there, and that we may do what is to be done.
pub fn check(goal: &Goal, plan: &Plan<'_>) -> Result<Option<String>> {
    let server = Server::connect(&goal.connection, plan.progress)?;
    if !server.superuser {
        let what =
            "needs a superuser for restoring databases with all that belongs to them; correct user or credential";
        return Err(Error::invalid_state(format!("{} {what}", server.title())));
    }
    if goal.dump.place.is_globals() {
        return Ok(None);
    }
    let name = goal.name();
    if goal.fresh.is_some() && exists(&server, &name, plan.progress)? {
        return Err(Error::already_exists(format!("{} has a database {name:?}; give another name", server.title())));
    }
    // Whether it can be read at all by the programs that are here.
    contents(goal, &server, plan)?;
    Ok(None)
}

/// What a dump says that it holds, line by line.
fn contents(goal: &Goal, server: &Server, plan: &Plan<'_>) -> Result<Vec<String>> {
    let tool = server.tool("pg_restore", plan.progress)?.args(["--list", "--create"]);
    let list = plan.pour_start(&goal.dump, tool.feed_and_answer(plan.progress)?).map_err(|e| {
        Error::invalid_state(format!("the dump cannot be read by the programs of {}: {e}", server.title()))
    })?;
    let list = String::from_utf8_lossy(&list).into_owned();
    Ok(list.lines().filter(|line| !line.starts_with(';')).map(str::to_owned).collect())
}

/// The kind of a line of the contents with what follows: `ID; TABLE OID KIND …`.
fn kind(line: &str) -> &str {
    line.splitn(4, ' ').nth(3).unwrap_or_default()
}

/// What belongs to a database and not to anything in it: the statement that makes it, from `WITH` on, and
/// those that follow.
fn frame(goal: &Goal, item: &Item, server: &Server, plan: &Plan<'_>, list: &[String]) -> Result<(String, String)> {
    let wanted =
        |line: &&String| kind(line).starts_with("ACL - DATABASE ") || kind(line).starts_with("COMMENT - DATABASE ");
    let lines: Vec<&str> = list.iter().filter(wanted).map(String::as_str).collect();
    let scratch = Scratch::new(&item.token, server.run_as())?;
    let file = scratch.file("list");
    crate::source::database::scratch::write(&file, lines.join("\n").as_bytes(), server.run_as())?;
    let tool = server.tool("pg_restore", plan.progress)?.args(["--create", "--file=-", "-L"]).arg(&file);
    let text = plan.pour_start(&goal.dump, tool.feed_and_answer(plan.progress)?)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let (mut made, mut rest) = (String::new(), String::new());
    for line in text.lines() {
        if made.is_empty() && line.starts_with("CREATE DATABASE ") {
            let with = line.find(" WITH TEMPLATE ").and_then(|at| line.get(at..)).unwrap_or_default();
            with.trim_end_matches(';').clone_into(&mut made);
        } else if !line.starts_with('\\') {
            rest.push_str(line);
            rest.push('\n');
        }
    }
    Ok((made, rest))
}

/// Loads the dump into a new database, and looks at what came of it.
pub fn stage(goal: &Goal, item: &Item, plan: &Plan<'_>) -> Result<()> {
    let progress = plan.progress;
    let server = server(&goal.connection, &item.token, progress)?;
    let list = contents(goal, &server, plan)?;
    let (with, _) = frame(goal, item, &server, plan, &list)?;
    let new = item.new_name();
    let with = if with.is_empty() { " WITH TEMPLATE template0".to_owned() } else { with };
    server.run("template1", &format!("CREATE DATABASE {}{with};\n", quoted(&new)), progress)?;
    let tool = server.tool("pg_restore", progress)?.args(["--exit-on-error", "-w", "-d", &server.conninfo(&new)]);
    plan.pour(&goal.dump, tool.feed(progress)?)?;
    let tables = list
        .iter()
        .filter(|l| kind(l).starts_with("TABLE ") && !kind(l).starts_with("TABLE DATA "))
        .filter(|l| !kind(l).starts_with("TABLE ATTACH "))
        .count();
    let question = "SELECT count(*)::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE relkind IN \
                    ('r', 'p') AND nspname !~ '^pg_' AND nspname <> 'information_schema' AND NOT EXISTS (SELECT FROM pg_depend \
                    d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') UNION ALL \
                    SELECT count(*)::text FROM pg_index WHERE NOT indisvalid";
    let found = column_of(&server, &new, question, progress)?;
    if found != [tables.to_string(), "0".to_owned()] {
        return Err(Error::failed(format!(
            "what was restored has {} tables and invalid indexes, and the dump says {tables} and 0",
            found.join(" and ")
        )));
    }
    // Without it the first queries are planned by guesses.
    server.run(&new, "ANALYZE;\n", progress)
}

fn column_of(server: &Server, name: &str, question: &str, progress: &Arc<Progress>) -> Result<Vec<String>> {
    Ok(column(server.ask(name, question, progress)?))
}

/// One transaction: the old one's name goes to the new one, with owner, settings and rights.
pub fn swap(goal: &Goal, item: &Item, plan: &Plan<'_>) -> Result<()> {
    let progress = plan.progress;
    let server = server(&goal.connection, &item.token, progress)?;
    let list = contents(goal, &server, plan)?;
    let (_, rest) = frame(goal, item, &server, plan, &list)?;
    let rest = if item.fresh { "" } else { rest.as_str() };
    let (name, new, old) = (quoted(&item.name), quoted(&item.new_name()), quoted(&item.old_name()));
    let away = if exists(&server, &item.name, progress)? {
        format!("ALTER DATABASE {name} RENAME TO {old};\n")
    } else {
        String::new()
    };
    if item.fresh && !away.is_empty() {
        return Err(Error::already_exists(format!("somebody made a database {:?} meanwhile", item.name)));
    }
    let script = format!(
        "SET synchronous_commit = on;\nSELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname IN ({}, {}) AND \
         pid <> pg_backend_pid();\nBEGIN;\n{away}ALTER DATABASE {new} RENAME TO {name};\n{rest}\nCOMMIT;\n",
        literal(&item.name),
        literal(&item.new_name())
    );
    // Not to be cancelled in the middle.
    let (mut tries, calm) = (0, Arc::new(Progress::default()));
    loop {
        tries += 1;
        match server.run(elsewhere(&item.name), &script, &calm) {
            // Somebody was quicker than we.
            Err(e) if tries < TRIES && e.message.contains("accessed by other users") => {}
            other => return other,
        }
    }
}

/// Drops what is under the names beside.
pub fn settle(connection: &Connection, item: &Item, progress: &Arc<Progress>) -> Result<()> {
    crate::source::database::remove_left(&item.token)?;
    let server = Server::connect(connection, progress)?;
    let place = elsewhere(&item.name);
    let sessions = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = {}",
        literal(&format!("strongroom-{}", item.token))
    );
    // A program that a crash left behind may still be at work.
    for _ in 0..TRIES {
        if column_of(&server, place, &sessions, progress)? == ["0"] {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    for name in [item.new_name(), item.old_name()] {
        server.run(place, &format!("DROP DATABASE IF EXISTS {} WITH (FORCE);\n", quoted(&name)), progress)?;
    }
    Ok(())
}

/// Makes the roles that a server lacks; those it has stay as they are.
pub fn globals(goal: &Goal, plan: &Plan<'_>) -> Result<()> {
    let server = Server::connect(&goal.connection, plan.progress)?;
    let there = column_of(&server, "template1", "SELECT quote_ident(rolname) FROM pg_roles", plan.progress)?;
    let there: BTreeSet<&str> = there.iter().map(String::as_str).collect();
    let mut text = Vec::new();
    for part in plan.vault.each_part(&goal.dump.content, goal.dump.size) {
        let part = part?;
        text.extend(plan.vault.read_blob(&part.id)?.iter());
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    let script = missing_roles(&text, &there);
    if !script.is_empty() {
        server.run("template1", &script, plan.progress)?;
    }
    plan.progress.add(1, goal.dump.size);
    Ok(())
}

/// The lines of `pg_dumpall --globals-only` that make the roles which are not there.
fn missing_roles(text: &str, there: &BTreeSet<&str>) -> String {
    let name = |line: &str, start: &str| line.strip_prefix(start).and_then(|l| l.strip_suffix(';')).map(str::to_owned);
    let missing: BTreeSet<String> =
        text.lines().filter_map(|line| name(line, "CREATE ROLE ")).filter(|n| !there.contains(n.as_str())).collect();
    let mut script = String::new();
    for line in text.lines().filter(|line| line.ends_with(';')) {
        let alters = |role: &String| {
            line.strip_prefix("ALTER ROLE ")
                .and_then(|l| l.strip_prefix(role.as_str()))
                .is_some_and(|l| l.starts_with(' '))
        };
        let grants = |role: &String| {
            line.strip_prefix("GRANT ").is_some_and(|l| {
                l.split_once(" TO ").is_some_and(|(a, b)| {
                    a == role || b.strip_prefix(role.as_str()).is_some_and(|b| b.starts_with([' ', ';']))
                })
            })
        };
        let makes = name(line, "CREATE ROLE ").is_some_and(|n| missing.contains(&n));
        if makes || missing.iter().any(|role| alters(role) || grants(role)) {
            script.push_str(line);
            script.push('\n');
        }
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_missing_roles_are_made() {
        let text = "CREATE ROLE app;\nALTER ROLE app WITH NOSUPERUSER LOGIN PASSWORD 'x';\nCREATE ROLE postgres;\n\
                    ALTER ROLE postgres WITH SUPERUSER;\nALTER ROLE application WITH LOGIN;\n\
                    GRANT app TO postgres GRANTED BY postgres;\nGRANT readers TO writers;\n";
        let script = missing_roles(text, &BTreeSet::from(["postgres", "application", "readers", "writers"]));
        assert_eq!(
            script,
            "CREATE ROLE app;\nALTER ROLE app WITH NOSUPERUSER LOGIN PASSWORD 'x';\nGRANT app TO postgres GRANTED BY postgres;\n"
        );
        assert_eq!(missing_roles(text, &BTreeSet::from(["postgres", "app"])), "");
    }
}
