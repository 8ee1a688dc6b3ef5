//! Upstreams over TLS: what is agreed on, and who is believed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use selvedge_proxy::upstream::{ClientCertificate, Protocol, TcpConnect, Trust};
use selvedge_proxy::{Target, Upstream, UpstreamConfig, UpstreamTls};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::clients::{Client, raw};
use crate::site::{HOST, Site, app};

const NAME: &str = "api.internal.test";

/// An authority.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> Vec<u8> {
        self.0.pem().into_bytes()
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        roots
    }

    /// A certificate for `name`, changed a little, with its key.
    fn sign(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (CertificateDer<'static>, KeyPair, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.der().clone(), key, certificate.pem())
    }
}

/// A server on loopback, that says what it was asked by, and in which connection.
struct Server {
    port: u16,
    connections: Arc<AtomicUsize>,
}

async fn serve(
    (certificate, key, _): (CertificateDer<'static>, KeyPair, String),
    clients: Option<&Authority>,
    protocols: &[&[u8]],
) -> Server {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        Some(authority) => {
            let roots = Arc::new(authority.roots());
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
        None => builder.with_no_client_auth(),
    };
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let mut config = builder.with_single_cert(vec![certificate], key).unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, count) = (acceptor.clone(), Arc::clone(&count));
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                count.fetch_add(1, Ordering::SeqCst);
                let sni = stream.get_ref().1.server_name().unwrap_or("none").to_owned();
                let answer = service_fn(move |request: Request<hyper::body::Incoming>| {
                    let host = match request.version() {
                        Version::HTTP_2 => request.uri().authority().unwrap().to_string(),
                        _ => request.headers()["host"].to_str().unwrap().to_owned(),
                    };
                    let said = format!("{:?} for {host} at {sni}", request.version());
                    async move { Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from(said)))) }
                });
                let builder = auto::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    });
    Server { port, connections }
}

fn upstream(server: &Server, protocol: Protocol, tls: UpstreamTls) -> Arc<Upstream> {
    let config = UpstreamConfig {
        connects: vec![Arc::new(TcpConnect::new("127.0.0.1", server.port))],
        host: Some(HeaderValue::try_from(format!("{NAME}:8443")).unwrap()),
        protocol,
        tls: Some(tls),
        ..UpstreamConfig::named("api of shop")
    };
    Arc::new(Upstream::build(config).unwrap())
}

async fn site_of(upstream: Arc<Upstream>) -> Site {
    Site::start(app(Some(1), vec![(1, Target::Workload(upstream))])).await
}

fn trusting(authority: &Authority) -> UpstreamTls {
    UpstreamTls { trust: Trust::Roots(authority.pem()), ..UpstreamTls::default() }
}

#[tokio::test]
async fn the_protocol_is_agreed_on() {
    let authority = Authority::new("ours");
    let (h1, h2): (&[u8], &[u8]) = (b"http/1.1", b"h2");
    let both = [h2, h1];
    for (protocol, offered, spoken) in [
        (Protocol::Either, &both[..], "HTTP/2.0"),
        (Protocol::Either, &[h1], "HTTP/1.1"),
        (Protocol::Either, &[], "HTTP/1.1"),
        (Protocol::Http1, &both, "HTTP/1.1"),
        (Protocol::Http2, &both, "HTTP/2.0"),
        (Protocol::Http2, &[], ""),
        (Protocol::Http2, &[h1], ""),
    ] {
        let server = serve(authority.sign(NAME, |_| {}), None, offered).await;
        let site = site_of(upstream(&server, protocol, trusting(&authority))).await;
        let mut client = Client::plain(&site).await;
        let answer = client.get("/").await;
        if spoken.is_empty() {
            assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
            continue;
        }
        for _ in 0..2 {
            let said = format!("{spoken} for {NAME}:8443 at {NAME}");
            assert_eq!(client.get("/").await.text(), said);
        }
        // A WebSocket needs a connection of HTTP/1.1 whatever the others speak; the server has no
        // idea of them, and answers.
        let asking = format!(
            "GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: upgrade, close\r\n\
             upgrade: websocket\r\n\r\n"
        );
        if protocol == Protocol::Either && spoken == "HTTP/2.0" {
            let answer = raw(site.http, &asking).await;
            assert!(answer.contains("HTTP/1.1 for api"), "{answer}");
            assert_eq!(server.connections.load(Ordering::SeqCst), 2);
            assert!(client.get("/").await.text().starts_with("HTTP/2.0"));
        } else {
            assert_eq!(server.connections.load(Ordering::SeqCst), 1);
        }
    }
}

#[tokio::test]
async fn a_server_must_prove_who_it_is() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let named = |name: &str| UpstreamTls { server_name: Some(name.to_owned()), ..trusting(&ours) };
    let good = || ours.sign(NAME, |_| {});
    let expired = ours.sign(NAME, |params| params.not_after = date_time_ymd(2020, 1, 1));
    let early = ours.sign(NAME, |params| params.not_before = date_time_ymd(3000, 1, 1));
    let cases = [
        (good(), trusting(&ours), ""),
        (ours.sign("127.0.0.1", |_| {}), named("127.0.0.1"), ""),
        (good(), named("other.test"), "it is for another name"),
        (good(), named("127.0.0.1"), "it is for another name"),
        (good(), trusting(&theirs), "nobody who is trusted has signed it"),
        (good(), UpstreamTls::default(), "nobody who is trusted has signed it"),
        (expired, trusting(&ours), "it has expired"),
        (early, trusting(&ours), "it is not valid yet"),
        (
            theirs.sign("other.test", |_| {}),
            UpstreamTls { trust: Trust::InsecurelyAnyone, ..UpstreamTls::default() },
            "",
        ),
    ];
    for (certificate, tls, wrong) in cases {
        let server = serve(certificate, None, &[b"h2", b"http/1.1"]).await;
        let mut site = site_of(upstream(&server, Protocol::Either, tls)).await;
        let answer = Client::plain(&site).await.get("/").await;
        if wrong.is_empty() {
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
            continue;
        }
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{wrong}");
        assert!(answer.text().contains(wrong), "{}", answer.text());
        assert_eq!(site.record().await.error.unwrap().kind, "certificate-invalid");
        assert_eq!(server.connections.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test]
async fn we_prove_who_we_are() {
    let (authority, strangers) = (Authority::new("ours"), Authority::new("theirs"));
    let certificate = |authority: &Authority| {
        let (_, key, chain) = authority.sign("edge.test", |_| {});
        let (chain, key) = (chain.into_bytes(), key.serialize_pem().into_bytes());
        Some(ClientCertificate { chain, key })
    };
    for (client_certificate, good) in
        [(certificate(&authority), true), (certificate(&strangers), false), (None, false)]
    {
        let protocols: [&[u8]; 2] = [b"h2", b"http/1.1"];
        let server = serve(authority.sign(NAME, |_| {}), Some(&authority), &protocols).await;
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let tls = UpstreamTls {
                client_certificate: client_certificate.clone(),
                ..trusting(&authority)
            };
            let site = site_of(upstream(&server, protocol, tls)).await;
            let answer = Client::plain(&site).await.get("/").await;
            let status = if good { StatusCode::OK } else { StatusCode::BAD_GATEWAY };
            assert_eq!(answer.status, status, "{}", answer.text());
        }
    }
}

#[tokio::test]
async fn a_server_without_tls_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            use tokio::io::AsyncWriteExt as _;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let server = Server { port, connections: Arc::default() };
    let tls = UpstreamTls { trust: Trust::InsecurelyAnyone, ..UpstreamTls::default() };
    let mut site = site_of(upstream(&server, Protocol::Either, tls)).await;
    let answer = Client::plain(&site).await.get("/").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(site.record().await.error.unwrap().kind, "tls-handshake");
}
