//! TCP connections to servers elsewhere.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::snapshot::{Connect, Stream};

/// How long an address has before the next is tried beside it (RFC 8305, section 5).
const HEAD_START: Duration = Duration::from_millis(250);

/// Connects to a host and port, whose addresses are looked up each time.
#[derive(Debug, Clone)]
pub struct TcpConnect {
    host: String,
    port: u16,
}

impl TcpConnect {
    /// A name or an address, and a port.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }
}

#[async_trait]
impl Connect for TcpConnect {
    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await?;
        Ok(Box::new(connect_any(found.collect()).await?))
    }
}

/// Connects to the first of a server's addresses that answers: they are tried in the order given
/// but that families take turns, each with a head start (RFC 8305). Nothing is held back until more
/// is to be sent (`TCP_NODELAY`).
///
/// # Errors
/// The last failure, when none could be connected to.
pub async fn connect_any(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut rest = in_turn(addresses).into_iter();
    let mut failure = io::Error::other("its name has no address");
    let Some(mut next) = rest.next() else { return Err(failure) };
    if rest.len() == 0 {
        return connect(next).await;
    }
    let mut attempts = JoinSet::new();
    loop {
        attempts.spawn(connect(next));
        next = loop {
            let more = rest.len() > 0;
            tokio::select! {
                biased;
                Some(attempt) = attempts.join_next() => match attempt {
                    Ok(Ok(stream)) => return Ok(stream),
                    Ok(Err(error)) => failure = error,
                    Err(error) => failure = io::Error::other(error),
                },
                () = sleep(HEAD_START), if more => {}
                else => return Err(failure),
            }
            if let Some(next) = rest.next() {
                break next;
            }
        };
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The first address's family first, then one of each in turn.
fn in_turn(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let six = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == six);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut all = Vec::new();
    loop {
        let (one, two) = (first.next(), second.next());
        if one.is_none() && two.is_none() {
            return all;
        }
        all.extend(one.into_iter().chain(two));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let all = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let sorted = in_turn(all(&["[::1]:1", "[::2]:1", "[::3]:1", "10.0.0.1:1", "10.0.0.2:1"]));
        let expected: Vec<SocketAddr> =
            all(&["[::1]:1", "10.0.0.1:1", "[::2]:1", "10.0.0.2:1", "[::3]:1"]);
        assert_eq!(sorted, expected);
        assert_eq!(in_turn(all(&["10.0.0.1:1", "[::1]:1"])).first().unwrap().port(), 1);
        assert!(in_turn(Vec::new()).is_empty());
    }

    #[tokio::test]
    async fn an_address_that_refuses_is_passed_over() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = server.local_addr().unwrap();
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for addresses in [vec![good], vec![gone, good], vec![gone, gone, good], vec![good, gone]] {
            assert_eq!(connect_any(addresses).await.unwrap().peer_addr().unwrap(), good);
        }
        for addresses in [vec![gone], vec![gone, gone]] {
            let error = connect_any(addresses).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        }
        assert!(connect_any(Vec::new()).await.is_err());
        let connect = TcpConnect::new("localhost", good.port());
        connect.connect().await.unwrap();
    }
}
