//! The way back: a plain copy into the places that it was taken from.
//!
//! Every checksum is verified before a file has its name; what stands in the way is replaced at
//! once and whole, when all that replaces it is on disk. Directories that stand in the way of
//! files stay unless they are empty: a copy does not say what else they may hold.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::line::Line;
use super::manifest::ResourceRecord;
use super::put::Put;
use super::source::Source;
use super::{Errors, work};
use crate::archive::PathError;
use crate::model::{Error, Progress, Result};
use crate::restore::OnError;

/// Lines that are worked on together.
const CHUNK: usize = 512;
/// Bytes of files that are, a larger one aside.
const CHUNK_BYTES: u64 = 64 << 20;

/// What to bring back, and how.
#[derive(Debug, Clone)]
pub struct Request {
    /// For each resource of the copy: the paths beneath which it is brought back; none: it is not.
    pub allowed: Vec<Option<Vec<PathBuf>>>,
    /// Whether what stands in the way is left alone.
    pub skip: bool,
    /// Whether the first error ends it.
    pub on_error: OnError,
    /// Whether it must fit before it begins.
    pub space_check: bool,
    /// Directories that are never touched.
    pub never: Vec<PathBuf>,
    /// Where the journal is kept.
    pub journal: PathBuf,
}

/// What was brought back.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Entries written.
    pub entries: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Entries that were already so.
    pub unchanged: u64,
    /// Entries left alone because something stood in the way.
    pub skipped: u64,
    /// What could not be brought back, or not exactly.
    pub errors: u64,
    /// The first of them.
    pub error_list: Vec<PathError>,
}

/// What is known of a copy before anything is done.
#[derive(Debug, Default)]
struct Survey {
    entries: u64,
    bytes: u64,
    /// First names of inodes with several.
    firsts: HashSet<(usize, Vec<u8>)>,
}

/// How a path relates to those that are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It is one of them, or beneath one.
    Within,
    /// It leads to one.
    Above,
    /// Neither.
    Outside,
}

/// How a path relates to those that are allowed.
pub fn reach(path: &[u8], allowed: &[PathBuf]) -> Reach {
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    if allowed.iter().any(|a| path.starts_with(a)) {
        Reach::Within
    } else if allowed.iter().any(|a| a.starts_with(path)) {
        Reach::Above
    } else {
        Reach::Outside
    }
}

/// Brings a copy back. Cancelled or failed, it leaves whole files only, old or new.
pub fn run(source: &mut Source, request: &Request, progress: &Progress) -> Result<Outcome> {
    let survey = survey(source, request)?;
    progress.expect(survey.entries, survey.bytes);
    let folders: Vec<Vec<u8>> = source.manifest.resources.iter().map(ResourceRecord::folder).collect();
    let mut put = Put::new(request, survey.firsts, progress)?;
    let mut lines = source.lines()?;
    let result = loop {
        let chunk = match next_chunk(&mut lines, request) {
            Ok(chunk) if chunk.is_empty() => break put.close(),
            Ok(chunk) => chunk,
            Err(e) => break Err(e),
        };
        if let Err(e) = work_on(source, &mut put, &folders, &chunk, progress) {
            break Err(e);
        }
    };
    if result.is_err() {
        put.abandon();
    }
    put.end_journal()?;
    result?;
    let Errors { count, list, .. } = put.errors;
    Ok(Outcome { errors: count, error_list: list, ..put.outcome })
}

fn work_on(
    source: &mut Source,
    put: &mut Put<'_>,
    folders: &[Vec<u8>],
    chunk: &[Line],
    progress: &Progress,
) -> Result<()> {
    let above = |line: &Line| {
        let at = line.path.iter().rposition(|b| *b == b'/').unwrap_or(0);
        line.path.get(..at.max(1)).unwrap_or_default().to_vec()
    };
    let dirs: BTreeSet<Vec<u8>> = chunk.iter().filter(|line| !line.is_dir()).map(above).collect();
    put.announce(&dirs)?;
    for line in chunk {
        progress.check()?;
        progress.set_current(&String::from_utf8_lossy(&line.path));
        let folder = folders.get(line.resource).map(Vec::as_slice).unwrap_or_default();
        if let Err(e) = put.line(line, &[folder, &line.path].concat(), source) {
            put.errors.take(&line.path, e)?;
        }
        progress.add(1, 0);
    }
    put.flush()
}

fn next_chunk(lines: &mut super::source::Lines, request: &Request) -> Result<Vec<Line>> {
    let (mut chunk, mut bytes) = (Vec::new(), 0_u64);
    while chunk.len() < CHUNK && bytes < CHUNK_BYTES {
        let Some(line) = lines.read()? else { break };
        if request.allowed.get(line.resource).is_some_and(Option::is_some) {
            bytes = bytes.saturating_add(line.size());
            chunk.push(line);
        }
    }
    Ok(chunk)
}

/// Looks at every line before anything is done, and at the room for what is to come.
fn survey(source: &Source, request: &Request) -> Result<Survey> {
    let mut survey = Survey::default();
    // Per file system: what is needed, what is free.
    let mut systems: HashMap<u64, (u64, u64)> = HashMap::new();
    let mut places: HashMap<&Path, u64> = HashMap::new();
    let mut largest = 0;
    let mut lines = source.lines()?;
    while let Some(line) = lines.read()? {
        let Some(Some(allowed)) = request.allowed.get(line.resource) else { continue };
        survey.entries += 1;
        if let Some(first) = line.first {
            survey.firsts.insert((line.resource, first));
            continue;
        }
        let size = line.size();
        survey.bytes = survey.bytes.saturating_add(size);
        let path = Path::new(std::ffi::OsStr::from_bytes(&line.path));
        let Some(place) = allowed.iter().find(|a| path.starts_with(a)).filter(|_| request.space_check) else {
            continue;
        };
        let device = match places.get(place.as_path()) {
            Some(device) => *device,
            None => {
                let (device, free) = system_of(place)?;
                systems.entry(device).or_insert((0, free));
                places.insert(place, device);
                device
            }
        };
        let have = std::fs::symlink_metadata(path).ok().filter(|m| m.is_file()).map_or(0, |m| m.len());
        if have != size {
            largest = largest.max(size);
        }
        if let Some((needed, _)) = systems.get_mut(&device) {
            *needed = needed.saturating_add(size.saturating_sub(have));
        }
    }
    for (needed, free) in systems.into_values() {
        // The old one stays until the new one is whole.
        let needed = if needed == 0 { 0 } else { needed.max(largest) };
        if needed > free {
            return Err(Error::no_space(format!(
                "{needed} bytes are to be restored to where there is room for {free}; make room, or give space_cap_check false"
            )));
        }
    }
    Ok(survey)
}

/// The file system that a path is or will be on, and the room there.
fn system_of(path: &Path) -> Result<(u64, u64)> {
    let device = path.ancestors().find_map(|at| std::fs::metadata(at).ok()).map_or(0, |m| m.dev());
    Ok((device, work::room(path)?))
}
