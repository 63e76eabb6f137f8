//! `strongroom destination …`

use super::args::{DestinationKind, DestinationVerb};
use super::output::{size, text};
use super::paths;
use super::session::{Options, Session};
use super::wait::Outcome;
use crate::model::{Map, Result, Value};

/// Does the verb.
pub async fn run(session: &Session, verb: DestinationVerb) -> Result<u8> {
    match verb {
        DestinationVerb::Add { name, kind: DestinationKind::Local { directory } } => {
            let mut options = Options::default();
            options.set("directory", Some(paths::value(&directory)?));
            session.added("destination", "AddDestination", &(&name, "local", options.wire()?)).await
        }
        DestinationVerb::Add { name, kind: DestinationKind::S3(s3) } => {
            let mut options = Options::default();
            options.set("bucket", Some(s3.bucket)).set("endpoint", s3.endpoint).set("region", s3.region);
            options.set("prefix", s3.prefix).set("credential", Some(credential(s3.credential)?));
            options.set("access_key_id", s3.access_key_id).set("force_path_style", s3.force_path_style);
            options.set("storage_class", s3.storage_class).set("bandwidth_limit", s3.bandwidth_limit);
            options.set("ca_file", s3.ca_file.as_deref().map(paths::value).transpose()?);
            session.added("destination", "AddDestination", &(&name, "s3", options.wire()?)).await
        }
        DestinationVerb::List => {
            let list = session.all("ListDestinations", &Options::default()).await?;
            Ok(session.list(list, &["id", "name", "type", "state", "used", "free", "where"], |d| {
                vec![
                    text(d, "id"),
                    text(d, "name"),
                    text(d, "type"),
                    text(d, "state"),
                    size(d, "used"),
                    size(d, "free"),
                    whereabouts(d),
                ]
            }))
        }
        DestinationVerb::Test { destination } => {
            let arguments = (&destination, Options::default().wire()?);
            match session.work(session.client.job("TestDestination", &arguments)).await? {
                Outcome::Left(id) => Ok(session.left(id)),
                Outcome::Completed(job) => {
                    if let (false, Some(Value::Map(result))) = (session.json, job.get("result")) {
                        return Ok(session.show(result));
                    }
                    Ok(session.show(&job))
                }
            }
        }
        DestinationVerb::Remove { destination } => {
            let none = Options::default().wire()?;
            session.done("removed; its data stays", "RemoveDestination", &(&destination, none)).await
        }
    }
}

/// A file by its path, or the name of a systemd credential, which has no slash.
fn credential(text: String) -> Result<Value> {
    if text.contains('/') { paths::value(std::path::Path::new(&text)) } else { Ok(text.into()) }
}

/// Where a destination is, in one word.
fn whereabouts(destination: &Map) -> String {
    let of = |key| text(destination, key);
    match (of("bucket"), of("prefix")) {
        (bucket, _) if bucket.is_empty() => of("directory"),
        (bucket, prefix) if prefix.is_empty() => format!("{}/{bucket}", of("endpoint")),
        (bucket, prefix) => format!("{}/{bucket}/{prefix}", of("endpoint")),
    }
}
