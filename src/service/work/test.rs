//! Trying a destination: everything that is asked of a store, each thing by itself, with what is
//! asked of it later; and in words what came of it.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map as Json, json};
use uuid::Uuid;

use super::Report;
use crate::catalog::{Destination, Tables};
use crate::model::{Error, Progress, Result};
use crate::service::Service;
use crate::store::{ObjectStore, Patience, Place};

const PROBE: &[u8] = b"strongroom was here, and will be gone in a moment";

/// Just enough to go to S3 in parts.
const LARGE: usize = (5 << 20) + 1;

/// What was tried so far.
struct Probe<'a> {
    progress: &'a Progress,
    result: Json<String, serde_json::Value>,
    works: Vec<&'a str>,
    failures: Vec<String>,
}

impl<'a> Probe<'a> {
    /// Tries one thing; says whether it works.
    fn step(&mut self, name: &'a str, work: impl FnOnce() -> Result<()>) -> Result<bool> {
        self.progress.check()?;
        self.progress.set_current(name);
        let done = work();
        self.result.insert(name.into(), done.is_ok().into());
        match &done {
            Ok(()) => self.works.push(name),
            Err(e) => self.failures.push(format!("{name}: {e}")),
        }
        Ok(done.is_ok())
    }
}

fn same(there: &[u8], put: &[u8]) -> Result<()> {
    if there == put { Ok(()) } else { Err(Error::damaged("what was read is not what was written")) }
}

fn probe(probe: &mut Probe<'_>, store: &dyn ObjectStore, key: &str, parts: bool) -> Result<()> {
    let large = || (0..LARGE).map(|n| n.to_le_bytes()[0]).collect::<Vec<u8>>();
    if !probe.step("put", || store.put(key, PROBE).and_then(|()| store.sync()))? {
        // Nothing else can be told then.
        return Ok(());
    }
    let began = Instant::now();
    if probe.step("get", || same(&store.get(key, PROBE.len() as u64)?, PROBE))? {
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        probe.result.insert("latency_us".into(), took.into());
    }
    probe.step("range", || same(&store.get_range(key, 11, 8)?, PROBE.get(11..19).unwrap_or_default()))?;
    probe.step("list", || match store.list("probe/")?.iter().any(|o| o.key == key) {
        true => Ok(()),
        false => Err(Error::destination_failed("what was written is not listed")),
    })?;
    if parts {
        probe.step("multipart", || {
            let data = large();
            store.put(key, &data)?;
            same(&store.get_range(key, LARGE as u64 - 9, 9)?, data.get(LARGE - 9..).unwrap_or_default())
        })?;
    }
    probe.step("delete", || {
        store.delete(key)?;
        match store.size(key)? {
            None => store.sync(),
            Some(_) => Err(Error::destination_failed("what was deleted is still there")),
        }
    })?;
    Ok(())
}

/// Whether the store can be told to replace nothing. Nothing depends on it yet.
fn conditional(store: &dyn ObjectStore, key: &str) -> Result<bool> {
    Ok(store.put_if_absent(key, PROBE)? && !store.put_if_absent(key, b"another")? && store.get(key, 100)? == PROBE)
}

impl Service {
    pub(super) fn run_test(&self, destination: u64, progress: &Arc<Progress>) -> Result<Report> {
        let row: Destination = self.catalog.read(|r| r.need(destination))?;
        progress.check()?;
        let key = format!("probe/{}", Uuid::new_v4().simple());
        let mut tried = Probe { progress, result: Json::new(), works: Vec::new(), failures: Vec::new() };
        tried.result.insert("destination".into(), row.name.as_str().into());
        tried.result.insert("type".into(), row.type_name().into());
        let opened = self.store_place(&row.place).and_then(|place| Ok((place.open(Patience::READ)?, place)));
        match opened {
            Err(e) => tried.failures.push(e.message),
            Ok((store, place)) => {
                let done = probe(&mut tried, &*store, &key, row.place.is_cloud());
                if done.is_ok() && tried.works.contains(&"put") {
                    let can = conditional(&*store, &key).unwrap_or(false);
                    tried.result.insert("conditional_write".into(), can.into());
                }
                // Cut short or not: nothing of it stays.
                let _ = store.delete(&key);
                if let Place::Local(directory) = &place {
                    // Only if nothing else is in it.
                    let _ = std::fs::remove_dir(directory.join("probe"));
                }
                if let Some(free) = store.space().ok().and_then(|s| s.free) {
                    tried.result.insert("free".into(), free.into());
                }
                done?;
            }
        }
        let Probe { mut result, works, failures, .. } = tried;
        result.insert("message".into(), words(&works, &failures, result.get("conditional_write")).into());
        let mut report = Report::default();
        if let Some(first) = failures.first() {
            result.insert("failed".into(), first.as_str().into());
            report.error = Some(Error::destination_failed(format!("destination {:?}: {first}", row.name)));
        }
        report.result = result;
        Ok(report)
    }
}

fn words(works: &[&str], failures: &[String], conditional: Option<&serde_json::Value>) -> String {
    let mut text = match works {
        [] => "nothing works".to_owned(),
        works => format!("{} work", works.join(", ")),
    };
    if !failures.is_empty() {
        text.push_str(&format!("; these failed: {}", failures.join("; ")));
    }
    match conditional {
        Some(can) if *can == json!(true) => text.push_str("; writes can be made conditional"),
        Some(_) => text.push_str("; writes cannot be made conditional, which nothing needs yet"),
        None => {}
    }
    text
}
