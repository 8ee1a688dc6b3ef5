//! What holds for everything at once.

use serde::{Deserialize, Serialize};

use crate::id::Host;

/// What holds for a whole installation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Installation {
    /// Where apps that name no host are served: `APP.ZONE`.
    pub zone: Host,
    /// Everything runs on one machine's loopback: apps are served at `APP.localhost` too.
    pub in_a_box: bool,
    /// Upstreams may be at a site's own addresses, its loopback included.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub local_upstreams: bool,
}

impl Installation {
    /// Whether upstreams may be at a site's own addresses. In the box everything is, and whoever
    /// pushes there has the machine anyway.
    pub fn allows_local_upstreams(&self) -> bool {
        self.in_a_box || self.local_upstreams
    }
}
