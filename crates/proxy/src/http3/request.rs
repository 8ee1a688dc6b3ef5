//! One request of HTTP/3, from its stream to the end of its answer.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::SystemTime;

use bytes::Bytes;
use h3::error::{Code, StreamError};
use h3::server::{RequestResolver, RequestStream};
use http::header::{CONTENT_LENGTH, DATE, EXPECT};
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body as _;
use selvedge_telemetry::Chain;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::body::Http3Body;
use super::transport::{SendStream, Transport};
use crate::Limits;
use crate::body::{ClientBody, ResponseBody};
use crate::hints::Hints;
use crate::listener::Client;
use crate::{forward, record, service};

type Sender = RequestStream<SendStream, Bytes>;

/// Counts requests that their client took back before they were answered, less those that were
/// answered: who does little else makes us work for nothing (the "rapid reset" attack,
/// CVE-2023-44487).
pub(super) struct Cancelled {
    count: AtomicU32,
    /// A client that leaves a page takes back at once all that it has asked for.
    most: u32,
    reached: Notify,
}

impl Cancelled {
    pub(super) fn new(limits: &Limits) -> Self {
        let resets = u32::try_from(limits.max_pending_resets).unwrap_or(u32::MAX);
        let most = limits.max_streams.saturating_add(resets);
        Self { count: AtomicU32::new(0), most, reached: Notify::new() }
    }

    pub(super) fn is_too_often(&self) -> bool {
        self.count.load(Ordering::Relaxed) > self.most
    }

    pub(super) async fn too_often(&self) {
        while !self.is_too_often() {
            self.reached.notified().await;
        }
    }

    fn cancelled(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
        if self.is_too_often() {
            self.reached.notify_one();
        }
    }

    fn answered(&self) {
        let less = |count: u32| Some(count.saturating_sub(1));
        // It always has a next value.
        let _ = self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

/// Serves a request; `done` is ready when its client has got the answer or does not want it.
pub(super) async fn serve(
    client: Arc<Client>,
    resolver: RequestResolver<Transport, Bytes>,
    done: impl Future + Send,
    cancelled: Arc<Cancelled>,
) {
    let mut done = pin!(done);
    let answered = tokio::select! {
        biased;
        _ = &mut done => false,
        answered = exchange(client, resolver) => answered,
    };
    match answered {
        true => {
            cancelled.answered();
            // The connection must not end before the client has it all.
            done.await;
        }
        false => cancelled.cancelled(),
    }
}

/// False when the client did not send a request, or does not take the answer.
async fn exchange(client: Arc<Client>, resolver: RequestResolver<Transport, Bytes>) -> bool {
    let head = timeout(client.shared.limits.header_timeout, resolver.resolve_request());
    let (request, stream) = match head.await {
        Ok(Ok(resolved)) => resolved,
        Ok(Err(StreamError::HeaderTooBig { .. })) => {
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            record::unreadable(&client, "HTTP/3", status.as_u16());
            return true;
        }
        Ok(Err(error)) => {
            tracing::debug!(peer = %client.peer, error = %Chain(&error), "no request came");
            return false;
        }
        Err(_) => return false,
    };
    let (mut send, receive) = stream.split();
    let (mut head, ()) = request.into_parts();
    let body = Http3Body::begin(receive, &head.headers).await;
    let is_head = head.method == Method::HEAD;
    let waits = head.headers.get(EXPECT).is_some_and(|it| it.eq("100-continue"));
    let body = body.map_or(ClientBody::Empty, ClientBody::Http3);
    let result = async {
        if waits && !body.is_end_stream() {
            send.send_response(informational(StatusCode::CONTINUE, HeaderMap::new())).await?;
        }
        let hints = Hints::of(&head);
        if let Some(hints) = &hints {
            head.extensions.insert(hints.clone());
        }
        let mut handling = service::handle(client, Request::from_parts(head, body));
        let response = loop {
            let next = poll_fn(|cx| match (Pin::new(&mut handling).poll(cx), &hints) {
                (Poll::Ready(response), _) => Poll::Ready(Ok(response)),
                (Poll::Pending, Some(hints)) => hints.poll(cx).map(Err),
                (Poll::Pending, None) => Poll::Pending,
            });
            match next.await {
                Ok(response) => break response,
                Err(hint) => {
                    send.send_response(informational(StatusCode::EARLY_HINTS, hint)).await?;
                }
            }
        };
        answer(&mut send, response, is_head).await
    };
    match result.await {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!(error = %Chain(&error), "an answer was not taken");
            false
        }
    }
}

fn informational(status: StatusCode, headers: HeaderMap) -> Response<()> {
    let mut response = Response::new(());
    *response.headers_mut() = headers;
    *response.status_mut() = status;
    response
}

async fn answer(
    send: &mut Sender,
    response: Response<ResponseBody>,
    is_head: bool,
) -> Result<(), StreamError> {
    let (mut head, mut body) = response.into_parts();
    frame(&mut head, &body, is_head);
    send.send_response(Response::from_parts(head, ())).await?;
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let Ok(frame) = frame else {
            send.stop_stream(Code::H3_INTERNAL_ERROR);
            return Ok(());
        };
        match frame.into_data() {
            Ok(data) if data.is_empty() => {}
            Ok(data) => send.send_data(data).await?,
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    send.send_trailers(trailers).await?;
                }
            }
        }
    }
    send.finish().await
}

/// What the other protocols' library puts on a head or takes off it.
fn frame(head: &mut Parts, body: &ResponseBody, is_head: bool) {
    forward::remove_hop_by_hop(&mut head.headers);
    let bodiless = head.status.is_informational()
        || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if let Some(length) = body.size_hint().exact()
        && !is_head
        && !bodiless
    {
        head.headers.entry(CONTENT_LENGTH).or_insert_with(|| length.into());
    }
    head.headers.entry(DATE).or_insert_with(|| {
        let now = httpdate::fmt_http_date(SystemTime::now());
        HeaderValue::try_from(now).unwrap_or_else(|_| HeaderValue::from_static(""))
    });
}
