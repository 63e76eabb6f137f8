//! Tasks: "my projects as plain files, tonight and every night, and back again".

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::{Daemon, Disk, Facts, assert_same, differences, everything, number, sh, wait_for};
use crate::needs_root;

const INVALID: &str = "org.strongroom1.Error.InvalidArgument";
const STATE: &str = "org.strongroom1.Error.InvalidState";
const NOT_FOUND: &str = "org.strongroom1.Error.NotFound";
const NO_SPACE: &str = "org.strongroom1.Error.NoSpace";
const PATIENCE: Duration = Duration::from_secs(120);

type Reply = serde_json::Value;

/// Creates a task and waits until its first run has ended; the task as it is then.
fn run(daemon: &Daemon, line: &str) -> Reply {
    let id = daemon.ok(&format!("CreateTask a{{sv}} {line}"));
    finished(daemon, id.as_str().unwrap())
}

fn finished(daemon: &Daemon, id: &str) -> Reply {
    let mut task = Reply::Null;
    wait_for("the task has run", PATIENCE, || {
        task = daemon.ok(&format!("GetTask s {id}"));
        task["state"] == "FINISHED"
    });
    task
}

/// The same for a run that must succeed: where its result is.
fn result(daemon: &Daemon, line: &str) -> PathBuf {
    path(&run(daemon, line))
}

fn path(task: &Reply) -> PathBuf {
    assert_eq!(task["result"], "completed", "{task}");
    PathBuf::from(task["report"]["path"].as_str().unwrap())
}

/// What is in a directory, sorted.
fn names(dir: &Path) -> Vec<String> {
    sh(dir, "find . -mindepth 1 -maxdepth 1 -printf '%P\\n' | sort").lines().map(str::to_owned).collect()
}

/// A copy of a resource within a result.
fn copy_of(result: &Path, project: &str, resource: &str, path: &Path) -> PathBuf {
    result.join("projects").join(project).join(resource).join(path.strip_prefix("/").unwrap())
}

#[test]
fn b7_a_run_writes_a_folder_that_is_the_source_again() {
    needs_root!("b7_a_run_writes_a_folder_that_is_the_source_again");
    let daemon = Daemon::start();
    let source = daemon.source();
    everything(&source);
    daemon.add("web", &source);
    let store = daemon.path("copies");
    let result = result(
        &daemon,
        &format!("3 name s nightly store_location s {} content a{{sv}} 1 projects aa{{sv}} 1 1 project_regex s *", store.display()),
    );
    let name = result.file_name().unwrap().to_str().unwrap();
    assert_eq!(result.parent().unwrap(), store.join("nightly"));
    assert!(name.len() == "nightly-20260101.000000".len() && name.starts_with("nightly-2"), "{name}");
    assert_eq!(names(&store.join("nightly")), [name], "nothing else is left");
    assert_eq!(names(&result), ["ENTRIES.jsonl", "MANIFEST.json", "SHA256SUMS", "projects"]);
    let copy = copy_of(&result, "default", "web", &source);
    assert_eq!(differences(&source, &copy), "");
    assert_same(&source, &copy, Facts::Mounted);
    let checked = sh(&result, "sha256sum -c SHA256SUMS --quiet && wc -l < SHA256SUMS");
    let files = sh(&source, "find . -type f -printf x | wc -c");
    let number = |text: &str| text.trim().parse::<u64>().unwrap();
    assert_eq!(number(&checked), number(&files) + 2);
    // Nobody else may look at what was private in the source.
    assert_eq!(sh(&result, "stat -c %a:%U .").trim(), "700:root");
    // Plain files: `cp` brings one back.
    sh(daemon.dir(), &format!("cp -a '{}/a/b/c/deep' one", copy.display()));
    assert_eq!(sh(daemon.dir(), "cat one"), "deep\n");
}

#[test]
fn b7_an_archive_is_the_same_folder_as_tar() {
    needs_root!("b7_an_archive_is_the_same_folder_as_tar");
    let daemon = Daemon::start();
    let source = daemon.source();
    everything(&source);
    // What tar cannot carry.
    sh(&source, "rm socket");
    daemon.add("web", &source);
    for (form, flag) in [("", "zst"), ("format s tar.gz", "gz")] {
        let keys = if form.is_empty() { 2 } else { 3 };
        let result = result(
            &daemon,
            &format!(
                "3 name s packed store_location s {} content a{{sv}} {keys} compression b true {form} projects aa{{sv}} 1 1 project_id s default",
                daemon.path("copies").display()
            ),
        );
        assert!(result.to_str().unwrap().ends_with(&format!(".tar.{flag}")), "{result:?}");
        let out = daemon.path(&format!("out-{flag}"));
        sh(daemon.dir(), &format!("mkdir {0}; tar -C {0} --xattrs --xattrs-include='*' --acls -xf {1}", out.display(), result.display()));
        sh(&out, "sha256sum -c SHA256SUMS --quiet");
        let copy = copy_of(&out, "default", "web", &source);
        assert_eq!(differences(&source, &copy), "");
        assert_same(&source, &copy, Facts::Mounted);
    }
}
