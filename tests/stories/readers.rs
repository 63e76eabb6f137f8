//! "Whatever I did to that mount, nothing ever hung": readers of damage, readers that are killed,
//! a mount that goes while it is read, thousands of open files.

use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::common::{Daemon, differences, du, heavy, random_files, sh, wait_for};
use crate::needs_root;

/// A reader that reads and reads.
fn reader(file: &std::path::Path) -> Child {
    let script = format!(
        "while cat '{0}' > /dev/null && dd if='{0}' iflag=direct bs=64k of=/dev/null 2>&1; do :; done; exit 3",
        file.display()
    );
    Command::new("bash")
        .args(["-c", &script])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap()
}

/// How a child ended, soon.
fn ended(child: &mut Child) -> ExitStatus {
    let mut status = None;
    wait_for("the reader ends", Duration::from_secs(30), || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

#[test]
fn a_damaged_segment_is_an_error_of_its_files_alone_and_is_told() {
    needs_root!("a_damaged_segment_is_an_error_of_its_files_alone_and_is_told");
    let mut daemon = Daemon::start();
    sh(&daemon.source(), "head -c 3000000 /dev/urandom > lost");
    daemon.add("tree", &daemon.source());
    let first = daemon.back_up("tree")["id"].as_u64().unwrap();
    let bad = sh(&daemon.store(), "find packs -type f -size +1M");
    sh(&daemon.source(), "head -c 3000000 /dev/urandom > kept");
    let second = daemon.back_up("tree")["id"].as_u64().unwrap();
    let bad = daemon.store().join(bad.trim());
    sh(daemon.dir(), &format!("chattr -i {0} 2>/dev/null; chmod u+w {0}", bad.display()));
    let file = std::fs::File::options().write(true).open(&bad).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"damaged", 1_500_000).unwrap();
    drop(file);
    let below = daemon.source().strip_prefix("/").unwrap().to_owned();
    for id in [first, second] {
        let error = sh(&daemon.browse(id).join(&below), "timeout 30 cat lost 2>&1 > /dev/null || true");
        assert!(error.contains("Input/output error"), "{error}");
    }
    let kept =
        sh(&daemon.browse(second).join(&below), &format!("timeout 30 cmp kept {}/kept", daemon.source().display()));
    assert_eq!(kept, "");
    assert!(daemon.log().contains("failed its check"), "the cause is told: {}", daemon.log());
    daemon.assert_well();
}

#[test]
fn readers_that_are_killed_leave_nothing_behind() {
    needs_root!("readers_that_are_killed_leave_nothing_behind");
    let mut daemon = Daemon::start();
    random_files(&daemon.source(), "f", 4, 20_000_000);
    daemon.add("tree", &daemon.source());
    let id = daemon.back_up("tree")["id"].as_u64().unwrap();
    let place = daemon.browse(id).join(daemon.source().strip_prefix("/").unwrap());
    for turn in 0..10_u64 {
        let mut readers: Vec<_> = (1..=4).map(|n| reader(&place.join(format!("f0000{n}")))).collect();
        std::thread::sleep(Duration::from_millis(20 + 13 * turn));
        for reader in &mut readers {
            nix::sys::signal::killpg(Pid::from_raw(i32::try_from(reader.id()).unwrap()), Signal::SIGKILL).unwrap();
            assert_eq!(ended(reader).signal(), Some(9));
        }
    }
    assert_eq!(differences(&daemon.source(), &place), "");
    daemon.assert_well();
}

#[test]
fn a_mount_that_goes_while_it_is_read_ends_its_readers_and_comes_back() {
    needs_root!("a_mount_that_goes_while_it_is_read_ends_its_readers_and_comes_back");
    let daemon = Daemon::start();
    random_files(&daemon.source(), "f", 4, 20_000_000);
    daemon.add("tree", &daemon.source());
    let id = daemon.back_up("tree")["id"].as_u64().unwrap();
    let place = daemon.browse(id).join(daemon.source().strip_prefix("/").unwrap());
    for gently in [true, false] {
        let mut readers: Vec<_> = (1..=4).map(|n| reader(&place.join(format!("f0000{n}")))).collect();
        std::thread::sleep(Duration::from_millis(300));
        let mount = daemon.path("browse").display().to_string();
        sh(daemon.dir(), &format!("umount {} {mount}", if gently { "-l" } else { "-f -l" }));
        for reader in &mut readers {
            assert_eq!(ended(reader).code(), Some(3), "what it read was an error in the end");
        }
        wait_for("it is mounted again", Duration::from_secs(30), || place.join("f00001").exists());
        assert_eq!(differences(&daemon.source(), &place), "");
    }
}

#[test]
fn ten_thousand_files_are_open_at_once() {
    needs_root!("ten_thousand_files_are_open_at_once");
    let mut daemon = Daemon::start();
    sh(&daemon.source(), "for d in $(seq 100); do mkdir $d; for f in $(seq 100); do echo $d/$f > $d/$f; done; done");
    daemon.add("tree", &daemon.source());
    let id = daemon.back_up("tree")["id"].as_u64().unwrap();
    let place = daemon.browse(id).join(daemon.source().strip_prefix("/").unwrap());
    let (_, most) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, most.min(30_000), most).unwrap();
    let mut open = Vec::new();
    for d in 1..=100 {
        for f in 1..=100 {
            open.push((format!("{d}/{f}\n"), std::fs::File::open(place.join(format!("{d}/{f}"))).unwrap()));
        }
    }
    for (expected, file) in &mut open {
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, *expected);
    }
    // With all of them open everything else works, and they are no obstacle to a deletion.
    assert_eq!(differences(&daemon.source(), &place), "");
    daemon.work(&format!("DeleteBackup ta{{sv}} {id} 0"));
    assert!(!daemon.browse(id).exists());
    drop(open);
    daemon.assert_well();
}

/// The most memory that a process ever had, in MB.
fn peak(pid: Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[test]
fn whoever_reads_everything_does_not_make_the_mount_grow() {
    needs_root!("whoever_reads_everything_does_not_make_the_mount_grow");
    let _heavy = heavy();
    let mut daemon = Daemon::start();
    // Text that does not repeat, in files of all lengths: segments of all lengths, and many entries.
    sh(
        &daemon.source(),
        r#"perl -e 'srand 7; open my $random, "<:raw", "/dev/urandom";
            for my $d (1 .. 20) { mkdir $d; for my $f (1 .. 400) {
                read $random, my $bytes, int(rand($f % 50 ? 20_000 : 1_500_000));
                open my $file, ">", "$d/$f"; print $file unpack("H*", $bytes) } }'"#,
    );
    daemon.add("tree", &daemon.source());
    let id = daemon.back_up("tree")["id"].as_u64().unwrap();
    let place = daemon.browse(id).join(daemon.source().strip_prefix("/").unwrap());
    let read =
        sh(&place, "find . -printf '%s\\n' | wc -l; tar -cf - . | wc -c; find . -type f | sort -R | xargs cat | wc -c");
    let bytes = du(&daemon.source());
    assert!(read.ends_with(&format!("\n{bytes}\n")), "{read}");
    let peak = peak(daemon.browse_pid().unwrap());
    println!("{bytes} bytes were read twice; the mount had {peak} MB at most");
    assert!(peak <= 68, "{peak} MB");
    daemon.assert_well();
}
