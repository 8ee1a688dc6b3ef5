//! The site's own requests through its own proxy: what an activation is judged by.

use std::collections::BTreeSet;
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

/// A host and path to request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ProbeTarget {
    pub(crate) host: Host,
    pub(crate) path: String,
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

/// The requests for each route and host of the app: the route's own path, which is the prefix
/// itself for a prefix, and the health path of its service where the route leads to it. A healthy
/// service may still fail what its users ask for.
pub(crate) fn targets(app: &App, default_hosts: &[Host]) -> Vec<ProbeTarget> {
    let mut targets = BTreeSet::new();
    for route in &app.routes {
        let (PathPattern::Exact(own) | PathPattern::Prefix(own)) = &route.path;
        let own = if own.is_empty() { "/" } else { own };
        let mut paths = vec![utf8_percent_encode(own, ENCODED).to_string()];
        paths.extend(health(app, route).map(str::to_owned));
        let hosts = route.hosts.iter();
        let default_hosts = default_hosts.iter().filter(|_| route.hosts.is_empty());
        for host in hosts.chain(default_hosts) {
            let target = |path: &String| ProbeTarget { host: host.clone(), path: path.clone() };
            targets.extend(paths.iter().map(target));
        }
    }
    targets.into_iter().take(MAX_TARGETS).collect()
}

/// The health path of the route's service, if the route leads to it.
fn health<'a>(app: &'a App, route: &Route) -> Option<&'a str> {
    let ServiceKind::Process { health: Some(health), .. } = &app.service(&route.service)?.kind
    else {
        return None;
    };
    let path = health.split('?').next().unwrap_or_default();
    route.path.matches(path).then_some(health)
}

/// Makes the requests one after another and reports the worst answer. `expected` is the epoch that
/// should answer: the proxy may need a moment to take a new snapshot.
pub(crate) async fn probe(proxy: SocketAddr, targets: Vec<ProbeTarget>, expected: Epoch) -> Probe {
    let mut worst: Option<Answer> = None;
    for target in targets {
        let answer = settled(proxy, &target, expected).await;
        if worst.as_ref().is_none_or(|other| answer.badness(expected) > other.badness(expected)) {
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

    /// Whether asking again may well bring another answer.
    fn may_pass(&self, expected: Epoch) -> bool {
        matches!(self.status, 0 | 502..=504) || self.epoch != Some(expected)
    }
}

async fn settled(proxy: SocketAddr, target: &ProbeTarget, expected: Epoch) -> Answer {
    let mut answer = request(proxy, target).await;
    for _ in 1..ATTEMPTS {
        if !answer.may_pass(expected) {
            break;
        }
        tokio::time::sleep(PAUSE).await;
        answer = request(proxy, target).await;
    }
    answer
}

async fn request(proxy: SocketAddr, target: &ProbeTarget) -> Answer {
    let name = format!("GET http://{}{} at {proxy}", target.host, target.path);
    match tokio::time::timeout(TIMEOUT, exchange(proxy, target)).await {
        Ok(Ok((status, epoch))) => Answer { epoch, status, detail: format!("{name}: {status}") },
        Ok(Err(error)) => Answer { epoch: None, status: 0, detail: format!("{name}: {error}") },
        Err(_) => {
            let seconds = TIMEOUT.as_secs();
            Answer {
                epoch: None,
                status: 0,
                detail: format!("{name}: no answer within {seconds} s"),
            }
        }
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

async fn exchange(
    proxy: SocketAddr,
    target: &ProbeTarget,
) -> Result<(u16, Option<Epoch>), BoxError> {
    let stream = TcpStream::connect(proxy).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(&target.path)
        .header(header::HOST, target.host.as_str())
        .header(header::USER_AGENT, concat!("selvedge-probe/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<bytes::Bytes>::new())?;
    // In a task of its own, as a connection that the proxy closes after the answer would otherwise
    // race with the answer. An error of the connection also fails the request.
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let response = sender.send_request(request).await?;
    let epoch = response
        .headers()
        .get("selvedge-epoch")
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok());
    Ok((response.status().as_u16(), epoch))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use selvedge_model::{AppName, Placement, Service, ServiceName};

    use super::*;

    fn app(routes: &[(&str, &[&str])]) -> App {
        let service = ServiceName::new("web").unwrap();
        let kind = ServiceKind::Process {
            command: "serve".into(),
            health: Some("/healthz?quick".into()),
            start_timeout_s: 1,
            stop_timeout_s: 1,
            memory_mib: 16,
        };
        let route = |(path, hosts): &(&str, &[&str])| Route {
            hosts: hosts.iter().map(|host| Host::new(host).unwrap()).collect(),
            path: match path.strip_suffix("/*") {
                Some(prefix) => PathPattern::Prefix(prefix.to_owned()),
                None => PathPattern::Exact((*path).to_owned()),
            },
            service: service.clone(),
            response_headers: BTreeMap::new(),
        };
        App {
            name: AppName::new("shop").unwrap(),
            build: None,
            test: None,
            environment: BTreeMap::new(),
            routes: routes.iter().map(route).collect(),
            services: vec![Service {
                name: service,
                kind,
                build: None,
                environment: BTreeMap::new(),
            }],
            placement: Placement::default(),
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
}
