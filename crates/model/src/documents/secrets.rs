//! Documents that hold secrets. `Debug` never shows them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{Digest, Host};

/// A certificate with its key, for one host at one site.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateBundle {
    /// The host.
    pub host: Host,
    /// Leaf first, PEM.
    pub chain_pem: String,
    /// PKCS #8, PEM. Never shown by `Debug`.
    pub key_pem: String,
    /// SHA-256 of the leaf (DER).
    pub fingerprint: Digest,
    /// When it is first valid.
    pub not_before_ms: u64,
    /// When it is last valid.
    pub not_after_ms: u64,
}

impl fmt::Debug for CertificateBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateBundle")
            .field("host", &self.host)
            .field("fingerprint", &self.fingerprint)
            .field("not_after_ms", &self.not_after_ms)
            .finish_non_exhaustive()
    }
}

/// The keys that authenticate pins: see [`crate::pin`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinKeys {
    /// 32 bytes each in hexadecimal; the first signs, all verify.
    pub keys: Vec<String>,
}

impl fmt::Debug for PinKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PinKeys({})", self.keys.len())
    }
}

/// The keys of TLS session tickets. Sites that have the same ones resume each other's sessions.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TicketKeys {
    /// 32 bytes each in hexadecimal; the first encrypts, all decrypt.
    pub keys: Vec<String>,
    /// Since when the first encrypts.
    pub since_ms: u64,
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TicketKeys({}, since {})", self.keys.len(), self.since_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_keys() {
        let bundle = CertificateBundle {
            host: Host::new("a.b").unwrap(),
            chain_pem: String::new(),
            key_pem: "SECRET".into(),
            fingerprint: Digest::of(b""),
            not_before_ms: 0,
            not_after_ms: 0,
        };
        let keys = vec!["SECRET".to_owned()];
        let (pins, tickets) = (PinKeys { keys: keys.clone() }, TicketKeys { keys, since_ms: 1 });
        let shown = format!("{bundle:?} {pins:?} {tickets:?}");
        assert!(!shown.contains("SECRET"), "{shown}");
    }
}
