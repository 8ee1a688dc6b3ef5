//! The caller's end of writing: parts of a body become chunks in the queue of the thread that
//! writes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::sync::oneshot;

use super::read::Body;
use super::{CHUNK, MOST_KEY_BYTES, MOST_META_BYTES, MOST_WRITES, Shared};
use crate::purge::{Generation, Stamp};

/// Smaller parts of a body are copied: many of them, each holding on to a buffer that it is a small
/// part of, would take more memory than is counted.
const LEAST_PART: usize = 16 << 10;

/// What the thread that writes is to do.
pub(super) enum Write {
    /// Write the next chunk of an object.
    Chunk {
        id: u64,
        parts: Vec<Bytes>,
    },
    /// Write the object itself.
    Object(Finished),
    /// Write anew what describes an object.
    Renew(Renewed),
    /// No more comes of an object.
    Abandon {
        id: u64,
    },
    Flush(oneshot::Sender<bool>),
    Close(oneshot::Sender<()>),
}

/// An object whose body is complete.
pub(super) struct Finished {
    pub(super) id: u64,
    pub(super) hash: u64,
    pub(super) key: Box<[u8]>,
    pub(super) stamp: u64,
    pub(super) meta: Bytes,
    /// Bytes of its body.
    pub(super) size: u64,
    /// Its chunks that were sent before.
    pub(super) chunks: usize,
    /// The rest of the body: a chunk more, or all of it.
    pub(super) rest: Vec<Bytes>,
}

/// An object whose description is another, and whose chunks stay.
pub(super) struct Renewed {
    pub(super) key: Box<[u8]>,
    pub(super) body: Body,
    pub(super) meta: Bytes,
    pub(super) stamp: u64,
}

/// An object on its way to the disk. Dropping it before it is finished abandons it.
pub struct Writer {
    shared: Arc<Shared>,
    id: u64,
    hash: u64,
    key: Box<[u8]>,
    /// A chunk or less, not sent yet: parts, and small ones joined.
    rest: Vec<Bytes>,
    joined: BytesMut,
    /// Bytes of both.
    held: usize,
    size: u64,
    chunks: usize,
    /// Everything that was given is on its way.
    good: bool,
    finished: bool,
}

impl Writer {
    pub(super) fn begin(shared: &Arc<Shared>, key: &[u8], generation: Generation) -> Option<Self> {
        let hash = shared.hash(key);
        let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
        let mut index = shared.index();
        let refused = !index.ready()
            || index.writes() >= MOST_WRITES
            || key.len() > MOST_KEY_BYTES
            || shared.purger.forgot();
        if refused {
            index.remove(hash);
            drop(index);
            shared.counts.dropped.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        index.begin(hash, id, generation.as_u64());
        drop(index);
        Some(Self {
            shared: shared.clone(),
            id,
            hash,
            key: key.into(),
            rest: Vec::new(),
            joined: BytesMut::new(),
            held: 0,
            size: 0,
            chunks: 0,
            good: true,
            finished: false,
        })
    }

    /// Adds to the body. Whether more is of use: if not, the object will not be stored.
    pub fn push(&mut self, mut part: Bytes) -> bool {
        self.size += part.len() as u64;
        self.good &= self.size <= self.shared.options.most_bytes();
        while self.good && part.has_remaining() {
            // A chunk is sent when it is known that another follows: what is left at the end may
            // belong into the object's record.
            let room = CHUNK - self.held;
            if room == 0 {
                let parts = self.take_rest();
                self.chunks += 1;
                self.good = self.shared.writes.push(Write::Chunk { id: self.id, parts }, CHUNK);
                continue;
            }
            let now = part.split_to(room.min(part.len()));
            self.held += now.len();
            if now.len() < LEAST_PART {
                self.joined.extend_from_slice(&now);
            } else {
                self.join();
                self.rest.push(now);
            }
        }
        self.good
    }

    /// Bytes of the body so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    fn join(&mut self) {
        if !self.joined.is_empty() {
            self.rest.push(self.joined.split().freeze());
        }
    }

    fn take_rest(&mut self) -> Vec<Bytes> {
        self.join();
        self.held = 0;
        std::mem::take(&mut self.rest)
    }

    /// Says that the body is complete. `meta` describes the object to who reads it. Whether the
    /// object is on its way.
    pub fn finish(mut self, meta: Bytes, stamp: &Stamp) -> bool {
        let bytes = self.held + meta.len();
        if !self.good || meta.len() > MOST_META_BYTES {
            return false;
        }
        let finished = Finished {
            id: self.id,
            hash: self.hash,
            key: std::mem::take(&mut self.key),
            stamp: stamp.as_u64(),
            meta,
            size: self.size,
            chunks: self.chunks,
            rest: self.take_rest(),
        };
        self.finished = self.shared.writes.push(Write::Object(finished), bytes);
        self.finished
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        self.shared.index().end(self.hash, self.id);
        self.shared.counts.dropped.fetch_add(1, Ordering::Relaxed);
        if self.chunks > 0 {
            self.shared.writes.push_small(Write::Abandon { id: self.id });
        }
    }
}
