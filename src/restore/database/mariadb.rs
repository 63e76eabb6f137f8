//! MariaDB: loaded into a database of its own and checked; then all tables change places in one
//! `RENAME TABLE`, which happens as a whole or not at all.
//!
//! Triggers, views, routines and events cannot be moved. A database that has some is swapped in steps:
//! triggers go, tables change places, then everything is made anew from what was saved before. What
//! a crash interrupts there is finished by [`settle`], never left.

use std::sync::Arc;

use super::{Goal, Item, Plan};
use crate::model::{Error, Progress, Result};
use crate::source::database::Connection;
use crate::source::database::mariadb::{BOUND, Server, literal, quoted};

/// What a restore needs to be allowed.
const WRITING: [&str; 8] = ["SELECT", "INSERT", "CREATE", "DROP", "ALTER", "TRIGGER", "CREATE VIEW", "CREATE ROUTINE"];
/// Says on which side of the swap a database is; no table is called so.
const MARKER: &str = "strongroom_marker";

/// Names in a schema, by what they are.
#[derive(Debug, Default)]
struct Things {
    tables: Vec<String>,
    views: Vec<String>,
    triggers: Vec<String>,
    procedures: Vec<String>,
    functions: Vec<String>,
    packages: Vec<String>,
    events: Vec<String>,
}

impl Things {
    fn of(server: &Server, schema: &str, progress: &Arc<Progress>) -> Result<Self> {
        let schema = literal(schema);
        let ask = |column: &str, table: &str, which: &str| {
            let of = match table {
                "tables" => "table_schema",
                "triggers" => "trigger_schema",
                "routines" => "routine_schema",
                _ => "event_schema",
            };
            let question = format!(
                "SELECT HEX({column}) FROM information_schema.{table} WHERE {of} = {schema} {which} ORDER BY {column}"
            );
            server.names(&question, progress)
        };
        let routines = |kind: &str| ask("routine_name", "routines", &format!("AND routine_type = '{kind}'"));
        Ok(Self {
            tables: ask("table_name", "tables", "AND table_type NOT IN ('VIEW', 'SYSTEM VIEW')")?,
            views: ask("table_name", "tables", "AND table_type = 'VIEW'")?,
            triggers: ask("trigger_name", "triggers", "")?,
            procedures: routines("PROCEDURE")?,
            functions: routines("FUNCTION")?,
            packages: routines("PACKAGE")?,
            events: ask("event_name", "events", "")?,
        })
    }

    /// Whether there is something that cannot be moved.
    fn is_bound(&self) -> bool {
        let bound = [&self.views, &self.triggers, &self.procedures, &self.functions, &self.packages, &self.events];
        bound.iter().any(|list| !list.is_empty())
    }

    fn drop_triggers(&self, schema: &str) -> String {
        let one = |name: &String| format!("DROP TRIGGER IF EXISTS {}.{};\n", quoted(schema), quoted(name));
        self.triggers.iter().map(one).collect()
    }

    fn drop_programs(&self, schema: &str) -> String {
        let kinds = [
            ("VIEW", &self.views),
            ("PROCEDURE", &self.procedures),
            ("FUNCTION", &self.functions),
            ("PACKAGE", &self.packages),
            ("EVENT", &self.events),
        ];
        let all = kinds.iter().flat_map(|(kind, names)| names.iter().map(move |name| (kind, name)));
        all.map(|(kind, name)| format!("DROP {kind} IF EXISTS {}.{};\n", quoted(schema), quoted(name))).collect()
    }
}

fn exists(server: &Server, schema: &str, progress: &Arc<Progress>) -> Result<bool> {
    let question =
        format!("SELECT HEX(schema_name) FROM information_schema.schemata WHERE schema_name = {}", literal(schema));
    Ok(!server.names(&question, progress)?.is_empty())
}

/// Checks that the server is there, and that we may do what is to be done; says what is not one step.
pub fn check(goal: &Goal, plan: &Plan<'_>) -> Result<Option<String>> {
    let server = Server::connect(&goal.connection, plan.progress)?;
    let name = goal.name();
    if ["mysql", "sys", "information_schema", "performance_schema"].contains(&name.to_ascii_lowercase().as_str()) {
        return Err(Error::invalid_state(format!(
            "{name:?} is the server's own and is not replaced while it runs; restore into a target and use mariadb"
        )));
    }
    // The right for databases of any name, since it is made beside under another.
    let lacking = server.lacks("strongroom", &WRITING, plan.progress)?;
    if !lacking.is_empty() {
        return Err(Error::invalid_state(format!(
            "{} does not let the user restore; grant {} on *.*",
            server.title(),
            lacking.join(", ")
        )));
    }
    let there = exists(&server, &name, plan.progress)?;
    if goal.fresh.is_some() {
        return if there {
            Err(Error::already_exists(format!("{} has a database {name:?}; give another name", server.title())))
        } else {
            Ok(None)
        };
    }
    let now = if there { Things::of(&server, &name, plan.progress)? } else { Things::default() };
    let bound = now.is_bound() || plan.starts_with(&goal.dump, BOUND)?;
    Ok(bound.then(|| {
        format!(
            "{name:?} has views, triggers, routines or events, which MariaDB cannot move: its tables change places in one \
             step, these are dropped before and made anew after it"
        )
    }))
}

/// Loads the dump into a new database, and has the server check it. Gives what cannot be moved, as
/// statements that make it anew.
pub fn stage(goal: &Goal, item: &Item, plan: &Plan<'_>) -> Result<String> {
    let progress = plan.progress;
    let server = Server::connect(&goal.connection, progress)?;
    let new = item.new_name();
    server.run("", &format!("CREATE DATABASE {};\n", quoted(&new)), progress)?;
    plan.pour(&goal.dump, server.client(&new)?.feed(progress)?)?;
    let things = Things::of(&server, &new, progress)?;
    let programs = programs(&server, &new, &things, progress)?;
    // What comes by time must not come to this one too.
    let events = things.events.iter().map(|name| format!("DROP EVENT IF EXISTS {}.{};\n", quoted(&new), quoted(name)));
    server.run("", &events.collect::<String>(), progress)?;
    for table in &things.tables {
        let rows = server.ask(&format!("CHECK TABLE {}.{} MEDIUM", quoted(&new), quoted(table)), progress)?;
        // The last row says what came of it.
        let text = rows.last().and_then(|row| row.last()).map(String::as_str).unwrap_or_default();
        let note = rows.last().and_then(|row| row.get(2)).map(String::as_str).unwrap_or_default();
        if note != "note" && text != "OK" && text != "Table is already up to date" {
            return Err(Error::failed(format!("the restored table {table:?} is not sound: {text}")));
        }
    }
    let marker = format!("CREATE TABLE {}.{} (there INT) ENGINE = InnoDB;\n", quoted(&new), quoted(MARKER));
    server.run("", &marker, progress)?;
    Ok(programs)
}

/// The statements that make what cannot be moved.
fn programs(server: &Server, new: &str, things: &Things, progress: &Arc<Progress>) -> Result<String> {
    let mut programs = String::new();
    let mut save = |arguments: &[&str], names: &[String]| -> Result<()> {
        let tool = server.dumper()?.args(["--no-data", "--skip-lock-tables", "--skip-add-locks"]).args(arguments);
        let tool = tool.args(["--", new]).args(names.iter());
        programs.push_str(&String::from_utf8_lossy(&tool.output(b"", progress)?));
        Ok(())
    };
    if !things.views.is_empty() {
        // Routines first, since views may call them.
        save(&["--no-create-info", "--skip-triggers", "--routines", "--events"], &[])?;
        save(&["--skip-triggers", "--skip-routines", "--skip-events"], &things.views)?;
    } else if things.is_bound() {
        save(&["--no-create-info", "--skip-triggers", "--routines", "--events"], &[])?;
    }
    if !things.triggers.is_empty() {
        save(&["--no-create-info", "--triggers", "--skip-routines", "--skip-events"], &things.tables)?;
    }
    Ok(programs)
}

/// Saves what is dropped of the old one before its tables move.
pub fn prepare_swap(goal: &Goal, item: &Item, plan: &Plan<'_>) -> Result<Item> {
    let progress = plan.progress;
    let server = Server::connect(&goal.connection, progress)?;
    if item.fresh && exists(&server, &item.name, progress)? {
        return Err(Error::already_exists(format!("somebody made a database {:?} meanwhile", item.name)));
    }
    let there = if exists(&server, &item.name, progress)? {
        Things::of(&server, &item.name, progress)?
    } else {
        Things::default()
    };
    let mut undo = String::new();
    if !there.triggers.is_empty() {
        let tool = server.dumper()?.args(["--no-data", "--skip-lock-tables", "--skip-add-locks", "--no-create-info"]);
        let tool = tool.args(["--triggers", "--skip-routines", "--skip-events", "--", &item.name]).args(&there.tables);
        undo = String::from_utf8_lossy(&tool.output(b"", progress)?).into_owned();
    }
    Ok(Item { swapping: true, undo, ..item.clone() })
}

/// Whether the tables have changed places.
pub fn is_moved(connection: &Connection, item: &Item, progress: &Arc<Progress>) -> Result<bool> {
    let server = Server::connect(connection, progress)?;
    Ok(!Things::of(&server, &item.new_name(), progress)?.tables.iter().any(|table| table == MARKER))
}

/// Moves the tables, and makes the rest anew. It can be done again at any point.
pub fn swap(connection: &Connection, item: &Item, progress: &Arc<Progress>) -> Result<()> {
    let server = Server::connect(connection, progress)?;
    // Not to be cancelled in the middle.
    let calm = &Arc::new(Progress::default());
    let (name, new, old) = (&item.name, &item.new_name(), &item.old_name());
    let staged = Things::of(&server, new, calm)?;
    let frame = format!(
        "SELECT default_character_set_name, default_collation_name FROM information_schema.schemata WHERE schema_name = {}",
        literal(new)
    );
    let row = server.ask(&frame, calm)?.into_iter().next().unwrap_or_default();
    if staged.tables.iter().any(|table| table == MARKER) {
        let [set, collation] = row.as_slice() else { return Err(Error::failed("the new database is not described")) };
        let looks = format!("CHARACTER SET = {set} COLLATE = {collation}");
        let mut script = format!(
            "CREATE DATABASE IF NOT EXISTS {};\nCREATE DATABASE IF NOT EXISTS {} {looks};\n",
            quoted(old),
            quoted(name)
        );
        server.run("", &script, calm)?;
        let there = Things::of(&server, name, calm)?;
        // Sessions with open transactions hold the tables; those who use them are meant to be stopped.
        let sessions = format!(
            "SELECT id FROM information_schema.processlist WHERE db = {} AND id <> CONNECTION_ID()",
            literal(name)
        );
        for id in server.ask(&sessions, calm)?.iter().flatten() {
            let _ = server.run("", &format!("KILL {id};\n"), calm);
        }
        script = "SET lock_wait_timeout = 60;\n".into();
        script += &staged.drop_triggers(new);
        script += &there.drop_triggers(name);
        let moves = |tables: &[String], from: &str, to: &str| -> Vec<String> {
            let one = |t: &String| format!("{}.{} TO {}.{}", quoted(from), quoted(t), quoted(to), quoted(t));
            tables.iter().map(one).collect()
        };
        let mut steps = moves(&there.tables, name, old);
        let tables: Vec<String> = staged.tables.iter().filter(|table| *table != MARKER).cloned().collect();
        steps.extend(moves(&tables, new, name));
        // With the tables, so that it says whether they have moved.
        steps.push(format!("{0}.{2} TO {1}.{2}", quoted(new), quoted(old), quoted(MARKER)));
        script += &format!("RENAME TABLE {};\nALTER DATABASE {} {looks};\n", steps.join(", "), quoted(name));
        if let Err(e) = server.run("", &script, calm) {
            // The old one is as it was, but for its triggers.
            let now = Things::of(&server, name, calm)?;
            server.run(name, &format!("{}{}", now.drop_triggers(name), item.undo), calm)?;
            return Err(e);
        }
    }
    let now = Things::of(&server, name, calm)?;
    let mut script = now.drop_triggers(name);
    script += &now.drop_programs(name);
    script += &item.programs;
    server.run(name, &script, calm)
}

/// Finishes a swap that had begun, and drops what is under the names beside.
pub fn settle(connection: &Connection, item: &Item, progress: &Arc<Progress>) -> Result<()> {
    let server = Server::connect(connection, progress)?;
    let staged = exists(&server, &item.new_name(), progress)?;
    if item.swapping
        && staged
        && let Err(e) = swap(connection, item, progress)
    {
        if is_moved(connection, item, progress)? {
            return Err(e);
        }
        tracing::warn!("{:?} stays as it was: {e}", item.name);
    }
    let drop = |name: &str| format!("DROP DATABASE IF EXISTS {};\n", quoted(name));
    // The new one last: as long as it is there, the swap may have to be finished.
    server.run("", &drop(&item.old_name()), progress)?;
    server.run("", &drop(&item.new_name()), progress)
}
