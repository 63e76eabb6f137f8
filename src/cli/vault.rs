//! `strongroom vault …`

use super::args::{KeyVerb, VaultVerb};
use super::confirm;
use super::output::{self, size, text, time};
use super::session::{Options, Session};
use super::wait::Outcome;
use crate::model::{Result, Value};

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
