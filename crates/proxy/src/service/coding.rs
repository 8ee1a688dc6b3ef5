//! Answers encoded and decoded as the client accepts.

use std::sync::Arc;

use http::Response;
use selvedge_cache::object::{Body, Encoded};

use super::Asked;
use crate::Encoding;
use crate::body::Payload;
use crate::cache::{Asking, StoredBody};
use crate::encode::{self, Coded, Coding, Negotiation};
use crate::esi;
use crate::pages::Fault;

/// What the client accepts, and how that is made.
pub(super) struct Negotiated {
    encoding: Arc<Encoding>,
    negotiation: Negotiation,
}

/// The stored body that a response has the whole of.
fn stored(response: &Response<Payload>) -> Option<&StoredBody> {
    match response.body() {
        Payload::Stored(body) if body.source().is_some() => Some(body),
        _ => None,
    }
}

impl Negotiated {
    /// The response as the client accepts it.
    pub(super) fn respond(&self, mut response: Response<Payload>) -> Response<Payload> {
        if self.exchanged(&mut response).is_some() {
            return response;
        }
        let Encoding { config, budget } = &*self.encoding;
        encode::respond(&self.negotiation, config, budget, response).map(|body| match body {
            Coded::Plain(payload) => payload,
            coded => Payload::Coded(Box::new(coded)),
        })
    }

    /// Exchanges a stored body for what is kept of it in the client's coding. Nothing: that has to
    /// be made.
    fn exchanged(&self, response: &mut Response<Payload>) -> Option<()> {
        let (config, accept) = (&self.encoding.config, self.negotiation.accept());
        let coding = accept.choose(&config.prefer)?;
        let body = stored(response)?;
        let encoded = body.source()?.encoded(coding.name())?;
        let plan = self.negotiation.plan(config, response.status(), response.headers());
        if plan.encodes() != Some(coding) {
            return None;
        }
        match encoded {
            Encoded::Shorter(encoded) => {
                let (size, body) = (encoded.size(), body.replaced(encoded.clone()));
                *response.body_mut() = Payload::Stored(body);
                plan.apply(response.headers_mut(), Some(size));
            }
            Encoded::NoShorter => plan.unchanged().apply(response.headers_mut(), None),
        }
        Some(())
    }

    /// The stored body of a response that is to be sent in a coding, and is not kept in that.
    fn lacking<'a>(&self, response: &'a Response<Payload>) -> Option<(&'a Body, Coding)> {
        let (config, accept) = (&self.encoding.config, self.negotiation.accept());
        let coding = accept.choose(&config.prefer)?;
        let body = stored(response).filter(|body| body.left() > 0)?.source()?;
        if body.encoded(coding.name()).is_some() {
            return None;
        }
        let plan = self.negotiation.plan(config, response.status(), response.headers());
        (plan.encodes() == Some(coding)).then_some((body, coding))
    }
}

impl Asked {
    /// Prepares the request for what its route does to responses: others than the client see
    /// conditions on what we made of a response as such on what they sent, one spelling of the
    /// codings that are accepted, and on a route with ESI what that takes.
    pub(super) fn deliver(&mut self) {
        let Some(route) = self.located.route() else { return };
        let delivery = &route.delivery;
        if self.own || self.is_upgrade {
            return;
        }
        let headers = &mut self.head.headers;
        if let Some(encoding) = &delivery.encode {
            let negotiation = Negotiation::begin(&self.head.method, headers);
            // What has to be read must come plain.
            negotiation.ask(headers, delivery.esi.is_some() || delivery.graphql.is_some());
            self.coding = Some(Negotiated { encoding: Arc::clone(encoding), negotiation });
        }
        if delivery.esi.is_some() {
            esi::ask(headers);
        }
    }

    /// What is stored for this may become the answer.
    pub(super) fn is_stored_at(&mut self, asking: &Asking) {
        if self.coding.as_ref().is_some_and(|coding| coding.negotiation.accept().takes_codings()) {
            self.stored_at = Some(asking.key().clone());
        }
    }

    /// Whether an answer is stored, and goes out in a coding that it is not kept in: it is to be
    /// compressed once for all who come.
    pub(super) fn is_to_encode(&self, answer: &Result<Response<Payload>, Fault>) -> bool {
        self.to_encode(answer).is_some()
    }

    fn to_encode<'a>(
        &self,
        answer: &'a Result<Response<Payload>, Fault>,
    ) -> Option<(&'a Body, Coding)> {
        let (coding, cache) = (self.coding.as_ref()?, self.client.shared.cache.as_ref()?);
        let (body, coding) = coding.lacking(answer.as_ref().ok()?)?;
        cache.may_encode(body).then_some((body, coding))
    }

    /// Has an answer compressed that is to be.
    pub(super) fn encoding(
        &self,
        answer: &Result<Response<Payload>, Fault>,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        let (body, coding) = self.to_encode(answer)?;
        let (cache, key) = (self.client.shared.cache.clone()?, self.stored_at.clone()?);
        let budget = self.coding.as_ref()?.encoding.budget.clone();
        Some(cache.encode(key, body.clone(), coding, budget))
    }
}
