//! The composition of a control process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use selvedge_api::{ControlStatus, Token};
use selvedge_fabric::embedded::{Embedded, OpenError};
use selvedge_fabric::server::{BindError, Server};
use selvedge_fabric::socket::Socket;
use selvedge_fabric::{Expect, Fabric, FabricError, SharedFabric, Typed, WriteError};
use selvedge_model::documents::PinKeys;
use selvedge_model::{Host, Installation, Topology, keys};
use selvedge_runtime::{Runtime, RuntimeError};
use selvedge_telemetry::journal::Journal;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::authority::{Authority, AuthorityError};
use crate::console::{self, Console, Reach, Signing};
use crate::data::{DataDirectory, DataError, random};
use crate::drivers::{self, Certificates, Names, Places, Problems, Tickets};
use crate::git::{Git, GitError, GitService, ServiceConfig};
use crate::logs::{Logs, OwnLog};
use crate::operations::Operations;
use crate::pipeline::{self, Limits, Pipeline, PipelineConfig, PipelineError};
use crate::server::{self, Api, Observe, Parts, tls};
use crate::tasks::{Ended, Tasks};
use crate::tunnels::Tunnels;
use crate::world::Mirror;
use crate::{now_ms, token, views};

/// The fabric's socket in the data directory.
pub const FABRIC_SOCKET: &str = "fabric.sock";

/// The socket in the data directory at which sites open tunnels.
pub const TUNNEL_SOCKET: &str = "tunnel.sock";

/// How much control's own log may take on disk, in bytes.
const LOG_BYTES: u64 = 64 << 20;

/// What the drivers plan on.
pub(crate) const DRIVEN: [&str; 10] = [
    keys::INSTALLATION,
    keys::TOPOLOGY,
    keys::APPS,
    keys::RELEASES,
    keys::ASSIGNMENTS,
    keys::ACTIVATIONS,
    keys::CERTIFICATES,
    keys::ZONES,
    keys::SITE_REPORTS,
    keys::APP_REPORTS,
];

/// What control needs to know to start.
pub struct Config {
    /// Everything that control keeps: store, blobs, repositories, authority, caches. Mode 0700.
    pub data: PathBuf,
    /// The API and git endpoint: plain HTTP on loopback, HTTPS with a certificate of the authority
    /// elsewhere. Port 0 picks a free one.
    pub listen: SocketAddr,
    /// Where apps that name no host are served: `APP.ZONE`.
    pub zone: Host,
    /// The installation's sites, written to the fabric when they differ.
    pub topology: Topology,
    /// Serve apps at `APP.localhost` too, and tell DNS of the built-in cities' client subnets.
    pub in_a_box: bool,
    /// Let upstreams be at the sites' own addresses, their loopback included. The box does anyway.
    pub allow_local_upstreams: bool,
    /// The executable, for git hooks and sandboxes.
    pub executable: PathBuf,
    /// Run builds without a sandbox where the machine can't make one.
    pub unsafe_builds: bool,
    /// The table of tenants' user ids; `None`: the machine's.
    pub tenants: Option<PathBuf>,
}

/// Why control can't start, or can't go on.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The listener can't be bound.
    #[error("can't listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The data directory can't be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The certificate authority can't be used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The store can't be opened.
    #[error("can't open the store")]
    Store(#[source] OpenError),
    /// The store can't be served to the machine's other processes.
    #[error("can't serve the store to sites")]
    Socket(#[source] BindError),
    /// Builds can't be prepared for.
    #[error("can't prepare for builds")]
    Runtime(#[from] RuntimeError),
    /// git is not there, or too old.
    #[error("pushes need git")]
    Git(#[from] GitError),
    /// Control's own log can't be opened.
    #[error("can't open the log")]
    Log(#[source] std::io::Error),
    /// The pipeline can't be set up.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// The store failed.
    #[error("the store failed")]
    Fabric(#[from] FabricError),
    /// A part of control that the rest can't do without has ended.
    #[error(transparent)]
    Ended(#[from] Ended),
}

/// A control process that has bound its listener and opened its store.
pub struct Control {
    address: SocketAddr,
    token: Token,
    authority_path: PathBuf,
    fabric_socket: PathBuf,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: axum::Router,
    tasks: Tasks,
    // Last, so that the lock outlives whatever writes into the directory.
    _data: DataDirectory,
}

impl Control {
    /// Opens the store, completes or undoes what an earlier life left, and binds the listener.
    /// Sites can reach the store from here on; the API is served by [`Control::run`].
    pub async fn start(config: Config) -> Result<Self, ControlError> {
        let data = DataDirectory::open(&config.data)?;
        let cannot_listen = |source| ControlError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(cannot_listen)?;
        let address = listener.local_addr().map_err(cannot_listen)?;
        let token = token::load_or_create(&data.join("token"))?;
        let authority = Arc::new(Authority::load_or_create(&data.join("authority"), now_ms())?);
        let tls = secure(&authority, address)?;
        let authority_path = authority.certificate_path().to_owned();

        let store = Embedded::open(&data.join("fabric")).map_err(ControlError::Store)?;
        let fabric: SharedFabric = Arc::new(store);
        found(&*fabric, &config).await?;
        let fabric_socket = data.join(FABRIC_SOCKET);
        let server = Server::bind(&fabric_socket, fabric.clone()).map_err(ControlError::Socket)?;
        let mut tasks = Tasks::default();
        tasks.spawn_last("the store's socket", |token| server.run(token));
        let problems = drive(&mut tasks, &fabric, authority).await?;

        let runtime = sandboxes(&config, &data)?;
        let status = as_it_starts(&config, &*fabric, &runtime).await?;
        let (journal, observe) = observe(&mut tasks, &fabric, &data).await?;
        let git = Git::open(data.path(), &config.executable).await?;
        let hook_socket = pipeline::hook_socket(data.path());
        let pipeline = Pipeline::new(PipelineConfig {
            fabric: fabric.clone(),
            runtime,
            git: git.clone(),
            data: data.path().to_owned(),
            installation: installation(&config),
            limits: Limits::default(),
            journal,
        })?;
        let signing = Signing {
            token: token.clone(),
            sessions: data.join("console.json"),
            reach: Reach {
                names: tls::names(address),
                port: address.port(),
                secure: tls.is_some(),
            },
        };
        let console =
            show(&mut tasks, &fabric, &observe, &problems, status.clone(), signing).await?;
        let parts = Parts {
            fabric,
            token: token.clone(),
            control: status,
            problems,
            console,
            git: GitService::new(ServiceConfig { git, hook_socket }),
            pipeline: pipeline.handle(),
            observe,
        };
        let router = Api::new(parts).router();
        tasks.spawn("the pipeline", |token| pipeline.run(token));
        Ok(Self {
            address,
            token,
            authority_path,
            fabric_socket,
            listener,
            tls,
            router,
            tasks,
            _data: data,
        })
    }

    /// Where the API is served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The API's URL, without a slash at the end. On all addresses: by the machine's name.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        match tls::host_name() {
            Some(name) if self.address.ip().is_unspecified() => {
                format!("{scheme}://{name}:{}", self.address.port())
            }
            _ => format!("{scheme}://{}", self.address),
        }
    }

    /// The operator's token. Also kept in `DATA/token`, mode 0600.
    pub fn token(&self) -> &str {
        &self.token.0
    }

    /// The fabric's socket, for agents of the same machine.
    pub fn fabric_socket(&self) -> PathBuf {
        self.fabric_socket.clone()
    }

    /// The certificate authority's certificate, PEM.
    pub fn authority_path(&self) -> PathBuf {
        self.authority_path.clone()
    }

    /// Works until `token` is cancelled. An error means that a part has ended by itself: the
    /// process should end too and be started again.
    pub async fn run(self, token: CancellationToken) -> Result<(), ControlError> {
        // The lock on the data directory is held until everything has ended.
        let Self { listener, tls, router, mut tasks, _data, .. } = self;
        tasks.spawn("the API", |token| server::serve(listener, tls, router, token));
        Ok(tasks.run(token).await?)
    }
}

/// Control as the API and the console show it.
async fn as_it_starts(
    config: &Config,
    fabric: &dyn Fabric,
    runtime: &Runtime,
) -> Result<ControlStatus, FabricError> {
    Ok(ControlStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started_ms: now_ms(),
        incarnation: fabric.incarnation().await?,
        zone: config.zone.clone(),
        problems: no_sandbox(runtime, config.unsafe_builds).into_iter().collect(),
        limitations: runtime.degraded(),
    })
}

/// Starts what keeps the console's world up to date.
async fn show(
    tasks: &mut Tasks,
    fabric: &SharedFabric,
    observe: &Observe,
    problems: &Problems,
    control: ControlStatus,
    signing: Signing,
) -> Result<Console, FabricError> {
    let mirror = Mirror::start(fabric, &views::PREFIXES).await?;
    let (logs, problems) = (observe.logs.clone(), problems.clone());
    let opened = logs.clone();
    let console = Console::new(console::Config {
        world: mirror.subscribe(),
        control,
        problems: Arc::new(move || problems.list().into_iter().chain(logs.problem()).collect()),
        logs: Arc::new(move |filter| {
            Box::pin(opened.open_within(filter, console::PATIENCE).into_stream())
        }),
        signing,
    });
    tasks.spawn("the console's mirror of the store", |token| mirror.run(token));
    Ok(console)
}

/// TLS, unless only this machine can connect.
fn secure(
    authority: &Arc<Authority>,
    address: SocketAddr,
) -> Result<Option<TlsAcceptor>, AuthorityError> {
    if address.ip().is_loopback() {
        return Ok(None);
    }
    tls::acceptor(Arc::clone(authority), tls::names(address)).map(Some)
}

/// Opens control's own log, and starts what asks sites for something and waits for their answers.
async fn observe(
    tasks: &mut Tasks,
    fabric: &SharedFabric,
    data: &DataDirectory,
) -> Result<(Journal, Observe), ControlError> {
    let (journal, writer) =
        Journal::open(&data.join("log"), LOG_BYTES).map_err(ControlError::Log)?;
    tasks.spawn_last("the log", |token| writer.run(token));
    let socket = Socket::bind(&data.join(TUNNEL_SOCKET)).map_err(ControlError::Socket)?;
    let operations = Operations::open(fabric.clone()).await?;
    let tunnels = Tunnels::new(operations.clone());
    let running = operations.clone();
    tasks.spawn("operations", |token| running.run(token));
    let accepting = tunnels.clone();
    tasks.spawn("the tunnels' socket", |token| accepting.run(socket, token));
    let logs = Logs::new(fabric.clone(), tunnels.clone(), OwnLog::new(journal.clone()));
    Ok((journal, Observe { logs, tunnels, operations }))
}

/// What runs builds and tests. Nothing that runs may see control's data.
fn sandboxes(config: &Config, data: &DataDirectory) -> Result<Runtime, RuntimeError> {
    let usual = selvedge_runtime::Config::new(config.executable.clone(), data.join("sandboxes"));
    Runtime::new(selvedge_runtime::Config {
        hidden: vec![data.path().to_owned()],
        allow_unsafe: config.unsafe_builds,
        tenants: config.tenants.clone().unwrap_or(usual.tenants.clone()),
        ..usual
    })
}

/// What to tell the operator of a machine that can't isolate programs.
fn no_sandbox(runtime: &Runtime, unsafe_builds: bool) -> Option<String> {
    let reason = runtime.no_sandbox()?;
    let consequence = if unsafe_builds {
        "builds run without a sandbox, as --unsafe-builds says"
    } else {
        "pushes that build or test anything are refused"
    };
    Some(format!("this machine can't isolate programs ({reason}): {consequence}"))
}

fn installation(config: &Config) -> Installation {
    Installation {
        zone: config.zone.clone(),
        in_a_box: config.in_a_box,
        local_upstreams: config.allow_local_upstreams,
    }
}

/// Writes what an installation rests on.
async fn found(fabric: &dyn Fabric, config: &Config) -> Result<(), ControlError> {
    ensure(fabric, keys::INSTALLATION, &installation(config)).await?;
    ensure(fabric, keys::TOPOLOGY, &config.topology).await?;
    // Pins that clients hold stay valid, so the keys are never replaced here.
    let keys = PinKeys { keys: vec![hex::encode(random::<32>()?)] };
    match Typed(fabric).put(keys::PIN_KEYS, &keys, Expect::Absent).await {
        Ok(_) | Err(WriteError::Conflict { .. }) => Ok(()),
        Err(WriteError::Fabric(error)) => Err(error.into()),
    }
}

/// Writes a document unless it is there as it should be.
async fn ensure<T: Serialize>(
    fabric: &dyn Fabric,
    key: &str,
    value: &T,
) -> Result<(), ControlError> {
    let wanted = serde_json::to_vec(value)
        .map_err(|source| FabricError::Document { key: key.to_owned(), source })?;
    if fabric.get(key).await?.is_some_and(|document| document.value == wanted) {
        return Ok(());
    }
    fabric.put(key, wanted.into(), Expect::Any).await.map_err(FabricError::from)?;
    Ok(())
}

/// Starts the planners' drivers.
async fn drive(
    tasks: &mut Tasks,
    fabric: &SharedFabric,
    authority: Arc<Authority>,
) -> Result<Problems, ControlError> {
    let problems = Problems::default();
    let mirror = Mirror::start(fabric, &DRIVEN).await?;
    let certificates = Certificates::new(fabric.clone(), authority);
    let (world, found) = (mirror.subscribe(), problems.clone());
    tasks.spawn("the driver of certificates", |token| {
        drivers::drive(certificates, world, found, token)
    });
    let names = Names::new(fabric.clone());
    let (world, found) = (mirror.subscribe(), problems.clone());
    tasks.spawn("the driver of names", |token| drivers::drive(names, world, found, token));
    let places = Places::new(fabric.clone());
    let (world, found) = (mirror.subscribe(), problems.clone());
    tasks.spawn("the driver of places", |token| drivers::drive(places, world, found, token));
    let tickets = Tickets::new(fabric.clone());
    let (world, found) = (mirror.subscribe(), problems.clone());
    tasks.spawn("the driver of ticket keys", |token| drivers::drive(tickets, world, found, token));
    tasks.spawn("the mirror of the store", |token| mirror.run(token));
    Ok(problems)
}
