//! A workload's response on its way.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::Broken;
use super::count::InFlight;
use super::http1;
use super::http2::Http2Body;
use super::lines::Lines;
use crate::forward;
use crate::snapshot::Stream;

/// Why a response's body can't go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkloadBodyError {
    #[error("the workload closed the connection within the response")]
    ClosedEarly(#[source] Broken),
    #[error("the workload stopped sending the response")]
    Stalled,
    #[error("the response's trailers are too large")]
    TrailersTooLarge,
}

/// The body of a workload's response, trailers included. Its connection is free for the next
/// request when the body has ended. A body that is dropped before ends its connection, or where
/// others use that too, its stream.
pub(crate) struct WorkloadBody {
    inner: Inner,
    max_trailer_bytes: usize,
    failure: Option<&'static str>,
    /// What went wrong, until the next poll.
    error: Option<WorkloadBodyError>,
    in_flight: InFlight,
}

pub(super) enum Inner {
    /// The connection goes back to the others.
    Http1(http1::Body, Arc<Lines>),
    /// The connection speaks another protocol from here on.
    Upgraded(Box<dyn Stream>),
    Http2(Box<Http2Body>),
    /// A stream that has ended.
    Ended,
}

impl WorkloadBody {
    pub(super) fn new(inner: Inner, max_trailer_bytes: usize, in_flight: InFlight) -> Self {
        let mut body = Self { inner, max_trailer_bytes, failure: None, error: None, in_flight };
        if body.is_end_stream() && !matches!(body.inner, Inner::Upgraded(_)) {
            body.end();
        }
        body
    }

    /// The connection, where the response was an upgrade, and what goes on counting.
    pub(crate) fn into_upgraded(self) -> Option<(Box<dyn Stream>, InFlight)> {
        match self.inner {
            Inner::Upgraded(stream) => Some((stream, self.in_flight)),
            _ => None,
        }
    }

    /// What went wrong, by its stable name.
    pub(crate) fn failure(&self) -> Option<&'static str> {
        self.failure
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Http1(body, _) => body.is_end_stream(),
            Inner::Http2(body) => body.is_end_stream(),
            Inner::Upgraded(_) | Inner::Ended => true,
        }
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Http1(body, _) => body.size_hint(),
            Inner::Http2(body) => body.size_hint(),
            Inner::Upgraded(_) | Inner::Ended => SizeHint::with_exact(0),
        }
    }

    /// The next frame: data, or trailers without what may only stand in a head.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, WorkloadBodyError>>> {
        if let Some(error) = self.error.take() {
            return Poll::Ready(Some(Err(error)));
        }
        match ready!(self.poll_inner(cx)) {
            Ok(None) => {
                self.end();
                Poll::Ready(None)
            }
            Ok(Some(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut()
                    && !forward::trailers(trailers, self.max_trailer_bytes)
                {
                    let error = WorkloadBodyError::TrailersTooLarge;
                    return self.fail(cx, "trailers-too-large", error);
                }
                if self.is_end_stream() {
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Err(Some(error)) => {
                self.fail(cx, "body-closed-early", WorkloadBodyError::ClosedEarly(error))
            }
            Err(None) => self.fail(cx, "body-stalled", WorkloadBodyError::Stalled),
        }
    }

    /// Fails with nothing when nothing came for too long.
    fn poll_inner(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Frame<Bytes>>, Option<Broken>>> {
        let body = match &mut self.inner {
            Inner::Http1(body, _) => body,
            Inner::Http2(body) => {
                return body.poll_frame(cx).map_err(|error| error.map(Broken::from));
            }
            Inner::Upgraded(_) | Inner::Ended => return Poll::Ready(Ok(None)),
        };
        match body.poll_frame(cx) {
            Poll::Ready(frame) => {
                body.progress();
                Poll::Ready(frame.transpose().map_err(|error| Some(error.into())))
            }
            Poll::Pending => {
                ready!(body.poll_stalled(cx));
                Poll::Ready(Err(None))
            }
        }
    }

    /// Fails at the next poll: what came before has left by then.
    fn fail(
        &mut self,
        cx: &Context<'_>,
        kind: &'static str,
        error: WorkloadBodyError,
    ) -> Poll<Option<Result<Frame<Bytes>, WorkloadBodyError>>> {
        self.failure = Some(kind);
        self.error = Some(error);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn end(&mut self) {
        self.in_flight.release();
        if let Inner::Http1(body, lines) = std::mem::replace(&mut self.inner, Inner::Ended)
            && let Some(line) = body.into_line()
        {
            lines.put(line);
        }
    }
}
