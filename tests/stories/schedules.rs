//! "It backs up by itself, and clears up after itself, and I can see what it will do."

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use serde_json::Value as Reply;

use crate::common::{Daemon, du, lacks, sh, wait_for};
use crate::needs_root;

const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon with one small resource.
fn with_resource(story: &str) -> Daemon {
    let daemon = Daemon::start();
    sh(&daemon.source(), &format!("echo {story} > file; head -c 100000 /dev/urandom > data"));
    daemon.add("web", &daemon.source());
    daemon
}

fn backups(daemon: &Daemon, filter: &str) -> Vec<Reply> {
    let count = filter.split_whitespace().count() / 3;
    let line = format!("ListBackups a{{sv}} {} {filter} page_size u 1000 sort as 1 id", count + 2);
    daemon.ok(&line)[1].as_array().unwrap().clone()
}

fn ids(list: &[Reply]) -> Vec<u64> {
    list.iter().map(|b| b["id"].as_u64().unwrap()).collect()
}

/// Runs a schedule by hand, and waits for its jobs.
fn run(daemon: &Daemon, schedule: &str) {
    let jobs = daemon.ok(&format!("RunSchedule sa{{sv}} {schedule} 0"));
    for path in jobs.as_array().unwrap() {
        assert_eq!(daemon.wait(crate::common::number(path))["state"], "completed");
    }
}

/// The store's manifests: what a vault holds, whatever the daemon says.
fn manifests(daemon: &Daemon) -> usize {
    std::fs::read_dir(daemon.store().join("backups")).unwrap().count()
}

#[test]
fn a6_a_schedule_backs_up_by_itself_and_keeps_as_many_as_it_may() {
    needs_root!("a6_a_schedule_backs_up_by_itself_and_keeps_as_many_as_it_may");
    let mut daemon = with_resource("a6");
    let id = daemon
        .call_with(
            "SetSchedule",
            &[
                "sa{sv}",
                "often",
                "8",
                "enabled",
                "b",
                "true",
                "cron",
                "s",
                "* * * * * *",
                "type",
                "s",
                "full",
                "retention",
                "i",
                "30",
                "max_backups",
                "i",
                "2",
                "notify_on_failure",
                "b",
                "true",
                "timezone",
                "s",
                "Europe/Berlin",
                "resources",
                "as",
                "1",
                "web",
            ],
        )
        .unwrap();
    let object = format!("/org/strongroom1/schedule/{id}");
    let words = ["ss", "org.strongroom1.Schedule", "Info"];
    let info = daemon.object(&object, "org.freedesktop.DBus.Properties", "Get", &words).unwrap();
    assert_eq!((&info["name"], &info["max_backups"]), (&"often".into(), &2.into()));
    assert_eq!(info, daemon.ok("GetSchedule s often"));
    // By itself, again and again, and the old ones go: seen in the store.
    wait_for("some have come and gone", PATIENCE, || {
        let list = backups(&daemon, "status s completed");
        ids(&list).last().is_some_and(|last| *last >= 5)
    });
    daemon.ok("SetSchedule sa{sv} often 1 enabled b false");
    wait_for("all is done", PATIENCE, || daemon.ok("ListJobs a{sv} 1 state s in_progress")[0] == 0);
    wait_for("two are left", PATIENCE, || backups(&daemon, "status s completed").len() == 2);
    wait_for("all is done", PATIENCE, || daemon.ok("ListJobs a{sv} 1 state s in_progress")[0] == 0);
    assert_eq!(manifests(&daemon), 2);
    let left = backups(&daemon, "schedule s often");
    assert!(left.iter().all(|b| b["backup_type"] == "automatic" && b["schedule"] == "often"), "{left:?}");
    let row = daemon.ok("GetSchedule s often");
    assert_eq!((&row["last_result"], &row["overdue"]), (&"completed".into(), &false.into()));
    assert!(row["next_run"].is_null(), "it is not enabled");
    let before = ids(&left);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(ids(&backups(&daemon, "schedule s often")), before, "what is not enabled does not run");
    let failure = daemon.call("RemoveResource sa{sv} web 0").unwrap_err();
    assert_eq!(failure.name, "org.strongroom1.Error.InvalidState");
    assert!(failure.message.contains("often"), "{failure:?}");
    daemon.ok("RemoveSchedule sa{sv} often 0");
    assert_eq!(daemon.call("GetSchedule s often").unwrap_err().name, "org.strongroom1.Error.NotFound");
    assert!(daemon.object(&object, "org.freedesktop.DBus.Properties", "Get", &words).is_err());
    assert_eq!(manifests(&daemon), 2, "its backups stay");
    daemon.assert_well();
}

#[test]
fn a6_schedules_survive_the_daemon_and_miss_nothing() {
    needs_root!("a6_schedules_survive_the_daemon_and_miss_nothing");
    let mut daemon = with_resource("missed");
    daemon.call_with("SetSchedule", &["sa{sv}", "s", "1", "cron", "s", "*/2 * * * * *"]).unwrap();
    wait_for("one is made", PATIENCE, || !backups(&daemon, "status s completed").is_empty());
    daemon.kill();
    std::thread::sleep(Duration::from_secs(5));
    daemon.start_again();
    let last = ids(&backups(&daemon, "backup_type s automatic")).last().copied().unwrap();
    wait_for("it goes on", PATIENCE, || ids(&backups(&daemon, "status s completed")).last() > Some(&last));
    daemon.ok("SetSchedule sa{sv} s 1 enabled b false");
    daemon.assert_well();
}

#[test]
fn c3_automatic_backups_expire_after_thirty_days_and_manual_ones_never() {
    needs_root!("c3_automatic_backups_expire_after_thirty_days_and_manual_ones_never");
    let daemon = with_resource("c3");
    let manual = daemon.back_up("web");
    daemon.call_with("SetSchedule", &["sa{sv}", "yearly", "1", "cron", "s", "0 0 1 1 *"]).unwrap();
    (0..3).for_each(|_| run(&daemon, "yearly"));
    let of = |id: u64| daemon.ok(&format!("GetBackup t {id}"));
    assert!(of(manual["id"].as_u64().unwrap())["expires_at"].is_null(), "a manual one never expires");
    let list = backups(&daemon, "backup_type s automatic");
    assert_eq!(ids(&list), [2, 3, 4]);
    assert!(list[2]["expires_at"].is_null(), "the newest stays until there is a newer one");
    for backup in &list[..2] {
        let (made, end) = (backup["created_at"].as_str().unwrap(), backup["expires_at"].as_str().unwrap());
        // Told by another tool.
        let day = sh(daemon.dir(), &format!("date -u -d '{made} + 30 days' +%FT%T")).trim().to_owned();
        assert!(end.starts_with(&day), "{made} {end} {day}");
    }
    // The plan says the same.
    let plan = daemon.ok("PlanRetention s yearly");
    let told = |n: usize| (plan[n]["backup"].as_u64(), plan[n]["keep"].as_bool(), plan[n]["expires_at"].clone());
    assert_eq!(told(0), (Some(4), Some(true), Reply::Null));
    assert_eq!(told(1), (Some(3), Some(true), list[1]["expires_at"].clone()));
    // Protected, it stays; with fewer allowed, the plan is carried out.
    daemon.ok("UpdateBackup ta{sv} 2 1 protected b true");
    assert!(of(2)["expires_at"].is_null());
    daemon.ok("SetSchedule sa{sv} yearly 1 max_backups u 1");
    wait_for("one goes", PATIENCE, || ids(&backups(&daemon, "backup_type s automatic")) == [2, 4]);
    daemon.ok("UpdateBackup ta{sv} 2 1 protected b false");
    wait_for("and the other", PATIENCE, || ids(&backups(&daemon, "backup_type s automatic")) == [4]);
    wait_for("all is done", PATIENCE, || daemon.ok("ListJobs a{sv} 1 state s in_progress")[0] == 0);
    assert_eq!(manifests(&daemon), 2, "one manual, one automatic");
}

#[test]
fn e5_full_every() {
    needs_root!("e5_full_every");
    let daemon = with_resource("e5");
    daemon.call_with("SetSchedule", &["sa{sv}", "s", "2", "cron", "s", "@yearly", "full_every", "u", "3"]).unwrap();
    sh(&daemon.source(), "head -c 9000000 /dev/urandom > large");
    // What changed just before it was read is read again in any case.
    std::thread::sleep(Duration::from_millis(2500));
    // What the kernel says that the daemon read.
    let read = || {
        let text = std::fs::read_to_string(format!("/proc/{}/io", daemon.pid())).unwrap();
        text.lines().find_map(|l| l.strip_prefix("rchar: ")).unwrap().parse::<u64>().unwrap()
    };
    let reads: Vec<bool> = (0..5)
        .map(|_| {
            let before = read();
            run(&daemon, "s");
            read() - before > 9_000_000
        })
        .collect();
    assert_eq!(reads, [true, false, false, true, false], "every third backup reads everything");
    let full: Vec<bool> = backups(&daemon, "schedule s s").iter().map(|b| b["incremental"] == false).collect();
    assert_eq!(full, reads);
    assert!(du(&daemon.store()) < 12_000_000, "full backups are still deduplicated");
}

#[test]
fn e5_how_long_and_how_many() {
    needs_root!("e5_how_long_and_how_many");
    let daemon = with_resource("e5");
    sh(daemon.dir(), "mkdir other; echo 1 > other/file");
    daemon.add("other", &daemon.path("other"));
    let unprotected = || daemon.ok("ListResources a{sv} 1 unprotected b true")[0].as_u64().unwrap();
    assert_eq!(unprotected(), 2);
    let set = |words: &[&str]| daemon.call_with("SetSchedule", words).unwrap();
    set(&["sa{sv}", "s", "2", "cron", "s", "0 2 * * *", "resources", "as", "1", "web"]);
    assert_eq!(unprotected(), 1);
    // Without resources it means all of them; what is not enabled covers none.
    set(&["sa{sv}", "s", "2", "max_backups", "u", "3", "resources", "as", "0"]);
    assert_eq!(unprotected(), 0);
    set(&["sa{sv}", "s", "1", "enabled", "b", "false"]);
    assert_eq!(unprotected(), 2);
    set(&["sa{sv}", "s", "1", "enabled", "b", "true"]);
    (0..5).for_each(|_| run(&daemon, "s"));
    let of = |resource: &str| ids(&backups(&daemon, &format!("resource s {resource}")));
    // Retention counts per resource, not per vault.
    wait_for("three of each are left", PATIENCE, || of("web").len() == 3 && of("other").len() == 3);
    wait_for("all is done", PATIENCE, || daemon.ok("ListJobs a{sv} 1 state s in_progress")[0] == 0);
    assert_eq!(manifests(&daemon), 6);
    // How long: the second newest goes when two more have been made, and says so.
    let list = backups(&daemon, "resource s web");
    let next = daemon.ok("GetSchedule s s")["next_run"].as_str().unwrap().to_owned();
    assert_eq!(list[0]["expires_at"], next.as_str(), "the oldest makes room for the next");
    let after = sh(daemon.dir(), &format!("TZ=UTC date -d '{next} + 24 hours' +%F")).trim().to_owned();
    assert!(list[1]["expires_at"].as_str().unwrap().starts_with(&after), "{list:?}");
    assert!(list[2]["expires_at"].is_null());
    // How many by hand.
    let row = daemon.ok("GetResource s web");
    assert_eq!((&row["manual_count"], &row["manual_limit"]), (&0.into(), &10.into()));
}

#[test]
fn a_failure_is_told_to_people_and_to_machines() {
    needs_root!("a_failure_is_told_to_people_and_to_machines");
    let mut daemon = with_resource("told");
    assert_eq!(daemon.stop().code(), Some(0));
    let metrics = daemon.path("strongroom.prom");
    std::fs::write(daemon.path("strongroom.toml"), format!("[metrics]\nfile = \"{}\"\n", metrics.display())).unwrap();
    daemon.start_again();
    let line = |name: &str| {
        let text = std::fs::read_to_string(&metrics).unwrap_or_default();
        text.lines().find(|l| l.starts_with(name)).map(str::to_owned).unwrap_or_default()
    };
    daemon.call_with("SetSchedule", &["sa{sv}", "s", "1", "cron", "s", "0 0 1 1 *"]).unwrap();
    run(&daemon, "s");
    wait_for("the success is written", PATIENCE, || {
        !line("strongroom_resource_last_success_timestamp_seconds{project=\"default\",resource=\"web\"} ").is_empty()
    });
    wait_for("the job is counted", PATIENCE, || line("strongroom_jobs{state=\"completed\"}").ends_with(" 1"));
    assert!(line("strongroom_vault_used_bytes{vault=\"main\"}").split(' ').next_back().unwrap() != "0");
    assert!(line("strongroom_schedule_overdue_resources{schedule=\"s\"}").ends_with(" 0"));
    let status = |json: bool| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_strongroom"));
        command.args(["--bus", daemon.address()]).args(json.then_some("--json")).arg("status");
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    daemon.ok("AddVaultKey sa{sv} main 1 kind s recovery");
    let (code, text) = status(false);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("all is well") && text.contains("off this machine"), "{text}");
    // What was there is gone: the next run fails.
    std::fs::rename(daemon.source(), daemon.path("away")).unwrap();
    let jobs = daemon.ok("RunSchedule sa{sv} s 0");
    assert_eq!(daemon.wait(crate::common::number(&jobs[0]))["state"], "failed");
    wait_for("the failure is counted", PATIENCE, || line("strongroom_jobs{state=\"failed\"}").ends_with(" 1"));
    let (code, text) = status(true);
    let document: Reply = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &document["ok"]), (1, &false.into()));
    let problems: Vec<&str> = document["problems"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
    assert!(problems.iter().any(|p| p.starts_with("schedule s failed")), "{problems:?}");
    daemon.assert_well();
}

/// A monitor of the bus, and what it has written.
fn monitor(daemon: &Daemon, rule: &str) -> (Child, PathBuf) {
    let seen = daemon.path("monitor");
    let child = Command::new("dbus-monitor")
        .args(["--address", daemon.address(), rule])
        .stdout(std::fs::File::create(&seen).unwrap())
        .spawn()
        .unwrap();
    wait_for("the monitor listens", PATIENCE, || !std::fs::read_to_string(&seen).unwrap().is_empty());
    (child, seen)
}

#[test]
fn a6_that_a_schedule_is_overdue_is_told_once() {
    let story = "a6_that_a_schedule_is_overdue_is_told_once";
    needs_root!(story);
    // Another tool that sets the daemon's clock, and no other's.
    let library = sh(Path::new("/"), "ls /usr/lib/*/faketime/libfaketime.so.1 2> /dev/null || true");
    let library = library.lines().next().map(Path::new);
    if lacks(story, library, "faketime") {
        return;
    }
    let mut daemon = with_resource("overdue");
    daemon
        .call_with(
            "SetSchedule",
            &["sa{sv}", "hourly", "2", "cron", "s", "0 * * * *", "notify_on_failure", "b", "true"],
        )
        .unwrap();
    std::fs::rename(daemon.source(), daemon.path("away")).unwrap();
    assert_eq!(daemon.stop().code(), Some(0));
    let (mut child, seen) = monitor(&daemon, "member='StartUnit'");
    let (runtime, socket) = (daemon.path("run"), daemon.path("notify.sock"));
    let address = daemon.address().to_owned();
    let start = |daemon: &mut Daemon, clock: &str| {
        daemon.start_again_in(&[
            ("RUNTIME_DIRECTORY", runtime.to_str().unwrap()),
            ("NOTIFY_SOCKET", socket.to_str().unwrap()),
            ("DBUS_SYSTEM_BUS_ADDRESS", &address),
            ("LD_PRELOAD", library.unwrap().to_str().unwrap()),
            ("FAKETIME", clock),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("NO_FAKE_STAT", "1"),
        ]);
    };
    let told = || std::fs::read_to_string(&seen).unwrap().matches("strongroom-notify@overdue-1.service").count();
    start(&mut daemon, "+4h");
    wait_for("it is told", PATIENCE, || told() == 1);
    let row = daemon.ok("GetSchedule s hourly");
    assert_eq!((&row["overdue"], &row["name"]), (&true.into(), &"hourly".into()));
    assert!(row["message"].as_str().unwrap().contains("no good backup in time of web"), "{row}");
    let facts = ". run/notify/overdue-1.env; echo $STRONGROOM_EVENT $STRONGROOM_SCHEDULE $STRONGROOM_RESOURCE";
    assert_eq!(sh(daemon.dir(), facts), "overdue hourly web\n");
    assert_eq!(daemon.log().matches("schedule \"hourly\" is overdue").count(), 1);
    // Neither time nor a restart makes it new.
    assert_eq!(daemon.stop().code(), Some(0));
    start(&mut daemon, "+7h");
    wait_for("the missed run has failed", PATIENCE, || {
        backups(&daemon, "status s failed").len() >= 2 && daemon.ok("ListJobs a{sv} 1 state s in_progress")[0] == 0
    });
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!((told(), daemon.log().matches("is overdue").count()), (1, 1));
    // Well again, that is told to the log.
    std::fs::rename(daemon.path("away"), daemon.source()).unwrap();
    run(&daemon, "hourly");
    assert_eq!(daemon.ok("GetSchedule s hourly")["overdue"], false);
    assert_eq!(daemon.stop().code(), Some(0));
    start(&mut daemon, "+7h");
    wait_for("that is noticed", PATIENCE, || daemon.log().contains("\"hourly\" is no longer overdue"));
    assert_eq!(told(), 1);
    child.kill().unwrap();
    child.wait().unwrap();
    daemon.assert_well();
}

#[test]
fn a6_a_failure_starts_the_notification_unit_with_the_facts() {
    needs_root!("a6_a_failure_starts_the_notification_unit_with_the_facts");
    let mut daemon = with_resource("notify");
    assert_eq!(daemon.stop().code(), Some(0));
    // As systemd would run it; the story's own bus is the system bus as well.
    let (runtime, socket) = (daemon.path("run"), daemon.path("notify.sock"));
    let address = daemon.address().to_owned();
    daemon.start_again_in(&[
        ("RUNTIME_DIRECTORY", runtime.to_str().unwrap()),
        ("NOTIFY_SOCKET", socket.to_str().unwrap()),
        ("DBUS_SYSTEM_BUS_ADDRESS", &address),
    ]);
    let (mut monitor, seen) = monitor(&daemon, "member='StartUnit'");
    daemon.call_with("SetSchedule", &["sa{sv}", "s", "1", "cron", "s", "0 0 1 1 *"]).unwrap();
    std::fs::rename(daemon.source(), daemon.path("away")).unwrap();
    let fail = || {
        let jobs = daemon.ok("RunSchedule sa{sv} s 0");
        let job = daemon.wait(crate::common::number(&jobs[0]));
        assert_eq!(job["state"], "failed");
        job
    };
    fail();
    daemon.ok("SetSchedule sa{sv} s 1 notify_on_failure b true");
    let job = fail();
    let id = job["id"].as_u64().unwrap();
    let said = || std::fs::read_to_string(&seen).unwrap();
    wait_for("the unit is started", PATIENCE, || said().contains(&format!("strongroom-notify@{id}.service")));
    monitor.kill().unwrap();
    monitor.wait().unwrap();
    assert_eq!(said().matches("member=StartUnit").count(), 1, "nobody asked to be told of the first: {}", said());
    // A shell reads what the unit's programs get.
    let script = format!(
        ". run/notify/{id}.env; echo \"$STRONGROOM_EVENT $STRONGROOM_JOB $STRONGROOM_RESOURCE\"; echo \"$STRONGROOM_ERROR\""
    );
    let facts = sh(daemon.dir(), &script);
    assert_eq!(facts.lines().next(), Some(format!("backup-failed {id} web").as_str()));
    assert_eq!(facts.lines().nth(1), job["error"].as_str());
    daemon.assert_well();
}
