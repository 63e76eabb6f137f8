//! `strongroom destination …`

use super::args::{DestinationKind, DestinationVerb};
use super::output::{size, text};
use super::paths;
use super::session::{Options, Session};
use super::wait::Outcome;
use crate::model::{Result, Value};

/// Does the verb.
pub async fn run(session: &Session, verb: DestinationVerb) -> Result<u8> {
    match verb {
        DestinationVerb::Add { name, kind: DestinationKind::Local { directory } } => {
            let mut options = Options::default();
            options.set("directory", Some(paths::value(&directory)?));
            session.added("destination", "AddDestination", &(&name, "local", options.wire()?)).await
        }
        DestinationVerb::List => {
            let list = session.all("ListDestinations", &Options::default()).await?;
            Ok(session.list(list, &["id", "name", "type", "state", "used", "free", "directory"], |d| {
                vec![
                    text(d, "id"),
                    text(d, "name"),
                    text(d, "type"),
                    text(d, "state"),
                    size(d, "used"),
                    size(d, "free"),
                    text(d, "directory"),
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
