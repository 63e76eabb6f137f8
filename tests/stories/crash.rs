//! "The power failed in the middle of it, and nothing that was finished is gone": `kill -9` at
//! seeded moments of backups, restores and deletions. `STRONGROOM_KILLS` says how many.

use std::time::{Duration, Instant};

use crate::common::{Daemon, Dice, differences, du, heavy, number, random_files, sh};
use crate::needs_root;

/// Bytes of a round's new files.
const NEW: u64 = 64_000_000;
/// What may be stored again: the packs in flight, one of data and one of trees, and what an
/// index, a manifest and the frames add.
const IN_FLIGHT: u64 = 2 * (16 << 20) + (2 << 20);

fn automatic(daemon: &Daemon) -> (u64, u64) {
    let backup = daemon.ok("CreateBackup sa{sv} tree 1 backup_type s automatic");
    (backup["id"].as_u64().unwrap(), number(&backup["job"]))
}

/// Puts files that are nowhere else in place of the last ones.
fn renew(daemon: &Daemon) {
    sh(&daemon.source(), "rm -rf new; mkdir new");
    random_files(&daemon.source().join("new"), "n", 64, (NEW / 64) as u32);
}

/// Everything that must hold after every restart.
fn assert_sound(daemon: &mut Daemon, expected: &[u64], moment: &str) {
    daemon.assert_well();
    assert_eq!(daemon.completed(), expected, "{moment}");
    let verified = daemon.work("VerifyVault sa{sv} main 1 read_data b true");
    assert_eq!(verified["result"]["problems"], 0, "{moment}: {verified}");
    for id in expected {
        let place = daemon.browse(*id).join(daemon.source().strip_prefix("/").unwrap());
        assert_eq!(sh(&place, "cat still/7"), "7\n", "{moment}");
    }
    let running = daemon.ok("ListJobs a{sv} 1 page_size u 1000");
    for job in running[1].as_array().unwrap() {
        assert!(job["state"] != "running", "{moment}: {job}");
        assert!(job["state"] != "failed" || job["error"].as_str().is_some_and(|e| e.contains("daemon")), "{job}");
    }
}

#[test]
fn kills_at_any_moment_lose_nothing() {
    needs_root!("kills_at_any_moment_lose_nothing");
    let _heavy = heavy();
    let kills: u32 = std::env::var("STRONGROOM_KILLS").ok().and_then(|k| k.parse().ok()).unwrap_or(6);
    let mut dice = Dice::new(20_260_101);
    let mut daemon = Daemon::start();
    let source = daemon.source();
    sh(&source, "mkdir still; for i in $(seq 2000); do echo $i > still/$i; done");
    daemon.add("tree", &source);
    // How long each kind of work takes here, undisturbed.
    renew(&daemon);
    let start = Instant::now();
    let (first, job) = automatic(&daemon);
    daemon.wait(job);
    let backing_up = start.elapsed();
    let start = Instant::now();
    daemon.restore(first, "target");
    let restoring = start.elapsed();
    let mut expected = vec![first];

    for kill in 0..kills {
        let share = dice.roll();
        let moment = |what: &str| format!("kill {kill} in {what} at {share:.3}");
        let wait = |whole: Duration| std::thread::sleep(whole.mul_f64(share));
        match kill % 3 {
            0 => {
                let moment = moment("a backup");
                println!("{moment}");
                renew(&daemon);
                let before = du(&daemon.store().join("packs"));
                let (id, _) = automatic(&daemon);
                wait(backing_up);
                daemon.kill();
                let stored = du(&daemon.store().join("packs")).saturating_sub(before);
                daemon.start_again();
                let row = daemon.ok(&format!("GetBackup t {id}"));
                if row["status"] == "completed" {
                    expected.push(id);
                } else {
                    assert!(
                        row["status"] == "failed" || row["status"] == "pending" || row["status"] == "running",
                        "{row}"
                    );
                    if row["status"] == "failed" {
                        assert!(row["error"].as_str().is_some_and(|e| !e.is_empty()), "{moment}: {row}");
                    } else {
                        daemon.wait(number(&row["job"]));
                        expected.push(id);
                    }
                }
                let there = du(&daemon.store().join("packs"));
                let (next, job) = automatic(&daemon);
                let job = daemon.wait(job);
                assert_eq!(job["state"], "completed", "{moment}: {job}");
                expected.push(next);
                // What the killed one left as a partial backup may be gone by now.
                let grown = du(&daemon.store().join("packs")).saturating_sub(there);
                let missing = NEW.saturating_sub(stored);
                println!("{stored} were stored, {grown} after it");
                assert!(grown <= missing + missing / 50 + IN_FLIGHT, "{moment}: {stored} were stored, then {grown}");
                assert_sound(&mut daemon, &expected, &moment);
            }
            1 => {
                let moment = moment("a restore");
                println!("{moment}");
                let latest = *expected.last().unwrap();
                let target = daemon.path(&format!("restored-{kill}"));
                daemon.ok(&format!("RestoreBackup ta{{sv}} {latest} 1 target s {}", target.display()));
                wait(restoring);
                daemon.kill();
                daemon.start_again();
                assert_sound(&mut daemon, &expected, &moment);
                let below = target.join(source.strip_prefix("/").unwrap());
                if below.exists() {
                    // What stands under its path is whole.
                    let differ = format!("find . -type f -exec diff -q {{}} {}/{{}} ';'", source.display());
                    assert_eq!(sh(&below, &differ), "", "{moment}");
                }
                // The same restore again makes it whole, and leaves nothing beside.
                daemon.work(&format!("RestoreBackup ta{{sv}} {latest} 1 target s {}", target.display()));
                assert_eq!(sh(&target, "find . -name '.strongroom-*'"), "", "{moment}");
                sh(&below, &format!("diff -r . {0}; diff <(find . | sort) <(cd {0}; find . | sort)", source.display()));
                sh(daemon.dir(), &format!("rm -rf {}", target.display()));
            }
            _ => {
                let moment = moment("a deletion");
                println!("{moment}");
                let gone = expected.remove(0);
                daemon.ok(&format!("DeleteBackup ta{{sv}} {gone} 0"));
                wait(Duration::from_millis(300));
                daemon.kill();
                daemon.start_again();
                // Begun is done, now or after a while, and it never comes back.
                crate::common::wait_for("the deletion ends", Duration::from_secs(60), || {
                    daemon.call(&format!("GetBackup t {gone}")).is_err()
                });
                assert!(!daemon.browse(gone).exists(), "{moment}");
                assert_sound(&mut daemon, &expected, &moment);
            }
        }
    }
}

/// What was saved of a killed backup: its id, size, and where it is on the mount.
fn partial(daemon: &Daemon) -> (u64, u64, std::path::PathBuf) {
    let list = daemon.ok("ListBackups a{sv} 2 status s failed page_size u 100");
    let partial: Vec<_> = list[1].as_array().unwrap().iter().filter(|b| b["partial"] == true).collect();
    let [one] = partial[..] else { panic!("of these the newest alone: {partial:?}") };
    let id = one["id"].as_u64().unwrap();
    (id, one["size"].as_u64().unwrap(), daemon.path(&format!("browse/partial/{id}")))
}

/// Whatever is in `part` is in `whole` as well, the same in everything.
fn assert_part_of(part: &std::path::Path, whole: &std::path::Path) {
    let differences = sh(part, &format!("rsync -nacHAXi ./ {}/", whole.display()));
    assert_eq!(differences, "", "{} is no part of {}", part.display(), whole.display());
}

/// Bytes of files that a killed backup had read are not read again, and can be browsed. `STRONGROOM_RESUME_MB` says how
/// much there is, half of it in one directory.
#[test]
fn a_killed_backup_goes_on_where_it_ended() {
    needs_root!("a_killed_backup_goes_on_where_it_ended");
    let _heavy = heavy();
    let count: u32 = std::env::var("STRONGROOM_RESUME_MB").ok().and_then(|n| n.parse().ok()).unwrap_or(800);
    let mut daemon = Daemon::start();
    let source = daemon.source();
    sh(&source, "mkdir flat; for i in $(seq 10); do mkdir -p tree/$i/sub; done");
    random_files(&source.join("flat"), "f", count / 2, 1_000_000);
    for i in 1..=10 {
        random_files(&source.join(format!("tree/{i}/sub")), "f", count / 20, 1_000_000);
    }
    // What changed in the last two seconds may change once more, and is read again.
    std::thread::sleep(Duration::from_millis(2100));
    daemon.add("tree", &source);
    let whole = u64::from(count) * 1_000_000;
    let read_bytes = |daemon: &Daemon| {
        let io = std::fs::read_to_string(format!("/proc/{}/io", daemon.pid())).unwrap();
        io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse::<u64>().unwrap()
    };
    let below = source.strip_prefix("/").unwrap().to_owned();
    let flight = (64.0 + 3.0 * 17.0) * 1e6 / whole as f64;
    for share in [0.4, 0.8] {
        let (_, job) = automatic(&daemon);
        crate::common::wait_for("so much is done", Duration::from_secs(900), || {
            daemon.ok(&format!("GetJob t {job}"))["bytes_done"].as_f64() >= Some(whole as f64 * share)
        });
        daemon.kill();
        daemon.start_again();
        daemon.settle();
        let (id, size, place) = partial(&daemon);
        let saved = size as f64 / whole as f64;
        println!("killed at {share}: {saved:.3} of it is in the partial backup {id}");
        assert!(saved > share - flight - 0.03, "{saved} of it was saved");
        assert_part_of(&place.join(&below), &source);
    }
    let (id, _, _) = partial(&daemon);
    daemon.work("PruneVault sa{sv} main 0");
    assert_eq!(daemon.work("VerifyVault sa{sv} main 1 read_data b true")["result"]["problems"], 0);
    let restored = daemon.restore(id, "restored").join(&below);
    assert_part_of(&restored, &source);
    let latest = daemon.path("browse/latest");
    assert!(!latest.exists() || std::fs::read_dir(latest).unwrap().next().is_none(), "it is nobody's latest backup");
    let before = read_bytes(&daemon);
    let backup = daemon.back_up("tree");
    let again = (read_bytes(&daemon) - before) as f64 / whole as f64;
    println!("killed at 40 % and at 80 %: {:.1} % of it were read then", again * 100.0);
    assert!(again < 0.2 + flight + 0.03, "{again}");
    assert_eq!(backup["size"], whole);
    let place = daemon.browse(backup["id"].as_u64().unwrap()).join(source.strip_prefix("/").unwrap());
    assert_eq!(differences(&source, &place), "");
    assert_eq!(daemon.work("VerifyVault sa{sv} main 1 read_data b true")["result"]["problems"], 0);
    // The partial one is not needed any more.
    daemon.settle();
    assert!(daemon.call(&format!("GetBackup t {id}")).is_err());
    assert_eq!(sh(&daemon.path("browse/partial"), "ls"), "");
    // All of it counts now, and nothing of what was left beside.
    let before = read_bytes(&daemon);
    daemon.back_up("tree");
    assert!((read_bytes(&daemon) - before) < whole / 50);
    assert_eq!(sh(&daemon.path("cache"), "find . -name '*.rest' -o -name '*.new'"), "");
}

#[test]
fn a_second_daemon_on_the_same_state_refuses_to_start() {
    needs_root!("a_second_daemon_on_the_same_state_refuses_to_start");
    let mut daemon = Daemon::start();
    let output = std::process::Command::new("timeout")
        .args(["20", env!("CARGO_BIN_EXE_strongroomd"), "--bus", daemon.address(), "--config"])
        .arg(daemon.path("strongroom.toml"))
        .arg("--state-dir")
        .arg(daemon.path("state"))
        .arg("--cache-dir")
        .arg(daemon.path("cache"))
        .arg("--browse-path")
        .arg(daemon.path("browse"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(!output.stderr.is_empty());
    daemon.ok("ListProjects a{sv} 0");
    daemon.assert_well();
}

#[test]
fn a_termination_during_work_ends_well() {
    needs_root!("a_termination_during_work_ends_well");
    let _heavy = heavy();
    let mut daemon = Daemon::start();
    renew(&daemon);
    sh(&daemon.source(), "mkdir still; echo 7 > still/7");
    daemon.add("tree", &daemon.source());
    let (_, job) = daemon.begin("tree");
    daemon.wait_running(job);
    assert_eq!(daemon.stop().code(), Some(0));
    daemon.start_again();
    daemon.wait(job);
    let (next, job) = automatic(&daemon);
    assert_eq!(daemon.wait(job)["state"], "completed");
    let expected = daemon.completed();
    assert!(expected.contains(&next));
    assert_sound(&mut daemon, &expected, "SIGTERM in a backup");
}
