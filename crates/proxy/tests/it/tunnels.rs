//! WebSockets: bytes both ways, ends, and what is no WebSocket.

use std::sync::Arc;
use std::time::Duration;

use selvedge_proxy::{Limits, Target, Upstream, UpstreamLimits};
use selvedge_telemetry::access::ErrorSource;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpStream;

use crate::clients::{handshake, raw, read_to_end, read_until};
use crate::site::{HOST, PATIENCE, Site, app};
use crate::workloads::{in_flight, read_head, scripted};

const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                         upgrade: websocket\r\nsec-websocket-accept: x\r\n\r\n";
/// A text frame that says "hi", as a server sends it.
const HI: &[u8] = &[0x81, 2, b'h', b'i'];
const GOING_AWAY: &[u8] = &[0x88, 2, 0x03, 0xe9];

fn asking(extra: &str) -> String {
    format!(
        "GET /chat HTTP/1.1\r\nhost: {HOST}\r\nconnection: keep-alive, Upgrade\r\n\
         upgrade: WebSocket\r\nsec-websocket-key: k\r\nsec-websocket-version: 13\r\n{extra}\r\n"
    )
}

/// A server that upgrades, says hi, and then sends back all that it gets until that ends.
async fn echo(mut stream: DuplexStream) {
    let head = read_head(&mut stream).await;
    assert!(head.to_ascii_lowercase().contains("upgrade: websocket"), "{head}");
    assert!(head.contains("sec-websocket-key: k"), "{head}");
    // The head and the first frame in one: neither may get lost.
    let first = [SWITCHING.as_bytes(), HI].concat();
    if stream.write_all(&first).await.is_err() {
        return;
    }
    let (mut read, mut write) = tokio::io::split(stream);
    let _ = tokio::io::copy(&mut read, &mut write).await;
    let _ = write.write_all(b"bye").await;
    let _ = write.shutdown().await;
}

fn echoing(limits: UpstreamLimits) -> Arc<Upstream> {
    let connect = scripted(|_, stream| echo(stream));
    Arc::new(Upstream::with_limits("chat".into(), connect, limits))
}

async fn site(upstream: &Arc<Upstream>, limits: Limits) -> Site {
    let app = app(Some(1), vec![(1, Target::Workload(Arc::clone(upstream)))]);
    Site::with_limits(app, limits).await
}

async fn open<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    stream.write_all(asking("").as_bytes()).await.unwrap();
    let head = read_until(stream, "\u{2}hi").await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    for part in [
        "connection: upgrade",
        "upgrade: websocket",
        "sec-websocket-accept: x",
        "selvedge-epoch: 1.1",
    ] {
        assert!(head.contains(part), "{part}: {head}");
    }
}

async fn round_trips<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    let long = vec![b'x'; 100_000];
    let (mut read, mut write) = tokio::io::split(&mut *stream);
    let mut back = vec![0; long.len()];
    let (sent, read) = tokio::join!(write.write_all(&long), read.read_exact(&mut back));
    sent.unwrap();
    read.unwrap();
    assert_eq!(back, long);
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_side_ends_for_itself() {
    let upstream = echoing(UpstreamLimits::default());
    let mut site = site(&upstream, Limits::default()).await;
    let mut plain = TcpStream::connect(site.http).await.unwrap();
    let mut secure = handshake(site.https, &site.ca, HOST, &[b"http/1.1"]).await.unwrap();
    open(&mut plain).await;
    open(&mut secure).await;
    in_flight(&upstream, 2).await;
    round_trips(&mut plain).await;
    round_trips(&mut secure).await;
    // Nothing is recorded while it lasts.
    assert!(site.records.try_recv().is_err());
    for number in 0..2 {
        let mut rest = String::new();
        if number == 0 {
            plain.shutdown().await.unwrap();
            plain.read_to_string(&mut rest).await.unwrap();
        } else {
            secure.shutdown().await.unwrap();
            secure.read_to_string(&mut rest).await.unwrap();
        }
        // The client has finished, and the server's last word still came.
        assert_eq!(rest, "bye");
        let record = site.record().await;
        assert_eq!((record.status, record.path.as_str()), (101, "/chat"));
        assert_eq!(record.bytes_received, 100_000);
        assert_eq!(record.bytes_sent, 100_000 + HI.len() as u64 + 3);
        assert!(record.error.is_none(), "{:?}", record.error);
    }
    in_flight(&upstream, 0).await;
}

#[tokio::test]
async fn an_upstream_that_is_left_says_goodbye_between_two_frames() {
    let upstream = echoing(UpstreamLimits::default());
    let mut site = site(&upstream, Limits::default()).await;
    let mut one = TcpStream::connect(site.http).await.unwrap();
    let mut other = TcpStream::connect(site.http).await.unwrap();
    open(&mut one).await;
    open(&mut other).await;
    // The second is within a frame that its server has begun.
    other.write_all(&[0x82, 4, 1, 2]).await.unwrap();
    let mut half = [0; 4];
    other.read_exact(&mut half).await.unwrap();
    upstream.end_tunnels();
    let mut rest = Vec::new();
    one.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, GOING_AWAY);
    drop(one);
    other.write_all(&[3, 4]).await.unwrap();
    rest.clear();
    tokio::time::timeout(PATIENCE, other.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest, [&[3, 4], GOING_AWAY].concat());
    drop(other);
    for _ in 0..2 {
        let record = site.record().await;
        assert_eq!((record.status, record.error), (101, None));
    }
    in_flight(&upstream, 0).await;
}

#[tokio::test]
async fn a_proxy_that_ends_says_goodbye() {
    let upstream = echoing(UpstreamLimits::default());
    let mut site = site(&upstream, Limits::default()).await;
    let mut stream = TcpStream::connect(site.http).await.unwrap();
    open(&mut stream).await;
    site.token.cancel();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, GOING_AWAY);
    drop(stream);
    let ended = std::mem::replace(&mut site.ended, tokio::spawn(async {}));
    tokio::time::timeout(PATIENCE, ended).await.expect("the proxy ends").unwrap();
    assert_eq!(site.record().await.status, 101);
}

#[tokio::test]
async fn tunnels_are_bounded() {
    let upstream = echoing(UpstreamLimits { max_tunnels: 1, ..UpstreamLimits::default() });
    let limits = Limits { tunnel_idle_timeout: Duration::from_millis(300), ..Limits::default() };
    let mut site = site(&upstream, limits).await;
    let mut stream = TcpStream::connect(site.http).await.unwrap();
    open(&mut stream).await;
    let refused = raw(site.http, &asking("").replace("keep-alive", "close")).await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert_eq!(site.record().await.error.unwrap().kind, "busy");
    // Nothing moves, and it is closed.
    read_to_end(&mut stream).await;
    let error = site.record().await.error.unwrap();
    assert_eq!((error.source, error.kind.as_str()), (ErrorSource::Client, "tunnel-idle"));
    in_flight(&upstream, 0).await;
}

#[tokio::test]
async fn a_broken_side_ends_the_other() {
    let connect = scripted(|number, mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(SWITCHING.as_bytes()).await.unwrap();
        if number == 0 {
            // The server closes at once; the second holds on until its client has gone.
            return;
        }
        let mut gone = Vec::new();
        let _ = stream.read_to_end(&mut gone).await;
    });
    let upstream = Arc::new(Upstream::new("chat".into(), connect));
    let mut site = site(&upstream, Limits::default()).await;
    let answer = raw(site.http, &asking("")).await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    assert_eq!(site.record().await.status, 101);
    let mut stream = TcpStream::connect(site.http).await.unwrap();
    stream.write_all(asking("").as_bytes()).await.unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    drop(stream);
    assert_eq!(site.record().await.status, 101);
    in_flight(&upstream, 0).await;
}

#[tokio::test]
async fn nothing_else_is_an_upgrade() {
    // Answers 101 when asked to upgrade, and 200 otherwise.
    let connect = scripted(|_, mut stream| async move {
        let head = read_head(&mut stream).await.to_ascii_lowercase();
        let answer = match head.contains("\r\nupgrade:") {
            true => SWITCHING.replace("websocket", "h2c"),
            false => "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\nupgrade: h2c\r\n\r\nplain".into(),
        };
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.read_u8().await;
    });
    let upstream = Arc::new(Upstream::new("chat".into(), connect));
    let site = site(&upstream, Limits::default()).await;
    for (name, request) in [
        ("h2c", asking("").replace("WebSocket", "h2c")),
        ("two protocols", asking("upgrade: h2c\r\n")),
        ("a list", asking("").replace("WebSocket", "websocket, h2c")),
        ("a body", asking("content-length: 2\r\n") + "hi"),
        ("POST", asking("content-length: 0\r\n").replacen("GET", "POST", 1)),
        ("no connection", asking("").replace("keep-alive, Upgrade", "close")),
    ] {
        let request = request.replace("keep-alive, Upgrade", "close, Upgrade");
        let answer = raw(site.http, &request).await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("plain"),
            "{name}: {answer}"
        );
        assert!(!answer.contains("upgrade: h2c"), "{name}: {answer}");
    }
    // A server that agrees to something else than it was asked for.
    let answer = raw(site.http, &asking("").replace("keep-alive", "close")).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    in_flight(&upstream, 0).await;
}
