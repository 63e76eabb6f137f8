//! "While everybody works": snapshots under a writer at full speed, and a database that is whole in
//! them.
//!
//! `STRONGROOM_WRITERS=60` lets the writers work for so many seconds.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Daemon, Disk, heavy, lacks, number, sh};
use crate::needs_root;

fn seconds() -> u64 {
    std::env::var("STRONGROOM_WRITERS").ok().and_then(|s| s.parse().ok()).unwrap_or(6)
}

fn program(name: &str) -> Option<PathBuf> {
    Some(Path::new("/usr/bin").join(name)).filter(|path| path.exists())
}

/// A program that is ended when it goes.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server of a database of its own, for the user that its package made.
struct Database {
    data: PathBuf,
    sockets: PathBuf,
}

impl Database {
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--", "bash", "-euc"]);
        command.arg(format!("PATH=$(echo /usr/lib/postgresql/*/bin | tr ' ' '\\n' | tail -1):$PATH; {line}"));
        command.env("PGHOST", &self.sockets).env("PGDATA", &self.data).env("PGDATABASE", "postgres").current_dir("/");
        command
    }

    fn run(&self, line: &str) -> String {
        let output = self.command(line).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn start(&self) {
        let options = format!("-k {} -c listen_addresses= -c shared_buffers=16MB", self.sockets.display());
        let log = self.sockets.join("log").display().to_string();
        self.run(&format!("pg_ctl -s -w -t 60 -o '{options}' -l {log} start || {{ tail {log} >&2; false; }}"));
    }

    fn stop(&self) {
        self.run("pg_ctl -s -w -m immediate stop");
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let _ = self.command("pg_ctl -s -m immediate stop || true").output();
    }
}

#[test]
fn a_database_under_load_is_whole_in_a_snapshot() {
    needs_root!("a_database_under_load_is_whole_in_a_snapshot");
    if lacks("a_database_under_load_is_whole_in_a_snapshot", program("pgbench").as_deref(), "postgresql") {
        return;
    }
    let _heavy = heavy();
    let mut daemon = Daemon::start();
    // On XFS the files are cloned one by one, so that the server must stand still meanwhile: here by
    // signals, since there is no service manager that could freeze it.
    for (kind, fs) in [("atomic", "btrfs"), ("still", "xfs")] {
        let disk = Disk::new(fs, 900, &daemon.path(kind));
        sh(&disk.path, if fs == "btrfs" { "btrfs subvolume create db > /dev/null" } else { "mkdir db" });
        let sockets = daemon.path(&format!("sockets-{kind}"));
        let database = Database { data: disk.path.join("db"), sockets: sockets.clone() };
        sh(
            &disk.path,
            &format!(
                "chmod 755 {0} .; chown postgres: db; chmod 700 db; mkdir {1}; chown postgres: {1}",
                daemon.dir().display(),
                sockets.display()
            ),
        );
        let signal = daemon.path("signal.sh");
        std::fs::write(
            &signal,
            "for p in $(pgrep -u postgres); do\n  if [ \"$(readlink /proc/$p/cwd)\" = \"$2\" ]; then kill -$1 $p; fi\ndone\n",
        )
        .unwrap();
        let shown = database.data.display();
        let commands = if kind == "still" {
            let words = |name: &str| format!("[['/bin/sh', '{}', '{name}', '{shown}']]", signal.display());
            format!("before = {}\nafter = {}\n", words("STOP"), words("CONT"))
        } else {
            String::new()
        };
        std::fs::write(daemon.path("strongroom.toml"), format!("[resource.{kind}]\npaths = ['{shown}']\n{commands}"))
            .unwrap();
        daemon.stop();
        daemon.start_again();
        database.run("initdb -N -A trust > /dev/null");
        database.start();
        database.run("pgbench -q -i -s 4 2> /dev/null");
        let load = database.command(&format!("exec pgbench -n -c 4 -T {}", seconds() * 3));
        let load = Running({ load }.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let mut last = 0;
        let until = Instant::now() + Duration::from_secs(seconds());
        for n in 0.. {
            std::thread::sleep(Duration::from_secs(1));
            let start = Instant::now();
            let made = daemon.ok(&format!("CreateSnapshot ssa{{sv}} {kind} n{} 0", n % 4));
            let job = daemon.wait(number(&made["job"]));
            assert_eq!(job["state"], "completed", "{job}");
            println!("{kind} ({fs}): a snapshot under pgbench was there after {:?}", start.elapsed());
            last = made["id"].as_u64().unwrap();
            if Instant::now() >= until {
                break;
            }
            if n >= 3 {
                let old = daemon.ok(&format!("ListSnapshots a{{sv}} 3 resource s {kind} sort as 1 id page_size u 1"));
                daemon.work(&format!("DeleteSnapshot ta{{sv}} {} 0", old[1][0]["id"]));
            }
        }
        let history =
            || database.run("psql -Atc 'select count(*) from pgbench_history'").trim().parse::<u64>().unwrap();
        std::thread::sleep(Duration::from_secs(1));
        let after = history();
        drop(load);
        database.stop();
        let answer = daemon.ok(&format!("RestoreSnapshot ta{{sv}} {last} 1 confirm b true"));
        let job = daemon.wait(number(&answer["job"]));
        assert_eq!(job["state"], "completed", "{job}");
        // It names the server that was killed, whose number stays taken where nobody reaps it.
        sh(&database.data, "rm -f postmaster.pid");
        database.start();
        let there = history();
        assert!(there > 0 && there < after, "{there} of {after} transactions: it is of the moment of the snapshot");
        // What every transaction adds to the four tables is the same in all of them.
        let sums = database.run(
            "psql -Atc 'select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)
             and (select sum(tbalance) from pgbench_tellers) = (select sum(bbalance) from pgbench_branches)
             and (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history)'",
        );
        assert_eq!(sums.trim(), "t", "{kind}");
        database.run("pg_amcheck --install-missing --heapallindexed --all");
        database.run("pg_dump > /dev/null");
        println!("{kind} ({fs}): {there} of {after} transactions are in it; pg_amcheck and pg_dump find it whole");
        database.stop();
    }
}

#[test]
fn a_snapshot_is_there_at_once_while_fio_writes() {
    needs_root!("a_snapshot_is_there_at_once_while_fio_writes");
    if lacks("a_snapshot_is_there_at_once_while_fio_writes", program("fio").as_deref(), "fio") {
        return;
    }
    let _heavy = heavy();
    let daemon = Daemon::start();
    for fs in ["btrfs", "xfs"] {
        under_fio(&daemon, fs);
    }
}

fn under_fio(daemon: &Daemon, fs: &str) {
    let disk = Disk::new(fs, 1200, &daemon.path(fs));
    sh(&disk.path, if fs == "btrfs" { "btrfs subvolume create data > /dev/null" } else { "mkdir data" });
    daemon.add(fs, &disk.path.join("data"));
    let mut fio = Command::new("fio");
    fio.args(["--name=w", "--rw=randwrite", "--bs=4k", "--size=200M", "--time_based", "--thinktime=0"]);
    fio.arg(format!("--runtime={}", seconds() * 2)).arg("--directory=data").current_dir(&disk.path);
    let _fio = Running(fio.stdout(Stdio::null()).spawn().unwrap());
    crate::common::wait_for("fio writes", Duration::from_secs(20), || disk.path.join("data/w.0.0").exists());
    for n in 0..4 {
        std::thread::sleep(Duration::from_millis(500));
        let start = Instant::now();
        let made = daemon.ok(&format!("CreateSnapshot ssa{{sv}} {fs} n{n} 0"));
        let job = daemon.wait(number(&made["job"]));
        // On XFS it is a directory, of which only each file is of one moment.
        let atomic = fs == "btrfs";
        assert_eq!((&job["state"], &job["result"]["atomic"]), (&"completed".into(), &atomic.into()), "{job}");
        let row = daemon.ok(&format!("GetSnapshot t {}", made["id"]));
        println!("{fs}: a snapshot under fio was there after {:?}, of {} bytes", start.elapsed(), row["size"]);
        let file = Path::new(row["location"][0].as_str().unwrap()).join("w.0.0");
        // What is in it stays, whatever is written meanwhile.
        let sum = || sh(Path::new("/"), &format!("sha256sum {}", file.display()));
        assert_eq!(sum(), sum());
        daemon.work(&format!("DeleteSnapshot ta{{sv}} {} 0", made["id"]));
    }
}
