//! Whether a vault still holds what an entry refers to.

use crate::model::Id;
use crate::vault::tree::{Content, Entry, Kind, content};
use crate::vault::{Vault, VaultWriter};

/// Whether the vault holds all that an entry refers to, or `writer` took it on.
pub fn is_stored(vault: &Vault, writer: &VaultWriter, entry: &Entry) -> bool {
    let has = |id: &Id| writer.contains(id);
    let Kind::File { content, .. } = &entry.kind else { return true };
    match content {
        Content::Empty => true,
        Content::Whole(id) => has(id),
        Content::Parts(parts) => parts.iter().all(|part| has(&part.id)),
        Content::Lists(lists) => lists.iter().all(|list| {
            // One that is only cached is not stored any more.
            if !has(&list.id) {
                return false;
            }
            let blob = vault.read_blob(&list.id);
            let parts = blob.and_then(|blob| content::decode_list(&blob, list.len));
            parts.is_ok_and(|parts| parts.iter().all(|part| has(&part.id)))
        }),
    }
}
