//! Where a copy grows until it is whole: a directory beside its results, whose name no result has.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, RenameFlags, fstatvfs, fsync, mkdirat, renameat_with, syncfs, unlinkat};
use rustix::io::Errno;

use crate::model::{Error, IoContext, Result};
use crate::restore::dir::open_dir;
use crate::restore::job::open_root;
use crate::restore::live;
use crate::source::Stat;

/// Names that are tried for a result whose first name is taken.
const TRIES: u32 = 10_000;

/// A copy that is not whole yet. It goes when it is dropped.
#[derive(Debug)]
pub struct WorkDir {
    /// Where results of the task are.
    results: OwnedFd,
    name: String,
    /// The directory itself.
    pub dir: OwnedFd,
    gone: bool,
}

fn name_of(job: u64) -> String {
    format!(".strongroom-task-{job}")
}

impl WorkDir {
    /// Makes the directory of a job beneath `results`, which is made where it is missing.
    pub fn new(results: &Path, job: u64) -> Result<Self> {
        let what = || format!("cannot use {}", results.display());
        let (handle, _) = open_root(results, true).map_err(|e| e.context(what()))?;
        let results = handle.ok_or_else(|| Error::failed(what()))?;
        let name = name_of(job);
        remove_tree(&results, name.as_bytes())?;
        mkdirat(&results, name.as_str(), Mode::RWXU).at(what)?;
        let dir = open_dir(&results, name.as_bytes()).at(what)?;
        let stat = Stat::of(&dir).at(what)?;
        if stat.uid != rustix::process::geteuid().as_raw() || stat.mode & 0o077 != 0 {
            return Err(Error::failed(format!("{}: somebody exchanged the directory while it was made", what())));
        }
        Ok(Self { results, name, dir, gone: false })
    }

    /// Gives what is whole its name: the directory itself, or one file in it. Where the name is
    /// taken, a number makes it another. Everything is on disk before.
    pub fn publish(mut self, file: Option<&str>, name: &str, extension: &str) -> Result<String> {
        let what = || format!("cannot give {name}{extension} its name");
        syncfs(&self.dir).at(what)?;
        let mine = match file {
            Some(file) => live::find(&self.dir, file.as_bytes()).at(what)?.map(|found| found.identity()),
            None => Some(live::identity(&self.dir).at(what)?),
        };
        for number in 1..TRIES {
            let wanted = if number == 1 { format!("{name}{extension}") } else { format!("{name}-{number}{extension}") };
            let (from, old) = match file {
                Some(file) => (&self.dir, file),
                None => (&self.results, self.name.as_str()),
            };
            let renamed = match renameat_with(from, old, &self.results, wanted.as_str(), RenameFlags::NOREPLACE) {
                // A file system that has no such rename.
                Err(Errno::INVAL) => match live::find(&self.results, wanted.as_bytes()).at(what)? {
                    Some(_) => Err(Errno::EXIST),
                    None => renameat_with(from, old, &self.results, wanted.as_str(), RenameFlags::empty()),
                },
                other => other,
            };
            match renamed {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(e) => return Err(e).at(what),
            }
            self.gone = file.is_none();
            let there = live::find(&self.results, wanted.as_bytes()).at(what)?.map(|found| found.identity());
            if there != mine {
                return Err(Error::failed(format!("{}: somebody exchanged it meanwhile", what())));
            }
            fsync(&self.results).at(what)?;
            return Ok(wanted);
        }
        Err(Error::already_exists(format!("{}: it is taken, and so are {TRIES} others", what())))
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if !self.gone
            && let Err(e) = remove_tree(&self.results, self.name.as_bytes())
        {
            tracing::warn!("what is left of a copy that was not finished could not be removed: {e}");
        }
    }
}

/// Removes what a crash left of a job's copy.
pub fn remove_left(results: &Path, job: u64) -> Result<()> {
    match open_root(results, false)? {
        (Some(results), _) => remove_tree(&results, name_of(job).as_bytes()),
        (None, _) => Ok(()),
    }
}

/// How many bytes there is room for where `path` is or will be.
pub fn room(path: &Path) -> Result<u64> {
    for at in path.ancestors() {
        if let (Some(dir), _) = open_root(at, false)? {
            let stat = fstatvfs(dir).at(|| format!("cannot look at the room of {}", at.display()))?;
            return Ok(stat.f_bavail.saturating_mul(stat.f_frsize));
        }
    }
    Err(Error::failed("/ cannot be opened"))
}

/// Removes `name` with all beneath, following nothing. What is not there is no error.
fn remove_tree(dir: &OwnedFd, name: &[u8]) -> Result<()> {
    let what = || format!("cannot remove {}", String::from_utf8_lossy(name));
    let top = match open_dir(dir, name) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(_) => return live::remove(dir, name, false).at(what),
    };
    let names = live::names(&top).at(what)?;
    let mut levels = vec![(top, name.to_vec(), names)];
    while let Some((dir_here, own, names)) = levels.last_mut() {
        let Some(next) = names.pop() else {
            let own = std::mem::take(own);
            levels.pop();
            let above = levels.last().map_or(dir, |level| &level.0);
            live::remove(above, &own, true).at(what)?;
            continue;
        };
        match unlinkat(&*dir_here, next.as_slice(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => match open_dir(&*dir_here, &next) {
                Ok(below) => {
                    let names = live::names(&below).at(what)?;
                    levels.push((below, next, names));
                }
                Err(_) => live::remove(&*dir_here, &next, false).at(what)?,
            },
            Err(e) => return Err(e).at(what),
        }
    }
    Ok(())
}
