//! Volumes: a file of a backup written onto a block device or a disk image that is there.
//!
//! Only what differs is written: what is there is hashed and compared with the ids of the blocks, so
//! that of those that are equal nothing is read from the vault. A restore that is cut short leaves
//! some of both; done again, it goes on from there. What is in use is refused before anything is
//! written.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use rustix::fs::{CWD, FallocateFlags, Mode, OFlags, SeekFrom, fallocate, fsync, ftruncate, openat, seek};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::data::{Layout, is_zero, read_range, write_at};
use super::job::{never, open_root};
use super::{RestoreOutcome, live};
use crate::model::{Error, Id, IoContext, Progress, Result};
use crate::source::Stat;
use crate::source::stat::Type;
use crate::vault::tree::{Entry, Kind, Part};
use crate::vault::{Manifest, Vault};

/// What differs is written in pages of so many bytes.
const PAGE: usize = 4096;
/// What should be zero is looked at in pieces of so many bytes.
const PIECE: u64 = 64 << 10;
/// Blocks that are known at a time.
const WINDOW: usize = 4096;

/// A file of a backup, and what it is to be written onto.
#[derive(Debug, Clone)]
pub struct Onto {
    /// The path in the backup.
    pub path: PathBuf,
    /// The block device or image.
    pub target: PathBuf,
}

/// What is there to be written onto.
#[derive(Debug)]
struct Target {
    file: OwnedFd,
    is_device: bool,
    size: u64,
}

/// Whether a block device or a regular file is at a path; links are followed below `/dev` alone.
pub fn is_there(path: &Path) -> bool {
    let stat = if path.starts_with("/dev") { std::fs::metadata(path) } else { std::fs::symlink_metadata(path) };
    stat.is_ok_and(|m| m.is_file() || std::os::unix::fs::FileTypeExt::is_block_device(&m.file_type()))
}

/// The file at a path of a backup, if one is there.
pub fn find(vault: &Vault, manifest: &Manifest, path: &Path) -> Result<Option<Entry>> {
    let mut entry = vault.root_entry(&manifest.root)?;
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        let Kind::Directory { node, .. } = &entry.kind else { return Ok(None) };
        match vault.entry(node, name.as_bytes())? {
            Some(next) => entry = next,
            None => return Ok(None),
        }
    }
    Ok(matches!(entry.kind, Kind::File { .. }).then_some(entry))
}

/// Says beforehand why a file cannot be written onto something. Nothing is changed.
pub fn check(vault: &Vault, manifest: &Manifest, onto: &Onto, own: &[PathBuf]) -> Result<()> {
    let size = size_of(vault, manifest, onto)?;
    open(onto, size, own).map(drop)
}

fn size_of(vault: &Vault, manifest: &Manifest, onto: &Onto) -> Result<u64> {
    match find(vault, manifest, &onto.path)?.map(|entry| entry.kind) {
        Some(Kind::File { size, .. }) => Ok(size),
        _ => Err(Error::not_found(format!(
            "the backup holds no file {}; browse it to see what it holds",
            onto.path.display()
        ))),
    }
}

fn open(onto: &Onto, size: u64, own: &[PathBuf]) -> Result<Target> {
    let shown = onto.target.display();
    let what = || format!("cannot open {shown}");
    let own = never(own);
    for above in onto.target.ancestors().skip(1) {
        let handle = rustix::fs::open(above, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).at(what)?;
        if own.contains(&live::identity(handle).at(what)?) {
            return Err(Error::invalid(format!("{shown} lies inside Strongroom's own directory; give another")));
        }
    }
    let path = OFlags::PATH | OFlags::CLOEXEC;
    let handle = if onto.target.starts_with("/dev") {
        openat(CWD, &onto.target, path, Mode::empty()).at(what)?
    } else {
        let (Some(above), Some(name)) = (onto.target.parent(), onto.target.file_name()) else {
            return Err(Error::invalid(format!("{shown} is no device and no file")));
        };
        let (dir, _) = open_root(above, false)?;
        let dir = dir.ok_or_else(|| Error::not_found(format!("{} does not exist", above.display())))?;
        openat(dir, name, path | OFlags::NOFOLLOW, Mode::empty()).at(what)?
    };
    let stat = Stat::of(&handle).at(what)?;
    let is_device = stat.kind == Type::BlockDevice;
    if !is_device && stat.kind != Type::File {
        return Err(Error::invalid(format!("{shown} is neither a block device nor a disk image")));
    }
    if !is_device && stat.nlink > 1 {
        return Err(Error::invalid_state(format!(
            "{shown} has {} names, and whoever uses the others would find it changed; restore into a directory",
            stat.nlink
        )));
    }
    if !is_device && let Some(device) = attached(&stat) {
        return Err(Error::invalid_state(format!("{shown} is in use as {device}; detach it first")));
    }
    let exclusive = if is_device { OFlags::EXCL } else { OFlags::empty() };
    let again = format!("/proc/self/fd/{}", handle.as_raw_fd());
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK | exclusive;
    let file = match rustix::fs::open(again.as_str(), flags, Mode::empty()) {
        Err(Errno::BUSY | Errno::TXTBSY) => {
            return Err(Error::invalid_state(format!(
                "{shown} is in use: it, or a part of it, is mounted, swapped to or held by another device; unmount it \
                 first"
            )));
        }
        opened => opened.at(what)?,
    };
    let there = if is_device { seek(&file, SeekFrom::End(0)).at(what)? } else { stat.size };
    if is_device && there < size {
        return Err(Error::new(
            crate::model::ErrorKind::NoSpace,
            format!(
                "{shown} has {there} bytes, and {} has {size}; give a device that is as large",
                onto.path.display()
            ),
        ));
    }
    Ok(Target { file, is_device, size: there })
}

/// The loop device that has an image attached.
fn attached(stat: &Stat) -> Option<String> {
    for entry in std::fs::read_dir("/sys/block").ok()?.flatten() {
        let backing = std::fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        if backing.is_empty() {
            continue;
        }
        let same = Stat::at(CWD, backing.trim_end_matches('\n').as_bytes());
        if same.is_ok_and(|s| (s.dev, s.ino) == (stat.dev, stat.ino)) {
            return Some(format!("/dev/{}", entry.file_name().to_string_lossy()));
        }
    }
    None
}

/// Makes a device or image hold what the backup has; answers how much was written.
pub fn run(
    vault: &Vault,
    manifest: &Manifest,
    onto: &Onto,
    own: &[PathBuf],
    dry_run: bool,
    progress: &Progress,
) -> Result<RestoreOutcome> {
    let entry = find(vault, manifest, &onto.path)?;
    let Some(Entry { kind: Kind::File { size, holes, content }, .. }) = entry else {
        return size_of(vault, manifest, onto).map(|_| RestoreOutcome::default());
    };
    let target = open(onto, size, own)?;
    let layout = Layout::new(vault, size, &holes, &content)?;
    // All lists of blocks must be there before anything is overwritten.
    layout.parts().try_for_each(|part| part.map(drop))?;
    progress.set_current(&onto.target.to_string_lossy());
    progress.expect(1, size);
    let resized = !target.is_device && target.size != size;
    if resized && !dry_run {
        ftruncate(&target.file, size).at(|| format!("cannot set the size of {}", onto.target.display()))?;
    }
    let writing = Writing { vault, target: &target.file, dry_run, progress, written: AtomicU64::new(0) };
    writing.blocks(&layout)?;
    writing.zeros(&holes)?;
    if !dry_run {
        fsync(&target.file).at(|| format!("cannot write {} to disk", onto.target.display()))?;
    }
    progress.add(1, 0);
    let bytes = writing.written.into_inner();
    let changed = u64::from(bytes > 0 || resized);
    Ok(RestoreOutcome { files: changed, unchanged: 1 - changed, bytes, ..RestoreOutcome::default() })
}

struct Writing<'a> {
    vault: &'a Vault,
    target: &'a OwnedFd,
    dry_run: bool,
    progress: &'a Progress,
    written: AtomicU64,
}

impl Writing<'_> {
    fn blocks(&self, layout: &Layout<'_>) -> Result<()> {
        layout.windows(WINDOW).try_for_each(|parts| self.window(layout, &parts?))
    }

    /// Blocks that follow one another, by several threads.
    fn window(&self, layout: &Layout<'_>, parts: &[(u64, Part)]) -> Result<()> {
        let next = AtomicUsize::new(0);
        let work = || {
            let mut there = Vec::new();
            loop {
                let i = next.fetch_add(1, Relaxed);
                let Some((start, part)) = parts.get(i) else { return Ok(()) };
                let places: Vec<(u64, u64)> = layout.places(*start, part.len).collect();
                if let Err(e) = self.block(part, &places, &mut there) {
                    next.store(parts.len(), Relaxed);
                    return Err(e);
                }
            }
        };
        let workers = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 16);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            let results = threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(Error::failed("a thread died"))));
            results.collect::<Vec<_>>().into_iter().collect()
        })
    }

    /// One block: compared by its id, and page by page where it is another.
    fn block(&self, part: &Part, places: &[(u64, u64)], there: &mut Vec<u8>) -> Result<()> {
        self.progress.check()?;
        let read = || "cannot read what is there";
        let (mut buffer, mut hash) = (vec![0; PIECE as usize], Sha256::new());
        there.clear();
        for (offset, len) in places {
            let had = there.len();
            let whole = read_range(self.target, *offset, *len, &mut buffer, |bytes| {
                there.extend_from_slice(bytes);
                true
            });
            whole.at(read)?;
            // What is not there is zero once the file is long enough.
            there.resize(had + usize::try_from(*len).unwrap_or(0), 0);
        }
        hash.update(&*there);
        if Id(hash.finalize().into()) != part.id {
            let blob = self.vault.read_blob(&part.id)?;
            if blob.len() as u64 != part.len {
                return Err(Error::damaged(format!("the blob {} is not as long as the file says", part.id)));
            }
            let (mut old, mut new): (&[u8], &[u8]) = (there, &blob);
            for (offset, len) in places {
                let len = usize::try_from(*len).unwrap_or(0).min(new.len());
                let ((was, old_rest), (is, new_rest)) = (old.split_at(len.min(old.len())), new.split_at(len));
                self.differing(*offset, was, is)?;
                (old, new) = (old_rest, new_rest);
            }
        }
        self.progress.add(0, part.len);
        Ok(())
    }

    fn differing(&self, offset: u64, was: &[u8], is: &[u8]) -> Result<()> {
        let mut from: Option<usize> = None;
        let pages = is.len().div_ceil(PAGE);
        for page in 0..=pages {
            let start = (page * PAGE).min(is.len());
            let end = (start + PAGE).min(is.len());
            let differs = page < pages && was.get(start..end) != is.get(start..end);
            match (differs, from) {
                (true, None) => from = Some(start),
                (false, Some(first)) => {
                    let bytes = is.get(first..start).unwrap_or_default();
                    if !self.dry_run {
                        write_at(self.target, bytes, offset + first as u64).at(|| "cannot write")?;
                    }
                    self.written.fetch_add(bytes.len() as u64, Relaxed);
                    from = None;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What the backup has as holes is made zero where it is not.
    fn zeros(&self, holes: &[(u64, u64)]) -> Result<()> {
        let mut buffer = vec![0; PIECE as usize];
        let zeros = vec![0; PIECE as usize];
        for (offset, len) in holes {
            let (mut at, end) = (*offset, offset + len);
            while at < end {
                self.progress.check()?;
                at = match seek(self.target, SeekFrom::Data(at)) {
                    Ok(data) => data.max(at),
                    Err(Errno::NXIO) => break,
                    // It cannot tell.
                    Err(_) => at,
                };
                if at >= end {
                    break;
                }
                let next = (at / PIECE * PIECE + PIECE).min(end);
                if !is_zero(self.target, at, next, &mut buffer).at(|| "cannot read what is there")? {
                    if !self.dry_run {
                        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                        if fallocate(self.target, flags, at, next - at).is_err() {
                            let some = zeros.get(..usize::try_from(next - at).unwrap_or(0)).unwrap_or_default();
                            write_at(self.target, some, at).at(|| "cannot write")?;
                        }
                    }
                    self.written.fetch_add(next - at, Relaxed);
                }
                at = next;
            }
            self.progress.add(0, *len);
        }
        Ok(())
    }
}
