//! A proxy without a control plane: what it serves is said once, by a file or a few flags.
//!
//! `selvedge proxy` is the only caller; it is how the proxy is tried, tested and compared.

mod address;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use selvedge_model::SiteId;
use selvedge_model::manifest::PathPattern;
use tokio::net::TcpStream;

pub use address::{Address, AddressError};

use crate::{
    CacheScope, Connect, QueryRules, RouteTable, RouteView, Snapshot, Stream, Target, Upstream,
    UpstreamLimits,
};

/// Every request is sent to this upstream, with the host that the client asked for, and cached as
/// the responses allow.
pub fn single(site: SiteId, upstream: &Address) -> Snapshot {
    let connect: Arc<dyn Connect> = Arc::new(Tcp(upstream.clone()));
    let limits = UpstreamLimits { max_requests: 10_000, ..UpstreamLimits::default() };
    let upstream = Upstream::balanced(upstream.to_string(), vec![connect], None, limits);
    let route = RouteView {
        hosts: Vec::new(),
        path: PathPattern::Prefix(String::new()),
        service: None,
        rewrite: None,
        cache: Some(Arc::new(CacheScope::new(b"proxy", &[], QueryRules::default()))),
        response_headers: Vec::new(),
        target: Target::Workload(Arc::new(upstream)),
    };
    Snapshot {
        site,
        pins: None,
        hosts: HashMap::new(),
        rest: Some(Arc::new(RouteTable { force_https: false, routes: vec![route] })),
        certificates: HashMap::new(),
        explain: true,
        probe_key: None,
    }
}

/// Connections to an address.
struct Tcp(Address);

#[async_trait]
impl Connect for Tcp {
    async fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect((self.0.host(), self.0.port())).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }
}
