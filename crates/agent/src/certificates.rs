//! Certificates for the proxy, from the documents that carry them.

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
enum CertificateError {
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

/// The certificates that the proxy presents. A bad new one leaves the last good one in place.
#[derive(Default)]
pub(crate) struct Certificates {
    parsed: BTreeMap<Host, Parsed>,
    /// What is wrong, by host, in words, with the generation that it is about.
    problems: BTreeMap<Host, (Generation, String)>,
}

impl Certificates {
    /// Brings the set up to date.
    pub(crate) fn update(&mut self, documents: &BTreeMap<Host, Versioned<CertificateBundle>>) {
        self.parsed.retain(|host, _| documents.contains_key(host));
        self.problems.retain(|host, _| documents.contains_key(host));
        for (host, document) in documents {
            let generation = document.generation;
            let seen = self.parsed.get(host).is_some_and(|it| it.generation == generation)
                || self.problems.get(host).is_some_and(|(about, _)| *about == generation);
            if seen {
                continue;
            }
            match parse(&document.value) {
                Ok((key, fingerprint)) => {
                    let key = Arc::new(key);
                    self.parsed.insert(host.clone(), Parsed { generation, key, fingerprint });
                    self.problems.remove(host);
                }
                Err(error) => {
                    let cause = std::error::Error::source(&error);
                    let cause = cause.map(|it| format!(" ({it})")).unwrap_or_default();
                    let message =
                        format!("the certificate of {host} can't be presented: {error}{cause}");
                    tracing::warn!("{message}");
                    self.problems.insert(host.clone(), (generation, message));
                }
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

    /// What is wrong, in words.
    pub(crate) fn problems(&self) -> impl Iterator<Item = &String> {
        self.problems.values().map(|(_, message)| message)
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
    fn a_bad_certificate_leaves_the_last_good_one() {
        let host = Host::new("shop.edge.test").unwrap();
        let good = bundle(&host);
        let documents = |number, value: CertificateBundle| {
            let generation = Generation::new(1, number);
            BTreeMap::from([(host.clone(), Versioned { generation, value: Arc::new(value) })])
        };
        let mut certificates = Certificates::default();
        certificates.update(&documents(1, good.clone()));
        assert_eq!(certificates.fingerprints()[&host], good.fingerprint);

        let foreign_key = CertificateBundle { key_pem: bundle(&host).key_pem, ..good.clone() };
        let cut = CertificateBundle { chain_pem: "-----BEGIN".into(), ..good.clone() };
        for (number, bad) in [foreign_key, cut].into_iter().enumerate() {
            certificates.update(&documents(2 + number as u64, bad));
            assert_eq!(certificates.keys().len(), 1);
            assert_eq!(certificates.problems().count(), 1);
        }
        let newer = bundle(&host);
        certificates.update(&documents(9, newer.clone()));
        assert_eq!(certificates.fingerprints()[&host], newer.fingerprint);
        assert_eq!(certificates.problems().count(), 0);
        certificates.update(&BTreeMap::new());
        assert!(certificates.keys().is_empty());
    }
}
