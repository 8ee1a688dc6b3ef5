//! Serves a fabric to the other processes of the machine over a Unix socket.
//!
//! The socket has mode 0600, and each peer must run as this process's user or as root: whoever
//! gets that far may do everything. It knows nothing of what is behind the [`Fabric`] that it
//! serves.
//!
//! [`Fabric`]: crate::Fabric

mod calls;
mod feeds;

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::SharedFabric;
use crate::wire::{self, Connection, Frame, Hello, Purpose, VERSION, Welcome};

/// The most connections at once.
const MAX_CONNECTIONS: usize = 4096;
/// How long a peer may take to say what it wants.
const HELLO: Duration = Duration::from_secs(10);
/// How long to wait when a connection can't be accepted.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Why the socket can't be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process serves at this path.
    #[error("another process serves the fabric at {0}: stop it first")]
    InUse(PathBuf),
    /// There is something else at this path.
    #[error("{0} is there already and is no socket: move it away")]
    NotASocket(PathBuf),
    /// The system said no.
    #[error("can't listen at {path}")]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A fabric's socket. The file goes away with it.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    /// The socket's file, so that no other is removed.
    inode: u64,
    shared: Shared,
    tasks: TaskTracker,
}

/// What each connection gets.
#[derive(Clone)]
struct Shared {
    fabric: SharedFabric,
    /// Where incoming blobs are put down.
    directory: Arc<Path>,
    tasks: TaskTracker,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Server {
    /// Listens at `path`, taking the place of a socket that nobody serves anymore. Call within a
    /// Tokio runtime. Incoming blobs are spooled in the same directory.
    pub fn bind(path: &Path, fabric: SharedFabric) -> Result<Self, BindError> {
        let failed = |source| BindError::Listen { path: path.to_owned(), source };
        make_way(path)?;
        let listener = listen(path).map_err(failed)?;
        let inode = fs::symlink_metadata(path).map_err(failed)?.ino();
        let directory = path.parent().unwrap_or(Path::new(".")).into();
        let tasks = TaskTracker::new();
        let shared = Shared { fabric, directory, tasks: tasks.clone() };
        Ok(Self { listener, path: path.to_owned(), inode, shared, tasks })
    }

    /// Serves until `token` is cancelled, then hangs up and waits for what the calls in progress do
    /// to the store.
    pub async fn run(self, token: CancellationToken) {
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let serve = async {
            loop {
                let Ok(permit) = connections.clone().acquire_owned().await else { return };
                match self.listener.accept().await {
                    Ok((stream, _)) => {
                        let (shared, token) = (self.shared.clone(), token.clone());
                        self.tasks.spawn(async move {
                            let _permit = permit;
                            tokio::select! {
                                () = shared.serve(stream) => {}
                                () = token.cancelled() => {}
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the fabric's socket can't accept a connection");
                        tokio::time::sleep(ACCEPT_RETRY).await;
                    }
                }
            }
        };
        tokio::select! {
            () = serve => {}
            () = token.cancelled() => {}
        }
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(path = %self.path.display(), %error, "a socket stays behind");
        }
    }
}

impl Shared {
    async fn serve(&self, stream: UnixStream) {
        if let Err(error) = self.try_serve(stream).await
            && error.kind() != io::ErrorKind::UnexpectedEof
        {
            tracing::debug!(%error, "a connection to the fabric has ended");
        }
    }

    async fn try_serve(&self, stream: UnixStream) -> io::Result<()> {
        let peer = stream.peer_cred()?;
        let mut connection = wire::framed(stream);
        let own = nix::unistd::geteuid().as_raw();
        if peer.uid() != own && peer.uid() != 0 {
            tracing::warn!(uid = peer.uid(), pid = peer.pid(), "a peer is refused the fabric");
            let reason = format!("user {} may not use this fabric: user {own} may", peer.uid());
            return send(&mut connection, &Welcome::Refused { reason }).await;
        }
        let hello = tokio::time::timeout(HELLO, wire::next(&mut connection)).await??;
        let hello: Hello = hello.parse()?;
        if hello.version != VERSION {
            let reason = format!(
                "this fabric speaks version {VERSION}, not {}: restart the older process",
                hello.version
            );
            return send(&mut connection, &Welcome::Refused { reason }).await;
        }
        match hello.purpose {
            Purpose::Calls => self.calls(connection).await,
            Purpose::Watch { prefix, after } => self.watch(connection, &prefix, after).await,
            Purpose::Consume { stream, name } => self.consume(connection, &stream, &name).await,
            Purpose::WatchLeases { prefix } => self.watch_leases(connection, &prefix).await,
            Purpose::ReadBlob { digest } => self.read_blob(connection, &digest).await,
            Purpose::PutBlob => self.put_blob(connection).await,
        }
    }

    /// Tells the peer to go on, or why not; then there is nothing more to do.
    async fn welcome<T>(
        &self,
        connection: &mut Connection,
        begun: Result<T, crate::FabricError>,
    ) -> io::Result<Option<T>> {
        let begun = match begun {
            Ok(begun) => self.fabric.incarnation().await.map(|incarnation| (incarnation, begun)),
            Err(error) => Err(error),
        };
        match begun {
            Ok((incarnation, begun)) => {
                send(connection, &Welcome::Ready { incarnation }).await?;
                Ok(Some(begun))
            }
            Err(error) => {
                send(connection, &Welcome::Failed(error.into())).await?;
                Ok(None)
            }
        }
    }
}

async fn send(connection: &mut Connection, header: &impl serde::Serialize) -> io::Result<()> {
    connection.send(Frame::new(header, Bytes::new())?).await
}

/// Makes sure that a new socket may take the place of what is at `path`.
fn make_way(path: &Path) -> Result<(), BindError> {
    let failed = |source| BindError::Listen { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => Err(BindError::NotASocket(path.to_owned())),
        Ok(_) => {
            let (_parent, address) = wire::address(path).map_err(failed)?;
            match std::os::unix::net::UnixStream::connect(address) {
                Ok(_) => Err(BindError::InUse(path.to_owned())),
                Err(_) => Ok(()),
            }
        }
    }
}

/// Listens under another name first, so that the socket appears with its final mode.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let mut name = path.as_os_str().to_owned();
    name.push("~");
    let new = PathBuf::from(name);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (_parent, address) = wire::address(&new)?;
    let listener = std::os::unix::net::UnixListener::bind(address)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
    fs::rename(&new, path)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}
