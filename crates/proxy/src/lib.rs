//! The HTTP data plane of a site: listeners, TLS, routing, static files and upstreams.
//!
//! It serves what a [`Snapshot`] says and reports what it did as access records. It knows nothing
//! of the fabric, of control or of how workloads are run; the agent is its only caller, and it can
//! be run, tested and benchmarked alone.

pub mod files;
pub mod snapshot;
pub mod upstream;

use std::net::SocketAddr;
use std::sync::Arc;

use selvedge_telemetry::access::AccessLog;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use snapshot::{AppView, Connect, EpochView, RouteView, Snapshot, Stream, Target};

/// How a proxy listens and what it tolerates.
#[derive(Debug, Clone)]
pub struct Config {
    /// Plain HTTP. Port 0 picks a free one.
    pub http: SocketAddr,
    /// HTTPS. Port 0 picks a free one.
    pub https: SocketAddr,
    /// Limits on what clients and workloads may do.
    pub limits: Limits,
}

/// Limits; the defaults suit the public Internet.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Placeholder so that the type has a field until the proxy is written.
    pub max_connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_connections: 10_000 }
    }
}

/// A proxy that has bound its listeners.
pub struct Proxy {
    _private: (),
}

impl Proxy {
    /// Binds the listeners.
    pub fn bind(
        _config: Config,
        _snapshot: watch::Receiver<Arc<Snapshot>>,
        _access: AccessLog,
    ) -> std::io::Result<Self> {
        Ok(Self { _private: () })
    }

    /// Where plain HTTP is served.
    pub fn http_address(&self) -> SocketAddr {
        ([127, 0, 0, 1], 0).into()
    }

    /// Where HTTPS is served.
    pub fn https_address(&self) -> SocketAddr {
        ([127, 0, 0, 1], 0).into()
    }

    /// Serves until `token` is cancelled, then finishes what is under way, bounded.
    pub async fn run(self, token: CancellationToken) {
        token.cancelled().await;
    }
}
