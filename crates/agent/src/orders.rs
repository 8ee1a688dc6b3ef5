//! Orders: a site's part of operations. Each is taken once, said to have been received, done, and
//! answered. What they lead to is up to the modules that they call.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use selvedge_fabric::{Change, Expect, SharedFabric, Typed};
use selvedge_model::keys;
use selvedge_model::operation::{Answer, AnswerState, OperationId, Order, Target, Task};
use selvedge_telemetry::logging::Chain;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::tunnel::{self, Subjects};

/// How long to wait before a failed watch or answer is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// How often an answer is tried: the operation's deadline has passed by then.
const ANSWER_ATTEMPTS: u32 = 20;
/// Tunnels at a time. Orders beyond this wait.
const MAX_TUNNELS: usize = 256;

/// What orders are carried out with.
#[derive(Clone)]
pub(crate) struct Orders {
    pub(crate) target: Target,
    pub(crate) fabric: SharedFabric,
    /// Where control listens for tunnels.
    pub(crate) tunnel: PathBuf,
    pub(crate) subjects: Subjects,
}

/// Takes orders until `token` is cancelled.
pub(crate) async fn run(orders: Orders, token: CancellationToken) {
    let prefix = keys::orders(&orders.target.site);
    let tasks = TaskTracker::new();
    let slots = Arc::new(Semaphore::new(MAX_TUNNELS));
    let mut taken = BTreeSet::new();
    loop {
        let watch = tokio::select! {
            () = token.cancelled() => break,
            watch = orders.fabric.watch(&prefix, None) => watch,
        };
        let mut watch = match watch {
            Ok(watch) => watch,
            Err(error) => {
                tracing::debug!("orders: {}", Chain(&error));
                tokio::select! {
                    () = token.cancelled() => break,
                    () = tokio::time::sleep(RETRY) => continue,
                }
            }
        };
        loop {
            let change = tokio::select! {
                () = token.cancelled() => break,
                change = watch.next() => change,
            };
            match change {
                Some(Change::Put(document)) => match document.parse::<Order>() {
                    Ok(order) if taken.insert(order.operation) => {
                        let (orders, slots) = (orders.clone(), Arc::clone(&slots));
                        let work = async move {
                            let Ok(_slot) = slots.acquire_owned().await else { return };
                            orders.carry_out(order).await;
                        };
                        tasks.spawn(token.clone().run_until_cancelled_owned(work));
                    }
                    Ok(_) => {}
                    Err(error) => tracing::warn!("an order can't be read: {}", Chain(&error)),
                },
                // Control takes an order back when its operation has ended.
                Some(Change::Delete { key, .. }) => {
                    let id = key.strip_prefix(&prefix).and_then(|id| id.parse().ok());
                    if let Some(id) = id {
                        taken.remove::<OperationId>(&id);
                    }
                }
                Some(Change::Current(_) | Change::Reset) => {}
                None => break,
            }
        }
        if token.is_cancelled() {
            break;
        }
        tokio::time::sleep(RETRY).await;
    }
    tasks.close();
    tasks.wait().await;
}

impl Orders {
    async fn carry_out(self, order: Order) {
        let Order { operation, task } = order;
        // An earlier life of this agent may have been here. What it had begun is begun again.
        let key = keys::answer(&self.target.site, operation);
        let known = Typed(&*self.fabric).get::<Answer>(&key).await;
        if let Ok(Some((_, answer))) = known
            && answer.state != AnswerState::Received
        {
            return;
        }
        let Task::OpenTunnel(secret) = task;
        let opening = tunnel::open(&self.tunnel, operation, &self.target, &secret);
        let ((), opened) = tokio::join!(self.answer(operation, AnswerState::Received), opening);
        match opened {
            Ok(tunnel) => {
                let serving = tunnel::serve(tunnel, &self.subjects);
                tokio::join!(self.answer(operation, AnswerState::Applied), serving);
            }
            Err(error) => {
                let reason = Chain(&error).to_string();
                self.answer(operation, AnswerState::Failed { reason }).await;
            }
        }
    }

    async fn answer(&self, operation: OperationId, state: AnswerState) {
        let key = keys::answer(&self.target.site, operation);
        let answer = Answer { operation, target: self.target.clone(), state };
        for _ in 0..ANSWER_ATTEMPTS {
            match Typed(&*self.fabric).put(&key, &answer, Expect::Any).await {
                Ok(_) => return,
                Err(error) => tracing::debug!(%operation, "answer: {}", Chain(&error)),
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}
