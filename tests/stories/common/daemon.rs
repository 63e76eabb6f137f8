//! The daemon, from its start to the last trace of it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::bus::{Bus, Failure, Reply, tied};
use super::disk;
use super::tools::{sh, wait_for};

pub const MANAGER: &str = "org.strongroom1.Manager";
pub const ROOT: &str = "/org/strongroom1";
/// How long one piece of work may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(400);

/// A daemon on its own bus with its own state, in a directory that goes with it.
pub struct Daemon {
    /// Before the directory, so that it ends first.
    bus: Bus,
    child: Option<Child>,
    options: Vec<String>,
    dir: tempfile::TempDir,
}

impl Daemon {
    /// Starts one and waits until it answers.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with more options.
    pub fn start_with(options: &[&str]) -> Self {
        // Not in a file system in memory: stories move hundreds of megabytes.
        let dir = tempfile::Builder::new().prefix("strongroom-").tempdir_in("/var/tmp").unwrap();
        // Other users go through it in some stories.
        sh(dir.path(), "chmod 755 .; mkdir source");
        let bus = Bus::start(dir.path());
        let options = options.iter().map(|&o| o.to_owned()).collect();
        let mut daemon = Self { bus, child: None, options, dir };
        daemon.start_again();
        daemon
    }

    /// Starts the daemon after it ended.
    pub fn start_again(&mut self) {
        self.start_again_in(&[]);
    }

    /// The same with more in its environment.
    pub fn start_again_in(&mut self, environment: &[(&str, &str)]) {
        assert!(self.child.is_none());
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        let child = tied(env!("CARGO_BIN_EXE_strongroomd"))
            .args(["--bus", self.address()])
            .arg("--config")
            .arg(self.path("strongroom.toml"))
            .arg("--state-dir")
            .arg(self.path("state"))
            .arg("--cache-dir")
            .arg(self.path("cache"))
            .arg("--browse-path")
            .arg(self.path("browse"))
            // What a test run that was ended by force leaves ends by itself.
            .args(["--browse-linger", "30"])
            .args(&self.options)
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        wait_for("the daemon answers", Duration::from_secs(60), || {
            let ended = self.child.as_mut().and_then(|c| c.try_wait().unwrap());
            assert!(ended.is_none(), "the daemon ended with {ended:?}");
            self.call("ListProjects a{sv} 0").is_ok()
        });
    }

    /// The daemon's process.
    pub fn pid(&self) -> Pid {
        let child = self.child.as_ref().expect("the daemon runs");
        Pid::from_raw(i32::try_from(child.id()).unwrap())
    }

    /// Ends the daemon as a power failure would.
    pub fn kill(&mut self) {
        kill(self.pid(), Signal::SIGKILL).unwrap();
        self.child.take().unwrap().wait().unwrap();
    }

    /// Asks the daemon to end, and gives how it ended.
    pub fn stop(&mut self) -> std::process::ExitStatus {
        kill(self.pid(), Signal::SIGTERM).unwrap();
        let mut child = self.child.take().unwrap();
        let mut status = None;
        wait_for("the daemon ends", Duration::from_secs(40), || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Whether the same daemon is still there and well.
    pub fn assert_well(&mut self) {
        let ended = self.child.as_mut().expect("the daemon runs").try_wait().unwrap();
        assert!(ended.is_none(), "the daemon ended with {ended:?}");
        let log = self.log();
        assert!(!log.contains("panicked"), "a panic: {log}");
    }

    /// What the daemon logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.path("log")).unwrap_or_default()).into_owned()
    }

    /// The process that holds the mount.
    pub fn browse_pid(&self) -> Option<Pid> {
        let mount = self.path("browse");
        let mount = mount.to_str().unwrap();
        std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let words: Vec<_> = line.split(|b| *b == 0).collect();
            let ours = words.contains(&&b"--mount"[..]) && words.contains(&mount.as_bytes());
            ours.then_some(Pid::from_raw(pid))
        })
    }

    /// The bus's address.
    pub fn address(&self) -> &str {
        &self.bus.address
    }

    /// A path in the story's own directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The story's own directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What the stories back up, if they say nothing else.
    pub fn source(&self) -> PathBuf {
        self.path("source")
    }

    /// Where the vault `main` lies.
    pub fn store(&self) -> PathBuf {
        self.path("state/vault")
    }

    /// Calls a method of the Manager. The words of the line are its name, the signature and the
    /// arguments; `''` is an empty one.
    pub fn call(&self, line: &str) -> Result<Reply, Failure> {
        let words = split(line);
        self.call_with(words[0], &words[1..])
    }

    /// The same for arguments with spaces in them.
    pub fn call_with<S: AsRef<str>>(&self, method: &str, words: &[S]) -> Result<Reply, Failure> {
        self.bus.call(ROOT, MANAGER, method, words)
    }

    /// A call by a user without any rights.
    pub fn call_as_stranger(&self, line: &str) -> Result<Reply, Failure> {
        let words = split(line);
        self.bus.call_as_stranger(ROOT, MANAGER, words[0], &words[1..])
    }

    /// A call that must succeed.
    pub fn ok(&self, line: &str) -> Reply {
        self.call(line).unwrap_or_else(|e| panic!("{line}: {e:?}"))
    }

    /// A call to another object than the Manager.
    pub fn object(&self, object: &str, interface: &str, method: &str, words: &[&str]) -> Result<Reply, Failure> {
        self.bus.call(object, interface, method, words)
    }

    /// Adds a resource of one directory.
    pub fn add(&self, name: &str, path: &Path) -> u64 {
        self.ok(&format!("AddResource sa{{sv}} {name} 1 paths as 1 {}", path.display())).as_u64().unwrap()
    }

    /// Starts a backup: its id and its job.
    pub fn begin(&self, resource: &str) -> (u64, u64) {
        let backup = self.ok(&format!("CreateBackup sa{{sv}} {resource} 0"));
        (backup["id"].as_u64().unwrap(), number(&backup["job"]))
    }

    /// Backs up a resource; the backup as it was completed.
    pub fn back_up(&self, resource: &str) -> Reply {
        let (id, job) = self.begin(resource);
        let job = self.wait(job);
        assert_eq!(job["state"], "completed", "{job}");
        let backup = self.ok(&format!("GetBackup t {id}"));
        assert_eq!(backup["status"], "completed", "{backup}");
        backup
    }

    /// Waits until a job has ended, and gives it.
    pub fn wait(&self, job: u64) -> Reply {
        let mut last = Reply::Null;
        wait_for("the job ends", PATIENCE, || {
            last = self.ok(&format!("GetJob t {job}"));
            ended(&last)
        });
        last
    }

    /// Waits until a job has left the state of waiting.
    pub fn wait_running(&self, job: u64) {
        wait_for("the job runs", PATIENCE, || self.ok(&format!("GetJob t {job}"))["state"] != "pending");
    }

    /// Does work by a method that answers with a job's path; the job must be completed.
    pub fn work(&self, line: &str) -> Reply {
        let job = self.wait(number(&self.ok(line)));
        assert_eq!(job["state"], "completed", "{line}: {job}");
        job
    }

    /// Waits for the job of what a method answered; it must be completed.
    pub fn work_of(&self, made: &Reply) {
        let job = self.wait(number(&made["job"]));
        assert_eq!(job["state"], "completed", "{made}: {job}");
    }

    /// Waits until there is nothing left to do.
    pub fn settle(&self) {
        wait_for("all is done", PATIENCE, || self.ok("ListJobs a{sv} 1 state s in_progress")[0] == 0);
    }

    /// Restores a whole backup into an empty directory, and gives where it is.
    pub fn restore(&self, id: u64, target: &str) -> PathBuf {
        let target = self.path(target);
        std::fs::create_dir(&target).unwrap();
        let job = self.work(&format!("RestoreBackup ta{{sv}} {id} 1 target s {}", target.display()));
        assert_eq!(job["result"]["errors"], 0, "{job}");
        target
    }

    /// A backup on the mount, from its root.
    pub fn browse(&self, id: u64) -> PathBuf {
        self.path(&format!("browse/backups/{id}"))
    }

    /// Ids of the completed backups, in order.
    pub fn completed(&self) -> Vec<u64> {
        let list = self.ok("ListBackups a{sv} 3 status s completed page_size u 1000 sort as 1 id");
        list[1].as_array().unwrap().iter().map(|b| b["id"].as_u64().unwrap()).collect()
    }

    /// Everything that the daemon can list, to compare with later.
    pub fn catalog(&self) -> Vec<Reply> {
        let kinds = [
            "Projects",
            "Resources",
            "Destinations",
            "Vaults",
            "Backups",
            "Checkpoints",
            "Snapshots",
            "Schedules",
            "Jobs",
        ];
        let lists = kinds.iter().map(|kind| {
            let mut list = self.ok(&format!("List{kind} a{{sv}} 1 page_size u 1000"));
            for row in list[1].as_array_mut().unwrap() {
                // The disk is everybody's, and a job's speed is time's.
                for key in ["free", "rate"] {
                    row.as_object_mut().unwrap().remove(key);
                }
            }
            list
        });
        lists.chain([self.ok("ListTasks a{sv} 1 page_size u 1000")]).collect()
    }
}

/// The id at the end of an object's path.
pub fn number(path: &Reply) -> u64 {
    path.as_str().and_then(|p| p.rsplit('/').next()?.parse().ok()).unwrap_or_else(|| panic!("{path} is no object"))
}

fn split(line: &str) -> Vec<&str> {
    line.split_whitespace().map(|w| if w == "''" { "" } else { w }).collect()
}

fn ended(job: &Reply) -> bool {
    ["completed", "failed", "cancelled"].iter().any(|state| job["state"] == *state)
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().rev().take(40).collect();
            println!("the daemon's last words:");
            lines.iter().rev().for_each(|line| println!("  {line}"));
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(pid) = self.browse_pid() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        disk::clear(self.dir.path());
        let dir = self.dir.path();
        let _ = Command::new("chattr").args(["-R", "-f", "-ia"]).arg(dir).stderr(Stdio::null()).status();
        // `rm` goes deeper than any path can name.
        let _ = Command::new("rm").arg("-rf").arg(dir).stderr(Stdio::null()).status();
    }
}
