//! "I gave it my keys": nobody finds them in an answer, in the log, in the list of processes or
//! in what a crash leaves behind.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::signal::{Signal, kill};

use crate::common::{Daemon, sh, wait_for};
use crate::needs_root;

const SECRET: &str = "XyZZy/s3+secret+of+a+bucket=42";

/// A secret in the forms in which it might slip out.
fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let hex: String = secret.iter().map(|b| format!("{b:02x}")).collect();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("secret"), secret).unwrap();
    let base64 = sh(dir.path(), "base64 -w0 secret | tr -d =");
    // As a debugger would print it.
    let list = secret.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    vec![secret.to_vec(), hex.to_uppercase().into_bytes(), hex.into_bytes(), base64.into_bytes(), list.into_bytes()]
}

fn assert_not_in(what: &str, text: &[u8], secrets: &[(String, Vec<Vec<u8>>)]) {
    for (name, forms) in secrets {
        for form in forms {
            assert!(!text.windows(form.len()).any(|w| w == form), "{name} is in {what}");
        }
    }
}

/// Everything that the daemon answers about anything.
fn answers(daemon: &Daemon) -> String {
    let mut all = String::new();
    for call in [
        "ListProjects a{sv} 0",
        "ListResources a{sv} 0",
        "ListDestinations a{sv} 0",
        "ListVaults a{sv} 0",
        "ListBackups a{sv} 0",
        "ListJobs a{sv} 1 page_size u 1000",
        "ListTasks a{sv} 0",
        "ListSchedules a{sv} 0",
        "ListCheckpoints a{sv} 0",
        "ListVaultKeys s main",
        "GetVault s main",
        "GetDestination s local",
        "GetResource s web",
        "GetBackup t 1",
    ] {
        all += &daemon.ok(call).to_string();
    }
    let objects = ["org.freedesktop.DBus.ObjectManager", "GetManagedObjects"];
    let none: [&str; 0] = [];
    all += &daemon.object("/org/strongroom1", objects[0], objects[1], &none).unwrap().to_string();
    all
}

#[test]
fn secrets_stand_nowhere_but_where_they_belong() {
    needs_root!("secrets_stand_nowhere_but_where_they_belong");
    let mut daemon = Daemon::start_with(&["--log", "trace"]);
    sh(&daemon.source(), "echo x > x");
    daemon.add("web", &daemon.source());
    daemon.back_up("web");
    let key = daemon.ok("AddVaultKey sa{sv} main 1 kind s recovery");
    let printed = key["recovery_key"].as_str().unwrap().to_owned();
    let mut secrets = vec![
        ("the recovery key".to_owned(), vec![printed.clone().into_bytes(), printed.replace('-', "").into_bytes()]),
        ("the bucket's secret".to_owned(), forms(SECRET.as_bytes())),
    ];
    for file in std::fs::read_dir(daemon.path("state/keys")).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(path.metadata().unwrap().mode() & 0o077, 0, "{}", path.display());
        secrets.push((path.display().to_string(), forms(&std::fs::read(&path).unwrap())));
    }
    assert!(secrets.len() >= 3, "there is no key file");

    // Whether a bucket can be used yet or not: what is said about it does not hold its secret.
    let bucket = [
        "ssa{sv}",
        "bucket",
        "s3",
        "4",
        "bucket",
        "s",
        "b",
        "region",
        "s",
        "eu-central-1",
        "access_key_id",
        "s",
        "AKIA",
        "secret_access_key",
        "s",
        SECRET,
    ];
    if let Err(failure) = daemon.call_with("AddDestination", &bucket) {
        assert_not_in("a refusal", failure.message.as_bytes(), &secrets);
    }
    let odd = ["ssa{sv}", "odd", "s3", "1", "secret_access_keys", "s", SECRET];
    assert_not_in("a refusal", daemon.call_with("AddDestination", &odd).unwrap_err().message.as_bytes(), &secrets);
    // Work that needs the keys, and a copy of what is asked for.
    daemon.work("VerifyVault sa{sv} main 1 read_data b true");
    daemon.restore(1, "back");
    let task = [
        "a{sv}",
        "3",
        "name",
        "s",
        "copy",
        "store_location",
        "s",
        daemon.path("copies").to_str().unwrap(),
        "content",
        "a{sv}",
        "1",
        "common_data",
        "b",
        "true",
    ]
    .map(str::to_owned);
    daemon.call_with("CreateTask", &task).unwrap();
    wait_for("the copy is made", std::time::Duration::from_secs(60), || {
        daemon.ok("GetTask s 1")["result"] == "completed"
    });
    let path = daemon.ok("GetTask s 1")["report"]["path"].as_str().unwrap().to_owned();
    assert_not_in("a task's copy", &std::fs::read(Path::new(&path).join("COMMON_DATA.json")).unwrap(), &secrets);
    assert_not_in("an answer", answers(&daemon).as_bytes(), &secrets);
    let introspection =
        daemon.object("/org/strongroom1", "org.freedesktop.DBus.Introspectable", "Introspect", &[""; 0]);
    assert_not_in("the introspection", introspection.unwrap().to_string().as_bytes(), &secrets);

    // Both processes, as anybody with `ps` sees them, and as root does.
    let browse = daemon.browse_pid().unwrap();
    for pid in [daemon.pid(), browse] {
        let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap();
        assert_not_in("a command line", &read("cmdline"), &secrets);
        assert_not_in("an environment", &read("environ"), &secrets);
        let limits = String::from_utf8(read("limits")).unwrap();
        let core = limits.lines().find(|l| l.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().rev().nth(1), Some("0"), "the hard limit: {core}");
        assert_eq!(core.split_whitespace().rev().nth(2), Some("0"), "the soft limit: {core}");
    }
    // A restart reads the keys again, at the highest level of the log.
    assert!(daemon.stop().success());
    daemon.start_again();
    daemon.back_up("web");
    assert_not_in("the log", daemon.log().as_bytes(), &secrets);
    assert!(daemon.log().contains("DEBUG"), "the log holds more than it usually does");

    // What a crash leaves behind holds none of them: there is no core.
    sh(daemon.dir(), "mkdir core");
    kill(daemon.pid(), Signal::SIGABRT).unwrap();
    wait_for("it is gone", std::time::Duration::from_secs(20), || daemon.call("ListProjects a{sv} 0").is_err());
    let status = sh(daemon.dir(), "find . -xdev -name 'core*' -type f | wc -l");
    assert_eq!(status.trim(), "0");
}

/// A process that is not dumpable belongs to root in /proc, whoever runs it: its own user's other
/// processes can neither read its memory nor attach to it.
#[test]
fn the_daemon_cannot_be_looked_into_by_its_own_user() {
    needs_root!("the_daemon_cannot_be_looked_into_by_its_own_user");
    let daemon = Daemon::start();
    sh(
        daemon.dir(),
        &format!(
            "install -d -o 65534 -g 65534 mine && cp {} mine/ && chmod 755 mine/strongroomd",
            env!("CARGO_BIN_EXE_strongroomd")
        ),
    );
    let mine = daemon.path("mine");
    // A bus of its own, so that the name is free.
    let script = format!(
        "cd {0}; exec setpriv --pdeathsig KILL --reuid 65534 --regid 65534 --clear-groups dbus-run-session -- \
         ./strongroomd --bus session --no-browse --config none.toml --state-dir {0}/state --cache-dir {0}/cache 2> {0}/log",
        mine.display()
    );
    let mut child = std::process::Command::new("sh").args(["-c", &script]).spawn().unwrap();
    let found = |uid: u32| {
        std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let ours = line.starts_with(b"./strongroomd\0") && line.windows(5).any(|w| w == b"/mine");
            let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
            let user = status.lines().find_map(|l| l.strip_prefix("Uid:"))?.split_whitespace().next()?.parse().ok();
            (ours && user == Some(uid)).then(|| entry.path())
        })
    };
    wait_for("it is ready", std::time::Duration::from_secs(60), || {
        std::fs::read_to_string(mine.join("log")).is_ok_and(|log| log.contains("ready on"))
    });
    let process = found(65534).unwrap();
    assert_eq!(std::fs::metadata(process.join("environ")).unwrap().uid(), 0);
    let said = sh(
        daemon.dir(),
        &format!("setpriv --reuid 65534 --regid 65534 --clear-groups cat {}/environ 2>&1 || true", process.display()),
    );
    assert!(said.contains("Permission denied"), "{said}");
    let pid: i32 = process.file_name().unwrap().to_str().unwrap().parse().unwrap();
    kill(nix::unistd::Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    child.wait().unwrap();
}
