//! "What is stored already is not stored again": shares of the first backup, by the sizes of the
//! files in the vault's directory.

use std::path::{Path, PathBuf};

use crate::common::{Daemon, du, heavy, sh};
use crate::needs_root;

/// Backs up, and gives what the store grew by as a share of `first`.
fn share(daemon: &Daemon, resource: &str, first: u64) -> f64 {
    let before = du(&daemon.store());
    let backup = daemon.back_up(resource);
    assert_eq!(backup["errors"], 0);
    let grown = du(&daemon.store()) - before;
    // What we say about ourselves is what the disk says, beside the index and the manifest.
    let said = backup["stored_size"].as_u64().unwrap();
    assert!(said <= grown && grown - said <= 400_000 + grown / 20, "said {said}, grew by {grown}");
    println!("{resource}: {grown} bytes, {:.3} % of {first}", grown as f64 * 100.0 / first as f64);
    grown as f64 / first as f64
}

/// A copy of what this machine has of real files, bounded, with its times and links.
fn real_files(to: &Path) -> u64 {
    let list =
        "find /usr/share /usr/include /usr/lib/python3 /usr/bin -xdev -type f -size -4M 2>/dev/null | LC_ALL=C sort";
    sh(
        to,
        &format!(
            "({list} || true) | awk 'NR % 4 == 1 && n++ < 7000' | tar -cf - --no-recursion -T - 2>/dev/null | tar -xf - ; find . -type f | wc -l"
        ),
    );
    du(to)
}

#[test]
fn little_is_stored_again() {
    needs_root!("little_is_stored_again");
    let _heavy = heavy();
    let daemon = Daemon::start();
    let source = daemon.source();
    let mut size = real_files(&source);
    if size < 100_000_000 {
        // A small machine: what is missing is made.
        sh(&source, "mkdir made; for i in $(seq 1500); do head -c 70000 /dev/urandom > made/$i; done");
        size = du(&source);
    }
    let empty = du(&daemon.store());
    daemon.add("tree", &source);
    daemon.back_up("tree");
    let first = du(&daemon.store()) - empty;
    assert!(first < size, "{first} bytes for {size}");

    let unchanged = share(&daemon, "tree", first);
    assert!(unchanged < 0.005, "unchanged: {unchanged}");

    sh(&source, "find . -type f -print0 | xargs -0 touch -d '2026-01-01 01:01:01'");
    let touched = share(&daemon, "tree", first);
    assert!(touched < 0.02, "every mtime touched: {touched}");

    let elsewhere: PathBuf = daemon.path("elsewhere/by/another/name");
    sh(daemon.dir(), &format!("mkdir -p {0}; cp -a source/. {0}", elsewhere.display()));
    daemon.add("again", &elsewhere);
    let moved = share(&daemon, "again", first);
    assert!(moved < 0.05, "the same tree elsewhere: {moved}");

    // Every twentieth file, by its place in the list, becomes one that nobody has seen, of the
    // same size and as easy to compress.
    sh(
        &source,
        "find . -type f | LC_ALL=C sort | awk 'NR % 20 == 0' | while IFS= read -r f; do \
         tr 'a-zA-Z0-9' 'n-za-mN-ZA-M5-90-4' < \"$f\" > ../changed; cat ../changed > \"$f\"; done",
    );
    let replaced = share(&daemon, "tree", first);
    assert!(replaced < 0.10, "5 % of the files replaced: {replaced}");
}

#[test]
fn the_checksum_is_equal_for_equal_content() {
    needs_root!("the_checksum_is_equal_for_equal_content");
    let daemon = Daemon::start();
    sh(&daemon.source(), "echo one > a; mkdir d; echo two > d/b");
    daemon.add("tree", &daemon.source());
    let first = daemon.back_up("tree");
    let again = daemon.ok("CreateBackup sa{sv} tree 1 incremental b false");
    daemon.wait(2);
    let again = daemon.ok(&format!("GetBackup t {}", again["id"]));
    assert_eq!(first["checksum"], again["checksum"]);
    assert!(first["checksum"].as_str().unwrap().starts_with("sha256:"));
    sh(&daemon.source(), "chmod 600 d/b");
    assert_ne!(daemon.back_up("tree")["checksum"], first["checksum"]);
}
