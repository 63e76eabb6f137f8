//! Directories of the live system, held by handle.
//!
//! A [`Dir`] is reached only through its parent's handle by one name that must not be a symbolic
//! link, so paths may be of any length and nobody can lead a restore elsewhere. Handles are
//! closed when too many are open, and opened again only if the same inode is still there.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::live::{self, Identity};
use crate::model::{Error, IoContext, Result};

/// Open handles at most, beside those of files.
const OPEN_MAX: usize = 128;

/// A directory beneath the root of a restore.
#[derive(Debug)]
pub struct Dir {
    parent: Option<Arc<Dir>>,
    name: Vec<u8>,
    /// `None`: it does not exist, since nothing is changed in a dry run.
    identity: Option<Identity>,
    handle: Mutex<Option<Arc<OwnedFd>>>,
    /// Its name as long as that is a temporary one.
    temporary: Mutex<Option<Vec<u8>>>,
    /// Whether something in it is not whole, so that it must not have its name.
    spoiled: AtomicBool,
    /// Whether this restore made it.
    pub made: bool,
}

/// The handles that are open.
#[derive(Debug, Default)]
pub struct Handles {
    open: Mutex<VecDeque<Weak<Dir>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Dir {
    /// The root, whose handle stays open; `None` where it does not exist.
    pub fn root(handle: Option<OwnedFd>, made: bool) -> Result<Arc<Self>> {
        let identity = handle.as_ref().map(live::identity).transpose().at(|| "cannot look at the target")?;
        let (handle, spoiled) = (Mutex::new(handle.map(Arc::new)), AtomicBool::new(false));
        Ok(Arc::new(Self {
            parent: None,
            name: Vec::new(),
            identity,
            handle,
            temporary: Mutex::default(),
            spoiled,
            made,
        }))
    }

    /// The directory `name`, already open.
    pub fn child(self: &Arc<Self>, name: &[u8], handle: OwnedFd, handles: &Handles) -> rustix::io::Result<Arc<Self>> {
        self.open_child(name, None, handle, false, handles)
    }

    /// The same of one that this restore made, perhaps under a temporary name.
    pub fn made_child(
        self: &Arc<Self>,
        name: &[u8],
        temporary: Option<Vec<u8>>,
        handle: OwnedFd,
        handles: &Handles,
    ) -> rustix::io::Result<Arc<Self>> {
        self.open_child(name, temporary, handle, true, handles)
    }

    fn open_child(
        self: &Arc<Self>,
        name: &[u8],
        temporary: Option<Vec<u8>>,
        handle: OwnedFd,
        made: bool,
        handles: &Handles,
    ) -> rustix::io::Result<Arc<Self>> {
        let identity = Some(live::identity(&handle)?);
        let handle = Mutex::new(Some(Arc::new(handle)));
        let (parent, temporary, spoiled) = (Some(self.clone()), Mutex::new(temporary), AtomicBool::new(false));
        let child = Arc::new(Self { parent, name: name.to_vec(), identity, handle, temporary, spoiled, made });
        handles.opened(&child);
        Ok(child)
    }

    /// A directory that would be made if this were no dry run.
    pub fn imagined(self: &Arc<Self>, name: &[u8]) -> Arc<Self> {
        let (parent, handle) = (Some(self.clone()), Mutex::default());
        let (temporary, spoiled) = (Mutex::default(), AtomicBool::new(false));
        Arc::new(Self { parent, name: name.to_vec(), identity: None, handle, temporary, spoiled, made: true })
    }

    /// Whether it has a temporary name, so that nobody looks for anything in it yet.
    pub fn is_hidden(&self) -> bool {
        lock(&self.temporary).is_some()
    }

    /// The name it has now.
    pub fn place(&self) -> Vec<u8> {
        lock(&self.temporary).clone().unwrap_or_else(|| self.name.clone())
    }

    /// Remembers that something in it is not whole.
    pub fn spoil(&self) {
        self.spoiled.store(true, Relaxed);
    }

    /// Whether something in it is not whole.
    pub fn is_spoiled(&self) -> bool {
        self.spoiled.load(Relaxed)
    }

    /// Gives it its own name instead of a temporary one; `false` where it cannot have it.
    pub fn reveal(&self, handles: &Handles) -> Result<bool> {
        let mut temporary = lock(&self.temporary);
        if let (Some(place), Some(above)) = (&*temporary, &self.parent) {
            if self.is_spoiled() {
                return Ok(false);
            }
            let above = above.handle(handles)?;
            match live::rename(&*above, place, &self.name, true) {
                Err(Errno::EXIST) => return Ok(false),
                named => named.at(|| "cannot give the directory its name")?,
            }
        }
        *temporary = None;
        Ok(true)
    }

    /// Whether it is really there.
    pub fn exists(&self) -> bool {
        self.identity.is_some()
    }

    /// Its inode.
    pub fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// The directory above.
    pub fn parent(&self) -> Option<&Arc<Self>> {
        self.parent.as_ref()
    }

    /// Its absolute path in the backup; `/` for the root.
    pub fn path(&self) -> Vec<u8> {
        let path = self.path_of(b"");
        if path.len() > 1 { path[..path.len() - 1].to_vec() } else { path }
    }

    /// The absolute path in the backup of `name` in it.
    pub fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut names = vec![name];
        let mut dir = self;
        while let Some(parent) = &dir.parent {
            names.push(&dir.name);
            dir = parent;
        }
        names.push(b"");
        names.reverse();
        names.join(&b'/')
    }

    /// Its handle, opened again if it was closed.
    pub fn handle(self: &Arc<Self>, handles: &Handles) -> Result<Arc<OwnedFd>> {
        if let Some(handle) = &*lock(&self.handle) {
            return Ok(handle.clone());
        }
        let mut closed = vec![self.clone()];
        let mut above = self.parent.clone();
        let mut handle = loop {
            let Some(dir) = above else { return Err(Error::failed("a directory that was not made was opened")) };
            if let Some(handle) = &*lock(&dir.handle) {
                break handle.clone();
            }
            above = dir.parent.clone();
            closed.push(dir);
        };
        for dir in closed.into_iter().rev() {
            let opened = open_dir(&*handle, &dir.place()).at(|| "cannot open the directory again")?;
            let identity = live::identity(&opened).at(|| "cannot look at the directory")?;
            if Some(identity) != dir.identity {
                return Err(Error::failed("the directory was exchanged while files were restored into it"));
            }
            handle = Arc::new(opened);
            *lock(&dir.handle) = Some(handle.clone());
            handles.opened(&dir);
        }
        Ok(handle)
    }
}

impl Drop for Dir {
    /// Lets go of the directories above one by one: a chain of any depth must not use up the stack.
    fn drop(&mut self) {
        let mut above = self.parent.take();
        while let Some(mut dir) = above.and_then(Arc::into_inner) {
            above = dir.parent.take();
        }
    }
}

impl Handles {
    fn opened(&self, dir: &Arc<Dir>) {
        let mut open = lock(&self.open);
        open.push_back(Arc::downgrade(dir));
        let oldest = if open.len() > OPEN_MAX { open.pop_front() } else { None };
        drop(open);
        if let Some(dir) = oldest.and_then(|dir| dir.upgrade()) {
            *lock(&dir.handle) = None;
        }
    }
}

/// Opens the directory `name`, which must not be a symbolic link.
pub fn open_dir(dir: impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rustix::fs::{CWD, mkdirat};

    #[test]
    fn a_symbolic_link_is_no_directory() {
        let tmp = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", tmp.path().join("link")).unwrap();
        let dir = open_dir(CWD, tmp.path().as_os_str().as_encoded_bytes()).unwrap();
        assert!(open_dir(&dir, b"link").is_err());
        assert!(live::open_file(&dir, b"link").is_err());
    }

    #[test]
    fn reopens_only_the_same_inode_and_goes_beyond_path_max() {
        let tmp = tempfile::tempdir().unwrap();
        let handles = Handles::default();
        let root = Dir::root(Some(open_dir(CWD, tmp.path().as_os_str().as_encoded_bytes()).unwrap()), false).unwrap();
        let mut dir = root.clone();
        let name = [b'n'; 255];
        // 400 levels of 255 bytes: far beyond PATH_MAX and beyond the handles that stay open.
        for _ in 0..400 {
            let above = dir.handle(&handles).unwrap();
            mkdirat(&*above, name.as_slice(), Mode::RWXU).unwrap();
            dir = dir.child(&name, open_dir(&*above, &name).unwrap(), &handles).unwrap();
        }
        assert_eq!(dir.path().len(), 400 * 256);
        let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
        assert!(open < 400, "{open} handles are open");
        *lock(&dir.handle) = None;
        assert_eq!(Some(live::identity(&*dir.handle(&handles).unwrap()).unwrap()), dir.identity());

        let above = dir.parent().unwrap().handle(&handles).unwrap();
        rustix::fs::renameat(&*above, name.as_slice(), &*above, "elsewhere").unwrap();
        mkdirat(&*above, name.as_slice(), Mode::RWXU).unwrap();
        *lock(&dir.handle) = None;
        assert!(dir.handle(&handles).is_err(), "another directory under the name was taken for the same");
        std::process::Command::new("rm").arg("-rf").arg(tmp.path()).status().unwrap();
    }
}
