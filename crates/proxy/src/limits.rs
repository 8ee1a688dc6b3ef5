//! What clients may do, in time and size. What workloads may do is [`crate::UpstreamLimits`].

use std::time::Duration;

/// Limits of clients; the defaults suit the public Internet.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Client connections at once, over both listeners. Further ones wait in the kernel's queue.
    pub max_connections: usize,
    /// A TLS handshake must be done within this.
    pub tls_handshake_timeout: Duration,
    /// The head of an HTTP/1 request must arrive within this of its first byte, and the first
    /// byte of a connection within this of its start.
    pub header_timeout: Duration,
    /// A connection without a request is closed after this.
    pub idle_timeout: Duration,
    /// Bytes of a request's head.
    pub max_header_bytes: u32,
    /// Header fields of a request, at most 100.
    pub max_headers: usize,
    /// Bytes of a request target: path and query.
    pub max_uri_bytes: usize,
    /// Bytes of a request's body.
    pub max_body_bytes: u64,
    /// A client must send, or take, some of a body within this.
    pub client_stall_timeout: Duration,
    /// Bytes a second that a request's body must bring on average, over the time that is spent
    /// waiting for the client, once that exceeds `client_stall_timeout`. Against clients that send
    /// a byte now and then to hold a workload; 0 puts up with them.
    pub min_body_rate: u32,
    /// HTTP/2 streams of a connection at once.
    pub max_streams: u32,
    /// HTTP/2 streams that a client may reset before their request was looked at (the "rapid
    /// reset" attack, CVE-2023-44487); one more closes the connection.
    pub max_pending_resets: usize,
    /// QUIC handshakes under way at once, above which a client has to prove that it is where it says
    /// it is before anything is done for it (RFC 9000, section 8.1.2).
    pub max_unproven_handshakes: usize,
    /// An upgraded connection (a WebSocket) on which nothing moves, in neither direction, is closed
    /// after this.
    pub tunnel_idle_timeout: Duration,
    /// Requests under way when the proxy ends have this long.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            tls_handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            max_header_bytes: 32 << 10,
            max_headers: 100,
            max_uri_bytes: 8 << 10,
            max_body_bytes: 100 << 20,
            client_stall_timeout: Duration::from_secs(30),
            min_body_rate: 500,
            max_streams: 128,
            max_pending_resets: 20,
            max_unproven_handshakes: 64,
            tunnel_idle_timeout: Duration::from_secs(300),
            drain_timeout: Duration::from_secs(10),
        }
    }
}
