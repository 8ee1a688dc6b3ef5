//! A fabric, what control would write to it, and agents of one site.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use selvedge_agent::{Agent, Config};
use selvedge_fabric::artifact::{Limits, pack};
use selvedge_fabric::client::Client;
use selvedge_fabric::embedded::Embedded;
use selvedge_fabric::server::Server;
use selvedge_fabric::{Expect, SharedFabric, Typed};
use selvedge_model::documents::{Installation, PinKeys};
use selvedge_model::manifest::BuildLimits;
use selvedge_model::manifest::{PathPattern, Placement};
use selvedge_model::{
    Activation, App, AppName, AppReport, Artifact, Assignment, AssignmentEntry, Digest,
    EnvironmentName, Epoch, EpochState, Generation, Host, Release, ReleaseId, RepositoryName,
    Route, Service, ServiceKind, ServiceName, SiteId, SiteReport, keys,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Far beyond what anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(10);

pub(crate) fn shop() -> AppName {
    AppName::new("shop").unwrap()
}

pub(crate) fn fra() -> SiteId {
    SiteId::new("fra").unwrap()
}

pub(crate) fn epoch(number: u64) -> Epoch {
    Epoch::new(1, number)
}

/// Waits until `look` finds something.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(PAUSE).await;
    }
}

pub(crate) struct World {
    pub(crate) directory: TempDir,
    pub(crate) fabric: SharedFabric,
    server: Option<(CancellationToken, JoinHandle<()>)>,
}

impl World {
    /// A fabric that knows an installation.
    pub(crate) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let fabric: SharedFabric =
            Arc::new(Embedded::open(&directory.path().join("fabric")).unwrap());
        let mut world = Self { directory, fabric, server: None };
        world.connect();
        let zone = Host::new("edge.test").unwrap();
        world
            .put(keys::INSTALLATION, &Installation { zone, in_a_box: true, local_upstreams: false })
            .await;
        world.put(keys::PIN_KEYS, &PinKeys { keys: vec!["07".repeat(32)] }).await;
        world
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("fabric.sock")
    }

    /// The lines of a share of the site's log.
    pub(crate) fn log(&self, share: &str) -> String {
        let directory = self.directory.path().join("site/log").join(share);
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(directory).unwrap().map(|it| it.unwrap().path()).collect();
        files.sort();
        files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect()
    }

    /// Lets agents reach the fabric.
    pub(crate) fn connect(&mut self) {
        let token = CancellationToken::new();
        let server = Server::bind(&self.socket(), Arc::clone(&self.fabric)).unwrap();
        self.server = Some((token.clone(), tokio::spawn(server.run(token))));
    }

    /// Puts the fabric out of the agents' reach.
    pub(crate) async fn disconnect(&mut self) {
        let (token, server) = self.server.take().unwrap();
        token.cancel();
        server.await.unwrap();
    }

    pub(crate) async fn put(&self, key: &str, value: &impl Serialize) -> Generation {
        Typed(self.fabric.as_ref()).put(key, value, Expect::Any).await.unwrap()
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        Typed(self.fabric.as_ref()).get(key).await.unwrap().map(|(_, value)| value)
    }

    /// Packs files into a blob.
    pub(crate) async fn artifact(&self, files: &[(&str, &str)]) -> Artifact {
        let scratch = tempfile::tempdir_in(self.directory.path()).unwrap();
        let root = scratch.path().join("root");
        std::fs::create_dir(&root).unwrap();
        for (name, text) in files {
            std::fs::write(root.join(name), text).unwrap();
        }
        let archive = scratch.path().join("archive.tar");
        let size = pack(&root, &archive, Limits::default()).unwrap();
        let digest = self.fabric.put_blob(&archive).await.unwrap();
        Artifact { digest, size }
    }

    /// Publishes a release of the shop with one service at every path.
    pub(crate) async fn release(&self, kind: ServiceKind, artifact: Artifact) -> ReleaseId {
        let name = ServiceName::new("web").unwrap();
        let app = App {
            name: shop(),
            build: None,
            test: None,
            environment: BTreeMap::new(),
            services: vec![Service {
                name: name.clone(),
                kind,
                build: None,
                environment: BTreeMap::new(),
            }],
            force_https: false,
            redirects: Vec::new(),
            routes: vec![Route {
                rewrite: None,
                hosts: BTreeSet::new(),
                path: PathPattern::Prefix(String::new()),
                service: name.clone(),
                response_headers: BTreeMap::new(),
                esi: false,
                graphql: None,
            }],
            placement: Placement::default(),
            build_limits: BuildLimits::default(),
        };
        let tree = artifact.digest.to_string();
        let id = Release::identify(&app, &tree).unwrap();
        let release = Release {
            id,
            app,
            repository: RepositoryName::new("shop").unwrap(),
            directory: String::new(),
            commit: "c0ffee".into(),
            tree,
            subject: "a release".into(),
            created_ms: 0,
            artifacts: BTreeMap::from([(name, artifact)]),
        };
        self.put(&keys::release(&shop(), &id), &release).await;
        id
    }

    /// Publishes a static release whose page says `text`.
    pub(crate) async fn page(&self, text: &str) -> ReleaseId {
        let artifact = self.artifact(&[("index.html", text)]).await;
        self.release(ServiceKind::Static { root: ".".into(), fallback: None }, artifact).await
    }

    /// Assigns these epochs to the site.
    pub(crate) async fn assign(&self, epochs: &[(u64, ReleaseId)]) {
        let entries = epochs
            .iter()
            .map(|(number, release)| AssignmentEntry {
                epoch: epoch(*number),
                release: *release,
                services: BTreeSet::from([ServiceName::new("web").unwrap()]),
            })
            .collect();
        let environment = EnvironmentName::production();
        let key = keys::assignment(&fra(), &shop(), &environment);
        self.put(&key, &Assignment { app: shop(), environment, site: fra(), entries }).await;
    }

    pub(crate) async fn activate(&self, number: u64, release: ReleaseId) {
        let environment = EnvironmentName::production();
        let key = keys::activation(&shop(), &environment);
        let releases = BTreeMap::from([(shop(), release)]);
        self.put(&key, &Activation::everyone(shop(), environment, epoch(number), releases)).await;
    }

    pub(crate) async fn report(&self) -> Option<AppReport> {
        self.get(&keys::app_report(&fra(), &shop(), &EnvironmentName::production())).await
    }

    pub(crate) async fn site_report(&self) -> Option<SiteReport> {
        self.get(&keys::site_report(&fra())).await
    }

    /// Waits for a report that `wanted` takes.
    pub(crate) async fn reported(&self, wanted: impl Fn(&AppReport) -> bool) -> AppReport {
        until("a report", || async { self.report().await.filter(&wanted) }).await
    }

    /// Waits until the site says that an epoch is in the state that `wanted` takes.
    pub(crate) async fn state(
        &self,
        number: u64,
        wanted: impl Fn(&EpochState) -> bool,
    ) -> EpochState {
        let report = self
            .reported(|it| it.epochs.get(&epoch(number)).is_some_and(|it| wanted(&it.state)))
            .await;
        report.epochs[&epoch(number)].state.clone()
    }

    pub(crate) async fn warm(&self, number: u64) {
        self.state(number, |state| *state == EpochState::Warm).await;
    }

    /// Waits until the site has found an epoch to answer.
    pub(crate) async fn verified(&self, number: u64) -> AppReport {
        self.reported(|it| {
            it.active == Some(epoch(number))
                && it.probe.as_ref().is_some_and(|it| it.epoch == epoch(number) && it.status == 200)
        })
        .await
    }

    pub(crate) async fn agent(&self) -> Running {
        self.agent_of(fra(), "site").await
    }

    /// What an agent is started with unless a test says otherwise.
    pub(crate) fn config(&self, site: SiteId, directory: &str) -> Config {
        let any = |last| SocketAddr::from(([127, 0, 0, last], 0));
        Config {
            site,
            data: self.directory.path().join(directory),
            artifacts: self.directory.path().join("artifacts"),
            fabric: Arc::new(Client::connect(&self.socket())),
            tunnel: self.directory.path().join("tunnel.sock"),
            log_bytes: 8 << 20,
            http: any(1),
            https: any(1),
            http3: true,
            cache_disk: None,
            dns: any(1),
            admin: any(1),
            executable: env!("CARGO_BIN_EXE_selvedge-agent-helper").into(),
            hidden: Vec::new(),
            allow_unsafe: false,
            tenants: Some(self.directory.path().join("tenants/table")),
            explain: true,
        }
    }

    /// An agent of any site, with a directory of its own.
    pub(crate) async fn agent_of(&self, site: SiteId, directory: &str) -> Running {
        self.start(self.config(site, directory)).await
    }

    pub(crate) async fn start(&self, config: Config) -> Running {
        let agent = Agent::start(config).await.unwrap();
        let (http, admin) = (agent.http_address(), agent.admin_address());
        let https = agent.https_address();
        let token = CancellationToken::new();
        let task = tokio::spawn(agent.run(token.clone()));
        Running { http, https, admin, token, task }
    }

    pub(crate) fn ledger(&self, key: &str) -> PathBuf {
        self.directory.path().join("site/ledger").join(key)
    }

    pub(crate) fn unpacked(&self, digest: &Digest) -> PathBuf {
        self.directory.path().join("artifacts").join(digest.to_string())
    }
}

/// An agent at work.
pub(crate) struct Running {
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) admin: SocketAddr,
    token: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    pub(crate) async fn stop(self) {
        self.token.cancel();
        self.task.await.unwrap();
    }

    /// The shop's front page.
    pub(crate) async fn get(&self) -> Answer {
        get(self.http, "shop.edge.test", "/", None).await
    }

    /// Asks for the front page until the answer is one that `wanted` takes.
    pub(crate) async fn answers(&self, wanted: impl Fn(&Answer) -> bool) -> Answer {
        until("an answer", || async { Some(self.get().await).filter(&wanted) }).await
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|it| it.to_str().unwrap()).unwrap_or_default()
    }
}

pub(crate) async fn get(address: SocketAddr, host: &str, path: &str, pin: Option<&str>) -> Answer {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut request = Request::get(path).header("host", host);
    if let Some(pin) = pin {
        request = request.header("selvedge-pin", pin);
    }
    let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    drop(sender);
    let _ = connection.await;
    Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    }
}
