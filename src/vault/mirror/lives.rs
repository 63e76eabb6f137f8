//! Index objects of another life of the vault: a mirror that was the first copy once, went away, and was
//! pruned there, says that objects are replaced which are in use here by now. Beside those it would hide
//! them. What such an object lists stays known; that it replaces anything is taken back.

use std::collections::HashSet;

use super::listing::Small;
use crate::model::{ErrorKind, Id, Result};
use crate::store::ObjectStore;
use crate::vault::Vault;
use crate::vault::index::IndexObject;

/// The index object, if it says of one that is in use that it is replaced. One that cannot be read says nothing.
pub(super) fn contradicts(
    vault: &Vault,
    store: &dyn ObjectStore,
    id: &Id,
    live: &HashSet<Id>,
) -> Result<Option<IndexObject>> {
    match IndexObject::get(store, &vault.keys, id) {
        Ok(object) => Ok(object.supersedes.iter().any(|old| live.contains(old)).then_some(object)),
        Err(e) if matches!(e.kind, ErrorKind::Damaged | ErrorKind::NotFound) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Puts one that replaces nothing in the place of such an object; answers its id.
pub(super) fn take_back(vault: &Vault, store: &dyn ObjectStore, id: &Id, object: IndexObject) -> Result<Id> {
    let new = IndexObject { supersedes: Vec::new(), packs: object.packs }.put(store, &vault.keys)?;
    store.sync()?;
    store.delete(&Small::Index.key(id))?;
    store.sync()?;
    Ok(new)
}
