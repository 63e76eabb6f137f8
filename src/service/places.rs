//! Where destinations are: what a caller or a file says of it, checked, and what opens it.
//!
//! Secrets that come over the bus are kept in files of their own beneath the state directory
//! (0600), in the form of any other credential file: never in the catalog, which is copied,
//! exported and shown.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use uuid::Uuid;
use zeroize::Zeroizing;

use super::{Service, check, open};
use crate::catalog::destination::{Bucket, Credential, Place};
use crate::catalog::{Destination, Tables, private_dir};
use crate::model::{Args, Error, IoContext, Result};
use crate::store::{self, LocalStore, Login, LoginFile, S3Place, S3Settings};

/// The directory of credentials that came over the bus, beneath the state directory.
const CREDENTIALS: &str = "credentials";

/// Where a destination is to be.
#[derive(Debug)]
pub(super) struct Wanted {
    pub place: Place,
    /// What is to be kept for it, if that was given.
    pub login: Option<Login>,
    pub max_backups: Option<u64>,
}

/// The settings of a destination, from what a caller or a file says.
pub(super) fn take(kind: &str, mut args: Args, file: bool) -> Result<Wanted> {
    let (mut directory, mut bucket) = (None, None);
    match kind {
        "local" => directory = args.string("directory")?,
        "s3" if cfg!(not(feature = "s3")) => {
            return Err(Error::invalid("type is \"s3\", which this strongroomd was built without; use local"));
        }
        "s3" => bucket = Some(take_bucket(&mut args, None, file)?),
        _ => return Err(Error::invalid(format!("type is {kind:?}; it must be local or s3"))),
    }
    let max_backups = args.uint("max_backups", 1, u64::from(u32::MAX))?;
    args.finish()?;
    if let Some((bucket, login)) = bucket {
        return Ok(Wanted { place: Place::S3(bucket), login, max_backups });
    }
    let directory = directory.ok_or_else(|| Error::invalid("directory is missing; give an absolute path"))?;
    let directory = check::clean_path("directory", Path::new(&directory))?;
    Ok(Wanted { place: Place::Local { directory }, login: None, max_backups })
}

/// Takes the keys of a bucket; what is not given stays as it was `before`, an empty text unsets.
pub(super) fn take_bucket(args: &mut Args, before: Option<&Bucket>, file: bool) -> Result<(Bucket, Option<Login>)> {
    let mut settings = before.map(|b| b.settings.clone()).unwrap_or_default();
    let texts = |key: &str, args: &mut Args, there: &mut Option<String>| -> Result<()> {
        if let Some(text) = args.string(key)? {
            *there = (!text.is_empty()).then_some(text);
        }
        Ok(())
    };
    let mut access_key_id = before.and_then(|b| b.access_key_id.clone());
    let told_id = args.string("access_key_id")?.inspect(|id| {
        access_key_id = (!id.is_empty()).then(|| id.clone());
    });
    let secret = args.string("secret_access_key")?.map(Zeroizing::new);
    let token = args.string("session_token")?.map(Zeroizing::new);
    let credential = args.string("credential")?;
    if let Some(bucket) = args.string("bucket")? {
        settings.bucket = bucket;
    }
    texts("region", args, &mut settings.region)?;
    texts("endpoint", args, &mut settings.endpoint)?;
    if let Some(prefix) = args.string("prefix")? {
        prefix.trim_matches('/').clone_into(&mut settings.prefix);
    }
    texts("storage_class", args, &mut settings.storage_class)?;
    let mut ca_file = None;
    texts("ca_file", args, &mut ca_file)?;
    if let Some(path) = ca_file {
        settings.ca_file = Some(check::clean_path("ca_file", Path::new(&path))?);
    }
    if let Some(style) = args.bool("force_path_style")? {
        settings.force_path_style = Some(style);
    }
    if let Some(limit) = args.uint("bandwidth_limit", 0, u64::MAX)? {
        settings.bandwidth_limit = (limit > 0).then_some(limit);
    }
    if settings.bucket.is_empty() {
        return Err(Error::invalid("bucket is missing, which the type s3 needs; name one"));
    }
    let (credential, login) = match (secret, credential) {
        (Some(_), _) if file => {
            return Err(Error::invalid("secret_access_key is not taken from a file; name one as credential instead"));
        }
        (Some(_), Some(_)) => {
            return Err(Error::invalid("credential and secret_access_key are both given; give credential alone"));
        }
        (Some(secret), None) => {
            let id = access_key_id.clone().ok_or_else(|| {
                Error::invalid(
                    "access_key_id is missing, which goes with secret_access_key; give both, or a credential",
                )
            })?;
            let login = Login {
                access_key_id: id,
                secret_access_key: secret.to_string(),
                session_token: token.map(|t| t.to_string()),
            };
            login.check()?;
            (Credential::Own(Uuid::new_v4()), Some(login))
        }
        (None, _) if token.is_some() => {
            return Err(Error::invalid("session_token goes with secret_access_key; put it into the credential's file"));
        }
        (None, Some(name)) => (Credential::Named(check_credential(name)?), None),
        (None, None) => match before.map(|b| b.credential.clone()) {
            Some(Credential::Own(_)) if told_id.is_some() => {
                return Err(Error::invalid("secret_access_key is missing, which goes with access_key_id; give both"));
            }
            Some(credential) => (credential, None),
            None => {
                return Err(Error::invalid(
                    "credential is missing; name a systemd credential or a file of mode 0600 that holds access_key_id and secret_access_key",
                ));
            }
        },
    };
    settings.check()?;
    Ok((Bucket { settings, access_key_id, credential }, login))
}

pub(super) fn check_credential(name: String) -> Result<String> {
    if name.starts_with('/') {
        let clean = check::clean_path("credential", Path::new(&name))?;
        return Ok(clean.to_string_lossy().into_owned());
    }
    let plain = !name.is_empty() && name.len() <= 255 && !name.starts_with('.') && !name.contains(['/', '\0']);
    if plain {
        return Ok(name);
    }
    Err(Error::invalid(format!(
        "credential is {name:?}; it must be the name of a systemd credential or the absolute path of a file"
    )))
}

/// Where a credential is: a file, or what systemd calls by this name.
pub(super) fn named_credential(name: &str) -> Result<PathBuf> {
    if name.starts_with('/') {
        return Ok(PathBuf::from(name));
    }
    let given = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
        Error::invalid(format!(
            "systemd gave this strongroomd no credentials, so none named {name:?}; give a file by its path, \
             or LoadCredential={name}:… to the unit"
        ))
    })?;
    Ok(Path::new(&given).join(name))
}

impl Service {
    /// Where the keys to a bucket are.
    fn login_file(&self, bucket: &Bucket) -> Result<LoginFile> {
        let path = match &bucket.credential {
            Credential::Own(id) => self.options.state_dir.join(CREDENTIALS).join(id.to_string()),
            Credential::Named(name) => named_credential(name)?,
        };
        Ok(LoginFile { path, access_key_id: bucket.access_key_id.clone() })
    }

    /// Everything that it takes to open a destination's store.
    pub(super) fn store_place(&self, place: &Place) -> Result<store::Place> {
        match place {
            Place::Local { directory } => Ok(store::Place::Local(directory.clone())),
            Place::S3(bucket) => {
                let found = self.login_file(bucket).and_then(|file| Ok((file.read()?, file)));
                let (login, file) = found.map_err(|e| Error::destination_failed(e.message))?;
                Ok(store::Place::S3(Box::new(S3Place { settings: bucket.settings.clone(), login, file: Some(file) })))
            }
        }
    }

    /// Refuses a place that cannot be one, or that `others` have taken.
    pub(super) fn check_destination(&self, others: &[Destination], wanted: &Wanted) -> Result<()> {
        let bucket = match &wanted.place {
            Place::Local { directory } => return self.check_directory(others, directory),
            Place::S3(bucket) => bucket,
        };
        #[cfg(feature = "s3")]
        if let Some(path) = &bucket.settings.ca_file {
            store::s3::check_ca_file(path)?;
        }
        for other in others {
            if let Place::S3(there) = &other.place
                && S3Settings::overlaps(&there.settings, &bucket.settings)
            {
                return Err(Error::invalid(format!(
                    "prefix is {:?}, which overlaps {} of destination {:?}; give another",
                    bucket.settings.prefix,
                    there.settings.title(),
                    other.name
                )));
            }
        }
        if wanted.login.is_none() {
            self.login_file(bucket).and_then(|file| file.read()).map_err(|e| e.context("credential"))?;
        }
        Ok(())
    }

    /// Makes what a destination needs outside the catalog; it can be done again.
    pub(super) fn make_place(&self, place: &Place, login: Option<&Login>) -> Result<()> {
        match (place, login) {
            (Place::Local { directory }, _) => LocalStore::create_dir(directory),
            (Place::S3(Bucket { credential: Credential::Own(id), .. }), Some(login)) => {
                let dir = self.options.state_dir.join(CREDENTIALS);
                private_dir(&dir)?;
                open::write_private(&dir.join(id.to_string()), &login.to_file())
            }
            (Place::S3(_), _) => Ok(()),
        }
    }

    /// Removes credentials that no destination has (any more).
    pub(super) fn sweep_credentials(&self) {
        let dir = self.options.state_dir.join(CREDENTIALS);
        let Ok(entries) = std::fs::read_dir(&dir) else { return };
        let Ok(rows) = self.catalog.read(Tables::all::<Destination>) else { return };
        let kept: BTreeSet<String> = rows
            .iter()
            .filter_map(|row| match &row.place {
                Place::S3(Bucket { credential: Credential::Own(id), .. }) => Some(id.to_string()),
                _ => None,
            })
            .collect();
        for entry in entries.flatten() {
            if entry.file_name().to_str().is_none_or(|name| !kept.contains(name)) {
                let removed =
                    std::fs::remove_file(entry.path()).at(|| format!("cannot remove {}", entry.path().display()));
                if let Err(e) = removed {
                    tracing::warn!("{e}");
                }
            }
        }
    }
}
