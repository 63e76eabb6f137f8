//! The appliance's own configuration, as tasks carry it: projects, resources, destinations and
//! vaults without their secrets, tasks. Never keys.

use serde_json::{Value as Json, json};

use super::Service;
use crate::catalog::{Destination, Project, Resource, Row, Tables, TaskRow, VaultRow};
use crate::model::{Error, Result};

fn rows<R: Row>(t: &impl Tables) -> Result<Json> {
    serde_json::to_value(t.all::<R>()?).map_err(|e| Error::failed(format!("cannot encode the {}s: {e}", R::NOUN)))
}

impl Service {
    /// Everything that was asked for, as it stands in the catalog.
    pub(super) fn common_data(&self) -> Result<Json> {
        self.catalog.read(|r| {
            Ok(json!({
                "version": 1,
                "machine": self.machine.name,
                "projects": rows::<Project>(r)?,
                "resources": rows::<Resource>(r)?,
                "destinations": rows::<Destination>(r)?,
                "vaults": rows::<VaultRow>(r)?,
                "tasks": rows::<TaskRow>(r)?,
            }))
        })
    }
}
