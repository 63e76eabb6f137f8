//! A copy as a folder of plain files.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, ftruncate, linkat, mkdirat, openat};
use rustix::io::Errno;

use super::backup::Sink;
use super::content::{Content, PIECE};
use super::line::Line;
use crate::model::{Error, IoContext, Result};
use crate::restore::dir::open_dir;
use crate::restore::item::make_special;
use crate::restore::live;
use crate::restore::meta::{self, Handle, Scope};
use crate::vault::tree::Metadata;

/// The folder being written.
#[derive(Debug)]
pub struct Folder {
    root: Arc<OwnedFd>,
    /// Where the resource's own folder is made.
    above: Arc<OwnedFd>,
    /// Open directories with what they become, from the resource's folder on.
    stack: Vec<(Arc<OwnedFd>, Metadata, Scope)>,
    /// The resource's folder.
    base: Vec<u8>,
    buffer: Vec<u8>,
}

fn name(path: &[u8]) -> &[u8] {
    path.rsplit(|b| *b == b'/').next().unwrap_or_default()
}

/// Makes a directory, or opens the one that was made before.
fn make_dir(dir: &OwnedFd, name: &[u8]) -> Result<OwnedFd> {
    match mkdirat(dir, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => open_dir(dir, name).at(|| "cannot open the directory in the copy"),
        Err(e) => Err(e).at(|| "cannot make the directory in the copy"),
    }
}

impl Folder {
    /// A folder in an empty directory.
    pub fn new(root: OwnedFd) -> Self {
        let root = Arc::new(root);
        Self { above: root.clone(), root, stack: Vec::new(), base: Vec::new(), buffer: vec![0; PIECE] }
    }

    fn here(&self) -> Result<Arc<OwnedFd>> {
        self.stack.last().map(|level| level.0.clone()).ok_or_else(|| Error::failed("a file came before its directory"))
    }
}

/// Writes a file under a name that nothing has, and gives its handle.
pub fn write_file(
    dir: &OwnedFd,
    name: &[u8],
    size: u64,
    content: &mut Content<'_>,
    buffer: &mut [u8],
) -> Result<OwnedFd> {
    let what = || "cannot write the file";
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(dir, name, flags, Mode::RUSR | Mode::WUSR).at(what)?;
    let mut end = 0;
    while let Some((offset, n)) = content.next(buffer)? {
        let mut piece = buffer.get(..n).unwrap_or_default();
        end = offset;
        while !piece.is_empty() {
            match rustix::io::pwrite(&file, piece, end) {
                Ok(0) => return Err(Error::failed("cannot write the file: nothing was written")),
                Ok(n) => {
                    piece = piece.get(n..).unwrap_or_default();
                    end += n as u64;
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e).at(what),
            }
        }
    }
    if end != size {
        ftruncate(&file, size).at(what)?;
    }
    Ok(file)
}

impl Sink for Folder {
    fn begin(&mut self, folder: &[u8]) -> Result<()> {
        let mut dir = self.root.clone();
        let mut parts: Vec<&[u8]> = folder.split(|b| *b == b'/').collect();
        self.base = parts.pop().unwrap_or_default().to_vec();
        for part in parts {
            dir = Arc::new(make_dir(&dir, part)?);
        }
        self.above = dir;
        Ok(())
    }

    fn enter(&mut self, line: &Line, _at: &[u8], meta: &Metadata, ancestor: bool) -> Result<Vec<String>> {
        let dir = match self.stack.last() {
            Some((dir, ..)) => make_dir(dir, name(&line.path))?,
            None => make_dir(&self.above, &self.base)?,
        };
        let scope = if ancestor { Scope::Ancestor } else { Scope::Unflagged };
        self.stack.push((Arc::new(dir), meta.clone(), scope));
        Ok(Vec::new())
    }

    fn leave(&mut self) -> Result<Vec<String>> {
        let Some((dir, meta, scope)) = self.stack.pop() else { return Ok(Vec::new()) };
        Ok(meta::bring(Handle::Open(dir.as_fd()), &meta, scope, false).problems)
    }

    fn file(
        &mut self,
        path: &[u8],
        _at: &[u8],
        meta: &Metadata,
        size: u64,
        content: &mut Content<'_>,
    ) -> Result<Vec<String>> {
        let dir = self.here()?;
        let name = name(path);
        let written = write_file(&dir, name, size, content, &mut self.buffer);
        if content.failed.is_some() || written.is_err() {
            let _ = live::remove(&*dir, name, false);
        }
        let file = written?;
        if content.failed.is_some() {
            return Ok(Vec::new());
        }
        Ok(meta::bring(Handle::Open(file.as_fd()), meta, Scope::Unflagged, false).problems)
    }

    fn link(&mut self, line: &Line, first: &[u8], _at: &[u8], _first_at: &[u8]) -> Result<Vec<String>> {
        let what = || "cannot make the hard link in the copy";
        let mut dir = self.stack.first().map(|level| level.0.clone()).ok_or_else(|| Error::failed(what()))?;
        let mut parts: Vec<&[u8]> = first.split(|b| *b == b'/').filter(|part| !part.is_empty()).collect();
        let last = parts.pop().unwrap_or_default();
        for part in parts {
            dir = Arc::new(open_dir(&*dir, part).at(what)?);
        }
        linkat(&*dir, last, &*self.here()?, name(&line.path), AtFlags::empty()).at(what)?;
        Ok(Vec::new())
    }

    fn special(&mut self, line: &Line, _at: &[u8], meta: &Metadata) -> Result<Vec<String>> {
        let what = || "cannot make it in the copy";
        let dir = self.here()?;
        let name = name(&line.path);
        make_special(&dir, name, &line.kind()).at(what)?;
        let file = live::open_path(&*dir, name).at(what)?;
        Ok(meta::bring(Handle::Named(file.as_fd(), dir.as_fd(), name), meta, Scope::Unflagged, false).problems)
    }

    fn top(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let what = || format!("cannot write {name}");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&*self.root, name, flags, Mode::RUSR | Mode::WUSR).at(what)?;
        std::io::Write::write_all(&mut std::fs::File::from(file), content).at(what)
    }

    fn top_file(&mut self, name: &str, spool: &std::fs::File, len: u64) -> Result<()> {
        let what = || format!("cannot write {name}");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&*self.root, name, flags, Mode::RUSR | Mode::WUSR).at(what)?;
        let mut from = std::io::Read::take(spool, len);
        std::io::copy(&mut from, &mut std::fs::File::from(file)).at(what).map(drop)
    }

    fn finish(&mut self) -> Result<u64> {
        Ok(0)
    }
}
