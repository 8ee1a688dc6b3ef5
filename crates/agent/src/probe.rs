//! The site's own requests through its own proxy: what an activation is judged by.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use http::{Request, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use selvedge_model::documents::Probe;
use selvedge_model::manifest::{PathPattern, ServiceKind};
use selvedge_model::{App, Epoch, Host, Route};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

/// How long one request may take to its response's head.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How often a request is made before an answer that may pass counts.
const ATTEMPTS: u32 = 4;

/// The pause between attempts.
const PAUSE: Duration = Duration::from_millis(150);

/// No more requests than this for one app.
const MAX_TARGETS: usize = 64;

/// The same for a server elsewhere, whose answer is not what is judged.
const TIMEOUT_ELSEWHERE: Duration = Duration::from_secs(2);

/// What a failure of a server elsewhere counts as, and why.
const EXCUSED: u16 = 200;
const NOT_HELD: &str = "not held against the release, as it is an upstream's";

/// A host and path to request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ProbeTarget {
    pub(crate) host: Host,
    pub(crate) path: String,
    /// Who answers is not of the release: what it answers is not held against it, as long as the
    /// release is what asked.
    pub(crate) elsewhere: bool,
}

/// Requests by which the proxy knows the agent.
#[derive(Debug, Clone)]
pub(crate) struct Asker {
    /// Where the proxy answers plain HTTP.
    pub(crate) proxy: SocketAddr,
    /// See [`selvedge_proxy::Snapshot::probe_key`].
    pub(crate) key: String,
}

/// What is not written as it is in a request's target (RFC 3986, section 3.3).
const ENCODED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'[')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// The requests for each route, redirect and host of the app: the pattern's own path, which is the
/// prefix itself for a prefix, and the health path of the service where the route leads to it. A
/// healthy service may still fail what its users ask for.
///
/// Routes to upstreams are left out, as those are not the release's; where an app has nothing else,
/// one request for each host shows that the release is what asks.
pub(crate) fn targets(app: &App, default_hosts: &[Host]) -> Vec<ProbeTarget> {
    let mut own = BTreeSet::new();
    let mut elsewhere = BTreeMap::new();
    let at = |hosts: &BTreeSet<Host>| -> Vec<Host> {
        match hosts.is_empty() {
            true => default_hosts.to_vec(),
            false => hosts.iter().cloned().collect(),
        }
    };
    for route in &app.routes {
        let kind = app.service(&route.service).map(|service| &service.kind);
        let is_elsewhere = matches!(kind, Some(ServiceKind::Upstream { .. }));
        let path = own_path(&route.path);
        for host in at(&route.hosts) {
            if is_elsewhere {
                elsewhere.entry(host).or_insert(path.clone());
                continue;
            }
            let paths = [Some(path.clone()), health(app, route).map(str::to_owned)];
            let target = |path| ProbeTarget { host: host.clone(), path, elsewhere: false };
            own.extend(paths.into_iter().flatten().map(target));
        }
    }
    for redirect in &app.redirects {
        let path = own_path(&redirect.from);
        let hosts = at(&redirect.hosts).into_iter();
        own.extend(hosts.map(|host| ProbeTarget { host, path: path.clone(), elsewhere: false }));
    }
    if own.is_empty() {
        let targets = elsewhere.into_iter();
        own.extend(targets.map(|(host, path)| ProbeTarget { host, path, elsewhere: true }));
    }
    own.into_iter().take(MAX_TARGETS).collect()
}

fn own_path(pattern: &PathPattern) -> String {
    let (PathPattern::Exact(own) | PathPattern::Prefix(own)) = pattern;
    let own = if own.is_empty() { "/" } else { own };
    utf8_percent_encode(own, ENCODED).to_string()
}

/// The health path of the route's service, if the route leads to it.
fn health<'a>(app: &'a App, route: &Route) -> Option<&'a str> {
    let ServiceKind::Process { health: Some(health), .. } = &app.service(&route.service)?.kind
    else {
        return None;
    };
    let path = health.split('?').next().unwrap_or_default();
    (route.rewrite.is_none() && route.path.matches(path)).then_some(health)
}

impl Asker {
    /// Makes the requests one after another and reports the worst answer. `expected` is the epoch
    /// that should answer: the proxy may need a moment to take a new snapshot.
    pub(crate) async fn probe(&self, targets: Vec<ProbeTarget>, expected: Epoch) -> Probe {
        let mut worst: Option<Answer> = None;
        for target in targets {
            let answer = self.settled(&target, expected).await;
            let badness = answer.badness(expected);
            if worst.as_ref().is_none_or(|other| badness > other.badness(expected)) {
                worst = Some(answer);
            }
        }
        let at_ms = now_ms();
        match worst {
            Some(Answer { epoch, status, detail }) => {
                Probe { epoch: epoch.unwrap_or(expected), status, detail, at_ms }
            }
            None => {
                let detail = "the app has no host to request".to_owned();
                Probe { epoch: expected, status: 0, detail, at_ms }
            }
        }
    }

    async fn settled(&self, target: &ProbeTarget, expected: Epoch) -> Answer {
        let mut answer = self.request(target, expected).await.judged(target, expected);
        for _ in 1..ATTEMPTS {
            if !answer.may_pass(expected) {
                break;
            }
            tokio::time::sleep(PAUSE).await;
            answer = self.request(target, expected).await.judged(target, expected);
        }
        answer
    }

    async fn request(&self, target: &ProbeTarget, expected: Epoch) -> Answer {
        let name = format!("GET http://{}{} at {}", target.host, target.path, self.proxy);
        let timeout = if target.elsewhere { TIMEOUT_ELSEWHERE } else { TIMEOUT };
        match tokio::time::timeout(timeout, self.exchange(target)).await {
            Ok(Ok((status, epoch))) => {
                Answer { epoch, status, detail: format!("{name}: {status}") }
            }
            Ok(Err(error)) => Answer { epoch: None, status: 0, detail: format!("{name}: {error}") },
            Err(_) if target.elsewhere => {
                // The proxy took it, and passed it on.
                let detail = format!("{name}: no answer in time, {NOT_HELD}");
                Answer { epoch: Some(expected), status: EXCUSED, detail }
            }
            Err(_) => {
                let seconds = timeout.as_secs();
                Answer {
                    epoch: None,
                    status: 0,
                    detail: format!("{name}: no answer within {seconds} s"),
                }
            }
        }
    }

    async fn exchange(&self, target: &ProbeTarget) -> Result<(u16, Option<Epoch>), BoxError> {
        let stream = TcpStream::connect(self.proxy).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::get(&target.path)
            .header(header::HOST, target.host.as_str())
            .header(header::USER_AGENT, concat!("selvedge-probe/", env!("CARGO_PKG_VERSION")))
            .header("selvedge-probe", &self.key)
            .body(Empty::<bytes::Bytes>::new())?;
        // In a task of its own, as a connection that the proxy closes after the answer would
        // otherwise race with the answer. An error of the connection also fails the request.
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let response = sender.send_request(request).await?;
        let epoch = response
            .headers()
            .get("selvedge-epoch")
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.parse().ok());
        Ok((response.status().as_u16(), epoch))
    }
}

/// Unix time in milliseconds.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

struct Answer {
    epoch: Option<Epoch>,
    /// 0 when no response came.
    status: u16,
    detail: String,
}

impl Answer {
    /// No response is worst, then the greatest status, then another epoch than the expected.
    fn badness(&self, expected: Epoch) -> (u16, bool) {
        let status = if self.status == 0 { u16::MAX } else { self.status };
        (status, self.epoch != Some(expected))
    }

    /// Makes a failure of a server elsewhere count as an answer.
    fn judged(self, target: &ProbeTarget, expected: Epoch) -> Self {
        let excused = target.elsewhere && self.status >= 500 && self.epoch == Some(expected);
        if !excused {
            return self;
        }
        let detail = format!("{}, {NOT_HELD}", self.detail);
        Self { status: EXCUSED, detail, ..self }
    }

    /// Whether asking again may well bring another answer.
    fn may_pass(&self, expected: Epoch) -> bool {
        matches!(self.status, 0 | 502..=504) || self.epoch != Some(expected)
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[cfg(test)]
mod tests {
    use selvedge_model::manifest::{Destination, UpstreamAddress};
    use selvedge_model::{AppName, Placement, Redirect, Service, ServiceName};

    use super::*;

    fn app(routes: &[(&str, &[&str])]) -> App {
        let service = ServiceName::new("web").unwrap();
        let kind = ServiceKind::Process {
            command: "serve".into(),
            health: Some("/healthz?quick".into()),
            start_timeout_s: 1,
            stop_timeout_s: 1,
            memory_mib: 16,
            limits: selvedge_model::manifest::ProcessLimits::default(),
        };
        let route = |(path, hosts): &(&str, &[&str])| Route {
            hosts: hosts.iter().map(|host| Host::new(host).unwrap()).collect(),
            path: match path.strip_suffix("/*") {
                Some(prefix) => PathPattern::Prefix(prefix.to_owned()),
                None => PathPattern::Exact((*path).to_owned()),
            },
            service: service.clone(),
            rewrite: None,
            response_headers: BTreeMap::new(),
            esi: false,
            graphql: None,
        };
        App {
            name: AppName::new("shop").unwrap(),
            build: None,
            test: None,
            environment: BTreeMap::new(),
            force_https: false,
            redirects: Vec::new(),
            routes: routes.iter().map(route).collect(),
            services: vec![Service {
                name: service,
                kind,
                build: None,
                environment: BTreeMap::new(),
            }],
            placement: Placement::default(),
            build_limits: selvedge_model::manifest::BuildLimits::default(),
        }
    }

    fn requests(routes: &[(&str, &[&str])]) -> Vec<String> {
        let default = Host::new("shop.edge.test").unwrap();
        let targets = targets(&app(routes), &[default]);
        targets.into_iter().map(|it| format!("{}{}", it.host, it.path)).collect()
    }

    #[test]
    fn every_route_is_requested_and_the_health_path_where_one_leads_to_it() {
        let all = requests(&[("/*", &[])]);
        assert_eq!(all, ["shop.edge.test/", "shop.edge.test/healthz?quick"]);
        let named = requests(&[("/api/*", &["a.test", "b.test"]), ("/exact", &["b.test"])]);
        assert_eq!(named, ["a.test/api", "b.test/api", "b.test/exact"]);
        let encoded = requests(&[("/à la carte/{today}", &[])]);
        assert_eq!(encoded, ["shop.edge.test/%C3%A0%20la%20carte/%7Btoday%7D"]);
        assert!(Request::get(encoded[0].trim_start_matches("shop.edge.test")).body(()).is_ok());
    }

    #[test]
    fn what_is_elsewhere_is_asked_only_for_want_of_anything_else() {
        let mut app = app(&[("/a/*", &["a.test"]), ("/b/*", &["a.test"]), ("/*", &["b.test"])]);
        let redirect = Redirect {
            hosts: BTreeSet::new(),
            from: PathPattern::Prefix("/old".into()),
            to: Destination { url: "/new".into(), carry: true },
            status: 307,
        };
        app.services[0].kind = ServiceKind::Upstream {
            addresses: vec![UpstreamAddress::new("http://10.0.0.5").unwrap()],
            host: None,
            health: Some("/healthz".into()),
        };
        let default = Host::new("shop.edge.test").unwrap();
        let asked = |app: &App| -> Vec<_> {
            let targets = targets(app, std::slice::from_ref(&default)).into_iter();
            targets.map(|it| (format!("{}{}", it.host, it.path), it.elsewhere)).collect()
        };
        assert_eq!(asked(&app), [("a.test/a".to_owned(), true), ("b.test/".to_owned(), true)]);
        app.redirects.push(redirect);
        assert_eq!(asked(&app), [("shop.edge.test/old".to_owned(), false)]);
    }

    #[test]
    fn a_failure_elsewhere_is_excused_while_the_release_is_what_asks() {
        let answer = |status, number| Answer {
            epoch: Some(Epoch::new(1, number)),
            status,
            detail: String::new(),
        };
        let target = |elsewhere| ProbeTarget {
            host: Host::new("a.test").unwrap(),
            path: "/".into(),
            elsewhere,
        };
        for (elsewhere, status, number, expected) in
            [(true, 502, 2, 200), (true, 502, 1, 502), (true, 404, 2, 404), (false, 502, 2, 502)]
        {
            let judged = answer(status, number).judged(&target(elsewhere), Epoch::new(1, 2));
            assert_eq!(judged.status, expected, "{elsewhere} {status} {number}");
        }
    }
}
