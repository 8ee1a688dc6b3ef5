//! What a proxy's file says of TLS towards clients: certificates, session tickets, and whom hosts
//! ask for a certificate.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use selvedge_model::Host;
use serde::Deserialize;

use super::file::{FileError, host_name, read, wrong};
use crate::{ClientAuth, Demand, TicketKey, TlsPolicy};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CertificateTable {
    hosts: Vec<String>,
    chain: PathBuf,
    key: PathBuf,
    /// It is shown to clients that name no host, or one that has none.
    #[serde(default)]
    default: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClientAuthTable {
    hosts: Vec<String>,
    /// A PEM file.
    roots: PathBuf,
    /// Clients may do without.
    #[serde(default)]
    optional: bool,
}

pub(super) type Certificates = (HashMap<Host, Arc<CertifiedKey>>, Option<Arc<CertifiedKey>>);

pub(super) fn certificates(
    tables: &[CertificateTable],
    directory: &Path,
) -> Result<Certificates, FileError> {
    let (mut by_host, mut default) = (HashMap::new(), None);
    for (index, table) in tables.iter().enumerate() {
        let place = format!("[[certificate]] {}", index + 1);
        let key = Arc::new(certified(table, directory, &place)?);
        for host in &table.hosts {
            let name = host_name(host, &place)?;
            by_host.insert(name, Arc::clone(&key));
        }
        if table.default && default.replace(key).is_some() {
            return Err(wrong(place, "only one can be the default"));
        }
    }
    Ok((by_host, default))
}

fn certified(
    table: &CertificateTable,
    directory: &Path,
    place: &str,
) -> Result<CertifiedKey, FileError> {
    let chain = read(directory, &table.chain)?;
    let chain = CertificateDer::pem_slice_iter(&chain)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(place, format!("`chain` holds no PEM certificates: {error}")))?;
    if chain.is_empty() {
        return Err(wrong(place, "`chain` holds no PEM certificate"));
    }
    let key = PrivateKeyDer::from_pem_slice(&read(directory, &table.key)?)
        .map_err(|error| wrong(place, format!("`key` holds no PEM private key: {error}")))?;
    let key = any_supported_type(&key)
        .map_err(|error| wrong(place, format!("`key` is of no kind that is known: {error}")))?;
    let certified = CertifiedKey::new(chain, key);
    certified
        .keys_match()
        .map_err(|error| wrong(place, format!("`key` is not the certificate's: {error}")))?;
    Ok(certified)
}

/// Session tickets and client certificates.
pub(super) fn policy(
    ticket_keys: Option<&Path>,
    client_auth: &[ClientAuthTable],
    directory: &Path,
) -> Result<TlsPolicy, FileError> {
    let mut policy = TlsPolicy::default();
    if let Some(path) = ticket_keys {
        let text = read(directory, path)?;
        policy.ticket_keys = keys(&text).ok_or_else(|| {
            wrong("ticket_keys", "the file is to hold 64 hexadecimal digits on each line")
        })?;
    }
    for (index, table) in client_auth.iter().enumerate() {
        let place = format!("[[client_auth]] {}", index + 1);
        let roots = read(directory, &table.roots)?;
        let roots = CertificateDer::pem_slice_iter(&roots).collect::<Result<Vec<_>, _>>().map_err(
            |error| wrong(&*place, format!("`roots` holds no PEM certificates: {error}")),
        )?;
        let demand = if table.optional { Demand::Optional } else { Demand::Required };
        let auth = ClientAuth::new(&roots, demand)
            .map_err(|error| wrong(&*place, format!("`roots`: {error}")))?;
        let auth = Arc::new(auth);
        for host in &table.hosts {
            policy.client_auth.insert(host_name(host, &place)?, Arc::clone(&auth));
        }
    }
    Ok(policy)
}

/// One key a line, the one that encrypts first.
fn keys(text: &[u8]) -> Option<Vec<TicketKey>> {
    let lines = std::str::from_utf8(text).ok()?.lines().map(str::trim);
    let key = |line: &str| {
        let mut secret = [0; 32];
        hex::decode_to_slice(line, &mut secret).ok()?;
        TicketKey::new(&secret).ok()
    };
    lines.filter(|line| !line.is_empty()).map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_roots_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text);
        let made = rcgen::generate_simple_self_signed(vec!["ca".to_owned()]).unwrap();
        write("roots.pem", &made.cert.pem()).unwrap();
        write("keys", &format!("{}\n{}\n", "ab".repeat(32), "cd".repeat(32))).unwrap();
        write("bad", "abcd\n").unwrap();
        let asking = |roots: &str| ClientAuthTable {
            hosts: vec!["Admin.test".to_owned()],
            roots: roots.into(),
            optional: false,
        };
        let read = |keys: &str, roots: &str| {
            policy(Some(Path::new(keys)), &[asking(roots)], directory.path())
        };
        let found = read("keys", "roots.pem").unwrap();
        assert_eq!(found.ticket_keys.len(), 2);
        assert!(found.client_auth.contains_key("admin.test"));
        for (keys, roots, words) in [
            ("bad", "roots.pem", "ticket_keys: the file is to hold 64"),
            ("keys", "keys", "[[client_auth]] 1: `roots`"),
            ("keys", "none", "none can't be read"),
        ] {
            let error = read(keys, roots).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
