//! Clients that mean ill, or are broken.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use selvedge_proxy::files::StaticSite;
use selvedge_proxy::{Limits, Target, Upstream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::clients::{Client, raw, read_to_end, read_until};
use crate::site::{HOST, PATIENCE, Site, app, files, write};
use crate::workloads::scripted;

fn page() -> selvedge_proxy::AppView {
    app(Some(1), vec![(1, files(&[("index.html", "page")]))])
}

fn impatient() -> Limits {
    Limits {
        header_timeout: Duration::from_millis(100),
        idle_timeout: Duration::from_millis(200),
        tls_handshake_timeout: Duration::from_millis(100),
        client_stall_timeout: Duration::from_millis(100),
        ..Limits::default()
    }
}

/// Starts with `first` and then sends a byte at a time for as long as it is let.
async fn drip(address: std::net::SocketAddr, first: &str) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(first.as_bytes()).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let dripping = tokio::spawn(async move {
        while write.write_all(b"a").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let mut answer = Vec::new();
    let end = tokio::time::timeout(PATIENCE, read.read_to_end(&mut answer)).await;
    assert!(end.is_ok(), "the proxy closes");
    dripping.abort();
}

#[tokio::test]
async fn slow_clients_are_cut_off() {
    let site = Site::with_limits(page(), impatient()).await;
    drip(site.http, "").await;
    drip(site.http, "GET / HTTP/1.1\r\nhost: x\r\nx: ").await;
    drip(site.https, "").await;
    // The second head of a connection as well.
    let first = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    let mut stream = TcpStream::connect(site.http).await.unwrap();
    stream.write_all(first.as_bytes()).await.unwrap();
    read_until(&mut stream, "page").await;
    stream.write_all(b"GET / HTTP").await.unwrap();
    read_to_end(&mut stream).await;
    // And a connection of either version that asks for nothing more.
    for address in [site.http, site.https] {
        let mut silent = TcpStream::connect(address).await.unwrap();
        read_to_end(&mut silent).await;
    }
    let mut idle = TcpStream::connect(site.http).await.unwrap();
    idle.write_all(first.as_bytes()).await.unwrap();
    assert!(read_to_end(&mut idle).await.ends_with("page"));
    let mut h2 = TcpStream::connect(site.http).await.unwrap();
    h2.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    read_to_end(&mut h2).await;
}

#[tokio::test]
async fn clients_that_do_not_read_are_cut_off() {
    let directory = tempfile::tempdir().unwrap();
    let big = "x".repeat(24 << 20);
    write(directory.path(), &[("big", &big)]);
    let big = Target::Static(Arc::new(StaticSite::load(directory.path()).unwrap()));
    let mut site = Site::with_limits(app(Some(1), vec![(1, big)]), impatient()).await;
    let mut stream = TcpStream::connect(site.http).await.unwrap();
    let request = format!("GET /big HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let record = site.record().await;
    assert_eq!((record.status, record.error.unwrap().kind.as_str()), (200, "aborted"));
    assert!(record.bytes_sent < 24 << 20);
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let limits = Limits {
        max_header_bytes: 9000,
        max_headers: 20,
        max_uri_bytes: 1000,
        ..Limits::default()
    };
    let mut site = Site::with_limits(page(), limits).await;
    let with = |target: &str, headers: &str| {
        format!("GET {target} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n{headers}\r\n")
    };
    let long = "x".repeat(2000);
    let longer = "x".repeat(100_000);
    for (request, status) in [
        (with("/", ""), 200),
        (with(&format!("/{long}"), ""), 414),
        (with("/", &"a: b\r\n".repeat(30)), 431),
        (with("/", &"a: b\r\n".repeat(300)), 431),
        (with("/", &format!("a: {longer}\r\n")), 431),
        (with(&format!("/{longer}"), ""), 431),
    ] {
        let answer = raw(site.http, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer}");
        assert_eq!(site.record().await.status, status);
    }
    let mut client = Client::tls(&site, &[b"h2"]).await;
    let headers: Vec<(String, &str)> = (0..30).map(|n| (format!("x-{n}"), "y")).collect();
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, y)| (name.as_str(), *y)).collect();
    assert_eq!(client.get_with("/", &headers).await.status, 431);
    assert_eq!(client.get("/").await.text(), "page");
}

#[tokio::test]
async fn requests_can_not_be_smuggled() {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let connect = scripted(move |_, mut stream| {
        let seen = Arc::clone(&count);
        async move {
            let mut text = String::new();
            let mut chunk = [0; 4096];
            while let Ok(read) = stream.read(&mut chunk).await {
                text.push_str(&String::from_utf8_lossy(&chunk[..read]));
                assert!(!text.contains("/smuggled"), "{text}");
                if read == 0 {
                    return;
                }
                if text.contains("\r\n\r\n") {
                    seen.fetch_add(1, Ordering::Relaxed);
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    stream.write_all(answer).await.unwrap();
                    return;
                }
            }
        }
    });
    let upstream = Upstream::new("web".into(), connect);
    let site = Site::start(app(Some(1), vec![(1, Target::Workload(Arc::new(upstream)))])).await;
    let smuggled = format!("GET /smuggled HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    let length = smuggled.len();
    let post = format!("POST / HTTP/1.1\r\nhost: {HOST}\r\n");
    for headers in [
        // The whole of the smuggled request is body by one reading and a request by the other.
        format!("content-length: {length}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("transfer-encoding: chunked\r\ncontent-length: {length}\r\n\r\n0\r\n\r\n"),
        "transfer-encoding: xchunked\r\n\r\n0\r\n\r\n".to_owned(),
        "transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n".to_owned(),
        "transfer-encoding : chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        format!("content-length: 0\r\ncontent-length: {length}\r\n\r\n"),
        format!("content-length: 0, {length}\r\n\r\n"),
        "content-length: +0\r\n\r\n".to_owned(),
        "content-length: 0x0\r\n\r\n".to_owned(),
        "transfer-encoding: chunked\r\n\r\n0;\n\r\n".to_owned(),
        "x: y\r\n folded: z\r\n\r\n".to_owned(),
        "bare\r\n\r\n".to_owned(),
        "x: a\0b\r\n\r\n".to_owned(),
        "host: other.test\r\n\r\n".to_owned(),
    ] {
        let answer = raw(site.http, &format!("{post}{headers}{smuggled}")).await;
        let answers = answer.matches("HTTP/1.1 ").count();
        assert!(answers <= 1, "{headers:?}: {answer}");
        // Where both framings were given, what is left is one request with a body of our framing.
        let both = headers.contains("content-length") && headers.contains("chunked");
        assert!(both || !answer.starts_with("HTTP/1.1 200"), "{headers:?}: {answer}");
    }
    assert!(seen.load(Ordering::Relaxed) <= 2);
}

#[tokio::test]
async fn connections_are_bounded() {
    let limits = Limits { max_connections: 1, ..Limits::default() };
    let site = Site::with_limits(page(), limits).await;
    let mut first = Client::plain(&site).await;
    assert_eq!(first.get("/").await.text(), "page");
    let mut waiting = TcpStream::connect(site.http).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    waiting.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(first.get("/").await.text(), "page");
    drop(first);
    assert!(read_to_end(&mut waiting).await.ends_with("page"));
}

#[tokio::test]
async fn odd_requests_are_answered_as_such() {
    let site = Site::start(page()).await;
    for (request, status) in [
        (format!("GET / HTTP/1.0\r\nhost: {HOST}\r\n\r\n"), 200),
        ("GET / HTTP/1.0\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nconnection: close\r\n\r\n".to_owned(), 400),
        (format!("GET http://{HOST}/ HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n"), 200),
        (format!("GET http://a.test/ HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n"), 400),
        (format!("OPTIONS * HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n"), 400),
        (
            format!("CONNECT {HOST}:443 HTTP/1.1\r\nhost: {HOST}:443\r\nconnection: close\r\n\r\n"),
            405,
        ),
        (format!("TRACE / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n"), 405),
        ("\x16\x03\x01\x02\0\x01\0\x01\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/9.9\r\n\r\n".to_owned(), 400),
    ] {
        let answer = raw(site.http, &request).await;
        let expected = [format!("HTTP/1.1 {status} "), format!("HTTP/1.0 {status} ")];
        assert!(expected.iter().any(|line| answer.starts_with(line)), "{request:?}: {answer}");
    }
}
