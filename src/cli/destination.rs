//! `strongroom destination …`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::output::{size, text};
use super::paths;
use super::session::{Options, Session};
use super::wait::Outcome;
use crate::model::{Map, Result, Value};

/// What can be done with destinations.
#[derive(Debug, Subcommand)]
pub enum DestinationVerb {
    /// Add a place for vaults
    Add {
        /// Its name
        name: String,
        /// Its kind
        #[command(subcommand)]
        kind: DestinationKind,
    },
    /// List destinations
    List,
    /// Try whether a destination works
    Test {
        /// NAME or id
        destination: String,
    },
    /// Remove a destination; its data stays
    Remove {
        /// NAME or id
        destination: String,
    },
}

/// Kinds of destinations.
#[derive(Debug, Subcommand)]
pub enum DestinationKind {
    /// A directory on this machine, or mounted here
    Local {
        /// The directory
        directory: PathBuf,
    },
    /// A bucket of an S3 store, which must exist
    S3(Box<S3Args>),
}

/// How a bucket is reached.
#[derive(Debug, Args)]
pub struct S3Args {
    /// The bucket
    #[arg(long)]
    pub bucket: String,
    /// The store's URL; leave it out for Amazon's own
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
    /// The region
    #[arg(long)]
    pub region: Option<String>,
    /// What all keys begin with
    #[arg(long)]
    pub prefix: Option<String>,
    /// A systemd credential, or a file (0600) with access_key_id and secret_access_key
    #[arg(long, value_name = "FILE")]
    pub credential: String,
    /// The access key id, where the credential does not hold it
    #[arg(long, value_name = "ID")]
    pub access_key_id: Option<String>,
    /// Whether the bucket stands in the path; usual where there is an endpoint
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    pub force_path_style: Option<bool>,
    /// The storage class of new objects
    #[arg(long, value_name = "CLASS")]
    pub storage_class: Option<String>,
    /// Certificates (PEM) to trust instead of the system's
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// The most bytes a second, each way
    #[arg(long, value_name = "BYTES")]
    pub bandwidth_limit: Option<u64>,
}

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
