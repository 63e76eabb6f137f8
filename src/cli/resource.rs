//! `strongroom resource …`

use super::args::{ResourceSettings, ResourceVerb};
use super::output::{size, text, time};
use super::session::{Options, Session};
use super::{paths, usage};
use crate::model::{Map, Result};

/// Does the verb.
pub async fn run(session: &Session, verb: ResourceVerb) -> Result<u8> {
    match verb {
        ResourceVerb::Add { name, settings } => {
            if settings.paths.is_empty() && settings.databases.is_empty() {
                return Ok(usage("a resource needs something to back up; give --path or --database"));
            }
            let options = options(&settings)?;
            session.added("resource", "AddResource", &(&name, options.wire()?)).await
        }
        ResourceVerb::List { unprotected } => {
            let mut options = Options::default();
            options.flag("unprotected", unprotected);
            let list = session.all("ListResources", &options).await?;
            Ok(session.list(
                list,
                &["id", "project", "name", "status", "paths", "backups", "last backup", "size"],
                |r| {
                    vec![
                        text(r, "id"),
                        text(r, "project"),
                        text(r, "name"),
                        text(r, "status"),
                        text(r, "paths"),
                        text(r, "backup_count"),
                        time(r, "last_backup"),
                        size(r, "size"),
                    ]
                },
            ))
        }
        ResourceVerb::Show { resource } => Ok(session.show(&session.client.object("GetResource", &resource).await?)),
        ResourceVerb::Set { resource, settings } => {
            let options = options(&settings)?;
            if options.0.is_empty() {
                return Ok(usage("nothing to set; give at least one setting, like --exclude GLOB"));
            }
            session.done("changed", "UpdateResource", &(&resource, options.wire()?)).await
        }
        ResourceVerb::Remove { resource } => {
            let none = Options::default().wire()?;
            session.done("removed; its backups stay", "RemoveResource", &(&resource, none)).await
        }
    }
}

fn options(settings: &ResourceSettings) -> Result<Options> {
    let list = |l: &Vec<String>| (!l.is_empty()).then(|| l.clone());
    let mut options = Options::default();
    if !settings.paths.is_empty() {
        options.set("paths", Some(paths::values(&settings.paths)?));
    }
    if !settings.databases.is_empty() {
        options.set("databases", Some(settings.databases.iter().map(|text| database(text)).collect::<Vec<_>>()));
    }
    options
        .set("exclude", list(&settings.exclude))
        .set("kind", settings.kind.as_deref())
        .set("units", list(&settings.units))
        .set("unit_action", settings.unit_action.as_deref())
        .set("project", settings.project.as_deref())
        .set("browse", settings.browse.as_deref())
        .set("vault", settings.vault.as_deref())
        .set("one_file_system", settings.one_file_system);
    Ok(options)
}

/// A database as the bus takes it: its kind, and where it is.
fn database(text: &str) -> Map {
    let (kind, place) = text.split_once(':').unwrap_or((text, ""));
    let mut map = Map::from([("kind".to_owned(), kind.into())]);
    if !place.is_empty() {
        map.insert(if kind == "sqlite" { "path" } else { "socket" }.to_owned(), place.into());
    }
    map
}
