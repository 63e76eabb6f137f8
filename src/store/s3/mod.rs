//! A bucket of an S3 store.
//!
//! Whoever calls is not async: calls block on a small runtime of this module. The SDK tries
//! nothing again and decides nothing ([`client`]); what may pass is waited for in [`retry`], what
//! an answer means is decided in [`fault`].

mod client;
mod fault;
mod limit;
mod read;
mod retry;
mod upload;

use std::future::Future;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use aws_sdk_s3::Client;
use tokio::runtime::Runtime;

use self::fault::{Class, Fault};
use self::retry::Retry;
use super::{Login, LoginFile, ObjectMeta, ObjectStore, Patience, S3Place, S3Settings, Space, check_key};
use crate::model::{Error, Result};

/// Reads `path` as certificates that can be trusted, or says why not.
pub fn check_ca_file(path: &std::path::Path) -> Result<()> {
    client::authorities(path).map(drop)
}

/// A bucket, with how it is reached.
struct Bucket {
    settings: S3Settings,
    prefix: String,
    client: RwLock<(Client, Login)>,
    /// Where other keys may be found.
    file: Option<LoginFile>,
    retry: Retry,
}

/// Objects in a bucket, beneath a prefix.
pub struct S3Store {
    bucket: Arc<Bucket>,
    runtime: &'static Runtime,
}

impl std::fmt::Debug for S3Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Store").field("settings", &self.bucket.settings).finish_non_exhaustive()
    }
}

/// The runtime of all stores: made when the first one is opened, and there until the end.
fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<std::io::Result<Runtime>> = OnceLock::new();
    let made = RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("s3").enable_all().build()
    });
    made.as_ref().map_err(|e| Error::io("cannot start threads for S3", e))
}

impl S3Store {
    /// Gets ready to use a bucket. Asks nothing of it yet.
    pub fn open(place: &S3Place, patience: Patience) -> Result<Self> {
        place.settings.check()?;
        place.login.check()?;
        let runtime = runtime()?;
        let bucket = Bucket {
            settings: place.settings.clone(),
            prefix: place.settings.key_prefix(),
            client: RwLock::new((client::client(place)?, place.login.clone())),
            file: place.file.clone(),
            retry: Retry::new(patience, place.settings.bandwidth_limit),
        };
        Ok(Self { bucket: Arc::new(bucket), runtime })
    }

    /// Waits for `work` on behalf of `key`; `verb` says what it does with it.
    fn wait<T>(&self, verb: &str, key: &str, work: impl Future<Output = Result<T, Fault>>) -> Result<T> {
        self.runtime.block_on(work).map_err(|fault| fault.error(&format!("{verb} {key} in"), &self.title()))
    }

    fn title(&self) -> String {
        self.bucket.settings.title()
    }

    fn name(&self, key: &str) -> Result<String> {
        check_key(key)?;
        Ok(format!("{}{key}", self.bucket.prefix))
    }
}

impl Bucket {
    fn client(&self) -> Client {
        self.client.read().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Does a request that moves `bytes`, again where that may help.
    async fn run<T, F>(&self, bytes: usize, work: impl Fn(u32) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        self.retry.run(bytes as u64, || self.renew(), work).await
    }

    /// Looks whether there are other keys by now.
    fn renew(&self) -> bool {
        let Some(found) = self.file.as_ref().and_then(|file| file.read().ok()) else { return false };
        let mut current = self.client.write().unwrap_or_else(PoisonError::into_inner);
        if current.1 == found {
            return false;
        }
        *current = (client::with_login(&current.0, &found), found);
        true
    }
}

impl ObjectStore for S3Store {
    fn put(&self, key: &str, data: &[u8]) -> Result<()> {
        let (name, bucket) = (self.name(key)?, &self.bucket);
        self.wait("store", key, async {
            match data.len() {
                0..=upload::WHOLE_MAX => bucket.put_whole(&name, data, false).await.map(drop),
                _ => bucket.put_parts(&name, data).await,
            }
        })
    }

    fn put_if_absent(&self, key: &str, data: &[u8]) -> Result<bool> {
        let name = self.name(key)?;
        self.wait("store", key, self.bucket.put_whole(&name, data, true))
    }

    fn get(&self, key: &str, limit: u64) -> Result<Vec<u8>> {
        let name = self.name(key)?;
        let too_large =
            || Error::damaged(format!("{key} in {} is larger than the {limit} bytes it may have", self.title()));
        self.wait("read", key, self.bucket.get(&name, limit)).and_then(|data| data.ok_or_else(too_large))
    }

    fn get_range(&self, key: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
        let name = self.name(key)?;
        let end = offset.saturating_add(len as u64);
        let short = || Error::damaged(format!("{key} in {} ends before byte {end}", self.title()));
        if len == 0 {
            return match self.size(key)? {
                Some(size) if size >= offset => Ok(Vec::new()),
                Some(_) => Err(short()),
                None => Err(Fault::new(Class::Missing, "there is no such object")
                    .error(&format!("read {key} in"), &self.title())),
            };
        }
        self.wait("read", key, self.bucket.get_range(&name, offset, len)).map_err(|e| match e.kind {
            crate::model::ErrorKind::Damaged => short(),
            _ => e,
        })
    }

    fn size(&self, key: &str) -> Result<Option<u64>> {
        let name = self.name(key)?;
        self.wait("look for", key, self.bucket.size(&name))
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>> {
        let name = self.name(prefix.trim_end_matches('/'))?;
        self.wait("list", prefix, self.bucket.list(&format!("{name}/")))
    }

    fn delete(&self, key: &str) -> Result<()> {
        let name = self.name(key)?;
        self.wait("remove", key, self.bucket.delete(&name))
    }

    fn sync(&self) -> Result<()> {
        // What was answered is durable.
        Ok(())
    }

    fn space(&self) -> Result<Space> {
        match self.bucket.retry.health.trouble() {
            None => Ok(Space { free: None }),
            Some(said) => Err(Error::destination_failed(format!("cannot use {}: {said}", self.title()))),
        }
    }

    fn sweep(&self) -> Result<()> {
        match self.runtime.block_on(self.bucket.sweep()) {
            Ok(0) => {}
            Ok(swept) => tracing::info!("took back {swept} uploads to {} that were cut short", self.title()),
            // Not every store lists uploads, and nothing depends on it.
            Err(fault) => tracing::debug!("unfinished uploads to {} are not known: {}", self.title(), fault.said),
        }
        Ok(())
    }
}
