//! Bodies on their way: counted, timed and bounded.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::Limits;
use crate::cache::{DiskBody, StoredBody, StreamBody};
use crate::encode::Coded;
use crate::esi::Assembled;
use crate::files::{Content, FileBody};
use crate::forward;
use crate::http3::Http3Body;
use crate::record::Exchange;
use crate::stall::Stall;
use crate::tunnel::Tunnel;
use crate::upstream::WorkloadBody;

/// What goes wrong with a body; hyper only wants to know that something did.
pub(crate) type BodyError = Box<dyn Error + Send + Sync>;

/// What is wrong with a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestBodyError {
    /// More bytes than allowed.
    #[error("the request's body is too large")]
    TooLarge,
    /// The client stopped sending, or sends too slowly.
    #[error("the client stopped sending the request's body")]
    Stalled,
    /// The connection broke, or the framing is wrong.
    #[error("the request's body ended early")]
    Broken,
}

impl RequestBodyError {
    /// A stable name for programs.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::TooLarge => "body-too-large",
            Self::Stalled => "body-stalled",
            Self::Broken => "body-broken",
        }
    }
}

/// How far a request's body has been read, for those who don't read it.
#[derive(Debug, Default)]
pub(crate) struct Received {
    bytes: AtomicU64,
    error: OnceLock<RequestBodyError>,
}

impl Received {
    /// Bytes read so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// What is wrong, if something is.
    pub(crate) fn error(&self) -> Option<RequestBodyError> {
        self.error.get().copied()
    }

    /// Bytes of an upgraded connection came.
    pub(crate) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn fail(&self, error: RequestBodyError) -> BodyError {
        // A body ends at its first error.
        let _ = self.error.set(error);
        error.into()
    }
}

/// A request's body that goes on while its response does.
pub(crate) struct Uploading {
    received: Arc<Received>,
    /// Bytes that it was at.
    seen: u64,
}

/// Ready when nothing has come, and nothing was uploaded, for the timeout.
pub(crate) fn poll_stalled(
    stall: &mut Stall,
    mut uploading: Option<&mut Uploading>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    loop {
        ready!(stall.poll(cx));
        let Some(uploading) = &mut uploading else { return Poll::Ready(()) };
        let now = uploading.received.bytes();
        if std::mem::replace(&mut uploading.seen, now) == now {
            return Poll::Ready(());
        }
        stall.progress();
    }
}

/// A request's body as its connection brings it.
pub(crate) enum ClientBody {
    /// By HTTP/1.
    Http1(Incoming),
    /// By HTTP/2: the stream, what it is to bring yet if that was said, and whether only trailers
    /// are left.
    Http2(RecvStream, Option<u64>, bool),
    /// By HTTP/3; in a box, since most requests have none.
    Http3(Box<Http3Body>),
    /// There is none, or what comes is another protocol's.
    Empty,
}

impl ClientBody {
    /// The body of a request of HTTP/2, whose length its head may say.
    pub(crate) fn http2(stream: RecvStream, headers: &HeaderMap) -> Self {
        let length = headers.get(CONTENT_LENGTH);
        let left = length.and_then(|length| length.to_str().ok()?.parse().ok());
        Self::Http2(stream, left, false)
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let (stream, left, data_ended) = match &mut *self {
            Self::Http1(body) => return Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Http2(stream, left, data_ended) => (stream, left, data_ended),
            Self::Http3(body) => return body.poll_frame(cx).map_err(Into::into),
            Self::Empty => return Poll::Ready(None),
        };
        if !*data_ended {
            if let Some(data) = ready!(stream.poll_data(cx)?) {
                // Taken: it is the upstream's to hold back now.
                let _ = stream.flow_control().release_capacity(data.len());
                *left = left.map(|left| left.saturating_sub(data.len() as u64));
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            *data_ended = true;
        }
        let trailers = ready!(stream.poll_trailers(cx))?;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(stream, ..) => stream.is_end_stream(),
            Self::Http3(body) => body.is_end_stream(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http3(body) => body.size_hint(),
            Self::Empty => SizeHint::with_exact(0),
            Self::Http2(..) if self.is_end_stream() => SizeHint::with_exact(0),
            Self::Http2(_, left, _) => left.map(SizeHint::with_exact).unwrap_or_default(),
        }
    }
}

/// A request's body on its way to a workload, trailers included: without those that may only stand
/// in a head, since they have carried smuggled headers.
pub(crate) enum RequestBody {
    /// None.
    Empty,
    /// As the client sends it.
    Streaming(Box<StreamingBody>),
    /// Sent again: what was read of it before, and the rest.
    Again(std::vec::IntoIter<Bytes>, Box<RequestBody>),
}

pub(crate) struct StreamingBody {
    inner: ClientBody,
    left: u64,
    max_trailer_bytes: usize,
    stall: Stall,
    pace: Pace,
    received: Arc<Received>,
}

/// How fast something comes, counting only the time that is spent waiting for it.
#[derive(Debug)]
struct Pace {
    rate: u32,
    grace: Duration,
    waited: Duration,
    since: Option<Instant>,
}

impl Pace {
    fn waiting(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// Something came, `bytes` in all so far. False when that is too little.
    fn came(&mut self, bytes: u64) -> bool {
        if let Some(since) = self.since.take() {
            self.waited += since.elapsed();
        }
        let counted = self.waited.saturating_sub(self.grace).as_secs();
        bytes >= counted.saturating_mul(self.rate.into())
    }
}

impl RequestBody {
    pub(crate) fn new(
        inner: Option<ClientBody>,
        limits: &Limits,
        received: &Arc<Received>,
    ) -> Self {
        let Some(inner) = inner.filter(|inner| !inner.is_end_stream()) else {
            return Self::Empty;
        };
        let grace = limits.client_stall_timeout;
        Self::Streaming(Box::new(StreamingBody {
            inner,
            left: limits.max_body_bytes,
            max_trailer_bytes: limits.max_header_bytes as usize,
            stall: Stall::new(grace),
            pace: Pace { rate: limits.min_body_rate, grace, waited: Duration::ZERO, since: None },
            received: Arc::clone(received),
        }))
    }

    /// A body of which some was taken, as it was before that.
    pub(crate) fn again(taken: Vec<Bytes>, rest: Self) -> Self {
        match taken.is_empty() {
            true => rest,
            false => Self::Again(taken.into_iter(), Box::new(rest)),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// What says how it goes on.
    pub(crate) fn uploading(&self) -> Option<Uploading> {
        match self {
            Self::Empty => None,
            Self::Streaming(body) => {
                let received = Arc::clone(&body.received);
                Some(Uploading { seen: received.bytes(), received })
            }
            Self::Again(_, rest) => rest.uploading(),
        }
    }
}

impl StreamingBody {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                self.pace.waiting();
                ready!(self.stall.poll(cx));
                return Poll::Ready(Some(Err(self.received.fail(RequestBodyError::Stalled))));
            }
        };
        self.stall.progress();
        let data = match frame {
            None => return Poll::Ready(None),
            Some(Err(_)) => {
                return Poll::Ready(Some(Err(self.received.fail(RequestBodyError::Broken))));
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => data,
                Err(frame) => return Poll::Ready(self.trailers(frame).transpose()),
            },
        };
        let len = data.len() as u64;
        let Some(left) = self.left.checked_sub(len) else {
            return Poll::Ready(Some(Err(self.received.fail(RequestBodyError::TooLarge))));
        };
        self.left = left;
        let total = self.received.bytes.fetch_add(len, Ordering::Relaxed) + len;
        if !self.pace.came(total) {
            return Poll::Ready(Some(Err(self.received.fail(RequestBodyError::Stalled))));
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}

impl StreamingBody {
    /// Trailers as they go on.
    fn trailers(&self, mut frame: Frame<Bytes>) -> Result<Option<Frame<Bytes>>, BodyError> {
        let Some(trailers) = frame.trailers_mut() else { return Ok(None) };
        match forward::trailers(trailers, self.max_trailer_bytes) {
            true => Ok(Some(frame)),
            false => Err(self.received.fail(RequestBodyError::TooLarge)),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Streaming(body) => body.poll(cx),
            Self::Again(taken, rest) => match taken.next() {
                Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
                None => Pin::new(rest.as_mut()).poll_frame(cx),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streaming(body) => body.inner.is_end_stream(),
            Self::Again(taken, rest) => taken.len() == 0 && rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streaming(body) => body.inner.size_hint(),
            Self::Again(taken, rest) => {
                let known: u64 = taken.as_slice().iter().map(|data| data.len() as u64).sum();
                match rest.size_hint().exact() {
                    Some(left) => SizeHint::with_exact(known + left),
                    None => SizeHint::default(),
                }
            }
        }
    }
}

/// Where a response's body comes from.
pub(crate) enum Payload {
    Empty,
    Memory(Bytes),
    File(FileBody),
    Workload(WorkloadBody),
    /// What is stored.
    Stored(StoredBody),
    /// What is stored on disk; in a box, since most answers are of other kinds.
    Disk(Box<DiskBody>),
    /// What is on its way into the cache.
    Coming(StreamBody),
    /// What is put together of pieces.
    Page(Box<Assembled>),
    /// One of these, encoded or decoded for the client.
    Coded(Box<Coded<Payload>>),
    /// None: the connection is another protocol's from here on.
    Tunnel(Box<Tunnel>),
}

impl From<Content> for Payload {
    fn from(content: Content) -> Self {
        match content {
            Content::Empty => Self::Empty,
            Content::Memory(bytes) => Self::Memory(bytes),
            Content::File(body) => Self::File(body),
        }
    }
}

/// A response's body on its way to the client. When it ends or is dropped, so does the exchange,
/// and the access record is written.
pub(crate) struct ResponseBody {
    payload: Payload,
    /// Gone where the exchange goes on without the response.
    exchange: Option<Exchange>,
}

impl ResponseBody {
    pub(crate) fn new(payload: Payload, exchange: Exchange) -> Self {
        let mut body = Self { payload, exchange: Some(exchange) };
        if body.is_end_stream() {
            body.complete();
        }
        body
    }

    /// The body of a template: its exchange is the page's.
    pub(crate) fn template(payload: Payload) -> Self {
        Self { payload, exchange: None }
    }

    /// The body of an upgrade: its exchange is the tunnel's.
    pub(crate) fn upgraded() -> Self {
        Self { payload: Payload::Empty, exchange: None }
    }

    fn complete(&mut self) {
        if let Some(exchange) = &mut self.exchange {
            exchange.complete();
        }
    }
}

impl Payload {
    /// The name of what went wrong with it, if that was the workload's doing.
    fn failure(&self) -> Option<&'static str> {
        match self {
            Self::Workload(body) => body.failure(),
            Self::Coming(_) => Some("body-closed-early"),
            Self::Disk(_) => Some("stored-body-damaged"),
            Self::Page(_) => Some("page-broken"),
            Self::Coded(body) => body.inner().failure().or(Some("body-malformed")),
            _ => None,
        }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty | Self::Tunnel(_) => Poll::Ready(None),
            Self::Memory(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::File(body) => body.poll_chunk(cx).map_ok(Frame::data).map_err(Into::into),
            Self::Workload(body) => body.poll_frame(cx).map_err(Into::into),
            Self::Stored(body) => Poll::Ready(body.next().map(|data| Ok(Frame::data(data)))),
            Self::Disk(body) => body.poll_data(cx).map_ok(Frame::data).map_err(Into::into),
            Self::Coming(body) => body.poll_data(cx).map_ok(Frame::data).map_err(Into::into),
            Self::Page(body) => Pin::new(body.as_mut()).poll_frame(cx),
            Self::Coded(body) => Pin::new(body.as_mut()).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Tunnel(_) => true,
            Self::Memory(bytes) => bytes.is_empty(),
            Self::File(body) => body.remaining() == 0,
            Self::Workload(body) => body.is_end_stream(),
            Self::Stored(body) => body.left() == 0,
            Self::Disk(body) => body.left() == 0,
            Self::Coming(body) => body.is_end_stream(),
            Self::Page(body) => body.is_end_stream(),
            Self::Coded(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Tunnel(_) => SizeHint::with_exact(0),
            Self::Memory(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::File(body) => SizeHint::with_exact(body.remaining()),
            Self::Workload(body) => body.size_hint(),
            Self::Stored(body) => SizeHint::with_exact(body.left()),
            Self::Disk(body) => SizeHint::with_exact(body.left()),
            Self::Coming(_) => SizeHint::default(),
            Self::Page(body) => body.size_hint(),
            Self::Coded(body) => body.size_hint(),
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(exchange) = &mut self.exchange {
            exchange.asked();
        }
        match ready!(Pin::new(&mut self.payload).poll_frame(cx)) {
            Some(Ok(frame)) => {
                if let (Some(exchange), Some(data)) = (&mut self.exchange, frame.data_ref()) {
                    exchange.sent(data.len() as u64);
                }
                if self.is_end_stream() {
                    self.complete();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                let kind = self.payload.failure();
                if let Some(exchange) = &mut self.exchange {
                    exchange.body_failed(kind);
                }
                Poll::Ready(Some(Err(error)))
            }
            None => {
                self.complete();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.payload.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.payload.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn what_is_uploaded_is_progress() {
        let received = Arc::new(Received::default());
        let mut uploading = Uploading { received: Arc::clone(&received), seen: 0 };
        let mut stall = Stall::new(10 * SECOND);
        let started = Instant::now();
        let stalled = std::future::poll_fn(|cx| {
            let stalled = poll_stalled(&mut stall, Some(&mut uploading), cx);
            if started.elapsed() < 25 * SECOND {
                received.add(1);
            }
            stalled
        });
        stalled.await;
        // What came behind the second wait's beginning had the third begin, and nothing came then.
        assert_eq!(started.elapsed().as_secs(), 40);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_must_come_at_a_pace() {
        let mut pace = Pace { rate: 100, grace: 10 * SECOND, waited: Duration::ZERO, since: None };
        // Time that is not spent waiting does not count.
        tokio::time::advance(3600 * SECOND).await;
        assert!(pace.came(1));
        for (bytes, good) in [(2, true), (3, true), (900, true), (1900, true), (1901, false)] {
            pace.waiting();
            tokio::time::advance(if bytes < 10 { 5 } else { 9 } * SECOND).await;
            assert_eq!(pace.came(bytes), good, "{bytes} after {:?}", pace.waited);
        }
    }
}
