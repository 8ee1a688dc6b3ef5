//! A stream whose small writes are gathered.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much is gathered: what one TLS record holds.
const MOST: usize = 16 << 10;

/// Whether what is written is held back, in the hands of who drives the connection: it knows when
/// everything is written that will be written now.
#[derive(Debug, Clone, Default)]
pub(super) struct Hold(Arc<Held>);

#[derive(Debug, Default)]
struct Held {
    hold: AtomicBool,
    more: AtomicBool,
}

impl Hold {
    pub(super) fn set(&self, hold: bool) {
        self.0.hold.store(hold, Ordering::Relaxed);
    }

    /// Whether something is held back that a flush would write.
    pub(super) fn has_more(&self) -> bool {
        self.0.more.load(Ordering::Relaxed)
    }
}

/// The stream. A flush while it is held back does nothing.
#[derive(Debug)]
pub(super) struct Coalesced<S> {
    stream: S,
    buffer: BytesMut,
    hold: Hold,
}

impl<S> Coalesced<S> {
    pub(super) fn new(stream: S, hold: &Hold) -> Self {
        Self { stream, buffer: BytesMut::new(), hold: hold.clone() }
    }
}

impl<S: AsyncWrite + Unpin> Coalesced<S> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.buffer.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.buffer))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.buffer.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn gather(&mut self, slices: &[IoSlice<'_>]) -> usize {
        for slice in slices {
            self.buffer.extend_from_slice(slice);
        }
        self.hold.0.more.store(true, Ordering::Relaxed);
        slices.iter().map(|slice| slice.len()).sum()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Coalesced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Coalesced<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        if self.buffer.len() + length <= MOST {
            return Poll::Ready(Ok(self.gather(slices)));
        }
        ready!(self.poll_drain(cx))?;
        if length <= MOST {
            return Poll::Ready(Ok(self.gather(slices)));
        }
        self.hold.0.more.store(true, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.hold.0.hold.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_drain(cx))?;
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.hold.0.more.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
