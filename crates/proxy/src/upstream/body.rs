//! A workload's response on its way.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use tokio::sync::OwnedSemaphorePermit;

use super::InFlight;
use super::pool::Pool;
use crate::body::{RequestBody, Stall};

/// Why a response's body can't go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkloadBodyError {
    #[error("the workload closed the connection within the response")]
    ClosedEarly(#[source] hyper::Error),
    #[error("the workload stopped sending the response")]
    Stalled,
}

/// The body of a workload's response. Its connection goes back to the pool when the body has ended
/// and is closed when the body is dropped before. Trailers are left out.
pub(crate) struct WorkloadBody {
    inner: Incoming,
    stall: Stall,
    lease: Option<Lease>,
    failure: Option<&'static str>,
    in_flight: InFlight,
}

struct Lease {
    /// The connection and where it goes back to.
    back: Option<Back>,
    permit: OwnedSemaphorePermit,
}

/// A connection and where it goes back to.
pub(super) type Back = (SendRequest<RequestBody>, Arc<Pool>);

/// What counts an upgraded connection at its upstream while it lasts.
pub(crate) struct Counted {
    _in_flight: InFlight,
    _permit: Option<OwnedSemaphorePermit>,
}

impl WorkloadBody {
    pub(super) fn new(
        inner: Incoming,
        stall: Duration,
        back: Option<Back>,
        permit: OwnedSemaphorePermit,
        in_flight: InFlight,
    ) -> Self {
        let upgraded = back.is_none();
        let lease = Some(Lease { back, permit });
        let stall = Stall::new(stall);
        let mut body = Self { inner, stall, lease, failure: None, in_flight };
        if body.inner.is_end_stream() && !upgraded {
            body.give_back();
        }
        body
    }

    /// The response was an upgrade: what goes on counting.
    pub(crate) fn into_counted(self) -> Counted {
        let permit = self.lease.map(|lease| lease.permit);
        Counted { _in_flight: self.in_flight, _permit: permit }
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

    pub(crate) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, WorkloadBodyError>>> {
        loop {
            let frame = match Pin::new(&mut self.inner).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    ready!(self.stall.poll(cx));
                    self.failure = Some("body-stalled");
                    return Poll::Ready(Some(Err(WorkloadBodyError::Stalled)));
                }
            };
            self.stall.progress();
            match frame {
                None => {
                    self.give_back();
                    return Poll::Ready(None);
                }
                Some(Err(error)) => {
                    self.failure = Some("body-closed-early");
                    return Poll::Ready(Some(Err(WorkloadBodyError::ClosedEarly(error))));
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        if self.inner.is_end_stream() {
                            self.give_back();
                        }
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
            }
        }
    }

    fn give_back(&mut self) {
        if let Some(Lease { back: Some((sender, pool)), .. }) = self.lease.take() {
            pool.put(sender);
        }
    }
}
