//! Which backups there are, and where they are seen.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;

use crate::model::{Error, Result};
use crate::vault::tree::Time;

use super::ahead::Stride;
use super::attr::{self, Attr};
use super::fail::Answer;
use super::ino::{BACKUPS, CHECKPOINTS, Ino, MAX_SLOT, PLACES, RESOURCES, ROOT, first};
use super::paths::Paths;
use super::sheet::Sheets;
use super::source::TreeSource;
use super::tree::Tree;
use super::types::{BackupView, Policy};
use super::virtuals::{Change, Virtuals};

/// A backup that can be seen.
pub struct Mounted {
    /// What the daemon said about it.
    pub view: BackupView,
    /// The first of its slots.
    pub slot: u64,
    /// Its tree.
    pub tree: Arc<Tree>,
    /// When it was made.
    pub created: Time,
    /// The resource's directory.
    home: Ino,
    /// The checkpoint's directory and its name there.
    point: Option<(Ino, Vec<u8>)>,
    /// How often its resource or project got another name.
    pub renamed: u64,
    /// How its small files are being read.
    pub stride: Stride,
    /// Directories with links to it, and their names.
    links: Vec<(Ino, Vec<u8>)>,
}

impl Mounted {
    /// The attributes of its root directory as seen in `slot`: the archived ones where they
    /// decide who may enter, else those that let in the one who may.
    pub fn root(&self, slot: u64) -> Answer<Attr> {
        let (ino, policy, created) = (Ino::new(slot, 0), self.view.policy, self.created);
        if policy != Policy::Strict {
            return Ok(Attr::root(ino, policy, created));
        }
        self.tree.root_entry(|entry| match entry {
            Some(entry) => Attr::entry(ino, entry, policy, created),
            None => Attr::root(ino, policy, created),
        })
    }
}

/// The backups of one resource.
#[derive(Default)]
struct Shelf {
    backups: BTreeMap<(Timestamp, u64), (Policy, bool)>,
    /// Where its versions are seen.
    versions: Option<(Ino, Vec<u8>)>,
    /// The link to it among those of another machine.
    machine: Option<(Ino, Vec<u8>)>,
    /// When a backup last came or went.
    changed: Time,
    /// The same as a number that no other resource or time has.
    generation: u64,
}

impl Shelf {
    /// Mode and owner of the resource's directory. Where its backups differ anybody may pass
    /// through but not list, and each backup keeps its own door.
    fn door(&self) -> (u16, u32) {
        let mut policies = self.backups.values().map(|(policy, _)| *policy);
        match policies.next() {
            Some(first) if policies.all(|other| other == first) => attr::door(first),
            _ => (0o711, 0),
        }
    }
}

/// Everything that can be seen.
pub struct World {
    next_slot: u64,
    /// By the first of their slots.
    mounted: HashMap<u64, Arc<Mounted>>,
    slots: BTreeMap<u64, u64>,
    shelves: HashMap<Ino, Shelf>,
    touched: BTreeSet<Ino>,
    virtuals: Virtuals,
    paths: Arc<Paths>,
    resources: Ino,
    backups: Ino,
    checkpoints: Ino,
    by_date: Ino,
    partial: Ino,
    machines: Ino,
    versions: Ino,
    /// Counts changes.
    generation: u64,
}

impl World {
    /// Nothing yet. The resources' versions are remembered in `paths`.
    pub fn new(paths: Arc<Paths>) -> Self {
        let mut virtuals = Virtuals::default();
        let resources = virtuals.make_dir(ROOT, b"resources");
        let backups = virtuals.make_dir(ROOT, b"backups");
        let checkpoints = virtuals.make_dir(ROOT, b"checkpoints");
        let by_date = virtuals.make_dir(ROOT, b"by-date");
        let partial = virtuals.make_dir(ROOT, b"partial");
        let machines = virtuals.make_dir(ROOT, b"machines");
        let versions = virtuals.make_dir(ROOT, b"versions");
        Self {
            next_slot: PLACES,
            mounted: HashMap::new(),
            slots: BTreeMap::new(),
            shelves: HashMap::new(),
            touched: BTreeSet::new(),
            virtuals,
            paths,
            resources,
            backups,
            checkpoints,
            by_date,
            partial,
            machines,
            versions,
            generation: 0,
        }
    }

    /// The virtual inodes.
    pub fn virtuals(&self) -> &Virtuals {
        &self.virtuals
    }

    /// The backup that one of its slots belongs to.
    pub fn mounted(&self, slot: u64) -> Option<&Arc<Mounted>> {
        self.mounted.get(&first(slot))
    }

    /// The directory that holds the root directory of a backup as seen in `slot`.
    pub fn parent(&self, slot: u64) -> Ino {
        let mounted = self.mounted(slot);
        match (slot % PLACES, mounted.and_then(|m| m.point.as_ref())) {
            (RESOURCES, _) => mounted.map_or(self.backups, |m| m.home),
            (CHECKPOINTS, Some((dir, _))) => *dir,
            _ => self.backups,
        }
    }

    /// A number that changes with the backups of the resource whose directory is `home`, for whoever keeps what was
    /// computed from them.
    pub fn generation(&self, home: Ino) -> Option<u64> {
        self.shelves.get(&home).map(|shelf| shelf.generation)
    }

    /// The directory in which that resource's versions are seen, and when a backup last came or went.
    pub fn seen(&self, home: Ino) -> Option<(Ino, Time)> {
        let shelf = self.shelves.get(&home)?;
        Some((shelf.versions.as_ref().map_or(self.versions, |(dir, _)| *dir), shelf.changed))
    }

    /// The backups of that resource, from new to old.
    pub fn backups_of(&self, home: Ino) -> Vec<Arc<Mounted>> {
        let rows = self.shelves.get(&home).into_iter().flat_map(|shelf| shelf.backups.keys().rev());
        rows.filter_map(|(_, id)| self.by_id(*id).cloned()).collect()
    }

    /// Where all resources' versions are seen.
    pub fn tops(&self) -> Vec<Change> {
        let tops = self.shelves.values().filter_map(|shelf| shelf.versions.clone());
        tops.map(|(parent, name)| Change { parent, name }).collect()
    }

    /// How deep a backup's root directory lies, and where the versions of its files are seen.
    pub fn way_to_versions(&self, slot: u64) -> Option<(usize, String)> {
        let view = &self.mounted(slot)?.view;
        let depth = match slot % PLACES {
            BACKUPS => 2,
            CHECKPOINTS => 3,
            _ => 4,
        };
        Some((depth, format!("versions/{}/{}", view.project, view.resource)))
    }

    /// The ids of all backups.
    pub fn ids(&self) -> Vec<u64> {
        self.slots.keys().copied().collect()
    }

    /// The backup with this id.
    pub fn by_id(&self, id: u64) -> Option<&Arc<Mounted>> {
        self.mounted.get(self.slots.get(&id)?)
    }

    /// Shows a backup, instead of what was shown under its id before. One that shows the same
    /// files keeps its inodes, wherever it moves.
    pub fn add(&mut self, view: BackupView, source: &Arc<dyn TreeSource>, sheets: &Arc<Sheets>) -> Result<()> {
        view.check()?;
        let old = self.by_id(view.id).cloned();
        let kept = match &old {
            Some(old) if old.view == view => return Ok(()),
            Some(old) if old.view.same_content(&view) => {
                let other_name = (&old.view.project, &old.view.resource) != (&view.project, &view.resource);
                Some((old.slot, old.tree.clone(), old.renamed + u64::from(other_name)))
            }
            _ => None,
        };
        if old.is_some() {
            self.remove(view.id);
        }
        let (slot, tree, renamed) = match kept {
            Some(kept) => kept,
            None => {
                let (source, sheets) = (source.clone(), sheets.clone());
                (self.new_slot()?, Arc::new(Tree::new(view.root, view.totals.entries, source, sheets)), 0)
            }
        };
        let project = self.virtuals.make_dir(self.resources, view.project.as_bytes());
        let home = self.virtuals.make_dir(project, view.resource.as_bytes());
        self.virtuals.link(home, view.dir_name().as_bytes(), Ino::new(slot + RESOURCES, 0));
        self.virtuals.link(self.backups, view.id.to_string().as_bytes(), Ino::new(slot + BACKUPS, 0));
        let point = view.checkpoint.map(|id| self.add_to_checkpoint(id, &view, slot));
        let links = self.add_links(&view);
        let versions = self.virtuals.make_dir(self.versions, view.project.as_bytes());
        let machine = view.machine.as_ref().map(|(machine, project)| {
            let machine = self.virtuals.make_dir(self.machines, machine.as_bytes());
            let dir = self.virtuals.make_dir(machine, project.as_bytes());
            let target = format!("../../../resources/{}/{}", view.project, view.resource);
            self.virtuals.set_symlink(dir, view.resource.as_bytes(), Some(target.as_bytes()));
            (dir, view.resource.clone().into_bytes())
        });
        let shelf = self.shelves.entry(home).or_default();
        shelf.backups.insert((view.created_at, view.id), (view.policy, view.partial));
        shelf.versions = Some((versions, view.resource.clone().into_bytes()));
        if let Some(machine) = machine {
            // Of two that are called alike the later is seen.
            if let Some((dir, name)) = shelf.machine.replace(machine.clone()).filter(|old| *old != machine) {
                self.virtuals.unlink(dir, &name);
            }
        }
        shelf.changed = attr::time(Timestamp::now());
        self.touched.insert(home);
        self.slots.insert(view.id, slot);
        let created = attr::time(view.created_at);
        self.mounted.insert(
            slot,
            Arc::new(Mounted { view, slot, tree, created, home, point, renamed, stride: Stride::default(), links }),
        );
        Ok(())
    }

    /// Shows a backup in its checkpoint by its resource's name. Of two projects' resources of one
    /// name the later has its backup's number, which is nobody's name.
    fn add_to_checkpoint(&mut self, checkpoint: u64, view: &BackupView, slot: u64) -> (Ino, Vec<u8>) {
        let dir = self.virtuals.make_dir(self.checkpoints, checkpoint.to_string().as_bytes());
        let taken = self.virtuals.lookup(dir, view.resource.as_bytes()).is_some();
        let name = if taken { view.id.to_string() } else { view.resource.clone() }.into_bytes();
        self.virtuals.link(dir, &name, Ino::new(slot + CHECKPOINTS, 0));
        (dir, name)
    }

    /// Links to a backup by its day, and among the partial ones.
    fn add_links(&mut self, view: &BackupView) -> Vec<(Ino, Vec<u8>)> {
        let mut day = self.by_date;
        for part in ["%Y", "%m", "%d"] {
            day = self.virtuals.make_dir(day, view.created_at.strftime(part).to_string().as_bytes());
        }
        let time = view.created_at.strftime("%H%M%SZ");
        let mut name = format!("{time}-{}-{}-{}", view.project, view.resource, view.id);
        // Names of directories end here.
        if name.len() > 255 {
            name = format!("{time}-{}", view.id);
        }
        let mut links = vec![(day, name, format!("../../../../backups/{}", view.id))];
        if view.partial {
            links.push((self.partial, view.id.to_string(), format!("../backups/{}", view.id)));
        }
        let mut link = |(dir, name, target): (Ino, String, String)| {
            self.virtuals.set_symlink(dir, name.as_bytes(), Some(target.as_bytes()));
            (dir, name.into_bytes())
        };
        links.into_iter().map(&mut link).collect()
    }

    fn new_slot(&mut self) -> Result<u64> {
        if self.next_slot >= MAX_SLOT {
            return Err(Error::limit_reached("the browse process has shown a million backups; restart it"));
        }
        self.next_slot += PLACES;
        Ok(self.next_slot - PLACES)
    }

    /// Shows a backup no longer; one that is not there is no error.
    pub fn remove(&mut self, id: u64) {
        let Some(mounted) = self.slots.remove(&id).and_then(|slot| self.mounted.remove(&slot)) else { return };
        let view = &mounted.view;
        self.virtuals.unlink(self.backups, id.to_string().as_bytes());
        self.virtuals.unlink(mounted.home, view.dir_name().as_bytes());
        if let Some((dir, name)) = &mounted.point {
            self.virtuals.unlink(*dir, name);
            self.virtuals.drop_empty(*dir, self.checkpoints);
        }
        for (dir, name) in &mounted.links {
            self.virtuals.unlink(*dir, name);
            let top = if *dir == self.partial { self.partial } else { self.by_date };
            self.virtuals.drop_empty(*dir, top);
        }
        if let Some(shelf) = self.shelves.get_mut(&mounted.home) {
            shelf.backups.remove(&(view.created_at, id));
            shelf.changed = attr::time(Timestamp::now());
        }
        self.touched.insert(mounted.home);
    }

    /// Brings the resources' directories up to date after changes, and gives all names that
    /// changed.
    pub fn settle(&mut self) -> Vec<Change> {
        let touched = std::mem::take(&mut self.touched);
        self.generation += 1;
        for home in &touched {
            let home = *home;
            if let Some(shelf) = self.shelves.get_mut(&home) {
                shelf.generation = self.generation;
            }
            let Some(shelf) = self.shelves.get(&home) else { continue };
            let latest = shelf.backups.iter().rev().find(|(_, (_, partial))| !partial);
            let latest = latest.and_then(|((_, id), _)| self.by_id(*id)).map(|m| m.view.dir_name());
            self.virtuals.set_door(home, shelf.door());
            self.virtuals.set_symlink(home, b"latest", latest.as_ref().map(String::as_bytes));
            if let Some((dir, name)) = shelf.versions.as_ref().filter(|_| !shelf.backups.is_empty())
                && self.virtuals.lookup(*dir, name).is_none()
            {
                self.virtuals.link(*dir, name, self.paths.add(home));
            }
        }
        // Only then: what was put beside would go with its directory.
        for home in touched {
            if self.shelves.get(&home).is_some_and(|shelf| shelf.backups.is_empty())
                && let Some(shelf) = self.shelves.remove(&home)
            {
                self.virtuals.drop_empty(home, self.resources);
                if let Some((dir, name)) = &shelf.versions
                    && let Some(ino) = self.virtuals.lookup(*dir, name)
                {
                    self.paths.forget(ino, 1);
                }
                for (link, top) in [(shelf.versions, self.versions), (shelf.machine, self.machines)] {
                    if let Some((dir, name)) = link {
                        self.virtuals.unlink(dir, &name);
                        self.virtuals.drop_empty(dir, top);
                    }
                }
            }
        }
        self.virtuals.take_changes()
    }
}
