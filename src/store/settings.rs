//! How a bucket is reached: everything but the secrets.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::{Error, Result};

/// What a store without regions is told, where nothing else is said.
pub const USUAL_REGION: &str = "us-east-1";

/// The longest prefix: with a key of ours it stays below the 1024 bytes that S3 takes.
const PREFIX_MAX: usize = 512;

/// A slower limit would be taken for a line that is dead.
const LIMIT_MIN: u64 = 64 << 10;

/// Classes whose objects have to be asked for hours before they can be read.
const ASLEEP: [&str; 2] = ["GLACIER", "DEEP_ARCHIVE"];

/// The settings of an S3 destination.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct S3Settings {
    /// The bucket, which must exist.
    pub bucket: String,
    /// The region; needed where there is no endpoint.
    #[serde(default)]
    pub region: Option<String>,
    /// The store's URL; none for Amazon's own.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// What all keys begin with, without slashes at its ends; empty for none.
    #[serde(default)]
    pub prefix: String,
    /// Whether the bucket stands in the path and not in the host's name; where unset it does
    /// exactly if there is an endpoint.
    #[serde(default)]
    pub force_path_style: Option<bool>,
    /// The storage class of new objects.
    #[serde(default)]
    pub storage_class: Option<String>,
    /// Certificates (PEM) that are trusted instead of the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The most bytes a second, each way.
    #[serde(default)]
    pub bandwidth_limit: Option<u64>,
}

impl S3Settings {
    /// Refuses what no store could be reached with, naming the key.
    pub fn check(&self) -> Result<()> {
        let word = |text: &str, more: &[u8]| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
        };
        if !word(&self.bucket, b"-._") || self.bucket.len() > 255 || self.bucket.starts_with('.') {
            return Err(Error::invalid(format!(
                "bucket is {:?}; it must be the name of a bucket, of letters, digits, '-', '.' and '_'",
                self.bucket
            )));
        }
        if let Some(region) = self.region.as_ref().filter(|region| !word(region, b"-_") || region.len() > 64) {
            return Err(Error::invalid(format!("region is {region:?}; it must be a name such as eu-central-1")));
        }
        match &self.endpoint {
            Some(endpoint) => check_endpoint(endpoint)?,
            None if self.region.is_none() => {
                return Err(Error::invalid(
                    "region is missing; give it, or an endpoint for a store other than Amazon's",
                ));
            }
            None => {}
        }
        let parts = |text: &str| text.split('/').all(|part| !matches!(part, "" | "." | ".."));
        let plain = !self.prefix.contains(|c: char| c.is_control()) && self.prefix.len() <= PREFIX_MAX;
        let fine = self.prefix.is_empty() || (plain && parts(&self.prefix));
        if !fine {
            return Err(Error::invalid(format!(
                "prefix is {:?}; it must be of at most {PREFIX_MAX} bytes, such as backups/web, without empty parts, '.' and '..'",
                self.prefix
            )));
        }
        if let Some(limit) = self.bandwidth_limit.filter(|limit| *limit < LIMIT_MIN) {
            return Err(Error::invalid(format!(
                "bandwidth_limit is {limit}; it must be at least {LIMIT_MIN} bytes a second, or 0 for none"
            )));
        }
        if let Some(class) = &self.storage_class {
            if ASLEEP.contains(&class.as_str()) {
                return Err(Error::invalid(format!(
                    "storage_class is {class:?}, whose objects cannot be read at once; give one such as STANDARD_IA or GLACIER_IR"
                )));
            }
            if !word(class, b"_-") || class.len() > 64 {
                return Err(Error::invalid(format!("storage_class is {class:?}; it must be a name such as STANDARD")));
            }
        }
        Ok(())
    }

    /// The region that requests are signed for.
    pub fn signing_region(&self) -> &str {
        self.region.as_deref().unwrap_or(USUAL_REGION)
    }

    /// Whether the bucket stands in the path.
    pub fn path_style(&self) -> bool {
        self.force_path_style.unwrap_or(self.endpoint.is_some())
    }

    /// What every key begins with.
    pub fn key_prefix(&self) -> String {
        if self.prefix.is_empty() { String::new() } else { format!("{}/", self.prefix) }
    }

    /// Which place it is, in words.
    pub fn title(&self) -> String {
        let at = match &self.endpoint {
            Some(endpoint) => endpoint.clone(),
            None => format!("Amazon S3 in {}", self.signing_region()),
        };
        match self.prefix.as_str() {
            "" => format!("bucket {:?} at {at}", self.bucket),
            prefix => format!("{prefix:?} in bucket {:?} at {at}", self.bucket),
        }
    }

    /// Whether objects of one could be objects of the other.
    pub fn overlaps(&self, other: &Self) -> bool {
        let host = |s: &Self| s.endpoint.as_ref().map(|e| e.trim_end_matches('/').to_ascii_lowercase());
        let (ours, theirs) = (self.key_prefix(), other.key_prefix());
        self.bucket == other.bucket
            && host(self) == host(other)
            && (ours.starts_with(&theirs) || theirs.starts_with(&ours))
    }
}

fn check_endpoint(endpoint: &str) -> Result<()> {
    let wrong = |why: &str| {
        Error::invalid(format!(
            "endpoint {why}; it must be a URL such as https://s3.example.net or http://10.0.0.5:8333"
        ))
    };
    let rest = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
    let Some(rest) = rest else {
        return Err(wrong(&format!("is {endpoint:?}, which does not begin with https:// or http://")));
    };
    // Not shown: what stands before an @ may be a password.
    if rest.contains('@') {
        return Err(wrong("holds a user name"));
    }
    let host = rest.split('/').next().unwrap_or_default();
    let plain = rest.bytes().all(|b| b.is_ascii_graphic() && !b"?#\\\"<>".contains(&b));
    if host.is_empty() || host.starts_with(':') || !plain || rest.len() > 255 {
        return Err(wrong(&format!("is {endpoint:?}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> S3Settings {
        S3Settings { bucket: "backups".into(), endpoint: Some("http://127.0.0.1:8333".into()), ..S3Settings::default() }
    }

    #[test]
    fn what_cannot_work_is_named() {
        assert!(good().check().is_ok());
        type Change = fn(&mut S3Settings);
        let wrong: [(&str, Change); 15] = [
            ("bucket", |s| s.bucket = String::new()),
            ("bucket", |s| s.bucket = "a/b".into()),
            ("bucket", |s| s.bucket = "..".into()),
            ("region", |s| s.region = Some("eu central".into())),
            ("region", |s| s.endpoint = None),
            ("endpoint", |s| s.endpoint = Some("s3.example.net".into())),
            ("endpoint", |s| s.endpoint = Some("https://".into())),
            ("endpoint", |s| s.endpoint = Some("https://x?y".into())),
            ("endpoint", |s| s.endpoint = Some("ftp://x".into())),
            ("prefix", |s| s.prefix = "a//b".into()),
            ("prefix", |s| s.prefix = "../b".into()),
            ("prefix", |s| s.prefix = "a".repeat(600)),
            ("storage_class", |s| s.storage_class = Some("DEEP_ARCHIVE".into())),
            ("bandwidth_limit", |s| s.bandwidth_limit = Some(1)),
            ("storage_class", |s| s.storage_class = Some("x y".into())),
        ];
        for (key, change) in wrong {
            let mut settings = good();
            change(&mut settings);
            let error = settings.check().unwrap_err();
            assert!(error.message.starts_with(key), "{key}: {error}");
        }
        let secret = S3Settings { endpoint: Some("https://me:hush@x".into()), ..good() };
        assert!(!secret.check().unwrap_err().message.contains("hush"));
    }

    #[test]
    fn places_that_share_objects_overlap() {
        let with = |prefix: &str| S3Settings { prefix: prefix.into(), ..good() };
        assert!(with("a").overlaps(&with("a/b")) && with("a/b").overlaps(&with("a")) && with("").overlaps(&with("x")));
        assert!(!with("a").overlaps(&with("ab")) && !with("a/b").overlaps(&with("a/c")));
        let other = S3Settings { bucket: "others".into(), ..good() };
        assert!(!other.overlaps(&good()));
        let slash = S3Settings { endpoint: Some("HTTP://127.0.0.1:8333/".into()), ..good() };
        assert!(slash.overlaps(&good()));
    }
}
