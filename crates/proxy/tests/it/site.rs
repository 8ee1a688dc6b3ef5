//! A proxy under test, and the parts of snapshots.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use selvedge_model::documents::PinKeys;
use selvedge_model::manifest::PathPattern;
use selvedge_model::pin::PinAuthority;
use selvedge_model::{
    Activation, AppName, Digest, EnvironmentName, Epoch, Host, ReleaseId, ServiceName, SiteId,
};
use selvedge_proxy::files::StaticSite;
use selvedge_proxy::takeover::Inherited;
use selvedge_proxy::{
    AppView, CacheConfig, CacheHandle, CacheScope, Config, Delivery, EpochView, Handle, Limits,
    Listeners, Proxy, QueryRules, RouteTable, RouteView, Snapshot, Target, TlsPolicy,
};
use selvedge_telemetry::access::{AccessLog, AccessRecord};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const HOST: &str = "shop.edge.test";
/// Has a certificate, and no app.
pub(crate) const SECOND: &str = "second.edge.test";
/// Names the agent's own requests.
pub(crate) const PROBE_KEY: &str = "the agent's own";
/// Proxies that are believed whom they speak for.
const TRUSTED: &str = "10.0.0.0/8";
/// No test waits longer than this for something that is to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A running proxy. Stops when dropped.
pub(crate) struct Site {
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) handle: Handle,
    pub(crate) ca: CertificateDer<'static>,
    pub(crate) records: mpsc::Receiver<AccessRecord>,
    pub(crate) token: CancellationToken,
    pub(crate) cache: CacheHandle,
    pub(crate) ended: JoinHandle<()>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    certificates: HashMap<Host, Arc<CertifiedKey>>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

impl Site {
    pub(crate) async fn start(app: AppView) -> Self {
        Self::with_limits(app, Limits::default()).await
    }

    pub(crate) async fn with_limits(app: AppView, limits: Limits) -> Self {
        let loopback = ([127, 0, 0, 1], 0).into();
        Self::listening(app, limits, Listeners::pair(loopback, loopback).fixed(), 1).await
    }

    /// Addresses of listeners that are not called `HTTP` or `HTTPS` are to be asked of the handle.
    pub(crate) async fn listening(
        app: AppView,
        limits: Limits,
        listeners: watch::Receiver<Arc<Listeners>>,
        shards: usize,
    ) -> Self {
        let (ca, certificates) = certificates(&[HOST, SECOND]);
        let snapshot = snapshot(app, certificates.clone());
        let config = config(limits, listeners, shards);
        Self::of(config, Inherited::default(), (ca, certificates), Arc::new(snapshot)).await
    }

    /// With a cache like this.
    pub(crate) async fn caching(app: AppView, cache: CacheConfig) -> Self {
        let loopback = ([127, 0, 0, 1], 0).into();
        let listeners = Listeners::pair(loopback, loopback).fixed();
        let (ca, certificates) = certificates(&[HOST, SECOND]);
        let snapshot = snapshot(app, certificates.clone());
        let config = Config { cache, ..config(Limits::default(), listeners, 1) };
        Self::of(config, Inherited::default(), (ca, certificates), Arc::new(snapshot)).await
    }

    /// Drains, and waits until it has ended.
    pub(crate) async fn end(mut self) {
        self.token.cancel();
        (&mut self.ended).await.unwrap();
    }

    /// Swaps the snapshot for one with this way to speak TLS.
    pub(crate) fn speak(&self, app: AppView, tls: TlsPolicy) {
        let snapshot = snapshot(app, self.certificates.clone());
        self.snapshot.send_replace(Arc::new(Snapshot { tls: Arc::new(tls), ..snapshot }));
    }

    /// Another proxy that serves the same, with the sockets of this one.
    pub(crate) async fn successor(&self, inherited: Inherited, shards: usize) -> Self {
        let loopback = ([127, 0, 0, 1], 0).into();
        let listeners = Listeners::pair(loopback, loopback).fixed();
        let config = config(Limits::default(), listeners, shards);
        let certificates = (self.ca.clone(), self.certificates.clone());
        let snapshot = Arc::clone(&self.snapshot.borrow());
        Self::of(config, inherited, certificates, snapshot).await
    }

    async fn of(
        config: Config,
        inherited: Inherited,
        (ca, certificates): Certificates,
        snapshot: Arc<Snapshot>,
    ) -> Self {
        let snapshot = watch::Sender::new(snapshot);
        let (access, records) = AccessLog::channel(10_000);
        let proxy = Proxy::resume(config, inherited, snapshot.subscribe(), access).unwrap();
        let handle = proxy.handle();
        let nowhere = ([0, 0, 0, 0], 0).into();
        let [http, https] = ["HTTP", "HTTPS"].map(|name| handle.address(name).unwrap_or(nowhere));
        let cache = proxy.cache().unwrap();
        let token = CancellationToken::new();
        let ended = tokio::spawn(proxy.run(token.clone()));
        Self { http, https, handle, ca, records, token, cache, ended, snapshot, certificates }
    }

    /// Says something by the admin socket.
    pub(crate) async fn admin(
        &self,
        method: &http::Method,
        path: &str,
        body: &str,
    ) -> (u16, String) {
        let snapshot = Arc::clone(&self.snapshot.borrow());
        let cache = Some(&self.cache);
        let answer = selvedge_proxy::admin::answer(method, path, body.as_bytes(), cache, &snapshot);
        let (status, json) = answer.await;
        (status.as_u16(), String::from_utf8(json.to_vec()).unwrap())
    }

    /// Swaps the snapshot for one with this app.
    pub(crate) fn swap(&self, app: AppView) {
        self.snapshot.send_replace(Arc::new(snapshot(app, self.certificates.clone())));
    }

    /// The next access record.
    pub(crate) async fn record(&mut self) -> AccessRecord {
        let record = tokio::time::timeout(PATIENCE, self.records.recv()).await;
        record.expect("an access record comes").expect("the proxy runs")
    }
}

fn config(limits: Limits, listeners: watch::Receiver<Arc<Listeners>>, shards: usize) -> Config {
    let trusted = vec![TRUSTED.parse().unwrap()];
    Config { listeners, shards, limits, trusted, cache: CacheConfig::default() }
}

fn snapshot(app: AppView, certificates: HashMap<Host, Arc<CertifiedKey>>) -> Snapshot {
    Snapshot {
        site: SiteId::new("fra").unwrap(),
        pins: Some(pins()),
        hosts: HashMap::from([(Host::new(HOST).unwrap(), Arc::new(app))]),
        rest: None,
        certificates,
        default_certificate: None,
        tls: Arc::default(),
        explain: true,
        probe_key: Some(PROBE_KEY.to_owned()),
    }
}

/// What signs the pins of every site under test.
pub(crate) fn pins() -> PinAuthority {
    PinAuthority::new(&PinKeys { keys: vec!["07".repeat(32)] }).unwrap()
}

pub(crate) fn shop() -> AppName {
    AppName::new("shop").unwrap()
}

pub(crate) fn epoch(number: u64) -> Epoch {
    Epoch::new(1, number)
}

pub(crate) fn release(number: u64) -> ReleaseId {
    ReleaseId(Digest::of(&number.to_be_bytes()))
}

/// An app whose epochs have one route each, with `live` activated.
pub(crate) fn app(live: Option<u64>, epochs: Vec<(u64, Target)>) -> AppView {
    let views = epochs.into_iter().map(|(number, target)| view(number, vec![("/*", target)]));
    app_of(live, views.collect())
}

pub(crate) fn app_of(live: Option<u64>, views: Vec<EpochView>) -> AppView {
    let (app, environment) = (shop(), EnvironmentName::production());
    let activation = live.map(|number| {
        let releases = BTreeMap::from([(app.clone(), release(number))]);
        Arc::new(Activation::everyone(app.clone(), environment.clone(), epoch(number), releases))
    });
    let epochs = views.into_iter().map(|view| (view.epoch, Arc::new(view))).collect();
    AppView { app, environment, activation, epochs }
}

pub(crate) fn view(number: u64, routes: Vec<(&str, Target)>) -> EpochView {
    let mut routes: Vec<RouteView> = routes
        .into_iter()
        .map(|(path, target)| RouteView {
            hosts: Vec::new(),
            path: match path.strip_suffix("/*") {
                Some(prefix) => PathPattern::Prefix(prefix.into()),
                None => PathPattern::Exact(path.into()),
            },
            service: Some(ServiceName::new("web").unwrap()),
            rewrite: None,
            cache: matches!(target, Target::Workload(_))
                .then(|| Arc::new(CacheScope::new(b"shop", &[], QueryRules::default()))),
            delivery: Delivery { encode: Some(Arc::default()), ..Delivery::default() },
            response_headers: vec![(
                http::HeaderName::from_static("x-route"),
                http::HeaderValue::from_static("yes"),
            )],
            target,
        })
        .collect();
    routes.sort_by_key(|route| std::cmp::Reverse(route.path.precedence()));
    let table = RouteTable { force_https: false, routes };
    EpochView { epoch: epoch(number), release: release(number), table }
}

/// A static site of these files.
pub(crate) fn files(files: &[(&str, &str)]) -> Target {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), files);
    Target::Static(Arc::new(StaticSite::load(directory.path()).unwrap()))
}

pub(crate) fn write(root: &Path, files: &[(&str, &str)]) {
    for (name, content) in files {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

type Certificates = (CertificateDer<'static>, HashMap<Host, Arc<CertifiedKey>>);

/// An authority and a leaf for each host.
fn certificates(hosts: &[&str]) -> Certificates {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let leaf = |host: &&str| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![(*host).to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &ca).unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
        let key = CertifiedKey::new(vec![certificate.der().clone()], key);
        (Host::new(host).unwrap(), Arc::new(key))
    };
    let leaves = hosts.iter().map(leaf).collect();
    (ca.der().clone(), leaves)
}
