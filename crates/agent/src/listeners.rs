//! What an agent listens on.
//!
//! HTTP, HTTPS, DNS and the admin endpoint are there from the start, or the agent isn't. HTTP/3 comes
//! to the port that HTTPS has got, once the site serves: the proxy tries again while it can't be
//! bound, and clients do without.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use selvedge_proxy::admin::Socket;
use selvedge_proxy::standalone::DiskSettings;
use selvedge_proxy::{
    CacheConfig, CacheDisk, Limits, Listener, ListenerState, Listeners, Protocol, Proxy, Snapshot,
};
use selvedge_telemetry::Chain;
use selvedge_telemetry::access::AccessLog;
use tokio::net::TcpListener;
use tokio::sync::watch::{Receiver, Sender, channel};

use crate::{ADMIN_SOCKET, AgentError, Config};

/// The name of the listener that a site can do without.
const HTTP3: &str = "HTTP/3";

/// Everything that is bound.
pub(crate) struct Bound {
    pub(crate) proxy: Proxy,
    pub(crate) dns: selvedge_dns::Server,
    pub(crate) admin: TcpListener,
    /// To purge and look at the cache by.
    pub(crate) socket: Option<Socket>,
    /// What the proxy serves.
    pub(crate) snapshot: Receiver<Arc<Snapshot>>,
    /// What the site does without, in words.
    pub(crate) problems: Vec<String>,
}

pub(crate) async fn bind(
    config: &Config,
    snapshot: &Sender<Arc<Snapshot>>,
    zones: &Sender<Arc<selvedge_dns::Snapshot>>,
    log: AccessLog,
) -> Result<Bound, AgentError> {
    let pair = Listeners::pair(config.http, config.https);
    let mut problems = Vec::new();
    let (listeners, wanted) = channel(Arc::new(pair.clone()));
    let proxy = selvedge_proxy::Config {
        listeners: wanted,
        shards: 1,
        limits: Limits::default(),
        trusted: Vec::new(),
        cache: CacheConfig { disk: cache_disk(config, &mut problems).await, ..Default::default() },
    };
    let proxy = Proxy::bind(proxy, snapshot.subscribe(), log)
        .map_err(listen("HTTP and HTTPS", config.http))?;
    if let Some(address) = proxy.address("HTTPS").filter(|_| config.http3) {
        let Listeners(mut wanted) = pair;
        wanted.push(Listener::new(HTTP3, address, Protocol::Http3));
        listeners.send_replace(Arc::new(Listeners(wanted)));
    }
    let dns = selvedge_dns::Config { listen: config.dns, threads: 1 };
    let dns =
        selvedge_dns::Server::bind(dns, zones.subscribe()).map_err(listen("DNS", config.dns))?;
    let admin =
        TcpListener::bind(config.admin).await.map_err(listen("administration", config.admin))?;
    let socket = admin_socket(config, &mut problems);
    Ok(Bound { proxy, dns, admin, socket, snapshot: snapshot.subscribe(), problems })
}

/// The ledger's lock is held, so what is left there is of a life that has ended.
fn admin_socket(config: &Config, problems: &mut Vec<String>) -> Option<Socket> {
    let path = config.data.join(ADMIN_SOCKET);
    Socket::bind(&path, true)
        .inspect_err(|error| {
            let path = path.display();
            problems.push(format!("what is stored can't be purged by {path}: {error}"));
        })
        .ok()
}

/// A site that can store in memory alone serves.
async fn cache_disk(config: &Config, problems: &mut Vec<String>) -> Option<CacheDisk> {
    let DiskSettings { directory, bytes } = config.cache_disk.clone()?;
    let path = directory.clone();
    let opened = tokio::task::spawn_blocking(move || {
        CacheDisk::open(path, bytes).map_err(|error| Chain(&error).to_string())
    })
    .await;
    opened
        .map_err(|error| error.to_string())
        .flatten()
        .inspect_err(|error| {
            let path = directory.display();
            problems.push(format!("responses are stored in memory alone, not in {path}: {error}"));
        })
        .ok()
}

pub(crate) fn listen(
    purpose: &'static str,
    address: SocketAddr,
) -> impl FnOnce(std::io::Error) -> AgentError {
    move |source| AgentError::Listen { purpose, address, source }
}

/// What is wrong with a listener, in words.
pub(crate) fn problem(state: &ListenerState) -> Option<String> {
    let error = Chain(state.error.as_deref()?);
    let mend = match state.name.as_str() {
        HTTP3 => {
            "Clients are served without; end what has the port, or start the agent with --no-http3"
        }
        _ => "End what has the port, or give the agent another",
    };
    Some(format!("can't listen for {error}. {mend}"))
}

/// An address at which a listener's own machine reaches it.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
