//! WebSockets over HTTP/2 (RFC 8441).

use std::sync::Arc;

use bytes::Bytes;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{Method, Request, Response};
use selvedge_proxy::{Target, Upstream};
use tokio::io::{AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpStream;

use crate::clients::handshake;
use crate::site::{HOST, PATIENCE, Site, app};
use crate::workloads::{in_flight, read_head, scripted};

const GOING_AWAY: &[u8] = &[0x88, 2, 0x03, 0xe9];

/// A server that answers as the path says, and after an upgrade sends back all that it gets.
async fn serve(mut stream: DuplexStream) {
    let head = read_head(&mut stream).await;
    let key = head.split("sec-websocket-key: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    assert_eq!(key.map(str::len), Some(24), "{head}");
    for line in ["connection: upgrade", "upgrade: websocket", "sec-websocket-version: 13"] {
        assert!(head.contains(line), "{head}");
    }
    let answer = if head.starts_with("GET /no ") {
        "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno"
    } else if head.starts_with("GET /page ") {
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\npage"
    } else {
        assert!(head.starts_with("GET /chat HTTP/1.1\r\n"), "{head}");
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-accept: x\r\nsec-websocket-protocol: chat\r\n\r\n"
    };
    stream.write_all(answer.as_bytes()).await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let _ = tokio::io::copy(&mut read, &mut write).await;
    let _ = write.write_all(b"bye").await;
    let _ = write.shutdown().await;
}

async fn site() -> (Arc<Upstream>, Site) {
    let upstream = Arc::new(Upstream::new("chat".into(), scripted(|_, stream| serve(stream))));
    let target = Target::Workload(Arc::clone(&upstream));
    (Arc::clone(&upstream), Site::start(app(Some(1), vec![(1, target)])).await)
}

async fn ask(
    site: &Site,
    secure: bool,
    path: &str,
    protocol: &'static str,
) -> (Response<RecvStream>, SendStream<Bytes>) {
    let sender = if secure {
        let stream = handshake(site.https, &site.ca, HOST, &[b"h2"]).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        sender
    } else {
        let stream = TcpStream::connect(site.http).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        sender
    };
    let mut sender = sender.ready().await.unwrap();
    // The server's settings say that it may be asked.
    while !sender.is_extended_connect_protocol_enabled() {
        tokio::task::yield_now().await;
    }
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(format!("https://{HOST}{path}"))
        .header("sec-websocket-version", "13")
        .extension(Protocol::from_static(protocol))
        .body(())
        .unwrap();
    let (response, stream) = sender.send_request(request, false).unwrap();
    let response = tokio::time::timeout(PATIENCE, response).await.expect("it is answered");
    (response.unwrap(), stream)
}

async fn read(body: &mut RecvStream, length: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < length {
        let data = tokio::time::timeout(PATIENCE, body.data()).await.expect("it comes in time");
        let Some(data) = data else { return all };
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        all.extend_from_slice(&data);
    }
    all
}

#[tokio::test]
async fn a_stream_becomes_a_websocket() {
    let (upstream, mut site) = site().await;
    for secure in [false, true] {
        let (response, mut stream) = ask(&site, secure, "/chat", "websocket").await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
        for gone in ["sec-websocket-accept", "upgrade", "connection"] {
            assert!(!response.headers().contains_key(gone), "{gone}");
        }
        in_flight(&upstream, 1).await;
        let mut body = response.into_body();
        let long = vec![b'x'; 200_000];
        stream.send_data(Bytes::from(long.clone()), false).unwrap();
        assert!(read(&mut body, long.len()).await == long);
        stream.send_data(Bytes::new(), true).unwrap();
        assert_eq!(read(&mut body, usize::MAX).await, b"bye");
        let record = site.record().await;
        assert_eq!((record.bytes_received, record.bytes_sent), (200_000, 200_003));
        assert_eq!((record.method.as_str(), record.error), ("GET", None));
        in_flight(&upstream, 0).await;
    }
}

#[tokio::test]
async fn its_end_is_announced_and_its_client_may_leave() {
    let (upstream, site) = site().await;
    let (response, stream) = ask(&site, false, "/chat", "websocket").await;
    in_flight(&upstream, 1).await;
    drop((response, stream));
    in_flight(&upstream, 0).await;
    let (response, _stream) = ask(&site, false, "/chat", "websocket").await;
    upstream.end_tunnels();
    assert_eq!(read(&mut response.into_body(), usize::MAX).await, GOING_AWAY);
}

#[tokio::test]
async fn what_does_not_become_one_is_answered() {
    let (upstream, site) = site().await;
    for (path, protocol, status, body) in [
        ("/no", "websocket", 403, "no"),
        // To the client, success would mean that it is open.
        ("/page", "websocket", 502, ""),
        ("/chat", "connect-udp", 405, ""),
    ] {
        let (response, _stream) = ask(&site, false, path, protocol).await;
        assert_eq!(response.status(), status, "{path}");
        let read = read(&mut response.into_body(), usize::MAX).await;
        assert!(body.is_empty() || read == body.as_bytes());
        in_flight(&upstream, 0).await;
    }
}
