//! Where a dump stands in a backup: `databases/KIND/NAME.EXTENSION`, and for a server with a name of
//! its own `databases/KIND/SERVER/NAME.EXTENSION`.

use std::path::{Path, PathBuf};

use crate::model::{Database, DatabaseKind};

/// The directory of dumps, beside the absolute paths in a backup's root.
pub const DIRECTORY: &str = "databases";
/// The file of what a PostgreSQL server has outside its databases.
pub const GLOBALS: &str = "globals.sql";

/// The place of a dump.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// What it is a dump of.
    pub kind: DatabaseKind,
    /// The server's own directory; empty: none.
    pub server: String,
    /// The file's name.
    pub file: String,
}

fn extension(kind: DatabaseKind) -> &'static str {
    match kind {
        DatabaseKind::Postgresql => ".dump",
        DatabaseKind::Mariadb => ".sql",
        DatabaseKind::Sqlite | DatabaseKind::Command => "",
    }
}

impl Place {
    /// The place of a server's database of this name. What no file name may hold is written as in a
    /// URL.
    pub fn of(database: &Database, name: &str) -> Self {
        let mut file = String::new();
        for c in name.chars() {
            if c == '/' || c == '%' || (c as u32) < 0x20 || c as u32 == 0x7f {
                file.push_str(&format!("%{:02X}", c as u32));
            } else {
                file.push(c);
            }
        }
        file.push_str(extension(database.kind));
        Self { kind: database.kind, server: database.name.clone(), file }
    }

    /// The place of a file of the server beside its databases.
    pub fn beside(database: &Database, file: &str) -> Self {
        Self { kind: database.kind, server: database.name.clone(), file: file.to_owned() }
    }

    /// The place of a dump that is a file of the database's own name.
    pub fn file(database: &Database) -> Self {
        Self { kind: database.kind, server: String::new(), file: database.name.clone() }
    }

    /// The names of the directories and the file, beneath [`DIRECTORY`].
    pub fn names(&self) -> Vec<&str> {
        [self.kind.name(), &self.server, &self.file].into_iter().filter(|name| !name.is_empty()).collect()
    }

    /// The absolute path in a backup.
    pub fn path(&self) -> PathBuf {
        [DIRECTORY].into_iter().chain(self.names()).fold(PathBuf::from("/"), |path, name| path.join(name))
    }

    /// The place at a path beneath [`DIRECTORY`]; none where no dump would stand there.
    pub fn parse(names: &[&str]) -> Option<Self> {
        let (kind, server, file) = match names {
            [kind, file] => (kind, "", file),
            [kind, server, file] => (kind, *server, file),
            _ => return None,
        };
        let kind = DatabaseKind::parse(kind)?;
        let fits = kind.is_server() || server.is_empty();
        fits.then(|| Self { kind, server: server.to_owned(), file: (*file).to_owned() })
    }

    /// Whether it is what a server has outside its databases.
    pub fn is_globals(&self) -> bool {
        self.kind == DatabaseKind::Postgresql && self.file == GLOBALS
    }

    /// The name of the database.
    pub fn database(&self) -> String {
        let stem = self.file.strip_suffix(extension(self.kind)).unwrap_or(&self.file);
        let (mut name, mut rest) = (String::new(), stem);
        while let Some((before, after)) = rest.split_once('%') {
            name.push_str(before);
            let code = after.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
            match code {
                Some(code) => {
                    name.push(char::from(code));
                    rest = after.get(2..).unwrap_or_default();
                }
                None => {
                    name.push('%');
                    rest = after;
                }
            }
        }
        name.push_str(rest);
        name
    }

    /// Whether a declared database is the one that was dumped here.
    pub fn is_of(&self, database: &Database) -> bool {
        self.kind == database.kind
            && if self.kind.is_server() { self.server == database.name } else { self.file == database.name }
    }
}

/// Whether a path lies among the dumps of a backup.
pub fn is_beneath(path: &Path) -> bool {
    path.starts_with(Path::new("/").join(DIRECTORY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        let server = Database { kind: DatabaseKind::Postgresql, ..Database::default() };
        for name in ["app", "a/b", "100%", "%2F", "..", "-x", "l\nf", "ü", "globals", "a.dump"] {
            let place = Place::of(&server, name);
            assert!(!place.file.contains('/') && !place.is_globals(), "{name}");
            assert_eq!(place.database(), name);
            assert!(place.is_of(&server));
            assert_eq!(Place::parse(&place.names()), Some(place));
        }
        let other = Database { name: "old".into(), ..server.clone() };
        let place = Place::of(&other, "app");
        assert_eq!(place.path(), Path::new("/databases/postgresql/old/app.dump"));
        assert!(place.is_of(&other) && !place.is_of(&server));
        assert_eq!(Place::parse(&["sqlite", "x", "y"]), None);
        assert_eq!(Place::parse(&["other", "y"]), None);
    }
}
