//! PostgreSQL: each database by `pg_dump` in its custom format, uncompressed so that what did not change
//! is stored once, and what is outside of databases by `pg_dumpall --globals-only`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::place::GLOBALS;
use super::tool::{RunAs, Tool, find, missing};
use super::{Connection, Place, Prepared};
use crate::model::{Database, Error, Progress, Result};

/// Where Debian has the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// The oldest version that can be dumped and restored as is done here.
const OLDEST: u32 = 13;
/// The administrator, where nobody else is named.
const ADMINISTRATOR: &str = "postgres";
/// How long a dump waits for a table that somebody changes.
const LOCK_TIMEOUT: &str = "--lock-wait-timeout=600s";

/// A server that answers.
#[derive(Debug, Clone)]
pub struct Server {
    title: String,
    base: String,
    run_as: RunAs,
    password: Option<String>,
    psql: PathBuf,
    /// Its major version.
    pub version: u32,
    /// Whether we may do everything.
    pub superuser: bool,
    /// Whether we may make databases.
    pub creates: bool,
    application: String,
}

/// A name as SQL has it.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as SQL has it, however the server reads backslashes.
pub fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// A setting of a connection.
fn setting(key: &str, value: &str) -> String {
    format!("{key}='{}' ", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn versions() -> Vec<(u32, PathBuf)> {
    let entries = std::fs::read_dir(VERSIONS).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    found.sort_unstable();
    found
}

/// Where a socket is, and its port where its name says so.
fn socket(path: &Path) -> (PathBuf, Option<u16>) {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    match (name.strip_prefix(".s.PGSQL.").and_then(|port| port.parse().ok()), path.parent()) {
        (Some(port), Some(dir)) => (dir.to_owned(), Some(port)),
        _ => (path.to_owned(), None),
    }
}

/// Who a client runs as: the one that logs in, where the server knows users by the system.
pub fn client(database: &Database, login: bool, administrator: &str) -> Result<RunAs> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(RunAs::us());
    }
    if login || database.host.is_some() {
        // It needs no rights at all here.
        return Ok(RunAs::named("nobody")?.unwrap_or_else(RunAs::us));
    }
    let name = if database.user.is_empty() { administrator } else { &database.user };
    RunAs::named(name)?.ok_or_else(|| {
        Error::invalid_state(format!(
            "{} is reached by its socket as the system's user {name:?}, whom this system does not have; correct user, \
             or give a credential",
            database.title()
        ))
    })
}

impl Server {
    /// Asks a server for what has to be known of it; an error says why it cannot be used.
    pub fn connect(connection: &Connection, progress: &Arc<Progress>) -> Result<Self> {
        let Connection { database, login } = connection;
        let title = database.title();
        let newest = versions().pop().map(|(_, dir)| dir);
        let psql = find("psql", &newest.into_iter().collect::<Vec<_>>());
        let psql = psql.ok_or_else(|| missing("psql", "postgresql-client").context(&title))?;
        let said = login.as_ref().map(|l| l.user.as_str()).filter(|user| !user.is_empty());
        let user =
            [database.user.as_str(), said.unwrap_or_default(), ADMINISTRATOR].into_iter().find(|u| !u.is_empty());
        let mut base = setting("user", user.unwrap_or(ADMINISTRATOR)) + "connect_timeout='10' ";
        let mut port = database.port;
        match (&database.host, &database.socket) {
            (Some(host), _) => base += &setting("host", host),
            (None, Some(path)) => {
                let (dir, named) = socket(path);
                port = port.or(named);
                base += &setting("host", &dir.to_string_lossy());
            }
            (None, None) => base += &setting("host", "/var/run/postgresql"),
        }
        if let Some(port) = port {
            base += &setting("port", &port.to_string());
        }
        let mut server = Self {
            title,
            base,
            run_as: client(database, login.is_some(), ADMINISTRATOR)?,
            password: login.as_ref().map(|l| l.password.clone()),
            psql,
            version: 0,
            superuser: false,
            creates: false,
            application: "strongroom".into(),
        };
        let question = "SELECT current_setting('server_version_num'), rolsuper, rolcreatedb FROM pg_roles \
                        WHERE rolname = current_user";
        let answer = server.first_answer(question, progress)?;
        let row = answer.first().map(Vec::as_slice).unwrap_or_default();
        let [number, superuser, creates] = row else {
            return Err(Error::failed(format!("{} does not say what it is", server.title)));
        };
        server.version = number.parse::<u32>().unwrap_or(0) / 10_000;
        server.superuser = superuser == "t";
        server.creates = server.superuser || creates == "t";
        if server.version < OLDEST {
            return Err(Error::invalid_state(format!(
                "{} is of version {}, and {OLDEST} is the oldest that can be backed up",
                server.title, server.version
            )));
        }
        Ok(server)
    }

    /// Asks the first question, in whichever database there is.
    fn first_answer(&self, question: &str, progress: &Arc<Progress>) -> Result<Vec<Vec<String>>> {
        let mut last = String::new();
        for name in ["postgres", "template1"] {
            let (answer, status, complaint) = self.psql(name, question).run(b"", progress)?;
            if status.success() {
                return Ok(rows(&answer));
            }
            last = complaint;
            if !last.contains("database \"postgres\" does not exist") {
                break;
            }
        }
        Err(self.refused(&last))
    }

    /// Why it did not let us in, in words that help.
    fn refused(&self, complaint: &str) -> Error {
        let said = complaint.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("; ");
        let has = |list: &[&str]| list.iter().any(|text| complaint.contains(text));
        let what = if has(&["authentication failed", "no password supplied", "pg_hba.conf", "role \""]) {
            "refuses the login; correct user or credential"
        } else if has(&["permission denied"]) {
            "does not allow it; give the user more rights"
        } else {
            "does not answer; start it, or correct socket, host or port"
        };
        Error::invalid_state(format!("{} {what} ({said})", self.title))
    }

    /// The same server, whose sessions have this name.
    #[must_use]
    pub fn named(mut self, application: &str) -> Self {
        application.clone_into(&mut self.application);
        self
    }

    /// How a database is reached.
    pub fn conninfo(&self, database: &str) -> String {
        format!("{}{}{}", self.base, setting("application_name", &self.application), setting("dbname", database))
    }

    fn with_login(&self, tool: Tool) -> Tool {
        let tool = tool.env("PGPASSFILE", "/dev/null").env("PGSERVICEFILE", "/dev/null");
        match &self.password {
            Some(password) => tool.env("PGPASSWORD", password.clone()),
            None => tool,
        }
    }

    fn psql(&self, database: &str, command: &str) -> Tool {
        let tool = Tool::new(&self.psql, self.run_as).args(["-X", "-q", "-w", "-A", "-t", "-z", "-0"]);
        let tool = tool.args(["-v", "ON_ERROR_STOP=1", "-d", &self.conninfo(database)]);
        self.with_login(if command.is_empty() { tool } else { tool.args(["-c", command]) })
    }

    /// The rows that a question is answered with.
    pub fn ask(&self, database: &str, question: &str, progress: &Arc<Progress>) -> Result<Vec<Vec<String>>> {
        let (answer, status, complaint) = self.psql(database, question).run(b"", progress)?;
        if status.success() { Ok(rows(&answer)) } else { Err(super::tool::failure("psql", status, &complaint)) }
    }

    /// Has it do what a script says, up to the first mistake.
    pub fn run(&self, database: &str, script: &str, progress: &Arc<Progress>) -> Result<()> {
        self.psql(database, "").output(script.as_bytes(), progress).map(drop)
    }

    /// One of the server's client programs, of the server's own version or the next that knows it.
    pub fn tool(&self, name: &str, progress: &Arc<Progress>) -> Result<Tool> {
        let versions = versions();
        let fitting = versions.iter().find(|(version, dir)| *version >= self.version && dir.join(name).is_file());
        let program = match fitting {
            Some((_, dir)) => dir.join(name),
            None => find(name, &[]).ok_or_else(|| missing(name, "postgresql-client").context(&self.title))?,
        };
        let said = Tool::new(&program, self.run_as).arg("--version").output(b"", progress)?;
        refuse_older(name, &String::from_utf8_lossy(&said), &self.title, self.version)?;
        Ok(self.with_login(Tool::new(&program, self.run_as)))
    }

    /// Who its programs run as.
    pub fn run_as(&self) -> RunAs {
        self.run_as
    }

    /// What to call it.
    pub fn title(&self) -> &str {
        &self.title
    }
}

/// Refuses a client program that does not know its server's version, by what it says of its own.
fn refuse_older(name: &str, said: &str, server: &str, wanted: u32) -> Result<()> {
    let number = said.split(|c: char| !c.is_ascii_digit()).find(|part| !part.is_empty());
    let version: u32 = number.and_then(|n| n.parse().ok()).unwrap_or(0);
    if version >= wanted {
        return Ok(());
    }
    Err(Error::invalid_state(format!(
        "{name} is of version {version} and {server} of {wanted}; install postgresql-client-{wanted}"
    )))
}

/// Rows of fields that end with NUL each.
fn rows(answer: &[u8]) -> Vec<Vec<String>> {
    // Both separators are NUL, so every question here says how many fields it has: rows are cut by
    // whoever asked for more than one.
    let text = String::from_utf8_lossy(answer).into_owned();
    let text = text.strip_suffix('\0').unwrap_or(&text);
    if text.is_empty() { Vec::new() } else { vec![text.split('\0').map(str::to_owned).collect()] }
}

/// The fields of an answer whose rows have one each.
pub fn column(rows: Vec<Vec<String>>) -> Vec<String> {
    rows.into_iter().flatten().collect()
}

/// Checks a server and the databases that are wanted of it.
pub fn prepare(connection: &Connection, prepared: &mut Prepared, progress: &Arc<Progress>) -> Result<()> {
    let server = Server::connect(connection, progress)?;
    let database = &connection.database;
    let all = "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1";
    let there = column(server.first_answer(all, progress)?);
    let names = if database.names.is_empty() { there.clone() } else { database.names.clone() };
    if let Some(name) = names.iter().find(|name| !there.contains(name)) {
        return Err(Error::invalid_state(format!(
            "{} has no database {name:?} that can be connected to; correct names",
            server.title
        )));
    }
    let dump = server.tool("pg_dump", progress)?;
    let globals = server.tool("pg_dumpall", progress)?;
    for name in &names {
        if !server.superuser {
            check_rights(&server, name, progress)?;
        }
        let tool = dump.clone().args(["-F", "c", "-Z", "0", "-w", LOCK_TIMEOUT, "-d", &server.conninfo(name)]);
        prepared.program(Place::of(database, name), Vec::new(), tool);
    }
    let mut globals = globals.args(["--globals-only", "-w"]).args(["-d", &server.conninfo("postgres")]);
    if !server.superuser {
        globals = globals.arg("--no-role-passwords");
        prepared
            .notes
            .push(format!("passwords of roles of {} are not in it, since only a superuser reads them", server.title));
    }
    prepared.program(Place::beside(database, GLOBALS), Vec::new(), globals);
    Ok(())
}

/// Refuses a database of which not everything may be read.
fn check_rights(server: &Server, name: &str, progress: &Arc<Progress>) -> Result<()> {
    let question = "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                    WHERE c.relkind IN ('r', 'p', 'm', 'S') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' \
                    AND NOT (has_schema_privilege(n.oid, 'USAGE') AND CASE c.relkind WHEN 'S' THEN \
                    has_sequence_privilege(c.oid, 'SELECT') ELSE has_table_privilege(c.oid, 'SELECT') END) LIMIT 1";
    let rows = server.ask(name, question, progress).map_err(|e| server.refused(&e.message))?;
    match column(rows).first() {
        None => Ok(()),
        Some(table) => Err(Error::invalid_state(format!(
            "{} does not let the user read {table} in {name:?}; grant it pg_read_all_data, or name a superuser",
            server.title
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_older_than_their_server_are_refused() {
        let said = "pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n";
        refuse_older("pg_dump", said, "the server", 15).unwrap();
        refuse_older("pg_dump", said, "the server", 13).unwrap();
        let error = refuse_older("pg_dump", said, "the server", 17).unwrap_err();
        assert!(error.message.contains("15") && error.message.contains("postgresql-client-17"), "{error}");
    }

    #[test]
    fn names_and_texts_stay_what_they_are() {
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("a'b\\c"), "E'a''b\\\\c'");
        assert_eq!(setting("dbname", "a'b host=x"), "dbname='a\\'b host=x' ");
        assert_eq!(socket(Path::new("/run/x/.s.PGSQL.5433")), (PathBuf::from("/run/x"), Some(5433)));
        assert_eq!(socket(Path::new("/run/x")), (PathBuf::from("/run/x"), None));
    }
}
