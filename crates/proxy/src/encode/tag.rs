//! Entity tags (RFC 9110, section 8.8.3) of what we encode or decode: the origin's tag with a mark.

use http::HeaderValue;

use super::Coding;

/// What was done to a representation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Encoded(Coding),
    Decoded,
}

impl Change {
    const ALL: [Self; 4] = [
        Self::Encoded(Coding::Zstd),
        Self::Encoded(Coding::Brotli),
        Self::Encoded(Coding::Gzip),
        Self::Decoded,
    ];

    /// What stands behind the tag. A tilde, since other servers mark theirs with a hyphen.
    fn mark(self) -> &'static str {
        match self {
            Self::Encoded(Coding::Zstd) => "~zstd",
            Self::Encoded(Coding::Brotli) => "~br",
            Self::Encoded(Coding::Gzip) => "~gzip",
            Self::Decoded => "~identity",
        }
    }
}

/// What stands between the quotes, and whether the tag is weak. `None` if it is no tag.
pub(super) fn parse(tag: &[u8]) -> Option<(&[u8], bool)> {
    let (quoted, weak) = match tag.strip_prefix(b"W/") {
        Some(quoted) => (quoted, true),
        None => (tag, false),
    };
    let opaque = quoted.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let good = |&byte: &u8| byte == 0x21 || (byte >= 0x23 && byte != 0x7f);
    opaque.iter().all(good).then_some((opaque, weak))
}

/// The tag of a changed representation. `None` keeps the tag: a weak one says only that the
/// meaning is the same, and it is.
pub(super) fn marked(tag: &HeaderValue, change: Change) -> Option<HeaderValue> {
    let (opaque, weak) = parse(tag.as_bytes())?;
    if weak {
        return None;
    }
    let text = [b"W/\"", opaque, change.mark().as_bytes(), b"\""].concat();
    HeaderValue::from_bytes(&text).ok()
}

/// What stood between the quotes of the origin's tag, and what was done to it; `None` if the tag
/// is not of our making.
pub(super) fn unmarked(opaque: &[u8]) -> Option<(&[u8], Change)> {
    let found = |change: Change| Some((opaque.strip_suffix(change.mark().as_bytes())?, change));
    Change::ALL.into_iter().find_map(found)
}
