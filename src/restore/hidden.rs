//! New directories under temporary names, until the batch that they were made in is restored.
//!
//! What is in such a directory stands under its final name at once: nobody sees it by that path before it is whole, and
//! one rename of the directory does what would be one of each file. They get their names from the innermost outwards, so
//! what a crash leaves is always beneath a temporary name in a directory that the journal names; a restore that
//! was cut short loses what it had of this batch.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

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
    named: Named,
}

/// What the journal says of them.
#[derive(Debug, Default)]
pub struct Named {
    /// Paths of directories with their own names that such directories are in.
    pub above: BTreeSet<Vec<u8>>,
    /// The numbers of the inodes of those in them.
    pub inodes: Vec<u64>,
}

impl Hidden {
    /// What the journal is to say of them.
    pub fn named(&self) -> &Named {
        &self.named
    }

    /// Makes a directory, under a temporary name if there is a journal that allows it: one that must outlive a crash of the
    /// system would be written to disk for each.
    pub fn make(
        &mut self,
        job: &Job<'_>,
        journal: Option<&Journal>,
        parent: &Arc<Dir>,
        name: &[u8],
    ) -> Result<Arc<Dir>> {
        let Some(journal) = journal.filter(|journal| !journal.is_durable()) else {
            return make(job, parent, name, None);
        };
        let outermost = !parent.is_hidden();
        if outermost && !self.named.above.contains(&parent.path()) {
            journal.also(&parent.path(), &self.named)?;
            self.named.above.insert(parent.path());
        }
        let temporary = job.temporary();
        let made = make(job, parent, name, Some(temporary.clone())).and_then(|dir| {
            if let (true, Some((_, inode))) = (outermost, dir.identity()) {
                journal.made(inode, &self.named)?;
                self.named.inodes.push(inode);
            }
            Ok(dir)
        });
        match &made {
            Ok(dir) => self.dirs.push(dir.clone()),
            Err(_) => {
                // It is empty, if it is there. The error says what is wrong.
                let _ = job.handle(parent).map(|above| live::remove(&*above, &temporary, true));
            }
        }
        made
    }

    /// Gives all of them their names: everything in them is whole. Those that cannot have theirs now are tried again by
    /// the next call; if they cannot then either, the journal must stay.
    pub fn reveal(&mut self, job: &Job<'_>) -> Result<()> {
        let mut result = Ok(());
        while let Some(dir) = self.dirs.pop() {
            let named = match dir.reveal(&job.handles) {
                Ok(true) => Ok(()),
                Ok(false) => remove(job, &dir).map(|()| {
                    let listed = job.tally.take(dir.path(), not_restored(&dir));
                    result = std::mem::replace(&mut result, Ok(())).and(listed);
                }),
                Err(e) => Err(e),
            };
            if let Err(e) = named {
                // Those around it stay as they are as well, or nobody would find it.
                self.dirs.push(dir);
                result = Err(e);
                break;
            }
        }
        job.left.store(!self.dirs.is_empty(), Relaxed);
        if self.dirs.is_empty() {
            self.named = Named::default();
        }
        result
    }
}

/// Removes a directory that cannot have its name, with all that was restored into it.
fn remove(job: &Job<'_>, dir: &Arc<Dir>) -> Result<()> {
    match (dir.parent(), dir.identity()) {
        (Some(above), Some((_, inode))) => remove_tree(above, &dir.place(), inode, &job.handles),
        _ => Ok(()),
    }
}

fn not_restored(dir: &Dir) -> Error {
    let why = if dir.is_spoiled() {
        "a file in it could not be removed that is not whole"
    } else {
        "somebody else made it meanwhile, or the file system takes two names of the backup for one"
    };
    Error::failed(format!("it was not restored, with all in it: {why}; restore it again"))
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

/// Removes the directory `name`, if it is this inode, with all beneath. Nothing is followed, and nothing that is mounted is
/// gone into. Whoever may write to the directory above may put another in its place; that one stays.
pub fn remove_tree(dir: &Arc<Dir>, name: &[u8], inode: u64, handles: &Handles) -> Result<()> {
    let shown = String::from_utf8_lossy(name);
    let cannot = || format!("cannot remove {shown}, left by a restore");
    let mut levels = vec![(dir.clone(), Vec::new(), vec![name.to_vec()].into_iter())];
    loop {
        let outermost = levels.len() == 1;
        let Some((dir, own, names)) = levels.last_mut() else { return Ok(()) };
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
                let opened = live::identity(&below).at(cannot)?;
                if outermost && opened.1 != inode {
                    return Ok(());
                }
                live::unlock(&below).at(cannot)?;
                let names = live::names(&below).at(cannot)?;
                let below = dir.child(&name, below, handles).at(cannot)?;
                levels.push((below, name, names.into_iter()));
            }
            Some(_) if outermost => return Ok(()),
            Some(_) => match live::remove(&*handle, &name, false) {
                Err(Errno::NOENT) => {}
                result => result.at(cannot)?,
            },
        }
    }
}
