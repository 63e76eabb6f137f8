//! "The power failed, and the disk had not written everything": the state and the vault on an XFS that
//! is shut down at seeded moments, so that whatever was not synced is gone. `STRONGROOM_CUTS` says how
//! often.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use crate::common::{Daemon, Dice, Disk, differences, du, heavy, random_files, sh, wait_for};
use crate::needs_root;

/// Longer than any piece of work here takes.
const WORK: Duration = Duration::from_millis(1500);

/// What lies in a source now, to be compared with long after.
fn remember(daemon: &Daemon, turn: u32) -> PathBuf {
    let copy = daemon.path(&format!("copies/{turn}"));
    sh(&daemon.source(), &format!("mkdir -p {0}; cp -a . {0}/", copy.display()));
    copy
}

/// Ends the daemon and its mount, with the power of the disk beneath gone before, and brings the disk
/// back as it was written.
fn cut(daemon: &mut Daemon, disk: &Path) {
    let shown = disk.display();
    sh(Path::new("/"), &format!("xfs_io -x -c shutdown {shown}"));
    daemon.kill();
    if let Some(browse) = daemon.browse_pid() {
        let _ = kill(browse, Signal::SIGKILL);
    }
    sh(Path::new("/"), &format!("umount -l {} 2> /dev/null || true", daemon.path("browse").display()));
    wait_for("the disk can be unmounted", Duration::from_secs(30), || {
        std::process::Command::new("umount").arg(disk).stderr(std::process::Stdio::null()).status().unwrap().success()
    });
    sh(Path::new("/"), &format!("mount -o loop {shown}.img {shown}"));
}

#[test]
fn power_lost_at_any_moment_loses_nothing() {
    needs_root!("power_lost_at_any_moment_loses_nothing");
    let _heavy = heavy();
    let cuts: u32 = std::env::var("STRONGROOM_CUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(5);
    let mut dice = Dice::new(20_261_127);
    let mut daemon = Daemon::start();
    daemon.stop();
    sh(daemon.dir(), "rm -rf state cache");
    let disk = Disk::new("xfs", 3000, &daemon.path("state"));
    sh(daemon.dir(), "chmod 700 state");
    daemon.start_again();
    sh(&daemon.source(), "mkdir still; for i in $(seq 500); do echo $i > still/$i; done");
    daemon.add("tree", &daemon.source());
    let mut expected: BTreeMap<u64, PathBuf> = BTreeMap::new();
    for turn in 0..cuts {
        sh(&daemon.source(), &format!("rm -rf new; mkdir new; echo {turn} > still/7; echo {turn} >> still/8"));
        random_files(&daemon.source().join("new"), "n", 16, 1_000_000);
        // One backup that is certainly completed: whatever happens later, it must be there.
        let copy = remember(&daemon, turn);
        let id = daemon.back_up("tree")["id"].as_u64().unwrap();
        expected.insert(id, copy);
        let (what, share) = (turn % 5, dice.roll());
        let moment = format!(
            "cut {turn} in {} at {share:.3}",
            ["a backup", "a deletion", "a prune", "new keys", "all"][what as usize]
        );
        println!("{moment}");
        random_files(&daemon.source().join("new"), "m", 16, 1_000_000);
        let oldest = expected.keys().next().copied().filter(|_| expected.len() > 2);
        let mut gone = None;
        let mut begin = |what: u32| match what {
            0 => drop(daemon.ok("CreateBackup sa{sv} tree 1 backup_type s automatic")),
            1 => {
                gone = oldest;
                if let Some(id) = oldest {
                    daemon.ok(&format!("DeleteBackup ta{{sv}} {id} 0"));
                }
            }
            2 => drop(daemon.ok("PruneVault sa{sv} main 0")),
            _ => drop(daemon.ok("AddVaultKey sa{sv} main 1 kind s recovery")),
        };
        if what == 4 {
            (0..4).for_each(&mut begin)
        } else {
            begin(what)
        }
        std::thread::sleep(WORK.mul_f64(share));
        cut(&mut daemon, &disk.path);
        if dice.roll() < 0.5 {
            // The cache was on a disk of its own, and that is gone.
            sh(daemon.dir(), "rm -rf cache");
        }
        daemon.start_again();
        daemon.settle();
        daemon.assert_well();
        let there = daemon.completed();
        if let Some(id) = gone.filter(|id| !there.contains(id)) {
            expected.remove(&id);
        }
        for (id, copy) in &expected {
            assert!(there.contains(id), "{moment}: backup {id} of {copy:?} is gone: {there:?}");
        }
        let verified = daemon.work("VerifyVault sa{sv} main 1 read_data b true");
        assert_eq!(verified["result"]["problems"], 0, "{moment}: {verified}");
        for (id, copy) in &expected {
            let seen = daemon.browse(*id).join(daemon.source().strip_prefix("/").unwrap());
            assert_eq!(differences(copy, &seen), "", "{moment}: backup {id}");
        }
        // Others that were completed just before the cut are whole too, and are not needed further.
        for id in there.iter().filter(|id| !expected.contains_key(id)) {
            let seen = daemon.browse(*id).join(daemon.source().strip_prefix("/").unwrap());
            assert_eq!(sh(&seen, "cat still/7"), format!("{turn}\n"), "{moment}: backup {id}");
            daemon.work(&format!("DeleteBackup ta{{sv}} {id} 0"));
        }
        while expected.len() > 3 {
            let (id, copy) = expected.pop_first().unwrap();
            daemon.work(&format!("DeleteBackup ta{{sv}} {id} 0"));
            sh(daemon.dir(), &format!("rm -rf {}", copy.display()));
        }
    }
    // Space comes back: what is left is not much more than what the backups hold.
    daemon.work("PruneVault sa{sv} main 0");
    let (stored, copies) = (du(&daemon.store().join("packs")), du(&daemon.path("copies")));
    assert!(stored < copies + (40 << 20), "{stored} bytes of packs for {copies} bytes of files");
}
