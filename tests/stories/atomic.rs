//! "All of it or none of it": restores of backups in one step.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::common::{Daemon, Dice, Disk, differences, everything, heavy, number, sh};
use crate::needs_root;

const INVALID: &str = "org.strongroom1.Error.InvalidArgument";
const STATE: &str = "org.strongroom1.Error.InvalidState";

/// Where a resource lies: what the daemon's own directory is on, XFS, btrfs.
fn places(daemon: &Daemon) -> Vec<(&'static str, PathBuf, Option<Disk>)> {
    let mut places = vec![("here", daemon.path("here"), None)];
    for fs in ["ext4", "xfs", "btrfs"] {
        let path = daemon.path(fs);
        let disk = Disk::new(fs, 320, &path);
        places.push((fs, path.join("data"), Some(disk)));
    }
    for (_, path, _) in &places {
        std::fs::create_dir(path).unwrap();
    }
    places
}

/// A copy by others, to compare with later.
fn copy(daemon: &Daemon, of: &Path, name: &str) -> PathBuf {
    let to = daemon.path(name);
    sh(daemon.dir(), &format!("mkdir {0}; rsync -aHAX '{1}/' {0}/", to.display(), of.display()));
    to
}

fn restore(daemon: &Daemon, id: u64) -> serde_json::Value {
    let job = daemon.ok(&format!("RestoreBackup ta{{sv}} {id} 2 confirm b true atomic b true"));
    daemon.wait(number(&job))
}

/// Names of ours beside a path, and journals.
fn left(daemon: &Daemon, path: &Path) -> String {
    let above = path.parent().unwrap();
    sh(above, "ls -A | grep '^.strongroom-' || true")
        + &sh(daemon.dir(), "ls state | grep -e '^swap-' -e '^restore-' || true")
}

#[test]
fn an_atomic_restore_brings_back_exactly_what_was() {
    needs_root!("an_atomic_restore_brings_back_exactly_what_was");
    let _heavy = heavy();
    let daemon = Daemon::start();
    for (fs, path, _disk) in places(&daemon) {
        println!("{fs}");
        everything(&path);
        sh(
            &path,
            "touch -d '1971-02-03 04:05:06.5' old; ln plain other-name; chmod 2751 .; touch -d '2001-02-03 04:05:06.7' .",
        );
        daemon.add(fs, &path);
        let id = daemon.back_up(fs)["id"].as_u64().unwrap();
        let before = copy(&daemon, &path, &format!("before-{fs}"));
        let inode = sh(&path, "stat -c %i .");
        sh(
            &path,
            "echo more >> plain; rm -rf large a; mkdir -p new/dir; chmod 600 attributes; setfacl -b acl; chown 7 .",
        );
        sh(&path, "touch locked; chattr +i locked || true; touch in-the-way");
        let job = restore(&daemon, id);
        assert_eq!((&job["state"], &job["result"]["atomic"]), (&"completed".into(), &true.into()), "{fs}: {job}");
        assert_eq!((&job["result"]["errors"], &job["result"]["units_stopped"]), (&0.into(), &0.into()), "{job}");
        assert_eq!(differences(&before, &path), "", "{fs}");
        assert_ne!(sh(&path, "stat -c %i ."), inode, "{fs}: another directory is in its place");
        assert_eq!(left(&daemon, &path), "", "{fs}");
        // As a restore in place would have done it.
        let job = number(&daemon.ok(&format!("RestoreBackup ta{{sv}} {id} 1 confirm b true")));
        let job = daemon.wait(job);
        assert_eq!((&job["result"]["files"], &job["result"]["removed"]), (&0.into(), &0.into()), "{fs}: {job}");
        // What is gone comes back as well.
        sh(path.parent().unwrap(), &format!("rm -rf {}", path.display()));
        assert_eq!(restore(&daemon, id)["state"], "completed", "{fs}");
        assert_eq!(differences(&before, &path), "", "{fs}");
    }
}

#[test]
fn an_atomic_restore_keeps_links_between_its_directories() {
    needs_root!("an_atomic_restore_keeps_links_between_its_directories");
    let daemon = Daemon::start();
    let (one, two) = (daemon.path("one"), daemon.path("two/deep"));
    sh(
        daemon.dir(),
        "mkdir -p one/a two/deep; echo linked > one/a/file; ln one/a/file two/deep/file; echo by > two/side",
    );
    daemon.ok(&format!("AddResource sa{{sv}} both 1 paths as 2 {} {}", one.display(), two.display()));
    let id = daemon.back_up("both")["id"].as_u64().unwrap();
    let facts = copy(&daemon, &one, "before");
    sh(daemon.dir(), "echo new > one/a/new; rm two/deep/file; echo more >> one/a/file; echo new > two/side");
    assert_eq!(restore(&daemon, id)["state"], "completed");
    assert_eq!(differences(&facts, &one), "");
    assert_eq!(sh(daemon.dir(), "cat two/deep/file; stat -c %h one/a/file; cat two/side"), "linked\n2\nnew\n");
    // One directory of it alone.
    sh(daemon.dir(), "echo x > one/a/x; echo x > one/x");
    let line =
        format!("RestoreBackup ta{{sv}} {id} 3 confirm b true atomic b true paths as 1 {}", one.join("a").display());
    assert_eq!(daemon.wait(number(&daemon.ok(&line)))["state"], "completed");
    assert_eq!(sh(daemon.dir(), "ls one one/a"), "one:\na\nx\n\none/a:\nfile\n");
}

#[test]
fn an_atomic_restore_is_refused_where_it_is_not_possible() {
    needs_root!("an_atomic_restore_is_refused_where_it_is_not_possible");
    let daemon = Daemon::start();
    let path = daemon.path("data");
    sh(daemon.dir(), "mkdir -p data/sub data/cache; echo old > data/file; echo x > data/sub/x; touch data/cache/kept");
    let exclude = format!("exclude as 1 {}/cache/*", path.display());
    daemon.ok(&format!("AddResource sa{{sv}} web 2 paths as 1 {} {exclude}", path.display()));
    let id = daemon.back_up("web")["id"].as_u64().unwrap();
    sh(&path, "echo new > file; rm cache/kept");
    let now = || sh(daemon.dir(), "find data -path data/sub -prune -o -print | sort; cat data/file");
    let before = now();
    let refused = |options: &str, name: &str, words: &[&str]| {
        let refused = daemon.call(&format!("RestoreBackup ta{{sv}} {id} {options}")).unwrap_err();
        assert_eq!(refused.name, name, "{options}: {refused:?}");
        for word in words {
            assert!(refused.message.contains(word), "{options}: {refused:?}");
        }
        assert_eq!(now(), before, "{options}");
    };
    refused("1 atomic b true", "org.strongroom1.Error.NotConfirmed", &["confirm"]);
    refused("2 target s /srv/x atomic b true", INVALID, &["atomic and target"]);
    refused("3 confirm b true atomic b true delete b false", INVALID, &["atomic and delete false"]);
    refused("3 confirm b true atomic b true conflict_strategy s skip", INVALID, &["conflict_strategy skip"]);
    let file = format!("3 confirm b true atomic b true paths as 1 {}", path.join("file").display());
    refused(&file, STATE, &["data/file", "is no directory"]);
    let both = "2 confirm b true atomic b true";
    // Something is mounted in it, or is the path itself.
    sh(&path, "mount -t tmpfs tmpfs sub");
    refused(both, STATE, &["data/sub (tmpfs) is mounted in it"]);
    let sub = format!("3 confirm b true atomic b true paths as 1 {}", path.join("sub").display());
    refused(&sub, STATE, &["root of a mount"]);
    sh(&path, "umount sub");
    // A database in it comes back from its dump.
    let database = format!("databases aa{{sv}} 1 2 kind s sqlite path s {}", path.join("file").display());
    daemon.ok(&format!("UpdateResource sa{{sv}} web 1 {database}"));
    refused(both, INVALID, &["data/file", "from its dump"]);
    daemon.ok("UpdateResource sa{sv} web 1 databases aa{sv} 0");
    // Somebody uses it.
    let held = std::fs::File::open(path.join("file")).unwrap();
    let mut user = Command::new("sleep").arg("1000").stdin(Stdio::from(held)).spawn().unwrap();
    refused(both, STATE, &[&format!("({})", user.id()), "units"]);
    user.kill().unwrap();
    user.wait().unwrap();
    // What the backup leaves out would be lost: found by the job, which changes nothing.
    sh(&path, "touch cache/precious");
    let fails = |words: &str| {
        let job = restore(&daemon, id);
        assert_eq!((&job["state"], &job["error_name"]), (&"failed".into(), &STATE.into()), "{job}");
        assert!(job["error"].as_str().unwrap().contains(words), "{job}");
        assert_eq!(left(&daemon, &path), "");
    };
    fails("data/cache/precious is in it");
    assert_eq!(sh(&path, "cat file; rm cache/precious"), "new\n");
    sh(&path, "mkdir sub/tagged; printf 'Signature: 8a477f597d28d172789f06886806bc55' > sub/tagged/CACHEDIR.TAG");
    fails("data/sub/tagged is in it");
    sh(&path, "rm -r sub/tagged");
    // Not through a link, not over one.
    sh(daemon.dir(), "mv data real; ln -s real data");
    let linked = daemon.call(&format!("RestoreBackup ta{{sv}} {id} {both}")).unwrap_err();
    assert_eq!(linked.name, STATE, "{linked:?}");
    sh(daemon.dir(), "rm data; mv real data");
    assert_eq!(now(), before);
    assert_eq!(restore(&daemon, id)["state"], "completed");
    assert_eq!(sh(&path, "cat file"), "old\n");
    let dry = daemon.ok(&format!("RestoreBackup ta{{sv}} {id} 2 dry_run b true atomic b true"));
    assert_eq!(daemon.wait(number(&dry))["state"], "completed");
}

#[test]
fn an_atomic_restore_needs_room_and_no_subvolumes() {
    needs_root!("an_atomic_restore_needs_room_and_no_subvolumes");
    let daemon = Daemon::start();
    let (small, btrfs) = (daemon.path("small"), daemon.path("btrfs"));
    let _disks = (Disk::new("ext4", 64, &small), Disk::new("btrfs", 320, &btrfs));
    sh(&small, "mkdir data; head -c 30000000 /dev/urandom > data/large");
    sh(
        &btrfs,
        "mkdir data; btrfs subvolume create sub; btrfs subvolume create data/nested; echo 1 > data/nested/x; echo 1 > sub/x",
    );
    for (name, path) in [("small", small.join("data")), ("nested", btrfs.join("data")), ("sub", btrfs.join("sub"))] {
        daemon.add(name, &path);
    }
    for (name, error, words) in [
        ("small", "org.strongroom1.Error.NoSpace", "no room for another tree"),
        ("nested", STATE, "the subvolume \"nested\" is in it"),
        ("sub", STATE, "it is a subvolume"),
    ] {
        let id = daemon.back_up(name)["id"].as_u64().unwrap();
        let refused = daemon.call(&format!("RestoreBackup ta{{sv}} {id} 2 confirm b true atomic b true")).unwrap_err();
        assert_eq!(refused.name, error, "{refused:?}");
        assert!(refused.message.contains(words), "{refused:?}");
    }
    assert_eq!(sh(&btrfs, "cat data/nested/x"), "1\n");
}

/// Kills the daemon at moments of restores; whatever the moment, all is as before or as in the backup.
#[test]
fn a_killed_atomic_restore_leaves_the_old_or_the_new() {
    needs_root!("a_killed_atomic_restore_leaves_the_old_or_the_new");
    let _heavy = heavy();
    let kills: u32 = std::env::var("STRONGROOM_KILLS").ok().and_then(|k| k.parse().ok()).unwrap_or(8);
    let mut dice = Dice::new(7_020);
    let mut daemon = Daemon::start();
    let disk = daemon.path("disk");
    let _disk = Disk::new("xfs", 320, &disk);
    let path = disk.join("data");
    sh(
        &disk,
        "mkdir data; cd data; for d in $(seq 30); do mkdir $d; (cd $d; for i in $(seq 40); do echo $i > $i; done); done; mkdir only-old",
    );
    daemon.add("web", &path);
    let id = daemon.back_up("web")["id"].as_u64().unwrap();
    let old = copy(&daemon, &path, "old");
    let change = |daemon: &Daemon, n: u32| {
        sh(&path, "rm -rf only-old; mkdir -p only-new; for f in */*; do echo new > $f; done");
        copy(daemon, &path, &format!("new-{n}"))
    };
    change(&daemon, 1000);
    let start = Instant::now();
    assert_eq!(restore(&daemon, id)["state"], "completed");
    let taking = start.elapsed();
    assert_eq!(differences(&old, &path), "");
    let mut ends = [0, 0];
    for kill in 0..kills {
        let new = change(&daemon, kill);
        let share = dice.roll();
        let job = number(&daemon.ok(&format!("RestoreBackup ta{{sv}} {id} 2 confirm b true atomic b true")));
        std::thread::sleep(taking.mul_f64(share * 1.1));
        daemon.kill();
        daemon.start_again();
        daemon.assert_well();
        let state = daemon.ok(&format!("GetJob t {job}"))["state"].clone();
        println!("kill {kill} at {share:.3} of {taking:?}: {state}");
        let done = state == "completed";
        ends[usize::from(done)] += 1;
        assert_eq!(differences(if done { &old } else { &new }, &path), "", "kill {kill} at {share:.3}: {state}");
        assert_eq!(left(&daemon, &path), "", "kill {kill} at {share:.3}");
        assert_eq!(sh(&disk, "ls -A"), "data\n");
    }
    println!("old {}, new {}", ends[0], ends[1]);
    assert_eq!(restore(&daemon, id)["state"], "completed");
    assert_eq!(differences(&old, &path), "");
}
