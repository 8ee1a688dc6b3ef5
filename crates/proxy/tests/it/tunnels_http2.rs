//! WebSockets over HTTP/2 (RFC 8441), spoken by another implementation on both sides.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::ext::Protocol;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use selvedge_proxy::{Limits, Target, Upstream, UpstreamLimits};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::clients::handshake;
use crate::site::{HOST, PATIENCE, Site, app, app_of, files, view};
use crate::workloads::{in_flight, read_head, scripted};

type Sender = SendRequest<Empty<Bytes>>;
type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// A server that sends back every message.
#[expect(clippy::result_large_err, reason = "the error is the library's")]
async fn echo(stream: DuplexStream) {
    let agree = |_: &server::Request, mut response: server::Response| {
        response.headers_mut().insert("sec-websocket-protocol", "chat".parse().unwrap());
        Ok(response)
    };
    let mut socket = tokio_tungstenite::accept_hdr_async(stream, agree).await.unwrap();
    while let Some(Ok(message)) = socket.next().await {
        if !message.is_close() && socket.send(message).await.is_err() {
            return;
        }
    }
}

fn chat() -> Arc<Upstream> {
    let connect = scripted(|_, stream| echo(stream));
    Arc::new(Upstream::with_limits("chat".into(), connect, UpstreamLimits::default()))
}

async fn site(upstream: &Arc<Upstream>) -> Site {
    let chat = Target::Workload(Arc::clone(upstream));
    let routes = vec![("/*", files(&[("index.html", "page")])), ("/chat", chat)];
    Site::with_limits(app_of(Some(1), vec![view(1, routes)]), Limits::default()).await
}

async fn connect(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Sender {
    let executor = TokioExecutor::new();
    let (mut sender, connection) = http2::handshake(executor, TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    // Its settings have come with the first answer.
    let request = Request::get(format!("https://{HOST}/")).body(Empty::new()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "page");
    sender
}

async fn ask(
    sender: &mut Sender,
    path: &str,
    protocol: Option<&'static str>,
) -> Result<Response<Incoming>, hyper::Error> {
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(format!("https://{HOST}{path}"))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat");
    if let Some(protocol) = protocol {
        request = request.extension(Protocol::from_static(protocol));
    }
    let answer = sender.send_request(request.body(Empty::new()).unwrap());
    tokio::time::timeout(PATIENCE, answer).await.expect("the answer comes in time")
}

async fn open(sender: &mut Sender) -> Socket {
    let response = ask(sender, "/chat", Some("websocket")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
    assert_eq!(response.headers()["selvedge-epoch"], "1.1");
    for absent in ["sec-websocket-accept", "upgrade", "connection", "content-length"] {
        assert!(!response.headers().contains_key(absent), "{absent}");
    }
    let upgraded = hyper::upgrade::on(response).await.unwrap();
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await
}

async fn next(socket: &mut Socket) -> Option<Message> {
    let message = tokio::time::timeout(PATIENCE, socket.next()).await;
    message.expect("a message comes").map(Result::unwrap)
}

#[tokio::test]
async fn messages_go_both_ways_beside_other_requests() {
    let upstream = chat();
    let mut site = site(&upstream).await;
    for secure in [true, false] {
        let mut sender = match secure {
            true => connect(handshake(site.https, &site.ca, HOST, &[b"h2"]).await.unwrap()).await,
            false => connect(TcpStream::connect(site.http).await.unwrap()).await,
        };
        assert_eq!(site.record().await.status, 200);
        let mut one = open(&mut sender).await;
        let mut other = open(&mut sender).await;
        in_flight(&upstream, 2).await;
        for (socket, text) in [(&mut one, "one"), (&mut other, "other")] {
            let long = Message::binary(vec![b'x'; 200_000]);
            for message in [Message::text(text), long] {
                socket.send(message.clone()).await.unwrap();
                assert_eq!(next(socket).await, Some(message));
            }
        }
        let request = Request::get(format!("https://{HOST}/")).body(Empty::new()).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), StatusCode::OK);
        assert_eq!(site.record().await.method, "GET");
        for mut socket in [one, other] {
            socket.close(None).await.unwrap();
            assert!(next(&mut socket).await.is_some_and(|message| message.is_close()));
            assert_eq!(next(&mut socket).await, None);
            drop(socket);
            let record = site.record().await;
            assert_eq!((record.status, record.path.as_str()), (200, "/chat"));
            assert_eq!((record.protocol.as_str(), record.error), ("HTTP/2", None));
            assert!(record.bytes_sent > 200_000 && record.bytes_received > 200_000);
        }
        in_flight(&upstream, 0).await;
    }
}

#[tokio::test]
async fn a_proxy_that_ends_says_goodbye() {
    let upstream = chat();
    let mut site = site(&upstream).await;
    let mut sender = connect(TcpStream::connect(site.http).await.unwrap()).await;
    let mut socket = open(&mut sender).await;
    site.token.cancel();
    let Some(Message::Close(Some(close))) = next(&mut socket).await else { panic!("no goodbye") };
    assert_eq!(close.code, CloseCode::Away);
    drop((socket, sender));
    let ended = std::mem::replace(&mut site.ended, tokio::spawn(async {}));
    tokio::time::timeout(PATIENCE, ended).await.expect("the proxy ends").unwrap();
}

#[tokio::test]
async fn a_client_that_resets_its_stream_ends_the_tunnel() {
    let upstream = chat();
    let mut site = site(&upstream).await;
    let mut sender = connect(TcpStream::connect(site.http).await.unwrap()).await;
    assert_eq!(site.record().await.status, 200);
    drop(open(&mut sender).await);
    assert_eq!(site.record().await.path, "/chat");
    in_flight(&upstream, 0).await;
}

#[tokio::test]
async fn nothing_else_is_a_tunnel() {
    // Answers as if there were no WebSockets.
    let connect_to = scripted(|_, mut stream| async move {
        let head = read_head(&mut stream).await;
        assert!(head.starts_with("GET /") && head.contains("sec-websocket-key: "), "{head}");
        let status = if head.contains("/refused") { "403 Forbidden" } else { "200 OK" };
        let answer =
            format!("HTTP/1.1 {status}\r\ncontent-length: 5\r\nconnection: close\r\n\r\nplain");
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.read_u8().await;
    });
    let upstream = Arc::new(Upstream::new("chat".into(), connect_to));
    let target = Target::Workload(Arc::clone(&upstream));
    let routes = vec![("/*", files(&[("index.html", "page")])), ("/chat/*", target)];
    let site = Site::start(app_of(Some(1), vec![view(1, routes)])).await;
    let mut sender = connect(TcpStream::connect(site.http).await.unwrap()).await;
    for (name, path, protocol, status) in [
        ("a page", "/", Some("websocket"), 405),
        ("another protocol", "/chat/x", Some("connect-udp"), 405),
        ("a server that has none", "/chat/x", Some("websocket"), 502),
        ("one that refuses", "/chat/refused", Some("websocket"), 403),
    ] {
        let answer = ask(&mut sender, path, protocol).await.expect(name);
        assert_eq!(answer.status().as_u16(), status, "{name}");
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(status == 403, body == "plain", "{name}");
    }
    in_flight(&upstream, 0).await;
    // The plain CONNECT asks for a tunnel to anywhere.
    let site = Site::start(app(Some(1), vec![(1, files(&[("index.html", "page")]))])).await;
    let stream = TcpStream::connect(site.http).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder().method(Method::CONNECT).uri(HOST).body(()).unwrap();
    let answer = client.send_request(request, true).unwrap().0.await.unwrap();
    assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
}
