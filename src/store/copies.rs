//! The other copies of what a store holds: asked where the first one does not give it.
//!
//! Nothing is decided by them: they only read, and what they give is checked by whoever asks.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::{ObjectStore, Patience, Place};
use crate::model::{Error, ErrorKind, Result};

/// A copy that did not answer is left alone for so long.
const LEFT_ALONE: Duration = Duration::from_secs(20);
/// Reading from another copy is told no more often than this.
const TELL: Duration = Duration::from_secs(60);

/// Other copies, opened when they are first needed.
#[derive(Debug, Default)]
pub struct Copies {
    others: RwLock<Vec<Arc<Other>>>,
    /// When the first one last did not answer.
    first: Mutex<Option<Instant>>,
    told: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct Other {
    place: Place,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    store: Option<Arc<dyn ObjectStore>>,
    failed: Option<Instant>,
}

fn lately(failed: Option<Instant>) -> bool {
    failed.is_some_and(|when| when.elapsed() < LEFT_ALONE)
}

/// Whether another copy may have what this one did not give.
fn elsewhere(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::NotFound | ErrorKind::Damaged | ErrorKind::DestinationFailed)
}

impl Other {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store, unless it did not answer a moment ago.
    fn store(&self) -> Option<Arc<dyn ObjectStore>> {
        let mut state = self.state();
        if lately(state.failed) {
            return None;
        }
        if state.store.is_none() {
            match self.place.fresh().open(Patience::READ) {
                Ok(store) => state.store = Some(store),
                Err(e) => {
                    tracing::debug!("the copy in {} cannot be read: {e}", self.place.title());
                    state.failed = Some(Instant::now());
                }
            }
        }
        state.store.clone()
    }

    fn note_failure(&self) {
        *self.state() = State { store: None, failed: Some(Instant::now()) };
    }
}

impl Copies {
    /// The copies in these places, in the order in which they are asked.
    pub fn new(places: Vec<Place>) -> Self {
        let copies = Self::default();
        copies.set(places);
        copies
    }

    /// Other copies from now on; one that stays where it was stays open.
    pub fn set(&self, places: Vec<Place>) {
        let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::take(&mut *others);
        let keep = |place: Place| match old.iter().find(|o| o.place == place) {
            Some(other) => Arc::clone(other),
            None => Arc::new(Other { place, state: Mutex::default() }),
        };
        *others = places.into_iter().map(keep).collect();
    }

    fn others(&self) -> Vec<Arc<Other>> {
        self.others.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What `read` makes of the first store, or of another copy where that one fails: is away, has
    /// no such object, or gives bytes that `read` calls damaged. Where all fail, the error of the first.
    pub fn read<T>(&self, first: &dyn ObjectStore, read: impl Fn(&dyn ObjectStore) -> Result<T>) -> Result<T> {
        let others = self.others();
        if others.is_empty() {
            return read(first);
        }
        let away = lately(*self.first.lock().unwrap_or_else(PoisonError::into_inner));
        let mut error = None;
        if !away {
            match read(first) {
                Err(e) if elsewhere(&e) => {
                    if e.kind == ErrorKind::DestinationFailed {
                        *self.first.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                    }
                    error = Some(e);
                }
                other => return other,
            }
        }
        for other in &others {
            let Some(store) = other.store() else { continue };
            match read(&*store) {
                Ok(found) => {
                    self.tell(other, error.as_ref());
                    return Ok(found);
                }
                Err(e) if e.kind == ErrorKind::DestinationFailed => other.note_failure(),
                Err(_) => {}
            }
        }
        match error {
            Some(e) => Err(e),
            // Nobody else has it: waiting for the first one is all that is left.
            None => read(first),
        }
    }

    fn tell(&self, other: &Other, why: Option<&Error>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|when| when.elapsed() >= TELL) {
            *told = Some(Instant::now());
            let why = why.map_or_else(|| "the first one is away".to_owned(), ToString::to_string);
            tracing::warn!("reading from the copy in {}: {why}", other.place.title());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::LocalStore;

    fn get(store: &dyn ObjectStore) -> Result<Vec<u8>> {
        store.get("a", 100).and_then(|bytes| if bytes == b"good" { Ok(bytes) } else { Err(Error::damaged("bad")) })
    }

    #[test]
    fn what_the_first_does_not_give_comes_from_another() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        for name in ["one", "two", "three"] {
            std::fs::create_dir(place(name)).unwrap();
        }
        let first = LocalStore::open(&place("one")).unwrap();
        let copies = Copies::new(vec![Place::Local(place("two")), Place::Local(place("three"))]);
        assert_eq!(copies.read(&first, get).unwrap_err().kind, ErrorKind::NotFound);
        std::fs::write(place("three/a"), "good").unwrap();
        assert_eq!(copies.read(&first, get).unwrap(), b"good", "the first and the second have none");
        std::fs::write(place("one/a"), "evil").unwrap();
        std::fs::write(place("two/a"), "evil").unwrap();
        assert_eq!(copies.read(&first, get).unwrap(), b"good", "the others are damaged");
        std::fs::remove_dir_all(place("three")).unwrap();
        assert_eq!(copies.read(&first, get).unwrap_err().kind, ErrorKind::Damaged, "the error of the first");
        std::fs::write(place("two/a"), "good").unwrap();
        std::fs::remove_dir_all(place("one")).unwrap();
        assert_eq!(copies.read(&first, get).unwrap(), b"good", "the first is gone altogether");
        copies.set(Vec::new());
        assert!(copies.read(&first, get).is_err());
    }
}
