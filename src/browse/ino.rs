//! Inode numbers: which backup, and which entry of its tree.
//!
//! A number is computed, never handed out: `slot << 40 | number`, where the number is the entry's
//! place in a walk of the backup's tree (the root is 0). Slot 0 holds the few virtual inodes.
//! Every backup has eight neighbouring slots, since it can be seen in several places and a directory
//! may be in one place only ([`BACKUPS`], [`RESOURCES`], [`CHECKPOINTS`]); [`VERSIONS`] are the
//! directories of what all backups have at an entry's path, and the slots from [`LINKS`] on the links
//! to those from the directories of the first three. Everything that is archived and no directory has
//! the first of them in all places, so that pages are cached once.
//! Slots are never given out again, so an inode number never changes its meaning.

/// Bits for the place in the tree.
const BITS: u32 = 40;

/// Numbers are below this.
pub const MAX_NUMBER: u64 = 1 << BITS;

/// Slots are below this.
pub const MAX_SLOT: u64 = 1 << (64 - BITS);

/// Slots of one backup.
pub const PLACES: u64 = 8;
/// The slot beneath `backups/`, counted from the backup's first.
pub const BACKUPS: u64 = 0;
/// The slot beneath `resources/`.
pub const RESOURCES: u64 = 1;
/// The slot beneath `checkpoints/`.
pub const CHECKPOINTS: u64 = 2;
/// The slot beneath `versions/`: the number is that of an entry with the path that is meant.
pub const VERSIONS: u64 = 3;
/// The slot of the link from a directory beneath `backups/` to its versions; those of the other places
/// follow.
pub const LINKS: u64 = 4;

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

    /// Whether this is a directory of versions.
    pub fn is_versions(self) -> bool {
        !self.is_virtual() && self.slot() % PLACES == VERSIONS
    }

    /// The directory whose link to its versions this is.
    pub fn linked_from(self) -> Option<Self> {
        let place = (self.slot() % PLACES).checked_sub(LINKS).filter(|_| !self.is_virtual())?;
        Some(Self::new(first(self.slot()) + place, self.number()))
    }

    /// The link from this directory to its versions, where it has one.
    pub fn versions_link(self) -> Option<Self> {
        let place = Some(self.slot() % PLACES).filter(|place| *place < VERSIONS && !self.is_virtual())?;
        Some(Self::new(first(self.slot()) + LINKS + place, self.number()))
    }

    /// The directory of the versions of the entry `number` in the same backup.
    pub fn versions(self, number: u64) -> Self {
        Self::new(first(self.slot()) + VERSIONS, number)
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
