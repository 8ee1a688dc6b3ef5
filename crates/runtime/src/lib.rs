//! Workloads and build tasks: the sandbox, the shim and what supervises them.
//!
//! A *task* (build, test) runs once and ends; a *workload* is kept running. Both run inside a
//! sandbox set up by a shim: this executable again, single-threaded, PID 1 of the workload's PID
//! namespace, which ends with everything in it when its parent's socket closes.
//!
//! It knows nothing of apps, releases, the fabric or the proxy. `agent` runs workloads with it,
//! `control` runs builds, and the binary gives [`shim_main`] a hidden verb.

mod workload;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

pub use workload::{WorkloadSpec, WorkloadState};

/// The hidden verb that re-executes the binary as a shim: `selvedge shim`.
pub const SHIM_VERB: &str = "shim";

/// The shim's main function. Must be called before any thread is started (before tokio).
pub fn shim_main() -> ! {
    #[allow(clippy::exit)]
    std::process::exit(64)
}

/// How sandboxes are made.
#[derive(Debug, Clone)]
pub struct Config {
    /// The executable to run as shim with [`SHIM_VERB`]; `/proc/self/exe` for the binary itself.
    pub executable: PathBuf,
    /// A directory for sandbox scratch, private to this process.
    pub state: PathBuf,
    /// Directories that no sandbox may see whatever else is bound (control's data).
    pub hidden: Vec<PathBuf>,
    /// Run without a sandbox where the machine can't make one (`--unsafe-builds`).
    pub allow_unsafe: bool,
}

/// Why something can't be run.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The machine can't make sandboxes.
    #[error("this machine can't isolate programs: {0}")]
    NoSandbox(String),
    /// Setting up or talking to the shim failed.
    #[error("the sandbox could not be set up: {0}")]
    Setup(String),
    /// The workload can't be connected to.
    #[error("the workload can't be connected to")]
    Connect(#[source] std::io::Error),
}

/// Makes sandboxes.
#[derive(Debug, Clone)]
pub struct Runtime {
    _config: Config,
}

/// A command to run once.
#[derive(Debug, Clone)]
pub struct TaskSpec {
    /// For people: `build of shop`.
    pub name: String,
    /// What tenant it belongs to; decides the user id.
    pub tenant: String,
    /// The checkout, writable at `/app`. Its files are given to the task's user.
    pub app: PathBuf,
    /// The app's dependency cache, writable, at `/cache` (npm, pip and XDG caches point there).
    pub cache: PathBuf,
    /// Run by `/bin/sh -c` in `/app`.
    pub command: String,
    /// Variables over the scrubbed environment.
    pub environment: BTreeMap<String, String>,
    /// Ended with SIGKILL after this.
    pub timeout: Duration,
    /// Memory limit in MiB.
    pub memory_mib: u32,
    /// Whether package registries and the rest of the network may be reached; the host's own
    /// addresses never are.
    pub network: bool,
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskOutcome {
    /// Exit code 0.
    Succeeded,
    /// Another exit code.
    Failed(i32),
    /// A signal, named (`SIGKILL`), with a guess at the cause where there is one ("out of memory").
    Killed(String),
    /// The time limit.
    TimedOut,
}

impl Runtime {
    /// Checks what the machine can do.
    pub fn new(config: Config) -> Result<Self, RuntimeError> {
        Ok(Self { _config: config })
    }

    /// Runs a task to its end, or kills it when the future is dropped. Lines of its output go to
    /// `output` as they come.
    pub async fn run_task(
        &self,
        _spec: TaskSpec,
        _output: mpsc::Sender<String>,
    ) -> Result<TaskOutcome, RuntimeError> {
        Err(RuntimeError::NoSandbox("not written yet".into()))
    }

    /// Starts a workload and keeps it running until it is stopped or the handle is dropped.
    pub fn start(&self, _spec: WorkloadSpec) -> Workload {
        Workload { state: watch::Sender::new(WorkloadState::Starting) }
    }
}

/// A workload that is kept running. Dropping it kills the workload at once.
#[derive(Debug)]
pub struct Workload {
    state: watch::Sender<WorkloadState>,
}

impl Workload {
    /// How it is; wakes on change.
    pub fn state(&self) -> watch::Receiver<WorkloadState> {
        self.state.subscribe()
    }

    /// Opens a connection to the workload's `$PORT` inside its network namespace.
    pub async fn connect(&self) -> Result<TcpStream, RuntimeError> {
        Err(RuntimeError::Connect(std::io::ErrorKind::ConnectionRefused.into()))
    }

    /// The last lines of its output, oldest first; stdout and stderr together.
    pub fn last_lines(&self) -> Vec<String> {
        Vec::new()
    }

    /// SIGTERM, then SIGKILL after the spec's stop timeout; returns when everything has ended.
    pub async fn stop(self) {}
}
