//! A small tree that has a bit of everything, for the demo.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::model::{IoContext, Result};

/// How many small documents there are.
const DOCUMENTS: u32 = 400;
/// How much of what cannot be compressed there is.
const NOISE: usize = 8 << 20;

/// Makes the tree and answers how many files it has.
pub fn make(root: &Path) -> Result<u32> {
    make_in(root).at(|| format!("cannot make the sample in {}", root.display()))
}

fn make_in(root: &Path) -> std::io::Result<u32> {
    for dir in ["documents", "empty", "links"] {
        fs::create_dir_all(root.join(dir))?;
    }
    for n in 0..DOCUMENTS {
        let dir = root.join("documents").join(format!("{:02}", n % 20));
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(format!("note-{n}.txt")), format!("Note number {n}. ").repeat(n as usize % 97 + 1))?;
    }
    fs::write(root.join("noise"), noise(NOISE))?;
    let mut sparse = File::create(root.join("sparse"))?;
    sparse.write_all(b"start")?;
    sparse.seek(SeekFrom::Start(64 << 20))?;
    sparse.write_all(b"end")?;
    fs::write(root.join("links/one"), "two names, one file")?;
    fs::hard_link(root.join("links/one"), root.join("links/two"))?;
    symlink("one", root.join("links/symbolic"))?;
    symlink("/nowhere", root.join("links/dangling"))?;
    fs::write(root.join(OsStr::from_bytes(b"not \xff UTF-8")), "an odd name")?;
    fs::write(root.join("tool"), "#!/bin/sh\n")?;
    fs::set_permissions(root.join("tool"), Permissions::from_mode(0o4755))?;
    std::os::unix::fs::chown(root.join("tool"), Some(1234), Some(4321))?;
    fs::set_permissions(root.join("tool"), Permissions::from_mode(0o4755))?;
    // Not every file system has them.
    let _ = rustix::fs::setxattr(root.join("tool"), "user.note", b"kept too", rustix::fs::XattrFlags::empty());
    Ok(DOCUMENTS + 8)
}

/// Changes a little of it: one document more, one less, one different, and a word in the noise.
pub fn change(root: &Path) -> Result<()> {
    change_in(root).at(|| format!("cannot change the sample in {}", root.display()))
}

fn change_in(root: &Path) -> std::io::Result<()> {
    let dir = root.join("documents/03");
    fs::write(dir.join("note-new.txt"), "a new note")?;
    fs::remove_file(dir.join("note-23.txt"))?;
    fs::write(dir.join("note-43.txt"), "written again")?;
    let mut noise = File::options().write(true).open(root.join("noise"))?;
    noise.seek(SeekFrom::Start((NOISE / 2) as u64))?;
    noise.write_all(b"changed")
}

/// Bytes that no compressor makes smaller, the same each time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes
}
