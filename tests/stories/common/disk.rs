//! File systems for a story alone: made in a file, mounted, and gone with the story.

use std::path::{Path, PathBuf};

use super::tools::sh;

/// A mounted file system. It goes when it is dropped, or with the daemon in whose directory it is.
pub struct Disk {
    pub path: PathBuf,
}

impl Disk {
    /// Makes a file system of `megabytes` at `path`.
    pub fn new(kind: &str, megabytes: u32, path: &Path) -> Self {
        let shown = path.display();
        sh(Path::new("/"), &format!("mkdir -p {shown}; truncate -s {megabytes}M {shown}.img"));
        // Small blocks would have no room for large attributes.
        let quiet = if kind == "ext4" { "-qF -b 4096" } else { "-qf" };
        sh(Path::new("/"), &format!("mkfs.{kind} {quiet} {shown}.img 2>&1; mount -o loop {shown}.img {shown}"));
        sh(path, "rm -rf lost+found");
        Self { path: path.to_owned() }
    }

    /// Mounts something else, by the arguments of `mount` before the directory.
    pub fn mounted(arguments: &str, path: &Path) -> Self {
        let shown = path.display();
        sh(Path::new("/"), &format!("mkdir -p {shown}; mount {arguments} {shown}"));
        Self { path: path.to_owned() }
    }

    /// Holds every writer back, until it is thawed.
    pub fn freeze(&self) {
        sh(&self.path, "fsfreeze -f .");
    }

    /// Lets writers go on.
    pub fn thaw(&self) {
        let path = self.path.display();
        sh(Path::new("/"), &format!("fsfreeze -u {path} 2>/dev/null || true"));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.thaw();
        clear(&self.path);
    }
}

/// Unmounts everything at and beneath a directory, the innermost first.
pub fn clear(dir: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut beneath: Vec<_> = mounts.lines().filter_map(|l| l.split(' ').nth(4)).map(Path::new).collect();
    beneath.retain(|mount| mount.starts_with(dir));
    for mount in beneath.iter().rev() {
        let _ =
            std::process::Command::new("fsfreeze").arg("-u").arg(mount).stderr(std::process::Stdio::null()).status();
        let _ = nix::mount::umount2(*mount, nix::mount::MntFlags::MNT_DETACH);
    }
}
