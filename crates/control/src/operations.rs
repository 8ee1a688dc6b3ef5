//! Operations: written to the fabric, answered by sites, and aggregated here until each has ended.
//!
//! The record is durable: a control that starts again goes on with the operations that run. What
//! comes of them is decided by [`selvedge_plan::operations`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use selvedge_api::OperationRow;
use selvedge_fabric::{Change, Expect, FabricError, SharedFabric, Typed, WriteError};
use selvedge_model::operation::{
    Answer, AnswerState, Operation, OperationId, OperationKind, OperationState, Order, Outcome,
    Target, Task,
};
use selvedge_model::{SiteId, keys};
use selvedge_plan::operations::{Input, aggregate};
use selvedge_telemetry::Chain;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::now_ms;

/// How many operations that have ended are kept.
const KEPT: usize = 200;
/// How long sites may take to renew their leases after control has started: until then nobody
/// counts as offline.
const LEASES_SETTLE: Duration = Duration::from_secs(5);
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(250);
/// How long to wait before a failed watch is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Starts and watches operations. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Operations(Arc<Shared>);

struct Shared {
    fabric: SharedFabric,
    started: Instant,
    running: Mutex<BTreeMap<OperationId, Running>>,
    wake: Notify,
}

struct Running {
    operation: Operation,
    /// How long it had run when it was taken up after a restart, by the wall clock.
    before: Duration,
    since: Instant,
    answers: BTreeMap<Target, (AnswerState, u64)>,
    outcome: watch::Sender<Outcome>,
}

impl Running {
    /// Milliseconds since it began. A clock that is set changes nothing for one of this life.
    fn elapsed_ms(&self) -> u64 {
        let elapsed = self.before.saturating_add(self.since.elapsed());
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Operations {
    /// Takes up the operations that an earlier life began. They go on once [`Operations::run`] does.
    pub(crate) async fn open(fabric: SharedFabric) -> Result<Self, FabricError> {
        let operations = Self(Arc::new(Shared {
            fabric,
            started: Instant::now(),
            running: Mutex::default(),
            wake: Notify::new(),
        }));
        let fabric = &*operations.0.fabric;
        for (_, _, operation) in Typed(fabric).list::<Operation>(keys::OPERATIONS).await? {
            if operation.outcome.is_none() {
                let before = now_ms().saturating_sub(operation.created_ms);
                operations.0.add(operation, Duration::from_millis(before));
            }
        }
        // What belongs to none of these was left by one that has ended.
        for prefix in [keys::ORDERS, keys::ANSWERS] {
            for document in fabric.list(prefix).await?.documents {
                let id = document.key.rsplit('/').next().and_then(|id| id.parse().ok());
                if id.is_none_or(|id| !operations.0.running().contains_key(&id)) {
                    let _ = fabric.delete(&document.key, Expect::Any).await;
                }
            }
        }
        Ok(operations)
    }

    /// Begins an operation at the nodes of `tasks`, which may take `limit`. Its id is `id`, and what
    /// comes of it can be watched.
    pub(crate) async fn start(
        &self,
        (id, kind): (OperationId, OperationKind),
        tasks: BTreeMap<Target, Task>,
        limit: Duration,
    ) -> Result<watch::Receiver<Outcome>, FabricError> {
        let created_ms = now_ms();
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let operation = Operation {
            id,
            kind,
            created_ms,
            deadline_ms: created_ms.saturating_add(limit_ms),
            targets: tasks.keys().cloned().collect(),
            outcome: None,
        };
        // The intent first: an answer never comes to an operation that is not recorded.
        let key = keys::operation(id);
        let fabric = &*self.0.fabric;
        Typed(fabric).put(&key, &operation, Expect::Absent).await.map_err(FabricError::from)?;
        let outcome = self.0.add(operation, Duration::ZERO);
        let orders = tasks.into_iter().map(|(target, task)| async move {
            let order = Order { operation: id, task };
            Typed(fabric).put(&keys::order(&target.site, id), &order, Expect::Any).await
        });
        for written in join_all(orders).await {
            written.map_err(FabricError::from)?;
        }
        self.0.wake.notify_one();
        Ok(outcome)
    }

    /// Every operation that is kept, newest first.
    pub(crate) async fn list(&self) -> Result<Vec<OperationRow>, FabricError> {
        let all = Typed(&*self.0.fabric).list::<Operation>(keys::OPERATIONS).await?;
        Ok(all.iter().rev().map(|(_, _, operation)| self.row(operation)).collect())
    }

    /// An operation, if it is kept.
    pub(crate) async fn get(&self, id: OperationId) -> Result<Option<OperationRow>, FabricError> {
        let found = Typed(&*self.0.fabric).get::<Operation>(&keys::operation(id)).await?;
        Ok(found.map(|(_, operation)| self.row(&operation)))
    }

    fn row(&self, operation: &Operation) -> OperationRow {
        let running = self.0.running();
        let outcome = match (&operation.outcome, running.get(&operation.id)) {
            (Some(outcome), _) => outcome.clone(),
            (None, Some(running)) => running.outcome.borrow().clone(),
            (None, None) => Outcome { state: OperationState::Running, nodes: Vec::new() },
        };
        OperationRow::new(operation, outcome)
    }

    /// Follows answers, leases and deadlines until `token` is cancelled.
    pub(crate) async fn run(self, token: CancellationToken) {
        token.run_until_cancelled_owned(self.follow()).await;
    }

    async fn follow(self) {
        let shared = &self.0;
        loop {
            let begun = async {
                let answers = shared.fabric.watch(keys::ANSWERS, None).await?;
                Ok::<_, FabricError>((
                    answers,
                    shared.fabric.watch_leases(keys::SITE_LEASES).await?,
                ))
            };
            let (mut answers, mut leases) = match begun.await {
                Ok(begun) => begun,
                Err(error) => {
                    tracing::warn!("operations: {}", Chain(&error));
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            loop {
                let idle = shared.running().is_empty();
                tokio::select! {
                    change = answers.next() => match change {
                        Some(Change::Put(document)) => match document.parse::<Answer>() {
                            Ok(answer) => shared.take(answer),
                            Err(error) => tracing::warn!("an answer: {}", Chain(&error)),
                        },
                        Some(_) => continue,
                        None => break,
                    },
                    changed = leases.changed() => if changed.is_err() { break },
                    () = shared.wake.notified() => {}
                    () = tokio::time::sleep(TICK), if !idle => {}
                }
                let leased: BTreeSet<SiteId> = {
                    let leases = leases.borrow_and_update();
                    leases.iter().filter_map(|lease| keys::leased_site(&lease.name)).collect()
                };
                shared.settle(&leased).await;
            }
        }
    }
}

impl Shared {
    fn running(&self) -> MutexGuard<'_, BTreeMap<OperationId, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, operation: Operation, before: Duration) -> watch::Receiver<Outcome> {
        let begun = Outcome { state: OperationState::Running, nodes: Vec::new() };
        let (outcome, receiver) = watch::channel(begun);
        let since = Instant::now();
        let running = Running { operation, before, since, answers: BTreeMap::new(), outcome };
        self.running().insert(running.operation.id, running);
        receiver
    }

    fn take(&self, answer: Answer) {
        if let Some(running) = self.running().get_mut(&answer.operation)
            && running.operation.targets.contains(&answer.target)
        {
            let known = running.answers.get(&answer.target);
            // When it was first heard counts, whatever is repeated after a reconnect.
            if known.is_none_or(|(state, _)| *state != answer.state) {
                let after = running.elapsed_ms();
                running.answers.insert(answer.target, (answer.state, after));
            }
        }
    }

    /// Says how each operation stands, and records those that have ended.
    async fn settle(&self, leased: &BTreeSet<SiteId>) {
        let settling = self.started.elapsed() < LEASES_SETTLE;
        let mut ended = Vec::new();
        for running in self.running().values() {
            let operation = &running.operation;
            let everyone = || operation.targets.iter().map(|it| it.site.clone()).collect();
            let leased = if settling { &everyone() } else { leased };
            let elapsed_ms = running.elapsed_ms();
            let input = Input { operation, answers: &running.answers, leased, elapsed_ms };
            let outcome = aggregate(&input);
            if outcome.state != OperationState::Running {
                ended.push(Operation { outcome: Some(outcome.clone()), ..operation.clone() });
            }
            running.outcome.send_if_modified(|known| {
                let changed = *known != outcome;
                *known = outcome;
                changed
            });
        }
        for operation in ended {
            match self.conclude(&operation).await {
                Ok(()) => drop(self.running().remove(&operation.id)),
                // It is tried again with the next look.
                Err(error) => {
                    tracing::warn!(id = %operation.id, "an operation's end: {}", Chain(&error));
                    return;
                }
            }
        }
    }

    /// Records the end and takes away what led to it.
    async fn conclude(&self, operation: &Operation) -> Result<(), FabricError> {
        let fabric = &*self.fabric;
        let id = operation.id;
        let put = Typed(fabric).put(&keys::operation(id), operation, Expect::Any).await;
        put.map_err(FabricError::from)?;
        let listing = fabric.list(keys::OPERATIONS).await?.documents;
        let open: BTreeSet<String> = self.running().keys().map(|id| keys::operation(*id)).collect();
        let old = listing.len().saturating_sub(KEPT);
        let old = listing.into_iter().map(|it| it.key).filter(|key| !open.contains(key)).take(old);
        let sites = operation.targets.iter().map(|target| &target.site);
        let gone: Vec<String> = sites
            .flat_map(|site| [keys::order(site, id), keys::answer(site, id)])
            .chain(old)
            .collect();
        let deletions = gone.iter().map(|key| fabric.delete(key, Expect::Any));
        for deleted in join_all(deletions).await {
            deleted.map_err(|error: WriteError| FabricError::from(error))?;
        }
        Ok(())
    }
}
