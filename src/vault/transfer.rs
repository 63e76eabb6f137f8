//! Copying a backup from one vault into another: every blob that the other does not hold, in the
//! order in which they lie, so that each segment is decoded once.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use super::compress::Compression;
use super::handle::Vault;
use super::manifest::Manifest;
use super::mark::{Complete, Marks};
use super::seal::Class;
use super::writer::{VaultWriter, lock, stands_alone};
use crate::model::{Error, Id, Progress, Result};

/// So many blobs are taken on at once by one thread.
const BATCH: usize = 256;

/// Stores in `to` everything that the backup of `manifest` refers to in `from`; answers the stored
/// bytes. A manifest there may refer to all of it then.
pub fn transfer(
    from: &Vault,
    to: &Arc<Vault>,
    manifest: &Manifest,
    compression: Compression,
    progress: &Progress,
) -> Result<u64> {
    from.check_identity()?;
    let mut marks = Marks::new(from);
    let mut complete = Complete::default();
    marks.tree(from, &manifest.root, &mut complete, &Progress::default())?;
    progress.check()?;
    if let Some(list) = &manifest.error_list {
        marks.mark(list);
    }
    if let Some(e) = complete.0 {
        return Err(e);
    }
    let writer = VaultWriter::start(to, compression)?;
    for class in [Class::DataPack, Class::TreePack] {
        let blobs = blobs(&marks, class);
        if class == Class::DataPack {
            progress.expect(manifest.totals.files, blobs.iter().map(|(.., len)| u64::from(*len)).sum());
        }
        store(from, &writer, class, &blobs, progress)?;
    }
    writer.finish()
}

/// The marked blobs of a class, by where they lie.
fn blobs(marks: &Marks, class: Class) -> Vec<(Id, u32, bool)> {
    let mut found = Vec::new();
    for (number, run) in marks.index().runs().iter().enumerate() {
        let mut places = Vec::new();
        for i in (0..run.blob_count()).filter(|i| marks.is_marked(number, *i)) {
            let blob = run.blob(i);
            let Some(segment) = run.segment(blob.segment) else { continue };
            if run.pack(segment.pack).is_some_and(|pack| pack.class == class) {
                let alone = stands_alone(segment.plain_len, blob.len);
                places.push((blob.segment, blob.offset, blob.id, blob.len, alone));
            }
        }
        places.sort_unstable();
        found.extend(places.into_iter().map(|(_, _, id, len, alone)| (id, len, alone)));
    }
    found
}

fn store(
    from: &Vault,
    writer: &VaultWriter,
    class: Class,
    blobs: &[(Id, u32, bool)],
    progress: &Progress,
) -> Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(8);
    let next = AtomicUsize::new(0);
    let error = Mutex::new(None::<Error>);
    let work = || -> Result<()> {
        let mut lane = writer.lane(class)?;
        while let Some(batch) = blobs.chunks(BATCH).nth(next.fetch_add(1, Relaxed)) {
            for (id, len, alone) in batch {
                progress.check()?;
                if lock(&error).is_some() {
                    return Ok(());
                }
                if !writer.contains(id) {
                    lane.put_hashed(*id, &from.read_blob(id)?, *alone)?;
                }
                progress.add(0, u64::from(*len));
            }
        }
        lane.flush()
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.min(blobs.len().div_ceil(BATCH)) {
            scope.spawn(|| {
                if let Err(e) = work() {
                    lock(&error).get_or_insert(e);
                }
            });
        }
    });
    error.into_inner().unwrap_or_default().map_or(Ok(()), Err)
}
