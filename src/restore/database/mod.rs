//! Databases, brought back into their servers.
//!
//! What it guarantees:
//! - Everything that can be said against it is said before anything is changed ([`Plan::check`]).
//! - A database is loaded beside the one that is there and verified; what is there is untouched until
//!   the new one takes its name in one step ([`Plan::swap`]). Where that cannot be one step,
//!   [`Plan::check`] says so.
//! - What is under way stands in a journal before it is begun; after a crash [`recover`] leaves the old
//!   database or the new one, complete, and nothing beside it.

mod journal;
mod mariadb;
mod postgres;
mod sqlite;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

pub use journal::{Item, Journal};

use crate::model::{DatabaseKind, Error, Id, Progress, Result, id::hex};
use crate::source::database::{Connection, DIRECTORY, Place, command};
use crate::vault::tree::{Content, Entry, Kind, Origin};
use crate::vault::{Manifest, Vault};

/// A dump in a backup.
#[derive(Debug, Clone)]
pub struct DumpFile {
    /// Where it stands.
    pub place: Place,
    /// How long it is.
    pub size: u64,
    content: Content,
}

/// The dumps of a backup, by place.
pub fn list(vault: &Vault, manifest: &Manifest) -> Result<Vec<DumpFile>> {
    let root = vault.root_entry(&manifest.root)?;
    let Kind::Directory { node, .. } = root.kind else { return Ok(Vec::new()) };
    let Some(Entry { kind: Kind::Directory { node, origin: Origin::Dumps, .. }, .. }) =
        vault.entry(&node, DIRECTORY.as_bytes())?
    else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    gather(vault, &node, &mut Vec::new(), &mut found)?;
    found.sort_by(|a, b| a.place.cmp(&b.place));
    Ok(found)
}

/// Dumps lie at most this deep; a deeper tree is none of ours.
const DEPTH: usize = 3;

fn gather(vault: &Vault, node: &Id, above: &mut Vec<String>, found: &mut Vec<DumpFile>) -> Result<()> {
    for entry in vault.entries(node)? {
        let name = String::from_utf8(entry.name).map_err(|_| Error::damaged("a dump's name is not text"))?;
        above.push(name);
        match entry.kind {
            Kind::Directory { node, origin: Origin::Dumps, .. } if above.len() < DEPTH => {
                gather(vault, &node, above, found)?;
            }
            Kind::File { size, content, .. } => {
                let names: Vec<&str> = above.iter().map(String::as_str).collect();
                if let Some(place) = Place::parse(&names) {
                    found.push(DumpFile { place, size, content });
                }
            }
            _ => {}
        }
        above.pop();
    }
    Ok(())
}

/// Where a dump goes.
#[derive(Debug, Clone)]
pub struct Goal {
    /// The dump.
    pub dump: DumpFile,
    /// The server, file or command that it goes to.
    pub connection: Connection,
    /// The name of a database that must not be there yet; none: over the one that was dumped.
    pub fresh: Option<String>,
}

impl Goal {
    /// The name that the database will have.
    fn name(&self) -> String {
        match (&self.fresh, &self.connection.database.path) {
            (Some(name), _) => name.clone(),
            (None, Some(path)) => path.to_string_lossy().into_owned(),
            (None, None) => self.dump.place.database(),
        }
    }
}

/// Databases to be restored, and how far that is.
pub struct Plan<'a> {
    vault: &'a Arc<Vault>,
    goals: Vec<Goal>,
    journal: Journal,
    progress: &'a Arc<Progress>,
}

impl<'a> Plan<'a> {
    /// A plan to bring back these.
    pub fn new(vault: &'a Arc<Vault>, goals: Vec<Goal>, journal: PathBuf, progress: &'a Arc<Progress>) -> Self {
        Self { vault, goals, journal: Journal::new(journal), progress }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.goals.is_empty()
    }

    /// How many dumps there are, and how many bytes.
    pub fn totals(&self) -> (u64, u64) {
        (self.goals.len() as u64, self.goals.iter().map(|goal| goal.dump.size).sum())
    }

    /// Looks at every server; gives, in words, what will not be done in one step. Changes nothing.
    pub fn check(&self) -> Result<Vec<String>> {
        let mut apart = Vec::new();
        for goal in &self.goals {
            self.progress.check()?;
            let found = match goal.connection.database.kind {
                DatabaseKind::Postgresql => postgres::check(goal, self)?,
                DatabaseKind::Mariadb => mariadb::check(goal, self)?,
                DatabaseKind::Sqlite => sqlite::check(goal, self)?,
                DatabaseKind::Command => {
                    let database = &goal.connection.database;
                    command::tool(&database.restore)
                        .map_err(|e| e.context(format!("restoring {}", database.title())))?;
                    Some(format!("{} is restored by a command, whose steps are its own", database.title()))
                }
            };
            apart.extend(found);
        }
        Ok(apart)
    }

    /// Loads every database beside the one that is there, and verifies it.
    pub fn stage(&mut self) -> Result<()> {
        // What a server has outside its databases comes first: they belong to its roles.
        for goal in self.goals.clone().iter().filter(|goal| goal.dump.place.is_globals()) {
            self.current(goal);
            postgres::globals(goal, self).map_err(|e| at(goal, e))?;
        }
        for goal in self.goals.clone() {
            if goal.dump.place.is_globals() || goal.connection.database.kind == DatabaseKind::Command {
                continue;
            }
            self.current(&goal);
            let item = Item {
                database: goal.connection.database.clone(),
                token: token()?,
                name: goal.name(),
                fresh: goal.fresh.is_some(),
                swapping: false,
                programs: String::new(),
                undo: String::new(),
            };
            // Before anything is made under its names.
            self.journal.add(item.clone())?;
            match item.database.kind {
                DatabaseKind::Postgresql => postgres::stage(&goal, &item, self),
                DatabaseKind::Mariadb => mariadb::stage(&goal, &item, self)
                    .and_then(|programs| self.journal.replace(Item { programs, ..item })),
                _ => sqlite::stage(&goal, &item, self),
            }
            .map_err(|e| at(&goal, e))?;
            self.progress.add(1, 0);
        }
        Ok(())
    }

    /// Files that the restore of files must leave to this.
    pub fn files(&self) -> Vec<PathBuf> {
        let items = self.journal.items().iter().filter(|item| item.database.kind == DatabaseKind::Sqlite);
        items.flat_map(sqlite::files).collect()
    }

    /// Gives each of the new databases its name; what had it before goes.
    pub fn swap(&mut self) -> Result<()> {
        for item in self.journal.items().to_vec() {
            let Some(goal) =
                self.goals.iter().find(|goal| goal.connection.database == item.database && goal.name() == item.name)
            else {
                continue;
            };
            let goal = goal.clone();
            self.current(&goal);
            match item.database.kind {
                DatabaseKind::Postgresql => postgres::swap(&goal, &item, self),
                DatabaseKind::Mariadb => self.swap_tables(&goal, &item),
                _ => sqlite::swap(&item),
            }
            .map_err(|e| at(&goal, e))?;
        }
        for goal in self.goals.iter().filter(|goal| goal.connection.database.kind == DatabaseKind::Command) {
            self.current(goal);
            let tool = command::tool(&goal.connection.database.restore).map_err(|e| at(goal, e))?;
            let feed = tool.feed(self.progress).map_err(|e| at(goal, e))?;
            self.pour(&goal.dump, feed).map_err(|e| at(goal, e))?;
        }
        Ok(())
    }

    fn swap_tables(&mut self, goal: &Goal, item: &Item) -> Result<()> {
        let item = mariadb::prepare_swap(goal, item, self)?;
        // From here on a crash finishes it.
        self.journal.replace(item.clone())?;
        let result = mariadb::swap(&goal.connection, &item, self.progress);
        if result.is_err() && !mariadb::is_moved(&goal.connection, &item, self.progress)? {
            self.journal.replace(Item { swapping: false, ..item })?;
        }
        result
    }

    /// Removes what stands beside, after a success or a failure.
    pub fn clean_up(&mut self) -> Result<()> {
        // It must be done also where the job was cancelled.
        let progress = Arc::new(Progress::default());
        let mut left = Ok(());
        for item in self.journal.items().to_vec() {
            let goal = self.goals.iter().find(|goal| goal.connection.database == item.database);
            let Some(goal) = goal else { continue };
            left = left.and(settle(&goal.connection, &item, &progress));
        }
        left.and_then(|()| self.journal.remove())
    }

    /// Whether a dump begins so.
    fn starts_with(&self, dump: &DumpFile, text: &str) -> Result<bool> {
        let first = self.vault.each_part(&dump.content, dump.size).next();
        let first = first.map(|part| self.vault.read_blob(&part?.id)).transpose()?;
        Ok(first.is_some_and(|bytes| bytes.starts_with(text.as_bytes())))
    }

    fn current(&self, goal: &Goal) {
        self.progress.set_current(&goal.dump.place.path().to_string_lossy());
    }

    /// Writes a dump into a program, and waits for the program's end.
    fn pour(&self, dump: &DumpFile, mut feed: crate::source::database::tool::Feed) -> Result<Vec<u8>> {
        let mut broken = false;
        for part in self.vault.each_part(&dump.content, dump.size) {
            let part = part?;
            self.progress.check()?;
            let bytes = self.vault.read_blob(&part.id)?;
            if bytes.len() as u64 != part.len {
                return Err(Error::damaged("a part of the dump is not as long as it should be"));
            }
            if feed.write_all(&bytes).is_err() {
                // Why it reads no more, its end says.
                broken = true;
                break;
            }
            self.progress.add(0, part.len);
        }
        self.progress.check()?;
        let answer = feed.finish()?;
        if broken { Err(Error::failed("the program did not read all of the dump")) } else { Ok(answer) }
    }

    /// The same for a program that reads only as much as it needs.
    fn pour_start(&self, dump: &DumpFile, mut feed: crate::source::database::tool::Feed) -> Result<Vec<u8>> {
        for part in self.vault.each_part(&dump.content, dump.size) {
            let part = part?;
            self.progress.check()?;
            if feed.write_all(&self.vault.read_blob(&part.id)?).is_err() {
                break;
            }
        }
        feed.finish()
    }
}

fn at(goal: &Goal, e: Error) -> Error {
    e.context(goal.dump.place.path().display())
}

/// A name that nothing has.
fn token() -> Result<String> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|e| Error::failed(format!("no random numbers: {e}")))?;
    Ok(hex(&random))
}

/// Removes what a restore has beside a database, and finishes a swap that had begun.
fn settle(connection: &Connection, item: &Item, progress: &Arc<Progress>) -> Result<()> {
    let settled = match item.database.kind {
        DatabaseKind::Postgresql => postgres::settle(connection, item, progress),
        DatabaseKind::Mariadb => mariadb::settle(connection, item, progress),
        _ => sqlite::settle(item),
    };
    settled.map_err(|e| e.context(format!("what a restore left beside {:?}", item.name)))
}

/// Settles what a crash interrupted: the database is the old or the new one, and nothing else is left.
/// An error means that its server could not be asked; then it is to be called again.
pub fn recover(path: &std::path::Path, connect: &dyn Fn(&Item) -> Result<Connection>) -> Result<()> {
    let journal = Journal::read(path)?;
    let progress = Arc::new(Progress::default());
    for item in journal.items() {
        settle(&connect(item)?, item, &progress)?;
    }
    journal.remove()
}
