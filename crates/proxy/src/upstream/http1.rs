//! A connection that speaks HTTP/1.1.

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Poll, ready};

use http::header::{CONNECTION, TE};
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;

use super::{Broken, Unanswered, UpstreamError, UpstreamLimits, may_repeat};
use crate::body::{Received, RequestBody, Stall};
use crate::hints::Hints;
use crate::snapshot::Stream;

/// A body is read in pieces of up to this.
const MAX_READ: usize = 256 << 10;

/// A connection, with a timer that stays with it: moving one on is cheaper than making one for each
/// request.
pub(super) struct Line {
    sender: SendRequest<RequestBody>,
    /// Other requests went by the connection before this.
    reused: bool,
    pub(super) stall: Stall,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Line")
    }
}

impl Line {
    /// Begins to speak over a new stream.
    pub(super) async fn open(
        stream: Box<dyn Stream>,
        limits: &UpstreamLimits,
    ) -> Result<Self, UpstreamError> {
        let head = limits.max_header_bytes.max(8192);
        let (sender, connection) = Builder::new()
            .max_buf_size(head.max(MAX_READ))
            .max_header_size(head)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| UpstreamError::ClosedEarly(error.into()))?;
        // Ends when the sender is dropped, the workload closes, or the connection is upgraded. What
        // breaks it is told to the request that it breaks.
        tokio::spawn(connection.with_upgrades());
        Ok(Self { sender, reused: false, stall: Stall::new(limits.response_timeout) })
    }

    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub(super) async fn ready(&mut self) -> hyper::Result<()> {
        self.sender.ready().await
    }

    /// One try. An upload that goes on is waited for: its own timeout bounds it.
    pub(super) async fn exchange(
        &mut self,
        mut request: Request<RequestBody>,
        received: &Received,
        limits: &UpstreamLimits,
    ) -> Result<Response<Incoming>, Unanswered> {
        let Self { sender, reused, stall } = self;
        // What TE says is said to the next hop only (RFC 9110, section 10.1.4).
        let headers = request.headers_mut();
        if headers.contains_key(CONNECTION) {
            // An upgrade has no trailers.
            headers.remove(TE);
        } else if headers.contains_key(TE) {
            headers.insert(CONNECTION, HeaderValue::from_static("te"));
        }
        stall.restart(limits.response_timeout);
        Hints::listen(&mut request);
        // A connection that was idle may be closed while the request is on its way.
        let mut replay = std::mem::replace(reused, true).then(|| replay(&request)).flatten();
        let mut response = pin!(sender.try_send_request(request));
        let mut seen = received.bytes();
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(result) = response.as_mut().poll(cx) {
                    return Poll::Ready(result.map_err(|mut failure| {
                        let unsent = failure.take_message();
                        let error = classify(failure.into_error(), received);
                        let closed = matches!(error, UpstreamError::ClosedEarly(_));
                        let again = unsent.or_else(|| replay.take().filter(|_| closed));
                        Unanswered { error, again }
                    }));
                }
                ready!(stall.poll(cx));
                let now = received.bytes();
                if now == seen {
                    let error = UpstreamError::ResponseTimeout;
                    return Poll::Ready(Err(Unanswered { error, again: None }));
                }
                seen = now;
                stall.restart(limits.response_timeout);
            }
        })
        .await
    }
}

fn classify(error: hyper::Error, received: &Received) -> UpstreamError {
    if let Some(error) = received.error() {
        UpstreamError::Request(error)
    } else if error.is_parse_too_large() {
        UpstreamError::HeadTooLarge
    } else if error.is_parse() {
        UpstreamError::Malformed(error.into())
    } else {
        UpstreamError::ClosedEarly(Broken::from(error))
    }
}

/// A copy of a request that may be sent twice.
fn replay(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    if !request.body().is_empty() || !may_repeat(request.method()) {
        return None;
    }
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    Some(copy)
}
