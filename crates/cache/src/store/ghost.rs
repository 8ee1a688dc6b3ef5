//! The ghost queue: what was evicted from the small queue not long ago, as fingerprints.
//!
//! A fingerprint that two keys share lets a newcomer into the main queue. It decides nothing else.

use std::collections::VecDeque;

use hashbrown::HashTable;

/// What a remembered entry takes: four bytes in the queue and five in the set, either of which may
/// be half empty.
pub(super) const BYTES_PER_ENTRY: usize = 20;

#[derive(Default)]
pub(super) struct Ghost {
    order: VecDeque<u32>,
    set: HashTable<u32>,
}

impl Ghost {
    /// Remembers a hash, and forgets the oldest so that at most `limit` are remembered.
    pub(super) fn push(&mut self, hash: u64, limit: usize) {
        while self.order.len() >= limit.max(1) {
            let Some(oldest) = self.order.pop_front() else { break };
            self.forget(oldest);
        }
        let print = fingerprint(hash);
        let entry = self.set.entry(spread(print), |known| *known == print, |known| spread(*known));
        entry.insert(print);
        self.order.push_back(print);
        if self.order.capacity() > 4 * limit.max(64) {
            self.order.shrink_to(limit);
            self.set.shrink_to(limit, |known| spread(*known));
        }
    }

    /// Whether a hash is remembered. It no longer is afterwards.
    pub(super) fn take(&mut self, hash: u64) -> bool {
        self.forget(fingerprint(hash))
    }

    fn forget(&mut self, print: u32) -> bool {
        let found = self.set.find_entry(spread(print), |known| *known == print);
        found.map(|entry| entry.remove()).is_ok()
    }
}

/// Bits that neither choose the shard alone nor the place in its index.
fn fingerprint(hash: u64) -> u32 {
    (hash >> 24) as u32
}

/// A fingerprint as a hash: the set looks at its lowest and highest bits.
fn spread(print: u32) -> u64 {
    u64::from(print).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(20)
}
