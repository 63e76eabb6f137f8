//! Whether directories can be replaced as a whole by what a backup holds: only where there is nothing
//! in them that a restore in place would have left alone.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::fstatvfs;

use super::RestoreRequest;
use super::dir::{Dir, open_dir};
use super::job::{Job, open_root};
use super::select::Selection;
use crate::model::{Error, ErrorKind, IoContext, Progress, Result};
use crate::vault::{Manifest, Vault};

/// Bytes that an entry takes beside its content, to be on the safe side.
const ENTRY: u64 = 512;

/// Refuses directories that hold what the backup leaves out: it would be gone with what is replaced.
pub fn refuse_spared(
    vault: &Arc<Vault>,
    manifest: &Manifest,
    request: &RestoreRequest,
    paths: &[PathBuf],
    progress: &Progress,
) -> Result<()> {
    let (handle, made) = open_root(Path::new("/"), false)?;
    // What could not be read is found out only where something is to be removed.
    let request = RestoreRequest { delete: true, target: None, paths: paths.to_vec(), ..request.clone() };
    let job = Job::new(vault, manifest, &request, progress, Dir::root(handle, made)?)?;
    for path in paths {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { continue };
        let what = || format!("cannot look at {}", above.display());
        let mut dir = job.root.clone();
        for part in above.iter().skip(1).map(OsStr::as_bytes) {
            let next = open_dir(job.handle(&dir)?.as_fd(), part).at(what)?;
            dir = dir.child(part, next, &job.handles).at(what)?;
        }
        if let Some(spared) = job.first_spared(&dir, name.as_bytes())? {
            return Err(Error::invalid_state(format!(
                "{} cannot be restored in one step: {} is in it, which the backup does not hold by its rules (excluded, a \
                 cache, unreadable, or another file system), and which would be lost; move it elsewhere, or leave atomic out",
                path.display(),
                String::from_utf8_lossy(&spared)
            )));
        }
    }
    Ok(())
}

/// Refuses where there is no room for another tree beside what is there.
pub fn refuse_full(vault: &Vault, manifest: &Manifest, paths: &[PathBuf]) -> Result<()> {
    let root = vault.root_entry(&manifest.root)?;
    // By file system: what it must hold, and has free.
    let mut sums: Vec<((u32, u32), PathBuf, u64, u64)> = Vec::new();
    for path in paths {
        let Some(above) = path.parent() else { continue };
        let (Some(dir), _) = open_root(above, false)? else { continue };
        let what = || format!("cannot look at {}", above.display());
        let (device, _) = super::live::identity(&dir).at(what)?;
        let totals = Selection::new(std::slice::from_ref(path))?.totals(vault, &root)?;
        let vfs = fstatvfs(&dir).at(what)?;
        let needs = totals.bytes.saturating_add(totals.entries.saturating_mul(ENTRY));
        let free = vfs.f_bavail.saturating_mul(vfs.f_frsize);
        if vfs.f_files > 0 && totals.entries > vfs.f_favail {
            let why = format!("it needs {} inodes, and {} are free", totals.entries, vfs.f_favail);
            return Err(no_room(path, &why));
        }
        match sums.iter_mut().find(|(d, ..)| *d == device) {
            Some((_, _, sum, _)) => *sum = sum.saturating_add(needs),
            None => sums.push((device, path.clone(), needs, free)),
        }
    }
    match sums.into_iter().find(|(_, _, needs, free)| needs > free) {
        Some((_, path, needs, free)) => Err(no_room(&path, &format!("it needs {needs} bytes, and {free} are free"))),
        None => Ok(()),
    }
}

fn no_room(path: &Path, why: &str) -> Error {
    Error::new(
        ErrorKind::NoSpace,
        format!(
            "{} cannot be restored in one step: there is no room for another tree beside it ({why}); make room, or leave \
             atomic out",
            path.display()
        ),
    )
}
