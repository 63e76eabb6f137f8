//! Rows A: backups, their list, their download, restore and destruction; destinations; rights.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use redb::{ReadableDatabase, ReadableTable};
use serde_json::Value as Reply;

use crate::common::pass::export_into;
use crate::common::{Daemon, differences, du, everything, number, random_files, sh, sh_fails};
use crate::hostile::introspect;
use crate::needs_root;

const INVALID: &str = "org.strongroom1.Error.InvalidArgument";
const NOT_CONFIRMED: &str = "org.strongroom1.Error.NotConfirmed";
const FAILED: &str = "org.strongroom1.Error.DestinationFailed";
const DENIED: &str = "org.freedesktop.DBus.Error.AccessDenied";

/// Names of the files in parts of a store, sorted.
fn listing(store: &Path, parts: &str) -> Vec<String> {
    sh(store, &format!("find {parts} -type f | LC_ALL=C sort")).lines().map(str::to_owned).collect()
}

fn rows(list: &Reply) -> &[Reply] {
    list[1].as_array().unwrap()
}

fn time(value: &Reply) -> jiff::Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

/// A backup's files, where they stand in the mount or a target.
fn below(place: &Path, source: &Path) -> std::path::PathBuf {
    place.join(source.strip_prefix("/").unwrap())
}

#[test]
fn a1_a_backup_is_made_of_everything_with_its_description() {
    needs_root!("a1_a_backup_is_made_of_everything_with_its_description");
    let daemon = Daemon::start();
    everything(&daemon.source());
    daemon.add("web", &daemon.source());
    let words = ["sa{sv}", "web", "2", "type", "s", "full", "description", "s", "Before the update"];
    let made = daemon.call_with("CreateBackup", &words).unwrap();
    assert_eq!(daemon.wait(number(&made["job"]))["state"], "completed");
    assert_eq!(listing(&daemon.store(), "backups").len(), 1, "one manifest in the store");
    let id = made["id"].as_u64().unwrap();
    let backup = daemon.ok(&format!("GetBackup t {id}"));
    assert_eq!((&backup["type"], &backup["description"]), (&"full".into(), &"Before the update".into()));
    assert_eq!(differences(&daemon.source(), &below(&daemon.browse(id), &daemon.source())), "");
    // What the resource does not have cannot be backed up, and nothing of it is begun.
    let failure = daemon.call("CreateBackup sa{sv} web 1 type s database").unwrap_err();
    assert_eq!(failure.name, INVALID);
    assert_eq!(listing(&daemon.store(), "backups").len(), 1);
}

#[test]
fn a2_backups_are_listed_by_any_field_in_pages() {
    needs_root!("a2_backups_are_listed_by_any_field_in_pages");
    let daemon = Daemon::start();
    let store = daemon.store();
    let mut manifests: Vec<String> = Vec::new();
    for (name, bytes) in [("middle", 30_000), ("large", 900_000), ("small", 20), ("other", 5_000)] {
        sh(&daemon.source(), &format!("mkdir {name}; head -c {bytes} /dev/urandom > {name}/file"));
        daemon.add(name, &daemon.source().join(name));
        daemon.back_up(name);
        let new = listing(&store, "backups").into_iter().find(|m| !manifests.contains(m)).unwrap();
        manifests.push(new);
    }
    let names = |options: &str| -> Vec<String> {
        let list = daemon.ok(&format!("ListBackups a{{sv}} {options}"));
        assert_eq!(list[0], 4, "the count is taken before paging");
        rows(&list).iter().map(|b| b["server"]["name"].as_str().unwrap().to_owned()).collect()
    };
    // As `ls` has the files by size, and the store's manifests by the time they were written.
    let by_size: Vec<String> = sh(&daemon.source(), "ls -S */file | cut -d/ -f1").lines().map(str::to_owned).collect();
    assert_eq!(names("1 sort as 1 -size"), by_size);
    let written = sh(&store.join("backups"), "ls -tr").lines().map(|m| format!("backups/{m}")).collect::<Vec<_>>();
    assert_eq!(written, manifests);
    assert_eq!(names("1 sort as 1 -created_at"), ["other", "small", "large", "middle"]);
    assert_eq!(names("0"), ["other", "small", "large", "middle"], "the newest first");
    // A page after the other is the whole.
    let pages: Vec<String> =
        (1..=3).flat_map(|page| names(&format!("3 sort as 1 size page_size i 2 page i {page}"))).collect();
    assert_eq!(pages, by_size.iter().rev().cloned().collect::<Vec<_>>());
    // Any field that a backup has: up and down are each other's reverse, equal ones by their id.
    let fields: Vec<String> = daemon.ok("GetBackup t 1").as_object().unwrap().keys().cloned().collect();
    assert!(fields.len() > 25, "{fields:?}");
    for field in &fields {
        let mut down = names(&format!("1 sort as 2 -{field} -id"));
        down.reverse();
        assert_eq!(names(&format!("1 sort as 2 {field} id")), down, "{field}");
    }
}

#[test]
fn every_list_sorts_by_every_field_that_it_shows() {
    needs_root!("every_list_sorts_by_every_field_that_it_shows");
    let daemon = Daemon::start();
    sh(&daemon.source(), "echo x > x");
    daemon.add("web", &daemon.source());
    daemon.call_with("SetSchedule", &["sa{sv}", "nightly", "1", "cron", "s", "0 2 1 1 *"]).unwrap();
    daemon.work_of(&daemon.ok("CreateCheckpoint sa{sv} main 0"));
    let mut wrong = Vec::new();
    for kind in ["Projects", "Resources", "Destinations", "Vaults", "Backups", "Checkpoints", "Schedules", "Jobs"] {
        let list = daemon.ok(&format!("List{kind} a{{sv}} 0"));
        assert!(list[0].as_u64() > Some(0), "{kind}: {list}");
        for field in list[1][0].as_object().unwrap().keys() {
            if let Err(e) = daemon.call(&format!("List{kind} a{{sv}} 1 sort as 1 -{field}")) {
                wrong.push(format!("{kind} by {field}: {}", e.name));
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn a3_a_backup_is_downloaded_as_a_stream() {
    needs_root!("a3_a_backup_is_downloaded_as_a_stream");
    let daemon = Daemon::start();
    everything(&daemon.source());
    random_files(&daemon.source(), "random", 20, 1_000_000);
    // What tar cannot carry.
    sh(&daemon.source(), "rm socket");
    daemon.add("web", &daemon.source());
    daemon.back_up("web");
    let before = (du(&daemon.path("state")), du(&daemon.path("cache")));
    for (format, unpack) in [("tar", "cat"), ("tar.gz", "gzip -dc"), ("tar.zst", "zstd -dcq")] {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let job = export_into(&daemon, 1, format, OwnedFd::from(writer));
        let mut head = vec![0; 200_000];
        reader.read_exact(&mut head).unwrap();
        // A pipe holds little: the rest waits to be asked for, and lies nowhere meanwhile.
        assert_eq!(daemon.ok(&format!("GetJob t {job}"))["state"], "running");
        let small = |dir: &str, was: u64| du(&daemon.path(dir)) < was + 5_000_000;
        assert!(small("state", before.0) && small("cache", before.1), "{format}: it is written to the disk first");
        let out = daemon.path(&format!("out-{format}"));
        std::fs::create_dir(&out).unwrap();
        let untar = "tar --xattrs --xattrs-include='*' --acls -xpf -";
        let mut tar = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &format!("{unpack} | {untar}")])
            .current_dir(&out)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut into = tar.stdin.take().unwrap();
        into.write_all(&head).unwrap();
        std::io::copy(&mut reader, &mut into).unwrap();
        drop(into);
        assert!(tar.wait().unwrap().success(), "{format}");
        assert_eq!(daemon.wait(job)["state"], "completed", "{format}");
        let lines = differences(&daemon.source(), &below(&out, &daemon.source()));
        assert_eq!(lines, "", "{format}");
    }
}

#[test]
fn a4_a_restore_overwrites_all_and_only_when_confirmed() {
    needs_root!("a4_a_restore_overwrites_all_and_only_when_confirmed");
    let daemon = Daemon::start();
    let source = daemon.source();
    everything(&source);
    daemon.add("web", &source);
    let id = daemon.back_up("web")["id"].as_u64().unwrap();
    sh(daemon.dir(), "rsync -aHAX --devices --specials source/ before/");
    sh(
        &source,
        "echo other > plain; rm -r a/b; rm link1; echo new > new; mkdir later; echo x > later/x; chmod 777 acl",
    );
    sh(daemon.dir(), "rsync -aHAX --devices --specials source/ after/");
    for (options, name) in [
        ("0", NOT_CONFIRMED),
        ("1 confirm b false", NOT_CONFIRMED),
        ("1 confirm s true", INVALID),
        ("2 confirm b true type s database", INVALID),
    ] {
        let failure = daemon.call(&format!("RestoreBackup ta{{sv}} {id} {options}")).unwrap_err();
        assert_eq!(failure.name, name, "{options}: {failure:?}");
    }
    assert_eq!(differences(&daemon.path("after"), &source), "", "what was refused changed nothing");
    assert_ne!(differences(&daemon.path("before"), &source), "");
    let job = daemon.work(&format!("RestoreBackup ta{{sv}} {id} 1 confirm b true"));
    assert_eq!(job["result"]["errors"], 0, "{job}");
    assert_eq!(differences(&daemon.path("before"), &source), "", "changed, lost and new: all as it was");
}

#[test]
fn a5_a_destroyed_backup_leaves_nothing_behind() {
    needs_root!("a5_a_destroyed_backup_leaves_nothing_behind");
    let daemon = Daemon::start();
    let (source, store) = (daemon.source(), daemon.store());
    let empty = (listing(&store, "."), du(&store));
    random_files(&source, "first", 5, 1_000_000);
    daemon.add("web", &source);
    let first = daemon.back_up("web")["id"].as_u64().unwrap();
    let (packs, size) = (listing(&store, "packs"), du(&store));
    random_files(&source, "second", 20, 1_000_000);
    let second = daemon.back_up("web")["id"].as_u64().unwrap();
    assert!(du(&store) > size + 20_000_000);
    daemon.work(&format!("DeleteBackup ta{{sv}} {second} 0"));
    assert_eq!(listing(&store, "packs"), packs);
    assert_eq!(listing(&store, "backups").len(), 1);
    assert!(du(&store) < size + 100_000, "{} bytes after {size}", du(&store));
    sh_fails(daemon.dir(), &format!("ls {}", daemon.browse(second).display()));
    // What the other one counts on is all there.
    sh(&source, "rm second*");
    let lines = differences(&source, &below(&daemon.browse(first), &source));
    assert_eq!(lines.lines().filter(|l| !l.ends_with(" ./")).count(), 0, "{lines}");
    assert_eq!(daemon.work("VerifyVault sa{sv} main 1 read_data b true")["result"]["problems"], 0);
    daemon.work(&format!("DeleteBackup ta{{sv}} {first} 0"));
    assert_eq!(listing(&store, "backups packs"), [""; 0]);
    assert!(du(&store) < empty.1 + 100_000, "{:?} was {empty:?}", listing(&store, "."));
}

#[test]
fn a8_backups_lie_in_the_directory_of_their_destination() {
    needs_root!("a8_backups_lie_in_the_directory_of_their_destination");
    let daemon = Daemon::start();
    random_files(&daemon.source(), "f", 3, 1_000_000);
    let disk = daemon.path("disk");
    daemon.ok(&format!("AddDestination ssa{{sv}} disk local 2 directory s {}/copies max_backups i 7", disk.display()));
    assert_eq!(sh(&disk, "stat -c '%a %U' copies"), "700 root\n", "it is made, and nobody else looks in");
    assert_eq!(daemon.ok("GetDestination s disk")["max_backups"], 7);
    let tested = daemon.work("TestDestination sa{sv} disk 0");
    assert_eq!(listing(&disk, "."), [""; 0], "a test leaves nothing: {tested}");
    daemon.ok("AddVault sa{sv} copies 1 destinations as 1 disk");
    daemon.ok(&format!("AddResource sa{{sv}} web 2 paths as 1 {} vault s copies", daemon.source().display()));
    let main = listing(&daemon.store(), ".");
    let id = daemon.back_up("web")["id"].as_u64().unwrap();
    let held = du(&disk.join("copies"));
    assert!((3_000_000..3_300_000).contains(&held), "{held}");
    assert_eq!(listing(&daemon.store(), "."), main, "nothing lies elsewhere");
    assert_eq!(differences(&daemon.source(), &below(&daemon.browse(id), &daemon.source())), "");
    // A disk that is not there is said to be missing, and is not filled from anew.
    sh(&disk, "mv copies away");
    let (_, job) = daemon.begin("web");
    assert_eq!(daemon.wait(job)["error_name"], FAILED);
    assert_eq!(daemon.ok("GetDestination s disk")["state"], "unavailable");
    sh(&disk, "[ ! -e copies ]; mv away copies");
    daemon.back_up("web");
}

#[test]
fn a9_a_backup_tells_all_about_itself_and_truly() {
    needs_root!("a9_a_backup_tells_all_about_itself_and_truly");
    let daemon = Daemon::start();
    let source = daemon.source();
    sh(&source, "mkdir d; for i in $(seq 10000); do echo 'a marker that can be found'; done > d/text");
    random_files(&source, "f", 4, 700_000);
    daemon.ok(&format!("AddDestination ssa{{sv}} bare local 1 directory s {}", daemon.path("bare").display()));
    daemon.ok("AddVault sa{sv} bare 3 destinations as 1 bare encryption b false compression s none");
    daemon.add("web", &source);
    let now = || sh(daemon.dir(), "date -u +%FT%T.%NZ").trim().parse::<jiff::Timestamp>().unwrap();
    let (began, backup, ended) = (now(), daemon.back_up("web"), now());
    for (key, is) in [
        ("id", backup["id"].is_u64()),
        ("type", backup["type"] == "full"),
        ("status", backup["status"] == "completed"),
        ("size", backup["size"].as_u64() == Some(du(&source))),
        ("files", backup["files"] == 5),
        ("description", backup["description"] == ""),
        ("encrypted", backup["encrypted"] == true),
        ("error", backup.get("error").is_none()),
    ] {
        assert!(is, "{key}: {backup}");
    }
    let place = &backup["destinations"][0];
    assert_eq!((&place["name"], &place["status"]), (&"local".into(), &"completed".into()));
    let (created, completed) = (time(&backup["created_at"]), time(&backup["completed_at"]));
    assert!(began <= created && created <= completed && completed <= ended, "{began} {backup} {ended}");
    // The checksum is SHA-256 over all there is: the same again for the same, in another vault too.
    let checksum = backup["checksum"].as_str().unwrap();
    let digits = checksum.strip_prefix("sha256:").unwrap();
    assert!(digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()), "{checksum}");
    let made = daemon.ok("CreateBackup sa{sv} web 1 vault s bare");
    daemon.wait(number(&made["job"]));
    let bare = daemon.ok(&format!("GetBackup t {}", made["id"]));
    assert_eq!((&bare["checksum"], &bare["encrypted"]), (&backup["checksum"], &false.into()));
    // Encrypted is what cannot be found.
    let found = |store: &Path| sh(store, "(grep -rlaF 'a marker that can be found' . || true) | wc -l").trim() != "0";
    assert!(found(&daemon.path("bare")) && !found(&daemon.store()));
    // One byte is another backup; and one that fails says why.
    sh(&source, "echo x >> d/text");
    assert_ne!(daemon.back_up("web")["checksum"], backup["checksum"]);
    sh(daemon.dir(), "mv source away");
    let (id, job) = daemon.begin("web");
    let job = daemon.wait(job);
    let failed = daemon.ok(&format!("GetBackup t {id}"));
    assert_eq!((&failed["status"], &failed["error"]), (&"failed".into(), &job["error"]));
    assert!(failed["error"].as_str().unwrap().contains(source.to_str().unwrap()), "{failed}");
    assert_eq!(listing(&daemon.store(), "backups").len(), 2, "the failed one is not in the store");
}

#[test]
fn a10_what_is_known_is_kept_in_tables() {
    needs_root!("a10_what_is_known_is_kept_in_tables");
    let mut daemon = Daemon::start();
    sh(&daemon.source(), "echo x > x");
    daemon.add("web", &daemon.source());
    daemon.call_with("SetSchedule", &["sa{sv}", "nightly", "1", "cron", "s", "0 2 1 1 *"]).unwrap();
    daemon.ok(&format!("AddDestination ssa{{sv}} disk local 1 directory s {}", daemon.path("disk").display()));
    daemon.back_up("web");
    daemon.back_up("web");
    let catalog = daemon.catalog();
    assert!(daemon.stop().success());
    // Read by the database's own library, and by nothing of ours.
    let (file, mode) = (daemon.path("state/catalog.redb"), sh(daemon.dir(), "stat -c %a state/catalog.redb"));
    assert_eq!(mode, "600\n");
    let text = |table: &str| -> Vec<String> {
        let database = redb::Database::open(&file).unwrap();
        let read = database.begin_read().unwrap();
        let table = read.open_table(redb::TableDefinition::<u64, &[u8]>::new(table)).unwrap();
        table.iter().unwrap().map(|row| String::from_utf8_lossy(row.unwrap().1.value()).into_owned()).collect()
    };
    let holds = |table: &str, words: &[&str]| {
        let rows = text(table);
        assert_eq!(rows.len(), words.len(), "{table}: {rows:?}");
        for (row, word) in rows.iter().zip(words) {
            assert!(row.contains(word), "{table}: {row} without {word}");
        }
    };
    holds("backups", &["\"resource_name\":\"web\""; 2]);
    holds("schedules", &["0 2 1 1 *"]);
    holds("destinations", &["state/vault", "/disk"]);
    daemon.start_again();
    assert_eq!(daemon.catalog(), catalog);
}

#[test]
fn a13_backups_are_compressed_as_their_vault_says() {
    needs_root!("a13_backups_are_compressed_as_their_vault_says");
    let daemon = Daemon::start();
    let source = daemon.source();
    sh(&source, "for i in $(seq 200000); do echo \"line $i of a log\"; done > log");
    let size = du(&source);
    let stored = |name: &str, keys: &str| {
        let dir = daemon.path(name);
        daemon.ok(&format!("AddDestination ssa{{sv}} {name} local 1 directory s {}", dir.display()));
        daemon.ok(&format!("AddVault sa{{sv}} {name} {keys} destinations as 1 {name}"));
        daemon.ok(&format!("AddResource sa{{sv}} {name} 2 paths as 1 {} vault s {name}", source.display()));
        let id = daemon.back_up(name)["id"].as_u64().unwrap();
        assert_eq!(differences(&source, &below(&daemon.browse(id), &source)), "", "{name}");
        du(&dir.join("packs"))
    };
    let bare = stored("bare", "2 compression s none");
    let usual = stored("usual", "1");
    let gzip = stored("gzip", "2 compression s gzip:6");
    let much = stored("much", "2 compression s zstd:19");
    assert!(
        bare >= size && usual < size / 4 && gzip < size / 3 && much < usual,
        "{size}: {bare} {usual} {gzip} {much}"
    );
    assert_eq!(daemon.ok("GetVault s usual")["compression"], "zstd:3");
    // Out of the house it is gzip on request, which its own tool can tell.
    let archive = daemon.path("out.tar.gz");
    daemon.work(&format!("ExportBackup ta{{sv}} 1 2 path s {} format s tar.gz", archive.display()));
    sh(daemon.dir(), "gzip -t out.tar.gz; gzip -dc out.tar.gz | tar -xO --wildcards '*/log' | cmp - source/log");
    assert!(std::fs::metadata(archive).unwrap().len() < size / 3);
}

#[test]
fn a15_only_administrators_may_call() {
    needs_root!("a15_only_administrators_may_call");
    let mut daemon = Daemon::start();
    sh(&daemon.source(), "echo x > x");
    sh(daemon.dir(), "mkdir target; chmod 777 target");
    daemon.add("web", &daemon.source());
    daemon.back_up("web");
    let (methods, _) = introspect(&daemon, "/org/strongroom1", "org.strongroom1.Manager");
    let (before, store) = (daemon.catalog(), listing(&daemon.store(), "."));
    let mut denied = BTreeSet::new();
    for method in &methods {
        let mut line = format!("{} {}", method.name, method.inputs.concat());
        for input in &method.inputs {
            line += match input.as_str() {
                "s" => " web",
                "t" => " 1",
                _ => " 0",
            };
        }
        let failure = daemon.call_as_stranger(&line).expect_err(&line);
        assert_eq!(failure.name, DENIED, "{line}: {failure:?}");
        assert!(failure.message.contains("org.strongroom1."), "{line}: {failure:?}");
        denied.insert(failure.message.split(' ').find(|w| w.starts_with("org.strongroom1.")).unwrap().to_owned());
    }
    // Every right was asked for, and what was denied was not done.
    let rights = ["backup", "configure", "delete", "read", "restore"].map(|r| format!("org.strongroom1.{r}:"));
    assert_eq!(denied, BTreeSet::from(rights));
    let target = daemon.path("target").display().to_string();
    let failure = daemon.call_as_stranger(&format!("RestoreBackup ta{{sv}} 1 1 target s {target}")).unwrap_err();
    assert_eq!(failure.name, DENIED);
    assert_eq!(sh(&daemon.path("target"), "ls -A"), "");
    assert_eq!((daemon.catalog(), listing(&daemon.store(), ".")), (before, store));
    assert_eq!(sh(&daemon.source(), "cat x"), "x\n");
    daemon.assert_well();
}
