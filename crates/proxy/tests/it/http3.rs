//! HTTP/3, by another implementation's client.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use h3::client::SendRequest;
use h3_quinn::OpenStreams;
use http::{HeaderMap, Method, Request, StatusCode};
use quinn::crypto::rustls::QuicClientConfig;
use selvedge_proxy::{
    AppView, Demand, Limits, Listener, Listeners, Protocol, Target, Upstream, UpstreamLimits,
};
use selvedge_telemetry::access::ErrorSource;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UdpSocket;
use tokio::sync::{Notify, watch};

use crate::clients::{Answer, Client, trusting};
use crate::site::{HOST, PATIENCE, SECOND, Site, app, app_of, files, view};
use crate::tls::{asking, client};
use crate::trailers;
use crate::workloads::{in_flight, read_head, scripted};

fn any() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

fn pair() -> Vec<Listener> {
    vec![
        Listener::new("HTTP", any(), Protocol::Http),
        Listener::new("HTTPS", any(), Protocol::Https),
    ]
}

fn with_http3() -> Vec<Listener> {
    [pair(), vec![Listener::new("HTTP/3", any(), Protocol::Http3)]].concat()
}

async fn site_with(app: AppView, limits: Limits) -> (Site, SocketAddr) {
    let site = Site::listening(app, limits, Listeners(with_http3()).fixed(), 2).await;
    let address = site.handle.address("HTTP/3").unwrap();
    (site, address)
}

async fn site(app: AppView) -> (Site, SocketAddr) {
    site_with(app, Limits::default()).await
}

/// A client of one connection.
struct Http3 {
    requests: SendRequest<OpenStreams, Bytes>,
    quic: quinn::Connection,
    /// Ready when the connection has come to its end.
    ended: tokio::task::JoinHandle<h3::error::ConnectionError>,
    _endpoint: quinn::Endpoint,
}

impl Http3 {
    async fn open(site: &Site, address: SocketAddr) -> Self {
        Self::try_open(site, address, HOST).await.expect("the handshake succeeds")
    }

    async fn try_open(
        site: &Site,
        address: SocketAddr,
        name: &str,
    ) -> Result<Self, quinn::ConnectionError> {
        let config = trusting(&site.ca, &[&rustls::version::TLS13]).with_no_client_auth();
        Self::try_open_with(config, address, name).await
    }

    async fn try_open_with(
        mut config: rustls::ClientConfig,
        address: SocketAddr,
        name: &str,
    ) -> Result<Self, quinn::ConnectionError> {
        config.alpn_protocols = vec![b"h3".to_vec()];
        let config = QuicClientConfig::try_from(config).unwrap();
        let endpoint = quinn::Endpoint::client(any()).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(config));
        let quic = endpoint.connect_with(config, address, name).unwrap().await?;
        let connection = h3_quinn::Connection::new(quic.clone());
        let begun = h3::client::new(connection).await;
        let (mut driver, requests) = begun.map_err(|_| quic.close_reason().unwrap())?;
        let ended =
            tokio::spawn(async move { std::future::poll_fn(|cx| driver.poll_close(cx)).await });
        Ok(Self { requests, quic, ended, _endpoint: endpoint })
    }

    fn request(method: Method, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(format!("https://{HOST}{path}"))
    }

    async fn get(&mut self, path: &str) -> Answer {
        self.send(Self::request(Method::GET, path), &[], None).await.unwrap().0
    }

    async fn send(
        &mut self,
        request: http::request::Builder,
        body: &[Bytes],
        trailers: Option<HeaderMap>,
    ) -> Result<(Answer, Option<HeaderMap>), h3::error::StreamError> {
        let answer = async {
            let stream = self.requests.send_request(request.body(()).unwrap()).await?;
            let (mut send, mut receive) = stream.split();
            let sending = async {
                for data in body {
                    send.send_data(data.clone()).await?;
                }
                if let Some(trailers) = trailers {
                    send.send_trailers(trailers).await?;
                }
                send.finish().await
            };
            let receiving = async {
                let head = receive.recv_response().await?;
                let mut body = BytesMut::new();
                while let Some(mut data) = receive.recv_data().await? {
                    body.extend_from_slice(&data.copy_to_bytes(data.remaining()));
                }
                let trailers = receive.recv_trailers().await?;
                let (head, ()) = head.into_parts();
                let (status, headers) = (head.status, head.headers);
                Ok((Answer { status, headers, body: body.freeze() }, trailers))
            };
            // An answer can come before the request was taken, and instead of that.
            let (_, received) = tokio::join!(sending, receiving);
            received
        };
        tokio::time::timeout(PATIENCE, answer).await.expect("the answer comes in time")
    }
}

/// A workload that says what it got, in the body of its answer.
fn mirror() -> Target {
    let connect = scripted(|_, stream| crate::workloads::serve_mirror(stream));
    Target::Workload(Arc::new(Upstream::new("web of shop".into(), connect)))
}

#[tokio::test]
async fn its_requests_go_the_way_of_all_others() {
    let routes = vec![("/*", files(&[("index.html", "page")])), ("/app/*", mirror())];
    let (mut site, address) = site(app_of(Some(1), vec![view(1, routes)])).await;
    let mut client = Http3::open(&site, address).await;
    let page = client.get("/").await;
    assert_eq!((page.status, page.text()), (StatusCode::OK, "page"));
    assert_eq!(page.header("content-length"), "4");
    assert_eq!(page.header("selvedge-site"), "fra");
    assert!(httpdate::parse_http_date(page.header("date")).is_ok(), "{:?}", page.headers);
    let record = site.record().await;
    assert_eq!((record.protocol.as_str(), record.status), ("HTTP/3", 200));
    assert_eq!((record.scheme.as_str(), record.tls.as_deref()), ("https", Some("TLSv1.3")));
    assert_eq!((record.bytes_sent, record.error), (4, None));

    let head = client.send(Http3::request(Method::HEAD, "/"), &[], None).await.unwrap().0;
    assert_eq!(
        (head.status, head.text(), head.header("content-length")),
        (StatusCode::OK, "", "4")
    );
    assert_eq!(client.get("/none").await.status, StatusCode::NOT_FOUND);
    let mirrored = client.get("/app/x?y").await;
    assert_eq!(mirrored.status, StatusCode::OK);
    for part in ["/app/x?y", "x-forwarded-proto", "https", HOST] {
        assert!(mirrored.text().contains(part), "{part}: {}", mirrored.text());
    }
    assert!(!mirrored.text().contains("transfer-encoding"), "a GET has no body");

    // Clients of HTTPS are told, others are not.
    let told = format!("h3=\":{}\"; ma=86400", address.port());
    for protocols in [&[&b"h2"[..]], &[b"http/1.1"]] {
        let answer = Client::tls(&site, protocols).await.get("/").await;
        assert_eq!(answer.header("alt-svc"), told);
    }
    assert_eq!(Client::plain(&site).await.get("/").await.header("alt-svc"), "");
    // A host without a certificate.
    assert!(Http3::try_open(&site, address, "other.test").await.is_err());
}

#[tokio::test]
async fn bodies_and_trailers_pass_in_both_directions() {
    let (site, address) = site(app(Some(1), vec![(1, trailers::plain_h1())])).await;
    let mut client = Http3::open(&site, address).await;
    let request =
        Http3::request(Method::POST, "/").header("te", "trailers").header("trailer", "x-sum");
    let sent = trailers::map(&[("x-sum", "abc"), ("x-forwarded-for", "203.0.113.9")]);
    // More than any window, so that both directions have to wait for the other side.
    let chunk = Bytes::from(vec![b'x'; 300_000]);
    let mut body = vec![chunk; 20];
    body.insert(10, Bytes::new());
    let (answer, trailers) = client.send(request, &body, Some(sent)).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("x-te"), "trailers");
    assert!(answer.body.len() == 6_000_000 && answer.body.iter().all(|byte| *byte == b'x'));
    assert_eq!(trailers, Some(trailers::map(&[("x-sum", "abc"), ("grpc-status", "0")])));
}

#[tokio::test]
async fn many_requests_share_a_connection() {
    let (mut site, address) = site(app(Some(1), vec![(1, mirror())])).await;
    let client = Http3::open(&site, address).await;
    // More than may be under way at once.
    let asking = (0..300).map(|number| {
        let mut client = client.requests.clone();
        async move {
            let request = Http3::request(Method::GET, &format!("/{number}")).body(()).unwrap();
            let mut stream = client.send_request(request).await.unwrap();
            stream.finish().await.unwrap();
            assert_eq!(stream.recv_response().await.unwrap().status(), StatusCode::OK);
            let mut body = BytesMut::new();
            while let Some(mut data) = stream.recv_data().await.unwrap() {
                body.extend_from_slice(&data.copy_to_bytes(data.remaining()));
            }
            assert!(String::from_utf8_lossy(&body).contains(&format!("\"/{number}\"")));
        }
    });
    let asking = futures_util::future::join_all(asking);
    tokio::time::timeout(PATIENCE, asking).await.expect("all are answered");
    for _ in 0..300 {
        assert_eq!(site.record().await.status, 200);
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_or_ends_it() {
    let limits = Limits { max_header_bytes: 9_000, max_body_bytes: 1000, ..Limits::default() };
    let (mut site, address) = site_with(app(Some(1), vec![(1, mirror())]), limits).await;
    let mut client = Http3::open(&site, address).await;
    let long = "x".repeat(9_000);
    for (name, request, body, expected) in [
        ("a long head", Http3::request(Method::GET, "/").header("a", &long), 0, 431),
        ("a long body", Http3::request(Method::POST, "/"), 1001, 413),
        ("TRACE", Http3::request(Method::TRACE, "/"), 0, 405),
        ("CONNECT", Http3::request(Method::CONNECT, "/"), 0, 405),
        (
            "a connection's field",
            Http3::request(Method::GET, "/").header("connection", "x"),
            0,
            400,
        ),
        (
            "an encoding",
            Http3::request(Method::POST, "/").header("transfer-encoding", "chunked"),
            1,
            400,
        ),
        ("two lengths", Http3::request(Method::POST, "/").header("content-length", "1, 1"), 1, 400),
        // More than was said, and less.
        ("more", Http3::request(Method::POST, "/").header("content-length", "1"), 2, 400),
        ("less", Http3::request(Method::POST, "/").header("content-length", "3"), 2, 400),
    ] {
        let body = [Bytes::from(vec![b'x'; body])];
        let body = if body[0].is_empty() { &[] } else { &body[..] };
        let answer = client.send(request, body, None).await.expect(name).0;
        assert_eq!(answer.status.as_u16(), expected, "{name}");
        let record = site.record().await;
        assert_eq!((record.status, record.protocol.as_str()), (expected, "HTTP/3"), "{name}");
        assert_eq!(record.error.unwrap().source, ErrorSource::Client, "{name}");
    }
    // The connection is none the worse for it.
    assert_eq!(client.get("/").await.status, StatusCode::OK);

    // A head that is larger than its client was told a head may be: a field `a` of 30,127 bytes.
    let head = [&[0, 0, 0x21, b'a', 0x7f, 0xb0, 0xea, 0x01][..], &vec![b'x'; 30_127]].concat();
    let length = (0x8000_0000 | u32::try_from(head.len()).unwrap()).to_be_bytes();
    let (mut send, mut receive) = client.quic.open_bi().await.unwrap();
    send.write_all(&[&[0x01], &length[..], &head].concat()).await.unwrap();
    let answer = tokio::time::timeout(PATIENCE, receive.read_to_end(100)).await;
    assert!(!answer.unwrap().unwrap().is_empty());
    let record = site.record().await;
    let record = if record.path == "/" { site.record().await } else { record };
    assert_eq!((record.status, record.protocol.as_str()), (431, "HTTP/3"));
    assert_eq!(record.error.unwrap().kind, "unreadable-head");

    // A frame that would be kept whole, and is not as long as it says.
    let (mut send, mut receive) = client.quic.open_bi().await.unwrap();
    send.write_all(&[0x01, 0xbf, 0xff, 0xff, 0xff]).await.unwrap();
    send.write_all(&[0; 1000]).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, receive.read_to_end(100)).await;
    assert!(matches!(ended, Ok(Ok(rest)) if rest.is_empty()), "it is not waited for");
    assert_eq!(client.get("/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn early_hints_come_before_the_answer() {
    let go_on = Arc::new(Notify::new());
    let upstream = Upstream::new("web of shop".into(), crate::hints::http1(Arc::clone(&go_on)));
    let (site, address) = site(app(Some(1), vec![(1, Target::Workload(Arc::new(upstream)))])).await;
    let mut client = Http3::open(&site, address).await;
    let request = Http3::request(Method::GET, "/").body(()).unwrap();
    let mut stream = client.requests.send_request(request).await.unwrap();
    stream.finish().await.unwrap();
    let hint = tokio::time::timeout(PATIENCE, stream.recv_response()).await.unwrap().unwrap();
    assert_eq!(hint.status(), StatusCode::EARLY_HINTS);
    assert_eq!(hint.headers(), &trailers::map(&[("link", crate::hints::LINK)]));
    go_on.notify_one();
    let answer = tokio::time::timeout(PATIENCE, stream.recv_response()).await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}

/// A workload that answers once it is told to, and notes requests that are taken back.
fn slow(release: &Arc<Notify>) -> Arc<Upstream> {
    let release = Arc::clone(release);
    let connect = scripted(move |_, mut stream| {
        let release = Arc::clone(&release);
        async move {
            read_head(&mut stream).await;
            release.notified().await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nslow";
            let _ = stream.write_all(answer).await;
            let _ = stream.read_u8().await;
        }
    });
    let limits = UpstreamLimits::default();
    Arc::new(Upstream::with_limits("web of shop".into(), connect, limits))
}

#[tokio::test]
async fn a_request_that_is_taken_back_ends_at_the_workload() {
    let upstream = slow(&Arc::new(Notify::new()));
    let target = Target::Workload(Arc::clone(&upstream));
    let limits = Limits { max_streams: 4, max_pending_resets: 3, ..Limits::default() };
    let (mut site, address) = site_with(app(Some(1), vec![(1, target)]), limits).await;
    let mut client = Http3::open(&site, address).await;
    // One more than are put up with.
    for _ in 0..8 {
        let request = Http3::request(Method::POST, "/").body(()).unwrap();
        let mut stream = client.requests.send_request(request).await.unwrap();
        stream.finish().await.unwrap();
        in_flight(&upstream, 1).await;
        stream.stop_sending(h3::error::Code::H3_REQUEST_CANCELLED);
        drop(stream);
        in_flight(&upstream, 0).await;
        assert_eq!(site.record().await.error.unwrap().kind, "aborted");
    }
    let closed = tokio::time::timeout(PATIENCE, client.quic.closed()).await.unwrap();
    let quinn::ConnectionError::ApplicationClosed(close) = closed else { panic!("{closed}") };
    assert_eq!(close.error_code.into_inner(), 0x107, "excessive load");
}

#[tokio::test]
async fn a_listener_that_goes_lets_its_connections_finish() {
    let release = Arc::new(Notify::new());
    let upstream = slow(&release);
    let (wanted, receiver) = watch::channel(Arc::new(Listeners(with_http3())));
    let target = Target::Workload(Arc::clone(&upstream));
    let app = app(Some(1), vec![(1, target)]);
    let site = Site::listening(app, Limits::default(), receiver, 2).await;
    let address = site.handle.address("HTTP/3").unwrap();
    let mut client = Http3::open(&site, address).await;
    let mut other = Http3::open(&site, address).await;
    let under_way = client.get("/");
    let gone = async {
        in_flight(&upstream, 1).await;
        wanted.send_replace(Arc::new(Listeners(pair())));
        // An idle connection ends, and no error is said.
        let closed = tokio::time::timeout(PATIENCE, other.quic.closed()).await.unwrap();
        let quinn::ConnectionError::ApplicationClosed(close) = closed else { panic!("{closed}") };
        assert_eq!(close.error_code.into_inner(), 0x100);
        let ended = (&mut other.ended).await.unwrap();
        assert!(ended.is_h3_no_error(), "{ended}");
        release.notify_one();
    };
    let (answer, ()) = tokio::join!(under_way, gone);
    assert_eq!(answer.text(), "slow");
    let closed = tokio::time::timeout(PATIENCE, client.quic.closed()).await.unwrap();
    assert!(matches!(closed, quinn::ConnectionError::ApplicationClosed(_)), "{closed}");
    // Nobody is told of it any more, and the address is free once the last has gone.
    let mut states = site.handle.listeners();
    states.wait_for(|states| states.len() == 2).await.unwrap();
    release.notify_one();
    let answer = Client::tls(&site, &[b"h2"]).await.get("/").await;
    assert_eq!(answer.header("alt-svc"), "");
    wanted.send_replace(Arc::new(Listeners(
        [pair(), vec![Listener::new("again", address, Protocol::Http3)]].concat(),
    )));
    let bound = states.wait_for(|states| states.iter().any(|it| it.bound == Some(address)));
    tokio::time::timeout(PATIENCE, bound).await.expect("it is bound again").unwrap();
    release.notify_one();
    assert_eq!(Http3::open(&site, address).await.get("/").await.text(), "slow");
}

/// Passes datagrams on, by an address of its own that can change, and notes the kinds of long
/// headers that come back (RFC 9000, section 17.2).
struct Nat {
    address: SocketAddr,
    rebind: Arc<Notify>,
    kinds: Arc<Mutex<BTreeSet<u8>>>,
    bindings: Arc<AtomicUsize>,
}

impl Nat {
    async fn before(server: SocketAddr) -> Self {
        let inside = UdpSocket::bind(any()).await.unwrap();
        let nat = Self {
            address: inside.local_addr().unwrap(),
            rebind: Arc::default(),
            kinds: Arc::default(),
            bindings: Arc::default(),
        };
        let (rebind, kinds) = (Arc::clone(&nat.rebind), Arc::clone(&nat.kinds));
        let bindings = Arc::clone(&nat.bindings);
        tokio::spawn(async move {
            let (mut there, mut back) = (vec![0; 65_536], vec![0; 65_536]);
            let mut client = None;
            let mut outside = UdpSocket::bind(any()).await.unwrap();
            loop {
                tokio::select! {
                    () = rebind.notified() => {
                        outside = UdpSocket::bind(any()).await.unwrap();
                        bindings.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok((len, from)) = inside.recv_from(&mut there) => {
                        client = Some(from);
                        let _ = outside.send_to(&there[..len], server).await;
                    }
                    Ok((len, _)) = outside.recv_from(&mut back) => {
                        if back[0] & 0x80 != 0 {
                            kinds.lock().unwrap().insert(back[0] >> 4 & 3);
                        }
                        if let Some(client) = client {
                            let _ = inside.send_to(&back[..len], client).await;
                        }
                    }
                }
            }
        });
        nat
    }
}

const RETRY: u8 = 3;

#[tokio::test]
async fn a_client_whose_address_changes_stays() {
    let (site, address) = site(app(Some(1), vec![(1, files(&[("index.html", "page")]))])).await;
    // Some on each shard.
    let mut clients = Vec::new();
    for _ in 0..4 {
        let nat = Nat::before(address).await;
        let client = Http3::open(&site, nat.address).await;
        clients.push((nat, client));
    }
    for round in 0..3 {
        for (nat, client) in &mut clients {
            assert_eq!(client.get("/").await.text(), "page", "round {round}");
            nat.rebind.notify_one();
            while nat.bindings.load(Ordering::Relaxed) <= round {
                tokio::task::yield_now().await;
            }
        }
    }
    assert!(clients.iter().all(|(nat, _)| !nat.kinds.lock().unwrap().contains(&RETRY)));
}

#[tokio::test]
async fn under_load_a_client_proves_its_address_first() {
    let limits = Limits { max_unproven_handshakes: 0, ..Limits::default() };
    let page = app(Some(1), vec![(1, files(&[("index.html", "page")]))]);
    let (site, address) = site_with(page, limits).await;
    let nat = Nat::before(address).await;
    let mut client = Http3::open(&site, nat.address).await;
    assert_eq!(client.get("/").await.text(), "page");
    assert!(nat.kinds.lock().unwrap().contains(&RETRY));
}

#[tokio::test]
async fn at_the_limit_of_connections_clients_are_refused() {
    let limits = Limits { max_connections: 1, ..Limits::default() };
    let page = app(Some(1), vec![(1, files(&[("index.html", "page")]))]);
    let (site, address) = site_with(page, limits).await;
    let mut client = Http3::open(&site, address).await;
    assert_eq!(client.get("/").await.text(), "page");
    assert!(Http3::try_open(&site, address, HOST).await.is_err());
    client.quic.close(0x100_u32.into(), b"");
    drop(client);
    let again = async { while Http3::try_open(&site, address, HOST).await.is_err() {} };
    tokio::time::timeout(PATIENCE, again).await.expect("there is room again");
}

#[tokio::test]
async fn an_idle_connection_is_ended() {
    let limits = Limits { idle_timeout: Duration::from_millis(300), ..Limits::default() };
    let page = app(Some(1), vec![(1, files(&[("index.html", "page")]))]);
    let (site, address) = site_with(page, limits).await;
    let mut client = Http3::open(&site, address).await;
    assert_eq!(client.get("/").await.text(), "page");
    let closed = tokio::time::timeout(PATIENCE, client.quic.closed()).await.unwrap();
    assert!(matches!(closed, quinn::ConnectionError::ApplicationClosed(_)), "{closed}");
}

#[tokio::test]
async fn a_host_can_ask_for_client_certificates() {
    let page = || app(Some(1), vec![(1, mirror())]);
    let (site, address) = site(page()).await;
    let nobody = trusting(&site.ca, &[&rustls::version::TLS13]).with_no_client_auth();
    let (ca, _, somebody) = client(&site);
    let (other_ca, _, stranger) = client(&site);
    // The status, and whether the workload was shown a certificate. Both sides need not notice at the
    // same time that a handshake fails.
    let ask = async |config: &rustls::ClientConfig, name: &str| {
        let mut client = Http3::try_open_with(config.clone(), address, name).await.ok()?;
        let request = Http3::request(Method::GET, "/").header("client-cert", ":forged:");
        let (answer, _) = client.send(request, &[], None).await.ok()?;
        assert!(!answer.text().contains("forged"));
        Some((answer.status.as_u16(), answer.text().contains("\"client-cert\":")))
    };
    let before = Http3::open(&site, address).await;
    assert_eq!(ask(&nobody, HOST).await, Some((200, false)));

    site.speak(page(), asking(std::slice::from_ref(&ca), Demand::Required));
    // The sessions and connections from before let nobody in.
    assert_eq!(ask(&nobody, HOST).await, None);
    assert_eq!(ask(&stranger, HOST).await, None);
    let mut before = before;
    assert_eq!(before.get("/").await.status, StatusCode::MISDIRECTED_REQUEST);
    // Anew, and resumed.
    for _ in 0..2 {
        assert_eq!(ask(&somebody, HOST).await, Some((200, true)));
    }
    for config in [&nobody, &*somebody] {
        assert_eq!(ask(config, SECOND).await, Some((421, false)));
    }

    site.speak(page(), asking(&[ca], Demand::Optional));
    assert_eq!(ask(&nobody, HOST).await, Some((200, false)));
    assert_eq!(ask(&somebody, HOST).await, Some((200, true)));
    assert_eq!(ask(&stranger, HOST).await, None);
    // Other roots: the sessions of those before are worth nothing.
    site.speak(page(), asking(&[other_ca], Demand::Required));
    assert_eq!(ask(&somebody, HOST).await, None);
    assert_eq!(ask(&stranger, HOST).await, Some((200, true)));
}
