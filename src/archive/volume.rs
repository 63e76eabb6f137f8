//! Volumes: block devices and disk images, each stored as one file.
//!
//! They are cut at fixed places, since nothing in them ever moves: what is written in a block
//! costs that block and no other. What is zero is left out as a hole.

use std::sync::Arc;

use super::reader::{FileItem, LargeEnd, LargeFile, Trouble, Worker, cut_short, key_of, limit, metadata};
use super::tree::lock;
use crate::model::Result;
use crate::source::stat::Type;
use crate::source::{Stat, volume};
use crate::vault::tree::Metadata;

/// It is cut at multiples of this. Smaller costs more to keep track of, larger more to store for
/// every change.
const BLOCK: u64 = 256 << 10;
const BLOCK_MAX: u64 = 4 << 20;
/// More blocks than this are too many to keep in memory: they are larger then.
const BLOCKS: u64 = 1 << 18;

fn block_size(size: u64) -> u64 {
    size.div_ceil(BLOCKS).next_power_of_two().clamp(BLOCK, BLOCK_MAX)
}

impl Worker<'_> {
    /// Reads a volume; its blocks are stored by whoever is free.
    pub(super) fn volume(&mut self, item: FileItem, link: bool, original: Option<Stat>) -> Result<()> {
        self.context.progress.set_current(&String::from_utf8_lossy(&item.directory.child_path(&item.name)));
        let (file, stat, size) = match volume::open(&item.dir, &item.name, link) {
            Ok(opened) => opened,
            Err(e) => return self.trouble(item, e.into()),
        };
        let before = key_of(&original.unwrap_or(stat)).filter(|_| stat.kind == Type::File);
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        let large = Arc::new(LargeFile::new(item, true));
        let length = block_size(size);
        let mut block: Vec<u8> = Vec::new();
        let (mut number, mut index, mut total, mut seen) = (0, 0, 0_u64, 0_u64);
        let read = volume::read(&file, size, |at, bytes| {
            if at / length != number && !block.is_empty() {
                self.offer(&large, index, &block)?;
                index += 1;
                block.clear();
            }
            number = at / length;
            block.extend_from_slice(bytes);
            total += bytes.len() as u64;
            // Holes count as read, as they are part of what is restored.
            self.context.progress.add(0, (at + bytes.len() as u64).saturating_sub(seen));
            seen = at + bytes.len() as u64;
            Ok(())
        })?;
        if !block.is_empty() {
            self.offer(&large, index, &block)?;
        }
        let item = &large.item;
        let path = || item.directory.child_path(&item.name);
        match read {
            Ok((holes, end)) => {
                self.context.progress.add(1, end.saturating_sub(seen));
                let changed = stat.kind == Type::File && Stat::of(&file).map_or(true, |now| now.changed_since(&stat));
                if changed || end < size {
                    let why = if changed { "it changed while it was read" } else { "it ended early" };
                    self.context.errors.add(path(), "changed", why);
                }
                let meta = match stat.kind {
                    Type::File => metadata(&file, &stat, &item.owner),
                    // A device has no attributes of its own that a file could have.
                    _ => Ok(Metadata {
                        mode: stat.mode & 0o666,
                        owner: item.owner.clone(),
                        mtime: stat.mtime,
                        ..Metadata::default()
                    }),
                };
                match meta {
                    Ok(meta) => {
                        let (size, holes) = cut_short(end, holes, total);
                        let key = before.filter(|_| !changed);
                        let end: LargeEnd = (meta, size, holes, key, changed);
                        *lock(&large.end) = Some(end);
                    }
                    Err(Trouble::Vanished) => {}
                    Err(Trouble::Unreadable(why)) => self.context.errors.add(path(), "unreadable", why),
                    Err(Trouble::Limit(e)) => limit(&path(), e)?,
                }
            }
            Err(e) => self.context.errors.add(path(), "unreadable", e),
        }
        self.part_done(&large)
    }
}
