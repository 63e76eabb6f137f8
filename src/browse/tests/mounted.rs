//! Real mounts by a real process, of a real vault. They need root and /dev/fuse.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tempfile::TempDir;
use uuid::Uuid;

use crate::archive::{self, BackupRequest};
use crate::browse::{BackupView, BrowseClient, BrowseOptions, Policy, VaultAccess};
use crate::model::Progress;
use crate::store::LocalStore;
use crate::vault::{MasterKey, NewVault, Secret, Vault};

/// The browse process: this test binary, started again with its options after `--`.
#[test]
fn serve() {
    let args: Vec<OsString> = std::env::args_os().skip_while(|arg| arg != "--").skip(1).collect();
    if args.iter().any(|arg| arg == "--socket") {
        std::process::exit(crate::browse::main(args.into_iter(), || {}));
    }
}

/// A vault, a source and a place to mount at.
struct Place {
    dir: TempDir,
    vault: Arc<Vault>,
    access: VaultAccess,
    ids: u64,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (uuid, master) = (Uuid::new_v4(), MasterKey::random().unwrap());
        let directory = dir.path().join("vault");
        LocalStore::create_dir(&directory).unwrap();
        let store = Arc::new(LocalStore::open(&directory).unwrap());
        let new = NewVault { uuid, master: Some(master.clone()), key_file: Some(Secret::random().unwrap()) };
        Vault::create(&*store, &new).unwrap();
        let cache_dir = dir.path().join("cache");
        let vault = Vault::open(store, Some(master.clone()), &cache_dir, 8 << 20).unwrap();
        let access = VaultAccess {
            uuid,
            place: crate::store::Place::Local(directory),
            others: Vec::new(),
            master: Some(master),
            cache_dir,
        };
        Self { dir, vault, access, ids: 0 }
    }

    fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    fn mount(&self) -> PathBuf {
        self.dir.path().join("mount")
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("private/browse.sock")
    }

    /// Backs the source up.
    fn backup(&mut self, policy: Policy) -> BackupView {
        self.ids += 1;
        let cache = self.dir.path().join("changes");
        let request = BackupRequest { paths: vec![self.source()], change_cache: cache, ..Default::default() };
        let outcome = archive::backup(&self.vault, &request, &Progress::default()).unwrap();
        BackupView {
            id: self.ids,
            vault: self.access.uuid,
            root: outcome.root,
            totals: outcome.totals,
            project: "default".to_owned(),
            resource: "web".to_owned(),
            machine: None,
            checkpoint: None,
            created_at: Timestamp::now(),
            policy,
            partial: false,
        }
    }

    fn options(&self) -> BrowseOptions {
        let args = ["--exact", "browse::tests::mounted::serve", "--nocapture", "--test-threads=1", "--"];
        BrowseOptions {
            mount: self.mount(),
            socket: self.socket(),
            linger: Duration::from_secs(20),
            executable: (std::env::current_exe().unwrap(), args.iter().map(OsString::from).collect()),
        }
    }

    fn client(&self) -> BrowseClient {
        BrowseClient::start(self.options()).unwrap()
    }

    /// Where the source is seen in a backup.
    fn seen(&self, backup: &BackupView) -> PathBuf {
        let id = backup.id.to_string();
        self.mount().join("backups").join(id).join(self.source().strip_prefix("/").unwrap())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Whatever a failed test left, so that the directory can be removed.
        let _ = crate::browse::mount::detach(&self.mount());
    }
}

fn sh(dir: &Path, script: &str) -> String {
    let out = Command::new("sh").args(["-euc", script]).current_dir(dir).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{script}: {text}{}", String::from_utf8_lossy(&out.stderr));
    text
}

/// What rsync finds different, over everything it can see.
fn differences(a: &Path, b: &Path) -> String {
    let script = format!("rsync -nacHAX --delete --itemize-changes '{}/' '{}/'", a.display(), b.display());
    sh(Path::new("/"), &script)
}

/// Every kind of file there is.
fn fill(source: &Path) {
    fs::create_dir_all(source.join("dir/empty")).unwrap();
    sh(
        source,
        r#"
        printf 'hello' > plain; touch -d '2001-02-03 04:05:06.123456789' plain; chmod 4751 plain; chown 12:34 plain
        head -c 5000000 /dev/urandom > large
        ln plain dir/hard; ln plain dir/empty/harder
        ln -s 'nowhere/at all' soft; touch -h -d '1969-12-31 23:59:58.5 UTC' soft
        mkfifo pipe; mknod block b 7 300; mknod char c 300 5
        python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("sock")' || true
        truncate -s 100M sparse; printf x | dd of=sparse bs=1 seek=50000000 conv=notrunc status=none
        setfattr -n user.note -v 'a value' plain; setfattr -n trusted.secret -v 1 dir
        setfacl -m u:65534:rx,g:99:w dir; setfacl -d -m u:1:r dir; setfacl -m u:65533:r large
        cp plain capable; setcap cap_net_raw+ep capable
        chmod 1777 dir/empty; touch dir/empty
        touch "$(printf 'not\377utf8')" "$(head -c 255 /dev/zero | tr '\0' n)"
        chmod 710 . ; touch -d '1999-09-09 09:09:09.987654321' dir
        mkdir many; cd many; seq 1 9000 | xargs touch
        "#,
    );
}

#[test]
fn a_backup_looks_exactly_like_its_source() {
    let mut place = Place::new();
    fill(&place.source());
    let client = place.client();
    let backup = place.backup(Policy::Strict);
    client.add(place.access.clone(), backup.clone()).unwrap();
    let seen = place.seen(&backup);
    assert_eq!(differences(&place.source(), &seen), "");
    assert_eq!(differences(&seen, &place.source()), "");
    let latest = place.mount().join("resources/default/web/latest");
    assert_eq!(differences(&place.source(), &latest.join(place.source().strip_prefix("/").unwrap())), "");

    let (real, shown) =
        (fs::metadata(place.source().join("plain")).unwrap(), fs::metadata(seen.join("plain")).unwrap());
    assert_eq!((shown.nlink(), shown.mode(), shown.mtime_nsec()), (3, real.mode(), 123_456_789));
    assert_eq!(shown.ino(), fs::metadata(seen.join("dir/empty/harder")).unwrap().ino());
    for node in ["block", "char"] {
        let rdev = |dir: &Path| fs::symlink_metadata(dir.join(node)).unwrap().rdev();
        assert_eq!(rdev(&place.source()), rdev(&seen), "{node}");
    }
    let sparse = fs::metadata(seen.join("sparse")).unwrap();
    assert!(sparse.len() == 100 << 20 && sparse.blocks() < 4096, "{} blocks", sparse.blocks());
    let file = fs::File::open(seen.join("sparse")).unwrap();
    let data = nix::unistd::lseek(&file, 0, nix::unistd::Whence::SeekData).unwrap();
    assert!((49_000_000..=50_000_000).contains(&data), "data at {data}");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 50_000_000).unwrap();
    assert_eq!(byte, *b"x");
    assert_eq!(fs::read_dir(seen.join("many")).unwrap().count(), 9000);
    assert!(fs::write(seen.join("new"), "x").is_err());
    client.stop().unwrap();
    assert_eq!(fs::read_dir(place.mount()).unwrap().count(), 0);
}

#[test]
fn backups_appear_and_vanish_under_open_files() {
    let mut place = Place::new();
    fill(&place.source());
    let client = place.client();
    let first = place.backup(Policy::Strict);
    let home = place.mount().join("resources/default/web");
    assert!(fs::metadata(&home).is_err());
    client.add(place.access.clone(), first.clone()).unwrap();
    assert_eq!(fs::read_dir(&home).unwrap().count(), 2);
    let latest = || fs::read_link(home.join("latest")).unwrap().into_os_string().into_string().unwrap();
    assert_eq!(latest(), first.dir_name());
    fs::write(place.source().join("fresh"), "new").unwrap();
    let second = place.backup(Policy::Strict);
    client.add(place.access.clone(), second.clone()).unwrap();
    assert_eq!(fs::read_dir(&home).unwrap().count(), 3);
    assert_eq!(latest(), second.dir_name());
    assert!(place.seen(&second).join("fresh").exists() && !place.seen(&first).join("fresh").exists());

    let held = fs::File::open(place.seen(&first).join("large")).unwrap();
    client.remove(first.id).unwrap();
    assert_eq!(fs::read_dir(&home).unwrap().count(), 2);
    assert!(fs::metadata(place.seen(&first)).is_err());
    let error = held.read_at(&mut [0; 10], 1 << 20).unwrap_err();
    assert!(matches!(error.raw_os_error(), Some(nix::libc::ESTALE | nix::libc::EIO)), "{error}");
    client.remove(second.id).unwrap();
    assert_eq!(fs::read_dir(place.mount().join("resources")).unwrap().count(), 0);

    // Set: exactly these, and what is not different is left alone.
    let vaults = vec![place.access.clone()];
    client.set(vaults.clone(), vec![first.clone(), second.clone()]).unwrap();
    let mut held = fs::File::open(place.seen(&second).join("large")).unwrap();
    client.set(vaults, vec![second.clone()]).unwrap();
    assert!(fs::metadata(place.seen(&first)).is_err());
    assert_eq!(std::io::copy(&mut held, &mut std::io::sink()).unwrap(), 5_000_000);
    client.stop().unwrap();
}

#[test]
fn the_mount_outlives_its_client_and_is_found_again() {
    let mut place = Place::new();
    fill(&place.source());
    let backup = place.backup(Policy::Root);
    let client = place.client();
    client.add(place.access.clone(), backup.clone()).unwrap();
    let pid = client.pid().unwrap();
    drop(client);
    let seen = place.seen(&backup).join("plain");
    assert_eq!(fs::read(&seen).unwrap(), b"hello");
    let client = place.client();
    assert_eq!(client.pid(), None, "another process was started");
    client.set(vec![place.access.clone()], vec![backup.clone()]).unwrap();

    // Killed: the dead mount is swept, and all is there again without being asked for.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.try_into().unwrap()), nix::sys::signal::SIGKILL).unwrap();
    let since = Instant::now();
    // The dead mount may still answer from the kernel's memory.
    while client.pid().is_none() || fs::read(&seen).is_err() {
        assert!(since.elapsed() < Duration::from_secs(20), "the mount did not come back");
        std::thread::sleep(Duration::from_millis(50));
    }
    let pid = client.pid().unwrap();
    drop(client);
    // Told to end: the mount goes, even though a file is open.
    let held = loop {
        // What the dead mount left in the kernel may still be in the way of the new one.
        match fs::File::open(&seen) {
            Ok(file) => break file,
            Err(e) => assert!(since.elapsed() < Duration::from_secs(20), "{e}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.try_into().unwrap()), nix::sys::signal::SIGTERM).unwrap();
    let since = Instant::now();
    while fs::metadata(&seen).is_ok() || Path::new("/proc").join(pid.to_string()).join("exe").exists() {
        assert!(since.elapsed() < Duration::from_secs(10), "the process did not end");
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(held);
    assert_eq!(fs::read_dir(place.mount()).unwrap().count(), 0);
}

#[test]
fn the_kernel_keeps_others_out() {
    let mut place = Place::new();
    fs::create_dir(place.source()).unwrap();
    sh(
        &place.source(),
        r"
        mkdir open closed shared; chmod 755 open; chmod 700 closed; chmod 750 shared
        echo a > open/all; echo b > open/mine; echo c > closed/all; echo d > shared/acl
        chmod 644 open/all closed/all shared/acl; chmod 600 open/mine; chown 65533 open/mine
        setfacl -m u:65534:rx shared; chmod 755 .
        ",
    );
    let as_user = |uid: u32, path: &Path| {
        let ids = [format!("--reuid={uid}"), format!("--regid={uid}")];
        let cat = Command::new("setpriv").args(ids).args(["--clear-groups", "cat"]).arg(path).output().unwrap();
        cat.status.success()
    };
    let client = place.client();
    let strict = place.backup(Policy::Strict);
    let root = place.backup(Policy::Root);
    let owner = place.backup(Policy::Owner(65533));
    for backup in [&strict, &root, &owner] {
        client.add(place.access.clone(), backup.clone()).unwrap();
    }
    let can = |uid, backup: &BackupView, file: &str| as_user(uid, &place.seen(backup).join(file));
    assert!(can(65534, &strict, "open/all") && !can(65534, &strict, "open/mine") && !can(65534, &strict, "closed/all"));
    assert!(can(65533, &strict, "open/mine"));
    assert!(can(65534, &strict, "shared/acl") && !can(65533, &strict, "shared/acl"), "the ACL decides");
    for file in ["open/all", "open/mine", "closed/all", "shared/acl"] {
        assert!(!can(65534, &root, file) && !can(65533, &root, file), "{file}");
        assert!(!can(65534, &owner, file) && can(65533, &owner, file), "{file}");
    }
    client.stop().unwrap();
}

#[test]
fn links_to_versions_follow_a_resource_that_is_renamed() {
    let mut place = Place::new();
    fs::create_dir(place.source()).unwrap();
    sh(&place.source(), "mkdir d; echo one > d/f");
    let client = place.client();
    let backup = place.backup(Policy::Strict);
    client.add(place.access.clone(), backup.clone()).unwrap();
    let link = place.seen(&backup).join("d/.versions");
    let target = || fs::read_link(&link).unwrap().into_os_string().into_string().unwrap();
    let held = fs::File::open(place.seen(&backup).join("d/f")).unwrap();
    // Somebody holds the link itself, so that the kernel cannot forget it.
    let flags = nix::libc::O_PATH | nix::libc::O_NOFOLLOW;
    let _link = fs::OpenOptions::new().read(true).custom_flags(flags).open(&link).unwrap();
    target();
    for name in ["web", "another-and-longer", "w", "web"] {
        let renamed = BackupView { resource: name.to_owned(), ..backup.clone() };
        client.set(vec![place.access.clone()], vec![renamed]).unwrap();
        let since = Instant::now();
        while !target().contains(&format!("versions/default/{name}/")) {
            assert!(since.elapsed() < Duration::from_secs(20), "{name}: {}", target());
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(sh(&link, "cat f/*"), "one\n", "{name}");
    }
    // What else is known of the backup stays.
    let mut text = [0; 4];
    held.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(text, *b"one\n");
    client.stop().unwrap();
}

#[test]
fn a_lost_pack_is_an_error_at_once_and_hurts_nothing_else() {
    let mut place = Place::new();
    fill(&place.source());
    let client = place.client();
    let backup = place.backup(Policy::Strict);
    client.add(place.access.clone(), backup.clone()).unwrap();
    assert_eq!(fs::read(place.seen(&backup).join("plain")).unwrap(), b"hello");
    fs::rename(place.dir.path().join("vault/packs"), place.dir.path().join("away")).unwrap();
    let since = Instant::now();
    let error = fs::read(place.seen(&backup).join("large")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EIO), "{error}");
    assert!(since.elapsed() < Duration::from_secs(10));
    assert_eq!(fs::read(place.seen(&backup).join("dir/hard")).unwrap(), b"hello");
    fs::rename(place.dir.path().join("away"), place.dir.path().join("vault/packs")).unwrap();
    assert_eq!(fs::read(place.seen(&backup).join("large")).unwrap().len(), 5_000_000);
    client.stop().unwrap();
}

#[test]
fn places_that_are_not_fit_are_refused() {
    let place = Place::new();
    fs::create_dir(place.mount()).unwrap();
    fs::write(place.mount().join("precious"), "x").unwrap();
    let options = place.options();
    let error = BrowseClient::start(options.clone()).unwrap_err();
    assert!(error.message.contains("not empty"), "{error}");
    let error = BrowseClient::start(BrowseOptions { mount: place.mount().join("precious"), ..options }).unwrap_err();
    assert!(error.message.contains("not a directory"), "{error}");
}
