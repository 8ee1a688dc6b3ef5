//! Accepts connections within limits, and lets them finish at the end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Connections at a time. More wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 512;
/// How long a client may take to send a request's head, which is also how long an idle connection
/// is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a client may take nothing of what it asked for before it is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Headers of a request.
const MAX_HEADERS: usize = 64;
/// A request's head, and what is read ahead of a body, in bytes.
const MAX_BUFFER: usize = 64 << 10;
/// How long requests may go on after the end was asked for.
const GRACE: Duration = Duration::from_secs(3);
/// After an error of accept, such as no free descriptor, there is no use in trying at once.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves `router` on `listener`, by TLS if there is an acceptor, until `token` is cancelled.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: axum::Router,
    token: CancellationToken,
) {
    let graceful = GracefulShutdown::new();
    let limit = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let accept = async {
        loop {
            // Never closed.
            let Ok(permit) = limit.clone().acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "can't accept a connection");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            let (watcher, tls, router) = (graceful.watcher(), tls.clone(), router.clone());
            tokio::spawn(async move {
                let ended = attend(stream, tls, router, watcher).await;
                // A client that hangs up is no news.
                if let Err(error) = ended {
                    tracing::debug!(error, "a connection ended early");
                }
                drop(permit);
            });
        }
    };
    token.run_until_cancelled(accept).await;
    drop(listener);
    if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
        tracing::info!("some requests did not end in time");
    }
}

async fn attend(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    router: axum::Router,
    watcher: Watcher,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    // Events are small and wanted at once.
    stream.set_nodelay(true)?;
    let stream = Impatient::new(stream);
    match tls {
        None => watcher.watch(connection(stream, router)).await?,
        Some(tls) => {
            let stream = tokio::time::timeout(HEAD_TIMEOUT, tls.accept(stream)).await??;
            watcher.watch(connection(stream, router)).await?;
        }
    }
    Ok(())
}

fn connection<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    router: axum::Router,
) -> http1::Connection<TokioIo<S>, TowerToHyperService<axum::Router>> {
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_BUFFER)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
}

/// A stream whose writes fail when the other end takes nothing for [`STALL_TIMEOUT`].
struct Impatient<S> {
    stream: S,
    /// Runs while a write waits.
    limit: Option<Pin<Box<Sleep>>>,
}

impl<S> Impatient<S> {
    fn new(stream: S) -> Self {
        Self { stream, limit: None }
    }

    /// What a write came to, or the end of patience.
    fn judge<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.limit = None;
            return written;
        }
        let limit = self.limit.get_or_insert_with(|| Box::pin(tokio::time::sleep(STALL_TIMEOUT)));
        ready!(limit.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.judge(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.judge(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.judge(context, shut)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_takes_something_now_and_then_is_waited_for() {
        let (near, mut far) = tokio::io::duplex(8);
        let mut near = Impatient::new(near);
        let slow = tokio::spawn(async move {
            let mut taken = [0; 8];
            for _ in 0..4 {
                tokio::time::sleep(STALL_TIMEOUT / 2).await;
                far.read_exact(&mut taken).await.unwrap();
            }
            far
        });
        near.write_all(&[1; 40]).await.unwrap();
        // From here on the other end takes nothing.
        let _far = slow.await.unwrap();
        let error = near.write_all(&[1; 8]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
