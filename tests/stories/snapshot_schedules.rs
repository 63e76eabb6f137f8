//! "A snapshot every hour, and yesterday's may go": schedules that take snapshots, with their own
//! retention.

use crate::common::{Daemon, Disk, number, sh, wait_for};
use crate::needs_root;
use std::time::Duration;

const INVALID: &str = "org.strongroom1.Error.InvalidArgument";

fn names(daemon: &Daemon, filter: &str) -> Vec<String> {
    let list = daemon.ok(&format!("ListSnapshots a{{sv}} 2 sort as 1 id {filter}"));
    list[1].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap().to_owned()).collect()
}

fn run(daemon: &Daemon, schedule: &str) -> Vec<serde_json::Value> {
    let jobs = daemon.ok(&format!("RunSchedule sa{{sv}} {schedule} 0"));
    jobs.as_array().unwrap().iter().map(|job| daemon.wait(number(job))).collect()
}

#[test]
fn a_schedule_takes_snapshots_and_lets_the_old_ones_go() {
    needs_root!("a_schedule_takes_snapshots_and_lets_the_old_ones_go");
    let mut daemon = Daemon::start();
    let disk = Disk::new("btrfs", 320, &daemon.path("disk"));
    sh(&disk.path, "btrfs subvolume create data; echo 1 > data/n; mkdir plain; echo 1 > plain/n");
    daemon.add("sub", &disk.path.join("data"));
    daemon.add("dir", &disk.path.join("plain"));
    sh(daemon.dir(), "mkdir -p other");
    daemon.add("ext", &daemon.path("other"));
    for (bad, why) in [
        ("cron s @hourly what s snapshots", "what"),
        ("cron s @hourly what s snapshot type s database", "type"),
        ("cron s @hourly what s snapshot vault s main", "vault"),
    ] {
        let count = bad.split(' ').count() / 3;
        let refused = daemon.call(&format!("SetSchedule sa{{sv}} hourly {count} {bad}")).unwrap_err();
        assert_eq!(refused.name, INVALID, "{refused:?}");
        assert!(refused.message.contains(why), "{refused:?}");
    }
    // Five by hand are all there may be; what a schedule takes is beside that.
    for n in 1..=5 {
        let made = daemon.ok(&format!("CreateSnapshot ssa{{sv}} sub hand-{n} 0"));
        assert_eq!(daemon.wait(number(&made["job"]))["state"], "completed");
    }
    let settings = "cron s @hourly what s snapshot max_backups u 2";
    daemon.ok(&format!("SetSchedule sa{{sv}} every.hour 3 {settings}"));
    let shown = daemon.ok("GetSchedule s every.hour");
    assert_eq!((&shown["what"], &shown["max_backups"]), (&"snapshot".into(), &2.into()), "{shown}");
    for n in 1..=4 {
        sh(&disk.path, &format!("echo {n} > data/n"));
        let jobs = run(&daemon, "every.hour");
        assert_eq!(jobs.len(), 2, "what allows no snapshot is left out: {jobs:?}");
        assert!(jobs.iter().all(|j| j["state"] == "completed" && j["kind"] == "snapshot"), "{jobs:?}");
    }
    let shown = daemon.ok("GetSchedule s every.hour");
    assert_eq!((&shown["last_result"], &shown["overdue"]), (&"completed".into(), &false.into()), "{shown}");
    assert!(shown["message"].as_str().unwrap().contains("ext was left out"), "{shown}");
    wait_for("the old ones are gone", Duration::from_secs(60), || names(&daemon, "automatic b true").len() == 4);
    let kept = daemon.ok("ListSnapshots a{sv} 2 automatic b true resource s sub");
    assert_eq!(kept[0], 2);
    for snapshot in kept[1].as_array().unwrap() {
        assert!(snapshot["name"].as_str().unwrap().starts_with("every-hour-2"), "{snapshot}");
        assert_eq!((&snapshot["automatic"], &snapshot["schedule"]), (&true.into(), &"every.hour".into()), "{snapshot}");
    }
    // The newest are kept, with what was there then.
    let place = |snapshot: &serde_json::Value| snapshot["location"][0].as_str().unwrap().to_owned();
    let held: Vec<String> =
        kept[1].as_array().unwrap().iter().map(|s| sh(daemon.dir(), &format!("cat {}/n", place(s)))).collect();
    assert_eq!(held, ["4\n", "3\n"], "the newest first");
    assert_eq!(names(&daemon, "automatic b false"), ["hand-1", "hand-2", "hand-3", "hand-4", "hand-5"]);
    let sub = daemon.ok("GetResource s sub");
    assert_eq!((&sub["snapshot_count"], &sub["snapshot_limit"]), (&5.into(), &5.into()), "{sub}");
    let plan = daemon.ok("PlanRetention s every.hour");
    assert_eq!(plan.as_array().unwrap().len(), 4, "{plan}");
    assert!(plan.as_array().unwrap().iter().all(|p| p["keep"] == true && p["snapshot"].is_u64()), "{plan}");
    // A snapshot protects nothing: it is lost with its disk.
    let unprotected = daemon.ok("ListResources a{sv} 1 unprotected b true");
    assert_eq!(unprotected[0], 3, "{unprotected}");
    // Days count from when it was taken; the newest good one stays whatever its age.
    daemon.ok("SetSchedule sa{sv} every.hour 2 max_backups u 1 retention u 1");
    wait_for("the older ones are gone", Duration::from_secs(60), || names(&daemon, "automatic b true").len() == 2);
    // Without their schedule they stay.
    daemon.ok("RemoveSchedule sa{sv} every.hour 0");
    daemon.stop();
    daemon.start_again();
    let left = daemon.ok("ListSnapshots a{sv} 1 automatic b true");
    assert_eq!(left[0], 2, "{left}");
    assert!(left[1][0].get("expires_at").is_none(), "{left}");
}

#[test]
fn one_that_names_what_allows_no_snapshot_fails_and_says_so() {
    needs_root!("one_that_names_what_allows_no_snapshot_fails_and_says_so");
    let daemon = Daemon::start();
    let ext4 = Disk::new("ext4", 16, &daemon.path("ext4"));
    daemon.add("ext", &ext4.path);
    daemon.ok("SetSchedule sa{sv} s 3 cron s @daily what s snapshot resources as 1 ext");
    let refused = daemon.call("RunSchedule sa{sv} s 0").unwrap_err();
    assert!(refused.message.contains("ext could not be snapshotted"), "{refused:?}");
    assert_eq!(daemon.ok("ListSnapshots a{sv} 0")[0], 0);
}

#[test]
fn files_and_the_command_know_them() {
    needs_root!("files_and_the_command_know_them");
    let mut daemon = Daemon::start();
    daemon.stop();
    std::fs::write(
        daemon.path("strongroom.toml"),
        "[schedule.declared]\ncron = '0 3 * * *'\nwhat = 'snapshot'\nkeep_daily = 7\n",
    )
    .unwrap();
    daemon.start_again();
    let shown = daemon.ok("GetSchedule s declared");
    assert_eq!((&shown["what"], &shown["keep_daily"]), (&"snapshot".into(), &7.into()), "{shown}");
    let set = std::process::Command::new(env!("CARGO_BIN_EXE_strongroom"))
        .args(["--bus", daemon.address(), "schedule", "set", "mine", "--cron", "@hourly", "--what", "snapshot"])
        .output()
        .unwrap();
    assert!(set.status.success(), "{set:?}");
    assert_eq!(daemon.ok("GetSchedule s mine")["what"], "snapshot");
}
