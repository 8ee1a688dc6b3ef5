//! From a request to what is stored for it.

use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use http::request::Parts;
use http_body::Body as _;
use hyper::body::Incoming;
use selvedge_cache::key::Key;
use selvedge_cache::object::Object;
use selvedge_cache::policy::{Reuse, Wish, is_for_origin, is_lookup, variant};
use selvedge_cache::status::Forwarded;

use super::shelf::{Entry, Variants};
use super::{Cache, CacheScope};

/// A request as the cache sees it.
pub(crate) struct Asking {
    /// The key of what is asked for.
    pub(crate) primary: Key,
    /// The key of the variant that the request selects, as far as is known.
    pub(crate) key: Key,
    /// What it asks of the cache.
    pub(crate) wish: Wish,
}

/// What is stored for a request.
pub(crate) enum Found {
    /// The answer. Stale ones are to be asked for behind it.
    Hit {
        /// What is stored.
        object: Arc<Object>,
        /// Milliseconds that it is still fresh; negative when it is to be asked for.
        remaining_ms: i64,
    },
    /// Something that has to be asked for.
    Stale(Arc<Object>, Forwarded),
    /// Nothing.
    Miss(Forwarded),
    /// Responses to it were not to be shared.
    Pass,
}

impl Asking {
    /// None where the cache has no part in the request.
    pub(crate) fn of(
        scope: &CacheScope,
        head: &Parts,
        body: Option<&Incoming>,
        scheme: &str,
        authority: &[u8],
    ) -> Option<Self> {
        // A body of a GET may change its answer, and is in no key.
        if !is_lookup(&head.method)
            || body.is_some_and(|body| !body.is_end_stream())
            || is_for_origin(&head.headers)
        {
            return None;
        }
        let target = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let primary = scope.key(scheme, authority, target);
        Some(Self { key: primary.clone(), primary, wish: Wish::of(&head.headers) })
    }

    /// The key of the requests that this one may wait for: those with credentials only for such with
    /// the same.
    pub(crate) fn together(&self, headers: &HeaderMap) -> Key {
        let mut key = self.key.clone();
        for value in headers.get_all(AUTHORIZATION) {
            key.push(value.as_bytes());
        }
        key
    }

    /// Narrows the key down to a variant's.
    fn select(&mut self, variants: &Variants, headers: &HeaderMap) {
        self.key = variant_key(&self.primary, variants, headers);
    }
}

/// The key of the variant that a request selects.
pub(super) fn variant_key(primary: &Key, variants: &Variants, headers: &HeaderMap) -> Key {
    let mut key = variant(primary, &variants.names, headers);
    key.push(&variants.generation.to_le_bytes());
    key
}

impl Cache {
    /// Looks for a stored response, and narrows the request's key down to its variant's.
    pub(crate) fn find(&self, asking: &mut Asking, headers: &HeaderMap, now_ms: u64) -> Found {
        let (entry, miss) = match self.shelf.get(&asking.primary) {
            Some(Entry::Varies(variants)) => {
                asking.select(&variants, headers);
                (self.shelf.get(&asking.key), Forwarded::VaryMiss)
            }
            entry => (entry, Forwarded::UriMiss),
        };
        match entry {
            Some(Entry::Object(object)) => {
                let remaining_ms = object.freshness.remaining_ms(now_ms);
                match asking.wish.reuse(&object.freshness, now_ms) {
                    Reuse::Fresh => Found::Hit { object, remaining_ms: remaining_ms.max(1) },
                    Reuse::WhileAsking => Found::Hit { object, remaining_ms },
                    Reuse::Stale => Found::Stale(object, Forwarded::Stale),
                    Reuse::Asked => Found::Stale(object, Forwarded::Request),
                }
            }
            Some(Entry::Pass(until)) if now_ms < until => Found::Pass,
            _ => Found::Miss(miss),
        }
    }

    /// Forgets what is stored for a target, in all its variants.
    pub(crate) fn invalidate(&self, scope: &CacheScope, authority: &[u8], target: &str) {
        for scheme in ["http", "https"] {
            let key = scope.key(scheme, authority, target);
            self.shelf.remove(&key);
            self.fills.void(&key);
        }
    }
}
