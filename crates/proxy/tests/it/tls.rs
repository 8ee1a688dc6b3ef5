//! Key exchange, sessions that resume, and client certificates.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, NamedGroup};
use selvedge_model::Host;
use selvedge_proxy::{ClientAuth, Demand, Target, TicketKey, TlsPolicy, Upstream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::clients::{handshake, trusting};
use crate::site::{HOST, PATIENCE, SECOND, Site, app, files};
use crate::workloads::{read_head, scripted};

fn page() -> selvedge_proxy::AppView {
    app(Some(1), vec![(1, files(&[("index.html", "page")]))])
}

async fn connect(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::clone(config)).connect(name, stream).await
}

/// Asks once for `host` on a connection of its own.
async fn ask(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    (name, host): (&str, &str),
    headers: &str,
) -> std::io::Result<(Option<HandshakeKind>, String)> {
    let mut stream = connect(config, address, name).await?;
    let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\n{headers}connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap()?;
    Ok((stream.get_ref().1.handshake_kind(), answer))
}

#[tokio::test]
async fn key_exchange_is_hybrid_where_the_client_can() {
    let site = Site::start(page()).await;
    let stream = handshake(site.https, &site.ca, HOST, &[b"h2"]).await.unwrap();
    let group = stream.get_ref().1.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, NamedGroup::X25519MLKEM768);
}

#[tokio::test]
async fn sessions_resume_at_other_sites_and_past_a_rotation() {
    let [old, new, newer] = [1, 2, 3].map(|byte| TicketKey::new(&[byte; 32]).unwrap());
    let speaks = |keys: &[&TicketKey]| {
        let ticket_keys = keys.iter().map(|key| (*key).clone()).collect();
        TlsPolicy { ticket_keys, ..TlsPolicy::default() }
    };
    let one = Site::start(page()).await;
    let other = one.successor(Default::default(), 1).await;
    assert_ne!(one.https, other.https);
    for version in [&TLS12, &TLS13] {
        let fresh = || Arc::new(trusting(&one.ca, &[version]).with_no_client_auth());
        let kind = async |config: &Arc<ClientConfig>, site: &Site| {
            let (kind, answer) = ask(config, site.https, (HOST, HOST), "").await.unwrap();
            assert!(answer.ends_with("page"), "{answer}");
            kind.unwrap()
        };
        // Each has its own keys: a session is good where it was made.
        one.speak(page(), TlsPolicy::default());
        other.speak(page(), TlsPolicy::default());
        let client = fresh();
        assert_ne!(kind(&client, &one).await, HandshakeKind::Resumed);
        assert_eq!(kind(&client, &one).await, HandshakeKind::Resumed);
        assert_ne!(kind(&client, &other).await, HandshakeKind::Resumed);
        // The same keys, of which one site has the next already in use.
        let client = fresh();
        one.speak(page(), speaks(&[&old]));
        other.speak(page(), speaks(&[&new, &old]));
        assert_ne!(kind(&client, &one).await, HandshakeKind::Resumed);
        assert_eq!(kind(&client, &other).await, HandshakeKind::Resumed);
        one.speak(page(), speaks(&[&newer, &new]));
        assert_eq!(kind(&client, &one).await, HandshakeKind::Resumed);
        // What is two steps back is forgotten.
        let client = fresh();
        other.speak(page(), speaks(&[&old]));
        assert_ne!(kind(&client, &other).await, HandshakeKind::Resumed);
        assert_ne!(kind(&client, &one).await, HandshakeKind::Resumed);
    }
}

/// An authority for clients, and the chain and settings of one that it vouches for.
pub(crate) fn client(
    site: &Site,
) -> (CertificateDer<'static>, CertificateDer<'static>, Arc<ClientConfig>) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["client".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &ca).unwrap().der().clone();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let config = trusting(&site.ca, &[&TLS13, &TLS12])
        .with_client_auth_cert(vec![certificate.clone()], key)
        .unwrap();
    (ca.der().clone(), certificate, Arc::new(config))
}

pub(crate) fn asking(roots: &[CertificateDer<'static>], demand: Demand) -> TlsPolicy {
    let auth = Arc::new(ClientAuth::new(roots, demand).unwrap());
    let client_auth = HashMap::from([(Host::new(HOST).unwrap(), auth)]);
    TlsPolicy { client_auth, ..TlsPolicy::default() }
}

#[tokio::test]
async fn a_host_can_ask_for_client_certificates() {
    let connect = scripted(|_, mut stream| async move {
        let head = read_head(&mut stream).await;
        let shown = head.lines().filter(|line| line.starts_with("client-cert"));
        let body = shown.collect::<Vec<_>>().join(" ");
        let length = body.len();
        // It forgets to say that the answer is for this client alone.
        let head = format!("content-length: {length}\r\ncache-control: max-age=60");
        let answer = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}");
        let _ = stream.write_all(answer.as_bytes()).await;
    });
    let upstream = Target::Workload(Arc::new(Upstream::new("web".into(), connect)));
    let app = || app(Some(1), vec![(1, upstream.clone())]);
    let site = Site::start(app()).await;
    let nobody = Arc::new(trusting(&site.ca, &[&TLS13, &TLS12]).with_no_client_auth());
    let (ca, certificate, somebody) = client(&site);
    let (other_ca, _, stranger) = client(&site);
    let forged = "client-cert: :AAAA:\r\nclient_cert: :AAAA:\r\nclient-cert-chain: :AAAA:\r\n";
    let by = async |config: &Arc<ClientConfig>, name: &str| {
        ask(config, site.https, (name, HOST), forged).await.map(|(kind, answer)| {
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            (kind.unwrap(), head[9..12].to_owned(), body.to_owned())
        })
    };
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(&certificate);
    let shown = format!("client-cert: :{encoded}:");

    // Nothing is asked, and nobody can say that it was.
    let (_, status, body) = by(&nobody, HOST).await.unwrap();
    assert_eq!((status.as_str(), body.as_str()), ("200", ""));

    site.speak(app(), asking(std::slice::from_ref(&ca), Demand::Required));
    // The session from before does not let its client in.
    assert!(by(&nobody, HOST).await.is_err());
    assert!(by(&stranger, HOST).await.is_err());
    for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let (kind, status, body) = by(&somebody, HOST).await.unwrap();
        assert_eq!((status.as_str(), body.as_str()), ("200", shown.as_str()));
        // The certificate is part of the session.
        assert!(kind == expected || expected == HandshakeKind::Full, "{kind:?}");
    }
    // Another name in the handshake, or no TLS, is no way around.
    for config in [&nobody, &somebody] {
        let (_, status, body) = by(config, SECOND).await.unwrap();
        assert_eq!(status, "421");
        assert!(body.contains("client-certificate"), "{body}");
    }
    let plain = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    let answer = crate::clients::raw(site.http, &plain).await;
    assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");

    site.speak(app(), asking(&[ca], Demand::Optional));
    for (config, body) in [(&nobody, ""), (&somebody, shown.as_str())] {
        let (_, status, answer) = by(config, HOST).await.unwrap();
        assert_eq!((status.as_str(), answer.as_str()), ("200", body));
    }
    assert_eq!(by(&nobody, SECOND).await.unwrap().1, "421");
    // Other roots: the sessions of those before are worth nothing.
    site.speak(app(), asking(&[other_ca], Demand::Required));
    assert!(by(&somebody, HOST).await.is_err());
    assert_eq!(by(&stranger, HOST).await.unwrap().1, "200");
}

#[tokio::test]
async fn a_connection_does_not_outlive_what_is_asked_of_it() {
    let site = Site::start(page()).await;
    let (ca, _, somebody) = client(&site);
    site.speak(page(), asking(&[ca], Demand::Required));
    let mut stream = connect(&somebody, site.https, HOST).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    crate::clients::read_until(&mut stream, "page").await;
    let (other, ..) = client(&site);
    site.speak(page(), asking(&[other], Demand::Required));
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = crate::clients::read_until(&mut stream, "client-certificate").await;
    assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
}
