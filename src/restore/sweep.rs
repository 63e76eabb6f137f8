//! Removal of what the backup did not hold.
//!
//! Absence from a backup counts only where the backup would have saved the name: never what its
//! rules left out, what it could not read, other mounts, or anything of Strongroom's own.

use std::sync::Arc;

use super::dir::{Dir, open_dir};
use super::job::Job;
use super::live::{self, Found};
use super::tally::Tally;
use crate::model::{Error, IoContext, Result};

/// A directory being emptied.
struct Level {
    dir: Arc<Dir>,
    name: Vec<u8>,
    names: std::vec::IntoIter<Vec<u8>>,
    kept: bool,
}

/// What a directory with a file of this name and beginning holds can be made again.
const CACHE_TAG: &[u8] = b"CACHEDIR.TAG";
const CACHE_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

impl Job<'_> {
    /// Removes all names from `dir` but `kept` (sorted) and what is spared.
    pub fn sweep(&self, dir: &Arc<Dir>, kept: &[Vec<u8>]) -> Result<()> {
        let handle = self.handle(dir)?;
        let mut names = live::names(&*handle).at(|| "cannot list the directory")?;
        // What this restore is making has no name of its own yet.
        names.retain(|name| kept.binary_search(name).is_err() && !name.starts_with(self.prefix.as_bytes()));
        if names.is_empty() || (names.iter().any(|name| name == CACHE_TAG) && is_cache(&*handle)) {
            return Ok(());
        }
        self.remove(dir, names, !self.request.dry_run, true)?;
        Ok(())
    }

    /// Removes the directory `name`, which stands in the way, unless something in it is spared.
    pub fn clear(&self, dir: &Arc<Dir>, name: &[u8]) -> Result<()> {
        if self.remove(dir, vec![name.to_vec()], false, false)? {
            return Err(Error::invalid_state(
                "a directory stands in its place and holds what the backup leaves out; move that away",
            ));
        }
        self.remove(dir, vec![name.to_vec()], true, false)?;
        Ok(())
    }

    /// Removes names with all beneath; says whether anything was spared. Without `act` nothing
    /// is removed, and only with `count` is what would be counted.
    fn remove(&self, dir: &Arc<Dir>, names: Vec<Vec<u8>>, act: bool, count: bool) -> Result<bool> {
        let mut levels = vec![Level { dir: dir.clone(), name: Vec::new(), names: names.into_iter(), kept: false }];
        while let Some(level) = levels.last_mut() {
            self.progress.check()?;
            let dir = level.dir.clone();
            let Some(name) = level.names.next() else {
                let kept = level.kept;
                let name = std::mem::take(&mut level.name);
                levels.pop();
                let Some(above) = levels.last_mut() else { return Ok(kept) };
                above.kept |= kept || !self.remove_one(&above.dir, &name, true, act, count)?;
                continue;
            };
            match self.look(&dir, &name) {
                Ok(None) => {}
                Ok(Some(found)) if self.spares(&dir, &name, &found) => level.kept = true,
                Ok(Some(found)) if found.is_dir() => match self.open_doomed(&dir, &name, act) {
                    Ok(Some(below)) => levels.push(below),
                    Ok(None) => level.kept = true,
                    Err(e) => {
                        level.kept = true;
                        self.tally.take(dir.path_of(&name), e)?;
                    }
                },
                Ok(Some(_)) => level.kept |= !self.remove_one(&dir, &name, false, act, count)?,
                Err(e) => {
                    level.kept = true;
                    self.tally.take(dir.path_of(&name), e)?;
                }
            }
        }
        Ok(false)
    }

    /// The first thing in the directory `name` that a restore in place would leave alone, since no
    /// backup could tell of it.
    pub fn first_spared(&self, dir: &Arc<Dir>, name: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut levels = vec![(dir.clone(), vec![name.to_vec()].into_iter())];
        while let Some((dir, names)) = levels.last_mut() {
            self.progress.check()?;
            let dir = dir.clone();
            let Some(name) = names.next() else {
                levels.pop();
                continue;
            };
            let Some(found) = self.look(&dir, &name)? else { continue };
            if self.spares(&dir, &name, &found) {
                return Ok(Some(dir.path_of(&name)));
            }
            if found.is_dir() {
                let Some(below) = self.open_doomed(&dir, &name, false)? else { return Ok(Some(dir.path_of(&name))) };
                levels.push((below.dir, below.names));
            }
        }
        Ok(None)
    }

    fn look(&self, dir: &Arc<Dir>, name: &[u8]) -> Result<Option<Found>> {
        live::find(&*self.handle(dir)?, name).at(|| "cannot look at what is there")
    }

    /// A directory to be emptied; `None` if it is a cache, which no backup holds.
    fn open_doomed(&self, dir: &Arc<Dir>, name: &[u8], act: bool) -> Result<Option<Level>> {
        let handle = open_dir(&*self.handle(dir)?, name).at(|| "cannot open the directory")?;
        let names = live::names(&handle).at(|| "cannot list the directory")?;
        if names.iter().any(|name| name == CACHE_TAG) && is_cache(&handle) {
            return Ok(None);
        }
        if act {
            live::unlock(&handle).at(|| "cannot make the directory changeable")?;
        }
        let child = dir.child(name, handle, &self.handles).at(|| "cannot look at the directory")?;
        Ok(Some(Level { dir: child, name: name.to_vec(), names: names.into_iter(), kept: false }))
    }

    fn spares(&self, dir: &Dir, name: &[u8], found: &Found) -> bool {
        use std::os::unix::ffi::OsStrExt;
        let path = dir.path_of(name);
        found.mount_root
            || self.never.contains(&found.identity())
            || self.leave.contains(&path)
            || (self.manifest.resource.one_file_system
                && found.is_dir()
                && dir.identity().is_some_and(|(dev, _)| dev != found.stat.dev))
            || self.unread.contains(&path)
            || self.excludes.matches(std::path::Path::new(std::ffi::OsStr::from_bytes(&path)), found.is_dir())
    }

    /// Removes one name; says whether it is gone.
    fn remove_one(&self, dir: &Arc<Dir>, name: &[u8], is_dir: bool, act: bool, count: bool) -> Result<bool> {
        if act {
            let removed = self.handle(dir).and_then(|dir| live::remove(&*dir, name, is_dir).at(|| "cannot remove it"));
            if let Err(e) = removed {
                self.tally.take(dir.path_of(name), e)?;
                return Ok(false);
            }
        }
        if count {
            Tally::add(&self.tally.removed, 1);
        }
        Ok(true)
    }
}

/// Whether a directory is tagged as a cache.
fn is_cache(dir: impl std::os::fd::AsFd) -> bool {
    let mut start = [0; CACHE_SIGNATURE.len()];
    let file = live::open_file(dir, CACHE_TAG);
    file.is_ok_and(|file| rustix::io::pread(file, &mut start, 0).is_ok_and(|n| start[..n] == *CACHE_SIGNATURE))
}
