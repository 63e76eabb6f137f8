//! Packs that are lost: missing in the store, of another length, or found damaged.
//!
//! Nothing is deduplicated against a lost pack, so a later backup stores again what it held where
//! the source still has it, and earlier backups are whole again too. Missing packs are found by
//! listing, whenever writing begins; damaged ones by verification, which writes them down.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::handle::Vault;
use super::object;
use super::seal::Class;
use crate::model::{Id, IoContext, Result};

fn file(dir: &Path) -> PathBuf {
    dir.join("damaged-packs")
}

/// Packs that were found damaged; a line each. Without the file none are known.
pub(super) fn read(dir: &Path) -> HashSet<Id> {
    let text = std::fs::read_to_string(file(dir)).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Writes down which packs are damaged.
pub(super) fn write(dir: &Path, damaged: &HashSet<Id>) -> Result<()> {
    let path = file(dir);
    let text: String = damaged.iter().map(|id| format!("{id}\n")).collect();
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, text)
        // What is known to be damaged must not be forgotten by a loss of power.
        .and_then(|()| std::fs::File::open(&temporary)?.sync_all())
        .and_then(|()| std::fs::rename(&temporary, &path))
        .and_then(|()| std::fs::File::open(dir)?.sync_all())
        .at(|| format!("cannot write {}", path.display()))
}

impl Vault {
    /// Compares the index with the packs in the store, and takes those for lost that are missing,
    /// have another length or were found damaged.
    pub(super) fn look_for_packs(&self) -> Result<()> {
        let mut lost = read(self.cache_dir());
        // Before the listing: a pack that is indexed meanwhile is no lost one.
        let index = self.index();
        let there: HashMap<Id, u64> = object::list(&*self.store, Class::DataPack)?.into_iter().collect();
        lost.extend(index.packs().filter(|pack| there.get(&pack.id) != Some(&pack.size)).map(|pack| pack.id));
        if !lost.is_empty() {
            let known: HashSet<Id> = index.packs().map(|pack| pack.id).collect();
            lost.retain(|id| known.contains(id));
        }
        if lost != **index.lost() {
            self.set_lost(lost);
        }
        Ok(())
    }

    /// Writes down what a verification found: packs that were read and are whole, and packs that
    /// are not. A store that gives nothing at all any more is no damage.
    pub(super) fn note_damage(&self, whole: &HashSet<Id>, damaged: &HashSet<Id>) -> Result<()> {
        let before = read(self.cache_dir());
        let known: HashSet<Id> = self.index().packs().map(|pack| pack.id).collect();
        let after: HashSet<Id> = before
            .iter()
            .filter(|id| !whole.contains(id))
            .chain(damaged)
            .filter(|id| known.contains(id))
            .copied()
            .collect();
        if after != before {
            self.check_identity()?;
            write(self.cache_dir(), &after)?;
        }
        self.look_for_packs()
    }
}
