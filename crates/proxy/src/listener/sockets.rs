//! Listening sockets: one for each shard, sharing an address.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpStream;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;

/// Binds an address for `count` shards; port 0 picks one for all. `inherited` are sockets that
/// listen there already.
///
/// Sockets share an address by SO_REUSEPORT, which any process of the same user could join: two
/// proxies would each get some of the connections, and neither would know. So the first socket
/// listens without it, which the kernel refuses while anybody else listens there, and gets the
/// option only then. A second proxy's first socket is refused likewise.
pub(super) fn bind(
    address: SocketAddr,
    count: usize,
    inherited: Vec<TcpListener>,
) -> io::Result<Vec<TcpListener>> {
    let mut sockets = inherited;
    if sockets.is_empty() {
        sockets.push(open(address, false)?);
    }
    if sockets.len() < count {
        for socket in &sockets {
            SockRef::from(socket).set_reuse_port(true)?;
        }
        let bound = local_address(&sockets)?;
        while sockets.len() < count {
            sockets.push(open(bound, true)?);
        }
    }
    Ok(sockets)
}

/// Where sockets that share an address are bound.
pub(super) fn local_address(sockets: &[TcpListener]) -> io::Result<SocketAddr> {
    sockets.first().ok_or(io::ErrorKind::NotFound)?.local_addr()
}

/// Bytes of what is sent to a program on this machine that the kernel keeps (it takes twice as much,
/// with its own data).
const NEAR_BUFFER: usize = 256 << 10;

/// Has accepted connections send as is best for where they lead.
///
/// Answers are written whole; to wait for more only delays their last part. The size of the buffer is
/// left to the kernel, which lets it grow with what is on its way; but to a program on this machine
/// nothing ever is, nothing is lost either, and so it grows to its most: memory that no processor's
/// cache holds, which made large answers a third dearer.
pub(super) fn prepare(stream: &TcpStream, peer: SocketAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if peer.ip().to_canonical().is_loopback() {
        SockRef::from(stream).set_send_buffer_size(NEAR_BUFFER)?;
    }
    Ok(())
}

fn open(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::{SocketAddr, bind, io, local_address};

    #[test]
    fn shards_share_an_address_and_nobody_else_does() {
        let loopback: SocketAddr = ([127, 0, 0, 1], 0).into();
        for count in [1, 3] {
            let sockets = bind(loopback, count, Vec::new()).unwrap();
            assert_eq!(sockets.len(), count);
            let address = local_address(&sockets).unwrap();
            for other in [1, 3] {
                let error = bind(address, other, Vec::new()).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
            }
            // More shards take over from fewer.
            let sockets = bind(address, count + 1, sockets).unwrap();
            let clients: Vec<_> = (0..200).map(|_| TcpStream::connect(address).unwrap()).collect();
            let accepted: usize = sockets
                .iter()
                .map(|socket| {
                    let accepted = std::iter::from_fn(|| socket.accept().ok()).count();
                    assert!(accepted > 0, "each gets some");
                    accepted
                })
                .sum();
            assert_eq!(accepted, clients.len());
            drop(sockets);
            assert!(bind(address, count, Vec::new()).is_ok());
        }
    }
}
