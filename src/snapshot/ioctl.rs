//! What btrfs can be asked through `ioctl(2)` alone.
//!
//! The structures are those of the kernel's `linux/btrfs.h`, which are part of its stable interface.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::{Errno, Result};
use rustix::ioctl::{Opcode, Setter, Updater, opcode};

/// The inode number of a subvolume's root.
pub const SUBVOLUME_ROOT: u64 = 256;
/// The inode number of what stands in a snapshot for a subvolume that is not in it.
pub const EMPTY_SUBVOLUME: u64 = 2;

const MAGIC: u8 = 0x94;
const READ_ONLY: u64 = 1 << 1;
/// The same among the flags of [`Info`].
const INFO_READ_ONLY: u64 = 1;
const NAME: usize = 256;
const CHILDREN: usize = 255;

#[repr(C)]
struct VolumeArgs {
    fd: i64,
    name: [u8; 4088],
}

#[repr(C)]
struct VolumeArgsV2 {
    fd: i64,
    transaction: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

#[repr(C)]
struct Info {
    tree: u64,
    name: [u8; NAME],
    parent: u64,
    dir: u64,
    generation: u64,
    flags: u64,
    uuids: [[u8; 16]; 3],
    transactions: [u64; 4],
    times: [[u64; 2]; 4],
    reserved: [u64; 8],
}

#[repr(C)]
struct RootRefs {
    from: u64,
    refs: [[u64; 2]; CHILDREN],
    count: u8,
    align: [u8; 7],
}

#[repr(C)]
struct LookUp {
    dir: u64,
    tree: u64,
    name: [u8; NAME],
    path: [u8; 3824],
}

const SUBVOLUME_CREATE: Opcode = opcode::write::<VolumeArgs>(MAGIC, 14);
const SNAPSHOT_DESTROY: Opcode = opcode::write::<VolumeArgs>(MAGIC, 15);
const SNAPSHOT_CREATE: Opcode = opcode::write::<VolumeArgsV2>(MAGIC, 23);
const SUBVOLUME_INFO: Opcode = opcode::read::<Info>(MAGIC, 60);
const SUBVOLUME_REFS: Opcode = opcode::read_write::<RootRefs>(MAGIC, 61);
const LOOK_UP: Opcode = opcode::read_write::<LookUp>(MAGIC, 62);

/// A name with the zero that ends it.
fn named<const N: usize>(name: &[u8]) -> Result<[u8; N]> {
    if name.is_empty() || name.len() >= NAME || name.contains(&b'/') || name.contains(&0) {
        return Err(Errno::INVAL);
    }
    let mut field = [0; N];
    field.get_mut(..name.len()).ok_or(Errno::INVAL)?.copy_from_slice(name);
    Ok(field)
}

fn text(field: &[u8]) -> Vec<u8> {
    field.split(|b| *b == 0).next().unwrap_or_default().to_vec()
}

// The kernel is given a structure of the type that its header names for the request, whole and
// owned by us, and writes within it at most.
#[allow(unsafe_code, reason = "these requests have no safe wrapper; each is given the structure that belongs to it")]
mod raw {
    use super::{AsFd, BorrowedFd, Opcode, Result, Setter, Updater};

    pub fn set<const OPCODE: Opcode, T>(fd: BorrowedFd<'_>, value: T) -> Result<()> {
        unsafe { rustix::ioctl::ioctl(fd.as_fd(), Setter::<OPCODE, T>::new(value)) }
    }

    pub fn update<const OPCODE: Opcode, T>(fd: BorrowedFd<'_>, value: &mut T) -> Result<()> {
        unsafe { rustix::ioctl::ioctl(fd.as_fd(), Updater::<OPCODE, T>::new(value)) }
    }
}

/// Makes an empty subvolume `name` in `dir`.
pub fn create(dir: impl AsFd, name: &[u8]) -> Result<()> {
    raw::set::<SUBVOLUME_CREATE, _>(dir.as_fd(), VolumeArgs { fd: 0, name: named(name)? })
}

/// Makes `name` in `dir` a snapshot of the subvolume `source`.
pub fn snapshot(source: impl AsFd, dir: impl AsFd, name: &[u8], read_only: bool) -> Result<()> {
    let args = VolumeArgsV2 {
        fd: source.as_fd().as_raw_fd().into(),
        transaction: 0,
        flags: if read_only { READ_ONLY } else { 0 },
        unused: [0; 4],
        name: named(name)?,
    };
    raw::set::<SNAPSHOT_CREATE, _>(dir.as_fd(), args)
}

/// Deletes the subvolume `name` in `dir`, whatever is in it; its space comes back by and by.
pub fn destroy(dir: impl AsFd, name: &[u8]) -> Result<()> {
    raw::set::<SNAPSHOT_DESTROY, _>(dir.as_fd(), VolumeArgs { fd: 0, name: named(name)? })
}

/// The subvolume that holds an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subvolume {
    /// Its id, which unlike its device number stays.
    pub id: u64,
    /// Whether nothing in it can be changed, nor it be moved.
    pub read_only: bool,
}

/// Asks for the subvolume that holds an open file.
pub fn subvolume(file: impl AsFd) -> Result<Subvolume> {
    let mut info = Info {
        tree: 0,
        name: [0; NAME],
        parent: 0,
        dir: 0,
        generation: 0,
        flags: 0,
        uuids: [[0; 16]; 3],
        transactions: [0; 4],
        times: [[0; 2]; 4],
        reserved: [0; 8],
    };
    raw::update::<SUBVOLUME_INFO, _>(file.as_fd(), &mut info)?;
    Ok(Subvolume { id: info.tree, read_only: info.flags & INFO_READ_ONLY != 0 })
}

/// The subvolumes beneath an open directory that lie in no other subvolume beneath it: their paths
/// from there.
pub fn nested(dir: impl AsFd) -> Result<Vec<Vec<u8>>> {
    let (dir, mut found, mut from) = (dir.as_fd(), Vec::new(), 0);
    loop {
        let mut refs = RootRefs { from, refs: [[0; 2]; CHILDREN], count: 0, align: [0; 7] };
        let more = match raw::update::<SUBVOLUME_REFS, _>(dir, &mut refs) {
            Ok(()) => false,
            Err(Errno::OVERFLOW) => true,
            Err(e) => return Err(e),
        };
        for [tree, parent] in refs.refs.iter().take(refs.count.into()) {
            let mut look = LookUp { dir: *parent, tree: *tree, name: [0; NAME], path: [0; 3824] };
            match raw::update::<LOOK_UP, _>(dir, &mut look) {
                Ok(()) => {
                    let path = text(&look.path);
                    let path = path.strip_suffix(b"/").unwrap_or(&path);
                    let name = text(&look.name);
                    found.push(if path.is_empty() { name } else { [path, b"/", name.as_slice()].concat() });
                }
                // It lies in the same subvolume, but not beneath the directory; or it went.
                Err(Errno::ACCESS | Errno::NOENT) => {}
                Err(e) => return Err(e),
            }
            from = tree + 1;
        }
        if !more || refs.count == 0 {
            found.sort_unstable();
            return Ok(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_kernels_sizes() {
        assert_eq!(size_of::<VolumeArgs>(), 4096);
        assert_eq!(size_of::<VolumeArgsV2>(), 4096);
        assert_eq!(size_of::<Info>(), 504);
        assert_eq!(size_of::<RootRefs>(), 4096);
        assert_eq!(size_of::<LookUp>(), 4096);
        // As linux/btrfs.h spells them out.
        assert_eq!(SNAPSHOT_CREATE as u64, 0x5000_9417);
        assert_eq!(SUBVOLUME_INFO as u64, 0x81f8_943c);
        assert_eq!(LOOK_UP as u64, 0xd000_943e);
    }

    #[test]
    fn names_that_btrfs_cannot_have_are_refused() {
        assert!(named::<4088>(b"").is_err());
        assert!(named::<4088>(b"a/b").is_err());
        assert!(named::<4088>(&[b'n'; 256]).is_err());
        assert_eq!(&named::<4088>(b"ab").unwrap()[..3], b"ab\0");
    }
}
