//! Content codings (RFC 9110, section 8.4): whether a response is compressed on its way to the
//! client, with what, and what its headers say then.
//!
//! [`Negotiation::begin`] reads the client's request and makes its conditions those that the origin
//! or a store understands; [`Negotiation::plan`] looks at the response's head and
//! [`respond`] changes head and body accordingly, within the memory of a [`Budget`]. The pieces can
//! be used alone, too: [`Plan::apply`] for a head, [`Encoded`] and [`Decoded`] for a body as it
//! streams, [`compress`] and [`decompress`] for one that is at hand whole.
//!
//! What we encode is equal in meaning to what the origin sent and not the same byte for byte from
//! one time to the next. (The cache keeps what it has encoded, but not for ever.) So a strong entity
//! tag becomes a weak one of its own (`"x"` becomes `W/"x~br"`), and no range of it is ever served.
//! The mark behind the tag lets its return be recognised: `If-None-Match` and `If-Match` work through
//! us.
//!
//! Deliberately absent: transcoding from one coding to another, dictionaries, and `deflate`, of
//! which nobody knows which of two formats is meant.

mod accept;
mod body;
mod budget;
mod decoder;
mod encoder;
mod negotiation;
mod plan;
mod respond;
mod tag;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

pub use accept::Accept;
pub use body::{Decoded, Encoded};
pub use budget::{Budget, Reservation};
pub use decoder::{DecodeError, DecodeLimits, Decoder, decompress};
pub use encoder::{Effort, Encoder, compress};
pub use negotiation::Negotiation;
pub use plan::Plan;
pub use respond::{Coded, respond};

/// A content coding that we can encode and decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 7932.
    Brotli,
    /// RFC 8878, with a window of at most 8 MiB (RFC 9659).
    Zstd,
}

impl Coding {
    /// Every coding.
    pub const ALL: [Self; 3] = [Self::Zstd, Self::Brotli, Self::Gzip];

    /// Its name in `content-encoding`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }

    /// The coding of that name, in either case. `x-gzip` is gzip (RFC 9110, section 8.4.1.3).
    pub fn named(name: &[u8]) -> Option<Self> {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("x-gzip") {
            return Some(Self::Gzip);
        }
        Self::ALL.into_iter().find(|coding| is(coding.name()))
    }
}

/// What is compressed, and with what.
#[derive(Debug, Clone)]
pub struct Config {
    /// The codings that may be used; an earlier one wins where the client likes several equally.
    pub prefer: Vec<Coding>,
    /// Shorter bodies stay as they are, in bytes: they would hardly shrink.
    pub min_bytes: u64,
    /// Media types that shrink: `type/subtype`, `type/*` or `+suffix`, in lower case.
    pub types: Vec<String>,
    /// How much a response may grow that is decoded for a client that does not accept its coding;
    /// `None` leaves it encoded.
    pub decode: Option<DecodeLimits>,
}

/// Media types that shrink. An event stream is text too, but clients that read it byte by byte
/// have been seen to wait for more: who wants it compressed names it.
const TYPES: [&str; 19] = [
    "text/*",
    "+json",
    "+text",
    "+xml",
    "+yaml",
    "application/javascript",
    "application/json",
    "application/graphql",
    "application/toml",
    "application/vnd.ms-fontobject",
    "application/wasm",
    "application/x-javascript",
    "application/x-ndjson",
    "application/xml",
    "application/yaml",
    "font/otf",
    "font/ttf",
    "image/bmp",
    "image/vnd.microsoft.icon",
];

impl Default for Config {
    fn default() -> Self {
        Self {
            prefer: Coding::ALL.to_vec(),
            min_bytes: 1024,
            types: TYPES.map(str::to_owned).to_vec(),
            decode: Some(DecodeLimits::default()),
        }
    }
}

impl Config {
    /// Whether a response of this `content-type` shrinks.
    pub fn compresses(&self, content_type: &[u8]) -> bool {
        let essence = content_type.split(|&byte| byte == b';').next().unwrap_or_default();
        let Ok(essence) = std::str::from_utf8(essence.trim_ascii()) else { return false };
        // Hardly anybody writes capitals, so hardly anything is copied.
        let essence = match essence.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Cow::Owned(essence.to_ascii_lowercase()),
            false => Cow::Borrowed(essence),
        };
        let is_stream = essence == "text/event-stream";
        self.types.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => !is_stream && essence.starts_with(prefix),
            None if pattern.starts_with('+') => essence.ends_with(pattern.as_str()),
            None => essence == *pattern,
        })
    }
}
