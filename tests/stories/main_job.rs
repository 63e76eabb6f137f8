//! "I backed up my machine, looked into the backup, took one file from it, and got it all back",
//! with nothing but `busctl` and `cp`.

use std::path::Path;

use crate::common::{Daemon, Facts, assert_same, differences, everything, heavy, sh};
use crate::needs_root;

/// Adds, backs up, lists, browses, copies one file and restores; the tree stays as it was.
fn tell(source: &Path, one_file: &str) -> (Daemon, u64) {
    let _heavy = heavy();
    let daemon = Daemon::start();
    daemon.add("tree", source);
    let backup = daemon.back_up("tree");
    let id = backup["id"].as_u64().unwrap();
    assert_eq!(backup["errors"], 0, "{backup}");

    let list = daemon.ok("ListBackups a{sv} 1 resource s tree");
    assert_eq!((&list[0], &list[1][0]["id"]), (&1.into(), &id.into()));

    let below = source.strip_prefix("/").unwrap();
    let mounted = daemon.browse(id).join(below);
    assert_eq!(backup["browse_path"].as_str().map(Path::new), Some(daemon.browse(id).as_path()));
    sh(
        daemon.dir(),
        &format!("cp {}/{one_file} copied; cmp copied {}/{one_file}", mounted.display(), source.display()),
    );
    assert_eq!(differences(source, &mounted), "", "the mount");

    let restored = daemon.restore(id, "restored").join(below);
    assert_eq!(differences(source, &restored), "", "what was restored");
    (daemon, id)
}

#[test]
fn a_tree_of_everything_comes_back() {
    needs_root!("a_tree_of_everything_comes_back");
    let own = tempfile::Builder::new().prefix("strongroom-").tempdir_in("/var/tmp").unwrap();
    everything(own.path());
    let (daemon, id) = tell(own.path(), "a/b/c/deep");
    let below = own.path().strip_prefix("/").unwrap();
    assert_same(own.path(), &daemon.browse(id).join(below), Facts::Mounted);
    assert_same(own.path(), &daemon.path("restored").join(below), Facts::Restored);
}

#[test]
fn the_configuration_of_this_machine_comes_back() {
    needs_root!("the_configuration_of_this_machine_comes_back");
    let (mut daemon, _) = tell(Path::new("/etc"), "passwd");
    daemon.assert_well();
}

#[test]
fn backups_are_found_under_their_resources_and_times() {
    needs_root!("backups_are_found_under_their_resources_and_times");
    let daemon = Daemon::start();
    sh(&daemon.source(), "echo one > file");
    daemon.add("web", &daemon.source());
    daemon.back_up("web");
    sh(&daemon.source(), "echo two > file");
    let second = daemon.back_up("web")["id"].as_u64().unwrap();
    let resource = daemon.path("browse/resources/default/web");
    let names = sh(&resource, "ls");
    assert_eq!(names.lines().count(), 3, "{names}");
    let latest = format!("latest{}/file", daemon.source().display());
    assert_eq!(sh(&resource, &format!("cat {latest}")), "two\n");
    assert_eq!(sh(&resource, &format!("cat *-1{}/file", daemon.source().display())), "one\n");
    let link = std::fs::read_link(resource.join("latest")).unwrap();
    assert!(link.to_str().unwrap().ends_with(&format!("-{second}")), "{link:?}");
}
