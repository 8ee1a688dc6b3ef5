//! TLS: certificates by SNI from the current snapshot, sessions that resume at any site, and client
//! certificates for the hosts that ask for them.
//!
//! There is no early data (0-RTT): what it carries can be replayed.

mod asked;
mod client_auth;
mod tickets;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ServerConfig;
use rustls::server::{Acceptor, ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use selvedge_model::Host;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

use crate::Snapshot;
use asked::Choosing;
use tickets::{OwnKeys, Tickets};

pub(crate) use asked::Asked;
pub(crate) use client_auth::{CLIENT_CERT, Certified, certified};
pub use client_auth::{ClientAuth, ClientAuthError, Demand};
pub use tickets::{TicketKey, TicketKeyError};

/// How TLS is spoken, beside the certificates.
#[derive(Debug, Clone, Default)]
pub struct TlsPolicy {
    /// Keys of session tickets: the first encrypts, all decrypt. Sites that have the same resume
    /// each other's sessions. To rotate, put a new one first everywhere it can decrypt already, and
    /// drop the last: who has a key can read what was sent in sessions that its tickets resume.
    /// None: the proxy makes its own.
    pub ticket_keys: Vec<TicketKey>,
    /// Hosts that ask clients for a certificate.
    pub client_auth: HashMap<Host, Arc<ClientAuth>>,
}

/// What a host asks for, and the settings that do it.
type Asking = (Arc<ClientAuth>, Arc<ServerConfig>);

/// Accepts TLS: 1.2 and 1.3, hybrid post-quantum key exchange preferred, HTTP/2 and HTTP/1.1 by
/// ALPN.
pub(crate) struct Tls {
    snapshot: watch::Receiver<Arc<Snapshot>>,
    own_keys: Arc<OwnKeys>,
    /// For hosts that ask for no certificate.
    plain: TlsAcceptor,
    /// For those that do, as long as they ask for the same.
    asking: Mutex<HashMap<Host, Asking>>,
}

impl Tls {
    pub(crate) fn new(snapshot: watch::Receiver<Arc<Snapshot>>) -> Result<Self, rustls::Error> {
        let own_keys = Arc::new(OwnKeys::default());
        let nothing = Arc::default();
        let plain = Arc::new(server_config(&snapshot, &own_keys, &nothing, by_sni(&snapshot))?);
        let asking = Mutex::default();
        Ok(Self { snapshot, own_keys, plain: TlsAcceptor::from(plain), asking })
    }

    /// Shakes hands. With the stream comes what was asked of the client, if anything was.
    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
    ) -> io::Result<(TlsStream<TcpStream>, Option<Certified>)> {
        if self.snapshot.borrow().tls.client_auth.is_empty() {
            return Ok((self.plain.accept(stream).await?, None));
        }
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let asked = asked_by(&self.snapshot.borrow(), &start.client_hello());
        let Some((host, auth)) = asked else {
            return Ok((start.into_stream(Arc::clone(self.plain.config())).await?, None));
        };
        let config = self.asking_for(&host, &auth).map_err(io::Error::other)?;
        let stream = start.into_stream(config).await?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let certified = Asked::of(host, auth).certified(chain.first());
        Ok((stream, certified))
    }

    fn asking_for(
        &self,
        host: &Host,
        auth: &Arc<ClientAuth>,
    ) -> Result<Arc<ServerConfig>, rustls::Error> {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, config)) = asking.get(host).filter(|(known, _)| Arc::ptr_eq(known, auth)) {
            return Ok(Arc::clone(config));
        }
        let asked = Arc::new(Asked::of(host.clone(), Arc::clone(auth)));
        let certificates = by_sni(&self.snapshot);
        let config = Arc::new(server_config(&self.snapshot, &self.own_keys, &asked, certificates)?);
        let snapshot = self.snapshot.borrow();
        asking.retain(|host, _| snapshot.tls.client_auth.contains_key(host));
        asking.insert(host.clone(), (Arc::clone(auth), Arc::clone(&config)));
        Ok(config)
    }

    /// Settings for all connections of HTTP/3, which brings its own records and has TLS 1.3 alone
    /// (RFC 9001). No client is asked for a certificate.
    pub(crate) fn http3(&self) -> Result<ServerConfig, rustls::Error> {
        self.http3_with(&Arc::default(), by_sni(&self.snapshot))
    }

    /// Settings for one connection of HTTP/3, and what will be known of it; none if no host asks for
    /// certificates.
    pub(crate) fn http3_asking(&self) -> Result<Option<(ServerConfig, Arc<Asked>)>, rustls::Error> {
        if self.snapshot.borrow().tls.client_auth.is_empty() {
            return Ok(None);
        }
        let (snapshot, asked) = (self.snapshot.clone(), Arc::default());
        let certificates = BySni { snapshot: snapshot.clone() };
        let choosing = Choosing { certificates, snapshot, asked: Arc::clone(&asked) };
        Ok(Some((self.http3_with(&asked, Arc::new(choosing))?, asked)))
    }

    fn http3_with(
        &self,
        asked: &Arc<Asked>,
        certificates: Arc<dyn ResolvesServerCert>,
    ) -> Result<ServerConfig, rustls::Error> {
        let mut config = server_config(&self.snapshot, &self.own_keys, asked, certificates)?;
        config.alpn_protocols = vec![b"h3".to_vec()];
        Ok(config)
    }
}

/// What the host that a client names asks for.
fn asked_by(snapshot: &Snapshot, hello: &ClientHello<'_>) -> Option<(Host, Arc<ClientAuth>)> {
    let name = hello.server_name()?.to_ascii_lowercase();
    let (host, auth) = snapshot.tls.client_auth.get_key_value(name.as_str())?;
    Some((host.clone(), Arc::clone(auth)))
}

fn by_sni(snapshot: &watch::Receiver<Arc<Snapshot>>) -> Arc<dyn ResolvesServerCert> {
    Arc::new(BySni { snapshot: snapshot.clone() })
}

fn server_config(
    snapshot: &watch::Receiver<Arc<Snapshot>>,
    own_keys: &Arc<OwnKeys>,
    asked: &Arc<Asked>,
    certificates: Arc<dyn ResolvesServerCert>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::clone(asked) as _)
        .with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A session carries what was verified at its start: it must not outlive what is asked for.
    let (own_keys, asked) = (Arc::clone(own_keys), Arc::clone(asked));
    config.ticketer = Arc::new(Tickets::new(snapshot.clone(), own_keys, asked));
    // Tickets hold the sessions; nothing is kept here.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(config)
}

/// Names the version as access records do.
pub(crate) fn version_name(version: Option<rustls::ProtocolVersion>) -> &'static str {
    match version {
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "TLS",
    }
}

/// A host without a certificate, and a client that names none, gets a handshake alert where there is
/// no certificate for the rest.
struct BySni {
    snapshot: watch::Receiver<Arc<Snapshot>>,
}

impl std::fmt::Debug for BySni {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BySni")
    }
}

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let snapshot = self.snapshot.borrow();
        let named = hello.server_name().and_then(|name| {
            let certificates = &snapshot.certificates;
            certificates.get(name).or_else(|| certificates.get(name.to_ascii_lowercase().as_str()))
        });
        named.or(snapshot.default_certificate.as_ref()).cloned()
    }
}
