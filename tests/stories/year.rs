//! "It has run every night for a year": many backups with small changes between, the old ones deleted and
//! their space given back. What is left is hardly more than one fresh backup would be, and as quick to
//! read. `STRONGROOM_DAYS` says how many days the year has.

use std::path::Path;
use std::time::Instant;

use crate::common::{Daemon, Dice, differences, du, heavy, number, sh};
use crate::needs_root;

/// Backups that are kept.
const KEPT: usize = 7;
const FILES: u32 = 2000;

fn seconds(what: impl FnOnce()) -> f64 {
    let since = Instant::now();
    what();
    since.elapsed().as_secs_f64()
}

fn files(dir: &Path) -> u32 {
    sh(dir, "find . -type f | wc -l").trim().parse().unwrap()
}

#[test]
fn a_year_of_nights_leaves_no_more_than_a_fresh_backup() {
    needs_root!("a_year_of_nights_leaves_no_more_than_a_fresh_backup");
    let _heavy = heavy();
    let days: u32 = std::env::var("STRONGROOM_DAYS").ok().and_then(|n| n.parse().ok()).unwrap_or(40);
    let mut dice = Dice::new(20_260_365);
    let daemon = Daemon::start();
    let source = daemon.source();
    // 50 MB of text and noise in 40 directories.
    sh(
        &source,
        &format!(
            "for d in $(seq 0 39); do mkdir d$d; done; for i in $(seq {FILES}); do \
             {{ seq $i $((i + 2000)); head -c 15000 /dev/urandom; }} > d$((i % 40))/f$i; done"
        ),
    );
    daemon.add("tree", &source);
    let back_up = || {
        let made = daemon.ok("CreateBackup sa{sv} tree 1 backup_type s automatic");
        assert_eq!(daemon.wait(number(&made["job"]))["state"], "completed");
    };
    back_up();
    for day in 1..days {
        // One file in a hundred gets another end, one in two hundred is another file, some come and go.
        let change: String = (0..FILES / 100)
            .map(|n| {
                let i = 1 + (dice.roll() * f64::from(FILES)) as u32;
                match n % 4 {
                    0 | 1 => format!("echo {day} >> d{0}/f{i};", i % 40),
                    2 => format!("head -c 20000 /dev/urandom > d{0}/f{i};", i % 40),
                    _ => format!("rm -f d{0}/new*; head -c 9000 /dev/urandom > d{0}/new{day};", i % 40),
                }
            })
            .collect();
        sh(&source, &change);
        back_up();
        let all = daemon.completed();
        for id in all.iter().rev().skip(KEPT) {
            daemon.work(&format!("DeleteBackup ta{{sv}} {id} 0"));
        }
        if day % 7 == 0 || day == days - 1 {
            daemon.work("PruneVault sa{sv} main 0");
        }
    }
    // The same files in a vault that never held anything else.
    let fresh = Daemon::start();
    fresh.add("tree", &source);
    fresh.back_up("tree");
    let newest = *daemon.completed().last().unwrap();
    for (daemon, id, name) in [(&daemon, newest, "after the year"), (&fresh, 1, "fresh")] {
        let (packs, index) = (daemon.store().join("packs"), daemon.store().join("index"));
        let restore = seconds(|| drop(daemon.restore(id, "target")));
        let seen = daemon.browse(id).join(source.strip_prefix("/").unwrap());
        sh(Path::new("/"), "sync; echo 3 > /proc/sys/vm/drop_caches");
        let find = seconds(|| drop(sh(&seen, "find . -printf '%s\\n' | tail -n 1")));
        let tar = seconds(|| drop(sh(&seen, "tar cf - . | tail -c 1")));
        println!(
            "{name}: {} MB in {} packs, {} kB of index, restored in {restore:.2} s, find {find:.2} s, tar {tar:.2} s",
            du(&packs) / 1_000_000,
            files(&packs),
            du(&index) / 1000
        );
    }
    let target = daemon.path("target").join(source.strip_prefix("/").unwrap());
    assert_eq!(differences(&source, &target), "");
    assert_eq!(daemon.work("VerifyVault sa{sv} main 1 read_data b true")["result"]["problems"], 0);
    let (stored, alone) = (du(&daemon.store().join("packs")), du(&fresh.store().join("packs")));
    let (index, small) = (du(&daemon.store().join("index")), du(&fresh.store().join("index")));
    // Seven backups hold what changed in seven days too: a share of 7 % at most, and the trees of each.
    assert!(stored < alone * 13 / 10, "{stored} bytes of packs, {alone} in a fresh vault");
    assert!(index < small * 13 / 10 + 40_000, "{index} bytes of index, {small} in a fresh vault");
}
