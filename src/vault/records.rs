//! The small sealed objects of an open vault: manifests, tombstones, states, sessions.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::handle::Vault;
use super::manifest::{MANIFEST_FORMAT, Manifest};
use super::object;
use super::pack::{self, PackRecord};
use super::prune::INDEX_BLOBS;
use super::seal::Class;
use crate::model::{Error, ErrorKind, Id, Result};
use crate::store::ObjectStore;

/// Says what was deleted on purpose, so that its absence is no damage and every copy of the vault
/// deletes it too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tombstone {
    /// A backup's manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Id>,
    /// Index objects that others replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub index: Vec<Id>,
    /// Packs in which nothing lived.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packs: Vec<Id>,
    /// Keys that open nothing any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<Id>,
    /// When that was.
    pub deleted_at: Timestamp,
}

impl Tombstone {
    /// One that names nothing yet.
    pub fn now() -> Self {
        Self { manifest: None, index: Vec::new(), packs: Vec::new(), keys: Vec::new(), deleted_at: Timestamp::now() }
    }
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
        let plain = self.read(|store| object::get(store, &self.keys, Class::Manifest, id))?;
        let manifest: Manifest = from_json("a manifest", &plain)?;
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
        // Also of one that is not here: a copy may have it.
        self.put_tombstone(Tombstone { manifest: Some(*id), ..Tombstone::now() })?;
        self.store.delete(&object::key(Class::Manifest, id))?;
        self.store.sync()?;
        self.check_identity()
    }

    /// Says, durably, what is about to be deleted.
    pub(super) fn put_tombstone(&self, tombstone: Tombstone) -> Result<()> {
        object::put(&*self.store, &self.keys, Class::Tombstone, &to_json(&tombstone)?)?;
        self.store.sync()
    }

    /// The tombstones in the store. What cannot be read tells nothing.
    pub fn tombstones(&self) -> Result<Vec<Tombstone>> {
        let mut found = Vec::new();
        for (id, _) in object::list(&*self.store, Class::Tombstone)? {
            match self.tombstone(&id) {
                Ok(tombstone) => found.push(tombstone),
                Err(e) if e.kind == ErrorKind::DestinationFailed => return Err(e),
                Err(e) => tracing::warn!("a tombstone of vault {} cannot be read: {e}", self.uuid()),
            }
        }
        Ok(found)
    }

    /// One tombstone.
    pub(super) fn tombstone(&self, id: &Id) -> Result<Tombstone> {
        from_json("a tombstone", &self.read(|store| object::get(store, &self.keys, Class::Tombstone, id))?)
    }

    /// Whose configuration an object of `store` is, and when it was saved.
    pub(super) fn state_of(&self, store: &dyn ObjectStore, id: &Id) -> Result<(Option<Uuid>, Timestamp)> {
        let state: State = from_json("a state", &object::get(store, &self.keys, Class::State, id)?)?;
        Ok((state.machine, state.saved_at))
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
        while !found.is_empty() {
            // Some at a time: an index object has its limit.
            let mut blobs = 0;
            let enough = |pack: &PackRecord| {
                blobs += pack.segments.iter().map(|s| s.blobs.len()).sum::<usize>();
                blobs >= INDEX_BLOBS
            };
            let end = found.iter().position(enough).map_or(found.len(), |i| i + 1);
            let rest = found.split_off(end);
            self.publish(std::mem::replace(&mut found, rest))?;
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

    /// When a machine's writer last gave a sign of life, if that is not before `since`.
    pub fn seen(&self, machine: Uuid, since: Timestamp) -> Result<Option<Timestamp>> {
        let mut last = None;
        for object in self.store.list(object::prefix(Class::Session))? {
            let Ok(mut bytes) = self.store.get(&object.key, 1 << 16) else { continue };
            let session = object::open(&self.keys, Class::Session, &mut bytes)
                .and_then(|plain| from_json::<Session>("a session", &plain));
            if let Ok(session) = session
                && session.machine == Some(machine)
                && session.renewed_at >= since
            {
                last = last.max(Some(session.renewed_at));
            }
        }
        Ok(last)
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
