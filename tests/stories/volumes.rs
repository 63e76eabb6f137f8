//! "The disk of the virtual machine": block devices and disk images, backed up as one file and
//! written back onto a device, an image or a directory.
//!
//! `STRONGROOM_VOLUME=20480` makes the image that many MiB large, a tenth of it data.

use std::path::{Path, PathBuf};

use crate::common::{Daemon, Dice, Disk, heavy, number, sh, sh_fails};
use crate::needs_root;

const INVALID: &str = "org.strongroom1.Error.InvalidArgument";
const STATE: &str = "org.strongroom1.Error.InvalidState";
const MIB: u64 = 1 << 20;

/// A device of a file, detached when it goes.
struct Device(PathBuf);

impl Device {
    fn new(image: &Path) -> Self {
        Self(sh(Path::new("/"), &format!("losetup --find --show '{}'", image.display())).trim().into())
    }

    fn shown(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        sh(Path::new("/"), &format!("losetup --detach {}", self.0.display()));
    }
}

fn megabytes() -> u64 {
    std::env::var("STRONGROOM_VOLUME").ok().and_then(|m| m.parse().ok()).unwrap_or(320)
}

/// A sparse image, a tenth of which is data in pieces of a MiB here and there.
fn image(daemon: &Daemon, name: &str, dice: &mut Dice) -> PathBuf {
    let path = daemon.path(name);
    let size = megabytes();
    sh(daemon.dir(), &format!("truncate -s {size}M {name}"));
    write(&path, size / 10, dice);
    path
}

/// Writes that many MiB at random, a MiB at a time.
fn write(path: &Path, count: u64, dice: &mut Dice) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    let mut random = std::fs::File::open("/dev/urandom").unwrap();
    let mut piece = vec![0; MIB as usize];
    for _ in 0..count {
        std::io::Read::read_exact(&mut random, &mut piece).unwrap();
        let page = (dice.roll() * ((megabytes() - 1) * MIB / 4096) as f64) as u64;
        file.write_all_at(&piece, page * 4096).unwrap();
    }
    file.sync_all().unwrap();
}

fn same(one: &Path, two: &Path) {
    sh(Path::new("/"), &format!("cmp '{}' '{}'", one.display(), two.display()));
}

/// What a file takes on its disk.
fn du(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).unwrap().blocks() * 512
}

fn stored(backup: &serde_json::Value) -> u64 {
    backup["stored_size"].as_u64().unwrap()
}

#[test]
fn an_image_is_stored_without_its_zeros_and_its_changes_alone() {
    needs_root!("an_image_is_stored_without_its_zeros_and_its_changes_alone");
    let _heavy = heavy();
    let daemon = Daemon::start();
    let mut dice = Dice::new(9_001);
    let path = image(&daemon, "disk.img", &mut dice);
    daemon.ok(&format!("AddResource sa{{sv}} disk 2 kind s volume paths as 1 {}", path.display()));
    let first = daemon.back_up("disk");
    let (size, data) = (megabytes() * MIB, du(&path));
    assert_eq!(first["size"], size, "{first}");
    assert!(stored(&first) <= data + data / 20 + MIB, "{} stored of {data}", stored(&first));
    // It is seen as the one file that it is, and nothing but holes where nothing is.
    let browsed = daemon.browse(first["id"].as_u64().unwrap()).join(path.strip_prefix("/").unwrap());
    same(&path, &browsed);
    // What is in it changes here and there: in the long run 50 MiB of 2 GiB.
    let before = daemon.path("before.img");
    sh(daemon.dir(), "cp --sparse=always disk.img before.img");
    let changed = (megabytes() / 400).max(2);
    write(&path, changed, &mut dice);
    let second = daemon.back_up("disk");
    println!(
        "{} bytes hold {data}; stored {}, and {} of {changed} MiB that changed",
        size,
        stored(&first),
        stored(&second)
    );
    // A MiB that is written where it likes begins and ends within a block.
    assert!(stored(&second) <= changed * MIB * 3 / 2 + MIB, "{} stored", stored(&second));
    // Into a directory it comes back as a sparse file.
    let restored = daemon.restore(first["id"].as_u64().unwrap(), "out").join(path.strip_prefix("/").unwrap());
    same(&before, &restored);
    assert!(du(&restored) <= data + data / 10, "{} take {} as restored", data, du(&restored));
    // Onto it, only what differs is written: first what changed since, then nothing.
    let onto = |id: &serde_json::Value| {
        daemon.work(&format!("RestoreBackup ta{{sv}} {id} 1 target s {}", restored.display()))["result"].clone()
    };
    let done = onto(&second["id"]);
    same(&path, &restored);
    let written = done["bytes"].as_u64().unwrap();
    assert!(written > 0 && written <= changed * MIB, "{written} written of {changed} MiB that changed");
    let again = onto(&second["id"]);
    assert_eq!((&again["bytes"], &again["unchanged"]), (&0.into(), &1.into()), "{again}");
    let back = onto(&first["id"]);
    same(&before, &restored);
    // What becomes a hole again does so in pieces of 64 KiB.
    assert!(back["bytes"].as_u64().unwrap() <= changed * MIB * 5 / 4, "{back}");
    assert!(du(&restored) <= data + data / 10, "what should be holes is holes again");
    // In place only with a confirmation, and by the same way.
    let refused = daemon.call(&format!("RestoreBackup ta{{sv}} {} 0", first["id"])).unwrap_err();
    assert_eq!(refused.name, "org.strongroom1.Error.NotConfirmed", "{refused:?}");
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
    let was = inode(&path);
    sh(daemon.dir(), "truncate -s +3M disk.img; printf x | dd of=disk.img conv=notrunc bs=1 seek=5000 status=none");
    let dry = daemon.work(&format!("RestoreBackup ta{{sv}} {} 1 dry_run b true", first["id"]))["result"].clone();
    assert!(dry["bytes"].as_u64().unwrap() > 0 && sh(daemon.dir(), "stat -c %s disk.img").trim() != size.to_string());
    let done = daemon.work(&format!("RestoreBackup ta{{sv}} {} 1 confirm b true", first["id"]));
    same(&before, &path);
    assert_eq!(inode(&path), was, "it is the same file");
    assert!(done["result"]["bytes"].as_u64().unwrap() <= (changed + 1) * MIB * 5 / 4, "{done}");
    // Unchanged since, it is not even read.
    let third = daemon.back_up("disk");
    assert!(stored(&third) < MIB, "{third}");
    // Gone, it comes back whole.
    sh(daemon.dir(), "rm disk.img");
    daemon.work(&format!("RestoreBackup ta{{sv}} {} 1 confirm b true", first["id"]));
    same(&before, &path);
}

#[test]
fn one_partition_is_restored_onto_another() {
    needs_root!("one_partition_is_restored_onto_another");
    let daemon = Daemon::start();
    sh(daemon.dir(), "truncate -s 48M one.img; truncate -s 64M two.img; truncate -s 16M small.img");
    let (one, two) = (Device::new(&daemon.path("one.img")), Device::new(&daemon.path("two.img")));
    let small = Device::new(&daemon.path("small.img"));
    let mount = |device: &Device| Disk::mounted(&device.shown(), &daemon.path("mnt"));
    sh(daemon.dir(), &format!("mkfs.ext4 -q {}", one.shown()));
    {
        let disk = mount(&one);
        sh(&disk.path, "echo hello > file; dd if=/dev/urandom of=data bs=1M count=5 status=none; rm -rf lost+found");
    }
    daemon.ok(&format!("AddResource sa{{sv}} part 2 kind s volume paths as 1 {}", one.shown()));
    let backup = daemon.back_up("part");
    let id = &backup["id"];
    assert_eq!((&backup["size"], &backup["files"]), (&(48 * MIB).into(), &1.into()), "{backup}");
    assert!(stored(&backup) < 8 * MIB, "{backup}");
    // Another partition had something else.
    sh(daemon.dir(), &format!("dd if=/dev/urandom of={} bs=1M count=64 status=none", two.shown()));
    let restore = |target: &str| daemon.call(&format!("RestoreBackup ta{{sv}} {id} 1 target s {target}"));
    let job = daemon.wait(number(&restore(&two.shown()).unwrap()));
    assert_eq!(job["state"], "completed", "{job}");
    sh(daemon.dir(), &format!("cmp -n {} {} {}", 48 * MIB, one.shown(), two.shown()));
    {
        let disk = mount(&two);
        assert_eq!(sh(&disk.path, "cat file"), "hello\n");
        // What is in use is refused, and so is what cannot hold it.
        let refused = restore(&two.shown()).unwrap_err();
        assert_eq!(refused.name, STATE, "{refused:?}");
        assert!(refused.message.contains("is in use"), "{refused:?}");
        let refused = restore(&daemon.path("two.img").display().to_string()).unwrap_err();
        assert!(refused.message.contains("in use as /dev/loop"), "{refused:?}");
    }
    let refused = restore(&small.shown()).unwrap_err();
    assert_eq!(refused.name, "org.strongroom1.Error.NoSpace", "{refused:?}");
    sh(daemon.dir(), "truncate -s 48M linked.img; ln linked.img second-name; ln -s small.img symlink.img");
    let refused = restore(&daemon.path("linked.img").display().to_string()).unwrap_err();
    assert!(refused.message.contains("has 2 names"), "{refused:?}");
    assert!(restore(&daemon.path("symlink.img").display().to_string()).is_err(), "no link is followed");
    for wrong in ["/dev/null", "/dev/nosuch", &daemon.store().display().to_string()] {
        assert_eq!(restore(wrong).unwrap_err().name, INVALID, "{wrong}");
    }
    // In place: onto the device itself.
    sh(
        daemon.dir(),
        &format!("cp {} before.img; dd if=/dev/zero of={} bs=1M count=9 status=none", one.shown(), one.shown()),
    );
    let job = daemon.work(&format!("RestoreBackup ta{{sv}} {id} 1 confirm b true"));
    sh(daemon.dir(), &format!("cmp before.img {}", one.shown()));
    assert!(job["result"]["bytes"].as_u64().unwrap() < 9 * MIB, "{job}");
    // By a link of the system's own, as volumes have.
    let link = format!("/dev/strongroom-test-{}", std::process::id());
    std::os::unix::fs::symlink(&one.0, &link).unwrap();
    daemon.ok(&format!("AddResource sa{{sv}} linked 2 kind s volume paths as 1 {link}"));
    let linked = daemon.back_up("linked");
    let browsed = daemon.browse(linked["id"].as_u64().unwrap()).join(link.strip_prefix('/').unwrap());
    sh(daemon.dir(), &format!("cmp before.img {}", browsed.display()));
    // A volume is root's alone.
    for browse in ["strict", "owner=nobody"] {
        let refused = daemon.call(&format!("UpdateResource sa{{sv}} linked 1 browse s {browse}")).unwrap_err();
        assert_eq!(refused.name, INVALID, "{refused:?}");
        assert!(refused.message.contains("root's alone"), "{refused:?}");
    }
    let stranger = "setpriv --reuid 12345 --regid 12345 --clear-groups --inh-caps=-all";
    let told = sh_fails(daemon.dir(), &format!("{stranger} head -c 1 {}", browsed.display()));
    assert!(told.contains("ermission denied"), "{told}");
    std::fs::remove_file(&link).unwrap();
}

#[test]
fn an_image_is_read_from_a_snapshot_where_there_can_be_one() {
    needs_root!("an_image_is_read_from_a_snapshot_where_there_can_be_one");
    let daemon = Daemon::start();
    for fs in ["btrfs", "xfs"] {
        read_from_a_snapshot(&daemon, fs);
    }
}

fn read_from_a_snapshot(daemon: &Daemon, fs: &str) {
    let disk = Disk::new(fs, 320, &daemon.path(fs));
    sh(
        &disk.path,
        "truncate -s 64M vm.img; dd if=/dev/urandom of=vm.img bs=1M count=8 seek=3 conv=notrunc status=none",
    );
    let path = disk.path.join("vm.img");
    daemon
        .ok(&format!("AddResource sa{{sv}} vm-{fs} 3 kind s volume snapshot s required paths as 1 {}", path.display()));
    let backup = daemon.back_up(&format!("vm-{fs}"));
    let job = daemon.ok(&format!("GetJob t {}", number(&backup["job"])));
    assert_eq!(job["result"]["paths_from_snapshots"], 1, "{job}");
    same(&path, &daemon.browse(backup["id"].as_u64().unwrap()).join(path.strip_prefix("/").unwrap()));
    assert!(!disk.path.join(".strongroom").exists());
    // What did not change is not read again, though it is another clone.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    daemon.back_up(&format!("vm-{fs}"));
    let read = || -> u64 {
        let io = std::fs::read_to_string(format!("/proc/{}/io", daemon.pid())).unwrap();
        io.lines().find_map(|l| l.strip_prefix("rchar: ")).unwrap().parse().unwrap()
    };
    let before = read();
    daemon.back_up(&format!("vm-{fs}"));
    let again = read() - before;
    assert!(again < 6_000_000, "{fs}: {again} bytes were read of an image that did not change");
}
