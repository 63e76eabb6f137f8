//! Which objects a copy of a vault has.

use std::collections::{HashMap, HashSet};

use crate::model::{Id, Result};
use crate::store::ObjectStore;
use crate::vault::seal::Class;
use crate::vault::{object, slots};

/// Classes of small objects, in the order in which they are copied: what others need comes first.
pub const SMALL: [Small; 5] = [Small::Key, Small::Index, Small::State, Small::Tombstone, Small::Manifest];

/// The largest small object, in stored bytes.
pub const SMALL_MAX: u64 = object::OBJECT_MAX;

/// A class of objects that are no packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Small {
    /// A key slot.
    Key,
    /// An index object.
    Index,
    /// A machine's configuration.
    State,
    /// What was deleted.
    Tombstone,
    /// A backup.
    Manifest,
}

impl Small {
    /// What it is sealed as; a key slot is not.
    pub fn class(self) -> Option<Class> {
        match self {
            Self::Key => None,
            Self::Index => Some(Class::Index),
            Self::State => Some(Class::State),
            Self::Tombstone => Some(Class::Tombstone),
            Self::Manifest => Some(Class::Manifest),
        }
    }

    /// The key of an object.
    pub fn key(self, id: &Id) -> String {
        self.class().map_or_else(|| slots::key(id), |class| object::key(class, id))
    }

    /// The objects of the class in a store.
    pub fn list(self, store: &dyn ObjectStore) -> Result<HashSet<Id>> {
        let prefix = self.class().map_or(slots::PREFIX, object::prefix);
        let names = store.list(prefix)?.into_iter();
        Ok(names.filter_map(|o| o.key.rsplit('/').next()?.parse().ok()).collect())
    }
}

/// The objects of one copy, but its sessions.
#[derive(Debug, Default)]
pub struct Listing {
    small: HashMap<Small, HashSet<Id>>,
    /// Packs with their sizes.
    pub packs: HashMap<Id, u64>,
}

impl Listing {
    /// Lists everything.
    pub fn of(store: &dyn ObjectStore) -> Result<Self> {
        let mut small = HashMap::new();
        for class in SMALL {
            small.insert(class, class.list(store)?);
        }
        Ok(Self { small, packs: object::list(store, Class::DataPack)?.into_iter().collect() })
    }

    /// Whether it has an object.
    pub fn has(&self, class: Small, id: &Id) -> bool {
        self.small.get(&class).is_some_and(|ids| ids.contains(id))
    }

    /// The objects of a class.
    pub fn ids(&self, class: Small) -> impl Iterator<Item = &Id> {
        self.small.get(&class).into_iter().flatten()
    }

    /// Takes note of one more.
    pub fn add(&mut self, class: Small, id: Id) {
        self.small.entry(class).or_default().insert(id);
    }

    /// Takes note of one less.
    pub fn remove(&mut self, class: Small, id: &Id) {
        if let Some(ids) = self.small.get_mut(&class) {
            ids.remove(id);
        }
    }
}
