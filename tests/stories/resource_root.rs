//! "I said `/`, and it did the right thing": what lies in other file systems, what marks itself
//! as a cache, and what the rules exclude.

use std::path::Path;

use crate::common::{Daemon, Disk, sh};
use crate::needs_root;

/// Backs `source` up, and gives what `ls -A` says at a place in the backup.
fn listing(daemon: &Daemon, id: &serde_json::Value, at: &Path) -> Vec<String> {
    let place = daemon.browse(id.as_u64().unwrap()).join(at.strip_prefix("/").unwrap());
    sh(&place, "ls -A").lines().map(str::to_owned).collect()
}

#[test]
fn pseudo_file_systems_are_left_out() {
    needs_root!("pseudo_file_systems_are_left_out");
    let daemon = Daemon::start();
    let source = daemon.source();
    sh(&source, "echo kept > kept");
    let _proc = Disk::mounted("-t proc proc", &source.join("proc"));
    let _sys = Disk::mounted("-t sysfs sysfs", &source.join("sys"));
    let _dev = Disk::mounted("-t devtmpfs devtmpfs", &source.join("dev"));
    daemon.add("tree", &source);
    let backup = daemon.back_up("tree");
    assert_eq!(backup["errors"], 0, "{backup}");
    assert_eq!(listing(&daemon, &backup["id"], &source), ["dev", "kept", "proc", "sys"]);
    for name in ["proc", "sys", "dev"] {
        // The places to mount them again are there, and empty.
        assert_eq!(listing(&daemon, &backup["id"], &source.join(name)), [""; 0], "{name}");
    }
}

#[test]
fn a_resource_around_strongroom_leaves_strongroom_out() {
    needs_root!("a_resource_around_strongroom_leaves_strongroom_out");
    let daemon = Daemon::start();
    sh(&daemon.source(), "echo kept > kept");
    daemon.add("all", daemon.dir());
    for _ in 0..2 {
        // Twice: the second would meet what the first left.
        let backup = daemon.back_up("all");
        assert_eq!(backup["errors"], 0, "{backup}");
        assert_eq!(listing(&daemon, &backup["id"], &daemon.source()), ["kept"]);
        let place = daemon.browse(backup["id"].as_u64().unwrap()).join(daemon.dir().strip_prefix("/").unwrap());
        let found = sh(&place, "find state cache browse -mindepth 1 2>/dev/null || true");
        assert_eq!(found, "");
    }
    for own in ["state", "cache", "browse", "state/vault"] {
        let failure = daemon.call(&format!("AddResource sa{{sv}} own 1 paths as 1 {}", daemon.path(own).display()));
        assert_eq!(failure.unwrap_err().name, "org.strongroom1.Error.InvalidArgument", "{own}");
    }
}

#[test]
fn other_file_systems_come_along_unless_asked() {
    needs_root!("other_file_systems_come_along_unless_asked");
    let daemon = Daemon::start();
    let source = daemon.source();
    sh(&source, "echo kept > kept");
    let disk = Disk::new("ext4", 20, &source.join("disk"));
    sh(&disk.path, "echo there > file");
    sh(&source, "rm disk.img");
    daemon.add("tree", &source);
    let with = daemon.back_up("tree");
    assert_eq!(listing(&daemon, &with["id"], &disk.path), ["file"]);
    daemon.ok("UpdateResource sa{sv} tree 1 one_file_system b true");
    let without = daemon.back_up("tree");
    assert_eq!(listing(&daemon, &without["id"], &source), ["disk", "kept"]);
    assert_eq!(listing(&daemon, &without["id"], &disk.path), [""; 0]);
}

#[test]
fn caches_that_say_so_are_left_out() {
    needs_root!("caches_that_say_so_are_left_out");
    let daemon = Daemon::start();
    let source = daemon.source();
    sh(
        &source,
        "mkdir cache fake; printf 'Signature: 8a477f597d28d172789f06886806bc55\\n# more' > cache/CACHEDIR.TAG; echo x > cache/x; \
         echo no signature > fake/CACHEDIR.TAG; echo y > fake/y",
    );
    daemon.add("tree", &source);
    let backup = daemon.back_up("tree");
    let inside = listing(&daemon, &backup["id"], &source.join("cache"));
    assert!(!inside.contains(&"x".to_owned()), "{inside:?}");
    assert_eq!(listing(&daemon, &backup["id"], &source.join("fake")), ["CACHEDIR.TAG", "y"]);
}

#[test]
fn excludes_are_those_of_gitignore() {
    needs_root!("excludes_are_those_of_gitignore");
    let daemon = Daemon::start();
    let source = daemon.source();
    sh(
        &source,
        "mkdir -p a/build build deep/a/b logs; touch x.o a/y.o keep.o a/build/f build/f deep/a/b/tmp deep/tmp logs/1.log logs/2.txt plain",
    );
    let path = source.display().to_string();
    let patterns = ["*.o", "!keep.o", "build/", &format!("{path}/deep/tmp"), "**/logs/*.log"];
    let mut words = vec!["sa{sv}", "tree", "2", "paths", "as", "1", &path, "exclude", "as", "5"];
    words.extend(patterns);
    daemon.call_with("AddResource", &words).unwrap();
    let id = daemon.back_up("tree")["id"].as_u64().unwrap();
    let place = daemon.browse(id).join(source.strip_prefix("/").unwrap());
    let found = sh(&place, "find . -type f | LC_ALL=C sort");
    assert_eq!(found, "./deep/a/b/tmp\n./keep.o\n./logs/2.txt\n./plain\n");
}
