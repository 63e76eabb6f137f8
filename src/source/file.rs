//! Regular files, read around their holes.

use std::fs::File;
use std::io::{Error, Read, Result};
use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::Stat;
use super::stat::Type;
use crate::store::direct::Direct;

/// More holes than this are read as data, which compresses to nothing.
const HOLES_MAX: usize = 1 << 16;

/// Opens `name` in `dir` for reading after it was seen to be a regular file: opening a device or
/// a pipe can do things, so the type is checked on a handle that opens nothing.
pub fn open(dir: impl AsFd, name: &[u8]) -> Result<(File, Stat)> {
    let none = Mode::empty();
    let handle = openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, none)?;
    let stat = Stat::of(&handle)?;
    if stat.kind != Type::File {
        return Err(Error::other("it is no longer a regular file"));
    }
    let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path.as_str(), flags | OFlags::NOATIME, none) {
        Err(Errno::PERM) => rustix::fs::open(path.as_str(), flags, none)?,
        other => other?,
    };
    Ok((File::from(file), stat))
}

/// Holes of a file that has fewer blocks than its size needs.
pub fn holes(file: &File, stat: &Stat) -> Result<Vec<(u64, u64)>> {
    if stat.blocks.saturating_mul(512) >= stat.size {
        return Ok(Vec::new());
    }
    let mut holes: Vec<(u64, u64)> = Vec::new();
    let mut at = 0;
    while at < stat.size && holes.len() < HOLES_MAX {
        let data = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) => data.min(stat.size),
            // No data from here on.
            Err(Errno::NXIO) => stat.size,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(e) => return Err(e.into()),
        };
        if data > at {
            holes.push((at, data - at));
        }
        if data >= stat.size {
            break;
        }
        at = rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(data)).map_err(Error::from)?.max(data + 1);
    }
    Ok(holes)
}

/// Reads the bytes outside the holes, joined; ends early where the file does.
#[derive(Debug)]
pub struct DataReader<'a> {
    file: Direct<'a>,
    holes: std::slice::Iter<'a, (u64, u64)>,
    next_hole: Option<&'a (u64, u64)>,
    at: u64,
    size: u64,
}

impl<'a> DataReader<'a> {
    /// A reader from the start of a file of this size.
    pub fn new(file: &'a File, holes: &'a [(u64, u64)], size: u64) -> Self {
        Self::of(Direct::never(file), holes, size)
    }

    /// The same, past the page cache where the file is large: see [`Direct`].
    pub fn direct(file: &'a File, holes: &'a [(u64, u64)], size: u64) -> Self {
        Self::of(Direct::new(file, size), holes, size)
    }

    fn of(file: Direct<'a>, holes: &'a [(u64, u64)], size: u64) -> Self {
        let mut holes = holes.iter();
        let next_hole = holes.next();
        Self { file, holes, next_hole, at: 0, size }
    }
}

impl Read for DataReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        while let Some((offset, len)) = self.next_hole.filter(|(offset, _)| *offset == self.at) {
            self.at = offset + len;
            self.next_hole = self.holes.next();
        }
        let end = self.next_hole.map_or(self.size, |(offset, _)| *offset);
        let room = usize::try_from(end - self.at).unwrap_or(usize::MAX);
        let n = self.file.read_at(buffer, room, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}
