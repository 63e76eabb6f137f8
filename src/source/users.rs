//! Processes that have something open beneath a directory, as `/proc` tells them.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::model::{Error, Result};

/// How many of them words name.
const NAMED: usize = 5;

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its number.
    pub pid: u32,
    /// What it is called.
    pub name: String,
    /// Its control group.
    group: String,
}

impl User {
    /// Whether it belongs to one of some units.
    pub fn is_of(&self, units: &[String]) -> bool {
        self.group.split('/').any(|part| units.iter().any(|unit| unit == part))
    }
}

/// All that have the directory or anything beneath it open, run from there, or stand there; we
/// ourselves do not count. An error says that there are some of which it cannot be seen.
pub fn beneath(dir: &Path) -> Result<Vec<User>> {
    let own = std::process::id();
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.filter(|pid| *pid != own).filter_map(|pid| look(pid, dir).transpose()).collect()
}

fn look(pid: u32, dir: &Path) -> Result<Option<User>> {
    let at = PathBuf::from(format!("/proc/{pid}"));
    // What may be listed may still not say where it leads.
    if fs::read_link(at.join("cwd")).is_err_and(|e| e.kind() == ErrorKind::PermissionDenied) {
        return Err(Error::failed(format!(
            "it cannot be seen which files process {pid} has open, so nobody knows who uses {}; that takes root's rights with \
             CAP_SYS_PTRACE",
            dir.display()
        )));
    }
    let leads = |link: PathBuf| fs::read_link(link).is_ok_and(|to| to.starts_with(dir));
    let uses = ["cwd", "root", "exe"].iter().any(|link| leads(at.join(link)))
        || fs::read_dir(at.join("fd")).into_iter().flatten().flatten().any(|entry| leads(entry.path()))
        || fs::read_to_string(at.join("maps")).is_ok_and(|maps| {
            maps.lines()
                .any(|line| line.find('/').and_then(|n| line.get(n..)).is_some_and(|p| Path::new(p).starts_with(dir)))
        });
    let read = |name: &str| fs::read_to_string(at.join(name)).unwrap_or_default();
    let group = || read("cgroup").lines().find_map(|l| l.strip_prefix("0::").map(str::to_owned)).unwrap_or_default();
    Ok(uses.then(|| User { pid, name: read("comm").trim().to_owned(), group: group() }))
}

/// Some of them, by name and number.
pub fn words(users: &[User]) -> String {
    let mut named: Vec<String> = users.iter().take(NAMED).map(|u| format!("{} ({})", u.name, u.pid)).collect();
    if users.len() > NAMED {
        named.push(format!("{} more", users.len() - NAMED));
    }
    named.join(", ")
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn who_uses_a_directory_is_found() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().canonicalize().unwrap();
        fs::write(dir.join("file"), "x").unwrap();
        assert_eq!(beneath(&dir).unwrap(), []);
        let held = fs::File::open(dir.join("file")).unwrap();
        let mut child = Command::new("sleep").arg("100").stdin(Stdio::from(held)).current_dir("/").spawn().unwrap();
        let found = beneath(&dir).unwrap();
        assert_eq!(found.iter().map(|u| u.pid).collect::<Vec<_>>(), [child.id()]);
        assert_eq!(words(&found), format!("{} ({})", found[0].name, child.id()));
        // One of the same beginning is another directory.
        assert_eq!(beneath(&dir.join("fil")).unwrap(), []);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_process_belongs_to_its_unit() {
        let user = User { pid: 1, name: "x".into(), group: "/system.slice/db@one.service/inner".into() };
        assert!(user.is_of(&["web.service".into(), "db@one.service".into()]));
        assert!(!user.is_of(&["db@.service".into(), "db.service".into()]));
    }
}
