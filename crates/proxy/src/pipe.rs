//! A body on its way into a stream of HTTP/2, at the pace that the other side allows.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::{Body, Frame};

/// Sends a body; ready when nothing is left to be sent, or the other side takes no more.
pub(crate) struct Pipe<B> {
    body: B,
    stream: SendStream<Bytes>,
    /// What the other side has not yet made room for.
    chunk: Bytes,
    done: bool,
    /// What the other side is told when the body breaks off.
    broken: Reason,
}

impl<B: Body<Data = Bytes> + Unpin> Pipe<B> {
    /// The stream has ended already where the body is empty.
    pub(crate) fn new(body: B, stream: SendStream<Bytes>, broken: Reason) -> Self {
        let done = body.is_end_stream();
        Self { body, stream, chunk: Bytes::new(), done, broken }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    pub(crate) fn body(&self) -> &B {
        &self.body
    }

    pub(crate) fn into_body(self) -> B {
        self.body
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.stream.poll_reset(cx).is_ready() {
            self.done = true;
            return Poll::Ready(());
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let sent = match frame.map(|frame| frame.map(Frame::into_data)) {
            Some(Ok(Ok(data))) => {
                self.chunk = data;
                return Poll::Ready(());
            }
            Some(Ok(Err(frame))) => match frame.into_trailers() {
                Ok(trailers) => self.stream.send_trailers(trailers),
                Err(_) => return Poll::Ready(()),
            },
            None => self.stream.send_data(Bytes::new(), true),
            Some(Err(_)) => {
                self.stream.send_reset(self.broken);
                Ok(())
            }
        };
        // What fails here fails because the stream has ended.
        let _ = sent;
        self.done = true;
        Poll::Ready(())
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.reserve_capacity(self.chunk.len());
        while self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => {
                    self.done = true;
                    return Poll::Ready(());
                }
            }
        }
        let part = self.chunk.split_to(self.stream.capacity().min(self.chunk.len()));
        let last = self.chunk.is_empty() && self.body.is_end_stream();
        self.done = self.stream.send_data(part, last).is_err() || last;
        Poll::Ready(())
    }
}

impl<B: Body<Data = Bytes> + Unpin> Future for Pipe<B> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        while !self.done {
            if self.chunk.is_empty() {
                ready!(self.poll_body(cx));
            } else {
                ready!(self.poll_send(cx));
            }
        }
        Poll::Ready(())
    }
}
