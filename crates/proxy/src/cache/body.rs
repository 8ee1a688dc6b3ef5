//! A stored body on its way to a client.

use std::collections::VecDeque;

use bytes::Bytes;
use selvedge_cache::object::Body;

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
