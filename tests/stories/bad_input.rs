//! "I made a mistake, and it told me which": the named error, nothing changed, the daemon well.

use crate::common::{Daemon, Disk, Failure, random_files, sh};
use crate::needs_root;

const INVALID: &str = "org.strongroom1.Error.InvalidArgument";
const NOT_FOUND: &str = "org.strongroom1.Error.NotFound";
const EXISTS: &str = "org.strongroom1.Error.AlreadyExists";
const NOT_CONFIRMED: &str = "org.strongroom1.Error.NotConfirmed";
const STATE: &str = "org.strongroom1.Error.InvalidState";
const LIMIT: &str = "org.strongroom1.Error.LimitReached";
const SIGNATURE: &str = "org.freedesktop.DBus.Error.InvalidArgs";

/// A daemon with the resource `web`, its backup 1 and its finished job 1, and a file `plain` and
/// an empty directory `target` beside.
fn prepared() -> Daemon {
    let daemon = Daemon::start();
    sh(&daemon.source(), "echo one > file; mkdir dir; ln -s /etc out");
    sh(daemon.dir(), "echo x > plain; mkdir target");
    daemon.add("web", &daemon.source());
    daemon.back_up("web");
    daemon
}

/// The calls with what they must answer, and the word that the message must hold. `@` is the
/// story's directory, `HUGE` a name of 256 bytes, `KEY` the id of no key, `LONG` a path of more than 4096.
const CALLS: &[(&str, &str, &str)] = &[
    // Keys and types.
    ("AddResource sa{sv} new 2 paths as 1 /etc path s /etc", INVALID, "path"),
    ("AddResource sa{sv} new 1 paths s /etc", INVALID, "paths"),
    ("AddResource sa{sv} new 1 paths u 5", INVALID, "paths"),
    ("AddResource sa{sv} new 2 paths as 1 /etc one_file_system s yes", INVALID, "one_file_system"),
    ("AddResource sa{sv} new 2 paths as 1 /etc exclude b true", INVALID, "exclude"),
    ("AddResource sa{sv} new 2 paths as 1 /etc kind s toaster", INVALID, "kind"),
    ("AddResource sa{sv} new 2 paths as 1 /etc browse s everybody", INVALID, "browse"),
    ("AddResource sa{sv} new 2 paths as 1 /etc browse s owner=nobody-of-that-name", INVALID, "browse"),
    ("AddResource sa{sv} new 2 paths as 1 /etc unit_action s explode", INVALID, "unit_action"),
    ("AddResource sa{sv} new 2 paths as 1 /etc snapshot s always", INVALID, "snapshot"),
    ("AddResource sa{sv} new 2 paths as 1 /etc units as 1 a;b", INVALID, "units"),
    ("AddResource sa{sv} new 2 paths as 1 /etc vault s nowhere", NOT_FOUND, "nowhere"),
    ("AddResource sa{sv} new 2 paths as 1 /etc project s nowhere", NOT_FOUND, "nowhere"),
    ("AddResource sas new 1 /etc", SIGNATURE, ""),
    // Paths.
    ("AddResource sa{sv} new 0", INVALID, "paths"),
    ("AddResource sa{sv} new 1 paths as 0", INVALID, "paths"),
    ("AddResource sa{sv} new 1 paths as 1 etc", INVALID, "absolute"),
    ("AddResource sa{sv} new 1 paths as 1 ./etc", INVALID, "absolute"),
    ("AddResource sa{sv} new 1 paths as 1 ''", INVALID, "paths"),
    ("AddResource sa{sv} new 1 paths as 1 /etc/../etc", INVALID, ".."),
    ("AddResource sa{sv} new 1 paths as 2 /etc /no/such/path", INVALID, "/no/such/path"),
    ("AddResource sa{sv} new 1 paths as 1 LONG", INVALID, "paths"),
    ("AddResource sa{sv} new 1 paths as 1 @/state", INVALID, "own"),
    // Names.
    ("AddResource sa{sv} '' 1 paths as 1 /etc", INVALID, "name"),
    ("AddResource sa{sv} HUGE 1 paths as 1 /etc", INVALID, "name"),
    ("AddResource sa{sv} . 1 paths as 1 /etc", INVALID, "name"),
    ("AddResource sa{sv} .. 1 paths as 1 /etc", INVALID, "name"),
    ("AddResource sa{sv} a/b 1 paths as 1 /etc", INVALID, "name"),
    ("AddResource sa{sv} -rf 1 paths as 1 /etc", INVALID, "name"),
    ("AddResource sa{sv} 42 1 paths as 1 /etc", INVALID, "name"),
    ("AddResource sa{sv} a\u{1b}[31m 1 paths as 1 /etc", INVALID, "name"),
    ("AddResource sa{sv} web 1 paths as 1 /etc", EXISTS, "web"),
    ("AddProject sa{sv} '' 0", INVALID, "name"),
    ("AddProject sa{sv} HUGE 0", INVALID, "name"),
    ("AddProject sa{sv} default 0", EXISTS, "default"),
    ("RemoveProject sa{sv} nowhere 0", NOT_FOUND, "nowhere"),
    ("UpdateResource sa{sv} web 1 name s a/b", INVALID, "name"),
    ("UpdateResource sa{sv} web 1 colour s red", INVALID, "colour"),
    ("UpdateResource sa{sv} nowhere 0", NOT_FOUND, "nowhere"),
    ("RemoveResource sa{sv} nowhere 0", NOT_FOUND, "nowhere"),
    ("GetResource s nowhere", NOT_FOUND, "nowhere"),
    ("GetResource s 99", NOT_FOUND, "99"),
    ("GetResource s ''", INVALID, "empty"),
    // Destinations and vaults.
    ("AddDestination ssa{sv} d local 0", INVALID, "directory"),
    ("AddDestination ssa{sv} d local 1 directory s relative", INVALID, "directory"),
    ("AddDestination ssa{sv} d local 1 directory s /a/../b", INVALID, ".."),
    ("AddDestination ssa{sv} d local 1 directory s /", INVALID, "directory"),
    ("AddDestination ssa{sv} d local 1 directory s @/plain", INVALID, "not a directory"),
    ("AddDestination ssa{sv} d local 1 directory s @/state/vault/packs", INVALID, "overlaps"),
    ("AddDestination ssa{sv} d tape 1 directory s /x", INVALID, "tape"),
    ("AddDestination ssa{sv} d local 2 directory s @/d max_backups s many", INVALID, "max_backups"),
    ("AddDestination ssa{sv} local local 1 directory s @/d", EXISTS, "local"),
    ("RemoveDestination sa{sv} local 0", STATE, "main"),
    ("TestDestination sa{sv} nowhere 0", NOT_FOUND, "nowhere"),
    ("AddVault sa{sv} v 0", INVALID, "destinations"),
    ("AddVault sa{sv} v 1 destinations as 1 nowhere", NOT_FOUND, "nowhere"),
    ("AddVault sa{sv} v 1 destinations as 1 local", STATE, "main"),
    ("AddVault sa{sv} v 2 destinations as 1 local compression s zstd:99", INVALID, "compression"),
    ("UpdateVault sa{sv} main 1 capacity i -5", INVALID, "capacity"),
    ("PruneVault sa{sv} main 1 dry_run u 1", INVALID, "dry_run"),
    ("VerifyVault sa{sv} nowhere 0", NOT_FOUND, "nowhere"),
    ("AddVaultKey sa{sv} main 1 kind s golden", INVALID, "kind"),
    ("RemoveVaultKey ssa{sv} main 0123 0", INVALID, "0123"),
    ("RemoveVaultKey ssa{sv} main KEY 0", NOT_FOUND, "key"),
    ("AssociateResources sas main 1 nowhere", NOT_FOUND, "nowhere"),
    ("AssociateResources sas main 0", INVALID, "resources"),
    // Backups.
    ("CreateBackup sa{sv} nowhere 0", NOT_FOUND, "nowhere"),
    ("CreateBackup sa{sv} web 1 type s half", INVALID, "type"),
    ("CreateBackup sa{sv} web 1 type s database", INVALID, "database"),
    ("CreateBackup sa{sv} web 1 vault s nowhere", NOT_FOUND, "nowhere"),
    ("CreateBackup sa{sv} web 1 incremental s yes", INVALID, "incremental"),
    ("CreateBackup sa{sv} web 1 descripton s typo", INVALID, "descripton"),
    ("CreateBackup sa{sv} web 1 description s HUGEHUGE", INVALID, "description"),
    ("GetBackup t 99", NOT_FOUND, "99"),
    ("GetBackup t 0", NOT_FOUND, "0"),
    ("GetBackup t 18446744073709551615", NOT_FOUND, "18446744073709551615"),
    ("UpdateBackup ta{sv} 1 1 protected s yes", INVALID, "protected"),
    ("UpdateBackup ta{sv} 99 0", NOT_FOUND, "99"),
    ("DeleteBackup ta{sv} 99 0", NOT_FOUND, "99"),
    ("DeleteBackup ta{sv} 1 1 force b true", INVALID, "force"),
    ("VerifyBackup ta{sv} 99 0", NOT_FOUND, "99"),
    ("ListBackupErrors ta{sv} 99 0", NOT_FOUND, "99"),
    // Restoring.
    ("RestoreBackup ta{sv} 1 0", NOT_CONFIRMED, "confirm"),
    ("RestoreBackup ta{sv} 1 1 confirm b false", NOT_CONFIRMED, "confirm"),
    ("RestoreBackup ta{sv} 1 1 confirm s true", INVALID, "confirm"),
    ("RestoreBackup ta{sv} 99 1 confirm b true", NOT_FOUND, "99"),
    ("RestoreBackup ta{sv} 1 1 target s relative", INVALID, "target"),
    ("RestoreBackup ta{sv} 1 1 target s @/../x", INVALID, ".."),
    ("RestoreBackup ta{sv} 1 1 target s @/plain", INVALID, "plain"),
    ("RestoreBackup ta{sv} 1 1 target s @/plain/beneath", INVALID, "plain"),
    ("RestoreBackup ta{sv} 1 1 target s @/state/keys", INVALID, "own"),
    ("RestoreBackup ta{sv} 1 1 target s ''", INVALID, "target"),
    ("RestoreBackup ta{sv} 1 2 target s @/target paths as 1 /no/such/path", NOT_FOUND, "/no"),
    ("RestoreBackup ta{sv} 1 2 target s @/target paths as 1 relative", INVALID, "relative"),
    ("RestoreBackup ta{sv} 1 2 target s @/target conflict_strategy s maybe", INVALID, "conflict_strategy"),
    ("RestoreBackup ta{sv} 1 2 target s @/target error_strategy s cry", INVALID, "error_strategy"),
    ("RestoreBackup ta{sv} 1 2 target s @/target atomic b true", INVALID, "atomic and target"),
    ("RestoreServer sta{sv} nowhere 1 1 confirm b true", NOT_FOUND, "nowhere"),
    ("RestoreServer sta{sv} web 1 0", NOT_CONFIRMED, "confirm"),
    ("ExportBackup ta{sv} 1 0", INVALID, "path"),
    ("ExportBackup ta{sv} 1 1 path s relative", INVALID, "path"),
    ("ExportBackup ta{sv} 1 1 path s @/plain", EXISTS, "plain"),
    ("ExportBackup ta{sv} 1 1 path s @/no/such/dir/x.tar", INVALID, "path"),
    ("ExportBackup ta{sv} 1 2 path s @/x.zip format s zip", INVALID, "format"),
    ("ExportBackup ta{sv} 99 1 path s @/x.tar", NOT_FOUND, "99"),
    // Lists and jobs.
    ("ListBackups a{sv} 1 sort as 1 shoe_size", INVALID, "shoe_size"),
    ("ListBackups a{sv} 1 page_size i 0", INVALID, "page_size"),
    ("ListBackups a{sv} 1 page_size i -1", INVALID, "page_size"),
    ("ListBackups a{sv} 1 page_size u 1001", INVALID, "page_size"),
    ("ListBackups a{sv} 1 page i 0", INVALID, "page"),
    ("ListBackups a{sv} 1 status s sleeping", INVALID, "status"),
    ("ListBackups a{sv} 1 resource s nowhere", NOT_FOUND, "nowhere"),
    ("ListResources a{sv} 1 name_regex s (", INVALID, "name_regex"),
    ("ListJobs a{sv} 1 colour s red", INVALID, "colour"),
    ("GetJob t 99", NOT_FOUND, "99"),
    ("CancelJob ta{sv} 99 0", NOT_FOUND, "99"),
    ("CancelJob ta{sv} 1 0", STATE, "completed"),
];

fn fill(line: &str, daemon: &Daemon) -> String {
    let dir = daemon.dir().display().to_string();
    line.replace("HUGEHUGE", &"d".repeat(5000))
        .replace("HUGE", &"n".repeat(256))
        .replace("KEY", &"0123456789abcdef".repeat(4))
        .replace("LONG", &format!("/{}", "d/".repeat(2500)))
        .replace('@', &dir)
}

#[test]
fn every_bad_call_is_refused_by_name_and_changes_nothing() {
    needs_root!("every_bad_call_is_refused_by_name_and_changes_nothing");
    let mut daemon = prepared();
    let (catalog, files) = (daemon.catalog(), sh(daemon.dir(), "find source target plain -printf '%p %T@ %s\\n'"));
    let mut wrong = Vec::new();
    for (line, name, word) in CALLS {
        match daemon.call(&fill(line, &daemon)) {
            Ok(reply) => wrong.push(format!("{line}: went through: {reply}")),
            Err(Failure { name: got, message }) => {
                if got != *name {
                    wrong.push(format!("{line}: {got} instead of {name}: {message}"));
                } else if !message.contains(word) {
                    wrong.push(format!("{line}: says nothing of {word:?}: {message}"));
                } else if message.contains('\n') || message.contains('\u{1b}') || message.is_empty() {
                    wrong.push(format!("{line}: is not one plain sentence: {message:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {} calls:\n{}", wrong.len(), CALLS.len(), wrong.join("\n"));
    assert_eq!(daemon.catalog(), catalog);
    assert_eq!(sh(daemon.dir(), "find source target plain -printf '%p %T@ %s\\n'"), files);
    daemon.assert_well();
}

#[test]
fn a_read_only_target_is_refused() {
    needs_root!("a_read_only_target_is_refused");
    let mut daemon = prepared();
    let disk = Disk::mounted("-t tmpfs -o ro tmpfs", &daemon.path("fixed"));
    let catalog = daemon.catalog();
    for target in [disk.path.clone(), disk.path.join("new/beneath")] {
        let failure = daemon.call(&format!("RestoreBackup ta{{sv}} 1 1 target s {}", target.display())).unwrap_err();
        assert_eq!(failure.name, INVALID, "{failure:?}");
        assert!(failure.message.contains("read-only"), "{failure:?}");
    }
    assert_eq!(daemon.catalog(), catalog);
    daemon.assert_well();
}

#[test]
fn a_full_target_fails_the_restore_by_name_and_leaves_no_half_files() {
    needs_root!("a_full_target_fails_the_restore_by_name_and_leaves_no_half_files");
    let mut daemon = Daemon::start();
    random_files(&daemon.source(), "f", 20, 1_000_000);
    daemon.add("web", &daemon.source());
    daemon.back_up("web");
    let disk = Disk::mounted("-t tmpfs -o size=5m tmpfs", &daemon.path("small"));
    let asked =
        daemon.call(&format!("RestoreBackup ta{{sv}} 1 2 target s {} error_strategy s fast_fail", disk.path.display()));
    match asked {
        Err(failure) => assert_eq!(failure.name, "org.strongroom1.Error.NoSpace", "{failure:?}"),
        Ok(path) => {
            let job = daemon.wait(crate::common::number(&path));
            assert_eq!(job["state"], "failed", "{job}");
            assert_eq!(job["error_name"], "org.strongroom1.Error.NoSpace", "{job}");
        }
    }
    // What is there under its name is whole.
    let below = disk.path.join(daemon.source().strip_prefix("/").unwrap());
    if below.exists() {
        sh(&below, &format!("for f in f*; do [ -e $f ] || continue; cmp $f {}/$f; done", daemon.source().display()));
        assert_eq!(sh(&below, "ls -A | grep -v '^f[0-9]*$' || true"), "");
    }
    daemon.assert_well();
}

#[test]
fn a_full_destination_fails_the_backup_by_name_and_spares_the_others() {
    needs_root!("a_full_destination_fails_the_backup_by_name_and_spares_the_others");
    let mut daemon = Daemon::start();
    let disk = Disk::new("ext4", 60, &daemon.path("disk"));
    daemon.ok(&format!("AddDestination ssa{{sv}} disk local 1 directory s {}/vault", disk.path.display()));
    daemon.ok("AddVault sa{sv} small 1 destinations as 1 disk");
    sh(&daemon.source(), "echo small > small");
    daemon.ok(&format!("AddResource sa{{sv}} web 2 paths as 1 {} vault s small", daemon.source().display()));
    let first = daemon.back_up("web")["id"].as_u64().unwrap();
    random_files(&daemon.source(), "f", 100, 1_000_000);
    let (id, job) = daemon.begin("web");
    let job = daemon.wait(job);
    assert_eq!(job["state"], "failed", "{job}");
    assert_eq!(job["error_name"], "org.strongroom1.Error.NoSpace", "{job}");
    assert_eq!(daemon.ok(&format!("GetBackup t {id}"))["status"], "failed");
    // The one from before is as it was, and with room again the next one is completed.
    assert_eq!(daemon.completed(), [first]);
    let place = daemon.browse(first).join(daemon.source().strip_prefix("/").unwrap());
    assert_eq!(sh(&place, "cat *"), "small\n");
    sh(&daemon.source(), "rm f*");
    daemon.work("PruneVault sa{sv} small 0");
    daemon.back_up("web");
    let verified = daemon.work("VerifyVault sa{sv} small 1 read_data b true");
    assert_eq!(verified["result"]["problems"], 0, "{verified}");
    daemon.assert_well();
}

#[test]
fn the_eleventh_manual_backup_is_refused() {
    needs_root!("the_eleventh_manual_backup_is_refused");
    let daemon = prepared();
    for _ in 1..10 {
        daemon.back_up("web");
    }
    let failure = daemon.call("CreateBackup sa{sv} web 0").unwrap_err();
    assert_eq!(failure.name, LIMIT, "{failure:?}");
    daemon.work("DeleteBackup ta{sv} 1 0");
    daemon.back_up("web");
}

#[test]
fn a_lost_destination_is_never_made_again() {
    needs_root!("a_lost_destination_is_never_made_again");
    let mut daemon = prepared();
    sh(daemon.dir(), "mv state/vault elsewhere");
    let (id, job) = daemon.begin("web");
    let job = daemon.wait(job);
    assert_eq!(job["error_name"], "org.strongroom1.Error.DestinationFailed", "{job}");
    assert_eq!(daemon.ok(&format!("GetBackup t {id}"))["status"], "failed");
    sh(daemon.dir(), "[ ! -e state/vault/vault.json ]; rm -rf state/vault; mv elsewhere state/vault");
    daemon.back_up("web");
    daemon.assert_well();
}
