//! Exports: to a new file that has its name only when it is whole, or to a descriptor.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::json;

use super::sink::Sink;
use super::{Report, error_list};
use crate::catalog::Job;
use crate::model::{Error, IoContext, Progress, Result};
use crate::restore::{self, Format};
use crate::service::{Service, locked};

/// The file that an export is written to before it has its name: beside it, and told by the job.
pub(in crate::service) fn temporary(path: &Path, job: u64) -> PathBuf {
    // A name of its own: the final one may be as long as names can be.
    path.with_file_name(OsString::from(format!(".strongroom-export-{job}")))
}

struct Remove<'a>(Option<&'a Path>);

impl Drop for Remove<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Service {
    pub(super) fn run_export(
        &self,
        job: &Job,
        path: Option<&Path>,
        format: &str,
        progress: &Arc<Progress>,
    ) -> Result<Report> {
        let row = self.backup_of_job(job)?;
        let open = self.vault_to_read(job)?;
        let manifest = self.manifest(&open.vault, &row)?;
        progress.expect(manifest.totals.entries, manifest.totals.bytes);
        let format = match format {
            "tar" => Format::Tar,
            "tar.gz" => Format::TarGz,
            _ => Format::TarZst,
        };
        let export = |out: Box<dyn Write + Send>| restore::export(&open.vault, &manifest, format, out, progress);
        let done = match path {
            None => {
                let fd = locked(&self.descriptors)
                    .remove(&job.id)
                    .ok_or_else(|| Error::failed("the descriptor that the caller passed is gone; export again"))?;
                export(Box::new(Sink::new(fd, Arc::clone(progress))?))?
            }
            Some(path) => {
                let beside = temporary(path, job.id);
                let what = || format!("cannot write {}", path.display());
                let file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .custom_flags(nix::libc::O_NOFOLLOW)
                    .open(&beside)
                    .at(what)?;
                let mut remove = Remove(Some(&beside));
                let done = export(Box::new(file.try_clone().at(what)?))?;
                file.sync_all().at(what)?;
                renameat_with(CWD, &beside, CWD, path, RenameFlags::NOREPLACE).map_err(|e| {
                    if e == rustix::io::Errno::EXIST {
                        Error::already_exists(format!("{} was made by somebody else meanwhile", path.display()))
                    } else {
                        Error::io(what(), &e.into())
                    }
                })?;
                remove.0 = None;
                if let Some(parent) = path.parent() {
                    File::open(parent).and_then(|d| d.sync_all()).at(what)?;
                }
                done
            }
        };
        let mut result = json!({
            "files": done.files, "bytes": done.bytes, "written": done.written, "errors": done.errors,
        });
        if let Some(path) = path {
            result["path"] = path.to_string_lossy().into();
        }
        if !done.error_list.is_empty() {
            result["error_list"] = error_list(&done.error_list);
        }
        Ok(Report::of(result))
    }
}
