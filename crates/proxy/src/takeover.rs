//! Handing listening sockets from a proxy that is to end to the one that follows it, so that no
//! client is refused between the two.
//!
//! The running process [`offer`]s at a Unix socket; the next one [`claim`]s there, gets the same
//! sockets (not new ones at the same address: what waits in a socket's queue is lost when it is
//! closed), begins to serve, and says so. Only then does the first drain. A successor that dies
//! before it serves changes nothing.
//!
//! Only processes of the same user hand sockets to each other.

mod rights;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use selvedge_telemetry::Chain;
use serde::{Deserialize, Serialize};
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::listener::Handle;

/// A successor must serve within this of its claim.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of the list of sockets.
const MAX_LIST: usize = 1 << 20;
/// Sockets of one listener.
const MAX_SOCKETS: usize = 4096;
/// What the successor says when it serves.
const SERVING: u8 = b'S';

/// Why sockets did not change hands.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// Another process offers there.
    #[error("another process hands over its listeners at {0}")]
    Taken(PathBuf),
    /// The socket can't be used.
    #[error("can't use the socket {path}")]
    Socket {
        /// Where it is to be.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The other end is not of this user, or does not speak as expected.
    #[error("the process at the other end of {path} {what}")]
    Other {
        /// Where it was met.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// What one listener of the first process hands over; followed by its sockets.
#[derive(Debug, Serialize, Deserialize)]
struct Heading {
    name: String,
    address: SocketAddr,
    sockets: usize,
}

/// Sockets that listen already, for [`crate::Proxy::resume`].
#[derive(Debug, Default)]
pub struct Inherited(Vec<(Heading, Vec<TcpListener>)>);

impl Inherited {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The sockets of a listener. A picked port goes by the listener's name.
    pub(crate) fn take(&mut self, name: &str, address: SocketAddr) -> Vec<TcpListener> {
        let same = |(heading, _): &mut (Heading, _)| {
            heading.address == address && (address.port() != 0 || heading.name == name)
        };
        self.0.extract_if(.., same).flat_map(|(_, sockets)| sockets).collect()
    }
}

/// A claim that was granted: the sockets are here, and the process before still serves.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    stream: UnixStream,
    inherited: Inherited,
}

/// Offers a proxy's listeners at `path` until another process has taken them and serves; then this
/// one is to drain.
///
/// # Errors
/// When nothing can be offered at `path`. A claim that fails is logged, and the offer stands.
pub async fn offer(path: &Path, handle: &Handle) -> Result<(), TakeoverError> {
    let offered = Offered::bind(path).await?;
    loop {
        let accepted = offered.listener.accept().await;
        let (mut stream, _) = accepted.map_err(|source| socket(path, source))?;
        match timeout(PATIENCE, hand_over(path, &mut stream, handle)).await {
            Ok(Ok(())) => {
                // The successor offers at the same path as soon as its stream ends.
                drop(offered);
                return Ok(());
            }
            Ok(Err(error)) => {
                tracing::warn!(error = %Chain(&error), "listeners were not handed over");
            }
            Err(_) => tracing::warn!("a process took the listeners and does not serve"),
        }
    }
}

/// Takes the listeners that another process offers at `path`; none if nobody does.
///
/// # Errors
/// When somebody does and they can't be had.
pub async fn claim(path: &Path) -> Result<Option<Claim>, TakeoverError> {
    let mut stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) if is_nobody(&error) => return Ok(None),
        Err(source) => return Err(socket(path, source)),
    };
    same_user(path, &stream)?;
    let inherited = timeout(PATIENCE, receive(path, &mut stream));
    let inherited = inherited.await.map_err(|_| other(path, "does not answer"))??;
    Ok(Some(Claim { path: path.to_owned(), stream, inherited }))
}

impl Claim {
    /// The sockets; the second time, none.
    pub fn inherited(&mut self) -> Inherited {
        std::mem::take(&mut self.inherited)
    }

    /// Says that this process serves, and waits until the other has stopped offering.
    ///
    /// # Errors
    /// When the other process has ended meanwhile; that it serves no more is as good.
    pub async fn serving(mut self) -> Result<(), TakeoverError> {
        let path = self.path;
        let said = async {
            self.stream.write_all(&[SERVING]).await?;
            self.stream.read_to_end(&mut Vec::new()).await
        };
        match timeout(PATIENCE, said).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(source)) => Err(socket(&path, source)),
            Err(_) => Err(other(&path, "does not answer")),
        }
    }
}

async fn hand_over(
    path: &Path,
    stream: &mut UnixStream,
    handle: &Handle,
) -> Result<(), TakeoverError> {
    same_user(path, stream)?;
    let failed = |source| socket(path, source);
    let open = handle.sockets();
    let heading = |(name, address, sockets): &(String, SocketAddr, std::sync::Arc<Vec<_>>)| {
        Heading { name: name.clone(), address: *address, sockets: sockets.len() }
    };
    let list: Vec<Heading> = open.iter().map(heading).collect();
    let list = serde_json::to_vec(&list).map_err(|error| failed(error.into()))?;
    let length = u32::try_from(list.len()).map_err(|error| failed(io::Error::other(error)))?;
    stream.write_all(&length.to_le_bytes()).await.map_err(failed)?;
    stream.write_all(&list).await.map_err(failed)?;
    for socket in open.iter().flat_map(|(_, _, sockets)| sockets.iter()) {
        rights::send(stream, socket).await.map_err(failed)?;
    }
    // They are the kernel's now, and the other's: ours close when this proxy ends.
    drop(open);
    match stream.read_u8().await.map_err(failed)? {
        SERVING => Ok(()),
        _ => Err(other(path, "says something that is not understood")),
    }
}

async fn receive(path: &Path, stream: &mut UnixStream) -> Result<Inherited, TakeoverError> {
    let failed = |source| socket(path, source);
    let length = stream.read_u32_le().await.map_err(failed)?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > MAX_LIST {
        return Err(other(path, "offers too much"));
    }
    let mut list = vec![0; length];
    stream.read_exact(&mut list).await.map_err(failed)?;
    let list: Vec<Heading> = serde_json::from_slice(&list)
        .map_err(|_| other(path, "says something that is not understood"))?;
    let mut inherited = Inherited::default();
    for heading in list {
        if heading.sockets > MAX_SOCKETS {
            return Err(other(path, "offers too much"));
        }
        let mut sockets = Vec::with_capacity(heading.sockets);
        for _ in 0..heading.sockets {
            let socket = TcpListener::from(rights::receive(stream).await.map_err(failed)?);
            if !SockRef::from(&socket).is_listener().map_err(failed)? {
                return Err(other(path, "offers something that does not listen"));
            }
            sockets.push(socket);
        }
        inherited.0.push((heading, sockets));
    }
    Ok(inherited)
}

/// The socket at which is offered, and its file.
struct Offered {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Offered {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(error = %Chain(&error), "the takeover socket can't be removed");
        }
    }
}

impl Offered {
    async fn bind(path: &Path) -> Result<Self, TakeoverError> {
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                match UnixStream::connect(path).await {
                    Err(error) if is_nobody(&error) => {}
                    Ok(_) | Err(_) => return Err(TakeoverError::Taken(path.to_owned())),
                }
                // Left behind by a process that was killed.
                std::fs::remove_file(path).and_then(|()| UnixListener::bind(path))
            }
            bound => bound,
        };
        let listener = listener.map_err(|source| socket(path, source))?;
        Ok(Self { listener, path: path.to_owned() })
    }
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn same_user(path: &Path, stream: &UnixStream) -> Result<(), TakeoverError> {
    let peer = stream.peer_cred().map_err(|source| socket(path, source))?;
    match peer.uid() == nix::unistd::geteuid().as_raw() {
        true => Ok(()),
        false => Err(other(path, "is another user's")),
    }
}

fn socket(path: &Path, source: io::Error) -> TakeoverError {
    TakeoverError::Socket { path: path.to_owned(), source }
}

fn other(path: &Path, what: &'static str) -> TakeoverError {
    TakeoverError::Other { path: path.to_owned(), what }
}
