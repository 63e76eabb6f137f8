//! Real S3 servers: SeaweedFS and OpenStack Swift, each in a directory of its own, on free ports.

use std::fs::File;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Config, Credentials, Region, RequestChecksumCalculation};
use strongroom::store::{Login, S3Place, S3Settings};

use super::bus::tied;
use super::tools::{sh, wait_for};

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Of files, in Go.
    Seaweed,
    /// Of OpenStack, in Python: nothing in common with the other.
    Swift,
}

/// A server with one bucket, `bucket`. It ends when it is dropped, or with this process.
pub struct Server {
    kind: Kind,
    pub port: u16,
    dir: tempfile::TempDir,
    child: Option<Child>,
}

/// Where SeaweedFS is, installed on first use; `None`, loudly, where it cannot be had.
fn weed() -> Option<&'static Path> {
    static WEED: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = WEED.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stories/common/seaweedfs");
        let output = Command::new(script).stdin(Stdio::null()).output().ok()?;
        let program = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
        program.is_file().then_some(program)
    });
    found.as_deref()
}

/// A free port with `more` free ones behind it, and as many 10000 higher, which SeaweedFS takes too.
fn free_port(more: u16) -> u16 {
    // Nobody else in this process gets the same, and none that the kernel gives out.
    static LAST: Mutex<u16> = Mutex::new(0);
    let mut last = LAST.lock().unwrap();
    if *last == 0 {
        *last = 11_000 + u16::try_from(std::process::id() % 100).unwrap() * 64;
    }
    for _ in 0..200 {
        let port = *last;
        *last += more + 1;
        let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if (port..=port + more).all(|port| free(port) && free(port + 10_000)) {
            return port;
        }
    }
    panic!("there are no free ports");
}

impl Server {
    /// Starts a server; `None`, loudly, where it cannot be had.
    pub fn start(kind: Kind, story: &str) -> Option<Self> {
        let reason = match kind {
            Kind::Seaweed if weed().is_none() => Some("SeaweedFS cannot be installed from PyPI"),
            Kind::Swift if !Path::new("/usr/lib/python3/dist-packages/swift/common/wsgi.py").is_file() => {
                Some("OpenStack Swift (python3-swift) is not installed")
            }
            _ => None,
        };
        if let Some(reason) = reason {
            let _ = writeln!(std::io::stderr().lock(), "SKIPPED {story}: {reason}");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("strongroom-s3-").tempdir_in("/var/tmp").unwrap();
        let mut server = Self { kind, port: free_port(5), dir, child: None };
        server.start_again();
        server.make_bucket("bucket");
        Some(server)
    }

    /// Starts the server after it ended, over the same files.
    pub fn start_again(&mut self) {
        assert!(self.child.is_none());
        let (dir, port) = (self.dir.path(), self.port);
        let log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
        let mut command = match self.kind {
            Kind::Seaweed => {
                let keys = r#"{"identities":[{"name":"n","credentials":[{"accessKey":"test:key","secretKey":"secret"}],
                    "actions":["Admin","Read","Write","List","Tagging"]}]}"#;
                std::fs::write(dir.join("keys.json"), keys).unwrap();
                std::fs::create_dir_all(dir.join("data")).unwrap();
                let mut command = tied(weed().unwrap());
                command.arg("server").arg(format!("-dir={}", dir.join("data").display()));
                command.args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", "-volume.max=60"]);
                command.args([
                    "-master.volumeSizeLimitMB=512",
                    "-master.telemetry=false",
                    "-s3.port.iceberg=0",
                    "-s3.port.lance=0",
                    "-s3.autoCreateBucket=false",
                ]);
                command.arg(format!("-s3.config={}", dir.join("keys.json").display()));
                // For those who want TLS: the certificate of an authority of its own.
                sh(
                    dir,
                    "[[ -e leaf.pem ]] || { exec 2> openssl.log
                    openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 3 -subj /CN=ours
                    openssl req -newkey rsa:2048 -nodes -keyout leaf.key -out leaf.csr -subj /CN=s3
                    printf 'subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n' > ext
                    openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 3 -extfile ext -out leaf.pem; }",
                );
                command.arg(format!("-metricsPort={}", port + 5));
                command.arg(format!("-s3.port.https={}", port + 4));
                command.args(["-s3.cert.file=leaf.pem", "-s3.key.file=leaf.key"]);
                let ports = ["s3.port", "master.port", "volume.port", "filer.port"];
                for (n, name) in (0_u16..).zip(ports) {
                    command.arg(format!("-{name}={}", port + n));
                    command.arg(format!("-{name}.grpc={}", port + n + 10_000));
                }
                command
            }
            Kind::Swift => {
                let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stories/common/swift_server.py");
                let mut command = tied("/usr/bin/python3");
                command.arg(script).arg(dir.join("data")).arg(port.to_string()).args(["test:key", "secret"]);
                command
            }
        };
        command.current_dir(dir).env("HOME", dir).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        wait_for("the S3 server answers", Duration::from_secs(90), || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the S3 server ended: {}", self.log());
            TcpStream::connect(("127.0.0.1", port)).is_ok() && self.lists()
        });
    }

    /// Whether it lists what it holds: it listens long before it works.
    fn lists(&self) -> bool {
        let (client, runtime) = self.client();
        runtime.block_on(async { client.list_buckets().send().await.is_ok() })
    }

    /// Ends the server as a power failure would, with what it started.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        wait_for("the server is gone", Duration::from_secs(20), || {
            TcpStream::connect(("127.0.0.1", self.port)).is_err()
        });
    }

    /// What it said.
    pub fn log(&self) -> String {
        sh(self.dir.path(), "tail -q -n 30 log data/*.log 2> /dev/null || true")
    }

    /// Its URL.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its URL with TLS, and the file that makes it trusted.
    pub fn secure(&self) -> (String, PathBuf) {
        (format!("https://127.0.0.1:{}", self.port + 4), self.dir.path().join("ca.pem"))
    }

    /// The SDK's client, as it would be without us.
    fn client(&self) -> (Client, tokio::runtime::Runtime) {
        let config = Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new("us-east-1"))
            .endpoint_url(self.endpoint())
            .force_path_style(true)
            .credentials_provider(Credentials::new("test:key", "secret", None, None, "test"))
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .build();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        (Client::from_conf(config), runtime)
    }

    /// Makes a bucket.
    pub fn make_bucket(&self, name: &str) {
        let (client, runtime) = self.client();
        wait_for("the bucket is made", Duration::from_secs(60), || {
            runtime.block_on(async { client.create_bucket().bucket(name).send().await.is_ok() })
        });
        // The first object has the server make its files, which takes seconds on a busy disk: no request of ours is
        // to wait for that.
        let (bucket, key) = (name, "first");
        wait_for("the bucket takes objects", Duration::from_secs(60), || {
            let put = client.put_object().bucket(bucket).key(key).body(b"1".to_vec().into());
            runtime.block_on(async { put.send().await.is_ok() })
        });
        wait_for("the bucket is empty", Duration::from_secs(60), || {
            runtime.block_on(async { client.delete_object().bucket(bucket).key(key).send().await.is_ok() })
        });
    }

    /// All keys in the bucket, and all uploads that are open there.
    pub fn keys(&self, prefix: &str) -> (Vec<String>, Vec<String>) {
        let (client, runtime) = self.client();
        runtime.block_on(async {
            let mut keys = Vec::new();
            let mut pages = client.list_objects_v2().bucket("bucket").prefix(prefix).into_paginator().send();
            while let Some(page) = pages.next().await {
                keys.extend(page.unwrap().contents().iter().filter_map(|o| o.key().map(str::to_owned)));
            }
            let open = client.list_multipart_uploads().bucket("bucket").send().await.unwrap();
            (keys, open.uploads().iter().filter_map(|u| u.key().map(str::to_owned)).collect())
        })
    }

    /// Begins an upload and leaves it, as a crash would.
    pub fn leave_upload(&self, key: &str) {
        let (client, runtime) = self.client();
        runtime.block_on(async {
            let upload = client.create_multipart_upload().bucket("bucket").key(key).send().await.unwrap();
            let body = aws_sdk_s3::primitives::ByteStream::from(vec![1_u8; 5 << 20]);
            let part = client.upload_part().bucket("bucket").key(key).part_number(1).body(body);
            part.upload_id(upload.upload_id().unwrap()).send().await.unwrap();
        });
    }

    /// How a store reaches the bucket, beneath a prefix.
    pub fn place(&self, prefix: &str) -> S3Place {
        S3Place {
            settings: S3Settings {
                bucket: "bucket".into(),
                endpoint: Some(self.endpoint()),
                prefix: prefix.into(),
                ..S3Settings::default()
            },
            login: login(),
            file: None,
        }
    }
}

/// What both servers let in.
pub fn login() -> Login {
    Login { access_key_id: "test:key".into(), secret_access_key: "secret".into(), session_token: None }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the S3 server's last words:\n{}", self.log());
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
