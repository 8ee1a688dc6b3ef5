//! The control process: API server, git endpoint, console, pipeline, certificate authority and the
//! drivers of the planners.
//!
//! Control turns pushes into releases and releases into documents. It reaches sites only by
//! writing to the fabric, which it hosts in its embedded form. It never serves users' traffic: with
//! control down, every site goes on.

mod authority;
mod console;
mod control;
mod data;
mod drivers;
#[cfg(test)]
mod fixture;
pub mod git;
pub mod hook;
pub mod logs;
mod operations;
pub mod pipeline;
mod running;
mod server;
mod steering;
mod tasks;
mod token;
mod tunnels;
mod views;
mod workloads;
mod world;

use std::time::{SystemTime, UNIX_EPOCH};

pub use authority::{AuthorityError, certificate_end};
pub use control::{Config, Control, ControlError, FABRIC_SOCKET, TUNNEL_SOCKET};
pub use data::DataError;
pub use hook::{HOOK_VERB, hook_main};
pub use tasks::Ended;

/// Now, in Unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
