//! Large files, read and written past the page cache (`O_DIRECT` of open(2)).
//!
//! On the way through the page cache every byte is copied once more, into memory that must be found for it, which took
//! a quarter of a backup of an image; and what the machine's servers had there is pushed out. What is mostly there already
//! is read from there all the same, where the kernel says so. Only on file systems of disks: others wait for a server with
//! each read or write.

use std::fs::File;
use std::io::{ErrorKind, Result};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;

use nix::libc;
use rustix::fs::{FileType, Mode, OFlags};

/// Offsets, lengths and memory are multiples of this: no file system and no disk in use asks for more.
pub const ALIGN: usize = 4096;

/// Smaller files are not worth reading so: nothing is read ahead.
const WORTH: u64 = 16 << 20;

/// Less is not worth writing so.
const WORTH_WRITING: usize = 1 << 20;

/// So much is written at a time.
const PIECE: usize = 1 << 20;

/// The magic numbers of the file systems of disks (statfs(2)): ext4 and its ancestors, XFS, btrfs, F2FS, bcachefs.
const DISKS: [i64; 5] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0xca45_1a4e];

/// A file that is read past the page cache where that is worth it and possible.
#[derive(Debug)]
pub struct Direct<'a> {
    file: &'a File,
    past: Option<File>,
    cached: bool,
}

impl<'a> Direct<'a> {
    /// The file, of about this size.
    pub fn new(file: &'a File, size: u64) -> Self {
        let cached = is_cached(file, size);
        let past = if size >= WORTH && !cached { reopen(file, OFlags::RDONLY) } else { None };
        Self { file, past, cached }
    }

    /// The same through the page cache.
    pub fn never(file: &'a File) -> Self {
        Self { file, past: None, cached: false }
    }

    /// Whether what is read comes into the page cache only now.
    pub fn fills_cache(&self) -> bool {
        self.past.is_none() && !self.cached
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

/// Writes all of an empty file. What is written is not yet durable.
pub fn write(file: &File, data: &[u8]) -> Result<()> {
    let done = match data.len() {
        len if len < WORTH_WRITING => 0,
        _ => reopen(file, OFlags::WRONLY).map_or(Ok(0), |past| write_past(&past, data))?,
    };
    // The end is no whole number of blocks.
    file.write_all_at(data.get(done..).unwrap_or_default(), done as u64)
}

/// Writes as much as can be written so; says how much that was.
fn write_past(past: &File, data: &[u8]) -> Result<usize> {
    let mut buffer = vec![0; PIECE + ALIGN];
    let first = first_aligned(&buffer);
    let mut done = 0;
    while let Some(piece) = data.get(done..(done + PIECE).min(data.len() / ALIGN * ALIGN)).filter(|p| !p.is_empty()) {
        let aligned = buffer.get_mut(first..first + piece.len()).unwrap_or_default();
        aligned.copy_from_slice(piece);
        match past.write_at(aligned, done as u64) {
            // What is left of it goes through the page cache, and tells what is wrong.
            Ok(n) if n < piece.len() => return Ok(done + n),
            Ok(n) => done += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::InvalidInput => return Ok(done),
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

fn reopen(file: &File, access: OFlags) -> Option<File> {
    let kind = rustix::fs::fstatfs(file).ok()?.f_type;
    let is_device =
        rustix::fs::fstat(file).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice);
    if !is_device && !DISKS.contains(&kind) {
        return None;
    }
    let flags = rustix::fs::fcntl_getfl(file).ok()? & (OFlags::NOATIME | OFlags::NONBLOCK);
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = flags | access | OFlags::DIRECT | OFlags::NOCTTY | OFlags::CLOEXEC;
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

    /// Whether the machine can show anything here: says so where it cannot.
    fn is_shown(file: &File) -> bool {
        let bytes = [1; 4096];
        file.write_all_at(&bytes, 0).unwrap();
        let shown = reopen(file, OFlags::RDONLY).is_some() && is_cached(file, 4096);
        if !shown {
            eprintln!("skipped: /var/tmp is on no file system of a disk, or the kernel does not say what is in memory");
        }
        shown
    }

    #[test]
    fn what_is_written_is_what_was_given_and_passes_by_the_cache() {
        let small = tempfile::tempfile().unwrap();
        write(&small, b"few").unwrap();
        let shown = is_shown(tempfile::tempfile_in("/var/tmp").as_ref().unwrap());
        for len in [WORTH_WRITING, WORTH_WRITING + 1, 3 * PIECE + 4095, 17 * PIECE - 4096, 16 * PIECE + 4097] {
            let (file, bytes) = noise(len);
            file.as_file().set_len(0).unwrap();
            write(&file.reopen().unwrap(), &bytes).unwrap();
            let cached = is_cached(file.as_file(), len as u64);
            assert!(!cached || !shown, "it went through the page cache");
            assert!(std::fs::read(file.path()).unwrap() == bytes, "{len}");
        }
    }

    #[test]
    fn whatever_is_asked_for_is_what_the_file_holds() {
        let len = (17 << 20) + 1234;
        let (file, bytes) = noise(len);
        let size = len as u64;
        let shown = is_shown(tempfile::tempfile_in("/var/tmp").as_ref().unwrap());
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
        assert!(!shown || !is_cached(file.as_file(), size), "it went through the page cache");
        assert_eq!(std::fs::read(file.path()).unwrap().len(), len);
        assert!(!shown || Direct::new(file.as_file(), size).past.is_none(), "it is in memory");
        assert!(Direct::new(file.as_file(), 100).past.is_none(), "it is small");
    }
}
