//! A connection that speaks HTTP/1.1 (RFC 9112).
//!
//! Whoever waits for a response drives the connection: there is no task for it, so that a request
//! wakes nobody but who asked. Where a response begins before its request was sent to the end, that
//! goes on in a task of its own. What the client is not to see is not filtered here;
//! [`crate::forward`] does that.

mod chunked;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod head;
mod upload;

#[cfg(any(test, fuzzing))]
pub(crate) use fuzz::response as fuzz_response;

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, TE, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead as _, ReadBuf, empty, join, sink, split};
use tokio::task::coop::unconstrained;
use tokio_util::io::poll_read_buf;

use super::{Broken, Unanswered, UpstreamError, UpstreamLimits, may_repeat};
use crate::body::{self, Received, RequestBody, Uploading};
use crate::hints::Hints;
use crate::snapshot::Stream;
use crate::spoken::Rewound;
use crate::stall::Stall;
use chunked::Part;
use head::{Framing, Head};
use upload::{Unsent, Upload};

/// What is read at once at first.
const MIN_READ: usize = 16 << 10;
/// And at most, where more has come each time.
const MAX_READ: usize = 256 << 10;
/// What is left of a buffer is read into if it is at least this.
const LEAST_ROOM: usize = 4 << 10;
/// Responses before the final one that are taken.
const MAX_INFORMATIONAL: usize = 64;

/// What is wrong with a connection or what came by it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Http1Error {
    #[error("the connection broke")]
    Io(#[from] io::Error),
    #[error("the connection closed")]
    Closed,
    #[error("its head can't be read")]
    Head(#[source] httparse::Error),
    #[error("its head is too large")]
    HeadTooLarge,
    #[error("its status is none")]
    Status,
    #[error("it has a field with a name or value that is none")]
    Field,
    #[error("its content-length is unclear")]
    Length,
    #[error("its transfer-encoding is not the one that was asked for")]
    Coding,
    #[error("it has too many informational responses")]
    Informational,
    #[error("its chunks can't be read")]
    Chunk,
    #[error("its trailers are too large")]
    TrailersTooLarge,
}

/// A connection.
pub(super) struct Line(Box<Wire>);

struct Wire {
    stream: Box<dyn Stream>,
    /// What has come and was not taken.
    read: BytesMut,
    /// How much to read at once.
    appetite: usize,
    upload: Upload,
    /// Set when nothing more may be sent.
    broken: bool,
    /// Other requests went by the connection before this.
    reused: bool,
    /// A timer that stays with the connection: moving one on is cheaper than making one for each
    /// request.
    stall: Stall,
}

/// How the response that a connection is at goes on.
pub(super) struct Body {
    line: Line,
    framing: Framing,
    persists: bool,
    max_trailer_bytes: usize,
    /// The request's body, where that has not come to its end.
    uploading: Option<Uploading>,
}

/// What a request has brought.
pub(super) enum Answer {
    Body(Body),
    /// The connection speaks another protocol from here on.
    Upgraded(Box<dyn Stream>),
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Line")
    }
}

impl Wire {
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Http1Error>> {
        // What is left of a buffer will do: small pieces must not have a large one each.
        if self.read.capacity() - self.read.len() < LEAST_ROOM {
            self.read.reserve(self.appetite);
        }
        let room = self.read.capacity() - self.read.len();
        let came = ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.read))?;
        if came == 0 {
            return Poll::Ready(Err(Http1Error::Closed));
        }
        if came == room {
            self.appetite = (self.appetite * 2).min(MAX_READ);
        } else if came < self.appetite / 4 {
            self.appetite = (self.appetite / 2).max(MIN_READ);
        }
        Poll::Ready(Ok(()))
    }

    /// Sends on what is to be sent.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unsent>> {
        if self.broken {
            return Poll::Pending;
        }
        self.upload.poll(&mut self.stream, cx)
    }
}

impl Line {
    /// Begins to speak over a new stream.
    pub(super) fn new(stream: Box<dyn Stream>, limits: &UpstreamLimits) -> Self {
        Self(Box::new(Wire {
            stream,
            read: BytesMut::new(),
            appetite: MIN_READ,
            upload: Upload::none(),
            broken: false,
            reused: false,
            stall: Stall::new(limits.response_timeout),
        }))
    }

    /// Whether an idle connection is open still. What came unasked ends it too.
    pub(super) fn is_open(&mut self) -> bool {
        let (mut byte, mut cx) = ([0], Context::from_waker(Waker::noop()));
        let mut buffer = ReadBuf::new(&mut byte);
        let mut stream = Pin::new(&mut self.0.stream);
        // Looked at even by a task that has done much already.
        let look = unconstrained(poll_fn(|cx| stream.as_mut().poll_read(cx, &mut buffer)));
        pin!(look).poll(&mut cx).is_pending()
    }

    /// One try. An upload that goes on is waited for: its own timeout bounds it.
    pub(super) async fn exchange(
        mut self,
        mut request: Request<RequestBody>,
        received: &Received,
        limits: &UpstreamLimits,
    ) -> Result<Response<Answer>, Unanswered> {
        let wire = &mut *self.0;
        // What TE says is said to the next hop only (RFC 9110, section 10.1.4).
        let headers = request.headers_mut();
        if headers.contains_key(UPGRADE) {
            // An upgrade has no trailers.
            headers.remove(TE);
        } else if headers.contains_key(TE) {
            headers.insert(CONNECTION, HeaderValue::from_static("te"));
        }
        wire.stall.restart(limits.response_timeout);
        let reused = std::mem::replace(&mut wire.reused, true);
        let has_body = !request.body().is_empty();
        wire.upload.begin(&mut request);
        let head = match wire.head(&request, received, limits).await {
            Ok(head) => head,
            Err(error) => {
                // A connection that was idle may be closed while the request is on its way.
                let closed = matches!(error, UpstreamError::ClosedEarly(_));
                let harmless = !wire.upload.has_begun()
                    || (reused && !has_body && may_repeat(request.method()));
                let again = (closed && harmless).then(|| {
                    *request.body_mut() = wire.upload.take_body();
                    request
                });
                return Err(Unanswered { error, again });
            }
        };
        let Head { status, headers, framing, persists } = head;
        let leaves = expects_no_body(request.method()) || may_leave_body(status);
        let persists = persists && !(has_body && leaves);
        wire.stall.restart(limits.stall_timeout);
        let answer = match head::switches(status, request.headers()) {
            true => {
                let before = std::mem::take(&mut wire.read).freeze();
                Answer::Upgraded(Box::new(Rewound { before, stream: self.0.stream }))
            }
            false => {
                let uploading = (!wire.upload.is_done()).then(|| wire.send_apart(limits)).flatten();
                let max_trailer_bytes = limits.max_header_bytes;
                Answer::Body(Body { line: self, framing, persists, max_trailer_bytes, uploading })
            }
        };
        let mut response = Response::new(answer);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

impl Wire {
    /// Has what is left of a request sent however its response is read, which may have to wait for
    /// that. The connection carries no other request then. Returns what says how that goes.
    fn send_apart(&mut self, limits: &UpstreamLimits) -> Option<Uploading> {
        let stream = std::mem::replace(&mut self.stream, Box::new(empty()));
        let upload = std::mem::replace(&mut self.upload, Upload::none());
        let (read, write) = split(stream);
        self.stream = Box::new(join(read, sink()));
        let uploading = upload.uploading();
        if !std::mem::replace(&mut self.broken, true) {
            tokio::spawn(upload.finish(Box::new(join(empty(), write)), limits.stall_timeout));
        }
        uploading
    }

    /// Sends a request, and reads the head of its response.
    async fn head(
        &mut self,
        request: &Request<RequestBody>,
        received: &Received,
        limits: &UpstreamLimits,
    ) -> Result<Head, UpstreamError> {
        let hints = request.extensions().get::<Hints>();
        let mut informational = 0;
        let mut seen = received.bytes();
        poll_fn(|cx| {
            loop {
                match self.poll_head(request.method(), limits.max_header_bytes, cx) {
                    Poll::Ready(Ok(head)) if is_informational(&head) => {
                        informational += 1;
                        if informational > MAX_INFORMATIONAL {
                            return Poll::Ready(Err(classify(Http1Error::Informational, received)));
                        }
                        hints.inspect(|hints| hints.take(head.status, &head.headers));
                        continue;
                    }
                    Poll::Ready(head) => {
                        return Poll::Ready(head.map_err(|error| match error {
                            Some(error) => classify(error, received),
                            None => lost(received),
                        }));
                    }
                    Poll::Pending => {}
                }
                ready!(self.stall.poll(cx));
                let now = received.bytes();
                if now == seen {
                    return Poll::Ready(Err(UpstreamError::ResponseTimeout));
                }
                seen = now;
                self.stall.restart(limits.response_timeout);
            }
        })
        .await
    }

    /// Fails with nothing when it is the client who broke off.
    fn poll_head(
        &mut self,
        method: &Method,
        max_bytes: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Head, Option<Http1Error>>> {
        match self.poll_upload(cx) {
            Poll::Ready(Err(Unsent::Client)) => return Poll::Ready(Err(None)),
            Poll::Ready(Err(Unsent::Upstream(error))) => {
                if !self.upload.has_begun() {
                    return Poll::Ready(Err(Some(error.into())));
                }
                // It may have answered before it closed.
                self.broken = true;
            }
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        loop {
            if !self.read.is_empty()
                && let Some(head) = head::read(&mut self.read, method, max_bytes)?
            {
                return Poll::Ready(Ok(head));
            }
            ready!(self.poll_read(cx))?;
        }
    }
}

/// Whether an upstream that answers so may have left the request's body, for the next request: it has
/// looked at the head only.
fn may_leave_body(status: StatusCode) -> bool {
    let refused =
        [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED, StatusCode::NOT_IMPLEMENTED];
    status.is_redirection() || refused.contains(&status)
}

/// Whether a method gives a body no meaning (RFC 9110, section 9.3), so that an upstream may leave it.
fn expects_no_body(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::DELETE].contains(method)
}

/// Whether a head is not that of the answer.
fn is_informational(head: &Head) -> bool {
    head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS
}

/// What the client's part in it is, if it has one.
fn lost(received: &Received) -> UpstreamError {
    let error = received.error().unwrap_or(crate::body::RequestBodyError::Broken);
    UpstreamError::Request(error)
}

fn classify(error: Http1Error, received: &Received) -> UpstreamError {
    match error {
        _ if received.error().is_some() => lost(received),
        Http1Error::HeadTooLarge => UpstreamError::HeadTooLarge,
        Http1Error::Io(_) | Http1Error::Closed => UpstreamError::ClosedEarly(Broken::from(error)),
        error => UpstreamError::Malformed(Broken::from(error)),
    }
}

impl Body {
    /// Something came.
    pub(super) fn progress(&mut self) {
        self.line.0.stall.progress();
    }

    /// Ready when neither the response nor the request has gone on for too long.
    pub(super) fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        body::poll_stalled(&mut self.line.0.stall, self.uploading.as_mut(), cx)
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match &self.framing {
            Framing::Length(left) => *left == 0,
            Framing::Chunked(chunked) => chunked.is_done(),
            Framing::Close => false,
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match &self.framing {
            Framing::Length(left) => SizeHint::with_exact(*left),
            Framing::Chunked(_) | Framing::Close => SizeHint::default(),
        }
    }

    /// The connection, if it may carry another request: the body has ended.
    pub(super) fn into_line(mut self) -> Option<Line> {
        let wire = &mut *self.line.0;
        let free = self.persists && !wire.broken && wire.upload.is_done() && wire.read.is_empty();
        // An idle connection needs no room.
        wire.read = BytesMut::new();
        free.then_some(self.line)
    }

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Http1Error>>> {
        let wire = &mut *self.line.0;
        loop {
            match &mut self.framing {
                Framing::Length(0) => return Poll::Ready(None),
                Framing::Length(left) if !wire.read.is_empty() => {
                    let most = usize::try_from(*left).unwrap_or(usize::MAX);
                    let data = wire.read.split_to(wire.read.len().min(most)).freeze();
                    *left -= data.len() as u64;
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Framing::Close if !wire.read.is_empty() => {
                    let data = wire.read.split().freeze();
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Framing::Chunked(chunked) => {
                    match chunked.take(&mut wire.read, self.max_trailer_bytes)? {
                        Some(Part::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                        Some(Part::Trailers(it)) => {
                            return Poll::Ready(Some(Ok(Frame::trailers(it))));
                        }
                        Some(Part::End) => return Poll::Ready(None),
                        None => {}
                    }
                }
                Framing::Length(_) | Framing::Close => {}
            }
            match ready!(wire.poll_read(cx)) {
                Ok(()) => {}
                Err(Http1Error::Closed) if matches!(self.framing, Framing::Close) => {
                    return Poll::Ready(None);
                }
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }
}
