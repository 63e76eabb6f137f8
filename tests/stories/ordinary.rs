//! "I got my file back myself": ordinary users at the mount, each with their own files and nobody else's.

use std::path::Path;

use crate::common::{Daemon, differences, sh, sh_fails};
use crate::needs_root;

/// Alice and Bob, whom the machine need not know.
const ALICE: &str = "setpriv --reuid 12345 --regid 12345 --clear-groups --inh-caps=-all";
const BOB: &str = "setpriv --reuid 23456 --regid 23456 --clear-groups --inh-caps=-all";
/// A user of every machine.
const NOBODY: &str = "setpriv --reuid nobody --regid 65534 --clear-groups --inh-caps=-all";

/// Homes of Alice and Bob, with what `cp -a` has to keep.
fn homes(source: &Path) {
    sh(
        source,
        r#"
        chmod 755 .; mkdir -m 711 alice; mkdir -m 700 bob; echo bobs > bob/note
        cd alice
        echo first > note; chmod 600 note; touch -d '2001-02-03 04:05:06.123456789' note
        setfattr -n user.colour -v red note; setfattr -n trusted.hidden -v 1 note
        truncate -s 8M holes; printf x | dd of=holes bs=1 seek=5000000 conv=notrunc status=none
        mkdir letters; echo 'dear Bob' > letters/to-bob; chmod 600 letters/to-bob; setfacl -m u:23456:r letters/to-bob
        setfacl -m u:23456:rx letters; setfacl -d -m u:23456:r letters; setfattr -n user.box -v full letters
        ln -s letters/to-bob link; ln note hard; mkdir -m 700 private; echo deep > private/deep
        chown -R -h 12345:12345 .; chown -R 23456:23456 ../bob; touch -d '1999-09-09 09:09:09.5' letters
        "#,
    );
}

/// Somewhere on the same file system to copy to, which everybody may write.
fn place(daemon: &Daemon) -> std::path::PathBuf {
    sh(daemon.dir(), "mkdir -p -m 777 back; chmod 777 back");
    daemon.path("back")
}

#[test]
fn ordinary_users_restore_their_own_files_and_see_no_others() {
    needs_root!("ordinary_users_restore_their_own_files_and_see_no_others");
    let mut daemon = Daemon::start();
    let source = daemon.source();
    homes(&source);
    daemon.ok(&format!("AddResource sa{{sv}} homes 2 paths as 1 {} browse s strict", source.display()));
    let id = daemon.back_up("homes")["id"].as_u64().unwrap();
    let seen = daemon.browse(id).join(source.strip_prefix("/").unwrap());
    let back = place(&daemon);
    let seen = seen.display();
    let denied = |who: &str, script: &str| {
        let told = sh_fails(&back, &format!("{who} bash -euc '{script}'"));
        assert!(told.contains("ermission denied"), "{who} {script}: {told}");
    };

    // Alice, all that is hers: attributes, ACLs, times, links and holes as they were.
    sh(&back, &format!("{ALICE} cp -a {seen}/alice alice"));
    sh(&source, "setfattr -x trusted.hidden alice/note");
    assert_eq!(differences(&source.join("alice"), &back.join("alice")), "");
    assert_eq!(differences(&back.join("alice"), &source.join("alice")), "");
    assert_eq!(sh(&back, "getfattr --only-values -n user.colour alice/note"), "red");
    assert!(sh(&back, "getfacl -c alice/letters").contains("default:user:23456:r--"));
    assert!(sh(&back, "stat -c %b alice/holes").trim().parse::<u64>().unwrap() < 100, "the holes are holes again");
    // What is root's to know she is not told.
    let named = |who: &str| sh(&back, &format!("{who} getfattr --absolute-names -d -m - {seen}/alice/note"));
    assert!(named("").contains("trusted.hidden") && named(ALICE).contains("user.colour"));
    assert!(!named(ALICE).contains("trusted.hidden"), "{}", named(ALICE));
    // What is Bob's she cannot read, nor he what is hers but for what she gave him.
    for closed in ["ls SEEN/bob", "cat SEEN/bob/note", "cp -a SEEN/bob ."] {
        denied(ALICE, &closed.replace("SEEN", &seen.to_string()));
    }
    for closed in ["ls SEEN/alice", "cat SEEN/alice/note", "cat SEEN/alice/hard", "ls SEEN/alice/private"] {
        denied(BOB, &closed.replace("SEEN", &seen.to_string()));
    }
    denied(BOB, &format!("cat {seen}/alice/private/deep"));
    assert_eq!(sh(&back, &format!("{BOB} cat {seen}/alice/letters/to-bob {seen}/bob/note")), "dear Bob\nbobs\n");
    denied(NOBODY, &format!("cat {seen}/alice/letters/to-bob"));
    // Nothing can be changed there, also by whom it belongs to.
    assert!(sh_fails(&back, &format!("{ALICE} bash -c 'echo > {seen}/alice/note'")).contains("Read-only"));

    // An older version of a file that was changed since, from beside it.
    sh(&source, "echo second > alice/note");
    let id = daemon.back_up("homes")["id"].as_u64().unwrap();
    let seen = daemon.browse(id).join(source.strip_prefix("/").unwrap());
    let seen = seen.display();
    sh(&back, &format!("{ALICE} bash -euc 'cp -a {seen}/alice/.versions/note/*-1 older'"));
    assert_eq!(sh(&back, "cat older; stat -c '%u %a' older"), "first\n12345 600\n");
    denied(BOB, &format!("cat {seen}/alice/.versions/note/*"));
    daemon.assert_well();
}

#[test]
fn the_user_whom_a_backup_is_for_restores_all_of_it_and_nobody_else() {
    needs_root!("the_user_whom_a_backup_is_for_restores_all_of_it_and_nobody_else");
    let mut daemon = Daemon::start();
    let source = daemon.source();
    homes(&source);
    daemon.ok(&format!("AddResource sa{{sv}} homes 2 paths as 1 {} browse s owner=nobody", source.display()));
    let id = daemon.back_up("homes")["id"].as_u64().unwrap();
    let seen = daemon.browse(id).join(source.strip_prefix("/").unwrap());
    let back = place(&daemon);
    sh(&back, &format!("{NOBODY} cp -a {}/. all", seen.display()));
    // It is another's now: all else is as it was.
    assert_eq!(sh(&back, "find all ! -user nobody | wc -l"), "0\n");
    sh(&source, "setfattr -x trusted.hidden alice/note; chown -R -h nobody:65534 .");
    sh(&back, "chown -h -R nobody:65534 all");
    assert_eq!(differences(&source, &back.join("all")), "");
    assert_eq!(differences(&back.join("all"), &source), "");
    assert!(sh(&back, "stat -c %b all/alice/holes").trim().parse::<u64>().unwrap() < 100, "the holes are holes again");
    // Not even those whose files they were.
    let home = daemon.path("browse/resources/default/homes");
    for (who, path) in [(ALICE, "alice/note"), (BOB, "bob/note"), (BOB, "alice/letters/to-bob")] {
        let told = sh_fails(&back, &format!("{who} cat {}", seen.join(path).display()));
        assert!(told.contains("ermission denied"), "{told}");
        assert!(sh_fails(&back, &format!("{who} ls {}", home.display())).contains("ermission denied"));
    }
    daemon.assert_well();
}
