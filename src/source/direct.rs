//! Large files, read past the page cache (`O_DIRECT` of open(2)).
//!
//! On the way through the page cache every byte is copied once more, into memory that must be found for it, which took
//! a quarter of a backup of an image; and what the machine's servers had there is pushed out. What is there already
//! is read from there all the same.

use std::fs::File;
use std::io::{ErrorKind, Result};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;

use nix::libc;
use rustix::fs::{Mode, OFlags};

/// Offsets, lengths and memory are multiples of this: no file system and no disk in use asks for more.
pub const ALIGN: usize = 4096;

/// Smaller files are not worth another handle.
const WORTH: u64 = 16 << 20;

/// A file that is read past the page cache where that is worth it and possible.
#[derive(Debug)]
pub struct Direct<'a> {
    file: &'a File,
    past: Option<File>,
}

impl<'a> Direct<'a> {
    /// The file, of about this size.
    pub fn new(file: &'a File, size: u64) -> Self {
        let past = if size >= WORTH && !is_cached(file, size) { reopen(file) } else { None };
        Self { file, past }
    }

    /// The same through the page cache.
    pub fn never(file: &'a File) -> Self {
        Self { file, past: None }
    }

    /// Reads up to `len` bytes from `at` into the beginning of `buffer`; says how many. Fast where both `at` and
    /// the buffer's address are multiples of [`ALIGN`].
    pub fn read_at(&mut self, buffer: &mut [u8], len: usize, at: u64) -> Result<usize> {
        let len = len.min(buffer.len());
        let aligned = buffer.as_ptr().addr().is_multiple_of(ALIGN) && at.is_multiple_of(ALIGN as u64);
        if let (Some(past), true) = (&self.past, aligned) {
            // More than was asked for, where there is room, so that the end of the file needs no second read.
            let whole = len.next_multiple_of(ALIGN).min(buffer.len() / ALIGN * ALIGN);
            match past.read_at(buffer.get_mut(..whole).unwrap_or_default(), at) {
                Ok(n) if whole > 0 => return Ok(n.min(len)),
                Err(e) if e.kind() == ErrorKind::Interrupted => return Err(e),
                // Not every file system can, and what cannot be read fails below as well.
                Err(_) => self.past = None,
                Ok(_) => {}
            }
        }
        self.file.read_at(buffer.get_mut(..len).unwrap_or_default(), at)
    }
}

/// Where a buffer's memory is a multiple of [`ALIGN`] first.
pub fn first_aligned(buffer: &[u8]) -> usize {
    buffer.as_ptr().addr().next_multiple_of(ALIGN) - buffer.as_ptr().addr()
}

fn reopen(file: &File) -> Option<File> {
    let flags = rustix::fs::fcntl_getfl(file).ok()? & (OFlags::NOATIME | OFlags::NONBLOCK);
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = flags | OFlags::RDONLY | OFlags::DIRECT | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(path.as_str(), flags, Mode::empty()).ok().map(File::from)
}

/// Whether much of a file is in memory already. Where the kernel does not say (before Linux 6.5), it is taken not to be.
fn is_cached(file: impl AsFd, size: u64) -> bool {
    #[repr(C)]
    struct Range {
        offset: u64,
        len: u64,
    }
    #[repr(C)]
    #[derive(Default)]
    struct Pages {
        cached: u64,
        dirty: u64,
        writeback: u64,
        evicted: u64,
        recently_evicted: u64,
    }
    /// The number of cachestat(2), the same on every architecture we build for.
    const CACHESTAT: libc::c_long = 451;
    let (range, mut pages) = (Range { offset: 0, len: size }, Pages::default());
    #[allow(unsafe_code)]
    // SAFETY: both structures are laid out as the kernel's and outlive the call, which reads one and writes the other. No
    // crate in use offers it.
    let done = unsafe { libc::syscall(CACHESTAT, file.as_fd().as_raw_fd(), &raw const range, &raw mut pages, 0) };
    done == 0 && pages.cached.saturating_mul(4096) > size / 4
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A file of noise on a disk, not in memory.
    fn noise(len: usize) -> (tempfile::NamedTempFile, Vec<u8>) {
        let bytes: Vec<u8> = (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let mut file = tempfile::Builder::new().tempfile_in("/var/tmp").unwrap();
        file.write_all(&bytes).unwrap();
        file.as_file().sync_all().unwrap();
        rustix::fs::fadvise(file.as_file(), 0, None, rustix::fs::Advice::DontNeed).unwrap();
        (file, bytes)
    }

    #[test]
    fn whatever_is_asked_for_is_what_the_file_holds() {
        let len = (17 << 20) + 1234;
        let (file, bytes) = noise(len);
        let size = len as u64;
        assert!(!is_cached(file.as_file(), size));
        let mut direct = Direct::new(file.as_file(), size);
        let mut buffer = vec![0; (2 << 20) + 2 * ALIGN];
        let base = first_aligned(&buffer);
        for (at, want, shift) in [
            (0, 2 << 20, 0),
            (4096, 100, 0),
            (4097, 100, 0),
            (8192, 10_000, 1),
            (len - 1234, 5000, 0),
            (len - 1234 - 4096, 4096, 0),
            (len, 10, 0),
            (len / 4096 * 4096 + 8192, 10, 0),
        ] {
            let room = &mut buffer[base + shift..];
            let n = direct.read_at(room, want, at as u64).unwrap();
            assert_eq!(n, want.min(len.saturating_sub(at)), "{at} {want}");
            assert!(room[..n] == bytes[at.min(len)..(at + n).min(len)], "{at} {want}");
        }
        assert!(!is_cached(file.as_file(), size), "it went through the page cache");
        assert_eq!(std::fs::read(file.path()).unwrap().len(), len);
        assert!(Direct::new(file.as_file(), size).past.is_none(), "it is in memory");
        assert!(Direct::new(file.as_file(), 100).past.is_none(), "it is small");
    }
}
