//! Reading: the threads that do, and what they give.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::queue::Popped;
use super::record::{Front, Place};
use super::segment::{Record, Segment};
use super::{CHUNK, Shared};
use crate::purge::Stamp;

/// What a thread that reads is to do.
pub(super) enum Read {
    Object(Get),
    Chunk(Part),
}

pub(super) struct Get {
    pub(super) key: Box<[u8]>,
    pub(super) hash: u64,
    pub(super) place: Place,
    pub(super) segment: Arc<Segment>,
    pub(super) reply: oneshot::Sender<Option<Found>>,
}

pub(super) struct Part {
    pin: Arc<Pin>,
    index: u32,
    place: Place,
    reply: oneshot::Sender<Option<Bytes>>,
}

/// An object that was found. While it or its body is held, it can be read, and purges that it
/// was not checked against are remembered.
#[derive(Debug)]
pub struct Found {
    /// What describes it.
    pub meta: Bytes,
    /// Which purges it was checked against.
    pub stamp: Stamp,
    /// Its body.
    pub body: Body,
}

/// The body of an object on disk.
#[derive(Clone)]
pub struct Body {
    size: u64,
    content: Content,
    pin: Arc<Pin>,
}

#[derive(Clone)]
enum Content {
    Whole(Bytes),
    Chunks(Arc<[Place]>),
}

/// What keeps an object's segments.
struct Pin {
    shared: Arc<Shared>,
    id: u64,
    hash: u64,
    place: Place,
    segments: HashMap<u32, Arc<Segment>>,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("size", &self.size).finish_non_exhaustive()
    }
}

impl Body {
    /// Bytes in it.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// All of it, where it is no longer than a chunk: then it was read when it was found.
    pub fn whole(&self) -> Option<&Bytes> {
        match &self.content {
            Content::Whole(bytes) => Some(bytes),
            Content::Chunks(_) => None,
        }
    }

    /// Room in memory for a chunk that is kept for as long as a client takes to read it. None when
    /// many are kept already: then a reader should copy the little that it needs now.
    pub fn room(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.pin.shared.rooms).try_acquire_owned().ok()
    }

    /// What it is, for the thread that writes: the object's number, hash and place, and the places
    /// of its chunks.
    pub(super) fn parts(&self) -> Option<(u64, u64, Place, &[Place])> {
        match &self.content {
            Content::Whole(_) => None,
            Content::Chunks(places) => Some((self.pin.id, self.pin.hash, self.pin.place, places)),
        }
    }

    /// The first bytes of a part of it: all of the part, or what one chunk holds of it. Nothing:
    /// they are not there, or are damaged.
    pub async fn read(&self, part: Range<u64>) -> Option<Bytes> {
        let end = part.end.min(self.size);
        if part.start >= end {
            return None;
        }
        let (from, to) = (usize::try_from(part.start).ok()?, usize::try_from(end).ok()?);
        let chunks = match &self.content {
            Content::Whole(bytes) => return bytes.get(from..to).map(|part| bytes.slice_ref(part)),
            Content::Chunks(chunks) => chunks,
        };
        let index = from / CHUNK;
        let begin = index * CHUNK;
        let place = *chunks.get(index)?;
        let (reply, answer) = oneshot::channel();
        let part = Part { pin: self.pin.clone(), index: index as u32, place, reply };
        self.pin.shared.reads.push(Read::Chunk(part), 0).then_some(())?;
        let chunk = answer.await.ok()??;
        let wanted = chunk.get(from - begin..(to - begin).min(chunk.len()))?;
        Some(chunk.slice_ref(wanted))
    }
}

/// Reads what is asked for until the tier ends.
pub(super) fn run(shared: &Arc<Shared>) {
    loop {
        match shared.reads.pop(Duration::from_secs(60)) {
            Popped::Job(Read::Object(get)) if !get.reply.is_closed() => {
                let found = object(shared, &get);
                // Who asked may have gone.
                let _ = get.reply.send(found);
            }
            Popped::Job(Read::Chunk(part)) if !part.reply.is_closed() => {
                let bytes = chunk(shared, &part);
                let _ = part.reply.send(bytes);
            }
            Popped::Closed => return,
            Popped::Job(_) | Popped::Nothing => {}
        }
    }
}

/// Reads a record; one that can't be read or is damaged is removed with its object.
fn record(
    shared: &Shared,
    segment: &Segment,
    place: Place,
    (hash, object): (u64, Place),
) -> Option<Record> {
    match segment.read(place) {
        Ok(Some(record)) => Some(record),
        Ok(None) => {
            shared.damaged(hash, object);
            None
        }
        Err(error) => {
            shared.failed("read", &error);
            shared.index().remove_at(hash, object);
            None
        }
    }
}

fn object(shared: &Arc<Shared>, get: &Get) -> Option<Found> {
    let record = record(shared, &get.segment, get.place, (get.hash, get.place))?;
    let Some(Front::Object(object)) = record.front() else { return None };
    if object.key != &*get.key {
        return None;
    }
    let payload = record.payload();
    let meta = payload.get(..object.meta as usize)?;
    let rest = payload.get(object.meta as usize..)?;
    let mut segments = HashMap::from([(get.segment.id, get.segment.clone())]);
    let content = if object.chunks == 0 {
        Content::Whole(payload.slice_ref(rest))
    } else {
        let places = places(rest);
        let index = shared.index();
        for place in places.iter() {
            if let Entry::Vacant(entry) = segments.entry(place.segment) {
                entry.insert(index.segment(place.segment)?);
            }
        }
        Content::Chunks(places)
    };
    let (id, hash, place) = (record.id(), get.hash, get.place);
    let pin = Arc::new(Pin { shared: shared.clone(), id, hash, place, segments });
    let body = Body { size: object.size, content, pin };
    Some(Found { meta: payload.slice_ref(meta), stamp: Stamp::from_u64(object.stamp), body })
}

/// The places of an object's chunks.
pub(super) fn places(table: &[u8]) -> Arc<[Place]> {
    table.chunks_exact(Place::BYTES).filter_map(Place::decode).collect()
}

fn chunk(shared: &Shared, part: &Part) -> Option<Bytes> {
    let segment = part.pin.segments.get(&part.place.segment)?;
    let object = (part.pin.hash, part.pin.place);
    let record = record(shared, segment, part.place, object)?;
    let right =
        record.id() == part.pin.id && record.front() == Some(Front::Chunk { index: part.index });
    if !right {
        shared.damaged(part.pin.hash, part.pin.place);
        return None;
    }
    Some(record.payload())
}
