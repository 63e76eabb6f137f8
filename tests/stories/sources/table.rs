//! The table of `docs/sources.md`, held against the tests that there are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The rows of each source.
const SOURCES: &[(char, u32)] = &[('A', 15), ('B', 9), ('C', 6), ('D', 7), ('E', 5)];

/// A line of the table. A row may have several, each for a part of it.
#[derive(Debug)]
struct Line {
    row: String,
    calls: Vec<String>,
    tests: Vec<String>,
    observed: String,
    /// Empty; `part: WHAT` where some of it waits for something to be built; `all: WHAT`.
    waits: String,
}

fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn lines() -> Vec<Line> {
    let text = std::fs::read_to_string(root().join("docs/sources.md")).unwrap();
    let rows = text.lines().filter(|l| l.starts_with("| ") && prefix(l[2..].split(' ').next().unwrap()).is_some());
    rows.map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [row, _, calls, tests, observed, waits] = cells[..] else { panic!("not six cells: {line}") };
        let (row, observed, waits) = (row.to_owned(), observed.to_owned(), waits.to_owned());
        Line { row, calls: quoted(calls), tests: quoted(tests), observed, waits }
    })
    .collect()
}

/// `A7` as names of tests begin with it, `a7_`, if it is a row.
fn prefix(row: &str) -> Option<String> {
    let source = row.chars().next()?;
    let number: u32 = row.get(1..)?.parse().ok()?;
    let is = SOURCES.iter().any(|(s, last)| *s == source && (1..=*last).contains(&number));
    is.then(|| format!("{}{number}_", source.to_ascii_lowercase()))
}

/// Names of all tests beneath a directory.
fn tests_in(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests_in(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            for part in text.split("#[test]").skip(1) {
                let name = part.split("fn ").nth(1).and_then(|f| f.split('(').next());
                found.extend(name.map(str::to_owned));
            }
        }
    }
}

fn tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    tests_in(&root().join("tests/stories"), &mut found);
    tests_in(&root().join("src"), &mut found);
    assert!(found.len() > 200, "the tests are elsewhere");
    found
}

/// What is untrue in the table.
fn complaints(lines: &[Line], tests: &BTreeSet<String>, methods: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut rows = BTreeMap::<&str, Vec<&Line>>::new();
    for line in lines {
        rows.entry(&line.row).or_default().push(line);
    }
    for (source, last) in SOURCES {
        let missing = (1..=*last).map(|n| format!("{source}{n}")).filter(|row| !rows.contains_key(row.as_str()));
        wrong.extend(missing.map(|row| format!("{row} is missing")));
    }
    for Line { row, calls, tests: named, observed, waits } in lines {
        for name in named {
            let there = if name.contains('/') { root().join(name).is_file() } else { tests.contains(name) };
            if !there {
                wrong.push(format!("{row} names {name}, which is no test"));
            }
        }
        for call in calls.iter().filter(|call| call.chars().all(char::is_alphanumeric)) {
            let mut method = String::new();
            for c in call.chars() {
                if c.is_uppercase() && !method.is_empty() {
                    method.push('_');
                }
                method.extend(c.to_lowercase());
            }
            if !methods.contains(&format!("async fn {method}(")) {
                wrong.push(format!("{row} names the call {call}, which is none"));
            }
        }
        match waits.split_once(": ").map(|(how, what)| (how, what.trim())) {
            None if waits.is_empty() => {}
            Some(("part" | "all", what)) if !what.is_empty() => {}
            _ => wrong.push(format!("{row} waits for {waits:?}; it must be empty, `part: …` or `all: …`")),
        }
        let own = named.iter().any(|name| name.starts_with(&prefix(row).unwrap()));
        match waits.starts_with("all:") {
            true if own => wrong.push(format!("{row} waits, and yet a test of it is named after it")),
            false if named.is_empty() || observed.is_empty() => {
                wrong.push(format!("{row} neither waits nor names a test and what it observes"));
            }
            _ => {}
        }
    }
    for (row, lines) in &rows {
        let prefix = prefix(row).unwrap();
        let named: BTreeSet<&String> = lines.iter().flat_map(|l| &l.tests).collect();
        for test in tests.iter().filter(|t| t.starts_with(&prefix)) {
            if !named.contains(test) {
                wrong.push(format!("{test} is named after {row}, which does not name it"));
            }
        }
        if lines.iter().any(|l| !l.waits.starts_with("all:")) && !named.iter().any(|t| t.starts_with(&prefix)) {
            wrong.push(format!("{row} has no test that is named after it"));
        }
    }
    wrong
}

#[test]
fn the_table_of_the_sources_is_true() {
    let manager = std::fs::read_to_string(root().join("src/bus/manager.rs")).unwrap();
    let wrong = complaints(&lines(), &tests(), &manager);
    assert!(wrong.is_empty(), "docs/sources.md:\n{}", wrong.join("\n"));
}

#[test]
fn an_untrue_table_is_noticed() {
    let manager = std::fs::read_to_string(root().join("src/bus/manager.rs")).unwrap();
    let (good, mut more) = (lines(), tests());
    let noticed = |change: &dyn Fn(&mut Vec<Line>), word: &str| {
        let mut lines = lines();
        change(&mut lines);
        let wrong = complaints(&lines, &tests(), &manager);
        assert!(wrong.iter().any(|w| w.contains(word)), "{word}: {wrong:?}");
    };
    noticed(&|l| l.retain(|line| line.row != "D4"), "D4 is missing");
    noticed(&|l| l[0].tests.push("a1_no_such_test".into()), "a1_no_such_test, which is no test");
    noticed(&|l| l[1].calls.push("ListEverything".into()), "ListEverything, which is none");
    noticed(&|l| l[1].tests.clear(), "A2 neither waits nor names a test");
    noticed(&|l| l[1].tests = vec!["the_table_of_the_sources_is_true".into()], "A2 has no test that is named after it");
    noticed(&|l| l[1].waits = "all: better times".into(), "A2 waits, and yet");
    noticed(&|l| l[1].waits = "soon".into(), "A2 waits for \"soon\"");
    more.insert("c6_and_another".into());
    let wrong = complaints(&good, &more, &manager);
    assert!(wrong.iter().any(|w| w.starts_with("c6_and_another is named after C6")), "{wrong:?}");
}
