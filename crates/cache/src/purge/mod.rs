//! Local purge by generation stamps that are compared when an object is hit.
//!
//! Every purge is a new *generation*: it marks an app, a URL, a tag, a prefix or a ban expression
//! with it. An object carries the generation that was current when its request to the origin was
//! about to be sent; a mark that is newer and fits the object's labels purges it. So a purge takes
//! effect at once however many objects it concerns, and what was fetched before a purge but stored
//! after it is purged as well. As long as nothing was purged since an object was last checked, a
//! check is one comparison.
//!
//! A [`Sweeper`] goes through the store behind the purges. It removes what is gone, and marks that
//! no stored object is older than are forgotten. When the marks of an app become too many before
//! that, the older half of them becomes one purge of the app: more is fetched again than was asked
//! for, and nothing that was purged comes back.
//!
//! Everything is scoped by app: no purge of one app looks at another's objects.
//!
//! Deliberately absent: who may purge, and carrying purges to other sites.

pub mod ban;
mod groups;
mod journal;
mod labels;
mod marks;
mod prefix;
mod stamp;
mod sweep;
#[cfg(test)]
mod tests;

use std::collections::hash_map::{HashMap, RandomState};
use std::fmt;
use std::fs::File;
use std::hash::BuildHasher as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ban::Ban;
pub use groups::{CACHE_GROUP_INVALIDATION, CACHE_GROUPS, groups};
use journal::Journal;
#[cfg(any(test, fuzzing))]
pub(crate) use journal::fuzz as fuzz_purge;
pub(crate) use journal::{JournalError, Purge};
pub use labels::{Labels, Purgeable, Tags, TagsError};
use marks::Marks;
pub use prefix::{Prefix, PrefixError};
use stamp::Tickets;
pub use stamp::{Generation, Stamp, Ticket};
pub use sweep::{Step, Sweeper};

/// Lock shards for apps.
const LANES: usize = 64;

/// What of an app is purged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All of it.
    App,
    /// All variants under a primary key.
    Url(Vec<u8>),
    /// What carries a tag.
    Tag(Vec<u8>),
    /// What lies below a path.
    Prefix(Prefix),
    /// What an expression is true of.
    Ban(Arc<Ban>),
}

/// What a purge does to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It is gone.
    Hard,
    /// It is stale from now on: revalidated before it is used, and served stale where that is
    /// allowed.
    Soft,
}

/// What became of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nothing purged it.
    Good,
    /// A soft purge did.
    Stale,
    /// A hard purge did.
    Gone,
}

/// How many marks an app may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// URLs, and as many tags.
    pub names: usize,
    /// Bytes of URLs, and as many of tags and of prefixes.
    pub bytes: usize,
    /// Prefixes. Each may cost a comparison at the first hit after a purge.
    pub prefixes: usize,
    /// Bans. Each costs its expression once for each object.
    pub bans: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { names: 8192, bytes: 1 << 20, prefixes: 1024, bans: 64 }
    }
}

/// What purges there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Purges since the start.
    pub purges: u64,
    /// Marks that are kept, bans among them.
    pub marks: usize,
    /// Times that an app's older marks became a purge of the app.
    pub widened: u64,
}

#[derive(Default)]
struct Lane {
    apps: RwLock<HashMap<Box<[u8]>, Marks>>,
    /// The newest purge of an app in this lane.
    newest: AtomicU64,
}

#[derive(Default)]
struct Order {
    counters: Counters,
    journal: Option<Journal>,
}

struct Inner {
    limits: Limits,
    secret: RandomState,
    lanes: Box<[Lane]>,
    /// The newest purge whose mark is in its lane.
    current: AtomicU64,
    /// One purge at a time, so that generations become current in order.
    order: Mutex<Order>,
    tickets: Arc<Tickets>,
    /// A purge could not be written down: what outlives this process must go.
    forgetful: AtomicBool,
}

/// Purges, and tells what is purged. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Purger(Arc<Inner>);

impl Purger {
    /// For objects that don't outlive the process.
    pub fn new(limits: Limits) -> Self {
        Self::starting_at(Generation::FIRST, limits)
    }

    /// Without marks. Where objects outlive the process, `generation` is
    /// [`Generation::at_start`].
    pub fn starting_at(generation: Generation, limits: Limits) -> Self {
        Self(Arc::new(Inner {
            limits,
            secret: RandomState::new(),
            lanes: (0..LANES).map(|_| Lane::default()).collect(),
            current: AtomicU64::new(generation.as_u64()),
            order: Mutex::default(),
            tickets: Arc::default(),
            forgetful: AtomicBool::new(false),
        }))
    }

    /// The newest purge.
    pub fn current(&self) -> Generation {
        Generation::from_u64(self.0.current.load(Ordering::Acquire))
    }

    /// To be taken BEFORE a request to the origin is sent, or an object is taken from a tier; its
    /// generation stamps what comes of the request. It is held until everything is stored or
    /// dropped, and what had to make room for it was checked if it is stored elsewhere.
    pub fn ticket(&self) -> Ticket {
        Tickets::take(&self.0.tickets, || self.current())
    }

    /// Purges. When this returns, the purge holds. If there is a disk tier, it was written there,
    /// which a killed process does not take back; `disk::Disk::flush` guards it against
    /// loss of power.
    pub fn purge(&self, app: &[u8], scope: &Scope, kind: Kind) -> Generation {
        let mut order = self.0.order.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = self.current().next();
        self.mark(app, scope, kind, generation, &mut order.counters);
        let Order { journal, .. } = &mut *order;
        if let Some(open) = journal {
            let purge = Purge { app: app.into(), scope: scope.clone(), kind, generation };
            if open.record(&purge, || self.all()).is_err() {
                *journal = None;
                self.0.forgetful.store(true, Ordering::Release);
            }
        }
        generation
    }

    /// Repeats the purges that a directory's journal holds, and writes down all purges there from
    /// now on.
    pub(crate) fn attach(&self, directory: &Path) -> Result<(), JournalError> {
        let mut order = self.0.order.lock().unwrap_or_else(PoisonError::into_inner);
        let earlier = Journal::read(directory)?;
        if earlier.iter().any(|purge| purge.generation > self.current()) {
            return Err(JournalError::Clock);
        }
        let mut repeated = Counters::default();
        for purge in earlier {
            self.mark(&purge.app, &purge.scope, purge.kind, purge.generation, &mut repeated);
        }
        order.journal = Some(Journal::create(directory, &self.all())?);
        self.0.forgetful.store(false, Ordering::Release);
        Ok(())
    }

    /// Writes down all purges from now on, and those in force, in a directory that holds no object
    /// which an earlier purge would concern.
    pub(crate) fn attach_anew(&self, directory: &Path) -> Result<(), JournalError> {
        let mut order = self.0.order.lock().unwrap_or_else(PoisonError::into_inner);
        order.journal = Some(Journal::create(directory, &self.all())?);
        self.0.forgetful.store(false, Ordering::Release);
        Ok(())
    }

    /// There is no journal to trust: what outlives this process must go.
    pub(crate) fn forget_journal(&self) {
        self.0.forgetful.store(true, Ordering::Release);
    }

    /// Stops writing purges down.
    pub(crate) fn detach(&self) {
        self.0.order.lock().unwrap_or_else(PoisonError::into_inner).journal = None;
    }

    /// A handle on the journal, if something was written since the last time.
    pub(crate) fn unsynced(&self) -> Option<File> {
        let mut order = self.0.order.lock().unwrap_or_else(PoisonError::into_inner);
        order.journal.as_mut().and_then(Journal::unsynced)
    }

    /// Whether a purge was not written down that should have been, since the last time that a
    /// journal was attached.
    pub(crate) fn forgot(&self) -> bool {
        self.0.forgetful.load(Ordering::Acquire)
    }

    /// All purges in force, with the generations they have.
    fn all(&self) -> Vec<Purge> {
        let mut all = Vec::new();
        for lane in &self.0.lanes {
            let apps = lane.apps.read().unwrap_or_else(PoisonError::into_inner);
            for (app, marks) in apps.iter() {
                marks.each(|scope, kind, generation| {
                    let generation = Generation::from_u64(generation);
                    all.push(Purge { app: app.clone(), scope, kind, generation });
                });
            }
        }
        all
    }

    fn mark(
        &self,
        app: &[u8],
        scope: &Scope,
        kind: Kind,
        generation: Generation,
        count: &mut Counters,
    ) {
        let generation = generation.as_u64();
        let Some(lane) = self.lane(app) else { return };
        let mut apps = lane.apps.write().unwrap_or_else(PoisonError::into_inner);
        if !apps.contains_key(app) {
            apps.insert(app.into(), Marks::default());
        }
        if let Some(marks) = apps.get_mut(app) {
            count.widened += u64::from(marks.add(scope, kind, generation, &self.0.limits));
        }
        drop(apps);
        count.purges += 1;
        // In this order: who sees the generation sees its mark.
        lane.newest.fetch_max(generation, Ordering::Release);
        self.0.current.fetch_max(generation, Ordering::Release);
    }

    /// What became of an object, which remembers it until there is another purge.
    pub fn verdict(&self, object: &(impl Purgeable + ?Sized)) -> Verdict {
        let current = self.0.current.load(Ordering::Acquire);
        let (checked, known) = object.stamp().load();
        if checked >= current || known == Verdict::Gone {
            return known;
        }
        let verdict = known.max(self.judge(&object.labels(), checked));
        object.stamp().store(current, verdict);
        verdict
    }

    /// What purges newer than `since` did to what has these labels.
    fn judge(&self, labels: &Labels<'_>, since: u64) -> Verdict {
        let Some(lane) = self.lane(labels.app) else { return Verdict::Good };
        if since >= lane.newest.load(Ordering::Acquire) {
            return Verdict::Good;
        }
        let apps = lane.apps.read().unwrap_or_else(PoisonError::into_inner);
        let Some(marks) = apps.get(labels.app) else { return Verdict::Good };
        let verdict = marks.judge(labels, since);
        let bans = marks.bans();
        drop(apps);
        // Expressions take longer than lookups: no lock is held for them.
        bans.iter()
            .filter(|ban| ban.generation > since)
            .filter(|ban| verdict < ban.verdict() && ban.expression.matches(labels))
            .fold(verdict, |verdict, ban| verdict.max(ban.verdict()))
    }

    /// Forgets the marks up to a generation: no object is in store, or on its way there, that was
    /// last checked before it. Takes the lock anew for each app.
    fn forget(&self, generation: Generation) {
        for lane in &self.0.lanes {
            let apps = lane.apps.read().unwrap_or_else(PoisonError::into_inner);
            let names: Vec<Box<[u8]>> = apps.keys().cloned().collect();
            drop(apps);
            for app in names {
                let mut apps = lane.apps.write().unwrap_or_else(PoisonError::into_inner);
                let Some(marks) = apps.get_mut(&app) else { continue };
                marks.forget(generation.as_u64());
                if marks.is_empty() {
                    apps.remove(&app);
                }
            }
        }
    }

    /// The oldest generation that something not yet stored may be stamped with.
    fn oldest_on_its_way(&self) -> Generation {
        self.0.tickets.oldest(|| self.current())
    }

    fn next_ticket(&self) -> u64 {
        self.0.tickets.next()
    }

    /// Whether no ticket is held that was taken before this one.
    fn settled(&self, ticket: u64) -> bool {
        self.0.tickets.back_before(ticket)
    }

    /// What there is.
    pub fn counters(&self) -> Counters {
        let mut counters = self.0.order.lock().unwrap_or_else(PoisonError::into_inner).counters;
        for lane in &self.0.lanes {
            let apps = lane.apps.read().unwrap_or_else(PoisonError::into_inner);
            counters.marks += apps.values().map(Marks::len).sum::<usize>();
        }
        counters
    }

    fn lane(&self, app: &[u8]) -> Option<&Lane> {
        self.0.lanes.get(self.0.secret.hash_one(app) as usize % LANES)
    }
}

impl fmt::Debug for Purger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Purger").field(&self.current()).finish()
    }
}
