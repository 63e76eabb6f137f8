//! The walk through a resource on the live system: sorted, one directory at a time, nothing
//! followed beneath the paths that the administrator named.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use crate::archive::Plan;
use crate::model::{IoContext, Progress, Result};
use crate::restore::live::{self, Identity};
use crate::source::mounts::MountKind;
use crate::source::stat::Type;
use crate::source::{Excludes, Mounts, Stat, cachedir};
use crate::vault::tree::Time;

/// Directories with longer paths are not entered: anyone can nest directories without end.
const PATH_LIMIT: usize = 32 << 10;

/// What to walk.
#[derive(Debug)]
pub struct Tree<'a> {
    /// Absolute paths.
    pub paths: &'a [PathBuf],
    /// What is left out.
    pub excludes: &'a Excludes,
    /// Whether other file systems beneath the paths are.
    pub one_file_system: bool,
    /// Directories whose content is.
    pub never: &'a HashSet<Identity>,
    /// Only files changed since then, and the directories that lead to them.
    pub since: Option<Time>,
}

/// An entry that is no directory.
#[derive(Debug)]
pub struct Leaf<'a> {
    /// The directory it is in.
    pub dir: &'a OwnedFd,
    /// Its name there.
    pub name: &'a [u8],
    /// Its absolute path.
    pub path: Vec<u8>,
    /// Its status when it was found.
    pub stat: Stat,
    /// The first name of the same inode, where that was visited and taken.
    pub first: Option<Vec<u8>>,
}

/// What is done with what the walk finds.
pub trait Visitor {
    /// A directory, before what is in it. `ancestor`: it only leads to the paths.
    fn enter(&mut self, path: &[u8], dir: &OwnedFd, stat: &Stat, ancestor: bool) -> Result<()>;
    /// A directory, after what is in it.
    fn leave(&mut self) -> Result<()>;
    /// Anything else; says whether it was taken.
    fn leaf(&mut self, leaf: Leaf<'_>) -> Result<bool>;
    /// Something that could not be looked at.
    fn trouble(&mut self, path: Vec<u8>, code: &str, message: String) -> Result<()>;
}

/// Walks.
pub fn walk(tree: &Tree<'_>, visitor: &mut dyn Visitor, progress: &Progress) -> Result<()> {
    let named = |path: &PathBuf| {
        let stat = Stat::at(CWD, path.as_os_str().as_bytes()).ok()?;
        Some(((stat.dev, stat.ino), stat.mount))
    };
    let named = tree.paths.iter().filter_map(named).collect();
    let mut walk =
        Walk { tree, visitor, progress, named, mounts: Mounts::read()?, links: HashMap::new(), stack: Vec::new() };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty()).at(|| "cannot open /")?;
    let stat = Stat::of(&root).at(|| "cannot look at /")?;
    let plan = Plan::new(tree.paths);
    if plan.wanted {
        walk.read(root, stat, b"/".to_vec())?;
        walk.descend(0)
    } else {
        walk.ancestor(root, stat, b"/".to_vec(), &plan)
    }
}

/// A directory on the way down.
struct Frame {
    path: Vec<u8>,
    dir: Arc<OwnedFd>,
    stat: Stat,
    ancestor: bool,
    /// Whether the visitor knows of it.
    entered: bool,
    /// Directories in it that were not entered yet, the last one first.
    ahead: Vec<Vec<u8>>,
}

struct Walk<'a> {
    tree: &'a Tree<'a>,
    visitor: &'a mut dyn Visitor,
    progress: &'a Progress,
    /// The resource's own paths, with their mounts: entered wherever they lie.
    named: HashSet<(Identity, u64)>,
    mounts: Mounts,
    /// First names of inodes with several: how many names are still to come, and the path.
    links: HashMap<Identity, (u32, Vec<u8>)>,
    stack: Vec<Frame>,
}

/// The path of `name` in a directory.
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if dir.ends_with(b"/") { b"" } else { b"/" };
    [dir, slash, name].concat()
}

impl Walk<'_> {
    /// A directory above the resource's paths: only what leads to them. The administrator named
    /// it, so symbolic links count.
    fn ancestor(&mut self, dir: OwnedFd, stat: Stat, path: Vec<u8>, plan: &Plan) -> Result<()> {
        self.push(dir, stat, path.clone(), true, Vec::new())?;
        let dir = self.stack.last().map(|frame| frame.dir.clone());
        let Some(dir) = dir else { return Ok(()) };
        for (name, below) in &plan.below {
            let path = join(&path, name);
            if below.wanted {
                match Stat::at(&*dir, name) {
                    Ok(stat) if stat.kind == Type::Directory => {
                        let depth = self.stack.len();
                        self.open(&dir, name, path, None)?;
                        self.descend(depth)?;
                    }
                    Ok(stat) => self.leaf(&dir, name, path, stat)?,
                    Err(e) => self.trouble(path, e)?,
                }
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            match openat(&*dir, name.as_slice(), flags, Mode::empty()).and_then(|fd| Ok((Stat::of(&fd)?, fd))) {
                Ok((stat, fd)) => self.ancestor(fd, stat, path, below)?,
                Err(e) => self.trouble(path, e)?,
            }
        }
        self.pop()
    }

    fn trouble(&mut self, path: Vec<u8>, e: Errno) -> Result<()> {
        let code = if e == Errno::NOENT { "vanished" } else { "unreadable" };
        self.visitor.trouble(path, code, e.to_string())
    }

    fn push(&mut self, dir: OwnedFd, stat: Stat, path: Vec<u8>, ancestor: bool, ahead: Vec<Vec<u8>>) -> Result<()> {
        self.stack.push(Frame { path, dir: Arc::new(dir), stat, ancestor, entered: false, ahead });
        // A part of what there is begins with what is in it.
        if self.tree.since.is_none() { self.enter_all() } else { Ok(()) }
    }

    fn enter_all(&mut self) -> Result<()> {
        let known = self.stack.iter().take_while(|frame| frame.entered).count();
        for frame in self.stack.iter_mut().skip(known) {
            frame.entered = true;
            self.visitor.enter(&frame.path, &frame.dir, &frame.stat, frame.ancestor)?;
        }
        Ok(())
    }

    fn pop(&mut self) -> Result<()> {
        match self.stack.pop() {
            Some(frame) if frame.entered => self.visitor.leave(),
            _ => Ok(()),
        }
    }

    /// Walks everything beneath the frames from `depth` on.
    fn descend(&mut self, depth: usize) -> Result<()> {
        while self.stack.len() > depth {
            let Some(frame) = self.stack.last_mut() else { break };
            let Some(name) = frame.ahead.pop() else {
                self.pop()?;
                continue;
            };
            let (dir, path, stat) = (frame.dir.clone(), join(&frame.path, &name), frame.stat);
            self.open(&dir, &name, path, Some(&stat))?;
        }
        Ok(())
    }

    fn open(&mut self, dir: &Arc<OwnedFd>, name: &[u8], path: Vec<u8>, above: Option<&Stat>) -> Result<()> {
        self.progress.check()?;
        if path.len() > PATH_LIMIT {
            return self.visitor.trouble(path, "unsupported", "it lies too deep".into());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = match openat(&**dir, name, flags | OFlags::NOATIME, Mode::empty()) {
            Err(Errno::PERM) => openat(&**dir, name, flags, Mode::empty()),
            other => other,
        };
        match opened.and_then(|fd| Stat::of(&fd).map(|stat| (fd, stat))) {
            Ok((fd, stat)) if self.skipped(&stat, above) => self.push(fd, stat, path, false, Vec::new()),
            Ok((fd, stat)) => self.read(fd, stat, path),
            Err(e) => self.trouble(path, e),
        }
    }

    /// Whether a directory's content is left out by rule.
    fn skipped(&mut self, stat: &Stat, above: Option<&Stat>) -> bool {
        if self.tree.never.contains(&(stat.dev, stat.ino)) {
            return true;
        }
        if self.named.contains(&((stat.dev, stat.ino), stat.mount)) {
            return false;
        }
        let Some(above) = above.filter(|above| above.mount != stat.mount) else { return false };
        self.mounts.kind(stat.mount) != MountKind::Real || (self.tree.one_file_system && above.dev != stat.dev)
    }

    /// Reads an open directory: everything in it but directories is visited.
    fn read(&mut self, dir: OwnedFd, stat: Stat, path: Vec<u8>) -> Result<()> {
        self.progress.set_current(&String::from_utf8_lossy(&path));
        let mut names = match live::names(&dir) {
            Ok(names) => names,
            Err(e) => return self.trouble(path, e),
        };
        names.dedup();
        if cachedir::is_cache(&dir, &names) {
            names.retain(|name| name == cachedir::TAG_NAME);
        }
        self.push(dir, stat, path.clone(), false, Vec::new())?;
        let Some(dir) = self.stack.last().map(|frame| frame.dir.clone()) else { return Ok(()) };
        let mut ahead = Vec::new();
        for name in names {
            let below = join(&path, &name);
            let stat = Stat::at(&*dir, &name);
            let is_dir = stat.is_ok_and(|s| s.kind == Type::Directory);
            if !self.tree.excludes.is_empty()
                && self.tree.excludes.matches(Path::new(OsStr::from_bytes(&below)), is_dir)
            {
                continue;
            }
            match stat {
                Ok(_) if is_dir => ahead.push(name),
                Ok(stat) => self.leaf(&dir, &name, below, stat)?,
                Err(Errno::NOENT) => {}
                Err(e) => self.trouble(below, e)?,
            }
        }
        ahead.reverse();
        if let Some(frame) = self.stack.last_mut() {
            frame.ahead = ahead;
        }
        Ok(())
    }

    fn leaf(&mut self, dir: &Arc<OwnedFd>, name: &[u8], path: Vec<u8>, stat: Stat) -> Result<()> {
        self.progress.check()?;
        if self.tree.since.is_some_and(|since| stat.mtime < since && stat.ctime < since) {
            return Ok(());
        }
        self.enter_all()?;
        let id = (stat.dev, stat.ino);
        let first = self.links.get(&id).map(|(_, first)| first.clone()).filter(|_| stat.nlink > 1);
        let is_first = first.is_none();
        let taken = self.visitor.leaf(Leaf { dir, name, path: path.clone(), stat, first })?;
        if stat.nlink < 2 {
            return Ok(());
        }
        if is_first && taken {
            self.links.insert(id, (stat.nlink - 1, path));
        } else if let Some((left, _)) = self.links.get_mut(&id) {
            *left -= 1;
            if *left == 0 {
                self.links.remove(&id);
            }
        }
        Ok(())
    }
}
