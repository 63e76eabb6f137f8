//! How long lists and a start take with many backups in the catalog: `cargo bench --bench catalog
//! [-- COUNT]`, 100,000 if nothing is said.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../tests/stories/common/many.rs"]
mod many;

use std::time::Instant;

use strongroom::catalog::rows_read;
use strongroom::model::{Map, Value};
use strongroom::service::{Clock, Service, ServiceOptions};

fn timed<T>(what: &str, rounds: u32, mut work: impl FnMut() -> T) -> T {
    let (began, rows) = (Instant::now(), rows_read());
    let mut last = work();
    for _ in 1..rounds {
        last = work();
    }
    let each = began.elapsed() / rounds;
    println!("{what:<44} {each:>12.1?} {:>9} rows", (rows_read() - rows) / u64::from(rounds));
    last
}

fn main() {
    let count = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(100_000);
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    timed("fill", 1, || many::fill(&state, count));
    let options = ServiceOptions {
        config: dir.path().join("none.toml"),
        first_vault: state.join("vault"),
        state_dir: state,
        cache_dir: dir.path().join("cache"),
        browse_path: dir.path().join("browse"),
        browse: None,
        bus: Default::default(),
        clock: Clock::System,
    };
    drop(timed("first start", 1, || Service::open(options.clone()).unwrap()));
    let service = timed("start", 1, || Service::open(options.clone()).unwrap());
    let list = |pairs: &[(&str, Value)]| {
        let map: Map = pairs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
        service.list_backups(map).unwrap()
    };
    let web = ("resource", Value::from("web-8"));
    let sort = |field: &str| ("sort", Value::from(vec![field.to_owned()]));
    timed("ListBackups", 20, || list(&[]));
    timed("ListBackups, by -created_at", 20, || list(&[sort("-created_at")]));
    timed("ListBackups of a resource", 20, || list(std::slice::from_ref(&web)));
    timed("ListBackups of a resource that failed", 20, || list(&[web.clone(), ("status", Value::from("failed"))]));
    timed("ListBackups of a resource, by -created_at", 20, || list(&[web.clone(), sort("-created_at")]));
    timed("ListBackups of a resource, by size", 5, || list(&[web.clone(), sort("size")]));
    timed("ListBackups, by size", 1, || list(&[sort("size")]));
    timed("GetResource", 20, || service.get_resource("web-8").unwrap());
}
