//! Tasks: "my projects as plain files, tonight and every night, and back again".

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::{Daemon, Disk, Facts, assert_same, differences, everything, heavy, number, sh, wait_for};
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
        &format!(
            "3 name s nightly store_location s {} content a{{sv}} 1 projects aa{{sv}} 1 1 project_regex s *",
            store.display()
        ),
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
        sh(
            daemon.dir(),
            &format!(
                "mkdir {0}; tar -C {0} --xattrs --xattrs-include='*' --acls -xf {1}",
                out.display(),
                result.display()
            ),
        );
        sh(&out, "sha256sum -c SHA256SUMS --quiet");
        let copy = copy_of(&out, "default", "web", &source);
        assert_eq!(differences(&source, &copy), "");
        assert_same(&source, &copy, Facts::Mounted);
    }
}

/// The examples of the document that tasks are after, as busctl calls.
#[test]
fn b1_both_examples_run_as_printed() {
    needs_root!("b1_both_examples_run_as_printed");
    let daemon = Daemon::start();
    let source = daemon.source();
    sh(&source, "mkdir deep; echo one > one; echo two > deep/two; chown 1234:2345 one; chmod 640 one");
    daemon.add("web", &source);
    let before = daemon.path("before");
    sh(daemon.dir(), "cp -a source before");
    let store = daemon.path("backuptest");
    // {"name": "test", "storeLocation": …, "content": {"commonData": true, "compression": true, "projects": [{"projectRegex": "*"}]}}
    let id = daemon.ok(&format!(
        "CreateTask a{{sv}} 3 name s test store_location s {} content a{{sv}} 3 common_data b true compression b true projects aa{{sv}} 1 1 project_regex s *",
        store.display()
    ));
    assert_eq!(id, "1", "decimal text");
    let task = finished(&daemon, "1");
    let archive = path(&task);
    assert!(archive.starts_with(store.join("test")));
    assert!(sh(daemon.dir(), &format!("tar -tf {}", archive.display())).contains("COMMON_DATA.json"));
    assert_eq!(task["type"], "DATA_BACKUP", "the default");
    assert_eq!(task["created_by"].as_str().unwrap(), sh(daemon.dir(), "id -un").trim());
    assert_eq!(task["last_modified_by"], task["created_by"]);
    for time in ["created_date", "last_modified_date", "start_date", "end_date"] {
        assert!(task[time].as_str().is_some_and(|t| t.ends_with('Z')), "{time}: {task}");
    }
    // The task is an object of its own.
    let words = ["ss", "org.strongroom1.Task", "Info"];
    let info = daemon.object("/org/strongroom1/task/1", "org.freedesktop.DBus.Properties", "Get", &words).unwrap();
    assert_eq!(info, daemon.ok("GetTask s 1"));

    sh(&source, "echo other > one; rm -r deep; echo new > new");
    // {"name": "test1-restore", "storeLocation": …, "type": "DATA_RESTORE", "content": the same}
    let task = run(
        &daemon,
        &format!(
            "4 name s test1-restore store_location s {} type s DATA_RESTORE content a{{sv}} 3 common_data b true compression b true projects aa{{sv}} 1 1 project_regex s *",
            archive.display()
        ),
    );
    assert_eq!(task["result"], "completed", "{task}");
    assert_eq!(sh(&source, "cat new"), "new\n", "what the copy does not know stays");
    sh(&source, "rm new; touch -r ../before .");
    assert_eq!(differences(&before, &source), "");
}

#[test]
fn b1_everything_is_checked_before_anything_is_written() {
    needs_root!("b1_everything_is_checked_before_anything_is_written");
    let daemon = Daemon::start();
    sh(daemon.dir(), "echo x > plain; ln -s /etc link; mkdir other");
    daemon.add("web", &daemon.source());
    let store = daemon.path("copies");
    let head = format!("name s t store_location s {}", store.display());
    let all = "content a{sv} 1 projects aa{sv} 1 1 project_regex s *";
    let setting = |text: &str| format!("4 {head} {all} backup_setting a{{sv}} {text}");
    let bad = [
        (format!("1 {}", all), INVALID, "name"),
        (format!("2 name s t {all}"), INVALID, "store_location"),
        (format!("2 {head}"), INVALID, "content"),
        (format!("3 name s a/b store_location s {} {all}", store.display()), INVALID, "name"),
        (format!("3 name s t store_location s copies {all}"), INVALID, "absolute"),
        (format!("3 name s t store_location s {}/../x {all}", store.display()), INVALID, ".."),
        (format!("3 name s t store_location s {}/inside {all}", daemon.path("state").display()), INVALID, "own"),
        (format!("3 name s t store_location s {}/x {all}", daemon.path("plain").display()), INVALID, "store_location"),
        (format!("3 name s t store_location s {}/x {all}", daemon.path("link").display()), INVALID, "symbolic link"),
        (format!("4 {head} {all} colour s red"), INVALID, "colour"),
        (format!("4 {head} {all} type s DATA_LOSS"), INVALID, "type"),
        (format!("3 {head} content a{{sv}} 0"), INVALID, "content"),
        (format!("3 {head} content a{{sv}} 1 colour s red"), INVALID, "content: unknown key \"colour\""),
        (format!("3 {head} content a{{sv}} 1 common_data s yes"), INVALID, "common_data"),
        (format!("3 {head} content a{{sv}} 1 projects aa{{sv}} 1 0"), INVALID, "project_id"),
        (format!("3 {head} content a{{sv}} 1 projects aa{{sv}} 1 1 project_regex s ("), INVALID, "project_regex"),
        (
            format!("3 {head} content a{{sv}} 1 projects aa{{sv}} 1 2 project_regex s * repo_regex s a)|(b"),
            INVALID,
            "repo_regex",
        ),
        (format!("3 {head} content a{{sv}} 1 projects aa{{sv}} 1 1 project_id s nowhere"), NOT_FOUND, "nowhere"),
        (
            format!("3 {head} content a{{sv}} 1 projects aa{{sv}} 1 2 project_id s default repo_list as 1 nothing"),
            NOT_FOUND,
            "nothing",
        ),
        (format!("3 {head} content a{{sv}} 2 common_data b true increment_date s 2026-01-01"), INVALID, "increment"),
        (
            format!("3 {head} content a{{sv}} 3 common_data b true increment b true increment_date s yesterday"),
            INVALID,
            "increment_date",
        ),
        (format!("3 {head} content a{{sv}} 2 common_data b true format s tar.gz"), INVALID, "compression"),
        (setting("1 conflict_strategy s skip"), INVALID, "conflict_strategy"),
        (setting("1 error_strategy s GIVE_UP"), INVALID, "error_strategy"),
        (setting("1 execution_strategy s SOMETIME"), INVALID, "execution_strategy"),
        (setting("1 execution_strategy s SPECIFIED_TIME"), INVALID, "execute_time"),
        (
            setting("2 execution_strategy s SPECIFIED_TIME execution_plan a{sv} 1 execute_time s 2001-01-01T00:00:00Z"),
            INVALID,
            "past",
        ),
        (setting("1 execution_strategy s CRON_EXPRESSION"), INVALID, "cron_expression"),
        (
            setting("2 execution_strategy s CRON_EXPRESSION execution_plan a{sv} 1 cron_expression s never"),
            INVALID,
            "cron_expression",
        ),
        (setting("1 execution_plan a{sv} 1 cron_expression s @daily"), INVALID, "cron_expression"),
        (setting("1 space_cap_check s no"), INVALID, "space_cap_check"),
        (setting("1 colour s red"), INVALID, "colour"),
        (format!("4 {head} {all} type s DATA_RESTORE"), INVALID, "store_location"),
    ];
    let before = daemon.catalog();
    for (line, error, word) in &bad {
        let failure = daemon.call(&format!("CreateTask a{{sv}} {line}")).unwrap_err();
        assert_eq!(&failure.name, error, "{line}: {failure:?}");
        assert!(failure.message.contains(word), "{line}: {failure:?}");
    }
    assert_eq!(daemon.catalog(), before);
    assert_eq!(daemon.ok("ListTasks a{sv} 0")["total_records"], 0);
    assert!(!store.exists(), "nothing was written");
    for (line, error) in [
        ("GetTask s 1", NOT_FOUND),
        ("GetTask s one", INVALID),
        ("GetTask s ''", INVALID),
        ("ExecuteTask sa{sv} 1 0", NOT_FOUND),
        ("RemoveTask sa{sv} 1 0", NOT_FOUND),
        ("ListTasks a{sv} 1 state s SLEEPING", INVALID),
        ("ListTasks a{sv} 1 page_size i 0", INVALID),
        ("ListTasks a{sv} 1 page i 1", INVALID),
    ] {
        assert_eq!(daemon.call(line).unwrap_err().name, error, "{line}");
    }
}

#[test]
fn b2_common_data_goes_out_without_secrets_and_comes_back() {
    needs_root!("b2_common_data_goes_out_without_secrets_and_comes_back");
    let daemon = Daemon::start();
    sh(&daemon.source(), "echo x > x");
    daemon.ok("AddProject sa{sv} shop 0");
    daemon.ok(&format!("AddResource sa{{sv}} till 2 project s shop paths as 1 {}", daemon.source().display()));
    daemon.ok(&format!("AddDestination ssa{{sv}} far local 1 directory s {}", daemon.path("far").display()));
    daemon.ok("AddVault sa{sv} far 1 destinations as 1 far");
    for (name, more) in [("yearly", "2 vault s main"), ("away", "2 vault s far"), ("all", "1")] {
        daemon.ok(&format!("SetSchedule sa{{sv}} {name} {more} cron s @yearly"));
    }
    daemon.ok("SetSchedule sa{sv} yearly 3 resources as 1 till keep_weekly u 7 timezone s Asia/Tokyo");
    let store = daemon.path("copies");
    let folder = result(
        &daemon,
        &format!("3 name s self store_location s {} content a{{sv}} 1 common_data b true", store.display()),
    );
    let text = std::fs::read_to_string(folder.join("COMMON_DATA.json")).unwrap();
    let data: Reply = serde_json::from_str(&text).unwrap();
    assert_eq!(data["resources"][0]["name"], "till");
    sh(&folder, "sha256sum -c SHA256SUMS --quiet");
    // No key of the vault is in it, in whatever form.
    for key in std::fs::read_dir(daemon.path("state/keys")).unwrap() {
        let key = std::fs::read(key.unwrap().path()).unwrap();
        let hex: String = key.iter().map(|b| format!("{b:02x}")).collect();
        assert!(!text.contains(&hex) && !text.as_bytes().windows(key.len()).any(|w| w == key));
    }

    // Another machine, which knows something by that number already.
    let other = Daemon::start();
    sh(&other.source(), "echo x > x");
    other.add("mine", &other.source());
    let task = run(
        &other,
        &format!(
            "4 name s import store_location s {} type s DATA_RESTORE content a{{sv}} 1 common_data b true",
            folder.display()
        ),
    );
    assert_eq!(task["result"], "completed", "{task}");
    let till = other.ok("GetResource s shop/till");
    assert_eq!(till["paths"][0], daemon.source().to_str().unwrap());
    assert_eq!((till["id"].as_u64(), other.ok("GetResource s mine")["id"].as_u64()), (Some(2), Some(1)));
    assert_eq!(other.ok("ListProjects a{sv} 0")[0], 2);
    let yearly = other.ok("GetSchedule s yearly");
    assert_eq!((&yearly["resources"], &yearly["vault"]), (&serde_json::json!(["till"]), &"main".into()), "{yearly}");
    assert_eq!((&yearly["keep_weekly"], &yearly["timezone"]), (&7.into(), &"Asia/Tokyo".into()));
    assert!(yearly["next_run"].as_str().unwrap().ends_with("-12-31T15:00:00.000Z"), "{yearly}");
    assert_eq!(other.ok("GetSchedule s all")["resources"], serde_json::json!([]));
    // The vault it is for is not here, so it fills no other.
    assert_eq!(other.ok("GetSchedule s away")["enabled"], false);
    assert_eq!(task["report"]["common_data"]["schedules_switched_off"], serde_json::json!(["away"]), "{task}");
    let run = other.ok("RunSchedule sa{sv} yearly 0");
    assert_eq!(other.wait(number(&run[0]))["state"], "completed");
    assert_eq!(sh(&other.store(), "find backups -type f | wc -l").trim(), "1");
    assert_eq!(other.ok("ListTasks a{sv} 0")["total_records"], 2, "the task that wrote it, and the one that read it");
    // Again: nothing is missing any more.
    let again = other.ok(&format!("ExecuteTask sa{{sv}} {} 0", task["id"].as_str().unwrap()));
    let job = other.wait(number(&again));
    assert_eq!(
        job["result"]["common_data"],
        serde_json::json!({"projects": 0, "resources": 0, "schedules": 0, "tasks": 0})
    );
}

#[test]
fn b2_increments_hold_what_changed_since_the_day_before_or_a_date() {
    needs_root!("b2_increments_hold_what_changed_since_the_day_before_or_a_date");
    let daemon = Daemon::start();
    let source = daemon.source();
    sh(
        &source,
        "mkdir -p old new/deep empty; echo old > old/file; echo new > new/deep/file; echo a > both; ln both new/both; ln -s x new/link",
    );
    daemon.add("web", &source);
    let increment = |keys: &str| {
        let folder = result(
            &daemon,
            &format!(
                "3 name s part store_location s {} content a{{sv}} {keys} projects aa{{sv}} 1 1 project_regex s *",
                daemon.path("copies").display()
            ),
        );
        let copy = copy_of(&folder, "default", "web", &source);
        if copy.exists() { sh(&copy, "find . -mindepth 1 | sort") } else { String::new() }
    };
    // All of it changed today.
    let all = sh(&source, "find . -mindepth 1 | sort");
    assert_eq!(increment("2 increment b true"), all.replace("./empty\n", ""));
    assert_eq!(increment("3 increment b true increment_date s 2001-01-01"), all.replace("./empty\n", ""));
    assert_eq!(increment("2 increment b false"), all);
    std::thread::sleep(Duration::from_millis(1100));
    let now = sh(&source, "date -u +%Y-%m-%dT%H:%M:%SZ").trim().to_owned();
    assert_eq!(increment(&format!("3 increment b true increment_date s {now}")), "");
    // A change of the content, and a change of the metadata alone.
    sh(&source, "echo newer > new/deep/file; touch -d 2001-01-01 new/deep/file; chmod 600 both");
    let since = increment(&format!("3 increment b true increment_date s {now}"));
    assert_eq!(since, "./both\n./new\n./new/both\n./new/deep\n./new/deep/file\n");
}

/// A daemon with projects `alpha` (web, mail, logs), `beta` (web) and `gamma` (web), each resource
/// with a file of its name.
fn projects() -> Daemon {
    let daemon = Daemon::start();
    for (project, resource) in
        [("alpha", "web"), ("alpha", "mail"), ("alpha", "logs"), ("beta", "web"), ("gamma", "web")]
    {
        let _ = daemon.call(&format!("AddProject sa{{sv}} {project} 0"));
        let path = daemon.path(&format!("data/{project}/{resource}"));
        sh(daemon.dir(), &format!("mkdir -p {0}; echo {project} {resource} > {0}/file", path.display()));
        daemon.ok(&format!("AddResource sa{{sv}} {resource} 2 project s {project} paths as 1 {}", path.display()));
    }
    daemon
}

#[test]
fn b3_projects_and_repos_are_chosen_by_name_by_id_and_by_whole_name() {
    needs_root!("b3_projects_and_repos_are_chosen_by_name_by_id_and_by_whole_name");
    let daemon = projects();
    let beta = daemon.ok("ListProjects a{sv} 1 sort as 1 name")[1][1]["id"].as_u64().unwrap();
    let mail = daemon.ok("GetResource s alpha/mail")["id"].as_u64().unwrap();
    let chosen = |projects: &str| {
        let folder = result(
            &daemon,
            &format!(
                "3 name s choice store_location s {} content a{{sv}} 1 projects aa{{sv}} {projects}",
                daemon.path("copies").display()
            ),
        );
        sh(&folder.join("projects"), "find . -mindepth 2 -maxdepth 2 -printf '%P ' | tr ' ' '\\n' | sort | xargs echo")
            .trim()
            .to_owned()
    };
    let everything = "alpha/logs alpha/mail alpha/web beta/web gamma/web";
    assert_eq!(chosen("1 1 project_regex s *"), everything);
    assert_eq!(chosen("1 1 project_regex s .*"), everything);
    assert_eq!(chosen("1 1 project_regex s .*a"), everything);
    assert_eq!(chosen("1 1 project_id s alpha"), "alpha/logs alpha/mail alpha/web");
    assert_eq!(chosen(&format!("1 1 project_id s {beta}")), "beta/web");
    assert_eq!(chosen("1 1 project_regex s (alpha|gamma)"), "alpha/logs alpha/mail alpha/web gamma/web");
    assert_eq!(chosen("1 2 project_id s alpha repo_list as 2 web logs"), "alpha/logs alpha/web");
    assert_eq!(chosen(&format!("1 2 project_regex s * repo_list as 1 {mail}")), "alpha/mail");
    assert_eq!(chosen("1 2 project_regex s * repo_regex s we."), "alpha/web beta/web gamma/web");
    assert_eq!(
        chosen("1 3 project_regex s * repo_regex s we. repo_list as 1 mail"),
        "alpha/mail alpha/web beta/web gamma/web"
    );
    assert_eq!(chosen("1 2 project_regex s * exclude_projects as 2 alpha gamma"), "beta/web");
    assert_eq!(chosen("1 2 project_id s alpha exclude_repos as 1 mail"), "alpha/logs alpha/web");
    assert_eq!(chosen("2 2 project_id s alpha repo_list as 1 mail 1 project_id s gamma"), "alpha/mail gamma/web");
    // A part of a name is no match, and the run that finds nothing says so.
    let task = run(
        &daemon,
        &format!(
            "3 name s none store_location s {} content a{{sv}} 1 projects aa{{sv}} 1 1 project_regex s alph",
            daemon.path("copies").display()
        ),
    );
    assert_eq!((&task["result"], &task["state"]), (&"failed".into(), &"FINISHED".into()));
    assert!(task["error"].as_str().unwrap().contains("nothing"), "{task}");
    assert!(!daemon.path("copies/none").exists());
    // What a task names exactly cannot go before it.
    for (line, word) in [("RemoveResource sa{sv} alpha/logs 0", "choice"), ("RemoveProject sa{sv} gamma 0", "")] {
        let failure = daemon.call(line).unwrap_err();
        assert_eq!(failure.name, STATE, "{line}");
        assert!(failure.message.contains(word), "{failure:?}");
    }
    daemon.ok("AddProject sa{sv} delta 0");
    let id = daemon.ok(&format!(
        "CreateTask a{{sv}} 3 name s delta store_location s {} content a{{sv}} 1 projects aa{{sv}} 1 1 project_id s delta",
        daemon.path("copies").display()
    ));
    finished(&daemon, id.as_str().unwrap());
    let failure = daemon.call("RemoveProject sa{sv} delta 0").unwrap_err();
    assert!(failure.name == STATE && failure.message.contains("task"), "{failure:?}");
    daemon.ok(&format!("RemoveTask sa{{sv}} {} 0", id.as_str().unwrap()));
    daemon.ok("RemoveProject sa{sv} delta 0");

    // The same choice on the way back.
    let folder = result(
        &daemon,
        &format!(
            "3 name s whole store_location s {} content a{{sv}} 1 projects aa{{sv}} 1 1 project_regex s *",
            daemon.path("copies").display()
        ),
    );
    sh(daemon.dir(), "rm data/*/*/file");
    let task = run(
        &daemon,
        &format!(
            "4 name s back store_location s {} type s DATA_RESTORE content a{{sv}} 1 projects aa{{sv}} 1 2 project_id s alpha exclude_repos as 1 logs",
            folder.display()
        ),
    );
    assert_eq!(task["result"], "completed", "{task}");
    assert_eq!(sh(daemon.dir(), "cat data/*/*/file | sort"), "alpha mail\nalpha web\n");
}

#[test]
fn b4_what_stands_in_the_way_is_overwritten_or_left() {
    needs_root!("b4_what_stands_in_the_way_is_overwritten_or_left");
    let daemon = Daemon::start();
    let source = daemon.source();
    sh(&source, "mkdir dir; for i in a b c; do echo $i > $i; done; echo deep > dir/deep; chmod 750 dir");
    daemon.add("web", &source);
    sh(daemon.dir(), "cp -a source before");
    let folder = result(
        &daemon,
        &format!(
            "3 name s t store_location s {} content a{{sv}} 1 projects aa{{sv}} 1 1 project_regex s *",
            daemon.path("copies").display()
        ),
    );
    let restore = |strategy: &str| {
        let task = run(
            &daemon,
            &format!(
                "5 name s back store_location s {} type s DATA_RESTORE content a{{sv}} 1 projects aa{{sv}} 1 1 project_regex s * backup_setting a{{sv}} {strategy}",
                folder.display()
            ),
        );
        assert_eq!(task["result"], "completed", "{task}");
        task
    };
    sh(&source, "echo changed > a; rm b; chmod 700 dir; ln -sf /etc/passwd c");
    let task = restore("1 conflict_strategy s SKIP");
    assert_eq!(sh(&source, "cat a b; readlink c; stat -c %a dir"), "changed\nb\n/etc/passwd\n700\n");
    assert!(task["report"]["skipped"].as_u64().unwrap() >= 2, "{task}");
    let passwd = std::fs::read("/etc/passwd").unwrap();
    restore("1 conflict_strategy s OVERWRITE");
    assert_eq!(differences(&daemon.path("before"), &source), "");
    assert_eq!(std::fs::read("/etc/passwd").unwrap(), passwd, "the link was replaced, not followed");
    // Nothing to do: nothing is written again.
    let inodes = sh(&source, "find . -printf '%i %p\\n' | sort");
    restore("0");
    assert_eq!(sh(&source, "find . -printf '%i %p\\n' | sort"), inodes);
}

#[test]
fn b4_errors_are_passed_over_or_end_the_run() {
    needs_root!("b4_errors_are_passed_over_or_end_the_run");
    let daemon = Daemon::start();
    let source = daemon.source();
    sh(&source, "for i in a b c; do echo $i > $i; done");
    // A path that is gone when the task runs is an error of its own.
    sh(daemon.dir(), "mkdir gone");
    daemon.ok(&format!("AddResource sa{{sv}} web 1 paths as 2 {} {}", source.display(), daemon.path("gone").display()));
    sh(daemon.dir(), "rmdir gone");
    let copy = |name: &str, strategy: &str| {
        run(
            &daemon,
            &format!(
                "4 name s {name} store_location s {} content a{{sv}} 1 projects aa{{sv}} 1 1 project_regex s * backup_setting a{{sv}} 1 error_strategy s {strategy}",
                daemon.path("copies").display()
            ),
        )
    };
    let task = copy("on", "CONTINUE");
    let folder = path(&task);
    assert_eq!((&task["report"]["errors"], &task["report"]["error_list"][0]["code"]), (&1.into(), &"vanished".into()));
    assert_eq!(differences(&source, &copy_of(&folder, "default", "web", &source)), "");
    let task = copy("off", "FAST_FAIL");
    assert_eq!(task["result"], "failed", "{task}");
    assert!(task["error"].as_str().unwrap().contains("gone"), "{task}");
    assert_eq!(names(&daemon.path("copies/off")), Vec::<String>::new(), "nothing half-finished");

    // On the way back: a file that is not what was written is never given a name.
    let stored = copy_of(&folder, "default", "web", &source).join("b");
    sh(daemon.dir(), &format!("echo B > {}", stored.display()));
    assert!(sh(&folder, "sha256sum -c SHA256SUMS 2>/dev/null | grep -c FAILED || true").trim() == "1");
    sh(&source, "rm a b c");
    let back = |strategy: &str| {
        run(
            &daemon,
            &format!(
                "5 name s back store_location s {} type s DATA_RESTORE content a{{sv}} 1 projects aa{{sv}} 1 1 project_regex s * backup_setting a{{sv}} 1 error_strategy s {strategy}",
                folder.display()
            ),
        )
    };
    let task = back("FAST_FAIL");
    assert_eq!(task["result"], "failed", "{task}");
    let task = back("CONTINUE");
    assert_eq!((&task["result"], &task["report"]["errors"]), (&"completed".into(), &1.into()), "{task}");
    assert_eq!(task["report"]["error_list"][0]["code"], "damaged");
    assert_eq!(names(&source), ["a", "c"]);
    // A list of entries that is not the manifest's is not even begun with.
    sh(&folder, "sed -i 's/\"mode\":[0-9]*/\"mode\":2541/' ENTRIES.jsonl");
    sh(&source, "rm a c");
    let task = back("CONTINUE");
    assert!(task["result"] == "failed" && task["error"].as_str().unwrap().contains("ENTRIES.jsonl"), "{task}");
    assert_eq!(names(&source), Vec::<String>::new());
}

#[test]
fn b5_tasks_run_at_once_at_a_time_and_again_and_again() {
    needs_root!("b5_tasks_run_at_once_at_a_time_and_again_and_again");
    let daemon = Daemon::start();
    sh(&daemon.source(), "echo x > x");
    daemon.add("web", &daemon.source());
    let create = |name: &str, setting: &str| {
        daemon
            .ok(&format!(
                "CreateTask a{{sv}} 4 name s {name} store_location s {} content a{{sv}} 1 projects aa{{sv}} 1 1 project_regex s * backup_setting a{{sv}} {setting}",
                daemon.path("copies").display()
            ))
            .as_str()
            .unwrap()
            .to_owned()
    };
    let results = |name: &str| {
        let dir = daemon.path("copies").join(name);
        if dir.exists() { names(&dir).len() } else { 0 }
    };
    let never = create("never", "1 execution_plan a{sv} 1 execute_immediately b false");
    let once = create(
        "once",
        &format!(
            "2 execution_strategy s SPECIFIED_TIME execution_plan a{{sv}} 1 execute_time s {}",
            sh(daemon.dir(), "date -u -d '+3 seconds' +%Y-%m-%dT%H:%M:%SZ").trim()
        ),
    );
    let often = {
        let line = [
            "a{sv}",
            "4",
            "name",
            "s",
            "often",
            "store_location",
            "s",
            daemon.path("copies").to_str().unwrap(),
            "content",
            "a{sv}",
            "1",
            "projects",
            "aa{sv}",
            "1",
            "1",
            "project_regex",
            "s",
            "*",
            "backup_setting",
            "a{sv}",
            "2",
            "execution_strategy",
            "s",
            "CRON_EXPRESSION",
            "execution_plan",
            "a{sv}",
            "1",
            "cron_expression",
            "s",
            "*/1 * * * * *",
        ]
        .map(str::to_owned);
        daemon.call_with("CreateTask", &line).unwrap().as_str().unwrap().to_owned()
    };
    let night = {
        let line = [
            "a{sv}",
            "4",
            "name",
            "s",
            "night",
            "store_location",
            "s",
            daemon.path("copies").to_str().unwrap(),
            "content",
            "a{sv}",
            "1",
            "projects",
            "aa{sv}",
            "1",
            "1",
            "project_regex",
            "s",
            "*",
            "backup_setting",
            "a{sv}",
            "2",
            "execution_strategy",
            "s",
            "CRON_EXPRESSION",
            "execution_plan",
            "a{sv}",
            "1",
            "cron_expression",
            "s",
            "30 2 1 1 *",
        ]
        .map(str::to_owned);
        daemon.call_with("CreateTask", &line).unwrap().as_str().unwrap().to_owned()
    };
    assert!(daemon.ok(&format!("GetTask s {night}"))["next_run"].as_str().unwrap().contains("-01-01T"));
    assert_eq!(daemon.ok(&format!("GetTask s {once}"))["state"], "PENDING");
    assert_eq!(results("once"), 0);
    wait_for("a second and a third run", PATIENCE, || results("often") >= 2);
    wait_for("the one run", PATIENCE, || results("once") == 1);
    wait_for("the end of the last run", PATIENCE, || daemon.call(&format!("RemoveTask sa{{sv}} {often} 0")).is_ok());
    let count = results("often");
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(results("often"), count, "a removed task does not run, and its results stay");
    assert_eq!(results("once"), 1, "once");
    let task = daemon.ok(&format!("GetTask s {once}"));
    assert!(task["state"] == "FINISHED" && task.get("next_run").is_none(), "{task}");
    assert_eq!(daemon.ok(&format!("GetTask s {never}"))["state"], "PENDING");
    assert_eq!((results("never"), results("night")), (0, 0));
}

#[test]
fn b5_runs_that_were_missed_are_caught_up_once() {
    needs_root!("b5_runs_that_were_missed_are_caught_up_once");
    let mut daemon = Daemon::start();
    sh(&daemon.source(), "echo x > x");
    daemon.add("web", &daemon.source());
    let time = sh(daemon.dir(), "date -u -d '+2 seconds' +%Y-%m-%dT%H:%M:%SZ");
    daemon.ok(&format!(
        "CreateTask a{{sv}} 4 name s late store_location s {} content a{{sv}} 1 projects aa{{sv}} 1 1 project_regex s * backup_setting a{{sv}} 2 execution_strategy s SPECIFIED_TIME execution_plan a{{sv}} 1 execute_time s {}",
        daemon.path("copies").display(),
        time.trim()
    ));
    daemon.kill();
    std::thread::sleep(Duration::from_millis(3000));
    daemon.start_again();
    finished(&daemon, "1");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(names(&daemon.path("copies/late")).len(), 1);
}

#[test]
fn b6_what_does_not_fit_is_refused_before_the_first_byte() {
    needs_root!("b6_what_does_not_fit_is_refused_before_the_first_byte");
    let daemon = Daemon::start();
    sh(&daemon.source(), "head -c 24000000 /dev/zero > large");
    daemon.add("web", &daemon.source());
    let disk = Disk::new("ext4", 20, &daemon.path("small"));
    let used = || sh(&disk.path, "df --output=used -B1 . | tail -1").trim().parse::<u64>().unwrap();
    let before = used();
    let copy = |name: &str, rest: &str, compression: bool| {
        run(
            &daemon,
            &format!(
                "4 name s {name} store_location s {} content a{{sv}} 2 compression b {compression} projects aa{{sv}} 1 1 project_regex s * backup_setting a{{sv}} {rest}",
                disk.path.join("copies").display()
            ),
        )
    };
    let task = copy("checked", "0", false);
    assert_eq!(
        (&task["result"], &task["backup_setting"]["space_cap_check"]),
        (&"failed".into(), &true.into()),
        "{task}"
    );
    let job = daemon.ok(&format!("GetJob t {}", number(&task["job"])));
    assert_eq!(job["error_name"], NO_SPACE);
    assert!(task["error"].as_str().unwrap().contains("room"), "{task}");
    assert_eq!(used(), before);
    assert!(!disk.path.join("copies").exists());
    // Without the check it is tried, fails, and leaves nothing.
    let task = copy("bold", "1 space_cap_check b false", false);
    assert_eq!(task["result"], "failed", "{task}");
    assert_eq!(daemon.ok(&format!("GetJob t {}", number(&task["job"])))["error_name"], NO_SPACE);
    assert_eq!(names(&disk.path.join("copies/bold")), Vec::<String>::new());
    // What is compressed may well fit.
    let task = copy("packed", "1 space_cap_check b false", true);
    assert!(path(&task).is_file());

    // The way back.
    sh(&daemon.source(), "rm large");
    let small = daemon.path("source");
    let limited = Disk::new("ext4", 20, &small);
    let task = run(
        &daemon,
        &format!(
            "4 name s back store_location s {} type s DATA_RESTORE content a{{sv}} 1 projects aa{{sv}} 1 1 project_regex s *",
            path(&task).display()
        ),
    );
    assert!(task["result"] == "failed" && task["error"].as_str().unwrap().contains("room"), "{task}");
    assert_eq!(names(&limited.path), Vec::<String>::new());
}

#[test]
fn b7_a_folder_and_an_archive_come_back_as_they_were() {
    needs_root!("b7_a_folder_and_an_archive_come_back_as_they_were");
    let daemon = Daemon::start();
    let source = daemon.source();
    everything(&source);
    sh(&source, "chattr +i plain; chattr +a acl; chattr +d attributes");
    daemon.add("web", &source);
    let before = daemon.path("before");
    sh(daemon.dir(), "cp -a source before; chattr +i before/plain; chattr +a before/acl; chattr +d before/attributes");
    for compression in [false, true] {
        let result = result(
            &daemon,
            &format!(
                "3 name s t store_location s {} content a{{sv}} 2 compression b {compression} projects aa{{sv}} 1 1 project_regex s *",
                daemon.path("copies").display()
            ),
        );
        // Into nothing, then over something else.
        for damage in [
            "chattr -R -f -ia . || true; find . -mindepth 1 -delete",
            "chattr -R -f -ia . || true; echo changed > plain; rm -r a/b; rm hard1; echo other > hard1; chmod 600 large; ln -sf elsewhere link1; rm fifo; echo file > fifo; \
             setfacl -b acls; setfattr -x user.note attributes; rm hollow; rm -r empty; echo file > empty; touch sticky",
        ] {
            sh(&source, damage);
            let task = run(
                &daemon,
                &format!(
                    "4 name s back store_location s {} type s DATA_RESTORE content a{{sv}} 1 projects aa{{sv}} 1 1 project_regex s *",
                    result.display()
                ),
            );
            assert_eq!((&task["result"], &task["report"]["errors"]), (&"completed".into(), &0.into()), "{task}");
            assert_eq!(differences(&before, &source), "", "{damage}");
            assert_same(&before, &source, Facts::Restored);
        }
    }
}

#[test]
fn b7_two_runs_in_one_second_do_not_collide() {
    needs_root!("b7_two_runs_in_one_second_do_not_collide");
    let daemon = Daemon::start();
    sh(&daemon.source(), "echo x > x");
    daemon.add("web", &daemon.source());
    let line = format!(
        "CreateTask a{{sv}} 3 name s twin store_location s {} content a{{sv}} 1 projects aa{{sv}} 1 1 project_regex s *",
        daemon.path("copies").display()
    );
    let ids: Vec<Reply> = (0..6).map(|_| daemon.ok(&line)).collect();
    ids.iter().for_each(|id| drop(finished(&daemon, id.as_str().unwrap())));
    let results = names(&daemon.path("copies/twin"));
    assert_eq!(results.len(), 6, "{results:?}");
    for name in results {
        let copy = copy_of(&daemon.path("copies/twin").join(name), "default", "web", &daemon.source());
        assert_eq!(differences(&daemon.source(), &copy), "");
    }
}

#[test]
fn b7_a_copy_never_copies_itself() {
    needs_root!("b7_a_copy_never_copies_itself");
    let daemon = Daemon::start();
    let source = daemon.source();
    sh(&source, "mkdir backups; echo x > x; echo mine > backups/mine");
    daemon.add("web", &source);
    let line = format!(
        "3 name s inside store_location s {}/backups content a{{sv}} 1 projects aa{{sv}} 1 1 project_regex s *",
        source.display()
    );
    for _ in 0..3 {
        let folder = result(&daemon, &line);
        let copy = copy_of(&folder, "default", "web", &source);
        assert_eq!(sh(&copy, "find . -type f | sort"), "./backups/mine\n./x\n");
    }
}

#[test]
fn b8_a_task_is_executed_again_and_again() {
    needs_root!("b8_a_task_is_executed_again_and_again");
    let daemon = Daemon::start();
    sh(&daemon.source(), "echo 0 > x");
    daemon.add("web", &daemon.source());
    let id = daemon.ok(&format!(
        "CreateTask a{{sv}} 4 name s again store_location s {} content a{{sv}} 1 projects aa{{sv}} 1 1 project_regex s * backup_setting a{{sv}} 1 execution_plan a{{sv}} 1 execute_immediately b false",
        daemon.path("copies").display()
    ));
    let id = id.as_str().unwrap();
    for n in 1..=3 {
        sh(&daemon.source(), &format!("echo {n} > x"));
        let job = daemon.work(&format!("ExecuteTask sa{{sv}} {id} 0"));
        assert_eq!((&job["kind"], &job["task"]), (&"task_backup".into(), &id.into()));
        let copy = copy_of(Path::new(job["result"]["path"].as_str().unwrap()), "default", "web", &daemon.source());
        assert_eq!(std::fs::read_to_string(copy.join("x")).unwrap(), format!("{n}\n"));
    }
    assert_eq!(names(&daemon.path("copies/again")).len(), 3);
    // One at a time, as backups are: what waits is PENDING, and is not run twice.
    sh(&daemon.source(), "head -c 60000000 /dev/urandom > large");
    let first = number(&daemon.ok(&format!("ExecuteTask sa{{sv}} {id} 0")));
    let failure = daemon.call(&format!("ExecuteTask sa{{sv}} {id} 0"));
    let removal = daemon.call(&format!("RemoveTask sa{{sv}} {id} 0"));
    if let (Err(failure), Err(removal)) = (failure, removal) {
        assert_eq!((failure.name.as_str(), removal.name.as_str()), (STATE, STATE));
    } else {
        assert_ne!(daemon.ok(&format!("GetJob t {first}"))["state"], "running", "it was run twice at once");
    }
    daemon.wait(first);
}

#[test]
fn b9_tasks_are_listed_by_state_in_pages() {
    needs_root!("b9_tasks_are_listed_by_state_in_pages");
    let daemon = Daemon::start();
    sh(&daemon.source(), "echo x > x");
    daemon.add("backuptest", &daemon.source());
    let create = |name: &str, setting: &str| {
        daemon.ok(&format!(
            "CreateTask a{{sv}} 4 name s {name} store_location s {} content a{{sv}} 1 projects aa{{sv}} 1 1 project_id s default backup_setting a{{sv}} {setting}",
            daemon.path("copies").display()
        ))
    };
    for n in 1..=7 {
        let id = create(&format!("done{n}"), "1 conflict_strategy s SKIP");
        finished(&daemon, id.as_str().unwrap());
    }
    for n in 1..=3 {
        create(&format!("later{n}"), "1 execution_plan a{sv} 1 execute_immediately b false");
    }
    // The page as the document shows it: page size 1, 7 records.
    let page = daemon.ok("ListTasks a{sv} 3 state s FINISHED page_size i 1 page_number i 1");
    for (key, value) in
        [("page_number", 1), ("page_size", 1), ("total_records", 7), ("total_pages", 7), ("count", 7), ("page", 1)]
    {
        assert_eq!(page[key], value, "{key}: {page}");
    }
    let record = &page["records"][0];
    assert_eq!(page["records"].as_array().unwrap().len(), 1);
    assert_eq!(record["id"], "7");
    let content =
        serde_json::json!({"common_data": false, "compression": false, "projects": [{"project_id": "default"}]});
    assert_eq!(record["content"], content);
    let setting = serde_json::json!({
        "conflict_strategy": "SKIP", "error_strategy": "CONTINUE", "execution_strategy": "IMMEDIATELY",
        "execution_plan": {"execute_immediately": true}, "space_cap_check": true,
    });
    assert_eq!(record["backup_setting"], setting);
    for key in [
        "created_by",
        "created_date",
        "last_modified_by",
        "last_modified_date",
        "start_date",
        "end_date",
        "store_location",
        "name",
    ] {
        assert!(record[key].is_string(), "{key}: {record}");
    }
    assert_eq!(
        (&record["type"], &record["state"], &record["result"]),
        (&"DATA_BACKUP".into(), &"FINISHED".into(), &"completed".into())
    );
    assert!(record.get("error").is_none());
    // As many as the results that lie there.
    let dirs = sh(&daemon.path("copies"), "find . -mindepth 2 -maxdepth 2 -name '*-2*' | wc -l");
    assert_eq!(dirs.trim(), "7");

    let page = daemon.ok("ListTasks a{sv} 0");
    assert_eq!((&page["page_size"], &page["total_records"], &page["total_pages"]), (&20.into(), &10.into(), &1.into()));
    let page = daemon.ok("ListTasks a{sv} 2 page_size u 4 page_number u 3");
    let ids: Vec<_> = page["records"].as_array().unwrap().iter().map(|r| r["id"].as_str().unwrap()).collect();
    assert_eq!((ids, &page["total_pages"]), (vec!["2", "1"], &3.into()));
    let page = daemon.ok("ListTasks a{sv} 1 state s PENDING");
    assert_eq!((&page["count"], &page["records"][0]["name"]), (&3.into(), &"later3".into()));
    assert_eq!(daemon.ok("ListTasks a{sv} 1 state s RUNNING")["count"], 0);
    assert_eq!(daemon.ok("ListTasks a{sv} 1 page_number u 9")["records"].as_array().unwrap().len(), 0);
    // A failure is FINISHED as well, and says so.
    sh(&daemon.path("copies"), "echo in the way > failing");
    let id = create("failing", "0");
    let task = finished(&daemon, id.as_str().unwrap());
    assert!(task["result"] == "failed" && task["error"].as_str().unwrap().contains("failing"), "{task}");
}

/// Files that take a while.
fn many(dir: &Path, word: &str) {
    sh(dir, &format!("for i in $(seq 3000); do echo {word} $i > $i; done; head -c 30000000 /dev/urandom > large"));
}

/// Whether a run has begun to write files, or its archive.
fn at_work(results: &Path, source: &Path) -> bool {
    let Some(work) = std::fs::read_dir(results).ok().and_then(|mut dir| dir.next()?.ok()) else { return false };
    let copied = std::fs::read_dir(copy_of(&work.path(), "default", "web", source)).map_or(0, Iterator::count);
    copied > 20 || std::fs::metadata(work.path().join("archive")).is_ok_and(|m| m.len() > 0)
}

#[test]
fn b7_a_kill_in_the_middle_of_a_run_leaves_nothing_that_looks_finished() {
    needs_root!("b7_a_kill_in_the_middle_of_a_run_leaves_nothing_that_looks_finished");
    let _heavy = heavy();
    let mut daemon = Daemon::start();
    let source = daemon.source();
    many(&source, "new");
    daemon.add("web", &source);
    let results = daemon.path("copies/killed");
    for compression in [false, true] {
        let id = daemon.ok(&format!(
            "CreateTask a{{sv}} 3 name s killed store_location s {} content a{{sv}} 2 compression b {compression} projects aa{{sv}} 1 1 project_regex s *",
            daemon.path("copies").display()
        ));
        let id = id.as_str().unwrap();
        wait_for("it is at work", PATIENCE, || at_work(&results, &source));
        daemon.kill();
        // All that is there is under a name that no result has.
        let left = names(&results);
        assert!(left.iter().all(|name| name.starts_with(".strongroom-task-")), "{left:?}");
        assert_eq!(left.len(), 1, "it was killed in the middle");
        daemon.start_again();
        assert_eq!(names(&results), Vec::<String>::new(), "and it is gone");
        let task = finished(&daemon, id);
        assert!(task["result"] == "failed" && task["error"].as_str().unwrap().contains("stopped"), "{task}");
        let job = daemon.work(&format!("ExecuteTask sa{{sv}} {id} 0"));
        let whole = PathBuf::from(job["result"]["path"].as_str().unwrap());
        assert_eq!(names(&results), [whole.file_name().unwrap().to_str().unwrap()]);
        if !compression {
            assert_eq!(differences(&source, &copy_of(&whole, "default", "web", &source)), "");
        }
        sh(&results, "rm -r *");
    }
}

#[test]
fn b7_a_run_that_the_daemons_stop_cuts_off_is_made_up_for() {
    needs_root!("b7_a_run_that_the_daemons_stop_cuts_off_is_made_up_for");
    let _heavy = heavy();
    let mut daemon = Daemon::start();
    let source = daemon.source();
    many(&source, "new");
    daemon.add("web", &source);
    let results = daemon.path("copies/stopped");
    let id = daemon.ok(&format!(
        "CreateTask a{{sv}} 3 name s stopped store_location s {} content a{{sv}} 1 projects aa{{sv}} 1 1 project_regex s *",
        daemon.path("copies").display()
    ));
    wait_for("it is at work", PATIENCE, || at_work(&results, &source));
    assert!(daemon.stop().success());
    assert_eq!(names(&results), Vec::<String>::new(), "it cleans up before it ends");
    daemon.start_again();
    let whole = path(&finished(&daemon, id.as_str().unwrap()));
    assert_eq!(names(&results).len(), 1);
    assert_eq!(differences(&source, &copy_of(&whole, "default", "web", &source)), "");
}

#[test]
fn b7_a_kill_in_the_middle_of_a_restore_leaves_every_file_whole() {
    needs_root!("b7_a_kill_in_the_middle_of_a_restore_leaves_every_file_whole");
    let _heavy = heavy();
    let mut daemon = Daemon::start();
    let source = daemon.source();
    many(&source, "new");
    daemon.add("web", &source);
    let folder = result(
        &daemon,
        &format!(
            "3 name s t store_location s {} content a{{sv}} 1 projects aa{{sv}} 1 1 project_regex s *",
            daemon.path("copies").display()
        ),
    );
    sh(daemon.dir(), "cp -a source before");
    many(&source, "old");
    sh(daemon.dir(), "cp -a source old");
    let id = daemon.ok(&format!(
        "CreateTask a{{sv}} 4 name s back store_location s {} type s DATA_RESTORE content a{{sv}} 1 projects aa{{sv}} 1 1 project_regex s *",
        folder.display()
    ));
    let id = id.as_str().unwrap();
    wait_for("it is at work", PATIENCE, || {
        sh(&source, "cat 1 10 100 1000 1001 2>/dev/null | grep -c '^new' || true").trim() != "0"
    });
    daemon.kill();
    daemon.start_again();
    let task = finished(&daemon, id);
    assert!(task["result"] == "failed" && task["error"].as_str().unwrap().contains("stopped"), "{task}");
    // No temporary name is left, and every file is the old one or the new one.
    assert!(!names(&source).iter().any(|name| name.starts_with(".strongroom")));
    let sums =
        |dir: &str| sh(&daemon.path(dir), "sha256sum * | sort").lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (now, new, old) = (sums("source"), sums("before"), sums("old"));
    assert_eq!(now.len(), new.len());
    assert!(
        now.iter().all(|line| new.contains(line) || old.contains(line)),
        "a file is neither the old nor the new one"
    );
    assert!(now.iter().any(|line| new.contains(line)) && now.iter().any(|line| old.contains(line)), "in the middle");
    daemon.work(&format!("ExecuteTask sa{{sv}} {id} 0"));
    assert_eq!(differences(&daemon.path("before"), &source), "");
}

#[test]
fn b1_the_command_takes_the_document_as_it_is() {
    needs_root!("b1_the_command_takes_the_document_as_it_is");
    let daemon = Daemon::start();
    sh(&daemon.source(), "echo x > x");
    daemon.add("web", &daemon.source());
    let command = |line: &str| {
        let line = format!("timeout 120 {} --bus {} {line}", env!("CARGO_BIN_EXE_strongroom"), daemon.address());
        sh(daemon.dir(), &line)
    };
    let document = serde_json::json!({
        "name": "test", "storeLocation": daemon.path("backuptest"),
        "content": {"commonData": true, "compression": true, "increment": null, "projects": [{"projectRegex": "*", "repoList": null}]},
        "backupSetting": {"conflictStrategy": "SKIP", "executionPlan": {"executeImmediately": true, "executeTime": null}, "spaceCapCheck": true}
    });
    std::fs::write(daemon.path("task.json"), document.to_string()).unwrap();
    let said = command("task create task.json");
    assert!(said.contains("task 1 made") && said.contains(".tar.zst"), "{said}");
    assert!(command("task run 1").contains("wrote"));
    assert_eq!(names(&daemon.path("backuptest/test")).len(), 2);
    assert!(command("task list").contains("FINISHED"));
    let shown: Reply = serde_json::from_str(&command("--json task show 1")).unwrap();
    assert_eq!(shown["backup_setting"]["conflict_strategy"], "SKIP");
    command("task remove 1");
    assert_eq!(daemon.ok("ListTasks a{sv} 0")["total_records"], 0);
}
