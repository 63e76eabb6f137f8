//! Attacks, accidents and bad requests.

use std::os::unix::fs::MetadataExt;

use super::export::damage;
use super::*;
use crate::model::ErrorKind;
use crate::restore::journal::Journal;
use crate::restore::{check, recover};

/// A file system of some megabytes, unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(world: &World, kind: &str, options: &str) -> Self {
        let path = world.dir.path().join("mounted");
        std::fs::create_dir(&path).unwrap();
        sh(world.dir.path(), &format!("mount -t {kind} -o {options} none mounted"));
        Self(path)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().unwrap();
    }
}

#[test]
fn symbolic_links_are_never_followed() {
    let world = World::new();
    sh(&world.source(), "mkdir -p top/dir; echo new > top/dir/file; echo new > top/file");
    let manifest = world.backup();
    let outside = world.dir.path().join("outside");
    sh(world.dir.path(), "mkdir outside; echo safe > outside/file; echo safe > outside/victim");
    sh(&world.source(), "rm -r top/dir; ln -s ../../outside top/dir; rm top/file; ln -s ../../outside/victim top/file");
    world.restore(&manifest, in_place()).unwrap();
    assert_eq!(sh(&outside, "cat file victim; ls"), "safe\nsafe\nfile\nvictim\n");
    assert_eq!(sh(&world.source(), "cat top/dir/file top/file; stat -c %F top/dir"), "new\nnew\ndirectory\n");

    // Above the resource's path nothing is replaced.
    let manifest = world.backup_of(vec![world.at("top/dir")], &[]);
    sh(&world.source(), "mv top moved; ln -s moved top; echo other > moved/dir/file");
    let outcome = world.restore(&manifest, in_place()).unwrap();
    assert_eq!(outcome.errors, 1);
    assert!(outcome.error_list[0].message.contains("symbolic link"), "{:?}", outcome.error_list);
    assert!(outcome.error_list[0].path.ends_with(b"/source/top"));
    assert_eq!(sh(&world.source(), "cat moved/dir/file"), "other\n");

    // Nor in a target.
    let target = world.dir.path().join("target");
    let there = world.beneath(&target);
    std::fs::create_dir_all(there.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(&outside, &there).unwrap();
    let outcome = world.restore(&manifest, to(&target)).unwrap();
    assert_eq!(outcome.errors, 1);
    assert_eq!(sh(&outside, "ls"), "file\nvictim\n");
}

#[test]
fn a_hard_linked_file_is_replaced_and_not_written_through() {
    let world = World::new();
    sh(&world.source(), "echo old > file");
    let manifest = world.backup();
    sh(world.dir.path(), "ln source/file twin; echo changed > source/file");
    world.restore(&manifest, in_place()).unwrap();
    assert_eq!(sh(world.dir.path(), "cat source/file twin"), "old\nchanged\n");
}

#[test]
fn a_full_disk_is_named_and_leaves_whole_files_only() {
    let world = World::new();
    sh(
        &world.source(),
        "for i in $(seq 40); do head -c 1000000 /dev/urandom > $i; done; head -c 30000000 /dev/urandom > z",
    );
    let manifest = world.backup();
    let disk = Mounted::new(&world, "tmpfs", "size=12M");
    let error = world.restore(&manifest, to(&disk.0)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NoSpace, "{error}");
    assert!(error.message.contains("/source/"), "{error}");
    let there = world.beneath(&disk.0);
    let names = sh(&there, "ls -A");
    assert!(!names.contains(".strongroom"), "{names}");
    for name in names.lines() {
        let same = std::fs::read(there.join(name)).unwrap() == std::fs::read(world.at(name)).unwrap();
        assert!(same, "{name} is not whole");
    }
}

#[test]
fn damaged_data_is_named_and_the_rest_restored() {
    let world = World::new();
    sh(&world.source(), "for i in $(seq 60); do head -c 1000000 /dev/urandom > $i; done; echo small > small");
    let manifest = world.backup();
    damage(&world);
    let (restored, outcome) = world.restore_to(&manifest, "target");
    assert!(outcome.errors > 0 && outcome.errors < 30, "{outcome:?}");
    assert!(outcome.error_list.iter().all(|e| e.code == "damaged"), "{:?}", outcome.error_list);
    let missing: Vec<_> = outcome.error_list.iter().map(|e| String::from_utf8(e.path.clone()).unwrap()).collect();
    assert_eq!(missing.len() + std::fs::read_dir(&restored).unwrap().count(), 61, "{missing:?}");
    for entry in std::fs::read_dir(&restored).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(std::fs::read(restored.join(&name)).unwrap() == std::fs::read(world.source().join(&name)).unwrap());
    }
    let target = world.dir.path().join("target2");
    let error = world.restore(&manifest, RestoreRequest { on_error: OnError::FastFail, ..to(&target) }).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Damaged);
    assert!(error.message.contains("/source/"), "{error}");
}

#[test]
fn a_cancelled_restore_leaves_whole_files_only() {
    let world = World::new();
    sh(
        &world.source(),
        "for i in $(seq 300); do head -c 300000 /dev/urandom > $i; done; head -c 60000000 /dev/urandom > z",
    );
    let manifest = world.backup();
    sh(&world.source(), "for i in $(seq 2 2 300); do echo changed > $i; done");
    for target in [Some(world.dir.path().join("target")), None] {
        let progress = Progress::default();
        let request = match &target {
            Some(target) => to(target),
            None => in_place(),
        };
        let result = std::thread::scope(|scope| {
            scope.spawn(|| {
                while progress.bytes_done.load(std::sync::atomic::Ordering::Relaxed) < 20_000_000 {
                    std::thread::yield_now();
                }
                progress.cancel();
            });
            super::super::run(&world.vault, &manifest, &request, &progress)
        });
        assert_eq!(result.unwrap_err().kind, ErrorKind::Cancelled);
        let there = target.map_or(world.source(), |target| world.beneath(&target));
        assert_eq!(sh(world.dir.path(), "find target source -name '.strongroom*' 2>/dev/null || true"), "");
        let sizes = sh(&there, "stat -c %s * | sort -u");
        assert!(sizes.lines().all(|s| ["300000", "8", "60000000"].contains(&s)), "{sizes}");
    }
}

#[test]
fn leftovers_of_a_crash_are_removed() {
    let world = World::new();
    sh(&world.source(), "mkdir -p d/e; touch d/e/.strongroom-0123456789abcdef-7 d/e/.strongroom-other-1 d/e/file");
    let journal = world.dir.path().join("journal");
    let root = world.source();
    let journal_of = Journal::new(&journal, &root, ".strongroom-0123456789abcdef-", true);
    journal_of.announce([b"/d/e".to_vec(), b"/gone".to_vec()].iter(), &[]).unwrap();
    sh(&root, "ln -s / gone");
    recover(&journal).unwrap();
    assert_eq!(sh(&root, "ls -A d/e"), ".strongroom-other-1\nfile\n");
    assert!(!journal.exists());
    recover(&journal).unwrap();
    std::fs::write(&journal, "nonsense").unwrap();
    assert_eq!(recover(&journal).unwrap_err().kind, ErrorKind::Damaged);
}

#[test]
fn bad_requests_are_refused_before_anything_is_done() {
    let world = World::new();
    sh(&world.source(), "echo a > a");
    let manifest = world.backup();
    let dir = world.dir.path();
    sh(dir, "touch file; mkdir own; ln -s own link");
    let read_only = Mounted::new(&world, "tmpfs", "ro");
    let refused = |request: RestoreRequest, kind: ErrorKind, words: &str| {
        let before = sh(dir, "ls -R | sort");
        for error in [check(&world.vault, &manifest, &request), world.restore(&manifest, request.clone()).map(|_| ())] {
            let error = error.unwrap_err();
            assert_eq!(error.kind, kind, "{error}");
            assert!(error.message.contains(words), "{error}");
        }
        assert_eq!(before, sh(dir, "ls -R | sort"));
    };
    let never = vec![dir.join("own")];
    refused(to(Path::new("relative")), ErrorKind::InvalidArgument, "relative");
    refused(to(Path::new("")), ErrorKind::InvalidArgument, "absolute");
    refused(to(&dir.join("x/../y")), ErrorKind::InvalidArgument, "..");
    refused(to(&dir.join("file")), ErrorKind::InvalidArgument, "is a file");
    refused(to(&dir.join("file/beneath")), ErrorKind::InvalidArgument, "is a file");
    refused(to(&dir.join("link/beneath")), ErrorKind::InvalidArgument, "symbolic link");
    refused(to(&dir.join("n".repeat(256))), ErrorKind::InvalidArgument, "255");
    refused(to(&read_only.0.join("x")), ErrorKind::InvalidArgument, "read-only");
    refused(RestoreRequest { never, ..to(&dir.join("own/sub")) }, ErrorKind::InvalidArgument, "own");
    let paths = vec![PathBuf::from("a")];
    refused(RestoreRequest { paths, ..to(&dir.join("t")) }, ErrorKind::InvalidArgument, "\"a\"");
    let paths = vec![world.at("a"), world.at("missing")];
    refused(RestoreRequest { paths, ..to(&dir.join("t")) }, ErrorKind::NotFound, "/source/missing");
    let paths = vec![world.at("a/b")];
    refused(RestoreRequest { paths, ..to(&dir.join("t")) }, ErrorKind::NotFound, "/source/a/b");
    let skip = RestoreRequest { conflict: Conflict::Skip, ..in_place() };
    refused(skip, ErrorKind::InvalidArgument, "skip");
    check(&world.vault, &manifest, &to(&dir.join("new/deep"))).unwrap();
    assert!(!dir.join("new").exists());
    world.restore(&manifest, to(&dir.join("new/deep"))).unwrap();
    assert_eq!(dir.join("new").metadata().unwrap().mode() & 0o777, 0o700);
}

#[test]
fn what_a_file_system_cannot_hold_is_listed() {
    let world = World::new();
    sh(
        &world.source(),
        "echo a > a; chattr +d a; echo b > b; setfattr -n user.x -v y b; setfacl -m u:7:r b; chmod 640 b",
    );
    let manifest = world.backup();
    let disk = Mounted::new(&world, "ramfs", "mode=755");
    let fast = world.restore(&manifest, RestoreRequest { on_error: OnError::FastFail, ..to(&disk.0) });
    let outcome = world.restore(&manifest, to(&disk.0)).unwrap();
    assert!(!outcome.error_list.is_empty(), "ramfs took everything");
    assert!(outcome.error_list.iter().all(|e| e.code == "unsupported"), "{:?}", outcome.error_list);
    assert!(fast.is_err());
    assert_eq!(sh(&world.beneath(&disk.0), "cat a b"), "a\nb\n");
}
