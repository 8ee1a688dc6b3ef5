//! Workloads that run, between the runtime, which keeps them alive, and the proxy, which sends
//! them requests.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use selvedge_api::WorkloadRow;
use selvedge_model::{Digest, SiteId};
use selvedge_proxy::upstream::Upstream;
use selvedge_proxy::{Connect, Stream};
use selvedge_runtime::{Limits, Monitor, Runtime, Workload, WorkloadSpec, WorkloadState};
use tokio::sync::watch;

use crate::desired::WorkloadPlan;
use crate::diff::tail;
use crate::log::{Label, SiteLog};

/// How often a drain looks whether the last snapshot that names the workload is gone.
const LOOK: Duration = Duration::from_millis(20);

/// How long WebSockets may take to end when they are told to.
const PARTING: Duration = Duration::from_secs(6);

/// A workload that runs.
pub(crate) struct Running {
    artifact: Digest,
    workload: Workload,
    upstream: Arc<Upstream>,
    label: Label,
    memory_mib: u32,
}

impl Running {
    /// Starts the plan's workload from the unpacked artifact at `app`.
    pub(crate) fn start(
        runtime: &Runtime,
        plan: &WorkloadPlan,
        app: PathBuf,
        log: &SiteLog,
    ) -> Self {
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
                cpu_millis: Some(plan.limits.cpu_millis),
                processes: plan.limits.processes,
                disk_mib: plan.limits.disk_mib(plan.memory_mib),
            },
            output: Some(log.output(plan.label.clone())),
        });
        let connector = RuntimeConnector(workload.connector());
        let upstream = Arc::new(Upstream::new(plan.name.clone(), Arc::new(connector)));
        let (artifact, label) = (plan.artifact.digest, plan.label.clone());
        Self { artifact, workload, upstream, label, memory_mib: plan.memory_mib }
    }

    /// The artifact that it runs from.
    pub(crate) fn artifact(&self) -> Digest {
        self.artifact
    }

    /// For whoever asks what runs here.
    pub(crate) fn watched(&self) -> Watched {
        Watched {
            label: self.label.clone(),
            memory_mib: self.memory_mib,
            monitor: self.workload.monitor(),
        }
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
        drain(&self.upstream, patience).await;
        self.stop().await;
    }

    /// Ends it without waiting for requests.
    pub(crate) async fn stop(self) {
        self.workload.stop().await;
    }
}

/// A workload as seen from outside.
pub(crate) struct Watched {
    label: Label,
    memory_mib: u32,
    monitor: Monitor,
}

impl Watched {
    /// How it is now. Blocking.
    pub(crate) fn look(&self, site: &SiteId) -> WorkloadRow {
        let (history, usage) = (self.monitor.history(), self.monitor.usage());
        let (state, now_ill) = match self.monitor.state() {
            WorkloadState::Starting => (selvedge_api::WorkloadState::Starting, None),
            WorkloadState::Ready | WorkloadState::Stopped => {
                (selvedge_api::WorkloadState::Ready, None)
            }
            WorkloadState::BackingOff { reason, last_lines, .. } => {
                (selvedge_api::WorkloadState::Restarting, Some((reason, last_lines)))
            }
            WorkloadState::CrashLoop { reason, last_lines } => {
                (selvedge_api::WorkloadState::CrashLoop, Some((reason, last_lines)))
            }
        };
        let since = history.since.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let (reason, last_lines) = now_ill.or(history.last_end).unzip();
        let Label { app, environment, service, release } = self.label.clone();
        WorkloadRow {
            app,
            environment,
            service,
            release,
            site: site.clone(),
            state,
            pid: usage.pid,
            since_ms: since.and_then(|since| u64::try_from(since.as_millis()).ok()),
            restarts: history.restarts,
            memory_bytes: usage.pid.map(|_| usage.memory_bytes),
            memory_limit_mib: self.memory_mib,
            cpu_ms: usage.pid.map(|_| usage.cpu_ms),
            reason,
            last_lines: tail(&last_lines.unwrap_or_default()),
        }
    }
}

/// Waits until nothing uses an upstream any more, or `patience` has run out; then its WebSockets are
/// told that the server goes away, and have a moment to part.
pub(crate) async fn drain(upstream: &Arc<Upstream>, patience: Duration) {
    let idle = async || upstream.wait_in_flight(|count| count == 0).await;
    let unused = async {
        unshared(upstream).await;
        idle().await;
    };
    if tokio::time::timeout(patience, unused).await.is_ok() {
        return;
    }
    upstream.end_tunnels();
    if tokio::time::timeout(PARTING, idle()).await.is_err() {
        let (count, name) = (upstream.in_flight(), upstream.name());
        tracing::warn!(count, name, "left although it still has requests");
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
