//! A stored body on its way to a client.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use selvedge_cache::Span;
use selvedge_cache::disk;
use selvedge_cache::object::Body;
use tokio::sync::OwnedSemaphorePermit;

/// What is copied of a chunk when there is no room to keep it.
const SIP: u64 = 16 << 10;

/// A stored body, or parts of one.
pub(crate) enum StoredBody {
    /// The whole, piece by piece.
    Whole {
        /// The body.
        body: Body,
        /// The piece that is next.
        next: usize,
        /// Bytes still to be sent.
        left: u64,
    },
    /// Parts of it, and what stands between them.
    Parts {
        /// What is still to be sent.
        parts: VecDeque<Bytes>,
        /// Its bytes.
        left: u64,
    },
}

impl StoredBody {
    pub(crate) fn whole(body: Body) -> Self {
        let left = body.size();
        Self::Whole { body, next: 0, left }
    }

    /// For a response that is a head alone: nothing of a body, and yet which that is.
    pub(crate) fn unsent(body: Body) -> Self {
        Self::Whole { body, next: usize::MAX, left: 0 }
    }

    /// The body, where it is the whole of one.
    pub(crate) fn source(&self) -> Option<&Body> {
        match self {
            Self::Whole { body, .. } => Some(body),
            Self::Parts { .. } => None,
        }
    }

    /// Another body in the place of this one, sent if this is.
    pub(crate) fn replaced(&self, body: Body) -> Self {
        if self.left() == 0 { Self::unsent(body) } else { Self::whole(body) }
    }

    pub(crate) fn parts(parts: VecDeque<Bytes>) -> Self {
        let left = parts.iter().map(|part| part.len() as u64).sum();
        Self::Parts { parts, left }
    }

    /// Bytes still to come.
    pub(crate) fn left(&self) -> u64 {
        match self {
            Self::Whole { left, .. } | Self::Parts { left, .. } => *left,
        }
    }

    /// The next bytes.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        let bytes = match self {
            Self::Whole { body, next, .. } => {
                let piece = body.piece(*next)?.clone();
                *next += 1;
                piece
            }
            Self::Parts { parts, .. } => parts.pop_front()?,
        };
        match self {
            Self::Whole { left, .. } | Self::Parts { left, .. } => {
                *left = left.saturating_sub(bytes.len() as u64);
            }
        }
        Some(bytes)
    }
}

/// A piece of an answer that is made of parts of a body.
pub(super) enum Piece {
    /// What stands between parts.
    Between(Bytes),
    /// A part.
    Part(Span),
}

impl Piece {
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Between(bytes) => bytes.len() as u64,
            Self::Part(span) => span.bytes(),
        }
    }
}

/// A stored body on disk ended early: it is damaged there, or can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stored body can't be read to its end")]
pub(crate) struct Damaged;

/// Bytes that are being read, and the room that they may take until the client has them.
type Reading = Pin<Box<dyn Future<Output = Option<Bytes>> + Send>>;

/// A stored body on disk, or parts of it, read as the client takes it.
pub(crate) struct DiskBody {
    body: disk::Body,
    pieces: VecDeque<Piece>,
    left: u64,
    reading: Option<Reading>,
    room: Option<OwnedSemaphorePermit>,
}

impl DiskBody {
    pub(super) fn whole(body: disk::Body) -> Self {
        let span = Span { start: 0, end: body.size() };
        Self::parts(body, VecDeque::from([Piece::Part(span)]))
    }

    pub(super) fn parts(body: disk::Body, pieces: VecDeque<Piece>) -> Self {
        let left = pieces.iter().map(Piece::bytes).sum();
        Self { body, pieces, left, reading: None, room: None }
    }

    /// Bytes still to come.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// The next bytes.
    pub(crate) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Damaged>>> {
        loop {
            let bytes = match (&mut self.reading, self.pieces.front_mut()) {
                (Some(reading), Some(Piece::Part(span))) => {
                    let read = ready!(reading.as_mut().poll(cx));
                    self.reading = None;
                    let Some(bytes) = read else { return Poll::Ready(Some(Err(Damaged))) };
                    span.start += bytes.len() as u64;
                    bytes
                }
                (None, Some(Piece::Part(span))) if span.start < span.end => {
                    let span = *span;
                    self.read(span);
                    continue;
                }
                (_, Some(Piece::Between(bytes))) if !bytes.is_empty() => std::mem::take(bytes),
                (_, Some(_)) => {
                    self.pieces.pop_front();
                    continue;
                }
                (_, None) => return Poll::Ready(None),
            };
            self.left = self.left.saturating_sub(bytes.len() as u64);
            return Poll::Ready(Some(Ok(bytes)));
        }
    }

    /// Begins to read the first bytes of a part.
    fn read(&mut self, Span { start, end }: Span) {
        // What came before is the client's.
        self.room = None;
        self.room = self.body.room();
        let body = self.body.clone();
        let keep = self.room.is_some();
        let end = if keep { end } else { end.min(start + SIP) };
        self.reading = Some(Box::pin(async move {
            let bytes = body.read(start..end).await?;
            Some(if keep { bytes } else { Bytes::copy_from_slice(&bytes) })
        }));
    }
}
