//! Databases of a resource: declared, shown, reached.

use std::path::{Path, PathBuf};

use super::fields::{Fields, lossy};
use super::places::{check_credential, named_credential};
use super::{Service, check};
use crate::catalog::Resource;
use crate::model::{Args, Database, DatabaseKind, Error, Map, Result};
use crate::source::database::{Connection, DIRECTORY, DatabaseLogin};

/// More than this is a mistake.
const MANY: usize = 64;
/// The longest name of a database on either server, in bytes.
const NAME: usize = 192;

/// Takes the list `databases`. One that runs commands comes from files only.
pub(super) fn take(args: &mut Args, file: bool) -> Result<Option<Vec<Database>>> {
    let Some(list) = args.maps("databases")? else { return Ok(None) };
    if list.len() > MANY {
        return Err(Error::invalid(format!("databases holds {} entries, and {MANY} is the most", list.len())));
    }
    let taken: Vec<Database> =
        list.into_iter().map(|map| one(map, file).map_err(|e| e.context("databases"))).collect::<Result<_>>()?;
    for (index, database) in taken.iter().enumerate() {
        if taken.iter().take(index).any(|other| other.kind == database.kind && other.name == database.name) {
            return Err(Error::invalid(format!(
                "databases holds two of kind {} that would be called {:?} in a backup; give one of them another name",
                database.kind.name(),
                database.name
            )));
        }
    }
    Ok(Some(taken))
}

fn one(map: Map, file: bool) -> Result<Database> {
    let mut args = Args::new(map);
    let wrong = "holds one whose kind is not postgresql, mariadb or sqlite";
    let kind = args.string("kind")?.ok_or_else(|| Error::invalid("holds one without a kind"))?;
    let kind = DatabaseKind::parse(&kind).ok_or_else(|| Error::invalid(wrong))?;
    if kind == DatabaseKind::Command && !file {
        return Err(Error::invalid(
            "holds one of kind command, which only a configuration file may do; declare it there",
        ));
    }
    let mut database = Database { kind, ..Database::default() };
    if let Some(name) = args.string("name")? {
        database.name = plain(name, kind.is_server())?;
    }
    match kind {
        DatabaseKind::Postgresql | DatabaseKind::Mariadb => server(&mut args, &mut database)?,
        DatabaseKind::Sqlite => {
            let path = args.string("path")?;
            let path = path.ok_or_else(|| Error::invalid("holds one of kind sqlite without a path; give its file"))?;
            let path = check::clean_path("path", Path::new(&path))?;
            if !file && !path.is_file() {
                return Err(Error::invalid(format!("path is {}, which is no file", path.display())));
            }
            if database.name.is_empty() {
                let name = path.file_name().and_then(|n| n.to_str());
                let name = name.ok_or_else(|| Error::invalid("path has no name that is UTF-8; give a name"))?;
                database.name = plain(name.to_owned(), false)?;
            }
            database.path = Some(path);
        }
        DatabaseKind::Command => {
            database.command = words(&mut args, "command")?
                .ok_or_else(|| Error::invalid("holds one of kind command without a command; give its arguments"))?;
            database.restore = words(&mut args, "restore")?.unwrap_or_default();
            if database.name.is_empty() {
                return Err(Error::invalid("holds one of kind command without a name; give the name of its dump"));
            }
        }
    }
    args.finish()?;
    Ok(database)
}

/// The keys of a server.
fn server(args: &mut Args, database: &mut Database) -> Result<()> {
    database.names = args.strings("names")?.unwrap_or_default();
    for (index, name) in database.names.iter().enumerate() {
        if name.is_empty() || name.len() > NAME || name.contains('\0') {
            return Err(Error::invalid(format!("names holds {name:?}, which no database is called")));
        }
        if database.names.iter().take(index).any(|other| other == name) {
            return Err(Error::invalid(format!("names holds {name:?} twice; leave one out")));
        }
    }
    if let Some(socket) = args.string("socket")? {
        database.socket = Some(check::clean_path("socket", Path::new(&socket))?);
    }
    database.host = args.string("host")?;
    if let Some(host) = &database.host {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_:%".contains(&b);
        if host.is_empty() || host.len() > 255 || host.starts_with('-') || !host.bytes().all(plain) {
            return Err(Error::invalid(format!("host is {host:?}; it must be a name or an address")));
        }
        if database.socket.is_some() {
            return Err(Error::invalid("host and socket are both given; give one of them"));
        }
    }
    database.port = args.uint("port", 1, 65_535)?.and_then(|port| u16::try_from(port).ok());
    database.user = args.string("user")?.unwrap_or_default();
    let user = &database.user;
    if user.len() > NAME || user.starts_with('-') || user.chars().any(char::is_control) {
        return Err(Error::invalid(format!("user is {user:?}, which is no name")));
    }
    database.credential =
        args.string("credential")?.filter(|c| !c.is_empty()).map_or(Ok(String::new()), check_credential)?;
    Ok(())
}

/// A name that can be that of a file, or with `server` of a directory.
fn plain(name: String, server: bool) -> Result<String> {
    let fits =
        |c: char| if server { c.is_ascii_alphanumeric() || "-_".contains(c) } else { c != '/' && !c.is_control() };
    if name.is_empty() || name.len() > 255 || name == "." || name == ".." || !name.chars().all(fits) {
        let want = if server { "letters, digits, - and _" } else { "the name of a file" };
        return Err(Error::invalid(format!("name is {name:?}; it must be {want}")));
    }
    Ok(name)
}

/// A command as an argument list.
fn words(args: &mut Args, key: &str) -> Result<Option<Vec<String>>> {
    let Some(words) = args.strings(key)? else { return Ok(None) };
    if !words.first().is_some_and(|program| program.starts_with('/')) || words.iter().any(|w| w.contains('\0')) {
        return Err(Error::invalid(format!("{key} must be a list of strings whose first is an absolute path")));
    }
    Ok(Some(words))
}

/// Refuses paths that would stand in a backup where its dumps do, and a resource of nothing.
pub(super) fn check_with_paths(row: &Resource) -> Result<()> {
    let place = Path::new("/").join(DIRECTORY);
    if row.databases.is_empty() {
        return if row.paths.is_empty() {
            Err(Error::invalid("paths is empty; give at least one absolute path, or databases"))
        } else {
            Ok(())
        };
    }
    match row.paths.iter().find(|path| path.starts_with(&place)) {
        Some(path) => Err(Error::invalid(format!(
            "paths holds {}, where a backup has the dumps of the resource's databases; back it up as another resource",
            path.display()
        ))),
        None => Ok(()),
    }
}

/// What is shown of one.
pub(super) fn map(database: &Database) -> Map {
    let mut f = Fields::default();
    f.set("kind", database.kind.name()).text("name", &database.name);
    f.opt("path", database.path.as_deref().map(lossy));
    f.opt("names", (!database.names.is_empty()).then(|| database.names.clone()));
    f.opt("socket", database.socket.as_deref().map(lossy)).opt("host", database.host.as_deref());
    f.opt("port", database.port.map(u32::from)).text("user", &database.user);
    f.text("credential", &database.credential);
    f.done()
}

/// Those that run nothing: commands come from this machine's own files alone.
pub(super) fn without_commands(mut list: Vec<Database>) -> Vec<Database> {
    list.retain(|database| database.kind != DatabaseKind::Command);
    list
}

impl Service {
    /// A database with what it takes to reach it.
    pub(super) fn connection(&self, database: &Database) -> Result<Connection> {
        let _ = self;
        let login = match database.credential.as_str() {
            "" => None,
            name => {
                let read = named_credential(name).and_then(|path| DatabaseLogin::read(&path));
                // As a job sees it: the settings are fine, the file is not.
                Some(read.map_err(|e| Error::invalid_state(format!("{}: {}", database.title(), e.message)))?)
            }
        };
        Ok(Connection { database: database.clone(), login })
    }

    /// Where a restore of databases keeps its journal.
    pub(super) fn database_journal(&self, job: u64) -> PathBuf {
        self.options.state_dir.join(format!("restore-{job}.databases"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Value;

    fn taken(pairs: &[(&str, &str)], file: bool) -> Result<Option<Vec<Database>>> {
        let map: Map = pairs.iter().map(|(k, v)| ((*k).to_owned(), Value::from(*v))).collect();
        take(&mut Args::new(Map::from([("databases".to_owned(), Value::from(vec![map]))])), file)
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (pairs, word) in [
            (&[("path", "/x")][..], "kind"),
            (&[("kind", "oracle")][..], "kind"),
            (&[("kind", "sqlite")][..], "path"),
            (&[("kind", "sqlite"), ("path", "relative")][..], "path"),
            (&[("kind", "postgresql"), ("path", "/x")][..], "path"),
            (&[("kind", "postgresql"), ("host", "h"), ("socket", "/run")][..], "socket"),
            (&[("kind", "mariadb"), ("host", "-h")][..], "host"),
            (&[("kind", "mariadb"), ("user", "-u")][..], "user"),
            (&[("kind", "mariadb"), ("name", "a/b")][..], "name"),
            (&[("kind", "mariadb"), ("credential", "../x")][..], "credential"),
            (&[("kind", "mariadb"), ("password", "x")][..], "password"),
            (&[("kind", "command"), ("name", "x")][..], "command"),
        ] {
            let error = taken(pairs, true).unwrap_err();
            assert!(error.message.starts_with("databases") && error.message.contains(word), "{pairs:?}: {error}");
        }
        assert!(
            taken(&[("kind", "command"), ("name", "x")], false).unwrap_err().message.contains("configuration file")
        );
        assert_eq!(taken(&[("kind", "sqlite"), ("path", "/srv/app.db")], true).unwrap().unwrap()[0].name, "app.db");
    }
}
