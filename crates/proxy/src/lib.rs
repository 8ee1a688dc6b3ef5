//! The HTTP data plane of a site: listeners, TLS, routing, static files and upstreams.
//!
//! It serves what a [`Snapshot`] says and reports what it did as access records. It knows nothing
//! of the fabric, of control or of how workloads are run; the agent calls it, and
//! `selvedge proxy`, by which it is run, tested and benchmarked alone.
//!
//! A request is checked (`check`: what could be read two ways is refused), located (`locate`: host,
//! then the epoch that the client may be served, then the route), answered from [`files`] or by an
//! [`upstream`], and named: every response says its site, release, epoch and request id.
//!
//! A WebSocket becomes a `tunnel`; other upgrades are not let through.
//!
//! What workloads answer is cached ([`CacheConfig`]): looked up without waiting, filled by one request
//! for all that want the same. On its way to the client a page is put together of its pieces
//! ([`esi`]), and a response compressed ([`encode`]), where the route's [`Delivery`] says so.
//!
//! Deliberately absent: any choice of what is served.

mod activity;
pub mod admin;
mod authority;
mod body;
mod cache;
mod check;
mod client_address;
mod delivery;
#[cfg(test)]
mod differential;
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
mod hints;
mod http2;
mod http3;
mod limits;
mod listener;
mod locate;
mod pages;
mod path;
mod pins;
mod pipe;
mod probe;
mod record;
mod redirect;
mod service;
pub mod snapshot;
mod spoken;
mod stall;
pub mod standalone;
pub mod takeover;
mod tls;
mod trace;
mod tunnel;
pub mod upstream;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU16;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use ipnet::IpNet;
use selvedge_telemetry::access::AccessLog;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub use cache::{CacheConfig, CacheDisk, CacheHandle, CacheScope, DiskCounters, QueryRules};
pub use delivery::{Delivery, Encoding};
pub use limits::Limits;
pub use listener::{Handle, ListenError, Listener, ListenerState, Listeners, Protocol};
pub use snapshot::{AppView, Connect, EpochView, RouteTable, RouteView, Snapshot, Stream, Target};
pub use tls::{ClientAuth, ClientAuthError, Demand, TicketKey, TicketKeyError, TlsPolicy};
pub use upstream::{Upstream, UpstreamConfig, UpstreamLimits, UpstreamTls};

/// How long the disk cache may take to write what waits when the proxy ends.
const DISK_PATIENCE: Duration = Duration::from_secs(10);

/// How a proxy listens and what it tolerates.
#[derive(Debug, Clone)]
pub struct Config {
    /// What it listens on. May change at any time; [`Listeners::fixed`] never does.
    pub listeners: watch::Receiver<Arc<Listeners>>,
    /// Threads that serve, each with its own connections; at least one is started.
    pub shards: usize,
    /// Limits on what clients may do.
    pub limits: Limits,
    /// Proxies whose `x-forwarded-for`, `x-forwarded-proto` and `forwarded` are believed.
    pub trusted: Vec<IpNet>,
    /// How it caches.
    pub cache: CacheConfig,
}

/// A proxy that has bound its listeners.
pub struct Proxy {
    server: listener::Server,
    cache: Option<Arc<cache::Cache>>,
}

impl Proxy {
    /// Starts the shards and binds the listeners. Connections wait in the kernel until
    /// [`Proxy::run`].
    ///
    /// # Errors
    /// When a listener can't be bound, and the error says which; or when there is no room for
    /// another thread.
    pub fn bind(
        config: Config,
        snapshot: watch::Receiver<Arc<Snapshot>>,
        access: AccessLog,
    ) -> io::Result<Self> {
        Self::resume(config, takeover::Inherited::default(), snapshot, access)
    }

    /// As [`Proxy::bind`], with sockets that another process has handed over. Those for which there
    /// is no listener are closed.
    ///
    /// # Errors
    /// As [`Proxy::bind`].
    pub fn resume(
        config: Config,
        inherited: takeover::Inherited,
        snapshot: watch::Receiver<Arc<Snapshot>>,
        access: AccessLog,
    ) -> io::Result<Self> {
        let shards = listener::Shards::start(config.shards.max(1))?;
        let cache = cache::Cache::new(config.cache);
        let floors = Arc::new(floor::Floors::default());
        let https_port = Arc::new(AtomicU16::new(0));
        let alternative = Arc::new(ArcSwapOption::empty());
        let shared = |shard| {
            io::Result::Ok(Arc::new(listener::Shared {
                shard,
                limits: config.limits.clone(),
                trusted: config.trusted.clone(),
                snapshot: snapshot.clone(),
                access: access.clone(),
                cache: cache.clone(),
                floors: Arc::clone(&floors),
                ids: trace::Ids::new()?,
                https: Arc::clone(&https_port),
                alternative: Arc::clone(&alternative),
            }))
        };
        let shared = (0..config.shards.max(1)).map(shared).collect::<Result<_, _>>()?;
        let tls = Arc::new(tls::Tls::new(snapshot).map_err(io::Error::other)?);
        let quic = http3::config(tls.http3().map_err(io::Error::other)?, &config.limits)?;
        let common = listener::Common { shared, tls, https_port, alternative, quic };
        let server = listener::Server::bind(common, shards, config.listeners, inherited)?;
        Ok(Self { server, cache })
    }

    /// Shows what is listened on, also while the proxy runs.
    pub fn handle(&self) -> Handle {
        self.server.handle()
    }

    /// Where the listener of this name is bound.
    pub fn address(&self, name: &str) -> Option<SocketAddr> {
        self.handle().address(name)
    }

    /// Its cache, if it has one.
    pub fn cache(&self) -> Option<CacheHandle> {
        self.cache.as_ref().map(cache::Cache::handle)
    }

    /// Serves until `token` is cancelled, then finishes what is under way, bounded by
    /// [`Limits::drain_timeout`]. A directory of the cache is given back as soon as that begins:
    /// a process that takes over may wait for it.
    pub async fn run(self, token: CancellationToken) {
        let Some(cache) = self.cache else { return self.server.run(token).await };
        let sweeping = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&cache).sweep()));
        let ended = CancellationToken::new();
        let serving = async {
            self.server.run(token.clone()).await;
            ended.cancel();
        };
        let closing = async {
            tokio::select! {
                () = token.cancelled() => {}
                // It has ended by itself.
                () = ended.cancelled() => {}
            }
            // A disk that hangs must not keep the process.
            if timeout(DISK_PATIENCE, cache.close()).await.is_err() {
                tracing::warn!("the disk cache takes too long to close, and is left as it is");
            }
        };
        tokio::join!(serving, closing);
        drop(sweeping);
    }
}
