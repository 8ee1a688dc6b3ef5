//! Connections to workloads: pooled, timed, and counted so that a drain knows when it is done.
//!
//! Workloads speak HTTP/1.1. A request is sent once, with one exception: when a connection from the
//! pool turns out to be closed. Then it goes out again on a fresh one if not a byte of it can have
//! been acted on, or if acting on it twice does no harm (an idempotent method without a body).
//!
//! An upstream elsewhere may have several addresses. Requests go to each in turn; one that can't be
//! connected to is passed over, and tried last for a while.

mod body;
mod peer;
mod pool;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::Connect;
use crate::body::{Received, RequestBody, RequestBodyError};

pub(crate) use body::{Counted, WorkloadBody};
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
    /// Bytes of a response's head, at least 8,192.
    pub max_header_bytes: usize,
    /// Idle connections kept.
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
            max_idle: 64,
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
    permits: Arc<Semaphore>,
    tunnels: Arc<Semaphore>,
    /// Upgraded connections are to come to their end.
    ending: CancellationToken,
    in_flight: Arc<watch::Sender<usize>>,
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
    ClosedEarly(#[source] hyper::Error),
    #[error("the response's head is too large")]
    HeadTooLarge,
    #[error("the response is no valid HTTP")]
    Malformed(#[source] hyper::Error),
    #[error("no response came in time")]
    ResponseTimeout,
    #[error(transparent)]
    Request(RequestBodyError),
}

/// A request that a workload has been chosen for. While it exists, so does the workload's part in
/// [`Upstream::in_flight`].
#[derive(Debug)]
pub(crate) struct InFlight {
    count: Arc<watch::Sender<usize>>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.count.send_modify(|count| *count -= 1);
    }
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
        let semaphore = |most: usize| Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        Self {
            name,
            peers: connects.into_iter().map(|connect| Peer::new(connect, &limits)).collect(),
            turn: AtomicUsize::new(0),
            host,
            permits: semaphore(limits.max_requests),
            tunnels: semaphore(limits.max_tunnels),
            ending: CancellationToken::new(),
            limits,
            in_flight: Arc::new(watch::Sender::new(0)),
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

    /// How many requests the workload is answering now, bodies included; wakes on change, so that
    /// a drain can wait for zero.
    ///
    /// Once a snapshot without the workload is current and this has been zero, no request will
    /// reach the workload any more: a request counts itself before it checks that its snapshot is
    /// still the current one.
    pub fn in_flight(&self) -> watch::Receiver<usize> {
        self.in_flight.subscribe()
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
        self.in_flight.send_modify(|count| *count += 1);
        InFlight { count: Arc::clone(&self.in_flight) }
    }

    /// Sends a request and waits for the head of the response. One that asks for an `upgrade`
    /// counts as what it is to become.
    pub(crate) async fn send(
        &self,
        in_flight: InFlight,
        mut request: Request<RequestBody>,
        received: &Received,
        upgrade: bool,
    ) -> Result<Response<WorkloadBody>, UpstreamError> {
        let deadline = Instant::now() + self.limits.connect_timeout;
        let permit = self.permit(deadline, upgrade).await?;
        let mut failure = None;
        let peers = self.in_turn();
        for (tried, peer) in peers.iter().enumerate() {
            if let Some(mut sender) = peer.pool.take() {
                let again = replay(&request);
                match self.attempt(&mut sender, request, received).await {
                    Ok(response) => {
                        return Ok(self.answer(response, sender, peer, permit, in_flight));
                    }
                    Err((_, Some(unsent))) => request = unsent,
                    Err((UpstreamError::ClosedEarly(error), None)) => match again {
                        Some(again) => request = again,
                        None => return Err(UpstreamError::ClosedEarly(error)),
                    },
                    Err((error, None)) => return Err(error),
                }
            }
            // Each address gets its share of the time: one that swallows everything must not use
            // up the others'.
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(peers.len() - tried).unwrap_or(1);
            match self.open(peer, Instant::now() + share).await {
                Ok(mut sender) => {
                    peer.connected();
                    return match self.attempt(&mut sender, request, received).await {
                        Ok(response) => Ok(self.answer(response, sender, peer, permit, in_flight)),
                        Err((error, _)) => Err(error),
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
        peers.sort_by_key(|peer| !peer.is_well());
        peers
    }

    async fn permit(
        &self,
        deadline: Instant,
        upgrade: bool,
    ) -> Result<OwnedSemaphorePermit, UpstreamError> {
        let permits = if upgrade { &self.tunnels } else { &self.permits };
        if let Ok(permit) = Arc::clone(permits).try_acquire_owned() {
            return Ok(permit);
        }
        if upgrade {
            // What holds the others may stay for hours.
            return Err(UpstreamError::Busy);
        }
        match timeout_at(deadline, Arc::clone(permits).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(UpstreamError::Busy),
        }
    }

    async fn open(
        &self,
        peer: &Peer,
        deadline: Instant,
    ) -> Result<SendRequest<RequestBody>, UpstreamError> {
        let stream = match timeout_at(deadline, peer.connect.connect()).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(UpstreamError::Refused(error)),
            Err(_) => return Err(UpstreamError::ConnectTimeout),
        };
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(self.limits.max_header_bytes.max(8192))
            .handshake(TokioIo::new(stream))
            .await
            .map_err(UpstreamError::ClosedEarly)?;
        // Ends when the sender is dropped, the workload closes, or the connection is upgraded. What
        // breaks it is told to the request that it breaks.
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }

    /// One try. With an error comes the request, if none of it has been sent.
    async fn attempt(
        &self,
        sender: &mut SendRequest<RequestBody>,
        request: Request<RequestBody>,
        received: &Received,
    ) -> Result<Response<Incoming>, (UpstreamError, Option<Request<RequestBody>>)> {
        let response = sender.try_send_request(request);
        tokio::pin!(response);
        loop {
            let before = received.bytes();
            match timeout(self.limits.response_timeout, &mut response).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(mut failure)) => {
                    let unsent = failure.take_message();
                    return Err((classify(failure.into_error(), received), unsent));
                }
                // An upload that goes on is waited for: its own timeout bounds it.
                Err(_) if received.bytes() != before => {}
                Err(_) => return Err((UpstreamError::ResponseTimeout, None)),
            }
        }
    }

    fn answer(
        &self,
        response: Response<Incoming>,
        sender: SendRequest<RequestBody>,
        peer: &Peer,
        permit: OwnedSemaphorePermit,
        in_flight: InFlight,
    ) -> Response<WorkloadBody> {
        let stall = self.limits.stall_timeout;
        // An upgraded connection is no request's any more.
        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let back = (!upgraded).then(|| (sender, Arc::clone(&peer.pool)));
        response.map(|body| WorkloadBody::new(body, stall, back, permit, in_flight))
    }
}

fn classify(error: hyper::Error, received: &Received) -> UpstreamError {
    if let Some(error) = received.error() {
        UpstreamError::Request(error)
    } else if error.is_parse_too_large() {
        UpstreamError::HeadTooLarge
    } else if error.is_parse() {
        UpstreamError::Malformed(error)
    } else {
        UpstreamError::ClosedEarly(error)
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
