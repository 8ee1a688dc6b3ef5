//! `GET /v1/workloads`: every process that sites keep running, as it is now.

use std::collections::BTreeMap;

use selvedge_model::{AppName, EnvironmentName, ServiceName, SiteId};
use serde::{Deserialize, Serialize};

/// The workloads of an installation, or of one app.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workloads {
    /// By app, service and site.
    pub workloads: Vec<WorkloadRow>,
    /// Sites that did not answer, with the reason in words.
    pub silent: BTreeMap<SiteId, String>,
}

/// A workload at a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadRow {
    /// The app.
    pub app: AppName,
    /// The app's environment.
    pub environment: EnvironmentName,
    /// The service.
    pub service: ServiceName,
    /// The release: the first 12 digits.
    pub release: String,
    /// The site.
    pub site: SiteId,
    /// How it is.
    pub state: WorkloadState,
    /// Its first process, as the machine numbers it; `None` while none runs.
    pub pid: Option<u32>,
    /// When that was started; `None` while none runs.
    pub since_ms: Option<u64>,
    /// How often it was started again since the site first started it.
    pub restarts: u64,
    /// Memory that its processes take, in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory that it may take, in MiB.
    pub memory_limit_mib: u32,
    /// Processor time that its processes have taken, in milliseconds.
    pub cpu_ms: Option<u64>,
    /// Why it is not well, or was not when it last ended, in words.
    pub reason: Option<String>,
    /// The last lines of output from then.
    pub last_lines: Vec<String>,
}

/// How a workload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkloadState {
    /// Started, not ready yet.
    Starting,
    /// It answers.
    Ready,
    /// It has ended and is started again after a pause.
    Restarting,
    /// It ends again and again, and is tried ever more rarely.
    CrashLoop,
}
