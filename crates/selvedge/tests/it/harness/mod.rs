//! A box in a directory of its own, repositories to push to it, and clients that watch it.

pub(crate) mod browser;
pub(crate) mod clients;
pub(crate) mod repository;

use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use selvedge_api::{Client, ClientConfig, DevInfo, Status};
use selvedge_model::AppName;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// How long anything that a test waits for may take before the test fails. Generous, as machines
/// are slow at times; nothing is asserted about how long it took.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A running box.
pub(crate) struct Planet {
    pub(crate) data: PathBuf,
    pub(crate) info: DevInfo,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    supervisor: Child,
    // Last, so that the processes end before their directory goes.
    directory: Option<tempfile::TempDir>,
}

impl Planet {
    /// Starts a box of `sites` sites on free ports. `arguments` are added to the command line.
    pub(crate) async fn start(sites: usize, arguments: &[&str]) -> Self {
        Self::start_with(sites, arguments, &[]).await
    }

    /// The same with variables of the environment.
    pub(crate) async fn start_with(
        sites: usize,
        arguments: &[&str],
        environment: &[(&str, String)],
    ) -> Self {
        let directory = tempfile::Builder::new().prefix("selvedge-test-").tempdir().unwrap();
        let data = directory.path().join("box");
        let mut planet = Self::launch(&data, sites, arguments, environment).await;
        planet.directory = Some(directory);
        planet
    }

    /// The same in a directory that the test keeps.
    pub(crate) async fn start_at(data: &Path, sites: usize, arguments: &[&str]) -> Self {
        Self::launch(data, sites, arguments, &[]).await
    }

    async fn launch(
        data: &Path,
        sites: usize,
        arguments: &[&str],
        environment: &[(&str, String)],
    ) -> Self {
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let ports = free_ports(sites);
        let mut all: Vec<String> = ["dev", "--json", "--sites"].map(String::from).to_vec();
        all.push(sites.to_string());
        for (flag, port) in ["--http", "--https", "--dns", "--control"].iter().zip(ports) {
            all.extend([(*flag).to_owned(), port.to_string()]);
        }
        all.extend(["--data".into(), data.to_string_lossy().into_owned()]);
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let (supervisor, info) = launch(&all, &environment).await;
        let data = data.to_owned();
        Self { data, info, arguments: all, environment, supervisor, directory: None }
    }

    /// Starts the supervisor again on the same data, after it has ended.
    pub(crate) async fn restart(&mut self) {
        let (supervisor, info) = launch(&self.arguments, &self.environment).await;
        self.supervisor = supervisor;
        self.info = info;
    }

    /// The supervisor's process id.
    pub(crate) fn supervisor_pid(&self) -> u32 {
        self.info.pid
    }

    /// Waits for the supervisor to end.
    pub(crate) async fn supervisor_ended(&mut self) -> std::process::ExitStatus {
        tokio::time::timeout(PATIENCE, self.supervisor.wait())
            .await
            .expect("the supervisor did not end")
            .unwrap()
    }

    /// Asks the box to end and waits for it.
    pub(crate) async fn stop(mut self) {
        signal(self.supervisor_pid(), nix::sys::signal::Signal::SIGTERM);
        let status = self.supervisor_ended().await;
        assert!(status.success(), "the box ended with {status}");
        assert!(!self.data.join("dev.json").exists(), "dev.json is left");
    }

    /// `dev.json` as it stands now.
    pub(crate) fn current_info(&self) -> Option<DevInfo> {
        serde_json::from_slice(&std::fs::read(self.data.join("dev.json")).ok()?).ok()
    }

    /// A client of the control API.
    pub(crate) fn api(&self) -> Client {
        Client::new(&ClientConfig {
            url: self.info.control.clone(),
            token: self.info.token.clone(),
            ca: Some(self.info.ca.clone()),
        })
        .unwrap()
    }

    /// The status, once control answers.
    pub(crate) async fn status(&self) -> Status {
        let api = self.api();
        eventually("control answers", async || api.status().await.ok()).await
    }

    /// The live release of an app (12 digits).
    pub(crate) async fn live_release(&self, app: &str) -> Option<String> {
        let app = AppName::new(app).unwrap();
        let status = self.status().await;
        let found = status.apps.into_iter().find(|status| status.summary.app == app)?;
        found.summary.live.map(|live| live.release)
    }

    /// The command-line client, pointed at this box.
    pub(crate) fn command(&self, directory: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
        command
            .current_dir(directory)
            .env("SELVEDGE_DATA", &self.data)
            .env_remove("SELVEDGE_CONTROL")
            .env_remove("SELVEDGE_TOKEN")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        command
    }
}

/// A failed test leaves its box's logs to be looked at.
impl Drop for Planet {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(directory) = &mut self.directory
        {
            directory.disable_cleanup(true);
            eprintln!("the box of the failed test is kept in {}", self.data.display());
        }
    }
}

async fn launch(arguments: &[String], environment: &[(String, String)]) -> (Child, DevInfo) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_selvedge"))
        .args(arguments)
        .envs(environment.iter().cloned())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line())
        .await
        .expect("the box was not ready in time");
    let Some(line) = line.unwrap() else {
        panic!("the box ended before it was ready: {:?}", child.wait().await);
    };
    (child, serde_json::from_str(&line).unwrap())
}

/// Ports that are free, for TCP and UDP, at every address of a box.
fn free_ports(sites: usize) -> [u16; 4] {
    let mut found = Vec::new();
    let mut held = Vec::new();
    while found.len() < 4 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        held.push(listener);
        let free = (1..=sites).all(|last| {
            let address = (std::net::Ipv4Addr::new(127, 0, 1, u8::try_from(last).unwrap()), port);
            TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
        });
        if free {
            found.push(port);
        }
    }
    [found[0], found[1], found[2], found[3]]
}

/// Sends a signal to a process that this test started.
pub(crate) fn signal(pid: u32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap()), signal)
        .unwrap();
}

/// Asks until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Process ids of everything that descends from `pid`, the shims' namespaces included.
pub(crate) fn descendants(pid: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        // The command stands in parentheses and may hold spaces.
        let Some((_, rest)) = stat.rsplit_once(')') else { continue };
        let mut fields = rest.split_whitespace();
        let state = fields.next().unwrap_or_default();
        let parent: u32 = fields.next().and_then(|field| field.parse().ok()).unwrap_or_default();
        if state != "Z" {
            parents.push((child, parent));
        }
    }
    let mut found = vec![pid];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(parents.iter().filter(|(_, its)| *its == parent).map(|(child, _)| *child));
        next += 1;
    }
    found.remove(0);
    found
}

/// Whether a process lives (a zombie does not).
pub(crate) fn lives(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| stat.rsplit_once(')').map(|(_, rest)| !rest.trim_start().starts_with('Z')))
        .unwrap_or(false)
}

/// Whether this test can run: it wants root.
pub(crate) fn can_isolate() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skip("this test runs apps in sandboxes and wants root");
    }
    root
}

/// Says that a test is not run. It fails where a variable says that all must be.
pub(crate) fn skip(reason: &str) {
    for name in ["CI", "SELVEDGE_REQUIRE_ROOT"] {
        assert!(std::env::var_os(name).is_none(), "{name} is set, but {reason}");
    }
    eprintln!("SKIPPED: {reason}");
}
