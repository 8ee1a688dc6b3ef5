//! Leases, in memory.
//!
//! A fencing epoch is `life × 2²⁰ + n`, where `n` counts the takings since the store was opened
//! and `life` is at least the time of opening in seconds. So epochs never go back: `n` would have
//! to grow by more than a million for each second of a life.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{FabricError, Lease};

/// The most leases that run at once.
const MAX_LEASES: usize = 65_536;

#[derive(Debug)]
pub(super) struct Leases {
    state: Mutex<State>,
    /// Counts takings and releases; running out is seen by whoever watches.
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    held: BTreeMap<String, Held>,
    last_epoch: u64,
}

#[derive(Debug)]
struct Held {
    holder: String,
    epoch: u64,
    ends: Instant,
}

impl Held {
    fn lease(&self, name: &str, now: Instant) -> Lease {
        Lease {
            name: name.to_owned(),
            holder: self.holder.clone(),
            epoch: self.epoch,
            remaining: self.ends.saturating_duration_since(now),
        }
    }
}

impl Leases {
    pub(super) fn new(life: u64) -> Self {
        Self {
            state: Mutex::new(State { held: BTreeMap::new(), last_epoch: life << 20 }),
            changed: watch::Sender::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The map is whole after every statement, so a panic elsewhere can't have torn it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Option<Lease>, FabricError> {
        let now = Instant::now();
        let mut state = self.state();
        if let Some(held) = state.held.get_mut(name)
            && held.ends > now
        {
            if held.holder != holder {
                return Ok(None);
            }
            held.ends = now + ttl;
            return Ok(Some(held.lease(name, now)));
        }
        state.held.retain(|_, held| held.ends > now);
        if state.held.len() >= MAX_LEASES {
            return Err(FabricError::Invalid(format!("{MAX_LEASES} leases run already")));
        }
        state.last_epoch += 1;
        let held = Held { holder: holder.to_owned(), epoch: state.last_epoch, ends: now + ttl };
        let lease = held.lease(name, now);
        state.held.insert(name.to_owned(), held);
        drop(state);
        self.changed.send_modify(|count| *count += 1);
        Ok(Some(lease))
    }

    pub(super) fn release(&self, name: &str, holder: &str) {
        let mut state = self.state();
        if state.held.get(name).is_some_and(|held| held.holder == holder) {
            state.held.remove(name);
            drop(state);
            self.changed.send_modify(|count| *count += 1);
        }
    }

    /// The leases that run, and when the first of them ends.
    pub(super) fn list(&self, prefix: &str) -> (Vec<Lease>, Option<Instant>) {
        let now = Instant::now();
        let state = self.state();
        let running: Vec<_> = state
            .held
            .range(prefix.to_owned()..)
            .take_while(|(name, _)| name.starts_with(prefix))
            .filter(|(_, held)| held.ends > now)
            .collect();
        let end = running.iter().map(|(_, held)| held.ends).min();
        (running.into_iter().map(|(name, held)| held.lease(name, now)).collect(), end)
    }

    /// Keeps `sender` up to date until nobody listens or `token` is cancelled.
    pub(super) async fn follow(
        &self,
        prefix: &str,
        sender: watch::Sender<Vec<Lease>>,
        token: CancellationToken,
    ) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let (leases, end) = self.list(prefix);
            sender.send_if_modified(|before| {
                let differs = !same(before, &leases);
                if differs {
                    *before = leases;
                }
                differs
            });
            let ended = async {
                match end {
                    Some(end) => tokio::time::sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = changed.changed() => {}
                () = ended => {}
                () = sender.closed() => return,
                () = token.cancelled() => return,
            }
        }
    }
}

/// Whether both lists name the same holdings, however long they still run.
fn same(a: &[Lease], b: &[Lease]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.name == b.name && a.epoch == b.epoch)
}
