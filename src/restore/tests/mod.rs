//! Backups of real trees, restored for real. Root is needed, as for the product.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod export;
mod hidden;
mod hostile;
mod images;
mod inplace;
mod metadata;
mod salvage;
mod trouble;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use jiff::Timestamp;
use tempfile::TempDir;
use uuid::Uuid;

use super::{Conflict, OnError, RestoreOutcome, RestoreRequest};
use crate::archive::{self, BackupRequest};
use crate::model::{Id, Progress, Result};
use crate::store::{LocalStore, ObjectStore};
use crate::vault::seal::Class;
use crate::vault::tree::node::{encode_leaf, encode_root};
use crate::vault::tree::{Entry, Kind, Link, Metadata};
use crate::vault::{Compression, Machine, Manifest, NewVault, Source, Vault, VaultWriter};

/// A vault, a source tree and room for restores, all in one temporary directory.
pub struct World {
    /// The temporary directory: vault, source and restores are side by side in it.
    pub dir: TempDir,
    /// The vault.
    pub vault: Arc<Vault>,
}

impl World {
    /// An empty vault and an empty source.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("restore").tempdir_in("/var/tmp").unwrap();
        let store = dir.path().join("store");
        LocalStore::create_dir(&store).unwrap();
        let store: Arc<dyn ObjectStore> = Arc::new(LocalStore::open(&store).unwrap());
        Vault::create(&*store, &NewVault { uuid: Uuid::new_v4(), master: None, key_file: None }).unwrap();
        let vault = Vault::open(store, None, &dir.path().join("cache"), 32 << 20).unwrap();
        std::fs::create_dir(dir.path().join("source")).unwrap();
        Self { dir, vault }
    }

    /// The source tree.
    pub fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    /// A path in it.
    pub fn at(&self, path: &str) -> PathBuf {
        self.source().join(path)
    }

    /// Where the source stands beneath a target.
    pub fn beneath(&self, target: &Path) -> PathBuf {
        target.join(self.source().strip_prefix("/").unwrap())
    }

    /// Backs the source up, leaving out what the patterns say.
    pub fn backup_without(&self, exclude: &[&str]) -> Manifest {
        self.backup_of(vec![self.source()], exclude)
    }

    /// Backs the source up.
    pub fn backup(&self) -> Manifest {
        self.backup_without(&[])
    }

    /// Backs paths up.
    pub fn backup_of(&self, paths: Vec<PathBuf>, exclude: &[&str]) -> Manifest {
        let exclude: Vec<String> = exclude.iter().map(|e| (*e).to_string()).collect();
        let request = BackupRequest {
            paths: paths.clone(),
            exclude: exclude.clone(),
            change_cache: self.dir.path().join("changes"),
            ..BackupRequest::default()
        };
        let outcome = archive::backup(&self.vault, &request, &Progress::default()).unwrap();
        let now = Timestamp::now();
        Manifest {
            format: 1,
            uuid: Uuid::new_v4(),
            machine: Machine { id: Uuid::new_v4(), name: "here".into() },
            backup: 1,
            high_water: 1,
            previous: None,
            parent: None,
            resource: Source { paths, exclude, ..Source::default() },
            r#type: "full".into(),
            backup_type: "manual".into(),
            description: String::new(),
            created_at: now,
            completed_at: now,
            incremental: false,
            partial: false,
            root: outcome.root,
            totals: outcome.totals,
            errors: outcome.errors,
            error_list: outcome.error_list,
            stored: outcome.stored,
            schedule: None,
            since_full: 0,
            checkpoint: None,
        }
    }

    /// The same backup with another entry in the source.
    pub fn with_entry(&self, root: &Id, name: &[u8], kind: Kind) -> Id {
        let writer = VaultWriter::start(&self.vault, Compression::default()).unwrap();
        let mut lane = writer.lane(Class::TreePack).unwrap();
        let mut chain = vec![self.vault.root_entry(root).unwrap()];
        for name in self.source().components().skip(1) {
            let Kind::Directory { node, .. } = chain.last().unwrap().kind else { panic!() };
            chain.push(self.vault.entry(&node, name.as_os_str().as_encoded_bytes()).unwrap().unwrap());
        }
        let meta = Metadata { mode: if kind == Kind::Unread { 0 } else { 0o755 }, ..Metadata::default() };
        let mut changed = Entry { name: name.to_vec(), meta, link: Link::None, kind };
        for mut dir in chain.into_iter().rev() {
            let Kind::Directory { node, .. } = &mut dir.kind else { panic!() };
            let mut entries = self.vault.entries(node).unwrap();
            entries.retain(|entry| entry.name != changed.name);
            entries.push(changed);
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            *node = lane.put(&encode_leaf(entries.iter())).unwrap();
            changed = dir;
        }
        let root = lane.put(&encode_root(&changed)).unwrap();
        lane.flush().unwrap();
        drop(lane);
        writer.finish().unwrap();
        root
    }

    /// Restores with a journal.
    pub fn restore(&self, manifest: &Manifest, request: RestoreRequest) -> Result<RestoreOutcome> {
        let journal = self.dir.path().join("journal");
        let request = RestoreRequest { journal: Some(journal.clone()), ..request };
        let outcome = super::run(&self.vault, manifest, &request, &Progress::default());
        assert!(!journal.exists(), "the journal was left behind");
        outcome
    }

    /// Restores everything to a new target and answers where the source now is.
    pub fn restore_to(&self, manifest: &Manifest, target: &str) -> (PathBuf, RestoreOutcome) {
        let target = self.dir.path().join(target);
        let outcome = self.restore(manifest, to(&target)).unwrap();
        (self.beneath(&target), outcome)
    }
}

/// A request for a target.
pub fn to(target: &Path) -> RestoreRequest {
    RestoreRequest {
        target: Some(target.to_path_buf()),
        on_error: OnError::Continue,
        journal: Some(target.with_extension("journal")),
        ..RestoreRequest::default()
    }
}

/// A request for a whole restore in place.
pub fn in_place() -> RestoreRequest {
    RestoreRequest { delete: true, conflict: Conflict::Overwrite, ..RestoreRequest::default() }
}

/// Runs a shell script in a directory.
pub fn sh(dir: &Path, script: &str) -> String {
    let output = Command::new("bash").args(["-euc", script]).current_dir(dir).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{script}\n{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// What rsync would change to make `b` equal to `a`, metadata and all.
pub fn differences(a: &Path, b: &Path) -> String {
    let (a, b) = (format!("{}/", a.display()), format!("{}/", b.display()));
    let mut rsync = Command::new("rsync");
    rsync.args(["-nacHAX", "--delete", "--itemize-changes", "--specials", "--devices", &a, &b]);
    let output = rsync.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Everything that getfattr, getfacl, lsattr and stat show of a tree, as one text.
pub fn portrait(dir: &Path) -> String {
    sh(
        dir,
        "getfattr -Rhd -m - -e hex . 2>/dev/null; getfacl -Rpn . 2>/dev/null; lsattr -Ra . 2>/dev/null | sort; \
         find . -printf '%p %y %m %U %G %n %s %T@ %l\\n' | sort",
    )
}
