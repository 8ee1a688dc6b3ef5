//! Connections of one runtime to one address.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::http1::Line;
use super::http2::{Place, Trunk};

/// What bounds the idle connections of an upstream, whichever runtimes and addresses they are of.
#[derive(Debug)]
pub(super) struct IdleLimit {
    pub(super) max: usize,
    pub(super) keep: Duration,
    now: AtomicUsize,
}

impl IdleLimit {
    pub(super) fn new(max: usize, keep: Duration) -> Arc<Self> {
        Arc::new(Self { max, keep, now: AtomicUsize::new(0) })
    }
}

#[derive(Debug)]
pub(super) struct Lines {
    limit: Arc<IdleLimit>,
    idle: Mutex<Idle>,
    /// One connection at a time is opened where requests share them, so that those who come
    /// together find the first one's.
    pub(super) opening: Semaphore,
}

#[derive(Debug, Default)]
struct Idle {
    /// HTTP/1.1, without a request; oldest first.
    lines: VecDeque<(Instant, Line)>,
    /// HTTP/2, with requests or without.
    trunks: Vec<Trunk>,
    /// Whether a task is removing what is too old.
    swept: bool,
}

impl Lines {
    pub(super) fn new(limit: Arc<IdleLimit>) -> Arc<Self> {
        Arc::new(Self { limit, idle: Mutex::default(), opening: Semaphore::new(1) })
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection used last that is still open.
    pub(super) fn take(&self, now: Instant) -> Option<Line> {
        let mut idle = self.idle();
        while let Some((since, mut line)) = idle.lines.pop_back() {
            self.limit.now.fetch_sub(1, Ordering::Relaxed);
            if now.saturating_duration_since(since) < self.limit.keep && line.is_open() {
                return Some(line);
            }
        }
        None
    }

    /// A place on a connection that requests share.
    pub(super) fn place(&self, now: Instant) -> Option<Place> {
        let mut idle = self.idle();
        idle.trunks.retain(|trunk| !trunk.has_ended());
        idle.trunks.iter_mut().find_map(|trunk| trunk.place(now, true))
    }

    /// Adds a connection that requests share, and takes the first place on it.
    pub(super) fn add(self: &Arc<Self>, mut trunk: Trunk, now: Instant) -> Option<Place> {
        let mut idle = self.idle();
        let place = trunk.place(now, false);
        idle.trunks.push(trunk);
        self.sweep(&mut idle);
        place
    }

    fn sweep(self: &Arc<Self>, idle: &mut Idle) {
        if !std::mem::replace(&mut idle.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self), self.limit.keep));
        }
    }

    /// Takes a connection back whose response has ended.
    pub(super) fn put(self: &Arc<Self>, line: Line) {
        let mut idle = self.idle();
        if self.limit.now.fetch_add(1, Ordering::Relaxed) >= self.limit.max {
            // The upstream has enough: this one stays if it can take the place of an older one.
            self.limit.now.fetch_sub(1, Ordering::Relaxed);
            if idle.lines.pop_front().is_none() {
                return;
            }
        }
        idle.lines.push_back((Instant::now(), line));
        self.sweep(&mut idle);
    }

    /// Removes what is too old; true when nothing is left.
    fn expire(&self) -> bool {
        let mut idle = self.idle();
        while idle.lines.front().is_some_and(|(since, _)| since.elapsed() >= self.limit.keep) {
            idle.lines.pop_front();
            self.limit.now.fetch_sub(1, Ordering::Relaxed);
        }
        let keep = self.limit.keep;
        idle.trunks.retain_mut(|trunk| !trunk.has_ended() && !trunk.is_idle(keep));
        idle.swept = !idle.lines.is_empty() || !idle.trunks.is_empty();
        !idle.swept
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let idle = self.idle.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.limit.now.fetch_sub(idle.lines.len(), Ordering::Relaxed);
    }
}

/// Closes connections that nobody takes; ends with the last of them or with the upstream.
async fn sweep(lines: Weak<Lines>, keep: Duration) {
    loop {
        tokio::time::sleep(keep / 2 + Duration::from_millis(1)).await;
        match lines.upgrade() {
            Some(lines) if !lines.expire() => {}
            _ => return,
        }
    }
}
