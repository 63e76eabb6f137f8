//! The house as it was drawn: which room may use which, and what no file may do.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The floors, from the ground up. A room may use rooms of lower floors and itself.
const FLOORS: &[&[&str]] = &[
    &["model"],
    &["store"],
    &["vault"],
    &["source"],
    &["archive", "restore", "snapshot", "browse", "host"],
    &["plain"],
    &["catalog"],
    &["jobs"],
    &["service"],
    &["bus"],
    &["cli"],
    &["daemon", "fuzz"],
    &["bin", "lib"],
];

/// The command is a client of the bus: these it may use and no others.
const OF_THE_COMMAND: &[&str] = &["model", "bus", "cli"];

/// Neighbours on one floor that may meet, with the reason.
const DOORS: &[(&str, &str, &str)] = &[
    ("restore", "archive", "both list files with one type of error"),
    ("snapshot", "restore", "a clone gets its metadata, and is removed, as a restored file is"),
];

/// No file is longer.
const LINES: usize = 600;

fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut left = vec![root.clone()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(&root).unwrap().to_owned(), text));
            }
        }
    }
    found.sort();
    assert!(found.len() > 50, "the sources are elsewhere");
    found
}

fn room(path: &Path) -> String {
    let first = path.components().next().unwrap().as_os_str().to_str().unwrap();
    first.strip_suffix(".rs").unwrap_or(first).to_owned()
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&room))
}

/// The rooms that a source names by `crate::ROOM` or `strongroom::ROOM`, groups included.
fn used(text: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    let code: String = text.lines().filter(|l| !l.trim_start().starts_with("//")).map(|l| format!("{l}\n")).collect();
    for start in ["crate::", "strongroom::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '"') {
                continue;
            }
            let rest = &code[at + start.len()..];
            let names: Vec<&str> = match rest.strip_prefix('{') {
                // Only what stands first in each part of the group is a room.
                Some(group) => {
                    let mut depth = 0;
                    let end = group.find(|c| match c {
                        '{' => {
                            depth += 1;
                            false
                        }
                        '}' => {
                            depth -= 1;
                            depth < 0
                        }
                        _ => false,
                    });
                    let group = &group[..end.unwrap_or(group.len())];
                    let mut depth = 0;
                    group
                        .split(|c| {
                            match c {
                                '{' => depth += 1,
                                '}' => depth -= 1,
                                _ => {}
                            }
                            c == ',' && depth == 0
                        })
                        .map(str::trim)
                        .collect()
                }
                None => vec![rest],
            };
            for name in names {
                let name: String = name.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                if !name.is_empty() {
                    rooms.insert(name);
                }
            }
        }
    }
    rooms
}

#[test]
fn groups_and_paths_are_understood() {
    let text = "use crate::model::{Error, Id};\nuse crate::{store, vault::{Vault, tree::Node}};\n// crate::bus\nlet x = crate::jobs::Lane;";
    assert_eq!(used(text), ["jobs", "model", "store", "vault"].map(str::to_owned).into());
}

#[test]
fn imports_point_upwards_only() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let here = room(&path);
        let Some(own) = floor(&here) else {
            wrong.push(format!(
                "{}: {here} has no floor; give it one in this test and in ARCHITECTURE.md",
                path.display()
            ));
            continue;
        };
        for other in used(&text) {
            let Some(theirs) = floor(&other) else { continue };
            let door = DOORS.iter().any(|(from, to, _)| *from == here && *to == other);
            let allowed = if here == "cli" { OF_THE_COMMAND.contains(&other.as_str()) } else { theirs < own };
            // A room's tests may call on its neighbours to make what they look at.
            let test = theirs == own && path.iter().any(|part| part == "tests" || part == "tests.rs");
            if other != here && !allowed && !door && !test {
                wrong.push(format!(
                    "{}: {here} uses {other}, which is not beneath it; move what is needed down, or let {here} declare a trait that {other} implements",
                    path.display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_stands_only_where_the_reason_stands() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        let uses = |l: &str| {
            let code = l.split("//").next().unwrap_or_default();
            code.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == "unsafe")
        };
        if !lines.iter().any(|l| uses(l)) {
            continue;
        }
        // The reason: in the attribute, or in a comment within three lines of it.
        let reasoned = lines.iter().enumerate().any(|(n, line)| {
            let near = &lines[n.saturating_sub(3)..(n + 4).min(lines.len())];
            line.contains("allow(unsafe_code") && near.iter().any(|l| l.contains("//") || l.contains("reason"))
        });
        if !reasoned {
            wrong.push(format!("{}: unsafe code without #[allow(unsafe_code)] and its reason", path.display()));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn no_file_is_too_long_to_be_read() {
    let mut long = Vec::new();
    for (path, text) in sources() {
        // Tests are lists more often than stories; they may be long.
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        if !path.ends_with("tests.rs") && code.lines().count() > LINES {
            long.push(path);
        }
    }
    assert!(long.is_empty(), "more than {LINES} lines without their tests: {long:?}");
}

/// What cargo would build for the programs alone, or for them and the tests: crates with features.
fn crates(edges: &str) -> std::collections::BTreeSet<String> {
    let tree = std::process::Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["tree", "--offline", "--edges", edges, "--prefix", "none", "--format", "{p} {f}"])
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    String::from_utf8_lossy(&tree.stdout).lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect()
}

#[test]
fn tests_and_programs_share_their_builds() {
    let (programs, all) = (crates("normal,build"), crates("normal,build,dev"));
    assert!(programs.len() > 50, "{programs:?}");
    let twice: Vec<_> = programs.difference(&all).collect();
    assert!(twice.is_empty(), "built with other features for the tests, so twice: {twice:?}");
}
