//! QUIC as the HTTP/3 library wants to see it, over quinn.
//!
//! The library's own glue panics when a stream is stopped while it is read from; this has no state
//! in which it could, and bounds what a stream may make the library keep in memory.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h3::error::Code;
use h3::proto::varint::VarInt as Id;
use h3::quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf};
use quinn::{ConnectionError, ReadError, VarInt, WriteError};
use tokio_util::sync::ReusableBoxFuture;

use super::frames::Frames;

/// Bytes that are taken from a stream at once.
const CHUNK: usize = 64 << 10;

/// A future of quinn's that is made anew for each stream.
type Waiting<T> = ReusableBoxFuture<'static, Result<T, ConnectionError>>;
type Pair = (quinn::SendStream, quinn::RecvStream);

/// A connection.
pub(super) struct Transport {
    connection: quinn::Connection,
    requests: Waiting<Pair>,
    receiving: Waiting<quinn::RecvStream>,
    opener: Opener,
    max_frame_bytes: u64,
}

impl Transport {
    /// Frames other than DATA may have `max_frame_bytes`.
    pub(super) fn new(connection: quinn::Connection, max_frame_bytes: u64) -> Self {
        Self {
            requests: ReusableBoxFuture::new(accept_bi(connection.clone())),
            receiving: ReusableBoxFuture::new(accept_uni(connection.clone())),
            opener: Opener { connection: connection.clone(), opening: None },
            connection,
            max_frame_bytes,
        }
    }
}

async fn accept_bi(connection: quinn::Connection) -> Result<Pair, ConnectionError> {
    connection.accept_bi().await
}

async fn accept_uni(connection: quinn::Connection) -> Result<quinn::RecvStream, ConnectionError> {
    connection.accept_uni().await
}

impl quic::Connection<Bytes> for Transport {
    type RecvStream = RecvStream;
    type OpenStreams = Opener;

    fn poll_accept_recv(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<RecvStream, ConnectionErrorIncoming>> {
        let stream = ready!(self.receiving.poll(cx));
        self.receiving.set(accept_uni(self.connection.clone()));
        let frames = Frames::after_type(self.max_frame_bytes);
        Poll::Ready(stream.map(|stream| RecvStream { stream, frames }).map_err(lost))
    }

    fn poll_accept_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<BidiStream, ConnectionErrorIncoming>> {
        let streams = ready!(self.requests.poll(cx));
        self.requests.set(accept_bi(self.connection.clone()));
        let frames = Frames::of_request(self.max_frame_bytes);
        let both = |(send, stream)| BidiStream {
            send: SendStream { stream: send, writing: None },
            recv: RecvStream { stream, frames },
        };
        Poll::Ready(streams.map(both).map_err(lost))
    }

    fn opener(&self) -> Opener {
        Opener { connection: self.connection.clone(), opening: None }
    }
}

impl quic::OpenStreams<Bytes> for Transport {
    type BidiStream = BidiStream;
    type SendStream = SendStream;

    fn poll_open_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<BidiStream, StreamErrorIncoming>> {
        self.opener.poll_open_bidi(cx)
    }

    fn poll_open_send(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<SendStream, StreamErrorIncoming>> {
        self.opener.poll_open_send(cx)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.opener.close(code, reason);
    }
}

/// Opens streams of our own.
pub(super) struct Opener {
    connection: quinn::Connection,
    opening: Option<Waiting<quinn::SendStream>>,
}

impl quic::OpenStreams<Bytes> for Opener {
    type BidiStream = BidiStream;
    type SendStream = SendStream;

    /// Only clients open them in HTTP/3 (RFC 9114, section 6.1).
    fn poll_open_bidi(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<Result<BidiStream, StreamErrorIncoming>> {
        let error = "a server opens no request".to_owned();
        Poll::Ready(Err(StreamErrorIncoming::ConnectionErrorIncoming {
            connection_error: ConnectionErrorIncoming::InternalError(error),
        }))
    }

    fn poll_open_send(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<SendStream, StreamErrorIncoming>> {
        let opening = self.opening.get_or_insert_with(|| {
            let connection = self.connection.clone();
            ReusableBoxFuture::new(async move { connection.open_uni().await })
        });
        let stream = ready!(opening.poll(cx));
        self.opening = None;
        Poll::Ready(match stream {
            Ok(stream) => Ok(SendStream { stream, writing: None }),
            Err(error) => Err(connection_lost(error)),
        })
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.connection.close(to_code(code.value()), reason);
    }
}

/// A request's stream.
pub(super) struct BidiStream {
    send: SendStream,
    recv: RecvStream,
}

impl BidiStream {
    /// Ready when the client has got all of the response, no longer wants it, or has gone.
    pub(super) fn done(
        &self,
    ) -> impl Future<Output = Result<Option<VarInt>, quinn::StoppedError>> + Send + use<> {
        self.send.stream.stopped()
    }

    /// Which request of the connection it is, from 0.
    pub(super) fn index(&self) -> u64 {
        self.send.stream.id().index()
    }

    /// The request is not looked at: the client may send it elsewhere.
    pub(super) fn reject(mut self) {
        let code = Code::H3_REQUEST_REJECTED.value();
        quic::RecvStream::stop_sending(&mut self.recv, code);
        quic::SendStream::reset(&mut self.send, code);
    }
}

impl quic::BidiStream<Bytes> for BidiStream {
    type SendStream = SendStream;
    type RecvStream = RecvStream;

    fn split(self) -> (SendStream, RecvStream) {
        (self.send, self.recv)
    }
}

impl quic::RecvStream for BidiStream {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.recv.poll_data(cx)
    }

    fn stop_sending(&mut self, code: u64) {
        self.recv.stop_sending(code);
    }

    fn recv_id(&self) -> StreamId {
        self.recv.recv_id()
    }
}

impl quic::SendStream<Bytes> for BidiStream {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.send.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_finish(cx)
    }

    fn reset(&mut self, code: u64) {
        self.send.reset(code);
    }

    fn send_id(&self) -> StreamId {
        self.send.send_id()
    }
}

/// What a client sends on a stream.
pub(super) struct RecvStream {
    stream: quinn::RecvStream,
    frames: Frames,
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        // What is not wanted any more need not come; a stream that has ended takes no offence.
        quic::RecvStream::stop_sending(self, Code::H3_NO_ERROR.value());
    }
}

impl quic::RecvStream for RecvStream {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        // The future holds nothing: the stream knows who waits for it.
        let chunk = ready!(pin!(self.stream.read_chunk(CHUNK, true)).poll(cx));
        let data = chunk.map_err(unreadable)?.map(|chunk| chunk.bytes);
        if let Some(data) = &data {
            let passed = self.frames.pass(data);
            passed.map_err(|error| StreamErrorIncoming::Unknown(Box::new(error)))?;
        }
        Poll::Ready(Ok(data))
    }

    fn stop_sending(&mut self, code: u64) {
        // It has ended already, otherwise.
        let _ = self.stream.stop(to_code(code));
    }

    fn recv_id(&self) -> StreamId {
        to_id(self.stream.id())
    }
}

/// What is sent on a stream.
pub(super) struct SendStream {
    stream: quinn::SendStream,
    writing: Option<WriteBuf<Bytes>>,
}

impl quic::SendStream<Bytes> for SendStream {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        while let Some(data) = self.writing.as_mut().filter(|data| data.has_remaining()) {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, data.chunk()));
            data.advance(written.map_err(unwritable)?);
        }
        self.writing = None;
        Poll::Ready(Ok(()))
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        if self.writing.is_some() {
            let error = "data is sent before other data has gone".to_owned();
            return Err(StreamErrorIncoming::ConnectionErrorIncoming {
                connection_error: ConnectionErrorIncoming::InternalError(error),
            });
        }
        self.writing = Some(data.into());
        Ok(())
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        let finished = self.stream.finish();
        Poll::Ready(finished.map_err(|error| StreamErrorIncoming::Unknown(Box::new(error))))
    }

    fn reset(&mut self, code: u64) {
        // It has ended already, otherwise.
        let _ = self.stream.reset(to_code(code));
    }

    fn send_id(&self) -> StreamId {
        to_id(self.stream.id())
    }
}

fn to_code(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}

fn to_id(id: quinn::StreamId) -> StreamId {
    // The numbers have the same range.
    StreamId::try_from(VarInt::from(id).into_inner()).unwrap_or(StreamId::from(Id::MAX))
}

fn lost(error: ConnectionError) -> ConnectionErrorIncoming {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            ConnectionErrorIncoming::ApplicationClose { error_code: close.error_code.into_inner() }
        }
        ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        error => ConnectionErrorIncoming::Undefined(Arc::new(error)),
    }
}

fn connection_lost(error: ConnectionError) -> StreamErrorIncoming {
    StreamErrorIncoming::ConnectionErrorIncoming { connection_error: lost(error) }
}

fn unreadable(error: ReadError) -> StreamErrorIncoming {
    match error {
        ReadError::Reset(code) => {
            StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() }
        }
        ReadError::ConnectionLost(error) => connection_lost(error),
        error => StreamErrorIncoming::Unknown(Box::new(error)),
    }
}

fn unwritable(error: WriteError) -> StreamErrorIncoming {
    match error {
        WriteError::Stopped(code) => {
            StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() }
        }
        WriteError::ConnectionLost(error) => connection_lost(error),
        error => StreamErrorIncoming::Unknown(Box::new(error)),
    }
}
