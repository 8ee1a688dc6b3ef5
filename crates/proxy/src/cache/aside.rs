//! What the cache learns from requests that went out for their clients alone: HEAD of what is stored,
//! and POST whose response is what GET would get.

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use selvedge_cache::key::Key;
use selvedge_cache::object::Object;
use selvedge_cache::policy::{Times, is_still, storable};
use selvedge_cache::purge::Ticket;
use selvedge_cache::status::Forwarded;

use super::fetch::{Answered, Fetched, dated};
use super::fills::Join;
use super::lookup::Asking;
use super::shelf::{About, Entry, What};
use super::{Cache, Outcome};
use crate::upstream::WorkloadBody;

/// A request that is about to be sent.
pub(crate) struct Aside {
    cache: Arc<Cache>,
    asking: Asking,
    /// What is stored and may be confirmed.
    stored: Option<Arc<Object>>,
    ticket: Ticket,
    asked_ms: u64,
}

/// Who asked, and for what.
pub(crate) struct Whose {
    pub(crate) about: Arc<About>,
    /// Scheme and authority.
    pub(crate) origin: String,
    pub(crate) head: Parts,
}

impl Aside {
    pub(crate) fn new(cache: &Arc<Cache>, asking: Asking, stored: Option<Arc<Object>>) -> Self {
        let (ticket, asked_ms) = (cache.shelf.purger.ticket(), cache.now_ms());
        Self { cache: Arc::clone(cache), asking, stored, ticket, asked_ms }
    }

    /// The key of what is asked for.
    pub(crate) fn key(&self) -> &Key {
        &self.asking.primary
    }

    /// None while somebody else asks for the same: that is newer.
    fn answered(self, whose: Whose) -> Option<Answered> {
        let key = self.asking.together(&whose.head.headers);
        let Join::Lead(lead) = self.cache.join(&key) else { return None };
        let Whose { about, origin, head } = whose;
        let times = Times { asked_ms: self.asked_ms, received_ms: self.cache.now_ms() };
        let Self { asking, stored, ticket, .. } = self;
        let reason = Forwarded::Method;
        Some(Answered { lead, asking, about, origin, ticket, head, stored, reason, times })
    }

    /// A response to HEAD says whether what is stored for GET is good still (RFC 9111, section
    /// 4.3.5).
    pub(crate) fn head_came(self, mut whose: Whose, status: StatusCode, headers: &HeaderMap) {
        let Some(object) = self.stored.clone().filter(|_| status == StatusCode::OK) else { return };
        whose.head.method = Method::GET;
        let Some(answered) = self.answered(whose) else { return };
        let policy = &answered.lead.cache.policy;
        let decided = storable(policy, &answered.head, status, headers, answered.times);
        if decided.is_err() || object.status != status {
            // It is for this client, and says nothing of what others get.
            return;
        }
        match is_still(&object.headers, headers) {
            true => {
                let mut headers = headers.clone();
                dated(&mut headers, answered.times);
                drop(answered.confirmed(&object, headers));
            }
            false => answered.stale(&object),
        }
    }

    /// A response to POST that is what GET would get, and says for how long, is stored as that (RFC
    /// 9110, section 9.3.3).
    ///
    /// # Errors
    /// The response on its way to the cache and the client, if it is.
    pub(crate) fn post_came(
        self,
        whose: Whose,
        response: Response<WorkloadBody>,
    ) -> Result<Response<WorkloadBody>, Box<Fetched>> {
        let Some(answered) = self.answered(whose) else { return Ok(response) };
        let policy = &answered.lead.cache.policy;
        let (status, headers) = (response.status(), response.headers());
        match storable(policy, &answered.head, status, headers, answered.times) {
            Ok(_) => Err(Box::new(answered.came(response))),
            Err(_) => Ok(response),
        }
    }
}

impl Answered {
    /// What is stored has become something else.
    fn stale(self, object: &Object) {
        let cache = &self.lead.cache;
        let mut object = object.clone();
        object.freshness.expire(self.times.received_ms);
        if let Ok(tags) = self.tags(&object.headers) {
            let (about, stamp) = (Arc::clone(&self.about), self.ticket.stamp());
            let entry = Entry::new(What::Object(Arc::new(object)), about, tags, stamp);
            cache.shelf.put_again(self.asking.key(), entry);
        }
        self.lead.over(Outcome::Stored);
    }
}
