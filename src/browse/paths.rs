//! Which path a directory of versions stands for.
//!
//! Such a directory is no backup's: its number is computed from the resource and the path, so that it stays what it
//! is whichever backups come and go, and whoever is in it stays there. But no path can be computed from a number.
//! So the paths of all those are remembered that the kernel may ask for. It says what it has forgotten; when there
//! are many, it is asked to forget what nobody uses.

use std::collections::{HashMap, hash_map};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

use super::fail::{Answer, Fail};
use super::ino::Ino;

/// What remembering a path costs, in bytes, about.
const COST: usize = 128;

/// The path of a directory of versions.
pub struct Way {
    /// Its number.
    pub ino: Ino,
    /// The resource's directory among `resources/`.
    pub home: Ino,
    /// What it is in; nothing for the resource's own.
    pub above: Option<Arc<Way>>,
    /// What it is called there.
    pub name: Box<[u8]>,
}

impl Way {
    /// It and those above it, from the inside.
    pub fn up(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |way| way.above.as_deref())
    }
}

struct Known {
    way: Arc<Way>,
    /// How often it was told to the kernel, and once more for that of a resource that is there.
    times: u64,
}

#[derive(Default)]
struct State {
    known: HashMap<Ino, Known>,
    /// How many came since the kernel was last asked to forget some.
    new: usize,
}

/// The paths that are remembered.
pub struct Paths {
    /// With a key of its own: nobody can give files names whose numbers are equal.
    hasher: RandomState,
    state: Mutex<State>,
    limit: usize,
}

impl Paths {
    /// None yet; the kernel is asked to forget some whenever so many more that `memory` bytes are full were told to it.
    pub fn new(memory: usize) -> Self {
        Self { hasher: RandomState::new(), state: Mutex::default(), limit: (memory / COST).max(16) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of what is called `name` in the directory of versions `above`.
    pub fn ino(&self, above: Ino, name: &[u8]) -> Ino {
        Ino::versions(self.hasher.hash_one((above, name)))
    }

    /// The number of the versions of the resource whose directory is `home`.
    pub fn top(&self, home: Ino) -> Ino {
        self.ino(home, b"")
    }

    /// Remembers the versions of a resource, until it is forgotten once more than it was kept.
    pub fn add(&self, home: Ino) -> Ino {
        let ino = self.top(home);
        let way = || Arc::new(Way { ino, home, above: None, name: Box::default() });
        self.state().known.entry(ino).or_insert_with(|| Known { way: way(), times: 0 }).times += 1;
        ino
    }

    /// The path of a directory that is remembered.
    pub fn get(&self, ino: Ino) -> Option<Arc<Way>> {
        self.state().known.get(&ino).map(|known| known.way.clone())
    }

    /// Remembers once more what is called `name` in `above`, since the kernel is about to be told of it. Says whether
    /// it should be asked to forget some.
    pub fn keep(&self, above: Ino, name: &[u8], ino: Ino) -> Answer<bool> {
        let mut state = self.state();
        let within = state.known.get(&above).map(|known| known.way.clone());
        let came = match state.known.entry(ino) {
            hash_map::Entry::Occupied(mut slot) => {
                let (known, way) = (slot.get_mut(), within.as_ref());
                // That of a resource is in no directory of versions.
                let same = match &known.way.above {
                    Some(over) => way.is_some_and(|way| way.ino == over.ino) && *known.way.name == *name,
                    None => way.is_none(),
                };
                if !same {
                    return Err(Fail::Errno(Errno::EIO));
                }
                known.times = known.times.saturating_add(1);
                0
            }
            hash_map::Entry::Vacant(slot) => {
                let above = within.ok_or(Errno::ESTALE)?;
                let way = Way { ino, home: above.home, above: Some(above), name: name.into() };
                slot.insert(Known { way: Arc::new(way), times: 1 });
                1
            }
        };
        state.new += came;
        let many = state.new > self.limit;
        if many {
            state.new = 0;
        }
        Ok(many)
    }

    /// The kernel has forgotten a directory that was told to it so often.
    pub fn forget(&self, ino: Ino, times: u64) {
        let mut state = self.state();
        if let hash_map::Entry::Occupied(mut slot) = state.known.entry(ino) {
            slot.get_mut().times = slot.get().times.saturating_sub(times);
            if slot.get().times == 0 {
                slot.remove();
                // What was needed for a walk through everything is given back.
                if state.known.capacity() / 4 > state.known.len().max(self.limit) {
                    state.known.shrink_to_fit();
                }
            }
        }
    }

    /// How many are remembered.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.state().known.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_asked_to_forget_when_there_are_many_more() {
        let paths = Paths::new(20 * COST);
        let top = paths.add(Ino(2));
        let keep = |name: usize| {
            let name = name.to_string();
            paths.keep(top, name.as_bytes(), paths.ino(top, name.as_bytes())).unwrap()
        };
        assert_eq!((1..100).filter(|n| keep(*n)).collect::<Vec<_>>(), [21, 42, 63, 84]);
        // Those that it knows already are no more.
        assert!((1..100).all(|n| !keep(n)));
        assert_eq!(paths.len(), 100);
        for n in 1..100 {
            let ino = paths.ino(top, n.to_string().as_bytes());
            paths.forget(ino, 1);
            assert!(paths.get(ino).is_some(), "it was told twice");
            paths.forget(ino, 1);
            assert!(paths.get(ino).is_none());
        }
        assert_eq!(paths.len(), 1);
        assert!(paths.state().known.capacity() < 100);
    }

    #[test]
    fn no_number_stands_for_two_paths() {
        let paths = Paths::new(0);
        let (top, other) = (paths.add(Ino(2)), paths.add(Ino(3)));
        let ino = paths.ino(top, b"a");
        assert!(ino.is_versions() && ino != paths.ino(other, b"a") && ino != paths.ino(top, b"b"));
        paths.keep(top, b"a", ino).unwrap();
        for (above, name) in [(top, b"b"), (other, b"a"), (Ino(9), b"a")] {
            assert!(matches!(paths.keep(above, name, ino), Err(Fail::Errno(Errno::EIO))));
        }
        assert!(matches!(paths.keep(Ino(9), b"a", paths.ino(Ino(9), b"a")), Err(Fail::Errno(Errno::ESTALE))));
        let names: Vec<_> = paths.get(ino).unwrap().up().map(|way| way.name.to_vec()).collect();
        assert_eq!(names, [b"a".to_vec(), Vec::new()]);
    }
}
