//! The file system's answers, in its own terms.
//!
//! All but [`View::read`], [`View::seek`], [`View::load`], [`View::past`] and [`View::listing`] answer from memory
//! or say what is missing; those five wait for the vault.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use nix::errno::Errno;
use nix::libc;
use uuid::Uuid;

use crate::model::{Error, Result};
use crate::vault::SegmentCache;
use crate::vault::tree::{Content, Entry, Kind, Link, Origin};

use super::ahead::{Ahead, Push, Small};
use super::attr::Attr;
use super::cache::Cache;
use super::fail::{Answer, Fail};
use super::file::{Data, FileMap};
use super::ino::Ino;
use super::listing::{Listing, Pasts};
use super::paths::{Paths, Way};
use super::sheet::Sheets;
use super::source::{TreeSource, VaultSource};
use super::tree::Dir;
use super::types::{BackupView, Policy, VaultAccess};
use super::versions::{self, Past};
use super::virtuals::Change;
use super::world::{Mounted, World};

/// Memory for what is kept of vaults, in bytes, unless it is said otherwise: the source of a kernel, 79,000 files,
/// is read no faster with more. The process itself, and what is being read, take about 25 MB besides.
pub const MEMORY: usize = 64 << 20;

/// A request asks for no more nodes than this one after another; a path that needs more is not
/// of this world.
const PATIENCE: usize = 100_000;

/// In every archived directory: a link to the versions of what is in it. It is never listed.
const LINK: &[u8] = b".versions";

/// Paths are not longer than this.
pub const PATH_MAX: usize = 4095;

/// One name in a listing.
pub struct Row<'a> {
    /// Where to go on after it.
    pub cookie: u64,
    /// The name.
    pub name: &'a [u8],
    /// What it names. For `.` and `..` only the number and the kind are right.
    pub attr: Attr,
    /// Whether the attributes are right; if not they must be asked for before they are used.
    pub sure: bool,
}

/// Everything that can be seen, and how to read it.
pub struct View {
    world: RwLock<World>,
    sources: Mutex<HashMap<Uuid, Arc<VaultSource>>>,
    /// Decoded segments of all vaults.
    segments: Arc<SegmentCache>,
    sheets: Arc<Sheets>,
    maps: Cache<Ino, Arc<FileMap>>,
    pasts: Pasts,
    paths: Arc<Paths>,
    ahead: Ahead,
}

impl View {
    /// A view of nothing, with `threads` workers that read ahead. Up to `memory` bytes of what was read are kept,
    /// of however many vaults.
    pub fn new(threads: usize, memory: usize) -> std::io::Result<Self> {
        let sixteenth = memory / 16;
        let paths = Arc::new(Paths::new(sixteenth));
        Ok(Self {
            world: RwLock::new(World::new(paths.clone())),
            sources: Mutex::default(),
            segments: Arc::new(SegmentCache::new(sixteenth * 6)),
            sheets: Arc::new(Sheets::new(sixteenth * 6)),
            maps: Cache::new(sixteenth),
            pasts: Pasts::new(sixteenth * 2),
            paths,
            ahead: Ahead::new(threads)?,
        })
    }

    fn world(&self) -> RwLockReadGuard<'_, World> {
        self.world.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which paths directories of versions stand for.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// The names of all resources among their versions: what to tell the kernel so that it forgets what nobody uses
    /// of them.
    pub fn tops(&self) -> Vec<Change> {
        self.world().tops()
    }

    fn mounted(&self, ino: Ino) -> Answer<Arc<Mounted>> {
        self.world().mounted(ino.slot()).cloned().ok_or(Fail::Errno(Errno::ESTALE))
    }

    /// What `name` in the directory `parent` is; `None` where there never will be such a name.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Answer<Option<Attr>> {
        if parent.is_virtual() {
            let world = self.world();
            let ino = world.virtuals().lookup(parent, name).ok_or(Errno::ENOENT)?;
            return virtual_attr(&world, ino).map(Some);
        }
        let mounted = self.mounted(parent)?;
        let dirs = mounted.tree.dirs(parent.number())?;
        let dir = dirs.last().copied().unwrap_or(mounted.tree.root());
        match mounted.tree.by_name(&dir, name)? {
            Some(spot) => entry_attr(&mounted, parent, &dirs, spot.number, spot.entry()?).map(Some),
            None if name == LINK => match parent.versions_link() {
                Some(link) => self.getattr(link).map(Some),
                None => Ok(None),
            },
            None => Ok(None),
        }
    }

    /// The attributes of an inode that is no directory of versions.
    pub fn getattr(&self, ino: Ino) -> Answer<Attr> {
        if let Some(dir) = ino.linked_from() {
            let mounted = self.mounted(dir)?;
            let link = Attr::symlink(ino, &self.way_to_versions(dir)?, mounted.created);
            return Ok(Attr { generation: mounted.renamed, ..link });
        }
        if ino.is_virtual() || ino.is_versions() || ino.number() == 0 {
            return virtual_attr(&self.world(), ino);
        }
        self.entry_in(ino, |mounted, dir, entry| Ok(entry_of(mounted, ino, dir, entry)))
    }

    /// Gives the archived entry of an inode to `look`.
    fn entry<T>(&self, ino: Ino, look: impl FnOnce(&Mounted, &Entry) -> Answer<T>) -> Answer<T> {
        self.entry_in(ino, |mounted, _, entry| look(mounted, entry))
    }

    /// The same with the directory that it is in.
    fn entry_in<T>(&self, ino: Ino, look: impl FnOnce(&Mounted, &Dir, &Entry) -> Answer<T>) -> Answer<T> {
        let mounted = self.mounted(ino)?;
        let place = mounted.tree.place(ino.number())?;
        let entry = place.spot.entry()?;
        let dir = place.dirs.last().copied().unwrap_or(mounted.tree.root());
        if entry.kind == Kind::Unread { Err(Fail::Errno(Errno::ENOENT)) } else { look(&mounted, &dir, entry) }
    }

    /// The way from an archived directory to the versions of what is in it.
    fn way_to_versions(&self, dir: Ino) -> Answer<Vec<u8>> {
        let mounted = self.mounted(dir)?;
        let dirs = mounted.tree.dirs(dir.number())?;
        if dirs.len() > PATH_MAX / 2 {
            return Err(Fail::Errno(Errno::ENAMETOOLONG));
        }
        let (depth, top) = self.world().way_to_versions(dir.slot()).ok_or(Errno::ESTALE)?;
        let mut way = b"../".repeat(depth + dirs.len() - 1);
        way.extend_from_slice(top.as_bytes());
        for dir in dirs.iter().skip(1) {
            way.push(b'/');
            way.extend_from_slice(&mounted.tree.place(dir.number)?.spot.entry()?.name);
        }
        if way.len() > PATH_MAX { Err(Fail::Errno(Errno::ENAMETOOLONG)) } else { Ok(way) }
    }

    /// The path of a directory of versions, and the number of its resource's backups as they are now.
    fn way(&self, ino: Ino) -> Answer<(Arc<Way>, u64)> {
        let way = self.paths.get(ino).ok_or(Errno::ESTALE)?;
        let generation = self.world().generation(way.home).ok_or(Errno::ESTALE)?;
        Ok((way, generation))
    }

    /// What all backups of a resource have at a path. Waits for the vault.
    pub fn past(&self, ino: Ino) -> Answer<Arc<Past>> {
        self.past_now(ino).map(|(_, past)| past)
    }

    /// The same with the number of the backups that it was made of.
    fn past_now(&self, ino: Ino) -> Answer<(u64, Arc<Past>)> {
        let (way, generation) = self.way(ino)?;
        if let Some(past) = self.pasts.known((generation, ino)) {
            return Ok((generation, past));
        }
        let seen = self.world().seen(way.home).ok_or(Errno::ESTALE)?;
        let past = self.pasts.past((generation, ino), || {
            let known = |dir| self.pasts.known((generation, dir));
            // Sought out only where that is needed: there may be thousands.
            let backups = || self.world().backups_of(way.home);
            versions::past(self, &way, backups, seen, known)
        });
        past.map(|past| (generation, past))
    }

    /// The attributes of a directory of versions. Waits for the vault.
    pub fn version_attr(&self, ino: Ino) -> Answer<Attr> {
        self.past(ino).map(|past| self.pasts.attr(&past))
    }

    /// The same, if it is in memory.
    pub fn known_version_attr(&self, ino: Ino) -> Option<Attr> {
        let past = self.pasts.known((self.way(ino).ok()?.1, ino))?;
        Some(self.pasts.attr(&past))
    }

    /// What a name in a directory of versions stands for, or that it stands for nothing, if that is in memory.
    pub fn known_version(&self, parent: Ino, name: &[u8]) -> Option<Option<Attr>> {
        let generation = self.way(parent).ok()?.1;
        match self.pasts.listed((generation, parent)) {
            Some(listing) => Some(listing.lookup(name)),
            None => self.pasts.known((generation, self.paths.ino(parent, name))).map(|past| Some(past.attr)),
        }
    }

    /// The names in a directory of versions as they are now, if they are in memory and `cookie` is a place of them.
    pub fn known_listing(&self, ino: Ino, cookie: u64) -> Option<Arc<Listing>> {
        let listing = self.pasts.listed((self.way(ino).ok()?.1, ino))?;
        (cookie == 0 || listing.has(cookie)).then_some(listing)
    }

    /// What a name in a directory of versions stands for. Waits for the vault.
    pub fn version(&self, parent: Ino, name: &[u8]) -> Answer<Attr> {
        let found = match self.known_version(parent, name) {
            Some(found) => found,
            None => {
                let (generation, past) = self.past_now(parent)?;
                past.lookup(self, name)?.map(|(attr, past)| {
                    self.pasts.keep(generation, past);
                    attr
                })
            }
        };
        found.ok_or(Fail::Errno(Errno::ENOENT))
    }

    /// The names in a directory of versions, as they were when the listing that `cookie` is a place of was
    /// begun. Waits for the vault.
    pub fn listing(&self, ino: Ino, cookie: u64) -> Answer<Arc<Listing>> {
        let generation = || self.way(ino).ok().map(|(_, generation)| generation);
        let now = generation();
        let listing = self.pasts.listing((now, ino), cookie, || {
            let (made_of, past) = self.past_now(ino)?;
            let (listing, pasts) = past.listing(self)?;
            self.pasts.keep(made_of, pasts);
            // What is made again must be what it was.
            if cookie != 0 && generation() != now {
                return Err(Fail::Errno(Errno::ESTALE));
            }
            Ok(listing)
        })?;
        // Whoever may open the directory today was perhaps kept from what was in it. One that is gone is open only to
        // those who opened it then.
        if now.is_some_and(|generation| !listing.is_of(generation))
            && self.past(ino).is_ok_and(|past| !listing.may_be_seen(&past.attr))
        {
            return Err(Fail::Errno(Errno::ESTALE));
        }
        Ok(listing)
    }

    /// The target of a symbolic link.
    pub fn readlink(&self, ino: Ino) -> Answer<Vec<u8>> {
        if let Some(dir) = ino.linked_from() {
            return self.way_to_versions(dir);
        }
        if ino.is_virtual() {
            let world = self.world();
            let target = world.virtuals().readlink(ino).map(<[u8]>::to_vec);
            return target.ok_or(Fail::Errno(Errno::EINVAL));
        }
        self.entry(ino, |_, entry| match &entry.kind {
            Kind::Symlink { target } => Ok(target.clone()),
            _ => Err(Fail::Errno(Errno::EINVAL)),
        })
    }

    /// Gives `each` the names in a directory that follow `cookie`, until it answers `false`.
    /// Failures count only as long as nothing was given.
    pub fn list(&self, ino: Ino, cookie: u64, each: &mut dyn FnMut(Row<'_>) -> bool) -> Answer<()> {
        let bare = |ino| Attr::directory(ino, 0o755, 0, Default::default());
        let dots = |parent: Ino, each: &mut dyn FnMut(Row<'_>) -> bool| {
            let rows = [(1, &b"."[..], ino), (2, &b".."[..], parent)];
            let mut rest = rows.into_iter().filter(|(at, ..)| *at > cookie);
            rest.all(|(cookie, name, ino)| each(Row { cookie, name, attr: bare(ino), sure: false }))
        };
        // Rows of entries come after the two dots.
        let after = cookie.saturating_sub(2);
        if ino.is_virtual() {
            let world = self.world();
            let parent = world.virtuals().parent(ino).ok_or(Errno::ENOTDIR)?;
            if !dots(parent, each) {
                return Ok(());
            }
            for (row, name, child) in world.virtuals().list(ino, after).ok_or(Errno::ENOTDIR)? {
                // What is not in memory is left to be asked for: there may be very many backups.
                let (attr, sure) = match virtual_attr(&world, child) {
                    Ok(attr) => (attr, !child.is_versions()),
                    Err(_) => (Attr { mode: 0o700, ..bare(child) }, false),
                };
                if !each(Row { cookie: row + 2, name, attr, sure }) {
                    break;
                }
            }
            return Ok(());
        }
        let mounted = self.mounted(ino)?;
        let dirs = mounted.tree.dirs(ino.number())?;
        let dir = dirs.last().copied().unwrap_or(mounted.tree.root());
        // The first entries must be there before anything is given, or a failure would be lost.
        mounted
            .tree
            .list(&dir, after, &mut |number, entry| entry_attr(&mounted, ino, &dirs, number, entry).map(|_| false))?;
        let parent = match dirs.len().checked_sub(2).and_then(|above| dirs.get(above)) {
            Some(above) => ino.sibling(above.number, true),
            None => self.world().parent(ino.slot()),
        };
        if !dots(parent, each) {
            return Ok(());
        }
        mounted.tree.list(&dir, after, &mut |number, entry| {
            let attr = entry_attr(&mounted, ino, &dirs, number, entry)?;
            Ok(each(Row { cookie: number - dir.number + 2, name: &entry.name, attr, sure: true }))
        })
    }

    /// Gives `look` the extended attributes of an inode.
    pub fn xattrs<T>(&self, ino: Ino, look: impl FnOnce(&[(Vec<u8>, Vec<u8>)]) -> Answer<T>) -> Answer<T> {
        if ino.is_virtual() || ino.is_versions() || ino.linked_from().is_some() {
            return look(&[]);
        }
        if ino.number() == 0 {
            let mounted = self.mounted(ino)?;
            return match mounted.view.policy {
                Policy::Strict => mounted.tree.root_entry(|root| look(root.map_or(&[], |r| &r.meta.xattrs)))?,
                _ => look(&[]),
            };
        }
        self.entry(ino, |_, entry| look(&entry.meta.xattrs))
    }

    /// The inode flags of an inode, as `FS_IOC_GETFLAGS` has them.
    pub fn flags(&self, ino: Ino) -> Answer<u32> {
        if ino.is_virtual() || ino.number() == 0 || ino.is_versions() || ino.linked_from().is_some() {
            return Ok(0);
        }
        self.entry(ino, |_, entry| Ok(entry.meta.flags))
    }

    /// Reads what an answer was missing. Waits for the vault.
    pub fn load(&self, source: &Arc<dyn TreeSource>, node: &crate::model::Id) -> Result<()> {
        self.sheets.load(source, node)
    }

    /// Asks until nothing is missing any more. Waits for the vault.
    pub fn insist<T>(&self, mut ask: impl FnMut() -> Answer<T>) -> Answer<T> {
        for _ in 0..PATIENCE {
            match ask() {
                Err(Fail::Missing(source, node)) => self.load(&source, &node)?,
                other => return other,
            }
        }
        Err(Fail::Broken(Error::damaged("a path leads through too many directories")))
    }

    /// The map of a file, made if it is not in memory. Waits for the vault.
    fn map(&self, ino: Ino) -> Answer<(Arc<dyn TreeSource>, Arc<FileMap>)> {
        let source = self.mounted(ino)?.tree.source().clone();
        if let Some(map) = self.maps.get(&ino) {
            return Ok((source, map));
        }
        let (size, holes, content) = self.insist(|| {
            self.entry(ino, |_, entry| match &entry.kind {
                Kind::File { size, holes, content } => Ok((*size, holes.clone(), content.clone())),
                Kind::Directory { .. } => Err(Fail::Errno(Errno::EISDIR)),
                _ => Err(Fail::Errno(Errno::EINVAL)),
            })
        })?;
        let map = Arc::new(FileMap::new(size, &holes, &content)?);
        self.maps.put(ino, map.clone(), map.weight());
        Ok((source, map))
    }

    /// Bytes of a file. Waits for the vault.
    pub fn read(&self, ino: Ino, offset: u64, size: u64) -> Answer<Data> {
        let (source, map) = self.map(ino)?;
        for id in map.ahead(source.as_ref(), offset, size) {
            self.ahead.want(&source, id);
        }
        if map.is_whole() {
            self.follow(ino, &source);
        }
        Ok(map.read(source.as_ref(), offset, size)?)
    }

    /// Reads ahead for whoever reads small files one after another: those that follow in the directory.
    fn follow(&self, ino: Ino, source: &Arc<dyn TreeSource>) {
        let Ok(mounted) = self.mounted(ino) else { return };
        let Some((from, to)) = mounted.stride.step(ino.number()) else { return };
        let Ok(place) = mounted.tree.place(ino.number()) else { return };
        let (mut files, mut last) = (Vec::new(), ino.number());
        for (number, entry) in place.spot.following().take_while(|(number, _)| *number <= to) {
            last = number;
            if let Kind::File { size, holes, content: Content::Whole(blob) } = &entry.kind
                && holes.is_empty()
                && entry.link == Link::None
                && number > from
            {
                files.push(Small { ino: ino.sibling(number, false), blob: *blob, size: *size });
            }
        }
        mounted.stride.reached(last);
        if !files.is_empty() {
            self.ahead.want_all(source, files, move || mounted.stride.reader());
        }
    }

    /// Says how files are given to the kernel before it asks.
    pub fn set_push(&self, push: Push) {
        self.ahead.set_push(push);
    }

    /// Where data or a hole begins. Waits for the vault.
    pub fn seek(&self, ino: Ino, offset: u64, whence: i32) -> Answer<u64> {
        let data = match whence {
            libc::SEEK_DATA => true,
            libc::SEEK_HOLE => false,
            _ => return Err(Fail::Errno(Errno::EINVAL)),
        };
        self.map(ino)?.1.seek(offset, data)
    }

    /// Which backup an inode belongs to and its path there, for the journal.
    pub fn describe(&self, ino: Ino) -> (u64, String) {
        let mut path = String::new();
        if let Some(way) = self.paths.get(ino) {
            let mut names: Vec<_> = way.up().map(|way| String::from_utf8_lossy(&way.name)).collect();
            names.reverse();
            return (0, names.join("/"));
        }
        let Ok(mounted) = self.mounted(ino) else { return (0, "?".to_owned()) };
        if let Ok(place) = mounted.tree.place(ino.number()) {
            let numbers = place.dirs.iter().skip(1).map(|dir| dir.number).chain([ino.number()]);
            for number in numbers {
                path.push('/');
                match mounted.tree.place(number).and_then(|p| p.spot.entry().map(|e| e.name.clone())) {
                    Ok(name) => path.push_str(&String::from_utf8_lossy(&name)),
                    Err(_) => path.push('?'),
                }
            }
        } else {
            path.push('/');
            if ino.number() != 0 {
                path.push('…');
            }
        }
        (mounted.view.id, path)
    }

    fn source(&self, access: &VaultAccess) -> Arc<VaultSource> {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        match sources.get(&access.uuid) {
            Some(known) if known.access().same(access) => known.clone(),
            _ => {
                let source = Arc::new(VaultSource::new(access.clone(), self.segments.clone()));
                sources.insert(access.uuid, source.clone());
                source
            }
        }
    }

    /// Shows exactly `backups`, and gives the names that changed. Vaults are opened when their
    /// backups are first looked into.
    pub fn set(&self, vaults: &[VaultAccess], backups: Vec<BackupView>) -> (Vec<Change>, Result<()>) {
        let sources: HashMap<Uuid, Arc<dyn TreeSource>> =
            vaults.iter().map(|access| (access.uuid, self.source(access) as Arc<dyn TreeSource>)).collect();
        let mut result = Ok(());
        let mut world = self.world.write().unwrap_or_else(PoisonError::into_inner);
        let wanted: std::collections::HashSet<u64> = backups.iter().map(|backup| backup.id).collect();
        for id in world.ids() {
            if !wanted.contains(&id) {
                world.remove(id);
            }
        }
        for backup in backups {
            let id = backup.id;
            let added = match sources.get(&backup.vault) {
                Some(source) => world.add(backup, source, &self.sheets),
                None => Err(Error::invalid(format!("the vault {} of backup {id} was not named", backup.vault))),
            };
            if let Err(error) = added {
                tracing::warn!(backup = id, "a backup cannot be shown: {error}");
                world.remove(id);
                result = result.and(Err(error.context(format!("backup {id} cannot be shown"))));
            }
        }
        (world.settle(), result)
    }

    /// Shows one more backup once its root directory can be read, and gives the names that
    /// changed. Waits for the vault.
    pub fn add(&self, access: &VaultAccess, backup: BackupView) -> Result<Vec<Change>> {
        backup.check()?;
        let vault = self.source(access);
        let source = vault.clone() as Arc<dyn TreeSource>;
        let read = || match self.sheets.get(&source, &backup.root, backup.totals.entries) {
            Err(Fail::Missing(source, node)) => self.load(&source, &node),
            Err(Fail::Broken(error)) => Err(error),
            _ => Ok(()),
        };
        if read().is_err() {
            vault.refresh_now().and_then(|()| read()).map_err(|e| e.context("its root directory cannot be read"))?;
        }
        let mut world = self.world.write().unwrap_or_else(PoisonError::into_inner);
        world.add(backup, &source, &self.sheets)?;
        Ok(world.settle())
    }

    /// Shows a backup no longer, and gives the names that changed.
    pub fn remove(&self, id: u64) -> Vec<Change> {
        let mut world = self.world.write().unwrap_or_else(PoisonError::into_inner);
        world.remove(id);
        world.settle()
    }

    /// Shows a backup instead of another in one step, for tests.
    #[cfg(test)]
    pub fn exchange_from(&self, source: &Arc<dyn TreeSource>, gone: u64, backup: BackupView) -> Result<Vec<Change>> {
        let mut world = self.world.write().unwrap_or_else(PoisonError::into_inner);
        world.remove(gone);
        world.add(backup, source, &self.sheets)?;
        Ok(world.settle())
    }

    /// Shows a backup from any source, for tests.
    #[cfg(test)]
    pub fn add_from(&self, source: &Arc<dyn TreeSource>, backup: BackupView) -> Result<Vec<Change>> {
        let mut world = self.world.write().unwrap_or_else(PoisonError::into_inner);
        world.add(backup, source, &self.sheets)?;
        Ok(world.settle())
    }
}

/// The attributes of a virtual inode or of a backup's root directory.
fn virtual_attr(world: &World, ino: Ino) -> Answer<Attr> {
    if ino.is_virtual() {
        return world.virtuals().attr(ino).ok_or(Fail::Errno(Errno::ESTALE));
    }
    if ino.is_versions() {
        // Who may enter is found out when somebody wants to.
        return Ok(Attr::directory(ino, 0o700, 0, Default::default()));
    }
    let mounted = world.mounted(ino.slot()).ok_or(Errno::ESTALE)?;
    mounted.root(ino.slot())
}

/// The attributes of an entry of the last of `dirs`, which has the inode `parent`.
pub fn entry_attr(mounted: &Mounted, parent: Ino, dirs: &[Dir], number: u64, entry: &Entry) -> Answer<Attr> {
    let inode = mounted.tree.inode(dirs, number, entry)?;
    let ino = parent.sibling(inode, entry.is_dir());
    let dir = dirs.last().copied().unwrap_or(mounted.tree.root());
    Ok(entry_of(mounted, ino, &dir, entry))
}

/// The attributes of an entry of `dir`. Dumps of databases are root's, whoever may see the rest.
fn entry_of(mounted: &Mounted, ino: Ino, dir: &Dir, entry: &Entry) -> Attr {
    let dumps = dir.dumps || matches!(entry.kind, Kind::Directory { origin: Origin::Dumps, .. });
    let policy = if dumps { Policy::Root } else { mounted.view.policy };
    Attr::entry(ino, entry, policy, mounted.created)
}
