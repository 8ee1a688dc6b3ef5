//! One proxy that runs, from its start to its end.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::SERVER_CORE;
use super::case::Over;
use super::certificate::Certificate;
use super::children::{Children, Output, Running};
use super::peers::{Peer, Setting, Tools};
use super::processes::{self, CpuTimes};

/// How long a proxy may take to listen.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// What all servers of a benchmark are started with.
pub(super) struct Ground<'a> {
    pub(super) tools: &'a Tools,
    pub(super) children: &'a Children,
    pub(super) certificate: &'a Certificate,
    pub(super) origin: u16,
    /// On a memory file system where there is one.
    pub(super) directory: &'a Path,
}

/// A running proxy, which ends, and whose files go away, when this is dropped.
pub(super) struct Server {
    peer: Peer,
    running: Running,
    plain: SocketAddr,
    tls: SocketAddr,
    directory: tempfile::TempDir,
    chain: PathBuf,
}

impl Server {
    /// Starts the proxy on the servers' core and waits until it listens.
    pub(super) fn start(
        peer: Peer,
        ground: &Ground<'_>,
        encrypted: bool,
        cache_mib: u64,
    ) -> anyhow::Result<Self> {
        let directory =
            tempfile::Builder::new().prefix(peer.name()).tempdir_in(ground.directory)?;
        let [plain, tls] = free_ports()?;
        let setting = Setting {
            directory: directory.path(),
            origin: ground.origin,
            plain: plain.port(),
            tls: tls.port(),
            encrypted,
            cache_mib,
            certificate: ground.certificate,
        };
        let command = peer.command(ground.tools, &setting)?;
        let log = File::create(directory.path().join("output.log"))?;
        let running = ground.children.spawn(SERVER_CORE, &command, Output::Into(log))?;
        let chain = ground.certificate.chain.clone();
        let mut server = Self { peer, running, plain, tls, directory, chain };
        server.wait(encrypted)?;
        Ok(server)
    }

    fn wait(&mut self, encrypted: bool) -> anyhow::Result<()> {
        let address = if encrypted { self.tls } else { self.plain };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            if self.running.has_ended() {
                bail!("it ended while it started: {}", self.last_words());
            }
            if Instant::now() > deadline {
                bail!("it does not listen after {PATIENCE:?}: {}", self.last_words());
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// The last line that it has printed.
    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(self.directory.path().join("output.log"));
        let text = text.unwrap_or_default();
        text.lines().last().unwrap_or("it printed nothing").chars().take(300).collect()
    }

    pub(super) fn peer(&self) -> Peer {
        self.peer
    }

    pub(super) fn address(&self, encrypted: bool) -> SocketAddr {
        if encrypted { self.tls } else { self.plain }
    }

    /// The URL of a path. By TLS it has the certificate's name, and is at [`Self::address`].
    pub(super) fn url(&self, over: Over, path: &str) -> String {
        if over.is_encrypted() {
            format!("https://localhost:{}{path}", self.tls.port())
        } else {
            format!("http://{}{path}", self.plain)
        }
    }

    /// The certificate that it shows.
    pub(super) fn chain(&self) -> &Path {
        &self.chain
    }

    pub(super) fn cpu_times(&self) -> anyhow::Result<CpuTimes> {
        let tree = self.running.tree().context("it has ended")?;
        Ok(CpuTimes::of(&tree))
    }

    /// Bytes in memory: of its processes, and of its files, which lie in memory too.
    pub(super) fn memory(&self) -> anyhow::Result<u64> {
        let tree = self.running.tree().context("it has ended")?;
        Ok(processes::memory(&tree)? + processes::disk_usage(self.directory.path())?)
    }
}

/// Two addresses that are free just now. That UDP's ports are free too is likely, and the proxy
/// says so when they are not.
fn free_ports() -> anyhow::Result<[SocketAddr; 2]> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let held = [bind()?, bind()?];
    let [plain, tls] = &held;
    Ok([plain.local_addr()?, tls.local_addr()?])
}
