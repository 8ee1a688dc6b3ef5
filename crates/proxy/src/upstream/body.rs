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
/// request when the body has ended; a body that is dropped before takes its connection along.
pub(crate) struct WorkloadBody {
    inner: Incoming,
    /// The connection and where it goes back to.
    back: Option<(Line, Arc<Lines>)>,
    max_trailer_bytes: usize,
    failure: Option<&'static str>,
    in_flight: InFlight,
}

impl WorkloadBody {
    /// `back` is none for a connection that is another protocol's from here on.
    pub(super) fn new(
        inner: Incoming,
        back: Option<(Line, Arc<Lines>)>,
        max_trailer_bytes: usize,
        in_flight: InFlight,
    ) -> Self {
        let upgraded = back.is_none();
        let mut body = Self { inner, back, max_trailer_bytes, failure: None, in_flight };
        if body.inner.is_end_stream() && !upgraded {
            body.give_back();
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
        self.inner.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }

    /// The next frame: data, or trailers without what may only stand in a head.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, WorkloadBodyError>>> {
        let frame = match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                if let Some((line, _)) = &mut self.back {
                    ready!(line.stall.poll(cx));
                    return self.fail("body-stalled", WorkloadBodyError::Stalled);
                }
                return Poll::Pending;
            }
        };
        if let Some((line, _)) = &mut self.back {
            line.stall.progress();
        }
        match frame {
            None => {
                self.give_back();
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                let error = WorkloadBodyError::ClosedEarly(error.into());
                self.fail("body-closed-early", error)
            }
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut()
                    && !forward::trailers(trailers, self.max_trailer_bytes)
                {
                    let error = WorkloadBodyError::TrailersTooLarge;
                    return self.fail("trailers-too-large", error);
                }
                if self.inner.is_end_stream() {
                    self.give_back();
                }
                Poll::Ready(Some(Ok(frame)))
            }
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

    fn give_back(&mut self) {
        if let Some((line, lines)) = self.back.take() {
            self.in_flight.release();
            lines.put(line);
        }
    }
}
