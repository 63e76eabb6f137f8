//! Block devices and disk images, read as one file: what is zero is left out.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, Mode, OFlags, SeekFrom, fadvise, openat, seek};
use rustix::io::Errno;

use super::Stat;
use super::stat::Type;
use crate::store::direct::{ALIGN, Direct, first_aligned};

/// What is wholly zero is noticed in units of so many bytes.
pub const UNIT: u64 = 64 << 10;
/// No more stretches than this are left out.
const HOLES_MAX: u64 = 1 << 16;
/// Bytes read at a time.
const READ: usize = 4 << 20;

/// What was left out of a volume as (offset, length), and where it ended.
pub type Ends = (Vec<(u64, u64)>, u64);

/// Opens the device or image `name` in `dir` for reading, and tells its length. A symbolic link is
/// followed only with `link`, and only to a block device.
pub fn open(dir: impl AsFd, name: &[u8], link: bool) -> Result<(File, Stat, u64)> {
    let none = Mode::empty();
    let follow = if link { OFlags::empty() } else { OFlags::NOFOLLOW };
    let handle = openat(dir, name, OFlags::PATH | OFlags::CLOEXEC | follow, none)?;
    let stat = Stat::of(&handle)?;
    let fits = stat.kind == Type::BlockDevice || (stat.kind == Type::File && !link);
    if !fits {
        return Err(Error::other("it is neither a block device nor a disk image"));
    }
    let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
    let file = rustix::fs::open(path.as_str(), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, none)?;
    let file = File::from(file);
    let size = if stat.kind == Type::File { stat.size } else { seek(&file, SeekFrom::End(0))? };
    Ok((file, stat, size))
}

/// Where a block device is mounted so that it can be written to, if it is.
pub fn mounted(path: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let device = std::fs::metadata(path).ok().filter(|m| m.file_type().is_block_device())?.rdev();
    let device = (nix::libc::major(device), nix::libc::minor(device));
    let writable = |point: &Path| {
        let vfs = rustix::fs::statvfs(point);
        vfs.is_ok_and(|vfs| !vfs.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
    };
    let mounts = super::mounts::all().ok()?.into_iter();
    mounts.filter(|m| m.device == device).map(|m| m.point).find(|point| writable(point))
}

/// The shortest stretch of zeros that is left out of a volume of that length; so there are never
/// too many.
fn shortest(size: u64) -> u64 {
    size.div_ceil(HOLES_MAX).next_multiple_of(UNIT).max(UNIT)
}

/// Where there is something from `at` on, and where that ends; `None` where nothing follows.
fn extent(file: &File, at: u64, size: u64) -> Result<Option<(u64, u64)>> {
    let data = match seek(file, SeekFrom::Data(at)) {
        Ok(data) => data,
        Err(Errno::NXIO) => return Ok(None),
        // Devices and some file systems cannot tell.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((at, size))),
        Err(e) => return Err(e.into()),
    };
    let end = seek(file, SeekFrom::Hole(data)).unwrap_or(size);
    let start = (data / UNIT * UNIT).max(at);
    let end = end.next_multiple_of(UNIT).min(size);
    Ok((start < end).then_some((start, end)))
}

/// Whether all of it is zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    let mut chunks = bytes.chunks_exact(64);
    chunks.all(|chunk| chunk.iter().fold(0, |sum, b| sum | b) == 0) && chunks.remainder().iter().all(|b| *b == 0)
}

/// Reads a volume, and hands out what is in it in order, in units: (offset, bytes). Answers what was
/// left out, and where it ended, should that be before its length.
pub fn read(
    file: &File,
    size: u64,
    mut each: impl FnMut(u64, &[u8]) -> crate::model::Result<()>,
) -> crate::model::Result<Result<Ends>> {
    let shortest = shortest(size);
    let zeros = vec![0u8; usize::try_from(UNIT).unwrap_or(0)];
    let mut buffer = vec![0u8; READ + ALIGN];
    let first = first_aligned(&buffer);
    let mut direct = Direct::new(file, size);
    let (mut holes, mut at, mut zero_from): (Vec<(u64, u64)>, u64, Option<u64>) = (Vec::new(), 0, None);
    // Ends a stretch of zeros at `end`: it is left out, or handed out as what it is.
    let mut end_zeros = |from: Option<u64>, end: u64, each: &mut dyn FnMut(u64, &[u8]) -> crate::model::Result<()>| {
        let Some(mut from) = from else { return Ok(()) };
        if end - from >= shortest {
            holes.push((from, end - from));
            return Ok(());
        }
        while from < end {
            let len = UNIT.min(end - from);
            each(from, zeros.get(..usize::try_from(len).unwrap_or(0)).unwrap_or_default())?;
            from += len;
        }
        Ok(())
    };
    'all: while at < size {
        let (start, end) = match extent(file, at, size) {
            Ok(Some(extent)) => extent,
            Ok(None) => (size, size),
            Err(e) => return Ok(Err(e)),
        };
        if start > at {
            zero_from = zero_from.or(Some(at));
        }
        at = start;
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(READ).min(READ);
            let window = buffer.get_mut(first..first + READ).unwrap_or_default();
            let have = match fill(&mut direct, window, want, at) {
                Ok(have) => have,
                Err(e) => return Ok(Err(e)),
            };
            for unit in window.get(..have).unwrap_or_default().chunks(zeros.len()) {
                if is_zero(unit) {
                    zero_from = zero_from.or(Some(at));
                } else {
                    end_zeros(zero_from.take(), at, &mut each)?;
                    each(at, unit)?;
                }
                at += unit.len() as u64;
            }
            if direct.fills_cache() {
                // What was read need not be kept for us.
                let _ = fadvise(file, at - have as u64, std::num::NonZeroU64::new(have as u64), Advice::DontNeed);
            }
            if have < want {
                break 'all;
            }
        }
    }
    let end = at.min(size);
    end_zeros(zero_from.take(), end, &mut each)?;
    Ok(Ok((holes, end)))
}

/// Fills `len` bytes of a buffer as far as there is something.
fn fill(file: &mut Direct<'_>, buffer: &mut [u8], len: usize, at: u64) -> Result<usize> {
    let mut have = 0;
    while have < len {
        match file.read_at(buffer.get_mut(have..).unwrap_or_default(), len - have, at + have as u64) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(have)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[allow(clippy::type_complexity)]
    fn read_all(content: &[u8]) -> (Vec<(u64, u64)>, u64, Vec<(u64, Vec<u8>)>) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        let mut found = Vec::new();
        let size = content.len() as u64;
        let (holes, end) = read(&file, size, |at, bytes| {
            found.push((at, bytes.to_vec()));
            Ok(())
        })
        .unwrap()
        .unwrap();
        (holes, end, found)
    }

    #[test]
    fn zeros_are_left_out_and_the_rest_is_whole() {
        let unit = usize::try_from(UNIT).unwrap();
        let mut content = vec![0u8; 10 * unit + 100];
        content[3 * unit + 5] = 1;
        content[9 * unit] = 2;
        content[10 * unit + 99] = 3;
        let (holes, end, found) = read_all(&content);
        assert_eq!(end, content.len() as u64);
        assert_eq!(holes, [(0, 3 * UNIT), (4 * UNIT, 5 * UNIT)]);
        let mut again = vec![0u8; content.len()];
        for (at, bytes) in found {
            let at = usize::try_from(at).unwrap();
            again[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        assert!(again == content);
        let (holes, end, found) = read_all(&vec![0u8; 2 * unit + 7]);
        assert_eq!((holes, end, found.len()), (vec![(0, 2 * UNIT + 7)], 2 * UNIT + 7, 0));
        assert_eq!(read_all(&[]), (Vec::new(), 0, Vec::new()));
    }

    #[test]
    fn there_are_never_too_many_holes() {
        assert_eq!(shortest(0), UNIT);
        assert_eq!(shortest(1 << 32), UNIT);
        for size in [1u64 << 33, 1 << 40, (1 << 44) + 1] {
            assert!(size / shortest(size) <= HOLES_MAX);
        }
    }
}
