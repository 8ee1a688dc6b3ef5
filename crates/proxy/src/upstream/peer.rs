//! One address of an upstream.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime;
use tokio::time::Instant;

use super::lines::{IdleLimit, Lines};
use crate::Connect;

/// How long an address that could not be connected to is tried last.
const REST: Duration = Duration::from_secs(5);

/// An address with its connections.
pub(super) struct Peer {
    pub(super) connect: Arc<dyn Connect>,
    /// The connections of each runtime: one is driven by the runtime that it was opened on, and
    /// used from there alone, so that a shard never waits for another's thread.
    lines: ArcSwap<Vec<(runtime::Id, Arc<Lines>)>>,
    idle: Arc<IdleLimit>,
    start: Instant,
    /// When it could not be connected to: milliseconds since the start, plus one. Zero: it could.
    failed: AtomicU64,
    /// Somebody who looks from time to time has found it wanting.
    unwell: AtomicBool,
    /// The last connection was one that requests do not share.
    alone: AtomicBool,
}

impl Peer {
    pub(super) fn new(connect: Arc<dyn Connect>, idle: Arc<IdleLimit>) -> Self {
        Self {
            connect,
            lines: ArcSwap::default(),
            idle,
            start: Instant::now(),
            failed: AtomicU64::new(0),
            unwell: AtomicBool::new(false),
            alone: AtomicBool::new(false),
        }
    }

    /// The connections of the current runtime.
    pub(super) fn lines(&self) -> Arc<Lines> {
        let id = runtime::Handle::current().id();
        let of = |all: &Vec<(runtime::Id, Arc<Lines>)>| {
            all.iter().find(|(runtime, _)| *runtime == id).map(|(_, lines)| Arc::clone(lines))
        };
        if let Some(lines) = of(&self.lines.load()) {
            return lines;
        }
        let new = Lines::new(Arc::clone(&self.idle));
        self.lines.rcu(|all| {
            let mut all = Vec::clone(all);
            if of(&all).is_none() {
                all.push((id, Arc::clone(&new)));
            }
            all
        });
        of(&self.lines.load()).unwrap_or(new)
    }

    /// Whether requests may share connections, as far as is known.
    pub(super) fn may_share(&self) -> bool {
        !self.alone.load(Ordering::Relaxed)
    }

    pub(super) fn shares(&self, shares: bool) {
        self.alone.store(!shares, Ordering::Relaxed);
    }

    pub(super) fn set_well(&self, well: bool) {
        self.unwell.store(!well, Ordering::Relaxed);
    }

    pub(super) fn is_well(&self) -> bool {
        let rested = match self.failed.load(Ordering::Relaxed).checked_sub(1) {
            Some(at) => self.start.elapsed() >= Duration::from_millis(at) + REST,
            None => true,
        };
        rested && !self.unwell.load(Ordering::Relaxed)
    }

    pub(super) fn connected(&self) {
        self.failed.store(0, Ordering::Relaxed);
    }

    pub(super) fn not_connected(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.failed.store(now + 1, Ordering::Relaxed);
    }
}
