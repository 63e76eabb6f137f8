//! Databases: backed up while they are written to, looked into, and restored for real.
//! `STRONGROOM_DUMPS` says how many copies are taken under load, `STRONGROOM_KILLS` how often a restore
//! is killed.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::databases::{ACCOUNTS, BALANCED, Mariadb, Postgres, accounts, sqlite, sqlite_load};
use crate::common::{Daemon, Dice, eventually, number, sh, sh_fails, wait_for};
use crate::needs_root;

const STATE: &str = "org.strongroom1.Error.InvalidState";

fn rounds(variable: &str, usual: u32) -> u32 {
    std::env::var(variable).ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
}

/// Backs up the databases of a resource alone.
fn dump(daemon: &Daemon, resource: &str) -> u64 {
    let backup = daemon.ok(&format!("CreateBackup sa{{sv}} {resource} 2 type s database backup_type s automatic"));
    daemon.work_of(&backup);
    backup["id"].as_u64().unwrap()
}

/// The error that a backup fails with.
fn dump_fails(daemon: &Daemon, resource: &str) -> (String, String) {
    let backup = daemon.ok(&format!("CreateBackup sa{{sv}} {resource} 1 backup_type s automatic"));
    let job = daemon.wait(number(&backup["job"]));
    assert_eq!(job["state"], "failed", "{job}");
    (job["error_name"].as_str().unwrap().to_owned(), job["error"].as_str().unwrap().to_owned())
}

/// Waits until nothing is told to be beside a database any more.
fn settled(daemon: &Daemon) {
    wait_for("what a crash left is settled", Duration::from_secs(120), || {
        let state = std::fs::read_dir(daemon.path("state")).unwrap().flatten();
        !state.into_iter().any(|entry| entry.file_name().to_string_lossy().ends_with(".databases"))
    });
}

fn bench(server: &Postgres) {
    server.run("createdb bench && pgbench -q -i --foreign-keys bench");
    server.sql("bench", "CREATE EXTENSION amcheck; CREATE INDEX ON pgbench_accounts (abalance);");
}

/// The sums of what was transferred, which are equal, and what amcheck says of every index.
fn assert_balanced(server: &Postgres, database: &str) {
    let sums = server.sql(
        database,
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(tbalance) FROM pgbench_tellers), \
         (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(bbalance) FROM pgbench_branches), \
         (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history), \
         (SELECT count(*) FROM pgbench_accounts), (SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND convalidated)",
    );
    assert_eq!(sums, "t|t|t|100000|5", "{database}");
    server.run(&format!("pg_amcheck --heapallindexed --parent-check -d {database}"));
}

#[test]
fn e5_postgresql_is_backed_up_under_load_and_every_copy_balances() {
    let story = "e5_postgresql_is_backed_up_under_load_and_every_copy_balances";
    needs_root!(story);
    let Some(server) = Postgres::start(story) else { return };
    let mut daemon = Daemon::start();
    bench(&server);
    server.sql("bench", "CREATE ROLE teller LOGIN; GRANT SELECT ON pgbench_tellers TO teller; ALTER DATABASE bench SET work_mem = '5MB'; GRANT CREATE ON DATABASE bench TO teller");
    server.sql("postgres", "CREATE DATABASE \"odd/na%me'\"");
    daemon.ok(&format!("AddResource sa{{sv}} pg 1 databases aa{{sv}} 1 {}", server.declaration("")));
    let load = server.load("bench");
    wait_for("the load works", Duration::from_secs(60), || {
        server.sql("bench", "SELECT count(*) > 0 FROM pgbench_history") == "t"
    });
    let mut last = 0;
    for round in 0..rounds("STRONGROOM_DUMPS", 2) {
        last = dump(&daemon, "pg");
        let copy = format!("copy_{round}");
        let call = "RestoreBackup ta{sv}";
        daemon.work(&format!("{call} {last} 2 paths as 1 /databases/postgresql/bench.dump database s {copy}"));
        assert_balanced(&server, &copy);
        // It goes on meanwhile, so each copy is of another moment.
        assert_eq!(
            server.sql(
                "bench",
                &format!(
                    "SELECT count(*) > {} FROM pgbench_history",
                    server.sql(&copy, "SELECT count(*) FROM pgbench_history")
                )
            ),
            "t"
        );
        server.run(&format!("dropdb {copy}"));
    }
    drop(load);

    // In the mount: root's alone, and what the server's own programs read.
    let place = daemon.browse(last).join("databases/postgresql");
    assert_eq!(
        sh(&place, "stat -c '%a %U %n' .. . bench.dump globals.sql"),
        "700 root ..\n700 root .\n600 root bench.dump\n600 root globals.sql\n"
    );
    assert_eq!(sh(&place, "ls"), "bench.dump\nglobals.sql\nodd%2Fna%25me'.dump\npostgres.dump\n");
    assert!(sh(&place, "pg_restore -l bench.dump").contains("TABLE DATA public pgbench_accounts"));
    assert!(sh(&place, "cat globals.sql").contains("CREATE ROLE teller"));

    // In place: only when confirmed, the whole database, with all that belongs to it.
    let then = server.sql("bench", "SELECT count(*) FROM pgbench_history");
    server.sql("bench", "DROP TABLE pgbench_history; CREATE TABLE newer (n int); ALTER DATABASE bench RESET work_mem; CREATE DATABASE keep");
    let call = format!("RestoreBackup ta{{sv}} {last}");
    assert_eq!(daemon.call(&format!("{call} 0")).unwrap_err().name, "org.strongroom1.Error.NotConfirmed");
    let job = daemon.work(&format!("{call} 1 dry_run b true"));
    assert_eq!(job["result"]["databases"].as_array().unwrap().len(), 4, "{job}");
    assert_eq!(server.sql("bench", "SELECT to_regclass('newer') IS NOT NULL"), "t");
    server.sql("postgres", "REASSIGN OWNED BY teller TO postgres");
    server.sql("bench", "DROP OWNED BY teller; DROP ROLE teller");
    // Somebody who stays connected does not keep it from happening.
    let idle = server.load("postgres");
    daemon.work(&format!("{call} 1 confirm b true"));
    drop(idle);
    assert_balanced(&server, "bench");
    assert!(
        server.sql("bench", "SELECT count(*) FROM pgbench_history").parse::<u64>().unwrap() <= then.parse().unwrap()
    );
    assert_eq!(server.sql("bench", "SELECT to_regclass('newer') IS NULL, current_setting('work_mem')"), "t|5MB");
    assert_eq!(server.sql("bench", "SELECT has_table_privilege('teller', 'pgbench_tellers', 'SELECT'), has_database_privilege('teller', 'bench', 'CREATE')"), "t|t");
    assert_eq!(server.databases(), ["bench", "keep", "odd/na%me'", "postgres"]);
    daemon.assert_well();
}

#[test]
fn e5_mariadb_is_backed_up_under_load_and_every_copy_balances() {
    let story = "e5_mariadb_is_backed_up_under_load_and_every_copy_balances";
    needs_root!(story);
    let Some(server) = Mariadb::start(story) else { return };
    let mut daemon = Daemon::start();
    server.sql("", "CREATE DATABASE bank CHARACTER SET latin1");
    server.sql("bank", &format!("{ACCOUNTS}{}", accounts()));
    daemon.ok(&format!(
        "AddResource sa{{sv}} my 1 databases aa{{sv}} 1 2 kind s mariadb socket s {}",
        server.socket().display()
    ));
    let load = server.load("bank");
    wait_for("the load works", Duration::from_secs(60), || {
        server.sql("bank", "SELECT COUNT(*) > 100 FROM history") == "1"
    });
    let mut last = 0;
    for round in 0..rounds("STRONGROOM_DUMPS", 2) {
        last = dump(&daemon, "my");
        let copy = format!("copy-{round}");
        daemon.work(&format!("RestoreBackup ta{{sv}} {last} 1 database s {copy}"));
        assert_eq!(server.sql(&copy, BALANCED), "1", "{copy}");
        assert!(server.sql(&copy, "CHECK TABLE accounts, history EXTENDED").lines().all(|l| l.ends_with("OK")));
        server.sql("", &format!("DROP DATABASE `{copy}`"));
    }
    drop(load);
    assert_eq!(server.sql("bank", BALANCED), "1", "the writers themselves keep it");
    // In the mount, as its own client reads it.
    let place = daemon.browse(last).join("databases/mariadb");
    assert_eq!(sh(&place, "stat -c '%a %U %n' .. . bank.sql"), "700 root ..\n700 root .\n600 root bank.sql\n");
    server.sql("", "CREATE DATABASE hand");
    sh(&place, &format!("mariadb --no-defaults --socket={} hand < bank.sql", server.socket().display()));
    assert_eq!(server.sql("hand", BALANCED), "1");
    let looks = "SELECT default_character_set_name FROM information_schema.schemata WHERE schema_name = DATABASE()";
    assert_eq!(server.sql("hand", looks), "latin1");

    // Over the old one. It has what cannot be moved, and the job says so before it begins.
    let sum = server.sql("hand", "CHECKSUM TABLE history").split_whitespace().nth(1).unwrap().to_owned();
    server.sql("bank", "CREATE TABLE newer (n INT); DELETE FROM history LIMIT 10; CREATE VIEW rich AS SELECT * FROM accounts WHERE balance > 0");
    let call = format!("RestoreBackup ta{{sv}} {last} 1");
    let job = daemon.work(&format!("{call} dry_run b true"));
    assert!(job["result"]["not_atomic"].as_str().unwrap().contains("views"), "{job}");
    daemon.work(&format!("{call} confirm b true"));
    assert_eq!(server.sql("bank", "SHOW TABLES"), "accounts\nhistory");
    assert_eq!(server.sql("bank", BALANCED), "1");
    assert_eq!(server.sql("bank", "CHECKSUM TABLE history").split_whitespace().nth(1).unwrap(), sum);
    assert_eq!(server.databases(), ["bank", "hand"]);
    daemon.assert_well();
}

/// Everything in MariaDB that is no table.
const PROGRAMS: &str = "CREATE VIEW rich AS SELECT id, balance FROM accounts WHERE balance > 0;\n\
    CREATE VIEW a_richest AS SELECT MAX(balance) AS most FROM rich;\n\
    DELIMITER //\n\
    CREATE TRIGGER noted AFTER INSERT ON history FOR EACH ROW BEGIN UPDATE counts SET n = n + 1; END//\n\
    CREATE FUNCTION twice(x INT) RETURNS INT DETERMINISTIC RETURN 2 * x//\n\
    CREATE PROCEDURE reset_all() BEGIN DELETE FROM history; END//\n\
    CREATE EVENT nightly ON SCHEDULE EVERY 1 DAY DO DELETE FROM history WHERE delta = 0//\n\
    DELIMITER ;\n";

#[test]
fn triggers_views_routines_and_events_of_mariadb_come_back() {
    let story = "triggers_views_routines_and_events_of_mariadb_come_back";
    needs_root!(story);
    let Some(server) = Mariadb::start(story) else { return };
    let daemon = Daemon::start();
    server.sql("", "CREATE DATABASE bank");
    server.sql(
        "bank",
        &format!("{ACCOUNTS}{}CREATE TABLE counts (n INT); INSERT INTO counts VALUES (0);\n{PROGRAMS}", accounts()),
    );
    server.sql(
        "bank",
        "INSERT INTO history (account, delta) VALUES (1, 5), (2, -5); UPDATE accounts SET balance = 5 WHERE id = 1",
    );
    daemon.ok(&format!(
        "AddResource sa{{sv}} my 1 databases aa{{sv}} 1 4 kind s mariadb names as 1 bank user s root socket s {}",
        server.socket().display()
    ));
    let backup = dump(&daemon, "my");
    server.sql("bank", "DROP TRIGGER noted; DROP VIEW a_richest; DROP FUNCTION twice; DROP EVENT nightly; CREATE FUNCTION other() RETURNS INT DETERMINISTIC RETURN 7; INSERT INTO history (account, delta) VALUES (3, 9); CREATE TRIGGER mine BEFORE INSERT ON accounts FOR EACH ROW SET NEW.balance = 1");
    server.sql("", "SET GLOBAL event_scheduler = ON");
    let job = daemon.work(&format!("RestoreBackup ta{{sv}} {backup} 1 confirm b true"));
    assert!(job["result"]["not_atomic"].as_str().unwrap().contains("triggers"), "{job}");
    assert_eq!(
        server.sql(
            "bank",
            "SELECT most, twice(4), (SELECT n FROM counts), (SELECT COUNT(*) FROM history) FROM a_richest"
        ),
        "5\t8\t2\t2"
    );
    server.sql("bank", "INSERT INTO history (account, delta) VALUES (3, 9); CALL reset_all()");
    assert_eq!(server.sql("bank", "SELECT n, (SELECT COUNT(*) FROM history) FROM counts"), "3\t0");
    let programs = "SELECT routine_name FROM information_schema.routines WHERE routine_schema = 'bank' UNION ALL SELECT event_name FROM information_schema.events UNION ALL SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = 'bank' ORDER BY 1";
    assert_eq!(server.sql("bank", programs), "nightly\nnoted\nreset_all\ntwice");
    assert_eq!(server.databases(), ["bank"]);
}

#[test]
fn e5_sqlite_is_backed_up_under_load_and_every_copy_balances() {
    needs_root!("e5_sqlite_is_backed_up_under_load_and_every_copy_balances");
    let mut daemon = Daemon::start();
    let dir = daemon.path("apps");
    sh(daemon.dir(), "mkdir apps; chmod 755 apps");
    for (name, mode) in [("wal file.db", "WAL"), ("plain.db", "DELETE")] {
        sqlite(&dir, &dir.join(name), mode);
    }
    // Somebody else's: it is read, and comes back, as theirs.
    sh(&dir, "chown -R nobody: . && chmod 640 *.db && rm make.sql");
    let quoted = dir.join("wal file.db");
    let words =
        ["app", "1", "databases", "aa{sv}", "2", "2", "kind", "s", "sqlite", "path", "s", quoted.to_str().unwrap()];
    let plain = dir.join("plain.db");
    let words: Vec<&str> = ["sa{sv}"]
        .into_iter()
        .chain(words)
        .chain(["2", "kind", "s", "sqlite", "path", "s", plain.to_str().unwrap()])
        .collect();
    daemon.call_with("AddResource", &words).unwrap();
    let loads = [sqlite_load(&dir, &quoted), sqlite_load(&dir, &plain)];
    let copies = daemon.path("copies");
    sh(daemon.dir(), "mkdir copies");
    let check = |file: &Path| {
        std::fs::write(
            dir.join("check.sql"),
            format!("PRAGMA integrity_check;\nPRAGMA foreign_key_check;\n{BALANCED}"),
        )
        .unwrap();
        assert_eq!(sh(&dir, &format!("sqlite3 -bail '{}' < check.sql", file.display())), "ok\n1\n");
    };
    let mut last = 0;
    for round in 0..rounds("STRONGROOM_DUMPS", 3) {
        last = dump(&daemon, "app");
        let to = copies.join(format!("{round}.db"));
        daemon.work(&format!(
            "RestoreBackup ta{{sv}} {last} 2 paths as 1 /databases/sqlite/plain.db database s {}",
            to.display()
        ));
        check(&to);
        let from = daemon.browse(last).join("databases/sqlite/wal file.db");
        assert_eq!(sh(&dir, &format!("stat -c '%a %U' '{}'", from.display())), "600 root\n");
        sh(&copies, &format!("cp '{}' wal.db", from.display()));
        check(&copies.join("wal.db"));
        assert!(sh(&copies, "sqlite3 wal.db 'SELECT COUNT(*) > 0 FROM history'") == "1\n");
    }
    // What is in use is not replaced, and stays as it is.
    let job = daemon.ok(&format!("RestoreBackup ta{{sv}} {last} 1 confirm b true"));
    let job = daemon.wait(number(&job));
    assert!(job["state"] == "failed" && job["error"].as_str().unwrap().contains("in use"), "{job}");
    drop(loads);
    sh(&dir, "rm -f load.log check.sql");
    sh(
        &dir,
        "sqlite3 'wal file.db' 'DELETE FROM history; PRAGMA wal_checkpoint'; sqlite3 plain.db 'DROP TABLE history'",
    );
    daemon.work(&format!("RestoreBackup ta{{sv}} {last} 1 confirm b true"));
    assert_eq!(sh(&dir, "ls -A; stat -c '%a %U' *.db"), "plain.db\nwal file.db\n640 nobody\n640 nobody\n");
    check(&quoted);
    check(&plain);
    assert!(sh(&dir, "sqlite3 plain.db 'SELECT COUNT(*) > 0 FROM history'") == "1\n");
    // Over a damaged one, and where there is none.
    sh(&dir, "rm check.sql; dd if=/dev/urandom of=plain.db bs=4096 count=3 conv=notrunc status=none; rm 'wal file.db'");
    daemon.work(&format!("RestoreBackup ta{{sv}} {last} 1 confirm b true"));
    check(&quoted);
    check(&plain);
    daemon.assert_well();
}

/// What a restore that is killed leaves: the old one or the new one, and nothing else.
fn killed(
    mut daemon: Daemon,
    resource: &str,
    backup: u64,
    seed: u64,
    mut spoil: impl FnMut(),
    mut look: impl FnMut() -> String,
    left: impl Fn() -> String,
) {
    let mut dice = Dice::new(seed);
    let new = look();
    spoil();
    let old = look();
    assert_ne!(old, new);
    let nothing = left();
    let restore = format!("RestoreBackup ta{{sv}} {backup} 1 confirm b true");
    let start = Instant::now();
    daemon.work(&restore);
    let whole = start.elapsed();
    assert_eq!(look(), new);
    let (mut olds, mut news) = (0, 0);
    for kill in 0..rounds("STRONGROOM_KILLS", 3) {
        spoil();
        // Every other one near the end, where names change.
        let share = if kill % 2 == 0 { dice.roll() } else { 0.8 + 0.25 * dice.roll() };
        daemon.ok(&restore);
        std::thread::sleep(whole.mul_f64(share));
        daemon.kill();
        daemon.start_again();
        settled(&daemon);
        let is = look();
        println!("{resource}: kill {kill} at {share:.3}: {}", if is == new { "new" } else { "old" });
        assert!(is == old || is == new, "kill {kill} at {share:.3}: {is}");
        assert_eq!(left(), nothing, "kill {kill} at {share:.3}");
        if is == new {
            news += 1
        } else {
            olds += 1
        }
        daemon.settle();
    }
    println!("{resource}: {olds} old, {news} new, a restore takes {whole:?}");
    // Cancelled it is the same.
    spoil();
    let job = number(&daemon.ok(&restore));
    std::thread::sleep(whole.mul_f64(0.4));
    let cancelled = daemon.call(&format!("CancelJob ta{{sv}} {job} 0")).is_ok();
    let job = daemon.wait(job);
    assert!(job["state"] == if cancelled { "cancelled" } else { "completed" } || job["state"] == "completed", "{job}");
    let is = look();
    assert!(is == if job["state"] == "completed" { new.as_str() } else { old.as_str() }, "{job}: {is}");
    assert_eq!(left(), nothing, "{job}");
    spoil();
    daemon.work(&restore);
    assert_eq!(look(), new);
    assert_eq!(left(), nothing);
    daemon.assert_well();
}

#[test]
fn a4_a_whole_postgresql_database_is_overwritten_in_one_step() {
    let story = "a4_a_whole_postgresql_database_is_overwritten_in_one_step";
    needs_root!(story);
    let Some(server) = Postgres::start(story) else { return };
    let daemon = Daemon::start();
    server.sql("postgres", "CREATE DATABASE app");
    server.sql("app", "CREATE TABLE t AS SELECT n, repeat(md5(n::text), 4) AS x FROM generate_series(1, 100000) n; CREATE INDEX ON t (x); CREATE TABLE which AS SELECT 'new' AS name");
    daemon.ok(&format!("AddResource sa{{sv}} pg 1 databases aa{{sv}} 1 {}", server.declaration("names as 1 app")));
    let backup = dump(&daemon, "pg");
    let spoil = || {
        drop(server.sql(
            "app",
            "UPDATE which SET name = 'old'; TRUNCATE t; INSERT INTO t SELECT n, 'old' FROM generate_series(1, 1000) n",
        ))
    };
    let look =
        || server.sql("app", "SELECT name, (SELECT count(*) || md5(string_agg(x, '' ORDER BY n)) FROM t) FROM which");
    killed(daemon, "pg", backup, 20_261_127, spoil, look, || server.databases().join(" "));
}

#[test]
fn a4_a_whole_mariadb_database_is_overwritten() {
    let story = "a4_a_whole_mariadb_database_is_overwritten";
    needs_root!(story);
    let Some(server) = Mariadb::start(story) else { return };
    let daemon = Daemon::start();
    server.sql("", "CREATE DATABASE app");
    server.sql("app", &format!("{ACCOUNTS}{}CREATE TABLE counts (n INT); CREATE TABLE t (n INT PRIMARY KEY, x VARCHAR(200)); INSERT INTO t SELECT seq, MD5(seq) FROM seq_1_to_40000;\n{PROGRAMS}", accounts()));
    daemon.ok(&format!(
        "AddResource sa{{sv}} my 1 databases aa{{sv}} 1 2 kind s mariadb socket s {}",
        server.socket().display()
    ));
    let backup = dump(&daemon, "my");
    let spoil = || {
        drop(server.sql("app", "DELETE FROM t WHERE n > 1000; DROP VIEW IF EXISTS a_richest; DROP TRIGGER IF EXISTS noted; CREATE OR REPLACE TRIGGER mine BEFORE INSERT ON counts FOR EACH ROW SET NEW.n = 1"))
    };
    let programs = "SELECT GROUP_CONCAT(table_name ORDER BY 1) FROM information_schema.tables WHERE table_schema = 'app'; SELECT routine_name FROM information_schema.routines WHERE routine_schema = 'app' UNION ALL SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = 'app' ORDER BY 1; CHECKSUM TABLE t, accounts";
    let look = || server.sql("app", programs);
    killed(daemon, "my", backup, 20_261_128, spoil, look, || server.databases().join(" "));
}

#[test]
fn a4_a_whole_sqlite_database_is_overwritten_in_one_step() {
    needs_root!("a4_a_whole_sqlite_database_is_overwritten_in_one_step");
    let daemon = Daemon::start();
    sh(daemon.dir(), "mkdir apps");
    let (dir, file) = (daemon.path("apps"), daemon.path("apps/app.db"));
    let sql = |text: &str| sh(&dir, &format!("sqlite3 -bail app.db \"{text}\""));
    sql(
        "PRAGMA journal_mode = WAL; CREATE TABLE t (n, x); WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 300000) INSERT INTO t SELECT n, hex(n * 7) FROM c; CREATE TABLE which AS SELECT 'new' AS name",
    );
    daemon.ok(&format!("AddResource sa{{sv}} lite 1 databases aa{{sv}} 1 2 kind s sqlite path s {}", file.display()));
    let backup = dump(&daemon, "lite");
    // What it knows last is still in its write-ahead log.
    let spoil = || {
        sql("PRAGMA journal_mode = WAL; UPDATE which SET name = 'old'; DELETE FROM t WHERE n > 10");
        let hold = "import os, sqlite3\nc = sqlite3.connect('app.db')\nc.execute(\\\"UPDATE which SET name = 'old'\\\")\nc.commit()\nos._exit(0)";
        sh(&dir, &format!("python3 -c \"{hold}\""));
    };
    let look = || sql("PRAGMA integrity_check; SELECT name, (SELECT COUNT(*) FROM t) FROM which");
    killed(daemon, "lite", backup, 20_261_129, spoil, look, || sh(&dir, "ls -A | grep -v 'app.db-' || true"));
}

#[test]
fn what_is_wrong_with_a_database_is_said_before_anything_starts() {
    let story = "what_is_wrong_with_a_database_is_said_before_anything_starts";
    needs_root!(story);
    let Some(mut server) = Postgres::start(story) else { return };
    let mut daemon = Daemon::start();
    sh(&daemon.source(), "echo text > file");
    server.sql("postgres", "CREATE ROLE reader LOGIN PASSWORD 'right'; CREATE TABLE secret (n int)");
    let path = daemon.source().display().to_string();
    let add = |name: &str, more: &str| {
        daemon.ok(&format!(
            "AddResource sa{{sv}} {name} 2 paths as 1 {path} databases aa{{sv}} 1 {}",
            server.declaration(more)
        ));
    };
    let credential = daemon.path("credential");
    std::fs::write(&credential, "user = reader\npassword = wrong\n").unwrap();
    sh(daemon.dir(), "chmod 600 credential");
    let named = |user: &str| format!("user s {user}");
    add("nobody", &named("daemon"));
    add("stranger", &named("no-such-user"));
    add("wrong", &format!("credential s {}", credential.display()));
    add("absent", "names as 1 nothing");
    add("good", "");
    daemon.ok(&format!("AddResource sa{{sv}} lite 1 databases aa{{sv}} 1 2 kind s sqlite path s {path}/file"));
    server.run("echo 'local all reader scram-sha-256' > data/hba.new; cat data/pg_hba.conf >> data/hba.new; mv data/hba.new data/pg_hba.conf; psql -qXc 'SELECT pg_reload_conf()' > reload.log");
    let before = std::fs::read_dir(daemon.store().join("packs")).map_or(0, Iterator::count);
    for (resource, word) in [
        ("nobody", "refuses the login"),
        ("stranger", "no-such-user"),
        ("wrong", "refuses the login"),
        ("absent", "no database \"nothing\""),
        ("lite", "no database of SQLite"),
    ] {
        let (name, message) = dump_fails(&daemon, resource);
        assert!(name == STATE && message.contains(word), "{resource}: {name}: {message}");
        assert!(!message.contains("wrong\n") && !message.contains("right"), "{message}");
    }
    std::fs::write(&credential, "user = reader\npassword = right\n").unwrap();
    let (name, message) = dump_fails(&daemon, "wrong");
    assert!(name == STATE && message.contains("secret") && message.contains("pg_read_all_data"), "{name}: {message}");
    server.sql("postgres", "GRANT pg_read_all_data TO reader");
    daemon.back_up("wrong");
    let first = daemon.ok("ListBackups a{sv} 1 status s completed")[1][0].clone();
    assert!(first["message"].as_str().unwrap().contains("passwords of roles"), "{first}");
    let id = first["id"].as_u64().unwrap();
    let restore =
        |confirm: &str| daemon.ok(&format!("RestoreBackup ta{{sv}} {id} 2 confirm b {confirm} type s database"));
    let job = daemon.wait(number(&restore("true")));
    assert!(job["error"].as_str().unwrap().contains("superuser"), "{job}");
    server.stop();
    let (name, message) = dump_fails(&daemon, "good");
    assert!(name == STATE && message.contains("does not answer"), "{name}: {message}");
    assert!(std::fs::read_dir(daemon.store().join("packs")).unwrap().count() >= before);
    // A program that is not there.
    sh(&daemon.source(), "rm file; sqlite3 file 'CREATE TABLE t (n)'");
    daemon.stop();
    sh(daemon.dir(), "mkdir few-programs; ln -s $(command -v setpriv) few-programs/");
    daemon.start_again_in(&[("PATH", daemon.path("few-programs").to_str().unwrap())]);
    let (name, message) = dump_fails(&daemon, "lite");
    assert!(name == STATE && message.contains("sqlite3 is not installed"), "{name}: {message}");
    daemon.assert_well();
}

#[test]
fn what_is_wrong_with_mariadb_is_said_before_anything_starts() {
    let story = "what_is_wrong_with_mariadb_is_said_before_anything_starts";
    needs_root!(story);
    let Some(server) = Mariadb::start(story) else { return };
    let mut daemon = Daemon::start();
    server.sql("", "CREATE DATABASE bank; CREATE USER app@localhost IDENTIFIED BY 'the-right-one'");
    server.sql("bank", "CREATE TABLE t (n INT); INSERT INTO t VALUES (1); CREATE TABLE old (n INT) ENGINE = MyISAM");
    let credential = daemon.path("credential");
    let is = |password: &str| {
        std::fs::write(&credential, format!("[client]\nuser = app\npassword = \"{password}\"\n")).unwrap();
        sh(daemon.dir(), "chmod 600 credential");
    };
    is("another-one");
    let by = format!("socket s {} credential s {}", server.socket().display(), credential.display());
    daemon.ok(&format!("AddResource sa{{sv}} app 1 databases aa{{sv}} 1 3 kind s mariadb {by}"));
    daemon.ok(&format!("AddResource sa{{sv}} named 1 databases aa{{sv}} 1 4 kind s mariadb names as 1 bank {by}"));
    daemon.ok("AddResource sa{sv} away 1 databases aa{sv} 1 2 kind s mariadb socket s /nonexistent/mysqld.sock");
    let expect = |resource: &str, words: &[&str]| {
        let (name, message) = dump_fails(&daemon, resource);
        assert!(name == STATE && words.iter().all(|word| message.contains(word)), "{resource}: {name}: {message}");
        assert!(!message.contains("-one"), "{message}");
    };
    expect("app", &["refuses the login", "credential"]);
    expect("away", &["does not answer", "/nonexistent"]);
    is("the-right-one");
    expect("named", &["no database \"bank\"", "grant"]);
    server.sql("", "GRANT SELECT ON bank.* TO app@localhost");
    expect("named", &["short", "SHOW VIEW, TRIGGER, EVENT"]);
    assert_eq!(daemon.completed(), [0_u64; 0]);
    server.sql("", "GRANT SHOW VIEW, TRIGGER, EVENT ON bank.* TO app@localhost");
    let backup = daemon.back_up("named");
    // What a dump cannot promise is said.
    assert!(backup["message"].as_str().unwrap().contains("without transactions"), "{backup}");
    let job = daemon.wait(number(&daemon.ok(&format!("RestoreBackup ta{{sv}} {} 1 confirm b true", backup["id"]))));
    assert!(job["error_name"] == STATE && job["error"].as_str().unwrap().contains("INSERT"), "{job}");
    assert_eq!(server.sql("bank", "SELECT n FROM t"), "1");
    assert!(!daemon.log().contains("-one"));
    daemon.assert_well();
}

#[test]
fn a_dump_that_fails_is_a_failed_backup() {
    let story = "a_dump_that_fails_is_a_failed_backup";
    needs_root!(story);
    let mut daemon = Daemon::start();
    let script =
        "#!/bin/sh\nhead -c 3000000 /dev/urandom\n[ ! -e \"$1\" ] || { echo 'the disk is away' >&2; exit 3; }\n";
    std::fs::write(daemon.path("make"), script).unwrap();
    sh(daemon.dir(), "chmod 755 make; touch broken");
    let dir = daemon.dir().display();
    let declare = format!(
        "[resource.own]\ndatabases = [{{ kind = \"command\", name = \"own.bin\", command = [\"{dir}/make\", \"{dir}/broken\"], \
         restore = [\"/usr/bin/tee\", \"{dir}/restored\"] }}]\n"
    );
    std::fs::write(daemon.path("strongroom.toml"), declare).unwrap();
    daemon.ok("Reload a{sv} 0");
    let shown = daemon.ok("GetResource s own");
    assert_eq!(shown["databases"][0]["kind"], "command");
    assert!(shown["databases"][0].get("command").is_none(), "{shown}");
    let (_, message) = dump_fails(&daemon, "own");
    assert!(message.contains("own.bin") && message.contains("the disk is away"), "{message}");
    assert!(
        !daemon.store().join("backups").exists()
            || std::fs::read_dir(daemon.store().join("backups")).unwrap().count() == 0
    );
    sh(daemon.dir(), "rm broken");
    let backup = dump(&daemon, "own");
    let failure = daemon.call("CreateSnapshot ssa{sv} own before 0").unwrap_err();
    assert!(failure.name == STATE && failure.message.contains("no paths"), "{failure:?}");
    let place = daemon.browse(backup).join("databases/command/own.bin");
    assert_eq!(std::fs::metadata(&place).unwrap().len(), 3_000_000);
    daemon.work(&format!("RestoreBackup ta{{sv}} {backup} 1 confirm b true"));
    sh(daemon.dir(), &format!("cmp restored '{}'", place.display()));
    let failure = daemon.call("AddResource sa{sv} bad 1 databases aa{sv} 1 2 kind s command name s x").unwrap_err();
    assert!(failure.message.contains("configuration file"), "{failure:?}");
    daemon.assert_well();
}

#[test]
fn a1_a_backup_of_type_database_holds_the_dumps_beside_the_files() {
    needs_root!("a1_a_backup_of_type_database_holds_the_dumps_beside_the_files");
    let mut daemon = Daemon::start();
    sh(&daemon.source(), "echo one > file; sqlite3 app.db 'CREATE TABLE t (n); INSERT INTO t VALUES (1)'");
    let (path, file) = (daemon.source(), daemon.source().join("app.db"));
    daemon.ok(&format!("AddResource sa{{sv}} both 3 paths as 1 {} browse s owner=nobody databases aa{{sv}} 1 3 kind s sqlite path s {} name s live.db", path.display(), file.display()));
    let shown = daemon.ok("GetResource s both");
    assert_eq!(shown["databases"][0]["name"], "live.db");
    let full = daemon.back_up("both")["id"].as_u64().unwrap();
    let only = dump(&daemon, "both");
    assert_eq!(daemon.ok(&format!("GetBackup t {only}"))["type"], "database");
    assert_eq!(sh(&daemon.browse(only), "find . -type f"), "./databases/sqlite/live.db\n");
    let place = daemon.browse(full);
    assert_eq!(sh(&place, "sqlite3 -readonly 'file:databases/sqlite/live.db?immutable=1' 'SELECT n FROM t'"), "1\n");
    // Whoever may browse the rest may not browse these.
    let stranger = "setpriv --reuid=nobody --regid=65534 --clear-groups --";
    assert_eq!(sh(&place, &format!("{stranger} cat .{}", path.join("file").display())), "one\n");
    assert!(sh_fails(&place, &format!("{stranger} ls databases")).contains("denied"));
    assert_eq!(
        sh(&place, "stat -c '%a %U %n' databases databases/sqlite databases/sqlite/live.db"),
        "700 root databases\n700 root databases/sqlite\n600 root databases/sqlite/live.db\n"
    );
    // As a stream, into a target, and checked.
    let tar = daemon.path("all.tar");
    daemon.work(&format!("ExportBackup ta{{sv}} {full} 2 path s {} format s tar", tar.display()));
    let listed = sh(daemon.dir(), "tar -tvf all.tar ./databases databases 2> /dev/null || true");
    assert!(listed.contains("-rw------- root/root") && listed.contains("databases/sqlite/live.db"), "{listed}");
    let target = daemon.restore(full, "target");
    sh(&target, &format!("cmp databases/sqlite/live.db '{}/databases/sqlite/live.db'", place.display()));
    sh(&target, &format!("cmp .{0}/file {0}/file", path.display()));
    assert_eq!(sh(&target, "stat -c '%a %U' databases databases/sqlite/live.db"), "700 root\n600 root\n");
    let few = daemon.path("few");
    daemon.work(&format!("RestoreBackup ta{{sv}} {full} 2 target s {} type s database", few.display()));
    assert_eq!(sh(&few, "find . -type f"), "./databases/sqlite/live.db\n");
    assert_eq!(daemon.work(&format!("VerifyBackup ta{{sv}} {full} 1 read_data b true"))["result"]["problems"], 0);
    // In place, files alone, databases alone, both.
    let spoil = || drop(sh(&path, "echo two > file; sqlite3 app.db 'UPDATE t SET n = 2'"));
    let look = || sh(&path, "cat file; sqlite3 app.db 'SELECT n FROM t'");
    let call = format!("RestoreBackup ta{{sv}} {full} 2 confirm b true");
    spoil();
    daemon.work(&format!("{call} type s database"));
    assert_eq!(look(), "two\n1\n");
    spoil();
    daemon.work(&format!("{call} paths as 1 {}/file", path.display()));
    assert_eq!(look(), "one\n2\n");
    spoil();
    daemon.work(&format!("RestoreBackup ta{{sv}} {full} 1 confirm b true"));
    assert_eq!(look(), "one\n1\n");
    assert!(!Path::new("/databases").exists());
    // What cannot be is refused, and changes nothing.
    let before = daemon.catalog();
    for (call, word) in [
        (
            format!("RestoreBackup ta{{sv}} {full} 2 confirm b true paths as 1 /databases/sqlite/other.db"),
            "/databases/sqlite/other.db",
        ),
        (format!("RestoreBackup ta{{sv}} {full} 1 database s relative"), "database"),
        (format!("RestoreBackup ta{{sv}} {only} 2 confirm b true type s full"), "type"),
        ("UpdateResource sa{sv} both 1 paths as 1 /databases/x".into(), "paths"),
        ("UpdateResource sa{sv} both 1 paths as 1 /databases".into(), "paths"),
    ] {
        let failure = daemon.call(&call).unwrap_err();
        assert!(failure.message.contains(word), "{call}: {failure:?}");
    }
    assert_eq!(daemon.catalog(), before);
    assert!(eventually(Duration::from_secs(5), || !Path::new("/var/tmp").read_dir().unwrap().flatten().any(|e| {
        let name = e.file_name().to_string_lossy().into_owned();
        name.starts_with("strongroom-") && name.len() > 40
    })));
    daemon.assert_well();
}

/// Bytes that the vault holds after a dump of what this does to a table of 1 GiB.
fn stored_by(daemon: &Daemon, resource: &str, what: &str) -> u64 {
    let start = Instant::now();
    let id = dump(daemon, resource);
    let backup = daemon.ok(&format!("GetBackup t {id}"));
    let (size, stored) = (backup["size"].as_u64().unwrap(), backup["stored_size"].as_u64().unwrap());
    println!("{resource}, {what}: dump {size} bytes, stored {stored}, in {:.0?}", start.elapsed());
    stored
}

/// Takes some minutes and 5 GB; the figures are in `docs/databases.md`.
#[test]
#[ignore = "takes minutes; run it for the figures"]
fn a_second_dump_of_a_gigabyte_stores_what_changed() {
    let story = "a_second_dump_of_a_gigabyte_stores_what_changed";
    needs_root!(story);
    let daemon = Daemon::start();
    // Rows of some 250 bytes, digits of random numbers.
    let rows = 4_600_000;
    let one = rows / 100;
    if let Some(server) = Postgres::start(story) {
        server.sql("postgres", "CREATE DATABASE big");
        let text = "md5(random()::text) || md5(random()::text) || md5(random()::text) || md5(random()::text) || md5(random()::text) || md5(random()::text) || md5(random()::text)";
        server.sql("big", &format!("CREATE TABLE t AS SELECT n, {text} AS x FROM generate_series(1, {rows}) n; ALTER TABLE t ADD PRIMARY KEY (n)"));
        daemon.ok(&format!("AddResource sa{{sv}} pg 1 databases aa{{sv}} 1 {}", server.declaration("names as 1 big")));
        let first = stored_by(&daemon, "pg", "first");
        server.sql("big", &format!("UPDATE t SET x = {text} WHERE n BETWEEN {one} AND {}", 2 * one));
        let range = stored_by(&daemon, "pg", "1 % in one range");
        assert!(range * 20 < first, "{range} of {first}");
        server.sql("big", &format!("UPDATE t SET x = {text} WHERE n % 100 = 7"));
        stored_by(&daemon, "pg", "1 % scattered");
        server.sql("big", &format!("UPDATE t SET x = {text} WHERE n % 10000 = 8"));
        stored_by(&daemon, "pg", "0.01 % scattered");
        stored_by(&daemon, "pg", "nothing");
    }
    if let Some(server) = Mariadb::start(story) {
        server.sql("", "CREATE DATABASE big");
        let text = "CONCAT(MD5(RAND()), MD5(RAND()), MD5(RAND()), MD5(RAND()), MD5(RAND()), MD5(RAND()), REPEAT('x', FLOOR(RAND() * 60)))";
        server.sql("big", &format!("CREATE TABLE t (n INT PRIMARY KEY, x VARCHAR(300)); INSERT INTO t SELECT seq, {text} FROM seq_1_to_{rows}"));
        daemon.ok(&format!(
            "AddResource sa{{sv}} my 1 databases aa{{sv}} 1 2 kind s mariadb socket s {}",
            server.socket().display()
        ));
        let first = stored_by(&daemon, "my", "first");
        server.sql("big", &format!("UPDATE t SET x = {text} WHERE n BETWEEN {one} AND {}", 2 * one));
        let range = stored_by(&daemon, "my", "1 % in one range");
        assert!(range * 20 < first, "{range} of {first}");
        server.sql("big", &format!("UPDATE t SET x = {text} WHERE n % 10000 = 7"));
        stored_by(&daemon, "my", "0.01 % scattered");
    }
    let file = daemon.path("big.db");
    let sql = |text: &str| drop(sh(daemon.dir(), &format!("sqlite3 -bail big.db \"{text}\"")));
    sql(&format!(
        "CREATE TABLE t (n INTEGER PRIMARY KEY, x); WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {rows}) INSERT INTO t SELECT n, randomblob(256) FROM c"
    ));
    daemon.ok(&format!("AddResource sa{{sv}} lite 1 databases aa{{sv}} 1 2 kind s sqlite path s {}", file.display()));
    let first = stored_by(&daemon, "lite", "first");
    sql(&format!("UPDATE t SET x = randomblob(256) WHERE n BETWEEN {one} AND {}", 2 * one));
    let range = stored_by(&daemon, "lite", "1 % in one range");
    assert!(range * 20 < first, "{range} of {first}");
    sql("UPDATE t SET x = randomblob(256) WHERE n % 10000 = 7");
    stored_by(&daemon, "lite", "0.01 % scattered");
}
