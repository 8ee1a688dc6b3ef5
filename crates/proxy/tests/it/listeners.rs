//! Listeners that change while the proxy serves, and connections that must not notice.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use selvedge_proxy::{
    Connect, Limits, ListenError, Listener, Listeners, Protocol, Stream, Target, Upstream,
};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::clients::{Client, raw, read_to_end};
use crate::site::{HOST, PATIENCE, Site, app, files};

fn page() -> selvedge_proxy::AppView {
    app(Some(1), vec![(1, files(&[("index.html", "page")]))])
}

fn any() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

fn http(name: &str, address: SocketAddr) -> Listener {
    Listener::new(name, address, Protocol::Http)
}

fn https(name: &str, address: SocketAddr) -> Listener {
    Listener::new(name, address, Protocol::Https)
}

async fn start(listeners: Vec<Listener>) -> (Site, watch::Sender<Arc<Listeners>>) {
    let (wanted, receiver) = watch::channel(Arc::new(Listeners(listeners)));
    (Site::listening(page(), Limits::default(), receiver, 2).await, wanted)
}

/// Where the listener of this name is bound, once it is.
async fn bound(site: &Site, name: &str) -> SocketAddr {
    let mut states = site.handle.listeners();
    let states = states
        .wait_for(|states| states.iter().any(|state| state.name == name && state.bound.is_some()));
    let states = tokio::time::timeout(PATIENCE, states).await.expect("it is bound").unwrap();
    states.iter().find_map(|state| state.bound.filter(|_| state.name == name)).unwrap()
}

#[tokio::test]
async fn listeners_come_and_go_without_a_connection_noticing() {
    let (site, wanted) = start(vec![http("a", any())]).await;
    let a = site.handle.address("a").unwrap();
    let mut on_a = Client::h1(TcpStream::connect(a).await.unwrap()).await;
    assert_eq!(on_a.get("/").await.text(), "page");

    // One more.
    wanted.send_replace(Arc::new(Listeners(vec![http("a", any()), http("b", any())])));
    let b = bound(&site, "b").await;
    assert_eq!(site.handle.address("a"), Some(a), "a picked port stays");
    let mut on_b = Client::h1(TcpStream::connect(b).await.unwrap()).await;
    let mut on_b2 = Client::h2(TcpStream::connect(b).await.unwrap()).await;
    assert_eq!(on_b.get("/").await.text(), "page");
    assert_eq!(on_b2.get("/").await.text(), "page");
    // A request that is under way when its listener goes, of which the end is still to come; and a
    // connection without one yet.
    let mut half = TcpStream::connect(b).await.unwrap();
    half.write_all(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n").as_bytes()).await.unwrap();
    let mut fresh = TcpStream::connect(b).await.unwrap();

    // One less: its connections end when they are done, those of the other stay.
    wanted.send_replace(Arc::new(Listeners(vec![http("a", any())])));
    let gone = site.handle.listeners().wait_for(|states| states.len() == 1).await.is_ok();
    assert!(gone && TcpStream::connect(b).await.is_err());
    for client in [&mut on_b, &mut on_b2] {
        while client.try_send(http::Method::GET, "/", &[], "").await.is_ok() {}
    }
    half.write_all(b"\r\n").await.unwrap();
    assert!(read_to_end(&mut half).await.ends_with("page"));
    fresh.write_all(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n").as_bytes()).await.unwrap();
    assert!(read_to_end(&mut fresh).await.ends_with("page"));
    assert_eq!(on_a.get("/").await.text(), "page");

    // Another protocol at the same address: connections keep the one they began with.
    wanted.send_replace(Arc::new(Listeners(vec![https("a", any())])));
    let secure =
        async { while crate::clients::handshake(a, &site.ca, HOST, &[]).await.is_err() {} };
    tokio::time::timeout(PATIENCE, secure).await.expect("TLS is spoken");
    assert_eq!(on_a.get("/").await.text(), "page");
}

#[tokio::test]
async fn an_address_that_is_taken_is_tried_again() {
    let (site, wanted) = start(vec![http("a", any())]).await;
    let a = site.handle.address("a").unwrap();
    let other = std::net::TcpListener::bind(any()).unwrap();
    let taken = other.local_addr().unwrap();
    // It is to move there, and can't: it stays where it was.
    wanted.send_replace(Arc::new(Listeners(vec![http("a", taken)])));
    let mut states = site.handle.listeners();
    let failed = states.wait_for(|states| states.iter().any(|state| state.error.is_some()));
    let failed = tokio::time::timeout(PATIENCE, failed).await.unwrap().unwrap().clone();
    assert_eq!(failed[0].bound, Some(a));
    let error = failed[0].error.as_ref().unwrap();
    assert!(matches!(**error, ListenError::Bind { address, .. } if address == taken), "{error}");
    let mut client = Client::h1(TcpStream::connect(a).await.unwrap()).await;
    assert_eq!(client.get("/").await.text(), "page");

    drop(other);
    let moved = states.wait_for(|states| states[0].bound == Some(taken));
    tokio::time::timeout(PATIENCE, moved).await.expect("it is tried again").unwrap();
    while client.try_send(http::Method::GET, "/", &[], "").await.is_ok() {}
    let mut client = Client::h1(TcpStream::connect(taken).await.unwrap()).await;
    assert_eq!(client.get("/").await.text(), "page");
}

/// Notes which thread asks for a connection, and refuses it.
struct Threads(Mutex<BTreeSet<String>>);

#[async_trait::async_trait]
impl Connect for Threads {
    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        self.0.lock().unwrap().insert(name);
        Err(io::ErrorKind::ConnectionRefused.into())
    }
}

#[tokio::test]
async fn each_shard_serves_its_connections() {
    let threads = Arc::new(Threads(Mutex::default()));
    let connect: Arc<dyn Connect> = Arc::clone(&threads) as _;
    let upstream = Target::Workload(Arc::new(Upstream::new("web".into(), connect)));
    let listeners = Listeners(vec![http("a", any())]).fixed();
    let app = app(Some(1), vec![(1, upstream)]);
    let site = Site::listening(app, Limits::default(), listeners, 2).await;
    let a = site.handle.address("a").unwrap();
    // The kernel spreads connections by their ports: of this many, each shard gets some.
    for _ in 0..64 {
        let mut client = Client::h1(TcpStream::connect(a).await.unwrap()).await;
        assert_eq!(client.get("/").await.status, 502);
    }
    let threads = threads.0.lock().unwrap().clone();
    assert_eq!(threads, BTreeSet::from(["proxy-0".to_owned(), "proxy-1".to_owned()]));
}

/// A version 2 header for a TCP connection over IPv4, or of another command.
fn version_2(command: u8, from: [u8; 4]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([command, 0x11, 0, 12]);
    header.extend(from);
    header.extend([127, 0, 0, 1, 0x13, 0x88, 0, 80]);
    header
}

#[tokio::test]
async fn a_balancer_says_whom_it_speaks_for() {
    let networks = |network: &str| vec![network.parse().unwrap()];
    let believed = Listener { proxy_protocol: networks("127.0.0.0/8"), ..http("believed", any()) };
    let secure = Listener { proxy_protocol: networks("127.0.0.0/8"), ..https("secure", any()) };
    let other = Listener { proxy_protocol: networks("192.0.2.0/24"), ..http("other", any()) };
    let limits = Limits {
        tls_handshake_timeout: std::time::Duration::from_millis(300),
        ..Limits::default()
    };
    let listeners = Listeners(vec![believed, secure, other]).fixed();
    let mut site = Site::listening(page(), limits, listeners, 1).await;
    let [believed, secure, other] =
        ["believed", "secure", "other"].map(|name| site.handle.address(name).unwrap());
    let request = format!(
        "GET / HTTP/1.1\r\nhost: {HOST}\r\nx-forwarded-for: 198.51.100.7\r\nconnection: close\r\n\r\n"
    );
    for (header, client) in [
        (b"PROXY TCP4 203.0.113.5 127.0.0.1 5000 80\r\n".to_vec(), "203.0.113.5:5000"),
        (version_2(0x21, [203, 0, 113, 6]), "203.0.113.6:5000"),
        (version_2(0x20, [203, 0, 113, 6]), "127.0.0.1:"),
        // Whom the balancer speaks for is a proxy that is trusted.
        (version_2(0x21, [10, 0, 0, 1]), "198.51.100.7:0"),
    ] {
        let mut stream = TcpStream::connect(believed).await.unwrap();
        stream.write_all(&header).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        assert!(read_to_end(&mut stream).await.ends_with("page"));
        let record = site.record().await;
        assert!(record.client.starts_with(client), "{}", record.client);
    }
    // And so with the scheme.
    let forced = |force_https| {
        let connect =
            crate::workloads::scripted(|_, stream| crate::workloads::serve_mirror(stream));
        let upstream = Arc::new(Upstream::new("web".into(), connect));
        let mut forced = crate::site::view(1, vec![("/*", Target::Workload(upstream))]);
        forced.table.force_https = force_https;
        crate::site::app_of(Some(1), vec![forced])
    };
    for (from, scheme) in [([10, 0, 0, 1], "https"), ([203, 0, 113, 6], "http")] {
        let request = format!(
            "GET / HTTP/1.1\r\nhost: {HOST}\r\nx-forwarded-proto: https\r\nconnection: close\r\n\r\n"
        );
        for force_https in [false, true] {
            site.swap(forced(force_https));
            let mut stream = TcpStream::connect(believed).await.unwrap();
            stream.write_all(&version_2(0x21, from)).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let answer = read_to_end(&mut stream).await;
            let told = format!("\"x-forwarded-proto\":[\"{scheme}\"]");
            let is_redirect = force_https && scheme == "http";
            assert_eq!(answer.contains(&told), !is_redirect, "{answer}");
            assert_eq!(answer.starts_with("HTTP/1.1 308 "), is_redirect, "{answer}");
            assert_eq!(site.record().await.scheme, scheme);
        }
    }
    site.swap(page());
    // Before TLS, in as many pieces as there are bytes.
    let mut stream = TcpStream::connect(secure).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in b"PROXY TCP6 2001:db8::5 ::1 5000 80\r\n" {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let stream = crate::clients::handshake_on(stream, &site.ca, HOST, &[b"h2"]).await.unwrap();
    assert_eq!(Client::h2(stream).await.get("/").await.text(), "page");
    assert_eq!(site.record().await.client, "[2001:db8::5]:5000");
    // What has no header, or a broken one, or one that does not end, is closed without an answer.
    let long = [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat();
    for bad in [request.as_bytes(), b"PROXY TCP4 x\r\n", &version_2(0x29, [1; 4]), &long, b"PROXY "]
    {
        let mut stream = TcpStream::connect(believed).await.unwrap();
        stream.write_all(bad).await.unwrap();
        assert_eq!(read_to_end(&mut stream).await, "");
    }
    // From anybody else it means nothing.
    let request = format!("PROXY TCP4 203.0.113.5 127.0.0.1 5000 80\r\n{request}");
    assert!(raw(other, &request).await.starts_with("HTTP/1.1 400 "));
}
