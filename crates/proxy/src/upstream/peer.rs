//! One address of an upstream.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::UpstreamLimits;
use super::pool::Pool;
use crate::Connect;

/// How long an address that could not be connected to is tried last.
const REST: Duration = Duration::from_secs(5);

/// An address with its connections.
pub(super) struct Peer {
    pub(super) connect: Arc<dyn Connect>,
    pub(super) pool: Arc<Pool>,
    /// When it could not be connected to.
    failed: Mutex<Option<Instant>>,
    /// Somebody who looks from time to time has found it wanting.
    unwell: AtomicBool,
}

impl Peer {
    pub(super) fn new(connect: Arc<dyn Connect>, limits: &UpstreamLimits) -> Self {
        let pool = Arc::new(Pool::new(limits.max_idle, limits.idle_timeout));
        Self { connect, pool, failed: Mutex::default(), unwell: AtomicBool::new(false) }
    }

    pub(super) fn set_well(&self, well: bool) {
        self.unwell.store(!well, Ordering::Relaxed);
    }

    pub(super) fn is_well(&self) -> bool {
        let failed = *self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        !self.unwell.load(Ordering::Relaxed) && failed.is_none_or(|at| at.elapsed() >= REST)
    }

    pub(super) fn connected(&self) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn not_connected(&self) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}
