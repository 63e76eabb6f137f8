//! Key slots: the master key, locked once for each secret that opens the vault.
//!
//! A slot's key is derived from its secret and a random salt; a commitment derived beside it
//! proves that the slot belongs to exactly this secret, so a wrong one is refused before anything
//! is decrypted.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::seal::{MasterKey, TAG_LEN, derive, random};
use crate::model::id::{hex, unhex};
use crate::model::{Error, Id, Result};
use crate::store::ObjectStore;
use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Key, Nonce, Tag};

/// A secret that opens a vault.
#[derive(Clone, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub struct Secret(pub [u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// What kind of secret a slot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlotKind {
    /// A file on the machine.
    File,
    /// A printed key.
    Recovery,
}

/// What can be said about a slot without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotInfo {
    /// The slot object's id.
    pub id: Id,
    /// What opens it.
    pub kind: SlotKind,
    /// When it was made.
    pub created_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Slot {
    format: u8,
    vault: Uuid,
    kind: SlotKind,
    created_at: Timestamp,
    salt: String,
    commitment: String,
    wrapped: String,
}

/// Where slots are.
pub const PREFIX: &str = "keys/";

impl Slot {
    fn associated(&self) -> Vec<u8> {
        let kind: &[u8] = match self.kind {
            SlotKind::File => b"file",
            SlotKind::Recovery => b"recovery",
        };
        [b"strongroom/1 slot ".as_slice(), self.vault.as_bytes(), kind].concat()
    }
}

type Derived = Zeroizing<[u8; 32]>;

/// The slot's key and the commitment to it.
fn keys_of(secret: &Secret, salt: &[u8]) -> Result<(Derived, Derived)> {
    Ok((derive(&secret.0, salt, b"strongroom/1 slot key")?, derive(&secret.0, salt, b"strongroom/1 slot commitment")?))
}

/// Locks `master` under `secret` in a new slot.
pub fn add(
    store: &dyn ObjectStore,
    vault: Uuid,
    master: &MasterKey,
    kind: SlotKind,
    secret: &Secret,
) -> Result<SlotInfo> {
    let salt: [u8; 32] = random()?;
    let (key, commitment) = keys_of(secret, &salt)?;
    let mut slot = Slot {
        format: 1,
        vault,
        kind,
        created_at: Timestamp::now(),
        salt: hex(&salt),
        commitment: hex(commitment.as_ref()),
        wrapped: String::new(),
    };
    let key: &Key<Aes256Gcm> = (&*key).into();
    let mut wrapped = Zeroizing::new(master.0.to_vec());
    // The key is used for this one message, so the nonce may be constant.
    let tag: [u8; TAG_LEN] = Aes256Gcm::new(key)
        .encrypt_inout_detached(&Nonce::from([0; 12]), &slot.associated(), wrapped.as_mut_slice().into())
        .map_err(|_| Error::failed("the master key could not be locked"))?
        .into();
    slot.wrapped = hex(&[wrapped.as_slice(), &tag].concat());
    let bytes = serde_json::to_vec(&slot).map_err(|e| Error::failed(format!("a key slot cannot be written: {e}")))?;
    let id = Id::of(&bytes);
    store.put(&self::key(&id), &bytes)?;
    store.sync()?;
    Ok(SlotInfo { id, kind, created_at: slot.created_at })
}

fn read(store: &dyn ObjectStore, vault: Uuid) -> Result<Vec<(SlotInfo, Slot)>> {
    let mut slots = Vec::new();
    for object in store.list(PREFIX)? {
        let Some(id) = object.key.strip_prefix(PREFIX).and_then(|name| name.parse::<Id>().ok()) else { continue };
        let bytes = store.get(&object.key, 1 << 16)?;
        // One damaged slot must not lock out the others.
        let slot = (Id::of(&bytes) == id).then(|| serde_json::from_slice::<Slot>(&bytes).ok()).flatten();
        if let Some(slot) = slot.filter(|slot| slot.vault == vault && slot.format == 1) {
            slots.push((SlotInfo { id, kind: slot.kind, created_at: slot.created_at }, slot));
        }
    }
    slots.sort_by_key(|(info, _)| (info.created_at, info.id));
    Ok(slots)
}

/// Fails unless the bytes are a slot of the vault.
pub fn check(bytes: &[u8], vault: Uuid) -> Result<()> {
    match serde_json::from_slice::<Slot>(bytes) {
        Ok(slot) if slot.vault == vault && slot.format == 1 => Ok(()),
        _ => Err(Error::damaged("it is no key slot of this vault")),
    }
}

/// The vault's slots, oldest first.
pub fn list(store: &dyn ObjectStore, vault: Uuid) -> Result<Vec<SlotInfo>> {
    Ok(read(store, vault)?.into_iter().map(|(info, _)| info).collect())
}

/// Refuses to remove a slot that is not there or is the last one.
pub fn check_removal(store: &dyn ObjectStore, vault: Uuid, id: &Id) -> Result<()> {
    let slots = list(store, vault)?;
    if !slots.iter().any(|slot| slot.id == *id) {
        return Err(Error::not_found(format!("the vault has no key {id}")));
    }
    if slots.len() == 1 {
        return Err(Error::invalid_state(
            "this is the vault's last key, and without one nothing in it can ever be read; add another key first",
        ));
    }
    Ok(())
}

/// Removes a slot; the last one stays.
pub fn remove(store: &dyn ObjectStore, vault: Uuid, id: &Id) -> Result<()> {
    check_removal(store, vault, id)?;
    store.delete(&key(id))?;
    store.sync()
}

/// The key of a slot's object.
pub fn key(id: &Id) -> String {
    format!("{PREFIX}{id}")
}

/// The master key, if `secret` opens one of the slots.
pub fn unlock(store: &dyn ObjectStore, vault: Uuid, secret: &Secret) -> Result<MasterKey> {
    for (_, slot) in read(store, vault)? {
        let (Some(salt), Some(commitment), Some(mut wrapped)) =
            (unhex(&slot.salt), unhex(&slot.commitment), unhex(&slot.wrapped).map(Zeroizing::new))
        else {
            continue;
        };
        let (key, expected) = keys_of(secret, &salt)?;
        if *commitment != *expected || wrapped.len() != 32 + TAG_LEN {
            continue;
        }
        let (data, tag) = wrapped.split_at_mut(32);
        let tag: &Tag = (&*tag).try_into().map_err(|_| Error::damaged("a key slot is malformed"))?;
        let key: &Key<Aes256Gcm> = (&*key).into();
        Aes256Gcm::new(key)
            .decrypt_inout_detached(&Nonce::from([0; 12]), &slot.associated(), (&mut *data).into(), tag)
            .map_err(|_| Error::damaged("a key slot was changed"))?;
        let mut master = MasterKey([0; 32]);
        master.0.copy_from_slice(data);
        return Ok(master);
    }
    Err(Error::invalid("this key does not open the vault; give the key file or recovery key that belongs to it"))
}

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl Secret {
    /// A new random secret.
    pub fn random() -> Result<Self> {
        Ok(Self(random()?))
    }

    /// The text of a key file.
    pub fn to_file(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{}\n", hex(&self.0)))
    }

    /// Reads the text of a key file.
    pub fn from_file(text: &str) -> Result<Self> {
        unhex(text.trim())
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| Error::invalid("a key file holds 64 hexadecimal digits; this one does not"))
    }

    /// The printable form of a recovery key: Crockford's base 32 in groups of seven, with three
    /// bytes of SHA-256 at the end so that a slip of the pen is noticed.
    pub fn to_recovery(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(self.0.to_vec());
        bytes.extend_from_slice(&Id::of(&self.0).0[..3]);
        let mut text = Zeroizing::new(String::new());
        let (mut bits, mut count, mut digits) = (0u32, 0, 0);
        for byte in bytes.iter() {
            bits = (bits << 8) | u32::from(*byte);
            count += 8;
            while count >= 5 {
                count -= 5;
                if digits > 0 && digits % 7 == 0 {
                    text.push('-');
                }
                text.push(char::from(ALPHABET[usize::try_from((bits >> count) & 31).unwrap_or(0)]));
                digits += 1;
            }
        }
        text
    }

    /// Reads the printable form: upper or lower case, spaces and dashes anywhere, `o` for `0`,
    /// `i` and `l` for `1`.
    pub fn from_recovery(text: &str) -> Result<Self> {
        let bad =
            |why: &str| Error::invalid(format!("this is not a recovery key: {why}; it has 8 groups of 7 characters"));
        let mut bytes = Zeroizing::new(Vec::with_capacity(35));
        let (mut bits, mut count) = (0u32, 0);
        for c in text.chars().filter(|c| !c.is_whitespace() && *c != '-') {
            let c = match c.to_ascii_lowercase() {
                'o' => '0',
                'i' | 'l' => '1',
                c => c,
            };
            let digit = ALPHABET.iter().position(|a| char::from(*a) == c).ok_or_else(|| bad("a character is wrong"))?;
            bits = (bits << 5) | u32::try_from(digit).unwrap_or(0);
            count += 5;
            if count >= 8 {
                count -= 8;
                bytes.push((bits >> count) as u8);
            }
        }
        if bytes.len() != 35 {
            return Err(bad("its length is wrong"));
        }
        let mut secret = Self([0; 32]);
        secret.0.copy_from_slice(&bytes[..32]);
        if Id::of(&secret.0).0[..3] == bytes[32..] { Ok(secret) } else { Err(bad("its check characters do not fit")) }
    }
}
