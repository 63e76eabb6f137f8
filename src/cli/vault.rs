//! `strongroom vault …`

use clap::Subcommand;

use super::confirm;
use super::output::{self, size, text, time};
use super::session::{Options, Session};
use super::wait::Outcome;
use crate::model::{Result, Value};

/// What can be done with vaults.
#[derive(Debug, Subcommand)]
pub enum VaultVerb {
    /// Make a vault
    Add {
        /// Its name
        name: String,
        /// Where it is kept: the first holds it, the others mirror it
        #[arg(long = "destination", value_name = "DESTINATION", num_args = 1.., required = true)]
        destinations: Vec<String>,
        /// zstd:N, gzip:N or none
        #[arg(long)]
        compression: Option<String>,
        /// Keep it in the clear; whoever reads its directory reads every backup
        #[arg(long)]
        unencrypted: bool,
    },
    /// List vaults
    List,
    /// Show one vault
    Show {
        /// NAME or id
        vault: String,
    },
    /// Change where a vault is kept
    Set {
        /// NAME or id
        vault: String,
        /// All its destinations: the first holds it, or is the mirror that is to hold it from now on
        #[arg(long = "destination", value_name = "DESTINATION", num_args = 1.., required = true)]
        destinations: Vec<String>,
        /// Even if the first of them lacks backups, since the one that has them is lost
        #[arg(long)]
        force: bool,
    },
    /// Check that everything is there and whole, in every copy
    Verify {
        /// NAME or id
        vault: String,
        /// Read every byte, not only that it is there
        #[arg(long)]
        read_data: bool,
        /// Read everything, and mend each copy from the others
        #[arg(long)]
        repair: bool,
    },
    /// Give back the space that no backup needs
    Prune {
        /// NAME or id
        vault: String,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Bring the mirrors up to date
    Sync {
        /// NAME or id
        vault: String,
    },
    /// Keys that open a vault
    #[command(subcommand)]
    Key(KeyVerb),
    /// Read the catalog back from a destination; the recovery key is asked for
    Rebuild {
        /// NAME or id of the destination
        destination: String,
        /// Use this key file instead of a recovery key
        #[arg(long, value_name = "FILE")]
        key_file: Option<String>,
        /// Take this machine's place (name or id), or nobody's: none
        #[arg(long)]
        machine: Option<String>,
        /// Call the vault so [default: as it was called]
        #[arg(long)]
        name: Option<String>,
    },
    /// Forget a vault
    Remove {
        /// NAME or id
        vault: String,
        /// Delete its data, and every backup in it, too
        #[arg(long)]
        delete_data: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// What can be done with a vault's keys.
#[derive(Debug, Subcommand)]
pub enum KeyVerb {
    /// Add a key; a recovery key is printed once
    Add {
        /// NAME or id of the vault
        vault: String,
        /// Its kind
        #[arg(long, value_parser = ["recovery", "file"], default_value = "recovery")]
        kind: String,
    },
    /// List the keys
    List {
        /// NAME or id of the vault
        vault: String,
    },
    /// Remove a key
    Remove {
        /// NAME or id of the vault
        vault: String,
        /// The key's id
        key: String,
    },
}

/// Does the verb.
pub async fn run(session: &Session, verb: VaultVerb) -> Result<u8> {
    match verb {
        VaultVerb::Add { name, destinations, compression, unencrypted } => {
            let mut options = Options::default();
            options
                .set("destinations", Some(destinations))
                .set("compression", compression)
                .set("encryption", unencrypted.then_some(false));
            session.added("vault", "AddVault", &(&name, options.wire()?)).await
        }
        VaultVerb::List => {
            let list = session.all("ListVaults", &Options::default()).await?;
            Ok(session.list(list, &["id", "name", "destinations", "backups", "used", "encrypted", "verified"], |v| {
                vec![
                    text(v, "id"),
                    text(v, "name"),
                    text(v, "destinations"),
                    text(v, "backups"),
                    size(v, "used"),
                    text(v, "encryption"),
                    time(v, "last_verified"),
                ]
            }))
        }
        VaultVerb::Set { vault, destinations, force } => {
            let mut options = Options::default();
            options.set("destinations", Some(destinations)).flag("force", force);
            session.done("changed", "UpdateVault", &(&vault, options.wire()?)).await
        }
        VaultVerb::Show { vault } => Ok(session.show(&session.client.object("GetVault", &vault).await?)),
        VaultVerb::Verify { vault, read_data, repair } => {
            let mut options = Options::default();
            options.flag("read_data", read_data).flag("repair", repair);
            job(session, "VerifyVault", &vault, &options, "the vault is whole").await
        }
        VaultVerb::Prune { vault, dry_run } => {
            let mut options = Options::default();
            options.flag("dry_run", dry_run);
            let done = if dry_run { "nothing was changed; pruning would do this" } else { "pruned" };
            job(session, "PruneVault", &vault, &options, done).await
        }
        VaultVerb::Sync { vault } => {
            job(session, "SyncVault", &vault, &Options::default(), "the mirrors are up to date").await
        }
        VaultVerb::Key(verb) => key(session, verb).await,
        VaultVerb::Rebuild { destination, key_file, machine, name } => {
            let key = match &key_file {
                Some(_) => None,
                None => super::ask("Recovery key (nothing for a vault in the clear): ").await,
            };
            let mut options = Options::default();
            options.set("key_file", key_file).set("recovery_key", key).set("machine", machine).set("name", name);
            job(session, "RebuildCatalog", &destination, &options, "the catalog has what the destination holds").await
        }
        VaultVerb::Remove { vault, delete_data, yes } => {
            if delete_data && !yes {
                confirm(&format!("Delete vault {vault} and every backup in it for good?")).await?;
            }
            let mut options = Options::default();
            options.flag("delete_data", delete_data);
            job(session, "RemoveVault", &vault, &options, "removed").await
        }
    }
}

async fn job(session: &Session, method: &str, vault: &str, options: &Options, done: &str) -> Result<u8> {
    let arguments = (vault, options.wire()?);
    match session.work(session.client.job(method, &arguments)).await? {
        Outcome::Left(id) => Ok(session.left(id)),
        Outcome::Completed(job) if session.json => Ok(session.show(&job)),
        Outcome::Completed(job) => {
            output::line(done);
            if let Some(Value::Map(result)) = job.get("result") {
                output::fields(result);
            }
            Ok(0)
        }
    }
}

async fn key(session: &Session, verb: KeyVerb) -> Result<u8> {
    match verb {
        KeyVerb::Add { vault, kind } => {
            let mut options = Options::default();
            options.set("kind", Some(kind.as_str()));
            let key = session.client.object("AddVaultKey", &(&vault, options.wire()?)).await?;
            session.show(&key);
            if kind == "recovery" && !session.json {
                output::line("");
                output::line("Write the key down and keep it away from this machine: it is never shown again,");
                output::line("and whoever has it can read every backup in the vault.");
            }
            Ok(0)
        }
        KeyVerb::List { vault } => {
            let keys = session.client.objects("ListVaultKeys", &vault).await?;
            let count = keys.len() as u64;
            Ok(session.list((count, keys), &["id", "kind", "created"], |k| {
                vec![text(k, "id"), text(k, "kind"), time(k, "created_at")]
            }))
        }
        KeyVerb::Remove { vault, key } => {
            let none = Options::default().wire()?;
            session.done("removed", "RemoveVaultKey", &(&vault, &key, none)).await
        }
    }
}
