//! Restores over a live tree.

use std::os::unix::fs::MetadataExt;

use super::metadata::{diff, everything, thaw};
use super::*;
use crate::model::Id;
use crate::vault::tree::{Kind, Origin, Totals};

#[test]
fn what_is_as_in_the_backup_is_left_alone() {
    let world = World::new();
    everything(&world);
    let manifest = world.backup();
    let ctimes = "find . ! -name frozen -printf '%p %i %C@\\n' | sort";
    let before = portrait(&world.source());
    let ctime = sh(&world.source(), ctimes);
    let dry = world.restore(&manifest, RestoreRequest { dry_run: true, ..in_place() }).unwrap();
    assert_eq!(sh(&world.source(), ctimes), ctime, "a dry run changed something");
    let outcome = world.restore(&manifest, in_place()).unwrap();
    let after = (portrait(&world.source()), sh(&world.source(), "find . -name .strongroom\\*"));
    let changed = diff(&world, &ctime, &sh(&world.source(), ctimes));
    thaw(&world);
    assert_eq!(outcome.error_list, []);
    assert!(before == after.0, "{}", diff(&world, &before, &after.0));
    assert_eq!(after.1, "");
    for outcome in [dry, outcome] {
        assert_eq!((outcome.files, outcome.unchanged), (0, manifest.totals.entries), "{changed}");
        assert_eq!((outcome.removed, outcome.skipped, outcome.bytes), (0, 0, 0));
    }
    // Only the immutable directory was touched, since it had to be opened for changes.
    assert_eq!(changed, "");
}

#[test]
fn a_wrecked_tree_becomes_the_backup_again() {
    let world = World::new();
    everything(&world);
    let before = portrait(&world.source());
    let manifest = world.backup();
    sh(
        &world.source(),
        r#"
        chattr -R -ia . 2>/dev/null || true
        echo other > plain; echo same-size > nothing; rm -r dir; echo 'now a file' > dir
        rm fifo; mkdir -p fifo/with/things; echo t > fifo/with/things/t; rm link; mkdir link
        rm acls/child; rmdir acls; ln -s /etc acls
        cp -p large l; rm large; (tr '\0-\377' '\1-\377\0' < l) > large; touch -r l large
        touch huge; setfattr -n user.extra -v x xattrs; setfacl -m u:9:r acl; chmod 600 setuid; chown 9 capable
        chown 9 setuid2; chmod 6755 setuid2; chown 9 capable2
        setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 capable2
        rm hard1; echo alone > hard1; rm hard2; ln xattrs hard2; printf x | dd of=hollow bs=1 seek=5000000 conv=notrunc status=none
        mkdir -p extra/deep; touch extra/deep/file extra-file; chattr +i extra-file extra
        chattr +i nodump; rm null; mknod null c 1 5; echo more >> append; chattr +a append
        "#,
    );
    let dry = world.restore(&manifest, RestoreRequest { dry_run: true, ..in_place() }).unwrap();
    let outcome = world.restore(&manifest, in_place()).unwrap();
    let after = portrait(&world.source());
    thaw(&world);
    assert_eq!(outcome.error_list, []);
    assert!(before == after, "{}", diff(&world, &before, &after));
    // l, extra, extra/deep, extra/deep/file, extra-file
    assert_eq!((outcome.removed, dry.removed), (5, 5));
    assert_eq!((dry.files, dry.unchanged), (outcome.files, outcome.unchanged));
}

#[test]
fn an_equal_time_and_size_do_not_hide_other_content() {
    let world = World::new();
    sh(&world.source(), "echo good > file; truncate -s 1M hole; touch -d @1000 file hole");
    let manifest = world.backup();
    sh(
        &world.source(),
        "echo evil > file; printf x | dd of=hole bs=1 seek=70000 conv=notrunc status=none; touch -d @1000 file hole",
    );
    let outcome = world.restore(&manifest, in_place()).unwrap();
    assert_eq!(outcome.files, 3 - 1, "{outcome:?}");
    assert_eq!(sh(&world.source(), "cat file; tr -d '\\0' < hole"), "good\n");
}

#[test]
fn deletes_only_what_the_backup_would_have_held() {
    let world = World::new();
    sh(&world.source(), "mkdir -p keep sub mnt own; echo k > keep/k; echo s > sub/s");
    let manifest = world.backup_without(&["*.cache", "/**/left/", "!important.cache"]);
    sh(
        &world.source(),
        r#"
        echo x > a.cache; echo x > important.cache; mkdir -p new/left/x new/gone; echo x > new/left/x/file; echo x > new/gone/file
        mkdir build; printf 'Signature: 8a477f597d28d172789f06886806bc55\n' > build/CACHEDIR.TAG; echo o > build/object
        mkdir -p new2/mounted; mount -t tmpfs none new2/mounted; echo m > new2/mounted/file
        mount -t tmpfs none mnt; echo m > mnt/file; echo o > own/mine; mkdir -p new3/own2; echo o > new3/own2/mine; echo x > sub/x
        "#,
    );
    let never = vec![world.at("own"), world.at("new3/own2"), world.at("missing")];
    let outcome = world.restore(&manifest, RestoreRequest { never, ..in_place() });
    let left = sh(&world.source(), "find . -type f | sort; mountpoint -q mnt");
    sh(&world.source(), "umount new2/mounted mnt");
    let outcome = outcome.unwrap();
    assert_eq!(
        left,
        "./a.cache\n./build/CACHEDIR.TAG\n./build/object\n./keep/k\n./mnt/file\n./new/left/x/file\n\
         ./new2/mounted/file\n./new3/own2/mine\n./own/mine\n./sub/s\n"
    );
    assert_eq!(outcome.error_list, []);
    // important.cache, new/gone, new/gone/file, sub/x
    assert_eq!(outcome.removed, 4);
}

#[test]
fn what_could_not_be_read_is_not_removed() {
    let world = World::new();
    sh(&world.source(), "echo a > a; mkdir d");
    let mut manifest = world.backup();
    manifest.root = world.with_entry(&manifest.root, b"unread", Kind::Unread);
    manifest.totals.entries += 1;
    sh(&world.source(), "echo precious > unread; echo extra > extra; rm a");
    let outcome = world.restore(&manifest, in_place()).unwrap();
    assert_eq!(sh(&world.source(), "cat a unread; ls"), "a\nprecious\na\nd\nunread\n");
    assert_eq!((outcome.removed, outcome.errors, outcome.error_list[0].code.as_str()), (1, 1, "unreadable"));

    let mut manifest = world.backup();
    manifest.partial = true;
    let error = world.restore(&manifest, in_place()).unwrap_err();
    assert!(error.message.contains("partial"), "{error}");
}

#[test]
fn skip_keeps_what_exists() {
    let world = World::new();
    sh(&world.source(), "mkdir d e; echo old > d/a; echo old > b; echo old > e/x; touch -d @7 e/x; ln e/x e/y");
    let manifest = world.backup();
    sh(&world.source(), "echo new > d/a; rm b; chmod 700 d; rmdir e 2>/dev/null || rm -r e; echo file > e");
    let outcome = world.restore(&manifest, RestoreRequest { conflict: Conflict::Skip, ..RestoreRequest::default() });
    let outcome = outcome.unwrap();
    assert_eq!(sh(&world.source(), "cat d/a b e; stat -c %a d"), "new\nold\nfile\n700\n");
    assert_eq!((outcome.skipped, outcome.files), (2, 1), "{outcome:?}");

    sh(&world.source(), "rm e; mkdir e; echo oth > e/x; touch -d @7 e/x");
    let outcome = world.restore(&manifest, RestoreRequest { conflict: Conflict::Skip, ..RestoreRequest::default() });
    assert_eq!(outcome.unwrap().error_list, []);
    assert_eq!(sh(&world.source(), "cat e/x e/y"), "oth\nold\n", "linked to what was skipped");
}

#[test]
fn chosen_paths_only() {
    let world = World::new();
    sh(
        &world.source(),
        "mkdir -p a/b c; echo 1 > a/b/1; echo 2 > a/2; echo 3 > c/3; ln a/b/1 c/link; chmod 751 a; touch -d @5 a",
    );
    let manifest = world.backup();
    let target = world.dir.path().join("target");
    let paths = vec![world.at("a/2"), world.at("c")];
    let outcome = world.restore(&manifest, RestoreRequest { paths, ..to(&target) }).unwrap();
    let there = world.beneath(&target);
    assert_eq!(
        sh(&there, "find . -type f | sort; stat -c '%a %Y' a; cat c/link"),
        "./a/2\n./c/3\n./c/link\n751 5\n1\n"
    );
    assert_eq!(outcome.error_list, []);
    let link = vec![world.at("a/b")];
    world.restore(&manifest, RestoreRequest { paths: link, ..to(&target) }).unwrap();

    sh(&world.source(), "rm a/2; echo changed > c/3; chmod 700 a");
    let paths = vec![world.at("a/2")];
    world.restore(&manifest, RestoreRequest { paths, ..in_place() }).unwrap();
    assert_eq!(sh(&world.source(), "cat a/2 c/3; stat -c %a a"), "2\nchanged\n700\n");
}

#[test]
fn a_hard_link_to_someone_elses_file_gains_nothing() {
    let world = World::new();
    sh(&world.source(), "echo mine > file; chown 1000:1000 file; chmod 644 file");
    let manifest = world.backup();
    let other = world.dir.path().join("other");
    sh(
        world.dir.path(),
        "echo mine > other; chmod 600 other; touch -r source/file other; rm source/file; ln other source/file",
    );
    world.restore(&manifest, in_place()).unwrap();
    assert_eq!((other.metadata().unwrap().uid(), other.metadata().unwrap().mode() & 0o777), (0, 0o600));
    assert_eq!(world.at("file").metadata().unwrap().uid(), 1000);
}

#[test]
fn a_directory_whose_entries_are_lost_loses_nothing_more() {
    let world = World::new();
    sh(&world.source(), "mkdir lost; echo a > a");
    let mut manifest = world.backup();
    sh(&world.source(), "echo precious > lost/file; rm a");
    let node = Id::of(b"a node that the vault does not hold");
    let lost = Kind::Directory { node, totals: Totals::default(), origin: Origin::Read };
    manifest.root = world.with_entry(&manifest.root, b"lost", lost);
    let outcome = world.restore(&manifest, in_place()).unwrap();
    assert_eq!(sh(&world.source(), "cat a lost/file"), "a\nprecious\n");
    assert_eq!((outcome.errors, outcome.error_list[0].code.as_str()), (1, "damaged"), "{outcome:?}");
}
