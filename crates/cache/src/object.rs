//! Stored responses.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};

use std::sync::{Arc, OnceLock};

use crate::disk;
use crate::fields::range::Span;
use crate::policy::Freshness;

/// Bodies are kept in pieces of at most this, so that no allocation is larger.
const PIECE: usize = 1 << 20;
/// What an entry of a header map takes beside its name and value: `http`'s own bookkeeping.
const FIELD_OVERHEAD: usize = 104;

/// The body of a stored response: immutable, and shared by all that send it. In memory it may be
/// kept in content codings as well, which last as long as itself.
#[derive(Debug, Clone, Default)]
pub struct Body {
    content: Content,
    size: u64,
}

#[derive(Debug, Clone)]
enum Content {
    Memory(Arc<Pieces>),
    /// In a box: it is as good as never there, and would make every object larger.
    Disk(Box<disk::Body>),
}

impl Default for Content {
    fn default() -> Self {
        Self::Memory(Arc::default())
    }
}

/// A body in memory. Most have one piece, and so one allocation beside it.
#[derive(Debug, Default)]
struct Pieces {
    first: Bytes,
    more: Box<[Bytes]>,
    kept: Kept,
}

/// What is kept of a body in content codings: a list, since there are few.
#[derive(Debug, Default)]
struct Kept(OnceLock<Box<Link>>);

#[derive(Debug)]
struct Link {
    coding: &'static str,
    encoded: Encoded,
    next: Kept,
}

/// A body in a content coding.
#[derive(Debug, Clone)]
pub enum Encoded {
    /// As it is then.
    Shorter(Body),
    /// It is not worth keeping, nor encoding again.
    NoShorter,
}

impl Kept {
    fn first(&self) -> Option<&Link> {
        self.0.get().map(Box::as_ref)
    }

    fn links(&self) -> impl Iterator<Item = &Link> {
        std::iter::successors(self.first(), |link| link.next.first())
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
        let mut pieces = pieces.into_iter();
        let first = pieces.next().unwrap_or_default();
        let pieces = Pieces { first, more: pieces.collect(), kept: Kept::default() };
        Self { content: Content::Memory(Arc::new(pieces)), size: size as u64 }
    }

    /// Where it is to be read, if it is not in memory.
    pub fn on_disk(&self) -> Option<&disk::Body> {
        match &self.content {
            Content::Memory(_) => None,
            Content::Disk(body) => Some(body),
        }
    }

    fn memory(&self) -> Option<&Arc<Pieces>> {
        match &self.content {
            Content::Memory(pieces) => Some(pieces),
            Content::Disk(_) => None,
        }
    }

    /// All that is in memory.
    pub fn pieces(&self) -> impl Iterator<Item = &Bytes> {
        let all = self.memory().map(|it| std::iter::once(&it.first).chain(&it.more));
        all.into_iter().flatten().filter(|piece| !piece.is_empty())
    }

    /// Whether it is the very same, in memory, and not only equal.
    pub fn is(&self, other: &Self) -> bool {
        match (self.memory(), other.memory()) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// What is kept of it in a content coding.
    pub fn encoded(&self, coding: &str) -> Option<&Encoded> {
        let mut links = self.memory()?.kept.links();
        links.find(|link| link.coding == coding).map(|link| &link.encoded)
    }

    /// Keeps it in a content coding too, if it is in memory. What was kept first stays. It takes
    /// more room from then on: whoever has stored it is to have it counted again.
    pub fn keep(&self, coding: &'static str, encoded: Encoded) {
        let Some(pieces) = self.memory() else { return };
        let mut new = Box::new(Link { coding, encoded, next: Kept::default() });
        let mut last = &pieces.kept;
        // Somebody else may be faster at each end.
        while let Err(back) = last.0.set(new) {
            let Some(link) = last.0.get() else { return };
            if link.coding == coding {
                return;
            }
            (new, last) = (back, &link.next);
        }
    }

    /// What it occupies beside this value, with what is kept of it, in bytes.
    fn bytes(&self) -> usize {
        let own = usize::try_from(self.size).unwrap_or(usize::MAX);
        let Some(pieces) = self.memory() else { return own };
        let shared = 2 * size_of::<usize>() + size_of::<Pieces>() + size_of_val(&*pieces.more);
        let kept = pieces.kept.links().map(|link| {
            size_of::<Link>()
                + match &link.encoded {
                    Encoded::Shorter(body) => body.bytes(),
                    Encoded::NoShorter => 0,
                }
        });
        own.saturating_add(shared).saturating_add(kept.sum())
    }

    /// Bytes in it.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The piece at `index`, in memory.
    pub fn piece(&self, index: usize) -> Option<&Bytes> {
        let pieces = self.memory()?;
        match index.checked_sub(1) {
            None => Some(&pieces.first).filter(|piece| !piece.is_empty()),
            Some(index) => pieces.more.get(index),
        }
    }

    /// The bytes of a part, without copying them, as far as they are in memory.
    pub fn slices(&self, span: Span) -> impl Iterator<Item = Bytes> + '_ {
        let mut at = 0u64;
        self.pieces().filter_map(move |piece| {
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
        size_of::<Self>().saturating_add(fields).saturating_add(self.body.bytes())
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

    #[test]
    fn a_body_is_kept_in_codings_and_counted_with_them() {
        let body = |bytes| Body::gather(&[Bytes::from(vec![0; bytes])]);
        let plain = body(1000);
        let (alone, shared) = (plain.bytes(), plain.clone());
        shared.keep("gzip", Encoded::Shorter(body(300)));
        shared.keep("br", Encoded::NoShorter);
        // What was kept first stays.
        plain.keep("gzip", Encoded::NoShorter);
        let size = |coding| match plain.encoded(coding) {
            Some(Encoded::Shorter(body)) => Some(body.size()),
            Some(Encoded::NoShorter) => Some(0),
            None => None,
        };
        assert_eq!(["gzip", "br", "zstd"].map(size), [Some(300), Some(0), None]);
        assert_eq!(plain.bytes() - alone, 2 * size_of::<Link>() + body(300).bytes());
        assert!(plain.is(&shared) && !plain.is(&body(1000)));
        // Many at once.
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        std::thread::scope(|scope| {
            for name in names.iter().chain(names.iter().rev()) {
                scope.spawn(|| plain.keep(name, Encoded::NoShorter));
            }
        });
        let kept = plain.memory().map(|pieces| pieces.kept.links().count());
        assert_eq!(kept, Some(2 + names.len()));
        assert!(names.iter().all(|name| plain.encoded(name).is_some()));
    }
}
