//! The whole skin over a real service and a real, private dbus-daemon.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use zbus::fdo;

use super::client::{Client, job_id};
use super::wire::Dict;
use super::{BusAddress, MANAGER, NAME, PATH, serve};
use crate::model::{Error, ErrorKind, Map, Value};
use crate::service::{Service, ServiceOptions};

struct Bus {
    child: Child,
    address: BusAddress,
    dir: tempfile::TempDir,
}

impl Bus {
    /// A bus that takes every user, as the system's does; nothing where there is no dbus-daemon.
    fn start() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("bus");
        let configuration = format!(
            "<busconfig><type>session</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>\
             <policy context=\"default\"><allow user=\"*\"/><allow send_destination=\"*\"/>\
             <allow receive_sender=\"*\"/><allow own=\"*\"/></policy></busconfig>",
            socket.display()
        );
        let file = dir.path().join("bus.conf");
        std::fs::write(&file, configuration).unwrap();
        let child = Command::new("dbus-daemon")
            .args(["--nofork", "--nopidfile"])
            .arg(format!("--config-file={}", file.display()))
            .stderr(Stdio::null())
            .spawn();
        let Ok(child) = child else {
            eprintln!("skipped: dbus-daemon is not installed");
            return None;
        };
        let until = Instant::now() + Duration::from_secs(10);
        while !socket.exists() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(Self { child, address: BusAddress::Address(format!("unix:path={}", socket.display())), dir })
    }

    fn service(&self) -> Arc<Service> {
        let dir = self.dir.path();
        let options = ServiceOptions {
            config: dir.join("none.toml"),
            state_dir: dir.join("state"),
            cache_dir: dir.join("cache"),
            browse_path: dir.join("browse"),
            first_vault: dir.join("vault"),
            browse: None,
            bus: BusAddress::default(),
            clock: crate::service::Clock::System,
        };
        Service::open(options).unwrap()
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `test` against a served service, and ends both.
fn with_daemon<F: Future<Output = ()>>(test: impl FnOnce(Client, std::path::PathBuf) -> F) {
    let Some(bus) = Bus::start() else { return };
    let service = bus.service();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (ready, is_ready) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn({
            let (service, address) = (service.clone(), bus.address.clone());
            async move {
                let ready = || {
                    service.start();
                    ready.send(()).unwrap();
                };
                let shutdown = async {
                    let _ = stopped.await;
                };
                serve(service.clone(), address, ready, shutdown).await
            }
        });
        is_ready.await.unwrap();
        let second =
            serve(service.clone(), bus.address.clone(), || panic!("ready twice"), std::future::pending()).await;
        assert_eq!(second.unwrap_err().kind, ErrorKind::AlreadyExists);
        let client = Client::connect(&bus.address).await.unwrap();
        test(client, bus.dir.path().to_owned()).await;
        stop.send(()).unwrap();
        served.await.unwrap().unwrap();
        tokio::task::spawn_blocking(move || service.stop(Duration::from_secs(10))).await.unwrap();
    });
}

fn options(pairs: &[(&str, Value)]) -> Dict {
    Dict::write(&pairs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect()).unwrap()
}

fn text(map: &Map, key: &str) -> String {
    match map.get(key) {
        Some(Value::Str(s) | Value::Path(s)) => s.clone(),
        other => panic!("{key} is {other:?}"),
    }
}

async fn wait(client: &Client, job: u64) -> Map {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let map = client.object("GetJob", &job).await.unwrap();
        if !matches!(text(&map, "state").as_str(), "pending" | "running") {
            return map;
        }
        assert!(Instant::now() < until, "the job does not end: {map:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Something to back up that a test may sit in: no place that Strongroom leaves out.
fn source(dir: &Path) -> Value {
    let source = dir.join("source");
    std::fs::create_dir_all(source.join("sub")).unwrap();
    std::fs::write(source.join("a"), "first").unwrap();
    std::fs::write(source.join("sub/b"), vec![7; 100_000]).unwrap();
    Value::from(vec![source.to_str().unwrap().to_owned()])
}

#[test]
fn a_backup_is_made_listed_exported_and_deleted_over_the_bus() {
    with_daemon(|client, dir| async move {
        let added = (&"web", options(&[("paths", source(&dir))]));
        let resource: u64 = client.call("AddResource", &added).await.unwrap();
        let mut news = client.signals("JobNew").await.unwrap();
        let mut ends = client.signals("JobRemoved").await.unwrap();
        let wish = (&"web", options(&[("description", Value::from("before"))]));
        let backup = client.object("CreateBackup", &wish).await.unwrap();
        let path = text(&backup, "job");
        let job = job_id(&path).unwrap();
        let (id, told): (u64, zbus::wire::OwnedObjectPath) = news.next().await.body().deserialize().unwrap();
        assert_eq!((id, told.as_str()), (job, path.as_str()));
        let (id, _, result, error): (u64, zbus::wire::OwnedObjectPath, String, String) =
            ends.next().await.body().deserialize().unwrap();
        assert_eq!((id, result.as_str(), error.as_str()), (job, "completed", ""));
        assert_eq!(text(&wait(&client, job).await, "state"), "completed");

        let Some(Value::Uint(id)) = backup.get("id").cloned() else { panic!("no id: {backup:?}") };
        let backup = client.object("GetBackup", &id).await.unwrap();
        assert_eq!(text(&backup, "status"), "completed");
        let filter = Map::from([("resource".to_owned(), Value::from("web"))]);
        assert_eq!(client.list("ListBackups", &filter).await.unwrap().0, 1);

        let objects = fdo::ObjectManagerProxy::builder(client.connection());
        let objects = objects.destination(NAME).path(PATH).build().await.unwrap();
        let objects = objects.get_managed_objects().await.unwrap();
        let standing = |p: &str| objects.keys().any(|o| o.as_str() == p);
        assert!(standing(&format!("{PATH}/resource/{resource}")), "{objects:?}");
        assert!(!standing(&path), "the job has ended");

        let (mut reader, writer) = std::io::pipe().unwrap();
        let fd = Value::Fd(Arc::new(writer.into()));
        let exported = {
            // Dropped with our end of the pipe in it, or the archive would never end.
            let wish = (id, options(&[("fd", fd), ("format", Value::from("tar"))]));
            client.job("ExportBackup", &wish).await.unwrap()
        };
        let archive = tokio::task::spawn_blocking(move || {
            let mut archive = Vec::new();
            std::io::Read::read_to_end(&mut reader, &mut archive).unwrap();
            archive
        });
        let job = wait(&client, exported).await;
        let archive = archive.await.unwrap();
        assert_eq!(text(&job, "state"), "completed", "{job:?}");
        let names: Vec<_> = tar::Archive::new(archive.as_slice())
            .entries()
            .unwrap()
            .map(|e| e.unwrap().path().unwrap().into_owned())
            .collect();
        assert!(names.iter().any(|n| n.ends_with("source/sub/b")), "{names:?}");

        let deleted = client.job("DeleteBackup", &(id, options(&[]))).await.unwrap();
        assert_eq!(text(&wait(&client, deleted).await, "state"), "completed");
        assert_eq!(client.object("GetBackup", &id).await.unwrap_err().kind, ErrorKind::NotFound);
    });
}

#[test]
fn errors_carry_their_names() {
    with_daemon(|client, dir| async move {
        let add = |name: &'static str, pairs: Vec<(&'static str, Value)>| {
            let client = client.clone();
            async move { client.call::<_, u64>("AddResource", &(name, options(&pairs))).await }
        };
        let kind = |r: Result<u64, Error>| r.unwrap_err().kind;
        assert_eq!(kind(add("", vec![]).await), ErrorKind::InvalidArgument);
        assert_eq!(kind(add("web", vec![("paths", Value::from("/etc"))]).await), ErrorKind::InvalidArgument);
        let unknown = add("web", vec![("paths", source(&dir)), ("pathz", Value::Bool(true))]).await.unwrap_err();
        assert!(unknown.kind == ErrorKind::InvalidArgument && unknown.message.contains("pathz"), "{unknown}");
        add("web", vec![("paths", source(&dir))]).await.unwrap();
        assert_eq!(kind(add("web", vec![("paths", source(&dir))]).await), ErrorKind::AlreadyExists);
        assert_eq!(client.object("GetResource", &"nothing").await.unwrap_err().kind, ErrorKind::NotFound);
        assert_eq!(client.object("GetBackup", &99u64).await.unwrap_err().kind, ErrorKind::NotFound);
        let cancelled: Result<(), _> = client.call("CancelJob", &(99u64, options(&[]))).await;
        assert_eq!(cancelled.unwrap_err().kind, ErrorKind::NotFound);
        // What the signature does not allow is refused before any of us looks at it.
        let wrong: Result<u64, _> = client.call("AddResource", &"web").await;
        assert_eq!(wrong.unwrap_err().kind, ErrorKind::InvalidArgument);
        // Hostile paths and options of odd types.
        let odd = [("x", Value::List(vec![Value::Map(Map::new()), Value::Uint(1)]))];
        assert!(client.call::<_, u64>("AddVault", &("v", options(&odd))).await.is_err());
    });
}

/// Whether this test can call as somebody else.
fn can_call_as_nobody() -> bool {
    let can = nix::unistd::geteuid().is_root() && Command::new("busctl").arg("--version").output().is_ok();
    if !can {
        eprintln!("skipped: takes root and busctl");
    }
    can
}

/// What busctl says when it is run by somebody who is not root; nothing where all went well.
async fn as_nobody(dir: &Path, arguments: &[&str]) -> String {
    let socket = dir.join("bus");
    // The socket must be within reach of the other user.
    std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let mut busctl = Command::new("busctl");
    busctl.arg(format!("--address=unix:path={}", socket.display())).args(arguments);
    std::os::unix::process::CommandExt::uid(&mut busctl, 65534);
    let output = tokio::task::spawn_blocking(move || busctl.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.success(), said.is_empty(), "{said}");
    said
}

/// A polkit that lets everyone read, would ask before a backup, and refuses the rest.
struct Polkit;

#[zbus::interface(name = "org.freedesktop.PolicyKit1.Authority")]
impl Polkit {
    async fn check_authorization(
        &self,
        subject: zbus_polkit::policykit1::Subject,
        action: &str,
        details: HashMap<String, String>,
        flags: u32,
        cancellation: &str,
    ) -> (bool, bool, HashMap<String, String>) {
        assert_eq!((subject.kind(), details.len(), cancellation), ("system-bus-name", 0, ""));
        let asked = flags == 1;
        match action {
            "org.strongroom1.read" => (true, false, HashMap::new()),
            "org.strongroom1.backup" => (asked, !asked, HashMap::new()),
            _ => (false, false, HashMap::new()),
        }
    }
}

#[test]
fn others_may_what_polkit_says() {
    if !can_call_as_nobody() {
        return;
    }
    with_daemon(|client, dir| async move {
        let address = format!("unix:path={}", dir.join("bus").display());
        let polkit = zbus::connection::Builder::address(address.as_str())
            .serve_at("/org/freedesktop/PolicyKit1/Authority", Polkit)
            .name("org.freedesktop.PolicyKit1");
        let _polkit = polkit.build().await.unwrap();
        client.call::<_, u64>("AddResource", &("web", options(&[("paths", source(&dir))]))).await.unwrap();
        let call = |method: &'static str, rest: &'static [&'static str]| {
            let dir = dir.clone();
            async move { as_nobody(&dir, &[&["call", NAME, PATH, MANAGER, method], rest].concat()).await }
        };
        assert_eq!(call("ListResources", &["a{sv}", "0"]).await, "");
        assert!(call("Reload", &["a{sv}", "0"]).await.contains("denied"));
        assert!(call("DeleteBackup", &["ta{sv}", "1", "0"]).await.contains("denied"));
        assert_eq!(call("CreateBackup", &["sa{sv}", "web", "0"]).await, "");
        let silent =
            ["--allow-interactive-authorization=no", "call", NAME, PATH, MANAGER, "CreateBackup", "sa{sv}", "web", "0"];
        // busctl has its own words for InteractiveAuthorizationRequired.
        let said = as_nobody(&dir, &silent).await;
        assert!(!said.is_empty() && !said.contains("Access denied"), "polkit would have to ask: {said}");
        // Taking protection away is as good as deleting.
        assert_eq!(call("UpdateBackup", &["ta{sv}", "1", "1", "description", "s", "x"]).await, "");
        assert!(call("UpdateBackup", &["ta{sv}", "1", "1", "protected", "b", "false"]).await.contains("denied"));
    });
}

#[test]
fn others_are_denied_where_there_is_no_polkit() {
    if !can_call_as_nobody() {
        return;
    }
    with_daemon(|client, dir| async move {
        let added = (&"web", options(&[("paths", source(&dir))]));
        let resource: u64 = client.call("AddResource", &added).await.unwrap();
        let object = format!("{PATH}/resource/{resource}");
        let calls: [&[&str]; 4] = [
            &["call", NAME, PATH, MANAGER, "ListResources", "a{sv}", "0"],
            &["call", NAME, PATH, MANAGER, "Reload", "a{sv}", "0"],
            &["call", NAME, PATH, MANAGER, "CancelJob", "ta{sv}", "1", "0"],
            &["get-property", NAME, &object, "org.strongroom1.Resource", "Info"],
        ];
        for call in calls {
            let said = as_nobody(&dir, call).await;
            assert!(said.contains("denied"), "{call:?}: {said}");
        }
    });
}
