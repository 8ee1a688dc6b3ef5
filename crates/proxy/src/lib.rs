//! The HTTP data plane of a site: listeners, TLS, routing, static files and upstreams.
//!
//! It serves what a [`Snapshot`] says and reports what it did as access records. It knows nothing
//! of the fabric, of control or of how workloads are run; the agent is its only caller, and it can
//! be run, tested and benchmarked alone.
//!
//! A request is checked (`check`: what could be read two ways is refused), located (`locate`: host,
//! then the epoch that the client may be served, then the route), answered from [`files`] or by an
//! [`upstream`], and named: every response says its site, release, epoch and request id.
//!
//! A WebSocket becomes a `tunnel`; other upgrades are not let through.
//!
//! Deliberately absent: a cache, HTTP/3, WebSockets over HTTP/2, and any choice of what is served.

mod activity;
pub mod admin;
mod authority;
mod body;
mod cache;
mod check;
pub mod encode;
mod epoch;
pub mod esi;
mod fields;
pub mod files;
mod floor;
mod forward;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod graphql;
mod limits;
mod listener;
mod locate;
mod pages;
mod path;
mod pins;
mod probe;
mod record;
mod redirect;
mod service;
pub mod snapshot;
pub mod standalone;
mod tls;
mod trace;
mod tunnel;
pub mod upstream;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use selvedge_telemetry::access::AccessLog;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub use cache::{CacheConfig, CacheHandle, CacheScope, QueryRules};
pub use limits::Limits;
pub use snapshot::{AppView, Connect, EpochView, RouteTable, RouteView, Snapshot, Stream, Target};
pub use upstream::{Upstream, UpstreamConfig, UpstreamLimits, UpstreamTls};

/// How a proxy listens and what it tolerates.
#[derive(Debug, Clone)]
pub struct Config {
    /// Plain HTTP/1.1, and HTTP/2 for clients that know (RFC 9113, section 3.3). Port 0 picks a
    /// free one.
    pub http: SocketAddr,
    /// HTTPS. Port 0 picks a free one.
    pub https: SocketAddr,
    /// Limits on what clients may do.
    pub limits: Limits,
    /// How it caches.
    pub cache: CacheConfig,
}

/// A proxy that has bound its listeners.
pub struct Proxy {
    server: listener::Server,
    http: (TcpListener, SocketAddr),
    https: (TcpListener, SocketAddr),
}

impl Proxy {
    /// Binds the listeners. Connections wait in the kernel until [`Proxy::run`]. Must be called
    /// within a tokio runtime.
    ///
    /// # Errors
    /// When a listener can't be bound; the error says which.
    pub fn bind(
        config: Config,
        snapshot: watch::Receiver<Arc<Snapshot>>,
        access: AccessLog,
    ) -> io::Result<Self> {
        let http = listen("HTTP", config.http)?;
        let https = listen("HTTPS", config.https)?;
        let acceptor = listener::acceptor(snapshot.clone()).map_err(io::Error::other)?;
        let shared = listener::Shared {
            limits: config.limits,
            cache: cache::Cache::new(config.cache),
            snapshot,
            access,
            floors: floor::Floors::default(),
            ids: trace::Ids::new()?,
            https_port: https.1.port(),
        };
        let server = listener::Server::new(Arc::new(shared), acceptor);
        Ok(Self { server, http, https })
    }

    /// Where plain HTTP is served.
    pub fn http_address(&self) -> SocketAddr {
        self.http.1
    }

    /// Where HTTPS is served.
    pub fn https_address(&self) -> SocketAddr {
        self.https.1
    }

    /// Its cache, if it has one.
    pub fn cache(&self) -> Option<CacheHandle> {
        self.server.shared().cache.as_ref().map(cache::Cache::handle)
    }

    /// Serves until `token` is cancelled, then finishes what is under way, bounded by
    /// [`Limits::drain_timeout`].
    pub async fn run(self, token: CancellationToken) {
        let cache = self.server.shared().cache.clone();
        let sweep = cache.map(|cache| AbortOnDropHandle::new(tokio::spawn(cache.sweep())));
        self.server.run(self.http.0, self.https.0, token).await;
        drop(sweep);
    }
}

fn listen(purpose: &str, address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let bound = listener::bind(address).and_then(|listener| {
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    });
    bound.map_err(|error| io::Error::new(error.kind(), format!("{purpose} on {address}: {error}")))
}
