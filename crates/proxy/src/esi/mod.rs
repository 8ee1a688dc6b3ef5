//! ESI (W3C note "ESI Language Specification 1.0", 2001): pages put together of pieces that are
//! fetched, cached and secured each on its own.
//!
//! [`Parser`] cuts a template into segments as it streams; [`assemble`] fetches what they include,
//! ahead and side by side, and streams the page. Fetching is the caller's ([`Fetch`]); each piece
//! takes the way of any request of its app, through the cache as its own headers say. The page put
//! together is never stored by us, and says `private, no-store` to others unless every piece of it
//! may be shared ([`Sharing`]).
//!
//! Understood: `include` with `src`, `alt` and `onerror="continue"`, `try` with `attempt` and
//! `except`, `remove`, `comment`, and `<!--esi … -->`. Any other element and malformed markup are
//! errors that say the line: markup that was to be processed must not be shown, and what follows an
//! unclosed `remove` must not vanish. What stands in an HTML comment is left alone. An included
//! piece is searched for markup only if its own response says that it has some.
//!
//! Deliberately absent: `vars`, `choose` and `inline` (a page that depends on a cookie should
//! include a piece that does), and cookies set by pieces: the page's head is gone by then.

mod assembly;
mod body;
mod fetch;
mod headers;
mod parser;
mod sharing;
mod tag;
#[cfg(test)]
mod tests;
mod url;

use std::time::Duration;

pub use assembly::Failure;
pub use body::{Assembled, Page, assemble};
pub use fetch::{Fetch, Fragment};
pub(crate) use headers::SURROGATE_CAPABILITY;
pub use headers::{ask, is_template, page_head};
pub use parser::{Include, Malformed, Parser, Segment, Try, Wrong};
pub use sharing::Sharing;
pub use url::{Origin, Refused};

/// Limits on one page.
#[derive(Debug, Clone)]
pub struct Config {
    /// Other hosts, as `host` or `host:port`, that pieces may come from. They are sent no cookies
    /// and no credentials.
    pub hosts: Vec<String>,
    /// How deep pieces may include others: 1 allows those of the page itself.
    pub max_depth: u32,
    /// Pieces of a page in all, those that failed included.
    pub max_includes: u32,
    /// Bytes of a page in all, and of all pieces that were fetched for it.
    pub max_bytes: u64,
    /// Bytes of one piece of markup, and of what stands in one `try`.
    pub max_markup: usize,
    /// Bytes of a piece that is kept until it is there whole, since something else would take its
    /// place.
    pub max_kept: usize,
    /// How many pieces of one template are fetched at a time.
    pub ahead: usize,
    /// How long a piece may take: to its head, or to its end where something else could take its
    /// place.
    pub piece_timeout: Duration,
    /// How long a client may wait for pieces of the page in all; the time in which it reads does not
    /// count.
    pub page_timeout: Duration,
    /// Up to this many bytes of a page are held back for its end: if it comes, the page has its
    /// length, its tag, and the lifetime of its pieces. 0 streams every page.
    pub hold_back: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            max_depth: 3,
            max_includes: 100,
            max_bytes: 16 << 20,
            max_markup: 64 << 10,
            max_kept: 256 << 10,
            ahead: 8,
            piece_timeout: Duration::from_secs(10),
            page_timeout: Duration::from_secs(30),
            hold_back: 0,
        }
    }
}
