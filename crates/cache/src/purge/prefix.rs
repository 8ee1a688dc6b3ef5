//! Purges by prefix of the path.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::marks::Mark;

/// Between host and path. Neither holds it.
const SEPARATOR: u8 = 0;
/// Longer prefixes fit no request.
const MOST_BYTES: usize = 8 << 10;

/// A host, or all hosts of the app, and the start of a path.
///
/// A path ends where a segment does: `/a` is `/a` and all below `/a/`, and not `/ab`. `/a/` is what
/// is below it, without `/a` itself. `/a*` is everything that starts with these two characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// Nothing: all hosts.
    host: Option<String>,
    path: String,
    /// Segments may be cut anywhere.
    open: bool,
}

/// Why a text is no prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// No path.
    #[error("a prefix is a path that starts with /, with a host before it or without")]
    NoPath,
    /// A host that isn't one.
    #[error("{0:?} is no host: write example.com/path, without scheme and port")]
    Host(String),
    /// A star that does not end it.
    #[error("* stands at the end of a prefix only; a ban has patterns with * anywhere")]
    Star,
    /// A part of a URL that isn't a path.
    #[error("a prefix has no query and no fragment: what follows ? or # is not compared")]
    Query,
    /// Too long.
    #[error("a prefix is at most {MOST_BYTES} bytes long")]
    TooLong,
}

impl std::str::FromStr for Prefix {
    type Err = PrefixError;

    /// Reads `example.com/path`, `/path` for all hosts, either with `*` at its end.
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        if text.len() > MOST_BYTES {
            return Err(PrefixError::TooLong);
        }
        let slash = text.find('/').ok_or(PrefixError::NoPath)?;
        let (host, path) = text.split_at(slash);
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte);
        let bracketed = host.starts_with('[');
        if !host.bytes().all(is_host) || (host.contains(':') && !bracketed) {
            return Err(PrefixError::Host(host.to_owned()));
        }
        let (path, open) = match path.strip_suffix('*') {
            Some(path) => (path, true),
            None => (path, false),
        };
        if path.contains('*') {
            return Err(PrefixError::Star);
        }
        if path.contains(['?', '#']) {
            return Err(PrefixError::Query);
        }
        if path.bytes().any(|byte| byte == SEPARATOR) {
            return Err(PrefixError::NoPath);
        }
        let host = (!host.is_empty()).then(|| host.to_ascii_lowercase());
        Ok(Self { host, path: path.to_owned(), open })
    }
}

impl std::fmt::Display for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let star = if self.open { "*" } else { "" };
        write!(f, "{}{}{star}", self.host.as_deref().unwrap_or_default(), self.path)
    }
}

impl Prefix {
    fn key(&self) -> Box<[u8]> {
        text(self.host.as_deref().unwrap_or_default().as_bytes(), self.path.as_bytes()).into()
    }

    fn of_key(key: &[u8], open: bool) -> Option<Self> {
        let (host, path) = std::str::from_utf8(key).ok()?.split_once(char::from(SEPARATOR))?;
        let host = (!host.is_empty()).then(|| host.to_owned());
        Some(Self { host, path: path.to_owned(), open })
    }
}

fn text(host: &[u8], path: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(host.len() + 1 + path.len());
    text.extend_from_slice(host);
    text.push(SEPARATOR);
    text.extend_from_slice(path);
    text
}

/// Marks of the two kinds of prefixes that have the same text.
#[derive(Debug, Clone, Copy, Default)]
struct Pair {
    closed: Mark,
    open: Mark,
}

impl Pair {
    fn newest(&self) -> u64 {
        self.closed.newest().max(self.open.newest())
    }
}

/// Marks of prefixes.
#[derive(Debug, Default)]
pub(super) struct Prefixes {
    marks: BTreeMap<Box<[u8]>, Pair>,
    bytes: usize,
}

impl Prefixes {
    pub(super) fn len(&self) -> usize {
        self.marks.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn contains(&self, prefix: &Prefix) -> bool {
        self.marks.contains_key(&prefix.key())
    }

    pub(super) fn mark(&mut self, prefix: &Prefix) -> &mut Mark {
        let key = prefix.key();
        if !self.marks.contains_key(&key) {
            self.bytes += key.len();
        }
        let pair = self.marks.entry(key).or_default();
        if prefix.open { &mut pair.open } else { &mut pair.closed }
    }

    /// The generations of what is marked.
    pub(super) fn newest(&self) -> impl Iterator<Item = u64> {
        self.marks.values().map(Pair::newest)
    }

    /// All that is marked.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Prefix, &Mark)> {
        self.marks.iter().flat_map(|(key, pair)| {
            [(false, &pair.closed), (true, &pair.open)]
                .into_iter()
                .filter_map(|(open, mark)| Some((Prefix::of_key(key, open)?, mark)))
        })
    }

    /// Changes all marks, and drops those that become empty.
    pub(super) fn retain(&mut self, mut change: impl FnMut(&mut Mark)) {
        let bytes = &mut self.bytes;
        self.marks.retain(|key, pair| {
            change(&mut pair.closed);
            change(&mut pair.open);
            let keep = pair.newest() > 0;
            *bytes -= if keep { 0 } else { key.len() };
            keep
        });
    }

    /// All marks of prefixes of a path at a host, and of it at all hosts.
    pub(super) fn covering(&self, host: &[u8], path: &[u8]) -> Mark {
        let mut found = Mark::default();
        if self.marks.is_empty() {
            return found;
        }
        for host in [host, b""] {
            self.walk(&text(host, path), &mut found);
        }
        found
    }

    /// Goes from the longest prefix to the shortest. What sorts last before a text either is a
    /// prefix of it, or shares with it all that a prefix still to come can have.
    fn walk(&self, text: &[u8], found: &mut Mark) {
        let mut end = text.len();
        while let Some(start) = text.get(..end) {
            let below = (Bound::Unbounded, Bound::Included(start));
            let Some((key, pair)) = self.marks.range::<[u8], _>(below).next_back() else { return };
            let shared = key.iter().zip(start).take_while(|(a, b)| a == b).count();
            end = shared;
            if shared == key.len() {
                let whole = matches!(text.get(shared), None | Some(b'/')) || key.ends_with(b"/");
                found.merge(&pair.open);
                if whole {
                    found.merge(&pair.closed);
                }
                let Some(shorter) = shared.checked_sub(1) else { return };
                end = shorter;
            }
        }
    }
}
