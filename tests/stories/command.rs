//! "I typed it": the `strongroom` command, its documents for scripts and its exit statuses.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::common::{Daemon, Disk, differences, everything, heavy, sh};
use crate::needs_root;

const STRONGROOM: &str = env!("CARGO_BIN_EXE_strongroom");

fn run(daemon: &Daemon, line: &str) -> Output {
    Command::new("timeout")
        .args(["120", STRONGROOM, "--bus", daemon.address()])
        .args(line.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// What a command printed; it must exit with `status`.
fn said(daemon: &Daemon, status: i32, line: &str) -> String {
    let output = run(daemon, line);
    assert_eq!(output.status.code(), Some(status), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The one document that a command printed.
fn json(daemon: &Daemon, line: &str) -> Value {
    serde_json::from_str(&said(daemon, 0, &format!("--json {line}"))).unwrap_or_else(|e| panic!("{line}: {e}"))
}

#[test]
fn the_whole_way_by_command() {
    needs_root!("the_whole_way_by_command");
    let daemon = Daemon::start();
    everything(&daemon.source());
    let source = daemon.source();
    said(&daemon, 0, &format!("resource add web --path {} --exclude *.tmp", source.display()));
    let text = said(&daemon, 0, "backup web --description before");
    assert!(text.contains("backup 1"), "{text}");
    assert!(said(&daemon, 0, "list").contains("completed"));
    assert!(said(&daemon, 0, "show 1").contains("before"));
    let mount = said(&daemon, 0, "browse 1");
    assert_eq!(mount.trim(), daemon.browse(1).to_str().unwrap());
    let below = source.strip_prefix("/").unwrap();
    said(&daemon, 0, &format!("restore 1 --target {}", daemon.path("target").display()));
    assert_eq!(differences(&source, &daemon.path("target").join(below)), "");
    said(&daemon, 0, &format!("restore 1 {}/a/b/c --target {}", source.display(), daemon.path("part").display()));
    assert_eq!(sh(&daemon.path("part").join(below), "find . -type f"), "./a/b/c/deep\n");
    said(&daemon, 0, "vault verify main --read-data");
    said(&daemon, 0, "vault key add main");
    said(&daemon, 0, "delete 1");
    assert_eq!(json(&daemon, "list")["count"], 0);
    said(&daemon, 0, "resource remove web");
}

#[test]
fn documents_for_scripts_have_the_names_of_the_bus() {
    needs_root!("documents_for_scripts_have_the_names_of_the_bus");
    let daemon = Daemon::start();
    sh(&daemon.source(), "echo x > x");
    json(&daemon, &format!("resource add web --path {}", daemon.source().display()));
    let backup = json(&daemon, "backup web");
    assert_eq!((&backup["id"], &backup["status"]), (&1.into(), &"completed".into()));
    let list = json(&daemon, "list web");
    assert_eq!((&list["count"], &list["results"][0]["checksum"]), (&1.into(), &backup["checksum"]));
    for line in [
        "resource list",
        "resource show web",
        "destination list",
        "vault list",
        "vault show main",
        "show 1",
        "job list",
        "vault key list main",
    ] {
        json(&daemon, line);
    }
    // What the bus answers and what the command prints is the same.
    assert_eq!(json(&daemon, "show 1"), daemon.ok("GetBackup t 1"));
}

#[test]
fn checkpoints_and_projects_by_command() {
    needs_root!("checkpoints_and_projects_by_command");
    let daemon = Daemon::start();
    sh(&daemon.source(), "mkdir web db; echo w > web/file; echo d > db/file");
    said(&daemon, 0, "project add shop --description tills");
    assert!(said(&daemon, 0, "project list").contains("tills"));
    for name in ["web", "db"] {
        said(&daemon, 0, &format!("resource add {name} --project shop --path {}/{name}", daemon.source().display()));
    }
    let text = said(&daemon, 0, "checkpoint create main --name before-update");
    assert!(text.contains("before-update") && text.matches("available").count() == 3, "{text}");
    assert_eq!(daemon.completed(), [1, 2]);
    // The one that is not there is named, and the other is backed up.
    let output = run(&daemon, "checkpoint create main web nobody --full --automatic --retention 30");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("nobody was skipped (Strongroom.1001)"), "{output:?}");
    assert_eq!(json(&daemon, "show 3")["backup_type"], "automatic");
    let output = run(&daemon, "checkpoint create main nobody");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let list = json(&daemon, "checkpoint list --vault main");
    assert_eq!((&list["count"], &list["results"][1]["extra_info"]["retention_duration"]), (&3.into(), &30.into()));
    assert_eq!(json(&daemon, "checkpoint show 1")["vault"]["resources"][1]["backup"], 2);
    assert_eq!(run(&daemon, "checkpoint delete 1").status.code(), Some(1), "nobody can be asked");
    said(&daemon, 0, "checkpoint delete 1 --yes");
    assert_eq!((daemon.completed(), run(&daemon, "checkpoint show 1").status.code()), (vec![3], Some(1)));
    assert_eq!(run(&daemon, "project remove shop").status.code(), Some(1));
    said(&daemon, 0, "project add empty");
    said(&daemon, 0, "project remove empty");
    assert_eq!(json(&daemon, "project list")["count"], 2);
}

#[test]
fn exit_statuses_tell_what_happened() {
    needs_root!("exit_statuses_tell_what_happened");
    let daemon = Daemon::start();
    for (status, line) in [
        (0, "list"),
        (0, "--help"),
        (0, "--version"),
        (1, "show 99"),
        (1, "backup nowhere"),
        (1, "resource add bad --path /no/such/path"),
        (1, "restore 99 --yes"),
        (2, "frobnicate"),
        (2, "show one"),
        (2, "backup"),
        (2, "export 1 --format zip"),
    ] {
        let output = run(&daemon, line);
        assert_eq!(output.status.code(), Some(status), "{line}: {output:?}");
        if status > 0 {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                output.stdout.is_empty() && !text.trim().is_empty() && !text.contains("panicked"),
                "{line}: {output:?}"
            );
        }
    }
    let output = Command::new(STRONGROOM).args(["--bus", "unix:path=/no/such/bus", "list"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    // In place without being asked: no.
    sh(&daemon.source(), "echo x > x");
    said(&daemon, 0, &format!("resource add web --path {}", daemon.source().display()));
    said(&daemon, 0, "backup web");
    sh(&daemon.source(), "echo changed > x");
    said(&daemon, 1, "restore 1");
    assert_eq!(sh(&daemon.source(), "cat x"), "changed\n");
    said(&daemon, 0, "restore 1 --yes");
    assert_eq!(sh(&daemon.source(), "cat x"), "x\n");
}

#[test]
fn an_export_is_what_tar_itself_would_have_written() {
    needs_root!("an_export_is_what_tar_itself_would_have_written");
    let daemon = Daemon::start();
    everything(&daemon.source());
    let source = daemon.source();
    daemon.add("web", &source);
    daemon.back_up("web");
    let below = source.strip_prefix("/").unwrap().display().to_string();
    for (format, unpack) in [("tar", "cat"), ("tar.gz", "gzip -dc"), ("tar.zst", "zstd -dcq")] {
        sh(
            daemon.dir(),
            &format!(
                "set +e; {STRONGROOM} --bus {} export 1 --format {format} > out; status=$?; set -e; [ $status = 0 ] || [ $status = 3 ]; \
                 rm -rf unpacked; mkdir unpacked; \
                 {unpack} out | tar --xattrs --xattrs-include='*' --acls -C unpacked -xpf -",
                daemon.address()
            ),
        );
        // tar knows no sockets.
        let lines = differences(&source, &daemon.path("unpacked").join(&below));
        let rest: Vec<_> = lines.lines().filter(|l| !l.ends_with(" socket") && !l.ends_with(" ./")).collect();
        assert_eq!(rest, [""; 0], "{format}");
    }
    let path = daemon.path("by-path.tar");
    daemon.work(&format!("ExportBackup ta{{sv}} 1 2 path s {} format s tar", path.display()));
    let names = sh(daemon.dir(), &format!("tar -tf by-path.tar --quoting-style=escape | grep -c '{below}'"));
    let entries = sh(&source, "find . ! -type s | wc -l; ");
    let (names, entries): (u64, u64) = (names.trim().parse().unwrap(), entries.trim().parse().unwrap());
    // A newline in a name takes no line of its own.
    assert_eq!(names + 1, entries);
}

#[test]
fn a_private_run_needs_nothing_but_a_directory() {
    needs_root!("a_private_run_needs_nothing_but_a_directory");
    let dir = tempfile::Builder::new().prefix("strongroom-").tempdir_in("/var/tmp").unwrap();
    sh(dir.path(), "mkdir source; echo x > source/x");
    let private = |line: &str| {
        let full = format!("timeout 120 {STRONGROOM} --private room --json {line}");
        sh(dir.path(), &full)
    };
    private(&format!("resource add web --path {}/source", dir.path().display()));
    private("backup web");
    let list: Value = serde_json::from_str(&private("list")).unwrap();
    assert_eq!((&list["count"], &list["results"][0]["status"]), (&1.into(), &"completed".into()));
    private(&format!("restore 1 --target {}/target", dir.path().display()));
    sh(dir.path(), "cmp source/x target$PWD/source/x");
    // Nothing of it is left running or mounted.
    assert_eq!(sh(dir.path(), "grep -c $PWD /proc/self/mountinfo || true").trim(), "0");
    assert_eq!(
        sh(dir.path(), "grep -lz -- \"$PWD/[r]oom\" /proc/[0-9]*/cmdline 2>/dev/null | wc -l || true").trim(),
        "0"
    );
}

#[test]
fn the_demo_shows_it_all_and_leaves_nothing() {
    needs_root!("the_demo_shows_it_all_and_leaves_nothing");
    let _heavy = heavy();
    let dir = tempfile::Builder::new().prefix("strongroom-").tempdir_in("/var/tmp").unwrap();
    // A room of its own, in which what is left can be seen.
    let output = Command::new("timeout")
        .args(["300", STRONGROOM, "demo"])
        .env("TMPDIR", dir.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("worked"), "{text}");
    assert_eq!(sh(dir.path(), "ls -A"), "");
    assert_eq!(sh(dir.path(), "grep -c $PWD /proc/self/mountinfo || true").trim(), "0");
}

#[test]
fn some_unreadable_files_are_exit_status_3() {
    needs_root!("some_unreadable_files_are_exit_status_3");
    let daemon = Daemon::start();
    let disk = Disk::mounted("-t tmpfs tmpfs", &daemon.path("source/gone"));
    sh(&disk.path, "echo x > x");
    sh(&daemon.source(), "mkdir kept; echo y > kept/y");
    let source = daemon.source();
    said(&daemon, 0, &format!("resource add web --path {0}/kept {0}/gone", source.display()));
    drop(disk);
    sh(&source, "rmdir gone");
    let output = run(&daemon, "backup web");
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("gone"), "{output:?}");
}
