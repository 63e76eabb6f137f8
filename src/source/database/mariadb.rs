//! MariaDB: each database by `mariadb-dump --single-transaction`, a row to a line, so that a changed row
//! changes nothing around it.

use std::path::PathBuf;
use std::sync::Arc;

use super::postgres::client;
use super::tool::{RunAs, Tool, failure, find, missing};
use super::{Connection, Place, Prepared};
use crate::model::{Error, Progress, Result};

const ADMINISTRATOR: &str = "root";
const SOCKETS: [&str; 2] = ["/run/mysqld/mysqld.sock", "/var/lib/mysql/mysql.sock"];
/// What is the server's own, and not dumped unless it is named.
const OWN: [&str; 4] = ["information_schema", "performance_schema", "sys", "mysql"];
/// How a dump begins that holds something other than tables, for whoever restores it.
pub const BOUND: &str = "-- with views, triggers, routines or events\n";
/// What a dump is short of without.
const READING: [&str; 4] = ["SELECT", "SHOW VIEW", "TRIGGER", "EVENT"];

/// A server that answers.
#[derive(Debug, Clone)]
pub struct Server {
    title: String,
    connection: Vec<String>,
    password: Option<String>,
    run_as: RunAs,
}

/// A name as SQL has it.
pub fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A text as SQL has it.
pub fn literal(text: &str) -> String {
    // Hexadecimal, which no setting of the server reads in another way.
    let digits: String = text.bytes().map(|b| format!("{b:02x}")).collect();
    if text.is_empty() { "''".into() } else { format!("CONVERT(x'{digits}' USING utf8mb4)") }
}

/// The program by its name of today or of before.
fn program(name: &str, before: &str) -> Result<PathBuf> {
    find(name, &[]).or_else(|| find(before, &[])).ok_or_else(|| missing(name, "mariadb-client"))
}

impl Server {
    /// Asks a server for what has to be known of it; an error says why it cannot be used.
    pub fn connect(connection: &Connection, progress: &Arc<Progress>) -> Result<Self> {
        let Connection { database, login } = connection;
        let title = database.title();
        let said = login.as_ref().map(|l| l.user.as_str()).filter(|user| !user.is_empty());
        let user = [database.user.as_str(), said.unwrap_or_default()].into_iter().find(|u| !u.is_empty());
        let mut arguments = vec![format!("--user={}", user.unwrap_or(ADMINISTRATOR))];
        match (&database.host, &database.socket) {
            (Some(host), _) => {
                arguments.extend([format!("--host={host}"), "--protocol=tcp".into()]);
                arguments.extend(database.port.map(|port| format!("--port={port}")));
            }
            (None, socket) => {
                let usual = || PathBuf::from(SOCKETS.iter().find(|s| PathBuf::from(s).exists()).unwrap_or(&SOCKETS[0]));
                let mut socket = socket.clone().unwrap_or_else(usual);
                if socket.is_dir() {
                    socket.push("mysqld.sock");
                }
                arguments.extend([format!("--socket={}", socket.display()), "--protocol=socket".into()]);
            }
        }
        let server = Self {
            run_as: client(database, login.is_some(), ADMINISTRATOR)?,
            title,
            connection: arguments,
            password: login.as_ref().map(|l| l.password.clone()),
        };
        let version = server.ask("SELECT VERSION()", progress).map_err(|e| server.refused(&e))?;
        let version = version.into_iter().flatten().next().unwrap_or_default();
        if !version.contains("MariaDB") {
            return Err(Error::invalid_state(format!(
                "{} is of version {version:?}, which is no MariaDB; other servers are dumped by a command",
                server.title
            )));
        }
        Ok(server)
    }

    /// Why it did not let us in, in words that help.
    fn refused(&self, error: &Error) -> Error {
        let has = |list: &[&str]| list.iter().any(|text| error.message.contains(text));
        let what = if has(&["not installed"]) {
            return error.clone().context(&self.title);
        } else if has(&["ERROR 1045", "ERROR 1698", "ERROR 1044"]) {
            "refuses the login; correct user or credential"
        } else {
            "does not answer; start it, or correct socket, host or port"
        };
        Error::new(
            if error.kind == crate::model::ErrorKind::Cancelled {
                error.kind
            } else {
                crate::model::ErrorKind::InvalidState
            },
            format!("{} {what} ({})", self.title, error.message),
        )
    }

    fn with_login(&self, program: &std::path::Path) -> Tool {
        // First of all: no other file may say anything.
        let tool = Tool::new(program, self.run_as).arg("--no-defaults").args(self.connection.iter());
        let tool = tool.arg("--default-character-set=utf8mb4");
        match &self.password {
            Some(password) => tool.env("MYSQL_PWD", password.clone()),
            None => tool,
        }
    }

    /// The client, which runs statements in a database.
    pub fn client(&self, database: &str) -> Result<Tool> {
        let tool = self.with_login(&program("mariadb", "mysql")?).args(["--batch", "--skip-column-names", "--raw"]);
        let tool = tool.args(["--connect-timeout=10", "--binary-mode", "--max-allowed-packet=1G"]);
        Ok(if database.is_empty() { tool } else { tool.arg(format!("--database={database}")) })
    }

    /// The program that dumps.
    pub fn dumper(&self) -> Result<Tool> {
        let tool = self.with_login(&program("mariadb-dump", "mysqldump").map_err(|e| e.context(&self.title))?);
        Ok(tool.args(["--skip-dump-date", "--hex-blob", "--max-allowed-packet=1G", "--quick", "--single-transaction"]))
    }

    /// The rows that a question is answered with. No field may have a tab or a line break in it, so names
    /// are asked for in hexadecimal.
    pub fn ask(&self, question: &str, progress: &Arc<Progress>) -> Result<Vec<Vec<String>>> {
        let tool = self.client("")?;
        let (answer, status, complaint) = tool.run(format!("{question};\n").as_bytes(), progress)?;
        if !status.success() {
            return Err(failure(&tool.name(), status, &complaint));
        }
        let text = String::from_utf8_lossy(&answer).into_owned();
        Ok(text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect())
    }

    /// A column of names, asked for as `HEX(…)`.
    pub fn names(&self, question: &str, progress: &Arc<Progress>) -> Result<Vec<String>> {
        let rows = self.ask(question, progress)?;
        let name = |field: &String| crate::model::id::unhex(&field.to_ascii_lowercase());
        let names = rows.iter().flatten().map(|field| name(field).and_then(|bytes| String::from_utf8(bytes).ok()));
        names.collect::<Option<_>>().ok_or_else(|| Error::failed(format!("{} answers no names", self.title)))
    }

    /// Has it do what a script says, up to the first mistake.
    pub fn run(&self, database: &str, script: &str, progress: &Arc<Progress>) -> Result<()> {
        self.client(database)?.output(script.as_bytes(), progress).map(drop)
    }

    /// Which of these rights the user lacks for a database.
    pub fn lacks(&self, database: &str, wanted: &[&str], progress: &Arc<Progress>) -> Result<Vec<String>> {
        let who = "CONCAT('''', SUBSTRING_INDEX(CURRENT_USER(), '@', 1), '''@''', SUBSTRING_INDEX(CURRENT_USER(), '@', -1), '''')";
        let role = "IFNULL(CONCAT('''', CURRENT_ROLE(), '''@'''''), '')";
        let schema = format!("BINARY {} LIKE BINARY table_schema", literal(database));
        let grantee = format!("grantee IN ({who}, {role})");
        let question = format!(
            "SELECT privilege_type FROM information_schema.user_privileges WHERE {grantee} UNION \
             SELECT privilege_type FROM information_schema.schema_privileges WHERE {grantee} AND {schema}"
        );
        let has: Vec<String> = self.ask(&question, progress)?.into_iter().flatten().collect();
        Ok(wanted.iter().filter(|right| !has.iter().any(|h| h == **right)).map(|right| (*right).to_owned()).collect())
    }

    /// What to call it.
    pub fn title(&self) -> &str {
        &self.title
    }
}

/// Checks a server and the databases that are wanted of it.
pub fn prepare(connection: &Connection, prepared: &mut Prepared, progress: &Arc<Progress>) -> Result<()> {
    let server = Server::connect(connection, progress)?;
    let database = &connection.database;
    let there =
        server.names("SELECT HEX(schema_name) FROM information_schema.schemata ORDER BY schema_name", progress)?;
    let mut names = database.names.clone();
    if names.is_empty() {
        names = there.iter().filter(|name| !OWN.contains(&name.to_ascii_lowercase().as_str())).cloned().collect();
    }
    if let Some(name) = names.iter().find(|name| !there.contains(name)) {
        return Err(Error::invalid_state(format!(
            "{} has no database {name:?} that the user may see; correct names, or grant it",
            server.title
        )));
    }
    let dumper = server.dumper()?;
    for name in &names {
        let lacking = server.lacks(name, &READING, progress)?;
        if !lacking.is_empty() {
            return Err(Error::invalid_state(format!(
                "{} does not let the user read all of {name:?}, so that a dump would be short; grant {}",
                server.title,
                lacking.join(", ")
            )));
        }
        let looks = format!(
            "SELECT default_character_set_name, default_collation_name, (SELECT count(*) FROM information_schema.tables t \
             WHERE t.table_schema = s.schema_name AND table_type = 'BASE TABLE' AND engine NOT IN ('InnoDB', 'ROCKSDB')), \
             (SELECT count(*) FROM information_schema.tables t WHERE t.table_schema = s.schema_name AND table_type = 'VIEW') + \
             (SELECT count(*) FROM information_schema.triggers t WHERE t.trigger_schema = s.schema_name) + \
             (SELECT count(*) FROM information_schema.routines t WHERE t.routine_schema = s.schema_name) + \
             (SELECT count(*) FROM information_schema.events t WHERE t.event_schema = s.schema_name) FROM information_schema.schemata s WHERE schema_name = {}",
            literal(name)
        );
        let row = server.ask(&looks, progress)?.into_iter().next().unwrap_or_default();
        let [set, collation, unsafe_tables, others] = row.as_slice() else {
            return Err(Error::invalid_state(format!("{} does not describe its database {name:?}", server.title)));
        };
        if unsafe_tables != "0" {
            prepared.notes.push(format!(
                "{unsafe_tables} tables of {name:?} are in an engine without transactions, and may be of different moments"
            ));
        }
        // The dump itself is of tables alone.
        let bound = if others == "0" { "" } else { BOUND };
        let before = format!("{bound}ALTER DATABASE CHARACTER SET = {set} COLLATE = {collation};\n").into_bytes();
        let tool = dumper.clone().args(["--routines", "--events", "--triggers", "--skip-extended-insert"]);
        let tool = tool.args(["--no-autocommit", "--skip-lock-tables", "--skip-add-locks", "--"]).arg(name);
        prepared.program(Place::of(database, name), before, tool);
    }
    Ok(())
}
