//! TLS: certificates by SNI from the current snapshot.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::Snapshot;

/// The TLS settings of the HTTPS listener: 1.2 and 1.3, hybrid post-quantum key exchange
/// preferred, HTTP/2 and HTTP/1.1 by ALPN.
fn server_config(snapshot: watch::Receiver<Arc<Snapshot>>) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(BySni { snapshot }));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Accepts TLS with the snapshot's certificates.
pub(crate) fn acceptor(
    snapshot: watch::Receiver<Arc<Snapshot>>,
) -> Result<TlsAcceptor, rustls::Error> {
    Ok(TlsAcceptor::from(Arc::new(server_config(snapshot)?)))
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
