//! What daemon and browse process say to each other: one JSON document a line, one answer to
//! each request, over a socket that only root and their own user may use.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::{Zeroize, Zeroizing};

use crate::model::id::{hex, unhex};
use crate::model::{Error, IoContext, Result};
use crate::store::Place;
use crate::vault::MasterKey;

use super::mount::short;
use super::types::{BackupView, VaultAccess};

/// A process of another version is asked to stop, and replaced.
pub const VERSION: u32 = 4;

/// The longest line: a million backups fit.
const LONGEST: u64 = 1 << 30;

/// A [`VaultAccess`] as it is sent.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultLine {
    uuid: Uuid,
    place: Place,
    others: Vec<Place>,
    master: Option<String>,
    cache_dir: PathBuf,
}

impl Drop for VaultLine {
    fn drop(&mut self) {
        self.master.zeroize();
    }
}

impl From<&VaultAccess> for VaultLine {
    fn from(access: &VaultAccess) -> Self {
        Self {
            uuid: access.uuid,
            place: access.place.clone(),
            others: access.others.clone(),
            master: access.master.as_ref().map(|key| hex(&key.0)),
            cache_dir: access.cache_dir.clone(),
        }
    }
}

impl VaultLine {
    /// The access that was sent.
    pub fn access(&self) -> Result<VaultAccess> {
        let key = |text: &String| {
            let bytes = Zeroizing::new(unhex(text).unwrap_or_default());
            <[u8; 32]>::try_from(bytes.as_slice())
                .map(MasterKey)
                .map_err(|_| Error::invalid(format!("the key of vault {} is not 64 hexadecimal digits", self.uuid)))
        };
        Ok(VaultAccess {
            uuid: self.uuid,
            place: self.place.clone(),
            others: self.others.clone(),
            master: self.master.as_ref().map(key).transpose()?,
            cache_dir: self.cache_dir.clone(),
        })
    }
}

/// What the daemon asks for.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The first request: which version speaks.
    Hello(u32),
    /// Show exactly these backups.
    Set {
        /// The vaults that hold them.
        vaults: Vec<VaultLine>,
        /// The backups.
        backups: Vec<BackupView>,
    },
    /// Show one more.
    Add {
        /// The vault that holds it.
        vault: VaultLine,
        /// The backup.
        backup: Box<BackupView>,
    },
    /// Show one no longer.
    Remove(u64),
    /// Unmount and end.
    Stop,
}

/// What the browse process answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Response {
    /// The answer to a greeting.
    Welcome {
        /// The version that answers.
        version: u32,
        /// Its process.
        pid: u32,
        /// Where it is mounted.
        mount: PathBuf,
    },
    /// Done.
    Done,
    /// Not done, for this reason.
    Failed(Error),
}

impl From<Result<()>> for Response {
    fn from(result: Result<()>) -> Self {
        match result {
            Ok(()) => Self::Done,
            Err(error) => Self::Failed(error),
        }
    }
}

/// One end of a connection.
pub struct Line {
    read: BufReader<UnixStream>,
}

impl Line {
    /// Takes a connection whose other end is root or this process's own user.
    pub fn new(stream: UnixStream) -> Result<Self> {
        let peer = getsockopt(&stream, PeerCredentials).at(|| "cannot tell who is at the other end of the socket")?;
        if peer.uid() != 0 && peer.uid() != nix::unistd::geteuid().as_raw() {
            return Err(Error::access_denied(format!("user {} may not use the browse socket", peer.uid())));
        }
        Ok(Self { read: BufReader::new(stream) })
    }

    /// The connection.
    pub fn stream(&self) -> &UnixStream {
        self.read.get_ref()
    }

    /// Sends a line.
    pub fn send(&mut self, message: &impl Serialize) -> Result<()> {
        let text = serde_json::to_vec(message).map_err(|e| Error::failed(format!("cannot write a message: {e}")))?;
        let mut text = Zeroizing::new(text);
        text.push(b'\n');
        self.read.get_mut().write_all(&text).at(|| "cannot write to the browse socket")
    }

    /// Waits for a line; `None` when the other end is gone.
    pub fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        let mut text = Zeroizing::new(Vec::new());
        let mut limited = (&mut self.read).take(LONGEST);
        limited.read_until(b'\n', &mut text).at(|| "cannot read from the browse socket")?;
        if text.last() != Some(&b'\n') {
            return if text.is_empty() {
                Ok(None)
            } else {
                Err(Error::failed("a message on the browse socket is cut off"))
            };
        }
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|e| Error::failed(format!("a message on the browse socket makes no sense: {e}")))
    }
}

/// Connects to the browse process at `path`.
pub fn connect(path: &Path) -> Result<Line> {
    let (path, _dir) = short(path)?;
    let stream = UnixStream::connect(&path).at(|| format!("cannot connect to {}", path.display()))?;
    Line::new(stream)
}

/// Makes the socket's directory (0700) if it is missing, and refuses one that others may write.
pub fn make_dir(socket: &Path) -> Result<()> {
    let dir = socket.parent().filter(|dir| dir.is_absolute());
    let dir = dir.ok_or_else(|| Error::invalid(format!("the socket {} is not absolute", socket.display())))?;
    DirBuilder::new().recursive(true).mode(0o700).create(dir).at(|| format!("cannot make {}", dir.display()))?;
    let meta = fs::metadata(dir).at(|| format!("cannot look at {}", dir.display()))?;
    let own = meta.uid() == 0 || meta.uid() == nix::unistd::geteuid().as_raw();
    if own && meta.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "others may write to {}; put the browse socket into a directory of mode 0700",
        dir.display()
    )))
}

/// Listens at `path`, replacing what an earlier process left there. The caller holds the lock
/// that makes it the only one.
pub fn listen(path: &Path) -> Result<UnixListener> {
    let (path, _dir) = short(path)?;
    match fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io(format!("cannot remove {}", path.display()), &e));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&path).at(|| format!("cannot listen at {}", path.display()))?;
    // Peers are checked anyway; this keeps others from even trying.
    fs::set_permissions(&path, Permissions::from_mode(0o600)).at(|| format!("cannot protect {}", path.display()))?;
    Ok(listener)
}
