//! "All that this file ever was, as files": the views over all backups, through the real mount.

use std::collections::{BTreeSet, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

use nix::unistd::Pid;

use crate::common::{Daemon, differences, heavy, number, sh, sh_fails, wait_for};
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

/// A shell that stays where it is.
struct Shell {
    child: Child,
    told: BufReader<ChildStdout>,
}

impl Shell {
    fn within(dir: &Path) -> Self {
        let mut bash = Command::new("bash");
        let mut child = bash.current_dir(dir).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let told = BufReader::new(child.stdout.take().unwrap());
        Self { child, told }
    }

    /// What a script prints, on one line.
    fn say(&mut self, script: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "echo $({script} 2>&1)").unwrap();
        let mut line = String::new();
        self.told.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn whoever_is_in_a_directory_of_versions_stays_there() {
    needs_root!("whoever_is_in_a_directory_of_versions_stays_there");
    let mut daemon = Daemon::start();
    let source = daemon.source();
    daemon.add("tree", &source);
    // Each backup has a name of its own, and other names before, so that the directory is numbered otherwise in each.
    for n in 1..=5 {
        sh(&source, &format!("mkdir -p d/sub a{n}; rm -f d/sub/*; echo {n} > d/sub/f; echo {n} > d/sub/only{n}"));
        daemon.back_up("tree");
    }
    let below = daemon.path("browse/versions/default/tree").join(source.strip_prefix("/").unwrap()).join("d");
    let mut shells = ["", "sub", "sub/f"].map(|dir| Shell::within(&below.join(dir)));
    let place = shells[1].say("stat -c %i . && pwd -P");
    assert_eq!(shells[1].say("ls"), "f only1 only2 only3 only4 only5");
    // The first and the newest are those that such a directory was once numbered by.
    for (gone, left, versions) in
        [(1, "f only2 only3 only4 only5", 4), (5, "f only2 only3 only4", 3), (3, "f only2 only4", 2), (2, "f only4", 1)]
    {
        daemon.work(&format!("DeleteBackup ta{{sv}} {gone} 0"));
        assert_eq!(shells[0].say("ls; ls sub"), format!("sub {left}"), "without {gone}");
        assert_eq!(shells[1].say("ls; ls ../sub; cat f/*-4"), format!("{left} {left} 4"), "without {gone}");
        assert_eq!(shells[2].say("ls | wc -l; cat *-4; ls .."), format!("{versions} 4 {left}"), "without {gone}");
        assert_eq!(shells[1].say("stat -c %i . && pwd -P"), place);
        assert_eq!(sh(&below, "ls sub | xargs"), format!("{left}\n"));
    }
    daemon.back_up("tree");
    assert_eq!(shells[1].say("ls; cat f/*-4"), "f only4 only5 4");
    // Where nothing is left that it could show it says so.
    sh(&source, "rm -r d");
    daemon.back_up("tree");
    for gone in [4, 6] {
        daemon.work(&format!("DeleteBackup ta{{sv}} {gone} 0"));
    }
    assert!(shells[1].say("ls").contains("tale file handle"));
    assert!(!below.exists());
    daemon.assert_well();
}

#[test]
fn paths_of_versions_are_forgotten_when_there_are_many() {
    needs_root!("paths_of_versions_are_forgotten_when_there_are_many");
    let _heavy = heavy();
    let mut daemon = Daemon::start();
    let source = daemon.source();
    // Far more names than the mount remembers, each a directory among the versions.
    sh(&source, "for d in $(seq 300); do mkdir $d; (cd $d; touch $(seq 1000)); done");
    daemon.add("tree", &source);
    daemon.back_up("tree");
    let below = daemon.path("browse/versions/default/tree").join(source.strip_prefix("/").unwrap());
    let mut shell = Shell::within(&below.join("7/700"));
    let pid = daemon.browse_pid().unwrap();
    for turn in 0..2 {
        // Who goes through all of it meets each once, whatever is forgotten meanwhile.
        assert_eq!(sh(&below, "find . -mindepth 2 -maxdepth 2 -type d | sort -u | wc -l"), "300000\n");
        let memory = memory(pid);
        println!("turn {turn}: MB now and at most {memory:?}");
        assert!(memory[1] < 104, "{memory:?}");
        assert_eq!(
            shell.say("ls | wc -l; cd ..; ls | wc -l; cd 700; pwd"),
            format!("1 1000 {}", below.join("7/700").display())
        );
    }
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

/// What is said by a variable, or what is enough for every day.
fn wanted(variable: &str, usual: usize) -> usize {
    std::env::var(variable).ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
}

/// Memory that a process has, and the most that it had, in MB.
fn memory(pid: Pid) -> [u64; 2] {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    ["VmRSS:", "VmHWM:"].map(|key| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    })
}

/// `STRONGROOM_BACKUPS=1000 STRONGROOM_FILES=100000` says how many, `--nocapture` shows the figures.
#[test]
fn a_thousand_backups_have_one_tree_of_versions() {
    needs_root!("a_thousand_backups_have_one_tree_of_versions");
    let _heavy = heavy();
    let (count, files) = (wanted("STRONGROOM_BACKUPS", 60), wanted("STRONGROOM_FILES", 400));
    let daemon = Daemon::start();
    let source = daemon.source();
    // In directories of 200, of which the first half changes. What was ever in each file:
    let mut model: HashMap<String, BTreeSet<String>> = HashMap::new();
    let mut write = |at: usize, text: String| {
        let path = format!("d{}/{}", at / 200, at % 200);
        std::fs::write(source.join(&path), &text).unwrap();
        model.entry(path).or_default().insert(text);
    };
    for at in 0..files {
        if at % 200 == 0 {
            std::fs::create_dir(source.join(format!("d{}", at / 200))).unwrap();
        }
        write(at, format!("at first {at}"));
    }
    daemon.add("tree", &source);
    let growth = |when: &str| {
        let mount = memory(daemon.browse_pid().unwrap());
        println!("{when}: MB now and at most, daemon {:?}, mount {mount:?}", memory(daemon.pid()));
        assert!(mount[1] < 160, "{mount:?}");
    };
    for i in 0..count {
        if i > 0 {
            write(7, format!("{i}\n"));
            write(10 + i * 37 % (files / 2 - 10), format!("then {i}\n"));
        }
        let made = daemon.ok("CreateBackup sa{sv} tree 1 backup_type s automatic");
        daemon.wait(number(&made["job"]));
        if i == count / 3 || i == count - 1 {
            growth(&format!("after {} backups", i + 1));
        }
    }
    let below = daemon.path("browse/versions/default/tree").join(source.strip_prefix("/").unwrap());
    let time = |script: &str| {
        let since = Instant::now();
        let told = sh(&below, script);
        println!("{script}: {:.0} ms", since.elapsed().as_secs_f64() * 1e3);
        told
    };
    let of = |path: &str| model[path].len();
    for _ in ["cold", "warm"] {
        assert_eq!(time("ls d0/7 | wc -l"), format!("{}\n", of("d0/7")));
    }
    assert_eq!(time("cat d0/7/* | grep -v first | sort -n | tail -n 1"), format!("{}\n", count - 1));
    assert_eq!(time("ls d1 | wc -l; ls d1/9 | wc -l"), "200\n1\n");
    assert_eq!(time("ls | wc -l"), format!("{}\n", files / 200));
    growth("after some listings");
    let ask = |line: &str| {
        let since = Instant::now();
        let told = daemon.ok(line)[0].as_u64().unwrap();
        println!("{line}: {:.0} ms", since.elapsed().as_secs_f64() * 1e3);
        usize::try_from(told).unwrap()
    };
    let shown = source.display();
    for _ in ["cold", "warm"] {
        // A version in the mount is a content, in a list it also has its time.
        assert!(ask(&format!("ListVersions ssa{{sv}} tree {shown}/d0/7 1 page_size u 1000")) >= of("d0/7"));
        assert_eq!(ask(&format!("ListVersions ssa{{sv}} tree {shown}/d1/9 0")), 1);
        assert!(ask("FindFiles ssa{sv} tree 7 1 page_size u 1000") >= of("d0/7") + files / 200 - 1);
        assert_eq!(ask("FindFiles ssa{sv} tree *.conf 0"), 0);
    }
    growth("after some answers");
    let all: usize = model.values().map(BTreeSet::len).sum();
    assert_eq!(time("find . -type f | wc -l"), format!("{all}\n"));
    growth("after find");
}
