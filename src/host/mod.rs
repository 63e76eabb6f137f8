//! The machine around the daemon: who it is, its limits, its log, systemd from the inside and the
//! outside, and people who want to be told.

mod address;
pub mod alert;
pub mod command;
pub mod freezer;
pub mod limits;
pub mod log;
pub mod notify;
pub mod units;

use std::io::ErrorKind as Io;
use std::path::Path;

use uuid::Uuid;

use crate::model::{Error, IoContext, Result};

pub use address::BusAddress;

/// The machine's name, as it is now.
pub fn name() -> String {
    nix::unistd::gethostname().map_or_else(|_| "localhost".into(), |name| name.to_string_lossy().into_owned())
}

/// The machine's identity: made once, kept in the state directory, and with it through renames
/// and new hardware.
pub fn machine_id(state_dir: &Path) -> Result<Uuid> {
    let path = state_dir.join("machine-id");
    match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|_| {
            Error::damaged(format!("{} holds no machine id; restore it from a copy, or remove it", path.display()))
        }),
        Err(e) if e.kind() == Io::NotFound => {
            let id = Uuid::new_v4();
            write_new(&path, format!("{id}\n").as_bytes()).at(|| format!("cannot write {}", path.display()))?;
            Ok(id)
        }
        Err(e) => Err(Error::io(format!("cannot read {}", path.display()), &e)),
    }
}

/// Makes this machine the one that had the identity `id`, from the next start on.
pub fn set_machine_id(state_dir: &Path, id: Uuid) -> Result<()> {
    let path = state_dir.join("machine-id");
    write_new(&path, format!("{id}\n").as_bytes()).at(|| format!("cannot write {}", path.display()))
}

/// Writes a small private file, whole or not at all.
fn write_new(path: &Path, data: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let beside = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(data)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    match path.parent() {
        Some(parent) => std::fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_keeps_its_identity() {
        let dir = tempfile::tempdir().unwrap();
        let id = machine_id(dir.path()).unwrap();
        assert_eq!(machine_id(dir.path()).unwrap(), id);
        std::fs::write(dir.path().join("machine-id"), "nonsense").unwrap();
        assert!(machine_id(dir.path()).is_err());
        assert!(!name().is_empty());
    }
}
