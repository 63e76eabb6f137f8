//! "I restarted it while somebody was reading a backup, and they noticed nothing", and who may
//! read what there.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use crate::common::{Daemon, Disk, sh, sh_fails, wait_for};
use crate::needs_root;

/// The id of the mount, which another mount at the same place would not have.
fn mount_id(daemon: &Daemon) -> Option<String> {
    let place = daemon.path("browse");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut lines = mounts.lines().filter(|l| l.split(' ').nth(4).map(Path::new) == Some(place.as_path()));
    lines.next_back().map(|l| l.split(' ').next().unwrap().to_owned())
}

/// A daemon with a backup of one large file, and where that file is on the mount.
fn with_large_file() -> (Daemon, std::path::PathBuf) {
    let daemon = Daemon::start();
    sh(&daemon.source(), "head -c 40000000 /dev/urandom > large; echo small > small");
    daemon.add("web", &daemon.source());
    let id = daemon.back_up("web")["id"].as_u64().unwrap();
    let large = daemon.browse(id).join(daemon.source().strip_prefix("/").unwrap()).join("large");
    (daemon, large)
}

fn survives(end: impl FnOnce(&mut Daemon)) {
    let (mut daemon, large) = with_large_file();
    let original = std::fs::read(daemon.source().join("large")).unwrap();
    let mount = mount_id(&daemon).expect("it is mounted");
    let mut file = std::fs::File::open(&large).unwrap();
    let mut half = vec![0; 5_000_000];
    file.read_exact(&mut half).unwrap();
    end(&mut daemon);
    // While no daemon is there.
    let mut next = vec![0; 10_000_000];
    file.read_exact(&mut next).unwrap();
    daemon.start_again();
    let mut rest = Vec::new();
    file.read_to_end(&mut rest).unwrap();
    assert!([half, next, rest].concat() == original);
    file.seek(SeekFrom::Start(39_000_000)).unwrap();
    assert_eq!(mount_id(&daemon), Some(mount), "another mount");
    // The new daemon feeds the old mount.
    sh(&daemon.source(), "echo more > more");
    let id = daemon.back_up("web")["id"].as_u64().unwrap();
    assert_eq!(sh(&daemon.browse(id).join(daemon.source().strip_prefix("/").unwrap()), "cat more"), "more\n");
}

#[test]
fn readers_outlive_a_restart() {
    needs_root!("readers_outlive_a_restart");
    survives(|daemon| assert_eq!(daemon.stop().code(), Some(0)));
}

#[test]
fn readers_outlive_a_crash_of_the_daemon() {
    needs_root!("readers_outlive_a_crash_of_the_daemon");
    survives(Daemon::kill);
}

#[test]
fn the_mount_comes_back_by_itself() {
    needs_root!("the_mount_comes_back_by_itself");
    let (mut daemon, large) = with_large_file();
    for _ in 0..2 {
        let pid = daemon.browse_pid().expect("it is mounted");
        kill(pid, Signal::SIGKILL).unwrap();
        wait_for("another process mounts", Duration::from_secs(30), || {
            // Reading, since what the kernel remembers of names outlives the process for a moment.
            daemon.browse_pid().is_some_and(|new| new != pid) && std::fs::read(&large).is_ok()
        });
        sh(daemon.dir(), &format!("cmp source/large {}", large.display()));
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let place = daemon.path("browse");
    let count = mounts.lines().filter(|l| l.split(' ').nth(4).map(Path::new) == Some(place.as_path())).count();
    assert_eq!(count, 1, "dead mounts are swept");
    daemon.assert_well();
}

#[test]
fn a_dead_mount_is_swept_at_start() {
    needs_root!("a_dead_mount_is_swept_at_start");
    let (mut daemon, large) = with_large_file();
    let pid = daemon.browse_pid().expect("it is mounted");
    daemon.kill();
    kill(pid, Signal::SIGKILL).unwrap();
    wait_for("the mount is dead", Duration::from_secs(10), || std::fs::metadata(daemon.path("browse")).is_err());
    daemon.start_again();
    wait_for("it is there again", Duration::from_secs(30), || std::fs::read(&large).is_ok());
    sh(daemon.dir(), &format!("cmp source/large {}", large.display()));
}

#[test]
fn backups_come_and_go_without_another_mount() {
    needs_root!("backups_come_and_go_without_another_mount");
    let (daemon, large) = with_large_file();
    let mount = mount_id(&daemon);
    let list = || sh(&daemon.path("browse/backups"), "ls");
    assert_eq!(list(), "1\n");
    let second = daemon.back_up("web")["id"].as_u64().unwrap();
    assert_eq!(list(), format!("1\n{second}\n"));
    daemon.work("DeleteBackup ta{sv} 1 0");
    assert_eq!(list(), format!("{second}\n"));
    assert!(!large.exists());
    daemon.work(&format!("DeleteBackup ta{{sv}} {second} 0"));
    assert_eq!(list(), "");
    assert_eq!(mount_id(&daemon), mount);
}

#[test]
fn the_mount_cannot_be_written() {
    needs_root!("the_mount_cannot_be_written");
    let (daemon, large) = with_large_file();
    for attempt in
        ["echo x > large", "rm small", "touch new", "mkdir dir", "chmod 777 small", "mv small other", "ln small hard"]
    {
        let said = sh_fails(large.parent().unwrap(), attempt);
        assert!(said.contains("Read-only"), "{attempt}: {said}");
    }
    let line = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let place = daemon.path("browse");
    let line = line.lines().find(|l| l.split(' ').nth(4).map(Path::new) == Some(place.as_path())).unwrap().to_owned();
    assert!(["ro", "nosuid", "nodev"].iter().all(|o| line.split([' ', ',']).any(|w| w == *o)), "{line}");
}

/// A tree with something for everybody and something for nobody.
fn shared(daemon: &Daemon) -> std::path::PathBuf {
    sh(
        &daemon.source(),
        "echo all > all; echo none > none; chmod 600 none; echo named > named; chmod 600 named; setfacl -m u:12345:r named; \
         echo owned > owned; chown 12345 owned; chmod 400 owned; mkdir shut; echo in > shut/in; chmod 700 shut; \
         echo denied > denied; setfacl -m u:12345:- denied",
    );
    let id = daemon.back_up("web")["id"].as_u64().unwrap();
    daemon.browse(id).join(daemon.source().strip_prefix("/").unwrap())
}

/// Runs a script as a user whom nobody knows.
const STRANGER: &str = "setpriv --reuid 12345 --regid 12345 --clear-groups --inh-caps=-all";

#[test]
fn backups_are_for_root_unless_said_otherwise() {
    needs_root!("backups_are_for_root_unless_said_otherwise");
    let daemon = Daemon::start();
    daemon.add("web", &daemon.source());
    let place = shared(&daemon);
    assert_eq!(sh(&place, "cat all"), "all\n");
    for name in ["all", "named", "owned"] {
        let said = sh_fails(Path::new("/"), &format!("{STRANGER} cat {}/{name}", place.display()));
        assert!(said.contains("Permission denied"), "{name}: {said}");
    }
}

#[test]
fn a_strict_backup_keeps_the_rights_of_its_files() {
    needs_root!("a_strict_backup_keeps_the_rights_of_its_files");
    let daemon = Daemon::start();
    daemon.ok(&format!("AddResource sa{{sv}} web 2 paths as 1 {} browse s strict", daemon.source().display()));
    let place = shared(&daemon);
    let read = |name: &str| format!("{STRANGER} cat {}/{name}", place.display());
    for name in ["all", "named", "owned"] {
        assert_eq!(sh(Path::new("/"), &read(name)), format!("{name}\n"));
    }
    for name in ["none", "shut/in", "denied"] {
        assert!(sh_fails(Path::new("/"), &read(name)).contains("Permission denied"), "{name}");
    }
    // Taken back at once, for those who look again.
    daemon.ok("UpdateResource sa{sv} web 1 browse s root");
    wait_for("the rights are taken back", Duration::from_secs(10), || {
        std::process::Command::new("bash").args(["-c", &read("all")]).output().is_ok_and(|o| !o.status.success())
    });
}

#[test]
fn a_private_directory_above_keeps_strangers_out() {
    needs_root!("a_private_directory_above_keeps_strangers_out");
    let daemon = Daemon::start();
    sh(&daemon.source(), "mkdir -p above/inner; chmod 700 above; echo hidden > above/inner/file");
    let inner = daemon.source().join("above/inner");
    daemon.ok(&format!("AddResource sa{{sv}} web 2 paths as 1 {} browse s strict", inner.display()));
    let id = daemon.back_up("web")["id"].as_u64().unwrap();
    let file = daemon.browse(id).join(inner.strip_prefix("/").unwrap()).join("file");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "hidden\n");
    assert!(sh_fails(Path::new("/"), &format!("{STRANGER} cat {}", file.display())).contains("Permission denied"));
}

#[test]
fn a_destination_that_hangs_does_not_keep_the_daemon_from_starting() {
    needs_root!("a_destination_that_hangs_does_not_keep_the_daemon_from_starting");
    let mut daemon = Daemon::start();
    let disk = Disk::new("ext4", 200, &daemon.path("disk"));
    daemon.ok(&format!("AddDestination ssa{{sv}} nas local 1 directory s {}", disk.path.display()));
    daemon.ok("AddVault sa{sv} nas 1 destinations as 1 nas");
    sh(&daemon.source(), "echo one > one");
    daemon.ok(&format!("AddResource sa{{sv}} far 2 paths as 1 {} vault s nas", daemon.source().display()));
    daemon.ok(&format!("AddResource sa{{sv}} near 2 paths as 1 {} vault s main", daemon.source().display()));
    let far = daemon.back_up("far")["id"].as_u64().unwrap();
    let near = daemon.back_up("near")["id"].as_u64().unwrap();
    sh(&daemon.source(), "head -c 60000000 /dev/urandom > large");
    // A backup is cut short while it writes there, so that the next start has to write there too.
    let (cut, job) = daemon.begin("far");
    daemon.wait_running(job);
    wait_for("a session", Duration::from_secs(20), || {
        std::fs::read_dir(disk.path.join("sessions")).is_ok_and(|mut dir| dir.next().is_some())
    });
    daemon.kill();
    if let Some(browse) = daemon.browse_pid() {
        kill(browse, Signal::SIGKILL).unwrap();
    }
    sh(daemon.dir(), "umount -l browse 2> /dev/null || true");
    disk.freeze();
    daemon.start_again();
    assert_eq!(daemon.ok("ListBackups a{sv} 0")[0], 3);
    let below = daemon.source().strip_prefix("/").unwrap().to_owned();
    assert_eq!(sh(&daemon.browse(near).join(&below), "cat one"), "one\n");
    assert!(!daemon.path("browse").join(format!("backups/{far}")).exists(), "nothing is known of it yet");
    assert_eq!(daemon.ok("GetVault s nas")["name"], "nas");
    daemon.back_up("near");
    disk.thaw();
    let place = daemon.path("browse").join(format!("backups/{far}"));
    wait_for("the backups that were out of reach", Duration::from_secs(30), || place.exists());
    assert_eq!(sh(&daemon.browse(far).join(&below), "cat one"), "one\n");
    assert_eq!(daemon.ok(&format!("GetBackup t {cut}"))["status"], "failed");
    daemon.back_up("far");
    daemon.assert_well();
}
