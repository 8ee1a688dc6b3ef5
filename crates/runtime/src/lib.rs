//! Workloads and build tasks: the sandbox, the shim and what supervises them.
//!
//! A *task* (build, test) runs once and ends; a *workload* is kept running. Both run inside a
//! sandbox set up by a shim, this executable again: single-threaded, the parent of the first
//! process in the sandbox's PID namespace, which it ends, with everything in it, when its socket
//! to the runtime closes.
//!
//! It knows nothing of apps, releases, the fabric or the proxy. `agent` runs workloads with it,
//! `control` runs builds, and the binary gives [`shim_main`] a hidden verb.

mod cgroup;
mod channel;
mod credentials;
mod degraded;
mod disk;
mod egress;
mod environment;
mod guard;
mod ids;
mod limits;
mod link;
mod output;
mod prepare;
mod probe;
mod protocol;
mod readiness;
mod shim;
mod supervisor;
mod sys;
mod task;
mod tenant;
pub mod tree;
mod usage;
mod workload;

use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::mpsc;

pub use disk::Reserve;
pub use ids::ReservedIds;
pub use limits::{Excess, Limits};
pub use supervisor::{Connector, Monitor, Workload};
pub use task::{TaskOutcome, TaskSpec};
pub use usage::Usage;
pub use workload::{History, Output, WorkloadSpec, WorkloadState};

use prepare::Machine;

/// The hidden verb that re-executes the binary as a shim: `selvedge shim`.
pub const SHIM_VERB: &str = "shim";

/// The shim's main function. Must be called before any thread is started (before tokio).
pub fn shim_main() -> ! {
    let code = shim::run();
    sys::exit(code)
}

/// How sandboxes are made.
#[derive(Debug, Clone)]
pub struct Config {
    /// The executable to run as shim with [`SHIM_VERB`]; `/proc/self/exe` for the binary itself.
    pub executable: PathBuf,
    /// A directory for sandbox scratch, private to this process. Made when missing.
    pub state: PathBuf,
    /// Directories that no sandbox may see whatever else is bound (control's data).
    pub hidden: Vec<PathBuf>,
    /// Run without a sandbox where the machine can't make one (`--unsafe-builds`).
    pub allow_unsafe: bool,
    /// Private networks that sandboxes may reach, beside the public internet. The machine's own
    /// addresses are never reached.
    pub egress_allow: Vec<IpNet>,
    /// The table of tenants' user ids, for runtimes with root. All of a machine's runtimes should
    /// share one, so that no two tenants share a user: [`Config::TENANTS`]. A box has its own, with
    /// ids of its own: [`ReservedIds`].
    pub tenants: PathBuf,
    /// What tasks must leave free on the disk that they write to.
    pub reserve: Reserve,
}

/// Removes the control groups of sandboxes whose processes are gone, as far as this user may, and
/// returns their paths. The next sandbox that is started does so too, beside its own.
pub fn sweep() -> Vec<PathBuf> {
    cgroup::sweep::machine()
}

impl Config {
    /// The machine's table of tenants' user ids.
    pub const TENANTS: &str = "/var/lib/selvedge/tenants";

    /// The safe defaults.
    pub fn new(executable: PathBuf, state: PathBuf) -> Self {
        Self {
            executable,
            state,
            hidden: Vec::new(),
            allow_unsafe: false,
            egress_allow: Vec::new(),
            tenants: Self::TENANTS.into(),
            reserve: Reserve::default(),
        }
    }
}

/// Why something can't be run.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The machine can't make sandboxes.
    #[error("this machine can't isolate programs: {0}")]
    NoSandbox(String),
    /// The machine's disk has too little left for a task.
    #[error("it {0}")]
    NoRoom(Excess),
    /// Setting up or talking to the shim failed.
    #[error("the sandbox could not be set up: {0}")]
    Setup(String),
    /// The workload can't be connected to.
    #[error("the workload can't be connected to")]
    Connect(#[source] std::io::Error),
}

/// Makes sandboxes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Runtime {
    machine: Arc<Machine>,
}

impl Runtime {
    /// Finds out what the machine can do, by making a sandbox (some 20 ms, blocking), and sweeps
    /// what killed processes left.
    ///
    /// # Errors
    /// [`RuntimeError::Setup`] when the state directory can't be made. A machine without sandboxes
    /// is no error here, but when something is to be run.
    pub fn new(config: Config) -> Result<Self, RuntimeError> {
        Ok(Self { machine: Arc::new(Machine::new(config)?) })
    }

    /// Why programs can't be isolated on this machine and what mends it; `None` when they can.
    pub fn no_sandbox(&self) -> Option<&str> {
        self.machine.no_sandbox()
    }

    /// What the machine's sandboxes lack, what follows from it and what mends it, in words for the
    /// operator; empty where nothing, or where there are no sandboxes at all.
    pub fn degraded(&self) -> Vec<String> {
        self.machine.degraded()
    }

    /// Which version of control groups limits what (`memory v1, cpu v2, pids v2`); `None` where
    /// they limit nothing.
    pub fn control_groups(&self) -> Option<String> {
        self.machine.control_groups()
    }

    /// Runs a task to its end, or kills it when the future is dropped. Lines of its output go to
    /// `output` as they come: stdout and stderr together, without control characters, bounded in
    /// length and sum. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// When it can't be run at all; how it ended is no error.
    pub async fn run_task(
        &self,
        spec: TaskSpec,
        output: mpsc::Sender<String>,
    ) -> Result<TaskOutcome, RuntimeError> {
        task::run(&self.machine, spec, output).await
    }

    /// Starts a workload and keeps it running until it is stopped or the handle is dropped. Must
    /// be called in a tokio runtime.
    pub fn start(&self, spec: WorkloadSpec) -> Workload {
        Workload::start(Arc::clone(&self.machine), spec)
    }
}
