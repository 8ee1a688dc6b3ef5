//! The sweeper: removes what is purged, and lets marks be forgotten.

use crate::store::{Cost, Cursor, Entry, Memory};

use super::{Generation, Purgeable, Purger, Verdict};

/// What one step did.
#[derive(Debug)]
#[must_use]
pub struct Step<V> {
    /// What was gone, and is out of the store.
    pub removed: Vec<Entry<V>>,
    /// There is nothing to do until the next purge, or until what is on its way into the store
    /// has come there.
    pub idle: bool,
}

/// Goes through a store behind the purges, a few objects at a time.
#[derive(Debug)]
pub struct Sweeper {
    purger: Purger,
    cursor: Cursor,
    /// What the present pass will reach.
    goal: Option<Generation>,
    /// All that is in store, and all that is on its way there, was checked against this.
    swept: Generation,
    /// The same, once nobody holds a ticket with a number below this: who took something out of
    /// the store before the pass reached it has checked it by then.
    settling: Option<(Generation, u64)>,
    /// Marks up to this are forgotten.
    forgotten: Generation,
}

impl Sweeper {
    /// For objects that are all judged by `purger`.
    pub fn new(purger: Purger) -> Self {
        let first = Generation::FIRST;
        let cursor = Cursor::default();
        Self { purger, cursor, goal: None, swept: first, settling: None, forgotten: first }
    }

    /// Looks at up to `limit` objects. `oldest_elsewhere` is the oldest stamp of what lies in a
    /// slower tier: marks that such an object needs are kept.
    ///
    /// At the end of a pass every object in store was checked against what was purged before it
    /// began, or was stored while it ran: then its stamp is not older than its ticket, and that
    /// ticket was taken during the pass or counted at its start. What was taken out during the
    /// pass to be stored elsewhere is checked by its taker, under a ticket.
    pub fn step<V: Clone + Cost + Purgeable>(
        &mut self,
        memory: &Memory<V>,
        limit: usize,
        oldest_elsewhere: Option<Generation>,
    ) -> Step<V> {
        let goal = self.goal.unwrap_or_else(|| self.purger.oldest_on_its_way());
        self.forget(oldest_elsewhere);
        let reached = self.settling.map_or(self.swept, |(goal, _)| goal);
        if self.goal.is_none() && goal <= reached {
            return Step { removed: Vec::new(), idle: true };
        }
        self.goal = Some(goal);
        let keep = |object: &V| self.purger.verdict(object) != Verdict::Gone;
        let swept = memory.sweep(&mut self.cursor, limit, keep);
        if swept.done {
            self.goal = None;
            self.settling = Some((goal, self.purger.next_ticket()));
            self.forget(oldest_elsewhere);
        }
        Step { removed: swept.removed, idle: false }
    }

    fn forget(&mut self, oldest_elsewhere: Option<Generation>) {
        if let Some((goal, _)) = self.settling.take_if(|(_, tickets)| self.purger.settled(*tickets))
        {
            self.swept = goal;
        }
        let needless = oldest_elsewhere.map_or(self.swept, |oldest| self.swept.min(oldest));
        if needless > self.forgotten {
            self.forgotten = needless;
            self.purger.forget(needless);
        }
    }
}
