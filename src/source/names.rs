//! What a directory holds.

use std::os::fd::AsFd;

use rustix::io::Errno;

/// The names in a directory, sorted.
pub fn sorted(fd: impl AsFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut buffer = Vec::with_capacity(64 << 10);
    let mut dir = rustix::fs::RawDir::new(fd, buffer.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = dir.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    // A name that is replaced while a directory is read may be listed twice.
    names.sort_unstable();
    names.dedup();
    Ok(names)
}
