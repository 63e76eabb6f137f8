//! Thin volumes of LVM: a snapshot is a volume that shares its blocks with the one that it is of.
//!
//! All of a volume is in it at once, with every file's inode number and times, since the kernel
//! holds the file system still for that moment. What a snapshot is of stands in tags of its volume,
//! so that nothing else is needed to find it again: a snapshot is there when the tags of its marker
//! are. Volumes without our tags, or with them under a name that is not ours, are nobody's business here.
//!
//! | file | what it holds |
//! |---|---|
//! | `lvm` | what the tools are told, and what they answer |
//! | `read` | a snapshot to be read from, without a mount point |
//! | `switch` | a volume exchanged for another |

pub mod lvm;
mod read;
pub mod switch;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use uuid::Uuid;

use super::crew::Tally;
use super::engine::{Engine, Fixed, Spot, Taken};
use super::{Marker, Place};
use crate::model::id::{hex, unhex};
use crate::model::{Error, IoContext, Progress, Result};
use lvm::Volume;

pub use read::Reading;

/// File systems that are held still while a snapshot is taken, and that can be read from it.
pub const FILE_SYSTEMS: &[&str] = &["ext3", "ext4", "xfs"];
/// How the names of our volumes begin.
const NAME: &str = "strongroom-";
/// Says that a volume is ours.
const OURS: &str = "strongroom";
const SNAPSHOT: &str = "strongroom.snapshot";
const STORE: &str = "strongroom.store";
const MARKER: &str = "strongroom.marker";
/// A tag has at most 1024 characters.
const PIECE: usize = 960;
/// A pool that is filled so far, in percent, would be full before anybody could do anything about
/// it; and a full pool fails the writes of all of its volumes.
const FULL: f64 = 95.0;
/// Whoever looks at new devices may have one open for a moment.
const TRIES: u32 = 40;
const PAUSE: Duration = Duration::from_millis(250);

/// The thin volume under a path.
#[derive(Debug, Clone, PartialEq)]
pub struct Origin {
    /// Its own id, without dashes.
    uuid: String,
    /// Its device.
    pub device: (u32, u32),
    /// What LVM says of it, once it was asked.
    volume: Option<Volume>,
}

fn sys(device: (u32, u32)) -> std::path::PathBuf {
    format!("/sys/dev/block/{}:{}", device.0, device.1).into()
}

fn dm_uuid(of: &Path) -> Option<String> {
    let uuid = fs::read_to_string(of.join("dm/uuid")).ok()?;
    uuid.trim().strip_prefix("LVM-").map(str::to_owned)
}

/// Whether a device is a volume of LVM, of whatever kind.
pub fn is_volume(device: (u32, u32)) -> bool {
    dm_uuid(&sys(device)).is_some()
}

impl Origin {
    /// The thin volume that a device is; `None` where it is none.
    pub fn of(device: (u32, u32)) -> Option<Self> {
        let dir = sys(device);
        // The group's id, and then the volume's own.
        let uuid = dm_uuid(&dir)?.get(32..64)?.to_owned();
        let mut below = fs::read_dir(dir.join("slaves")).ok()?.flatten();
        let is_thin = below.any(|entry| dm_uuid(&entry.path()).is_some_and(|uuid| uuid.ends_with("-tpool")));
        is_thin.then_some(Self { uuid, device, volume: None })
    }

    /// Asks LVM about it, and refuses where no snapshot should be taken.
    pub fn ready(&mut self, shown: &Path) -> Result<&Volume> {
        let all = lvm::volumes()?;
        let volume = all.iter().find(|v| v.uuid == self.uuid && v.kind == "thin");
        let volume = volume.ok_or_else(|| {
            Error::failed(format!("lvs does not tell of the volume under {}, which the kernel has", shown.display()))
        })?;
        let pool = all.iter().find(|v| v.group == volume.group && v.name == volume.pool);
        if let Some(pool) = pool {
            refuse_full(pool, shown)?;
        }
        Ok(self.volume.insert(volume.clone()))
    }
}

/// A snapshot needs room in the pool for all that is written later.
fn refuse_full(pool: &Volume, shown: &Path) -> Result<()> {
    let (data, metadata) = pool.full;
    for (what, full, help) in [
        ("", data, format!("lvextend --size +SIZE {}", pool.spec())),
        ("metadata of the ", metadata, format!("lvextend --poolmetadatasize +SIZE {}", pool.spec())),
    ] {
        if full >= FULL {
            return Err(Error::new(
                crate::model::ErrorKind::NoSpace,
                format!(
                    "{} allows no snapshots now: the {what}thin pool {} is {full:.0} % full, and a full pool fails every \
                     write to its volumes; make it larger ({help}), or delete snapshots",
                    shown.display(),
                    pool.spec()
                ),
            ));
        }
    }
    Ok(())
}

/// Whether there can be any snapshots of ours: without a volume of LVM in use there are none.
fn possible() -> bool {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let mut devices = devices.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"dm-"));
    devices.any(|entry| dm_uuid(&entry.path()).is_some()) && lvm::is_installed()
}

fn name(store: Uuid) -> String {
    format!("{NAME}{}", store.simple())
}

/// A volume that is a part of a snapshot.
#[derive(Debug)]
struct Ours {
    volume: Volume,
    snapshot: Uuid,
    store: Uuid,
}

impl Ours {
    /// What a volume is, if it is one of ours: by its tags and by its name.
    fn of(volume: Volume) -> Option<Self> {
        let id = |tag: &str| Uuid::parse_str(volume.tag(tag)?).ok();
        let (snapshot, store) = (id(SNAPSHOT)?, id(STORE)?);
        let ours = volume.kind == "thin" && volume.name == name(store) && volume.tags.iter().any(|tag| tag == OURS);
        ours.then_some(Self { volume, snapshot, store })
    }

    fn all() -> Result<Vec<Self>> {
        if !possible() {
            return Ok(Vec::new());
        }
        Ok(lvm::volumes()?.into_iter().filter_map(Self::of).collect())
    }

    /// What it says of itself; `None` where it is not published.
    fn marker(&self) -> Result<Option<Marker>> {
        let Some(text) = joined(&self.volume.tags) else { return Ok(None) };
        let marker: Marker = unhex(&text)
            .and_then(|text| serde_json::from_slice(&text).ok())
            .ok_or_else(|| Error::damaged(format!("the tags of {} cannot be understood", self.volume.spec())))?;
        Ok((marker.uuid == self.snapshot).then_some(marker))
    }
}

/// The tags that say what a snapshot is.
fn split(marker: &Marker) -> Result<Vec<String>> {
    let text =
        serde_json::to_vec(marker).map_err(|e| Error::failed(format!("cannot encode what a snapshot is: {e}")))?;
    let text = hex(&text);
    let count = text.len().div_ceil(PIECE);
    let pieces = text.as_bytes().chunks(PIECE).enumerate();
    Ok(pieces.map(|(n, piece)| format!("{MARKER}.{n}.{count}={}", String::from_utf8_lossy(piece))).collect())
}

/// What they say, if all of them are there.
fn joined(tags: &[String]) -> Option<String> {
    let mut pieces = BTreeMap::new();
    let mut wanted = 0;
    for tag in tags {
        let Some((place, piece)) = tag.strip_prefix(MARKER).and_then(|rest| rest.strip_prefix('.')?.split_once('='))
        else {
            continue;
        };
        let (number, count) = place.split_once('.')?;
        wanted = count.parse::<usize>().ok()?;
        pieces.insert(number.parse::<usize>().ok()?, piece);
    }
    (wanted > 0 && pieces.len() == wanted && pieces.keys().copied().eq(0..wanted))
        .then(|| pieces.into_values().collect())
}

/// The markers of all snapshots on thin volumes, with their stores.
pub fn markers() -> Result<Vec<(Uuid, Marker)>> {
    let mut found = Vec::new();
    for ours in Ours::all()? {
        match ours.marker() {
            Ok(marker) => found.extend(marker.map(|marker| (ours.store, marker))),
            Err(e) => tracing::warn!("the snapshot {} is left alone: {e}", ours.volume.spec()),
        }
    }
    Ok(found)
}

/// The volume that holds one part of a snapshot.
fn find(snapshot: Uuid, store: Uuid) -> Result<Option<Volume>> {
    let all = Ours::all()?;
    Ok(all.into_iter().find(|ours| ours.snapshot == snapshot && ours.store == store).map(|ours| ours.volume))
}

/// Publishes one part of a snapshot.
pub fn publish(snapshot: Uuid, store: Uuid, marker: &Marker) -> Result<()> {
    let volume = find(snapshot, store)?.ok_or_else(|| Error::failed("the snapshot is gone before it was published"))?;
    lvm::run(&lvm::tag(&volume, &split(marker)?, &[])).map(drop)
}

/// Removes all that is there of a snapshot, whole or not.
pub fn remove(snapshot: Uuid) -> Result<()> {
    Ours::all()?.into_iter().filter(|ours| ours.snapshot == snapshot).try_for_each(|ours| remove_volume(&ours.volume))
}

/// Removes a volume; one that somebody looks at just now a little later.
fn remove_volume(volume: &Volume) -> Result<()> {
    let mut tried = 1;
    loop {
        match lvm::run(&lvm::remove(volume)) {
            Err(_) if tried < TRIES => std::thread::sleep(PAUSE),
            removed => return removed.map(drop),
        }
        tried += 1;
    }
}

/// Snapshots by LVM, on thin volumes.
pub struct Thin;

impl Engine for Thin {
    fn fix(&self, place: &Place, spot: &Spot<'_>, _progress: &Progress) -> Result<Fixed> {
        let shown = place.path.display();
        let volume = place.thin.as_ref().and_then(|origin| origin.volume.as_ref());
        let volume = volume.ok_or_else(|| Error::failed(format!("{shown} lies on no thin volume any more")))?;
        let tags = [OURS.to_owned(), format!("{SNAPSHOT}={}", spot.snapshot), format!("{STORE}={}", spot.store)];
        let made = lvm::run(&lvm::snapshot(volume, &name(spot.store), &tags, false));
        made.map_err(|e| e.context(format!("cannot take a snapshot of {shown}")))?;
        Ok(Fixed::atomic(tally(place, volume)?))
    }

    fn finish(&self, _: &Place, _: &Spot<'_>, _: &mut Fixed, _: &Progress) -> Result<()> {
        Ok(())
    }

    fn copy(&self, from: &Taken<'_>, _: &std::os::fd::OwnedFd, _: &[u8], _: &Progress) -> Result<()> {
        Err(Error::failed(format!("{} is a volume, which is not copied as files are", from.path.display())))
    }
}

/// What is in a volume: all of it, or what its file system has in use.
fn tally(place: &Place, volume: &Volume) -> Result<Tally> {
    if !place.is_mount() {
        return Ok(Tally { entries: 1, bytes: volume.bytes });
    }
    let vfs = rustix::fs::fstatvfs(&place.parent).at(|| format!("cannot look at {}", place.path.display()))?;
    Ok(Tally {
        entries: vfs.f_files.saturating_sub(vfs.f_ffree),
        bytes: vfs.f_blocks.saturating_sub(vfs.f_bfree).saturating_mul(vfs.f_frsize),
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Kind, Part, Whose};
    use super::*;

    fn marker(description: &str) -> Marker {
        Marker {
            format: super::super::FORMAT,
            uuid: Uuid::from_u128(7),
            id: 3,
            machine: Uuid::from_u128(8),
            resource: Whose { id: 1, name: "web".into(), project: "default".into() },
            name: "before".into(),
            description: description.into(),
            automatic: false,
            schedule: None,
            created_at: jiff::Timestamp::UNIX_EPOCH,
            parts: vec![Part {
                path: "/srv/données".into(),
                engine: Kind::Thin,
                atomic: true,
                mount: "/srv/données".into(),
                store: Uuid::from_u128(9),
            }],
        }
    }

    fn volume(name: &str, tags: Vec<String>) -> Volume {
        Volume { name: name.into(), group: "vg".into(), kind: "thin".into(), tags, ..Volume::default() }
    }

    #[test]
    fn a_snapshot_says_in_tags_what_it_is() {
        let store = Uuid::from_u128(9);
        let whose =
            [OURS.into(), format!("{SNAPSHOT}={}", Uuid::from_u128(7)), format!("{STORE}={store}"), "theirs".into()];
        for words in ["", "x", &"ö: \"quoted\", and long ".repeat(100)] {
            let mut tags = whose.to_vec();
            let pieces = split(&marker(words)).unwrap();
            let fits = |c: char| c.is_ascii_alphanumeric() || "_+.-/=!:#&".contains(c);
            assert!(pieces.iter().all(|tag| tag.len() <= 1024 && tag.chars().all(fits)));
            // In whatever order LVM tells them.
            tags.extend(pieces.iter().rev().cloned());
            let ours = Ours::of(volume(&name(store), tags.clone())).unwrap();
            assert_eq!((ours.snapshot, ours.store), (Uuid::from_u128(7), store));
            assert_eq!(ours.marker().unwrap(), Some(marker(words)));
            // One that misses a piece is none.
            tags.pop();
            assert_eq!(Ours::of(volume(&name(store), tags)).unwrap().marker().unwrap(), None);
        }
        assert!(Ours::of(volume("data", whose.to_vec())).is_none(), "another name is not ours");
        assert!(Ours::of(volume(&name(store), whose[1..].to_vec())).is_none());
        let mut damaged = whose.to_vec();
        damaged.push(format!("{MARKER}.0.1=00ff"));
        assert!(Ours::of(volume(&name(store), damaged)).unwrap().marker().is_err());
    }

    #[test]
    fn a_full_pool_is_refused_and_what_helps_is_said() {
        let pool = |data, metadata| Volume { full: (data, metadata), ..volume("pool", Vec::new()) };
        refuse_full(&pool(94.9, 3.0), Path::new("/srv")).unwrap();
        let refused = refuse_full(&pool(95.0, 3.0), Path::new("/srv")).unwrap_err().message;
        assert!(refused.contains("/srv") && refused.contains("lvextend --size +SIZE vg/pool"), "{refused}");
        let refused = refuse_full(&pool(5.0, 99.9), Path::new("/srv")).unwrap_err().message;
        assert!(refused.contains("--poolmetadatasize"), "{refused}");
    }

    #[test]
    fn nothing_is_a_volume_where_the_kernel_says_so() {
        assert_eq!(Origin::of((7, 4_000_000)), None);
        assert!(!is_volume((7, 4_000_000)));
    }
}
