//! Answers of workloads and servers elsewhere, by way of the cache where it has a part in them.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use selvedge_cache::object::Object;
use selvedge_cache::policy::{Wish, is_lookup, validators};
use selvedge_cache::status::{CACHE_STATUS, CacheStatus, Forwarded};
use selvedge_telemetry::Chain;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Asked, Query};
use crate::body::{Payload, RequestBody, RequestBodyError};
use crate::cache::{self, About, Asking, Cache, CacheScope, Fetch, Fetched, Found, Join, Outcome};
use crate::esi::SURROGATE_CAPABILITY;
use crate::hints::Hints;
use crate::pages::Fault;
use crate::tls::CLIENT_CERT;
use crate::tunnel::{self, ToClient, Tunnel};
use crate::upstream::{InFlight, Upstream, UpstreamError, WorkloadBody};
use crate::{Limits, check, forward, pins};

/// How many of our own proxies a request may have passed.
const MAX_HOPS: usize = 8;
/// What this cache is called in `cache-status`.
const CACHE_NAME: &str = "selvedge";
/// What a server is told of this cache where it puts no pages together (W3C Edge Architecture 1.0).
const CAPABILITY: HeaderValue = HeaderValue::from_static("selvedge=\"Surrogate/1.0\"");
/// By which clients have apps take a request for one of another method.
const METHOD_OVERRIDES: [&str; 3] =
    ["x-http-method", "x-http-method-override", "x-method-override"];
/// How long a request waits for the answer of another one to begin, before it goes out itself.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where a range that begins after this many bytes is passed on: a client that seeks far into
/// something large must not wait for all that is before.
const FAR: u64 = 1 << 20;

/// What the cache has to do with a request.
pub(super) struct Caching {
    pub(super) cache: Arc<Cache>,
    pub(super) scope: Arc<CacheScope>,
    pub(super) asking: Asking,
    /// What is stored, where HEAD of it is sent on.
    pub(super) stored: Option<Arc<Object>>,
}

/// What the cache says to a request at once.
pub(super) enum Quick {
    /// The answer, to which nothing is to be added.
    Answer(Result<Response<Payload>, Fault>),
    /// A request has to go out, or somebody's to be waited for.
    Ask(Option<Caching>, Found),
}

/// Puts `cache-status` on an answer.
fn told(response: &mut Response<Payload>, status: &CacheStatus) {
    if let Some(value) = status.value(CACHE_NAME) {
        response.headers_mut().append(CACHE_STATUS, value);
    }
}

impl Asked {
    /// What the cache has for the request.
    pub(super) fn look_up(&mut self, scope: Option<&Arc<CacheScope>>) -> Quick {
        let cache = self.client.shared.cache.as_ref();
        let (Some(scope), Some(cache)) = (scope, cache) else {
            return Quick::Ask(None, Found::Pass);
        };
        if self.is_somebody() || matches!(self.query, Query::Refused(_)) {
            return Quick::Ask(None, Found::Pass);
        }
        let authority = self.authority();
        let scheme = self.shown.scheme;
        let asking = Asking::of(scope, &self.head, self.body.as_ref(), scheme, &authority);
        let Some(mut asking) = asking else {
            return match is_lookup(&self.head.method)
                && Wish::of(&self.head.headers).only_if_cached()
            {
                true => Quick::Answer(Err(not_stored())),
                false => Quick::Ask(None, Found::Pass),
            };
        };
        if matches!(self.query, Query::Cached(..)) {
            asking.primary = self.query_key(scope, &authority, asking.primary);
            asking.is_query = true;
        }
        let now_ms = cache.now_ms();
        let found = cache.find(&mut asking, &self.head.headers, now_ms);
        match found {
            Found::Hit { object, remaining_ms } if remaining_ms > 0 => {
                self.stored_at = Some(asking.into_key());
                let status = CacheStatus::Hit { remaining_ms };
                Quick::Answer(self.stored_answer(&object, &status, now_ms))
            }
            found => {
                let (cache, scope) = (Arc::clone(cache), Arc::clone(scope));
                Quick::Ask(Some(Caching { cache, scope, asking, stored: None }), found)
            }
        }
    }

    /// What the client calls this server: in keys its case does not count.
    pub(super) fn authority(&self) -> Cow<'_, [u8]> {
        let authority = self.checked.authority.as_header().as_bytes();
        match authority.iter().any(u8::is_ascii_uppercase) {
            true => authority.to_ascii_lowercase().into(),
            false => authority.into(),
        }
    }

    /// The answer that something stored is.
    fn stored_answer(
        &mut self,
        object: &Object,
        status: &CacheStatus,
        now_ms: u64,
    ) -> Result<Response<Payload>, Fault> {
        self.note_cache(status);
        let mut response = cache::respond(object, &self.head.method, &self.head.headers, now_ms)?;
        told(&mut response, status);
        Ok(response)
    }

    fn note_cache(&mut self, status: &CacheStatus) {
        if let Some(record) = self.exchange.record() {
            record.cache = Some(status.word().to_owned());
        }
    }

    /// Answers by asking the workload, or waiting for somebody who does.
    pub(super) async fn workload(
        mut self: Box<Self>,
        caching: Option<Caching>,
        mut found: Found,
        upstream: Arc<Upstream>,
        in_flight: InFlight,
    ) -> (Box<Self>, Result<Response<Payload>, Fault>) {
        if forward::hops(&self.head.headers) >= MAX_HOPS {
            return (self, Err(circle()));
        }
        let Some(mut caching) = caching else {
            return self.pass(None, Forwarded::Method, &upstream, in_flight).await;
        };
        loop {
            if let Found::Miss(reason) = found {
                let headers = &self.head.headers;
                found = caching.cache.recall(&mut caching.asking, headers, reason).await;
            }
            if !matches!(found, Found::Hit { .. }) && caching.asking.wish.only_if_cached() {
                return (self, Err(not_stored()));
            }
            let (stored, reason) = match found {
                Found::Hit { object, remaining_ms } => {
                    self.is_stored_at(&caching.asking);
                    if remaining_ms <= 0 {
                        self.ask_behind(caching, &object, &upstream, in_flight);
                    }
                    let status = &CacheStatus::Hit { remaining_ms };
                    let answer = self.stored_answer(&object, status, self.cache_now());
                    return (self, answer);
                }
                Found::Pass => {
                    return self
                        .pass(Some(&caching), Forwarded::Bypass, &upstream, in_flight)
                        .await;
                }
                Found::Stale(object, reason) => (Some(object), reason),
                Found::Miss(reason) => (None, reason),
            };
            if stored.is_none() && self.is_far() {
                return self.pass(Some(&caching), Forwarded::Bypass, &upstream, in_flight).await;
            }
            if self.head.method != http::Method::GET {
                caching.stored = stored;
                return self.pass(Some(&caching), reason, &upstream, in_flight).await;
            }
            let mut waiting = match caching.cache.join(&caching.asking.together(&self.head.headers))
            {
                Join::Lead(lead) => {
                    return self.lead(caching, lead, stored, reason, upstream, in_flight).await;
                }
                Join::Follow(waiting) => waiting,
            };
            let known = waiting.wait_for(|it| !matches!(it, Outcome::Waiting));
            let outcome = match timeout(PATIENCE, known).await {
                Ok(Ok(outcome)) => outcome.clone(),
                _ => Outcome::Alone,
            };
            drop(waiting);
            let now_ms = self.cache_now();
            match outcome {
                Outcome::Coming(coming) => {
                    if let Some(response) = coming.share(&caching.asking, &self.head, now_ms) {
                        let response = self.shared(response, reason);
                        return (self, response);
                    }
                }
                Outcome::Stored => {
                    found = caching.cache.find(&mut caching.asking, &self.head.headers, now_ms);
                    continue;
                }
                Outcome::Alone | Outcome::Waiting => {}
            }
            return self.pass(Some(&caching), reason, &upstream, in_flight).await;
        }
    }

    fn cache_now(&self) -> u64 {
        self.client.shared.cache.as_ref().map_or(0, |cache| cache.now_ms())
    }

    /// Whether the request wants something far into the response only.
    fn is_far(&self) -> bool {
        let Some(range) = self.head.headers.get(RANGE).and_then(|range| range.to_str().ok()) else {
            return false;
        };
        let first = range.split_once('=').and_then(|(_, set)| set.split('-').next());
        // A part at the end, `-5`, is as far as can be.
        first.is_none_or(|first| first.trim().parse::<u64>().map_or(true, |first| first > FAR))
    }

    /// The response that somebody else's request brings.
    fn shared(
        &mut self,
        response: Response<cache::StreamBody>,
        reason: Forwarded,
    ) -> Result<Response<Payload>, Fault> {
        let status = CacheStatus::Forwarded {
            reason,
            status: None,
            stored: false,
            collapsed: true,
            detail: None,
        };
        self.note_cache(&status);
        let mut response = cache::as_asked(&self.head, response)?;
        told(&mut response, &status);
        Ok(response)
    }

    /// Sends a request for all that want the same, and answers with what it brings.
    async fn lead(
        mut self: Box<Self>,
        caching: Caching,
        lead: cache::Lead,
        stored: Option<Arc<Object>>,
        reason: Forwarded,
        upstream: Arc<Upstream>,
        in_flight: InFlight,
    ) -> (Box<Self>, Result<Response<Payload>, Fault>) {
        let asked = self.exchange.now();
        self.is_stored_at(&caching.asking);
        let fetch = self.fetch(caching, lead, stored, reason, &upstream, in_flight);
        let _left = fetch.left.clone().drop_guard();
        let fetched = tokio::spawn(fetch.run()).await;
        self.exchange.upstream_answered(asked);
        let answer = match fetched {
            Ok(Ok(fetched)) => self.fetched(fetched),
            Ok(Err(error)) => Err(fault(&error, &upstream, &self.client.shared.limits)),
            // It panicked, and is counted where tasks that panic are.
            Err(_) => Err(super::lost()),
        };
        (self, answer)
    }

    pub(super) fn fetched(&mut self, fetched: Fetched) -> Result<Response<Payload>, Fault> {
        let now_ms = self.cache_now();
        match fetched {
            Fetched::Alone(response, _) if response.status().is_informational() => Err(unasked()),
            Fetched::Alone(response, status) => {
                self.note_cache(&status);
                let mut response = cache::conditional(&self.head, response.map(Payload::Workload));
                told(&mut response, &status);
                Ok(response)
            }
            Fetched::Coming(response, status) => {
                self.note_cache(&status);
                let mut response = cache::as_asked(&self.head, response)?;
                told(&mut response, &status);
                Ok(response)
            }
            Fetched::Confirmed(object, status) | Fetched::Stale(object, status) => {
                self.stored_answer(&object, &status, now_ms)
            }
        }
    }

    /// Asks for what is stored while it is used.
    fn ask_behind(
        &self,
        caching: Caching,
        object: &Arc<Object>,
        upstream: &Arc<Upstream>,
        in_flight: InFlight,
    ) {
        if self.head.method != http::Method::GET {
            return;
        }
        if let Join::Lead(lead) = caching.cache.join(&caching.asking.together(&self.head.headers)) {
            let stored = Some(Arc::clone(object));
            let fetch = self.fetch(caching, lead, stored, Forwarded::Stale, upstream, in_flight);
            tokio::spawn(async move {
                // What can't be had now is asked for again by the next request.
                let _ = fetch.run().await;
            });
        }
    }

    fn fetch(
        &self,
        caching: Caching,
        lead: cache::Lead,
        stored: Option<Arc<Object>>,
        reason: Forwarded,
        upstream: &Arc<Upstream>,
        in_flight: InFlight,
    ) -> Fetch {
        let mut headers = self.headers_for(upstream);
        // What the client has is compared with what comes.
        for name in [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_RANGE, RANGE] {
            headers.remove(name);
        }
        // What comes is for all who ask by GET, and so must not be the answer to another method.
        for name in METHOD_OVERRIDES {
            headers.remove(name);
        }
        let has_esi =
            self.is_piece || self.located.route().is_some_and(|route| route.delivery.esi.is_some());
        if !has_esi {
            headers.append(SURROGATE_CAPABILITY, CAPABILITY);
        }
        for (name, value) in stored.iter().flat_map(|stored| validators(&stored.headers)) {
            headers.insert(name, value.clone());
        }
        let (method, body) = self.sent_for_cache();
        let request = self.request_with(method, headers, body);
        let (host, path) = (self.checked.authority.host(), self.head.uri.path());
        let about = About::new(&caching.scope, caching.asking.primary.clone(), &host, path);
        Fetch {
            lead,
            about,
            origin: self.origin(),
            asking: caching.asking,
            head: self.head.clone(),
            request,
            upstream: Arc::clone(upstream),
            in_flight,
            stored,
            reason,
            left: CancellationToken::new(),
        }
    }

    /// The headers that a workload sees.
    fn headers_for(&self, upstream: &Upstream) -> HeaderMap {
        let (client, sent) = (&self.client, &self.head.headers);
        let (node, authority) = (client.node(sent), &self.checked.authority);
        let mut headers = forward::to_workload(sent, authority, node, self.shown.scheme);
        pins::strip(&mut headers);
        if client.certified.is_some() {
            headers.extend(sent.get(CLIENT_CERT).map(|it| (CLIENT_CERT, it.clone())));
        }
        headers.extend(self.prefix.clone().map(|prefix| (forward::X_FORWARDED_PREFIX, prefix)));
        if let Some(host) = upstream.host() {
            headers.insert(HOST, host.clone());
        }
        self.trace.propagate(&mut headers, &client.shared.ids);
        headers
    }

    fn request_with(
        &self,
        method: Method,
        headers: HeaderMap,
        body: RequestBody,
    ) -> Request<RequestBody> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        let target = self.head.uri.path_and_query().cloned();
        *request.uri_mut() = target.map(Uri::from).unwrap_or_default();
        *request.headers_mut() = headers;
        if let Some(hints) = self.head.extensions.get::<Hints>() {
            request.extensions_mut().insert(hints.clone());
        }
        request
    }

    /// Sends the request for its client alone.
    async fn pass(
        mut self: Box<Self>,
        caching: Option<&Caching>,
        reason: Forwarded,
        upstream: &Arc<Upstream>,
        in_flight: InFlight,
    ) -> (Box<Self>, Result<Response<Payload>, Fault>) {
        let upgrade = self.is_upgrade;
        let to_client = ToClient::of(&mut self.head).filter(|_| upgrade);
        let takes_trailers = forward::takes_trailers(&self.head);
        let mut headers = self.headers_for(upstream);
        if to_client.is_some() {
            tunnel::put(&mut headers);
        }
        let received = self.exchange.received();
        let limits = &self.client.shared.limits;
        let (method, body) = match (self.unsent.take(), self.body.take()) {
            (Some(unsent), _) => (self.head.method.clone(), unsent),
            (None, None) => self.sent_for_cache(),
            (None, body) => (self.head.method.clone(), RequestBody::new(body, limits, &received)),
        };
        let request = self.request_with(method, headers, body);
        let aside = self.aside(caching);
        let asked = self.exchange.now();
        let upgrade = to_client.is_some();
        let result = upstream.send(in_flight, request, &received, upgrade).await;
        self.exchange.upstream_answered(asked);
        let mut response = match result {
            Ok(response) => response,
            Err(error) => {
                let fault = fault(&error, upstream, &self.client.shared.limits);
                return (self, Err(fault));
            }
        };
        // The version is the connection's too: a workload that speaks HTTP/1.0 must not end ours.
        *response.version_mut() = Version::HTTP_11;
        if response.status().is_informational() {
            return (self, upgraded(response, to_client, upstream));
        }
        if matches!(to_client, Some(ToClient::Http2(_))) && response.status().is_success() {
            // To the client it would mean that the tunnel is open.
            return (self, Err(not_agreed()));
        }
        forward::to_client(response.headers_mut(), takes_trailers);
        self.changed(&response);
        let mut response = match self.learnt(aside, response) {
            Ok(response) => response.map(Payload::Workload),
            Err(fetched) => {
                let answer = self.fetched(*fetched);
                return (self, answer);
            }
        };
        if caching.is_some() || self.is_cached() {
            let status = CacheStatus::forwarded(reason);
            self.note_cache(&status);
            told(&mut response, &status);
        }
        (self, Ok(response))
    }

    /// Whether the route's responses are cached.
    fn is_cached(&self) -> bool {
        self.client.shared.cache.is_some()
            && !self.own
            && self.located.route().is_some_and(|route| route.cache.is_some())
    }
}

/// The workload switches protocols.
fn upgraded(
    response: Response<WorkloadBody>,
    to_client: Option<ToClient>,
    upstream: &Upstream,
) -> Result<Response<Payload>, Fault> {
    let agreed = tunnel::is_websocket(response.headers());
    let (mut head, body) = response.into_parts();
    let (Some(client), Some((to_upstream, counted)), true) =
        (to_client, body.into_upgraded(), agreed)
    else {
        return Err(unasked());
    };
    forward::to_client(&mut head.headers, false);
    tunnel::opened(&client, &mut head.status, &mut head.headers);
    let ending = upstream.ending();
    let tunnel = Tunnel { client, upstream: to_upstream, counted, ending };
    Ok(Response::from_parts(head, Payload::Tunnel(Box::new(tunnel))))
}

fn not_agreed() -> Fault {
    let title = "The app did not agree to a WebSocket";
    Fault::workload(StatusCode::BAD_GATEWAY, "no-upgrade", title)
}

fn unasked() -> Fault {
    let title = "The app answered with an upgrade that nobody asked for";
    Fault::workload(StatusCode::BAD_GATEWAY, "malformed", title)
}

fn circle() -> Fault {
    let title = "The request goes in a circle";
    let help = "In the app's selvedge.toml, an upstream leads back to an edge.";
    Fault::proxy(StatusCode::LOOP_DETECTED, "proxy-loop", title, help)
}

/// RFC 9111, section 5.2.1.7.
fn not_stored() -> Fault {
    let title = "Nothing is stored for this request";
    let help = "It said `only-if-cached`; ask again without that.";
    Fault::client(StatusCode::GATEWAY_TIMEOUT, "not-stored", title, help)
}

fn fault(error: &UpstreamError, upstream: &Upstream, limits: &Limits) -> Fault {
    let (status, kind, title) = error.words();
    let fault = match error {
        UpstreamError::Request(RequestBodyError::TooLarge) => check::too_large(limits),
        UpstreamError::Request(_) => Fault::client(status, kind, title, "Send it again."),
        UpstreamError::Busy => Fault::workload(status, kind, title).retry_after(1),
        _ => Fault::workload(status, kind, title),
    };
    fault.detail(format!("{}: {}", upstream.name(), Chain(error)))
}
