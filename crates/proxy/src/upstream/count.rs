//! How many requests an upstream has, and how many it may have.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::{UpstreamError, UpstreamLimits};

/// Counts of one upstream, over all shards. An entry costs a few atomic operations; who waits for a
/// number pays for being told.
#[derive(Debug)]
pub(super) struct Counts {
    in_flight: AtomicUsize,
    /// Who waits for a number to be reached.
    watching: AtomicUsize,
    changed: Notify,
    requests: Semaphore,
    tunnels: Semaphore,
}

/// A request that an upstream has been chosen for. While it exists, so does the upstream's part in
/// [`super::Upstream::in_flight`], and from when it is sent in the limit of requests or tunnels.
#[derive(Debug)]
pub(crate) struct InFlight {
    counts: Arc<Counts>,
    permit: Option<Kind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    Tunnel,
}

impl Counts {
    pub(super) fn new(limits: &UpstreamLimits) -> Arc<Self> {
        let semaphore = |most: usize| Semaphore::new(most.min(Semaphore::MAX_PERMITS));
        Arc::new(Self {
            in_flight: AtomicUsize::new(0),
            watching: AtomicUsize::new(0),
            changed: Notify::new(),
            requests: semaphore(limits.max_requests),
            tunnels: semaphore(limits.max_tunnels),
        })
    }

    /// Sequentially consistent, as are the loads: a request that has seen the old snapshot is seen
    /// by who looks at the count after swapping it, and a watcher misses no change.
    pub(super) fn enter(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        self.tell();
        InFlight { counts: Arc::clone(self), permit: None }
    }

    pub(super) fn now(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Waits until the count is as `wanted`.
    pub(super) async fn wait(&self, wanted: impl Fn(usize) -> bool) {
        let _watching = Watching::begin(&self.watching);
        let mut changed = pin!(self.changed.notified());
        loop {
            changed.as_mut().enable();
            if wanted(self.now()) {
                return;
            }
            changed.as_mut().await;
            changed.set(self.changed.notified());
        }
    }

    fn tell(&self) {
        if self.watching.load(Ordering::SeqCst) > 0 {
            self.changed.notify_waiters();
        }
    }

    fn semaphore(&self, kind: Kind) -> &Semaphore {
        match kind {
            Kind::Request => &self.requests,
            Kind::Tunnel => &self.tunnels,
        }
    }
}

/// Somebody who waits, until dropped.
struct Watching<'a>(&'a AtomicUsize);

impl<'a> Watching<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl InFlight {
    /// Waits until the upstream may be given one more.
    pub(super) async fn permit(
        &mut self,
        kind: Kind,
        deadline: Instant,
    ) -> Result<(), UpstreamError> {
        let semaphore = self.counts.semaphore(kind);
        let permit = match semaphore.try_acquire() {
            Ok(permit) => permit,
            // What holds the others may stay for hours.
            Err(_) if kind == Kind::Tunnel => return Err(UpstreamError::Busy),
            Err(_) => match timeout_at(deadline, semaphore.acquire()).await {
                Ok(Ok(permit)) => permit,
                Ok(Err(_)) | Err(_) => return Err(UpstreamError::Busy),
            },
        };
        // Given back when this is dropped.
        permit.forget();
        self.permit = Some(kind);
        Ok(())
    }

    /// The response has ended: the next request may come, whatever is still done with this one.
    pub(super) fn release(&mut self) {
        if let Some(kind) = self.permit.take() {
            self.counts.semaphore(kind).add_permits(1);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.release();
        self.counts.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.counts.tell();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_number_is_told() {
        let counts = Counts::new(&UpstreamLimits::default());
        let entered: Vec<InFlight> = (0..3).map(|_| counts.enter()).collect();
        counts.wait(|count| count == 3).await;
        let waiting = {
            let counts = Arc::clone(&counts);
            tokio::spawn(async move { counts.wait(|count| count == 0).await })
        };
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(entered);
        waiting.await.unwrap();
        assert_eq!(counts.watching.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn permits_come_back() {
        let limits =
            UpstreamLimits { max_requests: 1, max_tunnels: 1, ..UpstreamLimits::default() };
        let counts = Counts::new(&limits);
        let soon = || Instant::now() + Duration::from_secs(1);
        for kind in [Kind::Request, Kind::Tunnel] {
            let (mut first, mut second) = (counts.enter(), counts.enter());
            first.permit(kind, soon()).await.unwrap();
            assert!(matches!(second.permit(kind, soon()).await, Err(UpstreamError::Busy)));
            first.release();
            second.permit(kind, soon()).await.unwrap();
            assert_eq!(counts.now(), 2);
        }
        assert_eq!(counts.now(), 0);
        assert_eq!(counts.requests.available_permits(), 1);
    }
}
