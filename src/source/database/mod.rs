//! Databases: dumped while their servers work.
//!
//! What it guarantees: everything that can be said against a dump is said before the first one begins
//! ([`prepare`]); a dump whose program fails is an error, never a short file; what a server streams
//! touches no disk.
//!
//! | file | what it holds |
//! |---|---|
//! | `tool` | the servers' programs: found, run as the right user, watched |
//! | `login` | who logs in, and the file that says so |
//! | `place` | where a dump stands in a backup |
//! | `postgres`, `mariadb`, `sqlite`, `command` | each kind: how it is reached, checked and dumped |
//! | `scratch` | a directory for what a program must have as a file |

pub mod command;
pub mod login;
pub mod mariadb;
pub mod place;
pub mod postgres;
pub mod scratch;
pub mod sqlite;
pub mod tool;

use std::io::{self, Read};
use std::sync::Arc;

pub use login::DatabaseLogin;
pub use place::{DIRECTORY, Place};
use tool::{Stream, Tool};

use crate::model::{Database, DatabaseKind, Error, Progress, Result};

/// A database and what it takes to reach it.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The declaration.
    pub database: Database,
    /// Who logs in, where that is not said by who runs the program.
    pub login: Option<DatabaseLogin>,
}

/// How a dump comes about.
#[derive(Debug)]
enum How {
    /// A program writes it, after these bytes.
    Program(Vec<u8>, Tool),
    /// A copy is made first.
    Copy(sqlite::Copy),
}

/// One dump that can be made.
#[derive(Debug)]
pub struct Dump {
    /// Where it stands in the backup.
    pub place: Place,
    how: How,
}

/// Everything that will be dumped, after all checks.
#[derive(Debug, Default)]
pub struct Prepared {
    /// The dumps, one after another.
    pub dumps: Vec<Dump>,
    /// What their reader should know.
    pub notes: Vec<String>,
}

/// A dump as it is read.
pub struct Reading {
    before: io::Cursor<Vec<u8>>,
    from: From,
}

enum From {
    Program(Stream),
    Copy(sqlite::Copied),
}

/// Looks at every database: whether its tools are there, it answers, takes the login, allows what is
/// needed, and is of a version that can be dumped. Changes nothing. `token` names what has to be on
/// disk meanwhile.
pub fn prepare(connections: &[Connection], token: &str, progress: &Arc<Progress>) -> Result<Prepared> {
    let mut prepared = Prepared::default();
    for connection in connections {
        progress.check()?;
        let title = connection.database.title();
        progress.set_current(&title);
        match connection.database.kind {
            DatabaseKind::Postgresql => postgres::prepare(connection, &mut prepared, progress)?,
            DatabaseKind::Mariadb => mariadb::prepare(connection, &mut prepared, progress)?,
            DatabaseKind::Sqlite => sqlite::prepare(&connection.database, token, &mut prepared, progress)?,
            DatabaseKind::Command => command::prepare(&connection.database, &mut prepared)?,
        }
    }
    prepared.dumps.sort_by(|a, b| a.place.cmp(&b.place));
    if let Some(pair) = prepared.dumps.windows(2).find(|pair| pair[0].place == pair[1].place) {
        return Err(Error::invalid_state(format!(
            "two databases of the resource would be dumped as {}; give one of them a name",
            pair[0].place.path().display()
        )));
    }
    Ok(prepared)
}

impl Prepared {
    fn program(&mut self, place: Place, before: Vec<u8>, tool: Tool) {
        self.dumps.push(Dump { place, how: How::Program(before, tool) });
    }
}

impl Dump {
    /// Begins to make it.
    pub fn open(&self, progress: &Arc<Progress>) -> Result<Reading> {
        let (before, from) = match &self.how {
            How::Program(before, tool) => (before.clone(), From::Program(tool.stream(progress)?)),
            How::Copy(copy) => (Vec::new(), From::Copy(copy.make(progress)?)),
        };
        Ok(Reading { before: io::Cursor::new(before), from })
    }
}

impl Read for Reading {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.before.read(buffer)? {
            0 => {}
            n => return Ok(n),
        }
        match &mut self.from {
            From::Program(stream) => stream.read(buffer),
            From::Copy(copy) => copy.read(buffer),
        }
    }
}

impl Reading {
    /// Says whether what was read is all there is.
    pub fn finish(self) -> Result<()> {
        match self.from {
            From::Program(stream) => stream.finish(),
            From::Copy(copy) => copy.finish(),
        }
    }
}

/// Removes what an interrupted dump left on disk.
pub fn remove_left(token: &str) -> Result<()> {
    scratch::remove(token)
}
