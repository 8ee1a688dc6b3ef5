//! Sessions that begin at one site go on at another.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use selvedge_model::documents::TicketKeys;
use selvedge_model::{CertificateBundle, Digest, Host, SiteId, keys};
use selvedge_plan::tickets::{self, PERIOD};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::world::{Running, World, fra, get, until};

pub(crate) const HOST: &str = "shop.edge.test";

/// The shop's host has a certificate.
pub(crate) struct Certified {
    certificate: CertificateDer<'static>,
    fingerprint: Digest,
}

impl Certified {
    pub(crate) async fn new(world: &World, sites: &[&SiteId]) -> Self {
        let host = Host::new(HOST).unwrap();
        let made = rcgen::generate_simple_self_signed(vec![HOST.to_owned()]).unwrap();
        let fingerprint = Digest::of(made.cert.der());
        let bundle = CertificateBundle {
            host: host.clone(),
            chain_pem: made.cert.pem(),
            key_pem: made.signing_key.serialize_pem(),
            fingerprint,
            not_before_ms: 0,
            not_after_ms: u64::MAX,
        };
        for site in sites {
            world.put(&keys::certificate(site, &host), &bundle).await;
        }
        Self { certificate: made.cert.der().clone(), fingerprint }
    }

    /// Waits until the site presents it.
    pub(crate) async fn reached(&self, site: &Running) {
        let fingerprint = self.fingerprint.to_string();
        until("the certificate", || async {
            let state = get(site.admin, "x", "/v1/state", None).await.body;
            state.contains(&fingerprint).then_some(())
        })
        .await;
    }

    /// A client that trusts it.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        config.with_root_certificates(roots).with_no_client_auth()
    }
}

/// Shakes hands and asks for something, as a session's ticket comes with the answer.
async fn kind(config: &Arc<ClientConfig>, address: SocketAddr) -> HandshakeKind {
    let name = ServerName::try_from(HOST).unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let mut stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 "));
    stream.get_ref().1.handshake_kind().unwrap()
}

/// The next keys of a plan.
fn next(held: Option<&TicketKeys>, byte: u8) -> TicketKeys {
    let now_ms = held.map_or(0, |held| held.since_ms + PERIOD.as_millis() as u64);
    let input = tickets::Input { held, fresh: [[byte; 32], [byte + 1; 32]], now_ms };
    tickets::plan(&input).keys.unwrap()
}

/// Has all sites make tickets with these keys.
async fn share(world: &World, sites: [&Running; 2], shared: &TicketKeys) {
    let generation = world.put(keys::TICKET_KEYS, shared).await;
    let wanted = format!(r#""ticket_keys": "{generation}""#);
    for site in sites {
        until("the keys", || async {
            let state = get(site.admin, "x", "/v1/state", None).await.body;
            assert!(!shared.keys.iter().any(|key| state.contains(key)), "{state}");
            state.contains(&wanted).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_resume_at_other_sites_and_past_a_change_of_keys() {
    let world = World::new().await;
    let nyc = SiteId::new("nyc").unwrap();
    let (one, other) = (world.agent().await, world.agent_of(nyc.clone(), "nyc").await);
    let certified = Certified::new(&world, &[&fra(), &nyc]).await;
    certified.reached(&one).await;
    certified.reached(&other).await;
    let client = || Arc::new(certified.client());

    // Each has keys of its own.
    let config = client();
    assert_ne!(kind(&config, one.https).await, HandshakeKind::Resumed);
    assert_eq!(kind(&config, one.https).await, HandshakeKind::Resumed);
    assert_ne!(kind(&config, other.https).await, HandshakeKind::Resumed);

    let first = next(None, 1);
    share(&world, [&one, &other], &first).await;
    let (config, late) = (client(), client());
    assert_ne!(kind(&config, one.https).await, HandshakeKind::Resumed);
    assert_ne!(kind(&late, one.https).await, HandshakeKind::Resumed);
    assert_eq!(kind(&config, other.https).await, HandshakeKind::Resumed);
    // The next key is in use, and the one before still counts; then it does no more.
    let second = next(Some(&first), 3);
    share(&world, [&one, &other], &second).await;
    assert_eq!(kind(&config, one.https).await, HandshakeKind::Resumed);
    share(&world, [&one, &other], &next(Some(&second), 5)).await;
    assert_eq!(kind(&config, other.https).await, HandshakeKind::Resumed);
    assert_ne!(kind(&late, other.https).await, HandshakeKind::Resumed);

    // A site that starts while control is away has them from its ledger.
    let config = client();
    assert_ne!(kind(&config, one.https).await, HandshakeKind::Resumed);
    other.stop().await;
    let mut world = world;
    world.disconnect().await;
    let other = world.agent_of(nyc, "nyc").await;
    until("the session", || async {
        (kind(&config, other.https).await == HandshakeKind::Resumed).then_some(())
    })
    .await;
    let mode = std::fs::metadata(world.ledger(keys::TICKET_KEYS)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    one.stop().await;
    other.stop().await;
}
