//! A QUIC connection's life.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h3::frame::FrameStream;
use h3::server::{self, RequestResolver};
use h3::stream::BufRecvStream;
use selvedge_telemetry::Chain;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep};
use tokio_util::task::TaskTracker;

use super::request::{Cancelled, serve};
use super::transport::{BidiStream, Transport};
use super::{EXCESSIVE_LOAD, Handshaking, NO_ERROR, crypto};
use crate::Limits;
use crate::activity::{Activity, Order};
use crate::listener::{Client, Door};
use crate::tls::Certified;

/// How much larger than a head's fields the frame may be that carries them.
const FRAME_SLACK: u64 = 4;
/// What the library counts for each field beside name and value (RFC 9114, section 4.2.2).
const FIELD_OVERHEAD: u64 = 32;
/// How many fields beside those of [`Limits::max_headers`] stand for the request line.
const PSEUDO_FIELDS: u64 = 6;
/// How long a client is still heard after it was told to leave, at least and at most: what it sent
/// before it knew is on its way.
const LAST_REQUESTS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

type Connection = server::Connection<Transport, Bytes>;

impl Door {
    /// Serves a connection of HTTP/3.
    pub(super) async fn quic(
        self: Arc<Self>,
        incoming: quinn::Incoming,
        config: Arc<quinn::ServerConfig>,
        permit: OwnedSemaphorePermit,
        handshaking: Handshaking,
    ) {
        let limits = &self.shared.limits;
        let begun = self.in_time(async {
            let (quic, certified) = self.shake_hands(incoming, config).await?;
            let frame_bytes = FRAME_SLACK * u64::from(limits.max_header_bytes);
            let transport = Transport::new(quic.clone(), frame_bytes);
            let http = server::builder()
                .max_field_section_size(section_size(limits))
                .send_grease(false)
                .build::<_, Bytes>(transport)
                .await;
            io::Result::Ok((quic, certified, http.map_err(io::Error::other)?))
        });
        let (quic, certified, http) = match begun.await {
            Some(Ok(begun)) => begun,
            Some(Err(error)) => {
                tracing::debug!(error = %Chain(&error), "QUIC handshake failed");
                return;
            }
            None => return,
        };
        drop(handshaking);
        let activity = Arc::new(Activity::new(true));
        let _seat = self.roster.seat(&activity);
        let tls = (Some("TLSv1.3"), certified);
        let client = self.client(quic.remote_address(), tls, &activity, permit);
        let life = Life {
            http,
            quic,
            client,
            requests: TaskTracker::new(),
            cancelled: Arc::new(Cancelled::new(limits)),
            next: 0,
            leaving: Leaving::No,
        };
        life.run().await;
    }

    /// With the connection comes what was asked of the client, if anything was. Where some host
    /// asks for certificates, a connection has settings of its own: which host it is for shows
    /// when the handshake has begun.
    async fn shake_hands(
        &self,
        incoming: quinn::Incoming,
        config: Arc<quinn::ServerConfig>,
    ) -> io::Result<(quinn::Connection, Option<Certified>)> {
        let Some((tls, asked)) = self.tls.http3_asking().map_err(io::Error::other)? else {
            let connecting = incoming.accept().map_err(io::Error::other)?;
            return Ok((connecting.await.map_err(io::Error::other)?, None));
        };
        let mut config = quinn::ServerConfig::clone(&config);
        config.crypto = Arc::new(crypto(tls)?);
        let connecting = incoming.accept_with(Arc::new(config)).map_err(io::Error::other)?;
        let quic = connecting.await.map_err(io::Error::other)?;
        let certified = asked.certified_by_quic(quic.peer_identity());
        Ok((quic, certified))
    }
}

/// What the library is told of the size of heads: ours are checked where those of other protocols
/// are, so that the client gets the same answer.
fn section_size(limits: &Limits) -> u64 {
    let fields = limits.max_headers as u64 + PSEUDO_FIELDS;
    u64::from(limits.max_header_bytes) + limits.max_uri_bytes as u64 + fields * FIELD_OVERHEAD * 2
}

struct Life {
    http: Connection,
    quic: quinn::Connection,
    client: Arc<Client>,
    requests: TaskTracker,
    cancelled: Arc<Cancelled>,
    /// The index of the request that comes next.
    next: u64,
    leaving: Leaving,
}

/// How far we are in leaving the client (RFC 9114, section 5.2).
enum Leaving {
    No,
    /// It was told that there will be an end.
    Told(Pin<Box<Sleep>>),
    /// It was told which request was the last.
    Last,
}

/// What happens next.
#[expect(clippy::large_enum_variant, reason = "it lives for a few instructions")]
enum Step {
    Request(BidiStream),
    Leave,
    /// Nothing any more.
    End,
}

impl Life {
    async fn run(mut self) {
        loop {
            match self.step().await {
                Step::Request(stream) => self.request(stream),
                Step::Leave => {
                    if self.leave().await.is_err() {
                        break;
                    }
                }
                Step::End => break,
            }
        }
        let code = if self.cancelled.is_too_often() { EXCESSIVE_LOAD } else { NO_ERROR };
        self.quic.close(code, b"");
        // Their streams have ended with the connection, and so do they.
        self.requests.close();
        self.requests.wait().await;
    }

    async fn step(&mut self) -> Step {
        let Self { http, client, requests, cancelled, leaving, .. } = self;
        let mut finished = pin!(requests.wait());
        let mut too_often = pin!(cancelled.too_often());
        poll_fn(|cx| {
            let order = client.activity.ordered(cx);
            let step = match leaving {
                _ if order == Order::Close => Some(Step::End),
                Leaving::No => (order == Order::Leave).then_some(Step::Leave),
                Leaving::Told(until) => until.as_mut().poll(cx).is_ready().then_some(Step::Leave),
                Leaving::Last => finished.as_mut().poll(cx).is_ready().then_some(Step::End),
            };
            if let Some(step) = step {
                return Poll::Ready(step);
            }
            if too_often.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Step::End);
            }
            match http.poll_accept_request_stream(cx) {
                Poll::Ready(Ok(Some(stream))) => Poll::Ready(Step::Request(stream)),
                // The client leaves, and has got all that it asked for.
                Poll::Ready(Ok(None)) => Poll::Ready(Step::End),
                Poll::Ready(Err(error)) => {
                    let peer = client.peer;
                    tracing::debug!(%peer, error = %Chain(&error), "connection ended");
                    Poll::Ready(Step::End)
                }
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    fn request(&mut self, stream: BidiStream) {
        if matches!(self.leaving, Leaving::Last) && stream.index() >= self.next {
            return stream.reject();
        }
        self.next = stream.index() + 1;
        let done = stream.done();
        let stream = FrameStream::new(BufRecvStream::new(stream));
        let resolver: RequestResolver<Transport, Bytes> = self.http.create_resolver(stream);
        let (client, cancelled) = (Arc::clone(&self.client), Arc::clone(&self.cancelled));
        self.requests.spawn(serve(client, resolver, done, cancelled));
    }

    /// Tells the client that there will be an end, and a little later which request was the last:
    /// of what it sends meanwhile none is lost.
    async fn leave(&mut self) -> Result<(), h3::error::ConnectionError> {
        match self.leaving {
            Leaving::No => {
                let (least, most) = LAST_REQUESTS;
                self.http.shutdown(usize::MAX).await?;
                let wait = (self.quic.rtt() * 3).clamp(least, most);
                self.leaving = Leaving::Told(Box::pin(sleep(wait)));
            }
            Leaving::Told(_) => {
                // Of the first request that won't be served, so one after the last.
                self.http.shutdown(1).await?;
                self.leaving = Leaving::Last;
                self.requests.close();
            }
            Leaving::Last => {}
        }
        Ok(())
    }
}
