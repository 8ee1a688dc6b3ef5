//! Workloads that run, between the runtime, which keeps them alive, and the proxy, which sends
//! them requests.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use selvedge_model::Digest;
use selvedge_proxy::upstream::Upstream;
use selvedge_proxy::{Connect, Stream};
use selvedge_runtime::{Limits, Runtime, Workload, WorkloadSpec, WorkloadState};
use tokio::sync::watch;

use crate::desired::WorkloadPlan;

/// How often a drain looks whether the last snapshot that names the workload is gone.
const LOOK: Duration = Duration::from_millis(20);

/// A workload that runs.
pub(crate) struct Running {
    artifact: Digest,
    workload: Workload,
    upstream: Arc<Upstream>,
}

impl Running {
    /// Starts the plan's workload from the unpacked artifact at `app`. Its output goes below
    /// `logs`.
    pub(crate) fn start(runtime: &Runtime, plan: &WorkloadPlan, app: PathBuf, logs: &Path) -> Self {
        let workload = runtime.start(WorkloadSpec {
            name: plan.name.clone(),
            tenant: plan.tenant.clone(),
            app,
            command: plan.command.clone(),
            environment: plan.environment.clone(),
            health: plan.health.clone(),
            start_timeout: Duration::from_secs(plan.start_timeout_s.into()),
            stop_timeout: Duration::from_secs(plan.stop_timeout_s.into()),
            limits: Limits {
                memory_mib: plan.memory_mib,
                cpu_millis: Some(1000),
                processes: 512,
                disk_mib: (plan.memory_mib / 2).max(64),
            },
            log: log_file(logs, plan),
        });
        let connector = RuntimeConnector(workload.connector());
        let upstream = Arc::new(Upstream::new(plan.name.clone(), Arc::new(connector)));
        Self { artifact: plan.artifact.digest, workload, upstream }
    }

    /// The artifact that it runs from.
    pub(crate) fn artifact(&self) -> Digest {
        self.artifact
    }

    /// How it is.
    pub(crate) fn state(&self) -> watch::Receiver<WorkloadState> {
        self.workload.state()
    }

    /// For the proxy's routes.
    pub(crate) fn upstream(&self) -> Arc<Upstream> {
        Arc::clone(&self.upstream)
    }

    /// Ends it once nobody uses it any more, or `patience` has run out. The caller has taken it out
    /// of the snapshot before. A request that began with an older snapshot may still be on its way
    /// to the upstream, not yet counted: so first the last snapshot that names it must be gone.
    pub(crate) async fn drain(self, patience: Duration) {
        let idle = async {
            unshared(&self.upstream).await;
            let mut in_flight = self.upstream.in_flight();
            let _ = in_flight.wait_for(|count| *count == 0).await;
        };
        if tokio::time::timeout(patience, idle).await.is_err() {
            let count = *self.upstream.in_flight().borrow();
            tracing::warn!(count, "a workload is stopped although it still has requests");
        }
        self.stop().await;
    }

    /// Ends it without waiting for requests.
    pub(crate) async fn stop(self) {
        self.workload.stop().await;
    }
}

/// The file for a workload's output; a workload runs without one rather than not at all.
fn log_file(logs: &Path, plan: &WorkloadPlan) -> Option<PathBuf> {
    let file = logs.join(&plan.log);
    let made = file
        .parent()
        .map(|directory| DirBuilder::new().recursive(true).mode(0o700).create(directory));
    match made {
        Some(Ok(())) => Some(file),
        Some(Err(error)) => {
            tracing::warn!(path = %file.display(), "no log: {error}");
            None
        }
        None => None,
    }
}

/// Waits until `shared` has no other owner.
pub(crate) async fn unshared<T>(shared: &Arc<T>) {
    while Arc::strong_count(shared) > 1 {
        tokio::time::sleep(LOOK).await;
    }
}

/// The runtime's connections as the proxy takes them.
struct RuntimeConnector(selvedge_runtime::Connector);

#[async_trait]
impl Connect for RuntimeConnector {
    async fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        match self.0.connect().await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(selvedge_runtime::RuntimeError::Connect(error)) => Err(error),
            Err(error) => Err(std::io::Error::other(error)),
        }
    }
}
