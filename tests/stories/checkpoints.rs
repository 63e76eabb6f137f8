//! "I made a restore point of the whole vault": checkpoints, row by row of what they promise.

use crate::common::{Daemon, Disk, differences, du, number, sh};
use crate::needs_root;

/// Two resources, each with files of its own.
fn two() -> Daemon {
    let daemon = Daemon::start();
    sh(&daemon.source(), "mkdir a b; echo one > a/file; head -c 500000 /dev/urandom > b/large");
    daemon.add("a", &daemon.source().join("a"));
    daemon.add("b", &daemon.source().join("b"));
    daemon
}

#[test]
fn e1_a_checkpoint_backs_up_what_was_asked() {
    needs_root!("e1_a_checkpoint_backs_up_what_was_asked");
    let daemon = two();
    let made = daemon.ok(
        "CreateCheckpoint sa{sv} main 1 parameters a{sv} 4 name s 备份-1 description s before auto_trigger b true incremental b false",
    );
    assert_eq!(daemon.wait(number(&made["job"]))["state"], "completed");
    let list = daemon.ok(&format!("ListBackups a{{sv}} 1 checkpoint t {}", made["id"]));
    assert_eq!(list[0], 2, "{list}");
    for backup in list[1].as_array().unwrap() {
        assert_eq!(
            (&backup["backup_type"], &backup["incremental"], &backup["description"]),
            (&"automatic".into(), &false.into(), &"before".into())
        );
        let name = backup["server"]["name"].as_str().unwrap();
        let source = daemon.source().join(name);
        let copy = daemon.browse(backup["id"].as_u64().unwrap()).join(source.strip_prefix("/").unwrap());
        assert_eq!(differences(&source, &copy), "");
    }
    assert_eq!(sh(&daemon.store(), "find backups -type f | wc -l").trim(), "2");
    for wrong in ["name s a/b", "retention_duration i 0", "resources s a", "frequency i 1"] {
        let failure = daemon.call(&format!("CreateCheckpoint sa{{sv}} main 1 {wrong}")).unwrap_err();
        assert_eq!(failure.name, "org.strongroom1.Error.InvalidArgument", "{wrong}");
    }
    assert_eq!(daemon.ok("ListCheckpoints a{sv} 0")[0], 1);
}

#[test]
fn e2_the_answer_has_true_sizes_and_goes_with_its_backups() {
    needs_root!("e2_the_answer_has_true_sizes_and_goes_with_its_backups");
    let daemon = two();
    let made = daemon.ok("CreateCheckpoint sa{sv} main 3 name s point auto_trigger b true retention_duration i 30");
    assert_eq!(made["status"], "protecting", "{made}");
    assert_eq!(made["extra_info"]["retention_duration"], 30);
    daemon.wait(number(&made["job"]));
    let now = daemon.ok(&format!("GetCheckpoint t {}", made["id"]));
    assert_eq!((&now["status"], &now["vault"]["name"]), (&"available".into(), &"main".into()), "{now}");
    let b = &now["vault"]["resources"][1];
    assert_eq!((&b["backup_count"], &b["resource_size"]), (&1.into(), &1.into()), "{b}");
    // Nothing compresses it, so it takes at least its own length on the disk, and not much more.
    let (stored, on_disk) = (b["backup_size"].as_u64().unwrap(), du(&daemon.store()));
    assert!((500_000..=on_disk).contains(&stored), "{stored} of {on_disk}");
    let id = now["id"].as_u64().unwrap();
    daemon.ok("UpdateBackup ta{sv} 1 1 protected b true");
    let failure = daemon.call(&format!("DeleteCheckpoint ta{{sv}} {id} 0")).unwrap_err();
    assert_eq!(failure.name, "org.strongroom1.Error.InvalidState");
    assert_eq!(daemon.completed(), [1, 2], "all or none");
    daemon.ok("UpdateBackup ta{sv} 1 1 protected b false");
    daemon.work(&format!("DeleteCheckpoint ta{{sv}} {id} 0"));
    assert_eq!(sh(&daemon.store(), "find backups packs -type f | wc -l").trim(), "0");
    let failure = daemon.call(&format!("GetCheckpoint t {id}")).unwrap_err();
    assert_eq!(failure.name, "org.strongroom1.Error.NotFound");
}

#[test]
fn e3_a_resource_that_is_busy_is_skipped_and_the_others_go_on() {
    needs_root!("e3_a_resource_that_is_busy_is_skipped_and_the_others_go_on");
    let mut daemon = two();
    let disk = Disk::new("ext4", 400, &daemon.path("disk"));
    daemon.ok(&format!("AddDestination ssa{{sv}} slow local 1 directory s {}/vault", disk.path.display()));
    daemon.ok("AddVault sa{sv} slow 1 destinations as 1 slow");
    disk.freeze();
    let running = daemon.ok("CreateBackup sa{sv} a 1 vault s slow");
    daemon.wait_running(number(&running["job"]));
    let made = daemon.ok("CreateCheckpoint sa{sv} main 1 resources as 3 a b nobody");
    let again = daemon.ok("CreateCheckpoint sa{sv} main 1 resources as 2 a b");
    disk.thaw();
    let codes = |c: &serde_json::Value| -> Vec<String> {
        let list = c["vault"]["skipped_resources"].as_array().unwrap();
        list.iter().map(|s| format!("{} {}", s["name"].as_str().unwrap_or("?"), s["code"].as_str().unwrap())).collect()
    };
    assert_eq!(codes(&made), ["a Strongroom.1101", "? Strongroom.1001"], "{made}");
    assert_eq!(codes(&again), ["a Strongroom.1101", "b Strongroom.1102"], "{again}");
    assert_eq!(again["status"], "error");
    assert_eq!(daemon.wait(number(&again["job"]))["state"], "failed");
    assert_eq!(daemon.wait(number(&made["job"]))["state"], "completed");
    assert_eq!(sh(&daemon.store(), "find backups -type f | wc -l").trim(), "1");
    // A daemon that dies leaves no checkpoint that says it protects for ever.
    sh(&daemon.source(), "head -c 30000000 /dev/urandom > b/larger");
    disk.freeze();
    let cut = daemon.ok("CreateCheckpoint sa{sv} slow 1 resources as 1 b");
    daemon.wait_running(number(&cut["job"]));
    let part = daemon.ok(&format!("ListBackups a{{sv}} 1 checkpoint t {}", cut["id"]))[1][0].clone();
    daemon.wait_running(number(&part["job"]));
    disk.thaw();
    daemon.kill();
    daemon.start_again();
    let ended = daemon.wait(number(&cut["job"]));
    let backup = daemon.ok(&format!("GetBackup t {}", part["id"]));
    let now = daemon.ok(&format!("GetCheckpoint t {}", cut["id"]));
    let expected = if backup["status"] == "completed" { "available" } else { "error" };
    assert_eq!(now["status"], expected, "{now} {backup} {ended}");
}

#[test]
fn e4_all_types_of_resources_are_taken() {
    needs_root!("e4_all_types_of_resources_are_taken");
    let daemon = Daemon::start();
    let types = [
        "OS::Nova::Server",
        "OS::Native::Server",
        "OS::Ironic::BareMetalServer",
        "OS::Workspace::DesktopV2",
        "OS::Cinder::Volume",
        "OS::Sfs::Turbo",
    ];
    let mut details = String::new();
    for (n, kind) in types.iter().enumerate() {
        sh(&daemon.source(), &format!("mkdir {n}; echo {n} > {n}/file"));
        let path = daemon.source().join(n.to_string());
        let id = daemon.ok(&format!("AddResource sa{{sv}} r{n} 2 paths as 1 {} kind s {kind}", path.display()));
        details += &format!(" 3 id s {id} type s {kind} extra_info s note{n}");
    }
    let made = daemon.ok(&format!("CreateCheckpoint sa{{sv}} main 1 resource_details aa{{sv}} 6{details}"));
    assert_eq!(daemon.wait(number(&made["job"]))["state"], "completed");
    for (n, kind) in types.iter().enumerate() {
        let row = &made["vault"]["resources"][n];
        assert_eq!((&row["type"], &row["extra_info"]), (&(*kind).into(), &format!("note{n}").into()), "{row}");
        let file = daemon.source().join(format!("{n}/file"));
        let copy = daemon.browse(row["backup"].as_u64().unwrap()).join(file.strip_prefix("/").unwrap());
        sh(daemon.dir(), &format!("cmp {} {}", file.display(), copy.display()));
    }
    let wrong =
        daemon.ok("CreateCheckpoint sa{sv} main 1 resource_details aa{sv} 1 2 id s r0 type s OS::Cinder::Volume");
    assert_eq!(wrong["vault"]["skipped_resources"][0]["code"], "Strongroom.1005", "{wrong}");
}
