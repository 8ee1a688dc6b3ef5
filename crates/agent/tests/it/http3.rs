//! HTTP/3 at a site, and a site that has to do without.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use bytes::Buf as _;
use http::{Request, Response};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::tls::{Certified, HOST};
use crate::world::{World, fra, until};

/// The shop's front page by HTTP/3; `None` while nobody shakes hands.
async fn http3(certified: &Certified, address: SocketAddr) -> Option<(Response<()>, String)> {
    let mut tls = certified.client();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
    let quic = endpoint.connect_with(config, address, HOST).unwrap().await.ok()?;
    let connection = h3_quinn::Connection::new(quic);
    let (mut driver, mut requests) = h3::client::new(connection).await.unwrap();
    let driving =
        tokio::spawn(async move { std::future::poll_fn(|cx| driver.poll_close(cx)).await });
    let request = Request::get(format!("https://{HOST}/")).body(()).unwrap();
    let mut stream = requests.send_request(request).await.unwrap();
    stream.finish().await.unwrap();
    let head = stream.recv_response().await.unwrap();
    let mut body = Vec::new();
    while let Some(mut data) = stream.recv_data().await.unwrap() {
        body.extend_from_slice(&data.copy_to_bytes(data.remaining()));
    }
    driving.abort();
    Some((head, String::from_utf8(body).unwrap()))
}

/// The head of the shop's front page over TLS.
async fn https(certified: &Certified, address: SocketAddr) -> String {
    let name = ServerName::try_from(HOST).unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let connector = TlsConnector::from(Arc::new(certified.client()));
    let mut stream = connector.connect(name, stream).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("one"), "{answer}");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_speaks_http3_where_it_can_and_may() {
    let world = World::new().await;
    let one = world.page("one").await;
    world.assign(&[(1, one)]).await;
    world.activate(1, one).await;
    let certified = Certified::new(&world, &[&fra()]).await;

    // Somebody has the port.
    let (taken, port) = loop {
        let taken = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let port = taken.local_addr().unwrap();
        if std::net::TcpListener::bind(port).is_ok() {
            break (taken, port);
        }
    };
    let mut config = world.config(fra(), "site");
    config.https = port;
    let agent = world.start(config).await;
    certified.reached(&agent).await;
    world.verified(1).await;
    let told =
        |problems: &[String]| problems.iter().any(|it| it.contains("for HTTP/3 on 127.0.0.1"));
    until("a problem", || async {
        let report = world.site_report().await?;
        let problem = report.problems.iter().find(|it| it.contains("--no-http3"))?;
        assert!(told(std::slice::from_ref(problem)), "{problem}");
        Some(())
    })
    .await;
    assert!(!https(&certified, agent.https).await.contains("alt-svc"));

    // It goes.
    drop(taken);
    until("HTTP/3", || async {
        let (head, body) = http3(&certified, port).await?;
        assert_eq!((head.status().as_u16(), body.as_str()), (200, "one"));
        assert_eq!(head.headers()["selvedge-site"], "fra");
        assert!(head.headers().contains_key("selvedge-pin"));
        Some(())
    })
    .await;
    let alternative = format!("alt-svc: h3=\":{}\"", port.port());
    let answer = https(&certified, agent.https).await;
    assert!(answer.contains(&alternative), "{answer}");
    until("no problem", || async { (!told(&world.site_report().await?.problems)).then_some(()) })
        .await;
    agent.stop().await;

    // It is not wanted.
    let mut config = world.config(fra(), "site");
    config.http3 = false;
    let agent = world.start(config).await;
    certified.reached(&agent).await;
    world.verified(1).await;
    assert!(!https(&certified, agent.https).await.contains("alt-svc"));
    UdpSocket::bind(agent.https).unwrap();
    agent.stop().await;
}
