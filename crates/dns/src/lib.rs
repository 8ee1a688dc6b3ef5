//! An authoritative DNS server (RFC 1034, 1035, 2308, 6891, 7766, 7871, 8482) over zone snapshots.
//!
//! [`answer::answer`] is a pure function from a query and a [`Snapshot`] to a response; [`Server`]
//! is the thin transport around it: UDP by threads that take and send datagrams in batches, TCP by
//! tasks. Deliberately absent: recursion, zone transfers, DNSSEC, and any decision about what to
//! answer, which is made beforehand and stands in the zone document. The agent is its caller.

pub mod answer;
mod batch;
mod location;
mod snapshot;
mod tcp;
mod udp;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use snapshot::Snapshot;

/// How the server listens.
#[derive(Debug, Clone)]
pub struct Config {
    /// UDP and TCP. Port 0 picks a free one, the same for both.
    pub listen: SocketAddr,
    /// How many UDP threads share the port by SO_REUSEPORT; at least 1.
    pub threads: usize,
}

/// A server that has bound its sockets.
pub struct Server {
    address: SocketAddr,
    tcp: tokio::net::TcpListener,
    udp: Vec<std::net::UdpSocket>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
}

/// How often a free port is looked for that both UDP and TCP can have.
const BIND_TRIES: usize = 16;

impl Server {
    /// Binds UDP and TCP. Must be called in a tokio runtime.
    pub fn bind(config: Config, snapshot: watch::Receiver<Arc<Snapshot>>) -> io::Result<Self> {
        let mut tries = if config.listen.port() == 0 { BIND_TRIES } else { 1 };
        loop {
            tries -= 1;
            match Self::bind_once(&config, snapshot.clone()) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
                bound => return bound,
            }
        }
    }

    fn bind_once(config: &Config, snapshot: watch::Receiver<Arc<Snapshot>>) -> io::Result<Self> {
        let tcp = tcp::bind(config.listen)?;
        let address = tcp.local_addr()?;
        let udp =
            (0..config.threads.max(1)).map(|_| udp::bind(address)).collect::<Result<_, _>>()?;
        Ok(Self { address, tcp, udp, snapshot })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `token` is cancelled.
    pub async fn run(self, token: CancellationToken) {
        let threads: Vec<udp::Thread> = self
            .udp
            .into_iter()
            .filter_map(|socket| match udp::Thread::start(socket, self.snapshot.clone()) {
                Ok(thread) => Some(thread),
                Err(error) => {
                    tracing::error!(%error, "a DNS thread could not be started");
                    None
                }
            })
            .collect();
        tcp::serve(self.tcp, self.snapshot, token).await;
        for thread in threads {
            thread.stop();
        }
    }
}
