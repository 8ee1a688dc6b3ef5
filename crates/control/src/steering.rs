//! Times that the pipeline and the drivers must agree on, because both judge whether users are
//! still led to a site.

use std::time::Duration;

/// TTL of DNS answers, in seconds: how long a client may stay with a site that has left them.
pub(crate) const TTL_S: u32 = 20;

/// How long a site that DNS names no more keeps what it has. Not the TTL alone: resolvers and
/// browsers may hold an answer for a minute whatever its TTL says, one after the other.
pub(crate) const LEAVE: Duration = Duration::from_secs(120);

/// After a start all leases are gone until sites renew them. For this long, which is a lease's
/// life and a renewal, their absence says nothing.
pub(crate) const SETTLE: Duration = Duration::from_millis(6_500);
