//! What can be said against a restore before it begins.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;

use super::dir::open_dir;
use super::job::{never, open_root};
use super::live;
use super::select::Selection;
use super::{Conflict, RestoreRequest};
use crate::model::{Error, IoContext, Result};
use crate::vault::{Manifest, Vault};

/// The checks made before a restore is queued: the target is absolute, a directory that can be
/// written and none of Strongroom's own; the paths are in the backup.
pub fn check(vault: &Vault, manifest: &Manifest, request: &RestoreRequest) -> Result<()> {
    let selection = Selection::new(&request.paths)?;
    if request.delete && manifest.partial {
        return Err(Error::invalid(
            "a partial backup does not hold everything, so nothing may be deleted for its sake; leave out delete",
        ));
    }
    if request.delete && request.conflict == Conflict::Skip {
        return Err(Error::invalid("delete removes what exists and conflict skip keeps it; give one of them"));
    }
    if let Some(target) = &request.target {
        check_target(target, request)?;
    }
    selection.totals(vault, &vault.root_entry(&manifest.root)?)?;
    Ok(())
}

fn check_target(target: &Path, request: &RestoreRequest) -> Result<()> {
    if !target.is_absolute() || target.components().any(|part| part == Component::ParentDir) {
        return Err(Error::invalid(format!("the target {target:?} must be an absolute path without '..'")));
    }
    if target.as_os_str().as_bytes().contains(&0) {
        return Err(Error::invalid("the target has a NUL byte in it, which no path can"));
    }
    let own = never(&request.never);
    let (mut dir, mut seen) = (open_dir(CWD, b"/").at(|| "cannot open /")?, Path::new("/").to_path_buf());
    for part in target.components() {
        let Component::Normal(name) = part else { continue };
        if name.len() > 255 {
            return Err(Error::invalid(format!("the target has a name of {} bytes, and 255 is the most", name.len())));
        }
        dir = match open_dir(&dir, name.as_bytes()) {
            Ok(next) => next,
            Err(Errno::NOENT) => break,
            // The same step again, which says what is wrong with it.
            Err(_) => return open_root(&seen.join(name), false).map(|_| ()),
        };
        seen.push(name);
        if own.contains(&live::identity(&dir).at(|| format!("cannot look at {seen:?}"))?) {
            return Err(Error::invalid(format!(
                "the target {target:?} lies inside Strongroom's own directory {seen:?}; give another"
            )));
        }
    }
    let root = open_dir(CWD, b"/").at(|| "cannot open /")?;
    let same = |a, b| live::identity(a).and_then(|a| live::identity(b).map(|b| a == b));
    if seen == target && same(&dir, &root).at(|| "cannot look at /")? {
        return Err(Error::invalid("the target is /, which is in place; leave target out and give confirm true"));
    }
    match accessat(&dir, c".", Access::WRITE_OK, AtFlags::EACCESS) {
        Ok(()) => Ok(()),
        Err(Errno::ROFS) => {
            Err(Error::invalid(format!("the target {target:?} is on a file system that is mounted read-only")))
        }
        Err(e) => Err(Error::invalid(format!("nothing can be written to {seen:?}: {}", std::io::Error::from(e)))),
    }
}
