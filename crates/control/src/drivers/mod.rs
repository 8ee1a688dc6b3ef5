//! The planners' drivers: reconcilers that gather a planner's input, write the documents it
//! decides on, and do so again when anything changes.
//!
//! A driver takes no input but the [`World`] and makes no choices. It may be run at any time, any
//! number of times: what it writes is expected to replace what it saw, so that acting on a world
//! that has moved on does nothing.

mod certificates;
mod names;
mod places;
#[cfg(test)]
mod tests;
mod tickets;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use selvedge_fabric::{FabricError, WriteError};
use selvedge_telemetry::Chain;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) use certificates::Certificates;
pub(crate) use names::{Names, explain as explain_names};
pub(crate) use places::Places;
pub(crate) use tickets::Tickets;

use crate::authority::AuthorityError;
use crate::data::DataError;
use crate::world::World;

/// How long a driver waits after a failure before it tries again.
const RETRY: Duration = Duration::from_secs(2);
/// Drivers run at least this often, whatever their planner says: clocks are set, machines sleep.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Makes documents be what a planner decides.
pub(crate) trait Reconciler: Send + 'static {
    /// For people and logs.
    const NAME: &'static str;
    /// How long to wait after a change for more of them.
    const DEBOUNCE: Duration;

    /// Plans on the world as it is and writes what the plan says. Returns when to run again
    /// although nothing has changed.
    fn reconcile(
        &mut self,
        world: &mut watch::Receiver<World>,
    ) -> impl Future<Output = Result<Option<Duration>, DriverError>> + Send;
}

/// Why a driver could not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DriverError {
    #[error("reading the fabric")]
    Read(#[from] FabricError),
    #[error("writing to the fabric")]
    Write(#[source] FabricError),
    #[error("issuing a certificate")]
    Authority(#[from] AuthorityError),
    #[error("making a key")]
    Random(#[from] DataError),
}

/// What does not work, by driver, in words.
#[derive(Debug, Clone, Default)]
pub(crate) struct Problems(Arc<Mutex<BTreeMap<&'static str, String>>>);

impl Problems {
    /// All of them.
    pub(crate) fn list(&self) -> Vec<String> {
        let problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        problems.iter().map(|(name, problem)| format!("{name}: {problem}")).collect()
    }

    /// Sets or clears one; says whether that changed anything.
    fn set(&self, name: &'static str, problem: Option<String>) -> bool {
        let mut problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match &problem {
            Some(problem) => problems.insert(name, problem.clone()),
            None => problems.remove(name),
        };
        before != problem
    }
}

/// Runs `driver` now and whenever the world changes, until `token` is cancelled or the world ends.
pub(crate) async fn drive<R: Reconciler>(
    mut driver: R,
    mut world: watch::Receiver<World>,
    problems: Problems,
    token: CancellationToken,
) {
    let run = async {
        loop {
            let wait = match driver.reconcile(&mut world).await {
                Ok(next) => {
                    if problems.set(R::NAME, None) {
                        tracing::info!(driver = R::NAME, "works again");
                    }
                    next.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT)
                }
                Err(error) => {
                    let problem = Chain(&error).to_string();
                    if problems.set(R::NAME, Some(problem.clone())) {
                        tracing::warn!(driver = R::NAME, problem, "does not work");
                    }
                    RETRY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                changed = world.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    tokio::time::sleep(R::DEBOUNCE).await;
                }
            }
        }
    };
    token.run_until_cancelled(run).await;
}

/// Whether a write took place. A conflict is no failure: somebody else wrote meanwhile, the watch
/// will say so, and the driver runs again.
fn written<T>(result: Result<T, WriteError>) -> Result<bool, DriverError> {
    match result {
        Ok(_) => Ok(true),
        Err(WriteError::Conflict { key, .. }) => {
            tracing::debug!(key, "changed meanwhile");
            Ok(false)
        }
        Err(WriteError::Fabric(error)) => Err(DriverError::Write(error)),
    }
}
