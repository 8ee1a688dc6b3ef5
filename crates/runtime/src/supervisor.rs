//! Keeps one workload running.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::guard::{Guard, Phase};
use crate::limits::Excess;
use crate::link::{End, Link, Shim};
use crate::output::{Lines, Tail};
use crate::prepare::{Machine, Program, Running};
use crate::protocol::{EGRESS_PORT, Exit};
use crate::usage::{self, Usage};
use crate::workload::{History, Output, WorkloadSpec, WorkloadState};
use crate::{RuntimeError, readiness, task};

const LAST_LINES: usize = 100;
/// A workload that was ready for this long starts over with the shortest pause.
const STABLE: Duration = Duration::from_secs(60);
/// After this many restarts in a row it is in a crash loop.
const QUICK_RESTARTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The pause after an end before the workload was ready: what it lacks seldom comes by itself.
const CRASH_PAUSE: Duration = Duration::from_secs(2);
/// What a killed program has still written comes within this.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// A workload that is kept running. Dropping it kills the workload at once.
#[derive(Debug)]
pub struct Workload {
    shared: Arc<Shared>,
    state: watch::Receiver<WorkloadState>,
    stop: CancellationToken,
    supervisor: Option<JoinHandle<()>>,
}

/// What the handle and the supervisor share.
struct Shared {
    link: Mutex<Option<Arc<Link>>>,
    tail: Mutex<Tail>,
    history: Mutex<History>,
    /// The shim's process while there is one.
    shim: Mutex<Option<u32>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Workload {
    pub(crate) fn start(machine: Arc<Machine>, spec: WorkloadSpec) -> Self {
        let shared = Arc::new(Shared {
            link: Mutex::new(None),
            tail: Mutex::new(Tail::new(LAST_LINES)),
            history: Mutex::default(),
            shim: Mutex::new(None),
        });
        let (sender, state) = watch::channel(WorkloadState::Starting);
        let stop = CancellationToken::new();
        let supervisor = Supervisor {
            machine,
            spec,
            shared: Arc::clone(&shared),
            state: sender,
            stop: stop.clone(),
        };
        let supervisor = Some(tokio::spawn(supervisor.run()));
        Self { shared, state, stop, supervisor }
    }

    /// How it is; wakes on change.
    pub fn state(&self) -> watch::Receiver<WorkloadState> {
        self.state.clone()
    }

    /// Opens a connection to the workload's `$PORT` inside its network namespace.
    ///
    /// # Errors
    /// [`RuntimeError::Connect`] when it isn't running, doesn't listen or doesn't accept in time.
    pub async fn connect(&self) -> Result<TcpStream, RuntimeError> {
        self.connector().connect().await
    }

    /// A handle that connects for as long as the workload is kept, through all its restarts.
    pub fn connector(&self) -> Connector {
        Connector { shared: Arc::clone(&self.shared) }
    }

    /// The last lines of its output, oldest first; stdout and stderr together.
    pub fn last_lines(&self) -> Vec<String> {
        self.shared.last_lines()
    }

    /// A handle that looks at the workload for as long as it is kept.
    pub fn monitor(&self) -> Monitor {
        Monitor { shared: Arc::clone(&self.shared), state: self.state.clone() }
    }

    /// SIGTERM, then SIGKILL after the spec's stop timeout; returns when everything has ended.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(supervisor) = self.supervisor.take() {
            let _ = supervisor.await;
        }
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        // With the supervisor goes the shim, and with that everything in the sandbox.
        if let Some(supervisor) = &self.supervisor {
            supervisor.abort();
        }
    }
}

/// Connects to a workload. Cheap to clone; doesn't keep the workload running.
#[derive(Debug, Clone)]
pub struct Connector {
    shared: Arc<Shared>,
}

impl Connector {
    /// As [`Workload::connect`].
    ///
    /// # Errors
    /// As there.
    pub async fn connect(&self) -> Result<TcpStream, RuntimeError> {
        let link = self.shared.link().clone();
        let refused = || RuntimeError::Connect(std::io::ErrorKind::ConnectionRefused.into());
        link.ok_or_else(refused)?.connect().await.map_err(RuntimeError::Connect)
    }
}

/// Looks at a workload. Cheap to clone; doesn't keep the workload running.
#[derive(Debug, Clone)]
pub struct Monitor {
    shared: Arc<Shared>,
    state: watch::Receiver<WorkloadState>,
}

impl Monitor {
    /// How it is.
    pub fn state(&self) -> WorkloadState {
        self.state.borrow().clone()
    }

    /// How it has fared.
    pub fn history(&self) -> History {
        self.shared.history().clone()
    }

    /// What its processes take now; blocking, some 100 µs for each process.
    pub fn usage(&self) -> Usage {
        let shim = *self.shared.shim();
        shim.map(usage::of).unwrap_or_default()
    }
}

impl Shared {
    fn started(&self, shim: Option<u32>) {
        self.history().since = Some(SystemTime::now());
        *self.shim() = shim;
    }

    fn ended(&self, reason: &str) {
        let last_lines = self.last_lines();
        let mut history = self.history();
        history.since = None;
        history.last_end = Some((reason.to_owned(), last_lines));
    }

    fn history(&self) -> std::sync::MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shim(&self) -> std::sync::MutexGuard<'_, Option<u32>> {
        self.shim.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self) -> std::sync::MutexGuard<'_, Option<Arc<Link>>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tail(&self) -> std::sync::MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last_lines(&self) -> Vec<String> {
        self.tail().lines()
    }
}

struct Supervisor {
    machine: Arc<Machine>,
    spec: WorkloadSpec,
    shared: Arc<Shared>,
    state: watch::Sender<WorkloadState>,
    stop: CancellationToken,
}

/// How one run of the program went.
enum Run {
    /// Stopped on request.
    Stopped,
    /// It ended by itself before it was ready, or never was.
    NeverReady(String),
    /// It ended by itself after that.
    Ended { reason: String, lasted: Duration },
}

impl Supervisor {
    async fn run(self) {
        let mut restarts: u32 = 0;
        loop {
            let (pause, state) = match self.once().await {
                Run::Stopped => break,
                Run::NeverReady(reason) => {
                    restarts = restarts.saturating_add(1);
                    (doubled(CRASH_PAUSE, restarts - 1), self.crash_loop(reason))
                }
                Run::Ended { reason, lasted } => {
                    restarts = if lasted >= STABLE { 1 } else { restarts.saturating_add(1) };
                    let state = if restarts > QUICK_RESTARTS {
                        self.crash_loop(format!("{reason}, {restarts} times in a row"))
                    } else {
                        let last_lines = self.shared.last_lines();
                        WorkloadState::BackingOff { reason, last_lines, restarts }
                    };
                    (doubled(FIRST_PAUSE, restarts - 1), state)
                }
            };
            if let WorkloadState::BackingOff { reason, .. }
            | WorkloadState::CrashLoop { reason, .. } = &state
            {
                tracing::info!(workload = self.spec.name, reason, restarts, ?pause, "restarting");
                self.shared.ended(reason);
            }
            self.state.send_replace(state);
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
            self.shared.history().restarts += 1;
            self.state.send_replace(WorkloadState::Starting);
        }
        self.state.send_replace(WorkloadState::Stopped);
    }

    fn crash_loop(&self, reason: String) -> WorkloadState {
        WorkloadState::CrashLoop { reason, last_lines: self.shared.last_lines() }
    }

    async fn once(&self) -> Run {
        if self.stop.is_cancelled() {
            return Run::Stopped;
        }
        let spec = &self.spec;
        let program = Program {
            tenant: &spec.tenant,
            app: &spec.app,
            cache: None,
            command: &spec.command,
            environment: &spec.environment,
            limits: spec.limits,
            network: true,
        };
        let (running, lines) = match self.machine.start_workload(program).await {
            Ok(started) => started,
            Err(error) => return Run::NeverReady(error.to_string()),
        };
        tracing::debug!(workload = spec.name, shim = running.shim.pid(), "started a workload");
        self.shared.tail().clear();
        *self.shared.link() = Some(Arc::clone(running.shim.link()));
        self.shared.started(running.shim.pid());
        let pump = pump(lines, Arc::clone(&self.shared), spec.output.clone());
        let pump = AbortOnDropHandle::new(tokio::spawn(pump));
        let run = self.attend(running).await;
        *self.shared.link() = None;
        *self.shared.shim() = None;
        // Its last words are read before anybody is told of its end.
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, pump).await;
        run
    }

    /// From the start of the program to its end.
    async fn attend(&self, mut running: Running) -> Run {
        let run = match self.until_ready(&mut running).await {
            Some(run) => run,
            None => {
                self.state.send_replace(WorkloadState::Ready);
                let since = Instant::now();
                let Running { shim, guard, .. } = &mut running;
                tokio::select! {
                    end = shim.end() => {
                        let reason = self.words(&end, guard, Phase::Ready).await;
                        Run::Ended { reason, lasted: since.elapsed() }
                    }
                    excess = guard.excess(Phase::Ready) => {
                        self.kill(shim).await;
                        Run::Ended { reason: stopped(&excess), lasted: since.elapsed() }
                    }
                    () = self.stop.cancelled() => Run::Stopped,
                }
            }
        };
        if matches!(run, Run::Stopped) {
            self.terminate(&mut running).await;
        }
        running.close().await;
        run
    }

    /// Waits until the program is ready; what became of it when that is never.
    async fn until_ready(&self, running: &mut Running) -> Option<Run> {
        let Running { shim, guard, .. } = running;
        let link = Arc::clone(shim.link());
        let mut last = String::new();
        let ready = readiness::wait(&link, self.spec.health.as_deref(), &mut last);
        tokio::select! {
            end = shim.end() => {
                let words = self.words(&end, guard, Phase::Start).await;
                let reason = format!("{words} before it was ready");
                return Some(Run::NeverReady(reason));
            }
            excess = guard.excess(Phase::Start) => {
                self.kill(shim).await;
                return Some(Run::NeverReady(stopped(&excess)));
            }
            () = self.stop.cancelled() => return Some(Run::Stopped),
            ready = tokio::time::timeout(self.spec.start_timeout, ready) => {
                if ready.is_ok() {
                    return None;
                }
            }
        }
        let reason = if guard.has_full_memory_disk() {
            let excess = self.full();
            format!("was not ready in time and {}", with_mend(&excess))
        } else {
            self.not_ready(&last, shim)
        };
        self.kill(shim).await;
        Some(Run::NeverReady(reason))
    }

    async fn kill(&self, shim: &mut Shim) {
        shim.link().kill().await;
        shim.end().await;
    }

    async fn terminate(&self, running: &mut Running) {
        running.shim.link().terminate().await;
        if tokio::time::timeout(self.spec.stop_timeout, running.shim.end()).await.is_err() {
            tracing::info!(workload = self.spec.name, "did not end after SIGTERM: killed");
        }
    }

    async fn words(&self, end: &End, guard: &mut Guard, phase: Phase) -> String {
        let (exit, full) = match end {
            End::Exited { exit, full } => (exit, *full),
            End::Failed(reason) => return format!("could not be started ({reason})"),
            End::ShimLost => return "was killed with its sandbox".into(),
        };
        let how = match exit {
            Exit::Code(code) => format!("exited with code {code}"),
            Exit::Signal(signal) => format!("was killed by {}", task::signal_name(*signal)),
        };
        match guard.last_look(phase, false).await.or_else(|| full.then(|| self.full())) {
            Some(excess) => format!("{how} after it {}", with_mend(&excess)),
            None => how,
        }
    }

    fn full(&self) -> Excess {
        Excess::Temporary(self.spec.limits.disk_mib)
    }

    fn not_ready(&self, last: &str, shim: &Shim) -> String {
        let timeout = self.spec.start_timeout;
        let mut reason = format!("was not ready within {timeout:?}: {last}");
        let ports = shim.pid().map(|pid| readiness::listening_ports(pid, EGRESS_PORT));
        if let Some([port, ..]) = ports.as_deref()
            && last.contains("nothing listens")
        {
            reason.push_str(&format!(
                " ({}); it listens on {port}: have it read the PORT variable",
                crate::protocol::WORKLOAD_PORT
            ));
        }
        reason
    }
}

fn stopped(excess: &Excess) -> String {
    format!("was stopped because it {}", with_mend(excess))
}

/// What happened and what to do about it. The limits have the same names in `selvedge.toml`.
fn with_mend(excess: &Excess) -> String {
    let raise = match excess.limit() {
        Some(limit) => format!("raise its `{limit}`"),
        None => String::new(),
    };
    format!("{excess} ({})", excess.mend(&raise))
}

fn doubled(pause: Duration, times: u32) -> Duration {
    pause.saturating_mul(2_u32.saturating_pow(times)).min(LONGEST_PAUSE)
}

/// Keeps the last lines, and passes all on where they are wanted.
async fn pump(mut lines: Lines, shared: Arc<Shared>, output: Option<Output>) {
    while let Some(line) = lines.next().await {
        if let Some(output) = &output {
            output.line(&line);
        }
        shared.tail().push(line);
    }
}
