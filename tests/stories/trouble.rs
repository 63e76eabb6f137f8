//! "Some of my files could not be read, and it told me which": one bad file fails no backup.

use std::io::Write;
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
