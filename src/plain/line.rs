//! One line of `ENTRIES.jsonl`: what an entry is, exactly.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::{Error, Id, Result};
use crate::vault::tree::entry::NAME_MAX;
use crate::vault::tree::{Content, Device, Kind, Metadata, Origin, Owner, Time, Totals};

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The resource, by its place in the manifest.
    pub resource: usize,
    /// The absolute path on the live system.
    #[serde(with = "text")]
    pub path: Vec<u8>,
    /// What it is.
    #[serde(flatten)]
    pub what: What,
    mode: u16,
    uid: u32,
    gid: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    user: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    group: String,
    /// Seconds since 1970 and nanoseconds.
    mtime: (i64, u32),
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    xattrs: Vec<Xattr>,
    #[serde(default, skip_serializing_if = "is_zero")]
    flags: u32,
    /// The first name of the same inode, where this is a later one.
    #[serde(default, with = "text::optional", skip_serializing_if = "Option::is_none")]
    pub first: Option<Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Xattr(#[serde(with = "text")] Vec<u8>, #[serde(with = "text::hexadecimal")] Vec<u8>);

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum What {
    /// A directory.
    Directory {
        /// `ancestor` where it only leads to the resource's paths: owner, mode and ACL count.
        #[serde(default, skip_serializing_if = "is_false")]
        ancestor: bool,
    },
    /// A regular file.
    File {
        /// Its length.
        size: u64,
        /// Its holes as (offset, length).
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        holes: Vec<(u64, u64)>,
        /// SHA-256 of all its bytes, the zeros of its holes among them.
        sha256: Id,
    },
    /// A symbolic link.
    Symlink {
        /// Where to.
        #[serde(with = "text")]
        target: Vec<u8>,
    },
    /// A character device.
    CharDevice {
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

fn is_false(b: &bool) -> bool {
    !b
}

impl Line {
    /// The line of an entry.
    pub fn new(resource: usize, path: &[u8], what: What, meta: &Metadata, first: Option<Vec<u8>>) -> Self {
        Self {
            resource,
            path: path.to_vec(),
            what,
            mode: meta.mode,
            uid: meta.owner.uid,
            gid: meta.owner.gid,
            user: meta.owner.user.clone(),
            group: meta.owner.group.clone(),
            mtime: (meta.mtime.sec, meta.mtime.nsec),
            xattrs: meta.xattrs.iter().map(|(name, value)| Xattr(name.clone(), value.clone())).collect(),
            flags: meta.flags,
            first,
        }
    }

    /// What every inode has.
    pub fn meta(&self) -> Metadata {
        let (uid, gid) = (self.uid, self.gid);
        Metadata {
            mode: self.mode & 0o7777,
            owner: Arc::new(Owner { uid, gid, user: self.user.clone(), group: self.group.clone() }),
            mtime: Time { sec: self.mtime.0, nsec: self.mtime.1 },
            xattrs: self.xattrs.iter().map(|x| (x.0.clone(), x.1.clone())).collect(),
            flags: self.flags,
        }
    }

    /// Its length, if it is a file.
    pub fn size(&self) -> u64 {
        match &self.what {
            What::File { size, .. } => *size,
            _ => 0,
        }
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        matches!(self.what, What::Directory { .. })
    }

    /// What the restorer calls it. The vault's share of it (nodes, contents) is empty.
    pub fn kind(&self) -> Kind {
        let device = |major: &u32, minor: &u32| Device { major: *major, minor: *minor };
        match &self.what {
            What::Directory { ancestor } => {
                let origin = if *ancestor { Origin::Ancestor } else { Origin::Read };
                Kind::Directory { node: Id::of(b""), totals: Totals::default(), origin }
            }
            What::File { size, holes, .. } => Kind::File { size: *size, holes: holes.clone(), content: Content::Empty },
            What::Symlink { target } => Kind::Symlink { target: target.clone() },
            What::CharDevice { major, minor } => Kind::CharDevice(device(major, minor)),
            What::BlockDevice { major, minor } => Kind::BlockDevice(device(major, minor)),
            What::Fifo => Kind::Fifo,
            What::Socket => Kind::Socket,
        }
    }

    /// Refuses what no backup writes: nothing in a copy is trusted.
    pub fn check(&self, resources: usize) -> Result<()> {
        let bad = |what: &str| {
            Err(Error::damaged(format!(
                "{} holds {:?}, which {what}",
                super::ENTRIES,
                String::from_utf8_lossy(&self.path)
            )))
        };
        if self.resource >= resources {
            return bad("is of a resource that the manifest does not know");
        }
        if !is_clean(&self.path) || self.first.as_ref().is_some_and(|first| !is_clean(first)) {
            return bad("is not an absolute path as a backup writes it");
        }
        if self.path == b"/" && !self.is_dir() {
            return bad("is not a directory");
        }
        if self.mtime.1 >= 1_000_000_000 {
            return bad("has an impossible time");
        }
        if self.xattrs.iter().any(|x| x.0.is_empty() || x.0.len() > 255 || x.0.contains(&0) || x.1.len() > 1 << 16) {
            return bad("has an impossible attribute");
        }
        match &self.what {
            What::File { size, holes, .. } => {
                let mut end = 0;
                for (offset, len) in holes {
                    if *offset < end || *len == 0 || offset.checked_add(*len).is_none_or(|end| end > *size) {
                        return bad("has impossible holes");
                    }
                    end = offset + len;
                }
            }
            What::Symlink { target } if target.is_empty() || target.len() > 4096 || target.contains(&0) => {
                return bad("has an impossible target");
            }
            _ => {}
        }
        Ok(())
    }
}

fn is_clean(path: &[u8]) -> bool {
    let Some(rest) = path.strip_prefix(b"/") else { return false };
    let fine =
        |name: &[u8]| !name.is_empty() && name.len() <= NAME_MAX && name != b"." && name != b".." && !name.contains(&0);
    rest.is_empty() || rest.split(|b| *b == b'/').all(fine)
}

/// Bytes as text where they are UTF-8, else `hex:` and their digits.
mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::model::id::{hex, unhex};

    fn encode(bytes: &[u8]) -> String {
        match std::str::from_utf8(bytes) {
            Ok(text) if !text.starts_with("hex:") => text.to_owned(),
            _ => format!("hex:{}", hex(bytes)),
        }
    }

    fn decode(text: String) -> Option<Vec<u8>> {
        match text.strip_prefix("hex:") {
            Some(digits) => unhex(digits),
            None => Some(text.into_bytes()),
        }
    }

    pub fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        decode(String::deserialize(d)?).ok_or_else(|| D::Error::custom("it is not hexadecimal"))
    }

    pub mod optional {
        use super::{Deserialize, Deserializer, Error, Serializer, decode, encode};

        #[allow(clippy::ref_option, reason = "the form that serde calls")]
        pub fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, s: S) -> Result<S::Ok, S::Error> {
            match bytes {
                Some(bytes) => s.serialize_some(&encode(bytes)),
                None => s.serialize_none(),
            }
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<u8>>, D::Error> {
            let text = Option::<String>::deserialize(d)?;
            text.map(|text| decode(text).ok_or_else(|| D::Error::custom("it is not hexadecimal"))).transpose()
        }
    }

    pub mod hexadecimal {
        use super::{Deserialize, Deserializer, Error, Serializer, hex, unhex};

        pub fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
            s.serialize_str(&hex(bytes))
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
            unhex(&String::deserialize(d)?).ok_or_else(|| D::Error::custom("it is not hexadecimal"))
        }
    }
}
