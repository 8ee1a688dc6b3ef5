//! A workload's response on its way.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

use super::Broken;
use super::count::InFlight;
use super::http1::Line;
use super::http2::Http2Body;
use super::lines::Lines;
use crate::forward;

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
    in_flight: InFlight,
}

pub(super) enum Inner {
    /// The connection goes back to the others; none for one that was upgraded.
    Http1(Incoming, Option<(Line, Arc<Lines>)>),
    Http2(Box<Http2Body>),
    /// A stream that has ended.
    Ended,
}

impl WorkloadBody {
    pub(super) fn new(inner: Inner, max_trailer_bytes: usize, in_flight: InFlight) -> Self {
        let mut body = Self { inner, max_trailer_bytes, failure: None, in_flight };
        if body.is_end_stream() && !matches!(body.inner, Inner::Http1(_, None)) {
            body.end();
        }
        body
    }

    /// The response was an upgrade: what goes on counting.
    pub(crate) fn into_counted(self) -> InFlight {
        self.in_flight
    }

    /// What went wrong, by its stable name.
    pub(crate) fn failure(&self) -> Option<&'static str> {
        self.failure
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Http1(body, _) => body.is_end_stream(),
            Inner::Http2(body) => body.is_end_stream(),
            Inner::Ended => true,
        }
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Http1(body, _) => body.size_hint(),
            Inner::Http2(body) => body.size_hint(),
            Inner::Ended => SizeHint::with_exact(0),
        }
    }

    /// The next frame: data, or trailers without what may only stand in a head.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, WorkloadBodyError>>> {
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
                    return self.fail("trailers-too-large", error);
                }
                if self.is_end_stream() {
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Err(Some(error)) => {
                self.fail("body-closed-early", WorkloadBodyError::ClosedEarly(error))
            }
            Err(None) => self.fail("body-stalled", WorkloadBodyError::Stalled),
        }
    }

    /// Fails with nothing when nothing came for too long.
    fn poll_inner(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Frame<Bytes>>, Option<Broken>>> {
        let (body, back) = match &mut self.inner {
            Inner::Http1(body, back) => (body, back),
            Inner::Http2(body) => {
                return body.poll_frame(cx).map_err(|error| error.map(Broken::from));
            }
            Inner::Ended => return Poll::Ready(Ok(None)),
        };
        let stall = back.as_mut().map(|(line, _)| &mut line.stall);
        let frame = Pin::new(body).poll_frame(cx);
        match (frame, stall) {
            (Poll::Ready(frame), stall) => {
                if let Some(stall) = stall {
                    stall.progress();
                }
                Poll::Ready(frame.transpose().map_err(|error| Some(error.into())))
            }
            (Poll::Pending, Some(stall)) => {
                ready!(stall.poll(cx));
                Poll::Ready(Err(None))
            }
            (Poll::Pending, None) => Poll::Pending,
        }
    }

    fn fail(
        &mut self,
        kind: &'static str,
        error: WorkloadBodyError,
    ) -> Poll<Option<Result<Frame<Bytes>, WorkloadBodyError>>> {
        self.failure = Some(kind);
        Poll::Ready(Some(Err(error)))
    }

    fn end(&mut self) {
        self.in_flight.release();
        if let Inner::Http1(_, back) = &mut self.inner {
            if let Some((line, lines)) = back.take() {
                lines.put(line);
            }
        } else {
            self.inner = Inner::Ended;
        }
    }
}
