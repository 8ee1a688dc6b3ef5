//! Records of a segment file. A record is a head, a front and a payload; each is covered by a
//! checksum that depends on the segment and on the place in it, so that what lies elsewhere, or is
//! of another file, is none. The front is what a start reads, without the payloads.

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::MOST_KEY_BYTES;

/// Bytes of a head: magic, kind, length of the front, length of the payload, object, and the
/// checksums of the payload and of all before it with the front.
pub(super) const HEAD: usize = 40;
const MAGIC: u32 = u32::from_le_bytes(*b"SVRC");
/// Bytes of the largest front.
const MOST_FRONT: usize = MOST_KEY_BYTES + 64;
/// Bytes of the largest payload: a chunk, or what describes an object.
pub(super) const MOST_PAYLOAD: usize = 2 << 20;

const CHUNK: u32 = 1;
const OBJECT: u32 = 2;
const REMOVED: u32 = 3;

/// Where a record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u32,
    pub(super) offset: u32,
    pub(super) length: u32,
}

impl Place {
    pub(super) const BYTES: usize = 12;

    pub(super) fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let parts = [self.segment, self.offset, self.length];
        for (at, part) in bytes.chunks_exact_mut(4).zip(parts) {
            at.copy_from_slice(&part.to_le_bytes());
        }
        bytes
    }

    pub(super) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let [segment, offset, length] = [u32(&mut bytes)?, u32(&mut bytes)?, u32(&mut bytes)?];
        Some(Self { segment, offset, length })
    }
}

/// The part of a record that says what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Front<'a> {
    /// A part of a large body.
    Chunk { index: u32 },
    /// An object, whose payload is its description and then its body, or the places of its chunks.
    Object(Object<'a>),
    /// The object at this place is none any more.
    Removed(Place),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Object<'a> {
    /// What it was stamped with by `purge`.
    pub(super) stamp: u64,
    /// Bytes of the body.
    pub(super) size: u64,
    /// Chunks of the body; none if it is in the payload.
    pub(super) chunks: u32,
    /// Bytes of the description.
    pub(super) meta: u32,
    /// The oldest segment that a chunk or the object lies in.
    pub(super) first: u32,
    pub(super) key: &'a [u8],
}

impl Front<'_> {
    fn kind(&self) -> u32 {
        match self {
            Self::Chunk { .. } => CHUNK,
            Self::Object(_) => OBJECT,
            Self::Removed(_) => REMOVED,
        }
    }

    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Chunk { index } => index.to_le_bytes().to_vec(),
            Self::Object(object) => {
                let mut front = object.stamp.to_le_bytes().to_vec();
                front.extend_from_slice(&object.size.to_le_bytes());
                for part in [object.chunks, object.meta, object.first] {
                    front.extend_from_slice(&part.to_le_bytes());
                }
                front.extend_from_slice(object.key);
                front
            }
            Self::Removed(place) => place.encode().to_vec(),
        }
    }
}

/// The head and the front of a record with this payload.
pub(super) fn encode(front: &Front<'_>, id: u64, payload: &[Bytes], seed: u64) -> Vec<u8> {
    let mut sum = Xxh3::with_seed(seed);
    let mut length = 0;
    for part in payload {
        sum.update(part);
        length += part.len();
    }
    let body = front.encode();
    let mut record = Vec::with_capacity(HEAD + body.len());
    for part in [MAGIC, front.kind(), body.len() as u32, length as u32] {
        record.extend_from_slice(&part.to_le_bytes());
    }
    record.extend_from_slice(&id.to_le_bytes());
    record.extend_from_slice(&sum.digest().to_le_bytes());
    record.extend_from_slice(&front_sum(&record, &body, seed).to_le_bytes());
    record.extend_from_slice(&body);
    record
}

fn front_sum(head: &[u8], front: &[u8], seed: u64) -> u64 {
    let mut sum = Xxh3::with_seed(seed);
    sum.update(head);
    sum.update(front);
    sum.digest()
}

/// A head that was read. Its front may still be wrong.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    kind: u32,
    front: u32,
    payload: u32,
    pub(super) id: u64,
    payload_sum: u64,
    front_sum: u64,
}

impl Head {
    pub(super) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let magic = u32(&mut bytes)?;
        let head = Self {
            kind: u32(&mut bytes)?,
            front: u32(&mut bytes)?,
            payload: u32(&mut bytes)?,
            id: u64(&mut bytes)?,
            payload_sum: u64(&mut bytes)?,
            front_sum: u64(&mut bytes)?,
        };
        let fits = head.front as usize <= MOST_FRONT && head.payload as usize <= MOST_PAYLOAD;
        (magic == MAGIC && fits).then_some(head)
    }

    /// Bytes of head and front.
    pub(super) fn start(&self) -> usize {
        HEAD + self.front as usize
    }

    /// Bytes of the record.
    pub(super) fn length(&self) -> usize {
        self.start() + self.payload as usize
    }

    /// The front, if the record's start is whole.
    pub(super) fn front<'a>(&self, record: &'a [u8], seed: u64) -> Option<Front<'a>> {
        let head = record.get(..HEAD - 8)?;
        let mut front = record.get(HEAD..self.start())?;
        if front_sum(head, front, seed) != self.front_sum {
            return None;
        }
        match self.kind {
            CHUNK => Some(Front::Chunk { index: u32(&mut front)? }),
            REMOVED => Some(Front::Removed(Place::decode(front)?)),
            OBJECT => Some(Front::Object(Object {
                stamp: u64(&mut front)?,
                size: u64(&mut front)?,
                chunks: u32(&mut front)?,
                meta: u32(&mut front)?,
                first: u32(&mut front)?,
                key: front,
            })),
            _ => None,
        }
    }

    /// Whether the payload is whole.
    pub(super) fn payload_is_whole(&self, payload: &[u8], seed: u64) -> bool {
        let mut sum = Xxh3::with_seed(seed);
        sum.update(payload);
        payload.len() == self.payload as usize && sum.digest() == self.payload_sum
    }
}

fn u32(rest: &mut &[u8]) -> Option<u32> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u32::from_le_bytes(*taken))
}

fn u64(rest: &mut &[u8]) -> Option<u64> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u64::from_le_bytes(*taken))
}

/// A record whose sum over its start is set right, since no fuzzer guesses it. What is read as one is
/// written as the same.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(input: &[u8]) {
    const SEED: u64 = 7;
    let mut record = input.to_vec();
    let Some(head) = Head::decode(&record) else { return };
    let Some(front) = record.get(HEAD..head.start()) else { return };
    let sum = front_sum(record.get(..HEAD - 8).unwrap_or_default(), front, SEED);
    if let Some(place) = record.get_mut(HEAD - 8..HEAD) {
        place.copy_from_slice(&sum.to_le_bytes());
    }
    let Some(head) = Head::decode(&record) else { return };
    let Some(front) = head.front(&record, SEED) else { return };
    let payload = record.get(head.start()..).unwrap_or_default();
    assert!(head.length() <= HEAD + MOST_FRONT + MOST_PAYLOAD, "a record without bounds");
    let written = encode(&front, head.id, &[Bytes::copy_from_slice(payload)], SEED);
    let again = Head::decode(&written).and_then(|head| head.front(&written, SEED));
    // What may follow a front that has one length is not read.
    assert_eq!(again, Some(front));
    if head.payload_is_whole(payload, SEED) && written.len() == head.start() {
        assert_eq!(written, record.get(..head.start()).unwrap_or_default());
    }
}
