//! The control process: API server, git endpoint, pipeline, certificate authority and the drivers
//! of the planners.
//!
//! Control turns pushes into releases and releases into documents. It reaches sites only by
//! writing to the fabric, which it hosts in its embedded form. It never serves users' traffic: with
//! control down, every site goes on.

use std::net::SocketAddr;
use std::path::PathBuf;

use selvedge_model::{Host, Topology};
use tokio_util::sync::CancellationToken;

/// What control needs to know to start.
pub struct Config {
    /// Everything that control keeps: store, blobs, repositories, authority, caches. Mode 0700.
    pub data: PathBuf,
    /// The API and git endpoint. Port 0 picks a free one. Plain HTTP, so loopback only.
    pub listen: SocketAddr,
    /// Where apps that name no host are served: `APP.ZONE`.
    pub zone: Host,
    /// The installation's sites, written to the fabric when they differ.
    pub topology: Topology,
    /// Serve apps at `APP.localhost` too, and tell DNS of the built-in cities' client subnets.
    pub in_a_box: bool,
    /// The executable, for git hooks and sandboxes.
    pub executable: PathBuf,
    /// Run builds without a sandbox where the machine can't make one.
    pub unsafe_builds: bool,
}

/// A control process that has bound its listener and opened its store.
pub struct Control {
    _config: Config,
}

impl Control {
    /// Opens the store, completes or undoes what an earlier life left, and binds the listener.
    pub async fn start(config: Config) -> Result<Self, ControlError> {
        Ok(Self { _config: config })
    }

    /// Where the API is served.
    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], 0).into()
    }

    /// The operator's token. Also kept in `DATA/token`, mode 0600.
    pub fn token(&self) -> &str {
        ""
    }

    /// The fabric's socket, for agents of the same machine.
    pub fn fabric_socket(&self) -> PathBuf {
        PathBuf::new()
    }

    /// The certificate authority's certificate, PEM.
    pub fn authority_path(&self) -> PathBuf {
        PathBuf::new()
    }

    /// Works until `token` is cancelled.
    pub async fn run(self, token: CancellationToken) {
        token.cancelled().await;
    }
}

/// Why control can't start.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The listener can't be bound.
    #[error("can't listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}
