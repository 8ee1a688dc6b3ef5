//! A request on its way to an upstream: its head, and its body as it comes.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::{Method, Request};
use http_body::Body as _;
use tokio::io::{AsyncWrite as _, AsyncWriteExt as _};

use super::head;
use crate::body::{RequestBody, Uploading};
use crate::snapshot::Stream;
use crate::stall::Stall;

/// Why a request was not sent to its end.
#[derive(Debug)]
pub(super) enum Unsent {
    /// What the client sends breaks off: that is noted where the client's body is read.
    Client,
    /// The upstream does not take it.
    Upstream(io::Error),
}

/// A request that is being sent.
pub(super) struct Upload {
    /// What is to be written before `data`: a head, or the line before a chunk.
    front: BytesMut,
    data: Bytes,
    /// And after it.
    tail: &'static [u8],
    body: RequestBody,
    chunked: bool,
    /// Bytes that the head has announced and that are to come yet.
    announced: u64,
    /// Something of the request was written, or what was taken from its body is not kept.
    begun: bool,
    /// Counts what was.
    moved: u64,
    done: bool,
}

impl Upload {
    /// Nothing.
    pub(super) fn none() -> Self {
        Self {
            front: BytesMut::new(),
            data: Bytes::new(),
            tail: b"",
            body: RequestBody::Empty,
            chunked: false,
            announced: 0,
            begun: false,
            moved: 0,
            done: true,
        }
    }

    /// Begins to send a request, whose body is taken from it.
    pub(super) fn begin(&mut self, request: &mut Request<RequestBody>) {
        self.body = std::mem::replace(request.body_mut(), RequestBody::Empty);
        let length = match self.body.is_empty() {
            true => Some(0),
            false => self.body.size_hint().exact(),
        };
        frame(request, length);
        self.chunked = length.is_none();
        self.announced = length.unwrap_or(0);
        (self.begun, self.done) = (false, false);
        self.front.clear();
        head::write(&mut self.front, request.method(), request.uri(), request.headers());
    }

    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Whether something of the request has left.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// The body, whole if the request has not begun.
    pub(super) fn take_body(&mut self) -> RequestBody {
        let taken = std::mem::take(&mut self.data);
        let rest = std::mem::replace(&mut self.body, RequestBody::Empty);
        RequestBody::again(Some(taken).filter(|data| !data.is_empty()).into_iter().collect(), rest)
    }

    /// What says how the body goes on.
    pub(super) fn uploading(&self) -> Option<Uploading> {
        self.body.uploading()
    }

    /// Sends on; ready when all is sent.
    pub(super) fn poll(
        &mut self,
        stream: &mut Box<dyn Stream>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Unsent>> {
        if self.done {
            return Poll::Ready(Ok(()));
        }
        // With the head goes what is there of the body, if that is good: nothing is asked by a
        // request that is broken from the start.
        if !self.begun && self.data.is_empty() && !self.body.is_empty() {
            let _ = self.poll_body(cx)?;
        }
        loop {
            ready!(self.poll_write(Pin::new(&mut *stream), cx)).map_err(Unsent::Upstream)?;
            if self.is_at_end() {
                break;
            }
            if self.poll_body(cx)?.is_pending() {
                // What was written may still be on its way through a layer that gathers.
                let _ = Pin::new(&mut *stream).poll_flush(cx).map_err(Unsent::Upstream)?;
                return Poll::Pending;
            }
        }
        ready!(Pin::new(stream).poll_flush(cx)).map_err(Unsent::Upstream)?;
        self.done = true;
        // What is kept for the next request is room for its head.
        (self.body, self.data) = (RequestBody::Empty, Bytes::new());
        Poll::Ready(Ok(()))
    }

    /// Sends what is left for as long as the other side takes it, and has it see if that ends
    /// early.
    pub(super) async fn finish(mut self, mut stream: Box<dyn Stream>, patience: Duration) {
        let mut stall = Stall::new(patience);
        let mut seen = self.moved;
        let sent = poll_fn(|cx| {
            if let Poll::Ready(sent) = self.poll(&mut stream, cx) {
                return Poll::Ready(sent.is_ok());
            }
            if std::mem::replace(&mut seen, self.moved) != self.moved {
                stall.progress();
            }
            stall.poll(cx).map(|()| false)
        });
        if !sent.await {
            let _ = stream.shutdown().await;
        }
    }

    fn is_at_end(&self) -> bool {
        self.body.is_end_stream() && !self.chunked && self.announced == 0
    }

    /// Takes the next of the body, to be written.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Unsent> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            return Ok(Poll::Pending);
        };
        self.moved += 1;
        match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => self.put(data)?,
                Err(frame) => {
                    self.begun = true;
                    self.end(&frame.into_trailers().unwrap_or_default())?;
                }
            },
            Some(Err(_)) => return Err(Unsent::Client),
            None => self.end(&HeaderMap::new())?,
        }
        Ok(Poll::Ready(()))
    }

    fn put(&mut self, data: Bytes) -> Result<(), Unsent> {
        if data.is_empty() {
            return Ok(());
        }
        if self.chunked {
            self.front.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
            self.tail = b"\r\n";
        } else {
            // More than was announced would be the next request.
            self.announced = self.announced.checked_sub(data.len() as u64).ok_or(Unsent::Client)?;
        }
        self.data = data;
        Ok(())
    }

    /// The body has ended.
    fn end(&mut self, trailers: &HeaderMap) -> Result<(), Unsent> {
        if std::mem::take(&mut self.chunked) {
            self.front.extend_from_slice(b"0\r\n");
            for (name, value) in trailers {
                for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                    self.front.extend_from_slice(part);
                }
            }
            self.front.extend_from_slice(b"\r\n");
        }
        self.body = RequestBody::Empty;
        // Less than was announced leaves the upstream waiting.
        if self.announced == 0 { Ok(()) } else { Err(Unsent::Client) }
    }

    fn poll_write<S: Stream>(
        &mut self,
        mut stream: Pin<&mut S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !(self.front.is_empty() && self.data.is_empty() && self.tail.is_empty()) {
            let written = match self.data.is_empty() && self.tail.is_empty() {
                // The simpler call is the cheaper one.
                true => stream.as_mut().poll_write(cx, &self.front),
                false => {
                    let slices = [&self.front[..], &self.data[..], self.tail].map(IoSlice::new);
                    stream.as_mut().poll_write_vectored(cx, &slices)
                }
            };
            let mut written = ready!(written)?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.begun = true;
            self.moved += 1;
            for part in [&mut self.front as &mut dyn bytes::Buf, &mut self.data, &mut self.tail] {
                let count = part.remaining().min(written);
                part.advance(count);
                written -= count;
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Has a request's head say how its body is framed (RFC 9112, section 6).
fn frame(request: &mut Request<RequestBody>, length: Option<u64>) {
    let has_body = [Method::POST, Method::PUT, Method::PATCH].contains(request.method());
    let headers = request.headers_mut();
    match length {
        Some(0) if !has_body => {
            headers.remove(CONTENT_LENGTH);
            headers.remove(TRANSFER_ENCODING);
        }
        Some(length) => {
            headers.insert(CONTENT_LENGTH, length.into());
            headers.remove(TRANSFER_ENCODING);
        }
        None => {
            headers.remove(CONTENT_LENGTH);
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
}
