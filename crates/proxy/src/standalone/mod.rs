//! A proxy without a control plane: what it serves is said once, by a file or a few flags.
//!
//! `selvedge proxy` is the only caller; it is how the proxy is tried, tested and compared.

mod address;
mod file;
mod tls;

#[cfg(any(test, fuzzing))]
pub(crate) use file::fuzz as fuzz_file;

use std::collections::HashMap;
use std::sync::Arc;

use selvedge_model::SiteId;
use selvedge_model::manifest::PathPattern;

pub use address::{Address, AddressError, Scheme};
pub use file::{DiskSettings, FileError, Settings, size};

use crate::upstream::{Protocol, TcpConnect, UpstreamTlsError};
use crate::{
    CacheScope, Delivery, QueryRules, RouteTable, RouteView, Snapshot, Target, Upstream,
    UpstreamConfig, UpstreamLimits, UpstreamTls,
};

/// Every request is sent to this upstream, with the host that the client asked for, and cached as
/// the responses allow. Over TLS, the upstream must prove that it is who the address names, by a
/// certificate that this machine trusts.
///
/// # Errors
/// When TLS is asked for and the machine trusts nobody, or the address is no name for it.
pub fn single(site: SiteId, address: &Address) -> Result<Snapshot, UpstreamTlsError> {
    let tls = (address.scheme() == Scheme::Https).then(|| UpstreamTls {
        server_name: Some(address.host().to_owned()),
        ..UpstreamTls::default()
    });
    let upstream = Upstream::build(UpstreamConfig {
        connects: vec![Arc::new(TcpConnect::new(address.host(), address.port()))],
        limits: UpstreamLimits { max_requests: 10_000, ..UpstreamLimits::default() },
        protocol: match address.scheme() {
            Scheme::Http => Protocol::Http1,
            Scheme::Https => Protocol::Either,
            Scheme::H2c => Protocol::Http2,
        },
        tls,
        ..UpstreamConfig::named(address.to_string())
    })?;
    let route = RouteView {
        hosts: Vec::new(),
        path: PathPattern::Prefix(String::new()),
        service: None,
        rewrite: None,
        // What is on disk may be another upstream's.
        cache: Some(Arc::new(CacheScope::new(
            b"proxy",
            &[address.to_string().as_bytes()],
            QueryRules::default(),
        ))),
        delivery: Delivery { encode: Some(Arc::default()), ..Delivery::default() },
        response_headers: Vec::new(),
        target: Target::Workload(Arc::new(upstream)),
    };
    Ok(Snapshot {
        site,
        pins: None,
        hosts: HashMap::new(),
        rest: Some(Arc::new(RouteTable { force_https: false, routes: vec![route] })),
        certificates: HashMap::new(),
        default_certificate: None,
        tls: Arc::default(),
        explain: true,
        probe_key: None,
    })
}
