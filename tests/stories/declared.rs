//! Objects that configuration files declare: made at the start and on reload, owned by their file,
//! and never half applied.

use std::path::Path;

use nix::sys::signal::{Signal, kill};

use crate::common::{Daemon, Failure, differences, number, sh, wait_for};
use crate::needs_root;

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

const INVALID: &str = "org.strongroom1.Error.InvalidArgument";
const NOT_FOUND: &str = "org.strongroom1.Error.NotFound";
const STATE: &str = "org.strongroom1.Error.InvalidState";

const FILE: &str = "
[limits]
manual_backups = 7
manual_snapshots = 3

[project.shop]
description = 'what earns the money'

[destination.disk]
directory = '@/copies'
max_backups = 40

[vault.safe]
destinations = ['disk']
compression = 'zstd:1'
project = 'shop'

[resource.web]
project = 'shop'
paths = ['@/source']
exclude = ['*.tmp']
vault = 'safe'
before = [['/bin/true', '--now']]
";

/// A daemon that finds its configuration at its very first start.
fn with(text: &str) -> Daemon {
    let mut daemon = Daemon::start();
    assert!(daemon.stop().success());
    sh(daemon.dir(), "rm -rf state cache; echo one > source/file; echo two > source/left.tmp");
    write(&daemon, text);
    daemon.start_again();
    daemon
}

fn write(daemon: &Daemon, text: &str) {
    std::fs::write(daemon.path("strongroom.toml"), text.replace('@', daemon.dir().to_str().unwrap())).unwrap();
}

fn reload(daemon: &Daemon) -> Result<(), Failure> {
    daemon.call("Reload a{sv} 0").map(drop)
}

#[test]
fn declared_objects_are_there_from_the_first_start_and_belong_to_their_file() {
    needs_root!("declared_objects_are_there_from_the_first_start_and_belong_to_their_file");
    let mut daemon = with(FILE);
    let file = daemon.path("strongroom.toml").display().to_string();
    // A declared vault is the only one: nothing is made beside it.
    let vaults = daemon.ok("ListVaults a{sv} 0");
    assert_eq!((vaults[0].as_u64(), vaults[1][0]["name"].as_str()), (Some(1), Some("safe")));
    assert_eq!(daemon.ok("ListDestinations a{sv} 0")[0], 1);
    assert!(daemon.path("copies/vault.json").exists() && !daemon.store().exists());
    let web = daemon.ok("GetResource s web");
    assert_eq!(web["origin"], file.as_str());
    assert_eq!((&web["project"], &web["vault"]), (&"shop".into(), &"safe".into()));
    assert_eq!((web["manual_limit"].as_u64(), web["snapshot_limit"].as_u64()), (Some(7), Some(3)));
    assert!(web.get("before").is_none(), "{web}");

    // It is a resource like any other.
    let backup = daemon.back_up("web");
    let copy = daemon.restore(backup["id"].as_u64().unwrap(), "back");
    // What was left out goes, and its directory's time is as it was.
    sh(&daemon.source(), "time=$(stat -c %y .) && rm left.tmp && touch -d \"$time\" .");
    let place = copy.join(daemon.source().strip_prefix("/").unwrap());
    assert_eq!(differences(&daemon.source(), &place), "");

    let before = daemon.catalog();
    for call in [
        "UpdateResource sa{sv} web 1 one_file_system b true",
        "RemoveResource sa{sv} web 0",
        "DissociateResources sas safe 1 web",
        "UpdateVault sa{sv} safe 1 capacity u 5",
        "RemoveVault sa{sv} safe 0",
        "UpdateDestination sa{sv} disk 1 max_backups u 5",
        "RemoveDestination sa{sv} disk 0",
        "RemoveProject sa{sv} shop 0",
    ] {
        let failure = daemon.call(call).unwrap_err();
        assert_eq!(failure.name, STATE, "{call}: {failure:?}");
        assert!(failure.message.contains(&file), "{call}: {failure:?}");
    }
    assert_eq!(daemon.catalog(), before);
    // Programs are named by files alone.
    let source = daemon.source();
    for key in ["before", "after"] {
        let failure = daemon
            .call(&format!("AddResource sa{{sv}} evil 2 paths as 1 {} {key} aas 1 1 /bin/sh", source.display()))
            .unwrap_err();
        assert_eq!(failure.name, INVALID, "{failure:?}");
        assert!(failure.message.contains(key) && failure.message.contains("file"), "{failure:?}");
    }
    // A start makes nothing anew.
    assert!(daemon.stop().success());
    daemon.start_again();
    assert_eq!(daemon.ok("GetResource s web")["id"], web["id"]);
    assert_eq!(daemon.ok("ListVaults a{sv} 0")[0], 1);
    daemon.assert_well();
}

#[test]
fn a_bad_file_changes_nothing_and_says_where() {
    needs_root!("a_bad_file_changes_nothing_and_says_where");
    let mut daemon = with(FILE);
    let before = daemon.catalog();
    let lines = FILE.lines().count();
    // The first object of each would be good.
    for (text, error, line, word) in [
        ("[project.new]\n[resource.bad]\npaths = ['etc']", INVALID, 3, "paths"),
        ("[project.new]\n[resource.bad]\npaths = ['/etc']\nvault = 'nowhere'", NOT_FOUND, 4, "vault"),
        ("[project.new]\n[resource.bad]\npaths = ['/etc']\nproject = 'nowhere'", NOT_FOUND, 4, "project"),
        ("[project.new]\n[resource.bad]\npath = ['/etc']", INVALID, 3, "path"),
        ("[project.new]\n[resource.bad]", INVALID, 2, "paths"),
        ("[project.new]\n[resource.bad]\npaths = 5", INVALID, 3, "paths"),
        ("[project.new]\n[resource.bad]\npaths = ['/etc']\nbrowse = 'all'", INVALID, 4, "browse"),
        ("[project.new]\n[resource.bad]\npaths = ['/etc']\nbefore = [['sh']]", INVALID, 4, "before"),
        ("[project.new]\n[resource.\"a\\u0001\"]\npaths = ['/etc']", INVALID, 2, "a"),
        ("[project.new]\n[vault.v]\ndestinations = ['nowhere']", NOT_FOUND, 3, "destinations"),
        ("[project.new]\n[vault.v]\ndestinations = ['disk']", STATE, 3, "destinations"),
        ("[project.new]\n[destination.d]\ndirectory = 'here'", INVALID, 3, "directory"),
        ("[project.new]\n[destination.d]\ndirectory = '@/copies/packs'", INVALID, 3, "overlaps"),
        (
            "[project.new]\n[destination.d]\ntype = 's3'\nbucket = 'b'\nsecret_access_key = 'XyZZy'",
            INVALID,
            5,
            "credential",
        ),
        ("[project.new]\n[project.new]", INVALID, 2, "new"),
        ("[project.new]\n[schedule.s]\nresources = ['web']", INVALID, 2, "cron is missing"),
        ("[project.new]\n[schedule.s]\ncron = '61 * * * *'", INVALID, 3, "cron"),
        ("[project.new]\n[schedule.s]\ncron = '@daily'\nresources = ['nobody']", NOT_FOUND, 4, "resources"),
        ("[project.new]\n[schedule.s]\ncron = '@daily'\nvault = 'nowhere'", NOT_FOUND, 4, "vault"),
        ("[project.new]\n[schedule.s]\ncron = '@daily'\nkeep_daily = -1", INVALID, 4, "keep_daily"),
        ("[project.new]\n[schedule.s]\ncron = '@daily'\ntimezone = 'Mars'", INVALID, 4, "timezone"),
        ("[project.new]\n[task.t]\nstore_location = '@/t'", INVALID, 2, "content is missing"),
        (
            "[project.new]\n[task.t]\nname = 'u'\nstore_location = '@/t'\ncontent = {common_data = true}",
            INVALID,
            3,
            "name",
        ),
        ("[project.new]\n[task.t]\nstore_location = 't'\ncontent = {common_data = true}", INVALID, 3, "absolute"),
        ("[project.new]\n[task.t]\nstore_location = '@/state/t'\ncontent = {common_data = true}", INVALID, 3, "own"),
        (
            "[project.new]\n[task.t]\nstore_location = '@/t'\n[task.t.content]\ncommon_data = 1",
            INVALID,
            5,
            "common_data",
        ),
        (
            "[project.new]\n[task.t]\nstore_location = '@/t'\n[[task.t.content.projects]]\nproject_id = 'nowhere'",
            NOT_FOUND,
            5,
            "nowhere",
        ),
        (
            "[project.new]\n[task.t]\nstore_location = '@/t'\ncontent = {common_data = true}\n[task.t.backup_setting]\n\
             execution_strategy = 'CRON_EXPRESSION'\nexecution_plan = {cron_expression = '* *'}",
            INVALID,
            7,
            "cron_expression",
        ),
        (
            "[project.new]\n[task.t]\ntype = 'DATA_RESTORE'\nstore_location = '@/t'\ncontent = {common_data = true}",
            INVALID,
            2,
            "execute_immediately false",
        ),
        ("[project]\nnew = 3", INVALID, 2, "new"),
        ("[projects.new]", INVALID, 1, "projects"),
        ("[project.new\n", INVALID, 1, ""),
    ] {
        write(&daemon, &format!("{FILE}{text}"));
        let Err(failure) = reload(&daemon) else { panic!("{text}: went through") };
        assert_eq!(failure.name, error, "{text}: {failure:?}");
        let line = format!("line {}", lines + line);
        for part in ["strongroom.toml", &line, word] {
            assert!(failure.message.contains(part), "{text}: says nothing of {part}: {failure:?}");
        }
        assert!(!failure.message.contains("XyZZy") && !daemon.log().contains("XyZZy"), "{failure:?}");
        assert_eq!(daemon.catalog(), before, "{text}");
    }
    // The same object in two files, both of which are named.
    write(&daemon, FILE);
    sh(daemon.dir(), "mkdir conf.d; printf '[project.shop]\\n' > conf.d/20-more.toml");
    let failure = reload(&daemon).unwrap_err();
    assert!(
        failure.message.contains("20-more.toml, line 1") && failure.message.contains("strongroom.toml"),
        "{failure:?}"
    );
    assert_eq!(daemon.catalog(), before);
    sh(daemon.dir(), "rm conf.d/20-more.toml");

    // With such a file, no start.
    write(&daemon, &format!("{FILE}[resource.bad]\npaths = ['/etc']\nvault = 'nowhere'"));
    assert!(daemon.stop().success());
    let said = sh(
        daemon.dir(),
        &format!(
            "set +e; {} --bus {} --config strongroom.toml --state-dir state --cache-dir cache --browse-path browse 2>&1; \
             echo status $?",
            env!("CARGO_BIN_EXE_strongroomd"),
            daemon.address()
        ),
    );
    assert!(said.contains("status 78") && said.contains(&format!("line {}", lines + 3)), "{said}");
    write(&daemon, FILE);
    daemon.start_again();
    assert_eq!(daemon.catalog(), before);
    daemon.assert_well();
}

#[test]
fn what_files_drop_goes_unless_it_is_needed() {
    needs_root!("what_files_drop_goes_unless_it_is_needed");
    let daemon = with(FILE);
    let more = format!("{FILE}[resource.unused]\npaths = ['/etc']\n[destination.spare]\ndirectory = '@/spare'\n");
    write(&daemon, &more);
    // SIGHUP reads them as well.
    kill(daemon.pid(), Signal::SIGHUP).unwrap();
    wait_for("the resource is there", std::time::Duration::from_secs(20), || {
        daemon.call("GetResource s unused").is_ok()
    });
    let (web, unused) = (daemon.ok("GetResource s web"), daemon.ok("GetResource s unused"));
    let backup = daemon.back_up("web")["id"].as_u64().unwrap();

    // What is changed changes, and what is left out is what it is by default.
    write(&daemon, &more.replace("exclude = ['*.tmp']", "browse = 'strict'").replace("zstd:1", "zstd:2"));
    reload(&daemon).unwrap();
    let now = daemon.ok("GetResource s web");
    assert_eq!((&now["id"], &now["browse"], &now["exclude"]), (&web["id"], &"strict".into(), &serde_json::json!([])));
    assert_eq!(daemon.ok("GetVault s safe")["compression"], "zstd:2");

    // Everything is dropped: what has backups, and what those lie in, stays and is marked.
    write(&daemon, "");
    reload(&daemon).unwrap();
    assert_eq!(daemon.ok("GetResource s web")["status"], "orphaned");
    for (get, name) in [("GetVault", "safe"), ("GetDestination", "disk")] {
        assert_eq!(daemon.ok(&format!("{get} s {name}"))["orphaned"], true, "{name}");
    }
    for gone in ["GetResource s unused", "GetDestination s spare"] {
        assert_eq!(daemon.call(gone).unwrap_err().name, NOT_FOUND, "{gone}");
    }
    let copy = daemon.restore(backup, "back");
    assert_eq!(sh(&copy.join(daemon.source().strip_prefix("/").unwrap()), "cat file"), "one\n");

    // Declared again it is the same; what had gone is another.
    write(&daemon, &more);
    reload(&daemon).unwrap();
    let again = daemon.ok("GetResource s web");
    assert_eq!((&again["id"], &again["status"]), (&web["id"], &"available".into()));
    assert_ne!(daemon.ok("GetResource s unused")["id"], unused["id"]);

    // An orphan is anybody's who may remove it.
    write(&daemon, "");
    reload(&daemon).unwrap();
    daemon.ok("RemoveResource sa{sv} web 0");
    assert_eq!(daemon.completed(), [backup]);
}

const TIMED: &str = "
[schedule.nightly]
cron = '0 2 * * *'
timezone = 'Europe/Berlin'
resources = ['web']
vault = 'safe'
max_backups = 1
keep_weekly = 4

[task.stick]
store_location = '@/stick'
[task.stick.content]
compression = true
[[task.stick.content.projects]]
project_id = 'shop'
repo_list = ['web']
";

/// How many results the task has written, and nothing half done.
fn results(daemon: &Daemon) -> usize {
    std::fs::read_dir(daemon.path("stick/stick")).map_or(0, |dir| dir.count())
}

/// Waits until nothing is at work, and gives what should not run the time to begin.
fn idle(daemon: &Daemon) {
    std::thread::sleep(std::time::Duration::from_millis(700));
    wait_for("all is done", PATIENCE, || daemon.ok("ListJobs a{sv} 1 state s in_progress")[0] == 0);
}

#[test]
fn schedules_and_tasks_are_declared_run_and_dropped() {
    needs_root!("schedules_and_tasks_are_declared_run_and_dropped");
    let text = format!("{FILE}{TIMED}");
    let mut daemon = with(&text);
    let file = daemon.path("strongroom.toml").display().to_string();
    let nightly = daemon.ok("GetSchedule s nightly");
    assert_eq!((&nightly["origin"], &nightly["vault"]), (&file.as_str().into(), &"safe".into()));
    assert_eq!((&nightly["resources"], &nightly["keep_weekly"]), (&serde_json::json!(["web"]), &4.into()));
    // The task runs, once.
    wait_for("the task has run", PATIENCE, || daemon.ok("GetTask s 1")["result"] == "completed");
    let task = daemon.ok("GetTask s 1");
    assert_eq!((&task["origin"], &task["name"]), (&file.as_str().into(), &"stick".into()), "{task}");
    assert_eq!((&task["created_by"], &task["type"]), (&file.as_str().into(), &"DATA_BACKUP".into()));
    let archive = task["report"]["path"].as_str().unwrap();
    assert!(sh(daemon.dir(), &format!("tar --zstd -tf {archive}")).contains("/file\n"), "{task}");

    // Over the bus it is run, and not changed.
    for call in
        ["SetSchedule sa{sv} nightly 1 max_backups u 5", "RemoveSchedule sa{sv} nightly 0", "RemoveTask sa{sv} 1 0"]
    {
        let failure = daemon.call(call).unwrap_err();
        assert_eq!(failure.name, STATE, "{call}: {failure:?}");
        assert!(failure.message.contains(&file), "{call}: {failure:?}");
    }
    for _ in 0..2 {
        let jobs = daemon.ok("RunSchedule sa{sv} nightly 0");
        assert_eq!(daemon.wait(number(&jobs[0]))["state"], "completed");
    }
    daemon.work("ExecuteTask sa{sv} 1 0");
    let made = results(&daemon);
    assert_eq!(made, 2);

    // A file that is read again runs nothing again, nor does a start; what a run left stays.
    reload(&daemon).unwrap();
    idle(&daemon);
    let before = daemon.ok("GetSchedule s nightly");
    assert!(daemon.stop().success());
    daemon.start_again();
    idle(&daemon);
    assert_eq!((daemon.ok("GetSchedule s nightly"), results(&daemon)), (before, made));

    // What changes is applied, a key that is dropped has its default, and a changed task runs.
    let changed = text
        .replace("max_backups = 1\n", "")
        .replace("0 2 * * *", "30 4 * * *")
        .replace("vault = 'safe'\nkeep", "keep")
        .replace("compression = true", "increment = false");
    write(&daemon, &changed);
    reload(&daemon).unwrap();
    let row = daemon.ok("GetSchedule s nightly");
    assert_eq!((&row["cron"], &row["max_backups"]), (&"30 4 * * *".into(), &0.into()), "{row}");
    assert!(row["next_run"] != nightly["next_run"] && row["vault"].is_null(), "{row}");
    wait_for("the changed task has run", PATIENCE, || results(&daemon) == made + 1);
    idle(&daemon);
    let folder = daemon.ok("GetTask s 1")["report"]["path"].as_str().unwrap().to_owned();
    sh(Path::new(&folder), "sha256sum -c SHA256SUMS --quiet");

    // A bad file changes neither, and runs nothing.
    write(
        &daemon,
        &changed.replace("30 4 * * *", "0 5 * * *").replace("repo_list = ['web']", "repo_list = ['nobody']"),
    );
    let failure = reload(&daemon).unwrap_err();
    assert!(failure.message.contains("key \"repo_list\""), "{failure:?}");
    idle(&daemon);
    assert_eq!((daemon.ok("GetSchedule s nightly"), results(&daemon)), (row, made + 1));

    // Dropped, both are gone, and what they made stays. The resource that they named has backups.
    let backups = daemon.completed();
    write(&daemon, FILE);
    reload(&daemon).unwrap();
    assert_eq!(daemon.call("GetSchedule s nightly").unwrap_err().name, NOT_FOUND);
    assert_eq!(daemon.call("GetTask s 1").unwrap_err().name, NOT_FOUND);
    assert_eq!((daemon.completed(), results(&daemon)), (backups, made + 1));
    let backup = daemon.ok("ListBackups a{sv} 1 backup_type s automatic")[1][0].clone();
    assert!(backup["expires_at"].is_null(), "nothing deletes it any more: {backup}");
    daemon.assert_well();
}

#[test]
fn what_a_schedule_on_the_bus_names_outlives_its_file() {
    needs_root!("what_a_schedule_on_the_bus_names_outlives_its_file");
    let daemon = with(FILE);
    daemon.ok("SetSchedule sa{sv} mine 3 cron s @yearly resources as 1 web vault s safe");
    write(&daemon, "");
    reload(&daemon).unwrap();
    assert_eq!(daemon.ok("GetResource s web")["status"], "orphaned");
    assert_eq!(daemon.ok("GetVault s safe")["orphaned"], true);
    assert_eq!(daemon.ok("GetSchedule s mine")["resources"], serde_json::json!(["web"]));
    // Declared, it is the file's; a task made over the bus never is.
    daemon.ok(&format!(
        "CreateTask a{{sv}} 4 name s stick store_location s {} content a{{sv}} 1 common_data b true \
         backup_setting a{{sv}} 1 execution_plan a{{sv}} 1 execute_immediately b false",
        daemon.path("other").display()
    ));
    let timed =
        TIMED.replace("project_id = 'shop'", "project_regex = '*'").replace("[schedule.nightly]", "[schedule.mine]");
    write(&daemon, &format!("{FILE}{timed}"));
    reload(&daemon).unwrap();
    let mine = daemon.ok("GetSchedule s mine");
    assert_eq!((&mine["id"], &mine["keep_weekly"]), (&1.into(), &4.into()));
    assert!(mine["origin"].as_str().unwrap().ends_with("strongroom.toml"));
    assert_eq!(daemon.ok("ListTasks a{sv} 0")["total_records"], 2);
    assert_eq!(daemon.ok("GetTask s 1")["origin"], "bus");
    idle(&daemon);
    write(&daemon, "");
    reload(&daemon).unwrap();
    assert_eq!(daemon.ok("ListTasks a{sv} 0")["total_records"], 1);
}

#[test]
fn settings_of_a_vault_that_are_dropped_have_their_defaults() {
    needs_root!("settings_of_a_vault_that_are_dropped_have_their_defaults");
    let more = FILE.replace("compression = 'zstd:1'", "prune = '0 3 * * *'\nverify_within = 30\ncapacity = 9_000_000");
    let daemon = with(&more);
    let safe = daemon.ok("GetVault s safe");
    assert_eq!((&safe["prune"], &safe["verify_within"]), (&"0 3 * * *".into(), &30.into()), "{safe}");
    wait_for("the clock has found when", PATIENCE, || !daemon.ok("GetVault s safe")["next_prune"].is_null());
    let due = daemon.ok("GetVault s safe")["next_prune"].clone();
    reload(&daemon).unwrap();
    assert_eq!(daemon.ok("GetVault s safe")["next_prune"], due, "what is due stays due");
    write(&daemon, FILE);
    reload(&daemon).unwrap();
    let safe = daemon.ok("GetVault s safe");
    for key in ["prune", "verify_within", "next_prune", "capacity"] {
        assert!(safe[key].is_null(), "{key}: {safe}");
    }
}

#[test]
fn later_files_override_settings_and_add_objects() {
    needs_root!("later_files_override_settings_and_add_objects");
    let daemon = with("[limits]\nmanual_backups = 1\n");
    let more: &Path = &daemon.path("conf.d");
    std::fs::create_dir(more).unwrap();
    let source = daemon.source();
    std::fs::write(more.join("web.toml"), format!("[resource.web]\npaths = ['{}']\n", source.display())).unwrap();
    std::fs::write(more.join("zz.toml"), "[limits]\nmanual_backups = 2\n").unwrap();
    reload(&daemon).unwrap();
    let web = daemon.ok("GetResource s web");
    assert_eq!(web["origin"], more.join("web.toml").to_str().unwrap());
    assert_eq!(web["manual_limit"], 2);
    daemon.back_up("web");
    daemon.back_up("web");
    let failure = daemon.call("CreateBackup sa{sv} web 0").unwrap_err();
    assert_eq!(failure.name, "org.strongroom1.Error.LimitReached", "{failure:?}");
}
