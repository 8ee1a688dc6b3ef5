//! Listeners, connections and their end.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use selvedge_telemetry::Chain;
use selvedge_telemetry::access::AccessLog;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::activity::{Activity, Verdict, Watched};
use crate::floor::Floors;
use crate::record;
use crate::service;
use crate::tls;
use crate::trace::Ids;
use crate::{Limits, Snapshot};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;
/// How long to wait when the system is out of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long an idle connection may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(5);

/// What every connection of a proxy shares.
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(crate) access: AccessLog,
    /// None: nothing is cached.
    pub(crate) cache: Option<Arc<crate::cache::Cache>>,
    pub(crate) floors: Floors,
    pub(crate) ids: Ids,
    /// Where plain HTTP is redirected to.
    pub(crate) https_port: u16,
}

/// The client at the other end of a connection.
pub(crate) struct Client {
    pub(crate) shared: Arc<Shared>,
    pub(crate) peer: SocketAddr,
    /// The TLS version, where there is TLS.
    pub(crate) tls: Option<&'static str>,
    pub(crate) activity: Arc<Activity>,
    pub(crate) ends: Ends,
    /// The connection's part in [`Limits::max_connections`], for as long as anything of it lives.
    _permit: OwnedSemaphorePermit,
}

/// How what a connection leaves behind is waited for, and told to end.
#[derive(Clone)]
pub(crate) struct Ends {
    pub(crate) connections: TaskTracker,
    /// No new connections; finish.
    pub(crate) drain: CancellationToken,
    /// Now.
    pub(crate) abort: CancellationToken,
}

impl Client {
    pub(crate) fn secure(&self) -> bool {
        self.tls.is_some()
    }

    pub(crate) fn scheme(&self) -> &'static str {
        if self.secure() { "https" } else { "http" }
    }
}

/// Binds a TCP listener.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// What the accept loops and connections of one proxy work with.
#[derive(Clone)]
pub(crate) struct Server {
    shared: Arc<Shared>,
    http: Builder<TokioExecutor>,
    acceptor: TlsAcceptor,
    gate: Arc<Semaphore>,
    ends: Ends,
}

impl Server {
    pub(crate) fn new(shared: Arc<Shared>, acceptor: TlsAcceptor) -> Self {
        let gate = shared.limits.max_connections.min(Semaphore::MAX_PERMITS);
        Self {
            http: builder(&shared.limits),
            shared,
            acceptor,
            gate: Arc::new(Semaphore::new(gate)),
            ends: Ends {
                connections: TaskTracker::new(),
                drain: CancellationToken::new(),
                abort: CancellationToken::new(),
            },
        }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Serves both listeners until `token` is cancelled, then drains, bounded.
    pub(crate) async fn run(self, http: TcpListener, https: TcpListener, token: CancellationToken) {
        tokio::select! {
            () = self.accept(http, false) => {}
            () = self.accept(https, true) => {}
            () = token.cancelled() => {}
        }
        let Ends { connections, drain, abort } = &self.ends;
        drain.cancel();
        connections.close();
        if timeout(self.shared.limits.drain_timeout, connections.wait()).await.is_err() {
            tracing::warn!(connections = connections.len(), "drain timed out; closing");
        }
        abort.cancel();
        connections.wait().await;
    }

    async fn accept(&self, listener: TcpListener, secure: bool) {
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "a connection can't be accepted");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // At the limit, the connection waits here and further ones in the kernel.
            let Ok(permit) = Arc::clone(&self.gate).acquire_owned().await else { return };
            let server = self.clone();
            self.ends.connections.spawn(async move {
                server.connection(stream, (peer, permit), secure).await;
            });
        }
    }

    async fn connection(
        &self,
        stream: TcpStream,
        (peer, permit): (SocketAddr, OwnedSemaphorePermit),
        secure: bool,
    ) {
        // Answers are written whole; waiting for more only delays their last part.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(error = %Chain(&error), "TCP_NODELAY can't be set");
        }
        if !secure {
            return self.serve(stream, self.http.clone(), (peer, permit), None, false).await;
        }
        let handshake =
            timeout(self.shared.limits.tls_handshake_timeout, self.acceptor.accept(stream));
        let stream = tokio::select! {
            result = handshake => match result {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    tracing::debug!(%peer, error = %Chain(&error), "TLS handshake failed");
                    return;
                }
                Err(_) => return,
            },
            () = self.ends.drain.cancelled() => return,
        };
        let session = stream.get_ref().1;
        let tls = Some(tls::version_name(session.protocol_version()));
        let multiplexed = session.alpn_protocol() == Some(b"h2");
        let http = self.http.clone();
        let http = if multiplexed { http.http2_only() } else { http.http1_only() };
        self.serve(stream, http, (peer, permit), tls, multiplexed).await;
    }

    async fn serve<S>(
        &self,
        stream: S,
        http: Builder<TokioExecutor>,
        (peer, permit): (SocketAddr, OwnedSemaphorePermit),
        tls: Option<&'static str>,
        multiplexed: bool,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = &self.shared.limits;
        let activity = Arc::new(Activity::new(multiplexed));
        let client = Arc::new(Client {
            shared: Arc::clone(&self.shared),
            peer,
            tls,
            activity: Arc::clone(&activity),
            ends: self.ends.clone(),
            _permit: permit,
        });
        let io = TokioIo::new(Watched { stream, activity: Arc::clone(&activity) });
        let requester = Arc::clone(&client);
        let handler = service_fn(move |request: Request<Incoming>| {
            let client = Arc::clone(&requester);
            let answer = service::handle(client, request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let mut connection = pin!(http.serve_connection_with_upgrades(io, handler));
        let mut look = pin!(sleep(limits.header_timeout.min(limits.idle_timeout)));
        let mut draining = false;
        let mut leaving = false;
        loop {
            tokio::select! {
                result = connection.as_mut() => {
                    if let Err(error) = result {
                        ended(&client, &*error);
                    }
                    return;
                }
                () = look.as_mut() => match activity.judge(limits) {
                    Verdict::LookAgain(after) => {
                        look.as_mut().reset(Instant::now() + after);
                    }
                    Verdict::Idle if !leaving => {
                        leaving = true;
                        connection.as_mut().graceful_shutdown();
                        look.as_mut().reset(Instant::now() + GOODBYE);
                    }
                    verdict => {
                        tracing::debug!(%peer, ?verdict, "connection closed");
                        return;
                    }
                },
                () = self.ends.drain.cancelled(), if !draining => {
                    draining = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = self.ends.abort.cancelled() => return,
            }
        }
    }
}

/// A head that hyper could not read is a request too; everything else that ends a connection has
/// ended its requests, and they have their own records.
fn ended(client: &Client, error: &(dyn std::error::Error + 'static)) {
    tracing::debug!(peer = %client.peer, error = %Chain(error), "connection ended");
    if let Some(error) = error.downcast_ref::<hyper::Error>().filter(|error| error.is_parse()) {
        let status = match error.is_parse_too_large() {
            true => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            false => StatusCode::BAD_REQUEST,
        };
        record::unreadable(client, status.as_u16());
    }
}

/// HTTP settings. The timeouts for heads and idle connections are [`Activity`]'s, since hyper has
/// one for both.
fn builder(limits: &Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size((limits.max_header_bytes as usize).max(8192))
        .writev(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_streams)
        .max_pending_accept_reset_streams(limits.max_pending_resets)
        .max_header_list_size(limits.max_header_bytes)
        .max_send_buf_size(256 << 10);
    builder
}

/// Accepts TLS with the snapshot's certificates.
pub(crate) fn acceptor(
    snapshot: watch::Receiver<Arc<Snapshot>>,
) -> Result<TlsAcceptor, rustls::Error> {
    Ok(TlsAcceptor::from(Arc::new(tls::server_config(snapshot)?)))
}
