//! The decisions of RFC 9111, as functions of messages and time.

mod answer;
mod freshness;
mod invalidate;
mod reuse;
mod store;
mod update;
mod vary;

use std::time::Duration;

pub use answer::{Answer, answer, is_for_origin, not_modified, partial, validators};
pub use freshness::{Freshness, Times};
pub use invalidate::{invalidated, is_what_get_gets};
pub use reuse::{Failure, Reuse, Wish};
pub use store::{NoStore, freshness, is_lookup, storable};
pub use update::{freshen, is_still, trim};
pub use vary::{Vary, variant};

/// What is left to a cache to decide.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The part, in percent, of the time since `last-modified` that a response without a lifetime is
    /// taken for fresh (RFC 9111, section 4.2.2).
    pub heuristic_percent: u8,
    /// The longest lifetime that is guessed so.
    pub heuristic_max: Duration,
    /// How long what has become stale is still served when nobody can be asked
    /// (RFC 9111, section 4.2.4), where the response says nothing of it.
    pub stale_if_unreachable: Duration,
    /// What `surrogate-control` calls this cache.
    pub device: String,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            heuristic_percent: 10,
            heuristic_max: Duration::from_secs(24 * 3600),
            stale_if_unreachable: Duration::from_secs(24 * 3600),
            device: "selvedge".to_owned(),
        }
    }
}
