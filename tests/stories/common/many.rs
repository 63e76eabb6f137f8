//! A catalog with many backups in it, for what must stay cheap however many there are.

use std::path::Path;

use serde_json::json;
use strongroom::catalog::{Backup, Catalog, Destination, Resource, VaultRow};

/// Resources that the backups are of, in turn.
pub const RESOURCES: u64 = 50;

/// Fills the catalog of a state directory with so many backups, oldest first.
pub fn fill(state: &Path, count: u64) {
    let time = |n: u64| jiff::Timestamp::from_second(1_600_000_000 + i64::try_from(n).unwrap() * 60).unwrap();
    let row = |value| serde_json::from_value(value);
    let catalog = Catalog::open(state).unwrap();
    let place: Destination = serde_json::from_value(
        json!({"id": 1, "name": "local", "type": "local", "directory": state.join("vault"), "created_at": time(0)}),
    )
    .unwrap();
    let vault: VaultRow = serde_json::from_value(json!({
        "id": 1, "uuid": uuid::Uuid::nil(), "name": "main", "destinations": [1], "compression": "zstd:3",
        "encryption": false, "grace": 0, "created_at": time(0), "removing": false,
    }))
    .unwrap();
    let written = catalog.write(|w| {
        for _ in 0..RESOURCES {
            let id = w.next_id::<Resource>()?;
            let resource: Resource = serde_json::from_value(json!({
                "id": id, "project": 1, "name": format!("web-{id}"), "kind": "server", "paths": ["/etc"], "exclude": [],
                "one_file_system": false, "units": [], "unit_action": "none", "snapshot": "auto", "vault": 1,
                "browse": "root", "extra_info": "", "created_at": time(0),
            }))
            .unwrap();
            w.put(&resource)?;
        }
        w.next_id::<Destination>()?;
        w.put(&place)?;
        w.next_id::<VaultRow>()?;
        w.put(&vault)?;
        for n in 0..count {
            let id = w.next_id::<Backup>()?;
            let failed = n % 100 == 7;
            let backup: Backup = row(json!({
                "id": id, "uuid": uuid::Uuid::from_u128(id.into()), "job": id, "resource": 1 + n % RESOURCES,
                "resource_name": format!("web-{}", 1 + n % RESOURCES), "project": 1, "project_name": "default",
                "vault": 1, "vault_name": "main", "encrypted": false, "type": "full",
                "backup_type": if n % 1000 == 3 { "manual" } else { "automatic" },
                "incremental": true, "partial": false, "protected": false, "deleting": false,
                "status": if failed { "failed" } else { "completed" }, "description": "", "browse": "root",
                "created_at": time(n), "completed_at": time(n), "size": 1_000_000 + n, "files": 100,
            }))
            .unwrap();
            w.put(&backup)?;
        }
        Ok(())
    });
    written.unwrap();
}
