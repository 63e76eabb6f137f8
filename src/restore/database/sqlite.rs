//! SQLite: written beside the file, checked by SQLite itself, and renamed over it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, openat, renameat, renameat_with, unlinkat};
use rustix::io::Errno;

use super::{Goal, Item, Plan};
use crate::model::{Error, IoContext, Result};
use crate::source::database::sqlite::{program, tool};
use crate::source::database::tool::RunAs;

/// What stands beside a database's file and belongs to it.
const SIDES: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Where a database's file is: its directory, opened, and its name.
struct Spot {
    dir: OwnedFd,
    path: PathBuf,
    name: OsString,
}

impl Spot {
    /// The administrator named the path, so symbolic links on the way count, also one at its end.
    fn of(path: &Path) -> Result<Self> {
        let real = match std::fs::canonicalize(path) {
            Ok(real) => real,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => path.to_owned(),
            Err(e) => return Err(e).at(|| format!("cannot look at {}", path.display())),
        };
        let (Some(above), Some(name)) = (real.parent(), real.file_name()) else {
            return Err(Error::invalid_state(format!("{} is no file", path.display())));
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(above, flags, Mode::empty()).at(|| format!("cannot open {}", above.display()))?;
        Ok(Self { dir, path: above.to_owned(), name: name.to_owned() })
    }

    /// The name of the new one until it has its own.
    fn beside(item: &Item) -> OsString {
        format!(".{}", item.new_name()).into()
    }

    fn exists(&self) -> Result<bool> {
        match rustix::fs::statat(&self.dir, self.name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(e).at(|| format!("cannot look at {:?}", self.name)),
        }
    }

    /// Who is to own the file, and its mode: as the one that is there, else as the directory.
    fn owner(&self) -> Result<(RunAs, u32)> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let (file, mode) = match openat(&self.dir, self.name.as_bytes(), flags, Mode::empty()) {
            Ok(file) => (File::from(file), None),
            Err(Errno::NOENT) => (File::from(self.dir.try_clone().at(|| "cannot look at the directory")?), Some(0o600)),
            Err(e) => return Err(e).at(|| format!("cannot look at {:?}", self.name)),
        };
        let meta = file.metadata().at(|| "cannot look at the database")?;
        if mode.is_none() && !meta.is_file() {
            return Err(Error::invalid_state(format!("{:?} is not a plain file", self.name)));
        }
        Ok((RunAs { uid: meta.uid(), gid: meta.gid() }, mode.unwrap_or(meta.mode() & 0o777)))
    }

    fn remove(&self, name: &OsStr) -> Result<()> {
        match unlinkat(&self.dir, name.as_bytes(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e).at(|| format!("cannot remove {name:?}")),
        }
    }

    fn sync(&self) -> Result<()> {
        rustix::fs::fsync(&self.dir).at(|| format!("cannot write {}", self.path.display()))
    }
}

fn side(name: &OsStr, side: &str) -> OsString {
    let mut name = name.to_owned();
    name.push(side);
    name
}

/// The files of a database that is being restored, by all paths that lead to them.
pub fn files(item: &Item) -> Vec<PathBuf> {
    let path = Path::new(&item.name);
    let mut found = Vec::new();
    let mut add = |dir: &Path, name: &OsStr| {
        found.push(dir.join(name));
        found.extend(SIDES.iter().map(|end| dir.join(side(name, end))));
        found.push(dir.join(Spot::beside(item)));
    };
    if let (Some(dir), Some(name)) = (path.parent(), path.file_name()) {
        add(dir, name);
        if let Ok(real) = std::fs::canonicalize(dir) {
            add(&real, name);
        }
    }
    if let Ok(spot) = Spot::of(path) {
        add(&spot.path, &spot.name);
    }
    found
}

/// Checks that the program is there and the directory too.
pub fn check(goal: &Goal, plan: &Plan<'_>) -> Result<Option<String>> {
    program(plan.progress)?;
    let spot = Spot::of(Path::new(&goal.name()))?;
    if goal.fresh.is_some() && spot.exists()? {
        return Err(Error::already_exists(format!("{} exists; give another name", goal.name())));
    }
    spot.owner()?;
    Ok(None)
}

/// Writes the file beside, and has SQLite check it.
pub fn stage(goal: &Goal, item: &Item, plan: &Plan<'_>) -> Result<()> {
    let spot = Spot::of(Path::new(&item.name))?;
    let (owner, mode) = spot.owner()?;
    let beside = Spot::beside(item);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(&spot.dir, beside.as_bytes(), flags, Mode::RUSR | Mode::WUSR);
    let mut file = File::from(file.at(|| format!("cannot write into {}", spot.path.display()))?);
    for part in plan.vault.each_part(&goal.dump.content, goal.dump.size) {
        let part = part?;
        plan.progress.check()?;
        let bytes = plan.vault.read_blob(&part.id)?;
        file.write_all(&bytes).at(|| format!("cannot write {}", item.name))?;
        plan.progress.add(0, part.len);
    }
    if owner != RunAs::us() {
        std::os::unix::fs::fchown(&file, Some(owner.uid), Some(owner.gid)).at(|| "cannot set the owner")?;
    }
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).at(|| "cannot set the mode")?;
    file.sync_all().at(|| format!("cannot write {}", item.name))?;
    let tool = tool(&program(plan.progress)?, &spot.path.join(&beside), owner);
    let said = tool.output(b"PRAGMA integrity_check(1);", plan.progress)?;
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    if said != "ok" && goal.dump.size > 0 {
        return Err(Error::failed(format!("the restored database is not sound: {said}")));
    }
    Ok(())
}

/// Renames the new one over the old.
pub fn swap(item: &Item) -> Result<()> {
    let spot = Spot::of(Path::new(&item.name))?;
    let beside = Spot::beside(item);
    let what = || format!("cannot put {} in place", item.name);
    if item.fresh {
        renameat_with(&spot.dir, beside.as_bytes(), &spot.dir, spot.name.as_bytes(), RenameFlags::NOREPLACE).map_err(
            |e| match e {
                Errno::EXIST => Error::already_exists(format!("somebody made {} meanwhile", item.name)),
                e => Error::io(what(), &e.into()),
            },
        )?;
        return spot.sync();
    }
    if spot.exists()? {
        fold(&spot)?;
    }
    // What the old one had beside it would be taken for the new one's.
    for end in SIDES {
        spot.remove(&side(&spot.name, end))?;
    }
    spot.sync()?;
    renameat(&spot.dir, beside.as_bytes(), &spot.dir, spot.name.as_bytes()).at(what)?;
    spot.sync()
}

/// Brings what stands beside the old database into it, so that it is complete by itself; a damaged one
/// is left as it is.
fn fold(spot: &Spot) -> Result<()> {
    let calm = std::sync::Arc::default();
    let (owner, _) = spot.owner()?;
    let tool = tool(&program(&calm)?, &spot.path.join(&spot.name), owner);
    // Leaving the mode of a write-ahead log takes everybody else to be gone.
    let (said, status, complaint) =
        tool.run(b".timeout 5000\nPRAGMA journal_mode = DELETE;\nBEGIN EXCLUSIVE;\nCOMMIT;\n", &calm)?;
    if complaint.contains("locked") || String::from_utf8_lossy(&said).contains("wal") {
        return Err(Error::invalid_state(format!(
            "{} is in use by another program; stop it, or name its unit among the resource's units",
            spot.path.join(&spot.name).display()
        )));
    }
    if !status.success() {
        tracing::warn!("what is replaced is no sound database: {complaint}");
    }
    Ok(())
}

/// Removes what stands beside.
pub fn settle(item: &Item) -> Result<()> {
    let spot = match Spot::of(Path::new(&item.name)) {
        Ok(spot) => spot,
        // Where there is no directory, there is nothing in it.
        Err(_) if !Path::new(&item.name).parent().is_some_and(Path::exists) => return Ok(()),
        Err(e) => return Err(e),
    };
    let beside = Spot::beside(item);
    spot.remove(&beside)?;
    for end in SIDES {
        spot.remove(&side(&beside, end))?;
    }
    Ok(())
}
