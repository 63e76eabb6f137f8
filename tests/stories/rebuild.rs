//! "The machine is gone, and all I have is the disk with the vault and a key on paper."

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value as Reply;

use crate::common::{Daemon, differences, number, sh, sh_fails};
use crate::needs_root;

/// A machine with a vault on a disk of its own: two resources, three backups, a schedule, a task,
/// a checkpoint. Gives it with the recovery key.
fn machine() -> (Daemon, String) {
    let daemon = Daemon::start();
    let source = daemon.source();
    let disk = daemon.path("disk");
    sh(&source, "mkdir web db; echo one > web/page; head -c 3000000 /dev/urandom > db/table; ln -s page web/link");
    sh(&source, "setfattr -n user.note -v 'a note' web/page; chown 1234:4321 db/table; chmod 2750 db");
    daemon.ok(&format!("AddDestination ssa{{sv}} usb local 1 directory s {}", disk.display()));
    daemon.ok("AddVault sa{sv} offsite 3 destinations as 1 usb compression s zstd:5 capacity t 9000000000");
    daemon.ok("AddProject sa{sv} shop 0");
    for name in ["web", "db"] {
        let path = source.join(name);
        let line =
            format!("AddResource sa{{sv}} {name} 3 paths as 1 {} vault s offsite project s shop", path.display());
        daemon.ok(&line);
    }
    daemon.ok(
        "SetSchedule sa{sv} nightly 5 cron s @daily vault s offsite retention u 7 resources as 1 web enabled b true",
    );
    let key = daemon.ok("AddVaultKey sa{sv} offsite 1 kind s recovery")["recovery_key"].as_str().unwrap().to_owned();
    daemon.back_up("web");
    daemon.back_up("db");
    sh(&source, "echo two > web/page");
    for job in daemon.ok("RunSchedule sa{sv} nightly 0").as_array().unwrap() {
        daemon.wait(number(job));
    }
    daemon.ok("UpdateBackup ta{sv} 1 2 description s before-the-move protected b true");
    (daemon, key)
}

fn backups(daemon: &Daemon) -> Vec<Reply> {
    let mut list = daemon.ok("ListBackups a{sv} 2 sort as 1 id page_size u 100")[1].as_array().unwrap().clone();
    for row in &mut list {
        // Where it is mounted and which job made it belong to the machine; a manifest's times are
        // those of the work, a moment after they were asked for.
        let row = row.as_object_mut().unwrap();
        for key in ["job", "browse_path", "expires_at", "destinations", "created_at", "completed_at"] {
            row.remove(key);
        }
    }
    list
}

#[test]
fn an_empty_machine_rises_from_a_disk_and_a_key_on_paper() {
    needs_root!("an_empty_machine_rises_from_a_disk_and_a_key_on_paper");
    let (mut old, key) = machine();
    let checkpoint = old.ok("CreateCheckpoint sa{sv} offsite 2 name s before auto_trigger b true");
    old.wait(number(&checkpoint["job"]));
    let (before, source) = (backups(&old), old.source());
    let schedule = old.ok("GetSchedule s nightly");
    old.stop();

    let mut new = Daemon::start();
    let disk = new.path("disk");
    sh(new.dir(), &format!("cp -a {} disk", old.path("disk").display()));
    new.ok(&format!("AddDestination ssa{{sv}} rescue local 1 directory s {}", disk.display()));
    let wrong = new.call("RebuildCatalog sa{sv} rescue 0").unwrap_err();
    assert_eq!(wrong.name, "org.strongroom1.Error.InvalidArgument", "{wrong:?}");
    let other = new.ok("AddVaultKey sa{sv} main 1 kind s recovery")["recovery_key"].as_str().unwrap().to_owned();
    let wrong = new.call_with("RebuildCatalog", &["sa{sv}", "rescue", "1", "recovery_key", "s", &other]).unwrap_err();
    assert_eq!(wrong.name, "org.strongroom1.Error.InvalidArgument", "{wrong:?}");
    assert!(!wrong.message.contains(&other[..8]), "{wrong:?}");
    assert_eq!(new.ok("ListVaults a{sv} 0")[0], 1, "nothing was changed");
    new.ok(&format!("AddDestination ssa{{sv}} other local 1 directory s {}", new.path("other").display()));
    new.ok("AddVault sa{sv} mine 1 destinations as 1 other");

    let job = new.call_with("RebuildCatalog", &["sa{sv}", "rescue", "1", "recovery_key", "s", &key]).unwrap();
    let done = new.wait(number(&job));
    assert_eq!(done["state"], "completed", "{done}");
    assert_eq!(done["result"]["backups"], before.len() as u64, "{done}");
    assert_eq!(backups(&new), before);
    let vault = new.ok("GetVault s offsite");
    assert_eq!(vault["compression"], "zstd:5", "{vault}");
    assert_eq!(vault["capacity"], 9_000_000_000_u64, "{vault}");
    let vaults = new.ok("ListVaults a{sv} 1 sort as 1 name");
    assert_eq!(vaults[0], 2, "the empty one of the first start is gone, and no other: {vaults}");
    assert_eq!(vaults[1][0]["name"], "mine", "{vaults}");
    for (noun, name) in [("Resource", "web"), ("Resource", "shop/db")] {
        assert_eq!(new.ok(&format!("Get{noun} s {name}"))["paths"], old_paths(&source, name), "{name}");
    }
    let again = new.ok("GetSchedule s nightly");
    for key in ["cron", "retention", "resources", "vault", "enabled"] {
        assert_eq!(again[key], schedule[key], "{key}");
    }
    let listed = new.ok("ListCheckpoints a{sv} 0");
    assert_eq!(listed[1][0]["extra_info"]["name"], "before", "{listed}");

    // All of it is there: on the mount, after a restore, and by a check of every byte.
    new.work("VerifyVault sa{sv} offsite 1 read_data b true");
    for id in [3, 2] {
        let target = new.restore(id, &format!("target{id}"));
        let name = if id == 2 { "db" } else { "web" };
        let below = source.join(name).strip_prefix("/").unwrap().to_owned();
        assert_eq!(differences(&source.join(name), &target.join(&below)), "");
        assert_eq!(differences(&source.join(name), &new.browse(id).join(&below)), "");
    }
    // Life goes on: the next backup counts on from there, and stores what is new alone.
    let (id, job) = new.begin("web");
    new.wait(job);
    assert_eq!(id, before.len() as u64 + 1);
    let row = new.ok(&format!("GetBackup t {id}"));
    assert!(row["stored_size"].as_u64().unwrap() < 20_000, "{row}");

    // A second time finds nothing new, needs no key, and survives a crash in the middle.
    let job = number(&new.ok("RebuildCatalog sa{sv} rescue 0"));
    new.kill();
    new.start_again();
    let done = new.wait(job);
    assert_eq!(done["state"], "completed", "{done}");
    assert_eq!(new.ok("ListBackups a{sv} 0")[0], id);
    let shown = new.ok(&format!("GetJob t {job}")).to_string() + &new.log();
    assert!(!shown.contains(&key[..16]), "the key is kept nowhere");
}

fn old_paths(source: &Path, name: &str) -> Reply {
    let name = name.rsplit('/').next().unwrap();
    serde_json::json!([source.join(name).to_str().unwrap()])
}

#[test]
fn a_rebuilding_that_was_cut_short_after_the_identity_is_taken_up_again() {
    needs_root!("a_rebuilding_that_was_cut_short_after_the_identity_is_taken_up_again");
    let (mut old, key) = machine();
    old.stop();
    let mut new = Daemon::start();
    new.stop();
    // The identity is a file, written before anything is in the catalog.
    sh(new.dir(), &format!("cp {} state/machine-id", old.path("state/machine-id").display()));
    new.start_again();
    sh(new.dir(), &format!("cp -a {} disk", old.path("disk").display()));
    new.ok(&format!("AddDestination ssa{{sv}} rescue local 1 directory s {}", new.path("disk").display()));
    let job = new.call_with("RebuildCatalog", &["sa{sv}", "rescue", "1", "recovery_key", "s", &key]).unwrap();
    let done = new.wait(number(&job));
    assert_eq!((&done["result"]["backups"], &done["result"]["foreign_backups"]), (&3.into(), &0.into()), "{done}");
    let vaults = new.ok("ListVaults a{sv} 0");
    assert_eq!((&vaults[0], &vaults[1][0]["name"]), (&1.into(), &"offsite".into()), "{vaults}");
}

#[test]
fn another_machines_backups_are_read_beside_ones_own() {
    needs_root!("another_machines_backups_are_read_beside_ones_own");
    let (mut old, key) = machine();
    old.stop();
    let new = Daemon::start();
    sh(&new.source(), "echo mine > mine");
    new.add("web", &new.source());
    new.back_up("web");
    sh(new.dir(), &format!("cp -a {} disk", old.path("disk").display()));
    new.ok(&format!("AddDestination ssa{{sv}} theirs local 1 directory s {}", new.path("disk").display()));
    let taken = ["sa{sv}", "theirs", "2", "recovery_key", "s", &key, "machine", "s", "nobody-has-this-name"];
    let job = new.call_with("RebuildCatalog", &taken).unwrap();
    let failed = new.wait(number(&job));
    assert_eq!(failed["error_name"], "org.strongroom1.Error.NotFound", "{failed}");
    let done = new.work("RebuildCatalog sa{sv} theirs 0");
    assert_eq!(done["result"]["foreign_backups"], 3, "{done}");
    let list = new.ok("ListBackups a{sv} 1 sort as 1 id");
    assert_eq!(list[0], 4, "{list}");
    let theirs = &list[1][1];
    assert_eq!(theirs["server"]["name"], "web");
    assert_ne!(theirs["server"]["id"], list[1][0]["server"]["id"], "it is not ours");
    let resource = new.ok("ListResources a{sv} 0");
    assert_eq!(resource[0], 1, "their resources are not ours to back up");
    let id = theirs["id"].as_u64().unwrap();
    let target = new.restore(id, "target");
    let page = old.source().join("web/page").strip_prefix("/").unwrap().to_owned();
    assert_eq!(sh(&target, &format!("cat {}", page.display())), "one\n");
    // Whoever their users are, here they are root's alone.
    let stranger = "setpriv --reuid 4242 --regid 4242 --clear-groups";
    let said = sh_fails(Path::new("/"), &format!("{stranger} ls {}", new.browse(id).join("etc").display()));
    assert!(said.contains("Permission denied"), "{said}");
    // What no schedule of ours made is let go by none.
    assert!(list[1].as_array().unwrap().iter().all(|b| b.get("expires_at").is_none()), "{list}");
}

#[test]
fn a_rescue_system_needs_nothing_but_the_program() {
    needs_root!("a_rescue_system_needs_nothing_but_the_program");
    let (mut old, key) = machine();
    let source = old.source();
    old.stop();
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let run = |args: &[&str], input: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_strongroom"))
            .args(["--private", dir.path().to_str().unwrap()])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{args:?}: {output:?}");
        text
    };
    let disk = old.path("disk");
    run(&["destination", "add", "rescue", "local", disk.to_str().unwrap()], "");
    run(&["vault", "rebuild", "rescue"], &format!("{key}\n"));
    let list = run(&["list"], "");
    assert!(list.contains("web") && list.contains("db"), "{list}");
    let target = dir.path().join("target");
    run(&["restore", "3", "--target", target.to_str().unwrap()], "");
    let below = source.join("web").strip_prefix("/").unwrap().to_owned();
    assert_eq!(differences(&source.join("web"), &target.join(below)), "");
}
