//! Real database servers, each in a directory of its own, and writers that keep them busy.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::bus::tied;
use super::tools::{lacks, sh, wait_for};

fn directory(kind: &str, user: &str) -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix(&format!("sr-{kind}-")).tempdir_in("/var/tmp").unwrap();
    sh(dir.path(), &format!("chown {user}: . && chmod 755 ."));
    dir
}

/// What lets go of the tables only when it is dropped.
pub struct Load(Child);

impl Drop for Load {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

fn load(dir: &Path, script: &str) -> Load {
    use std::os::unix::process::CommandExt;
    let log = File::options().create(true).append(true).open(dir.join("load.log")).unwrap();
    let child = tied("bash")
        .args(["-c", script])
        .current_dir(dir)
        .stdout(Stdio::null())
        .stderr(log)
        .process_group(0)
        .spawn()
        .unwrap();
    Load(child)
}

/// A server of PostgreSQL, known to the system's user `postgres` by its socket.
pub struct Postgres {
    dir: tempfile::TempDir,
    child: Option<Child>,
    bin: PathBuf,
}

impl Postgres {
    /// Starts one; `None`, loudly, where it is not installed.
    pub fn start(story: &str) -> Option<Self> {
        let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let bin = versions.map(|v| v.path().join("bin")).find(|bin| bin.join("initdb").is_file());
        if lacks(story, bin.as_deref(), "postgresql") {
            return None;
        }
        let (dir, bin) = (directory("pg", "postgres"), bin.unwrap());
        let initdb = bin.join("initdb");
        let options =
            "-D data -U postgres --auth-local=peer --auth-host=scram-sha-256 -E UTF8 --locale=C.UTF-8 --no-sync";
        sh(
            dir.path(),
            &format!("setpriv --reuid=postgres --regid=postgres --clear-groups {} {options}", initdb.display()),
        );
        let mut server = Self { dir, child: None, bin };
        server.start_again();
        Some(server)
    }

    /// Starts it after it ended.
    pub fn start_again(&mut self) {
        let log = File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let child = tied("setpriv")
            .args(["--reuid=postgres", "--regid=postgres", "--clear-groups"])
            .arg(self.bin.join("postgres"))
            .args(["-D", "data", "-k", self.socket().to_str().unwrap(), "-p", "5432"])
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=64MB", "-c", "max_wal_size=4GB"])
            .args(["-c", "unix_socket_permissions=0777"])
            .current_dir(self.dir.path())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let ready = format!("{} -q -h {}", self.bin.join("pg_isready").display(), self.socket().display());
        wait_for("PostgreSQL answers", Duration::from_secs(60), || {
            Command::new("bash").args(["-c", &ready]).status().unwrap().success()
        });
    }

    /// Ends it at once.
    pub fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGQUIT).unwrap();
        child.wait().unwrap();
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// One of its programs, run as its administrator.
    pub fn run(&self, words: &str) -> String {
        let script = format!("export PATH={}:$PATH PGHOST={}; {}", self.bin.display(), self.socket().display(), words);
        let quoted = script.replace('\'', r"'\''");
        sh(self.dir.path(), &format!("setpriv --reuid=postgres --regid=postgres --clear-groups bash -c '{quoted}'"))
    }

    /// What a statement answers.
    pub fn sql(&self, database: &str, statement: &str) -> String {
        std::fs::write(self.dir.path().join("statement.sql"), statement).unwrap();
        self.run(&format!("psql -XAtq -v ON_ERROR_STOP=1 -d '{database}' -f statement.sql")).trim_end().to_owned()
    }

    /// Transfers between accounts until it is dropped.
    pub fn load(&self, database: &str) -> Load {
        let bench = format!(
            "exec setpriv --reuid=postgres --regid=postgres --clear-groups {} -h {} -n -c 3 -R 600 -T 100000 {database}",
            self.bin.join("pgbench").display(),
            self.socket().display()
        );
        load(self.dir.path(), &bench)
    }

    /// Names of all databases.
    pub fn databases(&self) -> Vec<String> {
        let all = self.sql("template1", "SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1");
        all.lines().map(str::to_owned).collect()
    }

    /// For `AddResource`: how it is reached.
    pub fn declaration(&self, more: &str) -> String {
        let count = 2 + more.split(" s ").count() - 1 + more.matches(" as ").count() + more.matches(" u ").count();
        format!("{count} kind s postgresql socket s {} {more}", self.socket().display())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.stop();
        }
    }
}

/// A server of MariaDB, known to root by its socket.
pub struct Mariadb {
    dir: tempfile::TempDir,
    child: Child,
}

impl Mariadb {
    /// Starts one; `None`, loudly, where it is not installed.
    pub fn start(story: &str) -> Option<Self> {
        let program = Path::new("/usr/sbin/mariadbd");
        if lacks(story, program.is_file().then_some(program), "mariadb-server") {
            return None;
        }
        let dir = directory("my", "mysql");
        sh(
            dir.path(),
            "mariadb-install-db --no-defaults --user=mysql --datadir=\"$PWD/data\" --auth-root-authentication-method=socket \
             --skip-test-db > install.log 2>&1",
        );
        let log = File::create(dir.path().join("log")).unwrap();
        let at = |option: &str, name: &str| format!("--{option}={}", dir.path().join(name).display());
        let child = tied(program)
            .args(["--no-defaults", "--user=mysql", "--skip-networking", "--innodb-flush-log-at-trx-commit=0"])
            .args(["--innodb-buffer-pool-size=64M", "--skip-log-bin", "--event-scheduler=OFF"])
            .args([at("datadir", "data"), at("socket", "mysqld.sock"), at("pid-file", "pid"), at("tmpdir", "data")])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let server = Self { dir, child };
        let ready = format!("mariadb-admin --no-defaults --socket={} ping > /dev/null 2>&1", server.socket().display());
        wait_for("MariaDB answers", Duration::from_secs(60), || {
            Command::new("bash").args(["-c", &ready]).status().unwrap().success()
        });
        Some(server)
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("mysqld.sock")
    }

    /// What statements answer.
    pub fn sql(&self, database: &str, statements: &str) -> String {
        std::fs::write(self.dir.path().join("statement.sql"), statements).unwrap();
        let client = format!("mariadb --no-defaults --batch --skip-column-names --socket={}", self.socket().display());
        sh(self.dir.path(), &format!("{client} {database} < statement.sql")).trim_end().to_owned()
    }

    /// Transfers between accounts until it is dropped.
    pub fn load(&self, database: &str) -> Load {
        let transfer = "SET @a = FLOOR(1 + RAND() * 100), @b = FLOOR(1 + RAND() * 100), @v = FLOOR(RAND() * 1000); BEGIN; \
                        UPDATE accounts SET balance = balance + (id = @b) * @v - (id = @a) * @v WHERE id IN (@a, @b); \
                        INSERT INTO history (account, delta) VALUES (@a, -@v), (@b, @v); COMMIT; DO SLEEP(0.002);";
        let client = format!("mariadb --no-defaults --socket={} {database}", self.socket().display());
        load(self.dir.path(), &format!("for i in 1 2; do yes '{transfer}' | {client} & done; wait"))
    }

    /// Names of the databases that are not the server's own.
    pub fn databases(&self) -> Vec<String> {
        let own = "'mysql','sys','information_schema','performance_schema'";
        let all = self.sql(
            "",
            &format!("SELECT schema_name FROM information_schema.schemata WHERE schema_name NOT IN ({own}) ORDER BY 1"),
        );
        all.lines().map(str::to_owned).collect()
    }
}

impl Drop for Mariadb {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Accounts and what happened to them, as MariaDB and SQLite both read it.
pub const ACCOUNTS: &str = "CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance BIGINT NOT NULL);\n\
    CREATE TABLE history (id INTEGER PRIMARY KEY AUTO_INCREMENT, account INTEGER NOT NULL, delta BIGINT NOT NULL, \
    FOREIGN KEY (account) REFERENCES accounts (id));\n";

/// True where what was transferred is all there and nothing is lost.
pub const BALANCED: &str = "SELECT (SELECT COUNT(*) FROM accounts) = 100 AND (SELECT COALESCE(SUM(balance), 0) FROM accounts) = 0 \
    AND NOT EXISTS (SELECT 1 FROM accounts a WHERE a.balance <> (SELECT COALESCE(SUM(delta), 0) FROM history h WHERE h.account = a.id)) \
    AND NOT EXISTS (SELECT 1 FROM history h WHERE h.account NOT IN (SELECT id FROM accounts));\n";

/// A hundred accounts.
pub fn accounts() -> String {
    let rows: Vec<String> = (1..=100).map(|id| format!("({id}, 0)")).collect();
    format!("INSERT INTO accounts VALUES {};\n", rows.join(", "))
}

/// A database of SQLite with accounts, in a mode.
pub fn sqlite(dir: &Path, file: &Path, mode: &str) {
    let script = format!("PRAGMA journal_mode = {mode};\n{}{}", ACCOUNTS.replace(" AUTO_INCREMENT", ""), accounts());
    std::fs::write(dir.join("make.sql"), script).unwrap();
    sh(dir, &format!("sqlite3 -bail '{}' < make.sql > /dev/null", file.display()));
}

/// Transfers between accounts in a file of SQLite until it is dropped.
pub fn sqlite_load(dir: &Path, file: &Path) -> Load {
    let transfer = "BEGIN IMMEDIATE; INSERT OR REPLACE INTO temp.t SELECT 1, 1 + abs(random() % 100), 1 + abs(random() % 100), \
                    abs(random() % 1000); UPDATE accounts SET balance = balance - (SELECT v FROM t) WHERE id = (SELECT a FROM t); \
                    UPDATE accounts SET balance = balance + (SELECT v FROM t) WHERE id = (SELECT b FROM t); \
                    INSERT INTO history (account, delta) SELECT a, -v FROM t; \
                    INSERT INTO history (account, delta) SELECT b, v FROM t; COMMIT;";
    let table = "CREATE TEMP TABLE t (id INTEGER PRIMARY KEY, a, b, v);";
    let client = format!("sqlite3 -cmd '.timeout 60000' '{}'", file.display());
    load(dir, &format!("for i in 1 2; do (echo '{table}'; yes '{transfer}') | {client} & done; wait"))
}
