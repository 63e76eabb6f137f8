//! Rows, and the transactions that read and write them.

use std::cell::Cell;

use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::failed;
use crate::model::{Error, Result};

type Rows = TableDefinition<'static, u64, &'static [u8]>;
/// (kind, scope, name) → id: names that are taken.
const NAMES: TableDefinition<(u8, u64, &str), u64> = TableDefinition::new("names");
/// (index, key, id): which rows have a key, in order of their ids.
const INDEX: TableDefinition<(u8, u64, u64), ()> = TableDefinition::new("index");
/// Counters by name.
const COUNTERS: TableDefinition<&str, u64> = TableDefinition::new("counters");
/// (index, key) → how many rows have it, for the indexes that are counted.
const COUNTS: TableDefinition<(u8, u64), u64> = TableDefinition::new("counts");
/// (index, key) → how often the set of its rows changed, for the same indexes.
const CHANGES: TableDefinition<(u8, u64), u64> = TableDefinition::new("changes");
/// Single values by name.
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// All kinds of rows, so that every table exists from the first start.
const KINDS: &[&str] = &[
    "projects",
    "resources",
    "destinations",
    "vaults",
    "backups",
    "jobs",
    "tasks",
    "schedules",
    "checkpoints",
    "snapshots",
];

/// A kind of row. Rows are a version byte and JSON: a later version reads every earlier one.
pub trait Row: Serialize + DeserializeOwned {
    /// The table's name and the counter's.
    const TABLE: &'static str;
    /// The kind's number among names.
    const KIND: u8;
    /// What people call one of them.
    const NOUN: &'static str;
    /// The version written today.
    const VERSION: u8 = 1;

    /// The indexes whose rows are counted by key, so that counting reads none of them.
    const COUNTED: &'static [u8] = &[];

    /// The row's id.
    fn id(&self) -> u64;

    /// The name it takes, and within what (0: everything).
    fn name(&self) -> Option<(u64, &str)> {
        None
    }

    /// Its entries in the index.
    fn keys(&self) -> Vec<(u8, u64)> {
        Vec::new()
    }
}

thread_local! {
    static ROWS_READ: Cell<u64> = const { Cell::new(0) };
}

/// How many rows this thread has read so far: what a list costs, for tests and benches.
pub fn rows_read() -> u64 {
    ROWS_READ.get()
}

fn definition<R: Row>() -> Rows {
    TableDefinition::new(R::TABLE)
}

fn encode<R: Row>(row: &R) -> Result<Vec<u8>> {
    let mut bytes = vec![R::VERSION];
    serde_json::to_writer(&mut bytes, row)
        .map_err(|e| Error::failed(format!("cannot encode a row of {}: {e}", R::TABLE)))?;
    Ok(bytes)
}

pub(super) fn decode<R: Row>(id: u64, bytes: &[u8]) -> Result<R> {
    ROWS_READ.set(ROWS_READ.get() + 1);
    match bytes.split_first() {
        Some((&version, json)) if version == R::VERSION => serde_json::from_slice(json)
            .map_err(|e| Error::damaged(format!("{} {id} in the catalog cannot be read: {e}", R::NOUN))),
        Some((version, _)) => Err(Error::damaged(format!(
            "{} {id} in the catalog has version {version}, which this program does not know; use a newer one",
            R::NOUN
        ))),
        None => Err(Error::damaged(format!("{} {id} in the catalog is empty", R::NOUN))),
    }
}

/// What can be read in any transaction.
pub trait Tables {
    /// One row.
    fn get<R: Row>(&self, id: u64) -> Result<Option<R>>;

    /// All rows, by id.
    fn all<R: Row>(&self) -> Result<Vec<R>>;

    /// All ids, ascending.
    fn ids<R: Row>(&self) -> Result<Vec<u64>>;

    /// How many rows there are.
    fn count<R: Row>(&self) -> Result<u64>;

    /// Ids of the rows with a key in an index, ascending.
    fn indexed(&self, index: u8, key: u64) -> Result<Vec<u64>>;

    /// How many rows have a key in a counted index.
    fn counted(&self, index: u8, key: u64) -> Result<u64>;

    /// How often a key of a counted index was given to a row or taken from one: what follows from the set of
    /// rows holds as long as this is the same.
    fn changes(&self, index: u8, key: u64) -> Result<u64>;

    /// (key, id) of all rows in an index, by key, then id.
    fn in_order(&self, index: u8) -> Result<Vec<(u64, u64)>>;

    /// Ids of the rows with a key within bounds in an index, by key, then id.
    fn between(&self, index: u8, low: u64, high: u64) -> Result<Vec<u64>>;

    /// The lowest key in an index.
    fn lowest(&self, index: u8) -> Result<Option<u64>>;

    /// The id behind a name.
    fn named<R: Row>(&self, scope: u64, name: &str) -> Result<Option<u64>>;

    /// A single value.
    fn meta(&self, key: &str) -> Result<Option<Vec<u8>>>;

    /// The highest id ever given.
    fn last_id<R: Row>(&self) -> Result<u64>;

    /// One row, or `NotFound`.
    fn need<R: Row>(&self, id: u64) -> Result<R> {
        self.get(id)?.ok_or_else(|| Error::not_found(format!("there is no {} {id}", R::NOUN)))
    }

    /// The rows with a key in an index, by id.
    fn rows_at<R: Row>(&self, index: u8, key: u64) -> Result<Vec<R>> {
        self.indexed(index, key)?.into_iter().filter_map(|id| self.get(id).transpose()).collect()
    }
}

macro_rules! tables {
    ($type:ty) => {
        impl Tables for $type {
            fn get<R: Row>(&self, id: u64) -> Result<Option<R>> {
                let table = self.0.open_table(definition::<R>()).map_err(failed)?;
                table.get(id).map_err(failed)?.map(|bytes| decode(id, bytes.value())).transpose()
            }

            fn all<R: Row>(&self) -> Result<Vec<R>> {
                let table = self.0.open_table(definition::<R>()).map_err(failed)?;
                table
                    .iter()
                    .map_err(failed)?
                    .map(|row| row.map_err(failed).and_then(|(id, bytes)| decode(id.value(), bytes.value())))
                    .collect()
            }

            fn ids<R: Row>(&self) -> Result<Vec<u64>> {
                let table = self.0.open_table(definition::<R>()).map_err(failed)?;
                table.iter().map_err(failed)?.map(|row| row.map(|(id, _)| id.value()).map_err(failed)).collect()
            }

            fn count<R: Row>(&self) -> Result<u64> {
                self.0.open_table(definition::<R>()).map_err(failed)?.len().map_err(failed)
            }

            fn indexed(&self, index: u8, key: u64) -> Result<Vec<u64>> {
                self.between(index, key, key)
            }

            fn between(&self, index: u8, low: u64, high: u64) -> Result<Vec<u64>> {
                let table = self.0.open_table(INDEX).map_err(failed)?;
                table
                    .range((index, low, 0)..=(index, high, u64::MAX))
                    .map_err(failed)?
                    .map(|row| row.map(|(entry, _)| entry.value().2).map_err(failed))
                    .collect()
            }

            fn counted(&self, index: u8, key: u64) -> Result<u64> {
                let table = self.0.open_table(COUNTS).map_err(failed)?;
                Ok(table.get((index, key)).map_err(failed)?.map_or(0, |n| n.value()))
            }

            fn changes(&self, index: u8, key: u64) -> Result<u64> {
                let table = self.0.open_table(CHANGES).map_err(failed)?;
                Ok(table.get((index, key)).map_err(failed)?.map_or(0, |n| n.value()))
            }

            fn in_order(&self, index: u8) -> Result<Vec<(u64, u64)>> {
                let table = self.0.open_table(INDEX).map_err(failed)?;
                table
                    .range((index, 0, 0)..=(index, u64::MAX, u64::MAX))
                    .map_err(failed)?
                    .map(|row| row.map(|(entry, _)| (entry.value().1, entry.value().2)).map_err(failed))
                    .collect()
            }

            fn lowest(&self, index: u8) -> Result<Option<u64>> {
                let table = self.0.open_table(INDEX).map_err(failed)?;
                let mut range = table.range((index, 0, 0)..=(index, u64::MAX, u64::MAX)).map_err(failed)?;
                range.next().map(|row| row.map(|(entry, _)| entry.value().1).map_err(failed)).transpose()
            }

            fn named<R: Row>(&self, scope: u64, name: &str) -> Result<Option<u64>> {
                let table = self.0.open_table(NAMES).map_err(failed)?;
                Ok(table.get((R::KIND, scope, name)).map_err(failed)?.map(|id| id.value()))
            }

            fn meta(&self, key: &str) -> Result<Option<Vec<u8>>> {
                let table = self.0.open_table(META).map_err(failed)?;
                Ok(table.get(key).map_err(failed)?.map(|bytes| bytes.value().to_vec()))
            }

            fn last_id<R: Row>(&self) -> Result<u64> {
                let table = self.0.open_table(COUNTERS).map_err(failed)?;
                Ok(table.get(R::TABLE).map_err(failed)?.map_or(0, |n| n.value()))
            }
        }
    };
}

/// A transaction that reads. Keep it short: it pins old pages.
pub struct Reader(ReadTransaction);

/// A transaction that changes the catalog.
pub struct Writer(WriteTransaction);

tables!(Reader);
tables!(Writer);

impl Reader {
    pub(super) fn new(transaction: ReadTransaction) -> Self {
        Self(transaction)
    }
}

impl Writer {
    pub(super) fn new(transaction: WriteTransaction) -> Self {
        Self(transaction)
    }

    pub(super) fn into_inner(self) -> WriteTransaction {
        self.0
    }

    pub(super) fn make_tables(&self) -> Result<()> {
        for kind in KINDS {
            self.0.open_table(Rows::new(kind)).map_err(failed)?;
        }
        self.0.open_table(NAMES).map_err(failed)?;
        self.0.open_table(INDEX).map_err(failed)?;
        self.0.open_table(COUNTS).map_err(failed)?;
        self.0.open_table(CHANGES).map_err(failed)?;
        self.0.open_table(COUNTERS).map_err(failed)?;
        self.0.open_table(META).map_err(failed)?;
        Ok(())
    }

    /// The next id of a kind; it is never given again once the transaction is committed.
    pub fn next_id<R: Row>(&self) -> Result<u64> {
        let mut table = self.0.open_table(COUNTERS).map_err(failed)?;
        let next = table.get(R::TABLE).map_err(failed)?.map_or(0, |n| n.value()).saturating_add(1);
        table.insert(R::TABLE, next).map_err(failed)?;
        Ok(next)
    }

    /// An id for a row that comes from elsewhere: its own where no other row has it, else the next.
    pub fn own_id<R: Row>(&self, id: u64) -> Result<u64> {
        if id == 0 || id == u64::MAX || self.get::<R>(id)?.is_some() {
            return self.next_id::<R>();
        }
        let mut table = self.0.open_table(COUNTERS).map_err(failed)?;
        let last = table.get(R::TABLE).map_err(failed)?.map_or(0, |n| n.value());
        table.insert(R::TABLE, last.max(id)).map_err(failed)?;
        Ok(id)
    }

    /// Leaves the ids up to `last` to rows that were elsewhere.
    pub fn reserve<R: Row>(&self, last: u64) -> Result<()> {
        let mut table = self.0.open_table(COUNTERS).map_err(failed)?;
        let now = table.get(R::TABLE).map_err(failed)?.map_or(0, |n| n.value());
        table.insert(R::TABLE, now.max(last)).map_err(failed)?;
        Ok(())
    }

    /// Stores a row with its name and index entries; `AlreadyExists` if another has the name.
    pub fn put<R: Row>(&self, row: &R) -> Result<()> {
        let id = row.id();
        let old = self.get::<R>(id)?;
        if let Some((scope, name)) = row.name() {
            match self.named::<R>(scope, name)? {
                Some(other) if other != id => {
                    return Err(Error::already_exists(format!("the {} name {name:?} is taken; give another", R::NOUN)));
                }
                _ => {}
            }
        }
        // What stays is left alone: most changes of a row are none of its indexes'.
        if let Some(old) = &old {
            self.forget_name(old, row.name())?;
        }
        if let Some((scope, name)) = row.name() {
            self.0.open_table(NAMES).map_err(failed)?.insert((R::KIND, scope, name), id).map_err(failed)?;
        }
        let (had, has) = (old.map(|old| old.keys()).unwrap_or_default(), row.keys());
        self.unlink::<R>(id, had.iter().filter(|key| !has.contains(key)))?;
        self.link::<R>(id, has.iter().filter(|key| !had.contains(key)))?;
        let bytes = encode(row)?;
        self.0.open_table(definition::<R>()).map_err(failed)?.insert(id, bytes.as_slice()).map_err(failed)?;
        Ok(())
    }

    /// Removes a row; one that is not there is no error.
    pub fn remove<R: Row>(&self, id: u64) -> Result<()> {
        if let Some(row) = self.get::<R>(id)? {
            self.forget_name(&row, None)?;
            self.unlink::<R>(id, row.keys().iter())?;
            self.0.open_table(definition::<R>()).map_err(failed)?.remove(id).map_err(failed)?;
        }
        Ok(())
    }

    /// Changes a row that must be there, and gives it back.
    pub fn update<R: Row>(&self, id: u64, change: impl FnOnce(&mut R) -> Result<()>) -> Result<R> {
        let mut row = self.need::<R>(id)?;
        change(&mut row)?;
        self.put(&row)?;
        Ok(row)
    }

    /// Sets a single value.
    pub fn set_meta(&self, key: &str, value: &[u8]) -> Result<()> {
        self.0.open_table(META).map_err(failed)?.insert(key, value).map_err(failed)?;
        Ok(())
    }

    fn link<'a, R: Row>(&self, id: u64, keys: impl Iterator<Item = &'a (u8, u64)>) -> Result<()> {
        let mut table = self.0.open_table(INDEX).map_err(failed)?;
        for &(index, key) in keys {
            if table.insert((index, key, id), ()).map_err(failed)?.is_none() {
                self.count_up::<R>(index, key, true)?;
            }
        }
        Ok(())
    }

    fn unlink<'a, R: Row>(&self, id: u64, keys: impl Iterator<Item = &'a (u8, u64)>) -> Result<()> {
        let mut table = self.0.open_table(INDEX).map_err(failed)?;
        for &(index, key) in keys {
            if table.remove((index, key, id)).map_err(failed)?.is_some() {
                self.count_up::<R>(index, key, false)?;
            }
        }
        Ok(())
    }

    /// Gives a row's name back, unless it is `kept`.
    fn forget_name<R: Row>(&self, row: &R, kept: Option<(u64, &str)>) -> Result<()> {
        if let Some((scope, name)) = row.name().filter(|name| Some(*name) != kept) {
            self.0.open_table(NAMES).map_err(failed)?.remove((R::KIND, scope, name)).map_err(failed)?;
        }
        Ok(())
    }

    fn count_up<R: Row>(&self, index: u8, key: u64, up: bool) -> Result<()> {
        if !R::COUNTED.contains(&index) {
            return Ok(());
        }
        let mut table = self.0.open_table(COUNTS).map_err(failed)?;
        let now = table.get((index, key)).map_err(failed)?.map_or(0, |n| n.value());
        match if up { now.saturating_add(1) } else { now.saturating_sub(1) } {
            0 => drop(table.remove((index, key)).map_err(failed)?),
            n => drop(table.insert((index, key), n).map_err(failed)?),
        }
        let mut table = self.0.open_table(CHANGES).map_err(failed)?;
        let now = table.get((index, key)).map_err(failed)?.map_or(0, |n| n.value());
        table.insert((index, key), now.wrapping_add(1)).map_err(failed)?;
        Ok(())
    }

    /// Empties all indexes, for [`Writer::index_again`].
    pub(super) fn clear_indexes(&self) -> Result<()> {
        self.0.delete_table(INDEX).map_err(failed)?;
        self.0.delete_table(COUNTS).map_err(failed)?;
        self.make_tables()
    }

    /// Writes the index entries of all rows of a kind.
    pub(super) fn index_again<R: Row>(&self) -> Result<()> {
        for id in self.ids::<R>()? {
            if let Some(row) = self.get::<R>(id)? {
                self.link::<R>(id, row.keys().iter())?;
            }
        }
        Ok(())
    }
}
