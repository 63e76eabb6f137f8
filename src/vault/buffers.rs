//! Large buffers that are used again.
//!
//! Segments are read and decoded one after another, each about a megabyte. Fresh memory for each would cost a fault
//! every 4 KiB; memory that the allocator keeps for them comes to lie in pieces between smaller things, which
//! took several times what is in use. So a few of them are kept here.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;

/// What is smaller is left to the allocator.
pub const LARGE: usize = 512 << 10;

/// Buffers are made in steps of this, so that one fits where another was.
const STEP: usize = 256 << 10;

/// Buffers that nobody uses, up to a number of bytes.
#[derive(Debug)]
pub struct Buffers {
    spare: Mutex<Vec<Vec<u8>>>,
    limit: usize,
}

impl Buffers {
    /// No buffers yet; of those that come back up to `limit` bytes are kept.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { spare: Mutex::default(), limit })
    }

    /// A buffer for `len` bytes. What it holds is left from others, or nothing; for few bytes it is none at all.
    pub fn take(&self, len: usize) -> Vec<u8> {
        if len < LARGE {
            return Vec::new();
        }
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is larger by more would be wasted on it: what is kept of it is counted by its length.
        let most = len.saturating_add(2 * STEP);
        let fits = |buffer: &Vec<u8>| (len..=most).contains(&buffer.capacity());
        match spare.iter().rposition(fits) {
            Some(at) => spare.swap_remove(at),
            None => {
                drop(spare);
                Vec::with_capacity(len.next_multiple_of(STEP))
            }
        }
    }

    /// Takes a buffer back.
    pub fn give(&self, buffer: Vec<u8>) {
        if !(LARGE..=self.limit).contains(&buffer.capacity()) {
            return;
        }
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        spare.push(buffer);
        // Those that were not wanted for longest go, outside the lock.
        let mut kept: usize = spare.iter().map(Vec::capacity).sum();
        let mut gone = 0;
        while kept > self.limit && gone < spare.len() {
            kept = kept.saturating_sub(spare.get(gone).map_or(0, Vec::capacity));
            gone += 1;
        }
        let gone: Vec<Vec<u8>> = spare.drain(..gone).collect();
        drop(spare);
        drop(gone);
    }

    /// Bytes whose buffer comes back when nobody needs them any more.
    pub fn lend(self: &Arc<Self>, bytes: Vec<u8>) -> Bytes {
        if bytes.capacity() < LARGE {
            return Bytes::from(bytes);
        }
        Bytes::from_owner(Lent { bytes, home: Arc::downgrade(self) })
    }
}

struct Lent {
    bytes: Vec<u8>,
    home: Weak<Buffers>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(home) = self.home.upgrade() {
            home.give(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_and_are_used_again_within_their_limit() {
        let buffers = Buffers::new(3 << 20);
        let spare = || buffers.spare.lock().unwrap().iter().map(Vec::capacity).collect::<Vec<_>>();
        assert_eq!(buffers.take(LARGE - 1).capacity(), 0);
        let mut first = buffers.take((1 << 20) - 5);
        assert_eq!(first.capacity(), 1 << 20);
        first.resize(7, 1);
        let place = first.as_ptr();
        let lent = buffers.lend(first);
        let part = lent.slice(2..4);
        drop(lent);
        assert_eq!((&part[..], spare()), (&[1, 1][..], vec![]), "part of it is in use");
        drop(part);
        assert_eq!(spare(), [1 << 20]);
        // Too small, far too large, and right.
        assert_eq!((buffers.take(2 << 20).capacity(), spare().len()), (2 << 20, 1));
        assert_eq!((buffers.take(LARGE - 1).capacity(), spare().len()), (0, 1));
        let again = buffers.take(900 << 10);
        assert_eq!((again.as_ptr(), spare().len()), (place, 0));
        for len in [1 << 20, 2 << 20, 1 << 20, LARGE, 100] {
            buffers.give(Vec::with_capacity(len));
        }
        assert_eq!(spare(), [1 << 20, LARGE], "the first went for the last");
        drop(buffers.lend(Vec::with_capacity(100)));
        assert_eq!(spare().len(), 2);
    }
}
