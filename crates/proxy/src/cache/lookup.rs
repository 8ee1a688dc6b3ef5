//! From a request to what is stored for it.

use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use http::request::Parts;
use http_body::Body as _;
use selvedge_cache::key::Key;
use selvedge_cache::object::Object;
use selvedge_cache::policy::{Reuse, Wish, is_for_origin, is_lookup, variant};
use selvedge_cache::purge::{CACHE_GROUP_INVALIDATION, Kind, Scope, groups};
use selvedge_cache::status::Forwarded;

use super::shelf::{Variants, What};
use super::{Cache, CacheScope};
use crate::body::ClientBody;

/// A request as the cache sees it.
#[derive(Clone)]
pub(crate) struct Asking {
    /// The key of what is asked for.
    pub(crate) primary: Key,
    /// The key of the variant that the request selects, where there are several.
    variant: Option<Key>,
    /// What it asks of the cache.
    pub(crate) wish: Wish,
    /// It is a GraphQL query, whose answer is stored only if it has no errors.
    pub(crate) is_query: bool,
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
        body: Option<&ClientBody>,
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
        Some(Self::at(primary, &head.headers))
    }

    /// Something whose response may be what is asked for at a key.
    pub(crate) fn at(primary: Key, headers: &HeaderMap) -> Self {
        Self { primary, variant: None, wish: Wish::of(headers), is_query: false }
    }

    /// The key of what it selects, as far as is known.
    pub(crate) fn key(&self) -> &Key {
        self.variant.as_ref().unwrap_or(&self.primary)
    }

    /// The same, taken out.
    pub(crate) fn into_key(self) -> Key {
        self.variant.unwrap_or(self.primary)
    }

    /// The key of the requests that this one may wait for: those with credentials only for such with
    /// the same.
    pub(crate) fn together(&self, headers: &HeaderMap) -> Key {
        let mut key = self.key().clone();
        for value in headers.get_all(AUTHORIZATION) {
            key.push(value.as_bytes());
        }
        key
    }

    /// What a stored response is for it; one that was purged softly is stale.
    pub(super) fn judge(&self, object: Arc<Object>, is_purged: bool, now_ms: u64) -> Found {
        let (remaining_ms, reuse) = match is_purged {
            false => {
                let remaining_ms = object.freshness.remaining_ms(now_ms);
                (remaining_ms, self.wish.reuse(&object.freshness, now_ms))
            }
            true => {
                let mut freshness = object.freshness.clone();
                freshness.expire(now_ms);
                (freshness.remaining_ms(now_ms), self.wish.reuse(&freshness, now_ms))
            }
        };
        match reuse {
            Reuse::Fresh => Found::Hit { object, remaining_ms: remaining_ms.max(1) },
            Reuse::WhileAsking => Found::Hit { object, remaining_ms },
            Reuse::Stale => Found::Stale(object, Forwarded::Stale),
            Reuse::Asked => Found::Stale(object, Forwarded::Request),
        }
    }

    /// Narrows the key down to a variant's.
    pub(super) fn select(&mut self, variants: &Variants, headers: &HeaderMap) {
        self.variant = Some(variant_key(&self.primary, variants, headers));
    }
}

/// What tells the answers to queries at a path: their keys are those of what they ask. No response
/// can give itself such a tag.
pub(super) fn queries_at(origin: &str, path: &str) -> Vec<u8> {
    [b"\0queries\0", origin.as_bytes(), path.as_bytes()].concat()
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
        let mut miss = Forwarded::UriMiss;
        let mut found = self.shelf.get(&asking.primary);
        if let Some((entry, _)) = &found
            && let What::Varies(variants) = entry.what()
        {
            asking.select(variants, headers);
            found = self.shelf.get(asking.key());
            miss = Forwarded::VaryMiss;
        }
        let Some((entry, is_purged)) = found else { return Found::Miss(miss) };
        let object = match entry.what() {
            What::Object(object) => Arc::clone(object),
            What::Pass(until) if now_ms < *until => return Found::Pass,
            What::Pass(_) | What::Varies(_) => return Found::Miss(miss),
        };
        asking.judge(object, is_purged, now_ms)
    }

    /// Forgets what is stored for a target, in all its variants.
    pub(crate) fn invalidate(
        &self,
        scope: &CacheScope,
        scheme: &str,
        authority: &[u8],
        target: &str,
    ) {
        let key = scope.key(scheme, authority, target);
        // In this order: what is stored meanwhile is either void or removed.
        self.fills.void(&key);
        self.shelf.remove(&key);
    }

    /// Forgets the responses of an origin that are in the groups that a response names (RFC 9875,
    /// section 3).
    pub(crate) fn invalidate_groups(&self, scope: &CacheScope, origin: &str, headers: &HeaderMap) {
        for group in groups(headers, &CACHE_GROUP_INVALIDATION, origin) {
            self.shelf.purger.purge(scope.app(), &Scope::Tag(group), Kind::Hard);
        }
    }

    /// Forgets the answers to all GraphQL queries at a path.
    pub(crate) fn invalidate_queries(&self, scope: &CacheScope, origin: &str, path: &str) {
        let queries = Scope::Tag(queries_at(origin, path));
        self.shelf.purger.purge(scope.app(), &queries, Kind::Hard);
    }
}
