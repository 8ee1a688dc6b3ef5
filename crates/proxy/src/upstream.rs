//! Connections to workloads: pooled, timed, and counted so that a drain knows when it is done.
//!
//! Workloads speak HTTP/1.1; a server elsewhere may also speak HTTP/2, and both over TLS. A request
//! is sent once, with two exceptions. When a connection that others used before turns out to be
//! closed, it goes out again on another if not a byte of it can have been acted on, or if acting on
//! it twice does no harm (an idempotent method without a body). And when an HTTP/2 server says that
//! it has not looked at it, as one does that closes, as long as nothing of its body is gone.
//!
//! An upstream elsewhere may have several addresses. Requests go to each in turn; one that can't be
//! connected to is passed over, and tried last for a while.

mod body;
mod count;
mod error;
mod http1;
mod http2;
mod lines;
mod peer;
mod tcp;
mod tls;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::uri::Scheme;
use http::{HeaderValue, Method, Request, Response};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::Connect;
use crate::body::{Received, RequestBody};

pub(crate) use body::WorkloadBody;
pub(crate) use count::InFlight;
pub(crate) use error::{Broken, UpstreamError};
pub use tcp::{TcpConnect, connect_any};
pub use tls::{ClientCertificate, Trust, UpstreamTls, UpstreamTlsError};

#[cfg(any(test, fuzzing))]
pub(crate) use http1::fuzz_response;

use body::Inner;
use count::{Counts, Kind};
use http1::{Answer, Line};
use http2::{Place, Trunk};
use lines::{IdleLimit, Lines};
use peer::Peer;
use tls::Tls;

/// How often a request is sent at most, where it may be sent again.
const TRIES: usize = 3;

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

/// Which HTTP an upstream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2, with prior knowledge where there is no TLS (RFC 9113, section 3.3). WebSockets are
    /// refused.
    Http2,
    /// What is agreed on in the TLS handshake (RFC 7301), HTTP/2 first; without TLS HTTP/1.1.
    Either,
}

/// Everything about an upstream.
#[derive(Clone)]
pub struct UpstreamConfig {
    /// Stands in errors and logs.
    pub name: String,
    /// One for each address.
    pub connects: Vec<Arc<dyn Connect>>,
    /// Sent as `host` in place of the client's own.
    pub host: Option<HeaderValue>,
    /// What it may do.
    pub limits: UpstreamLimits,
    /// What it speaks.
    pub protocol: Protocol,
    /// How TLS is spoken over the connections, if it is.
    pub tls: Option<UpstreamTls>,
}

impl UpstreamConfig {
    /// No address yet, HTTP/1.1, no TLS, and the default limits.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            connects: Vec::new(),
            host: None,
            limits: UpstreamLimits::default(),
            protocol: Protocol::default(),
            tls: None,
        }
    }
}

impl std::fmt::Debug for UpstreamConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamConfig")
            .field("name", &self.name)
            .field("protocol", &self.protocol)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// A workload as the proxy sees it, or a server elsewhere.
pub struct Upstream {
    name: String,
    peers: Vec<Peer>,
    /// Counts requests, to begin each at another peer.
    turn: AtomicUsize,
    host: Option<HeaderValue>,
    protocol: Protocol,
    tls: Option<Tls>,
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
        Self::of(UpstreamConfig { host, limits, connects, ..UpstreamConfig::named(name) }, None)
    }

    /// Makes an upstream. Reads the system's certificates where TLS is to trust them.
    ///
    /// # Errors
    /// When the TLS settings are of no use.
    pub fn build(config: UpstreamConfig) -> Result<Self, UpstreamTlsError> {
        let host = config.host.as_ref().and_then(|host| host.to_str().ok());
        let tls =
            config.tls.as_ref().map(|tls| Tls::new(tls, host, config.protocol)).transpose()?;
        Ok(Self::of(config, tls))
    }

    fn of(config: UpstreamConfig, tls: Option<Tls>) -> Self {
        let UpstreamConfig { name, connects, host, limits, protocol, .. } = config;
        let idle = IdleLimit::new(limits.max_idle, limits.idle_timeout);
        let peer = |connect| Peer::new(connect, Arc::clone(&idle));
        Self {
            name,
            peers: connects.into_iter().map(peer).collect(),
            turn: AtomicUsize::new(0),
            host,
            protocol,
            tls,
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
        if upgrade && self.protocol == Protocol::Http2 {
            return Err(UpstreamError::NoUpgrade);
        }
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
            // A connection that failed says something about others that were idle as long.
            let mut fresh = false;
            for left in (0..TRIES).rev() {
                // Each address gets its share of the time: one that swallows everything must not
                // use up the others'.
                let share = |now| share(deadline, now, peers.len() - tried);
                let ready = self.ready_link(peer, &lines, (upgrade, fresh), now);
                // In boxes is what most requests don't need: each holds room for all it may.
                let link = match ready {
                    Some(link) => Ok(link),
                    None => Box::pin(self.new_link(peer, &lines, upgrade, now, share)).await,
                };
                let link = match link {
                    Ok(link) => link,
                    Err(error) => {
                        peer.not_connected();
                        failure = Some(error);
                        break;
                    }
                };
                let answer = match link {
                    Link::Http1(line) => self.over_line(line, &lines, request, received).await,
                    Link::Http2(place) => Box::pin(self.over_trunk(place, request, received)).await,
                };
                match answer {
                    Ok(response) => {
                        let trailers = self.limits.max_header_bytes;
                        return Ok(response.map(|it| WorkloadBody::new(it, trailers, in_flight)));
                    }
                    Err(Unanswered { again: Some(again), .. }) if left > 0 => request = again,
                    Err(Unanswered { error, .. }) => return Err(error),
                }
                fresh = true;
            }
        }
        let none = || UpstreamError::Refused(io::Error::other("it has no address"));
        Err(failure.unwrap_or_else(none))
    }

    /// A connection for one request that is there already: an idle one, or a place on one that is
    /// shared.
    fn ready_link(
        &self,
        peer: &Peer,
        lines: &Lines,
        (upgrade, fresh): (bool, bool),
        now: Instant,
    ) -> Option<Link> {
        let place = self.shares(peer, upgrade).then(|| lines.place(now)).flatten();
        let idle = || (!fresh).then(|| lines.take(now)).flatten().map(Link::Http1);
        place.map(Link::Http2).or_else(idle)
    }

    fn shares(&self, peer: &Peer, upgrade: bool) -> bool {
        !upgrade && self.protocol != Protocol::Http1 && peer.may_share()
    }

    /// A connection for one request that has to be opened, or was by somebody else meanwhile.
    async fn new_link(
        &self,
        peer: &Peer,
        lines: &Arc<Lines>,
        upgrade: bool,
        now: Instant,
        share: impl Fn(Instant) -> Instant,
    ) -> Result<Link, UpstreamError> {
        let shared = self.shares(peer, upgrade);
        let deadline = share(Instant::now());
        let _turn = match shared {
            true => match timeout_at(deadline, lines.opening.acquire()).await {
                Ok(turn) => turn.ok().filter(|_| peer.may_share()),
                Err(_) => return Err(UpstreamError::ConnectTimeout),
            },
            false => None,
        };
        if let Some(place) = shared.then(|| lines.place(now)).flatten() {
            return Ok(Link::Http2(place));
        }
        let opened = timeout_at(deadline, self.open(peer, upgrade)).await;
        let opened = opened.map_err(|_| UpstreamError::ConnectTimeout)??;
        peer.connected();
        if !upgrade {
            peer.shares(matches!(opened, Opened::Http2(_)));
        }
        match opened {
            Opened::Http1(line) => Ok(Link::Http1(line)),
            Opened::Http2(trunk) => {
                lines.add(trunk, now).map(Link::Http2).ok_or(UpstreamError::Busy)
            }
        }
    }

    async fn open(&self, peer: &Peer, upgrade: bool) -> Result<Opened, UpstreamError> {
        let stream = peer.connect.connect().await.map_err(UpstreamError::Refused)?;
        let (stream, http2) = match &self.tls {
            Some(tls) => tls.connect(stream, upgrade).await?,
            None => (stream, self.protocol == Protocol::Http2),
        };
        match http2 {
            true => Trunk::open(stream, &self.limits).await.map(Opened::Http2),
            false if self.protocol == Protocol::Http2 => Err(UpstreamError::NoHttp2),
            false => Ok(Opened::Http1(Line::new(stream, &self.limits))),
        }
    }

    async fn over_line(
        &self,
        line: Line,
        lines: &Arc<Lines>,
        request: Request<RequestBody>,
        received: &Received,
    ) -> Result<Response<Inner>, Unanswered> {
        let response = line.exchange(request, received, &self.limits).await?;
        Ok(response.map(|answer| match answer {
            Answer::Body(body) => Inner::Http1(body, Arc::clone(lines)),
            Answer::Upgraded(stream) => Inner::Upgraded(stream),
        }))
    }

    async fn over_trunk(
        &self,
        place: Place,
        request: Request<RequestBody>,
        received: &Received,
    ) -> Result<Response<Inner>, Unanswered> {
        let scheme = if self.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        let response = place.exchange(request, &scheme, received, &self.limits).await?;
        Ok(response.map(|body| Inner::Http2(Box::new(body))))
    }

    /// The peers, beginning with another one each time; those not well last.
    fn in_turn(&self) -> Vec<&Peer> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % self.peers.len().max(1);
        let (before, from) = self.peers.split_at_checked(first).unwrap_or_default();
        let mut peers: Vec<&Peer> = from.iter().chain(before).collect();
        peers.sort_by_cached_key(|peer| !peer.is_well());
        peers
    }
}

/// A connection for one request.
enum Link {
    Http1(Line),
    Http2(Place),
}

/// A new connection.
enum Opened {
    Http1(Line),
    Http2(Trunk),
}

/// A request that was not answered.
struct Unanswered {
    error: UpstreamError,
    /// The request, if it may be sent again.
    again: Option<Request<RequestBody>>,
}

/// Until when one of `parts` that are left may take.
fn share(deadline: Instant, now: Instant, parts: usize) -> Instant {
    now + deadline.saturating_duration_since(now) / u32::try_from(parts).unwrap_or(1)
}

/// Whether it does no harm to do twice what the method says (RFC 9110, section 9.2.2).
fn may_repeat(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE].contains(method)
}

#[cfg(test)]
mod tests;
