//! HTTP/2 connections of clients (RFC 9113), on the `h2` crate itself: it can send early hints, an
//! answer that is there at once costs no task, and answers that are there together are written
//! together.
//!
//! The listener opens and watches connections, `service` answers their requests.

mod coalesce;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use bytes::Bytes;
use h2::server::{Builder, Connection, Handshake, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderName, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

use crate::Limits;
use crate::body::{ClientBody, ResponseBody};
use crate::hints::Hints;
use crate::listener::Client;
use crate::pipe::Pipe;
use crate::service::{self, Handling};
use crate::tunnel::{self, Offer};
use coalesce::{Coalesced, Hold};

/// What a client may send of a request's body before it is taken, on a stream and altogether.
const WINDOW: u32 = 1 << 20;
/// What is kept of a response's body while it can't be sent.
const SEND_BUFFER: usize = 256 << 10;
/// What may not stand in a head of HTTP/2 (RFC 9113, section 8.2.2).
const NOT_IN_HTTP2: [HeaderName; 5] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TRANSFER_ENCODING,
    UPGRADE,
];

/// A client's connection, ready when it has come to its end.
pub(crate) struct Serving<S> {
    state: State<S>,
    client: Arc<Client>,
    hold: Hold,
    date: Date,
    leaving: bool,
}

enum State<S> {
    Opening(Handshake<Coalesced<S>, Bytes>),
    Open(Connection<Coalesced<S>, Bytes>),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Serving<S> {
    /// Serves a connection on which the client speaks HTTP/2.
    pub(crate) fn new(stream: S, client: Arc<Client>) -> Self {
        let hold = Hold::default();
        let stream = Coalesced::new(stream, &hold);
        let state = State::Opening(builder(&client.shared.limits).handshake(stream));
        Self { state, client, hold, date: Date::default(), leaving: false }
    }

    /// Has the client open no more streams; those that are open are finished.
    pub(crate) fn graceful_shutdown(&mut self) {
        self.leaving = true;
        if let State::Open(connection) = &mut self.state {
            connection.graceful_shutdown();
        }
    }

    fn begin(
        &mut self,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        cx: &mut Context<'_>,
    ) {
        let (mut head, body) = request.into_parts();
        let (body, tunnel) = match tunnel::wanted(&head) {
            true => match Offer::put(&mut head, body) {
                Ok(tunnel) => (ClientBody::Empty, Some(tunnel)),
                // Without randomness there is no key: the stream is reset.
                Err(_) => return,
            },
            false => (ClientBody::http2(body, &head.headers), None),
        };
        let is_head = head.method == Method::HEAD;
        let hints = Hints::of(&head);
        if let Some(hints) = &hints {
            head.extensions.insert(hints.clone());
        }
        let request = Request::from_parts(head, body);
        let handling = service::handle(Arc::clone(&self.client), request);
        let date = self.date.now();
        let mut reply = Reply { handling, respond, hints, is_head, date, tunnel, body: None };
        // Where it takes longer, it goes on by itself.
        if Pin::new(&mut reply).poll(cx).is_pending() {
            tokio::spawn(reply);
        }
    }
}

fn builder(limits: &Limits) -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(limits.max_streams)
        .max_pending_accept_reset_streams(limits.max_pending_resets)
        .max_header_list_size(limits.max_header_bytes)
        .max_send_buffer_size(SEND_BUFFER)
        .enable_connect_protocol();
    builder
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Serving<S> {
    type Output = Result<(), h2::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut asked = Vec::new();
        loop {
            let connection = match &mut this.state {
                State::Open(connection) => connection,
                State::Opening(handshake) => {
                    this.hold.set(false);
                    let mut connection = ready!(Pin::new(handshake).poll(cx))?;
                    if this.leaving {
                        connection.graceful_shutdown();
                    }
                    this.state = State::Open(connection);
                    continue;
                }
            };
            // What came together is answered before anything is written.
            this.hold.set(true);
            let ended = loop {
                match connection.poll_accept(cx) {
                    Poll::Ready(Some(Ok(request))) => asked.push(request),
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                    Poll::Ready(None) => break true,
                    Poll::Pending => break false,
                }
            };
            if ended {
                return Poll::Ready(Ok(()));
            }
            if !asked.is_empty() {
                for (request, respond) in asked.drain(..) {
                    this.begin(request, respond, cx);
                }
                continue;
            }
            this.hold.set(false);
            if !this.hold.has_more() {
                return Poll::Pending;
            }
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok(request))) => asked.push(request),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
            for (request, respond) in asked.drain(..) {
                this.begin(request, respond, cx);
            }
        }
    }
}

/// One answer on its way.
struct Reply {
    handling: Handling,
    respond: SendResponse<Bytes>,
    hints: Option<Hints>,
    is_head: bool,
    date: HeaderValue,
    /// Where the client's stream goes if the answer opens a tunnel.
    tunnel: Option<oneshot::Sender<SendStream<Bytes>>>,
    /// Once its head is sent.
    body: Option<Pipe<ResponseBody>>,
}

impl Reply {
    /// Waits for the answer, hinting meanwhile. None when the client no longer does.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Option<Response<ResponseBody>>> {
        let answer = Pin::new(&mut self.handling).poll(cx);
        if answer.is_pending() {
            if self.respond.poll_reset(cx).is_ready() {
                return Poll::Ready(None);
            }
            while let Some(hints) = &self.hints
                && let Poll::Ready(headers) = hints.poll(cx)
            {
                let mut hint = Response::new(());
                *hint.status_mut() = StatusCode::EARLY_HINTS;
                *hint.headers_mut() = headers;
                if self.respond.send_informational(hint).is_err() {
                    self.hints = None;
                }
            }
        }
        answer.map(Some)
    }

    fn send(&mut self, response: Response<ResponseBody>) {
        let (mut head, body) = response.into_parts();
        let headers = &mut head.headers;
        for name in NOT_IN_HTTP2 {
            headers.remove(name);
        }
        if !headers.contains_key(DATE) {
            headers.insert(DATE, self.date.clone());
        }
        if head.status.is_success()
            && let Some(tunnel) = self.tunnel.take()
        {
            if let Ok(stream) = self.respond.send_response(Response::from_parts(head, ()), false) {
                // Who waits for it has left if the proxy ends.
                let _ = tunnel.send(stream);
            }
            return;
        }
        let bodiless = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if !self.is_head
            && !bodiless
            && !headers.contains_key(CONTENT_LENGTH)
            && let Some(length) = body.size_hint().exact()
        {
            headers.insert(CONTENT_LENGTH, length.into());
        }
        let ends = body.is_end_stream();
        match self.respond.send_response(Response::from_parts(head, ()), ends) {
            Ok(stream) => self.body = Some(Pipe::new(body, stream, Reason::INTERNAL_ERROR)),
            Err(error) => {
                tracing::debug!(%error, "an answer can't be sent");
                self.respond.send_reset(Reason::INTERNAL_ERROR);
            }
        }
    }
}

impl Future for Reply {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.body.is_none()
            && let Some(response) = ready!(this.poll_answer(cx))
        {
            this.send(response);
        }
        match &mut this.body {
            Some(body) => Pin::new(body).poll(cx),
            None => Poll::Ready(()),
        }
    }
}

/// The date for answers, written once a second.
#[derive(Debug, Default)]
struct Date(Option<(u64, HeaderValue)>);

impl Date {
    fn now(&mut self) -> HeaderValue {
        let now = SystemTime::now();
        let second = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        match &self.0 {
            Some((written, date)) if *written == second => date.clone(),
            _ => {
                let date = HeaderValue::try_from(httpdate::fmt_http_date(now));
                let date = date.unwrap_or_else(|_| HeaderValue::from_static(""));
                self.0 = Some((second, date.clone()));
                date
            }
        }
    }
}
