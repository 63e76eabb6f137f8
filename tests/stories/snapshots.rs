//! "Before I upgrade, I want to be able to go back in a second": source D on real file systems.
//!
//! Every story goes through the same places, if it does not say otherwise: a subvolume, the root of
//! a btrfs mount, a plain directory on btrfs, a directory on XFS, and the root of an XFS mount.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::common::{Daemon, Dice, Disk, Facts, assert_same, everything, heavy, number, random_files, sh, wait_for};
use crate::needs_root;

const INVALID: &str = "org.strongroom1.Error.InvalidArgument";
const STATE: &str = "org.strongroom1.Error.InvalidState";

/// Where a resource lies.
struct Place {
    kind: &'static str,
    engine: &'static str,
    path: PathBuf,
    _disk: Disk,
}

impl Place {
    fn mount(&self) -> &Path {
        &self._disk.path
    }

    /// Subvolumes, directories and stages of ours on the disk, beside the store itself.
    fn ours(&self) -> String {
        sh(
            self.mount(),
            "{ ls -A .strongroom 2>/dev/null || true; } | { grep -v -e README -e store.json || true; }; find . -name '.strongroom-*'",
        )
    }
}

const PLACES: &[&str] = &["subvolume", "btrfs mount", "btrfs directory", "xfs directory", "xfs mount"];

fn place(daemon: &Daemon, kind: &'static str) -> Place {
    let path = daemon.path(&format!("disk-{}", kind.replace(' ', "-")));
    let (fs, megabytes) = if kind.starts_with("xfs") { ("xfs", 320) } else { ("btrfs", 320) };
    let disk = Disk::new(fs, megabytes, &path);
    let (engine, path) = match kind {
        "subvolume" => {
            sh(&path, "btrfs -q subvolume create data || btrfs subvolume create data");
            ("btrfs", path.join("data"))
        }
        "btrfs mount" => ("btrfs", path),
        "xfs mount" => ("reflink", path),
        _ => {
            sh(&path, "mkdir data");
            ("reflink", path.join("data"))
        }
    };
    Place { kind, engine, path, _disk: disk }
}

/// Everything that a file system can hold, but for times that ext4 with its copies cannot.
fn all_kinds(place: &Place) {
    everything(&place.path);
    sh(&place.path, "touch -d '1971-02-03 04:05:06.5' old");
}

/// A copy by others, to compare with later.
fn copy(daemon: &Daemon, place: &Place, name: &str) -> PathBuf {
    let to = daemon.path(name);
    let from = place.path.display();
    sh(daemon.dir(), &format!("mkdir {0}; rsync -aHAX --exclude=/.strongroom '{from}/' {0}/", to.display()));
    to
}

/// Takes a snapshot, and gives it as it was completed.
fn take(daemon: &Daemon, resource: &str, name: &str) -> serde_json::Value {
    let made = daemon.ok(&format!("CreateSnapshot ssa{{sv}} {resource} {name} 0"));
    let job = daemon.wait(number(&made["job"]));
    assert_eq!(job["state"], "completed", "{job}");
    daemon.ok(&format!("GetSnapshot t {}", made["id"]))
}

fn location(snapshot: &serde_json::Value) -> PathBuf {
    PathBuf::from(snapshot["location"][0].as_str().unwrap())
}

fn put_back(daemon: &Daemon, id: u64) -> serde_json::Value {
    let answer = daemon.ok(&format!("RestoreSnapshot ta{{sv}} {id} 1 confirm b true"));
    daemon.wait(number(&answer["job"]))
}

/// What rsync would have to do to make a tree like a copy; the store at a mount's root aside.
fn differences(copy: &Path, tree: &Path) -> String {
    let (source, tree) = (copy.display(), tree.display());
    sh(
        Path::new("/"),
        &format!("rsync -nacHAX --delete --itemize-changes --exclude=/.strongroom '{source}/' '{tree}/' | head -40"),
    )
}

fn same(place: &Place, copy: &Path) {
    assert_eq!(differences(copy, &place.path), "", "{}", place.kind);
}

fn for_each_place(story: impl Fn(&Daemon, &Place)) {
    let daemon = Daemon::start();
    for kind in PLACES {
        let place = place(&daemon, kind);
        println!("{kind}");
        story(&daemon, &place);
    }
}

#[test]
fn d1_snapshots_are_listed_with_all_fields() {
    needs_root!("d1_snapshots_are_listed_with_all_fields");
    let daemon = Daemon::start();
    let (one, two) = (place(&daemon, "subvolume"), place(&daemon, "xfs directory"));
    random_files(&one.path, "f", 3, 1_000_000);
    random_files(&two.path, "f", 2, 1_000_000);
    daemon.add("one", &one.path);
    let two_id = daemon.add("two", &two.path);
    for (resource, name) in [("one", "a"), ("two", "b"), ("one", "c")] {
        take(&daemon, resource, name);
    }
    let all = daemon.ok("ListSnapshots a{sv} 0");
    assert_eq!(all[0], 3);
    let names = |list: &serde_json::Value| -> Vec<String> {
        list[1].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&all), ["c", "b", "a"], "the newest first");
    assert_eq!(names(&daemon.ok("ListSnapshots a{sv} 1 sort as 1 name")), ["a", "b", "c"]);
    assert_eq!(names(&daemon.ok("ListSnapshots a{sv} 1 resource s one")), ["c", "a"]);
    assert_eq!(names(&daemon.ok(&format!("ListSnapshots a{{sv}} 1 server_id t {two_id}"))), ["b"]);
    let page = daemon.ok("ListSnapshots a{sv} 2 page_size u 2 page u 2");
    assert_eq!((&page[0], names(&page)), (&3.into(), vec!["a".to_owned()]));
    assert_eq!(daemon.ok("ListSnapshots a{sv} 1 status s failed")[0], 0);
    let b = &daemon.ok("ListSnapshots a{sv} 1 resource s two")[1][0];
    assert_eq!((&b["server"]["id"], &b["server"]["name"]), (&two_id.into(), &"two".into()));
    assert_eq!((&b["status"], &b["engine"], &b["automatic"]), (&"completed".into(), &"reflink".into(), &false.into()));
    // Two files of a million bytes, in blocks of 4 KiB.
    assert_eq!((&b["size"], &b["size_mb"]), (&(2 * 245 * 4096).into(), &2.into()));
    assert!(b["created_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(daemon.ok("GetSnapshot t 1")["size_mb"], 3, "a subvolume is measured as well");
    assert_eq!(daemon.call("GetSnapshot t 9").unwrap_err().name, "org.strongroom1.Error.NotFound");
    assert_eq!(daemon.call("ListSnapshots a{sv} 1 sort as 1 nothing").unwrap_err().name, INVALID);
}

#[test]
fn d2_a_snapshot_holds_what_was_there_exactly() {
    needs_root!("d2_a_snapshot_holds_what_was_there_exactly");
    let _heavy = heavy();
    for_each_place(|daemon, place| {
        all_kinds(place);
        sh(&place.path, "touch locked; chattr +i locked; ln plain other-name; mkdir still; chattr +a still");
        let name = place.kind.replace(' ', "-");
        let id = daemon.add(&name, &place.path);
        assert_eq!(daemon.ok(&format!("GetResource s {id}"))["engine"], place.engine);
        let before = copy(daemon, place, &format!("before-{name}"));
        let made = daemon.ok(&format!("CreateSnapshot ssa{{sv}} {name} first 1 description s words"));
        assert_eq!((&made["status"], &made["description"]), (&"in_progress".into(), &"words".into()));
        assert!(!made.as_object().unwrap().contains_key("size_mb"), "it is not known yet: {made}");
        assert!(made["message"].as_str().unwrap().contains("nothing is stopped"), "{made}");
        let job = daemon.wait(number(&made["job"]));
        assert_eq!((&job["state"], &job["kind"]), (&"completed".into(), &"snapshot".into()), "{job}");
        let done = daemon.ok(&format!("GetSnapshot t {}", made["id"]));
        assert_eq!(done["status"], "completed");
        let there = location(&done);
        if place.kind.ends_with("directory") {
            assert_same(&place.path, &there, Facts::Restored);
        }
        // What happens afterwards is not in it.
        sh(&place.path, "echo more >> plain; rm large; echo new > new; chmod 600 attributes; mv a b");
        assert_eq!(differences(&before, &there), "", "{}", place.kind);
        let taken = daemon.call(&format!("CreateSnapshot ssa{{sv}} {name} first 0")).unwrap_err();
        assert_eq!(taken.name, "org.strongroom1.Error.AlreadyExists", "{taken:?}");
        for bad in ["a/b", "a.b", "Größe", "a:b", &"n".repeat(256)] {
            let refused = daemon.call(&format!("CreateSnapshot ssa{{sv}} {name} {bad} 0")).unwrap_err();
            assert_eq!(refused.name, INVALID, "{bad}: {refused:?}");
        }
        assert_eq!(daemon.call(&format!("CreateSnapshot ssa{{sv}} {name} '' 0")).unwrap_err().name, INVALID);
    });
}

#[test]
fn d3_a_sixth_snapshot_is_refused() {
    needs_root!("d3_a_sixth_snapshot_is_refused");
    let mut daemon = Daemon::start();
    let place = place(&daemon, "subvolume");
    daemon.add("web", &place.path);
    let ids: Vec<u64> = (1..=5).map(|n| take(&daemon, "web", &format!("s{n}"))["id"].as_u64().unwrap()).collect();
    let web = daemon.ok("GetResource s web");
    assert_eq!((&web["snapshot_count"], &web["snapshot_limit"]), (&5.into(), &5.into()));
    let refused = daemon.call("CreateSnapshot ssa{sv} web s6 0").unwrap_err();
    assert_eq!(refused.name, "org.strongroom1.Error.LimitReached", "{refused:?}");
    assert!(refused.message.contains("\"web\" has 5"), "{refused:?}");
    daemon.work(&format!("DeleteSnapshot ta{{sv}} {} 0", ids[0]));
    take(&daemon, "web", "s6");
    assert_eq!(daemon.call("CreateSnapshot ssa{sv} web s7 0").unwrap_err().name, refused.name);
    daemon.stop();
    std::fs::write(daemon.path("strongroom.toml"), "[limits]\nmanual_snapshots = 6\n").unwrap();
    daemon.start_again();
    take(&daemon, "web", "s7");
    assert_eq!(daemon.call("CreateSnapshot ssa{sv} web s8 0").unwrap_err().name, refused.name);
}

#[test]
fn d4_a_restore_brings_back_exactly_what_was() {
    needs_root!("d4_a_restore_brings_back_exactly_what_was");
    let _heavy = heavy();
    for_each_place(|daemon, place| {
        all_kinds(place);
        let name = place.kind.replace(' ', "-");
        let server = daemon.add(&name, &place.path);
        let before = copy(daemon, place, &format!("before-{name}"));
        let id = take(daemon, &name, "first")["id"].as_u64().unwrap();
        sh(&place.path, "echo more >> plain; rm -rf large a; mkdir -p new/dir; chmod 600 attributes; setfacl -b acl");
        sh(&place.path, "touch locked; chattr +i locked; chown 7 .; chmod 700 .");
        for options in ["0", "1 confirm b false"] {
            let refused = daemon.call(&format!("RestoreSnapshot ta{{sv}} {id} {options}")).unwrap_err();
            assert_eq!(refused.name, "org.strongroom1.Error.NotConfirmed", "{refused:?}");
        }
        assert!(place.path.join("new").exists(), "nothing was done yet");
        let answer = daemon.ok(&format!("RestoreSnapshot ta{{sv}} {id} 1 confirm b true"));
        assert_eq!((&answer["snapshot"]["id"], &answer["snapshot"]["name"]), (&id.into(), &"first".into()));
        assert_eq!((&answer["server"]["id"], &answer["server"]["status"]), (&server.into(), &"restoring".into()));
        assert!(answer["message"].as_str().unwrap().contains("no units"), "{answer}");
        assert!(answer["snapshot"]["created_at"].is_string() && answer["status"] == "pending");
        let job = daemon.wait(number(&answer["job"]));
        assert_eq!((&job["state"], &job["kind"]), (&"completed".into(), &"restore_snapshot".into()), "{job}");
        assert_eq!(job["result"]["message"], "no units were stopped", "{job}");
        same(place, &before);
        // What was replaced is gone, the snapshot is still there, and can be restored again.
        assert_eq!(place.ours().lines().count(), 1, "{}: {}", place.kind, place.ours());
        sh(&place.path, "rm -rf * .[!.s]* 2>/dev/null; true");
        assert_eq!(put_back(daemon, id)["state"], "completed");
        same(place, &before);
    });
}

#[test]
fn d4_a_restore_is_refused_where_the_state_does_not_allow_it() {
    needs_root!("d4_a_restore_is_refused_where_the_state_does_not_allow_it");
    let daemon = Daemon::start();
    let place = place(&daemon, "xfs directory");
    // Enough for a restore that can be seen at work.
    sh(&place.path, "for d in $(seq 40); do mkdir $d; (cd $d; seq 500 | xargs touch); done");
    daemon.add("web", &place.path);
    let id = take(&daemon, "web", "one")["id"].as_u64().unwrap();
    let first = daemon.ok(&format!("RestoreSnapshot ta{{sv}} {id} 1 confirm b true"));
    let second = daemon.call(&format!("RestoreSnapshot ta{{sv}} {id} 1 confirm b true")).unwrap_err();
    assert_eq!(second.name, STATE, "{second:?}");
    assert!(second.message.contains("being restored by job"), "{second:?}");
    assert_eq!(daemon.ok("GetResource s web")["status"], "restoring");
    assert_eq!(daemon.call(&format!("DeleteSnapshot ta{{sv}} {id} 0")).unwrap_err().name, STATE);
    assert_eq!(daemon.wait(number(&first["job"]))["state"], "completed");
    assert_eq!(daemon.ok("GetResource s web")["status"], "available");
    // A path that the resource no longer has is nobody's to overwrite.
    sh(daemon.dir(), "mkdir elsewhere");
    daemon.ok(&format!("UpdateResource sa{{sv}} web 1 paths as 1 {}", daemon.path("elsewhere").display()));
    let moved = daemon.call(&format!("RestoreSnapshot ta{{sv}} {id} 1 confirm b true")).unwrap_err();
    assert_eq!(moved.name, STATE, "{moved:?}");
    daemon.ok("RemoveResource sa{sv} web 0");
    let removed = daemon.call(&format!("RestoreSnapshot ta{{sv}} {id} 1 confirm b true")).unwrap_err();
    assert!(removed.message.contains("was removed"), "{removed:?}");
    daemon.work(&format!("DeleteSnapshot ta{{sv}} {id} 0"));
    assert_eq!(place.ours(), "");
}

#[test]
fn d4_foreign_and_nested_subvolumes_stay() {
    needs_root!("d4_foreign_and_nested_subvolumes_stay");
    let daemon = Daemon::start();
    for kind in ["subvolume", "btrfs mount"] {
        let place = place(&daemon, kind);
        sh(
            &place.path,
            "mkdir -p in/deep; echo old > in/file; btrfs subvolume create in/deep/nested; btrfs subvolume create top",
        );
        sh(&place.path, "echo 1 > in/deep/nested/x; echo 2 > top/x");
        sh(place.mount(), &format!("btrfs subvolume snapshot -r {}/in/deep/nested foreign", place.path.display()));
        let name = kind.replace(' ', "-");
        daemon.add(&name, &place.path);
        let snapshot = take(&daemon, &name, "one");
        assert!(snapshot["message"].as_str().unwrap().contains("subvolumes are not in it: "), "{snapshot}");
        let list = |place: &Place| sh(place.mount(), "btrfs subvolume list . | awk '{print $2, $9}' | sort");
        let before = list(&place);
        sh(&place.path, "echo new > in/file; echo 3 > in/deep/nested/x; echo more > more");
        let job = put_back(&daemon, snapshot["id"].as_u64().unwrap());
        assert_eq!(job["state"], "completed", "{job}");
        let read = |path: &str| sh(&place.path, &format!("cat {path}"));
        assert_eq!((read("in/file").as_str(), place.path.join("more").exists()), ("old\n", false));
        assert_eq!((read("in/deep/nested/x").as_str(), read("top/x").as_str()), ("3\n", "2\n"), "{kind}");
        assert_eq!(sh(place.mount(), "cat foreign/x"), "1\n");
        // The subvolumes are the same as before, but for the one that was exchanged.
        let ids =
            |list: &str| -> Vec<String> { list.lines().filter(|l| !l.ends_with(" data")).map(str::to_owned).collect() };
        assert_eq!(ids(&before), ids(&list(&place)), "{kind}");
        // One that came since and has no place is no reason to lose it.
        sh(&place.path, "mkdir -p since; btrfs subvolume create since/nested; echo 9 > since/nested/x");
        let refused = put_back(&daemon, snapshot["id"].as_u64().unwrap());
        assert_eq!(refused["state"], "failed", "{refused}");
        assert!(refused["error"].as_str().unwrap().contains("since/nested stays"), "{refused}");
        assert_eq!(read("since/nested/x"), "9\n");
        // Nor is one that cannot be moved.
        sh(&place.path, "btrfs subvolume delete since/nested; rmdir since; btrfs subvolume snapshot -r top in/fixed");
        let refused = put_back(&daemon, snapshot["id"].as_u64().unwrap());
        assert!(refused["error"].as_str().unwrap().contains("in/fixed is read-only"), "{refused}");
        assert_eq!(read("in/fixed/x"), "2\n");
        assert_eq!(place.ours().lines().count(), 1, "{}", place.ours());
    }
}

#[test]
fn d5_a_deleted_snapshot_is_gone_for_good() {
    needs_root!("d5_a_deleted_snapshot_is_gone_for_good");
    for_each_place(|daemon, place| {
        everything(&place.path);
        sh(&place.path, "touch locked; chattr +i locked a/b/c; (for i in $(seq 60); do mkdir d; cd d; done)");
        let name = place.kind.replace(' ', "-");
        daemon.add(&name, &place.path);
        let (one, two) = (take(daemon, &name, "one"), take(daemon, &name, "two"));
        let job = daemon.work(&format!("DeleteSnapshot ta{{sv}} {} 0", one["id"]));
        assert_eq!(job["kind"], "delete_snapshot");
        assert!(!location(&one).exists() && location(&two).exists());
        assert_eq!(place.ours().lines().count(), 1, "{}", place.ours());
        let gone = daemon.call(&format!("GetSnapshot t {}", one["id"])).unwrap_err();
        assert_eq!(gone.name, "org.strongroom1.Error.NotFound");
        // Its name is free again.
        take(daemon, &name, "one");
        sh(&place.path, "chattr -i locked a/b/c");
    });
}

#[test]
fn d6_a_snapshot_is_on_the_same_storage_and_shares_it() {
    needs_root!("d6_a_snapshot_is_on_the_same_storage_and_shares_it");
    let _heavy = heavy();
    for_each_place(|daemon, place| {
        random_files(&place.path, "f", 10, 8_000_000);
        let name = place.kind.replace(' ', "-");
        daemon.add(&name, &place.path);
        let used =
            || -> u64 { sh(place.mount(), "sync -f .; df --output=used -k . | tail -1").trim().parse().unwrap() };
        let before = used();
        let snapshot = take(daemon, &name, "one");
        let grown = used().saturating_sub(before);
        // 80 MB are in it, and it takes no more than metadata.
        assert!(grown < 8_000, "{}: {grown} KiB more", place.kind);
        assert!(snapshot["size"].as_u64().unwrap() >= 80_000_000, "{snapshot}");
        let file = location(&snapshot).join("f00003");
        let extents = |path: &Path| sh(Path::new("/"), &format!("filefrag -v {} | grep -c shared", path.display()));
        assert_ne!(extents(&file).trim(), "0", "{}", place.kind);
        // A backup does not take it along, and a restore of one does not take it away.
        let backup = daemon.back_up(&name);
        let id = backup["id"].as_u64().unwrap();
        let browsed = daemon.browse(id).join(place.path.strip_prefix("/").unwrap());
        assert_eq!(sh(&browsed, "find . -name 'f*' | wc -l").trim(), "10");
        daemon.work(&format!("RestoreBackup ta{{sv}} {id} 1 confirm b true"));
        assert!(file.exists());
        // Not even what is in it can be named as a resource.
        let inside =
            daemon.call(&format!("AddResource sa{{sv}} inside 1 paths as 1 {}", location(&snapshot).display()));
        assert_eq!(inside.unwrap_err().name, INVALID);
    });
}

#[test]
fn d7_what_is_atomic_is_of_one_moment() {
    needs_root!("d7_what_is_atomic_is_of_one_moment");
    for_each_place(|daemon, place| {
        // Filler, so that a clone file by file takes its time.
        sh(&place.path, "mkdir -p a m z; cd m; for d in $(seq 20); do mkdir $d; (cd $d; seq 200 | xargs touch); done");
        let name = place.kind.replace(' ', "-");
        daemon.add(&name, &place.path);
        // One writer counts in two files, in turn.
        let script = "i=0; while [ ! -e stop ]; do i=$((i+1)); echo $i > a/n.new; mv a/n.new a/n; echo $i > z/n.new; mv z/n.new z/n; done";
        let mut writer =
            std::process::Command::new("bash").args(["-c", script]).current_dir(&place.path).spawn().unwrap();
        wait_for("the writer writes", Duration::from_secs(20), || place.path.join("z/n").exists());
        for n in 0..4 {
            let made = daemon.ok(&format!("CreateSnapshot ssa{{sv}} {name} n{n} 0"));
            let job = daemon.wait(number(&made["job"]));
            assert_eq!(job["state"], "completed", "{job}");
            let snapshot = daemon.ok(&format!("GetSnapshot t {}", made["id"]));
            let there = location(&snapshot);
            let read = |path: &str| -> u64 { sh(&there, &format!("cat {path}/n")).trim().parse().unwrap() };
            let atomic = job["result"]["atomic"] == true;
            assert_eq!(atomic, !place.kind.starts_with("xfs"), "{}", place.kind);
            let (a, z) = (read("a"), read("z"));
            if atomic {
                assert!(a == z || a == z + 1, "{}: {a} and {z}", place.kind);
            } else {
                assert!(snapshot["message"].as_str().unwrap().contains("not all of one moment"), "{snapshot}");
            }
        }
        std::fs::write(place.path.join("stop"), "").unwrap();
        writer.wait().unwrap();
    });
}

#[test]
fn d7_units_that_cannot_be_held_back_are_told() {
    needs_root!("d7_units_that_cannot_be_held_back_are_told");
    let daemon = Daemon::start();
    let place = place(&daemon, "subvolume");
    daemon.ok(&format!(
        "AddResource sa{{sv}} web 3 paths as 1 {} units as 1 nginx.service unit_action s stop",
        place.path.display()
    ));
    // There is no service manager on this bus: it is said, and nothing is left.
    match daemon.call("CreateSnapshot ssa{sv} web one 0") {
        Err(refused) => assert!(refused.message.contains("units"), "{refused:?}"),
        Ok(made) => {
            let job = daemon.wait(number(&made["job"]));
            assert_eq!(job["state"], "failed", "{job}");
        }
    }
    assert_eq!(place.ours(), "");
    let made = daemon.ok("CreateSnapshot ssa{sv} web two 1 unit_action s none");
    assert_eq!(daemon.wait(number(&made["job"]))["state"], "completed");
    // A backup of no one moment is better than none, and says so.
    let backup = daemon.back_up("web");
    assert!(backup["message"].as_str().unwrap().contains("no units were held back"), "{backup}");
}

#[test]
fn what_cannot_be_snapshotted_is_refused_with_the_reason() {
    needs_root!("what_cannot_be_snapshotted_is_refused_with_the_reason");
    let daemon = Daemon::start();
    let ext4 = Disk::new("ext4", 16, &daemon.path("ext4"));
    let tmpfs = Disk::mounted("-t tmpfs none", &daemon.path("tmpfs"));
    let plain = Disk::new("xfs -m reflink=0", 320, &daemon.path("plain"));
    let place = place(&daemon, "btrfs directory");
    sh(
        &place.path,
        "mkdir mnt sub; btrfs subvolume create sub/nested; mkdir ../other ../third; ln -s data ../link; mkdir ../other/in",
    );
    let _beneath = Disk::mounted("-t tmpfs none", &place.mount().join("third/mnt"));
    for (name, path, why) in [
        ("ext4", ext4.path.clone(), "put it on btrfs"),
        ("tmpfs", tmpfs.path.clone(), "cannot share blocks"),
        ("old-xfs", plain.path.clone(), "reflink=1"),
        ("nested", place.path.clone(), "make"),
        ("spans", place.mount().join("third"), "third/mnt (tmpfs) is mounted in it"),
        ("link", place.mount().join("link/sub"), "symbolic link"),
        ("sys", PathBuf::from("/sys/kernel/mm"), "storage"),
    ] {
        let id = daemon.add(name, &path);
        assert_eq!(daemon.ok(&format!("GetResource s {id}"))["engine"], "none", "{name}");
        let refused = daemon.call(&format!("CreateSnapshot ssa{{sv}} {id} one 0")).unwrap_err();
        assert_eq!(refused.name, STATE, "{name}: {refused:?}");
        assert!(refused.message.contains(why), "{name}: {refused:?}");
    }
    assert_eq!(daemon.ok("ListSnapshots a{sv} 0")[0], 0);
    assert_eq!(daemon.ok("ListJobs a{sv} 0")[0], 0);
}

#[test]
fn traps_that_users_set_lead_nowhere() {
    needs_root!("traps_that_users_set_lead_nowhere");
    let daemon = Daemon::start();
    let place = place(&daemon, "xfs directory");
    let victim = daemon.path("victim");
    sh(daemon.dir(), "mkdir victim; echo secret > victim/file; chmod 700 victim");
    let shown = victim.display().to_string();
    sh(&place.path, "echo mine > file; chown -R 1234 .");
    daemon.add("web", &place.path);
    // Where the snapshots would be.
    for trap in [
        format!("ln -s {shown} .strongroom"),
        "mkdir .strongroom; chown 1234 .strongroom".into(),
        "touch .strongroom".into(),
    ] {
        sh(place.mount(), &trap);
        let made = daemon.ok("CreateSnapshot ssa{sv} web one 0");
        let job = daemon.wait(number(&made["job"]));
        assert_eq!(job["state"], "failed", "{trap}: {job}");
        assert!(job["error"].as_str().unwrap().contains("move it away"), "{job}");
        sh(place.mount(), "rm -rf .strongroom");
    }
    assert_eq!(sh(&victim, "find . | sort"), ".\n./file\n");
    let id = take(&daemon, "web", "two")["id"].as_u64().unwrap();
    // Where the path was.
    sh(place.mount(), &format!("mv data away; ln -s {shown} data"));
    let refused = daemon.call("CreateSnapshot ssa{sv} web three 0").unwrap_err();
    assert_eq!(refused.name, STATE, "{refused:?}");
    assert_eq!(put_back(&daemon, id)["state"], "completed");
    // The link itself was replaced, and what it led to was not.
    assert_eq!(sh(place.mount(), "cat data/file"), "mine\n");
    assert_eq!(sh(&victim, "find . | sort; cat file"), ".\n./file\nsecret\n");
    // A link to a directory within is cloned as a link.
    sh(&place.path, &format!("ln -s {shown} in"));
    let four = take(&daemon, "web", "four");
    assert!(location(&four).join("in").is_symlink());
    // Nobody else sees what rests there.
    let mode = sh(place.mount(), "stat -c '%a %u' .strongroom");
    assert_eq!(mode.trim(), "700 0");
}

#[test]
fn snapshots_are_found_again_after_a_loss_of_the_catalog() {
    needs_root!("snapshots_are_found_again_after_a_loss_of_the_catalog");
    let mut daemon = Daemon::start();
    let (one, two) = (place(&daemon, "subvolume"), place(&daemon, "xfs directory"));
    sh(&one.path, "echo one > file");
    sh(&two.path, "echo two > file");
    let both = format!("paths as 2 {} {}", one.path.display(), two.path.display());
    daemon.ok(&format!("AddResource sa{{sv}} web 1 {both}"));
    assert_eq!(daemon.ok("GetResource s web")["engine"], "btrfs, reflink");
    take(&daemon, "web", "gone");
    daemon.work("DeleteSnapshot ta{sv} 1 0");
    let kept = take(&daemon, "web", "kept");
    // One that is not ours, and one that was never finished.
    sh(one.mount(), "mkdir -p .strongroom/6ba7b810-9dad-11d1-80b4-00c04fd430c8/0 .strongroom/foreign");
    daemon.stop();
    // The vault's identity stays: only what was known of snapshots is of interest.
    sh(daemon.dir(), "rm state/catalog.redb; rm -rf state/vault");
    daemon.start_again();
    assert_eq!(daemon.ok("ListSnapshots a{sv} 0")[0], 0, "nobody knows what they are of yet");
    daemon.ok(&format!("AddResource sa{{sv}} web 1 {both}"));
    let found = daemon.ok("ListSnapshots a{sv} 0");
    assert_eq!(found[0], 1, "{found}");
    let found = &found[1][0];
    for key in ["id", "name", "created_at", "status", "engine", "location"] {
        assert_eq!(found[key], kept[key], "{key}");
    }
    sh(&one.path, "echo new > file");
    sh(&two.path, "rm file");
    assert_eq!(put_back(&daemon, 2)["state"], "completed");
    assert_eq!((sh(&one.path, "cat file"), sh(&two.path, "cat file")), ("one\n".into(), "two\n".into()));
    assert_eq!(take(&daemon, "web", "next")["id"], 3, "ids are not given again");
    daemon.work("DeleteSnapshot ta{sv} 2 0");
    assert!(one.mount().join(".strongroom/foreign").exists());
}

/// Kills the daemon at moments of all three kinds of work, and looks whether all is whole.
fn killed(kind: &'static str, seed: u64) {
    let _heavy = heavy();
    let kills: u32 = std::env::var("STRONGROOM_KILLS").ok().and_then(|k| k.parse().ok()).unwrap_or(9);
    let mut dice = Dice::new(seed);
    let mut daemon = Daemon::start();
    let place = place(&daemon, kind);
    sh(&place.path, "for d in $(seq 30); do mkdir $d; (cd $d; for i in $(seq 40); do echo $i > $i; done); done");
    daemon.add("web", &place.path);
    let state = |name: &str| sh(&place.path, &format!("for f in */*; do echo {name} > $f; done; mkdir -p only-{name}"));
    state("old");
    let old = copy(&daemon, &place, "old");
    let start = Instant::now();
    let base = take(&daemon, "web", "base")["id"].as_u64().unwrap();
    let taking = start.elapsed();
    for kill in 0..kills {
        let share = dice.roll();
        let moment = format!("{kind}, kill {kill} at {share:.3}");
        let pause = (taking * 2).mul_f64(share);
        match kill % 3 {
            0 => {
                let made = daemon.ok(&format!("CreateSnapshot ssa{{sv}} web k{kill} 0"));
                std::thread::sleep(pause);
                daemon.kill();
                daemon.start_again();
                let row = daemon.ok(&format!("GetSnapshot t {}", made["id"]));
                println!("{moment} in a create: {}", row["status"]);
                if row["status"] == "completed" {
                    same(&place, &location(&row));
                } else {
                    assert_eq!(row["status"], "failed", "{moment}: {row}");
                }
                daemon.work(&format!("DeleteSnapshot ta{{sv}} {} 0", made["id"]));
            }
            1 => {
                state("new");
                sh(&place.path, "rm -rf only-old");
                let new = copy(&daemon, &place, &format!("new-{kill}"));
                let answer = daemon.ok(&format!("RestoreSnapshot ta{{sv}} {base} 1 confirm b true"));
                std::thread::sleep(pause);
                daemon.kill();
                daemon.start_again();
                let job = daemon.ok(&format!("GetJob t {}", number(&answer["job"])));
                println!("{moment} in a restore: {}", job["state"]);
                // Whole in the one state or in the other, and the job knows in which.
                same(&place, if job["state"] == "completed" { &old } else { &new });
                assert_eq!(put_back(&daemon, base)["state"], "completed", "{moment}");
                same(&place, &old);
            }
            _ => {
                let id = take(&daemon, "web", &format!("k{kill}"))["id"].as_u64().unwrap();
                daemon.ok(&format!("DeleteSnapshot ta{{sv}} {id} 0"));
                std::thread::sleep(pause);
                daemon.kill();
                daemon.start_again();
                println!("{moment} in a delete");
                wait_for("the deletion ends", Duration::from_secs(60), || {
                    daemon.call(&format!("GetSnapshot t {id}")).is_err()
                });
            }
        }
        daemon.assert_well();
        // Nothing is left but the one that is to stay.
        assert_eq!(place.ours().lines().count(), 1, "{moment}: {}", place.ours());
        let left = sh(daemon.dir(), "ls state | grep swap- || true");
        assert_eq!(left, "", "{moment}");
        if kind.starts_with("btrfs") || kind == "subvolume" {
            // The store itself, and of each subvolume that is snapshotted one more.
            let count = sh(place.mount(), "btrfs subvolume list . | wc -l");
            let expected = if kind == "subvolume" {
                3
            } else if kind == "btrfs mount" {
                2
            } else {
                1
            };
            assert_eq!(count.trim(), expected.to_string(), "{moment}: {}", sh(place.mount(), "btrfs subvolume list ."));
        }
    }
}

#[test]
fn kills_leave_a_subvolume_whole() {
    needs_root!("kills_leave_a_subvolume_whole");
    killed("subvolume", 7_001);
}

#[test]
fn kills_leave_a_btrfs_mount_whole() {
    needs_root!("kills_leave_a_btrfs_mount_whole");
    killed("btrfs mount", 7_002);
}

#[test]
fn kills_leave_a_btrfs_directory_whole() {
    needs_root!("kills_leave_a_btrfs_directory_whole");
    killed("btrfs directory", 7_003);
}

#[test]
fn kills_leave_an_xfs_directory_whole() {
    needs_root!("kills_leave_an_xfs_directory_whole");
    killed("xfs directory", 7_004);
}

#[test]
fn kills_leave_an_xfs_mount_whole() {
    needs_root!("kills_leave_an_xfs_mount_whole");
    killed("xfs mount", 7_005);
}

#[test]
fn a_backup_on_btrfs_is_of_one_moment_and_leaves_nothing() {
    needs_root!("a_backup_on_btrfs_is_of_one_moment_and_leaves_nothing");
    let _heavy = heavy();
    let mut daemon = Daemon::start();
    for kind in ["subvolume", "btrfs mount", "btrfs directory"] {
        let place = place(&daemon, kind);
        sh(
            &place.path,
            "mkdir -p a m z still; cd m; for d in $(seq 20); do mkdir $d; (cd $d; seq 200 | xargs touch); done",
        );
        random_files(&place.path.join("still"), "f", 15, 4_000_000);
        // Old enough that a backup need not read it again.
        std::thread::sleep(Duration::from_millis(2500));
        let name = kind.replace(' ', "-");
        daemon.ok(&format!("AddResource sa{{sv}} {name} 2 paths as 1 {} snapshot s required", place.path.display()));
        let script = "i=0; while [ ! -e stop ]; do i=$((i+1)); echo $i > a/n.new; mv a/n.new a/n; echo $i > z/n.new; mv z/n.new z/n; done";
        let mut writer =
            std::process::Command::new("bash").args(["-c", script]).current_dir(&place.path).spawn().unwrap();
        wait_for("the writer writes", Duration::from_secs(20), || place.path.join("z/n").exists());
        let backup = daemon.back_up(&name);
        let job = daemon.ok(&format!("GetJob t {}", number(&backup["job"])));
        assert_eq!((&job["result"]["paths_from_snapshots"], &backup["errors"]), (&1.into(), &0.into()), "{job}");
        let browsed = daemon.browse(backup["id"].as_u64().unwrap()).join(place.path.strip_prefix("/").unwrap());
        let read = |path: &str| -> u64 { sh(&browsed, &format!("cat {path}/n")).trim().parse().unwrap() };
        let (a, z) = (read("a"), read("z"));
        assert!(a == z || a == z + 1, "{kind}: {a} and {z}");
        std::fs::write(place.path.join("stop"), "").unwrap();
        writer.wait().unwrap();
        assert!(!place.mount().join(".strongroom").exists(), "{kind}: {}", sh(place.mount(), "find .strongroom"));
        // The same inodes and times: nothing is read again.
        let read = |daemon: &Daemon| -> u64 {
            let io = std::fs::read_to_string(format!("/proc/{}/io", daemon.pid())).unwrap();
            io.lines().find_map(|l| l.strip_prefix("rchar: ")).unwrap().parse().unwrap()
        };
        let before = read(&daemon);
        let second = daemon.back_up(&name);
        let again = read(&daemon) - before;
        assert!(again < 30_000_000, "{kind}: {again} bytes were read again");
        let restored = daemon.restore(second["id"].as_u64().unwrap(), &format!("restored-{name}"));
        assert_eq!(differences(&place.path, &restored.join(place.path.strip_prefix("/").unwrap())), "", "{kind}");
        // One that is killed leaves its snapshot only until the next start.
        sh(&place.path, "rm stop; rm -rf still/*");
        random_files(&place.path.join("still"), "g", 15, 4_000_000);
        let (id, _) = daemon.begin(&name);
        wait_for("it reads from a snapshot", Duration::from_secs(20), || place.mount().join(".strongroom").exists());
        daemon.kill();
        assert!(place.mount().join(".strongroom").exists(), "{kind}");
        daemon.start_again();
        assert!(!place.mount().join(".strongroom").exists(), "{kind}");
        assert_ne!(daemon.ok(&format!("GetBackup t {id}"))["status"], "running");
    }
}

#[test]
fn a_required_snapshot_that_cannot_be_fails_the_backup_by_name() {
    needs_root!("a_required_snapshot_that_cannot_be_fails_the_backup_by_name");
    let daemon = Daemon::start();
    let (xfs, btrfs) = (place(&daemon, "xfs directory"), place(&daemon, "subvolume"));
    sh(&btrfs.path, "btrfs subvolume create nested; echo 1 > nested/x");
    for (name, place, why) in
        [("xfs", &xfs, "put it on btrfs"), ("nested", &btrfs, "has the subvolume \"nested\" in it")]
    {
        let path = place.path.display();
        daemon.ok(&format!("AddResource sa{{sv}} {name} 2 paths as 1 {path} snapshot s required"));
        let (id, job) = daemon.begin(name);
        assert_eq!(daemon.wait(job)["state"], "failed");
        let backup = daemon.ok(&format!("GetBackup t {id}"));
        assert!(backup["error"].as_str().unwrap().contains(why), "{backup}");
        // Without the requirement it is read as it is, all of it.
        daemon.ok(&format!("UpdateResource sa{{sv}} {name} 1 snapshot s auto"));
        let backup = daemon.back_up(name);
        let browsed = daemon.browse(backup["id"].as_u64().unwrap()).join(place.path.strip_prefix("/").unwrap());
        assert_eq!(browsed.join("nested/x").exists(), name == "nested");
        assert!(!place.mount().join(".strongroom").exists());
    }
}

#[test]
#[ignore = "prints figures, for people"]
fn figures() {
    needs_root!("figures");
    let _heavy = heavy();
    let daemon = Daemon::start();
    let subvolume = place(&daemon, "subvolume");
    daemon.add("sub", &subvolume.path);
    let time = |resource: &str, name: &str| {
        let made = daemon.ok(&format!("CreateSnapshot ssa{{sv}} {resource} {name} 0"));
        let job = daemon.wait(number(&made["job"]));
        let row = daemon.ok(&format!("GetSnapshot t {}", made["id"]));
        let moment = |text: &serde_json::Value| text.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        let there = moment(&row["completed_at"]).duration_since(moment(&job["started_at"]));
        println!("{resource} {name}: there after {there:#}, {} entries", row["entries"]);
        there
    };
    time("sub", "empty");
    for (name, count) in [("1k", 1_000), ("20k", 19_000)] {
        sh(
            &subvolume.path,
            &format!(
                "mkdir {name}; cd {name}; for d in $(seq {}); do mkdir $d; for i in $(seq 100); do echo $d.$i > $d/$i; done; done; sync -f .",
                count / 100
            ),
        );
        time("sub", name);
    }
    let disk = Disk::new("xfs", 2_000, &daemon.path("many"));
    sh(
        &disk.path,
        "mkdir data; cd data; for d in $(seq 1000); do mkdir $d; for i in $(seq 100); do echo $d.$i > $d/$i; done; done; sync -f .",
    );
    daemon.add("many", &disk.path.join("data"));
    for turn in 1..=2 {
        let start = Instant::now();
        sh(&disk.path, &format!("cp -a --reflink=always data copy-{turn}; sync -f ."));
        println!("cp -a --reflink=always: {:?}", start.elapsed());
        time("many", &format!("t{turn}"));
    }
}
