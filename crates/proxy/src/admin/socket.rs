//! The admin socket of a proxy: HTTP/1.1 on a Unix socket that its user alone may open.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{MAX_REQUEST, answer};
use crate::{CacheHandle, Snapshot};

/// Connections at once.
const MAX_CONNECTIONS: usize = 16;
/// How long a request may take to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// The socket; its file goes with this.
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Which file it is: a successor's may have taken its place.
    inode: u64,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|inode| inode == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Socket {
    /// Binds it. What is left of one that ended is replaced; one that is in use is so by a successor
    /// only. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When it can't be bound.
    pub fn bind(path: &Path, is_successor: bool) -> io::Result<Self> {
        if let Ok(there) = std::fs::symlink_metadata(path) {
            let used = std::os::unix::net::UnixStream::connect(path).is_ok();
            if !there.file_type().is_socket() || (used && !is_successor) {
                return Err(io::ErrorKind::AddrInUse.into());
            }
        }
        // Under another name until nobody else may open it.
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&new)?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&new, path)?;
        Ok(Self { listener, path: path.to_owned(), inode: inode(path)? })
    }

    /// Serves until `token` is cancelled.
    pub async fn run(
        self,
        cache: Option<CacheHandle>,
        snapshot: watch::Receiver<Arc<Snapshot>>,
        token: CancellationToken,
    ) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let connections = TaskTracker::new();
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let stream = tokio::select! {
                () = token.cancelled() => return,
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) if is_ours(&stream) => stream,
                    Ok(_) => continue,
                    Err(error) => {
                        tracing::warn!("admin socket: {error}");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let (cache, snapshot, token) = (cache.clone(), snapshot.clone(), token.clone());
            connections.spawn(async move {
                let service = service_fn(move |request| {
                    let (cache, snapshot) = (cache.clone(), snapshot.clone());
                    async move { Ok::<_, Infallible>(reply(request, cache, snapshot).await) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(PATIENCE)
                    .serve_connection(TokioIo::new(stream), service);
                tokio::select! {
                    () = token.cancelled() => {}
                    _ = connection => {}
                }
                drop(slot);
            });
        }
    }
}

/// Whether it is this user at the other end, or root, whatever the file's mode has become.
fn is_ours(stream: &UnixStream) -> bool {
    let user = nix::unistd::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| [0, user].contains(&peer.uid()))
}

fn inode(path: &Path) -> io::Result<u64> {
    Ok(std::fs::symlink_metadata(path)?.ino())
}

async fn reply(
    request: Request<Incoming>,
    cache: Option<CacheHandle>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = tokio::time::timeout(PATIENCE, Limited::new(body, MAX_REQUEST).collect()).await;
    let (status, json) = match body {
        Ok(Ok(body)) => {
            let snapshot = Arc::clone(&snapshot.borrow());
            let body = body.to_bytes();
            answer(&head.method, head.uri.path(), &body, cache.as_ref(), &snapshot).await
        }
        _ => (
            StatusCode::BAD_REQUEST,
            Bytes::from_static(b"{\"message\":\"the body can't be read\"}\n"),
        ),
    };
    let mut response = Response::new(Full::new(json));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
