//! Serves a fabric to the other processes of the machine over a Unix socket.
//!
//! The socket has mode 0600, and each peer must run as this process's user or as root: whoever
//! gets that far may do everything. It knows nothing of what is behind the [`Fabric`] that it
//! serves.
//!
//! [`Fabric`]: crate::Fabric

mod calls;
mod feeds;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::SharedFabric;
pub use crate::socket::BindError;
use crate::socket::{self, Socket};
use crate::wire::{self, Connection, Frame, Hello, Purpose, VERSION, Welcome};

/// The most connections at once.
const MAX_CONNECTIONS: usize = 4096;
/// How long a peer may take to say what it wants.
const HELLO: Duration = Duration::from_secs(10);
/// How long to wait when a connection can't be accepted.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A fabric's socket. The file goes away with it.
#[derive(Debug)]
pub struct Server {
    socket: Socket,
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
        let socket = Socket::bind(path)?;
        let directory = path.parent().unwrap_or(Path::new(".")).into();
        let tasks = TaskTracker::new();
        let shared = Shared { fabric, directory, tasks: tasks.clone() };
        Ok(Self { socket, shared, tasks })
    }

    /// Serves until `token` is cancelled, then hangs up and waits for what the calls in progress do
    /// to the store.
    pub async fn run(self, token: CancellationToken) {
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let serve = async {
            loop {
                let Ok(permit) = connections.clone().acquire_owned().await else { return };
                match self.socket.accept().await {
                    Ok(stream) => {
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

impl Shared {
    async fn serve(&self, stream: UnixStream) {
        if let Err(error) = self.try_serve(stream).await
            && error.kind() != io::ErrorKind::UnexpectedEof
        {
            tracing::debug!(%error, "a connection to the fabric has ended");
        }
    }

    async fn try_serve(&self, stream: UnixStream) -> io::Result<()> {
        let refusal = socket::refusal(&stream)?;
        let mut connection = wire::framed(stream);
        if let Some(reason) = refusal {
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
