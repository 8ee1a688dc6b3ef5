//! The installation's certificate authority: issues a certificate per host to sites that have no
//! publicly trusted one. Its key never leaves control's data directory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PublicKeyData as _, SerialNumber, date_time_ymd,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use selvedge_model::{CertificateBundle, Digest, Host};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::data::{DataError, private_directory, random, read_small, write_private};

/// How long the authority itself is valid.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);
/// How long a certificate is valid.
const LEAF_LIFE: Duration = Duration::from_secs(90 * 86_400);
/// Certificates are valid from a little before they are made, for clocks that are behind.
const BACKDATE: Duration = Duration::from_secs(3_600);
/// Bytes of a random serial number; RFC 5280 allows 20.
const SERIAL_LEN: usize = 16;

/// A certificate authority with its key.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: PathBuf,
    pem: String,
}

/// Why a certificate can't be made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The authority's files can't be read or written.
    #[error("the certificate authority's files")]
    Data(#[from] DataError),
    /// One of the two files is missing. Making a new authority would break every client that
    /// trusts the old one, so control doesn't by itself.
    #[error(
        "{} is missing and its other half is there: restore it from a backup, or remove the directory to start a new authority",
        missing.display()
    )]
    Half {
        /// The missing file.
        missing: PathBuf,
    },
    /// Cryptography or encoding failed.
    #[error("making a certificate failed")]
    Certificate(#[from] rcgen::Error),
    /// The TLS library does not take the certificate.
    #[error("using a certificate failed")]
    Tls(#[from] rustls::Error),
}

impl Authority {
    /// Reads the authority in `directory`, or makes one.
    pub(crate) fn load_or_create(directory: &Path, now_ms: u64) -> Result<Self, AuthorityError> {
        private_directory(directory)?;
        let certificate = directory.join("ca.pem");
        let key_path = directory.join("ca.key");
        match (read_small(&certificate)?, read_small(&key_path)?) {
            (Some(pem), Some(key)) => Self::load(certificate, pem, &key),
            (Some(_), None) => Err(AuthorityError::Half { missing: key_path }),
            // The key is written first: alone it has signed nothing yet.
            (None, _) => Self::create(certificate, &key_path, now_ms),
        }
    }

    fn load(certificate: PathBuf, pem: String, key: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key)?;
        let name = common_name(&pem, &key).ok_or_else(|| DataError::Damaged {
            path: certificate.clone(),
            reason: "it is not the certificate of an authority with the key in ca.key".to_owned(),
        })?;
        let issuer = Issuer::new(authority_params(&name), key);
        Ok(Self { issuer, certificate, pem })
    }

    fn create(certificate: PathBuf, key_path: &Path, now_ms: u64) -> Result<Self, AuthorityError> {
        let name = format!("Selvedge authority {}", hex::encode(random::<4>()?));
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = authority_params(&name);
        params.serial_number = Some(serial()?);
        let not_before_ms = now_ms.saturating_sub(millis(BACKDATE));
        set_validity(&mut params, not_before_ms, now_ms.saturating_add(millis(AUTHORITY_LIFE)));
        let pem = params.self_signed(&key)?.pem();
        write_private(key_path, key.serialize_pem().as_bytes())?;
        write_private(&certificate, pem.as_bytes())?;
        Ok(Self { issuer: Issuer::new(params, key), certificate, pem })
    }

    /// Where the authority's certificate is, PEM.
    pub(crate) fn certificate_path(&self) -> &Path {
        &self.certificate
    }

    /// A new key and certificate for `host`, valid for 90 days.
    pub(crate) fn issue(
        &self,
        host: &Host,
        now_ms: u64,
    ) -> Result<CertificateBundle, AuthorityError> {
        let leaf = self.sign(vec![host.to_string()], now_ms)?;
        Ok(CertificateBundle {
            host: host.clone(),
            fingerprint: Digest::of(leaf.certificate.der()),
            chain_pem: format!("{}{}", leaf.certificate.pem(), self.pem),
            key_pem: leaf.key.serialize_pem(),
            not_before_ms: leaf.not_before_ms,
            not_after_ms: leaf.not_after_ms,
        })
    }

    /// A new key and certificate for the names and addresses of this machine, for control itself.
    pub(crate) fn issue_own(
        &self,
        names: &[String],
        now_ms: u64,
    ) -> Result<OwnCertificate, AuthorityError> {
        let leaf = self.sign(names.to_vec(), now_ms)?;
        let damaged = |_| DataError::Damaged {
            path: self.certificate.clone(),
            reason: "it is no PEM".to_owned(),
        };
        let authority = CertificateDer::from_pem_slice(self.pem.as_bytes()).map_err(damaged)?;
        let key = PrivatePkcs8KeyDer::from(leaf.key.serialize_der());
        Ok(OwnCertificate {
            chain: vec![leaf.certificate.der().clone(), authority],
            key: key.into(),
            renew_at_ms: now_ms.saturating_add(millis(LEAF_LIFE) / 3 * 2),
        })
    }

    fn sign(&self, names: Vec<String>, now_ms: u64) -> Result<Leaf, AuthorityError> {
        let not_before_ms = now_ms.saturating_sub(millis(BACKDATE));
        let not_after_ms = now_ms.saturating_add(millis(LEAF_LIFE));
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(names)?;
        // The names are in the alternative names alone: common names end at 64 characters.
        params.distinguished_name = DistinguishedName::new();
        params.serial_number = Some(serial()?);
        set_validity(&mut params, not_before_ms, not_after_ms);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Leaf { certificate, key, not_before_ms, not_after_ms })
    }
}

/// A fresh certificate with its key.
struct Leaf {
    certificate: Certificate,
    key: KeyPair,
    not_before_ms: u64,
    not_after_ms: u64,
}

/// Control's own certificate.
pub(crate) struct OwnCertificate {
    /// Leaf first.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    /// When it is to be replaced.
    pub(crate) renew_at_ms: u64,
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// The name of the authority whose certificate `pem` is, if `key` is its key.
fn common_name(pem: &str, key: &KeyPair) -> Option<String> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    if !certificate.is_ca() || certificate.public_key().raw != key.subject_public_key_info() {
        return None;
    }
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    Some(name.to_owned())
}

/// When a certificate ends, in Unix milliseconds, for those who look at an installation from
/// outside.
///
/// # Errors
/// In words, when it is no certificate in PEM.
pub fn certificate_end(pem: &[u8]) -> Result<u64, String> {
    let der = CertificateDer::from_pem_slice(pem).map_err(|error| error.to_string())?;
    let (_, certificate) = X509Certificate::from_der(&der).map_err(|error| error.to_string())?;
    let seconds = certificate.validity().not_after.timestamp();
    Ok(u64::try_from(seconds).unwrap_or_default().saturating_mul(1000))
}

fn serial() -> Result<SerialNumber, DataError> {
    let mut bytes = random::<SERIAL_LEN>()?;
    if let Some(first) = bytes.first_mut() {
        // Positive and of full length, as RFC 5280 wants.
        *first = (*first & 0x7f) | 0x40;
    }
    Ok(SerialNumber::from_slice(&bytes))
}

fn set_validity(params: &mut CertificateParams, from_ms: u64, to_ms: u64) {
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_millis(from_ms);
    params.not_after = epoch + Duration::from_millis(to_ms);
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::Arc;

    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

    use super::*;

    fn now_ms() -> u64 {
        UnixTime::now().as_secs() * 1000
    }

    /// Shakes hands over a buffer, as a client that trusts only the authority.
    fn handshake(
        authority: &Path,
        bundle: &CertificateBundle,
        name: &'static str,
    ) -> Result<(), rustls::Error> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_file_iter(authority).unwrap() {
            roots.add(root.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let chain = CertificateDer::pem_slice_iter(bundle.chain_pem.as_bytes());
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                chain.map(Result::unwrap).collect(),
                PrivateKeyDer::from_pem_slice(bundle.key_pem.as_bytes()).unwrap(),
            )
            .unwrap();
        let name = ServerName::try_from(name).unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets()?;
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        Ok(())
    }

    #[test]
    fn clients_that_trust_it_accept_what_it_issues() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("authority");
        let host = Host::new("shop.edge.test").unwrap();
        let first = Authority::load_or_create(&directory, now_ms()).unwrap();
        let early = first.issue(&host, now_ms()).unwrap();
        // An authority that was read back is the one that was made.
        let again = Authority::load_or_create(&directory, now_ms()).unwrap();
        let late = again.issue(&host, now_ms()).unwrap();
        assert_ne!(early.fingerprint, late.fingerprint);
        let root = again.certificate_path();
        for bundle in [&early, &late] {
            handshake(root, bundle, "shop.edge.test").unwrap();
            assert!(handshake(root, bundle, "other.edge.test").is_err());
        }
        let expired = again.issue(&host, now_ms() - 91 * 86_400_000).unwrap();
        assert!(handshake(root, &expired, "shop.edge.test").is_err());
        let long = Host::new(&format!("{}.{}.edge.test", "a".repeat(63), "b".repeat(63))).unwrap();
        again.issue(&long, now_ms()).unwrap();
    }

    #[test]
    fn keeps_its_key_to_itself_and_is_never_replaced() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("authority");
        Authority::load_or_create(&directory, now_ms()).unwrap();
        let key = directory.join("ca.key");
        assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        let other = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
        std::fs::write(&key, other).unwrap();
        assert!(matches!(
            Authority::load_or_create(&directory, now_ms()),
            Err(AuthorityError::Data(DataError::Damaged { .. }))
        ));
        std::fs::remove_file(&key).unwrap();
        assert!(matches!(
            Authority::load_or_create(&directory, now_ms()),
            Err(AuthorityError::Half { .. })
        ));
    }
}
