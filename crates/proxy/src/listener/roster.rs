//! The connections of one listener on one shard, and what they are told.
//!
//! One task looks at all of them, when the first could have been slow for too long: a connection
//! has no timer, and a request sets none.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Ends;
use crate::Limits;
use crate::activity::{Activity, Order, Verdict};

/// How long an idle connection may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(5);
/// How long a connection without a request may still bring one when its listener ends: the client
/// opened it for one.
pub(super) const FIRST_REQUEST: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct Roster {
    seats: Mutex<Seats>,
}

#[derive(Debug, Default)]
struct Seats {
    next: u64,
    taken: HashMap<u64, Seat>,
}

#[derive(Debug)]
struct Seat {
    activity: Arc<Activity>,
    /// When it was told to leave for being idle.
    told: Option<Instant>,
}

/// A connection's place in the roster, until dropped.
#[derive(Debug)]
pub(crate) struct Seated<'a> {
    roster: &'a Roster,
    number: u64,
}

impl Drop for Seated<'_> {
    fn drop(&mut self) {
        self.roster.seats().taken.remove(&self.number);
    }
}

impl Roster {
    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn seat(&self, activity: &Arc<Activity>) -> Seated<'_> {
        let mut seats = self.seats();
        let number = seats.next;
        seats.next += 1;
        seats.taken.insert(number, Seat { activity: Arc::clone(activity), told: None });
        Seated { roster: self, number }
    }

    /// Watches until the listener's connections have to end.
    pub(super) async fn watch(&self, limits: &Limits, ends: &Ends) {
        let mut draining = None;
        loop {
            let wait = self.look(limits, draining);
            tokio::select! {
                () = ends.abort.cancelled() => break,
                () = ends.drain.cancelled(), if draining.is_none() => {
                    draining = Some(Instant::now());
                }
                () = sleep(wait) => {}
            }
        }
        self.seats().taken.values().for_each(|seat| seat.activity.order(Order::Close));
    }

    /// Tells each connection what to do, and says when to look again.
    fn look(&self, limits: &Limits, draining: Option<Instant>) -> Duration {
        let now = Instant::now();
        let soonest =
            limits.idle_timeout.min(limits.header_timeout).min(limits.client_stall_timeout);
        let left = draining.map(|since| FIRST_REQUEST.saturating_sub(now - since));
        let mut next = left.filter(|left| !left.is_zero()).unwrap_or(soonest).min(soonest);
        for seat in self.seats().taken.values_mut() {
            match left {
                Some(Duration::ZERO) => seat.activity.order(Order::Leave),
                Some(_) => seat.activity.order(Order::Finish),
                None => {}
            }
            match (seat.activity.judge(limits), seat.told) {
                (Verdict::LookAgain(after), _) => next = next.min(after),
                (Verdict::Idle, None) => {
                    seat.told = Some(now);
                    seat.activity.order(Order::Leave);
                    next = next.min(GOODBYE);
                }
                (Verdict::Idle, Some(told)) if now - told < GOODBYE => {
                    next = next.min(GOODBYE - (now - told));
                }
                (verdict, _) => {
                    tracing::debug!(?verdict, "connection closed");
                    seat.activity.order(Order::Close);
                }
            }
        }
        // What falls due at nearly the same time is looked at together.
        next.max(soonest / 20).max(Duration::from_millis(1))
    }
}
