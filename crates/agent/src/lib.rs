//! One site node: it makes the site be what its documents say, and says how that went.
//!
//! The agent watches assignments, activations, certificates and zones in the fabric, keeps the last
//! good ones in a ledger on disk, and turns them into snapshots for the proxy and the DNS server
//! and workloads for the runtime. It makes no choices and never writes what is wanted; it writes
//! reports and a lease. With its ledger it starts and serves while everything else is down.
//!
//! The way of a document: [`watch`] takes it from the fabric, [`documents`] decides whether it is
//! newer and whole, [`ledger`] makes it durable, [`desired`] works out what it asks for, [`diff`]
//! what is missing, and [`reconciler`] does that and publishes the result.

mod admin;
mod artifacts;
mod certificates;
mod desired;
mod diff;
mod documents;
mod elsewhere;
mod events;
mod floors;
mod layout;
mod lease;
mod ledger;
mod listeners;
mod log;
mod orders;
mod probe;
mod publish;
mod reconciler;
mod report;
mod resources;
mod restore;
mod snapshot;
mod status;
mod tickets;
mod tunnel;
mod watch;
mod workloads;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use selvedge_fabric::SharedFabric;
use selvedge_fabric::layout::LayoutError;
use selvedge_model::SiteId;
use selvedge_model::operation::Target;
use selvedge_proxy::Snapshot;
use selvedge_proxy::standalone::DiskSettings;
use selvedge_runtime::{Runtime, RuntimeError};
use selvedge_telemetry::access::{AccessLog, AccessRecord};
use selvedge_telemetry::journal::{Journal, Writer};
use tokio::sync::mpsc;
use tokio::sync::watch::{Receiver, Sender};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::documents::Documents;
use crate::ledger::{Ledger, OpenError};
use crate::listeners::{Bound, bind, listen, reachable};
use crate::log::{Event, SiteLog};
use crate::orders::Orders;
use crate::reconciler::{Outputs, Reconciler, Setup};
use crate::report::{Aside, Identity};
use crate::status::Status;
use crate::tunnel::Subjects;

/// How long a starting agent lets clients wait for what the ledger promises. They wait in the
/// listener's queue and are answered by the release that they should see.
const SETTLE: Duration = Duration::from_secs(2);

/// How many access records may wait to be written down before new ones are dropped and counted.
const ACCESS_QUEUE: usize = 8192;

/// How often lost access records are counted.
const LOST: Duration = Duration::from_secs(1);

/// The socket in an agent's directory to purge and look at the site's cache by.
pub const ADMIN_SOCKET: &str = "admin.sock";

/// What an agent needs to know to start.
pub struct Config {
    /// The site that this node is of.
    pub site: SiteId,
    /// The node's own directory: ledger and log.
    pub data: PathBuf,
    /// Unpacked artifacts, shared by all agents of the machine.
    pub artifacts: PathBuf,
    /// The fabric.
    pub fabric: SharedFabric,
    /// The socket at which control listens for tunnels.
    pub tunnel: PathBuf,
    /// How much the log may take on disk, in bytes.
    pub log_bytes: u64,
    /// Plain HTTP.
    pub http: SocketAddr,
    /// HTTPS.
    pub https: SocketAddr,
    /// Serve HTTP/3 at the port of HTTPS too. Where that can't be, the site does without and says
    /// so.
    pub http3: bool,
    /// Where responses are stored beside memory.
    pub cache_disk: Option<DiskSettings>,
    /// DNS.
    pub dns: SocketAddr,
    /// The agent's own endpoint for machines, on loopback; port 0 picks a free one.
    pub admin: SocketAddr,
    /// The executable to run as shim.
    pub executable: PathBuf,
    /// Directories that workloads may never see.
    pub hidden: Vec<PathBuf>,
    /// Run workloads without a sandbox where the machine can't make one.
    pub allow_unsafe: bool,
    /// The table of tenants' user ids; `None`: the machine's.
    pub tenants: Option<PathBuf>,
    /// Add to responses and error pages what a developer wants to know.
    pub explain: bool,
}

/// Why an agent can't start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A listener can't be bound.
    #[error("can't listen on {address} for {purpose}")]
    Listen {
        /// What it is for.
        purpose: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The admin endpoint would be open to others.
    #[error("the admin endpoint can't listen on {0}: it has no authentication, so loopback only")]
    AdminNotLoopback(SocketAddr),
    /// The agent's own directory or the artifact store can't be used.
    #[error("can't use {}: {reason}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why, in words.
        reason: String,
    },
    /// The agent's own directory is another's, or of a later version of Selvedge.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Workloads can't be run.
    #[error("can't run workloads")]
    Runtime(#[source] RuntimeError),
}

/// An agent that has read its ledger and bound its listeners.
pub struct Agent {
    fabric: SharedFabric,
    ledger: Ledger,
    reconciler: Reconciler,
    identity: Identity,
    documents: Sender<Arc<Documents>>,
    status: Receiver<Arc<Status>>,
    bound: Bound,
    http: SocketAddr,
    https: SocketAddr,
    orders: Orders,
    access: (AccessLog, mpsc::Receiver<AccessRecord>),
    writer: Writer,
}

impl Agent {
    /// Reads the ledger and binds every listener.
    pub async fn start(config: Config) -> Result<Self, AgentError> {
        if !config.admin.ip().is_loopback() {
            return Err(AgentError::AdminNotLoopback(config.admin));
        }
        let (ledger, restored) = read_ledger(&config).await?;
        let store = open_store(&config).await?;
        let runtime = make_runtime(&config).await?;

        let (log, writer) = open_log(&config).await?;
        let (access, records) = AccessLog::channel(ACCESS_QUEUE);
        let snapshot = Sender::new(Arc::new(nothing(&config)));
        let zones = Sender::new(Arc::new(selvedge_dns::Snapshot::new(Vec::new())));
        let bound = bind(&config, &snapshot, &zones, access.clone()).await?;
        let admin = bound.admin.local_addr().map_err(listen("administration", config.admin))?;

        let status = Sender::new(Arc::new(Status::default()));
        let identity = Identity {
            site: config.site.clone(),
            pid: std::process::id(),
            started_ms: probe::now_ms(),
            admin: format!("http://{admin}"),
            limitations: runtime.degraded(),
        };
        let documents = Sender::new(Arc::new(restored.documents));
        let mut problems = restored.problems;
        problems.extend(isolation_problem(&runtime, config.allow_unsafe));
        problems.extend(bound.problems.iter().cloned());
        let setup = Setup {
            site: config.site.clone(),
            fabric: Arc::clone(&config.fabric),
            store,
            runtime,
            ledger: ledger.clone(),
            log: log.clone(),
            proxy: reachable(bound.proxy.address("HTTP").unwrap_or(config.http)),
            explain: config.explain,
            probe_key: holder(),
            problems,
        };
        let receiver = status.subscribe();
        let workloads = Sender::new(Arc::default());
        let orders = Orders {
            target: Target::sole(config.site),
            fabric: Arc::clone(&config.fabric),
            tunnel: config.tunnel,
            subjects: Subjects { log, workloads: workloads.subscribe() },
        };
        let reconciler = Reconciler::new(
            setup,
            documents.subscribe(),
            Outputs { snapshot, dns: zones, status, workloads },
            restored.releases,
            restored.floors,
        );
        Ok(Self {
            fabric: config.fabric,
            ledger,
            reconciler,
            identity,
            documents,
            status: receiver,
            http: bound.proxy.address("HTTP").unwrap_or(config.http),
            https: bound.proxy.address("HTTPS").unwrap_or(config.https),
            bound,
            orders,
            access: (access, records),
            writer,
        })
    }

    /// Where plain HTTP is served.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Where HTTPS is served.
    pub fn https_address(&self) -> SocketAddr {
        self.https
    }

    /// Where DNS is served.
    pub fn dns_address(&self) -> SocketAddr {
        self.bound.dns.address()
    }

    /// Where the admin endpoint listens.
    pub fn admin_address(&self) -> SocketAddr {
        self.bound.admin.local_addr().unwrap_or_else(|_| (Ipv4Addr::LOCALHOST, 0).into())
    }

    /// Works until `token` is cancelled; then the proxy finishes what is under way, and only then
    /// the workloads end.
    pub async fn run(self, token: CancellationToken) {
        let site = self.identity.site.clone();
        let Bound { proxy, dns, admin, socket, snapshot, .. } = self.bound;
        let tasks = TaskTracker::new();
        let lease_problem = Sender::new(None);
        let aside =
            Aside { lease: lease_problem.subscribe(), listeners: proxy.handle().listeners() };
        tasks.spawn(watch::run(
            site.clone(),
            Arc::clone(&self.fabric),
            self.ledger,
            self.documents,
            token.clone(),
        ));
        tasks.spawn(report::run(
            self.identity.clone(),
            Arc::clone(&self.fabric),
            self.status.clone(),
            aside.clone(),
            token.clone(),
        ));
        let state = admin::State { identity: self.identity, status: self.status.clone(), aside };
        tasks.spawn(admin::run(admin, state, token.clone()));
        if let Some(socket) = socket {
            tasks.spawn(socket.run(proxy.cache(), snapshot, token.clone()));
        }
        let log = self.orders.subjects.log.clone();
        let lease = lease::Lease { site, holder: holder(), fabric: self.fabric, log: log.clone() };
        tasks.spawn(lease.run(lease_problem, token.clone()));
        tasks.spawn(orders::run(self.orders, token.clone()));
        tasks.spawn(dns.run(token.clone()));
        let (workloads, writer) = (CancellationToken::new(), CancellationToken::new());
        let reconciling = tasks.spawn(self.reconciler.run(workloads.clone()));
        let writing = tasks.spawn(self.writer.run(writer.clone()));
        let (access, records) = self.access;
        let recording = tasks.spawn(log.clone().take_access(records));
        tasks.spawn(count_lost(access, log, token.clone()));

        settle(self.status, &token).await;
        proxy.run(token).await;
        workloads.cancel();
        let _ = reconciling.await;
        // Its connections have ended, and with them the last to record anything.
        let _ = tokio::time::timeout(SETTLE, recording).await;
        writer.cancel();
        let _ = writing.await;
        tasks.close();
        tasks.wait().await;
    }
}

/// Opens the site's log and notes that the agent is there.
async fn open_log(config: &Config) -> Result<(SiteLog, Writer), AgentError> {
    let (path, limit) = (config.data.join("log"), config.log_bytes);
    let directory = path.clone();
    let opened = tokio::task::spawn_blocking(move || Journal::open(&directory, limit)).await;
    let (journal, writer) = opened
        .map_err(std::io::Error::other)
        .flatten()
        .map_err(|error| AgentError::Directory { path, reason: error.to_string() })?;
    let log = SiteLog::new(config.site.clone(), journal);
    let text = format!("agent {} started, pid {}", env!("CARGO_PKG_VERSION"), std::process::id());
    log.event(Event::site(selvedge_api::LogLevel::Info, text));
    Ok((log, writer))
}

/// Notes how many access records could not be taken.
async fn count_lost(access: AccessLog, log: SiteLog, token: CancellationToken) {
    let mut told = 0;
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(LOST) => {}
        }
        let lost = access.dropped();
        log.lost_access(lost - told);
        told = lost;
    }
}

/// What the proxy serves before anything is known.
fn nothing(config: &Config) -> Snapshot {
    Snapshot {
        site: config.site.clone(),
        pins: None,
        hosts: HashMap::new(),
        rest: None,
        certificates: HashMap::new(),
        default_certificate: None,
        tls: Arc::default(),
        explain: config.explain,
        probe_key: None,
    }
}

async fn read_ledger(config: &Config) -> Result<(Ledger, restore::Restored), AgentError> {
    let (data, site) = (config.data.clone(), config.site.clone());
    let read = tokio::task::spawn_blocking(move || {
        let mut opened = Ledger::open(&data)?;
        let restored = restore::restore(&site, &mut opened);
        Ok((opened.ledger, restored))
    })
    .await;
    let read = read.map_err(|error| OpenError::File(std::io::Error::other(error)));
    read.flatten().map_err(|error| match error {
        OpenError::Layout(error) => AgentError::Layout(error),
        OpenError::File(error) => {
            AgentError::Directory { path: config.data.clone(), reason: error.to_string() }
        }
    })
}

/// A machine that can't make sandboxes still serves static apps; its processes fail in words.
async fn make_runtime(config: &Config) -> Result<Runtime, AgentError> {
    let mut settings =
        selvedge_runtime::Config::new(config.executable.clone(), config.data.join("sandboxes"));
    settings.hidden = config.hidden.clone();
    settings.hidden.push(config.data.clone());
    let stored = config.cache_disk.as_ref().map(|disk| disk.directory.clone());
    settings.hidden.extend(stored.clone());
    settings.allow_unsafe = config.allow_unsafe;
    if let Some(tenants) = &config.tenants {
        settings.tenants.clone_from(tenants);
    }
    let make = move || {
        // What is not there can't be hidden. If it can't be made, that is said where it is opened.
        if let Some(directory) = stored {
            let _ = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        }
        Runtime::new(settings)
    };
    match tokio::task::spawn_blocking(make).await {
        Ok(made) => made.map_err(AgentError::Runtime),
        Err(error) => Err(AgentError::Runtime(RuntimeError::Setup(error.to_string()))),
    }
}

/// What to tell the operator where programs can't be isolated.
fn isolation_problem(runtime: &Runtime, allow_unsafe: bool) -> Option<String> {
    let consequence = if allow_unsafe {
        "processes run without a sandbox, as --unsafe-builds says"
    } else {
        "no processes run here"
    };
    runtime
        .no_sandbox()
        .map(|reason| format!("this machine can't isolate programs ({reason}): {consequence}"))
}

async fn open_store(config: &Config) -> Result<artifacts::Store, AgentError> {
    let (root, site) = (config.artifacts.clone(), config.site.clone());
    let opened = tokio::task::spawn_blocking(move || {
        artifacts::Store::open(&root, &site)
            .map_err(|error| selvedge_telemetry::logging::Chain(&error).to_string())
    })
    .await;
    opened
        .map_err(|error| error.to_string())
        .flatten()
        .map_err(|reason| AgentError::Directory { path: config.artifacts.clone(), reason })
}

/// Waits until what users should see is there, bounded.
async fn settle(mut status: Receiver<Arc<Status>>, token: &CancellationToken) {
    tokio::select! {
        () = token.cancelled() => {}
        _ = tokio::time::timeout(SETTLE, status.wait_for(|status| status.settled)) => {}
    }
}

/// A text that no other process has or guesses, for the lease and for probes.
fn holder() -> String {
    let mut bytes = [0_u8; 16];
    match getrandom::fill(&mut bytes) {
        Ok(()) => hex::encode(bytes),
        Err(_) => format!("{}-{}", std::process::id(), probe::now_ms()),
    }
}
