//! What a handshake asks of its client. Over TCP that is known before it begins. QUIC's settings are
//! chosen before a client has named a host: they are made for one connection then, and it is known
//! from when rustls has them choose the server's certificate, which comes before all that goes by it.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use selvedge_model::Host;
use tokio::sync::watch;

use super::{BySni, Certified, ClientAuth, asked_by};
use crate::Snapshot;

/// The host that a client named, and what it asks for; nothing while that is not known, or if it asks
/// for nothing.
#[derive(Debug, Default)]
pub(crate) struct Asked(OnceLock<(Host, Arc<ClientAuth>)>);

impl Asked {
    pub(super) fn of(host: Host, auth: Arc<ClientAuth>) -> Self {
        Self(OnceLock::from((host, auth)))
    }

    fn auth(&self) -> Option<&ClientAuth> {
        self.0.get().map(|(_, auth)| auth.as_ref())
    }

    fn verifier(&self) -> Result<&dyn ClientCertVerifier, Error> {
        let unasked = || Error::General("a certificate that nobody has asked for".to_owned());
        self.auth().map(ClientAuth::verifier).ok_or_else(unasked)
    }

    /// Tickets of clients of whom something else is asked are not read.
    pub(super) fn digest(&self) -> Vec<u8> {
        self.auth().map(ClientAuth::digest).unwrap_or_default()
    }

    /// What has come of it, when the handshake is done.
    pub(super) fn certified(&self, shown: Option<&CertificateDer<'_>>) -> Option<Certified> {
        let (host, auth) = self.0.get()?;
        Some(Certified::new(host.clone(), Arc::clone(auth), shown))
    }

    /// The same of a QUIC connection, which says who the client is in a way of its own.
    pub(crate) fn certified_by_quic(&self, identity: Option<Box<dyn Any>>) -> Option<Certified> {
        let chain = identity.and_then(|it| it.downcast::<Vec<CertificateDer<'static>>>().ok());
        self.certified(chain.as_ref().and_then(|chain| chain.first()))
    }
}

impl ClientCertVerifier for Asked {
    fn offer_client_auth(&self) -> bool {
        self.auth().is_some()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.auth().is_some_and(|auth| auth.verifier().client_auth_mandatory())
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.auth().map(|auth| auth.verifier().root_hint_subjects()).unwrap_or_default()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verifier()?.verify_client_cert(certificate, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier()?.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier()?.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.auth().map(|auth| auth.verifier().supported_verify_schemes()).unwrap_or_default()
    }
}

/// Chooses the certificate of one connection, and notes what is asked of its client.
#[derive(Debug)]
pub(super) struct Choosing {
    pub(super) certificates: BySni,
    pub(super) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(super) asked: Arc<Asked>,
}

impl ResolvesServerCert for Choosing {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let Some(asked) = asked_by(&self.snapshot.borrow(), &hello) {
            // A client that is told to begin anew must name the same host (rustls sees to it).
            let _ = self.asked.0.set(asked);
        }
        self.certificates.resolve(hello)
    }
}
