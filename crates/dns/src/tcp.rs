//! DNS over TCP (RFC 7766): several queries on a connection, bounded in number and time.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::{Transport, answer};
use crate::snapshot::Snapshot;

/// Connections at a time; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 512;
/// How long a connection may be idle, or a query or answer be under way.
const IDLE: Duration = Duration::from_secs(10);
/// How long to wait after a connection could not be accepted, in which others may end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Queries on one connection.
const MAX_QUERIES: usize = 10_000;

pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1_024)?;
    TcpListener::from_std(socket.into())
}

pub(crate) async fn serve(
    listener: TcpListener,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    token: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let tasks = TaskTracker::new();
    loop {
        let accepted = async {
            let permit = permits.clone().acquire_owned().await.ok()?;
            Some((permit, listener.accept().await))
        };
        tokio::select! {
            () = token.cancelled() => break,
            accepted = accepted => match accepted {
                Some((permit, Ok((stream, peer)))) => {
                    let (snapshot, token) = (snapshot.clone(), token.clone());
                    tasks.spawn(async move {
                        let _permit = permit;
                        tokio::select! {
                            // Peers that break off are the normal end of a connection.
                            _ = connection(stream, peer, snapshot) => {}
                            () = token.cancelled() => {}
                        }
                    });
                }
                // Out of descriptors, say: what is open must end first.
                Some((_, Err(error))) => {
                    tracing::warn!(%error, "a DNS connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                None => break,
            },
        }
    }
    tasks.close();
    tasks.wait().await;
}

async fn connection(
    mut stream: TcpStream,
    peer: SocketAddr,
    snapshot: watch::Receiver<Arc<Snapshot>>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut query, mut response) = (Vec::new(), Vec::new());
    for _ in 0..MAX_QUERIES {
        tokio::time::timeout(IDLE, read(&mut stream, &mut query)).await??;
        let snapshot = snapshot.borrow().clone();
        if !answer(&query, peer.ip(), Transport::Tcp, &snapshot, &mut response) {
            return Ok(());
        }
        let Ok(length) = u16::try_from(response.len()) else { return Ok(()) };
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&response);
        tokio::time::timeout(IDLE, stream.write_all(&framed)).await??;
    }
    Ok(())
}

async fn read(stream: &mut TcpStream, query: &mut Vec<u8>) -> io::Result<()> {
    let length = stream.read_u16().await?;
    query.resize(usize::from(length), 0);
    stream.read_exact(query).await?;
    Ok(())
}
