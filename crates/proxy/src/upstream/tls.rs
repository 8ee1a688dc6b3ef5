//! TLS to upstreams. A server must prove with its certificate that it is who it is taken for, unless
//! that is given up by name.

use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio_rustls::TlsConnector;

use super::{Protocol, UpstreamError};
use crate::snapshot::Stream;

const HTTP1: &[u8] = b"http/1.1";
const HTTP2: &[u8] = b"h2";

/// How an upstream is spoken to over TLS.
#[derive(Debug, Clone, Default)]
pub struct UpstreamTls {
    /// The name, or the address, that the server's certificate must be for; a name is also sent
    /// (SNI, RFC 6066). Where there is none, the upstream's `host` without its port.
    pub server_name: Option<String>,
    /// Whose certificates are believed.
    pub trust: Trust,
    /// What we prove ourselves with, if the server wants it.
    pub client_certificate: Option<ClientCertificate>,
}

/// Whose certificates are believed.
#[derive(Debug, Clone, Default)]
pub enum Trust {
    /// The authorities that this machine trusts: in the file or directory that the environment
    /// names (`SSL_CERT_FILE`, `SSL_CERT_DIR`), else the system's own.
    #[default]
    System,
    /// These authorities alone, as PEM.
    Roots(Vec<u8>),
    /// Anybody's: whoever is in between can read and change everything. For servers that can't be
    /// given a proper certificate, on a network that is trusted.
    InsecurelyAnyone,
}

/// A certificate of ours with its key.
#[derive(Clone)]
pub struct ClientCertificate {
    /// The certificate and what leads to its authority, as PEM.
    pub chain: Vec<u8>,
    /// The private key (PKCS #8, PKCS #1 or SEC1), as PEM.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientCertificate")
    }
}

/// Why an upstream's TLS settings are of no use.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamTlsError {
    /// Neither `server_name` nor `host`, so that nothing can be verified.
    #[error("no server name says whose certificate is expected")]
    NoServerName,
    /// No DNS name and no address.
    #[error("{0:?} is no server name")]
    ServerName(String),
    /// The machine trusts nobody.
    #[error("this machine has no trusted certificates (Debian: install ca-certificates){0}")]
    NoSystemRoots(String),
    /// The PEM of [`Trust::Roots`] holds no certificate, or one that is none.
    #[error("the trusted certificates can't be read")]
    Roots(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The PEM of the client's certificate.
    #[error("the client certificate can't be read")]
    ClientCertificate(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The PEM of the client's key. What it says is left out.
    #[error("the client certificate's key can't be read, or is another certificate's")]
    ClientKey,
    /// The settings don't go together.
    #[error("the TLS settings can't be used")]
    Settings(#[source] rustls::Error),
}

/// TLS settings that were read.
pub(super) struct Tls {
    name: ServerName<'static>,
    connector: TlsConnector,
    /// For connections that are to be upgraded.
    http1: TlsConnector,
}

impl Tls {
    pub(super) fn new(
        settings: &UpstreamTls,
        host: Option<&str>,
        protocol: Protocol,
    ) -> Result<Self, UpstreamTlsError> {
        let name = settings.server_name.as_deref().or(host.map(without_port));
        let name = name.ok_or(UpstreamTlsError::NoServerName)?;
        let bad = |_| UpstreamTlsError::ServerName(name.to_owned());
        let name = ServerName::try_from(name.to_owned()).map_err(bad)?;
        let mut config = config(settings)?;
        let protocols: &[&[u8]] = match protocol {
            Protocol::Http1 => &[HTTP1],
            Protocol::Http2 => &[HTTP2],
            Protocol::Either => &[HTTP2, HTTP1],
        };
        let mut http1 = config.clone();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        http1.alpn_protocols = vec![HTTP1.to_vec()];
        Ok(Self { name, connector: Arc::new(config).into(), http1: Arc::new(http1).into() })
    }

    /// Shakes hands, and says whether HTTP/2 was agreed on.
    pub(super) async fn connect(
        &self,
        stream: Box<dyn Stream>,
        http1: bool,
    ) -> Result<(Box<dyn Stream>, bool), UpstreamError> {
        let connector = if http1 { &self.http1 } else { &self.connector };
        let stream = connector.connect(self.name.clone(), stream).await.map_err(classify)?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
        Ok((Box::new(stream), http2))
    }
}

fn without_port(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, _)) if !host.ends_with(']') => name,
        _ => host,
    };
    name.trim_start_matches('[').trim_end_matches(']')
}

fn config(settings: &UpstreamTls) -> Result<ClientConfig, UpstreamTlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(UpstreamTlsError::Settings)?;
    let builder = match &settings.trust {
        Trust::System => builder.with_root_certificates(system_roots()?),
        Trust::Roots(pem) => builder.with_root_certificates(roots(pem)?),
        Trust::InsecurelyAnyone => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone { provider }))
        }
    };
    let Some(ClientCertificate { chain, key }) = &settings.client_certificate else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(chain).map_err(UpstreamTlsError::ClientCertificate)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| UpstreamTlsError::ClientKey)?;
    builder.with_client_auth_cert(chain, key).map_err(|error| match error {
        rustls::Error::InvalidCertificate(_) => UpstreamTlsError::ClientCertificate(error.into()),
        _ => UpstreamTlsError::ClientKey,
    })
}

/// The machine's, not a list of our own: its operator decides whom it trusts, and an authority that
/// falls is taken out by the system's updates.
fn system_roots() -> Result<RootCertStore, UpstreamTlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
        return Err(UpstreamTlsError::NoSystemRoots(why));
    }
    Ok(roots)
}

fn roots(pem: &[u8]) -> Result<RootCertStore, UpstreamTlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem).map_err(UpstreamTlsError::Roots)? {
        roots.add(certificate).map_err(|error| UpstreamTlsError::Roots(error.into()))?;
    }
    Ok(roots)
}

type PemError = Box<dyn std::error::Error + Send + Sync>;

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>()?;
    match certificates.is_empty() {
        true => Err("there is no certificate in it".into()),
        false => Ok(certificates),
    }
}

fn classify(error: io::Error) -> UpstreamError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(why)) => {
            UpstreamError::Certificate { reason: reason(why), source: error }
        }
        _ => UpstreamError::Handshake(error),
    }
}

/// What is wrong with a certificate, in words.
fn reason(error: &CertificateError) -> &'static str {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet"
        }
        CertificateError::Revoked => "it was revoked",
        CertificateError::UnknownIssuer => "nobody who is trusted has signed it",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is for another name"
        }
        CertificateError::BadSignature => "its signature is wrong",
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is not for servers"
        }
        CertificateError::BadEncoding => "it is malformed",
        _ => "it does not stand up to examination",
    }
}

/// Believes everybody.
#[derive(Debug)]
struct Anyone {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_comes_from_the_host_where_none_is_given() {
        for (host, name) in [
            ("api.test", "api.test"),
            ("api.test:8443", "api.test"),
            ("192.0.2.1:8443", "192.0.2.1"),
            ("[2001:db8::1]:8443", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
        ] {
            assert_eq!(without_port(host), name);
            assert!(ServerName::try_from(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn settings_that_are_of_no_use_are_refused() {
        let refused = |settings: &UpstreamTls, host| {
            Tls::new(settings, host, Protocol::Either).err().map(|error| error.to_string())
        };
        let roots = |pem: &[u8]| UpstreamTls {
            trust: Trust::Roots(pem.to_vec()),
            ..UpstreamTls::default()
        };
        let certificate = rcgen::generate_simple_self_signed(vec!["a.test".into()]).unwrap();
        let (pem, key) = (certificate.cert.pem(), certificate.signing_key.serialize_pem());
        let good = roots(pem.as_bytes());
        assert_eq!(refused(&good, Some("a.test:1")), None);
        for (settings, host, words) in [
            (good.clone(), None, "no server name"),
            (good.clone(), Some("a b"), "\"a b\" is no server name"),
            (roots(b""), Some("a.test"), "the trusted certificates can't be read"),
            (
                roots(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
                Some("a.test"),
                "the trusted certificates can't be read",
            ),
            (
                UpstreamTls {
                    client_certificate: Some(ClientCertificate {
                        chain: key.clone().into_bytes(),
                        key: key.clone().into_bytes(),
                    }),
                    ..good.clone()
                },
                Some("a.test"),
                "the client certificate can't be read",
            ),
            (
                UpstreamTls {
                    client_certificate: Some(ClientCertificate {
                        chain: pem.clone().into_bytes(),
                        key: rcgen::KeyPair::generate().unwrap().serialize_pem().into_bytes(),
                    }),
                    ..good.clone()
                },
                Some("a.test"),
                "the client certificate's key",
            ),
        ] {
            let said = refused(&settings, host).unwrap_or_default();
            assert!(said.starts_with(words), "{said}");
        }
        assert!(!format!("{:?}", ClientCertificate { chain: vec![], key: vec![1] }).contains('1'));
    }
}
