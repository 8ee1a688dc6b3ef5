//! Connections to workloads: pooled, timed, and counted so that a drain knows when it is done.
//!
//! Workloads speak HTTP/1.1. A request is sent once, with one exception: when a connection from the
//! pool turns out to be closed. Then it goes out again on a fresh one if not a byte of it can have
//! been acted on, or if acting on it twice does no harm (an idempotent method without a body).
//!
//! An upstream elsewhere may have several addresses. Requests go to each in turn; one that can't be
//! connected to is passed over, and tried last for a while.

mod body;
mod count;
mod http1;
mod lines;
mod peer;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::Connect;
use crate::body::{Received, RequestBody, RequestBodyError};

pub(crate) use body::WorkloadBody;
pub(crate) use count::InFlight;
use count::{Counts, Kind};
use http1::{Line, Unanswered};
use lines::{IdleLimit, Lines};
use peer::Peer;

/// What a workload may do, in time and size.
#[derive(Debug, Clone)]
pub struct UpstreamLimits {
    /// Requests at once. Further ones wait for `connect_timeout` and are then answered 503.
    pub max_requests: usize,
    /// Upgraded connections (WebSockets) at once. Further ones are answered 503.
    pub max_tunnels: usize,
    /// A connection must be open within this, whichever of the addresses it is to.
    pub connect_timeout: Duration,
    /// A response's head must come within this of the request's last byte.
    pub response_timeout: Duration,
    /// A response's body must go on within this.
    pub stall_timeout: Duration,
    /// Bytes of a response's head, at least 8,192, and of its trailers.
    pub max_header_bytes: usize,
    /// Idle HTTP/1.1 connections kept, over all addresses.
    pub max_idle: usize,
    /// How long an idle connection is kept: below the 5 s after which Node.js closes its side.
    pub idle_timeout: Duration,
}

impl Default for UpstreamLimits {
    fn default() -> Self {
        Self {
            max_requests: 512,
            max_tunnels: 2048,
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(120),
            max_header_bytes: 64 << 10,
            max_idle: 256,
            idle_timeout: Duration::from_secs(4),
        }
    }
}

/// A workload as the proxy sees it, or a server elsewhere.
pub struct Upstream {
    name: String,
    peers: Vec<Peer>,
    /// Counts requests, to begin each at another peer.
    turn: AtomicUsize,
    host: Option<HeaderValue>,
    limits: UpstreamLimits,
    counts: Arc<Counts>,
    /// Upgraded connections are to come to their end.
    ending: CancellationToken,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why a workload gave no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    #[error("it is answering as many requests as it may")]
    Busy,
    #[error("the connection was refused")]
    Refused(#[source] io::Error),
    #[error("no connection could be opened in time")]
    ConnectTimeout,
    #[error("the connection closed before the response")]
    ClosedEarly(#[source] Broken),
    #[error("the response's head is too large")]
    HeadTooLarge,
    #[error("the response is no valid HTTP")]
    Malformed(#[source] Broken),
    #[error("no response came in time")]
    ResponseTimeout,
    #[error(transparent)]
    Request(RequestBodyError),
}

/// What broke a connection, as the library for its protocol says it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error(transparent)]
    Http1(#[from] hyper::Error),
}

impl Upstream {
    /// Wraps a connector, with the default limits. `name` stands in errors and logs.
    pub fn new(name: String, connect: Arc<dyn Connect>) -> Self {
        Self::with_limits(name, connect, UpstreamLimits::default())
    }

    /// Wraps a connector.
    pub fn with_limits(name: String, connect: Arc<dyn Connect>, limits: UpstreamLimits) -> Self {
        Self::balanced(name, vec![connect], None, limits)
    }

    /// Wraps the connectors of a server with several addresses. `host` is sent in place of the
    /// client's own.
    pub fn balanced(
        name: String,
        connects: Vec<Arc<dyn Connect>>,
        host: Option<HeaderValue>,
        limits: UpstreamLimits,
    ) -> Self {
        let idle = IdleLimit::new(limits.max_idle, limits.idle_timeout);
        let peer = |connect| Peer::new(connect, Arc::clone(&idle));
        Self {
            name,
            peers: connects.into_iter().map(peer).collect(),
            turn: AtomicUsize::new(0),
            host,
            counts: Counts::new(&limits),
            limits,
            ending: CancellationToken::new(),
        }
    }

    /// Says whether the address at `index` is well, as somebody who looked has found. One that is
    /// not is tried when no other can be connected to.
    pub fn set_well(&self, index: usize, well: bool) {
        if let Some(peer) = self.peers.get(index) {
            peer.set_well(well);
        }
    }

    /// Has upgraded connections say goodbye and close. They count as requests in flight until they
    /// have.
    pub fn end_tunnels(&self) {
        self.ending.cancel();
    }

    /// How many requests the workload is answering now, bodies and tunnels included.
    pub fn in_flight(&self) -> usize {
        self.counts.now()
    }

    /// Waits until [`Upstream::in_flight`] is as `wanted`.
    ///
    /// Once a snapshot without the workload is current and the count has been zero, no request will
    /// reach the workload any more: a request counts itself before it checks that its snapshot is
    /// still the current one.
    pub async fn wait_in_flight(&self, wanted: impl Fn(usize) -> bool) {
        self.counts.wait(wanted).await;
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The `host` header to send, where it is not the client's.
    pub(crate) fn host(&self) -> Option<&HeaderValue> {
        self.host.as_ref()
    }

    /// Cancelled when upgraded connections are to end.
    pub(crate) fn ending(&self) -> CancellationToken {
        self.ending.clone()
    }

    /// Counts a request in.
    pub(crate) fn enter(&self) -> InFlight {
        self.counts.enter()
    }

    /// Sends a request and waits for the head of the response. One that asks for an `upgrade`
    /// counts as what it is to become.
    ///
    /// It is sent on a connection of the current runtime, and the response's body is to be read on
    /// it too.
    pub(crate) async fn send(
        &self,
        mut in_flight: InFlight,
        mut request: Request<RequestBody>,
        received: &Received,
        upgrade: bool,
    ) -> Result<Response<WorkloadBody>, UpstreamError> {
        let now = Instant::now();
        let deadline = now + self.limits.connect_timeout;
        let kind = if upgrade { Kind::Tunnel } else { Kind::Request };
        in_flight.permit(kind, deadline).await?;
        let mut failure = None;
        let several: Vec<&Peer>;
        let peers = match self.peers.as_slice() {
            [only] => &[only][..],
            _ => {
                several = self.in_turn();
                &several
            }
        };
        for (tried, peer) in peers.iter().enumerate() {
            let lines = peer.lines();
            if let Some(mut line) = lines.take(now) {
                let again = replay(&request);
                match line.exchange(request, received, &self.limits).await {
                    Ok(response) => return Ok(self.answer(response, line, lines, in_flight)),
                    Err(Unanswered { unsent: Some(unsent), .. }) => request = unsent,
                    Err(Unanswered { error, unsent: None }) => match (error, again) {
                        (UpstreamError::ClosedEarly(_), Some(again)) => request = again,
                        (error, _) => return Err(error),
                    },
                }
            }
            // Each address gets its share of the time: one that swallows everything must not use
            // up the others'.
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(peers.len() - tried).unwrap_or(1);
            match self.open(peer, Instant::now() + share).await {
                Ok(mut line) => {
                    peer.connected();
                    return match line.exchange(request, received, &self.limits).await {
                        Ok(response) => Ok(self.answer(response, line, lines, in_flight)),
                        Err(Unanswered { error, .. }) => Err(error),
                    };
                }
                Err(error) => {
                    peer.not_connected();
                    failure = Some(error);
                }
            }
        }
        let none = || UpstreamError::Refused(io::Error::other("it has no address"));
        Err(failure.unwrap_or_else(none))
    }

    /// The peers, beginning with another one each time; those not well last.
    fn in_turn(&self) -> Vec<&Peer> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % self.peers.len().max(1);
        let (before, from) = self.peers.split_at_checked(first).unwrap_or_default();
        let mut peers: Vec<&Peer> = from.iter().chain(before).collect();
        peers.sort_by_cached_key(|peer| !peer.is_well());
        peers
    }

    async fn open(&self, peer: &Peer, deadline: Instant) -> Result<Line, UpstreamError> {
        let stream = match timeout_at(deadline, peer.connect.connect()).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(UpstreamError::Refused(error)),
            Err(_) => return Err(UpstreamError::ConnectTimeout),
        };
        Line::open(stream, &self.limits).await
    }

    fn answer(
        &self,
        response: Response<Incoming>,
        mut line: Line,
        lines: Arc<Lines>,
        in_flight: InFlight,
    ) -> Response<WorkloadBody> {
        line.stall.restart(self.limits.stall_timeout);
        // An upgraded connection is no request's any more.
        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let back = (!upgraded).then_some((line, lines));
        let trailers = self.limits.max_header_bytes;
        response.map(|body| WorkloadBody::new(body, back, trailers, in_flight))
    }
}

/// A copy of a request that may be sent twice (RFC 9110, section 9.2.2).
fn replay(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let idempotent = [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE];
    if !request.body().is_empty() || !idempotent.contains(request.method()) {
        return None;
    }
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

#[cfg(test)]
mod tests;
