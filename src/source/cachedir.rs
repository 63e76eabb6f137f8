//! Directories that say that they are a cache (<https://bford.info/cachedir/>).

use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::Stat;
use super::stat::Type;

/// The file that says so.
pub const TAG_NAME: &[u8] = b"CACHEDIR.TAG";
const TAG: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// Whether the directory with these names (sorted) is a cache.
pub fn is_cache(dir: impl AsFd, names: &[Vec<u8>]) -> bool {
    let read = || -> Result<bool, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        if Stat::at(&dir, TAG_NAME)?.kind != Type::File {
            return Ok(false);
        }
        let file = openat(&dir, TAG_NAME, flags, Mode::empty())?;
        let mut head = [0; TAG.len()];
        Ok(rustix::io::pread(file, &mut head, 0)? == TAG.len() && head == TAG)
    };
    names.binary_search_by(|name| name.as_slice().cmp(TAG_NAME)).is_ok() && read().unwrap_or(false)
}
