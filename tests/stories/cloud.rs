//! "My backups lie in a bucket": the main job over the bus, with nothing but `busctl`, and what
//! happens when the store goes away in the middle of it.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::s3::{Kind, Server};
use crate::common::{Daemon, Dice, differences, eventually, everything, heavy, number, random_files, sh, wait_for};
use crate::needs_root;

/// A file with the keys to the servers.
fn credential(daemon: &Daemon) -> String {
    let path = daemon.path("login");
    std::fs::write(&path, "access_key_id = test:key\nsecret_access_key = secret\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

fn destination(daemon: &Daemon, server: &Server) {
    let (endpoint, credential) = (server.endpoint(), credential(daemon));
    daemon.ok(&format!(
        "AddDestination ssa{{sv}} off s3 4 bucket s bucket endpoint s {endpoint} prefix s my/backups credential s {credential}"
    ));
    daemon.ok("AddVault sa{sv} cloud 1 destinations as 1 off");
}

fn back_up(daemon: &Daemon, resource: &str) -> u64 {
    let begun = daemon.ok(&format!("CreateBackup sa{{sv}} {resource} 1 vault s cloud"));
    let job = daemon.wait(number(&begun["job"]));
    assert_eq!(job["state"], "completed", "{job}");
    begun["id"].as_u64().unwrap()
}

/// Packs in the bucket, and those that the vault says it has.
fn no_orphans(daemon: &Daemon, server: &Server) {
    daemon.work("PruneVault sa{sv} cloud 0");
    let (keys, uploads) = server.keys("my/backups/");
    assert_eq!(uploads, [""; 0]);
    let packs: BTreeSet<_> = keys.iter().filter(|k| k.contains("/packs/")).collect();
    let pruned = daemon.work("PruneVault sa{sv} cloud 1 dry_run b true");
    assert_eq!(pruned["result"]["packs_before"].as_u64().unwrap(), packs.len() as u64, "{packs:?}");
    assert_eq!(pruned["result"]["packs_deleted"], 0, "{pruned}");
    let odd: Vec<_> = keys.iter().filter(|k| k.contains("/sessions/") || k.contains("/probe/")).collect();
    assert!(odd.is_empty(), "{odd:?}");
}

fn tell(kind: Kind, story: &str) {
    let Some(server) = Server::start(kind, story) else { return };
    let _heavy = heavy();
    let mut daemon = Daemon::start();
    everything(&daemon.source());
    random_files(&daemon.source(), "r", 20, 400_000);
    sh(&daemon.source(), "head -c 40000000 /dev/urandom > big");
    destination(&daemon, &server);
    daemon.add("tree", &daemon.source());

    let tested = daemon.work("TestDestination sa{sv} off 0");
    for step in ["put", "get", "range", "list", "multipart", "delete"] {
        assert_eq!(tested["result"][step], true, "{tested}");
    }
    assert!(tested["result"]["message"].as_str().unwrap().contains("multipart, delete work"), "{tested}");
    assert!(tested["result"]["latency_us"].as_u64().unwrap() > 0);

    let first = back_up(&daemon, "tree");
    let below = daemon.source();
    let below = below.strip_prefix("/").unwrap();
    assert_eq!(differences(&daemon.source(), &daemon.browse(first).join(below)), "", "the mount");
    let restored = daemon.restore(first, "restored").join(below);
    assert_eq!(differences(&daemon.source(), &restored), "", "what was restored");

    sh(&daemon.source(), "rm big; head -c 20000000 /dev/urandom > bigger; echo more >> plain");
    let second = back_up(&daemon, "tree");
    let there = daemon.ok("GetDestination s off");
    assert_eq!(
        (&there["state"], &there["vault"], &there["type"]),
        (&"available".into(), &"cloud".into(), &"s3".into())
    );
    assert!(there["used"].as_u64().unwrap() > 60_000_000, "{there}");
    let before = server.keys("my/backups/packs/").0.len();
    daemon.work(&format!("DeleteBackup ta{{sv}} {first} 0"));
    no_orphans(&daemon, &server);
    assert!(server.keys("my/backups/packs/").0.len() < before, "no space came back");
    assert_eq!(differences(&daemon.source(), &daemon.browse(second).join(below)), "", "the mount after a prune");
    daemon.work("VerifyVault sa{sv} cloud 1 read_data b true");

    // Everything lies beneath the prefix, and nothing of it can be read.
    let (keys, _) = server.keys("");
    assert!(keys.iter().all(|key| key.starts_with("my/backups/")), "{keys:?}");
    // A restart finds it again.
    assert!(daemon.stop().success());
    daemon.start_again();
    assert_eq!(differences(&daemon.source(), &daemon.browse(second).join(below)), "", "the mount after a restart");
    daemon.work("RemoveVault sa{sv} cloud 1 delete_data b true");
    assert_eq!(server.keys("").0, [""; 0], "removed with its data");
    daemon.ok("RemoveDestination sa{sv} off 0");
    daemon.assert_well();
}

#[test]
fn a7_a_vault_in_seaweedfs_does_the_main_job() {
    needs_root!("a7_a_vault_in_seaweedfs_does_the_main_job");
    tell(Kind::Seaweed, "a7_a_vault_in_seaweedfs_does_the_main_job");
}

#[test]
fn a_vault_in_swift_does_the_main_job() {
    needs_root!("a_vault_in_swift_does_the_main_job");
    tell(Kind::Swift, "a_vault_in_swift_does_the_main_job");
}

#[test]
fn a_store_that_is_killed_loses_no_backup() {
    needs_root!("a_store_that_is_killed_loses_no_backup");
    let Some(mut server) = Server::start(Kind::Seaweed, "a_store_that_is_killed_loses_no_backup") else { return };
    let _heavy = heavy();
    let mut daemon = Daemon::start();
    destination(&daemon, &server);
    daemon.add("tree", &daemon.source());
    random_files(&daemon.source(), "first", 10, 300_000);
    let mut good = vec![back_up(&daemon, "tree")];
    let mut dice = Dice::new(11);
    let mut ends = Vec::new();
    for round in 0..6 {
        sh(&daemon.source(), &format!("head -c 60000000 /dev/urandom > data{}", round % 2));
        let begun = daemon.ok("CreateBackup sa{sv} tree 1 vault s cloud");
        let job = number(&begun["job"]);
        daemon.wait_running(job);
        std::thread::sleep(Duration::from_secs_f64(dice.roll() * 1.5));
        server.kill();
        // Sometimes long enough that it cannot be waited for.
        std::thread::sleep(Duration::from_secs_f64(dice.roll() * 4.0));
        server.start_again();
        let job = daemon.wait(job);
        match job["state"].as_str().unwrap() {
            "completed" => good.push(begun["id"].as_u64().unwrap()),
            "failed" => assert_eq!(job["error_name"], "org.strongroom1.Error.DestinationFailed", "{job}"),
            other => panic!("{other}: {job}"),
        }
        ends.push(job["state"].as_str().unwrap().to_owned());
        good.push(back_up(&daemon, "tree"));
        daemon.work(&format!("DeleteBackup ta{{sv}} {} 0", good.remove(0)));
    }
    println!("backups meanwhile: {ends:?}");
    no_orphans(&daemon, &server);
    daemon.work("VerifyVault sa{sv} cloud 1 read_data b true");
    assert_eq!(daemon.completed(), good);
    let below = daemon.source();
    let below = below.strip_prefix("/").unwrap();
    assert_eq!(differences(&daemon.source(), &daemon.browse(*good.last().unwrap()).join(below)), "");
    daemon.assert_well();
}

#[test]
fn a_store_that_is_down_is_an_error_to_readers_and_no_more() {
    needs_root!("a_store_that_is_down_is_an_error_to_readers_and_no_more");
    let story = "a_store_that_is_down_is_an_error_to_readers_and_no_more";
    let Some(mut server) = Server::start(Kind::Seaweed, story) else { return };
    let mut daemon = Daemon::start();
    destination(&daemon, &server);
    daemon.add("tree", &daemon.source());
    random_files(&daemon.source(), "f", 6, 5_000_000);
    let id = back_up(&daemon, "tree");
    let mounted = daemon.browse(id).join(daemon.source().strip_prefix("/").unwrap());
    assert_eq!(sh(&mounted, "ls | wc -l").trim(), "6");
    server.kill();
    for file in ["f00002", "f00003"] {
        let since = Instant::now();
        let error = std::fs::read(mounted.join(file)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::EIO), "{error}");
        // Bounded by patience; a machine that is busy gets more.
        assert!(since.elapsed() < Duration::from_secs(90), "{:?}", since.elapsed());
    }
    // Whoever asks is answered, and a test says what is wrong.
    let job = daemon.wait(number(&daemon.ok("TestDestination sa{sv} off 0")));
    assert_eq!((&job["state"], &job["result"]["put"]), (&"failed".into(), &false.into()), "{job}");
    assert_eq!(job["error_name"], "org.strongroom1.Error.DestinationFailed");
    daemon.ok("ListVaults a{sv} 0");
    let begun = daemon.ok("CreateBackup sa{sv} tree 1 vault s cloud");
    let job = daemon.wait(number(&begun["job"]));
    assert_eq!(job["error_name"], "org.strongroom1.Error.DestinationFailed", "{job}");
    assert_eq!(daemon.ok("GetDestination s off")["state"], "unavailable");

    // A daemon that starts meanwhile starts all the same, and shows what there is once it can.
    daemon.kill();
    daemon.start_again();
    assert!(daemon.ok("GetVault s cloud").get("used").is_none());
    server.start_again();
    wait_for("the file can be read again", Duration::from_secs(120), || std::fs::read(mounted.join("f00002")).is_ok());
    assert_eq!(differences(&daemon.source(), &mounted), "");
    assert!(eventually(Duration::from_secs(120), || daemon.ok("GetDestination s off")["state"] == "available"));
    back_up(&daemon, "tree");
    daemon.assert_well();
}

#[test]
fn a12_what_lies_in_a_cloud_is_encrypted_and_its_keys_stay_secret() {
    needs_root!("a12_what_lies_in_a_cloud_is_encrypted_and_its_keys_stay_secret");
    let mut daemon = Daemon::start();
    let refused = |daemon: &Daemon, line: &str, words: &[&str]| {
        let failure = daemon.call(line).unwrap_err();
        assert_eq!(failure.name, "org.strongroom1.Error.InvalidArgument", "{line}: {failure:?}");
        assert!(words.iter().all(|w| failure.message.contains(w)), "{line}: {failure:?}");
        assert!(!failure.message.contains("XyZZy"), "{failure:?}");
    };
    let add = "AddDestination ssa{sv} off s3";
    let endpoint = "endpoint s http://127.0.0.1:1";
    let keys = "access_key_id s AK secret_access_key s XyZZy";
    refused(&daemon, &format!("{add} 3 {endpoint} {keys}"), &["bucket"]);
    refused(&daemon, &format!("{add} 3 bucket s b {keys}"), &["region"]);
    refused(&daemon, &format!("{add} 3 bucket s b {endpoint} secret_access_key s XyZZy"), &["access_key_id"]);
    refused(&daemon, &format!("{add} 2 bucket s b {endpoint}"), &["credential"]);
    refused(&daemon, &format!("{add} 5 bucket s b {endpoint} {keys} credential s x"), &["credential"]);
    refused(&daemon, &format!("{add} 5 bucket s b {endpoint} {keys} storage_class s GLACIER"), &["storage_class"]);
    refused(&daemon, &format!("{add} 5 bucket s b {endpoint} {keys} ca_file s /etc/passwd"), &["ca_file"]);
    refused(&daemon, &format!("{add} 5 bucket s b {endpoint} {keys} colour s red"), &["colour"]);
    let login = credential(&daemon);
    sh(Path::new("/"), &format!("chmod 644 {login}"));
    refused(&daemon, &format!("{add} 3 bucket s b {endpoint} credential s {login}"), &["credential", "0644", "0600"]);
    refused(&daemon, &format!("{add} 3 bucket s b {endpoint} credential s not-given"), &["credential", "systemd"]);
    assert_eq!(daemon.ok("ListDestinations a{sv} 0")[0], 1, "nothing was added");

    daemon.ok(&format!("{add} 5 bucket s b {endpoint} {keys} prefix s /p/"));
    let shown = daemon.ok("GetDestination s off");
    assert_eq!((&shown["bucket"], &shown["prefix"], &shown["access_key_id"]), (&"b".into(), &"p".into(), &"AK".into()));
    assert_eq!(shown["state"], "unknown");
    refused(&daemon, "AddVault sa{sv} plain 2 destinations as 1 off encryption b false", &["encryption", "off"]);
    refused(
        &daemon,
        &format!("AddDestination ssa{{sv}} two s3 5 bucket s b {endpoint} {keys} prefix s p/q"),
        &["overlaps"],
    );
    // Not there: told soon, and nothing is made.
    let failure = daemon.call("AddVault sa{sv} v 1 destinations as 1 off").unwrap_err();
    assert_eq!(failure.name, "org.strongroom1.Error.DestinationFailed", "{failure:?}");
    assert!(daemon.call("GetVault s v").is_err());

    // The secret is in one file, which is root's, and nowhere else.
    let found = || sh(daemon.dir(), "grep -rlaF XyZZy state cache log run 2>/dev/null || true");
    let files = found();
    assert_eq!(files.lines().count(), 1, "{files}");
    let file = daemon.path(files.trim());
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!daemon.ok("ListDestinations a{sv} 0").to_string().contains("XyZZy"));
    let task = r#"CreateTask a{sv} 3 name s copy store_location s DIR content a{sv} 1 common_data b true"#;
    let copies = daemon.path("copies");
    std::fs::create_dir(&copies).unwrap();
    daemon.ok(&task.replace("DIR", &copies.display().to_string()));
    wait_for("the copy is made", Duration::from_secs(60), || {
        sh(&copies, "find . -name '*.json' -size +0 | wc -l").trim() != "0"
    });
    assert_eq!(sh(&copies, "grep -rlaF XyZZy . || true"), "");

    // Other keys take its place, and with the destination they go.
    daemon.ok("UpdateDestination sa{sv} off 2 access_key_id s AL secret_access_key s Plugh");
    assert!(!file.exists());
    assert_eq!(daemon.ok("GetDestination s off")["access_key_id"], "AL");
    assert!(daemon.stop().success());
    daemon.start_again();
    assert_eq!(sh(daemon.dir(), "ls state/credentials | wc -l").trim(), "1");
    daemon.ok("RemoveDestination sa{sv} off 0");
    assert_eq!(sh(daemon.dir(), "ls state/credentials | wc -l").trim(), "0");
    daemon.assert_well();
}

#[test]
fn a_file_declares_a_bucket() {
    needs_root!("a_file_declares_a_bucket");
    let Some(server) = Server::start(Kind::Seaweed, "a_file_declares_a_bucket") else { return };
    let daemon = Daemon::start();
    let login = credential(&daemon);
    let declare = |more: &str| {
        let text = format!(
            "[destination.off]\ntype = 's3'\nbucket = 'bucket'\nendpoint = '{}'\ncredential = '{login}'\n\n\
             [vault.cloud]\ndestinations = ['off']\n{more}",
            server.endpoint()
        );
        std::fs::write(daemon.path("strongroom.toml"), text).unwrap();
        daemon.call("Reload a{sv} 0")
    };
    let failure = declare("encryption = false\n").unwrap_err();
    assert!(failure.message.contains("line 9: key \"encryption\""), "{failure:?}");
    assert!(daemon.call("GetDestination s off").is_err(), "nothing was made");
    declare("").unwrap();
    sh(&daemon.source(), "echo one > file");
    daemon.add("tree", &daemon.source());
    let id = back_up(&daemon, "tree");
    let file = daemon.browse(id).join(daemon.source().strip_prefix("/").unwrap()).join("file");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "one\n");
    declare("").unwrap();
    back_up(&daemon, "tree");
}
