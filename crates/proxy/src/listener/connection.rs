//! Accepting connections, and each one's life.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::task::Poll;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::{HeaderMap, HeaderValue, StatusCode};
use ipnet::IpNet;
use selvedge_telemetry::Chain;
use selvedge_telemetry::access::AccessLog;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::roster::{FIRST_REQUEST, Roster};
use super::{Listener, Protocol, proxy_protocol, sockets};
use crate::activity::{Activity, Order, Watched};
use crate::client_address::{client_address, client_scheme};
use crate::floor::Floors;
use crate::spoken::Spoken;
use crate::tls::{self, Certified, Tls};
use crate::trace::Ids;
use crate::{Limits, Snapshot};
use crate::{forward, record};

/// How long to wait when the system is out of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the connections of a shard share.
pub(crate) struct Shared {
    /// Which shard, from 0.
    pub(crate) shard: usize,
    pub(crate) limits: Limits,
    /// See [`crate::Config::trusted`].
    pub(crate) trusted: Vec<IpNet>,
    pub(crate) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(crate) access: AccessLog,
    /// None: nothing is cached.
    pub(crate) cache: Option<Arc<crate::cache::Cache>>,
    pub(crate) floors: Arc<Floors>,
    pub(crate) ids: Ids,
    /// See [`Shared::https_port`].
    pub(crate) https: Arc<AtomicU16>,
    /// Where else a client of HTTPS may come (RFC 7838), if HTTP/3 is served.
    pub(crate) alternative: Arc<ArcSwapOption<HeaderValue>>,
}

impl Shared {
    /// Where plain HTTP is redirected to.
    pub(crate) fn https_port(&self) -> u16 {
        self.https.load(Ordering::Relaxed)
    }
}

/// The client at the other end of a connection.
pub(crate) struct Client {
    pub(crate) shared: Arc<Shared>,
    /// Who is connected, or whom they speak for by the PROXY protocol.
    pub(crate) peer: SocketAddr,
    /// Its address as workloads are told of it.
    node: HeaderValue,
    /// The TLS version, where there is TLS.
    pub(crate) tls: Option<&'static str>,
    /// What the client's certificate was asked for by, where it was.
    pub(crate) certified: Option<Certified>,
    pub(crate) activity: Arc<Activity>,
    pub(crate) ends: Ends,
    /// The connection's part in [`Limits::max_connections`], for as long as anything of it lives.
    _permit: OwnedSemaphorePermit,
}

impl Client {
    /// One that is alone, in the clear.
    #[cfg(test)]
    pub(crate) fn alone(shared: &Arc<Shared>) -> Arc<Self> {
        let gate = Arc::new(Semaphore::new(1));
        let ends = Ends {
            connections: TaskTracker::new(),
            drain: CancellationToken::new(),
            abort: CancellationToken::new(),
        };
        Arc::new(Self {
            shared: Arc::clone(shared),
            peer: SocketAddr::from(([192, 0, 2, 1], 1)),
            node: HeaderValue::from_static("192.0.2.1"),
            tls: None,
            certified: None,
            activity: Arc::new(Activity::new(false)),
            ends,
            _permit: gate.try_acquire_owned().expect("nobody else has a permit"),
        })
    }

    /// Whom a request is from: the peer, or who a trusted proxy says it is for.
    pub(crate) fn address(&self, headers: &HeaderMap) -> SocketAddr {
        match self.shared.trusted.is_empty() {
            true => self.peer,
            false => client_address(self.peer, headers, &self.shared.trusted),
        }
    }

    /// The same as workloads are told of it.
    pub(crate) fn node(&self, headers: &HeaderMap) -> HeaderValue {
        match self.address(headers) {
            address if address == self.peer => self.node.clone(),
            address => forward::node(address),
        }
    }

    /// Whether the connection is by TLS.
    pub(crate) fn secure(&self) -> bool {
        self.tls.is_some()
    }

    /// The scheme of the connection.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.secure() { "https" } else { "http" }
    }

    /// The scheme that a request was made by: the connection's, or the one that a trusted proxy says
    /// the client used.
    pub(crate) fn scheme_of(&self, headers: &HeaderMap) -> &'static str {
        let said = match self.shared.trusted.is_empty() {
            true => None,
            false => client_scheme(self.peer, headers, &self.shared.trusted),
        };
        said.unwrap_or_else(|| self.scheme())
    }

    /// Where else the client may come.
    pub(crate) fn alternative(&self) -> Option<HeaderValue> {
        // Not every client that has a certificate shows it over QUIC.
        let may_go = self.secure() && self.certified.is_none();
        let alternative = may_go.then(|| self.shared.alternative.load_full()).flatten();
        alternative.as_deref().cloned()
    }
}

/// How what the connections of a listener leave behind is waited for, and told to end.
#[derive(Clone)]
pub(crate) struct Ends {
    pub(crate) connections: TaskTracker,
    /// No new connections; finish.
    pub(crate) drain: CancellationToken,
    /// Now.
    pub(crate) abort: CancellationToken,
}

/// What a handshake has settled; by default there was none.
#[derive(Default)]
struct Secured {
    tls: Option<&'static str>,
    certified: Option<Certified>,
    /// Whether HTTP/2 was agreed on; none: the client's first bytes say it.
    http2: Option<bool>,
}

/// One listener on one shard.
pub(crate) struct Door {
    pub(crate) shared: Arc<Shared>,
    pub(super) listener: Arc<ArcSwap<Listener>>,
    pub(crate) tls: Arc<Tls>,
    pub(super) gate: Arc<Semaphore>,
    pub(crate) roster: Roster,
    pub(crate) ends: Ends,
}

impl Door {
    /// Looks after the connections until they have to end.
    pub(super) async fn watch(self: Arc<Self>) {
        self.roster.watch(&self.shared.limits, &self.ends).await;
    }

    /// Accepts until told to stop. What the kernel has accepted by then is served: closing its
    /// socket would reset it.
    pub(super) async fn accept(self: Arc<Self>, socket: TcpListener, stop: CancellationToken) {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.accept_all(&socket) => {}
        }
        let Ok(socket) = socket.into_std() else { return };
        while let Ok((stream, peer)) = socket.accept() {
            let (Ok(()), Ok(permit)) =
                (stream.set_nonblocking(true), Arc::clone(&self.gate).try_acquire_owned())
            else {
                continue;
            };
            if let Ok(stream) = TcpStream::from_std(stream) {
                self.admit(stream, peer, permit);
            }
        }
    }

    async fn accept_all(self: &Arc<Self>, socket: &TcpListener) {
        loop {
            let (stream, peer) = match socket.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "a connection can't be accepted");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // At the limit, the connection waits here and further ones in the kernel.
            let Ok(permit) = Arc::clone(&self.gate).acquire_owned().await else { return };
            self.admit(stream, peer, permit);
        }
    }

    fn admit(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr, permit: OwnedSemaphorePermit) {
        let door = Arc::clone(self);
        self.ends.connections.spawn(async move { door.connection(stream, peer, permit).await });
    }

    async fn connection(
        &self,
        mut stream: TcpStream,
        mut peer: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) {
        if let Err(error) = sockets::prepare(&stream, peer) {
            tracing::debug!(error = %Chain(&error), "a connection's options can't be set");
        }
        let listener = self.listener.load_full();
        let ip = peer.ip().to_canonical();
        if listener.proxy_protocol.iter().any(|network| network.contains(&ip)) {
            match Box::pin(self.in_time(proxy_protocol::read(&mut stream))).await {
                Some(Ok(from)) => peer = from.unwrap_or(peer),
                Some(Err(error)) => {
                    tracing::debug!(%peer, error = %Chain(&error), "no PROXY protocol header");
                    return;
                }
                None => return,
            }
        }
        match listener.protocol {
            Protocol::Http => {
                self.serve(stream, (peer, permit), Secured::default()).await;
            }
            Protocol::Https => {
                // What a handshake takes is given back after it: connections last, and idle ones are
                // to cost little.
                let handshake = Box::pin(self.in_time(self.tls.accept(stream)));
                match handshake.await {
                    Some(Ok((stream, certified))) => {
                        self.secured(Box::new(stream), certified, (peer, permit)).await;
                    }
                    Some(Err(error)) => {
                        tracing::debug!(%peer, error = %Chain(&error), "TLS handshake failed");
                    }
                    None => {}
                }
            }
            // It has no such sockets.
            Protocol::Http3 => {}
        }
    }

    /// What a connection begins with, unless it takes too long.
    pub(crate) async fn in_time<T>(
        &self,
        beginning: impl Future<Output = io::Result<T>>,
    ) -> Option<io::Result<T>> {
        let told = async {
            self.ends.drain.cancelled().await;
            sleep(FIRST_REQUEST).await;
        };
        tokio::select! {
            biased;
            result = timeout(self.shared.limits.tls_handshake_timeout, beginning) => result.ok(),
            () = told => None,
        }
    }

    /// The client of a connection of this door's.
    pub(crate) fn client(
        &self,
        peer: SocketAddr,
        (tls, certified): (Option<&'static str>, Option<Certified>),
        activity: &Arc<Activity>,
        permit: OwnedSemaphorePermit,
    ) -> Arc<Client> {
        Arc::new(Client {
            shared: Arc::clone(&self.shared),
            peer,
            node: forward::node(peer),
            tls,
            certified,
            activity: Arc::clone(activity),
            ends: self.ends.clone(),
            _permit: permit,
        })
    }

    async fn secured(
        &self,
        stream: Box<TlsStream<TcpStream>>,
        certified: Option<Certified>,
        from: (SocketAddr, OwnedSemaphorePermit),
    ) {
        let session = stream.get_ref().1;
        let tls = Some(tls::version_name(session.protocol_version()));
        let http2 = Some(session.alpn_protocol() == Some(b"h2"));
        self.serve(stream, from, Secured { tls, certified, http2 }).await;
    }

    async fn serve<S>(
        &self,
        stream: S,
        (peer, permit): (SocketAddr, OwnedSemaphorePermit),
        Secured { tls, certified, http2 }: Secured,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let activity = Arc::new(Activity::new(http2 == Some(true)));
        let _seat = self.roster.seat(&activity);
        let client = self.client(peer, (tls, certified), &activity, permit);
        let stream = Watched { stream, activity: Arc::clone(&activity) };
        let mut connection = Spoken::new(stream, Arc::clone(&client), http2);
        let mut leaving = false;
        let end = std::future::poll_fn(|cx| {
            loop {
                if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
                    return Poll::Ready(result);
                }
                match activity.ordered(cx) {
                    Order::Close => return Poll::Ready(Ok(())),
                    Order::Leave if !leaving => {
                        leaving = true;
                        connection.graceful_shutdown();
                    }
                    _ => return Poll::Pending,
                }
            }
        });
        if let Err(error) = end.await {
            ended(&client, &*error);
        }
    }
}

/// A head that hyper could not read is a request too; everything else that ends a connection has
/// ended its requests, and they have their own records.
fn ended(client: &Client, error: &(dyn std::error::Error + 'static)) {
    let shard = client.shared.shard;
    tracing::debug!(shard, peer = %client.peer, error = %Chain(error), "connection ended");
    if let Some(error) = error.downcast_ref::<hyper::Error>().filter(|error| error.is_parse()) {
        let status = match error.is_parse_too_large() {
            true => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            false => StatusCode::BAD_REQUEST,
        };
        record::unreadable(client, "HTTP/1.1", status.as_u16());
    }
}
