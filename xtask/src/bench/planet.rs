//! A box for measuring: the real binary in a directory of its own, on free ports.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::Percentiles;

/// How long a site may take to answer one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The headers of a response are within this many bytes.
const MAX_HEAD: u64 = 16 * 1024;

/// A running box, which ends when this is dropped.
pub(super) struct Planet {
    info: Info,
    binary: PathBuf,
    child: Child,
    directory: tempfile::TempDir,
}

/// What is used of `dev.json`.
#[derive(Deserialize)]
struct Info {
    control: String,
    git: String,
    token: String,
    zone: String,
    sites: Vec<Site>,
}

#[derive(Deserialize)]
pub(super) struct Site {
    id: String,
    address: IpAddr,
    http: u16,
}

#[derive(Deserialize)]
struct Release {
    stages: Vec<Stage>,
}

#[derive(Deserialize)]
struct Stage {
    stage: String,
    duration_ms: Option<u64>,
}

/// How long a stage took.
#[derive(Serialize)]
pub(super) struct StageMedian {
    pub(super) stage: String,
    pub(super) ms: u64,
}

impl Planet {
    /// Starts a box with its default sites and waits until it is ready.
    pub(super) fn start(binary: &Path) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("selvedge-bench-").tempdir()?;
        let mut command = Command::new(binary);
        command.args(["dev", "--json", "--data"]).arg(directory.path().join("box"));
        for (flag, port) in ["--http", "--https", "--dns", "--control"].iter().zip(free_ports()?) {
            command.arg(flag).arg(port.to_string());
        }
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().with_context(|| {
                format!("can't start {}; build it with `make bench`", binary.display())
            })?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("the box has no output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let info = serde_json::from_str(&line).inspect_err(|_| {
            // It printed its reason to stderr, which is ours.
            let _ = child.kill();
        });
        let info: Info = info.context("the box did not start")?;
        Ok(Self { info, binary: binary.to_owned(), child, directory })
    }

    pub(super) fn sites(&self) -> &[Site] {
        &self.info.sites
    }

    /// The default host of an app.
    pub(super) fn host(&self, app: &str) -> String {
        format!("{app}.{}", self.info.zone)
    }

    pub(super) fn remote(&self, repository: &str) -> String {
        format!("{}/{repository}.git", self.info.git)
    }

    pub(super) fn token(&self) -> &str {
        &self.info.token
    }

    /// A directory that lives as long as the box.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The median of each stage over the releases of `app` that control keeps, in their order.
    pub(super) fn stages(&self, app: &str) -> anyhow::Result<Vec<StageMedian>> {
        let output = Command::new(&self.binary)
            .args(["releases", app, "--json"])
            .env("SELVEDGE_CONTROL", &self.info.control)
            .env("SELVEDGE_TOKEN", &self.info.token)
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let releases: Vec<Release> = serde_json::from_slice(&output.stdout)?;
        let mut samples: Vec<(String, Vec<u64>)> = Vec::new();
        for Stage { stage, duration_ms } in releases.into_iter().flat_map(|release| release.stages)
        {
            let Some(ms) = duration_ms else { continue };
            match samples.iter_mut().find(|(known, _)| *known == stage) {
                Some((_, samples)) => samples.push(ms),
                None => samples.push((stage, vec![ms])),
            }
        }
        let median = |(stage, ms)| StageMedian { stage, ms: Percentiles::of(ms).p50 };
        Ok(samples.into_iter().map(median).collect())
    }

    /// Ends the box in order.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM)?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Planet {
    fn drop(&mut self) {
        // All of a box ends with its supervisor. After `stop` there is nothing left to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Site {
    /// The release that the site answers for `host` with.
    pub(super) fn release(&self, host: &str) -> anyhow::Result<String> {
        let address = SocketAddr::new(self.address, self.http);
        let mut stream = TcpStream::connect_timeout(&address, REQUEST_TIMEOUT)?;
        stream.set_read_timeout(Some(REQUEST_TIMEOUT))?;
        write!(stream, "GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")?;
        let mut reader = BufReader::new(stream).take(MAX_HEAD);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let line = line.trim_end();
            ensure!(!line.is_empty(), "site {} names no release", self.id);
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("selvedge-release")
            {
                return Ok(value.trim().to_owned());
            }
        }
    }
}

/// Four ports that are free at 127.0.0.1 just now. That they are free at the sites' addresses too
/// is likely, and the box says so when they are not.
fn free_ports() -> anyhow::Result<[u16; 4]> {
    let bind = || TcpListener::bind("127.0.0.1:0");
    let held = [bind()?, bind()?, bind()?, bind()?];
    let mut ports = [0; 4];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}
