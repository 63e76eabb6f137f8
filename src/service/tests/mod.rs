//! The use cases over a real catalog, a real vault and real files, without bus and mount.

mod checkpoints;
mod configuration;
mod housekeeping;
mod overdue;
mod recovery;
mod schedules;
mod sizes;
mod vaults;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::*;
use crate::catalog::{Backup, Job, Task, backup};
use crate::model::{ErrorKind, Id, Value};

struct House {
    dir: tempfile::TempDir,
}

impl House {
    fn new() -> Self {
        let house = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir_all(house.data().join("sub")).unwrap();
        std::fs::write(house.data().join("one"), "first").unwrap();
        std::fs::write(house.data().join("sub/two"), vec![7; 300_000]).unwrap();
        house
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn data(&self) -> PathBuf {
        self.path("data")
    }

    fn options(&self) -> ServiceOptions {
        ServiceOptions {
            config: self.path("strongroom.toml"),
            state_dir: self.path("state"),
            cache_dir: self.path("cache"),
            browse_path: self.path("browse"),
            first_vault: self.path("state/vault"),
            browse: None,
            bus: Default::default(),
            clock: Clock::System,
        }
    }

    fn open(&self) -> Arc<Service> {
        Service::open(self.options()).unwrap()
    }

    fn started(&self) -> Arc<Service> {
        let service = self.open();
        service.start();
        service
    }

    fn with_resource(&self) -> Arc<Service> {
        let service = self.started();
        self.add(&service, "data");
        service
    }

    fn add(&self, service: &Service, name: &str) -> u64 {
        service.add_resource(name, map(&[("paths", strings(&[self.data().to_str().unwrap()]))])).unwrap()
    }
}

/// Ends a service as a stop does; nothing may hold it afterwards.
fn close(service: Arc<Service>) {
    service.stop(Duration::from_secs(20));
    drop_whole(service);
}

fn drop_whole(mut service: Arc<Service>) {
    let until = Instant::now() + Duration::from_secs(20);
    while Arc::get_mut(&mut service).is_none() && Arc::strong_count(&service) > 1 {
        assert!(Instant::now() < until, "something still holds the service");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn map(pairs: &[(&str, Value)]) -> Map {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect()
}

fn strings(list: &[&str]) -> Value {
    Value::from(list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
}

fn text(map: &Map, key: &str) -> String {
    match map.get(key) {
        Some(Value::Str(s) | Value::Path(s)) => s.clone(),
        other => panic!("{key} is {other:?}"),
    }
}

fn number(map: &Map, key: &str) -> u64 {
    match map.get(key) {
        Some(Value::Uint(n)) => *n,
        other => panic!("{key} is {other:?}"),
    }
}

fn wait(service: &Service, job: u64) -> JobStatus {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let status = service.job_status(job).unwrap();
        // The descriptor table and the thread are gone a moment after the row says so.
        if State::parse(&status.state).unwrap().ended() && service.jobs.live(job).is_none() {
            return status;
        }
        assert!(Instant::now() < until, "job {job} does not end: {status:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn done(service: &Service, job: u64) {
    let status = wait(service, job);
    assert_eq!(status.state, "completed", "{}", status.error);
}

fn job_of(backup: &Map) -> u64 {
    text(backup, "job").rsplit('/').next().unwrap().parse().unwrap()
}

fn back_up(service: &Service, resource: &str) -> u64 {
    let backup = service.create_backup(resource, Map::new()).unwrap();
    done(service, job_of(&backup));
    number(&backup, "id")
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind, words: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.kind, kind, "{error}");
    assert!(error.message.contains(words), "{words:?} is not in {error}");
}

#[test]
fn a_backup_is_made_listed_restored_and_deleted() {
    let house = House::new();
    let service = house.with_resource();
    let queued = service.create_backup("data", map(&[("description", "first".into())])).unwrap();
    assert_eq!(text(&queued, "status"), "pending");
    assert!(!queued.contains_key("size"), "what is not known yet is left out");
    done(&service, job_of(&queued));
    let backup = service.get_backup(1).unwrap();
    assert_eq!(text(&backup, "status"), "completed");
    assert_eq!(text(&backup, "description"), "first");
    assert_eq!(number(&backup, "size"), 300_005);
    assert_eq!(number(&backup, "files"), 2);
    assert_eq!(number(&backup, "errors"), 0);
    assert!(text(&backup, "checksum").starts_with("sha256:"));
    let (count, list) = service.list_backups(map(&[("resource", "data".into())])).unwrap();
    assert_eq!((count, list.len()), (1, 1));

    let target = house.path("target");
    std::fs::create_dir(&target).unwrap();
    let job = service.restore_backup(1, map(&[("target", target.to_str().unwrap().into())])).unwrap();
    done(&service, job);
    let restored = target.join(house.data().strip_prefix("/").unwrap()).join("one");
    assert_eq!(std::fs::read_to_string(restored).unwrap(), "first");

    let job = service.delete_backup(1, Map::new()).unwrap();
    done(&service, job);
    refused(service.get_backup(1), ErrorKind::NotFound, "backup 1");
    assert_eq!(service.list_backups(Map::new()).unwrap().0, 0);
    let vault = service.get_vault("main").unwrap();
    assert_eq!(number(&vault, "used"), 0, "its space came back");
    assert_eq!(back_up(&service, "data"), 2, "ids are never given twice");
    close(service);
}

#[test]
fn bad_arguments_are_named_and_change_nothing() {
    use ErrorKind::{AlreadyExists, InvalidArgument, InvalidState, NotConfirmed, NotFound};
    let house = House::new();
    let service = house.with_resource();
    back_up(&service, "data");
    let data = house.data();
    let data = data.to_str().unwrap();
    let state = house.path("state");
    let paths = |list: &[&str]| ("paths", strings(list));
    let add = |pairs: &[(&str, Value)]| service.add_resource("x", map(pairs));
    refused(add(&[]), InvalidArgument, "paths");
    refused(add(&[paths(&[])]), InvalidArgument, "paths");
    refused(add(&[paths(&["relative"])]), InvalidArgument, "absolute");
    refused(add(&[paths(&["/etc/../usr"])]), InvalidArgument, "..");
    refused(add(&[paths(&["/does/not/exist"])]), InvalidArgument, "/does/not/exist");
    refused(add(&[paths(&[state.to_str().unwrap()])]), InvalidArgument, "own directory");
    refused(add(&[paths(&[data]), ("kind", "OS::Nope".into())]), InvalidArgument, "kind");
    refused(add(&[paths(&[data]), ("browse", "owner=nobody-here-xyz".into())]), InvalidArgument, "browse");
    refused(add(&[paths(&[data]), ("vault", "nope".into())]), NotFound, "vault");
    refused(add(&[paths(&[data]), ("project", "nope".into())]), NotFound, "project");
    refused(add(&[paths(&[data]), ("one_file_system", 1_u64.into())]), InvalidArgument, "one_file_system");
    refused(add(&[paths(&[data]), ("pathz", true.into())]), InvalidArgument, "pathz");
    refused(add(&[paths(&[data]), ("exclude", strings(&["a{b"]))]), InvalidArgument, "exclude");
    refused(add(&[paths(&[data]), ("databases", vec![Map::new()].into())]), InvalidArgument, "databases");
    refused(service.add_resource("data", map(&[paths(&[data])])), AlreadyExists, "data");
    for name in ["", "a/b", "..", "-x", "12", "a\nb", &"x".repeat(256)] {
        refused(service.add_resource(name, map(&[paths(&[data])])), InvalidArgument, "name");
    }
    refused(service.create_backup("nope", Map::new()), NotFound, "nope");
    refused(service.create_backup("99", Map::new()), NotFound, "99");
    refused(service.create_backup("data", map(&[("type", "database".into())])), InvalidArgument, "database");
    refused(service.create_backup("data", map(&[("vault", "nope".into())])), NotFound, "nope");
    refused(service.get_backup(7), NotFound, "7");
    refused(service.restore_backup(1, Map::new()), NotConfirmed, "confirm");
    refused(service.restore_backup(7, Map::new()), NotFound, "7");
    refused(service.restore_backup(1, map(&[("target", "rel".into())])), InvalidArgument, "target");
    refused(
        service.restore_backup(1, map(&[("target", data.into()), ("atomic", true.into())])),
        InvalidArgument,
        "atomic and target",
    );
    refused(service.restore_server("data", 7, map(&[("confirm", true.into())])), NotFound, "7");
    refused(service.export_backup(1, Map::new()), InvalidArgument, "path and fd");
    refused(service.export_backup(1, map(&[("path", data.into())])), AlreadyExists, data);
    refused(service.export_backup(1, map(&[("path", "/no/such/dir/x".into())])), InvalidArgument, "/no/such/dir");
    refused(service.list_backups(map(&[("status", "odd".into())])), InvalidArgument, "status");
    refused(service.list_backups(map(&[("sort", strings(&["odd"]))])), InvalidArgument, "odd");
    refused(service.list_resources(map(&[("name_regex", "(".into())])), InvalidArgument, "name_regex");
    refused(service.cancel_job(1, Map::new()), InvalidState, "completed");
    refused(service.remove_destination("local", Map::new()), InvalidState, "main");
    refused(service.remove_project("default", Map::new()), InvalidState, "default");
    refused(service.add_destination("d", "s3", Map::new()), InvalidArgument, "s3");
    refused(service.add_destination("d", "local", Map::new()), InvalidArgument, "directory");
    refused(service.add_vault("v", Map::new()), InvalidArgument, "destinations");
    refused(service.add_vault("v", map(&[("destinations", strings(&["local"]))])), InvalidState, "main");
    refused(service.remove_vault_key("main", "zz", Map::new()), InvalidArgument, "key");
    assert_eq!(service.list_resources(Map::new()).unwrap().0, 1);
    assert_eq!(service.list_jobs(Map::new()).unwrap().0, 1);
    assert_eq!(service.list_vaults(Map::new()).unwrap().0, 1);
    close(service);
}

#[test]
fn the_eleventh_manual_backup_is_refused() {
    let house = House::new();
    std::fs::write(house.path("strongroom.toml"), "[limits]\nmanual_backups = 2\n").unwrap();
    let service = house.with_resource();
    back_up(&service, "data");
    back_up(&service, "data");
    refused(service.create_backup("data", Map::new()), ErrorKind::LimitReached, "may have 2");
    service.create_backup("data", map(&[("backup_type", "automatic".into())])).unwrap();
    std::fs::write(house.path("strongroom.toml"), "[limits]\nmanual_backups = 3\n").unwrap();
    service.reload(Map::new()).unwrap();
    back_up(&service, "data");
    std::fs::write(house.path("strongroom.toml"), "[limits]\nmanual_backup = 3\n").unwrap();
    refused(service.reload(Map::new()), ErrorKind::InvalidArgument, "manual_backup");
    assert_eq!(service.config().manual_backups, 3);
    close(service);
}

#[test]
fn lists_filter_sort_and_page() {
    let house = House::new();
    let service = house.with_resource();
    house.add(&service, "other");
    service.add_project("web", Map::new()).unwrap();
    let data = house.data();
    let paths = strings(&[data.to_str().unwrap()]);
    service.add_resource("data", map(&[("paths", paths), ("project", "web".into())])).unwrap();
    refused(service.get_resource("data"), ErrorKind::InvalidArgument, "PROJECT/NAME");
    assert_eq!(number(&service.get_resource("web/data").unwrap(), "id"), 3);
    for (name, kind) in [("default/data", "manual"), ("other", "automatic"), ("web/data", "manual"), ("1", "automatic")]
    {
        let queued = service.create_backup(name, map(&[("backup_type", kind.into())])).unwrap();
        done(&service, job_of(&queued));
    }
    let ids = |pairs: &[(&str, Value)]| {
        let (count, list) = service.list_backups(map(pairs)).unwrap();
        (count, list.iter().map(|m| number(m, "id")).collect::<Vec<_>>())
    };
    assert_eq!(ids(&[]), (4, vec![4, 3, 2, 1]));
    assert_eq!(ids(&[("resource", "default/data".into())]), (2, vec![4, 1]));
    assert_eq!(ids(&[("server_id", Value::Int32(2))]), (1, vec![2]));
    assert_eq!(ids(&[("backup_type", "manual".into())]), (2, vec![3, 1]));
    assert_eq!(ids(&[("project", "web".into())]), (1, vec![3]));
    assert_eq!(ids(&[("status", "in_progress".into())]), (0, vec![]));
    assert_eq!(
        ids(&[("status", "completed".into()), ("page_size", 3_u64.into()), ("page", 2_u64.into())]),
        (4, vec![1])
    );
    assert_eq!(ids(&[("sort", strings(&["id"])), ("page_size", 2_u64.into())]), (4, vec![1, 2]));
    assert_eq!(ids(&[("sort", strings(&["-created_at"]))]), (4, vec![4, 3, 2, 1]));
    assert_eq!(ids(&[("sort", strings(&["server", "-id"]))]), (4, vec![4, 1, 3, 2]));
    let names = |pairs: &[(&str, Value)]| service.list_resources(map(pairs)).unwrap().0;
    assert_eq!(names(&[("name_regex", "*".into())]), 3);
    assert_eq!(names(&[("name_regex", "dat".into())]), 0, "the whole name must match");
    assert_eq!(names(&[("name_regex", "da.a".into())]), 2);
    assert_eq!(names(&[("never_backed_up", true.into())]), 0);
    assert_eq!(names(&[("unprotected", true.into())]), 3);
    service.associate_resources("main", vec!["other".into()]).unwrap();
    assert_eq!(names(&[("unprotected", true.into())]), 2);
    close(service);
}

#[test]
fn backups_of_a_removed_resource_stay() {
    let house = House::new();
    let service = house.with_resource();
    back_up(&service, "data");
    service.remove_resource("data", Map::new()).unwrap();
    refused(service.get_resource("data"), ErrorKind::NotFound, "data");
    assert_eq!(service.list_backups(map(&[("resource", "data".into())])).unwrap().0, 1);
    refused(service.restore_backup(1, map(&[("confirm", true.into())])), ErrorKind::InvalidState, "target");
    let target = house.path("target");
    let job = service.restore_backup(1, map(&[("target", target.to_str().unwrap().into())])).unwrap();
    done(&service, job);
    house.add(&service, "data");
    assert_eq!(number(&service.get_resource("data").unwrap(), "id"), 2);
    done(&service, service.delete_backup(1, Map::new()).unwrap());
    refused(service.list_backups(map(&[("resource", "1".into())])), ErrorKind::NotFound, "1");
    close(service);
}

#[test]
fn protection_holds() {
    let house = House::new();
    let service = house.with_resource();
    back_up(&service, "data");
    service.update_backup(1, map(&[("protected", true.into()), ("description", "kept".into())])).unwrap();
    refused(service.delete_backup(1, Map::new()), ErrorKind::InvalidState, "protected");
    refused(service.remove_vault("main", map(&[("delete_data", true.into())])), ErrorKind::InvalidState, "protected");
    assert_eq!(text(&service.get_backup(1).unwrap(), "description"), "kept");
    close(service);
}

#[test]
fn a_waiting_job_is_cancelled_at_once() {
    let house = House::new();
    let service = house.open();
    house.add(&service, "data");
    let mut events = service.subscribe();
    let queued = service.create_backup("data", Map::new()).unwrap();
    let job = job_of(&queued);
    refused(service.delete_backup(1, Map::new()), ErrorKind::InvalidState, "pending");
    assert_eq!((service.running_jobs(), service.queued_jobs()), (0, 1));
    assert!(service.objects().contains(&(ObjectKind::Job, job)));
    service.cancel_job(job, Map::new()).unwrap();
    assert_eq!(service.job_status(job).unwrap().state, "cancelled");
    assert_eq!(text(&service.get_backup(1).unwrap(), "status"), "cancelled");
    refused(service.restore_backup(1, map(&[("confirm", true.into())])), ErrorKind::InvalidState, "cancelled");
    let mut seen = Vec::new();
    while let Ok(event) = events.try_recv() {
        seen.push(event);
    }
    assert!(seen.contains(&Event::JobNew { id: job }));
    assert!(seen.contains(&Event::BackupChanged { id: 1, status: "cancelled".into() }));
    assert!(
        seen.iter().any(|e| matches!(e, Event::JobRemoved { id, result, .. } if *id == job && result == "cancelled"))
    );
    service.start();
    done(&service, service.delete_backup(1, Map::new()).unwrap());
    close(service);
}

#[test]
fn a_second_daemon_is_refused() {
    let house = House::new();
    let service = house.open();
    refused(Service::open(house.options()), ErrorKind::InvalidState, "already uses");
    drop_whole(service);
    drop_whole(house.open());
}

#[test]
fn a_vanished_destination_is_named_and_never_made_anew() {
    let house = House::new();
    let service = house.with_resource();
    back_up(&service, "data");
    close(service);
    let (vault, away) = (house.path("state/vault"), house.path("away"));
    std::fs::rename(&vault, &away).unwrap();
    let service = house.started();
    let queued = service.create_backup("data", Map::new()).unwrap();
    let status = wait(&service, job_of(&queued));
    assert_eq!(status.state, "failed");
    assert!(status.error.contains("vault"), "{}", status.error);
    assert_eq!(text(&service.get_job(status.id).unwrap(), "error_name"), "org.strongroom1.Error.DestinationFailed");
    assert!(!vault.join("vault.json").exists());
    let _ = std::fs::remove_dir_all(&vault);
    std::fs::rename(&away, &vault).unwrap();
    back_up(&service, "data");
    close(service);
}

#[test]
fn our_own_directories_are_not_in_a_backup_around_them() {
    let house = House::new();
    let service = house.started();
    let root = house.dir.path().canonicalize().unwrap();
    service.add_resource("all", map(&[("paths", strings(&[root.to_str().unwrap()]))])).unwrap();
    let id = back_up(&service, "all");
    let root_node: Id = service.catalog.read(|r| r.need::<Backup>(id)).unwrap().root.unwrap();
    let row = service.catalog.read(|r| r.need::<VaultRow>(1)).unwrap();
    let open = service.open_vault(&row).unwrap();
    let there = |name: &str| open.vault.lookup(&root_node, &root.join(name)).is_ok_and(|e| e.is_some());
    assert!(there("data/one"));
    for own in ["state/catalog.redb", "state/keys", "state/vault/vault.json", "cache/changes"] {
        assert!(!there(own), "{own}");
    }
    drop(open);
    close(service);
}

#[test]
fn keys_come_and_go_but_one_always_stays() {
    let house = House::new();
    let service = house.started();
    let recovery = service.add_vault_key("main", map(&[("kind", "recovery".into())])).unwrap();
    assert!(text(&recovery, "recovery_key").len() > 50);
    let path = house.path("extra.key");
    let options = map(&[("kind", "file".into()), ("path", path.to_str().unwrap().into())]);
    service.add_vault_key("main", options.clone()).unwrap();
    refused(service.add_vault_key("main", options), ErrorKind::AlreadyExists, "path");
    let keys = service.list_vault_keys("main").unwrap();
    assert_eq!(keys.len(), 3);
    assert!(keys.iter().all(|k| !k.contains_key("recovery_key")), "answered once");
    let own = keys.iter().find(|k| matches!(k["own"], Value::Bool(true))).unwrap();
    refused(service.remove_vault_key("main", &text(own, "id"), Map::new()), ErrorKind::InvalidState, "stays");
    service.remove_vault_key("main", &text(&recovery, "id"), Map::new()).unwrap();
    refused(service.remove_vault_key("main", &text(&recovery, "id"), Map::new()), ErrorKind::NotFound, "key");
    assert_eq!(service.list_vault_keys("main").unwrap().len(), 2);
    close(service);
}

#[test]
fn maintenance_jobs_answer() {
    let house = House::new();
    let service = house.with_resource();
    back_up(&service, "data");
    for job in [
        service.verify_vault("main", map(&[("read_data", true.into())])).unwrap(),
        service.verify_backup(1, Map::new()).unwrap(),
        service.prune_vault("main", map(&[("dry_run", true.into())])).unwrap(),
        service.sync_vault("main", Map::new()).unwrap(),
        service.test_destination("local", Map::new()).unwrap(),
    ] {
        done(&service, job);
        assert!(matches!(&service.get_job(job).unwrap()["result"], Value::Map(m) if !m.is_empty()));
    }
    assert!(service.get_vault("main").unwrap().contains_key("last_verified"));
    // A manifest that vanished is damage, and the job says so.
    let manifest = std::fs::read_dir(house.path("state/vault/backups")).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_file(manifest).unwrap();
    let status = wait(&service, service.verify_vault("main", Map::new()).unwrap());
    assert_eq!(status.state, "failed");
    assert!(status.error.contains("missing"), "{}", status.error);
    close(service);
}

#[test]
fn a_resource_that_went_away_fails_its_backup_with_a_reason() {
    let house = House::new();
    let service = house.with_resource();
    std::fs::remove_dir_all(house.data()).unwrap();
    let queued = service.create_backup("data", Map::new()).unwrap();
    let status = wait(&service, job_of(&queued));
    let backup = service.get_backup(1).unwrap();
    // Either way somebody learns of it: as a failure, or as a listed error.
    if status.state == "completed" {
        assert!(number(&backup, "errors") > 0);
        assert!(service.list_backup_errors(1, Map::new()).unwrap().0 > 0);
    } else {
        assert!(text(&backup, "error").contains("data"), "{backup:?}");
    }
    assert!(!Path::new(&house.data()).exists());
    close(service);
}
