//! Upgraded connections (RFC 9110, section 7.8): a WebSocket (RFC 6455) between a client and an
//! upstream. Bytes go both ways as they come, each side may finish before the other, and nothing is
//! looked into but where a frame ends, so that a goodbye can be said between two.
//!
//! WebSocket is the only protocol let through: others, such as `h2c`, would let a client speak to
//! the workload past every check. A client of HTTP/2 has a stream for one (RFC 8441); the workload
//! sees the upgrade of HTTP/1.1 all the same.

mod client;
mod frames;

#[cfg(any(test, fuzzing))]
pub(crate) use frames::fuzz as fuzz_frames;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Version};
use selvedge_telemetry::access::ErrorSource;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::Stream;
use crate::body::Received;
use crate::listener::Client;
use crate::record::Exchange;
use crate::upstream::InFlight;
pub(crate) use client::{Offer, ToClient, is_connect, opened, wanted};
use frames::{Frames, GOING_AWAY};

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
/// How much is read at once.
const CHUNK: usize = 16 << 10;
/// How long a client that was told goodbye may take to answer.
const GOODBYE: Duration = Duration::from_secs(5);

/// Whether a request asks to become a WebSocket.
pub(crate) fn is_asked(head: &Parts) -> bool {
    let has = |name, wanted: &str| {
        let lines = head.headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
        lines
            .flat_map(|line| line.split(','))
            .any(|token| token.trim().eq_ignore_ascii_case(wanted))
    };
    if is_connect(head) {
        return true;
    }
    head.version == Version::HTTP_11
        && head.method == Method::GET
        && has(CONNECTION, "upgrade")
        && is_websocket(&head.headers)
        && !head.headers.contains_key(CONTENT_LENGTH)
        && !head.headers.contains_key(TRANSFER_ENCODING)
}

/// Whether a message's only upgrade is to WebSocket.
pub(crate) fn is_websocket(headers: &HeaderMap) -> bool {
    let mut upgrades = headers.get_all(UPGRADE).iter();
    let first = upgrades.next().map(HeaderValue::as_bytes);
    first.is_some_and(|it| it.eq_ignore_ascii_case(b"websocket")) && upgrades.next().is_none()
}

/// Puts the upgrade back into headers that were cleared of everything hop-by-hop.
pub(crate) fn put(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, WEBSOCKET);
}

/// A connection that both sides agreed to upgrade.
pub(crate) struct Tunnel {
    pub(crate) client: ToClient,
    pub(crate) upstream: Box<dyn Stream>,
    pub(crate) counted: InFlight,
    /// Cancelled when the upstream is to be left.
    pub(crate) ending: CancellationToken,
}

/// How a tunnel came to its end.
enum End {
    /// Both sides finished, or the proxy said goodbye.
    Finished,
    Idle,
    /// The client's connection broke, or the proxy ends now.
    Broken,
}

impl Tunnel {
    /// Carries bytes until both sides have finished. The client still has to be sent the response.
    /// The access record is written at the end.
    pub(crate) fn begin(self: Box<Self>, exchange: Exchange, client: Arc<Client>) {
        let tracker = client.ends.connections.clone();
        tracker.spawn(self.run(exchange, client));
    }

    async fn run(self: Box<Self>, mut exchange: Exchange, client: Arc<Client>) {
        let Self { client: to_client, upstream, counted, ending } = *self;
        let ends = client.ends.clone();
        let received = exchange.received();
        let moved = Moved::new();
        let carry = async {
            let client = to_client.open().await?;
            let (client_read, client_write) = tokio::io::split(client);
            let (upstream_read, upstream_write) = tokio::io::split(upstream);
            let stop = async {
                tokio::select! {
                    () = ending.cancelled() => {}
                    () = ends.drain.cancelled() => {}
                }
            };
            let up = up(client_read, upstream_write, &received, &moved);
            let down = down(upstream_read, client_write, &moved, stop);
            tokio::try_join!(up, down).map(|((), stopped)| stopped)
        };
        let told = async {
            tokio::select! {
                () = ending.cancelled() => {}
                () = ends.drain.cancelled() => {}
            }
            sleep(GOODBYE).await;
        };
        let end = tokio::select! {
            result = carry => if result.is_ok() { End::Finished } else { End::Broken },
            () = moved.idle(client.shared.limits.tunnel_idle_timeout) => End::Idle,
            () = told => End::Finished,
            () = ends.abort.cancelled() => End::Broken,
        };
        exchange.tunnelled(moved.sent.load(Ordering::Relaxed));
        match end {
            End::Finished => exchange.complete(),
            End::Idle => exchange.failed(ErrorSource::Client, "tunnel-idle"),
            // Said to be the client's doing, as for a response that it did not take.
            End::Broken => {}
        }
        drop(counted);
    }
}

type Side = Box<dyn Stream>;

/// When something last moved, and what went to the client.
struct Moved {
    start: Instant,
    /// Milliseconds since the start.
    last_ms: AtomicU64,
    sent: AtomicU64,
}

impl Moved {
    fn new() -> Self {
        Self { start: Instant::now(), last_ms: AtomicU64::new(0), sent: AtomicU64::new(0) }
    }

    fn note(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now, Ordering::Relaxed);
    }

    /// Ready when nothing has moved for `limit`.
    async fn idle(&self, limit: Duration) {
        loop {
            let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
            let until = self.start + last + limit;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }
}

/// From the client to the upstream.
async fn up(
    mut from: ReadHalf<Box<dyn Stream>>,
    mut to: WriteHalf<Side>,
    received: &Received,
    moved: &Moved,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = from.read(&mut buffer).await?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            return to.shutdown().await;
        };
        received.add(read as u64);
        moved.note();
        to.write_all(bytes).await?;
        to.flush().await?;
        moved.note();
    }
}

/// From the upstream to the client, until `stop`: then the client is told that the server goes
/// away, between two frames, and nothing more is sent.
async fn down(
    mut from: ReadHalf<Side>,
    mut to: WriteHalf<Box<dyn Stream>>,
    moved: &Moved,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let mut frames = Frames::default();
    let mut buffer = vec![0; CHUNK];
    tokio::pin!(stop);
    loop {
        // A frame that has begun is finished first; a side that stops within one is bounded by the
        // goodbye.
        let read = tokio::select! {
            () = &mut stop, if frames.is_between() => {
                if !frames.has_closed() {
                    to.write_all(&GOING_AWAY).await?;
                    moved.sent.fetch_add(GOING_AWAY.len() as u64, Ordering::Relaxed);
                }
                return to.shutdown().await;
            }
            read = from.read(&mut buffer) => read?,
        };
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            return to.shutdown().await;
        };
        frames.pass(bytes);
        moved.note();
        to.write_all(bytes).await?;
        // TLS may keep back what its socket did not take at once.
        to.flush().await?;
        moved.sent.fetch_add(read as u64, Ordering::Relaxed);
        moved.note();
    }
}
