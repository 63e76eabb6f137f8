//! Passing an open file over the bus, which busctl cannot.

use std::os::fd::OwnedFd;

use zbus::wire::{Dict, Fd, OwnedObjectPath, Signature, StructureBuilder, Variant};

use super::daemon::{Daemon, MANAGER, ROOT};

/// A map of the bus.
pub fn dict(pairs: Vec<(String, Variant<'static>)>) -> Variant<'static> {
    let mut dict = Dict::new(&Signature::Str, &Signature::Variant);
    for (key, value) in pairs {
        dict.append(Variant::from(key), Variant::Variant(Box::new(value))).unwrap();
    }
    Variant::Dict(dict)
}

/// Starts the export of a backup into an open file, and gives its job.
pub fn export_into(daemon: &Daemon, backup: u64, format: &str, file: OwnedFd) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let path = runtime.block_on(async {
        let bus = zbus::connection::Builder::address(daemon.address()).build().await.unwrap();
        let options =
            dict(vec![("fd".into(), Variant::Fd(Fd::from(file))), ("format".into(), Variant::from(format.to_owned()))]);
        let body = StructureBuilder::new().append_field(Variant::U64(backup)).append_field(options).build().unwrap();
        let call = bus.call_method(Some("org.strongroom1"), ROOT, Some(MANAGER), "ExportBackup", &body);
        call.await.unwrap().body().deserialize::<OwnedObjectPath>().unwrap()
    });
    path.as_str().rsplit('/').next().unwrap().parse().unwrap()
}
