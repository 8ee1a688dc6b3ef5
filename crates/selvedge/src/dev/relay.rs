//! 127.0.0.1 and [::1] at the box's ports, relayed to a site that lives: what a browser, curl or
//! dig without further words reaches.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

/// Addresses of the sites that live, the preferred first.
pub(crate) type LiveSites = watch::Receiver<Vec<IpAddr>>;

/// How many connections, and how many DNS queries, are relayed at a time.
const MAX_AT_ONCE: usize = 1_024;
/// How long to wait after a connection could not be accepted, in which others may end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a site has to answer a DNS query.
const DNS_TIMEOUT: Duration = Duration::from_secs(3);
/// The largest UDP message that is relayed; EDNS answers of our server are smaller.
const MAX_DATAGRAM: usize = 4_096;

/// The addresses that are relayed.
pub(crate) const LOOPBACK: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Listeners that wait to be run.
pub(crate) struct Relay {
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
}

impl Relay {
    /// Binds `ports` for TCP, and `udp_port` for UDP too, on both loopback addresses. A machine
    /// without IPv6 is served on 127.0.0.1 alone.
    pub(crate) async fn bind(ports: &[u16], udp_port: u16) -> io::Result<Self> {
        let (mut tcp, mut udp) = (Vec::new(), Vec::new());
        for ip in LOOPBACK {
            for port in ports {
                keep_if_available(&mut tcp, TcpListener::bind((ip, *port)).await)?;
            }
            keep_if_available(&mut udp, UdpSocket::bind((ip, udp_port)).await)?;
        }
        Ok(Self { tcp, udp })
    }

    /// Relays until `token` is cancelled.
    pub(crate) async fn run(self, sites: LiveSites, token: CancellationToken) {
        let permits = Arc::new(Semaphore::new(MAX_AT_ONCE));
        let mut tasks = tokio::task::JoinSet::new();
        for listener in self.tcp {
            tasks.spawn(relay_tcp(listener, sites.clone(), permits.clone()));
        }
        for socket in self.udp {
            tasks.spawn(relay_udp(Arc::new(socket), sites.clone(), permits.clone()));
        }
        token.cancelled().await;
    }
}

fn keep_if_available<T>(kept: &mut Vec<T>, bound: io::Result<T>) -> io::Result<()> {
    match bound {
        Ok(socket) => kept.push(socket),
        Err(error) if super::ports::is_no_ipv6(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

async fn relay_tcp(listener: TcpListener, sites: LiveSites, permits: Arc<Semaphore>) {
    let Ok(port) = listener.local_addr().map(|address| address.port()) else { return };
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let Ok((mut client, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let candidates = sites.borrow().clone();
        tokio::spawn(async move {
            let _permit = permit;
            for site in candidates {
                if let Ok(mut upstream) = TcpStream::connect(SocketAddr::new(site, port)).await {
                    let _ = (client.set_nodelay(true), upstream.set_nodelay(true));
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
                    return;
                }
            }
        });
    }
}

async fn relay_udp(socket: Arc<UdpSocket>, sites: LiveSites, permits: Arc<Semaphore>) {
    let Ok(port) = socket.local_addr().map(|address| address.port()) else { return };
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        // A query over the limit is dropped, as a busy server drops it; stubs ask again.
        let Ok(permit) = permits.clone().try_acquire_owned() else { continue };
        let query = buffer.get(..length).unwrap_or_default().to_vec();
        let (socket, candidates) = (socket.clone(), sites.borrow().clone());
        tokio::spawn(async move {
            let _permit = permit;
            for site in candidates {
                if let Ok(answer) = ask(SocketAddr::new(site, port), &query).await {
                    let _ = socket.send_to(&answer, client).await;
                    return;
                }
            }
        });
    }
}

/// One query and its answer from a socket of its own, which only the site can write to.
async fn ask(site: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let local: SocketAddr =
        if site.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(site).await?;
    socket.send(query).await?;
    let mut answer = vec![0; MAX_DATAGRAM];
    let length = tokio::time::timeout(DNS_TIMEOUT, socket.recv(&mut answer)).await??;
    answer.truncate(length);
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_dead_site_is_passed_over() {
        let site = TcpListener::bind("127.0.1.2:0").await.unwrap();
        let port = site.local_addr().unwrap().port();
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let (_sender, sites) = watch::channel(vec![
            "127.0.1.1".parse::<IpAddr>().unwrap(),
            "127.0.1.2".parse().unwrap(),
        ]);
        tokio::spawn(relay_tcp(listener, sites, Arc::new(Semaphore::new(4))));
        let mut client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (mut served, _) = site.accept().await.unwrap();
        served.write_all(b"hello").await.unwrap();
        drop(served);
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
    }
}
