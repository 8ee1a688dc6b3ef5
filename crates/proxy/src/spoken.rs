//! A client's connection, whichever version of HTTP is spoken on it: known from the TLS handshake,
//! or seen from its first bytes (RFC 9113, section 3.4).

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1::{self, UpgradeableConnection};
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::Limits;
use crate::body::{ClientBody, ResponseBody};
use crate::http2::Serving;
use crate::listener::Client;
use crate::service::{self, Handling};

/// What a client that speaks HTTP/2 begins with.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection, ready when it has come to its end.
pub(crate) struct Spoken<S: AsyncRead + AsyncWrite + Unpin + 'static> {
    state: State<S>,
    client: Arc<Client>,
}

enum State<S: AsyncRead + AsyncWrite + Unpin + 'static> {
    /// Nothing was asked for yet: how much of the preface has come.
    Unknown(Option<S>, usize),
    Http1(Box<UpgradeableConnection<TokioIo<Rewound<S>>, Answers>>),
    Http2(Box<Serving<Rewound<S>>>),
    Left,
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Spoken<S> {
    /// Serves a connection; `http2` says whether that was agreed on, if something was.
    pub(crate) fn new(stream: S, client: Arc<Client>, http2: Option<bool>) -> Self {
        let state = match http2 {
            Some(http2) => {
                let stream = Rewound { before: Bytes::new(), stream };
                State::speaking(stream, &client, http2)
            }
            None => State::Unknown(Some(stream), 0),
        };
        Self { state, client }
    }

    /// Lets what was asked for be finished, and nothing more be asked.
    pub(crate) fn graceful_shutdown(&mut self) {
        match &mut self.state {
            State::Unknown(..) => self.state = State::Left,
            State::Http1(connection) => Pin::new(connection.as_mut()).graceful_shutdown(),
            State::Http2(connection) => connection.graceful_shutdown(),
            State::Left => {}
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> State<S> {
    fn speaking(stream: Rewound<S>, client: &Arc<Client>, http2: bool) -> Self {
        let client = Arc::clone(client);
        if http2 {
            return Self::Http2(Box::new(Serving::new(stream, client)));
        }
        let builder = http1(&client.shared.limits);
        let connection = builder.serve_connection(TokioIo::new(stream), Answers(client));
        Self::Http1(Box::new(connection.with_upgrades()))
    }
}

/// HTTP/1 settings. The timeouts for heads and idle connections are the listener's, since hyper has
/// one for both.
fn http1(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size((limits.max_header_bytes as usize).max(8192))
        .writev(true);
    builder
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Future for Spoken<S> {
    type Output = Result<(), Box<dyn Error + Send + Sync>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let this = &mut *self;
            let (stream, came) = match &mut this.state {
                State::Unknown(stream, came) => (stream, came),
                State::Http1(it) => return Pin::new(it.as_mut()).poll(cx).map_err(Into::into),
                State::Http2(it) => return Pin::new(it.as_mut()).poll(cx).map_err(Into::into),
                State::Left => return Poll::Ready(Ok(())),
            };
            let Some(reading) = stream.as_mut() else { return Poll::Ready(Ok(())) };
            let mut bytes = [0; PREFACE.len()];
            let mut buffer = ReadBuf::new(bytes.get_mut(*came..).unwrap_or_default());
            ready!(Pin::new(reading).poll_read(cx, &mut buffer))?;
            let new = buffer.filled();
            let expected = PREFACE.get(*came..*came + new.len()).unwrap_or_default();
            let is_preface = new == expected && !new.is_empty();
            let read = [PREFACE.get(..*came).unwrap_or_default(), new].concat();
            if is_preface && read.len() < PREFACE.len() {
                *came = read.len();
                continue;
            }
            if let Some(stream) = stream.take() {
                let stream = Rewound { before: read.into(), stream };
                this.state = State::speaking(stream, &this.client, is_preface);
            }
        }
    }
}

/// Answers the requests of HTTP/1.
struct Answers(Arc<Client>);

impl Service<Request<Incoming>> for Answers {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        Answer(service::handle(Arc::clone(&self.0), request.map(ClientBody::Http1)))
    }
}

struct Answer(Handling);

impl Future for Answer {
    type Output = Result<Response<ResponseBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(Ok)
    }
}

/// A stream of which something was read before.
pub(crate) struct Rewound<S> {
    pub(crate) before: Bytes,
    pub(crate) stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.before.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let length = self.before.len().min(buffer.remaining());
        buffer.put_slice(self.before.get(..length).unwrap_or_default());
        self.before.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
