//! Stored responses.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};

use std::sync::Arc;

use crate::disk;
use crate::fields::range::Span;
use crate::policy::Freshness;

/// Bodies are kept in pieces of at most this, so that no allocation is larger.
const PIECE: usize = 1 << 20;
/// What an entry of a header map takes beside its name and value: `http`'s own bookkeeping.
const FIELD_OVERHEAD: usize = 104;

/// The body of a stored response: immutable, and shared by all that send it.
#[derive(Debug, Clone, Default)]
pub struct Body {
    content: Content,
    size: u64,
}

#[derive(Debug, Clone)]
enum Content {
    Memory(Arc<[Bytes]>),
    /// In a box: it is as good as never there, and would make every object larger.
    Disk(Box<disk::Body>),
}

impl Default for Content {
    fn default() -> Self {
        Self::Memory(Arc::default())
    }
}

/// A body that stays on disk. It is for one answer, not to be kept: it holds on to files.
impl From<disk::Body> for Body {
    fn from(body: disk::Body) -> Self {
        let size = body.size();
        Self { content: Content::Disk(Box::new(body)), size }
    }
}

impl Body {
    /// Copies what came in chunks into as few allocations as serve, so that what is kept is
    /// exactly what is counted.
    pub fn gather(chunks: &[Bytes]) -> Self {
        let size: usize = chunks.iter().map(Bytes::len).sum();
        let mut pieces = Vec::with_capacity(size.div_ceil(PIECE));
        let mut left = size;
        let mut piece = BytesMut::with_capacity(left.min(PIECE));
        for chunk in chunks {
            let mut chunk = chunk.as_ref();
            while !chunk.is_empty() {
                let take = chunk.len().min(PIECE - piece.len());
                let (now, later) = chunk.split_at(take);
                piece.extend_from_slice(now);
                chunk = later;
                if piece.len() == PIECE {
                    left -= PIECE;
                    let next = BytesMut::with_capacity(left.min(PIECE));
                    pieces.push(std::mem::replace(&mut piece, next).freeze());
                }
            }
        }
        if !piece.is_empty() {
            pieces.push(piece.freeze());
        }
        Self { content: Content::Memory(pieces.into()), size: size as u64 }
    }

    /// Where it is to be read, if it is not in memory.
    pub fn on_disk(&self) -> Option<&disk::Body> {
        match &self.content {
            Content::Memory(_) => None,
            Content::Disk(body) => Some(body),
        }
    }

    /// All that is in memory.
    pub fn pieces(&self) -> &[Bytes] {
        match &self.content {
            Content::Memory(pieces) => pieces,
            Content::Disk(_) => &[],
        }
    }

    /// Bytes in it.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The piece at `index`, in memory.
    pub fn piece(&self, index: usize) -> Option<&Bytes> {
        self.pieces().get(index)
    }

    /// The bytes of a part, without copying them, as far as they are in memory.
    pub fn slices(&self, span: Span) -> impl Iterator<Item = Bytes> + '_ {
        let mut at = 0u64;
        self.pieces().iter().filter_map(move |piece| {
            let (start, end) = (at, at + piece.len() as u64);
            at = end;
            let from = span.start.clamp(start, end) - start;
            let to = span.end.clamp(start, end) - start;
            let range = usize::try_from(from).ok()?..usize::try_from(to).ok()?;
            (!range.is_empty()).then(|| piece.slice(range))
        })
    }
}

/// A stored response.
#[derive(Debug, Clone)]
pub struct Object {
    /// Its status.
    pub status: StatusCode,
    /// Its fields, without those that are of one message.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Body,
    /// For how long it is good.
    pub freshness: Freshness,
}

impl Object {
    /// What it occupies, in bytes.
    pub fn bytes(&self) -> usize {
        let fields: usize = self
            .headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD)
            .sum();
        let body = usize::try_from(self.body.size).unwrap_or(usize::MAX);
        let pieces = size_of_val(self.body.pieces());
        size_of::<Self>().saturating_add(fields).saturating_add(pieces).saturating_add(body)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_body_is_its_chunks(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..5),
            (a, b) in (0u64..300, 0u64..300),
        ) {
            let whole: Vec<u8> = chunks.concat();
            let chunks: Vec<Bytes> = chunks.into_iter().map(Bytes::from).collect();
            let body = Body::gather(&chunks);
            prop_assert_eq!(body.size(), whole.len() as u64);
            let len = whole.len() as u64;
            let span = Span { start: a.min(b).min(len), end: a.max(b).min(len) };
            let part: Vec<u8> = body.slices(span).flat_map(|bytes| bytes.to_vec()).collect();
            prop_assert_eq!(&part[..], &whole[span.start as usize..span.end as usize]);
        }
    }

    #[test]
    fn large_bodies_are_in_pieces() {
        let chunks: Vec<Bytes> = (0..5).map(|at| Bytes::from(vec![at; PIECE / 2])).collect();
        let body = Body::gather(&chunks);
        let pieces: Vec<_> = (0..).map_while(|at| body.piece(at)).map(Bytes::len).collect();
        assert_eq!(pieces, [PIECE, PIECE, PIECE / 2]);
        let span = Span { start: PIECE as u64 - 1, end: PIECE as u64 + 1 };
        let part: Vec<u8> = body.slices(span).flat_map(|bytes| bytes.to_vec()).collect();
        assert_eq!(part, [1, 2]);
    }
}
