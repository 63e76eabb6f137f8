//! Deleting from a mirror what a tombstone names, and what a limited one does not keep.

use std::collections::HashSet;

use super::listing::{Listing, Small};
use super::lives::{contradicts, take_back};
use super::sync::needed;
use super::{Mirror, Problem, SyncReport};
use crate::model::{ErrorKind, Id, Progress, Result};
use crate::vault::Vault;
use crate::vault::object;
use crate::vault::seal::Class;

/// Everything that was deleted on purpose.
#[derive(Debug, Default)]
pub(super) struct Dead {
    pub manifests: HashSet<Id>,
    pub index: HashSet<Id>,
    pub packs: HashSet<Id>,
    pub keys: HashSet<Id>,
}

impl Dead {
    /// What the tombstones with these ids say; one that cannot be read says nothing.
    pub fn read<'a>(vault: &Vault, tombstones: impl Iterator<Item = &'a Id>) -> Result<Self> {
        let mut dead = Self::default();
        for id in tombstones {
            match vault.tombstone(id) {
                Ok(tombstone) => {
                    dead.manifests.extend(tombstone.manifest);
                    dead.index.extend(tombstone.index);
                    dead.packs.extend(tombstone.packs);
                    dead.keys.extend(tombstone.keys);
                }
                Err(e) if matches!(e.kind, ErrorKind::Damaged | ErrorKind::NotFound) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(dead)
    }

    /// Whether an object was deleted.
    pub fn has(&self, class: Small, id: &Id) -> bool {
        match class {
            Small::Manifest => self.manifests.contains(id),
            Small::Index => self.index.contains(id),
            Small::Key => self.keys.contains(id),
            Small::State | Small::Tombstone => false,
        }
    }
}

/// Deletes from the mirror: backups first, packs last. What the vault does not have and no
/// tombstone names stays, and is reported.
pub(super) fn drop_deleted(
    vault: &Vault,
    mirror: &Mirror<'_>,
    here: &Listing,
    there: &mut Listing,
    report: &mut SyncReport,
    progress: &Progress,
) -> Result<()> {
    let index = vault.index();
    let known: HashSet<Id> = index.packs().map(|pack| pack.id).collect();
    let extra = |class: Small| there.ids(class).filter(|id| !here.has(class, id)).copied().collect::<Vec<Id>>();
    let (manifests, indexes, keys) = (extra(Small::Manifest), extra(Small::Index), extra(Small::Key));
    let packs: Vec<Id> = there.packs.keys().filter(|id| !known.contains(id)).copied().collect();
    let mut dead = Dead::default();
    if !(manifests.is_empty() && indexes.is_empty() && keys.is_empty() && packs.is_empty()) {
        dead = Dead::read(vault, here.ids(Small::Tombstone))?;
    }
    let mut gone = Gone { mirror, there, report };
    let mut whole = true;
    for id in manifests {
        if dead.manifests.contains(&id) {
            gone.small(Small::Manifest, &id)?;
        } else {
            whole = false;
            gone.unknown(
                Small::Manifest.key(&id),
                "the mirror has this backup, and the vault lost it; verify with repair",
            );
        }
    }
    if let Some(over) = &mirror.over {
        let known: Vec<Id> =
            gone.there.ids(Small::Manifest).filter(|id| here.has(Small::Manifest, id)).copied().collect();
        for id in known.iter().filter(|id| over.contains(id)) {
            gone.small(Small::Manifest, id)?;
        }
    }
    mirror.store.sync()?;
    let live: HashSet<Id> = index.sources().collect();
    for id in &indexes {
        if dead.index.contains(id) && !live.contains(id) {
            gone.small(Small::Index, id)?;
        } else if let Some(object) = contradicts(vault, mirror.store, id, &live)? {
            let new = take_back(vault, mirror.store, id, object)?;
            gone.there.remove(Small::Index, id);
            gone.there.add(Small::Index, new);
        }
    }
    for id in keys.iter().filter(|id| dead.keys.contains(id)) {
        gone.small(Small::Key, id)?;
    }
    gone.states(vault, here)?;
    mirror.store.sync()?;
    // A backup that the vault does not know may need what the vault does not have.
    if !whole {
        return Ok(());
    }
    for id in packs.iter().filter(|id| dead.packs.contains(id)) {
        gone.pack(id)?;
    }
    if mirror.over.is_some() {
        let kept: Vec<Id> = gone.there.ids(Small::Manifest).copied().collect();
        let over = gone.there.packs.keys().any(|id| known.contains(id)) && gone.report.deleted > 0;
        if over {
            let needed = needed(vault, kept.iter(), progress)?;
            // What is not known to be needed may be so.
            if !needed.whole {
                return Ok(());
            }
            let needed = needed.packs;
            let packs: Vec<Id> = gone.there.packs.keys().copied().collect();
            for id in packs.iter().filter(|id| known.contains(id) && !needed.contains(id)) {
                gone.pack(id)?;
            }
        }
    }
    mirror.store.sync()
}

struct Gone<'a, 'b> {
    mirror: &'a Mirror<'a>,
    there: &'b mut Listing,
    report: &'b mut SyncReport,
}

impl Gone<'_, '_> {
    fn small(&mut self, class: Small, id: &Id) -> Result<()> {
        self.mirror.store.delete(&class.key(id))?;
        self.there.remove(class, id);
        self.report.deleted += 1;
        Ok(())
    }

    fn pack(&mut self, id: &Id) -> Result<()> {
        self.mirror.store.delete(&object::key(Class::DataPack, id))?;
        self.there.packs.remove(id);
        self.report.deleted += 1;
        Ok(())
    }

    fn unknown(&mut self, object: String, message: &str) {
        self.report.problems.push(Problem { object, message: message.into() });
    }

    /// Deletes configurations that their machine has saved anew.
    fn states(&mut self, vault: &Vault, here: &Listing) -> Result<()> {
        let old: Vec<Id> = self.there.ids(Small::State).filter(|id| !here.has(Small::State, id)).copied().collect();
        if old.is_empty() {
            return Ok(());
        }
        let current = here.ids(Small::State).filter_map(|id| vault.state_of(&*vault.store, id).ok());
        let current: Vec<_> = current.collect();
        for id in old {
            let Ok((machine, saved)) = vault.state_of(self.mirror.store, &id) else { continue };
            if current.iter().any(|(whose, when)| *whose == machine && *when >= saved) {
                self.small(Small::State, &id)?;
            }
        }
        Ok(())
    }
}
