//! Small sealed objects: one header, one record.

use std::borrow::Cow;

use super::compress::{self, Compression, Compressor};
use super::seal::{Class, HEADER_LEN, Keys, Record};
use crate::model::{Error, Id, Result};
use crate::store::ObjectStore;

/// The largest sealed object that is not a pack, in stored bytes.
pub const OBJECT_MAX: u64 = 256 << 20;

/// The directory of a class's objects.
pub fn prefix(class: Class) -> &'static str {
    match class {
        Class::DataPack | Class::TreePack => "packs/",
        Class::Index => "index/",
        Class::Manifest => "backups/",
        Class::State => "state/",
        Class::Session => "sessions/",
        Class::Tombstone => "deleted/",
    }
}

/// The key of an object. Packs are spread over 256 directories.
pub fn key(class: Class, id: &Id) -> String {
    let hex = id.hex();
    match class {
        Class::DataPack | Class::TreePack => format!("packs/{}/{hex}", &hex[..2]),
        _ => format!("{}{hex}", prefix(class)),
    }
}

/// The ids of all objects of a class; names that are no ids are not ours and are left alone.
pub fn list(store: &dyn ObjectStore, class: Class) -> Result<Vec<(Id, u64)>> {
    let ids = store.list(prefix(class))?.into_iter();
    Ok(ids.filter_map(|o| Some((o.key.rsplit('/').next()?.parse().ok()?, o.size))).collect())
}

/// The stored bytes of an object that holds `plain`.
pub fn seal(keys: &Keys, class: Class, plain: &[u8]) -> Result<Vec<u8>> {
    let sealer = keys.new_sealer(class)?;
    let too_large = |_| Error::failed("an object is too large to store");
    let plain_len = u32::try_from(plain.len()).map_err(too_large)?;
    if plain_len > plain_max(class) {
        // What no reader takes must not be stored.
        return Err(Error::failed("an object is too large to store"));
    }
    let mut packed = Vec::new();
    let codec = Compressor::new(Compression::Zstd(3))?.compress(plain, &mut packed)?;
    let mut bytes = sealer.header().to_vec();
    bytes.push(codec);
    bytes.extend_from_slice(&plain_len.to_be_bytes());
    let start = bytes.len();
    bytes.extend_from_slice(&packed);
    sealer.seal(Record { ordinal: 0, codec, plain_len }, &mut bytes, start)?;
    Ok(bytes)
}

/// How long an object may be before compression, in bytes. An index is closed at half a million blobs, each some 40
/// bytes, or after the pack that goes beyond; a tombstone may name all packs of a vault; the others are records of a
/// few kilobytes.
fn plain_max(class: Class) -> u32 {
    if matches!(class, Class::Index | Class::Tombstone) { 256 << 20 } else { 32 << 20 }
}

/// The plain bytes of a stored object.
pub fn open(keys: &Keys, class: Class, stored: &mut [u8]) -> Result<Vec<u8>> {
    let sealer = keys.open_header(class, stored)?;
    let body = stored.get_mut(HEADER_LEN..).unwrap_or_default();
    let Some((head, sealed)) = body.split_first_chunk_mut::<5>() else {
        return Err(Error::damaged("an object ends early"));
    };
    let [codec, a, b, c, d] = *head;
    let plain_len = u32::from_be_bytes([a, b, c, d]);
    if plain_len > plain_max(class) {
        return Err(Error::damaged("an object claims to be larger than any of its class"));
    }
    let packed = sealer.open(Record { ordinal: 0, codec, plain_len }, sealed)?;
    compress::decompress(codec, packed, usize::try_from(plain_len).unwrap_or(usize::MAX)).map(Cow::into_owned)
}

/// Stores `plain` as a new object and gives its id.
pub fn put(store: &dyn ObjectStore, keys: &Keys, class: Class, plain: &[u8]) -> Result<Id> {
    let bytes = seal(keys, class, plain)?;
    let id = Id::of(&bytes);
    store.put(&key(class, &id), &bytes)?;
    Ok(id)
}

/// Reads an object back, checking its id too.
pub fn get(store: &dyn ObjectStore, keys: &Keys, class: Class, id: &Id) -> Result<Vec<u8>> {
    let key = key(class, id);
    let mut bytes = store.get(&key, OBJECT_MAX)?;
    if Id::of(&bytes) != *id {
        return Err(Error::damaged(format!("{key} is not what its name says")));
    }
    open(keys, class, &mut bytes).map_err(|e| e.context(key))
}
