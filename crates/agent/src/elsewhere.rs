//! Upstreams: servers elsewhere that an app's routes lead to. Nothing is run for them; they are
//! connected to, and looked at from time to time so that somebody is told when one is down.
//!
//! An upstream must not be a way into the machine: unless the installation allows it (the box does),
//! no connection is made to an address of the machine's own, whatever the name that led there. The
//! address that is connected to is the one that was judged, so that a name can't change its mind in
//! between.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderValue, Request, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use selvedge_model::address::{plain, unreachable};
use selvedge_model::manifest::UpstreamAddress;
use selvedge_proxy::upstream::connect_any;
use selvedge_proxy::{Connect, Stream, Upstream, UpstreamLimits};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::desired::UpstreamPlan;
use crate::workloads::drain;

/// How often an upstream is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// How long one look may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// An upstream that routes may lead to.
pub(crate) struct Elsewhere {
    upstream: Arc<Upstream>,
    problems: watch::Receiver<Vec<String>>,
    _look: AbortOnDropHandle<()>,
}

impl Elsewhere {
    /// Begins to look at it.
    pub(crate) fn reach(plan: &UpstreamPlan) -> Self {
        let places: Vec<Arc<Place>> = plan
            .addresses
            .iter()
            .map(|address| {
                Arc::new(Place { address: address.clone(), allow_local: plan.allow_local })
            })
            .collect();
        let connects = places.iter().map(|place| Arc::clone(place) as Arc<dyn Connect>).collect();
        let host = plan.host.as_ref().and_then(|host| HeaderValue::try_from(host).ok());
        let limits = UpstreamLimits::default();
        let upstream = Arc::new(Upstream::balanced(plan.name.clone(), connects, host, limits));
        let (sender, problems) = watch::channel(Vec::new());
        let look = look(plan.clone(), places, Arc::clone(&upstream), sender);
        let look = AbortOnDropHandle::new(tokio::spawn(look));
        Self { upstream, problems, _look: look }
    }

    /// For the proxy's routes.
    pub(crate) fn upstream(&self) -> Arc<Upstream> {
        Arc::clone(&self.upstream)
    }

    /// What the last look found wrong, in words; changes when that does.
    pub(crate) fn problems(&self) -> watch::Receiver<Vec<String>> {
        self.problems.clone()
    }

    /// Ends once no request uses it any more, or `patience` has run out. The caller has taken it out
    /// of the snapshot before.
    pub(crate) async fn leave(self, patience: Duration) {
        let Self { upstream, _look: look, .. } = self;
        // It holds the upstream too.
        drop(look);
        drain(&upstream, patience).await;
    }
}

/// Looks at every address again and again.
async fn look(
    plan: UpstreamPlan,
    places: Vec<Arc<Place>>,
    upstream: Arc<Upstream>,
    problems: watch::Sender<Vec<String>>,
) {
    let upstream = Arc::downgrade(&upstream);
    loop {
        let looks = places.iter().map(|place| {
            let (place, plan) = (Arc::clone(place), plan.clone());
            tokio::spawn(async move {
                match tokio::time::timeout(TIMEOUT, examine(&place, &plan)).await {
                    Ok(Ok(())) => None,
                    Ok(Err(problem)) => Some(format!("{} {problem}", place.address)),
                    Err(_) => {
                        let seconds = TIMEOUT.as_secs();
                        Some(format!("{} does not answer within {seconds} s", place.address))
                    }
                }
            })
        });
        let looks: Vec<_> = looks.map(AbortOnDropHandle::new).collect();
        let mut found = Vec::new();
        for (index, look) in looks.into_iter().enumerate() {
            let problem = look.await.ok().flatten();
            let Some(upstream) = upstream.upgrade() else { return };
            upstream.set_well(index, problem.is_none());
            found.extend(problem);
        }
        problems.send_if_modified(|known| {
            let changed = *known != found;
            *known = found;
            changed
        });
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether an address is well: it can be connected to, and answers its health path.
async fn examine(place: &Place, plan: &UpstreamPlan) -> Result<(), String> {
    let stream = place.open().await.map_err(|error| format!("can't be reached: {error}"))?;
    let Some(health) = &plan.health else { return Ok(()) };
    let bad = |error: &dyn std::fmt::Display| format!("does not answer {health}: {error}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| bad(&error))?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let own = place.address.to_string();
    let host = plan.host.as_deref().unwrap_or(own.trim_start_matches("http://"));
    let request = Request::get(health)
        .header(header::HOST, host)
        .header(header::USER_AGENT, concat!("selvedge-probe/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| bad(&error))?;
    let status = sender.send_request(request).await.map_err(|error| bad(&error))?.status();
    match status.is_success() || status.is_redirection() {
        true => Ok(()),
        false => Err(format!("answers {health} with {}", status.as_u16())),
    }
}

/// One address.
struct Place {
    address: UpstreamAddress,
    allow_local: bool,
}

impl Place {
    async fn open(&self) -> io::Result<TcpStream> {
        let (mut allowed, mut refused) = (Vec::new(), None);
        for address in self.resolve().await? {
            match self.refusal(address.ip())? {
                Some(why) => {
                    let ip = address.ip();
                    refused = Some(format!("{ip} may not be connected to: {why}"));
                }
                None => allowed.push(address),
            }
        }
        match refused {
            Some(refused) if allowed.is_empty() => Err(io::Error::other(refused)),
            _ => connect_any(allowed).await,
        }
    }

    async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let port = self.address.port();
        match (self.address.ip(), self.address.name()) {
            (Some(ip), _) => Ok(vec![(ip, port).into()]),
            (None, Some(name)) => {
                Ok(tokio::net::lookup_host((name.as_str(), port)).await?.collect())
            }
            (None, None) => Ok(Vec::new()),
        }
    }

    /// Why an address may not be connected to. The machine's own addresses are read anew each time,
    /// since interfaces come and go.
    fn refusal(&self, address: IpAddr) -> io::Result<Option<&'static str>> {
        if self.allow_local {
            return Ok(None);
        }
        let own = nix::ifaddrs::getifaddrs()?.filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        });
        let is_own = own.map(plain).any(|own| own == plain(address));
        let own = is_own.then_some("it is an address of this machine");
        Ok(unreachable(address).or(own))
    }
}

#[async_trait]
impl Connect for Place {
    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(self.open().await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(addresses: &[String], health: Option<&str>, allow_local: bool) -> UpstreamPlan {
        UpstreamPlan {
            name: "legacy".into(),
            addresses: addresses.iter().map(|it| UpstreamAddress::new(it).unwrap()).collect(),
            host: None,
            health: health.map(str::to_owned),
            allow_local,
        }
    }

    /// The first thing that a look finds.
    async fn found(plan: &UpstreamPlan) -> Vec<String> {
        let elsewhere = Elsewhere::reach(plan);
        let mut problems = elsewhere.problems();
        let changed = tokio::time::timeout(Duration::from_secs(20), problems.changed());
        changed.await.expect("a look is taken").unwrap();
        problems.borrow().clone()
    }

    #[tokio::test]
    async fn the_machine_itself_is_reached_only_where_that_is_allowed() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        for host in ["127.0.0.1", "localhost"] {
            let address = [format!("http://{host}:{port}")];
            let words = found(&plan(&address, None, false)).await.join("\n");
            assert!(words.contains("may not be connected to"), "{words}");
            // Nobody has knocked.
            let knock = std::future::poll_fn(|cx| server.poll_accept(cx));
            assert!(futures_util::poll!(std::pin::pin!(knock)).is_pending());
        }
        let place = Place {
            address: UpstreamAddress::new(&format!("http://localhost:{port}")).unwrap(),
            allow_local: true,
        };
        place.open().await.unwrap();
    }

    #[tokio::test]
    async fn what_is_wrong_is_said() {
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refused = gone.local_addr().unwrap();
        drop(gone);
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let sick = server.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = server.accept().await {
                let answer = hyper::service::service_fn(|_| async {
                    let answer = http::Response::builder().status(503);
                    answer.body(Empty::<bytes::Bytes>::new())
                });
                let builder = hyper::server::conn::http1::Builder::new();
                let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
            }
        });
        let addresses = [format!("http://{refused}"), format!("http://{sick}")];
        let words = found(&plan(&addresses, Some("/healthz"), true)).await;
        assert!(words[0].starts_with(&format!("http://{refused} can't be reached: ")), "{words:?}");
        assert_eq!(words[1], format!("http://{sick} answers /healthz with 503"));
    }
}
