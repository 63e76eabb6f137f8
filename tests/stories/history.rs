//! "When did this file change, where is the one I deleted, and what is different since last week?"

use std::collections::BTreeSet;

use serde_json::Value as Reply;

use crate::common::{Daemon, Dice, number, sh};
use crate::needs_root;

fn rows(daemon: &Daemon, line: &str) -> Vec<Reply> {
    daemon.ok(line)[1].as_array().unwrap().clone()
}

fn below(daemon: &Daemon) -> String {
    daemon.source().display().to_string()
}

fn diff(daemon: &Daemon, a: u64, b: u64) -> BTreeSet<String> {
    let top = below(daemon);
    let list = rows(daemon, &format!("DiffBackups tta{{sv}} {a} {b} 2 sort as 1 id page_size u 1000"));
    let short = |row: &Reply, key: &str| row[key].as_str().unwrap_or_default().replace(&format!("{top}/"), "");
    list.iter()
        .map(|row| {
            let (what, from) = (row["what"].as_str().unwrap_or_default(), short(row, "from"));
            format!("{} {} {what} {from}", row["change"].as_str().unwrap(), short(row, "path")).trim_end().to_owned()
        })
        .collect()
}

#[test]
fn two_backups_differ_in_what_was_changed_and_nothing_else() {
    needs_root!("two_backups_differ_in_what_was_changed_and_nothing_else");
    let daemon = Daemon::start();
    let source = daemon.source();
    sh(&source, "mkdir -p a/deep/er b c/many; for i in $(seq 300); do echo $i > c/many/f$i; done");
    sh(&source, "echo same > a/deep/er/same; echo old > a/changed; echo gone > a/gone; echo mode > a/mode");
    sh(
        &source,
        "echo 'this moves' > b/moves; mkdir b/dir; echo 1 > b/dir/1; echo 2 > b/dir/2; ln -s x b/link; : > b/empty",
    );
    sh(&source, "mkdir b/olddir; echo 3 > b/olddir/3; echo type > b/type");
    daemon.add("tree", &source);
    daemon.back_up("tree");
    daemon.back_up("tree");
    assert_eq!(diff(&daemon, 1, 2), BTreeSet::new());
    sh(&source, "echo newer > a/changed; rm a/gone; chmod 600 a/mode; mv b/moves c/moved; mv b/dir c/dir");
    sh(
        &source,
        "ln -sf y b/link; mkdir c/new; echo n > c/new/n; echo m > c/new/m; rm -r b/olddir; rm b/type; mkdir b/type",
    );
    sh(&source, "chmod 750 c/many; echo z > b/type/inside; rm b/empty; : > c/empty");
    daemon.back_up("tree");
    let expected = [
        "added c/empty",
        "added c/new",
        "changed a/changed content",
        "changed a/mode metadata",
        "changed b/link content",
        "changed b/type type",
        "added b/type/inside",
        "changed c/many metadata",
        "moved c/dir  b/dir",
        "moved c/moved  b/moves",
        "removed a/gone",
        "removed b/empty",
        "removed b/olddir",
    ];
    assert_eq!(diff(&daemon, 2, 3), expected.map(str::to_owned).into());
    let back = diff(&daemon, 3, 2);
    assert!(back.contains("moved b/dir  c/dir") && back.contains("removed c/new") && back.len() == 13, "{back:?}");
    // An independent tool finds no other path, on the mount.
    let mount = |id: u64| daemon.browse(id).join(source.strip_prefix("/").unwrap());
    let said = sh(&source, &format!("diff -rq --no-dereference {} {} || true", mount(2).display(), mount(3).display()));
    assert_eq!(said.lines().count(), expected.len() + 2 - 3, "a move is two lines, metadata none: {said}");
    let new = rows(&daemon, "DiffBackups tta{sv} 2 3 1 sort as 1 path");
    let new = new.iter().find(|row| row["path"].as_str().unwrap().ends_with("c/new")).unwrap().clone();
    assert_eq!((&new["type"], &new["files"], &new["size"]), (&"directory".into(), &2.into(), &4.into()), "{new}");
    // Where there is nothing to compare.
    for (line, words) in [("DiffBackups tta{sv} 1 99 0", "99"), ("DiffBackups tta{sv} 1 2 1 colour s red", "colour")] {
        assert!(daemon.call(line).unwrap_err().message.contains(words), "{line}");
    }
}

#[test]
fn every_version_of_a_file_is_listed_once() {
    needs_root!("every_version_of_a_file_is_listed_once");
    let daemon = Daemon::start();
    let source = daemon.source();
    daemon.add("tree", &source);
    for step in ["echo 1 > f", ": > other", "echo 2 > f", "touch f", "rm f", "echo 2 > f", "rm other"] {
        sh(&source, step);
        daemon.back_up("tree");
    }
    let list = rows(&daemon, &format!("ListVersions ssa{{sv}} tree {}/f 1 sort as 1 id", below(&daemon)));
    let spans: Vec<_> =
        list.iter().map(|v| (v["first_backup"].clone(), v["last_backup"].clone(), v["backups"].clone())).collect();
    let span = |a: u64, b: u64, n: u64| (a.into(), b.into(), n.into());
    assert_eq!(spans, [span(1, 2, 2), span(3, 3, 1), span(4, 4, 1), span(6, 7, 2)], "{list:?}");
    for version in &list {
        let copy = std::fs::read_to_string(version["browse_path"].as_str().unwrap()).unwrap();
        assert_eq!(copy, if version["first_backup"] == 1 { "1\n" } else { "2\n" });
    }
    assert_eq!(daemon.ok(&format!("ListVersions ssa{{sv}} tree {}/none 0", below(&daemon)))[0], 0);
    assert!(daemon.call("ListVersions ssa{sv} tree relative 0").unwrap_err().message.contains("path"));
    assert!(daemon.call("FindFiles ssa{sv} nowhere *.conf 0").unwrap_err().message.contains("nowhere"));
    assert!(daemon.call("FindFiles ssa{sv} tree !x 0").unwrap_err().message.contains("glob"));
}

#[test]
fn files_are_found_by_pattern_in_all_backups() {
    needs_root!("files_are_found_by_pattern_in_all_backups");
    let daemon = Daemon::start();
    let (source, mut dice) = (daemon.source(), Dice::new(8));
    daemon.add("tree", &source);
    let mut roll = |n: f64| (dice.roll() * n) as u32;
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut ids = Vec::new();
    for _ in 0..8 {
        let mut script = String::from("mkdir -p d{0..3}/e{0..2}; ");
        for _ in 0..12 {
            let file = format!("d{}/e{}/n{}.{}", roll(4.0), roll(3.0), roll(5.0), ["conf", "txt"][roll(2.0) as usize]);
            script += &match roll(4.0) {
                0 => format!("rm -rf d{}/e{}; mkdir -p d{{0..3}}/e{{0..2}}; ", roll(4.0), roll(3.0)),
                1 => format!("rm -f {file}; "),
                _ => format!("echo {} > {file}; ", roll(3.0)),
            };
        }
        sh(&source, &script);
        ids.push(daemon.back_up("tree")["id"].as_u64().unwrap());
        // What `find` and `sha256sum` see on the mount.
        let mount = daemon.browse(*ids.last().unwrap()).join(source.strip_prefix("/").unwrap());
        let found = sh(&mount, "find . -name '*.conf' -printf '%P %T@ ' -exec sh -c 'sha256sum < \"$1\"' - {} \\;");
        seen.extend(found.lines().map(str::to_owned));
    }
    let list = rows(&daemon, "FindFiles ssa{sv} tree *.conf 2 sort as 1 path page_size u 1000");
    let top = format!("{}/", below(&daemon));
    let mut told = BTreeSet::new();
    for row in &list {
        let path = row["path"].as_str().unwrap().strip_prefix(&top).unwrap();
        let copy = row["browse_path"].as_str().unwrap();
        told.insert(
            sh(&source, &format!("printf '%s %s ' {path} $(stat -c %.10Y {copy}); sha256sum < {copy}"))
                .trim_end()
                .to_owned(),
        );
        let (first, last) = (row["first_backup"].as_u64().unwrap(), row["last_backup"].as_u64().unwrap());
        let between = ids.iter().filter(|id| (first..=last).contains(id)).count() as u64;
        assert_eq!(row["backups"], between, "{row}");
    }
    assert_eq!(told, seen);
    let anchored = rows(&daemon, &format!("FindFiles ssa{{sv}} tree {top}d1/** 1 page_size u 1000"));
    assert!(
        !anchored.is_empty() && anchored.iter().all(|r| r["path"].as_str().unwrap().starts_with(&format!("{top}d1/")))
    );
    // The same over two vaults, one after the other.
    daemon.ok(&format!("AddDestination ssa{{sv}} more local 1 directory s {}", daemon.path("more").display()));
    daemon.ok("AddVault sa{sv} second 1 destinations as 1 more");
    let copy = number(&daemon.ok(&format!("CopyBackup tsa{{sv}} {} second 0", ids[7])));
    assert_eq!(daemon.wait(copy)["state"], "completed");
    let both = rows(&daemon, "FindFiles ssa{sv} tree *.conf 1 page_size u 1000");
    assert_eq!(both.len(), list.len(), "a copy in another vault has the same versions");
    let one = rows(&daemon, "FindFiles ssa{sv} tree *.conf 2 vault s second page_size u 1000");
    assert!(!one.is_empty() && one.len() < list.len());
}
