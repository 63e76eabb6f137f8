//! A bounded cache that many threads read at once.
//!
//! Readers take a shared lock on one of several shards. When a shard is too heavy, values that
//! were not read since the last look are dropped (second chance), so that one pass over a large
//! tree does not push out what is in constant use.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

/// So many shards let all cores read at once.
const SHARDS: usize = 16;

struct Kept<V> {
    value: V,
    weight: usize,
    used: AtomicBool,
}

struct Shard<K, V> {
    kept: HashMap<K, Kept<V>>,
    weight: usize,
    newest: Option<K>,
}

/// Values by key, no more than a total weight of them.
pub struct Cache<K, V> {
    shards: Vec<RwLock<Shard<K, V>>>,
    hasher: RandomState,
    limit: usize,
}

impl<K: Hash + Eq + Copy, V: Clone> Cache<K, V> {
    /// A cache for values that weigh up to `limit` together.
    pub fn new(limit: usize) -> Self {
        Self::with_shards(limit, SHARDS)
    }

    /// The same in so many shards: the fewer there are, the heavier may one value be.
    pub fn with_shards(limit: usize, shards: usize) -> Self {
        let shard = || RwLock::new(Shard { kept: HashMap::new(), weight: 0, newest: None });
        Self {
            shards: (0..shards).map(|_| shard()).collect(),
            hasher: RandomState::new(),
            limit: (limit / shards).max(1),
        }
    }

    fn shard(&self, key: &K) -> &RwLock<Shard<K, V>> {
        let at = usize::try_from(self.hasher.hash_one(key) >> 48).unwrap_or(0) % self.shards.len();
        &self.shards[at]
    }

    /// The value, if it is kept.
    pub fn get(&self, key: &K) -> Option<V> {
        let shard = self.shard(key).read().unwrap_or_else(PoisonError::into_inner);
        let kept = shard.kept.get(key)?;
        // Written only when it changes: the line stays shared among the readers' cores.
        if !kept.used.load(Ordering::Relaxed) {
            kept.used.store(true, Ordering::Relaxed);
        }
        Some(kept.value.clone())
    }

    /// Keeps the value, dropping others where it gets too much, but not the one that came before it. No
    /// value counts for more than a quarter of the limit: those that are needed together, as the nodes on
    /// the way to a file are, must never drive each other out.
    pub fn put(&self, key: K, value: V, weight: usize) {
        let weight = weight.min(self.limit / 4);
        let mut shard = self.shard(&key).write().unwrap_or_else(PoisonError::into_inner);
        let kept = Kept { value, weight, used: AtomicBool::new(true) };
        shard.weight = shard.weight.saturating_add(weight);
        if let Some(old) = shard.kept.insert(key, kept) {
            shard.weight = shard.weight.saturating_sub(old.weight);
        }
        let before = shard.newest.replace(key).unwrap_or(key);
        // The first round drops what was not used, the second what the first has marked so.
        for _ in 0..2 {
            if shard.weight <= self.limit {
                break;
            }
            let (mut left, aim) = (shard.weight, self.limit / 8 * 7);
            shard.kept.retain(|k, kept| {
                if *k == key || *k == before || left <= aim || kept.used.swap(false, Ordering::Relaxed) {
                    return true;
                }
                left = left.saturating_sub(kept.weight);
                false
            });
            shard.weight = left;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Cache;

    #[test]
    fn heavy_values_leave_room_for_what_is_needed_with_them() {
        let cache = Cache::new(super::SHARDS * 1000);
        (0..100u32).for_each(|light| cache.put(light, light, 10));
        for heavy in 100..104 {
            cache.put(heavy, heavy, 1 << 20);
            cache.put(200, 200, 10);
            assert_eq!((cache.get(&heavy), cache.get(&200)), (Some(heavy), Some(200)));
        }
        // However many there are, the last two of a shard are there.
        let one = Cache::new(super::SHARDS * 1000);
        for _ in 0..50 {
            for key in [1, 2] {
                one.put(key, key, 5000);
            }
            assert_eq!((one.get(&1), one.get(&2)), (Some(1), Some(2)));
        }
    }
}
