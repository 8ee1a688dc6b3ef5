//! What the proxy serves, as one immutable value. Swapped whole; a request keeps the one it began with.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use selvedge_model::manifest::PathPattern;
use selvedge_model::pin::PinAuthority;
use selvedge_model::{
    Activation, AppName, EnvironmentName, Epoch, Host, ReleaseId, ServiceName, SiteId,
};
use tokio::io::{AsyncRead, AsyncWrite};

/// Everything that a site's proxy knows.
pub struct Snapshot {
    /// The site, shown in headers and records.
    pub site: SiteId,
    /// Signs and verifies pins. `None` before control was first reached: no pin is set or honoured.
    pub pins: Option<PinAuthority>,
    /// Hosts to the environment of an app that answers for them.
    pub hosts: HashMap<Host, Arc<AppView>>,
    /// What answers for every other host: the routes of a proxy that runs alone, without releases.
    pub rest: Option<Arc<RouteTable>>,
    /// Certificates by host; the handshake picks by SNI.
    pub certificates: HashMap<Host, Arc<rustls::sign::CertifiedKey>>,
    /// For clients that name no host, or one without a certificate; none: they get an alert.
    pub default_certificate: Option<Arc<rustls::sign::CertifiedKey>>,
    /// Session tickets and client certificates.
    pub tls: Arc<crate::TlsPolicy>,
    /// Headers for responses that the proxy itself makes are written for this audience: `true`
    /// adds what a developer wants to know (the box), `false` leaves it out.
    pub explain: bool,
    /// A request with this text in the header `selvedge-probe` is the agent's own: it is answered
    /// over plain HTTP where others are sent to HTTPS.
    pub probe_key: Option<String>,
}

/// One app and environment at this site.
pub struct AppView {
    /// The app, also its activation group until apps declare groups.
    pub app: AppName,
    /// The environment.
    pub environment: EnvironmentName,
    /// What users see; `None`: nothing is live yet.
    pub activation: Option<Arc<Activation>>,
    /// Every epoch that is warm here.
    pub epochs: BTreeMap<Epoch, Arc<EpochView>>,
}

/// A release that is warm at this site.
pub struct EpochView {
    /// The epoch.
    pub epoch: Epoch,
    /// The release.
    pub release: ReleaseId,
    /// What answers.
    pub table: RouteTable,
}

/// What is asked at which path.
#[derive(Default)]
pub struct RouteTable {
    /// Whether plain HTTP is answered with a redirect to HTTPS.
    pub force_https: bool,
    /// Sorted by falling [`PathPattern::precedence`].
    pub routes: Vec<RouteView>,
}

/// A route with its service at hand.
pub struct RouteView {
    /// Hosts that the route is for; empty means the app's default hosts.
    pub hosts: Vec<Host>,
    /// Paths that the route is for.
    pub path: PathPattern,
    /// The service's name, for records; none for a redirect.
    pub service: Option<ServiceName>,
    /// The path that the service is asked for instead: see [`PathPattern::rewritten`].
    pub rewrite: Option<PathPattern>,
    /// Whose stored responses the route's are among; none: they are not cached.
    pub cache: Option<Arc<crate::cache::CacheScope>>,
    /// What is done to its requests and responses beside.
    pub delivery: crate::Delivery,
    /// Set on every response of the route.
    pub response_headers: Vec<(http::HeaderName, http::HeaderValue)>,
    /// Who answers.
    pub target: Target,
}

/// Who answers.
#[derive(Clone)]
pub enum Target {
    /// Files.
    Static(Arc<crate::files::StaticSite>),
    /// Files, one of which (a name from the top, without the first slash) answers for pages that
    /// are not there.
    Fallback(Arc<crate::files::StaticSite>, Arc<str>),
    /// A workload behind a connector, or a server elsewhere.
    Workload(Arc<crate::upstream::Upstream>),
    /// Another URL.
    Redirect(Arc<selvedge_model::Redirect>),
}

/// A byte stream to a workload or a server elsewhere.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// Makes connections to a workload, wherever it is. The agent adapts the runtime's to it, and TCP.
#[async_trait]
pub trait Connect: Send + Sync + 'static {
    /// Opens a new connection.
    async fn connect(&self) -> std::io::Result<Box<dyn Stream>>;
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("site", &self.site)
            .field("hosts", &self.hosts.len())
            .finish_non_exhaustive()
    }
}
