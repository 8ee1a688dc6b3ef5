//! A runtime in a directory of its own, and what the tests share.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use selvedge_runtime::{
    Config, Limits, Runtime, RuntimeError, TaskOutcome, TaskSpec, Workload, WorkloadSpec,
    WorkloadState,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

pub(crate) const HELPER: &str = env!("CARGO_BIN_EXE_selvedge-runtime-helper");
/// Far beyond what anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const LIMITS: Limits =
    Limits { memory_mib: 256, cpu_millis: None, processes: 512, disk_mib: 128 };

pub(crate) struct World {
    pub(crate) directory: TempDir,
    pub(crate) runtime: Runtime,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut config = Config::new(HELPER.into(), directory.path().join("state"));
        config.tenants = directory.path().join("tenants/table");
        config.hidden = vec![directory.path().join("hidden")];
        change(&mut config);
        let runtime = Runtime::new(config).expect("a runtime");
        let world = Self { directory, runtime };
        assert_eq!(world.runtime.no_sandbox(), None, "these tests need sandboxes");
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A directory `name` with these files in it.
    pub(crate) fn app(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let app = self.path(name);
        fs::create_dir_all(&app).expect("a directory");
        for (name, text) in files {
            fs::write(app.join(name), text).expect("a file");
        }
        app
    }

    pub(crate) fn task(&self, command: &str) -> TaskSpec {
        TaskSpec {
            name: "a test".into(),
            tenant: "one".into(),
            app: self.app("checkout", &[]),
            cache: self.path("cache"),
            command: command.into(),
            environment: BTreeMap::new(),
            timeout: PATIENCE,
            limits: Limits { memory_mib: 512, disk_mib: 1024, ..LIMITS },
            network: true,
        }
    }

    pub(crate) async fn run(&self, spec: TaskSpec) -> (TaskOutcome, Vec<String>) {
        self.try_run(spec).await.expect("a sandbox")
    }

    pub(crate) async fn try_run(
        &self,
        spec: TaskSpec,
    ) -> Result<(TaskOutcome, Vec<String>), RuntimeError> {
        let (sender, mut receiver) = mpsc::channel(16);
        let lines = tokio::spawn(async move {
            let mut lines = Vec::new();
            while let Some(line) = receiver.recv().await {
                lines.push(line);
            }
            lines
        });
        let outcome = self.runtime.run_task(spec, sender).await?;
        Ok((outcome, lines.await.expect("lines")))
    }

    /// Runs a command that must succeed, and returns its output.
    pub(crate) async fn output(&self, command: &str) -> String {
        let (outcome, lines) = self.run(self.task(command)).await;
        assert_eq!(outcome, TaskOutcome::Succeeded, "{lines:#?}");
        lines.join("\n")
    }

    pub(crate) fn workload(&self, app: &Path, command: &str) -> WorkloadSpec {
        WorkloadSpec {
            name: "a test".into(),
            tenant: "one".into(),
            app: app.into(),
            command: command.into(),
            environment: BTreeMap::new(),
            health: None,
            start_timeout: PATIENCE,
            stop_timeout: PATIENCE,
            limits: LIMITS,
            output: None,
        }
    }
}

/// Waits until a workload's state is as it should be.
pub(crate) async fn wait_for(
    workload: &Workload,
    mut wanted: impl FnMut(&WorkloadState) -> bool,
) -> WorkloadState {
    let mut state = workload.state();
    let reached = tokio::time::timeout(PATIENCE, state.wait_for(|state| wanted(state))).await;
    match reached {
        Ok(reached) => reached.expect("a supervisor").clone(),
        Err(_) => panic!("still {:?}", workload.state().borrow().clone()),
    }
}

/// Waits until a condition holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The body that a workload answers to a GET.
pub(crate) async fn get(mut stream: TcpStream, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("write");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read");
    answer.split_once("\r\n\r\n").expect("a head").1.to_owned()
}

/// Processes whose command line contains a text, but this one.
pub(crate) fn processes_with(text: &str) -> Vec<u32> {
    fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(text))
        })
        .collect()
}

/// A text that no other test has.
pub(crate) fn unique(name: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
