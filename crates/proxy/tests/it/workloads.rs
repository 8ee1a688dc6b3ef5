//! Workloads: what they are told, and what they may do wrong.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use selvedge_proxy::{Connect, Limits, Stream, Target, Upstream, UpstreamLimits};
use selvedge_telemetry::access::ErrorSource;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpStream;

use crate::clients::{Client, raw, read_to_end, read_until};
use crate::site::{HOST, PATIENCE, Site, app};

type Script = dyn Fn(usize, DuplexStream) -> BoxFuture<'static, ()> + Send + Sync;

/// A workload that follows a script at each connection; they are counted from 0.
pub(crate) struct Scripted {
    connections: AtomicUsize,
    script: Box<Script>,
}

#[async_trait::async_trait]
impl Connect for Scripted {
    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        tokio::spawn((self.script)(number, theirs));
        Ok(Box::new(ours))
    }
}

/// A workload that can't be connected to.
pub(crate) struct Refusing;

#[async_trait::async_trait]
impl Connect for Refusing {
    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        Err(io::ErrorKind::ConnectionRefused.into())
    }
}

/// A workload that never lets a connection be opened.
pub(crate) struct Silent;

#[async_trait::async_trait]
impl Connect for Silent {
    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        std::future::pending().await
    }
}

pub(crate) fn scripted<F>(
    script: impl Fn(usize, DuplexStream) -> F + Send + Sync + 'static,
) -> Arc<Scripted>
where
    F: Future<Output = ()> + Send + 'static,
{
    let script = Box::new(move |number, stream| -> BoxFuture<'static, ()> {
        Box::pin(script(number, stream))
    });
    Arc::new(Scripted { connections: AtomicUsize::new(0), script })
}

/// Short times, so that tests of them are short.
fn impatient() -> UpstreamLimits {
    UpstreamLimits {
        connect_timeout: Duration::from_millis(100),
        response_timeout: Duration::from_millis(100),
        stall_timeout: Duration::from_millis(100),
        max_header_bytes: 8192,
        ..UpstreamLimits::default()
    }
}

fn workload(connect: Arc<dyn Connect>, limits: UpstreamLimits) -> (Arc<Upstream>, Target) {
    let upstream = Arc::new(Upstream::with_limits("web of shop".into(), connect, limits));
    (Arc::clone(&upstream), Target::Workload(upstream))
}

pub(crate) async fn read_head(stream: &mut DuplexStream) -> String {
    let mut head = String::new();
    while !head.contains("\r\n\r\n") {
        let mut chunk = [0; 1024];
        match stream.read(&mut chunk).await {
            Ok(read) if read > 0 => head.push_str(&String::from_utf8_lossy(&chunk[..read])),
            _ => return head,
        }
    }
    head
}

/// Answers with what it was sent, as JSON.
async fn mirror(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let mut headers = BTreeMap::<&str, Vec<&str>>::new();
    for (name, value) in &head.headers {
        headers.entry(name.as_str()).or_default().push(value.to_str().unwrap());
    }
    let seen = serde_json::json!({
        "method": head.method.as_str(),
        "target": head.uri.to_string(),
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
    });
    let response = Response::builder()
        .header("connection", "x-internal")
        .header("x-internal", "1")
        .header("keep-alive", "timeout=5")
        .header("selvedge-pin", "forged")
        .header("selvedge-release", "forged")
        .header("x-route", "no")
        .header("set-cookie", "session=1")
        .body(Full::new(seen.to_string().into()));
    Ok(response.unwrap())
}

pub(crate) async fn serve_mirror(stream: DuplexStream) {
    let builder = hyper::server::conn::http1::Builder::new();
    let _ = builder.serve_connection(TokioIo::new(stream), service_fn(mirror)).await;
}

/// Waits until `count` requests are under way.
pub(crate) async fn in_flight(upstream: &Upstream, count: usize) {
    let reached = tokio::time::timeout(PATIENCE, upstream.wait_in_flight(|now| now == count)).await;
    reached.expect("the count is reached");
}

#[tokio::test]
async fn a_workload_sees_the_request_and_nothing_of_ours() {
    let connect = scripted(|_, stream| serve_mirror(stream));
    let (upstream, target) =
        workload(Arc::clone(&connect) as Arc<dyn Connect>, UpstreamLimits::default());
    let mut site = Site::start(app(Some(1), vec![(1, target)])).await;
    for (scheme, mut client) in [
        ("http", Client::plain(&site).await),
        ("https", Client::tls(&site, &[b"http/1.1"]).await),
        ("https", Client::tls(&site, &[b"h2"]).await),
    ] {
        let first = client.get("/").await;
        let cookie = format!("selvedge-pin={}; theirs=1", first.header("selvedge-pin"));
        let sent = [
            ("cookie", cookie.as_str()),
            ("x-forwarded-for", "203.0.113.1"),
            ("forwarded", "for=evil"),
            ("x-request-id", "mine"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("x-custom", "kept"),
        ];
        let path = "/a%2Fb/%7Eu?x=%20&y";
        let answer = client.send(Method::POST, path, &sent, "hello").await;
        assert_eq!(answer.status, StatusCode::OK);
        let seen: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        let header = |name: &str| seen["headers"][name][0].as_str().unwrap_or_default().to_owned();
        assert_eq!((&seen["method"], &seen["target"]), (&"POST".into(), &path.into()));
        assert_eq!(seen["body"], "hello");
        assert_eq!(header("host"), HOST);
        assert_eq!(header("cookie"), "theirs=1");
        assert_eq!(header("x-custom"), "kept");
        assert_eq!(header("x-forwarded-for"), "127.0.0.1");
        assert_eq!(header("x-forwarded-proto"), scheme);
        assert_eq!(header("x-forwarded-host"), HOST);
        assert_eq!(header("forwarded"), format!("for=127.0.0.1;host=\"{HOST}\";proto={scheme}"));
        assert_eq!(header("x-request-id"), answer.header("x-request-id"));
        assert!(header("traceparent").starts_with("00-0af7651916cd43dd8448eb211c80319c-"));
        assert_eq!(seen["headers"].get("selvedge-pin"), None);

        for gone in ["x-internal", "keep-alive", "selvedge-pin"] {
            assert!(!answer.headers.contains_key(gone), "{gone}");
        }
        assert_eq!(answer.header("x-route"), "yes");
        assert_eq!(answer.header("set-cookie"), "session=1");
        assert_ne!(answer.header("selvedge-release"), "forged");
        site.record().await;
        let record = site.record().await;
        let head = client.send(Method::HEAD, "/", &[], "").await;
        assert_eq!((head.status, head.text()), (StatusCode::OK, ""));
        assert!(head.header("content-length").parse::<u64>().unwrap() > 100);
        site.record().await;
        assert_eq!((record.bytes_received, record.bytes_sent), (5, answer.body.len() as u64));
        assert_eq!(record.trace_id, "0af7651916cd43dd8448eb211c80319c");
        assert!(record.upstream_ms.is_some() && record.error.is_none());
    }
    assert_eq!(connect.connections.load(Ordering::Relaxed), 1, "one after the other share one");
    in_flight(&upstream, 0).await;
}

#[tokio::test]
async fn what_a_workload_does_wrong_is_named() {
    let reply = |text: &'static str| -> Arc<dyn Connect> {
        scripted(move |_, mut stream| async move {
            read_head(&mut stream).await;
            stream.write_all(text.as_bytes()).await.unwrap();
        })
    };
    let hang = scripted(|_, mut stream| async move {
        read_head(&mut stream).await;
        std::future::pending().await
    });
    let large = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(20_000));
    let cases: Vec<(&str, u16, Arc<dyn Connect>)> = vec![
        ("connect-refused", 502, Arc::new(Refusing)),
        ("connect-timeout", 504, Arc::new(Silent)),
        ("closed-early", 502, scripted(|_, stream| async move { drop(stream) })),
        ("closed-early", 502, reply("")),
        ("closed-early", 502, reply("HTTP/1.1 200 OK\r\ncontent-le")),
        ("malformed", 502, reply("gopher!\r\n\r\n")),
        ("malformed", 502, reply("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n")),
        ("headers-too-large", 502, reply(large.leak())),
        ("response-timeout", 504, hang),
    ];
    for (kind, status, connect) in cases {
        let (upstream, target) = workload(connect, impatient());
        let mut site = Site::start(app(Some(1), vec![(1, target)])).await;
        let mut client = Client::plain(&site).await;
        let answer = client.get("/").await;
        assert_eq!(answer.status, status, "{kind}: {}", answer.text());
        let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(problem["kind"], kind);
        assert_eq!(answer.header("selvedge-epoch"), "1.1");
        let record = site.record().await;
        let error = record.error.unwrap();
        assert_eq!((error.source, error.kind.as_str()), (ErrorSource::Workload, kind));
        in_flight(&upstream, 0).await;
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_breaks_the_answer() {
    for (kind, head, hang) in [
        ("body-closed-early", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", false),
        (
            "body-closed-early",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            false,
        ),
        ("body-stalled", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", true),
    ] {
        let connect = scripted(move |_, mut stream| async move {
            read_head(&mut stream).await;
            stream.write_all(head.as_bytes()).await.unwrap();
            if hang {
                std::future::pending::<()>().await;
            }
        });
        let (_, target) = workload(connect, impatient());
        let mut site = Site::start(app(Some(1), vec![(1, target)])).await;
        for mut client in [Client::plain(&site).await, Client::plain_h2(&site).await] {
            assert!(client.try_send(Method::GET, "/", &[], "").await.is_err(), "{kind}");
            let record = site.record().await;
            assert_eq!((record.status, record.error.unwrap().kind.as_str()), (200, kind));
        }
    }
}

#[tokio::test]
async fn an_answer_framed_twice_is_framed_once() {
    for head in [
        "content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "content-length: 5\r\ncontent-length: 5\r\n\r\nhello",
        "content-length: 5, 5\r\n\r\nhello",
        "connection: close\r\n\r\nhello",
    ] {
        let connect = scripted(move |_, mut stream| async move {
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
        });
        let (_, target) = workload(connect, UpstreamLimits::default());
        let site = Site::start(app(Some(1), vec![(1, target)])).await;
        for mut client in [Client::plain(&site).await, Client::plain_h2(&site).await] {
            for _ in 0..2 {
                assert_eq!(client.get("/").await.text(), "hello", "{head}");
            }
        }
    }
}

#[tokio::test]
async fn a_workload_of_http_1_0_ends_its_own_connection_only() {
    let connect = scripted(|_, mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello").await.unwrap();
    });
    let (_, target) = workload(connect, UpstreamLimits::default());
    let site = Site::start(app(Some(1), vec![(1, target)])).await;
    let mut client = Client::plain(&site).await;
    for _ in 0..3 {
        let answer = client.get("/").await;
        assert_eq!((answer.text(), answer.header("connection")), ("hello", ""));
    }
}

/// The first answer on a connection is good; at the second request the workload hangs up.
fn once_a_connection(posts: Arc<AtomicUsize>) -> Arc<Scripted> {
    scripted(move |_, mut stream| {
        let posts = Arc::clone(&posts);
        async move {
            for request in 0..2 {
                let head = read_head(&mut stream).await;
                if head.starts_with("POST") {
                    posts.fetch_add(1, Ordering::Relaxed);
                }
                if request == 0 && !head.is_empty() {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    stream.write_all(answer).await.unwrap();
                }
            }
        }
    })
}

#[tokio::test]
async fn only_what_does_no_harm_is_sent_twice() {
    let posts = Arc::new(AtomicUsize::new(0));
    let connect = once_a_connection(Arc::clone(&posts));
    let (_, target) = workload(Arc::clone(&connect) as Arc<dyn Connect>, UpstreamLimits::default());
    let site = Site::start(app(Some(1), vec![(1, target)])).await;
    let mut client = Client::plain(&site).await;
    for connections in 1..=3 {
        assert_eq!(client.get("/").await.text(), "ok");
        assert_eq!(connect.connections.load(Ordering::Relaxed), connections);
    }
    let answer = client.send(Method::POST, "/", &[], "order").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(posts.load(Ordering::Relaxed), 1);
    assert_eq!(connect.connections.load(Ordering::Relaxed), 3);
    assert_eq!(client.send(Method::POST, "/", &[], "order").await.text(), "ok");
}

#[tokio::test]
async fn a_connection_with_an_unread_body_is_not_used_again() {
    let connect = scripted(|_, mut stream| async move {
        loop {
            let head = read_head(&mut stream).await;
            if head.is_empty() {
                return;
            }
            if head.starts_with("GET /endless") {
                let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                stream.write_all(head).await.unwrap();
                while stream.write_all(b"4\r\nmore\r\n").await.is_ok() {}
                return;
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(answer).await.unwrap();
        }
    });
    let (upstream, target) =
        workload(Arc::clone(&connect) as Arc<dyn Connect>, UpstreamLimits::default());
    let mut site = Site::start(app(Some(1), vec![(1, target)])).await;
    let mut stream = TcpStream::connect(site.http).await.unwrap();
    let request = format!("GET /endless HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    read_until(&mut stream, "more").await;
    in_flight(&upstream, 1).await;
    drop(stream);
    in_flight(&upstream, 0).await;
    let record = site.record().await;
    let error = record.error.unwrap();
    assert_eq!((error.source, error.kind.as_str()), (ErrorSource::Client, "aborted"));

    let mut client = Client::plain(&site).await;
    assert_eq!(client.get("/").await.text(), "ok");
    assert_eq!(client.get("/").await.text(), "ok");
    assert_eq!(connect.connections.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_request() {
    let connect = scripted(|_, mut stream| async move {
        read_head(&mut stream).await;
        std::future::pending().await
    });
    let (upstream, target) = workload(connect, UpstreamLimits::default());
    let mut site = Site::start(app(Some(1), vec![(1, target)])).await;
    let mut stream = TcpStream::connect(site.http).await.unwrap();
    // A GET might be for others too.
    let request = format!("DELETE / HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    in_flight(&upstream, 1).await;
    drop(stream);
    in_flight(&upstream, 0).await;
    let record = site.record().await;
    assert_eq!((record.status, record.error.unwrap().kind.as_str()), (0, "aborted"));
}

#[tokio::test]
async fn a_busy_workload_is_not_given_more() {
    let connect = scripted(|_, mut stream| async move {
        read_head(&mut stream).await;
        std::future::pending().await
    });
    let limits = UpstreamLimits {
        max_requests: 1,
        connect_timeout: Duration::from_millis(50),
        ..UpstreamLimits::default()
    };
    let (upstream, target) = workload(connect, limits);
    let site = Site::start(app(Some(1), vec![(1, target)])).await;
    let mut first = Client::plain(&site).await;
    let first = tokio::spawn(async move { first.try_send(Method::GET, "/", &[], "").await });
    in_flight(&upstream, 1).await;
    let answer = Client::plain(&site).await.get("/other").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.header("retry-after"), "1");
    first.abort();
}

#[tokio::test]
async fn request_bodies_are_bounded() {
    let connect = scripted(|_, stream| serve_mirror(stream));
    let (_, target) = workload(connect, UpstreamLimits::default());
    let limits = Limits {
        max_body_bytes: 10,
        client_stall_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    let mut site = Site::with_limits(app(Some(1), vec![(1, target)]), limits).await;
    let mut client = Client::plain(&site).await;
    assert_eq!(client.send(Method::POST, "/", &[], "0123456789").await.status, StatusCode::OK);
    let answer = client.send(Method::POST, "/", &[], "0123456789a").await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);

    let post = format!("POST / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n");
    let chunked = format!("{post}transfer-encoding: chunked\r\n\r\nb\r\n0123456789a\r\n0\r\n\r\n");
    assert!(raw(site.http, &chunked).await.starts_with("HTTP/1.1 413 "));
    let stalled = format!("{post}content-length: 5\r\n\r\n012");
    assert!(raw(site.http, &stalled).await.starts_with("HTTP/1.1 408 "));

    let mut stream = TcpStream::connect(site.http).await.unwrap();
    let broken = format!("{post}transfer-encoding: chunked\r\n\r\nzz\r\n");
    stream.write_all(broken.as_bytes()).await.unwrap();
    assert!(read_to_end(&mut stream).await.starts_with("HTTP/1.1 400 "));

    for kind in [
        None,
        Some("body-too-large"),
        Some("body-too-large"),
        Some("body-stalled"),
        Some("body-broken"),
    ] {
        let record = site.record().await;
        assert_eq!(record.error.map(|error| error.kind).as_deref(), kind);
    }
}

/// An app answers before it has read what it is sent, and reads on.
#[tokio::test]
async fn an_upload_goes_on_behind_an_early_answer() {
    for answer in ["content-length: 0\r\n\r\n", "content-length: 16777216\r\n\r\n"] {
        let (tell, mut told) = tokio::sync::mpsc::channel(1);
        let body = if answer.contains("16777216") { "x".repeat(16 << 20) } else { String::new() };
        let connect = scripted(move |_, stream| {
            let (tell, body) = (tell.clone(), body.clone());
            async move {
                let (mut read, mut write) = tokio::io::split(stream);
                let mut sent = Vec::new();
                while !sent.windows(4).any(|end| end == b"\r\n\r\n") {
                    read.read_buf(&mut sent).await.unwrap();
                }
                let answering = async {
                    let head = format!("HTTP/1.1 200 OK\r\n{answer}");
                    write.write_all(head.as_bytes()).await.unwrap();
                    write.write_all(body.as_bytes()).await.unwrap();
                };
                let reading = async {
                    while !sent.ends_with(b"end") {
                        assert!(
                            read.read_buf(&mut sent).await.unwrap() > 0,
                            "the upload is cut off"
                        );
                    }
                    tell.send(()).await.unwrap();
                };
                tokio::join!(answering, reading);
            }
        });
        let (_, target) = workload(connect, UpstreamLimits::default());
        let site = Site::start(app(Some(1), vec![(1, target)])).await;
        let mut stream = tokio::net::TcpStream::connect(site.http).await.unwrap();
        let length = 4 << 20;
        let head = format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        // The client reads nothing before it has sent everything.
        let upload = [vec![b'u'; length - 3], b"end".to_vec()].concat();
        let sending = tokio::time::timeout(PATIENCE, stream.write_all(&upload)).await;
        sending.expect("the upload goes on").unwrap();
        tokio::time::timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
    }
}
