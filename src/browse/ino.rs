//! Inode numbers: which backup, and which entry of its tree.
//!
//! A number is computed, never handed out: `slot << 40 | number`, where the number is the entry's
//! place in a walk of the backup's tree (the root is 0). Slot 0 holds the few virtual inodes.
//! Every backup has four neighbouring slots, since it can be seen in several places and a directory
//! may be in one place only ([`BACKUPS`], [`RESOURCES`], [`CHECKPOINTS`]; one is not used).
//! Everything but directories has the first of them in all places, so that pages are cached once.
//! Slots are never given out again, so an inode number never changes its meaning.

/// Bits for the place in the tree.
const BITS: u32 = 40;

/// Numbers are below this.
pub const MAX_NUMBER: u64 = 1 << BITS;

/// Slots are below this.
pub const MAX_SLOT: u64 = 1 << (64 - BITS);

/// Slots of one backup.
pub const PLACES: u64 = 4;
/// The slot beneath `backups/`, counted from the backup's first.
pub const BACKUPS: u64 = 0;
/// The slot beneath `resources/`.
pub const RESOURCES: u64 = 1;
/// The slot beneath `checkpoints/`.
pub const CHECKPOINTS: u64 = 2;

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

    /// The inode of the entry `number` in the same backup as this one.
    pub fn sibling(self, number: u64, is_dir: bool) -> Self {
        Self::new(if is_dir { self.slot() } else { first(self.slot()) }, number)
    }
}

/// The first slot of the backup that `slot` belongs to.
pub fn first(slot: u64) -> u64 {
    slot - slot % PLACES
}
