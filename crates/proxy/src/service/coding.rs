//! Answers encoded and decoded as the client accepts.

use std::sync::Arc;

use http::Response;

use super::Asked;
use crate::Encoding;
use crate::body::Payload;
use crate::encode::{self, Coded, Negotiation};
use crate::{esi, tunnel};

/// What the client accepts, and how that is made.
pub(super) struct Negotiated {
    encoding: Arc<Encoding>,
    negotiation: Negotiation,
}

impl Negotiated {
    /// The response as the client accepts it.
    pub(super) fn respond(&self, response: Response<Payload>) -> Response<Payload> {
        let Encoding { config, budget } = &*self.encoding;
        encode::respond(&self.negotiation, config, budget, response).map(|body| match body {
            Coded::Plain(payload) => payload,
            coded => Payload::Coded(Box::new(coded)),
        })
    }
}

impl Asked {
    /// Prepares the request for what its route does to responses: others than the client see
    /// conditions on what we made of a response as such on what they sent, one spelling of the
    /// codings that are accepted, and on a route with ESI what that takes.
    pub(super) fn deliver(&mut self) {
        let Some(route) = self.located.route() else { return };
        let delivery = &route.delivery;
        if self.own || tunnel::is_asked(&self.head) {
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
}
