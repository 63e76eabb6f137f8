//! Metadata of an inode, read through one handle.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{IFlags, fgetxattr, flistxattr, lgetxattr, llistxattr};
use rustix::io::Errno;

/// Extended attributes sorted by name.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Inode flags that can be set again; others say how a file system stores the inode.
pub const SETTABLE_FLAGS: u32 = 0x0000_0004 // compress
    | 0x0000_0008 // sync
    | 0x0000_0010 // immutable
    | 0x0000_0020 // append only
    | 0x0000_0040 // no dump
    | 0x0000_0080 // no atime
    | 0x0000_0400 // do not compress
    | 0x0000_4000 // journal data
    | 0x0001_0000 // dirsync
    | 0x0002_0000 // top of directory hierarchies
    | 0x0080_0000; // no copy on write

/// More than this of one inode's attributes is not stored.
const XATTRS_MAX: usize = 4 << 20;

/// The inode's flags, where its file system has them.
pub fn flags(file: impl AsFd) -> u32 {
    rustix::fs::ioctl_getflags(file).unwrap_or(IFlags::empty()).bits() & SETTABLE_FLAGS
}

/// Extended attributes of an open file, POSIX ACLs among them.
pub fn xattrs(file: impl AsFd) -> Result<Xattrs, Errno> {
    let file = file.as_fd();
    read_xattrs(|buffer| flistxattr(file, buffer), |name, buffer| fgetxattr(file, name, buffer))
}

/// Extended attributes of `name` in `dir`, which may be of any type and is not opened.
pub fn xattrs_at(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Xattrs, Errno> {
    let path = [format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(), name].concat();
    read_xattrs(|buffer| llistxattr(path.as_slice(), buffer), |name, buffer| lgetxattr(path.as_slice(), name, buffer))
}

fn read_xattrs(
    list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&[u8], &mut [u8]) -> Result<usize, Errno>,
) -> Result<Xattrs, Errno> {
    let mut small = [0u8; 512];
    let names = match list(&mut small) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Ok(len) => small[..len].to_vec(),
        Err(Errno::RANGE) => grown(list)?,
        Err(e) => return Err(e),
    };
    let mut xattrs = Xattrs::new();
    let mut total = 0;
    for name in names.split(|b| *b == 0).filter(|name| !name.is_empty() && name.len() <= 255) {
        let value = match get(name, &mut small) {
            Ok(len) => small[..len].to_vec(),
            Err(Errno::RANGE) => grown(|buffer| get(name, buffer))?,
            // It went away since it was listed, or may not be read even by root.
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM) => continue,
            Err(e) => return Err(e),
        };
        total += name.len() + value.len();
        if total > XATTRS_MAX {
            return Err(Errno::TOOBIG);
        }
        xattrs.push((name.to_vec(), value));
    }
    xattrs.sort_unstable();
    xattrs.dedup_by(|a, b| a.0 == b.0);
    Ok(xattrs)
}

/// Calls `read` with growing buffers until the value fits.
fn grown(read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 4096];
    loop {
        match read(&mut buffer) {
            Ok(len) => {
                buffer.truncate(len);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 4, 0),
            Err(e) => return Err(e),
        }
    }
}
