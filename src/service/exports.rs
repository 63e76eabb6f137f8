//! Exports.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::submit::Draft;
use super::{Service, backups, check, locked};
use crate::catalog::Task;
use crate::jobs::{Lane, Ticket};
use crate::model::{Args, Error, Map, Result};

impl Service {
    /// Starts a job that writes a backup as a tar archive, to a new file or a descriptor.
    pub fn export_backup(&self, id: u64, options: Map) -> Result<u64> {
        let mut args = Args::new(options);
        let path = args.string("path")?;
        let fd = args.fd("fd")?;
        let format = args.choice("format", &["tar", "tar.gz", "tar.zst"])?.unwrap_or_else(|| "tar.zst".into());
        args.finish()?;
        let path = match (path, &fd) {
            (Some(_), Some(_)) => return Err(Error::invalid("path and fd are both given; give one of them")),
            (None, None) => return Err(Error::invalid("path and fd are both missing; give one of them")),
            (Some(path), None) => Some(check::clean_path("path", Path::new(&path))?),
            (None, Some(fd)) => {
                writable(fd)?;
                None
            }
        };
        if let Some(path) = &path {
            let ours = self.catalog.read(|r| self.own_directories(r))?;
            check::not_ours("path", path, &ours)?;
            if path.symlink_metadata().is_ok() {
                return Err(Error::already_exists(format!("path is {}, which exists; give a new one", path.display())));
            }
            let parent = path.parent().ok_or_else(|| Error::invalid("path is /; give the file to make"))?;
            if !parent.is_dir() {
                return Err(Error::invalid(format!(
                    "path is {}, but {} is not a directory; make it first",
                    path.display(),
                    parent.display()
                )));
            }
            if nix::unistd::access(parent, nix::unistd::AccessFlags::W_OK).is_err() {
                return Err(Error::invalid(format!(
                    "path is {}, but {} cannot be written; give another place",
                    path.display(),
                    parent.display()
                )));
            }
        }
        let (job, ()) = self.submit_with(|w, job| {
            let row = backups::completed(w, id)?;
            if let Some(fd) = fd {
                locked(&self.descriptors).insert(job, fd);
            }
            let draft = Draft {
                resource: Some(row.resource),
                backup: Some(id),
                vault: Some(row.vault),
                ..Draft::new(Task::Export { path, format }, Ticket::free(Lane::Export))
            };
            Ok((draft, ()))
        })?;
        Ok(job)
    }
}

fn writable(fd: &Arc<OwnedFd>) -> Result<()> {
    let flags = fcntl(fd.as_fd(), FcntlArg::F_GETFL)
        .map(OFlag::from_bits_truncate)
        .map_err(|e| Error::invalid(format!("fd {} cannot be used: {e}", fd.as_raw_fd())))?;
    if flags.contains(OFlag::O_PATH) || !(flags.intersects(OFlag::O_WRONLY | OFlag::O_RDWR)) {
        return Err(Error::invalid("fd is not open for writing; pass one that is"));
    }
    Ok(())
}
