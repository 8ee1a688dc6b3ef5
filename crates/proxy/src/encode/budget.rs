//! How much memory coders may take in all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Coding;

/// Memory for the encoders and decoders of a proxy. A client could otherwise begin thousands of
/// responses and read none of them. Cloning gives a handle to the same one.
#[derive(Debug, Clone)]
pub struct Budget(Arc<AtomicU64>);

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: u64) -> Self {
        Self(Arc::new(AtomicU64::new(bytes)))
    }

    /// Memory for one encoder of [`super::Effort::Stream`], with its buffers, as measured and
    /// rounded up. `None` when too little is left, and the response has to stay as it is.
    pub fn encoder(&self, coding: Coding) -> Option<Reservation> {
        let bytes = match coding {
            Coding::Gzip => 384 << 10,
            Coding::Brotli => 2 << 20,
            Coding::Zstd => 1 << 20,
        };
        self.reserve(coding, bytes)
    }

    /// Memory for one encoder of [`super::Effort::Store`] and what it makes of `size` bytes, which
    /// is collected in a buffer that doubles.
    pub fn stored(&self, coding: Coding, size: u64) -> Option<Reservation> {
        let bytes = match coding {
            Coding::Gzip => 384 << 10,
            Coding::Brotli => 7 << 20,
            Coding::Zstd => 2 << 20,
        };
        self.reserve(coding, size.saturating_mul(2).saturating_add(bytes))
    }

    /// Memory for one decoder: a window as large as the body may ask for.
    pub fn decoder(&self, coding: Coding) -> Option<Reservation> {
        let bytes = match coding {
            Coding::Gzip => 64 << 10,
            Coding::Brotli => 17 << 20,
            Coding::Zstd => 9 << 20,
        };
        self.reserve(coding, bytes)
    }

    fn reserve(&self, coding: Coding, bytes: u64) -> Option<Reservation> {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes))
            .ok()?;
        Some(Reservation { budget: self.clone(), coding, bytes })
    }

    /// How much is left, in bytes.
    pub fn left(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Memory for one coder, given back when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Budget,
    coding: Coding,
    bytes: u64,
}

impl Reservation {
    /// What it was reserved for.
    pub fn coding(&self) -> Coding {
        self.coding
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.0.fetch_add(self.bytes, Ordering::Relaxed);
    }
}
