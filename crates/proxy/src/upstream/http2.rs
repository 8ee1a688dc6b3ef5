//! A connection that speaks HTTP/2 (RFC 9113), shared by requests of one runtime.
//!
//! The `h2` crate is used directly: it says of a request that failed whether the server can have
//! looked at it, so that it may be sent again, and hands on early hints.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, ResponseFuture, SendRequest};
use h2::{Ping, Reason, RecvStream};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::{Broken, Unanswered, UpstreamError, UpstreamLimits, may_repeat};
use crate::body::{BodyError, Received, RequestBody, Uploading, poll_stalled};
use crate::hints::Hints;
use crate::pipe::Pipe;
use crate::snapshot::Stream;
use crate::stall::Stall;

/// Requests at once on one connection, whatever more the server allows. Servers that allow fewer
/// say so.
const MAX_STREAMS: usize = 100;
/// What the server may send of a response before it is taken.
const STREAM_WINDOW: u32 = 256 << 10;
/// Large enough for every stream's window, so that a client that does not read stops its own
/// response alone.
const CONNECTION_WINDOW: u32 = MAX_STREAMS as u32 * STREAM_WINDOW;
/// What is kept of a request's body while it can't be sent.
const SEND_BUFFER: usize = 64 << 10;
/// How much of a request's body is kept to be sent again.
const MAX_KEPT: usize = 64 << 10;
/// A server that does not answer a ping until the next one is due is gone.
const PING: Duration = Duration::from_secs(20);

/// A connection in the pool.
pub(super) struct Trunk {
    sender: SendRequest<Bytes>,
    state: Arc<State>,
    /// When it was last seen at work.
    used: Instant,
}

impl std::fmt::Debug for Trunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trunk").field("state", &self.state).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct State {
    active: AtomicUsize,
    most: AtomicUsize,
    /// Nothing more can be sent on it.
    ended: AtomicBool,
}

/// One stream's place on a connection.
pub(super) struct Place {
    sender: SendRequest<Bytes>,
    state: Arc<State>,
    /// Other requests went by the connection before this.
    pub(super) reused: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.state.active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Trunk {
    /// Begins to speak over a new stream.
    pub(super) async fn open(
        stream: Box<dyn Stream>,
        limits: &UpstreamLimits,
    ) -> Result<Self, UpstreamError> {
        let head = u32::try_from(limits.max_header_bytes.max(8192)).unwrap_or(u32::MAX);
        let (sender, connection) = Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(head)
            .max_send_buffer_size(SEND_BUFFER)
            .enable_push(false)
            .handshake(stream)
            .await
            .map_err(|error| UpstreamError::ClosedEarly(error.into()))?;
        let state = Arc::new(State {
            active: AtomicUsize::new(0),
            most: AtomicUsize::new(MAX_STREAMS),
            ended: AtomicBool::new(false),
        });
        tokio::spawn(drive(connection, Arc::clone(&state)));
        Ok(Self { sender, state, used: Instant::now() })
    }

    /// A place for one more request, if there is one. Not to be called at the same time by two.
    pub(super) fn place(&mut self, now: Instant, reused: bool) -> Option<Place> {
        let most = self.state.most.load(Ordering::Relaxed);
        let most = most.min(self.sender.current_max_send_streams());
        if self.state.active.load(Ordering::Relaxed) >= most || self.has_ended() {
            return None;
        }
        self.state.active.fetch_add(1, Ordering::Relaxed);
        self.used = now;
        Some(Place { sender: self.sender.clone(), state: Arc::clone(&self.state), reused })
    }

    pub(super) fn has_ended(&self) -> bool {
        self.state.ended.load(Ordering::Relaxed)
    }

    /// Whether no request has used it for `keep`. It closes when it is dropped.
    pub(super) fn is_idle(&mut self, keep: Duration) -> bool {
        if self.state.active.load(Ordering::Relaxed) > 0 {
            self.used = Instant::now();
        }
        self.used.elapsed() >= keep
    }
}

/// Carries a connection until it ends: when nothing uses it any more, the server closes it, or does
/// not answer a ping.
async fn drive(mut connection: Connection<Box<dyn Stream>, Bytes>, state: Arc<State>) {
    let mut pings = connection.ping_pong();
    let mut due = interval(PING);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    due.reset();
    let mut waiting = false;
    let result = poll_fn(|cx| {
        if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(Some(result));
        }
        let Some(pings) = &mut pings else { return Poll::Pending };
        if waiting && pings.poll_pong(cx).is_ready() {
            waiting = false;
        }
        while due.poll_tick(cx).is_ready() {
            if waiting || pings.send_ping(Ping::opaque()).is_err() {
                return Poll::Ready(None);
            }
            waiting = true;
            // The connection has something to write, and the pong is to wake us.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await;
    state.ended.store(true, Ordering::Relaxed);
    match result {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(%error, "connection to an upstream ended"),
        None => tracing::debug!("an upstream does not answer pings; connection closed"),
    }
}

impl Place {
    /// One try. An upload that goes on is waited for: its own timeout bounds it.
    pub(super) async fn exchange(
        mut self,
        request: Request<RequestBody>,
        scheme: &Scheme,
        received: &Received,
        limits: &UpstreamLimits,
    ) -> Result<Response<Http2Body>, Unanswered> {
        let unsent = |error, again| Unanswered { error, again };
        let deadline = Instant::now() + limits.connect_timeout;
        let opened = poll_fn(|cx| self.sender.poll_ready(cx));
        match timeout_at(deadline, opened).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                self.state.ended.store(true, Ordering::Relaxed);
                return Err(unsent(UpstreamError::ClosedEarly(error.into()), Some(request)));
            }
            Err(_) => return Err(unsent(UpstreamError::Busy, None)),
        }
        let (parts, body) = request.into_parts();
        let Some(head) = head(&parts, scheme) else {
            return Err(unsent(UpstreamError::NoAuthority, None));
        };
        let (mut response, stream) = match self.sender.send_request(head, body.is_end_stream()) {
            Ok(sent) => sent,
            Err(error) => {
                let again = Request::from_parts(parts, body);
                return Err(unsent(UpstreamError::ClosedEarly(error.into()), Some(again)));
            }
        };
        let mut upload = Pipe::new(Kept::new(body), stream, Reason::CANCEL);
        let mut stall = Stall::new(limits.response_timeout);
        let wait = Wait { received, limits, hints: parts.extensions.get::<Hints>() };
        match head_of(&mut response, &mut upload, &mut stall, wait).await {
            Ok(response) => {
                stall.restart(limits.stall_timeout);
                Ok(self.answer(response, upload, stall, &parts))
            }
            Err(Failure::Timeout) => Err(unsent(UpstreamError::ResponseTimeout, None)),
            Err(Failure::Stream(error)) => Err(self.failed(error, parts, upload, received)),
        }
    }

    fn answer(
        self,
        response: Response<RecvStream>,
        upload: Pipe<Kept>,
        stall: Stall,
        request: &Parts,
    ) -> Response<Http2Body> {
        let length = response.headers().get(CONTENT_LENGTH);
        let left = length
            .filter(|_| request.method != Method::HEAD)
            .and_then(|length| length.to_str().ok()?.parse().ok());
        // Both directions go on at their own pace from here.
        let uploading = (!upload.is_done()).then(|| upload.body().body.uploading()).flatten();
        let upload = (!upload.is_done()).then(|| AbortOnDropHandle::new(tokio::spawn(upload)));
        response.map(|stream| Http2Body {
            stream,
            data_ended: false,
            left,
            stall,
            _place: self,
            upload,
            uploading,
        })
    }

    /// Whether a request that failed may be sent again: certainly when the server says that it has
    /// not looked at it (RFC 9113, section 8.7), as long as its body is still there.
    fn failed(
        &self,
        error: h2::Error,
        parts: Parts,
        upload: Pipe<Kept>,
        received: &Received,
    ) -> Unanswered {
        if let Some(error) = received.error() {
            return Unanswered { error: UpstreamError::Request(error), again: None };
        }
        let refused = error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM);
        let left = error.is_remote() && error.is_go_away();
        if refused {
            // It takes what it has, and no more; one that takes nothing is of no use.
            let others = self.state.active.load(Ordering::Relaxed).saturating_sub(1);
            self.state.most.store(others, Ordering::Relaxed);
            self.state.ended.fetch_or(others == 0, Ordering::Relaxed);
        }
        if left || error.is_io() {
            self.state.ended.store(true, Ordering::Relaxed);
        }
        let harmless = refused
            || left
            || (self.reused
                && error.is_io()
                && may_repeat(&parts.method)
                && upload.body().body.is_empty());
        let body = harmless.then(|| upload.into_body().whole()).flatten();
        let again = body.map(|body| Request::from_parts(parts, body));
        let error = match refused {
            true => UpstreamError::Busy,
            false if error.is_library() => UpstreamError::Malformed(error.into()),
            false => UpstreamError::ClosedEarly(Broken::from(error)),
        };
        Unanswered { error, again }
    }
}

/// What is watched while a response is waited for.
struct Wait<'a> {
    received: &'a Received,
    limits: &'a UpstreamLimits,
    hints: Option<&'a Hints>,
}

enum Failure {
    Timeout,
    Stream(h2::Error),
}

/// Waits for the head of the response, sending the request's body meanwhile.
async fn head_of(
    response: &mut ResponseFuture,
    upload: &mut Pipe<Kept>,
    stall: &mut Stall,
    wait: Wait<'_>,
) -> Result<Response<RecvStream>, Failure> {
    let Wait { received, limits, hints } = wait;
    let mut seen = received.bytes();
    poll_fn(|cx| {
        let _ = Pin::new(&mut *upload).poll(cx);
        while let Poll::Ready(Some(Ok(early))) = response.poll_informational(cx) {
            if let Some(hints) = hints {
                hints.take(early.status(), early.headers());
            }
        }
        if let Poll::Ready(result) = Pin::new(&mut *response).poll(cx) {
            return Poll::Ready(result.map_err(Failure::Stream));
        }
        loop {
            ready!(stall.poll(cx));
            let now = received.bytes();
            if now == seen {
                return Poll::Ready(Err(Failure::Timeout));
            }
            seen = now;
            stall.restart(limits.response_timeout);
        }
    })
    .await
}

/// The head as HTTP/2 has it: with the host in the target. None where that is no authority.
fn head(parts: &Parts, scheme: &Scheme) -> Option<Request<()>> {
    let mut headers = parts.headers.clone();
    let authority = headers.remove(HOST)?;
    // It may have been sent over HTTP/1.1 before.
    for name in [CONNECTION, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    let mut target = http::uri::Parts::default();
    target.scheme = Some(scheme.clone());
    target.authority = Some(Authority::try_from(authority.as_bytes()).ok()?);
    target.path_and_query = parts.uri.path_and_query().cloned();
    let mut head = Request::new(());
    *head.method_mut() = parts.method.clone();
    *head.uri_mut() = Uri::from_parts(target).ok()?;
    *head.version_mut() = http::Version::HTTP_2;
    *head.headers_mut() = headers;
    Some(head)
}

/// A request's body, of which what was taken is kept while it is little.
struct Kept {
    body: RequestBody,
    taken: Option<Vec<Bytes>>,
}

impl Kept {
    fn new(body: RequestBody) -> Self {
        Self { body, taken: Some(Vec::new()) }
    }

    /// The body as it was at first.
    fn whole(self) -> Option<RequestBody> {
        self.taken.map(|taken| RequestBody::again(taken, self.body))
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        let Some(taken) = &mut self.taken else { return };
        taken.extend(frame.data_ref().cloned());
        if frame.is_trailers() || taken.iter().map(Bytes::len).sum::<usize>() > MAX_KEPT {
            self.taken = None;
        }
    }
}

impl Body for Kept {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            self.keep(frame);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// The body of a response. When it is dropped before its end, the server is told to stop.
pub(super) struct Http2Body {
    stream: RecvStream,
    data_ended: bool,
    left: Option<u64>,
    stall: Stall,
    /// Where the request's body was not done when the response began.
    upload: Option<AbortOnDropHandle<()>>,
    uploading: Option<Uploading>,
    _place: Place,
}

impl Http2Body {
    /// Ready with `None` in the middle when nothing came for too long.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Frame<Bytes>>, Option<h2::Error>>> {
        match self.poll_stream(cx) {
            Poll::Ready(result) => {
                self.stall.progress();
                Poll::Ready(result.map_err(Some))
            }
            Poll::Pending => {
                ready!(poll_stalled(&mut self.stall, self.uploading.as_mut(), cx));
                Poll::Ready(Err(None))
            }
        }
    }

    fn poll_stream(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Frame<Bytes>>, h2::Error>> {
        if !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Taken: it is the front's to hold back now.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Ok(Some(Frame::data(data))));
                }
                // The server wants no more of the request, and has said everything (RFC 9113,
                // section 8.1).
                Some(Err(error))
                    if error.reason() == Some(Reason::NO_ERROR)
                        && self.upload.is_some()
                        && self.left.is_none_or(|left| left == 0) =>
                {
                    return Poll::Ready(Ok(None));
                }
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => self.data_ended = true,
            }
        }
        let trailers: Option<HeaderMap> = ready!(self.stream.poll_trailers(cx))?;
        Poll::Ready(Ok(trailers.map(Frame::trailers)))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match (self.is_end_stream(), self.left) {
            (true, _) => SizeHint::with_exact(0),
            (false, Some(left)) => SizeHint::with_exact(left),
            (false, None) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_went_over_http_1_first_says_nothing_of_that() {
        let request = Request::post("/a?b")
            .header("host", "a.test")
            .header("connection", "te")
            .header("te", "trailers")
            .header("transfer-encoding", "chunked")
            .header("x", "y");
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let head = head(&parts, &Scheme::HTTPS).unwrap();
        assert_eq!(head.uri(), "https://a.test/a?b");
        let mut names: Vec<&str> = head.headers().keys().map(http::HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["te", "x"]);
    }
}
