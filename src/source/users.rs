//! Processes that have something open beneath a directory, as `/proc` tells them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::model::{Error, IoContext, Result};

/// The number of the capability without which `/proc` tells of our own processes alone.
const SYS_PTRACE: u32 = 19;

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
/// ourselves do not count, nor does who is outside of the container that we may be in. An error says that
/// it cannot be seen.
pub fn beneath(dir: &Path) -> Result<Vec<User>> {
    let status = fs::read_to_string("/proc/self/status").at(|| "cannot read which capabilities there are")?;
    if !may_look(&status) {
        return Err(Error::invalid_state(format!(
            "it cannot be seen who has files in {} open; that takes the capability CAP_SYS_PTRACE, which the unit has as it is \
             delivered",
            dir.display()
        )));
    }
    let own = std::process::id();
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    Ok(numbers.filter(|pid| *pid != own).filter_map(|pid| look(pid, dir)).collect())
}

/// Whether a process of this status may look at others.
fn may_look(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok())
        .is_some_and(|all| all >> SYS_PTRACE & 1 == 1)
}

fn look(pid: u32, dir: &Path) -> Option<User> {
    let at = PathBuf::from(format!("/proc/{pid}"));
    let leads = |link: PathBuf| fs::read_link(link).is_ok_and(|to| to.starts_with(dir));
    let uses = ["cwd", "root", "exe"].iter().any(|link| leads(at.join(link)))
        || fs::read_dir(at.join("fd")).into_iter().flatten().flatten().any(|entry| leads(entry.path()))
        || fs::read_to_string(at.join("maps")).is_ok_and(|maps| {
            maps.lines()
                .any(|line| line.find('/').and_then(|n| line.get(n..)).is_some_and(|p| Path::new(p).starts_with(dir)))
        });
    let read = |name: &str| fs::read_to_string(at.join(name)).unwrap_or_default();
    let group = || read("cgroup").lines().find_map(|l| l.strip_prefix("0::").map(str::to_owned)).unwrap_or_default();
    uses.then(|| User { pid, name: read("comm").trim().to_owned(), group: group() })
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
        if beneath(&dir).is_err_and(|e| e.message.contains("CAP_SYS_PTRACE")) {
            eprintln!("SKIPPED: not root");
            return;
        }
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

    #[test]
    fn who_may_look_is_known() {
        assert!(may_look("Name:\tx\nCapPrm:\t0\nCapEff:\t000001ffffffffff\n"));
        assert!(!may_look("CapEff:\t000001fffff7ffff\n"));
        assert!(!may_look("CapPrm:\t000001ffffffffff\n"));
    }
}
