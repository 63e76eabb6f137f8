//! What people ask who keep backups in a cloud: the questions of the fifth source's users, each
//! answered by doing it. (`schedules.rs` has those about schedules.)

use crate::common::{Daemon, Disk, differences, du, number, sh, wait_for};
use crate::needs_root;

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

fn manifests(daemon: &Daemon) -> usize {
    std::fs::read_dir(daemon.store().join("backups")).unwrap().count()
}

#[test]
fn e5_stop_a_running_backup() {
    needs_root!("e5_stop_a_running_backup");
    let mut daemon = Daemon::start();
    sh(&daemon.source(), "head -c 40000000 /dev/urandom > large");
    daemon.add("web", &daemon.source());
    let disk = Disk::new("ext4", 200, &daemon.path("disk"));
    daemon.ok(&format!("AddDestination ssa{{sv}} slow local 1 directory s {}/vault", disk.path.display()));
    daemon.ok("AddVault sa{sv} slow 1 destinations as 1 slow");
    // A disk that takes nothing keeps it at work.
    disk.freeze();
    let made = daemon.ok("CreateBackup sa{sv} web 1 vault s slow");
    let (id, job) = (made["id"].as_u64().unwrap(), number(&made["job"]));
    daemon.wait_running(job);
    let object = format!("/org/strongroom1/job/{job}");
    daemon.object(&object, "org.strongroom1.Job", "Cancel", &["a{sv}", "0"]).unwrap();
    disk.thaw();
    assert_eq!(daemon.wait(job)["state"], "cancelled");
    assert_eq!(daemon.ok(&format!("GetBackup t {id}"))["status"], "cancelled");
    assert_eq!(sh(&disk.path, "find vault -path '*/backups/*' -type f | wc -l").trim(), "0");
    assert!(!daemon.browse(id).exists());
    // The next one is whole.
    let next = daemon.ok("CreateBackup sa{sv} web 1 vault s slow");
    assert_eq!(daemon.wait(number(&next["job"]))["state"], "completed");
    let copy = daemon.restore(next["id"].as_u64().unwrap(), "back");
    assert_eq!(differences(&daemon.source(), &copy.join(daemon.source().strip_prefix("/").unwrap())), "");
    daemon.assert_well();
}

#[test]
fn e5_look_inside_and_see_sizes() {
    needs_root!("e5_look_inside_and_see_sizes");
    let daemon = Daemon::start();
    sh(&daemon.source(), "mkdir deep; head -c 3000000 /dev/urandom > deep/noise; head -c 4000000 /dev/zero > same");
    daemon.add("web", &daemon.source());
    let first = daemon.back_up("web");
    let inside = daemon.browse(first["id"].as_u64().unwrap()).join(daemon.source().strip_prefix("/").unwrap());
    sh(daemon.dir(), &format!("cmp source/deep/noise {}/deep/noise", inside.display()));
    let of = |b: &serde_json::Value, key: &str| b[key].as_u64().unwrap();
    // Told by another tool.
    let bytes: u64 = sh(&daemon.source(), "cat deep/noise same | wc -c").trim().parse().unwrap();
    assert_eq!((of(&first, "size"), of(&first, "files"), of(&first, "size_mb")), (bytes, 2, 7));
    let stored = of(&first, "stored_size");
    assert!(stored >= 3_000_000 && stored <= du(&daemon.store()), "{stored} of {}", du(&daemon.store()));
    // What changes little costs little.
    sh(&daemon.source(), "echo more > more");
    let second = daemon.back_up("web");
    assert_eq!(of(&second, "size"), bytes + 5);
    assert!(of(&second, "stored_size") < 100_000, "{second}");
    assert_eq!(daemon.ok("GetResource s web")["size"], second["size"]);
}

#[test]
fn e5_see_what_deleting_a_backup_would_free() {
    needs_root!("e5_see_what_deleting_a_backup_would_free");
    let daemon = Daemon::start();
    let unique = |id: u64| daemon.ok(&format!("GetBackup t {id}"))["unique_size"].as_u64();
    let measured = |id: u64| {
        wait_for("it is measured once nothing else is done", PATIENCE, || unique(id).is_some());
        unique(id).unwrap()
    };
    sh(&daemon.source(), "head -c 2000000 /dev/urandom > base");
    daemon.add("web", &daemon.source());
    daemon.back_up("web");
    sh(&daemon.source(), "head -c 3000000 /dev/urandom > added; cp base again");
    let middle = daemon.back_up("web")["id"].as_u64().unwrap();
    sh(&daemon.source(), "rm added");
    daemon.back_up("web");
    let said = measured(middle);
    assert!((1..=3).filter(|id| *id != middle).all(|id| unique(id).is_some_and(|size| size < 10_000)));
    let before = du(&daemon.store());
    daemon.work(&format!("DeleteBackup ta{{sv}} {middle} 0"));
    daemon.work("PruneVault sa{sv} main 0");
    // `du` counts whole blocks; a pack has a directory besides.
    let freed = before - du(&daemon.store());
    assert!(freed.abs_diff(said) < 40_000, "{freed} bytes came back of the {said} that were promised");
    // What the two that are left share belongs to the first alone once the last is gone.
    assert!(unique(1).is_none_or(|size| size < 10_000));
    daemon.work("DeleteBackup ta{sv} 3 0");
    assert!(measured(1) >= 2_000_000, "{:?}", unique(1));
}

#[test]
fn e5_find_resources_without_a_backup() {
    needs_root!("e5_find_resources_without_a_backup");
    let daemon = Daemon::start();
    sh(&daemon.source(), "mkdir a b; echo a > a/file; echo b > b/file");
    for name in ["a", "b"] {
        daemon.add(name, &daemon.source().join(name));
    }
    let names = |filter: &str| -> Vec<String> {
        let list = daemon.ok(&format!("ListResources a{{sv}} 2 {filter} b true sort as 1 id"));
        list[1].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("never_backed_up"), ["a", "b"]);
    daemon.back_up("a");
    assert_eq!(names("never_backed_up"), ["b"]);
    assert_eq!(names("unprotected"), ["a", "b"]);
    daemon.ok("SetSchedule sa{sv} s 2 cron s @yearly resources as 1 b");
    assert_eq!(names("unprotected"), ["a"]);
    assert_eq!(manifests(&daemon), 1);
}

#[test]
fn e5_an_incremental_backup_needs_no_other() {
    needs_root!("e5_an_incremental_backup_needs_no_other");
    let daemon = Daemon::start();
    sh(&daemon.source(), "mkdir deep; head -c 2000000 /dev/urandom > deep/large; echo one > small");
    daemon.add("web", &daemon.source());
    let full = daemon.ok("CreateBackup sa{sv} web 1 incremental b false");
    assert_eq!(daemon.wait(number(&full["job"]))["state"], "completed");
    sh(&daemon.source(), "echo two > small");
    let increment = daemon.back_up("web");
    assert_eq!((&increment["incremental"], increment["id"].as_u64()), (&true.into(), Some(2)));
    // Away with the full one, and with what only it needs.
    daemon.work("DeleteBackup ta{sv} 1 0");
    daemon.work("PruneVault sa{sv} main 0");
    assert_eq!(manifests(&daemon), 1);
    let copy = daemon.restore(2, "after-full");
    let below = daemon.source().strip_prefix("/").unwrap().to_owned();
    assert_eq!(differences(&daemon.source(), &copy.join(&below)), "");
    // And when its resource, and the data itself, are gone.
    sh(daemon.dir(), "mkdir kept; cp -a source/. kept/");
    daemon.ok("RemoveResource sa{sv} web 0");
    sh(daemon.dir(), "rm -r source/deep source/small");
    let copy = daemon.restore(2, "after-resource");
    assert_eq!(differences(&daemon.path("kept/deep"), &copy.join(&below).join("deep")), "");
    sh(daemon.dir(), &format!("cmp kept/small {}/small", copy.join(&below).display()));
    let seen = daemon.browse(2).join(&below);
    sh(daemon.dir(), &format!("cmp kept/deep/large {}/deep/large", seen.display()));
    let failure = daemon.call("RestoreBackup ta{sv} 2 1 confirm b true").unwrap_err();
    assert_eq!(failure.name, "org.strongroom1.Error.InvalidState", "nothing says where it belongs now");
}

#[test]
fn e5_how_to_make_backups_smaller() {
    needs_root!("e5_how_to_make_backups_smaller");
    let daemon = Daemon::start();
    sh(&daemon.source(), "mkdir cache; head -c 3000000 /dev/urandom > data; head -c 3000000 /dev/urandom > cache/junk");
    daemon.add("web", &daemon.source());
    daemon.back_up("web");
    let all = du(&daemon.store());
    // Leave out what nobody needs back, delete what nobody needs any more, and prune.
    daemon.ok("UpdateResource sa{sv} web 1 exclude as 1 cache/");
    let second = daemon.back_up("web");
    assert_eq!(second["size"], 3_000_000);
    daemon.work("DeleteBackup ta{sv} 1 0");
    daemon.work("PruneVault sa{sv} main 0");
    let left = du(&daemon.store());
    assert!(left + 2_500_000 < all && left >= 3_000_000, "{all}, then {left}");
    // What is there twice is stored once.
    sh(&daemon.source(), "cp data again");
    let third = daemon.back_up("web");
    assert!(third["stored_size"].as_u64().unwrap() < 200_000, "{third}");
    assert_eq!(third["size"], 6_000_000);
    assert!(du(&daemon.store()) < left + 500_000);
}

#[test]
fn e5_a_checkpoint_is_browsed_by_resource() {
    needs_root!("e5_a_checkpoint_is_browsed_by_resource");
    let mut daemon = Daemon::start();
    sh(&daemon.source(), "chmod 755 .; mkdir a b; echo one > a/file; echo two > b/file; chmod 644 */file");
    daemon.add("a", &daemon.source().join("a"));
    daemon.ok(&format!("AddResource sa{{sv}} b 2 paths as 1 {}/b browse s strict", daemon.source().display()));
    let points = daemon.path("browse/checkpoints");
    assert_eq!(std::fs::read_dir(&points).unwrap().count(), 0);
    let made = daemon.ok("CreateCheckpoint sa{sv} main 0");
    assert_eq!(daemon.wait(number(&made["job"]))["state"], "completed");
    daemon.back_up("a");
    let point = points.join("1");
    assert_eq!(sh(&point, "ls"), "a\nb\n");
    let below = daemon.source().strip_prefix("/").unwrap().to_owned();
    for name in ["a", "b"] {
        let copy = point.join(name).join(&below).join(name);
        assert_eq!(differences(&daemon.source().join(name), &copy), "");
    }
    // Whole, with one command; and up again to where one came from.
    sh(
        daemon.dir(),
        &format!(
            "mkdir whole && cp -a {}/. whole/ && cmp source/b/file whole/b/{}/b/file",
            point.display(),
            below.display()
        ),
    );
    assert_eq!(sh(&point, "cd a && cd .. && pwd -P"), format!("{}\n", point.display()));
    // The policy of each resource is kept.
    let as_nobody = |path: &std::path::Path| {
        let shown = path.display();
        sh(daemon.dir(), &format!("setpriv --reuid 65534 --regid 65534 --clear-groups cat {shown} 2>&1 || true"))
    };
    assert_eq!(as_nobody(&point.join("b").join(&below).join("b/file")), "two\n");
    assert!(as_nobody(&point.join("a").join(&below).join("a/file")).contains("Permission denied"));
    // It is there after a restart of both processes.
    assert!(daemon.stop().success());
    if let Some(pid) = daemon.browse_pid() {
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    daemon.start_again();
    wait_for("the mount is back", PATIENCE, || std::fs::read_dir(&point).is_ok_and(|dir| dir.count() == 2));
    // Backups go one by one, and the checkpoint with the last.
    daemon.work("DeleteBackup ta{sv} 1 0");
    assert_eq!(sh(&point, "ls"), "b\n");
    daemon.work("DeleteCheckpoint ta{sv} 1 0");
    assert_eq!(std::fs::read_dir(&points).unwrap().count(), 0);
    assert!(daemon.browse(3).exists());
}
