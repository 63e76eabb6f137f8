//! "Some of my files could not be read, and it told me which": one bad file fails no backup.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{Daemon, Disk, differences, du, heavy, number, sh};
use crate::needs_root;

#[test]
fn a_file_on_a_damaged_disk_is_counted_and_listed() {
    needs_root!("a_file_on_a_damaged_disk_is_counted_and_listed");
    let daemon = Daemon::start();
    let image = daemon.path("disk.img");
    let disk = Disk::new("btrfs", 200, &daemon.path("disk"));
    // Checksums of the file system make a flipped byte a read error.
    sh(&disk.path, "set +o pipefail; yes 'a line that is found again' | head -c 3000000 > bad; echo good > good; sync");
    sh(daemon.dir(), "umount disk");
    let found =
        sh(daemon.dir(), "LC_ALL=C grep -abo 'a line that is found again' disk.img | sed -n 5000p | cut -d: -f1");
    let offset: u64 = found.trim().parse().expect("the line lies in the image as it is");
    let mut file = std::fs::File::options().write(true).open(&image).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"damaged", offset).unwrap();
    file.flush().unwrap();
    sh(daemon.dir(), "mount -o loop disk.img disk");
    sh(daemon.dir(), "! cat disk/bad > /dev/null 2>&1; cat disk/good");

    daemon.add("disk", &disk.path);
    let backup = daemon.back_up("disk");
    assert_eq!(backup["errors"], 1, "{backup}");
    let list = daemon.ok(&format!("ListBackupErrors ta{{sv}} {} 0", backup["id"]));
    assert_eq!(list[0], 1, "{list}");
    assert_eq!(list[1][0]["path"].as_str(), disk.path.join("bad").to_str(), "{list}");
    let id = backup["id"].as_u64().unwrap();
    let below = disk.path.strip_prefix("/").unwrap();
    assert_eq!(sh(&daemon.browse(id).join(below), "cat good"), "good\n");

    let status = Command::new(env!("CARGO_BIN_EXE_strongroom"))
        .args(["--bus", daemon.address(), "backup", "disk"])
        .output()
        .unwrap();
    assert_eq!(status.status.code(), Some(3), "{status:?}");
}

#[test]
fn files_that_change_vanish_and_grow_meanwhile_fail_nothing() {
    needs_root!("files_that_change_vanish_and_grow_meanwhile_fail_nothing");
    let _heavy = heavy();
    let mut daemon = Daemon::start();
    let source = daemon.source();
    sh(
        &source,
        "mkdir churn still; for i in $(seq 400); do head -c 40000 /dev/urandom > still/$i; echo $i > churn/$i; done",
    );
    daemon.add("busy", &source);
    let stop = AtomicBool::new(false);
    let churn = source.join("churn");
    std::thread::scope(|scope| {
        let stop = &stop;
        let churn = &churn;
        scope.spawn(move || {
            let mut round = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                for i in 1..=400 {
                    let path = churn.join(i.to_string());
                    match round % 3 {
                        0 => drop(std::fs::remove_file(&path)),
                        1 => drop(std::fs::write(&path, vec![b'x'; 50_000])),
                        _ => {
                            let file = std::fs::File::options().append(true).create(true).open(&path);
                            drop(file.and_then(|mut f| f.write_all(&[b'y'; 10_000])));
                        }
                    }
                }
                round += 1;
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..4 {
                let backup = daemon.back_up("busy");
                let list = daemon.ok(&format!("ListBackupErrors ta{{sv}} {} 1 page_size u 1000", backup["id"]));
                assert_eq!(list[0], backup["errors"]);
                for error in list[1].as_array().unwrap() {
                    let (path, code) = (error["path"].as_str().unwrap(), error["code"].as_str().unwrap());
                    assert!(path.contains("/churn/"), "{error}");
                    assert!(["changed", "vanished"].contains(&code), "{error}");
                }
                let id = backup["id"].as_u64().unwrap();
                let place = daemon.browse(id).join(source.strip_prefix("/").unwrap());
                sh(&place, &format!("diff -r still {}/still", source.display()));
                // Whatever was read of the others can be read again, as long as it says it is.
                assert!(du(&place.join("churn")) <= 400 * 100_000_000);
                sh(&place, "find churn -type f -exec cat {} + > /dev/null");
            }
        }));
        stop.store(true, Ordering::Relaxed);
        result.unwrap();
    });
    let verified = daemon.work("VerifyVault sa{sv} main 1 read_data b true");
    assert_eq!(verified["result"]["problems"], 0, "{verified}");
    daemon.assert_well();
}

#[test]
fn a_path_that_is_gone_is_an_error_of_its_own() {
    needs_root!("a_path_that_is_gone_is_an_error_of_its_own");
    let daemon = Daemon::start();
    let (here, gone) = (daemon.path("source/here"), daemon.path("source/gone"));
    sh(&daemon.source(), "mkdir here gone; echo x > here/x; echo y > gone/y");
    daemon.ok(&format!("AddResource sa{{sv}} both 1 paths as 2 {} {}", here.display(), gone.display()));
    sh(&daemon.source(), "rm -r gone");
    let backup = daemon.back_up("both");
    assert_eq!(backup["errors"], 1, "{backup}");
    let list = daemon.ok(&format!("ListBackupErrors ta{{sv}} {} 0", backup["id"]));
    assert_eq!(list[1][0]["path"].as_str(), gone.to_str(), "{list}");
}

#[test]
fn a_bad_sector_of_the_destination_is_damage_and_not_a_destination_that_failed() {
    needs_root!("a_bad_sector_of_the_destination_is_damage_and_not_a_destination_that_failed");
    let daemon = Daemon::start();
    let disk = Disk::new("btrfs", 200, &daemon.path("disk"));
    daemon.ok(&format!("AddDestination ssa{{sv}} usb local 1 directory s {}", disk.path.display()));
    daemon.ok("AddVault sa{sv} usb 1 destinations as 1 usb");
    sh(&daemon.source(), "head -c 3000000 /dev/urandom > lost");
    daemon.ok(&format!("AddResource sa{{sv}} data 2 paths as 1 {} vault s usb", daemon.source().display()));
    let first = daemon.back_up("data")["id"].as_u64().unwrap();
    let bad = sh(&disk.path, "find packs -type f -size +1M");
    sh(&daemon.source(), "head -c 3000000 /dev/urandom > kept");
    let second = daemon.back_up("data")["id"].as_u64().unwrap();

    // Checksums of the file system make a flipped byte a read error.
    let bytes = std::fs::read(disk.path.join(bad.trim())).unwrap();
    let mark = &bytes[1_500_000..1_500_064];
    sh(&disk.path, "sync");
    let image = daemon.path("disk.img");
    let raw = std::fs::read(&image).unwrap();
    let places: Vec<usize> =
        raw.windows(mark.len()).enumerate().filter(|(_, w)| *w == mark).map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "the pack lies in the image as it is");
    drop(raw);
    sh(daemon.dir(), "umount disk");
    let file = std::fs::File::options().write(true).open(&image).unwrap();
    for at in places {
        std::os::unix::fs::FileExt::write_all_at(&file, b"damaged", at as u64).unwrap();
    }
    file.sync_all().unwrap();
    sh(daemon.dir(), "mount -o loop disk.img disk");
    sh(&disk.path, &format!("! cat {} > /dev/null 2>&1", bad.trim()));

    let job = number(&daemon.ok("VerifyVault sa{sv} usb 1 read_data b true"));
    let ended = daemon.wait(job);
    assert_eq!(ended["error_name"], "org.strongroom1.Error.Damaged", "{ended}");
    let damaged: Vec<u64> =
        ended["result"]["damaged_backups"].as_array().unwrap().iter().map(|b| b["id"].as_u64().unwrap()).collect();
    assert_eq!(damaged, [first, second], "{ended}");
    assert!(ended["result"].to_string().contains("/lost"), "the file is named: {ended}");
    // What the source still has is stored again, and with it both are whole.
    let third = daemon.back_up("data")["id"].as_u64().unwrap();
    let target = daemon.restore(third, "target");
    let below = daemon.source().strip_prefix("/").unwrap().to_owned();
    assert_eq!(differences(&daemon.source(), &target.join(&below)), "");
    let target = daemon.restore(second, "older");
    assert_eq!(differences(&daemon.source(), &target.join(&below)), "");

    // Where nothing at all can be read it is the destination that failed.
    sh(daemon.dir(), "umount -l disk");
    let ended = daemon.wait(number(&daemon.ok("VerifyVault sa{sv} usb 1 read_data b true")));
    assert_eq!(ended["error_name"], "org.strongroom1.Error.DestinationFailed", "{ended}");
}

/// What is dead goes although there is no room to copy what lives beside it elsewhere.
#[test]
fn a_prune_without_room_gives_back_what_it_can() {
    needs_root!("a_prune_without_room_gives_back_what_it_can");
    let mut daemon = Daemon::start();
    let disk = Disk::new("ext4", 160, &daemon.path("disk"));
    daemon.ok(&format!("AddDestination ssa{{sv}} usb local 1 directory s {}", disk.path.display()));
    daemon.ok("AddVault sa{sv} usb 1 destinations as 1 usb");
    daemon.ok(&format!("AddResource sa{{sv}} data 2 paths as 1 {} vault s usb", daemon.source().display()));
    // The first half goes as a whole, of the other one file in three.
    sh(&daemon.source(), "for i in $(seq -w 80); do head -c 1000000 /dev/urandom > $i; done");
    let first = daemon.back_up("data")["id"].as_u64().unwrap();
    sh(
        &daemon.source(),
        "rm [0-3]?; for i in 41 42 44 45 47 48 50 51 53 54 56 57 59 60 62 63 65 66 68 69; do rm $i; done",
    );
    let second = daemon.back_up("data")["id"].as_u64().unwrap();
    // Root may use what is reserved.
    let free = || {
        let said = sh(&disk.path, "stat -f -c %f . | awk '{ print $1 * 4096 }'");
        said.trim().parse::<u64>().unwrap()
    };
    sh(&disk.path, "cat /dev/zero > ballast 2>/dev/null || true; truncate -s -3000000 ballast");
    let gone = daemon.work(&format!("DeleteBackup ta{{sv}} {first} 0"));
    assert!(gone["result"]["message"].as_str().is_some_and(|m| m.contains("prune again")), "{gone}");
    assert_eq!(gone["result"]["packs_rewritten"], 0, "{gone}");
    assert!(free() > 30_000_000, "{} {gone}", free());
    assert_eq!(daemon.work("VerifyVault sa{sv} usb 1 read_data b true")["result"]["problems"], 0);
    // Now there is room.
    let again = daemon.work("PruneVault sa{sv} usb 0");
    assert!(again["result"]["packs_rewritten"].as_u64().unwrap() > 0, "{again}");
    assert!(again["result"]["message"].is_null() && free() > 50_000_000, "{} {again}", free());
    let restored = daemon.restore(second, "target").join(daemon.source().strip_prefix("/").unwrap());
    assert_eq!(differences(&daemon.source(), &restored), "");
    daemon.assert_well();
}

/// A disk that fails under a backup, a restore and a reader: errors by name, and all goes on when it is back.
#[test]
fn a_destination_that_fails_meanwhile_is_named_and_works_again_when_it_is_back() {
    needs_root!("a_destination_that_fails_meanwhile_is_named_and_works_again_when_it_is_back");
    let _heavy = heavy();
    let mut daemon = Daemon::start();
    let disk = Disk::new("xfs", 400, &daemon.path("disk"));
    daemon.ok(&format!("AddDestination ssa{{sv}} usb local 1 directory s {}", disk.path.display()));
    daemon.ok("AddVault sa{sv} usb 1 destinations as 1 usb");
    daemon.ok(&format!("AddResource sa{{sv}} data 2 paths as 1 {} vault s usb", daemon.source().display()));
    sh(&daemon.source(), "for i in $(seq 20); do head -c 2000000 /dev/urandom > f$i; done");
    let first = daemon.back_up("data")["id"].as_u64().unwrap();
    let below = daemon.source().strip_prefix("/").unwrap().to_owned();
    let mut good = vec![first];
    for turn in 0..3 {
        sh(&daemon.source(), &format!("for i in $(seq 40); do head -c 2000000 /dev/urandom > g{turn}; done"));
        sh(&daemon.source(), &format!("head -c 90000000 /dev/urandom > h{turn}"));
        let job = match turn {
            0 => number(&daemon.ok("CreateBackup sa{sv} data 0")["job"]),
            1 => {
                let target = daemon.path("halfway");
                std::fs::create_dir(&target).unwrap();
                number(&daemon.ok(&format!("RestoreBackup ta{{sv}} {first} 1 target s {}", target.display())))
            }
            _ => number(&daemon.ok("VerifyVault sa{sv} usb 1 read_data b true")),
        };
        std::thread::sleep(std::time::Duration::from_millis(60 + 40 * turn));
        // From here on everything there is an input/output error.
        sh(daemon.dir(), "xfs_io -x -c shutdown disk");
        let ended = daemon.wait(job);
        if ended["state"] == "completed" {
            println!("turn {turn}: it had ended before");
            good.extend(ended["backup"].as_u64().filter(|_| turn == 0));
        } else {
            let named = ["DestinationFailed", "Damaged", "NotFound"];
            let name = ended["error_name"].as_str().unwrap();
            assert!(named.iter().any(|n| name.ends_with(n)), "turn {turn}: {ended}");
        }
        let failed = daemon.wait(number(&daemon.ok("CreateBackup sa{sv} data 0")["job"]));
        assert_eq!(failed["error_name"], "org.strongroom1.Error.DestinationFailed", "{failed}");
        sh(
            daemon.dir(),
            "umount -l disk; for i in $(seq 100); do mount -o loop disk.img disk 2>/dev/null && exit; sleep 0.1; done; exit 1",
        );
        let next = daemon.back_up("data")["id"].as_u64().unwrap();
        good.push(next);
        assert_eq!(differences(&daemon.source(), &daemon.browse(next).join(&below)), "");
        assert_eq!(daemon.work("VerifyVault sa{sv} usb 1 read_data b true")["result"]["problems"], 0);
    }
    let there = daemon.completed();
    assert!(good.iter().all(|id| there.contains(id)), "{there:?} of {good:?}");
    assert!(daemon.stop().success());
    daemon.start_again();
    daemon.assert_well();
}

/// A catalog without room refuses by name and changes nothing, and works again when there is some.
#[test]
fn a_full_state_directory_is_named_and_forgets_nothing() {
    needs_root!("a_full_state_directory_is_named_and_forgets_nothing");
    let mut daemon = Daemon::start();
    sh(&daemon.source(), "head -c 3000000 /dev/urandom > file");
    daemon.add("tree", &daemon.source());
    let first = daemon.back_up("tree")["id"].as_u64().unwrap();
    assert!(daemon.stop().success());
    sh(daemon.dir(), "mv state before");
    let disk = Disk::new("ext4", 80, &daemon.path("state"));
    sh(daemon.dir(), "cp -a before/. state/; chmod --reference=before state");
    daemon.start_again();
    sh(&disk.path, "cat /dev/zero > ballast 2>/dev/null || true");
    let mut refused = Vec::new();
    for n in 0..300 {
        let words = "x".repeat(900);
        if let Err(e) = daemon.call(&format!("AddProject sa{{sv}} many{n} 1 description s {words}")) {
            refused.push((n, e));
        }
    }
    let (at, e) = refused.first().expect("some time there is no room");
    assert_eq!(e.name, "org.strongroom1.Error.NoSpace", "{e:?}");
    let made = daemon.ok("ListProjects a{sv} 1 page_size u 1000")[0].as_u64().unwrap();
    println!("refused from the {at}th on: {}; {made} projects", e.message);
    let (job, ended) = match daemon.call("CreateBackup sa{sv} tree 0") {
        Ok(begun) => (number(&begun["job"]), true),
        Err(e) => {
            assert_eq!(e.name, "org.strongroom1.Error.NoSpace", "{e:?}");
            (0, false)
        }
    };
    if ended {
        let job = daemon.wait(job);
        assert!(job["state"] == "completed" || job["error_name"] == "org.strongroom1.Error.NoSpace", "{job}");
    }
    sh(&disk.path, "rm ballast");
    assert_eq!(daemon.ok("ListProjects a{sv} 1 page_size u 1000")[0], made, "all that was promised and nothing else");
    daemon.ok("AddProject sa{sv} more 0");
    let next = daemon.back_up("tree")["id"].as_u64().unwrap();
    assert!(daemon.stop().success());
    daemon.start_again();
    assert_eq!(daemon.ok("ListProjects a{sv} 1 page_size u 1000")[0], made + 1);
    assert!(daemon.completed().contains(&first) && daemon.completed().contains(&next));
    let place = daemon.browse(next).join(daemon.source().strip_prefix("/").unwrap());
    assert_eq!(differences(&daemon.source(), &place), "");
}

/// A job that ends while the state directory has no room ends all the same: for that some is kept.
#[test]
fn the_end_of_a_job_is_written_down_though_the_disk_is_full() {
    needs_root!("the_end_of_a_job_is_written_down_though_the_disk_is_full");
    let mut daemon = Daemon::start();
    let slow = "before = [['/bin/sleep', '8']]";
    let text = format!("[resource.data]\npaths = ['{}']\n{slow}\n", daemon.source().display());
    std::fs::write(daemon.path("strongroom.toml"), text).unwrap();
    sh(&daemon.source(), "head -c 20000000 /dev/urandom > file");
    assert!(daemon.stop().success());
    sh(daemon.dir(), "mv state before");
    let disk = Disk::new("ext4", 150, &daemon.path("state"));
    sh(daemon.dir(), "cp -a before/. state/; chmod --reference=before state");
    daemon.start_again();
    assert!(disk.path.join("reserve").exists());
    let job = number(&daemon.ok("CreateBackup sa{sv} data 0")["job"]);
    sh(&disk.path, "cat /dev/zero > ballast 2>/dev/null || true");
    let words = "x".repeat(900);
    // Nothing more fits in the room that the catalog has inside either.
    let refused =
        (0..300).any(|n| daemon.call(&format!("AddProject sa{{sv}} many{n} 1 description s {words}")).is_err());
    assert!(refused && daemon.ok(&format!("GetJob t {job}"))["completed_at"].is_null(), "the job was too fast");
    let ended = daemon.wait(job);
    assert!(ended["state"] == "completed" || ended["error_name"] == "org.strongroom1.Error.NoSpace", "{ended}");
    assert!(!disk.path.join("reserve").exists());
    sh(&disk.path, "rm ballast");
    assert_eq!(daemon.back_up("data")["status"], "completed");
    assert!(disk.path.join("reserve").exists());
    daemon.assert_well();
}

/// Real limits of open files and of memory: whatever ends by them, nothing is lost, and without them it works.
#[test]
fn limits_of_the_system_lose_nothing() {
    needs_root!("limits_of_the_system_lose_nothing");
    let _heavy = heavy();
    let mut daemon = Daemon::start();
    sh(&daemon.source(), "p=.; for i in $(seq 40); do p=$p/d$i; mkdir $p; head -c 100000 /dev/urandom > $p/f; done");
    daemon.add("tree", &daemon.source());
    let first = daemon.back_up("tree")["id"].as_u64().unwrap();
    let below = daemon.source().strip_prefix("/").unwrap().to_owned();
    let mut expected = vec![first];
    for limit in ["nofile", "as"] {
        for more in [2_u64, 6, 20] {
            let pid = daemon.pid();
            let now = match limit {
                "nofile" => sh(Path::new("/"), &format!("ls /proc/{pid}/fd | wc -l")),
                _ => sh(Path::new("/"), &format!("awk '/VmSize/ {{ print $2 * 1024 }}' /proc/{pid}/status")),
            };
            let room = if limit == "as" { more << 21 } else { more };
            let most = now.trim().parse::<u64>().unwrap() + room;
            sh(&daemon.source(), "head -c 70000000 /dev/urandom > changed");
            sh(Path::new("/"), &format!("prlimit --pid {pid} --{limit}={most}:"));
            // Whatever the answer is: the daemon may even be gone.
            let begun = daemon.call("CreateBackup sa{sv} tree 0");
            let ended = begun.as_ref().ok().map(|begun| {
                let job = number(&begun["job"]);
                let mut last = String::from("gone");
                for _ in 0..300 {
                    match daemon.call(&format!("GetJob t {job}")) {
                        Ok(row) if row["completed_at"].is_null() => last = format!("{row}"),
                        Ok(row) => {
                            last = format!("{} {}", row["state"], row["error"]);
                            break;
                        }
                        Err(e) => last = e.message,
                    }
                    if !Path::new(&format!("/proc/{pid}/exe")).exists() {
                        break;
                    }
                    std::thread::sleep(std::time::Duration::from_millis(100));
                }
                last
            });
            if limit == "nofile" {
                let last = ended.as_deref().unwrap_or_default();
                assert!(!last.starts_with("\"failed\"") || last.contains("open files"), "{last}");
            }
            println!("{limit} {room} more than it had: {ended:?}, {:?}", begun.err().map(|e| e.message));
            daemon.kill();
            daemon.start_again();
            daemon.settle();
            let there = daemon.completed();
            assert!(expected.iter().all(|id| there.contains(id)), "{there:?} of {expected:?}");
            let next = daemon.back_up("tree")["id"].as_u64().unwrap();
            assert_eq!(differences(&daemon.source(), &daemon.browse(next).join(&below)), "");
            expected = daemon.completed();
            // Ten by hand are the limit.
            for id in expected.drain(..expected.len().saturating_sub(3)) {
                daemon.work(&format!("DeleteBackup ta{{sv}} {id} 0"));
            }
        }
    }
    assert_eq!(daemon.work("VerifyVault sa{sv} main 1 read_data b true")["result"]["problems"], 0);
}
