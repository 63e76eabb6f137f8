//! Dumps of databases: streamed into the vault, and hung in the backup's root as `databases`.
//!
//! They are nobody's but root's: directories 0700, files 0600.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Arc, Mutex};

use crossbeam_channel::bounded;

use super::cut::{COMMON, Cutter, buffer};
use super::tree::lock;
use crate::model::{Error, Id, Progress, Result};
use crate::source::database::{DIRECTORY, Dump};
use crate::vault::VaultWriter;
use crate::vault::directory::{put_content, put_directory};
use crate::vault::seal::Class;
use crate::vault::tree::{Content, Entry, Kind, Link, Metadata, Origin, Owner, Part, Time};
use crate::vault::writer::Lane;

/// Makes all dumps, one after another, and gives the directory of them. The first that fails fails
/// all.
pub fn store(writer: &VaultWriter, dumps: &[Dump], now: Time, progress: &Arc<Progress>) -> Result<Entry> {
    let mut tree = writer.lane(Class::TreePack)?;
    let mut top = Level::default();
    for dump in dumps {
        let path = dump.place.path();
        progress.set_current(&path.to_string_lossy());
        let at = |e: Error| e.context(format!("{} could not be dumped", path.display()));
        let mut reading = dump.open(progress).map_err(at)?;
        let parts = stream(writer, &mut reading, progress).map_err(at)?;
        // Its output ended; whether that is all of it, its end says.
        reading.finish().map_err(at)?;
        let size = parts.iter().map(|part| part.len).sum();
        let content = put_content(&mut tree, parts)?;
        progress.add(1, 0);
        top.add(&dump.place.names(), size, content)?;
    }
    let entry = top.put(DIRECTORY.as_bytes(), now, &mut tree)?;
    tree.flush()?;
    Ok(entry)
}

/// Hangs the directory of dumps among the entries of the root.
pub fn hang(entries: &mut Vec<Entry>, dumps: &Entry) -> Result<()> {
    match entries.binary_search_by(|entry| entry.name.cmp(&dumps.name)) {
        Err(at) => {
            entries.insert(at, dumps.clone());
            Ok(())
        }
        Ok(_) => Err(Error::invalid_state(format!(
            "there is a /{DIRECTORY} among the resource's files, where a backup has the dumps of its databases; exclude \
             or move it"
        ))),
    }
}

/// A directory of dumps in the making.
#[derive(Default)]
struct Level {
    files: BTreeMap<String, (u64, Content)>,
    below: BTreeMap<String, Level>,
}

impl Level {
    fn add(&mut self, names: &[&str], size: u64, content: Content) -> Result<()> {
        match names {
            [] => Err(Error::failed("a dump has no place")),
            [file] => {
                self.files.insert((*file).to_owned(), (size, content));
                Ok(())
            }
            [directory, rest @ ..] => self.below.entry((*directory).to_owned()).or_default().add(rest, size, content),
        }
    }

    fn put(self, name: &[u8], now: Time, tree: &mut Lane) -> Result<Entry> {
        let owner = Arc::new(Owner { uid: 0, gid: 0, user: "root".into(), group: "root".into() });
        let meta = |mode| Metadata { mode, owner: Arc::clone(&owner), mtime: now, ..Metadata::default() };
        let mut entries = Vec::new();
        for (file, (size, content)) in self.files {
            let kind = Kind::File { size, holes: Vec::new(), content };
            entries.push(Entry { name: file.into_bytes(), meta: meta(0o600), link: Link::None, kind });
        }
        for (directory, level) in self.below {
            entries.push(level.put(directory.as_bytes(), now, tree)?);
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        if entries.windows(2).any(|pair| pair[0].name == pair[1].name) {
            return Err(Error::invalid_state("a dump and a server's directory have one name; rename the server"));
        }
        let (node, totals) = put_directory(tree, &entries)?;
        let kind = Kind::Directory { node, totals, origin: Origin::Dumps };
        Ok(Entry { name: name.to_vec(), meta: meta(0o700), link: Link::None, kind })
    }
}

/// Cuts a stream of unknown length, and stores the chunks with all cores.
fn stream(writer: &VaultWriter, reader: &mut impl Read, progress: &Progress) -> Result<Vec<Part>> {
    let workers = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let stored: Mutex<BTreeMap<usize, Part>> = Mutex::default();
    let failure: Mutex<Option<Error>> = Mutex::default();
    std::thread::scope(|scope| {
        let (sender, receiver) = bounded::<(usize, Vec<u8>)>(workers);
        for _ in 0..workers {
            let (receiver, stored, failure) = (receiver.clone(), &stored, &failure);
            scope.spawn(move || {
                let work = || {
                    let mut lane = writer.lane(Class::DataPack)?;
                    for (index, bytes) in &receiver {
                        let id = Id::of(&bytes);
                        lane.put_hashed(id, &bytes, false)?;
                        lock(stored).insert(index, Part { id, len: bytes.len() as u64 });
                    }
                    lane.flush()
                };
                if let Err(e) = work() {
                    lock(failure).get_or_insert(e);
                }
            });
        }
        drop(receiver);
        let mut cutter = Cutter::new(reader, COMMON, buffer());
        let mut cut = || -> Result<()> {
            for index in 0.. {
                progress.check()?;
                if let Some(e) = lock(&failure).clone() {
                    return Err(e);
                }
                let Some((chunk, read)) = cutter.next().map_err(|e| Error::io("its dump cannot be read", &e))? else {
                    break;
                };
                progress.add(0, read);
                if sender.send((index, chunk.to_vec())).is_err() {
                    break;
                }
            }
            Ok(())
        };
        if let Err(e) = cut() {
            let e = if progress.is_cancelled() { Error::cancelled() } else { e };
            lock(&failure).get_or_insert(e);
        }
        drop(sender);
    });
    if let Some(e) = lock(&failure).take() {
        return Err(e);
    }
    Ok(std::mem::take(&mut *lock(&stored)).into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dumps_hang_where_their_name_belongs_and_never_over_another() {
        let entry = |name: &str| Entry {
            name: name.as_bytes().to_vec(),
            meta: Metadata::default(),
            link: Link::None,
            kind: Kind::Fifo,
        };
        let mut entries = vec![entry("bin"), entry("etc")];
        hang(&mut entries, &entry(DIRECTORY)).unwrap();
        let names: Vec<_> = entries.iter().map(|e| String::from_utf8_lossy(&e.name).into_owned()).collect();
        assert_eq!(names, ["bin", "databases", "etc"]);
        let error = hang(&mut entries, &entry(DIRECTORY)).unwrap_err();
        assert!(error.message.contains("/databases"), "{error}");
    }
}
