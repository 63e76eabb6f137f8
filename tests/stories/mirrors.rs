//! "I want my backups in more than one place, and I want any one of them to be enough."

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value as Reply;

use crate::common::{Daemon, Dice, Failure, differences, number, sh, wait_for};
use crate::needs_root;

const PATIENCE: Duration = Duration::from_secs(60);
const FAILED: &str = "org.strongroom1.Error.DestinationFailed";
const STATE: &str = "org.strongroom1.Error.InvalidState";
const INVALID: &str = "org.strongroom1.Error.InvalidArgument";

fn destination(daemon: &Daemon, name: &str, more: &str) -> PathBuf {
    let path = daemon.path(name);
    let count = 1 + more.split_whitespace().count() / 3;
    let line = format!("AddDestination ssa{{sv}} {name} local {count} directory s {} {more}", path.display());
    daemon.ok(line.trim_end());
    path
}

/// A machine with the vault `safe` on the destinations `one` and `two`, and a resource `web` for it.
fn machine() -> Daemon {
    let daemon = Daemon::start();
    let source = daemon.source();
    sh(&source, "mkdir sub; echo one > sub/page; head -c 3000000 /dev/urandom > table; ln -s sub/page link");
    destination(&daemon, "one", "");
    destination(&daemon, "two", "");
    daemon.ok("AddVault sa{sv} safe 1 destinations as 2 one two");
    daemon.ok(&format!("AddResource sa{{sv}} web 2 paths as 1 {} vault s safe", source.display()));
    daemon
}

/// What became of a backup on each destination.
fn statuses(daemon: &Daemon, id: u64) -> String {
    let backup = daemon.ok(&format!("GetBackup t {id}"));
    let list = backup["destinations"].as_array().unwrap().iter();
    list.map(|d| format!("{}:{}", d["name"].as_str().unwrap(), d["status"].as_str().unwrap()))
        .collect::<Vec<_>>()
        .join(" ")
}

/// What is known of the mirrors of `safe`.
fn states(daemon: &Daemon) -> String {
    let vault = daemon.ok("GetVault s safe");
    let mirrors = vault["copies"].as_array().unwrap().iter().filter(|c| c["role"] == "mirror");
    mirrors
        .map(|c| format!("{}:{}", c["name"].as_str().unwrap(), c["state"].as_str().unwrap()))
        .collect::<Vec<_>>()
        .join(" ")
}

fn current(daemon: &Daemon) {
    wait_for("the mirrors are current", PATIENCE, || {
        let states = states(daemon);
        !states.is_empty() && states.split(' ').all(|s| s.ends_with(":current"))
    });
    daemon.settle();
}

/// How two copies of a vault differ, by an independent tool.
fn unlike(a: &Path, b: &Path) -> String {
    sh(Path::new("/"), &format!("diff -rq --exclude=tmp --exclude=sessions {} {} || true", a.display(), b.display()))
}

fn refused(call: Result<Reply, Failure>, name: &str, words: &str) {
    let e = call.unwrap_err();
    assert!(e.name == name && e.message.contains(words), "{e:?} does not say {words:?} as {name}");
}

#[test]
fn a_vault_on_two_disks_is_the_same_on_both() {
    needs_root!("a_vault_on_two_disks_is_the_same_on_both");
    let daemon = machine();
    let (one, two) = (daemon.path("one"), daemon.path("two"));
    daemon.back_up("web");
    current(&daemon);
    assert_eq!(statuses(&daemon, 1), "one:completed two:completed");
    assert_eq!(unlike(&one, &two), "");
    sh(&daemon.source(), "head -c 2000000 /dev/urandom > table; echo two > sub/page");
    daemon.back_up("web");
    daemon.ok("AddVaultKey sa{sv} safe 1 kind s recovery");
    current(&daemon);
    assert_eq!((statuses(&daemon, 2).as_str(), unlike(&one, &two).as_str()), ("one:completed two:completed", ""));
    // Nothing is left of what is deleted, on neither of them.
    daemon.work("DeleteBackup ta{sv} 1 0");
    current(&daemon);
    assert_eq!(unlike(&one, &two), "");
    let packs = |dir: &Path| sh(dir, "du -sb packs | cut -f1").trim().parse::<u64>().unwrap();
    assert!(packs(&two) < 2_600_000, "{}", packs(&two));
    let sync = daemon.work("SyncVault sa{sv} safe 0");
    assert_eq!((&sync["result"]["copied"], &sync["result"]["deleted"]), (&0.into(), &0.into()), "{sync}");
    let listed = daemon.ok("GetDestination s two");
    assert_eq!((&listed["vault"], &listed["state"]), (&"safe".into(), &"available".into()), "{listed}");
    // A vault that is removed with its data leaves neither copy.
    daemon.ok("DissociateResources sas safe 1 web");
    daemon.work("RemoveVault sa{sv} safe 1 delete_data b true");
    for disk in [&one, &two] {
        assert_eq!(sh(disk, "find . -type f ! -path './tmp/*'"), "");
    }
}

#[test]
fn a_mirror_that_is_away_delays_nothing_and_is_caught_up_also_by_another_daemon() {
    needs_root!("a_mirror_that_is_away_delays_nothing_and_is_caught_up_also_by_another_daemon");
    let mut daemon = machine();
    let (one, two) = (daemon.path("one"), daemon.path("two"));
    daemon.back_up("web");
    current(&daemon);
    std::fs::rename(&two, daemon.path("away")).unwrap();
    // Somebody else's disk, where even what looks half-done is not ours.
    std::fs::create_dir_all(two.join("tmp")).unwrap();
    std::fs::write(two.join("tmp/draft"), "theirs").unwrap();
    sh(&daemon.source(), "echo two > sub/page");
    daemon.back_up("web");
    wait_for("it is told", PATIENCE, || states(&daemon) == "two:failed");
    assert_eq!(statuses(&daemon, 2), "one:completed two:failed");
    assert_eq!(statuses(&daemon, 1), "one:completed two:completed");
    assert_eq!(sh(&two, "find . -type f").trim(), "./tmp/draft", "nothing is written there, nor removed");
    daemon.settle();
    let failed = daemon.wait(number(&daemon.ok("SyncVault sa{sv} safe 0")));
    assert_eq!((&failed["state"], &failed["error_name"]), (&"failed".into(), &FAILED.into()), "{failed}");
    // What is missing is written down.
    assert!(daemon.stop().success());
    std::fs::remove_dir_all(&two).unwrap();
    std::fs::rename(daemon.path("away"), &two).unwrap();
    daemon.start_again();
    current(&daemon);
    assert_eq!((statuses(&daemon, 2).as_str(), unlike(&one, &two).as_str()), ("one:completed two:completed", ""));
    let log = daemon.ok("ListJobs a{sv} 1 page_size u 100");
    let synced: Vec<u64> = log[1]
        .as_array()
        .unwrap()
        .iter()
        .filter(|j| j["kind"] == "sync" && j["state"] == "completed")
        .map(|j| j["result"]["copied"].as_u64().unwrap_or(0))
        .collect();
    assert!(synced[0] < 10, "only what was missing is copied: {synced:?}");
}

#[test]
fn killed_while_a_mirror_is_filled_it_is_filled_all_the_same() {
    needs_root!("killed_while_a_mirror_is_filled_it_is_filled_all_the_same");
    let kills = std::env::var("STRONGROOM_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let mut seed = Dice::new(5);
    let mut daemon = machine();
    sh(&daemon.source(), "for i in $(seq 12); do head -c 4000000 /dev/urandom > big$i; done");
    for round in 0..kills {
        if round % 3 == 2 {
            sh(&daemon.source(), &format!("rm -f big*; head -c 9000000 /dev/urandom > new{round}"));
            let old = daemon.completed();
            if old.len() > 1 {
                daemon.ok(&format!("DeleteBackup ta{{sv}} {} 0", old[0]));
            }
        }
        daemon.begin("web");
        std::thread::sleep(Duration::from_millis((seed.roll() * 900.0) as u64));
        daemon.kill();
        daemon.start_again();
    }
    daemon.settle();
    daemon.back_up("web");
    current(&daemon);
    let verified = daemon.work("VerifyVault sa{sv} safe 1 read_data b true");
    assert_eq!(verified["result"]["problems"], 0, "{verified}");
    assert_eq!(unlike(&daemon.path("one"), &daemon.path("two")), "");
    for id in daemon.completed() {
        assert_eq!(statuses(&daemon, id), "one:completed two:completed");
    }
}

#[test]
fn with_the_first_disk_gone_the_mirror_is_read_and_takes_its_place() {
    needs_root!("with_the_first_disk_gone_the_mirror_is_read_and_takes_its_place");
    let mut daemon = machine();
    let (one, two) = (daemon.path("one"), daemon.path("two"));
    daemon.back_up("web");
    current(&daemon);
    let below = daemon.source().strip_prefix("/").unwrap().to_owned();
    std::fs::rename(&one, daemon.path("lost")).unwrap();
    // An open vault, and one that is to be opened.
    for again in [false, true] {
        if again {
            assert!(daemon.stop().success());
            daemon.start_again();
        }
        let target = daemon.restore(1, &format!("target-{again}"));
        assert_eq!(differences(&daemon.source(), &target.join(&below)), "");
        wait_for("it is on the mount", PATIENCE, || daemon.browse(1).join(&below).exists());
        assert_eq!(differences(&daemon.source(), &daemon.browse(1).join(&below)), "");
        let (_, job) = daemon.begin("web");
        let failed = daemon.wait(job);
        assert_eq!((&failed["state"], &failed["error_name"]), (&"failed".into(), &FAILED.into()), "{failed}");
    }
    // The mirror takes over. Whether it has everything cannot be asked any more.
    let promote = "UpdateVault sa{sv} safe 1 destinations as 2 two one";
    refused(daemon.call(promote), STATE, "force");
    daemon.ok("UpdateVault sa{sv} safe 2 destinations as 2 two one force b true");
    sh(&daemon.source(), "echo three > sub/page");
    let backup = daemon.back_up("web");
    assert!(backup["stored_size"].as_u64().unwrap() < 1_000_000, "{backup}");
    let id = backup["id"].as_u64().unwrap();
    wait_for("the lost one is told of", PATIENCE, || statuses(&daemon, id) == "two:completed one:failed");
    // It is found again and becomes a mirror.
    std::fs::rename(daemon.path("lost"), &one).unwrap();
    daemon.settle();
    daemon.work("SyncVault sa{sv} safe 0");
    current(&daemon);
    assert_eq!(statuses(&daemon, id), "two:completed one:completed");
    assert_eq!(unlike(&one, &two), "");
    assert_eq!(daemon.work("VerifyVault sa{sv} safe 1 read_data b true")["result"]["problems"], 0);
    // And back, this time without force.
    daemon.ok("UpdateVault sa{sv} safe 1 destinations as 2 one two");
    daemon.back_up("web");
    current(&daemon);
    assert_eq!(unlike(&one, &two), "");
}

#[test]
fn a_mirror_is_added_to_a_full_vault_and_taken_away() {
    needs_root!("a_mirror_is_added_to_a_full_vault_and_taken_away");
    let daemon = machine();
    for page in ["a", "b", "c"] {
        sh(&daemon.source(), &format!("echo {page} > sub/page"));
        daemon.back_up("web");
    }
    current(&daemon);
    let three = destination(&daemon, "three", "");
    let full = destination(&daemon, "full", "");
    let small = destination(&daemon, "small", "max_backups u 2");
    daemon.ok("AddVault sa{sv} other 1 destinations as 1 full");
    for (list, name, words) in [
        ("as 2 one one", INVALID, "twice"),
        ("as 2 one full", STATE, "other"),
        ("as 2 three one", STATE, "sync"),
        ("as 0", INVALID, "destinations"),
        ("as 2 one nowhere", "org.strongroom1.Error.NotFound", "nowhere"),
        ("as 2 small one", STATE, "max_backups"),
    ] {
        refused(daemon.call(&format!("UpdateVault sa{{sv}} safe 1 destinations {list}")), name, words);
    }
    assert_eq!(daemon.ok("GetVault s safe")["destinations"], serde_json::json!(["one", "two"]));
    daemon.ok("UpdateVault sa{sv} safe 1 destinations as 4 one two three small");
    current(&daemon);
    assert_eq!(unlike(&daemon.path("one"), &three), "");
    assert_eq!(statuses(&daemon, 3), "one:completed two:completed three:completed small:completed");
    assert_eq!(statuses(&daemon, 1), "one:completed two:completed three:completed small:expired");
    assert_eq!(sh(&small, "ls backups | wc -l").trim(), "2");
    daemon.back_up("web");
    current(&daemon);
    assert_eq!(statuses(&daemon, 2), "one:completed two:completed three:completed small:expired");
    assert_eq!(daemon.work("VerifyVault sa{sv} safe 1 read_data b true")["result"]["problems"], 0);
    refused(daemon.call("RemoveDestination sa{sv} three 0"), STATE, "safe");
    daemon.ok("UpdateVault sa{sv} safe 1 destinations as 1 one");
    daemon.ok("RemoveDestination sa{sv} three 0");
    assert_eq!(statuses(&daemon, 3), "one:completed");
    assert!(three.join("vault.json").exists(), "what lies there stays there");
    drop(full);
}

#[test]
fn damage_on_either_disk_is_found_and_mended_from_the_other() {
    needs_root!("damage_on_either_disk_is_found_and_mended_from_the_other");
    let daemon = machine();
    let (one, two) = (daemon.path("one"), daemon.path("two"));
    daemon.back_up("web");
    current(&daemon);
    let whole = sh(&one, "find . -type f ! -path './tmp/*' | sort | xargs sha256sum");
    sh(&one, "p=$(find packs -type f | sort | head -1); printf x | dd of=$p bs=1 seek=200 conv=notrunc status=none");
    sh(&two, "rm $(find packs -type f | sort | tail -1) $(find backups -type f); truncate -s 5 $(find index -type f)");
    let job = daemon.wait(number(&daemon.ok("VerifyVault sa{sv} safe 1 read_data b true")));
    assert_eq!(
        (&job["state"], &job["error_name"]),
        (&"failed".into(), &"org.strongroom1.Error.Damaged".into()),
        "{job}"
    );
    let text = job["result"]["problem_list"].to_string();
    for part in ["packs/", "backups/", "index/", " on two"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(job["result"].get("damaged_backups").is_none(), "every backup can be restored: {job}");
    let target = daemon.restore(1, "target");
    let below = daemon.source().strip_prefix("/").unwrap().to_owned();
    assert_eq!(differences(&daemon.source(), &target.join(&below)), "");
    let job = daemon.work("VerifyVault sa{sv} safe 1 repair b true");
    assert_eq!((&job["result"]["repaired"], &job["result"]["problems"]), (&4.into(), &0.into()), "{job}");
    assert_eq!(unlike(&one, &two), "");
    assert_eq!(sh(&one, "find . -type f ! -path './tmp/*' | sort | xargs sha256sum"), whole);
    // Also what says whose the disk is.
    for disk in [&one, &two] {
        sh(disk, "echo '{' > vault.json");
        let job = daemon.work("VerifyVault sa{sv} safe 1 repair b true");
        assert_eq!(job["result"]["repaired"], 1, "{job}");
        assert_eq!(unlike(&one, &two), "");
    }
    // What neither has is named with the files that need it.
    sh(&one, &format!("p=$(find packs -type f -size +1M | head -1); rm $p {}/$p", two.display()));
    let job = daemon.wait(number(&daemon.ok("VerifyVault sa{sv} safe 1 repair b true")));
    assert_eq!(job["state"], "failed", "{job}");
    assert_eq!(job["result"]["damaged_backups"][0]["id"], 1, "{job}");
    assert!(job["result"]["problem_list"].to_string().contains("/table"), "{job}");
}

#[test]
fn a_backup_is_copied_to_another_vault_and_outlives_its_original() {
    needs_root!("a_backup_is_copied_to_another_vault_and_outlives_its_original");
    let daemon = machine();
    destination(&daemon, "region", "");
    daemon.ok("AddVault sa{sv} far 2 destinations as 1 region compression s zstd:6");
    let original = daemon.back_up("web");
    let job = daemon.work("CopyBackup tsa{sv} 1 far 1 description s off-site");
    assert_eq!(job["result"]["backup"], 2, "{job}");
    let copy = daemon.ok("GetBackup t 2");
    assert_eq!((&copy["checksum"], &copy["size"]), (&original["checksum"], &original["size"]));
    assert_eq!((&copy["vault"], &copy["copy_of"], &copy["backup_type"]), (&"far".into(), &1.into(), &"manual".into()));
    assert_eq!(copy["description"], "off-site");
    assert_eq!(daemon.ok("GetResource s web")["manual_count"], 1, "it takes nobody's place");
    refused(daemon.call("CopyBackup tsa{sv} 1 safe 0"), INVALID, "already");
    refused(daemon.call("CopyBackup tsa{sv} 9 far 0"), "org.strongroom1.Error.NotFound", "9");
    let again = daemon.work("CopyBackup tsa{sv} 1 far 0");
    assert_eq!(again["result"]["stored"], 0, "{again}");
    daemon.work("DeleteBackup ta{sv} 1 0");
    daemon.work("DeleteBackup ta{sv} 3 0");
    assert_eq!(daemon.work("VerifyVault sa{sv} far 1 read_data b true")["result"]["problems"], 0);
    let below = daemon.source().strip_prefix("/").unwrap().to_owned();
    let target = daemon.restore(2, "target");
    for copy in [target, daemon.browse(2)] {
        assert_eq!(differences(&daemon.source(), &copy.join(&below)), "");
    }
}

#[test]
fn a8_the_only_disk_keeps_as_many_automatic_backups_as_it_may() {
    needs_root!("a8_the_only_disk_keeps_as_many_automatic_backups_as_it_may");
    let daemon = machine();
    let disk = destination(&daemon, "disk", "max_backups u 2");
    daemon.ok("AddVault sa{sv} small 1 destinations as 1 disk");
    daemon.ok("SetSchedule sa{sv} often 4 cron s @yearly vault s small resources as 1 web retention u 0");
    daemon.ok(&format!("AddResource sa{{sv}} kept 2 paths as 1 {} vault s small", daemon.source().display()));
    daemon.back_up("kept");
    for page in ["a", "b", "c", "d"] {
        sh(&daemon.source(), &format!("echo {page} > sub/page"));
        for job in daemon.ok("RunSchedule sa{sv} often 0").as_array().unwrap() {
            assert_eq!(daemon.wait(number(job))["state"], "completed");
        }
    }
    wait_for("the oldest automatic ones go", PATIENCE, || daemon.completed() == [1, 4, 5]);
    daemon.settle();
    assert_eq!(sh(&disk, "ls backups | wc -l").trim(), "3", "the manual one stays");
    daemon.ok("UpdateDestination sa{sv} disk 1 max_backups u 1");
    wait_for("the limit is lower", PATIENCE, || daemon.completed() == [1, 5]);
    // A copy of a later one, which rests elsewhere, is not the newest that is kept whatever the limit says.
    daemon.back_up("web");
    assert_eq!(daemon.work("CopyBackup tsa{sv} 6 small 0")["result"]["backup"], 7);
    daemon.ok("UpdateDestination sa{sv} disk 1 max_backups u 2");
    daemon.ok("UpdateDestination sa{sv} disk 1 max_backups u 1");
    daemon.settle();
    assert_eq!(daemon.completed(), [1, 5, 6, 7]);
}

#[test]
fn mirrors_are_declared_in_a_file_and_one_is_enough_to_rise_from() {
    needs_root!("mirrors_are_declared_in_a_file_and_one_is_enough_to_rise_from");
    let mut daemon = Daemon::start();
    assert!(daemon.stop().success());
    sh(daemon.dir(), "rm -rf state cache; echo one > source/file");
    let write = |daemon: &Daemon, list: &str| {
        let text = "[destination.one]\ndirectory = '@/one'\n[destination.two]\ndirectory = '@/two'\n\
                    [vault.safe]\ndestinations = [LIST]\n[resource.web]\npaths = ['@/source']\nvault = 'safe'\n";
        let text = text.replace('@', daemon.dir().to_str().unwrap()).replace("LIST", list);
        std::fs::write(daemon.path("strongroom.toml"), text).unwrap();
    };
    write(&daemon, "'one'");
    daemon.start_again();
    daemon.back_up("web");
    write(&daemon, "'one', 'two'");
    daemon.ok("Reload a{sv} 0");
    current(&daemon);
    assert_eq!(statuses(&daemon, 1), "one:completed two:completed");
    refused(daemon.call("UpdateVault sa{sv} safe 1 destinations as 1 one"), STATE, "strongroom.toml");
    let key = daemon.ok("AddVaultKey sa{sv} safe 1 kind s recovery")["recovery_key"].as_str().unwrap().to_owned();
    current(&daemon);
    let checksum = daemon.ok("GetBackup t 1")["checksum"].clone();
    // Another machine has the second disk and the key.
    let new = Daemon::start();
    sh(new.dir(), &format!("cp -a {} usb", daemon.path("two").display()));
    new.ok(&format!("AddDestination ssa{{sv}} usb local 1 directory s {}", new.path("usb").display()));
    let job = new.call_with("RebuildCatalog", &["sa{sv}", "usb", "1", "recovery_key", "s", &key]).unwrap();
    assert_eq!(new.wait(number(&job))["state"], "completed");
    assert_eq!(new.ok("GetBackup t 1")["checksum"], checksum);
    let target = new.restore(1, "target");
    let below = daemon.source().strip_prefix("/").unwrap().to_owned();
    assert_eq!(differences(&daemon.source(), &target.join(below)), "");
}
