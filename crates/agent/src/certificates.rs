//! Certificates for the proxy, from the documents that carry them. A document whose certificate
//! can't be presented is refused when it comes ([`check`]), so that the last good one stays, here
//! and in the ledger.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use selvedge_model::{CertificateBundle, Digest, Generation, Host};

use crate::documents::Versioned;

/// Why a certificate can't be presented.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("its chain is no PEM")]
    Chain(#[source] rustls_pki_types::pem::Error),
    #[error("its chain is empty")]
    Empty,
    #[error("its key is no PEM")]
    Key(#[source] rustls_pki_types::pem::Error),
    #[error("its key can't be used")]
    KeyKind(#[source] rustls::Error),
    #[error("its key is another certificate's")]
    Mismatch(#[source] rustls::Error),
    #[error("its fingerprint is not the one that was announced")]
    Fingerprint,
}

struct Parsed {
    generation: Generation,
    key: Arc<CertifiedKey>,
    fingerprint: Digest,
}

/// The certificates that the proxy presents.
#[derive(Default)]
pub(crate) struct Certificates {
    parsed: BTreeMap<Host, Parsed>,
}

/// Whether the certificate can be presented.
pub(crate) fn check(bundle: &CertificateBundle) -> Result<(), CertificateError> {
    parse(bundle).map(|_| ())
}

impl Certificates {
    /// Brings the set up to date.
    pub(crate) fn update(&mut self, documents: &BTreeMap<Host, Versioned<CertificateBundle>>) {
        self.parsed.retain(|host, _| documents.contains_key(host));
        for (host, document) in documents {
            let generation = document.generation;
            if self.parsed.get(host).is_some_and(|it| it.generation == generation) {
                continue;
            }
            if let Ok((key, fingerprint)) = parse(&document.value) {
                let key = Arc::new(key);
                self.parsed.insert(host.clone(), Parsed { generation, key, fingerprint });
            }
        }
    }

    /// For the proxy's handshakes.
    pub(crate) fn keys(&self) -> HashMap<Host, Arc<CertifiedKey>> {
        self.parsed.iter().map(|(host, it)| (host.clone(), Arc::clone(&it.key))).collect()
    }

    /// For the report.
    pub(crate) fn fingerprints(&self) -> BTreeMap<Host, Digest> {
        self.parsed.iter().map(|(host, it)| (host.clone(), it.fingerprint)).collect()
    }
}

fn parse(bundle: &CertificateBundle) -> Result<(CertifiedKey, Digest), CertificateError> {
    let chain = CertificateDer::pem_slice_iter(bundle.chain_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(CertificateError::Chain)?;
    let fingerprint = Digest::of(chain.first().ok_or(CertificateError::Empty)?);
    if fingerprint != bundle.fingerprint {
        return Err(CertificateError::Fingerprint);
    }
    let key =
        PrivateKeyDer::from_pem_slice(bundle.key_pem.as_bytes()).map_err(CertificateError::Key)?;
    let key = any_supported_type(&key).map_err(CertificateError::KeyKind)?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(CertificateError::Mismatch)?;
    Ok((certified, fingerprint))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(host: &Host) -> CertificateBundle {
        let made = rcgen::generate_simple_self_signed(vec![host.to_string()]).unwrap();
        CertificateBundle {
            host: host.clone(),
            chain_pem: made.cert.pem(),
            key_pem: made.signing_key.serialize_pem(),
            fingerprint: Digest::of(made.cert.der()),
            not_before_ms: 0,
            not_after_ms: 0,
        }
    }

    #[test]
    fn only_what_can_be_presented_passes() {
        let host = Host::new("shop.edge.test").unwrap();
        let good = bundle(&host);
        check(&good).unwrap();
        let cases = [
            (CertificateBundle { key_pem: bundle(&host).key_pem, ..good.clone() }, "another"),
            (CertificateBundle { key_pem: String::new(), ..good.clone() }, "key is no PEM"),
            (CertificateBundle { chain_pem: "-----BEGIN".into(), ..good.clone() }, "chain"),
            (CertificateBundle { chain_pem: String::new(), ..good.clone() }, "empty"),
            (CertificateBundle { fingerprint: Digest::of(b""), ..good.clone() }, "fingerprint"),
        ];
        for (bad, words) in cases {
            let error = check(&bad).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn the_set_follows_the_documents() {
        let host = Host::new("shop.edge.test").unwrap();
        let documents = |number, value: CertificateBundle| {
            let generation = Generation::new(1, number);
            BTreeMap::from([(host.clone(), Versioned { generation, value: Arc::new(value) })])
        };
        let mut certificates = Certificates::default();
        for number in 1..3 {
            let bundle = bundle(&host);
            certificates.update(&documents(number, bundle.clone()));
            assert_eq!(certificates.fingerprints()[&host], bundle.fingerprint);
        }
        certificates.update(&BTreeMap::new());
        assert!(certificates.keys().is_empty());
    }
}
