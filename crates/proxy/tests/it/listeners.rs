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

use crate::clients::{Client, read_to_end};
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
