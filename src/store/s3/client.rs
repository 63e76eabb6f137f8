//! Making the SDK's client: everything that it would decide by itself is decided here.

use std::path::Path;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Config, Credentials, IdentityCache, Region, RequestChecksumCalculation,
    ResponseChecksumValidation, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::Builder as Http;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, pem::PemObject};

use super::limit::Limit;
use crate::model::{Error, IoContext, Result};
use crate::store::{Login, S3Place};

/// A server that is there takes a connection sooner.
const CONNECT: Duration = Duration::from_secs(4);

/// A body of which nothing moves for so long is given up.
const STALLED: Duration = Duration::from_secs(20);

/// Longer files hold more than the authorities of a store.
const CA_MAX: u64 = 1 << 20;

/// A client for the place. Tries nothing again by itself.
pub fn client(place: &S3Place) -> Result<Client> {
    let settings = &place.settings;
    let mut config = Config::builder()
        // Pinned: a newer one may send what older stores refuse.
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new(settings.signing_region().to_owned()))
        .credentials_provider(credentials(&place.login))
        .identity_cache(IdentityCache::no_cache())
        .force_path_style(settings.path_style())
        // Checksums that S3 would like and other stores refuse.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT).build())
        .http_client(http(settings.ca_file.as_deref(), settings.endpoint.as_deref())?);
    if let Some(endpoint) = &settings.endpoint {
        config = config.endpoint_url(endpoint);
    }
    config = match settings.bandwidth_limit {
        // What is slowed on purpose would be taken for stalled.
        Some(rate) => {
            config.interceptor(Limit::new(rate)).stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        }
        None => {
            config.stalled_stream_protection(StalledStreamProtectionConfig::enabled().grace_period(STALLED).build())
        }
    };
    Ok(Client::from_conf(config.build()))
}

/// The same client with other keys.
pub fn with_login(client: &Client, login: &Login) -> Client {
    Client::from_conf(client.config().to_builder().credentials_provider(credentials(login)).build())
}

fn credentials(login: &Login) -> Credentials {
    let token = login.session_token.clone();
    Credentials::new(login.access_key_id.as_str(), login.secret_access_key.as_str(), token, None, "strongroom")
}

fn http(ca_file: Option<&Path>, endpoint: Option<&str>) -> Result<SharedHttpClient> {
    if endpoint.is_some_and(|url| url.starts_with("http://")) {
        return Ok(Http::new().build_http());
    }
    let trusted = match ca_file {
        Some(path) => TrustStore::empty().with_pem_certificate(authorities(path)?),
        None => TrustStore::default(),
    };
    let context = TlsContext::builder().with_trust_store(trusted).build();
    let context = context.map_err(|e| Error::failed(format!("TLS cannot be set up: {e}")))?;
    Ok(Http::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).tls_context(context).build_https())
}

/// Reads certificates, every one of which is tried: the client takes them on trust.
pub fn authorities(path: &Path) -> Result<Vec<u8>> {
    let shown = path.display();
    let what = || format!("ca_file {shown} cannot be read");
    let meta = std::fs::metadata(path).at(what).map_err(|e| Error::invalid(e.message))?;
    if !meta.is_file() || meta.len() > CA_MAX {
        return Err(Error::invalid(format!("ca_file {shown} is not a file of at most {CA_MAX} bytes")));
    }
    let text = std::fs::read(path).at(what).map_err(|e| Error::invalid(e.message))?;
    let wrong = || Error::invalid(format!("ca_file {shown} holds no certificates in PEM that can be used"));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        roots.add(certificate.map_err(|_| wrong())?).map_err(|_| wrong())?;
    }
    if roots.is_empty() { Err(wrong()) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_no_certificates_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let texts = ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"];
        for text in texts {
            std::fs::write(&path, text).unwrap();
            let error = authorities(&path).unwrap_err();
            assert!(error.message.starts_with("ca_file"), "{error}");
        }
        assert!(authorities(&dir.path().join("none")).unwrap_err().message.starts_with("ca_file"));
        assert!(authorities(Path::new("/dev/zero")).is_err());
    }
}
