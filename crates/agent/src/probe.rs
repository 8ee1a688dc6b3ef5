//! The site's own requests through its own proxy: what an activation is judged by.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use http::{Request, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use selvedge_model::documents::Probe;
use selvedge_model::manifest::{PathPattern, ServiceKind};
use selvedge_model::{App, Epoch, Host};
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

/// One request for each route and host of the app. A process's health path stands for its route
/// where the route leads to it.
pub(crate) fn targets(app: &App, default_hosts: &[Host]) -> Vec<ProbeTarget> {
    let mut targets = BTreeSet::new();
    for route in &app.routes {
        let health = app.service(&route.service).and_then(|service| match &service.kind {
            ServiceKind::Process { health, .. } => health.as_deref(),
            ServiceKind::Static { .. } => None,
        });
        let path = match (&route.path, health) {
            (pattern, Some(health)) if pattern.matches(health) => health,
            (PathPattern::Exact(path) | PathPattern::Prefix(path), _) => path,
        };
        let path = if path.is_empty() { "/" } else { path };
        let named: Vec<&Host> = if route.hosts.is_empty() {
            default_hosts.iter().collect()
        } else {
            route.hosts.iter().collect()
        };
        targets.extend(
            named.into_iter().map(|host| ProbeTarget { host: host.clone(), path: path.to_owned() }),
        );
    }
    targets.into_iter().take(MAX_TARGETS).collect()
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
