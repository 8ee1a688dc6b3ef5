//! Snapshots swapped under load, and the end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use selvedge_proxy::{Connect, Limits, Stream, Target, Upstream};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

use crate::clients::{Answer, Client, read_to_end, read_until};
use crate::site::{HOST, PATIENCE, Site, app, app_of, files, release, view};
use crate::workloads::read_head;

/// A workload that names its release, and that nobody may reach once it is stopped.
struct Release {
    number: u64,
    stopped: Arc<AtomicBool>,
}

#[async_trait::async_trait]
impl Connect for Release {
    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        if self.stopped.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = tokio::io::duplex(1 << 10);
        let (number, stopped) = (self.number, Arc::clone(&self.stopped));
        tokio::spawn(async move {
            let answer = service_fn(move |_: Request<Incoming>| {
                let body = match stopped.load(Ordering::SeqCst) {
                    true => "stopped".to_owned(),
                    false => format!("release {number}"),
                };
                async move { Ok::<_, io::Error>(Response::new(Full::<Bytes>::from(body))) }
            });
            let builder = hyper::server::conn::http1::Builder::new();
            let _ = builder.serve_connection(TokioIo::new(theirs), answer).await;
        });
        Ok(Box::new(ours))
    }
}

/// One release: a page, and a program below `/api`.
fn release_view(number: u64) -> (selvedge_proxy::EpochView, Arc<Upstream>, Arc<AtomicBool>) {
    let stopped = Arc::new(AtomicBool::new(false));
    let connect = Release { number, stopped: Arc::clone(&stopped) };
    let upstream = Arc::new(Upstream::new(format!("release {number}"), Arc::new(connect)));
    let page = files(&[("index.html", &format!("release {number}"))]);
    let program = Target::Workload(Arc::clone(&upstream));
    (view(number, vec![("/*", page), ("/api/*", program)]), upstream, stopped)
}

/// Asserts that body and headers agree, and returns the release.
fn shown(answer: &Answer) -> u64 {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    let number = answer.text().strip_prefix("release ").unwrap().parse().unwrap();
    assert_eq!(answer.header("selvedge-release"), release(number).short());
    assert_eq!(answer.header("selvedge-epoch"), format!("1.{number}"));
    number
}

/// Asks until told to stop; no request may fail and no release may be older than the last.
async fn ask(
    mut client: Client,
    path: &'static str,
    pinned: bool,
    stop: watch::Receiver<bool>,
    asked: Arc<watch::Sender<u64>>,
) {
    let (mut newest, mut pin) = (0, String::new());
    while !*stop.borrow() {
        let headers = [("selvedge-pin", pin.as_str())];
        let answer = client.get_with(path, if pinned { &headers } else { &[] }).await;
        let number = shown(&answer);
        assert!(number >= newest, "went back from {newest} to {number}");
        newest = number;
        if answer.headers.contains_key("selvedge-pin") {
            pin = answer.header("selvedge-pin").to_owned();
        }
        asked.send_modify(|count| *count += 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn no_request_is_dropped_by_swaps() {
    let (first, mut upstream, mut stopped) = release_view(1);
    let site = Site::start(app_of(Some(1), vec![first])).await;
    let (stop, stopping) = watch::channel(false);
    let asked = Arc::new(watch::Sender::new(0));
    let mut progress = asked.subscribe();
    let mut clients = Vec::new();
    for (path, pinned) in [("/", true), ("/", false), ("/api/x", true), ("/api/x", false)] {
        for client in [Client::plain(&site).await, Client::tls(&site, &[b"h2"]).await] {
            let (stop, asked) = (stopping.clone(), Arc::clone(&asked));
            clients.push(tokio::spawn(ask(client, path, pinned, stop, asked)));
        }
    }
    for number in 2..=200 {
        let (next, new_upstream, new_stopped) = release_view(number);
        // As the agent does it: the new release alone is there, then the old one is drained, and
        // stopped as soon as nothing is under way.
        site.swap(app_of(Some(number), vec![next]));
        let drained = upstream.wait_in_flight(|count| count == 0);
        tokio::time::timeout(PATIENCE, drained).await.expect("the old release drains");
        stopped.store(true, Ordering::SeqCst);
        (upstream, stopped) = (new_upstream, new_stopped);
        // Let some requests through before the next swap.
        let enough = *progress.borrow() + 3;
        progress.wait_for(|count| *count >= enough).await.unwrap();
    }
    stop.send_replace(true);
    for client in clients {
        client.await.unwrap();
    }
}

/// A workload that begins to answer, and ends when it is told.
struct Slow {
    go_on: Arc<Notify>,
}

#[async_trait::async_trait]
impl Connect for Slow {
    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let (ours, mut theirs) = tokio::io::duplex(1 << 10);
        let go_on = Arc::clone(&self.go_on);
        tokio::spawn(async move {
            read_head(&mut theirs).await;
            theirs.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await.unwrap();
            go_on.notified().await;
            theirs.write_all(b"-done").await.unwrap();
        });
        Ok(Box::new(ours))
    }
}

async fn slow_site(limits: Limits) -> (Site, Arc<Notify>) {
    let go_on = Arc::new(Notify::new());
    let connect = Slow { go_on: Arc::clone(&go_on) };
    let upstream = Arc::new(Upstream::new("slow".into(), Arc::new(connect)));
    let page = files(&[("index.html", "page")]);
    let routes = vec![("/*", page), ("/slow", Target::Workload(upstream))];
    (Site::with_limits(app_of(Some(1), vec![view(1, routes)]), limits).await, go_on)
}

async fn ask_slowly(site: &Site) -> TcpStream {
    let mut stream = TcpStream::connect(site.http).await.unwrap();
    let request = format!("GET /slow HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    read_until(&mut stream, "half").await;
    stream
}

#[tokio::test]
async fn a_drain_finishes_what_is_under_way() {
    let (mut site, go_on) = slow_site(Limits::default()).await;
    let mut idle = Client::plain(&site).await;
    assert_eq!(idle.get("/").await.text(), "page");
    let mut slow = ask_slowly(&site).await;
    let mut h2 = Client::tls(&site, &[b"h2"]).await;
    assert_eq!(h2.get("/").await.text(), "page");

    site.token.cancel();
    // Idle connections are closed at once, whatever is still under way elsewhere.
    for mut client in [idle, h2] {
        while client.try_send(http::Method::GET, "/", &[], "").await.is_ok() {}
    }
    assert!(!site.ended.is_finished());
    go_on.notify_one();
    assert_eq!(read_to_end(&mut slow).await, "-done");
    tokio::time::timeout(PATIENCE, &mut site.ended).await.expect("the proxy ends").unwrap();
    assert!(TcpStream::connect(site.http).await.is_err());
}

#[tokio::test]
async fn a_drain_is_bounded() {
    let limits = Limits { drain_timeout: Duration::from_millis(50), ..Limits::default() };
    let (mut site, _go_on) = slow_site(limits).await;
    let mut slow = ask_slowly(&site).await;
    site.token.cancel();
    tokio::time::timeout(PATIENCE, &mut site.ended).await.expect("the proxy ends").unwrap();
    assert_eq!(read_to_end(&mut slow).await, "");
}

#[tokio::test]
async fn a_taken_port_is_refused_by_name() {
    let site = Site::start(app(None, vec![])).await;
    let (_, snapshot) = watch::channel(Arc::new(selvedge_proxy::Snapshot {
        site: selvedge_model::SiteId::new("nyc").unwrap(),
        pins: None,
        hosts: Default::default(),
        rest: None,
        certificates: Default::default(),
        explain: false,
        probe_key: None,
    }));
    let config = selvedge_proxy::Config {
        http: ([127, 0, 0, 1], 0).into(),
        https: site.https,
        limits: Limits::default(),
        cache: Default::default(),
    };
    let log = selvedge_telemetry::access::AccessLog::discard();
    let error = selvedge_proxy::Proxy::bind(config, snapshot, log).err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&format!("HTTPS on {}", site.https)), "{error}");
}
