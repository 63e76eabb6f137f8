//! Rows C: backups of servers, by hand and by themselves.

use crate::common::{Daemon, differences, du, everything, number, random_files, sh, sh_fails};
use crate::jobs::with_slow_vault;
use crate::needs_root;

const INVALID: &str = "org.strongroom1.Error.InvalidArgument";
const NOT_FOUND: &str = "org.strongroom1.Error.NotFound";
const DENIED: &str = "org.freedesktop.DBus.Error.AccessDenied";

fn manifests(daemon: &Daemon) -> usize {
    std::fs::read_dir(daemon.store().join("backups")).unwrap().count()
}

#[test]
fn c1_backups_are_listed_by_server_and_by_how_they_came() {
    needs_root!("c1_backups_are_listed_by_server_and_by_how_they_came");
    let daemon = Daemon::start();
    sh(&daemon.source(), "mkdir web db; head -c 2500000 /dev/urandom > web/file; echo small > db/file");
    let ids = ["web", "db"].map(|name| daemon.add(name, &daemon.source().join(name)));
    daemon.call_with("SetSchedule", &["sa{sv}", "nightly", "1", "cron", "s", "0 2 1 1 *"]).unwrap();
    for path in daemon.ok("RunSchedule sa{sv} nightly 0").as_array().unwrap() {
        assert_eq!(daemon.wait(number(path))["state"], "completed");
    }
    let words = ["sa{sv}", "web", "1", "description", "s", "Pre-update backup"];
    let made = daemon.call_with("CreateBackup", &words).unwrap();
    daemon.wait(number(&made["job"]));
    assert_eq!(manifests(&daemon), 3);
    let list = |options: &str| {
        let list = daemon.ok(&format!("ListBackups a{{sv}} {options}"));
        let results = list[1].as_array().unwrap().clone();
        assert_eq!(list[0], results.len());
        results
    };
    let count = |options: &str| list(options).len();
    assert_eq!((count("0"), count("1 backup_type s manual"), count("1 backup_type s automatic")), (3, 1, 2));
    // A server goes by its name, its id, and the id as text.
    for server in ["resource s web".to_owned(), format!("server_id s {}", ids[0]), format!("server_id t {}", ids[0])] {
        assert_eq!(count(&format!("1 {server}")), 2, "{server}");
        assert_eq!(count(&format!("2 {server} backup_type s automatic")), 1, "{server}");
    }
    let manual = &list("2 resource s web backup_type s manual")[0];
    assert_eq!((&manual["server"]["id"], &manual["server"]["name"]), (&ids[0].into(), &"web".into()));
    assert_eq!((&manual["status"], &manual["description"]), (&"completed".into(), &"Pre-update backup".into()));
    let mib = sh(&daemon.source(), "du -BM --apparent-size web/file | cut -dM -f1").trim().parse::<u64>().unwrap();
    assert_eq!(manual["size_mb"], mib, "as du rounds up, too");
    assert!(manual["created_at"].as_str().is_some_and(|t| t.ends_with('Z')), "{manual}");
    assert!(manual.get("expires_at").is_none(), "{manual}");
    // What is listed is what can be looked into.
    for backup in list("0") {
        let source = daemon.source().join(backup["server"]["name"].as_str().unwrap());
        let copy = daemon.browse(backup["id"].as_u64().unwrap()).join(source.strip_prefix("/").unwrap());
        assert_eq!(differences(&source, &copy), "");
    }
}

#[test]
fn c2_a_manual_backup_answers_before_the_work_is_done() {
    needs_root!("c2_a_manual_backup_answers_before_the_work_is_done");
    let (daemon, disk) = with_slow_vault();
    let manifests = || std::fs::read_dir(disk.path.join("vault/backups")).map_or(0, Iterator::count);
    disk.freeze();
    // On a disk that nobody can write to, no work gets done.
    let made = daemon.call_with("CreateBackup", &["sa{sv}", "a", "1", "description", "s", "Before I go"]);
    let shown = made.as_ref().ok().map(|b| daemon.ok(&format!("GetBackup t {}", b["id"])));
    let listed = daemon.ok("ListBackups a{sv} 2 resource s a status s in_progress");
    let written = manifests();
    disk.thaw();
    let (made, shown) = (made.unwrap(), shown.unwrap());
    assert_eq!(written, 0, "there is nothing of it yet");
    for backup in [&made, &shown, &listed[1][0]] {
        assert!(["pending", "running"].iter().any(|s| backup["status"] == *s), "{backup}");
        assert!(["size", "size_mb", "completed_at", "checksum"].iter().all(|k| backup.get(k).is_none()), "{backup}");
        assert!(backup["message"].as_str().is_some_and(|m| !m.is_empty()), "{backup}");
        assert_eq!((&backup["backup_type"], &backup["description"]), (&"manual".into(), &"Before I go".into()));
        assert_eq!(backup["server"]["name"], "a");
    }
    assert_eq!(daemon.wait(number(&made["job"]))["state"], "completed");
    let backup = daemon.ok(&format!("GetBackup t {}", made["id"]));
    assert_eq!((&backup["status"], &backup["size"]), (&"completed".into(), &du(&daemon.source()).into()));
    assert_eq!(manifests(), 1);
}

#[test]
fn c4_a_deleted_backup_is_gone_for_good() {
    needs_root!("c4_a_deleted_backup_is_gone_for_good");
    let mut daemon = Daemon::start();
    random_files(&daemon.source(), "f", 3, 100_000);
    daemon.add("web", &daemon.source());
    let id = daemon.back_up("web")["id"].as_u64().unwrap();
    let kept = daemon.back_up("web")["id"].as_u64().unwrap();
    daemon.ok(&format!("UpdateBackup ta{{sv}} {kept} 1 protected b true"));
    assert_eq!(
        daemon.call(&format!("DeleteBackup ta{{sv}} {kept} 0")).unwrap_err().name,
        "org.strongroom1.Error.InvalidState"
    );
    daemon.work(&format!("DeleteBackup ta{{sv}} {id} 0"));
    // The later one, which stored hardly anything itself, is whole without it.
    let restored = daemon.restore(kept, "restored").join(daemon.source().strip_prefix("/").unwrap());
    assert_eq!(differences(&daemon.source(), &restored), "");
    for _ in 0..2 {
        assert_eq!(daemon.call(&format!("GetBackup t {id}")).unwrap_err().name, NOT_FOUND);
        assert_eq!(daemon.completed(), [kept]);
        assert_eq!(manifests(&daemon), 1);
        sh_fails(daemon.dir(), &format!("ls {}", daemon.browse(id).display()));
        // It is as gone for one that comes later.
        daemon.kill();
        daemon.start_again();
    }
    assert!(daemon.back_up("web")["id"].as_u64().unwrap() > kept, "an id is never used again");
}

#[test]
fn c5_a_server_is_restored_from_one_of_its_backups() {
    needs_root!("c5_a_server_is_restored_from_one_of_its_backups");
    let daemon = Daemon::start();
    sh(&daemon.source(), "mkdir web db; echo small > db/file");
    let web = daemon.source().join("web");
    everything(&web);
    let server = daemon.add("web", &web);
    daemon.add("db", &daemon.source().join("db"));
    let (id, other) = (daemon.back_up("web")["id"].clone(), daemon.back_up("db")["id"].clone());
    sh(
        daemon.dir(),
        "rsync -aHAX --devices --specials source/web/ before/; cd source/web; rm -r a; echo other > plain",
    );
    sh(daemon.dir(), "rsync -aHAX --devices --specials source/web/ after/");
    for (line, name) in [
        (format!("web {other} 1 confirm b true"), INVALID),
        (format!("nobody {id} 1 confirm b true"), NOT_FOUND),
        ("web 99 1 confirm b true".to_owned(), NOT_FOUND),
        (format!("web {id} 0"), "org.strongroom1.Error.NotConfirmed"),
    ] {
        let failure = daemon.call(&format!("RestoreServer sta{{sv}} {line}")).unwrap_err();
        assert_eq!(failure.name, name, "{line}: {failure:?}");
    }
    assert_eq!(differences(&daemon.path("after"), &web), "");
    let answer = daemon.ok(&format!("RestoreServer sta{{sv}} web {id} 1 confirm b true"));
    assert_eq!((&answer["server"]["id"], &answer["backup"]["id"]), (&server.into(), &id));
    assert!(answer["status"].is_string() && answer["message"].as_str().unwrap().contains("web"), "{answer}");
    assert_eq!(daemon.wait(number(&answer["job"]))["state"], "completed");
    assert_eq!(differences(&daemon.path("before"), &web), "");
}

#[test]
fn c6_errors_say_whether_the_call_the_caller_or_the_object_is_wrong() {
    needs_root!("c6_errors_say_whether_the_call_the_caller_or_the_object_is_wrong");
    let mut daemon = Daemon::start();
    sh(&daemon.source(), "echo x > x");
    daemon.add("web", &daemon.source());
    daemon.back_up("web");
    let (catalog, files) = (daemon.catalog(), sh(daemon.dir(), "find state/vault source -type f | sort"));
    for (line, error) in [
        ("CreateBackup sa{sv} web 1 description u 5", INVALID),
        ("CreateBackup sa{sv} nobody 0", NOT_FOUND),
        ("ListBackups a{sv} 1 backup_type s sometimes", INVALID),
        ("ListBackups a{sv} 1 server_id s 99", NOT_FOUND),
        ("GetBackup t 99", NOT_FOUND),
        ("DeleteBackup ta{sv} 99 0", NOT_FOUND),
        ("RestoreServer sta{sv} web 99 1 confirm b true", NOT_FOUND),
        ("RestoreServer sta{sv} web 1 1 confirm s yes", INVALID),
    ] {
        let failure = daemon.call(line).unwrap_err();
        assert_eq!(failure.name, error, "{line}: {failure:?}");
        // Whoever may not call learns no more than that.
        let failure = daemon.call_as_stranger(line).unwrap_err();
        assert_eq!(failure.name, DENIED, "{line}: {failure:?}");
    }
    assert_eq!((daemon.catalog(), sh(daemon.dir(), "find state/vault source -type f | sort")), (catalog, files));
    daemon.assert_well();
}
