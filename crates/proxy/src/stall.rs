//! Waiting for something that is to go on, for so long and no longer.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// A timer for what is awaited. It is made at the first wait, and is not put back by what comes: so it may
/// ring early, once, and wake its task for nothing, which is less than to move it for each wait.
#[derive(Debug)]
pub(crate) struct Stall {
    timeout: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    /// When the wait under way began.
    since: Option<Instant>,
}

impl Stall {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { timeout, sleep: None, since: None }
    }

    /// Something came: the next wait starts anew.
    pub(crate) fn progress(&mut self) {
        self.since = None;
    }

    /// Another wait begins.
    pub(crate) fn restart(&mut self, timeout: Duration) {
        self.timeout = timeout;
        self.since = None;
    }

    /// Nothing came. Ready when that has lasted for the timeout.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timeout = self.timeout;
        let until = *self.since.get_or_insert_with(Instant::now) + timeout;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(until)));
        // A timer for an earlier wait goes on: it rings too early at most, and is moved on then.
        if sleep.deadline() > until {
            sleep.as_mut().reset(until);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= until {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_stall_is_time_without_progress() {
        let mut stall = Stall::new(10 * SECOND);
        for _ in 0..3 {
            assert!(futures_util::poll!(std::future::poll_fn(|cx| stall.poll(cx))).is_pending());
            tokio::time::advance(9 * SECOND).await;
            stall.progress();
        }
        let started = Instant::now();
        std::future::poll_fn(|cx| stall.poll(cx)).await;
        assert_eq!(started.elapsed().as_secs(), 10);
        // A shorter wait behind a longer one.
        stall.restart(10 * SECOND);
        assert!(futures_util::poll!(std::future::poll_fn(|cx| stall.poll(cx))).is_pending());
        stall.restart(2 * SECOND);
        let started = Instant::now();
        std::future::poll_fn(|cx| stall.poll(cx)).await;
        assert_eq!(started.elapsed().as_secs(), 2);
    }
}
