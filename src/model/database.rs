//! Databases of a resource: which servers and files, and how they are reached.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What kind of database it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DatabaseKind {
    /// A PostgreSQL server.
    #[default]
    Postgresql,
    /// A MariaDB server.
    Mariadb,
    /// One file of SQLite.
    Sqlite,
    /// A program that writes a dump to its standard output.
    Command,
}

impl DatabaseKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Postgresql, Self::Mariadb, Self::Sqlite, Self::Command];

    /// The name on the bus, and of the directory that holds its dumps.
    pub fn name(self) -> &'static str {
        match self {
            Self::Postgresql => "postgresql",
            Self::Mariadb => "mariadb",
            Self::Sqlite => "sqlite",
            Self::Command => "command",
        }
    }

    /// The kind of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether it is a server with any number of databases.
    pub fn is_server(self) -> bool {
        matches!(self, Self::Postgresql | Self::Mariadb)
    }
}

/// One entry of a resource's `databases`. It holds no secret: `credential` only names one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Database {
    /// What it is.
    pub kind: DatabaseKind,
    /// Of a server the directory that its dumps stand in, where the resource has several of the
    /// kind; else the name of the dump's file.
    pub name: String,
    /// The file of SQLite.
    pub path: Option<PathBuf>,
    /// Which databases of a server; none: all.
    pub names: Vec<String>,
    /// The server's socket, or the directory it is in.
    pub socket: Option<PathBuf>,
    /// The server's address.
    pub host: Option<String>,
    /// The server's port.
    pub port: Option<u16>,
    /// Who logs in; empty: the server's own administrator.
    pub user: String,
    /// A systemd credential or a file that holds user and password; empty: none is needed.
    pub credential: String,
    /// The program that writes the dump, with its arguments; from files only.
    pub command: Vec<String>,
    /// The program that reads it back; from files only.
    pub restore: Vec<String>,
}

impl Database {
    /// What to call it in a message.
    pub fn title(&self) -> String {
        let at = match (&self.path, &self.host, &self.socket) {
            (Some(path), _, _) | (_, None, Some(path)) => format!(" at {}", path.display()),
            (_, Some(host), _) => format!(" on {host}"),
            _ => String::new(),
        };
        match self.kind {
            DatabaseKind::Postgresql => format!("the PostgreSQL server{at}"),
            DatabaseKind::Mariadb => format!("the MariaDB server{at}"),
            DatabaseKind::Sqlite => format!("the SQLite database{at}"),
            DatabaseKind::Command => format!("the command {:?}", self.name),
        }
    }
}
