//! The client's side of a tunnel: a connection of HTTP/1.1 that was upgraded, or a stream of HTTP/2
//! (RFC 8441).

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, Bytes};
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use crate::Stream;

/// How much is written to a stream at once.
const CHUNK: usize = 16 << 10;

/// A stream that its client has offered for a WebSocket: an extension of its request.
#[derive(Clone)]
pub(crate) struct Offer(Arc<Mutex<Option<Waiting>>>);

struct Waiting {
    from_client: RecvStream,
    /// Comes when the client was told that the tunnel is open.
    to_client: oneshot::Receiver<SendStream<Bytes>>,
}

/// Whether a request of HTTP/2 asks for a WebSocket.
pub(crate) fn wanted(head: &Parts) -> bool {
    let protocol = head.extensions.get::<Protocol>();
    head.method == Method::CONNECT
        && protocol.is_some_and(|protocol| protocol.as_str() == "websocket")
        && !head.headers.contains_key(CONTENT_LENGTH)
}

impl Offer {
    /// Makes the request the one that a client of HTTP/1.1 would send. What is returned takes the
    /// stream's other half when the answer was sent.
    pub(crate) fn put(
        head: &mut Parts,
        from_client: RecvStream,
    ) -> Result<oneshot::Sender<SendStream<Bytes>>, getrandom::Error> {
        let mut key = [0; 16];
        getrandom::fill(&mut key)?;
        let key = HeaderValue::try_from(STANDARD.encode(key));
        head.headers.extend(key.map(|key| (SEC_WEBSOCKET_KEY, key)));
        head.method = Method::GET;
        head.extensions.remove::<Protocol>();
        let (sender, to_client) = oneshot::channel();
        let waiting = Waiting { from_client, to_client };
        head.extensions.insert(Self(Arc::new(Mutex::new(Some(waiting)))));
        Ok(sender)
    }
}

/// Whether the request is one of [`Offer::put`].
pub(crate) fn is_connect(head: &Parts) -> bool {
    head.extensions.get::<Offer>().is_some()
}

/// The client's side, once it is open.
pub(crate) enum ToClient {
    Http1(OnUpgrade),
    Http2(Offer),
}

impl ToClient {
    /// What a request brings along, if it brings something.
    pub(crate) fn of(head: &mut Parts) -> Option<Self> {
        let offer = head.extensions.remove::<Offer>().map(Self::Http2);
        offer.or_else(|| head.extensions.remove::<OnUpgrade>().map(Self::Http1))
    }

    pub(super) async fn open(self) -> io::Result<Box<dyn Stream>> {
        let offer = match self {
            Self::Http1(upgrade) => {
                let upgraded = upgrade.await.map_err(io::Error::other)?;
                return Ok(Box::new(TokioIo::new(upgraded)));
            }
            Self::Http2(offer) => offer,
        };
        let waiting = offer.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Waiting { from_client, to_client } = waiting.ok_or(io::ErrorKind::NotConnected)?;
        let to_client = to_client.await.map_err(io::Error::other)?;
        Ok(Box::new(Io { from: from_client, read: Bytes::new(), to: to_client }))
    }
}

/// Makes the answer that agrees to an upgrade the one that the client understands.
pub(crate) fn opened(client: &ToClient, status: &mut StatusCode, headers: &mut HeaderMap) {
    match client {
        ToClient::Http1(_) => super::put(headers),
        ToClient::Http2(_) => {
            *status = StatusCode::OK;
            headers.remove(SEC_WEBSOCKET_ACCEPT);
        }
    }
}

/// A stream of HTTP/2 as bytes.
struct Io {
    from: RecvStream,
    read: Bytes,
    to: SendStream<Bytes>,
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.read.is_empty() {
            match ready!(self.from.poll_data(cx)) {
                Some(Ok(data)) => self.read = data,
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.read.len().min(buffer.remaining());
        buffer.put_slice(self.read.get(..length).unwrap_or_default());
        self.read.advance(length);
        // What was taken makes room for more.
        let _ = self.from.flow_control().release_capacity(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.to.reserve_capacity(bytes.len().min(CHUNK));
        while self.to.capacity() == 0 {
            match ready!(self.to.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let length = self.to.capacity().min(bytes.len());
        let data = Bytes::copy_from_slice(bytes.get(..length).unwrap_or_default());
        Poll::Ready(self.to.send_data(data, false).map(|()| length).map_err(io::Error::other))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.to.send_data(Bytes::new(), true).map_err(io::Error::other))
    }
}
