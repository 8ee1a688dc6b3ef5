//! Clients that change site at every request and check every answer: the judges of invariant 8.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use selvedge_model::Epoch;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{PATIENCE, Planet};

/// Something to fetch, whose body must hold the release that the response's header names.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    pub(crate) app: &'static str,
    pub(crate) path: &'static str,
}

/// How a client behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Habit {
    /// HTTP/1.1 over plain TCP, sends the pin's cookie back.
    Http1Cookie,
    /// HTTP/2 over TLS, echoes the pin's header.
    Http2Header,
    /// HTTP/1.1, forgets pins.
    Http1Forgetful,
    /// HTTP/2 over TLS, forgets pins.
    Http2Forgetful,
}

/// What the clients saw.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    /// No answer, or one that is not 200.
    pub(crate) failed: Vec<String>,
    /// Bodies that do not name the header's release.
    pub(crate) differing: Vec<String>,
    /// Epochs that went back: for a client with a pin anywhere, for one without at the same site.
    pub(crate) went_back: Vec<String>,
    /// Distinct epochs seen by app.
    pub(crate) epochs: HashMap<&'static str, std::collections::BTreeSet<Epoch>>,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.requests += other.requests;
        self.failed.extend(other.failed);
        self.differing.extend(other.differing);
        self.went_back.extend(other.went_back);
        for (app, epochs) in other.epochs {
            self.epochs.entry(app).or_default().extend(epochs);
        }
    }

    /// For clients that went on while sites were down: unanswered requests are no fault then, but
    /// whatever was answered must have been right.
    pub(crate) fn assert_never_wrong(mut self) {
        assert!(self.requests > self.failed.len() as u64, "no request was answered");
        self.failed.clear();
        self.assert_spotless();
    }

    /// Fails the test unless every answer was right.
    pub(crate) fn assert_spotless(&self) {
        let first = |list: &[String]| list.iter().take(5).cloned().collect::<Vec<_>>().join("\n  ");
        assert!(
            self.failed.is_empty() && self.differing.is_empty() && self.went_back.is_empty(),
            "of {} requests {} failed, {} bodies differed, {} went back:\n  {}\n  {}\n  {}",
            self.requests,
            self.failed.len(),
            self.differing.len(),
            self.went_back.len(),
            first(&self.failed),
            first(&self.differing),
            first(&self.went_back),
        );
    }
}

/// Clients at work.
pub(crate) struct Clients {
    token: CancellationToken,
    tasks: Vec<tokio::task::JoinHandle<Tally>>,
    /// Requests made by all of them.
    made: watch::Sender<usize>,
}

impl Clients {
    /// Starts `count` clients of each habit, each making a request every `pause`, at every site of
    /// the box in turn (a different order each).
    pub(crate) fn start(planet: &Planet, pages: &[Page], count: usize, pause: Duration) -> Self {
        let sites: Vec<(SocketAddr, SocketAddr)> = planet
            .info
            .sites
            .iter()
            .map(|site| {
                (
                    SocketAddr::new(site.address, site.http),
                    SocketAddr::new(site.address, site.https),
                )
            })
            .collect();
        Self::start_at(planet, &sites, pages, count, pause)
    }

    /// The same at some sites: addresses of plain HTTP and HTTPS.
    pub(crate) fn start_at(
        planet: &Planet,
        sites: &[(SocketAddr, SocketAddr)],
        pages: &[Page],
        count: usize,
        pause: Duration,
    ) -> Self {
        let token = CancellationToken::new();
        let made = watch::Sender::new(0);
        let tls = trust(&planet.info.ca, &[b"h2"]);
        let habits =
            [Habit::Http1Cookie, Habit::Http2Header, Habit::Http1Forgetful, Habit::Http2Forgetful];
        let tasks = (0..count * habits.len())
            .map(|index| {
                let client = Client {
                    habit: habits[index % habits.len()],
                    sites: sites.to_vec(),
                    pages: pages.to_vec(),
                    zone: planet.info.zone.to_string(),
                    tls: tls.clone(),
                    connections: HashMap::new(),
                    pins: HashMap::new(),
                    seen: HashMap::new(),
                    tally: Tally::default(),
                    made: made.clone(),
                };
                tokio::spawn(client.run(index, pause, token.clone()))
            })
            .collect();
        Self { token, tasks, made }
    }

    /// How many clients there are.
    pub(crate) fn count(&self) -> usize {
        self.tasks.len()
    }

    /// Waits until they have made `requests` together.
    pub(crate) async fn have_made(&self, requests: usize) {
        let mut made = self.made.subscribe();
        let wait = made.wait_for(|made| *made >= requests);
        tokio::time::timeout(PATIENCE, wait).await.expect("the clients are stuck").unwrap();
    }

    /// Stops the clients and adds up what they saw.
    pub(crate) async fn stop(self) -> Tally {
        self.token.cancel();
        let mut tally = Tally::default();
        for task in self.tasks {
            tally.add(task.await.unwrap());
        }
        tally
    }
}

/// TLS that trusts the box's authority alone, and asks for one of `protocols`.
pub(crate) fn trust(ca: &std::path::Path, protocols: &[&[u8]]) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

struct Client {
    habit: Habit,
    sites: Vec<(SocketAddr, SocketAddr)>,
    pages: Vec<Page>,
    zone: String,
    tls: Arc<rustls::ClientConfig>,
    connections: HashMap<(usize, &'static str), Sender>,
    pins: HashMap<&'static str, String>,
    /// The newest epoch seen, by app and (for the forgetful) site.
    seen: HashMap<(&'static str, usize), Epoch>,
    tally: Tally,
    made: watch::Sender<usize>,
}

impl Client {
    async fn run(mut self, index: usize, pause: Duration, token: CancellationToken) -> Tally {
        let mut ticks = tokio::time::interval(pause);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut turn = index;
        while !token.is_cancelled() {
            ticks.tick().await;
            // Steps that share no factor with the number of sites reach them all.
            turn += 1;
            let site = (turn * 3 + index) % self.sites.len();
            let page = self.pages[turn % self.pages.len()].clone();
            self.tally.requests += 1;
            if let Err(problem) = self.visit(site, &page).await {
                self.connections.remove(&(site, page.app));
                let habit = self.habit;
                self.tally.failed.push(format!(
                    "{habit:?} {}{} at site {site}: {problem:#}",
                    page.app, page.path
                ));
            }
            self.made.send_modify(|made| *made += 1);
        }
        self.tally
    }

    async fn visit(&mut self, site: usize, page: &Page) -> anyhow::Result<()> {
        let host = format!("{}.{}", page.app, self.zone);
        let request = self.request(&host, page)?;
        let response = self.send(site, page.app, &host, request).await?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        let body = String::from_utf8_lossy(&body);
        anyhow::ensure!(parts.status == 200, "{} {body}", parts.status);
        let header = |name: &str| {
            parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        let release =
            header("selvedge-release").ok_or_else(|| anyhow::anyhow!("no release header"))?;
        let epoch: Epoch = header("selvedge-epoch").unwrap_or_default().parse()?;
        if !body.contains(&release) {
            let start: String = body.chars().take(120).collect();
            self.tally
                .differing
                .push(format!("{}{}: header {release}, body {start}", page.app, page.path));
        }
        self.remember(site, page.app, epoch, &parts.headers);
        Ok(())
    }

    fn request(&self, host: &str, page: &Page) -> anyhow::Result<http::Request<Empty<Bytes>>> {
        let over_tls = matches!(self.habit, Habit::Http2Header | Habit::Http2Forgetful);
        let mut request = http::Request::builder();
        request = if over_tls {
            request.uri(format!("https://{host}{}", page.path))
        } else {
            request.uri(page.path).header(http::header::HOST, host)
        };
        request = match (self.habit, self.pins.get(page.app)) {
            (Habit::Http1Cookie, Some(pin)) => {
                request.header(http::header::COOKIE, format!("a=b; selvedge-pin={pin}"))
            }
            (Habit::Http2Header, Some(pin)) => request.header("selvedge-pin", pin),
            _ => request,
        };
        Ok(request.body(Empty::new())?)
    }

    async fn send(
        &mut self,
        site: usize,
        app: &'static str,
        host: &str,
        request: http::Request<Empty<Bytes>>,
    ) -> anyhow::Result<http::Response<hyper::body::Incoming>> {
        let kept = match self.connections.remove(&(site, app)) {
            Some(Sender::Http1(mut sender)) => {
                sender.ready().await.ok().map(|()| Sender::Http1(sender))
            }
            Some(Sender::Http2(mut sender)) => {
                sender.ready().await.ok().map(|()| Sender::Http2(sender))
            }
            None => None,
        };
        let mut sender = match kept {
            Some(sender) => sender,
            None => self.connect(site, host).await?,
        };
        let response = match &mut sender {
            Sender::Http1(sender) => sender.send_request(request).await,
            Sender::Http2(sender) => sender.send_request(request).await,
        };
        self.connections.insert((site, app), sender);
        Ok(response?)
    }

    async fn connect(&self, site: usize, host: &str) -> anyhow::Result<Sender> {
        let (http, https) = self.sites[site];
        if matches!(self.habit, Habit::Http1Cookie | Habit::Http1Forgetful) {
            let stream = TcpStream::connect(http).await?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            return Ok(Sender::Http1(sender));
        }
        let stream = TcpStream::connect(https).await?;
        let name = ServerName::try_from(host.to_owned())?;
        let stream =
            tokio_rustls::TlsConnector::from(self.tls.clone()).connect(name, stream).await?;
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Sender::Http2(sender))
    }

    fn remember(
        &mut self,
        site: usize,
        app: &'static str,
        epoch: Epoch,
        headers: &http::HeaderMap,
    ) {
        let pinned = matches!(self.habit, Habit::Http1Cookie | Habit::Http2Header);
        // With a pin the order holds over all sites, without one at each site.
        let place = if pinned { usize::MAX } else { site };
        let newest = self.seen.entry((app, place)).or_insert(epoch);
        if epoch < *newest {
            let habit = self.habit;
            self.tally
                .went_back
                .push(format!("{habit:?} {app} at site {site}: {epoch} after {newest}"));
        }
        *newest = epoch.max(*newest);
        self.tally.epochs.entry(app).or_default().insert(epoch);
        let pin = match self.habit {
            Habit::Http1Cookie => headers
                .get_all(http::header::SET_COOKIE)
                .iter()
                .filter_map(|value| value.to_str().ok())
                .filter_map(|value| {
                    value.split(';').next()?.strip_prefix("selvedge-pin=").map(str::to_owned)
                })
                .next(),
            Habit::Http2Header => {
                headers.get("selvedge-pin").and_then(|value| value.to_str().ok()).map(str::to_owned)
            }
            Habit::Http1Forgetful | Habit::Http2Forgetful => None,
        };
        if let Some(pin) = pin {
            self.pins.insert(app, pin);
        }
    }
}
