//! Trying a destination: put, get, list, delete, in this order, with what is asked of it later.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};
use uuid::Uuid;

use super::Report;
use crate::catalog::{Destination, Tables};
use crate::model::{Error, Progress, Result};
use crate::service::Service;
use crate::store::{LocalStore, ObjectStore};

const PROBE: &[u8] = b"strongroom was here, and will be gone in a moment";

fn probe(store: &dyn ObjectStore, key: &str, done: &mut Value) -> Result<()> {
    let mut step = |name: &str, work: &mut dyn FnMut() -> Result<()>| -> Result<()> {
        let result = work();
        done[name] = result.is_ok().into();
        result.map_err(|e| e.context(name))
    };
    step("put", &mut || store.put(key, PROBE).and_then(|()| store.sync()))?;
    step("get", &mut || match store.get_range(key, 11, 8)? {
        part if part == PROBE.get(11..19).unwrap_or_default() => Ok(()),
        _ => Err(Error::damaged("what was read is not what was written")),
    })?;
    step("list", &mut || match store.list("probe/")?.iter().any(|o| o.key == key) {
        true => Ok(()),
        false => Err(Error::destination_failed("what was written is not listed")),
    })?;
    step("delete", &mut || {
        store.delete(key)?;
        match store.size(key)? {
            None => store.sync(),
            Some(_) => Err(Error::destination_failed("what was deleted is still there")),
        }
    })
}

impl Service {
    pub(super) fn run_test(&self, destination: u64, progress: &Arc<Progress>) -> Result<Report> {
        let row: Destination = self.catalog.read(|r| r.need(destination))?;
        progress.check()?;
        let mut result = json!({ "destination": row.name, "type": row.type_name() });
        let key = format!("probe/{}", Uuid::new_v4().simple());
        let began = Instant::now();
        let tried = LocalStore::open(row.directory()).and_then(|store| {
            let tried = probe(&store, &key, &mut result);
            if tried.is_err() {
                let _ = store.delete(&key);
            }
            // Only if nothing else is in it.
            let _ = std::fs::remove_dir(row.directory().join("probe"));
            if let Some(free) = store.space().ok().and_then(|s| s.free) {
                result["free"] = free.into();
            }
            tried
        });
        let mut report = Report::default();
        match tried {
            Ok(()) => result["latency_us"] = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX).into(),
            Err(e) => {
                result["failed"] = e.message.clone().into();
                report.error = Some(Error::destination_failed(format!("destination {:?}: {e}", row.name)));
            }
        }
        report.result = result.as_object().cloned().unwrap_or_default();
        Ok(report)
    }
}
