//! New directories under temporary names, until the batch that they were made in is restored.
//!
//! What is in such a directory stands under its final name at once: nobody sees it by that name before it is whole, and
//! one rename of the directory does what would be one of each file. The journal names the directory above before;
//! a restore that was cut short loses what it had of this batch.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustix::fs::{Mode, mkdirat};
use rustix::io::Errno;

use super::dir::{Dir, Handles, open_dir};
use super::job::Job;
use super::journal::Journal;
use super::live;
use crate::model::{Error, IoContext, Result};
use crate::source::Stat;

/// The directories of a batch that have temporary names, each before those in it.
#[derive(Debug, Default)]
pub struct Hidden {
    dirs: Vec<Arc<Dir>>,
    /// Paths of directories with their own names that such directories are in.
    above: BTreeSet<Vec<u8>>,
}

impl Hidden {
    /// Where such directories are.
    pub fn above(&self) -> &BTreeSet<Vec<u8>> {
        &self.above
    }

    /// Makes a directory, under a temporary name if the journal allows it: one that must outlive a crash of the
    /// system would be written to disk for each.
    pub fn make(
        &mut self,
        job: &Job<'_>,
        journal: Option<&Journal>,
        parent: &Arc<Dir>,
        name: &[u8],
    ) -> Result<Arc<Dir>> {
        let above = job.handle(parent)?;
        let Some(journal) = journal.filter(|journal| !journal.is_durable()) else {
            return make(job, parent, name, None);
        };
        if !parent.is_hidden() && self.above.insert(parent.path()) {
            journal.announce_also(&parent.path())?;
        }
        let temporary = job.temporary();
        let made = make(job, parent, name, Some(temporary.clone()));
        match &made {
            Ok(dir) => self.dirs.push(dir.clone()),
            Err(_) => {
                // It is empty, if it is there. The error says what is wrong.
                let _ = live::remove(&*above, &temporary, true);
            }
        }
        made
    }

    /// Gives all of them their names: everything in them is whole.
    pub fn reveal(&mut self, job: &Job<'_>) -> Result<()> {
        self.above.clear();
        let mut result = Ok(());
        for dir in std::mem::take(&mut self.dirs) {
            let named = dir.reveal(&job.handles).or_else(|e| {
                let temporary = dir.place();
                if let Some(above) = dir.parent() {
                    remove_tree(above, &temporary, &job.handles)?;
                }
                Err(e)
            });
            let taken = named.or_else(|e| job.tally.take(dir.path(), e));
            result = result.and(taken);
        }
        result
    }
}

fn make(job: &Job<'_>, parent: &Arc<Dir>, name: &[u8], temporary: Option<Vec<u8>>) -> Result<Arc<Dir>> {
    let above = job.handle(parent)?;
    let place = temporary.as_deref().unwrap_or(name);
    mkdirat(&*above, place, Mode::RWXU).at(|| "cannot make the directory")?;
    let handle = open_dir(&*above, place).at(|| "cannot open the directory")?;
    let stat = Stat::of(&handle).at(|| "cannot look at the directory")?;
    if stat.uid != rustix::process::geteuid().as_raw() {
        return Err(Error::failed("somebody exchanged the directory while it was made"));
    }
    parent.made_child(name, temporary, handle, &job.handles).at(|| "cannot look at the directory")
}

/// Removes `name` from a directory with all beneath, whatever it is. Nothing is followed, and nothing that is mounted is gone into.
pub fn remove_tree(dir: &Arc<Dir>, name: &[u8], handles: &Handles) -> Result<()> {
    let shown = String::from_utf8_lossy(name);
    let cannot = || format!("cannot remove {shown}, left by a restore");
    let mut levels = vec![(dir.clone(), Vec::new(), vec![name.to_vec()].into_iter())];
    while let Some((dir, own, names)) = levels.last_mut() {
        let Some(name) = names.next() else {
            let own = std::mem::take(own);
            levels.pop();
            if let Some((above, ..)) = levels.last() {
                live::remove(&*above.handle(handles)?, &own, true).at(cannot)?;
            }
            continue;
        };
        let handle = dir.handle(handles)?;
        match live::find(&*handle, &name).at(cannot)? {
            None => {}
            Some(found) if found.is_dir() && !found.mount_root => {
                let below = open_dir(&*handle, &name).at(cannot)?;
                live::unlock(&below).at(cannot)?;
                let names = live::names(&below).at(cannot)?;
                let below = dir.child(&name, below, handles).at(cannot)?;
                levels.push((below, name, names.into_iter()));
            }
            Some(_) => match live::remove(&*handle, &name, false) {
                Err(Errno::NOENT) => {}
                result => result.at(cannot)?,
            },
        }
    }
    Ok(())
}
