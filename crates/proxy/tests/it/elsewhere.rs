//! Upstreams of several addresses, and those that lead back.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use selvedge_proxy::{Connect, Stream, Target, Upstream, UpstreamLimits};
use serde_json::Value;

use crate::clients::Client;
use crate::site::{HOST, Site, app};
use crate::workloads::{Refusing, Scripted, Silent, scripted, serve_mirror};

/// A server that can be switched off.
struct Switched {
    on: AtomicBool,
    asked: AtomicUsize,
    server: Arc<Scripted>,
}

#[async_trait::async_trait]
impl Connect for Switched {
    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        match self.on.load(Ordering::SeqCst) {
            true => self.server.connect().await,
            false => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }
}

fn switched(on: bool) -> Arc<Switched> {
    let server = scripted(|_, stream| serve_mirror(stream));
    Arc::new(Switched { on: AtomicBool::new(on), asked: AtomicUsize::new(0), server })
}

fn without_pool() -> UpstreamLimits {
    let connect_timeout = Duration::from_millis(300);
    UpstreamLimits { max_idle: 0, connect_timeout, ..UpstreamLimits::default() }
}

fn balanced(connects: Vec<Arc<dyn Connect>>, host: Option<&'static str>) -> Arc<Upstream> {
    let host = host.map(HeaderValue::from_static);
    Arc::new(Upstream::balanced("legacy of shop".into(), connects, host, without_pool()))
}

#[tokio::test]
async fn requests_go_to_each_address_in_turn_and_pass_over_one_that_is_down() {
    let (one, two) = (switched(true), switched(true));
    let upstream = balanced(vec![one.clone(), two.clone()], Some("legacy.test"));
    let site = Site::start(app(Some(1), vec![(1, Target::Workload(Arc::clone(&upstream)))])).await;
    let mut client = Client::plain(&site).await;
    let asked = || (one.asked.load(Ordering::SeqCst), two.asked.load(Ordering::SeqCst));
    for _ in 0..6 {
        let seen: Value = serde_json::from_slice(&client.get("/").await.body).unwrap();
        assert_eq!(seen["headers"]["host"][0], "legacy.test");
        assert_eq!(seen["headers"]["x-forwarded-host"][0], HOST);
    }
    assert_eq!(asked(), (3, 3));

    one.on.store(false, Ordering::SeqCst);
    for _ in 0..6 {
        assert_eq!(client.send(http::Method::POST, "/", &[], "body").await.status, 200);
    }
    // The first that met it went on to the other; the rest let it rest.
    assert_eq!(asked(), (4, 9));
    // What the agent's own look says counts too.
    one.on.store(true, Ordering::SeqCst);
    two.on.store(false, Ordering::SeqCst);
    upstream.set_well(1, false);
    assert_eq!(client.get("/").await.status, 200);
    upstream.set_well(1, true);
    one.on.store(false, Ordering::SeqCst);
    let answer = client.get("/").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert!(answer.text().contains("legacy of shop"), "{}", answer.text());
}

#[tokio::test]
async fn an_address_that_swallows_connections_leaves_time_for_the_next() {
    let good = switched(true);
    let upstream = balanced(vec![Arc::new(Silent), Arc::new(Refusing), good.clone()], None);
    let site = Site::start(app(Some(1), vec![(1, Target::Workload(upstream))])).await;
    let mut client = Client::plain(&site).await;
    for _ in 0..4 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(good.asked.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_request_that_goes_in_a_circle_is_stopped() {
    let good = switched(true);
    let upstream = balanced(vec![good.clone()], None);
    let site = Site::start(app(Some(1), vec![(1, Target::Workload(upstream))])).await;
    let mut client = Client::plain(&site).await;
    let hops = |count: usize| vec!["1.1 selvedge"; count].join(", ");
    let answer = client.get_with("/", &[("via", &hops(7)), ("via", "1.1 other")]).await;
    assert_eq!(answer.status, 200);
    let answer = client.get_with("/", &[("via", &hops(4)), ("via", &hops(4))]).await;
    assert_eq!(answer.status, StatusCode::LOOP_DETECTED);
    assert_eq!(good.asked.load(Ordering::SeqCst), 1);
}
