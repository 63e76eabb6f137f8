//! Sealing: what makes stored bytes unreadable to others and any change to them noticed.
//!
//! Every object has a random salt; its key is HKDF-SHA-256 of the vault's master key with that
//! salt. A record's nonce is its ordinal in the object, which one writer counts up and which is
//! never continued after a crash, so no nonce is used twice under a key. What a record is (class,
//! codec, plain length, vault, salt, ordinal) is authenticated with it. An unencrypted vault has
//! the same frames with a truncated SHA-256 instead of the tag: it notices damage, not malice.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Key, Nonce, Tag};
use hkdf::Hkdf;
use sha2::{Digest, Sha256};
use uuid::Uuid;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::model::{Error, Result};

/// The version of the format that this code reads and writes.
pub const FORMAT: u8 = 1;

/// Bytes that sealing adds to a record.
pub const TAG_LEN: usize = 16;

/// Bytes of the header that starts every sealed object.
pub const HEADER_LEN: usize = 56;

const MAGIC: &[u8; 4] = b"SRNG";

/// The key from which all keys of a vault are derived.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MasterKey(pub [u8; 32]);

impl MasterKey {
    /// A new random key.
    pub fn random() -> Result<Self> {
        Ok(Self(random()?))
    }
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey")
    }
}

/// Random bytes from the operating system.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| Error::failed(format!("the system gave no random bytes: {e}")))?;
    Ok(bytes)
}

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Class {
    /// A pack of file contents.
    DataPack = 1,
    /// A pack of tree nodes and lists.
    TreePack = 2,
    /// An index.
    Index = 3,
    /// A manifest.
    Manifest = 4,
    /// A machine's configuration.
    State = 5,
    /// A writer at work.
    Session = 6,
    /// A deleted backup.
    Tombstone = 7,
}

impl Class {
    /// The class with this code.
    pub fn from_code(code: u8) -> Option<Self> {
        use Class::{DataPack, Index, Manifest, Session, State, Tombstone, TreePack};
        [DataPack, TreePack, Index, Manifest, State, Session, Tombstone].into_iter().find(|c| *c as u8 == code)
    }
}

/// Makes the sealers of one vault.
#[derive(Debug, Clone)]
pub struct Keys {
    uuid: Uuid,
    master: Option<MasterKey>,
}

/// Seals and opens the records of one object.
pub struct Sealer {
    class: Class,
    uuid: Uuid,
    /// The object's salt.
    pub salt: [u8; 32],
    cipher: Option<Box<Aes256Gcm>>,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealer({:?})", self.class)
    }
}

/// What is authenticated about a record besides its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Its place in the object; the nonce.
    pub ordinal: u32,
    /// How it is compressed.
    pub codec: u8,
    /// Its length before compression.
    pub plain_len: u32,
}

impl Keys {
    /// Keys of the vault `uuid`; without a master key it is unencrypted.
    pub fn new(uuid: Uuid, master: Option<MasterKey>) -> Self {
        Self { uuid, master }
    }

    /// The vault.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// The master key of an encrypted vault.
    pub fn master(&self) -> Option<&MasterKey> {
        self.master.as_ref()
    }

    /// The sealer of an object with the given salt.
    pub fn sealer(&self, class: Class, salt: [u8; 32]) -> Result<Sealer> {
        let cipher = match &self.master {
            None => None,
            Some(master) => {
                let info = [b"strongroom/1 object".as_slice(), &[class as u8], self.uuid.as_bytes()].concat();
                let key = derive(&master.0, &salt, &info)?;
                let key: &Key<Aes256Gcm> = (&*key).into();
                Some(Box::new(Aes256Gcm::new(key)))
            }
        };
        Ok(Sealer { class, uuid: self.uuid, salt, cipher })
    }

    /// A sealer with a new salt, for a new object.
    pub fn new_sealer(&self, class: Class) -> Result<Sealer> {
        self.sealer(class, random()?)
    }

    /// Checks an object's header and gives the sealer for what follows it.
    pub fn open_header(&self, class: Class, object: &[u8]) -> Result<Sealer> {
        let header = object.get(..HEADER_LEN).ok_or_else(|| Error::damaged("an object is shorter than its header"))?;
        let [b'S', b'R', b'N', b'G', format, code, cipher, 0] = header[..8] else {
            return Err(Error::damaged("an object does not begin as Strongroom's do"));
        };
        if format != FORMAT {
            return Err(Error::damaged(format!("an object is of format {format}; this version reads {FORMAT}")));
        }
        if code != class as u8 {
            return Err(Error::damaged(format!("an object is of class {code} where a {class:?} belongs")));
        }
        if &header[8..24] != self.uuid.as_bytes() {
            return Err(Error::damaged("an object is of another vault"));
        }
        if cipher != u8::from(self.master.is_some()) {
            return Err(Error::damaged("an object is not encrypted as its vault is"));
        }
        let mut salt = [0; 32];
        salt.copy_from_slice(&header[24..56]);
        self.sealer(class, salt)
    }
}

/// A key for `info`, derived from `secret` and `salt` by HKDF-SHA-256 (RFC 5869).
pub fn derive(secret: &[u8], salt: &[u8], info: &[u8]) -> Result<Zeroizing<[u8; 32]>> {
    let mut key = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(Some(salt), secret)
        .expand(info, key.as_mut())
        .map_err(|_| Error::failed("a key could not be derived"))?;
    Ok(key)
}

impl Sealer {
    /// The header that the object begins with.
    pub fn header(&self) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        header[..4].copy_from_slice(MAGIC);
        header[4] = FORMAT;
        header[5] = self.class as u8;
        header[6] = u8::from(self.cipher.is_some());
        header[8..24].copy_from_slice(self.uuid.as_bytes());
        header[24..].copy_from_slice(&self.salt);
        header
    }

    /// The object's class.
    pub fn class(&self) -> Class {
        self.class
    }

    fn associated(&self, record: Record) -> [u8; 70] {
        let mut data = [0; 70];
        data[..12].copy_from_slice(b"strongroom/1");
        data[12] = self.class as u8;
        data[13] = record.codec;
        data[14..30].copy_from_slice(self.uuid.as_bytes());
        data[30..62].copy_from_slice(&self.salt);
        data[62..66].copy_from_slice(&record.ordinal.to_be_bytes());
        data[66..].copy_from_slice(&record.plain_len.to_be_bytes());
        data
    }

    /// Seals `buffer[start..]` in place and appends the tag.
    pub fn seal(&self, record: Record, buffer: &mut Vec<u8>, start: usize) -> Result<()> {
        let associated = self.associated(record);
        let Some(data) = buffer.get_mut(start..) else {
            return Err(Error::failed("a record to seal begins after its buffer's end"));
        };
        let tag: [u8; TAG_LEN] = match &self.cipher {
            Some(cipher) => cipher
                .encrypt_inout_detached(&nonce(record.ordinal), &associated, data.into())
                .map_err(|_| Error::failed("a record is too long to encrypt"))?
                .into(),
            None => checksum(&associated, data),
        };
        buffer.extend_from_slice(&tag);
        Ok(())
    }

    /// Opens a sealed record in place and gives its bytes without the tag.
    pub fn open<'a>(&self, record: Record, sealed: &'a mut [u8]) -> Result<&'a [u8]> {
        let bad = || Error::damaged(format!("record {} of an object failed its check", record.ordinal));
        let len = sealed.len().checked_sub(TAG_LEN).ok_or_else(bad)?;
        let (data, tag) = sealed.split_at_mut(len);
        let associated = self.associated(record);
        match &self.cipher {
            Some(cipher) => {
                let tag: &Tag = (&*tag).try_into().map_err(|_| bad())?;
                cipher
                    .decrypt_inout_detached(&nonce(record.ordinal), &associated, (&mut *data).into(), tag)
                    .map_err(|_| bad())?;
            }
            None if checksum(&associated, data) != *tag => return Err(bad()),
            None => {}
        }
        Ok(data)
    }
}

fn nonce(ordinal: u32) -> Nonce<aes_gcm::aead::consts::U12> {
    let mut nonce = [0; 12];
    nonce[8..].copy_from_slice(&ordinal.to_be_bytes());
    nonce.into()
}

fn checksum(associated: &[u8], data: &[u8]) -> [u8; TAG_LEN] {
    let digest: [u8; 32] = Sha256::new().chain_update(associated).chain_update(data).finalize().into();
    let mut tag = [0; TAG_LEN];
    tag.copy_from_slice(&digest[..TAG_LEN]);
    tag
}
