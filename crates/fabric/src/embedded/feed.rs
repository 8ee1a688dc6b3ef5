//! What the writer tells the watchers: how far the store is, and the latest changes.
//!
//! Watchers read from here while they keep up, and from the database when they have fallen behind,
//! so a slow one costs nobody else anything.

use std::collections::VecDeque;
use std::sync::{PoisonError, RwLock};

use bytes::Bytes;
use selvedge_model::Generation;
use tokio::sync::watch;

use super::Options;
use crate::{Change, Document};

/// The most changes kept in memory, and the most bytes of values in them.
const RECENT: usize = 1024;
const RECENT_BYTES: usize = 16 << 20;

/// One revision.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) revision: u64,
    pub(super) key: String,
    /// `None` for a deletion.
    pub(super) value: Option<Bytes>,
}

impl Entry {
    pub(super) fn size(&self) -> usize {
        self.value.as_ref().map_or(0, Bytes::len)
    }

    pub(super) fn change(self, incarnation: u64) -> Change {
        let generation = Generation::new(incarnation, self.revision);
        match self.value {
            Some(value) => Change::Put(Document { key: self.key, generation, value }),
            None => Change::Delete { key: self.key, generation },
        }
    }
}

/// Some of the changes after a position, and the position that they lead to.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) entries: Vec<Entry>,
    pub(super) position: u64,
}

#[derive(Debug)]
pub(super) struct Feed {
    recent: RwLock<Recent>,
    limit: usize,
    /// The store's revision.
    revision: watch::Sender<u64>,
    /// Counts the commits that changed streams.
    streams: watch::Sender<u64>,
}

/// Consecutive changes, up to the store's revision.
#[derive(Debug)]
struct Recent {
    /// The revision before the first entry.
    floor: u64,
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Feed {
    pub(super) fn new(revision: u64, options: &Options) -> Self {
        let recent = Recent { floor: revision, entries: VecDeque::new(), bytes: 0 };
        Self {
            recent: RwLock::new(recent),
            limit: options.history.min(RECENT),
            revision: watch::Sender::new(revision),
            streams: watch::Sender::new(0),
        }
    }

    /// Says what a transaction has changed, after its commit and before anybody is answered.
    pub(super) fn publish(&self, entries: Vec<Entry>, messages: bool) {
        if let Some(last) = entries.last().map(|entry| entry.revision) {
            let mut recent = self.recent.write().unwrap_or_else(PoisonError::into_inner);
            recent.bytes += entries.iter().map(Entry::size).sum::<usize>();
            recent.entries.extend(entries);
            while recent.entries.len() > self.limit || recent.bytes > RECENT_BYTES {
                let Some(oldest) = recent.entries.pop_front() else { break };
                recent.bytes -= oldest.size();
                recent.floor = oldest.revision;
            }
            drop(recent);
            self.revision.send_replace(last);
        }
        if messages {
            self.streams.send_modify(|count| *count += 1);
        }
    }

    /// Changes under `prefix` after `position`, from at most `limit` revisions. `None` when they
    /// are no longer in memory.
    pub(super) fn since(&self, position: u64, prefix: &str, limit: usize) -> Option<Batch> {
        let recent = self.recent.read().unwrap_or_else(PoisonError::into_inner);
        let seen = usize::try_from(position.checked_sub(recent.floor)?).ok()?;
        let mut batch = Batch { entries: Vec::new(), position };
        for entry in recent.entries.iter().skip(seen).take(limit) {
            batch.position = entry.revision;
            if entry.key.starts_with(prefix) {
                batch.entries.push(entry.clone());
            }
        }
        Some(batch)
    }

    pub(super) fn revision(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    pub(super) fn streams(&self) -> watch::Receiver<u64> {
        self.streams.subscribe()
    }
}
