//! HTTP/3 (RFC 9114): QUIC connections, and their requests on the path that all requests take.
//!
//! A listener has one endpoint, whose socket is read on one shard; its connections are spread over
//! all of them, and each is encrypted, decrypted and answered where it is. A socket for each shard
//! (SO_REUSEPORT) would spread the reading too, but the kernel chooses among sockets by addresses
//! alone: a client whose address changes would reach a shard that doesn't know it, and QUIC is to
//! survive just that (RFC 9000, section 9).
//!
//! Deliberately absent: 0-RTT, since what arrives in it can be repeated by anybody; WebSockets
//! (RFC 9220), for which browsers open another connection; server push; and datagrams.

mod body;
mod connection;
mod frames;
mod request;
mod transport;

#[cfg(any(test, fuzzing))]
pub(crate) use frames::fuzz as fuzz_frames;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::HeaderValue;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, EndpointConfig, IdleTimeout, TokioRuntime, TransportConfig, VarInt};
use selvedge_telemetry::Chain;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::Limits;
use crate::listener::Door;

pub(crate) use body::Http3Body;

/// What the kernel keeps of datagrams in each direction, if it lets us; a datagram that finds no
/// room is lost.
const SOCKET_BUFFER: usize = 4 << 20;
/// Bytes of a request's body that may be on their way unread.
const STREAM_WINDOW: u32 = 256 << 10;
/// The same of all requests of a connection.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Bytes of responses that a connection keeps until the client has confirmed them.
const SEND_WINDOW: u64 = 2 << 20;
/// A client's control stream, the two of its header compression, and some that mean nothing.
const MAX_STREAMS_ONE_WAY: u32 = 8;
/// Connections that have begun and were not looked at, and what of each is kept until then.
const MAX_WAITING: usize = 1024;
const MAX_WAITING_BYTES: u64 = 16 << 10;

/// The QUIC settings of an HTTP/3 listener.
///
/// # Errors
/// When the TLS settings have no TLS 1.3.
pub(crate) fn config(
    tls: rustls::ServerConfig,
    limits: &Limits,
) -> io::Result<quinn::ServerConfig> {
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto(tls)?));
    config
        .max_incoming(MAX_WAITING)
        .incoming_buffer_size(MAX_WAITING_BYTES)
        .incoming_buffer_size_total(MAX_WAITING as u64 * MAX_WAITING_BYTES);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(limits.max_streams.into())
        .max_concurrent_uni_streams(MAX_STREAMS_ONE_WAY.into())
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(CONNECTION_WINDOW.into())
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(None)
        // A connection without requests is closed by its activity; this is for clients that are
        // gone, which the others must prove not to be.
        .max_idle_timeout(IdleTimeout::try_from(limits.idle_timeout).ok())
        .keep_alive_interval(Some((limits.idle_timeout / 3).max(Duration::from_millis(1))));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

fn crypto(tls: rustls::ServerConfig) -> io::Result<QuicServerConfig> {
    QuicServerConfig::try_from(tls).map_err(io::Error::other)
}

/// Binds an address, which nobody else then can.
pub(crate) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    let sizes =
        [socket.set_recv_buffer_size(SOCKET_BUFFER), socket.set_send_buffer_size(SOCKET_BUFFER)];
    for error in sizes.into_iter().filter_map(Result::err) {
        tracing::debug!(error = %Chain(&error), "the socket's buffers stay small");
    }
    Ok(socket.into())
}

/// Counts a handshake under way.
struct Handshaking(Arc<AtomicUsize>);

impl Handshaking {
    fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Handshaking {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An endpoint, and the shards that its connections go to in turn.
pub(crate) struct Accepting {
    endpoint: Endpoint,
    /// The endpoint's settings.
    config: Arc<quinn::ServerConfig>,
    doors: Vec<(Handle, Arc<Door>)>,
    gate: Arc<Semaphore>,
    max_unproven: usize,
}

impl Accepting {
    /// Reads the socket on the current runtime.
    pub(crate) fn start(
        socket: UdpSocket,
        config: quinn::ServerConfig,
        doors: Vec<(Handle, Arc<Door>)>,
        gate: Arc<Semaphore>,
    ) -> io::Result<Self> {
        let runtime = Arc::new(TokioRuntime);
        let own = Some(config.clone());
        let endpoint = Endpoint::new(EndpointConfig::default(), own, socket, runtime)?;
        let config = Arc::new(config);
        let limits = doors.first().map(|(_, door)| &door.shared.limits);
        let max_unproven = limits.map_or(0, |limits| limits.max_unproven_handshakes);
        Ok(Self { endpoint, config, doors, gate, max_unproven })
    }

    /// Accepts until told to stop. The endpoint goes on for as long as it has connections.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let handshakes = Arc::new(AtomicUsize::new(0));
        for (shard, door) in self.doors.iter().cycle() {
            let incoming = tokio::select! {
                incoming = self.next(&handshakes) => incoming,
                () = stop.cancelled() => None,
            };
            let Some((incoming, permit)) = incoming else { break };
            let handshaking = Handshaking::begin(&handshakes);
            let config = Arc::clone(&self.config);
            let connection = Arc::clone(door).quic(incoming, config, permit, handshaking);
            door.ends.connections.spawn_on(connection, shard);
        }
        self.endpoint.set_server_config(None);
    }

    /// The next connection to serve. When many are beginning, a client has to show first that it
    /// gets what is sent to its address (RFC 9000, section 8.1.2); at the limit it is refused, and
    /// comes by TCP.
    async fn next(
        &self,
        handshakes: &AtomicUsize,
    ) -> Option<(quinn::Incoming, tokio::sync::OwnedSemaphorePermit)> {
        loop {
            let incoming = self.endpoint.accept().await?;
            if !incoming.remote_address_validated()
                && incoming.may_retry()
                && handshakes.load(Ordering::Relaxed) >= self.max_unproven
            {
                if let Err(error) = incoming.retry() {
                    tracing::debug!(error = %Chain(&error), "a client need not prove its address");
                }
                continue;
            }
            match Arc::clone(&self.gate).try_acquire_owned() {
                Ok(permit) => return Some((incoming, permit)),
                Err(_) => incoming.refuse(),
            }
        }
    }
}

/// What tells a client of HTTPS that it may come to this port as well (RFC 7838), for a day.
pub(crate) fn alternative(port: u16) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("h3=\":{port}\"; ma=86400")).ok()
}

/// No error (RFC 9114, section 8.1).
const NO_ERROR: VarInt = VarInt::from_u32(0x100);
/// The client asks for too much.
const EXCESSIVE_LOAD: VarInt = VarInt::from_u32(0x107);
