//! The small sealed objects of an open vault: manifests, tombstones, states, sessions.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::handle::Vault;
use super::manifest::{MANIFEST_FORMAT, Manifest};
use super::object;
use super::pack;
use super::seal::Class;
use crate::model::{Error, Id, Result};

/// Says that a backup was deleted on purpose, so that its absence is no damage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tombstone {
    /// The manifest's id.
    pub manifest: Id,
    /// When it was deleted.
    pub deleted_at: Timestamp,
}

/// A writer at work; what it stored but did not publish yet is not garbage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// The writing machine.
    pub machine: Option<Uuid>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it last said that it lives.
    pub renewed_at: Timestamp,
}

/// A machine's configuration as it was; the content is the machine's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    machine: Option<Uuid>,
    saved_at: Timestamp,
    content: serde_json::Value,
}

fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::failed(format!("a record cannot be written: {e}")))
}

fn from_json<T: for<'de> Deserialize<'de>>(what: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::damaged(format!("{what} cannot be read: {e}")))
}

impl Vault {
    /// The ids of all manifests in the store.
    pub fn manifests(&self) -> Result<Vec<Id>> {
        Ok(object::list(&*self.store, Class::Manifest)?.into_iter().map(|(id, _)| id).collect())
    }

    /// Reads a manifest.
    pub fn manifest(&self, id: &Id) -> Result<Manifest> {
        let manifest: Manifest = from_json("a manifest", &object::get(&*self.store, &self.keys, Class::Manifest, id)?)?;
        if manifest.format != MANIFEST_FORMAT {
            return Err(Error::damaged(format!("a manifest is of the unknown format {}", manifest.format)));
        }
        Ok(manifest)
    }

    /// Publishes a backup: everything stored before it is made durable first, then it. After an
    /// error it may be there all the same: only a listing of the manifests tells.
    pub fn put_manifest(&self, manifest: &Manifest) -> Result<Id> {
        self.check_identity()?;
        self.store.sync()?;
        let id = object::put(&*self.store, &self.keys, Class::Manifest, &to_json(manifest)?)?;
        self.store.sync()?;
        // What was published into another place, where the disk was unmounted meanwhile, is lost.
        self.check_identity()?;
        Ok(id)
    }

    /// Deletes a backup for good: tombstone first, then the manifest. Space comes back by prune.
    pub fn delete_manifest(&self, id: &Id) -> Result<()> {
        self.check_identity()?;
        if self.store.size(&object::key(Class::Manifest, id))?.is_none() {
            // Gone before, unless the place went since it was looked at.
            return self.check_identity();
        }
        let tombstone = Tombstone { manifest: *id, deleted_at: Timestamp::now() };
        object::put(&*self.store, &self.keys, Class::Tombstone, &to_json(&tombstone)?)?;
        self.store.sync()?;
        self.store.delete(&object::key(Class::Manifest, id))?;
        self.store.sync()?;
        self.check_identity()
    }

    /// The tombstones in the store.
    pub fn tombstones(&self) -> Result<Vec<Tombstone>> {
        let read = |(id, _)| from_json("a tombstone", &object::get(&*self.store, &self.keys, Class::Tombstone, &id)?);
        object::list(&*self.store, Class::Tombstone)?.into_iter().map(read).collect()
    }

    /// Saves this machine's configuration (a JSON document without secrets) and then removes
    /// what it had saved before.
    pub fn put_state(&self, content: &serde_json::Value) -> Result<()> {
        let machine = self.machine.get().copied();
        let old: Vec<Id> = self.states()?.into_iter().filter(|s| s.machine == machine).map(|s| s.id).collect();
        let state = State { machine, saved_at: Timestamp::now(), content: content.clone() };
        let new = object::put(&*self.store, &self.keys, Class::State, &to_json(&state)?)?;
        self.store.sync()?;
        for id in old.iter().filter(|id| **id != new) {
            self.store.delete(&object::key(Class::State, id))?;
        }
        Ok(())
    }

    /// The configurations that machines saved, newest first. Damaged ones are left out.
    pub fn states(&self) -> Result<Vec<SavedState>> {
        let mut states: Vec<SavedState> = object::list(&*self.store, Class::State)?
            .into_iter()
            .filter_map(|(id, _)| {
                let bytes = object::get(&*self.store, &self.keys, Class::State, &id).ok()?;
                let State { machine, saved_at, content } = from_json("a state", &bytes).ok()?;
                Some(SavedState { id, machine, saved_at, content })
            })
            .collect();
        states.sort_by_key(|s| std::cmp::Reverse(s.saved_at));
        Ok(states)
    }

    /// Says who this machine is and takes over what its crashed writers left: packs that no
    /// index lists are found by their own directories and published, so that nothing already
    /// stored is stored again. To be called once, before anything is written.
    pub fn recover(&self, machine: Uuid) -> Result<Recovered> {
        let _ = self.machine.set(machine);
        let mut mine = Vec::new();
        for object in self.store.list(object::prefix(Class::Session))? {
            let Ok(mut bytes) = self.store.get(&object.key, 1 << 16) else { continue };
            let session = object::open(&self.keys, Class::Session, &mut bytes)
                .and_then(|plain| from_json::<Session>("a session", &plain));
            // A session cut short by a crash is nobody else's: others write to their own keys.
            if session.map_or(true, |s| s.machine.is_none_or(|m| m == machine)) {
                mine.push(object.key);
            }
        }
        let mut recovered = Recovered::default();
        if mine.is_empty() {
            return Ok(recovered);
        }
        let known: std::collections::HashSet<Id> = self.index().packs().map(|pack| pack.id).collect();
        let mut found = Vec::new();
        for (id, size) in object::list(&*self.store, Class::DataPack)? {
            if known.contains(&id) {
                continue;
            }
            match pack::read_record(&*self.store, &self.keys, &id, size) {
                Ok(record) => found.push(record),
                Err(e) => recovered.unreadable.push(e),
            }
        }
        recovered.packs = found.len();
        if !found.is_empty() {
            self.publish(found)?;
        }
        for key in mine {
            self.store.delete(&key)?;
        }
        self.store.sync()?;
        Ok(recovered)
    }

    /// Another machine that has a session in the vault.
    pub(super) fn foreign_session(&self) -> Result<Option<Uuid>> {
        let mine = self.machine.get().copied();
        for object in self.store.list(object::prefix(Class::Session))? {
            let Ok(mut bytes) = self.store.get(&object.key, 1 << 16) else { continue };
            let session = object::open(&self.keys, Class::Session, &mut bytes)
                .and_then(|plain| from_json::<Session>("a session", &plain));
            if let Some(other) = session.ok().and_then(|s| s.machine).filter(|m| Some(*m) != mine && mine.is_some()) {
                return Ok(Some(other));
            }
        }
        Ok(None)
    }

    /// Announces a writer; see [`Session`].
    pub(super) fn begin_session(&self) -> Result<OpenSession> {
        let key = format!("{}{}", object::prefix(Class::Session), Uuid::new_v4().simple());
        let now = Timestamp::now();
        let session = Session { machine: self.machine.get().copied(), started_at: now, renewed_at: now };
        let open = OpenSession { key, session };
        self.write_session(&open)?;
        self.store.sync()?;
        Ok(open)
    }

    /// Says that the writer lives.
    pub(super) fn renew_session(&self, open: &mut OpenSession) -> Result<()> {
        open.session.renewed_at = Timestamp::now();
        self.write_session(open)
    }

    fn write_session(&self, open: &OpenSession) -> Result<()> {
        self.store.put(&open.key, &object::seal(&self.keys, Class::Session, &to_json(&open.session)?)?)
    }

    /// Says that the writer is done.
    pub(super) fn end_session(&self, open: &OpenSession) -> Result<()> {
        self.store.delete(&open.key)
    }
}

/// A session object of ours.
#[derive(Debug)]
pub(super) struct OpenSession {
    key: String,
    pub(super) session: Session,
}

/// A configuration that a machine saved.
#[derive(Debug, Clone)]
pub struct SavedState {
    /// The object.
    pub id: Id,
    /// Whose it is.
    pub machine: Option<Uuid>,
    /// When it was saved.
    pub saved_at: Timestamp,
    /// A JSON document.
    pub content: serde_json::Value,
}

/// What [`Vault::recover`] found.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Packs that were taken over.
    pub packs: usize,
    /// Why others could not be.
    pub unreadable: Vec<Error>,
}
