//! GraphQL queries, answered by the cache though they are posted.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE};
use http::{Method, StatusCode};
use http_body::Body as _;
use selvedge_cache::key::Key;

use super::Asked;
use crate::body::{Received, RequestBody, RequestBodyError};
use crate::cache::CacheScope;
use crate::check;
use crate::graphql::{self, NotCacheable, Operation};
use crate::pages::Fault;

/// What a request to a GraphQL endpoint asks for.
pub(super) enum Query {
    /// Not to such an endpoint, or nothing that is read as a query.
    None,
    /// A query: for the cache a `GET`, with the body that it is sent with if it was posted.
    Cached(Box<Operation>, Option<Bytes>),
    /// Something that is not for the cache, whatever its method.
    Refused(NotCacheable),
}

impl Asked {
    /// Whether the body has to be read for what the request asks for.
    pub(super) fn is_posted_query(&self) -> bool {
        self.graphql().is_some_and(|config| graphql::is_candidate(config, &self.head))
            && matches!(self.query, Query::None)
            && self.body.is_some()
    }

    fn graphql(&self) -> Option<&Arc<graphql::Config>> {
        let route = self.located.route().filter(|_| !self.own && !self.is_upgrade)?;
        route.delivery.graphql.as_ref().filter(|_| route.cache.is_some())
    }

    /// Reads the query of a `GET`.
    pub(super) fn read_query(&mut self) {
        let Some(config) = self.graphql() else { return };
        if self.head.method != Method::GET {
            return;
        }
        self.query = match graphql::read(config, &self.head, b"") {
            Ok(operation) => Query::Cached(Box::new(operation), None),
            // A page at the same address.
            Err(NotCacheable::NoQuery) => Query::None,
            Err(why) => Query::Refused(why),
        };
    }

    /// Reads a body that may be a query.
    ///
    /// # Errors
    /// When the client does not send it.
    pub(super) async fn read_posted_query(&mut self) -> Result<(), Fault> {
        let Some(config) = self.graphql().cloned() else { return Ok(()) };
        let received = self.exchange.received();
        let limits = &self.client.shared.limits;
        let mut rest = RequestBody::new(self.body.take(), limits, &received);
        let taken = take(&mut rest, config.max_bytes, &received).await;
        let (taken, is_whole) = taken.map_err(|error| match error {
            RequestBodyError::TooLarge => check::too_large(limits),
            _ => unsent(error),
        })?;
        let body = Bytes::from(taken.concat());
        let read = if is_whole {
            graphql::read(&config, &self.head, &body)
        } else {
            Err(NotCacheable::TooLong)
        };
        match read {
            Ok(operation) => {
                self.query = Query::Cached(Box::new(operation), Some(body));
                // For the cache it is what it means. Conditions and ranges are not for a post.
                self.head.method = Method::GET;
                for name in [IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE] {
                    self.head.headers.remove(name);
                }
            }
            Err(why) => {
                self.query = Query::Refused(why);
                self.unsent = Some(RequestBody::again(taken, rest));
            }
        }
        Ok(())
    }

    /// The key of the query, if there is one; else `other`.
    pub(super) fn query_key(&self, scope: &CacheScope, authority: &[u8], other: Key) -> Key {
        let Query::Cached(operation, _) = &self.query else { return other };
        let mut key = scope.key(self.shown.scheme, authority, self.head.uri.path());
        operation.extend(&mut key);
        key
    }

    /// The method and body that a request for the cache goes out with.
    pub(super) fn sent_for_cache(&self) -> (Method, RequestBody) {
        match &self.query {
            Query::Cached(_, Some(body)) => {
                (Method::POST, RequestBody::again(vec![body.clone()], RequestBody::Empty))
            }
            _ => (self.head.method.clone(), RequestBody::Empty),
        }
    }
}

/// Reads a body until it ends or has more than so many bytes.
async fn take(
    body: &mut RequestBody,
    up_to: usize,
    received: &Received,
) -> Result<(Vec<Bytes>, bool), RequestBodyError> {
    let (mut taken, mut size) = (Vec::new(), 0);
    while size <= up_to {
        match std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
            None => return Ok((taken, true)),
            Some(Ok(frame)) => {
                // Nothing that is read as a query has trailers.
                let Ok(data) = frame.into_data() else { continue };
                size += data.len();
                taken.push(data);
            }
            Some(Err(_)) => return Err(received.error().unwrap_or(RequestBodyError::Broken)),
        }
    }
    Ok((taken, false))
}

fn unsent(error: RequestBodyError) -> Fault {
    let (status, kind) = match error {
        RequestBodyError::Stalled => (StatusCode::REQUEST_TIMEOUT, "body-stalled"),
        _ => (StatusCode::BAD_REQUEST, "body-broken"),
    };
    Fault::client(status, kind, "The request's body did not arrive", "Send it again.")
}
