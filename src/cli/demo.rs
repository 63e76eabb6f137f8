//! `strongroom demo`: the whole thing in a minute, with nothing left behind.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::compare::compare;
use super::output::{self, bytes, number, text};
use super::private::{Private, told_to_end};
use super::sample;
use super::session::{Options, Session};
use super::wait::Outcome;
use super::{backup, paths};
use crate::bus::BusAddress;
use crate::bus::client::{Client, job_id};
use crate::model::{Error, IoContext, Map, Result, Value};

/// Shows everything, and cleans up whatever happens.
pub async fn run(path: Option<&Path>) -> Result<u8> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::access_denied(
            "the demo backs up and mounts as the daemon would, which takes root; run it with sudo",
        ));
    }
    if !Path::new("/dev/fuse").exists() {
        return Err(Error::failed(
            "the demo mounts its backups, and /dev/fuse is missing here; load the module fuse, or allow the device",
        ));
    }
    let path = paths::absolute(path.unwrap_or(Path::new("/etc")))?;
    std::fs::symlink_metadata(&path).at(|| format!("cannot back up {}", path.display()))?;
    let room = Room::new()?;
    let private = Private::start(&room.0.join("room")).await?;
    let result = tokio::select! {
        result = show(&private, &room, &path) => result,
        _ = tokio::signal::ctrl_c() => Err(Error::cancelled()),
        () = told_to_end() => Err(Error::cancelled()),
    };
    private.stop().await;
    let log = std::fs::read_to_string(room.0.join("room/log")).unwrap_or_default();
    drop(room);
    match result {
        Ok(()) => {
            output::line("\nAll of it worked, and nothing of it is left.");
            Ok(0)
        }
        Err(error) => {
            for line in log.lines().rev().take(10).collect::<Vec<_>>().iter().rev() {
                output::note(format!("  daemon: {}", output::printable(line)));
            }
            Err(error)
        }
    }
}

/// A directory for the time of the demo.
struct Room(PathBuf);

impl Room {
    fn new() -> Result<Self> {
        let base = std::env::var_os("TMPDIR").map(PathBuf::from).unwrap_or_else(|| "/var/tmp".into());
        let dir = nix::unistd::mkdtemp(&base.join("strongroom-demo-XXXXXX"))
            .at(|| format!("cannot make a directory in {}", base.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            output::note(format!("strongroom: cannot remove {}: {error}", self.0.display()));
        }
    }
}

async fn show(private: &Private, room: &Room, path: &Path) -> Result<()> {
    let client = Client::connect(private.address()).await?;
    let demo = Demo {
        session: Session { client, json: false, wait: true, private: true },
        busctl: match private.address() {
            BusAddress::Address(address) => format!("busctl --address={address}"),
            BusAddress::System => "busctl".to_owned(),
            BusAddress::Session => "busctl --user".to_owned(),
        },
    };
    output::line(format!("A bus and a daemon of its own, state in {}", room.0.display()));
    let sample = room.0.join("sample");
    let made = sample::make(&sample)?;
    output::line(format!("and a sample of {made} files with everything a file system has, in {}", sample.display()));

    demo.step("Say what is to be backed up");
    demo.say("AddResource", &format!("'sa{{sv}}' demo 1 paths as 2 {} {}", path.display(), sample.display()));
    let mut options = Options::default();
    options.set("paths", Some(paths::values(&[path.to_owned(), sample.clone()])?));
    let resource: u64 = demo.session.client.call("AddResource", &("demo", options.wire()?)).await?;
    output::line(format!("   resource {resource}"));

    demo.step("Back it up");
    let first = demo.back_up("First").await?;

    demo.step("List the backups");
    demo.say("ListBackups", "'a{sv}' 1 resource s demo");
    demo.list().await?;

    demo.step("Browse it, as files");
    let view = demo.browse(first, &sample).await?;
    let live = compare(&sample, &below(&view, &sample)).map_err(|e| e.context("the mount differs from the sample"))?;
    output::line(format!("   the sample through the mount: {live} entries, all equal to the live ones"));

    demo.step("Change a little, and back up again");
    sample::change(&sample)?;
    let second = demo.back_up("Second").await?;

    demo.step("Restore that into an empty directory");
    let target = room.0.join("restored");
    demo.restore(second, &target).await?;
    let view = demo.browse(second, &sample).await?;
    let same = compare(&below(&view, &sample), &below(&target, &sample))?
        + compare(&below(&view, path), &below(&target, path))?;
    compare(&sample, &below(&target, &sample))
        .map_err(|e| e.context("the restored sample differs from the live one"))?;
    output::line(format!("   {same} entries compared: contents, owners, modes, times, attributes all equal"));

    demo.step("Delete the first backup");
    demo.say("DeleteBackup", &format!("'ta{{sv}}' {first} 0"));
    let arguments = (first, Options::default().wire()?);
    demo.session.work(demo.session.client.job("DeleteBackup", &arguments)).await?;
    demo.list().await?;
    let kept = compare(&below(&view, &sample), &sample).map_err(|e| e.context("the second backup suffered"))?;
    output::line(format!("   the second one is whole: {kept} entries compared"));
    Ok(())
}

/// Where a path stands below a backup's root.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

struct Demo {
    session: Session,
    busctl: String,
}

impl Demo {
    fn step(&self, title: &str) {
        output::line(format!("\n== {title}"));
    }

    fn say(&self, method: &str, arguments: &str) {
        let target = "org.strongroom1 /org/strongroom1 org.strongroom1.Manager";
        output::line(format!("   $ {} call {target} {method} {arguments}", self.busctl));
    }

    async fn back_up(&self, name: &str) -> Result<u64> {
        self.say("CreateBackup", &format!("'sa{{sv}}' demo 1 description s '{name} backup'"));
        let mut options = Options::default();
        options.set("description", Some(format!("{name} backup")));
        let arguments = ("demo", options.wire()?);
        let mut made = Map::new();
        let began = Instant::now();
        let start = async {
            made = self.session.client.object("CreateBackup", &arguments).await?;
            job_id(&text(&made, "job"))
        };
        self.session.work(start).await?;
        let took = began.elapsed();
        let id = number(&made, "id").ok_or_else(|| Error::failed("the new backup has no id"))?;
        let done = self.session.client.object("GetBackup", &id).await?;
        output::line(format!(
            "   backup {id}: {} files, {}, of which {} were stored, in {:.1} s",
            number(&done, "files").unwrap_or(0),
            bytes(number(&done, "size").unwrap_or(0)),
            bytes(number(&done, "stored_size").unwrap_or(0)),
            took.as_secs_f64(),
        ));
        output::line(format!("   checksum {}", text(&done, "checksum")));
        match number(&done, "errors").unwrap_or(0) {
            0 => {}
            errors => output::line(format!("   {errors} files could not be read")),
        }
        Ok(id)
    }

    async fn list(&self) -> Result<()> {
        let mut options = Options::default();
        options.set("resource", Some("demo"));
        let (_, rows) = self.session.client.list("ListBackups", &options.0).await?;
        let heading = ["id", "resource", "created", "status", "type", "size", "stored", "errors", "description"];
        output::table(&heading, rows.iter().map(backup::row));
        Ok(())
    }

    async fn browse(&self, id: u64, sample: &Path) -> Result<PathBuf> {
        self.say("GetBackup", &format!("t {id}"));
        let backup = self.session.client.object("GetBackup", &id).await?;
        let path = match text(&backup, "browse_path") {
            none if none.is_empty() => return Err(Error::failed(format!("backup {id} has no browse_path"))),
            path => PathBuf::from(path),
        };
        output::line(format!("   $ ls {}", below(&path, sample).display()));
        let mut names: Vec<String> = std::fs::read_dir(below(&path, sample))
            .at(|| format!("cannot list {}", path.display()))?
            .map(|e| e.map(|e| output::printable(&e.file_name().to_string_lossy())))
            .collect::<std::io::Result<_>>()
            .at(|| format!("cannot list {}", path.display()))?;
        names.sort();
        output::line(format!("   {}", names.join("  ")));
        Ok(path)
    }

    async fn restore(&self, id: u64, target: &Path) -> Result<()> {
        self.say("RestoreBackup", &format!("'ta{{sv}}' {id} 1 target s {}", target.display()));
        let mut options = Options::default();
        options.set("target", Some(paths::value(target)?));
        let arguments = (id, options.wire()?);
        let began = Instant::now();
        let Outcome::Completed(job) = self.session.work(self.session.client.job("RestoreBackup", &arguments)).await?
        else {
            return Err(Error::cancelled());
        };
        if let Some(Value::Map(result)) = job.get("result") {
            let files = number(result, "files").unwrap_or(0);
            let size = bytes(number(result, "bytes").unwrap_or(0));
            output::line(format!("   {files} files, {size}, in {:.1} s", began.elapsed().as_secs_f64()));
        }
        Ok(())
    }
}
