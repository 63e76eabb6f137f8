//! Which directories lead to what is backed up, and what of that is read elsewhere.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::BackupRequest;
use crate::source::Stat;
use crate::source::stat::Type;

/// The directories that lead to the resource's paths.
#[derive(Debug, Default)]
pub struct Plan {
    /// Whether this one is among the paths.
    pub wanted: bool,
    /// What lies beneath, by name.
    pub below: BTreeMap<Vec<u8>, Plan>,
}

impl Plan {
    /// The plan for these absolute paths.
    pub fn new(paths: &[PathBuf]) -> Self {
        let mut plan = Self::default();
        for path in paths {
            let mut at = &mut plan;
            for part in path.as_os_str().as_bytes().split(|b| *b == b'/').filter(|p| !p.is_empty()) {
                at = at.below.entry(part.to_vec()).or_default();
            }
            at.wanted = true;
        }
        plan
    }
}

/// A path that is read elsewhere: as a snapshot holds it, with the inode numbers and times of the
/// original.
#[derive(Debug, Clone)]
pub struct View {
    /// The path, under which all of it is recorded.
    pub path: PathBuf,
    /// In its place: the directory, or the one that holds the file of its name.
    pub handle: Arc<OwnedFd>,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// The device of the original.
    pub device: (u32, u32),
    /// What the original was like, where this has other inode numbers and times.
    pub original: Option<Stat>,
}

impl BackupRequest {
    /// Where the path `name` in `above` is read instead.
    pub(super) fn view(&self, above: &[u8], name: &[u8]) -> Option<&View> {
        self.views.iter().find(|view| {
            let path = view.path.as_os_str().as_bytes();
            let rest = path.strip_prefix(above.strip_suffix(b"/").unwrap_or(above));
            rest.and_then(|rest| rest.strip_prefix(b"/")) == Some(name)
        })
    }

    /// Whether an entry is a path that is stored as one file whatever it is. Links are followed where
    /// the system itself makes them.
    pub(super) fn is_volume(&self, path: impl Fn() -> Vec<u8>, kind: Type) -> bool {
        if !self.volumes {
            return false;
        }
        let path = path();
        let fits = match kind {
            Type::File | Type::BlockDevice => true,
            Type::Symlink => path.starts_with(b"/dev/"),
            _ => false,
        };
        fits && self.paths.iter().any(|p| p.as_os_str().as_bytes() == path)
    }
}

/// Where a way from the directory `from` leads: [`relative`] undone. `None` if that is above `/`.
pub(super) fn absolute(from: &[u8], up: u32, way: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = from.split(|b| *b == b'/').filter(|p| !p.is_empty()).collect();
    let kept = parts.len().checked_sub(usize::try_from(up).ok()?)?;
    parts.truncate(kept);
    parts.extend(way.split(|b| *b == b'/').filter(|p| !p.is_empty()));
    Some(parts.iter().flat_map(|part| [b"/", *part].concat()).collect())
}

/// The way from the directory `from` to `to`, both absolute.
pub(super) fn relative(from: &[u8], to: &[u8]) -> (u32, Vec<u8>) {
    let parts = |path: &[u8]| -> Vec<Vec<u8>> {
        path.split(|b| *b == b'/').filter(|p| !p.is_empty()).map(<[u8]>::to_vec).collect()
    };
    let (from, to) = (parts(from), parts(to));
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    (u32::try_from(from.len() - common).unwrap_or(u32::MAX), to[common..].join(&b'/'))
}
