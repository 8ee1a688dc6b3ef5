//! Accepts connections within limits, and lets them finish at the end.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Connections at a time. More wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 512;
/// How long a client may take to send a request's head, which is also how long an idle connection
/// is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);
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
