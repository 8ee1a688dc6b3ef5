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
use selvedge_proxy::{Connect, Limits, Listeners, Stream, Target, Upstream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

use crate::clients::{Answer, Client, read_to_end, read_until};
use crate::site::{HOST, PATIENCE, Site, app, app_of, files, release, view};
use crate::workloads::{read_head, scripted};

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
    let loopback = ([127, 0, 0, 1], 0).into();
    let listeners = Listeners::pair(loopback, loopback).fixed();
    let app = app_of(Some(1), vec![first]);
    let site = Site::listening(app, Limits::default(), listeners, 2).await;
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

/// A workload that has got the request, and answers when it is told.
async fn late_site() -> (Site, Arc<Notify>, Arc<Notify>) {
    let (asked, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (asking, going_on) = (Arc::clone(&asked), Arc::clone(&go_on));
    let connect = scripted(move |_, mut stream| {
        let (asked, go_on) = (Arc::clone(&asking), Arc::clone(&going_on));
        async move {
            read_head(&mut stream).await;
            asked.notify_one();
            go_on.notified().await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate").await.unwrap();
        }
    });
    let upstream = Upstream::new("late".into(), connect);
    let site = Site::start(app(Some(1), vec![(1, Target::Workload(Arc::new(upstream)))])).await;
    (site, asked, go_on)
}

#[tokio::test]
async fn a_response_under_way_says_that_the_connection_closes() {
    let (site, asked, go_on) = late_site().await;
    let mut stream = TcpStream::connect(site.http).await.unwrap();
    stream.write_all(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n").as_bytes()).await.unwrap();
    asked.notified().await;
    site.token.cancel();
    // Nobody is served any more: the drain has begun.
    let refused = async { while TcpStream::connect(site.http).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, refused).await.expect("the listener closes");
    go_on.notify_one();
    let answer = read_to_end(&mut stream).await.to_ascii_lowercase();
    assert!(answer.contains("\r\nconnection: close\r\n") && answer.ends_with("late"), "{answer}");
}

#[tokio::test]
async fn http2_clients_are_told_to_go_away_and_get_what_they_asked_for() {
    let (site, asked, go_on) = late_site().await;
    let mut stream = TcpStream::connect(site.http).await.unwrap();
    // GET / as RFC 7541 has it: three indexed fields, and the authority by its indexed name.
    let mut fields = vec![0x82, 0x84, 0x86, 0x01, u8::try_from(HOST.len()).unwrap()];
    fields.extend_from_slice(HOST.as_bytes());
    let mut request = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    // HEADERS of stream 1, with END_STREAM and END_HEADERS.
    request.extend([0, 0, u8::try_from(fields.len()).unwrap(), 1, 0x05, 0, 0, 0, 1]);
    request.extend(fields);
    stream.write_all(&request).await.unwrap();
    asked.notified().await;
    site.token.cancel();
    let (mut went_away, mut data) = (false, Vec::new());
    let frames = async {
        loop {
            let mut head = [0; 9];
            if stream.read_exact(&mut head).await.is_err() {
                return;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            stream.read_exact(&mut payload).await.unwrap();
            match (head[3], head[4]) {
                (0, _) => data.extend(payload),
                // PING: without the answer, the last GOAWAY does not come.
                (6, 0) => {
                    head[4] = 1;
                    stream.write_all(&[&head[..], &payload].concat()).await.unwrap();
                }
                (7, _) if !std::mem::replace(&mut went_away, true) => {
                    assert!(data.is_empty());
                    assert_eq!(payload[4..8], [0; 4], "NO_ERROR");
                    go_on.notify_one();
                }
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, frames).await.expect("the connection closes");
    assert!(went_away);
    assert_eq!(data, b"late");
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
        default_certificate: None,
        tls: Arc::default(),
        explain: false,
        probe_key: None,
    }));
    let config = selvedge_proxy::Config {
        listeners: Listeners::pair(([127, 0, 0, 1], 0).into(), site.https).fixed(),
        shards: 2,
        limits: Limits::default(),
        trusted: Vec::new(),
        cache: Default::default(),
    };
    let log = selvedge_telemetry::access::AccessLog::discard();
    let error = selvedge_proxy::Proxy::bind(config, snapshot, log).err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&format!("HTTPS on {}", site.https)), "{error}");
}
