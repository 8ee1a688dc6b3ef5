//! What the cache learns from requests that were sent for their clients alone.

use std::sync::Arc;

use http::header::{IF_MODIFIED_SINCE, IF_NONE_MATCH};
use http::{HeaderName, Method, Response};
use selvedge_cache::policy::{invalidated, is_what_get_gets};

use super::workload::Caching;
use super::{Asked, Query};
use crate::cache::{About, Aside, Asking, Cache, CacheScope, Fetched, Whose};
use crate::upstream::WorkloadBody;

const CONDITIONS: [HeaderName; 2] = [IF_NONE_MATCH, IF_MODIFIED_SINCE];

impl Asked {
    /// Who is somebody in particular gets nothing that is stored, and nothing is stored of what it
    /// gets. Who proves by a certificate who it is may get answers for itself alone, and few apps
    /// know to say so.
    pub(super) fn is_somebody(&self) -> bool {
        self.own || self.client.certified.is_some() || self.is_upgrade
    }

    fn storing(&self) -> Option<(&Arc<Cache>, &Arc<CacheScope>)> {
        let scope = self.located.route().and_then(|route| route.cache.as_ref());
        Some((self.client.shared.cache.as_ref()?, scope?))
    }

    /// Before a request is sent of which the cache may learn something.
    pub(super) fn aside(&self, caching: Option<&Caching>) -> Option<Aside> {
        if self.head.method == Method::HEAD {
            let caching = caching?;
            let stored = caching.stored.clone()?;
            return Some(Aside::new(&caching.cache, caching.asking.clone(), Some(stored)));
        }
        let may_tell = self.head.method == Method::POST && matches!(self.query, Query::None);
        let (cache, scope) = self.storing().filter(|_| may_tell && !self.is_somebody())?;
        let target = self.head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let key = scope.key(self.shown.scheme, &self.authority(), target);
        Some(Aside::new(cache, Asking::at(key, &self.head.headers), None))
    }

    /// Takes in what a response says of what is stored.
    ///
    /// # Errors
    /// The response on its way to the cache and the client, if it is to be stored itself.
    pub(super) fn learnt(
        &self,
        aside: Option<Aside>,
        response: Response<WorkloadBody>,
    ) -> Result<Response<WorkloadBody>, Box<Fetched>> {
        let (Some(aside), Some((_, scope))) = (aside, self.storing()) else { return Ok(response) };
        let is_head = self.head.method == Method::HEAD;
        let (scheme, headers) = (self.shown.scheme, response.headers());
        // Conditions of a POST are the server's to judge.
        let is_plain = |name| !self.head.headers.contains_key(name);
        let is_get = || {
            is_what_get_gets(&self.head, scheme, headers) && CONDITIONS.into_iter().all(is_plain)
        };
        if !is_head && !is_get() {
            return Ok(response);
        }
        let (host, path) = (self.checked.authority.host(), self.head.uri.path());
        let about = About::new(scope, aside.key().clone(), &host, path);
        let whose = Whose { about, origin: self.origin(), head: self.head.clone() };
        if is_head {
            aside.head_came(whose, response.status(), headers);
            return Ok(response);
        }
        aside.post_came(whose, response)
    }

    /// Scheme and authority, as keys have them.
    pub(super) fn origin(&self) -> String {
        format!("{}://{}", self.shown.scheme, String::from_utf8_lossy(&self.authority()))
    }

    /// Forgets what is stored for what the request has changed.
    pub(super) fn changed(&self, response: &Response<WorkloadBody>) {
        if matches!(self.head.method, Method::GET | Method::HEAD) {
            return;
        }
        let Some((cache, scope)) = self.storing() else { return };
        let (authority, scheme) = (self.authority(), self.shown.scheme);
        let changed = invalidated(&self.head, scheme, response.status(), response.headers());
        if changed.is_empty() {
            return;
        }
        for target in &changed {
            cache.invalidate(scope, scheme, &authority, target);
        }
        cache.invalidate_groups(scope, &self.origin(), response.headers());
        if matches!(&self.query, Query::Refused(why) if why.may_change()) {
            cache.invalidate_queries(scope, &self.origin(), self.head.uri.path());
        }
    }
}
