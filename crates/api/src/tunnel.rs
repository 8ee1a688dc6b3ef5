//! What control and a site say to each other through a tunnel: one JSON value a line, version 1.
//!
//! The site connects and says which operation has asked it to. Both ends prove that they have the
//! order's secret, control asks one question, the site answers it, and the connection ends.

use selvedge_model::operation::{OperationId, Target};
use serde::{Deserialize, Serialize};

use crate::LogFilter;

/// The tunnel's version. Both ends must have the same: they are the same program.
pub const TUNNEL_VERSION: u32 = 1;
/// The longest line through a tunnel, in bytes.
pub const MAX_TUNNEL_LINE: usize = 1 << 20;

/// The site's first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelHello {
    /// [`TUNNEL_VERSION`].
    pub version: u32,
    /// The operation that asks for the tunnel.
    pub operation: OperationId,
    /// Who connects.
    pub target: Target,
    /// What control is to prove itself with.
    pub nonce: String,
}

/// Control's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TunnelWelcome {
    /// Control has the secret, as `proof` shows.
    Proof {
        /// What the site is to prove itself with.
        nonce: String,
        /// For the site's nonce.
        proof: String,
    },
    /// This tunnel is not wanted, or not any more.
    Refused {
        /// Why, in words.
        reason: String,
    },
}

/// The site's second line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelProof {
    /// For control's nonce.
    pub proof: String,
}

/// What control wants to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TunnelQuestion {
    /// Log lines, answered by [`crate::LogEvent`]s up to and including `Current`, and after it while
    /// the filter follows.
    Logs(Box<LogFilter>),
    /// The site's workloads, answered by one list of [`crate::WorkloadRow`]s.
    Workloads,
}
