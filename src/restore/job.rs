//! What all threads of one restore share.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::dir::{Dir, Handles};
use super::live::{self, Identity};
use super::select::Selection;
use super::tally::Tally;
use super::{Conflict, RestoreRequest};
use crate::archive::read_errors;
use crate::model::{Error, IoContext, Progress, Result, id::hex};
use crate::source::Excludes;
use crate::vault::{Manifest, Vault};

/// Temporary names begin with this.
pub const TEMPORARY: &str = ".strongroom-";

/// One restore at work.
pub struct Job<'a> {
    /// Where data comes from.
    pub vault: &'a Vault,
    /// What was backed up.
    pub manifest: &'a Manifest,
    /// What was asked for.
    pub request: &'a RestoreRequest,
    /// Who watches.
    pub progress: &'a Progress,
    /// Open directories.
    pub handles: Handles,
    /// What was counted.
    pub tally: Tally,
    /// What the resource leaves out.
    pub excludes: Excludes,
    /// Strongroom's own directories.
    pub never: HashSet<Identity>,
    /// Files that somebody else brings back.
    pub leave: HashSet<Vec<u8>>,
    /// Whether something is left under a temporary name.
    pub left: AtomicBool,
    /// Begins the temporary names of this restore alone.
    pub prefix: String,
    /// Threads.
    pub workers: usize,
    /// Where each group of hard links has its file, where that is not its first name.
    pub leaders: Mutex<HashMap<Vec<u8>, Vec<u8>>>,
    /// First names of hard links that were not restored.
    pub absent: Mutex<HashSet<Vec<u8>>>,
    /// What is meant, of the whole backup.
    pub selection: Selection,
    /// The root of what is written.
    pub root: Arc<Dir>,
    /// Paths that the backup could not read.
    pub unread: HashSet<Vec<u8>>,
    /// A directory on each file system that is written to.
    systems: Mutex<HashMap<(u32, u32), Arc<Dir>>>,
    counter: AtomicU64,
}

impl<'a> Job<'a> {
    /// Prepares a restore.
    pub fn new(
        vault: &'a Vault,
        manifest: &'a Manifest,
        request: &'a RestoreRequest,
        progress: &'a Progress,
        root: Arc<Dir>,
    ) -> Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|e| Error::failed(format!("no random numbers: {e}")))?;
        Ok(Self {
            vault,
            manifest,
            request,
            progress,
            handles: Handles::default(),
            tally: Tally::new(request.on_error),
            excludes: Excludes::new(&manifest.resource.exclude)?,
            never: never(&request.never),
            leave: request.leave.iter().map(|path| path.as_os_str().as_bytes().to_vec()).collect(),
            left: AtomicBool::new(false),
            prefix: format!("{TEMPORARY}{}-", hex(&random)),
            workers: workers(vault),
            leaders: Mutex::default(),
            absent: Mutex::default(),
            selection: Selection::new(&request.paths)?,
            root,
            unread: match &manifest.error_list {
                Some(list) if request.delete => read_errors(vault, list)?.into_iter().map(|e| e.path).collect(),
                _ => HashSet::new(),
            },
            systems: Mutex::default(),
            counter: AtomicU64::new(0),
        })
    }

    /// A temporary name that nothing has.
    pub fn temporary(&self) -> Vec<u8> {
        format!("{}{}", self.prefix, self.counter.fetch_add(1, Relaxed)).into_bytes()
    }

    /// Whether what exists is left alone.
    pub fn skips(&self) -> bool {
        self.request.conflict == Conflict::Skip
    }

    /// Makes everything that was written survive a crash of the system.
    pub fn settle(&self) -> Result<()> {
        if self.request.dry_run {
            return Ok(());
        }
        let systems = std::mem::take(&mut *self.systems.lock().unwrap_or_else(PoisonError::into_inner));
        systems
            .values()
            .try_for_each(|dir| rustix::fs::syncfs(self.handle(dir)?).at(|| "cannot write the restored files to disk"))
    }

    /// Remembers which file system a directory is on.
    pub fn touches(&self, dir: &Arc<Dir>) {
        let above = dir.parent().and_then(|above| above.identity());
        if let Some((device, _)) = dir.identity()
            && above.is_none_or(|(d, _)| d != device)
        {
            let mut systems = self.systems.lock().unwrap_or_else(PoisonError::into_inner);
            systems.entry(device).or_insert_with(|| dir.clone());
        }
    }

    /// The handle of a directory.
    pub fn handle(&self, dir: &Arc<Dir>) -> Result<Arc<OwnedFd>> {
        dir.handle(&self.handles)
    }
}

/// The inodes of directories that must not be touched; those that do not exist need no care.
pub fn never(paths: &[std::path::PathBuf]) -> HashSet<Identity> {
    let identity = |path: &std::path::PathBuf| {
        let file =
            rustix::fs::open(path, rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty());
        file.and_then(live::identity).ok()
    };
    paths.iter().filter_map(identity).collect()
}

/// A name that is removed again unless it is kept.
pub struct Temporary<'a> {
    dir: &'a OwnedFd,
    name: Vec<u8>,
    kept: bool,
}

impl<'a> Temporary<'a> {
    /// Takes charge of `name` in `dir`.
    pub fn new(dir: &'a OwnedFd, name: Vec<u8>) -> Self {
        Self { dir, name, kept: false }
    }

    /// The name.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Leaves it to the caller.
    pub fn keep(mut self) -> Vec<u8> {
        self.kept = true;
        std::mem::take(&mut self.name)
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.kept {
            // Nothing better can be done; the journal names the directory.
            let _ = live::remove(self.dir.as_fd(), &self.name, false);
        }
    }
}

/// Opens the directory at an absolute path, one name at a time, refusing symbolic links; with
/// `make`, what is missing is made, for its owner alone. `None` where it is missing; whether the
/// last was made.
pub fn open_root(path: &Path, make: bool) -> Result<(Option<OwnedFd>, bool)> {
    use rustix::fs::{CWD, Mode, mkdirat};
    use rustix::io::Errno;
    let mut dir = super::dir::open_dir(CWD, b"/").at(|| "cannot open /")?;
    let (mut made, mut seen) = (false, std::path::PathBuf::from("/"));
    for part in path.components() {
        let std::path::Component::Normal(name) = part else { continue };
        seen.push(name);
        made = false;
        dir = match super::dir::open_dir(&dir, name.as_bytes()) {
            Ok(next) => next,
            Err(Errno::NOENT) if make => {
                mkdirat(&dir, name.as_bytes(), Mode::RWXU).at(|| format!("cannot make the target {seen:?}"))?;
                made = true;
                super::dir::open_dir(&dir, name.as_bytes()).at(|| format!("cannot open the target {seen:?}"))?
            }
            Err(Errno::NOENT) => return Ok((None, true)),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let link = live::find(&dir, name.as_bytes()).at(|| format!("cannot look at {seen:?}"))?;
                let link = link.is_some_and(|l| l.stat.kind == crate::source::stat::Type::Symlink);
                return Err(Error::invalid(if link {
                    format!("{seen:?} is a symbolic link, and none is followed; give the target's real path")
                } else {
                    format!("{seen:?} is a file; give a directory as target")
                }));
            }
            Err(e) => return Err(e).at(|| format!("cannot open the target {seen:?}")),
        };
    }
    Ok((Some(dir), made))
}

/// How many threads a restore has: one for each core, and more where most of the time is spent waiting
/// for another machine.
fn workers(vault: &Vault) -> usize {
    let least = if vault.is_elsewhere() { 4 } else { 2 };
    std::thread::available_parallelism().map_or(2, usize::from).clamp(least, 16)
}
