//! Client certificates: which hosts ask for them, and what a connection has shown.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use selvedge_model::Host;
use sha2::{Digest as _, Sha256};

use super::TlsPolicy;
use crate::listener::Client;
use crate::pages::Fault;

/// Tells a workload the client's certificate (RFC 9440, section 2.2).
pub(crate) const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");

/// Whether clients can do without a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// No handshake succeeds without one.
    Required,
    /// They may have none; a wrong one fails all the same.
    Optional,
}

/// What a host asks of its clients.
pub struct ClientAuth {
    demand: Demand,
    verifier: Arc<dyn ClientCertVerifier>,
    digest: [u8; 32],
}

/// Why a host can't ask for certificates.
#[derive(Debug, thiserror::Error)]
pub enum ClientAuthError {
    /// A root is no certificate.
    #[error("a root is no certificate")]
    Root(#[source] rustls::Error),
    /// There is no root.
    #[error("the roots can't be used")]
    Roots(#[source] rustls::server::VerifierBuilderError),
}

impl fmt::Debug for ClientAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAuth").field("demand", &self.demand).finish_non_exhaustive()
    }
}

impl ClientAuth {
    /// Clients have to show a certificate that one of `roots` vouches for.
    ///
    /// # Errors
    /// When there are none, or one is broken.
    pub fn new(roots: &[CertificateDer<'static>], demand: Demand) -> Result<Self, ClientAuthError> {
        let mut store = RootCertStore::empty();
        let mut digest = Sha256::new().chain_update([u8::from(demand == Demand::Required)]);
        for root in roots {
            store.add(root.clone()).map_err(ClientAuthError::Root)?;
            digest.update(Sha256::digest(root));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider);
        let builder = match demand {
            Demand::Required => builder,
            Demand::Optional => builder.allow_unauthenticated(),
        };
        let verifier = builder.build().map_err(ClientAuthError::Roots)?;
        Ok(Self { demand, verifier, digest: digest.finalize().into() })
    }

    pub(super) fn verifier(&self) -> &dyn ClientCertVerifier {
        self.verifier.as_ref()
    }

    /// Says what is asked for: another demand, or other roots, have another.
    pub(super) fn digest(&self) -> Vec<u8> {
        self.digest.to_vec()
    }
}

/// What a connection was asked for and has shown.
pub(crate) struct Certified {
    host: Host,
    auth: Arc<ClientAuth>,
    /// The certificate, as `client-cert` says it.
    header: Option<HeaderValue>,
}

impl Certified {
    pub(super) fn new(
        host: Host,
        auth: Arc<ClientAuth>,
        certificate: Option<&CertificateDer<'_>>,
    ) -> Self {
        let header = certificate.and_then(|certificate| {
            HeaderValue::try_from(format!(":{}:", STANDARD.encode(certificate))).ok()
        });
        Self { host, auth, header }
    }
}

/// Sees to it that a request for a host that asks for certificates came by a connection that was
/// asked for this host, and puts the certificate into its headers. HTTP/2 lets a client send
/// requests for several hosts by one connection (RFC 9113, section 9.1.1), and nothing keeps it from
/// naming one host in the handshake and another in the request: it is told to come by another one.
pub(crate) fn certified(
    client: &Client,
    host: &str,
    headers: &mut HeaderMap,
    policy: &TlsPolicy,
) -> Result<(), Fault> {
    if policy.client_auth.is_empty() && client.certified.is_none() {
        return Ok(());
    }
    // Before anything is looked up by it: a stored response could vary on it.
    headers.remove(CLIENT_CERT);
    let Some(auth) = policy.client_auth.get(host) else { return Ok(()) };
    let asked = client.certified.as_ref().filter(|certified| {
        certified.host.as_str() == host
            && certified.auth.digest == auth.digest
            && (certified.header.is_some() || auth.demand == Demand::Optional)
    });
    match (asked, auth.demand) {
        (Some(certified), _) => {
            headers.extend(certified.header.clone().map(|header| (CLIENT_CERT, header)));
            Ok(())
        }
        (None, Demand::Optional) if !client.secure() => Ok(()),
        (None, _) => {
            let title =
                "This host asks for a client certificate, and this connection was not asked";
            let help = "Open a new HTTPS connection to this host.";
            let status = StatusCode::MISDIRECTED_REQUEST;
            Err(Fault::client(status, "client-certificate", title, help))
        }
    }
}
