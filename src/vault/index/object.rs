//! An index object: the directories of many packs, sealed together.

use crate::model::{Id, Result};
use crate::store::ObjectStore;
use crate::vault::codec::{Reader, Writer};
use crate::vault::object;
use crate::vault::pack::{self, PackRecord};
use crate::vault::seal::{Class, Keys};

/// What one index object says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IndexObject {
    /// Index objects that this one replaces: a reader ignores them where they still exist.
    pub supersedes: Vec<Id>,
    /// Packs and what is in them.
    pub packs: Vec<PackRecord>,
}

impl IndexObject {
    /// Stores it.
    pub fn put(&self, store: &dyn ObjectStore, keys: &Keys) -> Result<Id> {
        object::put(store, keys, Class::Index, &self.encode())
    }

    /// Reads one.
    pub fn get(store: &dyn ObjectStore, keys: &Keys, id: &Id) -> Result<Self> {
        Self::decode(&object::get(store, keys, Class::Index, id)?)
    }

    /// The plain bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.uint(self.supersedes.len() as u64);
        self.supersedes.iter().for_each(|id| w.id(id));
        w.uint(self.packs.len() as u64);
        for pack in &self.packs {
            w.id(&pack.id);
            w.bytes.extend_from_slice(&pack.salt);
            w.u8(pack.class as u8);
            w.uint(pack.size);
            w.bytes(&pack::encode_directory(&pack.segments));
        }
        w.bytes
    }

    /// Reads the plain bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new(bytes, "an index");
        let n = r.count(32)?;
        let supersedes = (0..n).map(|_| r.id()).collect::<Result<_>>()?;
        let n = r.count(67)?;
        let mut packs = Vec::with_capacity(n);
        for _ in 0..n {
            let id = r.id()?;
            let mut salt = [0; 32];
            salt.copy_from_slice(r.take(32)?);
            let class = Class::from_code(r.u8()?).filter(|c| matches!(c, Class::DataPack | Class::TreePack));
            let class = class.ok_or_else(|| r.bad("it lists something that is not a pack"))?;
            let size = r.uint()?;
            if size > pack::PACK_MAX {
                return Err(r.bad("it lists a pack that is too large"));
            }
            let segments = pack::decode_directory(r.bytes()?, size)?;
            packs.push(PackRecord { id, salt, class, size, segments });
        }
        r.finish()?;
        Ok(Self { supersedes, packs })
    }
}
