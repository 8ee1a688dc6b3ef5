//! Whether a page may be shared, from whether its pieces may be.

use http::header::{AGE, CACHE_CONTROL, VARY};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::headers::sets_cookies;
use crate::fields::members;

/// For how long all of a page's pieces so far may be shared, and what that depends on. Stricter than
/// RFC 9111: without an explicit lifetime nothing is shared, since a page is heuristically no older
/// than its youngest piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sharing {
    /// `None`: it may not be.
    lifetime: Option<Lifetime>,
    /// Also the answer to somebody with credentials (RFC 9111, section 3.5).
    for_anyone: bool,
    must_revalidate: bool,
    vary: Vec<HeaderName>,
}

/// Seconds that something is fresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lifetime {
    shared_s: u64,
    private_s: u64,
}

impl Sharing {
    /// Whether one response may be shared.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut sharing = Self { for_anyone: false, ..Self::none() };
        let (mut max_age, mut s_maxage, mut forbidden) = (None, None, sets_cookies(headers));
        for member in members(headers, &CACHE_CONTROL) {
            let Ok(member) = std::str::from_utf8(member) else { continue };
            let (name, value) = match member.split_once('=') {
                Some((name, value)) => (name.trim(), Some(value.trim().trim_matches('"'))),
                None => (member, None),
            };
            // Where a lifetime is given twice or can't be read, the shortest counts.
            let seconds = value.and_then(|value| value.parse::<u64>().ok()).unwrap_or(0);
            let shorter = |known: Option<u64>| Some(known.map_or(seconds, |it| it.min(seconds)));
            match name.to_ascii_lowercase().as_str() {
                "private" | "no-store" | "no-cache" => forbidden = true,
                "must-revalidate" => {
                    sharing.must_revalidate = true;
                    sharing.for_anyone = true;
                }
                "proxy-revalidate" => sharing.must_revalidate = true,
                "public" => sharing.for_anyone = true,
                "max-age" => max_age = shorter(max_age),
                "s-maxage" => s_maxage = shorter(s_maxage),
                _ => {}
            }
        }
        for member in members(headers, &VARY) {
            match HeaderName::from_bytes(member) {
                Ok(name) if name != "*" => sharing.vary.push(name),
                _ => forbidden = true,
            }
        }
        let age = headers.get(AGE).map(|age| age.to_str().ok().and_then(|age| age.parse().ok()));
        // An age that can't be read may be any.
        let age = age.map_or(0, |age| age.unwrap_or(u64::MAX));
        sharing.for_anyone |= s_maxage.is_some();
        let left = |lifetime: u64| lifetime.checked_sub(age);
        let shared_s = s_maxage.or(max_age).filter(|_| !forbidden).and_then(left);
        sharing.lifetime = shared_s
            .map(|shared_s| Lifetime { shared_s, private_s: max_age.and_then(left).unwrap_or(0) });
        sharing
    }

    /// What may not be shared.
    pub fn none() -> Self {
        let (lifetime, vary) = (None, Vec::new());
        Self { lifetime, for_anyone: true, must_revalidate: false, vary }
    }

    /// Whether both together may be shared.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.lifetime = self.lifetime.zip(other.lifetime).map(|(one, other)| Lifetime {
            shared_s: one.shared_s.min(other.shared_s),
            private_s: one.private_s.min(other.private_s),
        });
        self.for_anyone &= other.for_anyone;
        self.must_revalidate |= other.must_revalidate;
        for name in &other.vary {
            if !self.vary.contains(name) {
                self.vary.push(name.clone());
            }
        }
        self
    }

    /// Says it in a page's head.
    pub fn put(&self, headers: &mut HeaderMap) {
        let Some(Lifetime { shared_s, private_s }) = self.lifetime else {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
            return;
        };
        // Some of the words that say more would allow what one of the pieces does not.
        let value = match (self.for_anyone, self.must_revalidate) {
            (true, false) => format!("public, max-age={private_s}, s-maxage={shared_s}"),
            (true, true) => {
                format!("public, max-age={private_s}, s-maxage={shared_s}, must-revalidate")
            }
            (false, false) => format!("max-age={}", private_s.min(shared_s)),
            (false, true) => format!("max-age={}, proxy-revalidate", private_s.min(shared_s)),
        };
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(CACHE_CONTROL, value);
        }
        let names: Vec<&str> = self.vary.iter().map(HeaderName::as_str).collect();
        if let Ok(value) = HeaderValue::try_from(names.join(", "))
            && !names.is_empty()
        {
            headers.insert(VARY, value);
        }
    }
}
