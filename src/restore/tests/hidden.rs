//! New directories, which have temporary names while files are restored into them.

use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::*;
use crate::restore::dir::Dir;
use crate::restore::hidden::Hidden;
use crate::restore::job::{Job, open_root};
use crate::restore::journal::Journal;
use crate::restore::recover;

#[test]
fn a_new_directory_has_its_name_when_all_in_it_is_whole() {
    let world = World::new();
    sh(
        &world.source(),
        "mkdir -p new/empty; cd new; for i in $(seq 1500); do echo $i > $i; done; ln -s 1 link; mkfifo pipe; ln 7 seven; \
         for i in $(seq 300); do mkdir d; cd d; echo $i > file; done",
    );
    let manifest = world.backup();
    let target = world.dir.path().join("target");
    let new = world.beneath(&target).join("new");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let seen = scope.spawn(|| {
            let mut least = usize::MAX;
            loop {
                let last = done.load(Relaxed);
                if let Ok(entries) = std::fs::read_dir(&new) {
                    // Later names of what is linked come after.
                    let files =
                        entries.flatten().filter(|e| !e.file_type().unwrap().is_dir() && e.file_name() != "seven");
                    least = least.min(files.count());
                }
                if last {
                    return least;
                }
            }
        });
        world.restore(&manifest, to(&target)).unwrap();
        done.store(true, Relaxed);
        assert_eq!(seen.join().unwrap(), 1502, "it was there before its files were");
    });
    assert_eq!(sh(&world.source(), "rsync -nacHAXi --delete ./ ../target\"$PWD\"/"), "");
    assert!(!target.with_extension("journal").exists());
}

#[test]
fn what_is_removed_from_a_target_is_not_what_is_new_in_it() {
    let world = World::new();
    sh(&world.source(), "mkdir old; echo a > old/a");
    let first = world.backup();
    let target = world.dir.path().join("target");
    world.restore(&first, to(&target)).unwrap();
    sh(&world.source(), "mkdir -p new/deep old/new; echo b > new/b; echo c > new/deep/c; echo d > old/new/d; rm old/a");
    let second = world.backup();
    let outcome = world.restore(&second, RestoreRequest { delete: true, ..to(&target) }).unwrap();
    assert_eq!((outcome.errors, outcome.removed), (0, 1), "{:?}", outcome.error_list);
    assert_eq!(sh(&world.source(), "rsync -nacHAXi --delete ./ ../target\"$PWD\"/"), "");
}

#[test]
fn what_a_crash_leaves_of_new_directories_goes() {
    let world = World::new();
    let (root, journal) = (world.source(), world.dir.path().join("journal"));
    sh(
        &root,
        "mkdir -p d/.strongroom-0123456789abcdef-7/sub d/.strongroom-0123456789abcdef-8 d/.strongroom-0123456789abcdef-9 \
         d/.strongroom-other-1 outside; touch d/.strongroom-0123456789abcdef-9/theirs; cd d/.strongroom-0123456789abcdef-7; \
         echo x > ../../outside/kept; ln -s ../../outside link; ln -s /etc sub/etc; mkfifo pipe; echo y > sub/fixed; \
         chattr +i sub/fixed; for i in $(seq 200); do mkdir deep; cd deep; done",
    );
    let journal_of = Journal::new(&journal, &root, ".strongroom-0123456789abcdef-", false);
    let mut named = crate::restore::hidden::Named::default();
    journal_of.also(b"/gone", &named).unwrap();
    journal_of.also(b"/d", &named).unwrap();
    let inode = root.join("d/.strongroom-0123456789abcdef-7").metadata().unwrap().ino();
    journal_of.made(inode, &named).unwrap();
    named.inodes.push(inode);
    recover(&journal).unwrap();
    // What was made and not written down is empty; what is not is somebody else's.
    let left =
        "./d/.strongroom-0123456789abcdef-9\n./d/.strongroom-0123456789abcdef-9/theirs\n./d/.strongroom-other-1\n";
    assert_eq!(sh(&root, "find ./d -mindepth 1 | sort"), left);
    assert_eq!(sh(&root, "cat outside/kept"), "x\n");
    assert!(!journal.exists());
}

/// A restore that has made `one`, `two` in it and `three` in that, each with a file.
fn with_three(world: &World, check: impl FnOnce(Job<'_>, Hidden, [Arc<Dir>; 3], &Path)) {
    sh(&world.source(), "mkdir d; echo a > d/a");
    let manifest = world.backup();
    let target = world.dir.path().join("target");
    let request = to(&target);
    let progress = Progress::default();
    let (root, made) = open_root(&target, true).unwrap();
    let job = Job::new(&world.vault, &manifest, &request, &progress, Dir::root(root, made).unwrap()).unwrap();
    let journal = Journal::new(&target.with_extension("journal"), &target, &job.prefix, false);
    let mut hidden = Hidden::default();
    let one = hidden.make(&job, Some(&journal), &job.root, b"one").unwrap();
    let two = hidden.make(&job, Some(&journal), &one, b"two").unwrap();
    let three = hidden.make(&job, Some(&journal), &two, b"three").unwrap();
    assert!(one.is_hidden() && two.is_hidden() && three.is_hidden() && !target.join("one").exists());
    sh(&target, "find . -mindepth 1 -type d -exec touch {}/ours ';'");
    check(job, hidden, [one, two, three], &target);
}

#[test]
fn wherever_a_crash_comes_between_the_names_all_of_it_goes() {
    for named in 0..3 {
        let world = World::new();
        with_three(&world, |job, _, dirs, target| {
            for dir in dirs.iter().rev().take(named) {
                assert!(dir.reveal(&job.handles).unwrap());
            }
            recover(&target.with_extension("journal")).unwrap();
            assert_eq!(sh(target, "find . -mindepth 1"), "", "{named} had their names");
        });
    }
}

#[test]
fn a_name_that_somebody_took_meanwhile_stays_theirs() {
    let world = World::new();
    with_three(&world, |job, mut hidden, dirs, target| {
        sh(target, "mkdir one; echo theirs > one/file");
        hidden.reveal(&job).unwrap();
        assert_eq!(sh(target, "find . | sort; cat one/file"), ".\n./one\n./one/file\ntheirs\n");
        assert!(dirs[0].is_hidden() && !job.left.load(Relaxed));
        let outcome = job.tally.outcome();
        assert_eq!(outcome.errors, 1, "{:?}", outcome.error_list);
    });
}

#[test]
fn what_somebody_put_in_the_place_of_a_new_directory_stays() {
    let world = World::new();
    with_three(&world, |job, mut hidden, _, target| {
        sh(target, "mv .strongroom-* away; mkdir one theirs; touch theirs/file");
        let name = String::from_utf8(job.temporary()).unwrap();
        let taken = format!("{}0", &name[..name.rfind('-').unwrap() + 1]);
        sh(target, &format!("mv theirs {taken}"));
        // The innermost is opened through a handle that is still right.
        let _ = hidden.reveal(&job);
        assert_eq!(sh(target, &format!("ls {taken}")), "file\n");
        recover(&target.with_extension("journal")).unwrap();
        assert_eq!(sh(target, &format!("ls {taken}")), "file\n");
    });
}

#[test]
fn what_is_not_whole_never_has_its_name() {
    let world = World::new();
    with_three(&world, |job, mut hidden, dirs, target| {
        dirs[1].spoil();
        hidden.reveal(&job).unwrap();
        assert_eq!(sh(target, "find . | sort"), ".\n./one\n./one/ours\n");
        assert!(job.tally.outcome().error_list[0].message.contains("not whole"));
    });
}
