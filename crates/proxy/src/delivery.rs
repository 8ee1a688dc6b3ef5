//! What is done to a route's requests and responses beside sending them on.

use std::sync::Arc;

use crate::{encode, esi, graphql};

/// What is done for a route. By default nothing.
#[derive(Debug, Clone, Default)]
pub struct Delivery {
    /// Responses are encoded and decoded as clients accept.
    pub encode: Option<Arc<Encoding>>,
    /// Responses that say that they have ESI markup are put together with their pieces.
    pub esi: Option<Arc<esi::Config>>,
    /// It is a GraphQL endpoint, whose queries are cached.
    pub graphql: Option<Arc<graphql::Config>>,
}

/// How responses are encoded and decoded, and in how much memory. Routes of an app share one, so
/// that no app takes what others need.
#[derive(Debug)]
pub struct Encoding {
    /// What is encoded.
    pub config: encode::Config,
    /// Memory for it.
    pub budget: encode::Budget,
}

impl Default for Encoding {
    fn default() -> Self {
        Self { config: encode::Config::default(), budget: encode::Budget::new(64 << 20) }
    }
}
