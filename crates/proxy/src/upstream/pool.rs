//! Idle connections to one workload.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use tokio::time::Instant;

use crate::body::RequestBody;

type Sender = SendRequest<RequestBody>;

/// How long a connection may take to be ready after its response has ended: the rest of a request
/// body that the workload did not wait for may still be going out.
const SETTLE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Pool {
    max: usize,
    keep: Duration,
    idle: Mutex<Idle>,
}

#[derive(Debug, Default)]
struct Idle {
    /// Oldest first.
    senders: VecDeque<(Instant, Sender)>,
    /// Whether a task is removing what is too old.
    swept: bool,
}

impl Pool {
    pub(super) fn new(max: usize, keep: Duration) -> Self {
        Self { max, keep, idle: Mutex::default() }
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection used last that is still open.
    pub(super) fn take(&self) -> Option<Sender> {
        let mut idle = self.idle();
        while let Some((since, sender)) = idle.senders.pop_back() {
            if since.elapsed() < self.keep && sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    /// Takes a connection back whose response has ended.
    pub(super) fn put(self: &Arc<Self>, mut sender: Sender) {
        if sender.is_ready() {
            self.keep(sender);
        } else if !sender.is_closed() {
            let pool = Arc::clone(self);
            tokio::spawn(async move {
                if let Ok(Ok(())) = tokio::time::timeout(SETTLE, sender.ready()).await {
                    pool.keep(sender);
                }
            });
        }
    }

    fn keep(self: &Arc<Self>, sender: Sender) {
        let mut idle = self.idle();
        if idle.senders.len() >= self.max {
            idle.senders.pop_front();
        }
        if self.max > 0 {
            idle.senders.push_back((Instant::now(), sender));
        }
        if !std::mem::replace(&mut idle.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self), self.keep));
        }
    }

    /// Removes what is too old; true when nothing is left.
    fn expire(&self) -> bool {
        let mut idle = self.idle();
        while idle.senders.front().is_some_and(|(since, _)| since.elapsed() >= self.keep) {
            idle.senders.pop_front();
        }
        idle.swept = !idle.senders.is_empty();
        idle.senders.is_empty()
    }
}

/// Closes connections that nobody takes; ends with the last of them or with the workload.
async fn sweep(pool: std::sync::Weak<Pool>, keep: Duration) {
    loop {
        tokio::time::sleep(keep / 2 + Duration::from_millis(1)).await;
        match pool.upgrade() {
            Some(pool) if !pool.expire() => {}
            _ => return,
        }
    }
}
