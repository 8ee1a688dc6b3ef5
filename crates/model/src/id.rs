//! Typed identifiers. Each is a validated string or digest, so that a value which exists is valid.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Why a text is no identifier of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {kind}: {rule}")]
pub struct IdError {
    /// The kind of identifier that was wanted, in words.
    pub kind: &'static str,
    /// The text that was given, cut to 100 characters.
    pub text: String,
    /// The rule that the text breaks, in words.
    pub rule: &'static str,
}

impl IdError {
    fn new(kind: &'static str, text: &str, rule: &'static str) -> Self {
        Self { kind, text: text.chars().take(100).collect(), rule }
    }
}

const LABEL_RULE: &str = "use 1 to 63 lower-case letters, digits and hyphens, starting with a letter and not ending with a hyphen";

fn is_label(text: &str) -> bool {
    text.len() <= 63
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `text` and wraps it.
            pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                if is_label(&text) { Ok(Self(text)) } else { Err(IdError::new($kind, &text, LABEL_RULE)) }
            }

            /// The identifier's text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

label!(
    /// An app's name: unique in an installation, and its default host's first label.
    AppName,
    "app name"
);
label!(
    /// A git repository's name, without `.git`.
    RepositoryName,
    "repository name"
);
label!(
    /// A service's name, unique in its app.
    ServiceName,
    "service name"
);
label!(
    /// An environment's name; a branch is one, and `main` is [`EnvironmentName::production`].
    EnvironmentName,
    "environment name"
);
label!(
    /// A site's identifier, such as `fra` or `nyc`.
    SiteId,
    "site id"
);
label!(
    /// A provider of machines.
    ProviderName,
    "provider name"
);

label!(
    /// A machine of a site.
    NodeId,
    "node id"
);

impl NodeId {
    /// The node of a site that has one machine, as all have so far.
    pub fn sole() -> Self {
        Self("n1".to_owned())
    }
}

impl EnvironmentName {
    /// The environment that the branch `main` releases to.
    pub fn production() -> Self {
        Self("production".to_owned())
    }
}

/// A fully qualified host name in lower case without the trailing dot (RFC 1123 labels).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Host(String);

impl Host {
    /// Checks and lower-cases `text`; a trailing dot is dropped.
    pub fn new(text: &str) -> Result<Self, IdError> {
        let lower = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let label_ok = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if lower.len() <= 253 && lower.split('.').all(label_ok) {
            Ok(Self(lower))
        } else {
            let rule = "write a host name such as www.example.com: labels of letters, digits and hyphens, no port";
            Err(IdError::new("host name", text, rule))
        }
    }

    /// The host's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this host is `zone` or below it.
    pub fn is_in(&self, zone: &Host) -> bool {
        self.0 == zone.0
            || self.0.strip_suffix(zone.as_str()).is_some_and(|rest| rest.ends_with('.'))
    }

    /// Whether this host is below `localhost`: such names are the machine's own, and never reach a
    /// DNS server (RFC 6761, section 6.3).
    pub fn is_local(&self) -> bool {
        self.0.ends_with(".localhost")
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// So that a map keyed by hosts is searched with the text of a request, not with a copy of it.
impl std::borrow::Borrow<str> for Host {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for Host {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::new(text)
    }
}

impl TryFrom<String> for Host {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        Self::new(&text)
    }
}

impl From<Host> for String {
    fn from(host: Host) -> String {
        host.0
    }
}

/// A SHA-256 digest (FIPS 180-4), written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// Wraps the 32 bytes of a digest.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of a sequence of parts. Each part is preceded by its length as eight bytes, so
    /// that no two different sequences hash alike.
    pub fn of_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    /// The raw 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 12 hexadecimal digits, for people.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(12);
        text
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.short())
    }
}

impl FromStr for Digest {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)
            .map(|()| Self(bytes))
            .map_err(|_| IdError::new("digest", text, "write 64 hexadecimal digits"))
    }
}

impl TryFrom<String> for Digest {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

/// A release's identifier: the digest of everything that decides what the release is (the app's
/// git tree and its normal form), known before the build and written as [`Digest::short`] for
/// people and in response headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReleaseId(pub Digest);

impl ReleaseId {
    /// The first 12 hexadecimal digits.
    pub fn short(&self) -> String {
        self.0.short()
    }
}

impl fmt::Display for ReleaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels() {
        for good in ["a", "shop", "shop-2", "x1"] {
            assert!(AppName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "1a", "a.b", &"a".repeat(64)] {
            assert!(AppName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts() {
        let zone = Host::new("edge.test").unwrap();
        assert_eq!(Host::new("Shop.Edge.Test.").unwrap().as_str(), "shop.edge.test");
        assert!(Host::new("shop.edge.test").unwrap().is_in(&zone));
        assert!(!Host::new("badedge.test").unwrap().is_in(&zone));
        assert!(Host::new("shop.localhost").unwrap().is_local() && !zone.is_local());
        for bad in ["", ".", "a..b", "a:80", "*.a", "a b", "-a.b"] {
            assert!(Host::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn parts_are_length_prefixed() {
        assert_ne!(
            Digest::of_parts([b"ab".as_slice(), b"c"]),
            Digest::of_parts([b"a".as_slice(), b"bc"])
        );
    }
}
