//! The body of a request that came by HTTP/3.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use h3::error::StreamError;
use h3::server::RequestStream;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Frame, SizeHint};

use super::transport::RecvStream;

type Next = Option<Result<Frame<Bytes>, Http3BodyError>>;

/// Why there is no more of a body.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Http3BodyError {
    #[error("the stream can't be read")]
    Stream(#[from] StreamError),
    /// RFC 9114, section 4.1.2.
    #[error("the body is not as long as its content-length says")]
    Length,
}

/// What a client sends on a request's stream after its head.
pub(crate) struct Http3Body {
    stream: RequestStream<RecvStream, Bytes>,
    /// What was read to find out whether there is any body.
    first: Option<Result<Frame<Bytes>, Http3BodyError>>,
    /// By the head's `content-length`.
    left: Option<u64>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Data,
    /// Nothing came where data could have. The library says that of an empty DATA frame too.
    Nothing,
    Trailers,
    Ended,
}

impl Http3Body {
    /// None when there is no body, as far as is known without waiting.
    pub(super) async fn begin(
        stream: RequestStream<RecvStream, Bytes>,
        headers: &HeaderMap,
    ) -> Option<Box<Self>> {
        let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        let left = length.and_then(|length| length.parse().ok());
        let mut body = Box::new(Self { stream, first: None, left, state: State::Data });
        match poll_fn(|cx| Poll::Ready(body.poll_frame(cx))).await {
            Poll::Ready(None) => None,
            Poll::Ready(Some(frame)) => {
                body.first = Some(frame);
                Some(body)
            }
            Poll::Pending => Some(body),
        }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        let next = ready!(self.poll_next(cx));
        if matches!(next, None | Some(Err(_))) {
            self.state = State::Ended;
        }
        Poll::Ready(next)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        loop {
            match self.state {
                State::Data | State::Nothing => {
                    let data = match ready!(self.stream.poll_recv_data(cx)) {
                        Ok(Some(mut data)) => data.copy_to_bytes(data.remaining()),
                        Ok(None) if self.state == State::Data => {
                            self.state = State::Nothing;
                            continue;
                        }
                        Ok(None) if self.left.is_some_and(|left| left > 0) => {
                            return Poll::Ready(Some(Err(Http3BodyError::Length)));
                        }
                        Ok(None) => {
                            self.state = State::Trailers;
                            continue;
                        }
                        Err(error) => return Poll::Ready(Some(Err(error.into()))),
                    };
                    self.state = State::Data;
                    if let Some(left) = &mut self.left {
                        let Some(after) = left.checked_sub(data.len() as u64) else {
                            return Poll::Ready(Some(Err(Http3BodyError::Length)));
                        };
                        *left = after;
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                State::Trailers => {
                    let trailers = ready!(self.stream.poll_recv_trailers(cx));
                    self.state = State::Ended;
                    return Poll::Ready(
                        trailers
                            .transpose()
                            .map(|trailers| trailers.map(Frame::trailers).map_err(Into::into)),
                    );
                }
                State::Ended => return Poll::Ready(None),
            }
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.state == State::Ended && self.first.is_none()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        // With trailers in between, what was taken already counts no more.
        let first = match &self.first {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len) as u64,
            _ => 0,
        };
        self.left.map_or_else(SizeHint::default, |left| SizeHint::with_exact(left + first))
    }
}
