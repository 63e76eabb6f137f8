//! "I asked for a lot at once, and it did one thing after the other, and told me all along."

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::{Daemon, Disk, eventually, number, sh, wait_for};
use crate::needs_root;

/// A daemon whose vault `slow` lies on a disk of its own, which can be frozen: work on it then
/// goes on for as long as the story wants. Resources `a`, `b` and `c` go there.
pub fn with_slow_vault() -> (Daemon, Disk) {
    let daemon = Daemon::start();
    let disk = Disk::new("ext4", 400, &daemon.path("disk"));
    daemon.ok(&format!("AddDestination ssa{{sv}} slow local 1 directory s {}/vault", disk.path.display()));
    daemon.ok("AddVault sa{sv} slow 1 destinations as 1 slow");
    sh(&daemon.source(), "head -c 30000000 /dev/urandom > large");
    for name in ["a", "b", "c"] {
        daemon.ok(&format!("AddResource sa{{sv}} {name} 2 paths as 1 {} vault s slow", daemon.source().display()));
    }
    (daemon, disk)
}

fn state(daemon: &Daemon, job: u64) -> String {
    daemon.ok(&format!("GetJob t {job}"))["state"].as_str().unwrap().to_owned()
}

#[test]
fn a11_one_backup_or_restore_runs_and_the_others_wait() {
    needs_root!("a11_one_backup_or_restore_runs_and_the_others_wait");
    let (daemon, disk) = with_slow_vault();
    sh(daemon.dir(), "mkdir other; echo x > other/x");
    daemon.add("quick", &daemon.path("other"));
    let quick = daemon.back_up("quick")["id"].as_u64().unwrap();
    disk.freeze();
    let jobs = ["a", "b", "c"].map(|name| daemon.begin(name));
    daemon.wait_running(jobs[0].1);
    let target = daemon.path("target");
    let restore = number(&daemon.ok(&format!("RestoreBackup ta{{sv}} {quick} 1 target s {}", target.display())));
    let states = [jobs[0].1, jobs[1].1, jobs[2].1, restore].map(|job| state(&daemon, job));
    let idle = !target.exists();
    let property = |name| {
        let words = ["ss", "org.strongroom1.Manager", name];
        daemon.object("/org/strongroom1", "org.freedesktop.DBus.Properties", "Get", &words).unwrap()
    };
    let counts = (property("RunningJobs"), property("QueuedJobs"));
    let in_progress = daemon.ok("ListBackups a{sv} 1 status s in_progress");
    daemon.ok(&format!("CancelJob ta{{sv}} {} 0", jobs[1].1));
    let cancelled = state(&daemon, jobs[1].1);
    disk.thaw();
    assert_eq!(states, ["running", "pending", "pending", "pending"]);
    assert_eq!(counts, (1.into(), 3.into()));
    assert!(idle, "a restore waits for a backup, though it could be done at once");
    assert_eq!(in_progress[0], 3);
    assert_eq!(cancelled, "cancelled");
    assert_eq!(daemon.ok(&format!("GetBackup t {}", jobs[1].0))["status"], "cancelled");
    for job in [jobs[0].1, jobs[2].1, restore] {
        assert_eq!(daemon.wait(job)["state"], "completed");
    }
    assert_eq!(daemon.completed(), [quick, jobs[0].0, jobs[2].0]);
    assert_eq!(sh(&disk.path, "ls vault/backups | wc -l"), "2\n", "the cancelled one left nothing");
    sh(daemon.dir(), "cmp other/x target$PWD/other/x");
    let failure = daemon.call(&format!("CancelJob ta{{sv}} {} 0", jobs[1].1)).unwrap_err();
    assert_eq!(failure.name, "org.strongroom1.Error.InvalidState");
}

#[test]
fn no_method_waits_for_work() {
    needs_root!("no_method_waits_for_work");
    let (daemon, disk) = with_slow_vault();
    let (first, job) = daemon.begin("a");
    assert_eq!(daemon.wait(job)["state"], "completed");
    disk.freeze();
    let (id, job) = daemon.begin("b");
    daemon.wait_running(job);
    // Were one of these to wait for the frozen disk, it would never come back.
    let calls = [
        "ListResources a{sv} 0".to_owned(),
        "ListBackups a{sv} 0".to_owned(),
        "ListJobs a{sv} 0".to_owned(),
        "ListVaults a{sv} 0".to_owned(),
        "ListDestinations a{sv} 0".to_owned(),
        "GetVault s slow".to_owned(),
        "GetDestination s slow".to_owned(),
        format!("GetJob t {job}"),
        format!("GetBackup t {id}"),
        format!("ListBackupErrors ta{{sv}} {first} 0"),
        "CreateBackup sa{sv} c 0".to_owned(),
        "AddProject sa{sv} other 0".to_owned(),
        "UpdateResource sa{sv} c 1 exclude as 1 *.tmp".to_owned(),
        "VerifyVault sa{sv} slow 0".to_owned(),
        "PruneVault sa{sv} slow 0".to_owned(),
        format!("DeleteBackup ta{{sv}} {first} 0"),
        format!("CancelJob ta{{sv}} {job} 0"),
    ];
    let answers: Vec<_> = calls
        .iter()
        .map(|call| {
            let start = std::time::Instant::now();
            (call, daemon.call(call), start.elapsed())
        })
        .collect();
    let still = state(&daemon, job);
    disk.thaw();
    for (call, answer, took) in answers {
        assert!(answer.is_ok(), "{call}: {answer:?}");
        assert!(took < Duration::from_secs(10), "{call} took {took:?}");
    }
    assert_eq!(still, "running");
    let ended = daemon.wait(job);
    assert_eq!(ended["state"], "cancelled", "{ended}");
    assert_eq!(daemon.ok(&format!("GetBackup t {id}"))["status"], "cancelled");
    wait_for("everything ends", Duration::from_secs(120), || {
        let list = daemon.ok("ListJobs a{sv} 0");
        list[1].as_array().unwrap().iter().all(|j| j["state"] != "running" && j["state"] != "pending")
    });
    assert_eq!(daemon.work("VerifyVault sa{sv} slow 1 read_data b true")["result"]["problems"], 0);
}

#[test]
fn a_job_shows_how_far_it_is() {
    needs_root!("a_job_shows_how_far_it_is");
    let (daemon, disk) = with_slow_vault();
    // Enough that it is caught at work.
    sh(&daemon.source(), "head -c 150000000 /dev/urandom > larger");
    let (_, job) = daemon.begin("a");
    let object = format!("/org/strongroom1/job/{job}");
    let all = || daemon.object(&object, "org.freedesktop.DBus.Properties", "GetAll", &["s", "org.strongroom1.Job"]);
    let moved = eventually(Duration::from_secs(60), || all().map_or(true, |p| p["BytesDone"].as_u64() > Some(0)));
    disk.freeze();
    let properties = all();
    disk.thaw();
    let properties = properties.unwrap();
    assert!(moved, "{properties}");
    assert_eq!(properties["Id"], job);
    assert_eq!(properties["Kind"], "backup");
    assert_eq!(properties["State"], "running");
    assert!(properties["Progress"].as_f64().is_some_and(|p| (0.0..=1.0).contains(&p)), "{properties}");
    assert!(properties["StartTime"].as_u64() > Some(1_600_000_000_000_000), "{properties}");
    for name in ["BytesTotal", "FilesDone", "FilesTotal", "Rate", "ExpectedEndTime"] {
        assert!(properties[name].is_u64(), "{name}: {properties}");
    }
    let ended = daemon.wait(job);
    assert_eq!((&ended["state"], &ended["progress"]), (&"completed".into(), &1.0.into()));
}

#[test]
fn signals_tell_of_every_job() {
    needs_root!("signals_tell_of_every_job");
    let daemon = Daemon::start();
    sh(&daemon.source(), "echo x > x");
    daemon.add("web", &daemon.source());
    let mut monitor = Command::new("timeout")
        .args(["60", "busctl", "--json=short", &format!("--address={}", daemon.address()), "monitor"])
        .args(["--match", "type='signal',interface='org.strongroom1.Manager'"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It says so when it listens.
    let mut said = String::new();
    BufReader::new(monitor.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert!(said.contains("onitoring"), "{said}");
    let backup = daemon.back_up("web");
    let gone = daemon.work(&format!("DeleteBackup ta{{sv}} {} 0", backup["id"]));
    let mut seen = Vec::new();
    for line in BufReader::new(monitor.stdout.take().unwrap()).lines() {
        let message: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        if message["interface"] != "org.strongroom1.Manager" {
            continue;
        }
        let data = &message["payload"]["data"];
        seen.push((message["member"].as_str().unwrap().to_owned(), data[0].as_u64().unwrap(), data[2].clone()));
        if seen.last().is_some_and(|(member, id, _)| member == "JobRemoved" && Some(*id) == gone["id"].as_u64()) {
            break;
        }
    }
    let _ = monitor.kill();
    let _ = monitor.wait();
    let has = |member: &str, id: u64| seen.iter().any(|(m, i, _)| m == member && *i == id);
    assert!(has("JobNew", 1) && has("JobRemoved", 1) && has("BackupChanged", 1) && has("JobNew", 2), "{seen:?}");
    let results: Vec<_> = seen.iter().filter(|(m, ..)| m == "JobRemoved").map(|(_, _, result)| result).collect();
    assert_eq!(results, ["completed", "completed"], "{seen:?}");
}

#[test]
fn the_interface_reads_as_documentation() {
    needs_root!("the_interface_reads_as_documentation");
    let daemon = Daemon::start();
    let xml = sh(
        daemon.dir(),
        &format!("busctl --address={} introspect --xml-interface org.strongroom1 /org/strongroom1", daemon.address()),
    );
    for method in
        ["AddResource", "CreateBackup", "ListBackups", "RestoreBackup", "ExportBackup", "VerifyVault", "CancelJob"]
    {
        assert!(xml.contains(&format!("method name=\"{method}\"")), "{method}: {xml}");
    }
    // What D-Bus itself brings along is not ours to document.
    let ours = xml.split("<interface name=\"org.strongroom1.").skip(1);
    let ours = ours.filter_map(|part| part.split("</interface>").next()).flat_map(str::lines);
    let nameless: Vec<_> = ours.filter(|l| l.contains("<arg ") && !l.contains("name=\"")).collect();
    assert_eq!(nameless, [""; 0]);
}
