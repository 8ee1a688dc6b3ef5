//! Upstreams that speak HTTP/2.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use selvedge_proxy::upstream::Protocol;
use selvedge_proxy::{Connect, Stream, Target, Upstream, UpstreamConfig, UpstreamLimits};
use selvedge_telemetry::access::ErrorSource;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::clients::{Client, h2_exchange};
use crate::site::{HOST, PATIENCE, Site, app};
use crate::workloads::{in_flight, scripted};

/// One request as a server has it, and its number on its connection, from 0.
type Asked = (Request<RecvStream>, SendResponse<Bytes>, usize);
type Answer = dyn Fn(usize, Asked) -> BoxFuture<'static, ()> + Send + Sync;

/// A server of HTTP/2 in memory, whose answers also know which connection they are on.
struct Server {
    settings: Builder,
    connections: AtomicUsize,
    streams: Arc<AtomicUsize>,
    answer: Arc<Answer>,
}

#[async_trait::async_trait]
impl Connect for Server {
    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let number = self.connections.fetch_add(1, Ordering::SeqCst);
        let (settings, answer) = (self.settings.clone(), Arc::clone(&self.answer));
        let streams = Arc::clone(&self.streams);
        tokio::spawn(async move {
            let mut connection: Connection<DuplexStream, Bytes> =
                settings.handshake(theirs).await.unwrap();
            let mut asked = 0;
            while let Some(Ok((request, respond))) = connection.accept().await {
                streams.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(answer(number, (request, respond, asked)));
                asked += 1;
            }
        });
        Ok(Box::new(ours))
    }
}

fn server<F>(
    settings: Builder,
    answer: impl Fn(usize, Asked) -> F + Send + Sync + 'static,
) -> Arc<Server>
where
    F: Future<Output = ()> + Send + 'static,
{
    let answer = Arc::new(move |number, asked| -> BoxFuture<'static, ()> {
        Box::pin(answer(number, asked))
    });
    let (connections, streams) = (AtomicUsize::new(0), Arc::default());
    Arc::new(Server { settings, connections, streams, answer })
}

impl Server {
    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Sends back what comes as it comes, with what was asked for in headers and trailers.
async fn echo((mut request, mut respond, _): Asked) {
    let mut response = Response::new(());
    let uri = request.uri().to_string();
    response.headers_mut().insert("x-uri", uri.parse().unwrap());
    for name in ["te", "host", "connection", "x-forwarded-host"] {
        if let Some(value) = request.headers().get(name) {
            let name: http::HeaderName = format!("x-{name}").parse().unwrap();
            response.headers_mut().insert(name, value.clone());
        }
    }
    let mut stream = respond.send_response(response, false).unwrap();
    let body = request.body_mut();
    while let Some(data) = body.data().await {
        let Ok(mut data) = data else { return };
        body.flow_control().release_capacity(data.len()).unwrap();
        while !data.is_empty() {
            stream.reserve_capacity(data.len());
            match poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(Ok(room)) => stream.send_data(data.split_to(room), false).unwrap(),
                _ => return,
            }
        }
    }
    let mut trailers = body.trailers().await.unwrap().unwrap_or_default();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert("set-cookie", HeaderValue::from_static("forged"));
    stream.send_trailers(trailers).unwrap();
}

fn text(respond: &mut SendResponse<Bytes>, text: &'static str) {
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    stream.send_data(Bytes::from_static(text.as_bytes()), true).unwrap();
}

fn upstream(connect: Arc<dyn Connect>, limits: UpstreamLimits) -> Arc<Upstream> {
    let config = UpstreamConfig {
        connects: vec![connect],
        protocol: Protocol::Http2,
        limits,
        ..UpstreamConfig::named("api of shop")
    };
    Arc::new(Upstream::build(config).unwrap())
}

async fn site(connect: Arc<dyn Connect>, limits: UpstreamLimits) -> (Arc<Upstream>, Site) {
    let upstream = upstream(connect, limits);
    let target = Target::Workload(Arc::clone(&upstream));
    (upstream, Site::start(app(Some(1), vec![(1, target)])).await)
}

async fn plain(server: &Arc<Server>) -> (Arc<Upstream>, Site) {
    site(Arc::clone(server) as Arc<dyn Connect>, UpstreamLimits::default()).await
}

#[tokio::test]
async fn requests_share_a_connection() {
    let server = server(Builder::new(), |_, asked| echo(asked));
    let (upstream, site) = plain(&server).await;
    let clients = (0..50).map(|number| {
        let address = site.http;
        tokio::spawn(async move {
            let mut client = match number % 2 {
                0 => Client::h1(TcpStream::connect(address).await.unwrap()).await,
                _ => Client::h2(TcpStream::connect(address).await.unwrap()).await,
            };
            let path = format!("/a%2Fb?{number}");
            let answer = client.send(Method::POST, &path, &[], "hello").await;
            assert_eq!((answer.status, answer.text()), (StatusCode::OK, "hello"));
            assert_eq!(answer.header("x-uri"), format!("http://{HOST}{path}"));
            assert_eq!(answer.header("x-x-forwarded-host"), HOST);
            assert_eq!((answer.header("x-host"), answer.header("x-connection")), ("", ""));
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    assert_eq!(server.connections(), 1);
    in_flight(&upstream, 0).await;
    // More than a window's worth, both ways.
    let long = "0123456789abcdef".repeat(64 << 10);
    for mut client in [Client::plain(&site).await, Client::plain_h2(&site).await] {
        let answer = client.send(Method::POST, "/", &[], &long).await;
        assert!(answer.text() == long);
        let answer = client.send(Method::HEAD, "/", &[], "").await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, ""));
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_call_of_grpc_goes_both_ways_at_once_and_ends_with_trailers() {
    let server = server(Builder::new(), |_, asked| echo(asked));
    let (upstream, mut site) = plain(&server).await;
    let (frames, body) = mpsc::channel::<Result<Frame<Bytes>, io::Error>>(1);
    let body = StreamBody::new(tokio_stream(body));
    let request = Request::post(format!("http://{HOST}/shop.Cart/Watch"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let stream = TcpStream::connect(site.http).await.unwrap();
    let response = h2_exchange(stream, request.body(body).unwrap()).await;
    assert_eq!(response.headers()["x-te"], "trailers");
    let mut answer = response.into_body();
    for message in ["one", "two", "three"] {
        frames.send(Ok(Frame::data(Bytes::from_static(message.as_bytes())))).await.unwrap();
        let frame = tokio::time::timeout(PATIENCE, answer.frame()).await.unwrap();
        assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), message);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("3"));
    trailers.insert("host", HeaderValue::from_static("evil"));
    frames.send(Ok(Frame::trailers(trailers.clone()))).await.unwrap();
    drop(frames);
    let rest = answer.collect().await.unwrap();
    trailers.remove("host");
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    assert_eq!(rest.trailers(), Some(&trailers));
    in_flight(&upstream, 0).await;
    let record = site.record().await;
    assert_eq!((record.bytes_received, record.bytes_sent, record.error), (11, 11, None));
}

/// A stream of what comes by a channel.
fn tokio_stream<T>(mut channel: mpsc::Receiver<T>) -> impl futures_util::Stream<Item = T> + Unpin {
    futures_util::stream::poll_fn(move |cx| channel.poll_recv(cx))
}

#[tokio::test]
async fn no_more_requests_share_a_connection_than_the_server_allows() {
    let mut settings = Builder::new();
    settings.max_concurrent_streams(2);
    let server = server(settings, |_, (request, mut respond, _)| async move {
        match request.uri().path() {
            "/wait" => {
                poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
            }
            _ => text(&mut respond, "ok"),
        }
    });
    let (upstream, site) = plain(&server).await;
    let mut client = Client::plain(&site).await;
    assert_eq!(client.get("/").await.text(), "ok");
    let mut waiting = Vec::new();
    for count in 1..=5 {
        let mut client = Client::plain(&site).await;
        waiting.push(tokio::spawn(
            async move { client.try_send(Method::POST, "/wait", &[], "").await },
        ));
        in_flight(&upstream, count).await;
        while server.streams.load(Ordering::SeqCst) < 1 + count {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(client.get("/").await.text(), "ok");
    assert_eq!(server.connections(), 3);
    // Who leaves makes room.
    waiting.into_iter().for_each(|client| client.abort());
    in_flight(&upstream, 0).await;
    assert_eq!(client.get("/").await.text(), "ok");
    assert_eq!(server.connections(), 3);
}

const HEADERS: u8 = 1;
/// Stream 1: `:status: 200`, then 4 bytes.
const HALF: [u8; 23] = *b"\0\0\x01\x01\x04\0\0\0\x01\x88\0\0\x04\0\0\0\0\0\x01half";

/// RST_STREAM for stream 1.
fn reset(code: u8) -> [u8; 13] {
    [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, code]
}

/// Speaks raw HTTP/2: says `reply` when the head of the first request has come, or if `whole` when
/// all of it has.
async fn raw_server(mut stream: DuplexStream, whole: bool, reply: &[u8]) {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.unwrap();
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await.unwrap();
        let (kind, flags) = (head[3], head[4]);
        if kind == 4 && flags & 1 == 0 {
            stream.write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0]).await.unwrap();
        }
        let ended = (kind == 0 || kind == HEADERS) && flags & 1 == 1;
        if if whole { ended } else { kind == HEADERS } {
            stream.write_all(reply).await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_a_server_has_not_looked_at_is_sent_again() {
    let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for reply in [&goaway[..], &reset(7)] {
        let reply = reply.to_vec();
        // The first connection refuses its first request, the next serve all.
        let good = server(Builder::new(), |_, asked| echo(asked));
        let first = scripted(move |_, stream| {
            let reply = reply.clone();
            async move { raw_server(stream, true, &reply).await }
        });
        let connect =
            Arc::new(Once { first, then: good.clone(), connections: AtomicUsize::new(0) });
        let (_, mut site) = site(connect, UpstreamLimits::default()).await;
        for mut client in [Client::plain(&site).await, Client::plain_h2(&site).await] {
            let answer = client.send(Method::POST, "/", &[], "hello").await;
            assert_eq!((answer.status, answer.text()), (StatusCode::OK, "hello"));
            assert_eq!(site.record().await.bytes_received, 5);
        }
        assert_eq!(good.connections(), 1);
    }
}

#[tokio::test]
async fn what_a_server_may_have_looked_at_is_not_sent_again() {
    let first = scripted(move |_, stream| async move { raw_server(stream, true, &reset(2)).await });
    let good = server(Builder::new(), |_, asked| echo(asked));
    let connect = Arc::new(Once { first, then: good.clone(), connections: AtomicUsize::new(0) });
    let (_, mut site) = site(connect, UpstreamLimits::default()).await;
    let answer = Client::plain(&site).await.get("/").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(site.record().await.error.unwrap().kind, "closed-early");
    // Without end: a server that refuses everything.
    let never = server(Builder::new(), |_, (_, mut respond, _)| async move {
        respond.send_reset(Reason::REFUSED_STREAM);
    });
    let (_, site) = plain(&never).await;
    let answer = Client::plain(&site).await.get("/").await;
    assert_eq!(
        (answer.status, answer.header("retry-after")),
        (StatusCode::SERVICE_UNAVAILABLE, "1")
    );
    assert_eq!(never.streams.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn only_a_connection_that_others_used_is_tried_anew() {
    // Each connection answers once and is closed within the second request.
    let posts = Arc::new(AtomicUsize::new(0));
    let connect = {
        let posts = Arc::clone(&posts);
        scripted(move |_, stream| {
            let posts = Arc::clone(&posts);
            async move {
                let mut connection: Connection<_, Bytes> =
                    Builder::new().handshake(stream).await.unwrap();
                let Some(Ok((_, mut respond))) = connection.accept().await else { return };
                text(&mut respond, "ok");
                drop(respond);
                if let Some(Ok((request, _respond))) = connection.accept().await
                    && request.method() == Method::POST
                {
                    posts.fetch_add(1, Ordering::SeqCst);
                }
            }
        })
    };
    let (_, site) = site(connect, UpstreamLimits::default()).await;
    let mut client = Client::plain(&site).await;
    for _ in 0..4 {
        assert_eq!(client.get("/").await.text(), "ok");
    }
    let answer = client.send(Method::POST, "/", &[], "").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(posts.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_goes_wrong_is_named() {
    let cases = [
        ("/hang", 504, "response-timeout"),
        ("/reset", 502, "closed-early"),
        ("/stall", 200, "body-stalled"),
    ];
    let server = server(Builder::new(), |_, (request, mut respond, _)| async move {
        let path = request.uri().path().to_owned();
        match path.as_str() {
            "/hang" => {
                poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
            }
            "/reset" => respond.send_reset(Reason::INTERNAL_ERROR),
            _ => {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                stream.send_data(Bytes::from_static(b"half"), false).unwrap();
                poll_fn(|cx| stream.poll_reset(cx)).await.unwrap();
            }
        }
    });
    let limits = UpstreamLimits {
        response_timeout: Duration::from_millis(100),
        stall_timeout: Duration::from_millis(100),
        ..UpstreamLimits::default()
    };
    let (upstream, mut site) = site(Arc::clone(&server) as Arc<dyn Connect>, limits).await;
    for (path, status, kind) in cases {
        for mut client in [Client::plain(&site).await, Client::plain_h2(&site).await] {
            match client.try_send(Method::GET, path, &[], "").await {
                Ok(answer) => assert_eq!(answer.status, status, "{path}"),
                Err(_) => assert_eq!(status, 200, "{path}"),
            }
            let record = site.record().await;
            let error = record.error.unwrap();
            assert_eq!((record.status, error.kind.as_str()), (status, kind));
            assert_eq!(error.source, ErrorSource::Workload);
            in_flight(&upstream, 0).await;
        }
    }
    assert_eq!(server.connections(), 1, "a stream that fails leaves the others alone");
}

#[tokio::test]
async fn a_body_that_is_cut_is_not_taken_for_whole() {
    // The second says that there was no error, as may be said after a whole response.
    for code in [2, 0] {
        let reply = [&HALF[..], &reset(code)].concat();
        let connect = scripted(move |_, stream| {
            let reply = reply.clone();
            async move { raw_server(stream, true, &reply).await }
        });
        let (_, mut site) = site(connect, UpstreamLimits::default()).await;
        assert!(Client::plain(&site).await.try_send(Method::GET, "/", &[], "").await.is_err());
        assert_eq!(site.record().await.error.unwrap().kind, "body-closed-early");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_nobody_else() {
    let server = server(Builder::new(), |_, (_, mut respond, _)| async move {
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        for _ in 0..64 {
            stream.reserve_capacity(64 << 10);
            while stream.capacity() < 64 << 10 {
                let Some(Ok(_)) = poll_fn(|cx| stream.poll_capacity(cx)).await else { return };
            }
            stream.send_data(Bytes::from(vec![b'x'; 64 << 10]), false).unwrap();
        }
        stream.send_data(Bytes::new(), true).unwrap();
    });
    let (upstream, site) = plain(&server).await;
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(site.http).await.unwrap();
        let request = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    in_flight(&upstream, 4).await;
    assert_eq!(Client::plain(&site).await.get("/").await.body.len(), 4 << 20);
    assert_eq!(server.connections(), 1);
    drop(slow);
    in_flight(&upstream, 0).await;
    assert_eq!(Client::plain(&site).await.get("/").await.body.len(), 4 << 20);
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_server_may_answer_before_it_has_read_everything() {
    let connect = scripted(|_, stream| async move {
        let end = [0, 0, 0, 0, 1, 0, 0, 0, 1];
        raw_server(stream, false, &[&HALF[..], &end, &reset(0)].concat()).await;
    });
    let (upstream, mut site) = site(connect, UpstreamLimits::default()).await;
    let long = "x".repeat(8 << 20);
    let request = Request::post(format!("http://{HOST}/")).body(Full::from(long)).unwrap();
    let stream = TcpStream::connect(site.http).await.unwrap();
    let response = h2_exchange(stream, request).await;
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "half");
    in_flight(&upstream, 0).await;
    assert_eq!(site.record().await.error, None);
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let (closed, mut closings) = mpsc::channel(1);
    let connect = scripted(move |_, stream| {
        let closed = closed.clone();
        async move {
            let mut connection: Connection<_, Bytes> =
                Builder::new().handshake(stream).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                text(&mut respond, "ok");
            }
            closed.send(()).await.unwrap();
        }
    });
    let limits =
        UpstreamLimits { idle_timeout: Duration::from_millis(50), ..UpstreamLimits::default() };
    let (_, site) = site(connect, limits).await;
    assert_eq!(Client::plain(&site).await.get("/").await.text(), "ok");
    tokio::time::timeout(PATIENCE, closings.recv()).await.expect("it is closed").unwrap();
    assert_eq!(Client::plain(&site).await.get("/").await.text(), "ok");
}

#[tokio::test]
async fn websockets_are_refused_where_only_http2_is_spoken() {
    let server = server(Builder::new(), |_, asked| echo(asked));
    let (_, site) = plain(&server).await;
    let asking = format!(
        "GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\r\n"
    );
    let answer = crate::clients::raw(site.http, &asking).await;
    assert!(answer.starts_with("HTTP/1.1 501"), "{answer}");
    assert_eq!(server.connections(), 0);
}

/// One connection to the first server, the others to the second.
struct Once {
    first: Arc<dyn Connect>,
    then: Arc<dyn Connect>,
    connections: AtomicUsize,
}

#[async_trait::async_trait]
impl Connect for Once {
    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        match self.connections.fetch_add(1, Ordering::SeqCst) {
            0 => self.first.connect().await,
            _ => self.then.connect().await,
        }
    }
}
