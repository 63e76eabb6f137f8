//! "All that this file ever was, as files": the views over all backups, through the real mount.

use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use crate::common::{Daemon, differences, number, sh, sh_fails, wait_for};
use crate::needs_root;

const STRANGER: &str = "setpriv --reuid 12345 --regid 12345 --clear-groups --inh-caps=-all";

#[test]
fn every_version_of_a_file_is_a_file() {
    needs_root!("every_version_of_a_file_is_a_file");
    let daemon = Daemon::start();
    let source = daemon.source();
    daemon.add("tree", &source);
    sh(
        &source,
        "mkdir d; echo one > d/f; echo keep > d/keep; echo old > d/gone; truncate -s 1M d/holes; echo x >> d/holes",
    );
    let first = daemon.back_up("tree");
    let top = daemon.path("browse/versions/default/tree");
    let below = top.join(source.strip_prefix("/").unwrap()).join("d");
    let inside = [&top, &below, &below.join("f")].map(|dir| (std::fs::File::open(dir).unwrap(), dir.clone()));
    sh(&source, "echo two > d/f; rm d/gone; chmod 600 d/keep; cp -a . ../second");
    daemon.back_up("tree");
    sh(&source, "echo one > d/f; rm d/keep; mkdir d/keep; echo inside > d/keep/now");
    daemon.back_up("tree");
    assert_eq!(sh(&below, "ls"), "f\ngone\nholes\nkeep\n");
    // Who was in one of its directories before is still there.
    assert_eq!(sh(&below.join("f"), "ls | wc -l"), "2\n");
    for (held, dir) in &inside {
        assert_eq!(held.metadata().unwrap().ino(), std::fs::metadata(dir).unwrap().ino(), "{}", dir.display());
        let way = std::fs::read_link(format!("/proc/self/fd/{}", held.as_raw_fd())).unwrap();
        assert_eq!(way, dir.canonicalize().unwrap());
    }
    // Each content once, by the first that has it, the newest metadata.
    assert_eq!(
        sh(&below, "ls f | wc -l; cat f/*-1 f/*-2; cat gone/*; cat holes/* | tail -c 2"),
        "2\none\ntwo\nold\nx\n"
    );
    assert_eq!(sh(&below, "ls keep; cat keep/*-1 keep/now/*; stat -c %a keep/*-1"), {
        let name = sh(&below, "ls keep | grep -v now");
        format!("{name}now\nkeep\ninside\n600\n")
    });
    assert!(sh(&below, "cd f; echo *-1").starts_with(&first["created_at"].as_str().unwrap()[..10]));
    // From within a backup.
    let inside = daemon.path("browse/resources/default/tree/latest").join(source.strip_prefix("/").unwrap());
    assert_eq!(
        sh(&inside, "cat d/.versions/gone/*; cat .versions/d/f/*-2; ls -A d | grep -c versions || true"),
        "old\ntwo\n0\n"
    );
    assert_eq!(sh(&daemon.browse(1), "ls .versions/"), sh(&top, "ls"));
    // What is copied from there is what it was, holes and all.
    sh(daemon.dir(), &format!("cp -a {}/holes/*-1 copied; cmp copied source/d/holes", below.display()));
    assert!(sh(daemon.dir(), "stat -c %b copied").trim().parse::<u64>().unwrap() < 100);
    // By day, and what is there leads to the same files.
    let day = sh(&daemon.path("browse/by-date"), "echo */*/*/*-tree-2");
    assert_eq!(
        differences(
            &daemon.path("second"),
            &daemon.path("browse/by-date").join(day.trim()).join(source.strip_prefix("/").unwrap())
        ),
        ""
    );

    // What is deleted is gone from there too, at once, and the rest goes by another name.
    daemon.work("DeleteBackup ta{sv} 1 0");
    wait_for("the version is gone", std::time::Duration::from_secs(5), || !below.join("gone").exists());
    assert_eq!(sh(&below, "cd f; cat *-3 *-2; ls | wc -l"), "one\ntwo\n2\n");
    assert_eq!(sh(&daemon.path("browse/by-date"), "ls */*/* | wc -l"), "2\n");
    // All of it can be read at once by many.
    sh(
        &top,
        "pids=; for i in 1 2 3 4; do find . -type f -exec cat {} + > /dev/null & pids+=\" $!\"; done; for p in $pids; do wait $p; done",
    );
    let log = daemon.log();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn a_listing_of_versions_goes_on_as_it_was_begun() {
    needs_root!("a_listing_of_versions_goes_on_as_it_was_begun");
    let mut daemon = Daemon::start();
    let source = daemon.source();
    sh(&source, "mkdir d; cd d; for i in $(seq 1000 3000); do echo $i > m-a-name-to-fill-the-reply-$i; done");
    sh(&source, "cd d; for i in $(seq 1000 1600); do echo $i > a-name-that-goes-away-$i; done");
    daemon.add("tree", &source);
    daemon.back_up("tree");
    sh(&source, "rm d/a-*");
    daemon.back_up("tree");
    let below = daemon.path("browse/versions/default/tree").join(source.strip_prefix("/").unwrap()).join("d");
    let mut begun = std::fs::read_dir(&below).unwrap();
    let mut names: Vec<_> = begun.by_ref().take(3).map(|entry| entry.unwrap().file_name()).collect();
    // What was at the front of it goes, and more comes there; others list that whole.
    sh(&source, "cd d; echo new > 0-name-that-comes");
    daemon.back_up("tree");
    daemon.work("DeleteBackup ta{sv} 1 0");
    assert_eq!(sh(&below, "ls | wc -l; ls | sed -n 1p"), "2002\n0-name-that-comes\n");
    names.extend(begun.map(|entry| entry.unwrap().file_name()));
    let mut stays: Vec<_> = names.iter().filter(|name| name.to_string_lossy().starts_with("m-")).collect();
    stays.sort();
    stays.dedup();
    let given = names.iter().filter(|name| name.to_string_lossy().starts_with("m-")).count();
    assert_eq!((given, stays.len(), names.len()), (2001, 2001, 2602));
    daemon.assert_well();
}

#[test]
fn versions_let_nobody_in_whom_a_backup_kept_out() {
    needs_root!("versions_let_nobody_in_whom_a_backup_kept_out");
    let daemon = Daemon::start();
    let source = daemon.source();
    daemon.ok(&format!("AddResource sa{{sv}} open 2 paths as 1 {} browse s strict", source.display()));
    daemon.add("closed", &source);
    sh(&source, "mkdir d e; echo 1 > d/f; echo secret > d/own; chmod 600 d/own; echo 1 > e/f; chmod 700 e");
    let (shown, root) = (source.display(), daemon.path("browse/versions/default"));
    daemon.back_up("open");
    daemon.back_up("closed");
    // Opened now: what was closed in the backup before stays so.
    sh(&source, "chmod 755 e; echo 2 > e/f; echo 2 > d/f");
    daemon.back_up("open");
    let stranger = |script: &str| sh(&root, &format!("{STRANGER} sh -c '{script}'"));
    assert_eq!(stranger(&format!("cat open{shown}/d/f/*")), "1\n2\n");
    assert_eq!(stranger(&format!("cat ../../resources/default/open/latest{shown}/d/.versions/f/*")), "1\n2\n");
    for closed in [
        format!("cat open{shown}/e/f/*"),
        format!("ls open{shown}/e"),
        format!("cat open{shown}/d/own/*"),
        "ls closed".into(),
    ] {
        let told = sh_fails(&root, &format!("{STRANGER} sh -c '{closed}'"));
        assert!(told.contains("ermission denied"), "{closed}: {told}");
    }
    // In the newest backup alone it is open.
    assert_eq!(stranger(&format!("cat ../../resources/default/open/latest{shown}/e/f")), "2\n");
    assert_eq!(sh(&root, &format!("cat open{shown}/e/f/*; cat closed{shown}/d/own/*")), "1\n2\nsecret\n");
}

#[test]
fn a_thousand_backups_have_one_tree_of_versions() {
    needs_root!("a_thousand_backups_have_one_tree_of_versions");
    let daemon = Daemon::start();
    let source = daemon.source();
    let count: u32 = std::env::var("STRONGROOM_BACKUPS").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    sh(&source, "mkdir d e; for i in $(seq 200); do echo $i > d/$i; echo $i > e/$i; done");
    daemon.add("tree", &source);
    for i in 0..count {
        sh(&source, &format!("echo {i} > d/7; echo {i} > d/{}", 10 + i % 100));
        let made = daemon.ok("CreateBackup sa{sv} tree 1 backup_type s automatic");
        daemon.wait(number(&made["job"]));
    }
    let below = daemon.path("browse/versions/default/tree").join(source.strip_prefix("/").unwrap());
    let time = |script: &str| {
        let since = std::time::Instant::now();
        let told = sh(&below, script);
        println!("{script}: {:.0} ms", since.elapsed().as_secs_f64() * 1e3);
        told
    };
    assert_eq!(time("ls d/7 | wc -l"), format!("{count}\n"));
    assert_eq!(time("cat d/7/* | sort -n | tail -n 1"), format!("{}\n", count - 1));
    assert_eq!(time("ls e | wc -l; ls e/9 | wc -l"), "200\n1\n");
    assert_eq!(time("find . -type f | wc -l"), format!("{}\n", 400 + 2 * (count - 1)));
}
