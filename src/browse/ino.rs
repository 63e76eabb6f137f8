//! Inode numbers: which backup, and which entry of its tree.
//!
//! A number is computed, never handed out: `slot << 40 | number`, where the number is the entry's
//! place in a walk of the backup's tree (the root is 0). Slot 0 holds the few virtual inodes.
//! Every backup has eight neighbouring slots, since it can be seen in several places and a directory
//! may be in one place only ([`BACKUPS`], [`RESOURCES`], [`CHECKPOINTS`]); the slots from [`LINKS`] on
//! are the links to the versions of what is in those directories. Everything that is archived and no
//! directory has the first of them in all places, so that pages are cached once.
//! Slots are never given out again, so an inode number never changes its meaning. Directories of
//! versions are no backup's: their numbers have the highest bit, and come from paths (`paths.rs`).

/// Bits for the place in the tree.
const BITS: u32 = 40;

/// Numbers are below this.
pub const MAX_NUMBER: u64 = 1 << BITS;

/// What only numbers of directories of versions have.
const OF_VERSIONS: u64 = 1 << 63;

/// Slots are below this.
pub const MAX_SLOT: u64 = OF_VERSIONS >> BITS;

/// Slots of one backup.
pub const PLACES: u64 = 8;
/// The slot beneath `backups/`, counted from the backup's first.
pub const BACKUPS: u64 = 0;
/// The slot beneath `resources/`.
pub const RESOURCES: u64 = 1;
/// The slot beneath `checkpoints/`.
pub const CHECKPOINTS: u64 = 2;
/// The slot of the link from a directory beneath `backups/` to its versions; those of the other places
/// follow.
pub const LINKS: u64 = 3;

/// The mount's own root.
pub const ROOT: Ino = Ino(1);

/// An inode number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    /// The inode of the entry `number` of a backup's tree, as seen in `slot`.
    pub fn new(slot: u64, number: u64) -> Self {
        Self(slot << BITS | (number & (MAX_NUMBER - 1)))
    }

    /// The slot; 0 for virtual inodes.
    pub fn slot(self) -> u64 {
        self.0 >> BITS
    }

    /// The place in the tree; 0 is the root.
    pub fn number(self) -> u64 {
        self.0 & (MAX_NUMBER - 1)
    }

    /// Whether this is not part of a backup.
    pub fn is_virtual(self) -> bool {
        self.slot() == 0
    }

    /// A directory of versions, by what its number is made of.
    pub fn versions(hash: u64) -> Self {
        Self(hash | OF_VERSIONS)
    }

    /// Whether this is a directory of versions.
    pub fn is_versions(self) -> bool {
        self.0 & OF_VERSIONS != 0
    }

    /// Its place among those of its backup.
    fn place(self) -> Option<u64> {
        (!self.is_virtual() && !self.is_versions()).then(|| self.slot() % PLACES)
    }

    /// The directory whose link to its versions this is.
    pub fn linked_from(self) -> Option<Self> {
        let place = self.place()?.checked_sub(LINKS).filter(|place| *place < LINKS)?;
        Some(Self::new(first(self.slot()) + place, self.number()))
    }

    /// The link from this directory to its versions, where it has one.
    pub fn versions_link(self) -> Option<Self> {
        let place = self.place().filter(|place| *place < LINKS)?;
        Some(Self::new(first(self.slot()) + LINKS + place, self.number()))
    }

    /// The inode of the entry `number` in the same backup as this one.
    pub fn sibling(self, number: u64, is_dir: bool) -> Self {
        Self::new(if is_dir { self.slot() } else { first(self.slot()) }, number)
    }
}

/// The first slot of the backup that `slot` belongs to.
pub fn first(slot: u64) -> u64 {
    slot - slot % PLACES
}
