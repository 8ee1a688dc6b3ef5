//! What goes over the socket, version 1.
//!
//! A frame is a length (four bytes, big-endian, of what follows), the header's length (likewise),
//! a header in JSON and a body of raw bytes. The first frame from each side is [`Hello`] and
//! [`Welcome`]. A connection has one purpose: calls, many at a time, each answered when it is done;
//! or one watch, one consumer, one blob, so that each has the socket's own back-pressure and a slow
//! one holds up nobody else.

use std::io;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use selvedge_model::{Digest, Generation};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio_util::codec::{Decoder, Encoder, Framed};

use crate::{Change, Document, Expect, FabricError, Lease, MAX_VALUE, Message, WriteError};

/// The protocol's version. Both ends must have the same: they are the same program.
pub(crate) const VERSION: u32 = 1;
/// The longest header, in bytes.
const MAX_HEADER: usize = 16 * 1024;
/// The longest body, in bytes.
const MAX_BODY: usize = MAX_VALUE;
/// How many leases or digests go into one frame.
pub(crate) const PART: usize = 500;

/// The client's first frame.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) version: u32,
    pub(crate) purpose: Purpose,
}

/// What a connection is for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Purpose {
    /// [`Request`]s and [`Response`]s.
    Calls,
    /// [`Event`]s of documents.
    Watch { prefix: String, after: Option<Generation> },
    /// [`Event`]s of messages.
    Consume { stream: String, name: String },
    /// [`Event`]s of leases.
    WatchLeases { prefix: String },
    /// [`Event::Piece`]s to the client, then [`Event::End`].
    ReadBlob { digest: Digest },
    /// [`Event::Piece`]s to the server, then [`Event::End`]; answered by [`Event::Stored`].
    PutBlob,
}

/// The server's first frame.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Welcome {
    /// Go on.
    Ready { incarnation: u64 },
    /// The server does not want this connection.
    Refused { reason: String },
    /// What the connection is for has failed.
    Failed(Failure),
}

/// One call. The body is the value or the payload.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) id: u64,
    pub(crate) call: Call,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Call {
    Incarnation,
    Get { key: String },
    List { prefix: String },
    Put { key: String, expect: Expect },
    Delete { key: String, expect: Expect },
    Publish { stream: String, id: Option<String> },
    Acknowledge { stream: String, name: String, sequence: u64 },
    Trim { stream: String, sequence: u64 },
    Lease { name: String, holder: String, ttl: Duration },
    ReleaseLease { name: String, holder: String },
    Leases { prefix: String },
    HasBlob { digest: Digest },
    Blobs,
    DeleteBlob { digest: Digest },
}

/// A part of the answer to the call `id`, or the whole.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Response {
    pub(crate) id: u64,
    /// Whether this is the last part.
    pub(crate) last: bool,
    pub(crate) answer: Answer,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Done,
    Yes(bool),
    Number(u64),
    Generation(Generation),
    /// The body is the value.
    Document {
        key: String,
        generation: Generation,
    },
    Absent,
    Lease(Option<Lease>),
    /// The body is a JSON array of leases.
    Leases,
    /// The body is a sequence of digests, 32 bytes each.
    Digests,
    Failed(Failure),
}

/// A step of whatever the connection follows.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Event {
    /// The body is the value.
    Put {
        key: String,
        generation: Generation,
    },
    Delete {
        key: String,
        generation: Generation,
    },
    Current(Generation),
    Reset,
    /// The body is the payload.
    Data {
        sequence: u64,
    },
    Gap {
        first_available: u64,
    },
    /// The body is a JSON array; the list goes on in the next frame unless this is the last part.
    Leases {
        last: bool,
    },
    /// The body is a piece of a blob.
    Piece,
    /// The blob is complete.
    End,
    /// The blob is stored.
    Stored(Digest),
    Failed(Failure),
}

/// An error on its way to the client.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Failure {
    Unreachable(String),
    Invalid(String),
    Store(String),
    NoSuchBlob(Digest),
    Damaged(Digest),
    Conflict { key: String, current: Option<Generation> },
}

impl From<FabricError> for Failure {
    fn from(error: FabricError) -> Self {
        match error {
            FabricError::Unreachable(error) => Self::Unreachable(error.to_string()),
            FabricError::Invalid(text) => Self::Invalid(text),
            FabricError::NoSuchBlob(digest) => Self::NoSuchBlob(digest),
            FabricError::Damaged(digest) => Self::Damaged(digest),
            FabricError::Store(text) => Self::Store(text),
            FabricError::File(error) => Self::Store(format!("server's file: {error}")),
            error @ FabricError::Document { .. } => Self::Store(error.to_string()),
        }
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Conflict { key, current } => Self::Conflict { key, current },
            WriteError::Fabric(error) => error.into(),
        }
    }
}

impl From<Failure> for WriteError {
    fn from(failure: Failure) -> Self {
        Self::Fabric(match failure {
            Failure::Conflict { key, current } => return Self::Conflict { key, current },
            Failure::Unreachable(text) => FabricError::Unreachable(io::Error::other(text)),
            Failure::Invalid(text) => FabricError::Invalid(text),
            Failure::Store(text) => FabricError::Store(text),
            Failure::NoSuchBlob(digest) => FabricError::NoSuchBlob(digest),
            Failure::Damaged(digest) => FabricError::Damaged(digest),
        })
    }
}

impl From<Failure> for FabricError {
    fn from(failure: Failure) -> Self {
        WriteError::from(failure).into()
    }
}

impl Event {
    pub(crate) fn of_change(change: Change) -> (Self, Bytes) {
        match change {
            Change::Put(Document { key, generation, value }) => {
                (Self::Put { key, generation }, value)
            }
            Change::Delete { key, generation } => (Self::Delete { key, generation }, Bytes::new()),
            Change::Current(generation) => (Self::Current(generation), Bytes::new()),
            Change::Reset => (Self::Reset, Bytes::new()),
        }
    }

    pub(crate) fn of_message(message: Message) -> (Self, Bytes) {
        match message {
            Message::Data { sequence, payload } => (Self::Data { sequence }, payload),
            Message::Gap { first_available } => (Self::Gap { first_available }, Bytes::new()),
        }
    }

    pub(crate) fn into_change(self, value: Bytes) -> Option<Change> {
        Some(match self {
            Self::Put { key, generation } => Change::Put(Document { key, generation, value }),
            Self::Delete { key, generation } => Change::Delete { key, generation },
            Self::Current(generation) => Change::Current(generation),
            Self::Reset => Change::Reset,
            _ => return None,
        })
    }

    pub(crate) fn into_message(self, payload: Bytes) -> Option<Message> {
        Some(match self {
            Self::Data { sequence } => Message::Data { sequence, payload },
            Self::Gap { first_available } => Message::Gap { first_available },
            _ => return None,
        })
    }
}

/// Cuts a list of leases into parts, each a JSON array, and says which is the last. An empty list
/// is one part.
pub(crate) fn lease_parts(leases: &[Lease]) -> io::Result<Vec<(bool, Bytes)>> {
    if leases.is_empty() {
        return Ok(vec![(true, Bytes::from_static(b"[]"))]);
    }
    let count = leases.len().div_ceil(PART);
    leases
        .chunks(PART)
        .enumerate()
        .map(|(index, part)| Ok((index + 1 == count, serde_json::to_vec(part)?.into())))
        .collect()
}

/// A header, still as JSON, and a body.
#[derive(Debug)]
pub(crate) struct Frame {
    header: Bytes,
    pub(crate) body: Bytes,
}

impl Frame {
    pub(crate) fn new(header: &impl Serialize, body: Bytes) -> io::Result<Self> {
        Ok(Self { header: serde_json::to_vec(header)?.into(), body })
    }

    pub(crate) fn parse<T: DeserializeOwned>(&self) -> io::Result<T> {
        Ok(serde_json::from_slice(&self.header)?)
    }
}

/// Splits the byte stream into frames.
#[derive(Debug)]
pub(crate) struct Codec;

/// A connection cut into frames.
pub(crate) type Connection = Framed<UnixStream, Codec>;

const LENGTH: usize = 4;

impl Decoder for Codec {
    type Item = Frame;
    type Error = io::Error;

    fn decode(&mut self, source: &mut BytesMut) -> io::Result<Option<Frame>> {
        let mut lengths = source.as_ref();
        let (Ok(total), Ok(header)) = (lengths.try_get_u32(), lengths.try_get_u32()) else {
            return Ok(None);
        };
        let (total, header) = (total as usize, header as usize);
        if header > MAX_HEADER || total < LENGTH + header || total > LENGTH + header + MAX_BODY {
            return Err(invalid("a frame breaks the protocol's limits"));
        }
        if source.len() < LENGTH + total {
            source.reserve(LENGTH + total - source.len());
            return Ok(None);
        }
        let mut frame = source.split_to(LENGTH + total).freeze();
        frame.advance(2 * LENGTH);
        let header = frame.split_to(header);
        Ok(Some(Frame { header, body: frame }))
    }
}

impl Encoder<Frame> for Codec {
    type Error = io::Error;

    fn encode(&mut self, frame: Frame, target: &mut BytesMut) -> io::Result<()> {
        let Frame { header, body } = frame;
        let total = LENGTH + header.len() + body.len();
        if header.len() > MAX_HEADER || body.len() > MAX_BODY {
            return Err(invalid("a frame is too large to send"));
        }
        target.reserve(LENGTH + total);
        target.put_u32(u32::try_from(total).map_err(|_| invalid("a frame is too large to send"))?);
        target.put_u32(header.len() as u32);
        target.put(header);
        target.put(body);
        Ok(())
    }
}

pub(crate) fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

pub(crate) fn framed(stream: UnixStream) -> Connection {
    Framed::new(stream, Codec)
}

/// The next frame; the other end's going away is an error.
pub(crate) async fn next(
    frames: &mut (impl futures_util::Stream<Item = io::Result<Frame>> + Unpin),
) -> io::Result<Frame> {
    let gone = || io::Error::new(io::ErrorKind::UnexpectedEof, "the other end has gone");
    frames.next().await.unwrap_or_else(|| Err(gone()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_arrive_whole_however_they_are_cut(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..5),
            cut in 1..50_usize,
        ) {
            let mut bytes = BytesMut::new();
            for (id, body) in bodies.iter().enumerate() {
                let request = Request { id: id as u64, call: Call::Get { key: "k".to_owned() } };
                let frame = Frame::new(&request, Bytes::copy_from_slice(body)).unwrap();
                Codec.encode(frame, &mut bytes).unwrap();
            }
            let (mut received, mut arrived) = (BytesMut::new(), Vec::new());
            for piece in bytes.chunks(cut) {
                received.extend_from_slice(piece);
                while let Some(frame) = Codec.decode(&mut received).unwrap() {
                    prop_assert_eq!(frame.parse::<Request>().unwrap().id, arrived.len() as u64);
                    arrived.push(frame.body.to_vec());
                }
            }
            prop_assert_eq!(arrived, bodies);
        }

        #[test]
        fn no_bytes_make_the_codec_panic_or_hoard(
            bytes in prop::collection::vec(any::<u8>(), 0..64),
            zeros in 0..8_usize,
        ) {
            // Zeros in front make small lengths likely.
            let mut received = BytesMut::from(&vec![0; zeros][..]);
            received.extend_from_slice(&bytes);
            while let Ok(Some(_)) = Codec.decode(&mut received) {}
            prop_assert!(received.capacity() < 2 * (MAX_HEADER + MAX_BODY));
        }
    }

    #[test]
    fn what_is_too_large_is_not_sent() {
        let mut bytes = BytesMut::new();
        let frame = Frame::new(&"header", vec![0; MAX_BODY + 1].into()).unwrap();
        assert!(Codec.encode(frame, &mut bytes).is_err());
        let frame = Frame::new(&"h".repeat(MAX_HEADER), Bytes::new()).unwrap();
        assert!(Codec.encode(frame, &mut bytes).is_err());
        assert!(bytes.is_empty());
    }
}
