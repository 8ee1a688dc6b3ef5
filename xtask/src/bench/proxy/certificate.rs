//! The certificate that every proxy shows: P-256, for `localhost`, signed by itself.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};

/// The files of the certificate, in the forms that the proxies want.
pub(super) struct Certificate {
    pub(super) chain: PathBuf,
    pub(super) key: PathBuf,
    /// Both in one file.
    pub(super) combined: PathBuf,
}

impl Certificate {
    pub(super) fn create(directory: &Path) -> anyhow::Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let chain = CertificateParams::new(names)?.self_signed(&key)?.pem();
        let key = key.serialize_pem();
        let write = |name: &str, text: &str| {
            let file = directory.join(name);
            std::fs::write(&file, text).context("can't write the certificate").map(|()| file)
        };
        Ok(Self {
            combined: write("combined.pem", &format!("{chain}{key}"))?,
            chain: write("chain.pem", &chain)?,
            key: write("key.pem", &key)?,
        })
    }
}
